//! One HTTP/2 connection to one member: made, greeted, and used for calls. Which member, and what to do when it breaks, is
//! the client's business.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use http::{Uri, uri::PathAndQuery};
use hyper::{body::Incoming, client::conn::http2::SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tonic::{Request, Streaming, body::Body, client::Grpc, metadata::MetadataValue};
use tonic_prost::ProstCodec;

use crate::{
    ConnectError,
    fault::{Fault, LinkError, chain},
    wire::{Nothing, StatusResponse, method},
};

/// The largest answer that is received, in bytes. Pages are made of requests that stay far below.
const ANSWER_BYTES_MAX: usize = 128 << 20;
/// How much may be on its way in one stream, and in all of a connection, before its reader takes it.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 32 << 20;

/// Where a member listens for clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// As it was given.
    pub(crate) url: String,
    host: String,
    port: u16,
    name: ServerName<'static>,
    origin: Uri,
}

impl Endpoint {
    pub(crate) fn parse(text: &str) -> Result<Self, ConnectError> {
        let bad = |why: &str| ConnectError::Endpoint { url: text.to_owned(), why: why.to_owned() };
        let url = url::Url::parse(text).map_err(|e| bad(&e.to_string()))?;
        if url.scheme() != "https" {
            return Err(bad(
                "it does not begin with https://, and etcd is spoken to over TLS only",
            ));
        }
        let host = url.host_str().ok_or_else(|| bad("it has no host"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = url.port().unwrap_or(2379);
        let name = ServerName::try_from(host.clone()).map_err(|e| bad(&e.to_string()))?;
        let shown = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        let origin = format!("https://{shown}:{port}")
            .parse()
            .map_err(|e: http::uri::InvalidUri| bad(&e.to_string()))?;
        Ok(Self { url: text.to_owned(), host, port, name, origin })
    }

    /// Where to connect.
    pub(crate) fn socket(&self) -> (&str, u16) {
        (&self.host, self.port)
    }
}

/// How long the parts of a call may take.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Connecting to one member, with TLS and the first greeting.
    pub connect: Duration,
    /// Waiting for one member's answer before another is asked.
    pub attempt: Duration,
    /// A whole call, with all its attempts. When nothing was answered for this long, calls are refused at once until that is
    /// over.
    pub call: Duration,
    /// A connection in use that says nothing for this long is asked whether it lives. Members end connections that are
    /// asked more often than their `--grpc-keepalive-min-time` (5 s unless set).
    pub keep_alive: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(1),
            attempt: Duration::from_secs(2),
            call: Duration::from_secs(5),
            keep_alive: Duration::from_secs(6),
        }
    }
}

/// A connection that was greeted. Clones share it; it closes when the last is dropped.
#[derive(Clone)]
pub(crate) struct Connection {
    link: Link,
    origin: Uri,
    /// What the member said of itself.
    pub(crate) hello: Arc<StatusResponse>,
}

#[derive(Clone)]
struct Link(SendRequest<Body>);

impl tower::Service<http::Request<Body>> for Link {
    type Response = http::Response<Incoming>;
    type Error = LinkError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context).map_err(LinkError::NotSent)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let sent = self.0.try_send_request(request);
        Box::pin(async move {
            sent.await.map_err(|mut error| match error.take_message() {
                Some(_) => LinkError::NotSent(error.into_error()),
                None => LinkError::Broken(error.into_error()),
            })
        })
    }
}

