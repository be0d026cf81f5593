//! What only one replica does at a time: a record under a lease. Nothing depends on it but that work is not done twice:
//! every job is safe beside another of its kind (`jobs/tests/collector` has two collectors at once), so a lock that was
//! lost without being noticed loses nothing.

use std::time::Duration;

use dtr_catalog::{Catalog, encode, keys, records::LockRecord};
use dtr_store::{LeaseId, StoreError, Transaction};
use dtr_types::ReplicaId;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::JobError;

/// The lock of whoever does the background work.
pub const DUTIES: &str = "duties";
/// The lock of the collector.
pub const COLLECTOR: &str = "collector";

/// The lock of the replica that restarts.
pub const RESTART: &str = "restart";

/// How long a lock outlives a replica that died.
const TTL: Duration = Duration::from_secs(30);
/// How often its lease is extended.
const EXTEND: Duration = Duration::from_secs(8);

/// A lock that is held until it is released, dropped, or lost.
pub struct Lock {
    catalog: Catalog,
    lease: LeaseId,
    lost: CancellationToken,
    /// Ends the extensions.
    _extended: DropGuard,
}

impl Lock {
    /// Takes a lock, or says who has it. One that the same replica had before it died is taken over.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn take(
        catalog: &Catalog,
        name: &str,
        holder: &ReplicaId,
    ) -> Result<Result<Self, LockRecord>, JobError> {
        let key = keys::lock(name);
        let lease = catalog.store().lease_grant(TTL).await?;
        loop {
            let found = catalog.get(&key).await?;
            let take = match &found {
                Some(found) if found.value.holder != *holder => {
                    // It ends by itself if this does not work.
                    drop(catalog.store().lease_revoke(lease).await);
                    return Ok(Err(found.value.clone()));
                }
                Some(own) => Transaction::new().if_modified_at(&key, own.modified),
                None => Transaction::new().if_absent(key.clone()),
            };
            let record =
                LockRecord { name: name.to_owned(), holder: holder.clone(), since: catalog.now() };
            let take = take.put_leased(key.clone(), encode(&record)?, lease);
            if catalog.commit(take).await?.committed().is_some() {
                break;
            }
        }
        let (stop, lost) = (CancellationToken::new(), CancellationToken::new());
        tokio::spawn(extend(catalog.clone(), lease, stop.clone(), lost.clone()));
        let _extended = stop.drop_guard();
        Ok(Ok(Self { catalog: catalog.clone(), lease, lost, _extended }))
    }

    /// Returns when somebody else may have it.
    pub async fn lost(&self) {
        self.lost.cancelled().await;
    }

    /// Leaves it to the next process of the same replica, which takes it over before it ends by itself.
    pub fn hand_over(self) {
        self._extended.disarm();
    }

    /// Gives it up at once.
    pub async fn release(self) {
        // It ends by itself if this does not work.
        drop(self.catalog.store().lease_revoke(self.lease).await);
    }
}

/// Extends the lease until `stop`; cancels `lost` when it ended, or may have.
async fn extend(
    catalog: Catalog,
    lease: LeaseId,
    stop: CancellationToken,
    lost: CancellationToken,
) {
    let mut extended = tokio::time::Instant::now();
    loop {
        tokio::select! {
            () = stop.cancelled() => {
                // Whoever held it has gone on or away; the others need not wait.
                drop(catalog.store().lease_revoke(lease).await);
                return;
            }
            () = tokio::time::sleep(EXTEND) => {}
        }
        match catalog.store().lease_keep_alive(lease).await {
            Ok(()) => extended = tokio::time::Instant::now(),
            Err(StoreError::LeaseNotFound) => return lost.cancel(),
            Err(error) => {
                tracing::debug!(%error, "a lock was not extended");
                if extended.elapsed() + EXTEND >= TTL {
                    return lost.cancel();
                }
            }
        }
    }
}
