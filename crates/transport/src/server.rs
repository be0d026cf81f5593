//! The listeners, and the server's life: bind, serve, drain.

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use dtr_types::Random;
use http::HeaderValue;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    AccessLog, Forwarded, Limits, Metrics, Network,
    access_log::Sampler,
    connection::{Accepted, Ending},
    metrics::ListenerLabels,
    redirect::{ExternalHost, Redirect, Redirecting},
    request::{App, Handler, RequestIds},
    shares::{Kind, Shares},
    signals::Shutdown,
    tls::ServerTls,
};

/// Connections over the limit that are told so at the same time; those over this are closed without a word.
const SHED_MAX: usize = 64;
/// After a failure to accept (no file descriptors left), how long to wait before the next try.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often it is said that connections cannot be accepted.
const TROUBLE: Duration = Duration::from_secs(10);
/// How long the tasks of connections that were cut may take to go.
const CUT_TIME: Duration = Duration::from_secs(1);
/// A year, as is usual for HSTS.
const HSTS: HeaderValue = HeaderValue::from_static("max-age=31536000");

/// The kinds of listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ListenerKind {
    /// TLS ends here.
    Https,
    /// Plain, sends clients to HTTPS.
    Redirect,
    /// Plain, behind a proxy that ends TLS.
    Plain,
}

impl ListenerKind {
    /// Its name in metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Https => "https",
            Self::Redirect => "redirect",
            Self::Plain => "plain",
        }
    }
}

impl fmt::Display for ListenerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why the server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// An address could not be taken.
    #[error("cannot listen on {address} ({kind}): {}", bind_hint(.source))]
    Bind {
        /// What the listener is for.
        kind: ListenerKind,
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Nothing to listen on.
    #[error("no listener is configured; give at least an HTTPS or a plain HTTP address")]
    NoListener,
}

fn bind_hint(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another program uses this port; stop it (\"ss -ltnp\" shows it) or choose another port".to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 are for root or programs with the capability CAP_NET_BIND_SERVICE; \
             grant it or choose a port above 1023"
                .to_owned()
        }
        io::ErrorKind::AddrNotAvailable => {
            "this machine has no such address; use one of its own (\"ip addr\" lists them) or 0.0.0.0 for all".to_owned()
        }
        _ => error.to_string(),
    }
}

#[derive(Clone, Debug)]
enum Face {
    Https(ServerTls),
    Redirect(Redirect),
    Plain(Forwarded),
}

impl Face {
    fn kind(&self) -> ListenerKind {
        match self {
            Self::Https(_) => ListenerKind::Https,
            Self::Redirect(_) => ListenerKind::Redirect,
            Self::Plain(_) => ListenerKind::Plain,
        }
    }
}

/// A server that is being put together.
#[must_use]
pub struct Server<S> {
    app: App<S>,
    faces: Vec<(SocketAddr, Face)>,
}

impl<S: Handler> Server<S> {
    /// Requests go to `service`; `random` is the source of request ids.
    pub fn new(service: S, metrics: Arc<Metrics>, random: &dyn Random) -> Self {
        Self {
            app: App {
                service,
                limits: Limits::default(),
                metrics,
                access_log: AccessLog::default(),
                hsts: Some(HSTS),
                ids: Arc::new(RequestIds::new(random)),
                shares: Shares::new(&Limits::default()),
                trusted: Arc::default(),
                samplers: Arc::default(),
                external: ExternalHost::default(),
            },
            faces: Vec::new(),
        }
    }