impl Connection {
    /// Connects and asks the member who it is, so that a connection that is there has been accepted by both sides.
    pub(crate) async fn open(
        endpoint: &Endpoint,
        tls: Arc<rustls::ClientConfig>,
        timing: &Timing,
    ) -> Result<Self, Fault> {
        let within = timing.connect;
        match tokio::time::timeout(within, Self::greet(endpoint, tls, timing)).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(why)) => Err(Fault::NotDone(format!("{}: {why}", endpoint.url))),
            Err(_) => Err(Fault::NotDone(format!("{}: no connection in {within:?}", endpoint.url))),
        }
    }

    async fn greet(
        endpoint: &Endpoint,
        tls: Arc<rustls::ClientConfig>,
        timing: &Timing,
    ) -> Result<Self, String> {
        let tcp = TcpStream::connect(endpoint.socket()).await.map_err(|e| e.to_string())?;
        tcp.set_nodelay(true).map_err(|e| e.to_string())?;
        let stream = tokio_rustls::TlsConnector::from(tls)
            .connect(endpoint.name.clone(), tcp)
            .await
            .map_err(|e| format!("TLS: {}", chain(&e)))?;
        let (sender, driver) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .keep_alive_interval(timing.keep_alive)
            .keep_alive_timeout(timing.connect)
            .handshake::<_, Body>(TokioIo::new(stream))
            .await
            .map_err(|e| chain(&e))?;
        // Ends when the last sender is dropped, or the connection breaks.
        tokio::spawn(async move { drop(driver.await) });
        let mut connection =
            Self { link: Link(sender), origin: endpoint.origin.clone(), hello: Arc::default() };
        let hello: Result<StatusResponse, Fault> =
            connection.unary(method::STATUS, Nothing {}, false).await;
        connection.hello = Arc::new(hello.map_err(|fault| match fault {
            // A member that does not trust our certificate says so in its first words.
            Fault::Doubt(why) | Fault::NotDone(why) | Fault::Refused(why) => {
                format!("it does not answer: {why}")
            }
            other => format!("{other:?}"),
        })?);
        supported(&connection.hello.version)?;
        Ok(connection)
    }

    /// Whether it is this one.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.hello, &other.hello)
    }

    /// Whether it is known to be closed.
    pub(crate) fn is_closed(&self) -> bool {
        self.link.0.is_closed()
    }

    fn grpc(&self) -> Grpc<Link> {
        Grpc::with_origin(self.link.clone(), self.origin.clone())
            .max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// A request and its answer. With `leader`, a member that knows of no leader refuses at once.
    pub(crate) async fn unary<M, R>(
        &self,
        method: &'static str,
        message: M,
        leader: bool,
    ) -> Result<R, Fault>
    where
        M: prost::Message + 'static,
        R: prost::Message + Default + 'static,
    {
        let mut grpc = self.grpc();
        ready(&mut grpc).await?;
        let codec = ProstCodec::<M, R>::default();
        let answer = grpc.unary(request(message, leader), path(method), codec).await;
        Ok(answer.map_err(Fault::from)?.into_inner())
    }

    /// A request that is answered by a stream. It stays open towards the member unless `closed`.
    pub(crate) async fn stream<M, R>(
        &self,
        method: &'static str,
        message: M,
        closed: bool,
    ) -> Result<Streaming<R>, Fault>
    where
        M: prost::Message + 'static,
        R: prost::Message + Default + 'static,
    {
        let mut grpc = self.grpc();
        ready(&mut grpc).await?;
        let codec = ProstCodec::<M, R>::default();
        let once = stream::iter([message]);
        let answer = if closed {
            grpc.streaming(request(once, true), path(method), codec).await
        } else {
            grpc.streaming(request(once.chain(stream::pending()), true), path(method), codec).await
        };
        Ok(answer.map_err(Fault::from)?.into_inner())
    }
}

async fn ready(grpc: &mut Grpc<Link>) -> Result<(), Fault> {
    grpc.ready().await.map_err(|error| Fault::NotDone(chain(&error)))
}

fn path(method: &'static str) -> PathAndQuery {
    PathAndQuery::from_static(method)
}

fn request<M>(message: M, leader: bool) -> Request<M> {
    let mut request = Request::new(message);
    if leader {
        request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
    }
    request
}

/// Refuses members that lack what we rely on: nested transactions, fragments of watches, learners.
fn supported(version: &str) -> Result<(), String> {
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let version_of = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if version_of >= (3, 4) {
        return Ok(());
    }
    Err(format!("it is etcd {version}, and 3.4 or newer is needed: upgrade it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_https_and_have_a_port() {
        let parsed = Endpoint::parse("https://etcd.example.com").expect("good");
        assert_eq!((parsed.host.as_str(), parsed.port), ("etcd.example.com", 2379));
        let parsed = Endpoint::parse("https://[::1]:4001").expect("good");
        assert_eq!((parsed.host.as_str(), parsed.port), ("::1", 4001));
        assert_eq!(parsed.origin.to_string(), "https://[::1]:4001/");
        for bad in ["http://10.0.0.1:2379", "10.0.0.1:2379", "", "https://"] {
            assert!(Endpoint::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn old_members_are_refused() {
        assert!(supported("3.4.23").is_ok() && supported("3.10.0").is_ok());
        assert!(supported("4.0.0").is_ok() && supported("3.6.0-rc.1").is_ok());
        assert!(supported("3.3.27").is_err() && supported("").is_err());
    }
}
