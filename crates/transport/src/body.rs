//! Bodies on their way: counted, and given up when the client stops.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use prometheus_client::metrics::counter::Counter;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::{Body, access_log::Finish};

/// The client stopped sending in the middle of a request body. A handler that sees this as the cause of a body's error
/// may answer 408.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client sent nothing for {} seconds in the middle of the request's body", .0.as_secs())]
pub struct BodyIdle(pub Duration);

/// A request's body.
pub(crate) struct RequestBody {
    inner: Incoming,
    received: Counter,
    idle: Duration,
    /// Made at the first wait, then only moved on when it fires: a fast upload touches no timer.
    timer: Option<Pin<Box<Sleep>>>,
    waiting_since: Option<Instant>,
}

impl RequestBody {
    pub(crate) fn new(inner: Incoming, idle: Duration, received: Counter) -> Self {
        Self { inner, received, idle, timer: None, waiting_since: None }
    }

    /// Ready once the client has been waited for too long.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        let until = since + self.idle;
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
        match Pin::new(&mut this.inner).poll_frame(cx) {
            Poll::Ready(frame) => {
                this.waiting_since = None;
                if let Some(Ok(frame)) = &frame
                    && let Some(data) = frame.data_ref()
                {
                    this.received.inc_by(data.len() as u64);
                }
                Poll::Ready(frame.map(|f| f.map_err(Into::into)))
            }
            Poll::Pending => {
                ready!(this.poll_idle(cx));
                Poll::Ready(Some(Err(BodyIdle(this.idle).into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
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
