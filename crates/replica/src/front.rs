//! The ways into a replica, taken before its store is open. What comes early waits in the queue of the listener; should the
//! store be long in coming, as without a majority, everybody is told why instead, or answered from what is known.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    task::{Context, Poll},
};

use axum::{Json, Router, response::IntoResponse as _};
use dtr_service::local::Local;
use dtr_transport::{
    Body, BoundServer, Drained, ExternalHost, Forwarded, Metrics, Network, Redirect, Server,
    Shutdown, error_response, tls::ServerTls,
};
use dtr_types::SystemRandom;
use http::{HeaderValue, Request, Response, StatusCode, header};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::{Service, util::Oneshot};

use crate::{DataDir, ReplicaConfig, ServeError, assets, follow, health::brief};

/// When clients that came too early may ask again, in seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("5");
/// What says whether a replica is well.
const PING: &str = "/_ping";
/// What tells how the cluster is.
const STATUS: &str = "/api/v0/meta/cluster_status";

/// Answers with a router as soon as there is one; until then says what is waited for.
#[derive(Clone)]
pub(crate) struct Front(Arc<Inner>);

struct Inner {
    router: OnceLock<Router>,
    /// What answers until then, where anything can.
    known: Mutex<Option<Router>>,
    waiting: Arc<Waiting>,
    /// Whether those who come this way may know how the cluster is without being asked who they are.
    trusted: bool,
}

/// What is waited for.
#[derive(Default)]
struct Waiting {
    status: Mutex<Value>,
}

impl Waiting {
    fn status(&self) -> Value {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Front {
    fn new(waiting: Arc<Waiting>, trusted: bool) -> Self {
        let (router, known) = Default::default();
        Self(Arc::new(Inner { router, known, waiting, trusted }))
    }

    fn know(&self, router: Option<Router>) {
        *self.0.known.lock().unwrap_or_else(PoisonError::into_inner) = router;
    }

    /// Who answers; how it is with the cluster, this one knows better than what is known.
    fn router(&self, path: &str) -> Option<Router> {
        let told = path == PING || (path == STATUS && self.0.trusted);
        self.0.router.get().cloned().or_else(|| {
            let known = self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.clone().filter(|_| !told)
        })
    }

    fn wait(&self, path: &str) -> Response<Body> {
        let status = self.0.waiting.status();
        let why = status["store"]["problem"].as_str().unwrap_or("the replica is starting");
        let no_store = [(header::CACHE_CONTROL, "no-store")];
        match path {
            PING => {
                let body = json!({ "Error": brief(why), "Healthy": false });
                (StatusCode::SERVICE_UNAVAILABLE, no_store, Json(body)).into_response()
            }
            STATUS if self.0.trusted => (no_store, Json(status)).into_response(),
            _ => {
                let (status, why) = (StatusCode::SERVICE_UNAVAILABLE, brief(why));
                let mut answer = error_response(status, "UNAVAILABLE", &why, &json!({}));
                answer.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
                answer
            }
        }
    }
}

impl Service<Request<Body>> for Front {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Answer {
        match self.router(request.uri().path()) {
            Some(router) => Answer::Served(Box::pin(tower::ServiceExt::oneshot(router, request))),
            None => Answer::Waits(Some(self.wait(request.uri().path()))),
        }
    }
}

/// An answer of a [`Front`].
pub(crate) enum Answer {
    Served(Pin<Box<Oneshot<Router, Request<Body>>>>),
    Waits(Option<Response<Body>>),
}

impl Future for Answer {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Served(serving) => serving.as_mut().poll(context),
            Self::Waits(answer) => match answer.take() {
                Some(answer) => Poll::Ready(Ok(answer)),
                None => Poll::Pending,
            },
        }
    }
}

enum Listeners {
    Bound(BoundServer<Front>, Local),
    Open(JoinHandle<Drained>),
    Closed,
}

