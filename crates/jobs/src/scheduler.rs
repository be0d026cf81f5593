//! When each job runs: the small duties every minute, the collector by its settings, the sweep once a day. Of several
//! replicas one does all of it, under a lock; when it dies, another takes over.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use async_trait::async_trait;
use dtr_blobs::SharedBlobs;
use dtr_catalog::{Catalog, CatalogError};
use dtr_store::StoreError;
use dtr_types::{ReplicaId, Revision, Timestamp};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::{
    COLLECTOR, CollectOptions, CollectReport, DUTIES, GRACE_MIN, JobError, Lock, RelinkReport,
    collect, relink, sweep, tidy,
};

/// How often the small duties are done.
const TIDY_EVERY: Duration = Duration::from_secs(60);
/// How often a replica that does not do the background work looks whether nobody does.
const TAKE_EVERY: Duration = Duration::from_secs(10);
/// How often stored bytes without a record are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(24 * 3600);
/// How long history of the store stays readable for watches that lost their connection.
const HISTORY: Duration = Duration::from_secs(600);

/// How often the files of the store are looked at.
const UPKEEP_EVERY: Duration = Duration::from_secs(10);

/// What a store needs besides its records being tidied: its files, its quota. Done by one replica of the cluster.
#[async_trait]
pub trait Upkeep: Send + Sync {
    /// Does what is needed now; says in the log what did not work.
    async fn keep_up(&self);
    /// Whether this replica does it when nobody can take the lock for it, as nothing can be written.
    async fn is_chosen(&self) -> bool;
}

/// Runs the jobs of one cluster, one at a time.
pub struct Scheduler {
    catalog: Catalog,
    blobs: SharedBlobs,
    replica: ReplicaId,
    /// One run of the collector at a time, by schedule or by hand.
    running: Mutex<()>,
    upkeep: Option<Arc<dyn Upkeep>>,
}

impl std::fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scheduler")
    }
}

impl Scheduler {
    /// For a catalog and its blob storage, on a replica.
    pub fn new(catalog: Catalog, blobs: SharedBlobs, replica: ReplicaId) -> Self {
        Self { catalog, blobs, replica, running: Mutex::new(()), upkeep: None }
    }

    /// The same for a store that needs upkeep.
    #[must_use]
    pub fn with_upkeep(self, upkeep: Option<Arc<dyn Upkeep>>) -> Self {
        Self { upkeep, ..self }
    }

    /// Collects now, with the grace period of the settings: for `dtr gc`. A dry run changes nothing, so it takes no lock, and
    /// answers also where nothing can be written.
    ///
    /// # Errors
    /// [`JobError::Busy`] when another replica does.
    pub async fn collect_now(&self, dry_run: bool) -> Result<CollectReport, JobError> {
        let settings = self.catalog.settings().await?;
        let grace = Duration::from_secs(settings.gc_grace_seconds).max(GRACE_MIN);
        let work = collect(&self.catalog, &*self.blobs, CollectOptions { grace, dry_run });
        if dry_run { work.await } else { self.alone(work).await }
    }

    /// Looks for content that came back, now.
    ///
    /// # Errors
    /// [`JobError::Busy`] while another replica collects; when the store or the storage fails.
    pub async fn relink_now(&self, dry_run: bool) -> Result<RelinkReport, JobError> {
        self.alone(relink(&self.catalog, &*self.blobs, dry_run)).await
    }

    /// Does what only one replica does at a time, for as long as it has the lock.
    async fn alone<T>(
        &self,
        work: impl Future<Output = Result<T, JobError>>,
    ) -> Result<T, JobError> {
        let _one = self.running.lock().await;
        let only = match Lock::take(&self.catalog, COLLECTOR, &self.replica).await? {
            Ok(lock) => lock,
            Err(other) => return Err(JobError::Busy { holder: other.holder, since: other.since }),
        };
        tokio::select! {
            done = work => done,
            () = only.lost() => Err(JobError::Lost),
        }
    }