    /// Other limits than the usual.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.app.limits = limits;
        self
    }

    /// Proxies and balancers that connect for many clients, on whatever listener: no share of connections and requests is
    /// theirs, and nothing is counted by their address. Whether their headers are believed is the plain listener's matter.
    pub fn trusted(mut self, networks: Vec<Network>) -> Self {
        self.app.trusted = networks.into();
        self
    }

    /// The address that clients use, where a proxy may hide it: what pages of it ask for is no other site's.
    pub fn external(mut self, host: ExternalHost) -> Self {
        self.app.external = host;
        self
    }

    /// What goes into the access log.
    pub fn access_log(mut self, policy: AccessLog) -> Self {
        self.app.access_log = policy;
        self
    }

    /// Whether clients that came over TLS are told to insist on it for a year (`Strict-Transport-Security`; on unless
    /// switched off).
    pub fn hsts(mut self, on: bool) -> Self {
        self.app.hsts = on.then_some(HSTS);
        self
    }

    /// Adds an HTTPS listener. Port 0 takes a free one.
    pub fn https(mut self, address: SocketAddr, tls: ServerTls) -> Self {
        self.faces.push((address, Face::Https(tls)));
        self
    }

    /// Adds a plain listener that sends clients to HTTPS, and answers `/_ping`.
    pub fn redirect(mut self, address: SocketAddr, to: Redirect) -> Self {
        self.faces.push((address, Face::Redirect(to)));
        self
    }

    /// Adds a plain listener for use behind a proxy that ends TLS.
    pub fn plain(mut self, address: SocketAddr, forwarded: Forwarded) -> Self {
        self.faces.push((address, Face::Plain(forwarded)));
        self
    }

    /// Takes all addresses. Connections queue from here on, and are served by [`BoundServer::run`]. The process may open as
    /// many files from here on as the system lets it, and no more connections are taken than fit.
    ///
    /// # Errors
    /// [`ServeError`] naming the address and what to do.
    pub async fn bind(mut self) -> Result<BoundServer<S>, ServeError> {
        if self.faces.is_empty() {
            return Err(ServeError::NoListener);
        }
        let mut listeners = Vec::new();
        for (address, face) in self.faces {
            let kind = face.kind();
            let refused = |source| ServeError::Bind { kind, address, source };
            let socket = TcpListener::bind(address).await.map_err(refused)?;
            let local = socket.local_addr().map_err(refused)?;
            listeners.push(Bound { socket, local, face });
        }
        if let Some(files) = raise_file_limit() {
            self.app.limits.fit(files);
        }
        self.app.shares = Shares::new(&self.app.limits);
        let app = Arc::new(self.app);
        Ok(BoundServer { app, listeners })
    }
}

/// Takes the limit of open files as high as the system lets this process; yields it, if there is one. Services are often
/// started with the low one that is meant for people's programs.
fn raise_file_limit() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return limit.current;
    }
    let highest = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, highest) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::warn!(%error, "the limit of open files cannot be raised");
            limit.current
        }
    }
}

struct Bound {
    socket: TcpListener,
    local: SocketAddr,
    face: Face,
}

/// A server whose addresses are taken.
#[must_use]
pub struct BoundServer<S> {
    app: Arc<App<S>>,
    listeners: Vec<Bound>,
}

/// How serving ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Connections whose requests did not finish in time.
    pub cut: usize,
}

impl<S: Handler> BoundServer<S> {
    /// The addresses taken, in the order in which the listeners were added; with port 0 the real ones.
    pub fn addresses(&self) -> impl Iterator<Item = (ListenerKind, SocketAddr)> {
        self.listeners.iter().map(|bound| (bound.face.kind(), bound.local))
    }

    /// Serves until `shutdown` asks for the end: then stops accepting, lets requests in flight finish within
    /// [`Limits::drain`], and cuts the rest. Until then the redirecting listener goes on: a load balancer that asks there
    /// hears from `/_ping` that this is not the end of what runs.
    pub async fn run(self, shutdown: impl Into<Shutdown>) -> Drained {
        let shutdown = shutdown.into();
        let ending =
            Ending { drain: shutdown.drain.child_token(), cut: shutdown.now.child_token() };
        let last = Ending { drain: CancellationToken::new(), cut: shutdown.now.child_token() };
        let (tracker, asking) = (TaskTracker::new(), TaskTracker::new());
        let shed = Arc::new(Semaphore::new(SHED_MAX));
        let (mut accepting, mut answering) = (JoinSet::new(), JoinSet::new());
        for Bound { socket, local, face } in self.listeners {
            tracing::info!(address = %local, kind = face.kind().as_str(), "listening");
            let (ending, tracker) = match face {
                Face::Redirect(_) => (&last, &asking),
                Face::Https(_) | Face::Plain(_) => (&ending, &tracker),
            };
            let door = Door {
                socket,
                kind: face.kind(),
                ending: ending.clone(),
                tracker: tracker.clone(),
                shed: Arc::clone(&shed),
                troubles: Sampler::new(1, TROUBLE),
            };
            let app = Arc::clone(&self.app);
            match face {
                Face::Https(tls) => {
                    accepting.spawn(door.open(app, Some(tls), Forwarded::Ignore));
                }
                Face::Plain(forwarded) => {
                    accepting.spawn(door.open(app, None, forwarded));
                }
                Face::Redirect(to) => {
                    let app = Arc::new(app.redirecting(to));
                    answering.spawn(door.open(app, None, Forwarded::Ignore));
                }
            }
        }
        tokio::select! {
            () = shutdown.drain.cancelled() => {}
            () = shutdown.now.cancelled() => ending.drain.cancel(),
        }
        while accepting.join_next().await.is_some() {}
        tracker.close();
        let running = tracker.len();
        tracing::info!(connections = running, "no longer accepting; finishing what runs");
        tokio::select! {
            () = tracker.wait() => {}
            () = sleep(self.app.limits.drain) => {}
            () = shutdown.now.cancelled() => {}
        }
        let cut = tracker.len();
        last.drain.cancel();
        while answering.join_next().await.is_some() {}
        asking.close();
        ending.cut.cancel();
        last.cut.cancel();
        let ended = async { tokio::join!(tracker.wait(), asking.wait()) };
        if timeout(CUT_TIME, ended).await.is_err() {
            tracing::warn!("some connections did not end when cut");
        }
        tracing::info!(cut, "stopped");
        Drained { cut }
    }
}

