//! Serving: the rooms put together, and run until asked to stop. After this file one knows every part of a running
//! replica and every way into it.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{Extension, Router};
use dtr_access::{Access, LocalAdmin};
use dtr_api::ApiState;
use dtr_blobs::{MarkedStorage, SharedBlobs};
use dtr_catalog::{
    Catalog, CatalogError,
    records::{ClusterRecord, DATA_FORMAT},
};
use dtr_cluster::{Cluster, Ended, Engine};
use dtr_enzi::Enzi;
use dtr_identity::{BuiltIn, IdentityError, ManageError, RemoteError};
use dtr_jobs::Scheduler;
use dtr_registry::Registry;
use dtr_service::PidFile;
use dtr_store::together::as_known;
use dtr_transport::{Shutdown, tls::TlsError};
use dtr_types::WatchedClock;
use serde_json::json;
use tokio::sync::Notify;

use crate::{
    AssetError, ConfigError, DataDir, MarkError, ReplicaConfig, assets,
    clocks::Clocks,
    fence,
    follow::{self, Directory, Follower},
    front::Doors,
    health::Health,
    heartbeat,
    mark::Place,
    metadata::{Metadata, OpenError},
    own_routes,
    place::keeper,
    restart::{self, Restarter},
    survivor::Survivor,
    upkeep::{self, MembersUpkeep},
    who::{Who, identity},
};

/// How long those who come to a starting replica wait in the queue, before they are told that it waits itself.
const EARLY: Duration = Duration::from_secs(5);
/// How often a replica that waits for a majority says so.
const PATIENCE: Duration = Duration::from_secs(10);
/// After how long it begins to answer from what it knows. For that its etcd is stopped, and copied.
const ALONE: Duration = Duration::from_secs(20);
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
    Storage(#[from] MarkError),
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

/// The same of metadata that answers.
pub(crate) async fn opened(
    metadata: Metadata,
    dir: &DataDir,
    config: &ReplicaConfig,
) -> Result<Opened, ServeError> {
    let (cluster, blobs) = understood(&metadata.catalog, dir, config).await?;
    let Metadata { catalog, engine, .. } = metadata;
    Ok(Opened { catalog, blobs, cluster, engine })
}

/// The cluster in the store, if this version understands it, and its image content.
pub(crate) async fn understood(
    catalog: &Catalog,
    dir: &DataDir,
    config: &ReplicaConfig,
) -> Result<(ClusterRecord, Arc<MarkedStorage>), ServeError> {
    let cluster = catalog.cluster().await?;
    let cluster = cluster.ok_or_else(|| ServeError::Unfinished(dir.root().to_owned()))?;
    if cluster.data_format > DATA_FORMAT {
        return Err(ServeError::Newer { found: cluster.data_format, known: DATA_FORMAT });
    }
    let place = Place { dir, storage: &config.storage, cluster: &cluster.id };
    let blobs = place.open(catalog, &config.id).await?;
    Ok((cluster, blobs))
}

/// A replica that has its addresses, and not yet its store.
struct Start {
    dir: DataDir,
    config: ReplicaConfig,
    node: String,
    pid_file: PidFile,
    doors: Doors,
}

/// A replica that is put together and has its addresses, about to serve.
pub struct Serving {
    start: Start,
    parts: Parts,
    clock: Arc<WatchedClock>,
    engine: Option<Engine>,
}

/// What a replica is made of once its store is open.
struct Parts {
    catalog: Catalog,
    cluster: ClusterRecord,
    members: Option<Cluster>,
    registry: Registry,
    health: Health,
    scheduler: Arc<Scheduler>,
    directory: Option<Directory>,
    /// What answers those who came over the network, and those who may read the data directory.
    router: Router,
    local: Router,
}

impl std::fmt::Debug for Serving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Serving({})", self.start.config.id)
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
    let start = Start::new(dir, config, node).await?;
    let Metadata { catalog, clock, engine } = Metadata::open(dir, config).await?;
    let parts = start.parts(&catalog, engine.as_ref()).await?;
    Ok(Serving { start, parts, clock, engine })
}