    /// Runs until `stop`. An error is logged and the job tried again at its next time.
    pub async fn run(&self, stop: CancellationToken) {
        loop {
            match Lock::take(&self.catalog, DUTIES, &self.replica).await {
                Ok(Ok(lock)) => {
                    tracing::info!("this replica does the background work");
                    tokio::select! {
                        () = lock.lost() => {
                            tracing::warn!("the background work is left to whoever takes it now");
                        }
                        () = self.keep_up() => {}
                        () = self.work(&stop) => return lock.release().await,
                    }
                }
                Ok(Err(_)) => {}
                Err(JobError::Catalog(CatalogError::Store(StoreError::Full { .. }))) => {
                    // Nobody can take the lock until there is room.
                    if let Some(upkeep) = &self.upkeep
                        && upkeep.is_chosen().await
                    {
                        upkeep.keep_up().await;
                    }
                }
                Err(error) => tracing::debug!(%error, "who does the background work is not known"),
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(TAKE_EVERY) => {}
            }
        }
    }

    /// Looks after the files of the store, for as long as it is polled.
    async fn keep_up(&self) {
        let Some(upkeep) = &self.upkeep else { return std::future::pending().await };
        loop {
            upkeep.keep_up().await;
            tokio::time::sleep(UPKEEP_EVERY).await;
        }
    }

    /// Does all of it until `stop`.
    async fn work(&self, stop: &CancellationToken) {
        // Revisions with the time at which each was the latest: to know how far history may be forgotten.
        let mut revisions: VecDeque<(Timestamp, Revision)> = VecDeque::new();
        let mut collected_at = self.catalog.now();
        let mut swept_at = self.catalog.now();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(TIDY_EVERY) => {}
            }
            let now = self.catalog.now();
            if let Err(error) = self.tidy_once(&mut revisions, now).await {
                tracing::warn!(%error, "the small duties were not finished; they go on in a minute");
            }
            let Ok(settings) = self.catalog.settings().await else { continue };
            let every = Duration::from_secs(settings.gc_interval_seconds.max(60));
            if settings.gc_enabled && now.since(collected_at) >= every {
                collected_at = now;
                match self.collect_now(false).await {
                    Ok(report) => tracing::info!(
                        removed = report.removed,
                        freed_bytes = report.freed_bytes,
                        candidates = report.candidates,
                        "collected"
                    ),
                    Err(error) => tracing::warn!(%error, "the collector stopped early"),
                }
            }
            if settings.gc_enabled && now.since(swept_at) >= SWEEP_EVERY {
                let before = std::mem::replace(&mut swept_at, now);
                let grace = Duration::from_secs(settings.gc_grace_seconds).max(2 * HISTORY);
                match self.alone(sweep(&self.catalog, &*self.blobs, grace, false)).await {
                    Ok(report) => tracing::info!(
                        stored = report.stored,
                        removed = report.removed,
                        relinked = report.relinked,
                        "swept the blob storage"
                    ),
                    // In a minute it may have ended.
                    Err(JobError::Busy { .. }) => swept_at = before,
                    Err(error) => tracing::warn!(%error, "the sweep stopped early"),
                }
            }
        }
    }

    async fn tidy_once(
        &self,
        revisions: &mut VecDeque<(Timestamp, Revision)>,
        now: Timestamp,
    ) -> Result<(), JobError> {
        revisions.push_back((now, self.catalog.store().revision().await?));
        let mut keep_from = Revision::ZERO;
        while let Some((at, revision)) = revisions.front().copied() {
            if now.since(at) < HISTORY {
                break;
            }
            keep_from = revision;
            revisions.pop_front();
        }
        let settings = self.catalog.settings().await?;
        let report = tidy(&self.catalog, &*self.blobs, &settings, keep_from).await?;
        if report.uploads + report.repositories + report.manifests + report.events + report.tags > 0
        {
            tracing::info!(?report, "tidied");
        }
        Ok(())
    }
}
