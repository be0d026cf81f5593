//! One connection from accept to close: handshake, protocol, clocks, drain.

use std::{io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::graceful::GracefulConnection,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite},
    net::TcpStream,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::{
    Forwarded, Limits,
    linger::{Lent, linger},
    request::{App, Handler, Origin, Scheme},
    shares::Address,
    watch::{Verdict, Watch, Watched},
};

/// What every HTTP/2 connection begins with (RFC 9113, section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long a connection that is one too many may stay to hear so.
const SHED_TIME: Duration = Duration::from_secs(5);
/// HTTP/2 pings find peers that are gone without a word.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Pieces of a body that wait for one HTTP/2 stream to take them.
const HTTP2_SEND_BUFFER: usize = 1024 * 1024;
/// Larger frames, fewer of them, for uploads.
const HTTP2_FRAME: u32 = 256 * 1024;

/// The signals that end connections.
#[derive(Clone)]
pub(crate) struct Ending {
    /// Finish what runs.
    pub drain: CancellationToken,
    /// Cut what runs.
    pub cut: CancellationToken,
}

/// An accepted connection and how to treat it.
pub(crate) struct Accepted<S> {
    pub app: Arc<App<S>>,
    pub peer: SocketAddr,
    pub tls: Option<TlsAcceptor>,
    pub forwarded: Forwarded,
    /// What the peer's address has, if it is that of one client.
    pub share: Option<Arc<Address>>,
    pub shed: bool,
    pub ending: Ending,
}

impl<S: Handler> Accepted<S> {
    /// Serves the connection until it ends. Nothing that a client does is an error of ours, so there is no result;
    /// the log has what went wrong, at debug level.
    pub(crate) async fn serve(self, stream: TcpStream) {
        let (peer, cut) = (self.peer, self.ending.cut.clone());
        let served = async {
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%peer, %error, "TCP_NODELAY could not be set");
            }
            match self.tls.clone() {
                Some(acceptor) => self.serve_tls(acceptor, stream).await,
                None => self.serve_plain(stream).await,
            }
        };
        tokio::select! {
            biased;
            ended = served => if let Err(reason) = ended {
                tracing::debug!(%peer, reason, "connection ended");
            },
            () = cut.cancelled() => tracing::info!(%peer, "connection cut: the time to finish is over"),
        }
    }

    async fn serve_tls(self, acceptor: TlsAcceptor, stream: TcpStream) -> Result<(), String> {
        let limits = &self.app.limits;
        let stream = timeout(limits.handshake_timeout, acceptor.accept(stream))
            .await
            .map_err(|_| {
                self.app.metrics.refuse("handshake_timeout");
                "TLS handshake took too long".to_owned()
            })?
            .map_err(|e| format!("TLS handshake failed: {e}"))?;
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        self.drive(stream, http2, Vec::new(), Scheme::Https).await
    }

    /// Without TLS nothing announces the protocol; the first bytes do.
    async fn serve_plain(self, mut stream: TcpStream) -> Result<(), String> {
        let read = timeout(self.app.limits.header_timeout, first_bytes(&mut stream));
        let drained = self.ending.drain.clone();
        let ahead = tokio::select! {
            biased;
            read = read => read,
            () = drained.cancelled() => return Ok(()),
        };
        let ahead = ahead
            .map_err(|_| {
                self.app.metrics.refuse("header_timeout");
                "nothing was asked".to_owned()
            })?
            .map_err(|e| e.to_string())?;
        if ahead.is_empty() {
            return Ok(());
        }
        let http2 = ahead == HTTP2_PREFACE;
        self.drive(stream, http2, ahead, Scheme::Http).await
    }

    async fn drive<IO>(
        self,
        io: IO,
        http2: bool,
        ahead: Vec<u8>,
        scheme: Scheme,
    ) -> Result<(), String>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let watch = Watch::new(http2);
        let (io, mut returned) = Lent::new(io);
        let io = TokioIo::new(Watched::new(io, Arc::clone(&watch), ahead));
        let origin = Arc::new(Origin {
            peer: self.peer,
            scheme,
            forwarded: self.forwarded,
            watch: Arc::clone(&watch),
            share: self.share,
            shed: self.shed,
        });
        let app = Arc::clone(&self.app);
        let service =
            service_fn(move |request| Arc::clone(&app).handle(Arc::clone(&origin), request));
        let limits = &self.app.limits;
        let served = async {
            if http2 {
                let connection = http2_builder(limits).serve_connection(io, service);
                attend(connection, &watch, limits, &self.ending.drain).await
            } else {
                let connection = http1_builder(limits).serve_connection(io, service);
                attend(connection, &watch, limits, &self.ending.drain).await
            }
        };
        let ended = if self.shed {
            timeout(SHED_TIME, served).await.unwrap_or(Err(Ended::Over("connections")))
        } else {
            served.await
        };
        if ended.is_ok()
            && let Ok(io) = returned.try_recv()
        {
            linger(io).await;
        }
        ended.map_err(|ended| match ended {
            Ended::Failed(why) => why,
            Ended::Over(limit) => {
                self.app.metrics.refuse(limit);
                format!("over the limit {limit}")
            }
        })
    }
}

/// Reads until it is clear whether the client speaks HTTP/2: at most the length of its preface.
async fn first_bytes(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut seen = Vec::with_capacity(HTTP2_PREFACE.len());
    while seen.len() < HTTP2_PREFACE.len() && HTTP2_PREFACE.starts_with(&seen) {
        let missing = HTTP2_PREFACE.len() - seen.len();
        if (&mut *stream).take(missing as u64).read_buf(&mut seen).await? == 0 {
            break;
        }
    }
    Ok(seen)
}

fn http1_builder(limits: &Limits) -> hyper::server::conn::http1::Builder {
    let mut builder = hyper::server::conn::http1::Builder::new();
    // The watch keeps the time, at a fraction of the cost of a timer for each request.
    builder.header_read_timeout(None).max_header_size(limits.header_bytes);
    builder
}

fn http2_builder(limits: &Limits) -> hyper::server::conn::http2::Builder<TokioExecutor> {
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.max_streams)
        .initial_stream_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .max_frame_size(HTTP2_FRAME)
        .max_send_buf_size(HTTP2_SEND_BUFFER)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}

enum Ended {
    Failed(String),
    Over(&'static str),
}

/// Runs a connection to its end, looking at its clocks and at the drain.
async fn attend<C>(
    connection: C,
    watch: &Watch,
    limits: &Limits,
    drain: &CancellationToken,
) -> Result<(), Ended>
where
    C: GracefulConnection,
    C::Error: std::fmt::Display,
{
    let mut connection = pin!(connection);
    let mut drained = pin!(drain.cancelled());
    let mut ticks = interval(limits.tick());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut draining, mut was_idle) = (false, false);
    loop {
        tokio::select! {
            biased;
            ended = connection.as_mut() => return ended.map_err(|e| Ended::Failed(e.to_string())),
            () = drained.as_mut(), if !draining => {
                draining = true;
                connection.as_mut().graceful_shutdown();
            }
            _ = ticks.tick() => match watch.verdict(limits) {
                Verdict::Keep => was_idle = false,
                // First politely (GOAWAY in HTTP/2); who is still there at the next look is cut.
                Verdict::Idle if !was_idle => {
                    was_idle = true;
                    connection.as_mut().graceful_shutdown();
                }
                Verdict::Idle => return Ok(()),
                Verdict::Cut(limit) => return Err(Ended::Over(limit)),
            },
        }
    }
}