/// Serves a replica until `shutdown`, however long it takes until a majority of replicas answers: all may be started at
/// once, or one long before the others. Meanwhile everybody who asks is told.
///
/// # Errors
/// As [`bind`].
pub async fn serve(
    dir: &DataDir,
    config: &ReplicaConfig,
    node: &str,
    shutdown: Shutdown,
) -> Result<restart::Ended, ServeError> {
    let mut start = Start::new(dir, config, node).await?;
    Survivor::end_leftovers(dir).await.map_err(OpenError::from)?;
    let mut metadata = Metadata::begin(dir, config).await?;
    let mut survivor = None;
    let mut alone = Survivor::is_possible(config).then_some(ALONE);
    let parts = loop {
        let engine = metadata.engine.as_ref();
        let parts = tokio::select! {
            parts = start.patiently(&metadata.catalog, engine, &shutdown, alone) => parts,
            () = shutdown.drain.cancelled() => break None,
        };
        match parts {
            Ok(Some(parts)) => break Some(Ok(parts)),
            Ok(None) => {}
            Err(error) => break Some(Err(error)),
        }
        alone = None;
        metadata.close().await;
        survivor = start.know().await;
        metadata = match Metadata::begin(dir, config).await {
            Ok(metadata) => metadata,
            Err(error) => {
                metadata = Metadata::scratch();
                break Some(Err(error.into()));
            }
        };
    };
    if let Some(survivor) = survivor {
        if let Some(Ok(parts)) = &parts {
            start.doors.serve(parts.router.clone(), parts.local.clone());
        }
        survivor.close().await;
    }
    let (clock, engine) = (metadata.clock, metadata.engine);
    match parts {
        Some(Ok(parts)) => Ok(Serving { start, parts, clock, engine }.run(shutdown).await),
        other => {
            start.doors.stop.cancel();
            shutdown.drain.cancel();
            start.doors.ended().await;
            if let Some(engine) = engine {
                engine.stop().await;
            }
            match other {
                Some(Err(error)) => Err(error),
                _ => Ok(restart::Ended::Stopped),
            }
        }
    }
}

impl Start {
    async fn new(dir: &DataDir, config: &ReplicaConfig, node: &str) -> Result<Self, ServeError> {
        let pid_file = PidFile::claim(&dir.pid_file())?;
        let doors = Doors::bind(dir, config).await?;
        Ok(Self {
            dir: dir.clone(),
            config: config.clone(),
            node: node.to_owned(),
            pid_file,
            doors,
        })
    }

    /// The parts, as soon as the store answers. Who comes before that waits a little, and then is told why. Yields none when
    /// it did not answer for this long.
    async fn patiently(
        &mut self,
        catalog: &Catalog,
        engine: Option<&Engine>,
        shutdown: &Shutdown,
        limit: Option<Duration>,
    ) -> Result<Option<Parts>, ServeError> {
        let Some(engine) = engine else { return self.parts(catalog, None).await.map(Some) };
        let (mut patience, began) = (EARLY, Instant::now());
        loop {
            let why = match engine.ready(patience).await {
                Ok(()) => match self.parts(catalog, Some(engine)).await {
                    Ok(parts) => return Ok(Some(parts)),
                    // Lost again at this moment, or something that waiting does not mend.
                    Err(error) => match catalog.store().revision().await {
                        Err(lost) if lost.may_retry() => lost.to_string(),
                        _ => return Err(error),
                    },
                },
                Err(error) if error.may_pass() => error.to_string(),
                Err(error) => return Err(OpenError::from(error).into()),
            };
            // One that is broken itself waits in vain.
            let problem = engine.member_problem(&self.config.id);
            match &problem {
                Some(problem) => tracing::error!(error = why, "{problem}"),
                None => tracing::warn!(
                    error = why,
                    "waiting for a majority of the replicas; if this one was removed meanwhile, delete it with \"dtr \
                     destroy\"; if the others are lost for good, \"dtr emergency-repair\" makes this one a cluster of its own"
                ),
            }
            let waits = || format!("waiting for a majority of the replicas: {why}");
            self.doors.tell(self.waits(problem.unwrap_or_else(waits)));
            self.doors.open(shutdown);
            patience = PATIENCE;
            if limit.is_some_and(|limit| began.elapsed() > limit) {
                return Ok(None);
            }
        }
    }

