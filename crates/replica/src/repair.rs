//! When the majority is lost for good: one survivor becomes a cluster of its own. It makes sure first that the others are
//! lost, says what it has (by way of a copy, since an etcd without a majority does not answer) and since when it was alone;
//! the others are kept from coming back as members by a new authority, which does not know them.

use std::{sync::Arc, time::Duration};

use dtr_catalog::{Catalog, CatalogError, keys, records::ReplicaRecord};
use dtr_cluster::{Engine, EngineError, EtcdConfig, Identity};
use dtr_store::{SharedStore, StoreError, Transaction};
use dtr_transport::pki::PkiError;
use dtr_types::{Clock as _, ReplicaId, Revision, SystemClock, SystemRandom, Timestamp};

use crate::{ConfigError, DataDir, ReplicaConfig, StoreConfig, mark::Place};

/// How long the member may take to answer after its start.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Why a replica cannot be repaired.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// Its configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// There is nothing to repair.
    #[error("{0}")]
    Needless(String),
    /// It could not be stopped.
    #[error(transparent)]
    Service(#[from] dtr_service::ServiceError),
    /// Its etcd.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// What it has.
    #[error("what this replica has cannot be read: {0}")]
    Store(#[from] StoreError),
    /// Its records.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// Its certificates.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// Its blob storage, which the others must leave alone from now on.
    #[error(transparent)]
    Storage(#[from] crate::MarkError),
    /// Its files.
    #[error("the files of this replica's etcd cannot be copied or written: {0}")]
    Files(#[from] std::io::Error),
}

/// What a survivor has.
#[derive(Clone, Debug)]
pub struct Alone {
    /// The survivor.
    pub id: ReplicaId,
    /// The last revision that it has. What the others acknowledged after it is lost.
    pub revision: Revision,
    /// When the survivor last reported with a majority behind it.
    pub since: Option<Timestamp>,
    /// The others, as it last heard of them.
    pub others: Vec<ReplicaRecord>,
}

fn etcd(dir: &DataDir) -> Result<(ReplicaConfig, EtcdConfig), RepairError> {
    let config = ReplicaConfig::load(dir)?;
    match &config.store {
        StoreConfig::Etcd(etcd) if etcd.member.is_some() => Ok((config.clone(), etcd.clone())),
        StoreConfig::Etcd(_) => Err(RepairError::Needless(
            "this replica uses an etcd that was given to it: repair that, as etcd's documentation says".to_owned(),
        )),
        StoreConfig::Embedded => Err(RepairError::Needless(
            "this replica has a store of its own: there is no majority to lose".to_owned(),
        )),
    }
}

/// Looks at what a replica has whose cluster has lost the majority, and says so. The replica is stopped; nothing that it
/// has is changed.
///
/// # Errors
/// [`RepairError`]; [`RepairError::Needless`], and it is not stopped, when the others, or enough of them, answer.
pub async fn survey(dir: &DataDir) -> Result<Alone, RepairError> {
    let (config, etcd) = etcd(dir)?;
    if crate::is_ready(dir).await {
        return Err(RepairError::Needless(
            "the majority of the replicas answers: nothing is to be repaired; remove dead replicas with \"dtr remove\""
                .to_owned(),
        ));
    }
    none_is_left(dir, &etcd).await?;
    crate::stop(dir).await?;
    Engine::end_leftovers(&dir.etcd()).await?;
    let folder = dir.etcd().copied()?;
    let engine = Engine::open_alone(&folder, &etcd, &config.id).await?;
    let looked = look(&engine, &config).await;
    engine.stop().await;
    folder.remove_data()?;
    looked
}

/// Refuses while others live with whom there is a majority: one that goes on alone beside them would serve the same storage
/// from another store. That this replica is not well, or does not run, says nothing of them.
async fn none_is_left(dir: &DataDir, etcd: &EtcdConfig) -> Result<(), RepairError> {
    match dtr_cluster::against_going_alone(&dir.etcd(), etcd).await? {
        Some(why) => Err(RepairError::Needless(why)),
        None => Ok(()),
    }
}

async fn look(engine: &Engine, config: &ReplicaConfig) -> Result<Alone, RepairError> {
    engine.ready(ANSWER_MAX).await?;
    let catalog = catalog(engine);
    let revision = catalog.store().revision().await?;
    let (own, others): (Vec<_>, Vec<_>) =
        catalog.replicas().await?.into_iter().partition(|record| record.id == config.id);
    let since = own.first().map(|record| record.reported_at);
    Ok(Alone { id: config.id.clone(), revision, since, others })
}

fn catalog(engine: &Engine) -> Catalog {
    let store: SharedStore = Arc::clone(engine.store()) as _;
    Catalog::new(store, Arc::new(SystemClock), Arc::new(SystemRandom))
}

/// Makes the survivor a cluster of one. It is not started.
///
/// # Errors
/// [`RepairError`]. Run again, it goes on.
pub async fn repair(dir: &DataDir, alone: &Alone) -> Result<Revision, RepairError> {
    let (mut config, etcd) = etcd(dir)?;
    // The answer to the question may have taken a while.
    none_is_left(dir, &etcd).await?;
    let engine = Engine::open_alone(&dir.etcd(), &etcd, &config.id).await?;
    let done = go_alone(&engine, dir, &mut config, etcd, alone).await;
    engine.stop().await;
    done
}

async fn go_alone(
    engine: &Engine,
    dir: &DataDir,
    config: &mut ReplicaConfig,
    mut etcd: EtcdConfig,
    alone: &Alone,
) -> Result<Revision, RepairError> {
    engine.ready(ANSWER_MAX).await?;
    let catalog = catalog(engine);
    // First of all: without its content the survivor is of no use, and the others may still run.
    if let Some(cluster) = catalog.cluster().await? {
        let place = Place { dir, storage: &config.storage, cluster: &cluster.id };
        place.take_over(&catalog).await?;
    }
    // Who was to restart beside others is alone now.
    let mut gone = Transaction::new().delete(keys::restart());
    for other in &alone.others {
        gone = gone.delete(keys::replica(&other.id));
    }
    catalog.commit(gone).await?;
    let Some(member) = &mut etcd.member else { return Ok(alone.revision) };
    let founded = Identity::found(&config.id, &member.host, SystemClock.now())?;
    for record in founded.records(catalog.now()) {
        catalog.put(&record).await?;
    }
    let revision = catalog.store().revision().await?;
    // It begins with them; should this end between the two, it is told by its own authority at its next start where it is.
    dir.etcd().write(&founded.identity)?;
    member.joined.clear();
    etcd.endpoints.clear();
    config.store = StoreConfig::Etcd(etcd);
    config.save(dir)?;
    Ok(revision)
}
