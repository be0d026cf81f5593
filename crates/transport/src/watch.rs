//! What a connection is doing, seen from outside of the protocol: enough to end those that do nothing.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::limits::Limits;

const NEVER: u64 = u64::MAX;

/// The clocks of one connection. All times are milliseconds since `start`, in atomics, so that looking after a request
/// costs no lock and no timer.
#[derive(Debug)]
pub(crate) struct Watch {
    start: Instant,
    http2: bool,
    in_flight: AtomicU32,
    /// Response bodies of which the client has yet to take the last piece.
    waiting_for_client: AtomicU32,
    /// Since when a request's head is being read.
    head_since: AtomicU64,
    /// Since when no request runs.
    idle_since: AtomicU64,
    /// When the client last took something.
    progress: AtomicU64,
}

/// What should happen to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Keep,
    Idle,
    Cut(&'static str),
}

impl Watch {
    pub(crate) fn new(http2: bool) -> Arc<Self> {
        Arc::new(Self {
            start: Instant::now(),
            http2,
            in_flight: AtomicU32::new(0),
            waiting_for_client: AtomicU32::new(0),
            head_since: AtomicU64::new(0),
            idle_since: AtomicU64::new(0),
            progress: AtomicU64::new(0),
        })
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(NEVER - 1)
    }

    pub(crate) fn request_begins(&self) {
        self.head_since.store(NEVER, Relaxed);
        self.in_flight.fetch_add(1, Relaxed);
    }

    pub(crate) fn request_ends(&self) {
        self.idle_since.store(self.now(), Relaxed);
        self.in_flight.fetch_sub(1, Relaxed);
    }

    pub(crate) fn client_should_take(&self) {
        self.progress.store(self.now(), Relaxed);
        self.waiting_for_client.fetch_add(1, Relaxed);
    }

    pub(crate) fn client_took(&self) {
        self.waiting_for_client.fetch_sub(1, Relaxed);
    }

    fn bytes_read(&self) {
        // In HTTP/2 bytes may be pings and window updates; there a slow head is an idle connection.
        if !self.http2
            && self.in_flight.load(Relaxed) == 0
            && self.head_since.load(Relaxed) == NEVER
        {
            self.head_since.store(self.now(), Relaxed);
        }
    }

    fn bytes_written(&self) {
        if !self.http2 {
            let now = self.now();
            self.progress.store(now, Relaxed);
            self.idle_since.store(now, Relaxed);
        }
    }

    pub(crate) fn verdict(&self, limits: &Limits) -> Verdict {
        let over = |since: &AtomicU64, bound: Duration| {
            let since = since.load(Relaxed);
            since != NEVER && u128::from(self.now().saturating_sub(since)) > bound.as_millis()
        };
        if self.in_flight.load(Relaxed) > 0 {
            let waits = self.waiting_for_client.load(Relaxed) > 0;
            if waits && over(&self.progress, limits.body_idle_timeout) {
                return Verdict::Cut("body_idle_timeout");
            }
        } else if self.head_since.load(Relaxed) != NEVER {
            if over(&self.head_since, limits.header_timeout) {
                return Verdict::Cut("header_timeout");
            }
        } else if over(&self.idle_since, limits.idle_timeout) {
            return Verdict::Idle;
        }
        Verdict::Keep
    }
}

/// A stream that tells its [`Watch`] what passes, with what was already read from it in front.
pub(crate) struct Watched<IO> {
    io: IO,
    watch: Arc<Watch>,
    ahead: Vec<u8>,
}

impl<IO> Watched<IO> {
    pub(crate) fn new(io: IO, watch: Arc<Watch>, ahead: Vec<u8>) -> Self {
        Self { io, watch, ahead }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Watched<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let take = self.ahead.len().min(buf.remaining());
            buf.put_slice(&self.ahead[..take]);
            self.ahead.drain(..take);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.watch.bytes_read();
        }
        polled
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Watched<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, buf);
        if polled.is_ready() {
            self.watch.bytes_written();
        }
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        if polled.is_ready() {
            self.watch.bytes_written();
        }
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
