//! Serving: the rooms put together, and run until asked to stop. After this file one knows every part of a running
//! replica and every way into it.

use std::{collections::HashMap, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use dtr_access::{Access, LocalAdmin};
use dtr_api::ApiState;
use dtr_blobs::{BlobError, SharedBlobs};
use dtr_catalog::{
    Catalog, CatalogError,
    records::{ClusterRecord, DATA_FORMAT, IdentitySource},
};
use dtr_cluster::{Cluster, Ended, Engine, Keeper};
use dtr_enzi::Enzi;
use dtr_identity::{
    BuiltIn, BuiltInOptions, Identity, IdentityError, ManageError, Remote, RemoteError,
    RemoteOptions,
};
use dtr_jobs::Scheduler;
use dtr_registry::Registry;
use dtr_service::{PidFile, local::Local};
use dtr_transport::{
    ExternalHost, Forwarded, Metrics, Redirect, Server, Shutdown,
    tls::{ServerTls, TlsError},
};
use dtr_types::{SystemClock, SystemRandom};
use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    AssetError, ConfigError, DataDir, ReplicaConfig, StoreConfig, assets,
    follow::{self, Directory, Follower},
    health::Health,
    heartbeat,
    metadata::{Metadata, OpenError},
    storage::open_storage,
};

/// How often a replica that waits for a majority says so.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long background work may take to end once serving has ended.
const BACKGROUND_END: Duration = Duration::from_secs(10);

