//! Whether this replica can do its work: for `/_ping`, and for the record by which the others see it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Json,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use dtr_blobs::SharedBlobs;
use dtr_catalog::Catalog;
use dtr_cluster::Cluster;
use dtr_identity::Identity;
use serde_json::json;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

/// How long an answer is used again: a check writes to the blob storage, and `/_ping` is open to everybody.
const REMEMBERED: Duration = Duration::from_secs(2);
/// How long a check may take.
const CHECK_MAX: Duration = Duration::from_secs(5);

/// When it was checked, what was wrong then, and why content was refused.
type Checked = (Instant, Option<String>, Option<String>);

/// Checks what a replica needs: its store and its blob storage. That a UCP is away, or does not know the registry any more,
/// is no reason to send clients elsewhere: pulls with tokens that are out go on without it, and the other replicas are no
/// better off.
#[derive(Clone)]
pub(crate) struct Health {
    catalog: Catalog,
    blobs: SharedBlobs,
    last: Arc<Mutex<Option<Checked>>>,
    /// The last words on the blob storage.
    told: Arc<parking_lot::Mutex<Option<String>>>,
    cluster: Option<Cluster>,
    identity: Arc<dyn Identity>,
    leaving: Arc<AtomicBool>,
}

impl Health {
    pub fn new(
        catalog: Catalog,
        blobs: SharedBlobs,
        cluster: Option<Cluster>,
        identity: Arc<dyn Identity>,
    ) -> Self {
        let (last, told, leaving) = (Arc::default(), Arc::default(), Arc::default());
        Self { catalog, blobs, last, told, cluster, identity, leaving }
    }

    /// From here on `/_ping` sends new work elsewhere; what comes nevertheless is done.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Release);
    }

    /// Takes that back.
    pub fn stay(&self) {
        self.leaving.store(false, Ordering::Release);
    }

    /// Leaves when `ending` says so.
    pub async fn leave_at(self, ending: CancellationToken, stop: CancellationToken) {
        tokio::select! {
            () = ending.cancelled() => self.leave(),
            () = stop.cancelled() => {}
        }
    }

    /// `None` when all is well, else what is wrong.
    pub async fn problem(&self) -> Option<String> {
        let mut last = self.last.lock().await;
        if let Some((at, problem, _)) = &*last
            && at.elapsed() < REMEMBERED
        {
            return problem.clone();
        }
        let (problem, full) = match tokio::time::timeout(CHECK_MAX, self.check()).await {
            Ok(checked) => checked,
            Err(_) => (Some("the storage does not answer".to_owned()), None),
        };
        *last = Some((Instant::now(), problem.clone(), full));
        problem
    }

    /// Why content is refused although this replica is well.
    async fn full(&self) -> Option<String> {
        let etcd = self.cluster.as_ref().and_then(Cluster::trouble);
        let known = self.last.lock().await.as_ref().and_then(|(_, _, full)| full.clone());
        etcd.or(known)
    }

    async fn check(&self) -> (Option<String>, Option<String>) {
        if let Err(error) = self.catalog.store().revision().await {
            let problem = match &self.cluster {
                Some(_) => format!("store: {}", Cluster::unavailable(&error)),
                None => format!("store: {error}"),
            };
            return (Some(problem), None);
        }
        if let Some(problem) = self.cluster.as_ref().and_then(Cluster::outside) {
            return (Some(problem), None);
        }
        let dtr_blobs::Health { problem, detail, full, .. } = self.blobs.health().await;
        let problem = problem.map(|problem| format!("blob storage: {problem}"));
        // At length in the log alone, and once: `/_ping` is open to everybody.
        let is_new = *self.told.lock() != problem;
        if is_new {
            match detail {
                Some(detail) => tracing::error!("the blob storage is not well: {detail}"),
                None => tracing::info!("the blob storage is well again"),
            }
            self.told.lock().clone_from(&problem);
        }
        let store = match self.cluster {
            // Of etcd it is told by the cluster, and costs a question.
            Some(_) => None,
            None => self.catalog.store().status().await.ok().and_then(|status| status.full),
        };
        let store = store.map(|full| format!("store: pushes are refused: {full}"));
        let full = full.map(|full| format!("blob storage: pushes are refused: {full}"));
        (problem, store.or(full))
    }

    /// `GET /_ping`, as the original answers it; and 404 from a replica that leaves. Load balancers must tell that from one
    /// that is not well: what runs here is finished (haproxy: `disable-on-404`).
    pub async fn ping(&self) -> Response {
        let (status, problem) = if self.leaving.load(Ordering::Acquire) {
            let why = "this replica is about to stop or restart: it finishes what runs";
            (StatusCode::NOT_FOUND, Some(why.to_owned()))
        } else {
            match self.problem().await {
                None => (StatusCode::OK, None),
                problem => (StatusCode::SERVICE_UNAVAILABLE, problem),
            }
        };
        let healthy = problem.is_none();
        // What is refused to those who write is no reason to send those who read away.
        let trouble = match problem {
            Some(problem) => Some(problem),
            None => self.full().await.or_else(|| self.identity.trouble()),
        };
        let body = json!({ "Error": trouble.unwrap_or_default(), "Healthy": healthy });
        let no_store = [(header::CACHE_CONTROL, "no-store")];
        (status, no_store, Json(body)).into_response()
    }
}
