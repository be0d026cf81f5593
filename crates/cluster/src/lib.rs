//! Replicas as members of one cluster. Each runs an etcd of its own, or all are given one that is there; this room knows
//! how it is started and reached, whose certificates are good, and how replicas come in and go. Who may ask for that is
//! decided above; what is kept in the store, below.
//!
//! ```text
//! the first        Identity::found ─▶ Engine::open ─▶ the store is filled, with Founded::records
//! the others       JoinRequest ─▶ Cluster::admit, on a replica ─▶ Admission ─▶ Identity::of_admission ─▶ Engine::open
//! each, serving    Keeper::run: votes when it has caught up, renews its certificate, heeds what was taken back
//! a loss           Cluster::remove, on a replica that has the majority
//! ```

mod admit;
mod config;
mod engine;
mod folder;
mod format;
mod identity;
mod keep;
mod members;
mod others;
mod peers;
mod pending;
mod remove;
mod upkeep;

pub use admit::{Admission, JoinRequest, MemberAddress, Probe, REPLICAS_MAX};
pub use config::{CLIENT_PORT, EtcdConfig, MemberConfig, PEER_PORT, url_host};
pub use engine::{Engine, EngineError};
pub use folder::Folder;
pub use format::{Raise, raise};
pub use identity::{AUTHORITY, Founded, Identity};
pub use keep::{Ended, Keeper, News};
pub use others::against_going_alone;
pub use peers::{Look, Peers, REPORT_LATE};
pub use remove::{Removal, strike_restart};

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use dtr_blobs::{BlobError, SharedBlobs};
use dtr_catalog::{Catalog, CatalogError};
use dtr_store_etcd::{AdminError, EtcdStore, MemberFacts, MemberStatus};
use dtr_transport::pki::PkiError;
use dtr_types::ReplicaId;

/// Why a replica does not come in, or does not go.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// What the asker wants cannot be; nothing was changed.
    #[error("{0}")]
    Refused(String),
    /// The store has no authority for replicas.
    #[error(
        "the cluster's authority for replicas is missing from the store; back the registry up and restore it"
    )]
    NoAuthority,
    /// The catalog failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// etcd failed.
    #[error("etcd: {0}")]
    Etcd(#[from] AdminError),
    /// A certificate cannot be made.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The blob storage failed.
    #[error(transparent)]
    Storage(#[from] BlobError),
}

impl ClusterError {
    fn refused(why: impl Into<String>) -> Self {
        Self::Refused(why.into())
    }
}

/// The cluster as one of its replicas works on it.
#[derive(Clone)]
pub struct Cluster {
    catalog: Catalog,
    blobs: SharedBlobs,
    store: Arc<EtcdStore>,
    here: ReplicaId,
    /// Whether replicas run etcd themselves.
    own_members: bool,
    /// How large the file of a member may become, in bytes; not known of an etcd that was given.
    quota: Option<u64>,
    trouble: Arc<Mutex<Option<String>>>,
    saved_quota: Arc<Mutex<Option<u64>>>,
    /// Whether this replica is not among the members.
    outside: Arc<AtomicBool>,
    peers: Peers,
    seen: members::Seen,
    member_trouble: members::Troubles,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cluster({})", self.here)
    }
}

/// A member of etcd, and how it is.
#[derive(Clone, Debug)]
pub struct MemberView {
    /// As etcd knows it.
    pub facts: MemberFacts,
    /// Why it does not answer; `None` when it does.
    pub problem: Option<String>,
    /// Whether it leads.
    pub leader: bool,
    /// What it says of itself, when it answers.
    pub status: Option<MemberStatus>,
}

impl MemberView {
    /// Where it is reached.
    fn url(&self) -> Option<&str> {
        self.facts.client_urls.first().map(String::as_str)
    }
}

impl Cluster {
    /// As the replica `here` sees it.
    pub fn new(catalog: Catalog, blobs: SharedBlobs, engine: &Engine, here: ReplicaId) -> Self {
        let (store, own_members) = (Arc::clone(engine.store()), engine.has_member());
        let (quota, trouble, outside) = (engine.quota(), Arc::default(), Arc::default());
        Self {
            catalog,
            blobs,
            store,
            here,
            own_members,
            quota,
            trouble,
            saved_quota: Arc::default(),
            outside,
            peers: Peers::default(),
            seen: Arc::default(),
            member_trouble: engine.member_trouble(),
        }
    }

    /// What was seen of the other replicas.
    pub fn peers(&self) -> &Peers {
        &self.peers
    }

    /// Why this replica does not count for any majority although it answers; `None` when it does.
    pub fn outside(&self) -> Option<String> {
        self.outside.load(Ordering::Acquire).then(|| {
            "this replica is not among the members of etcd: it did not start in time after it was let in, and another took \
             its place. It asks to be let in again by itself, which takes until the other votes"
                .to_owned()
        })
    }

    /// Whether this replica's member votes; true of one that runs none.
    ///
    /// # Errors
    /// When the members cannot be listed.
    pub async fn votes(&self) -> Result<bool, ClusterError> {
        let own = member_name(&self.here);
        let members = self.store.members().list().await?;
        let votes = |member: &MemberFacts| member.name == own && !member.learner;
        Ok(!self.own_members || members.iter().any(votes))
    }

    /// Whether replicas run etcd's members, so that what members can bear is their affair.
    pub fn runs_members(&self) -> bool {
        self.own_members
    }

    /// The members of etcd, each asked how it is.
    ///
    /// # Errors
    /// When the list cannot be had.
    pub async fn members(&self) -> Result<Vec<MemberView>, ClusterError> {
        let members = self.store.members().list().await?;
        let maintenance = self.store.maintenance();
        let asked = members.into_iter().map(async |facts| {
            let Some(url) = facts.client_urls.first().cloned() else {
                let problem = Some("it has not started yet".to_owned());
                return MemberView { facts, problem, leader: false, status: None };
            };
            match maintenance.status(&url).await {
                Ok(status) => {
                    let leader = status.leader == Some(facts.id);
                    MemberView { facts, problem: None, leader, status: Some(status) }
                }
                Err(error) => {
                    let problem = Some(error.to_string());
                    MemberView { facts, problem, leader: false, status: None }
                }
            }
        });
        Ok(futures_util::future::join_all(asked).await)
    }
}

/// The name of a replica's member.
pub fn member_name(id: &ReplicaId) -> String {
    format!("dtr-{id}")
}

/// How many of so many must agree.
pub const fn majority(members: usize) -> usize {
    members / 2 + 1
}