/// Why a replica cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Its configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Its store.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// Its records.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// Its blob storage.
    #[error(transparent)]
    Storage(#[from] BlobError),
    /// The store has no cluster in it: an installation or a restore was cut off.
    #[error(
        "the installation or restore in {0} was not finished; run the restore again, or \"dtr destroy\" it and install again"
    )]
    Unfinished(PathBuf),
    /// The data was written by a newer version.
    #[error(
        "the data has format {found}, this version of dtr knows formats up to {known}; run the newer version of dtr that wrote it"
    )]
    Newer {
        /// What it has.
        found: u32,
        /// What is known.
        known: u32,
    },
    /// Its keys or certificates.
    #[error(transparent)]
    Asset(#[from] AssetError),
    /// What it would serve over TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A name that its certificate should have.
    #[error(transparent)]
    Pki(#[from] dtr_transport::pki::PkiError),
    /// Its link to the UCP.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// It is linked to a UCP that it was never registered with.
    #[error(
        "this registry uses a UCP but is not registered with it; run \"dtr reconfigure\" with --ucp-url to register it"
    )]
    NotRegistered,
    /// Its tokens cannot be signed.
    #[error(transparent)]
    Access(#[from] dtr_access::AccessError),
    /// A listener.
    #[error(transparent)]
    Listen(#[from] dtr_transport::ServeError),
    /// The proxies that it trusts.
    #[error(transparent)]
    Proxies(#[from] dtr_transport::NetworkError),
    /// The pid file, or the local way in.
    #[error(transparent)]
    Service(#[from] dtr_service::ServiceError),
    /// Its registration with itself.
    #[error(transparent)]
    Manage(#[from] ManageError),
    /// Its registration with the UCP.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// The parts of a replica that is open.
pub struct Opened {
    /// The records.
    pub catalog: Catalog,
    /// Image content.
    pub blobs: SharedBlobs,
    /// The cluster it belongs to.
    pub cluster: ClusterRecord,
    /// What keeps etcd running, when metadata is there.
    engine: Option<Engine>,
}

impl Opened {
    /// Ends what runs for it.
    pub async fn close(self) {
        if let Some(engine) = self.engine {
            engine.stop().await;
        }
    }
}

/// Opens what is installed in a data directory; checks that this version understands it. With etcd, waits until a
/// majority answers.
pub async fn open(dir: &DataDir, config: &ReplicaConfig) -> Result<Opened, ServeError> {
    opened(Metadata::open(dir, config).await?, dir, config).await
}

/// The same, however long it takes until a majority answers: replicas may all be started at once, or one long before the
/// others.
async fn open_patiently(dir: &DataDir, config: &ReplicaConfig) -> Result<Opened, ServeError> {
    let metadata = Metadata::begin(dir, config).await?;
    if let Some(engine) = &metadata.engine {
        while let Err(error) = engine.ready(PATIENCE).await {
            tracing::warn!(
                %error,
                "waiting for a majority of the replicas; if this one was removed meanwhile, delete it with \"dtr destroy\"; \
                 if the others are lost for good, \"dtr emergency-repair\" makes this one a cluster of its own"
            );
        }
    }
    opened(metadata, dir, config).await
}

async fn opened(
    metadata: Metadata,
    dir: &DataDir,
    config: &ReplicaConfig,
) -> Result<Opened, ServeError> {
    let Metadata { catalog, engine } = metadata;
    let cluster = catalog.cluster().await?;
    let cluster = cluster.ok_or_else(|| ServeError::Unfinished(dir.root().to_owned()))?;
    if cluster.data_format > DATA_FORMAT {
        return Err(ServeError::Newer { found: cluster.data_format, known: DATA_FORMAT });
    }
    let blobs: SharedBlobs = open_storage(dir, &config.storage).await?;
    Ok(Opened { catalog, blobs, cluster, engine })
}

/// Who says who is who.
struct Who {
    identity: Arc<dyn Identity>,
    built_in: Option<BuiltIn>,
    remote: Option<Arc<Remote>>,
}

/// Who says who is who: this store, or a UCP.
async fn identity(opened: &Opened) -> Result<Who, ServeError> {
    match &opened.cluster.identity {
        IdentitySource::BuiltIn => {
            let built_in = BuiltIn::new(opened.catalog.clone(), BuiltInOptions::default());
            Ok(Who { identity: Arc::new(built_in.clone()), built_in: Some(built_in), remote: None })
        }
        IdentitySource::Ucp { url, ca, insecure_tls, service } => {
            let service = service.clone().ok_or(ServeError::NotRegistered)?;
            let ca = (!ca.trim().is_empty()).then_some(ca.as_str());
            let tls = dtr_transport::tls::client_config(ca, *insecure_tls)?;
            let (private_key, _) = assets::service_key(&opened.catalog).await?;
            let options = RemoteOptions { url: url.clone(), service, private_key };
            let remote = Remote::new(options, tls, Arc::new(SystemClock), Arc::new(SystemRandom))?;
            let remote = Arc::new(remote);
            let identity: Arc<dyn Identity> = Arc::clone(&remote) as _;
            Ok(Who { identity, built_in: None, remote: Some(remote) })
        }
    }
}

/// A replica that is put together and has its addresses, about to serve.
pub struct Serving {
    server: dtr_transport::BoundServer<Router>,
    pid_file: PidFile,
    socket: Local,
    local: Router,
    registry: Registry,
    background: TaskTracker,
    stop: CancellationToken,
    opened: Opened,
    config: ReplicaConfig,
    health: Health,
    scheduler: Arc<Scheduler>,
    tls: ServerTls,
    node: String,
    directory: Option<Directory>,
    external: ExternalHost,
    dir: DataDir,
}

impl std::fmt::Debug for Serving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Serving({})", self.config.id)
    }
}

/// Puts a replica together and takes its addresses. `node` is this machine's name.
///
/// # Errors
/// [`ServeError`], each with what to do.
pub async fn bind(
    dir: &DataDir,
    config: &ReplicaConfig,
    node: &str,
) -> Result<Serving, ServeError> {
    let pid_file = PidFile::claim(&dir.pid_file())?;
    let opened = open_patiently(dir, config).await?;
    let Who { identity: who, built_in, remote } = identity(&opened).await?;
    let catalog = opened.catalog.clone();
    let settings = catalog.settings().await?;
    let metrics = Metrics::new();
    let access = Access::new(catalog.clone(), Arc::clone(&who)).await?;
    let scheduler =
        Arc::new(Scheduler::new(catalog.clone(), Arc::clone(&opened.blobs), config.id.clone()));
    let health = Health::new(catalog.clone(), Arc::clone(&opened.blobs));
    let registry = Registry::new(catalog.clone(), Arc::clone(&opened.blobs), access.clone());
    let api = dtr_api::router(ApiState {
        catalog: catalog.clone(),
        blobs: Arc::clone(&opened.blobs),
        identity: Arc::clone(&who),
        built_in: built_in.clone(),
        access,
        scheduler: Arc::clone(&scheduler),
        cluster: opened.engine.as_ref().map(|engine| {
            let (catalog, blobs) = (catalog.clone(), Arc::clone(&opened.blobs));
            Cluster::new(catalog, blobs, engine, config.id.clone())
        }),
        replica: config.id.clone(),
        version: env!("CARGO_PKG_VERSION"),
        reports: Arc::default(),
    });
    let mut router = registry.router().merge(api).merge(own_routes(&catalog, &health, &metrics));
    let mut directory = remote.map(Directory::Ucp);
    if let Some(built_in) = built_in {
        let enzi = Enzi::new(built_in.clone(), &config.address).with_accounts_alias();
        router = router.merge(dtr_enzi::router(enzi));
        let here = Directory::Here(built_in);
        here.tell(&catalog, config).await?;
        directory = Some(here);
    }
    let names = follow::names(config, &settings.dtr_host)?;
    let certificate = assets::web_certificate(&catalog, &names).await?;
    let tls = ServerTls::new(&certificate)?;
    let external = ExternalHost::new(&settings.dtr_host);
    let server = listeners(router.clone(), config, external.clone(), metrics, tls.clone())?;
    Ok(Serving {
        server: server.bind().await?,
        pid_file,
        socket: dtr_service::local::listen(dir.root())?,
        local: router.layer(Extension(LocalAdmin)),
        registry,
        background: TaskTracker::new(),
        stop: CancellationToken::new(),
        opened,
        config: config.clone(),
        health,
        scheduler,
        tls,
        node: node.to_owned(),
        directory,
        external,
        dir: dir.clone(),
    })
}

/// What belongs to no other face: `/_ping`, `/ca`, `/metrics`.
fn own_routes(catalog: &Catalog, health: &Health, metrics: &Arc<Metrics>) -> Router {
    let (ca, ping, metrics) = (catalog.clone(), health.clone(), Arc::clone(metrics));
    Router::new()
        .route("/_ping", get(move || async move { ping.ping().await }))
        .route("/ca", get(move || async move { serve_ca(&ca).await }))
        .route("/metrics", get(move || async move { metrics.response() }))
}

async fn serve_ca(catalog: &Catalog) -> axum::response::Response {
    match assets::trust_bundle(catalog).await {
        Ok(pem) => ([(header::CONTENT_TYPE, "application/x-pem-file")], pem).into_response(),
        Err(error) => {
            tracing::error!(%error, "the certificate authority cannot be served");
            StatusCode::SERVICE_UNAVAILABLE.into_response()
        }
    }
}

fn listeners(
    router: Router,
    config: &ReplicaConfig,
    external_host: ExternalHost,
    metrics: Arc<Metrics>,
    tls: ServerTls,
) -> Result<Server<Router>, ServeError> {
    let at = |port| SocketAddr::new(config.listen_address, port);
    let mut server = Server::new(router, metrics, &SystemRandom).https(at(config.https_port), tls);
    if config.http_port != 0 {
        let to = Redirect { external_host, https_port: Some(config.https_port) };
        server = server.redirect(at(config.http_port), to);
    }
    if let Some(address) = config.plain_http {
        let networks: Result<Vec<_>, _> =
            config.trusted_proxies.iter().map(|text| text.parse()).collect();
        let networks = networks?;
        let forwarded =
            if networks.is_empty() { Forwarded::Ignore } else { Forwarded::From(networks) };
        server = server.plain(address, forwarded);
    }
    Ok(server)
}

impl Serving {
    /// The addresses taken, by kind of listener.
    pub fn addresses(&self) -> HashMap<&'static str, SocketAddr> {
        self.server.addresses().map(|(kind, address)| (kind.as_str(), address)).collect()
    }

    /// Serves until `shutdown`; then finishes what runs, flushes what is counted, and ends.
    pub async fn run(self, shutdown: Shutdown) {
        let dir = self.dir;
        let catalog = self.opened.catalog.clone();
        let (scheduler, stop) = (self.scheduler, self.stop.clone());
        self.background.spawn(async move { scheduler.run(stop).await });
        self.background.spawn(heartbeat::report(
            catalog.clone(),
            self.config.clone(),
            self.health,
            self.node,
            self.stop.clone(),
        ));
        let changed = Arc::new(Notify::new());
        if let Some(engine) = &self.opened.engine {
            let keeper = keeper(&dir, &self.config, catalog.clone(), engine, &changed);
            let (stop, drain) = (self.stop.clone(), shutdown.drain.clone());
            self.background.spawn(async move {
                if keeper.run(stop).await == Ended::Removed {
                    tracing::error!(
                        "this replica was removed from the cluster: it stops; delete what is left of it with \"dtr destroy\""
                    );
                    drain.cancel();
                }
            });
        }
        let follower = Follower {
            catalog: catalog.clone(),
            config: self.config.clone(),
            tls: self.tls,
            external: self.external,
            changed: Arc::clone(&changed),
        };
        self.background.spawn(follower.run(self.stop.clone()));
        if let Some(directory) = self.directory {
            let config = self.config.clone();
            self.background.spawn(directory.keep_told(catalog, config, changed, self.stop.clone()));
        }
        self.background.spawn(self.socket.serve(self.local, self.stop.clone()));
        dtr_service::notify_ready();
        tracing::info!(replica = %self.config.id, cluster = %self.opened.cluster.id, "serving");
        self.server.run(shutdown).await;
        dtr_service::notify_stopping();
        self.stop.cancel();
        self.registry.shutdown().await;
        self.background.close();
        if tokio::time::timeout(BACKGROUND_END, self.background.wait()).await.is_err() {
            tracing::warn!("background work was cut off; it goes on at the next start");
        }
        self.opened.close().await;
        drop(self.pid_file);
    }
}

/// Looks after the replica's place among the others, and remembers where they are for the next start.
fn keeper(
    dir: &DataDir,
    config: &ReplicaConfig,
    catalog: Catalog,
    engine: &Engine,
    changed: &Arc<Notify>,
) -> Keeper {
    let member = match &config.store {
        StoreConfig::Etcd(etcd) => etcd.member.clone(),
        StoreConfig::Embedded => None,
    };
    let (dir, changed) = (dir.clone(), Arc::clone(changed));
    Keeper::new(catalog, engine, config.id.clone(), member, move |endpoints| {
        let remembered = ReplicaConfig::load(&dir).and_then(|mut config| {
            if let StoreConfig::Etcd(etcd) = &mut config.store {
                etcd.endpoints = endpoints;
            }
            config.save(&dir)
        });
        if let Err(error) = remembered {
            tracing::warn!(%error, "where the other replicas are was not written down");
        }
        // The identity service is told who is there.
        changed.notify_one();
    })
}
