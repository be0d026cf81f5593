//! When each job runs: the small duties every minute, the collector by its settings, the sweep once a day, by time that this
//! process runs. Of several replicas one does all of it, under a lock; when it dies, or its clock is found to be wrong,
//! another takes over.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use dtr_blobs::SharedBlobs;
use dtr_catalog::{Catalog, CatalogError};
use dtr_store::StoreError;
use dtr_types::{Doubt, ReplicaId};
use tokio::{sync::Mutex, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    COLLECTOR, CollectOptions, CollectReport, DUTIES, GRACE_MIN, JobError, Lock, RelinkReport,
    collect, relink, sweep, tidy,
};

/// How often it is seen how much time has passed, for what is deleted for its age.
const OBSERVE_EVERY: Duration = Duration::from_secs(15);
/// How often the small duties are done.
const TIDY_EVERY: Duration = Duration::from_secs(60);
/// How often a replica that does not do the background work looks whether nobody does.
const TAKE_EVERY: Duration = Duration::from_secs(10);
/// How often stored bytes without a record are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(24 * 3600);
/// How long history of the store stays readable for watches that lost their connection.
const HISTORY: Duration = Duration::from_secs(600);

/// How often the one who works looks whether its clock is right.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Of how many events at most they are counted with the small duties. To count reads all their keys.
const COUNTED_OFTEN_MAX: u64 = 10_000;
/// How often more of them are counted.
const COUNT_EVERY: Duration = Duration::from_secs(3600);
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
        if !dry_run {
            self.catalog.observe_again().await?;
        }
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
            if self.is_wrong() {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(TAKE_EVERY) => {}
                }
                continue;
            }
            match Lock::take(&self.catalog, DUTIES, &self.replica).await {
                Ok(Ok(lock)) => {
                    tracing::info!("this replica does the background work");
                    tokio::select! {
                        () = self.found_wrong() => {
                            tracing::warn!(
                                "the background work is left to another replica: the clock of this one is wrong"
                            );
                            lock.release().await;
                        }
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

    /// Whether this replica's clock is the wrong one of several.
    fn is_wrong(&self) -> bool {
        self.catalog.clock().doubt().as_ref().is_some_and(Doubt::is_wrong)
    }

    /// Returns when it is.
    async fn found_wrong(&self) {
        while !self.is_wrong() {
            tokio::time::sleep(LOOK_EVERY).await;
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
        let mut tidied = Instant::now();
        let (mut collected, mut swept) = (tidied, tidied);
        // When events were last counted.
        let mut counted = None;
        loop {
            if let Err(error) = self.catalog.observe().await {
                tracing::warn!(%error, "that time passes was not written down: nothing becomes old meanwhile");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(OBSERVE_EVERY) => {}
            }
            if tidied.elapsed() < TIDY_EVERY {
                continue;
            }
            tidied = Instant::now();
            if let Err(error) = self.tidy_once(&mut counted).await {
                tracing::warn!(%error, "the small duties were not finished; they go on in a minute");
            }
            let Ok(settings) = self.catalog.settings().await else { continue };
            let every = Duration::from_secs(settings.gc_interval_seconds.max(60));
            if settings.gc_enabled && collected.elapsed() >= every {
                collected = Instant::now();
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
            if settings.gc_enabled && swept.elapsed() >= SWEEP_EVERY {
                let before = std::mem::replace(&mut swept, Instant::now());
                let grace = Duration::from_secs(settings.gc_grace_seconds).max(2 * HISTORY);
                match self.alone(sweep(&self.catalog, &*self.blobs, grace, false)).await {
                    Ok(report) => tracing::info!(
                        stored = report.stored,
                        removed = report.removed,
                        relinked = report.relinked,
                        "swept the blob storage"
                    ),
                    // In a minute it may have ended, or the clock be right.
                    Err(JobError::Busy { .. } | JobError::Clock(_)) => swept = before,
                    Err(error) => tracing::warn!(%error, "the sweep stopped early"),
                }
            }
        }
    }

    async fn tidy_once(&self, counted: &mut Option<Instant>) -> Result<(), JobError> {
        let keep_from = self.catalog.ages().await?.older_than(HISTORY);
        let mut settings = self.catalog.settings().await?;
        if settings.repo_event_history_to_keep > COUNTED_OFTEN_MAX {
            if counted.is_some_and(|at| at.elapsed() < COUNT_EVERY) {
                settings.repo_event_history_to_keep = 0;
            } else {
                *counted = Some(Instant::now());
            }
        }
        let report = tidy(&self.catalog, &*self.blobs, &settings, keep_from).await?;
        if report.uploads + report.repositories + report.manifests + report.events + report.tags > 0
        {
            tracing::info!(?report, "tidied");
        }
        Ok(())
    }
}
