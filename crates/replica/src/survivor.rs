//! What a replica knows whose etcd has no majority since it was started: such an etcd answers nobody. So a copy of its data is
//! opened by an etcd of its own, which nobody else reaches, and which is only read: it is never more than what one replica
//! knew, and nothing that is written to it would be kept.

use std::{io, sync::Arc, time::Duration};

use axum::{Extension, Router};
use bytes::Bytes;
use dtr_access::{Access, LocalAdmin};
use dtr_api::ApiState;
use dtr_blobs::SharedBlobs;
use dtr_catalog::Catalog;
use dtr_cluster::{Engine, EngineError, EtcdConfig, Folder};
use dtr_jobs::Scheduler;
use dtr_registry::Registry;
use dtr_store::{
    At, KeyValue, LeaseId, Limits, Outcome, Page, Range, SharedStore, Status, Store, StoreError,
    Transaction, Watcher, together,
};
use dtr_types::{Revision, SystemClock, SystemRandom};

use crate::{
    DataDir, ReplicaConfig, ServeError, StoreConfig,
    serve::understood,
    who::{Who, identity},
};

/// How long the etcd of the copy may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Why what a replica knows cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SurvivorError {
    /// The copy.
    #[error("this replica's etcd has no majority, and its data cannot be copied to be read: {0}")]
    Copy(#[from] io::Error),
    /// Its etcd.
    #[error("this replica's etcd has no majority, and a copy of its data cannot be read: {0}")]
    Engine(#[from] EngineError),
}

/// What a replica knows.
pub(crate) struct Survivor {
    /// The records, as far as they are asked for [`together::as_known`].
    pub catalog: Catalog,
    engine: Engine,
    folder: Folder,
}

impl Survivor {
    /// Whether the replica has something to know: an etcd of its own.
    pub fn is_possible(config: &ReplicaConfig) -> bool {
        matches!(&config.store, StoreConfig::Etcd(EtcdConfig { member: Some(_), .. }))
    }

    /// Copies what the replica has. Its own etcd must not run. `why` is said to whoever wants more than what is known.
    pub async fn open(
        dir: &DataDir,
        config: &ReplicaConfig,
        why: &str,
    ) -> Result<Self, SurvivorError> {
        let StoreConfig::Etcd(etcd) = &config.store else {
            return Err(io::Error::other("it has no etcd").into());
        };
        Self::end_leftovers(dir).await?;
        let of = dir.etcd();
        let copied = tokio::task::spawn_blocking(move || of.copied_as_known()).await;
        let folder = copied.map_err(io::Error::other)??;
        let engine = match Self::engine(&folder, etcd, config).await {
            Ok(engine) => engine,
            Err(error) => {
                folder.remove()?;
                return Err(error);
            }
        };
        let known = Known { store: Arc::clone(engine.store()) as _, why: why.to_owned() };
        let catalog = Catalog::new(Arc::new(known), Arc::new(SystemClock), Arc::new(SystemRandom));
        Ok(Self { catalog, engine, folder })
    }

    async fn engine(
        folder: &Folder,
        etcd: &EtcdConfig,
        config: &ReplicaConfig,
    ) -> Result<Engine, SurvivorError> {
        let engine = Engine::open_alone(folder, etcd, &config.id).await?;
        match engine.ready(ANSWER_MAX).await {
            Ok(()) => Ok(engine),
            Err(error) => {
                engine.stop().await;
                Err(error.into())
            }
        }
    }

    /// Ends the etcd of a copy, and removes what is left of it, when the process that made it was killed.
    pub async fn end_leftovers(dir: &DataDir) -> Result<(), EngineError> {
        Engine::end_known(&dir.etcd()).await
    }

    /// What answers from it, for those who come over the network and for those who may read the data directory. It says what
    /// one says that has lost its majority while it served.
    pub async fn routers(
        &self,
        dir: &DataDir,
        config: &ReplicaConfig,
    ) -> Result<(Router, Router), ServeError> {
        let catalog = &self.catalog;
        let (cluster, blobs) = understood(catalog, dir, config).await?;
        let blobs: SharedBlobs = blobs;
        let Who { identity, built_in, .. } = identity(catalog, &cluster).await?;
        let access = Access::new(catalog.clone(), &cluster.id, Arc::clone(&identity)).await?;
        let id = config.id.clone();
        let scheduler = Scheduler::new(catalog.clone(), Arc::clone(&blobs), id.clone());
        let registry = Registry::new(catalog.clone(), Arc::clone(&blobs), access.clone());
        let api = dtr_api::router(ApiState {
            catalog: catalog.clone(),
            blobs,
            identity,
            built_in,
            access,
            scheduler: Arc::new(scheduler),
            cluster: None,
            replica: id,
            version: env!("CARGO_PKG_VERSION"),
            reports: Arc::default(),
        });
        let router = registry.router().merge(api);
        let local = router.clone().layer(Extension(LocalAdmin));
        Ok((router, local))
    }

    /// Ends its etcd and removes the copy.
    pub async fn close(self) {
        self.engine.stop().await;
        if let Err(error) = self.folder.remove() {
            tracing::warn!(%error, "a copy of etcd's data could not be removed");
        }
    }
}

/// A store that has no majority: read where what is known is enough, and else not available.
struct Known {
    store: SharedStore,
    why: String,
}

impl Known {
    fn refused<T>(&self) -> Result<T, StoreError> {
        Err(StoreError::Unavailable { reason: self.why.clone() })
    }

    fn may(&self, at: At) -> Result<(), StoreError> {
        match at {
            At::Latest if !together::is_as_known() => self.refused(),
            _ => Ok(()),
        }
    }
}

#[async_trait::async_trait]
impl Store for Known {
    fn limits(&self) -> Limits {
        self.store.limits()
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.may(At::Latest)?;
        self.store.revision().await
    }

    async fn get(&self, key: &[u8], at: At) -> Result<Option<KeyValue>, StoreError> {
        self.may(at)?;
        self.store.get(key, at).await
    }

    async fn range(&self, range: Range) -> Result<Page, StoreError> {
        self.may(range.at)?;
        self.store.range(range).await
    }

    async fn commit(&self, _: Transaction) -> Result<Outcome, StoreError> {
        self.refused()
    }

    async fn load(&self, _: Vec<(Bytes, Bytes)>) -> Result<(), StoreError> {
        self.refused()
    }

    async fn watch(&self, _: &[u8], _: &[u8], _: Revision) -> Result<Watcher, StoreError> {
        self.refused()
    }

    async fn compact(&self, _: Revision) -> Result<(), StoreError> {
        self.refused()
    }

    async fn lease_grant(&self, _: Duration) -> Result<LeaseId, StoreError> {
        self.refused()
    }

    async fn lease_keep_alive(&self, _: LeaseId) -> Result<(), StoreError> {
        self.refused()
    }

    async fn lease_revoke(&self, _: LeaseId) -> Result<(), StoreError> {
        self.refused()
    }

    async fn status(&self) -> Result<Status, StoreError> {
        self.may(At::Latest)?;
        self.store.status().await
    }
}
