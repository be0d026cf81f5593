//! A server with all three listeners, and clients for it.

use std::{collections::HashMap, convert::Infallible, sync::Arc, time::Duration};

use super::*;
use dtr_transport::{BodyIdle, Drained, Shutdown};
use tokio::{sync::Semaphore, task::JoinHandle, time::timeout};

/// No test waits longer than this for anything.
const LIMIT: Duration = Duration::from_secs(20);

pub struct Running {
    pub addresses: HashMap<ListenerKind, SocketAddr>,
    pub authority: pki::Authority,
    pub tls: ServerTls,
    pub metrics: Arc<Metrics>,
    pub shutdown: Shutdown,
    /// Lets `/slow` go on.
    pub gate: Arc<Semaphore>,
    run: JoinHandle<Drained>,
}

impl Running {
    pub fn https(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.addresses[&ListenerKind::Https].port())
    }

    pub fn plain(&self, path: &str) -> String {
        format!("http://{}{path}", self.addresses[&ListenerKind::Plain])
    }

    /// How it ended, once it was asked to.
    pub async fn done(self) -> Drained {
        timeout(LIMIT, self.run).await.expect("the server ends").unwrap()
    }

    pub async fn stop(self) {
        self.shutdown.drain.cancel();
        self.shutdown.now.cancel();
        self.done().await;
    }
}

type Answer = std::pin::Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

pub fn answer(gate: Arc<Semaphore>) -> impl Fn(Request<Body>) -> Answer + Clone + Send + Sync {
    move |request| {
        let gate = Arc::clone(&gate);
        Box::pin(async move { Ok(respond(request, gate).await) })
    }
}

async fn respond(request: Request<Body>, gate: Arc<Semaphore>) -> Response<Body> {
    let body = match request.uri().path() {
        "/info" => {
            let info = request.extensions().get::<RequestInfo>().unwrap();
            let host = info.host.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
            let seen = request.headers().contains_key("x-forwarded-for");
            Body::from(format!(
                "{} {} {host} {seen} {}",
                info.scheme.as_str(),
                info.client,
                info.host_is_sure
            ))
        }
        "/_ping" => Body::from("pong"),
        "/refuse" => {
            let mut response = Response::new(Body::from("not wanted"));
            *response.status_mut() = StatusCode::FORBIDDEN;
            return response;
        }
        "/basic" | "/bearer" => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::UNAUTHORIZED;
            let scheme = request.uri().path().trim_start_matches('/');
            let challenge = format!("{scheme} realm=\"a\"").parse().unwrap();
            response.headers_mut().insert("www-authenticate", challenge);
            return response;
        }
        "/panic" => panic!("on purpose"),
        "/slow" => {
            let pieces = futures_util::stream::unfold(0, move |piece| {
                let gate = Arc::clone(&gate);
                async move {
                    match piece {
                        0 => Some((Ok::<_, Infallible>("begin"), 1)),
                        1 => {
                            gate.acquire().await.unwrap().forget();
                            Some((Ok("end"), 2))
                        }
                        _ => None,
                    }
                }
            });
            Body::from_stream(pieces)
        }
        "/large" => {
            let piece = bytes::Bytes::from(vec![0; 1 << 20]);
            let pieces = (0..256).map(move |_| Ok::<_, Infallible>(piece.clone()));
            Body::from_stream(futures_util::stream::iter(pieces))
        }
        _ => match request.into_body().collect().await {
            Ok(whole) => Body::from(whole.to_bytes()),
            Err(error) => {
                let mut cause: Option<&dyn std::error::Error> = Some(&error);
                while let Some(inner) = cause.filter(|c| !c.is::<BodyIdle>()) {
                    cause = inner.source();
                }
                let idle = cause.is_some();
                let mut response = Response::new(Body::empty());
                *response.status_mut() =
                    if idle { StatusCode::REQUEST_TIMEOUT } else { StatusCode::BAD_REQUEST };
                return response;
            }
        },
    };
    let mut response = Response::new(body);
    response.extensions_mut().insert(LogUser("somebody".into()));
    response
}

pub fn closed_gate() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(0))
}

/// A log that can be read.
#[derive(Clone, Default)]
pub struct Captured(Arc<std::sync::Mutex<Vec<u8>>>);

impl Captured {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl std::io::Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl tracing_subscriber::fmt::MakeWriter<'_> for Captured {
    type Writer = Self;
    fn make_writer(&self) -> Self {
        self.clone()
    }
}

pub async fn start(limits: Limits) -> Running {
    let now = SystemClock.now();
    let authority = pki::Authority::make("Test CA", now).unwrap();
    let names = pki::SubjectNames::local();
    let issued = authority.issue_server(&names, now, pki::SERVER_VALIDITY).unwrap();
    let (tls, metrics, gate) = (ServerTls::new(&issued).unwrap(), Metrics::new(), closed_gate());
    // The redirect names the HTTPS port, so that one is taken first and given up for the server to take again.
    let port = std::net::TcpListener::bind(local()).unwrap().local_addr().unwrap().port();
    let service = tower::service_fn(answer(Arc::clone(&gate)));
    let server = Server::new(service, Arc::clone(&metrics), &SystemRandom)
        .limits(limits)
        .external(ExternalHost::new("registry.example.com".parse().ok()))
        .https(SocketAddr::from(([127, 0, 0, 1], port)), tls.clone())
        .redirect(local(), Redirect { https_port: Some(port), ..Redirect::default() })
        .plain(local(), Forwarded::From(vec!["127.0.0.1".parse().unwrap()]))
        .bind()
        .await
        .unwrap();
    let addresses = server.addresses().collect();
    let shutdown = Shutdown::default();
    let run = tokio::spawn(server.run(shutdown.clone()));
    Running { addresses, authority, tls, metrics, shutdown, gate, run }
}

pub fn client(ca: Option<&str>, insecure: bool, http1: bool) -> reqwest::Client {
    let mut config = dtr_transport::tls::client_config(ca, insecure).unwrap();
    if http1 {
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
    }
    reqwest::Client::builder().tls_backend_preconfigured(config).timeout(LIMIT).build().unwrap()
}

pub fn plain_client() -> reqwest::Client {
    client(None, false, true)
}

/// Sends `text` as it is, and returns everything until the server closes.
pub async fn raw(address: SocketAddr, text: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A reset after the answer is an end too.
    let _ = timeout(LIMIT, stream.read_to_end(&mut answer)).await.expect("the server closes");
    String::from_utf8_lossy(&answer).into_owned()
}

/// Waits for a condition.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let tried = timeout(LIMIT, async {
        while !holds().await {
            // poll: the condition, within LIMIT
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    tried.await.unwrap_or_else(|_| panic!("never came true: {what}"));
}
