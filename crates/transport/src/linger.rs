//! The end of a connection. What a client sends after the last answer, such as HTTP/2's word that it has taken something, must
//! not meet a socket that is closed: the answer to that is a reset, and what was still on its way to the client is lost.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    sync::oneshot,
    time::timeout,
};

/// How long a client may take to take the rest and close its side.
const LINGER_MAX: Duration = Duration::from_secs(5);

/// A stream that comes back when whoever was given it lets it go.
pub(crate) struct Lent<IO> {
    io: Option<IO>,
    back: Option<oneshot::Sender<IO>>,
}

impl<IO> Lent<IO> {
    pub(crate) fn new(io: IO) -> (Self, oneshot::Receiver<IO>) {
        let (back, returned) = oneshot::channel();
        (Self { io: Some(io), back: Some(back) }, returned)
    }
}

impl<IO> Drop for Lent<IO> {
    fn drop(&mut self) {
        if let (Some(io), Some(back)) = (self.io.take(), self.back.take()) {
            // Nobody waits for it when the connection was cut.
            drop(back.send(io));
        }
    }
}

/// Says that nothing more will come, and waits until the client has closed its side.
pub(crate) async fn linger<IO: AsyncRead + AsyncWrite + Unpin>(mut io: IO) {
    let closing = async {
        if io.shutdown().await.is_ok() {
            let mut rest = [0; 1024];
            while matches!(io.read(&mut rest).await, Ok(1..)) {}
        }
    };
    if timeout(LINGER_MAX, closing).await.is_err() {
        tracing::debug!("a client did not close its side of a connection that has ended");
    }
}

fn gone() -> io::Error {
    io::Error::from(io::ErrorKind::NotConnected)
}

impl<IO: AsyncRead + Unpin> AsyncRead for Lent<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.io {
            Some(io) => Pin::new(io).poll_read(context, into),
            None => Poll::Ready(Err(gone())),
        }
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Lent<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Some(io) => Pin::new(io).poll_write(context, bytes),
            None => Poll::Ready(Err(gone())),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Some(io) => Pin::new(io).poll_write_vectored(context, parts),
            None => Poll::Ready(Err(gone())),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.io.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Some(io) => Pin::new(io).poll_flush(context),
            None => Poll::Ready(Err(gone())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Some(io) => Pin::new(io).poll_shutdown(context),
            None => Poll::Ready(Err(gone())),
        }
    }
}
