//! Opening the metadata of a replica, in whichever engine it is, and closing it again.

use std::{path::PathBuf, sync::Arc, time::Duration};

use dtr_catalog::Catalog;
use dtr_cluster::{Engine, EngineError};
use dtr_store::{SharedStore, StoreError};
use dtr_store_embedded::EmbeddedStore;
use dtr_types::{SystemClock, SystemRandom, WatchedClock};

use crate::{DataDir, ReplicaConfig, StoreConfig};

/// How long a command waits for a majority of etcd's members.
pub(crate) const MAJORITY_MAX: Duration = Duration::from_secs(30);

/// Why metadata cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The embedded store.
    #[error("the store in {path} cannot be opened: {source}")]
    Embedded {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// etcd.
    #[error(transparent)]
    Etcd(#[from] EngineError),
}

/// Metadata that is open.
pub struct Metadata {
    /// The records.
    pub catalog: Catalog,
    /// The clock that they go by.
    pub(crate) clock: Arc<WatchedClock>,
    /// What keeps etcd running, when it is that.
    pub(crate) engine: Option<Engine>,
}

impl Metadata {
    fn new(store: SharedStore, engine: Option<Engine>) -> Self {
        let clock = Arc::new(WatchedClock::new(Arc::new(SystemClock)));
        let catalog = Catalog::new(store, Arc::clone(&clock) as _, Arc::new(SystemRandom));
        Self { catalog, clock, engine }
    }

    /// Opens what the configuration names; with etcd, waits until a majority answers.
    pub(crate) async fn open(dir: &DataDir, config: &ReplicaConfig) -> Result<Self, OpenError> {
        let metadata = Self::begin(dir, config).await?;
        metadata.ready(MAJORITY_MAX).await?;
        Ok(metadata)
    }

    /// Waits until a majority answers, where there is one to be asked.
    pub(crate) async fn ready(&self, limit: Duration) -> Result<(), EngineError> {
        match &self.engine {
            Some(engine) => engine.ready(limit).await,
            None => Ok(()),
        }
    }

    /// The same without the wait.
    pub(crate) async fn begin(dir: &DataDir, config: &ReplicaConfig) -> Result<Self, OpenError> {
        match &config.store {
            StoreConfig::Embedded => Self::embedded(dir),
            StoreConfig::Etcd(etcd) => {
                let engine = Engine::open(&dir.etcd(), etcd, &config.id).await?;
                let store: SharedStore = Arc::clone(engine.store()) as _;
                Ok(Self::new(store, Some(engine)))
            }
        }
    }

    /// Opens the embedded engine's file, which needs no configuration.
    pub(crate) fn embedded(dir: &DataDir) -> Result<Self, OpenError> {
        let path = dir.store_file();
        let store = EmbeddedStore::open(&path, dtr_store_embedded::Options::default())
            .map_err(|source| OpenError::Embedded { path, source })?;
        Ok(Self::new(store, None))
    }

    /// A store in memory, for looking only.
    pub(crate) fn scratch() -> Self {
        Self::new(EmbeddedStore::in_memory(), None)
    }

    /// Ends what runs for it.
    pub async fn close(self) {
        if let Some(engine) = self.engine {
            engine.stop().await;
        }
    }
}