    /// Has the doors answer from what this replica knows: content by its digest, and backups, as one does that has lost its
    /// majority while it served.
    async fn know(&self) -> Option<Survivor> {
        let why = "no majority of the replicas was there since this one was started";
        let survivor = match Survivor::open(&self.dir, &self.config, why).await {
            Ok(survivor) => survivor,
            Err(error) => {
                tracing::warn!(%error, "nothing is answered until there is a majority");
                return None;
            }
        };
        match as_known(survivor.routers(&self.dir, &self.config)).await {
            Ok((router, local)) => {
                tracing::warn!(
                    "until there is a majority, this replica answers from what it knows: pulls by digest, and backups on this machine"
                );
                self.doors.know(router, local);
                Some(survivor)
            }
            Err(error) => {
                tracing::warn!(%error, "nothing is answered until there is a majority");
                survivor.close().await;
                None
            }
        }
    }

    /// The status of a replica that waits.
    fn waits(&self, problem: String) -> serde_json::Value {
        let health = json!({ self.config.id.to_string(): problem });
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "replica_health": health,
            "replica_address": { self.config.id.to_string(): self.config.address },
            "members": [],
            "identity": "not known without the store",
            "store": { "problem": problem },
            "blob_storage": { "health": "not looked at before the store answers" },
        })
    }

    async fn parts(&self, catalog: &Catalog, engine: Option<&Engine>) -> Result<Parts, ServeError> {
        let (dir, config) = (&self.dir, &self.config);
        let (cluster, marked) = understood(catalog, dir, config).await?;
        let blobs: SharedBlobs = Arc::clone(&marked) as _;
        let Who { identity: who, built_in, remote } = identity(catalog, &cluster).await?;
        let settings = catalog.settings().await?;
        let access = Access::new(catalog.clone(), &cluster.id, Arc::clone(&who)).await?;
        let of_engine =
            |engine| Cluster::new(catalog.clone(), Arc::clone(&blobs), engine, config.id.clone());
        let members = engine.map(of_engine);
        let scheduler = Scheduler::new(catalog.clone(), Arc::clone(&blobs), config.id.clone());
        let upkeep = members.clone().map(|members| Arc::new(MembersUpkeep(members)) as _);
        let scheduler = Arc::new(scheduler.with_upkeep(upkeep));
        let health =
            Health::new(catalog.clone(), Arc::clone(&blobs), members.clone(), Arc::clone(&who));
        let registry = Registry::new(catalog.clone(), Arc::clone(&blobs), access.clone());
        let api = dtr_api::router(ApiState {
            catalog: catalog.clone(),
            blobs,
            identity: Arc::clone(&who),
            built_in: built_in.clone(),
            access: access.clone(),
            scheduler: Arc::clone(&scheduler),
            cluster: members.clone(),
            replica: config.id.clone(),
            version: env!("CARGO_PKG_VERSION"),
            reports: Arc::default(),
        });
        let own = own_routes::routes(catalog, &health, &access, &self.doors.metrics);
        let mut router = registry.router().merge(api).merge(own);
        let mut directory = remote.map(Directory::Ucp);
        let figures = built_in.as_ref().map(BuiltIn::login_figures);
        if let Some(built_in) = built_in {
            let enzi = Enzi::new(built_in.clone(), &config.address).with_accounts_alias();
            router = router.merge(dtr_enzi::router(enzi));
            let here = Directory::Here(built_in);
            here.tell(catalog, config).await?;
            directory = Some(here);
        }
        let router = fence::around(router, &marked);
        let names = follow::names(config, &settings.dtr_host)?;
        let certificate = assets::web_certificate(catalog, &names).await?;
        self.doors.tls.exchange(&certificate)?;
        self.doors.external.set(settings.dtr_host.parse().ok());
        if engine.is_some() {
            assets::remember(dir, &certificate);
        }
        let local = router.clone().layer(Extension(LocalAdmin));
        let catalog = catalog.clone();
        // Last: what fails before is tried again, and figures are told once.
        if let Some(figures) = figures {
            self.doors.metrics.register(|registry| figures.register(registry));
        }
        Ok(Parts {
            catalog,
            cluster,
            members,
            registry,
            health,
            scheduler,
            directory,
            router,
            local,
        })
    }
}

