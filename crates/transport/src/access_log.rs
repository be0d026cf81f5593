//! The end of a request: released, counted, logged.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Instant,
};

use http::{HeaderValue, Method, StatusCode, Uri};

use crate::{AccessLog, Metrics, RequestId, metrics::RequestLabels, watch::Watch};

/// Holds a request's place among those that run; dropping it frees the place.
#[derive(Debug)]
pub(crate) struct Slot(Arc<AtomicUsize>);

impl Slot {
    /// A place, if fewer than `limit` are taken.
    pub(crate) fn take(taken: &Arc<AtomicUsize>, limit: usize) -> Option<Self> {
        if taken.fetch_add(1, Relaxed) >= limit {
            taken.fetch_sub(1, Relaxed);
            return None;
        }
        Some(Self(Arc::clone(taken)))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// What is known of a request while it runs. Lives until the last byte of the response went out, or the client left.
pub(crate) struct Finish {
    pub watch: Arc<Watch>,
    pub metrics: Arc<Metrics>,
    pub policy: AccessLog,
    pub started: Instant,
    pub id: RequestId,
    pub method: Method,
    pub uri: Uri,
    pub client: IpAddr,
    pub agent: Option<HeaderValue>,
    pub user: Option<Arc<str>>,
    pub route: &'static str,
    pub status: Option<StatusCode>,
    pub sent: u64,
    pub expected: Option<u64>,
    pub ended: bool,
    pub slot: Option<Slot>,
}

/// The longest path and user agent that go into a log line.
const LOGGED_MAX: usize = 512;

fn cut(text: &str) -> &str {
    let mut end = text.len().min(LOGGED_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// A label for a method: bounded, whatever clients invent.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

fn status_label(status: Option<StatusCode>) -> &'static str {
    match status.map(|s| s.as_u16() / 100) {
        Some(1) => "1xx",
        Some(2) => "2xx",
        Some(3) => "3xx",
        Some(4) => "4xx",
        Some(5) => "5xx",
        _ => "gone",
    }
}

/// One line, at a level known when compiling, since that makes the line that is not wanted free.
macro_rules! access {
    ($level:ident, $this:expr, $status:expr) => {
        tracing::$level!(
            target: "access",
            request_id = $this.request_id(),
            method = $this.method.as_str(),
            // Never the query: it may carry tokens and passwords.
            path = cut($this.uri.path()),
            status = $status,
            bytes = $this.sent,
            duration_ms = $this.started.elapsed().as_micros() as f64 / 1000.0,
            remote = %$this.client,
            agent = $this.agent.as_ref().and_then(|a| a.to_str().ok()).map(cut),
            user = $this.user.as_deref(),
            complete = $this.is_complete(),
            "request"
        )
    };
}
impl Finish {
    pub(crate) fn request_id(&self) -> &str {
        self.id.as_str()
    }

    /// Whether everything promised went out. The body of an answer to HEAD never does, nor should it.
    fn is_complete(&self) -> bool {
        self.status.is_some()
            && (self.ended || self.method == Method::HEAD || self.expected == Some(self.sent))
    }

    fn log(&self) {
        let status = self.status.map_or(0, |s| s.as_u16());
        let reads = matches!(self.method, Method::GET | Method::HEAD | Method::OPTIONS);
        let noted = match status {
            500.. => {
                access!(warn, self, status);
                return;
            }
            401 => self.policy == AccessLog::All,
            400.. => true,
            _ => self.policy == AccessLog::All || (self.policy == AccessLog::Changes && !reads),
        };
        if noted {
            access!(info, self, status);
        } else {
            access!(debug, self, status);
        }
    }
}

impl Drop for Finish {
    fn drop(&mut self) {
        self.watch.request_ends();
        self.metrics.in_flight.dec();
        self.metrics.sent.inc_by(self.sent);
        let labels = RequestLabels {
            method: method_label(&self.method),
            route: self.route,
            status: status_label(self.status),
        };
        self.metrics.finished(&labels, self.started.elapsed());
        self.log();
    }
}
