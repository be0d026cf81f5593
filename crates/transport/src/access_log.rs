//! The end of a request: released, counted, logged.

use std::{
    net::IpAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use http::{HeaderValue, Method, StatusCode, Uri};

use crate::{AccessLog, Metrics, RequestId, metrics::RequestLabels, shares::Place, watch::Watch};

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
    pub accept: Option<HeaderValue>,
    pub user: Option<Arc<str>>,
    pub route: &'static str,
    pub status: Option<StatusCode>,
    pub sent: u64,
    pub expected: Option<u64>,
    pub ended: bool,
    /// The place among the requests that work; set when the body is there.
    pub place: Arc<OnceLock<Place>>,
    pub samplers: Arc<Samplers>,
}

/// How many lines about failures are written in each [`SAMPLE`]: a stranger who provokes them must not decide how fast the
/// log grows. The first line of the next one says how many were left out.
const SERVER_ERRORS_MAX: u64 = 20;
const CLIENT_ERRORS_MAX: u64 = 200;
const SAMPLE: Duration = Duration::from_secs(10);

/// Writes a bounded number of lines of a kind.
#[derive(Debug)]
pub(crate) struct Sampler {
    max: u64,
    every: Duration,
    start: Instant,
    /// Number of the present period, and lines in it.
    period: AtomicU64,
    lines: AtomicU64,
    left_out: AtomicU64,
}

impl Sampler {
    pub(crate) fn new(max: u64, every: Duration) -> Self {
        Self {
            max,
            every,
            start: Instant::now(),
            period: AtomicU64::new(0),
            lines: AtomicU64::new(0),
            left_out: AtomicU64::new(0),
        }
    }

    /// Whether this line is written; then how many were not since the last one.
    pub(crate) fn admit(&self) -> Option<u64> {
        self.admit_at(self.start.elapsed())
    }

    fn admit_at(&self, passed: Duration) -> Option<u64> {
        let period = u64::try_from(passed.as_millis() / self.every.as_millis().max(1)).unwrap_or(0);
        if self.period.swap(period, Relaxed) != period {
            self.lines.store(0, Relaxed);
        }
        if self.lines.fetch_add(1, Relaxed) < self.max {
            return Some(self.left_out.swap(0, Relaxed));
        }
        self.left_out.fetch_add(1, Relaxed);
        None
    }
}

/// What all requests count together.
#[derive(Debug)]
pub(crate) struct Samplers {
    server_errors: Sampler,
    client_errors: Sampler,
}

impl Default for Samplers {
    fn default() -> Self {
        Self {
            server_errors: Sampler::new(SERVER_ERRORS_MAX, SAMPLE),
            client_errors: Sampler::new(CLIENT_ERRORS_MAX, SAMPLE),
        }
    }
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
    ($level:ident, $this:expr, $status:expr, $left_out:expr) => {
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
            left_out = $left_out,
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
        // Lines that are written in place of those left out before it, if there were any.
        let told = |left_out: u64| (left_out > 0).then_some(left_out);
        let noted = match status {
            500.. => {
                if let Some(left_out) = self.samplers.server_errors.admit() {
                    access!(warn, self, status, told(left_out));
                }
                return;
            }
            401 => self.policy == AccessLog::All,
            400.. if self.policy != AccessLog::All => {
                if let Some(left_out) = self.samplers.client_errors.admit() {
                    access!(info, self, status, told(left_out));
                }
                return;
            }
            400.. => true,
            _ => self.policy == AccessLog::All || (self.policy == AccessLog::Changes && !reads),
        };
        if noted {
            access!(info, self, status, None::<u64>);
        } else {
            access!(debug, self, status, None::<u64>);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_kind_are_bounded_and_what_was_left_out_is_told() {
        let sampler = Sampler::new(3, Duration::from_secs(10));
        let at = Duration::from_secs;
        let lines: Vec<_> = (0..100).filter_map(|_| sampler.admit_at(at(1))).collect();
        assert_eq!(lines, [0, 0, 0]);
        assert_eq!(sampler.admit_at(at(11)), Some(97));
        assert_eq!(sampler.admit_at(at(12)), Some(0));
        assert_eq!(sampler.admit_at(at(35)), Some(0));
    }
}