impl Serving {
    /// The addresses taken, by kind of listener.
    pub fn addresses(&self) -> HashMap<&'static str, SocketAddr> {
        self.start.doors.addresses.clone()
    }

    /// Serves until `shutdown`; then finishes what runs, flushes what is counted, and ends.
    pub async fn run(self, shutdown: Shutdown) -> restart::Ended {
        let Self { start, parts, clock, engine } = self;
        let Start { dir, config, node, pid_file, mut doors } = start;
        let Parts { catalog, cluster, members, registry, health, scheduler, directory, .. } = parts;
        let (router, mut local) = (parts.router, parts.local);
        let (background, stop) = (doors.background.clone(), doors.stop.clone());
        let newcomer = Arc::new(Notify::new());
        let clocks = Clocks {
            catalog: catalog.clone(),
            clock,
            id: config.id.clone(),
            members: members.clone(),
            newcomer: Arc::clone(&newcomer),
        };
        clocks.begin().await;
        background.spawn(clocks.run(stop.clone()));
        background.spawn({
            let stop = stop.clone();
            async move { scheduler.run(stop).await }
        });
        let report = heartbeat::report(
            catalog.clone(),
            config.clone(),
            health.clone(),
            node,
            newcomer,
            stop.clone(),
            shutdown.drain.clone(),
        );
        background.spawn(report);
        background.spawn(health.clone().leave_at(shutdown.drain.clone(), stop.clone()));
        let restarts = Arc::new(AtomicBool::new(false));
        let restarter = Restarter {
            catalog: catalog.clone(),
            id: config.id.clone(),
            members: members.clone(),
            health,
            drain: shutdown.drain.clone(),
            restarts: Arc::clone(&restarts),
        };
        local = local.merge(restart::local_routes(restarter.clone()));
        background.spawn(restarter.run(stop.clone()));
        if let Some(members) = &members {
            background.spawn(upkeep::look(members.clone(), dir.clone(), stop.clone()));
        }
        let changed = Arc::new(Notify::new());
        if let (Some(engine), Some(members)) = (&engine, &members) {
            let keeper = keeper(&dir, &config, members, engine, &changed);
            let (stop, drain) = (stop.clone(), shutdown.drain.clone());
            let restarts = Arc::clone(&restarts);
            background.spawn(async move {
                match keeper.run(stop).await {
                    Ended::Stopped => return,
                    Ended::Restart => restarts.store(true, Ordering::Release),
                    Ended::Removed => tracing::error!(
                        "this replica was removed from the cluster: it stops; delete what is left of it with \"dtr destroy\""
                    ),
                }
                drain.cancel();
            });
        }
        let follower = Follower {
            catalog: catalog.clone(),
            config: config.clone(),
            tls: doors.tls.clone(),
            external: doors.external.clone(),
            changed: Arc::clone(&changed),
            remember: engine.is_some().then(|| dir.clone()),
        };
        background.spawn(follower.run(stop.clone()));
        if let Some(directory) = directory {
            background.spawn(directory.keep_told(catalog, config.clone(), changed, stop.clone()));
        }
        doors.serve(router, local);
        doors.open(&shutdown);
        tracing::info!(replica = %config.id, cluster = %cluster.id, "serving");
        doors.ended().await;
        let restarts = restarts.load(Ordering::Acquire);
        if !restarts {
            dtr_service::notify_stopping();
        }
        stop.cancel();
        registry.shutdown().await;
        background.close();
        if tokio::time::timeout(BACKGROUND_END, background.wait()).await.is_err() {
            tracing::warn!("background work was cut off; it goes on at the next start");
        }
        if let Some(engine) = engine {
            engine.stop().await;
        }
        drop(pid_file);
        if restarts { restart::Ended::Restarts } else { restart::Ended::Stopped }
    }
}