impl<S: Handler> App<S> {
    /// The same limits, counters and log, with the redirecting service in front.
    fn redirecting(&self, to: Redirect) -> App<Redirecting<S>> {
        App {
            service: Redirecting { to, service: self.service.clone() },
            limits: self.limits.clone(),
            metrics: Arc::clone(&self.metrics),
            access_log: self.access_log,
            hsts: None,
            ids: Arc::clone(&self.ids),
            shares: Arc::clone(&self.shares),
            trusted: Arc::clone(&self.trusted),
            samplers: Arc::clone(&self.samplers),
            external: self.external.clone(),
        }
    }
}

/// One listener's socket and what all listeners count together.
struct Door {
    socket: TcpListener,
    kind: ListenerKind,
    ending: Ending,
    tracker: TaskTracker,
    /// Connections that are one too many, and are told so.
    shed: Arc<Semaphore>,
    troubles: Sampler,
}

impl Door {
    async fn open<S: Handler>(
        self,
        app: Arc<App<S>>,
        tls: Option<ServerTls>,
        forwarded: Forwarded,
    ) {
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.ending.drain.cancelled() => return,
                accepted = self.socket.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => self.admit(stream, peer, &app, tls.as_ref(), &forwarded),
                // The client left before it was accepted: nothing of ours.
                Err(e) if is_clients(&e) => {}
                Err(error) => {
                    let kind = self.kind.as_str();
                    if let Some(left_out) = self.troubles.admit() {
                        tracing::warn!(kind, %error, left_out, "cannot accept connections; raise the limit of open files if that is it");
                    }
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn admit<S: Handler>(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        app: &Arc<App<S>>,
        tls: Option<&ServerTls>,
        forwarded: &Forwarded,
    ) {
        let address = peer.ip();
        let is_proxy = app.trusted.iter().any(|network| network.contains(address))
            || forwarded.trusts(address);
        let share = (!is_proxy).then(|| app.shares.address(address));
        let (place, shed) = match app.shares.take(Kind::Connections, share.as_ref()) {
            Ok(place) => (Some(place), None),
            Err(no) => match Arc::clone(&self.shed).try_acquire_owned() {
                Ok(told) => (None, Some(told)),
                Err(_) => {
                    app.metrics.refuse(no.limit);
                    return;
                }
            },
        };
        let accepted = Accepted {
            app: Arc::clone(app),
            peer,
            tls: tls.map(ServerTls::acceptor),
            forwarded: forwarded.clone(),
            share,
            shed: shed.is_some(),
            ending: self.ending.clone(),
        };
        let open = app
            .metrics
            .connections
            .get_or_create_owned(&ListenerLabels { listener: self.kind.as_str() });
        self.tracker.spawn(async move {
            let _held = (place, shed);
            open.inc();
            let _open = Leave(open);
            accepted.serve(stream).await;
        });
    }
}

/// Takes a connection off the gauge, also when its task is dropped or panics.
struct Leave(prometheus_client::metrics::gauge::Gauge);

impl Drop for Leave {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn is_clients(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}
