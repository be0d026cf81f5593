//! Background work. Every job is a reconciler: it compares what is with what should be, mends the difference, reports,
//! and takes no input from whoever woke it, so that going on after a crash is the normal path.
//!
//! - [`collect`]: content that nothing refers to, the collector.
//! - [`sweep`]: bytes that no record speaks of, found by reading the whole blob storage; rarely needed.
//! - [`relink`]: content that manifests need and that came back to the storage.
//! - [`tidy`]: unfinished deletions, expired uploads and sessions, old events, history of the store.
//! - [`Upkeep`]: the files of a store that several replicas share.
//! - [`Scheduler`]: when each runs, and on which replica ([`Lock`]).

mod collector;
mod lock;
mod orphans;
mod recheck;
mod relink;
mod scheduler;
mod tidy;

pub use collector::{CollectOptions, CollectReport, GRACE_MIN, collect};
pub use lock::{COLLECTOR, DUTIES, Lock, RESTART};
pub use orphans::{SweepReport, sweep};
pub use relink::{RelinkReport, relink};
pub use scheduler::{Scheduler, Upkeep};
pub use tidy::{TidyReport, tidy};

/// Why a job stopped before its end. It goes on at its next run.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The catalog failed.
    #[error(transparent)]
    Catalog(#[from] dtr_catalog::CatalogError),
    /// Another replica does the same just now.
    #[error("replica {holder} collects since {since}: wait until it has ended")]
    Busy {
        /// Which.
        holder: dtr_types::ReplicaId,
        /// Since when.
        since: dtr_types::Timestamp,
    },
    /// Nothing is deleted while this replica's clock is not to be relied on.
    #[error("nothing is collected here at this moment: {0}")]
    Clock(dtr_types::Doubt),
    /// It took so long to reach the store that another replica may have begun.
    #[error("the lock was lost: another replica goes on with it")]
    Lost,
    /// The blob storage failed.
    #[error(transparent)]
    Blobs(#[from] dtr_blobs::BlobError),
}

impl From<dtr_store::StoreError> for JobError {
    fn from(error: dtr_store::StoreError) -> Self {
        Self::Catalog(error.into())
    }
}
