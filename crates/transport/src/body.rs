//! Bodies on their way: counted, bounded, given up when the client stops, and read to the end a little when the answer came
//! first.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, header};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use prometheus_client::metrics::counter::Counter;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use crate::{
    Body,
    access_log::Finish,
    shares::{NoPlace, Place},
};

/// The client stopped sending in the middle of a request body. A handler that sees this as the cause of a body's error
/// may answer 408.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client sent nothing for {} seconds in the middle of the request's body", .0.as_secs())]
pub struct BodyIdle(pub Duration);

/// Why a request's body was not taken to its end. The answer says so, whatever the handler made of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyFault {
    #[error("the request's body has more than {0} bytes")]
    TooLarge(u64),
    #[error("the request's body did not come to its end within {} seconds", .0.as_secs())]
    TooSlow(Duration),
    #[error("the server has too many {}", .0.what)]
    NoPlace(NoPlace),
}

impl BodyFault {
    /// The limit's name in metrics.
    pub(crate) const fn limit(&self) -> &'static str {
        match self {
            Self::TooLarge(_) => "body_bytes",
            Self::TooSlow(_) => "body_timeout",
            Self::NoPlace(no) => no.limit,
        }
    }
}

/// The bounds of a body that is no upload of a blob.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Whole {
    pub bytes: u64,
    pub time: Duration,
}

/// What a body that is no upload of a blob occupies until its end, and who is told of the end.
pub(crate) struct Waiting {
    pub whole: Whole,
    pub place: Place,
    /// Gets the place of the request once it works.
    pub working: Arc<OnceLock<Place>>,
    pub fault: Arc<OnceLock<BodyFault>>,
}

/// How much of a body that nobody wants is still read, in bytes, and for how long. A client that is refused in the
/// middle of sending may take a connection (or stream) that is closed under it for the whole answer, and never read why
/// it was refused (RFC 9112, section 9.6; RFC 9113, section 8.1).
const LEFTOVER_MAX: u64 = 64 << 20;
const LEFTOVER_TIME: Duration = Duration::from_secs(10);

/// A request's body.
pub(crate) struct RequestBody {
    /// Until the body is dropped.
    inner: Option<Incoming>,
    received: Counter,
    idle: Duration,
    /// Whether what is left unread is read nevertheless: not if the client waits for our word to send it, nor when
    /// nothing came for too long.
    finish: bool,
    /// Made at the first wait, then only moved on when it fires: a fast upload touches no timer.
    timer: Option<Pin<Box<Sleep>>>,
    waiting_since: Option<Instant>,
    began: Instant,
    bytes: u64,
    waiting: Option<Waiting>,
}

impl RequestBody {
    pub(crate) fn new(
        inner: Incoming,
        headers: &HeaderMap,
        idle: Duration,
        received: Counter,
        waiting: Option<Waiting>,
    ) -> Self {
        let finish = !headers.contains_key(header::EXPECT);
        Self {
            inner: Some(inner),
            received,
            idle,
            finish,
            timer: None,
            waiting_since: None,
            began: Instant::now(),
            bytes: 0,
            waiting,
        }
    }

    /// Counts a piece against the bounds of the whole body.
    fn check(&mut self, bytes: usize) -> Result<(), BodyFault> {
        let Some(waiting) = &mut self.waiting else { return Ok(()) };
        self.bytes += bytes as u64;
        if self.bytes > waiting.whole.bytes {
            return Err(BodyFault::TooLarge(waiting.whole.bytes));
        }
        if self.began.elapsed() >= waiting.whole.time {
            return Err(BodyFault::TooSlow(waiting.whole.time));
        }
        waiting.place.hold(bytes).map_err(BodyFault::NoPlace)
    }

    /// Gives the body up. The answer will say why.
    fn fail(&mut self, fault: BodyFault) -> axum::BoxError {
        self.finish &= !matches!(fault, BodyFault::TooSlow(_));
        if let Some(waiting) = &self.waiting {
            // The first reason counts.
            let _other = waiting.fault.set(fault);
        }
        self.ended();
        fault.into()
    }

    /// Nothing more is waited for: from here on the request works, or is answered.
    fn ended(&mut self) {
        if let Some(Waiting { place, working, .. }) = self.waiting.take() {
            let _only_one = working.set(place.works());
        }
    }

    /// Ready once the client has been waited for too long.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        let whole = self.waiting.as_ref().map(|waiting| self.began + waiting.whole.time);
        let until = whole.map_or(since + self.idle, |whole| whole.min(since + self.idle));
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(until)));
        loop {
            ready!(timer.as_mut().poll(cx));
            if Instant::now() >= until {
                return Poll::Ready(());
            }
            timer.as_mut().reset(until);
        }
    }
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        let Some(inner) = &mut this.inner else { return Poll::Ready(None) };
        match Pin::new(inner).poll_frame(cx) {
            Poll::Ready(frame) => {
                this.waiting_since = None;
                if !matches!(frame, Some(Ok(_))) {
                    this.finish = false;
                    this.ended();
                }
                if let Some(Ok(frame)) = &frame
                    && let Some(data) = frame.data_ref()
                {
                    this.received.inc_by(data.len() as u64);
                    if let Err(fault) = this.check(data.len()) {
                        return Poll::Ready(Some(Err(this.fail(fault))));
                    }
                }
                if this.inner.as_ref().is_none_or(Incoming::is_end_stream) {
                    this.ended();
                }
                Poll::Ready(frame.map(|f| f.map_err(Into::into)))
            }
            Poll::Pending => {
                ready!(this.poll_idle(cx));
                if let Err(fault) = this.check(0) {
                    return Poll::Ready(Some(Err(this.fail(fault))));
                }
                this.finish = false;
                this.ended();
                Poll::Ready(Some(Err(BodyIdle(this.idle).into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or(SizeHint::with_exact(0), Incoming::size_hint)
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        self.ended();
        let Some(inner) = self.inner.take() else { return };
        if self.finish
            && !inner.is_end_stream()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(timeout(LEFTOVER_TIME, read_leftover(inner, self.received.clone())));
        }
    }
}

/// Reads and forgets what a client still sends; ends by itself with the connection.
async fn read_leftover(mut body: Incoming, received: Counter) {
    let mut count = 0;
    while count <= LEFTOVER_MAX
        && let Some(Ok(frame)) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await
    {
        let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
        received.inc_by(bytes);
        count += bytes;
    }
}

/// A response's body; when it is dropped the request is over, and is counted and logged.
pub(crate) struct ResponseBody {
    inner: Body,
    finish: Finish,
    client_has_to_take: bool,
}

impl ResponseBody {
    pub(crate) fn new(inner: Body, mut finish: Finish) -> Self {
        finish.expected = inner.size_hint().exact();
        finish.ended = inner.is_end_stream();
        Self { inner, finish, client_has_to_take: false }
    }

    fn taken(&mut self) {
        if std::mem::take(&mut self.client_has_to_take) {
            self.finish.watch.client_took();
        }
    }
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        this.taken();
        let frame = ready!(Pin::new(&mut this.inner).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                this.finish.sent += frame.data_ref().map_or(0, |data| data.len() as u64);
                this.finish.ended = this.inner.is_end_stream();
                if !this.finish.ended {
                    this.client_has_to_take = true;
                    this.finish.watch.client_should_take();
                }
            }
            Some(Err(error)) => {
                tracing::warn!(request_id = this.finish.request_id(), %error, "a response's body failed");
            }
            None => this.finish.ended = true,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        self.taken();
    }
}