/// The ways in.
pub(crate) struct Doors {
    front: Front,
    local: Front,
    waiting: Arc<Waiting>,
    listeners: Listeners,
    /// The addresses taken, by kind of listener.
    pub addresses: HashMap<&'static str, SocketAddr>,
    pub tls: ServerTls,
    pub external: ExternalHost,
    pub metrics: Arc<Metrics>,
    /// What runs beside the listeners, and how it is stopped.
    pub background: TaskTracker,
    pub stop: CancellationToken,
}

impl Doors {
    /// Takes the addresses and the socket. Call it only as holder of the pid file.
    pub async fn bind(dir: &DataDir, config: &ReplicaConfig) -> Result<Self, ServeError> {
        let certificate = assets::early_certificate(dir, &follow::names(config, "")?)?;
        let tls = ServerTls::new(&certificate)?;
        let (external, metrics) = (ExternalHost::default(), Metrics::new());
        let waiting = Arc::<Waiting>::default();
        let front = Front::new(Arc::clone(&waiting), false);
        let server = listeners(&front, config, &external, &metrics, &tls)?.bind().await?;
        let addresses = server.addresses().map(|(kind, address)| (kind.as_str(), address));
        Ok(Self {
            addresses: addresses.collect(),
            local: Front::new(Arc::clone(&waiting), true),
            listeners: Listeners::Bound(server, dtr_service::local::listen(dir.root())?),
            front,
            waiting,
            tls,
            external,
            metrics,
            background: TaskTracker::new(),
            stop: CancellationToken::new(),
        })
    }

    /// What is told from here on to whoever asks. `store.problem` of it says why.
    pub fn tell(&self, status: Value) {
        *self.waiting.status.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }

    /// Begins to answer, if that has not begun.
    pub fn open(&mut self, shutdown: &Shutdown) {
        self.listeners = match std::mem::replace(&mut self.listeners, Listeners::Closed) {
            Listeners::Bound(server, socket) => {
                let local = Router::new().fallback_service(self.local.clone());
                self.background.spawn(socket.serve(local, self.stop.clone()));
                dtr_service::notify_ready();
                Listeners::Open(tokio::spawn(server.run(shutdown.clone())))
            }
            other => other,
        };
    }

    /// The answers come from these routers from here on.
    pub fn serve(&self, router: Router, local: Router) {
        // Once only, by the one who put the replica together.
        drop(self.front.0.router.set(router));
        drop(self.local.0.router.set(local));
        self.front.know(None);
        self.local.know(None);
    }

    /// Until then, they come from these.
    pub fn know(&self, router: Router, local: Router) {
        self.front.know(Some(router));
        self.local.know(Some(local));
    }

    /// Returns when the listeners have ended, as `shutdown` asks them to.
    pub async fn ended(&mut self) {
        if let Listeners::Open(server) = std::mem::replace(&mut self.listeners, Listeners::Closed)
            && let Err(error) = server.await
        {
            tracing::error!(%error, "the listeners broke down");
        }
    }
}

fn listeners(
    front: &Front,
    config: &ReplicaConfig,
    external: &ExternalHost,
    metrics: &Arc<Metrics>,
    tls: &ServerTls,
) -> Result<Server<Front>, ServeError> {
    let at = |port| SocketAddr::new(config.listen_address, port);
    let networks: Result<Vec<Network>, _> =
        config.trusted_proxies.iter().map(|text| text.parse()).collect();
    let networks = networks?;
    let mut server = Server::new(front.clone(), Arc::clone(metrics), &SystemRandom)
        .external(external.clone())
        .trusted(networks.clone())
        .https(at(config.https_port), tls.clone());
    if config.http_port != 0 {
        let to = Redirect { external_host: external.clone(), https_port: Some(config.https_port) };
        server = server.redirect(at(config.http_port), to);
    }
    if let Some(address) = config.plain_http {
        let forwarded =
            if networks.is_empty() { Forwarded::Ignore } else { Forwarded::From(networks) };
        server = server.plain(address, forwarded);
    }
    Ok(server)
}
