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
use dtr_store::StoreError;
use dtr_types::Doubt;
use serde_json::json;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

/// How long an answer is used again: a check writes to the blob storage, and `/_ping` is open to everybody.
const REMEMBERED: Duration = Duration::from_secs(2);
/// How long a check may take.
const CHECK_MAX: Duration = Duration::from_secs(5);

/// The longest text for the status of others, and for strangers; in characters.
const TOLD_MAX: usize = 300;
const BRIEF_MAX: usize = 160;

/// When it was checked, what was wrong then, and why content was refused.
type Checked = (Instant, Option<Problem>, Option<String>);

/// What is wrong: for everybody who asks, without names and addresses, and for administrators.
#[derive(Clone, PartialEq, Eq)]
struct Problem {
    brief: String,
    whole: String,
}

impl Problem {
    fn new(brief: impl Into<String>, whole: impl Into<String>) -> Self {
        Self { brief: brief.into(), whole: whole.into() }
    }

    /// One whose first words say enough.
    fn begins(whole: String) -> Self {
        Self { brief: brief(&whole), whole }
    }
}

/// What stands before the details.
pub(crate) fn brief(whole: &str) -> String {
    let ends = [": ", "; ", ". "].iter().filter_map(|mark| whole.find(mark));
    cut(&whole[..ends.min().unwrap_or(whole.len())], BRIEF_MAX)
}

fn cut(text: &str, max: usize) -> String {
    match text.char_indices().nth(max) {
        Some((at, _)) => format!("{} ...", &text[..at]),
        None => text.to_owned(),
    }
}

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
        self.looked().await.map(|problem| cut(&problem.whole, TOLD_MAX))
    }

    async fn looked(&self) -> Option<Problem> {
        let mut last = self.last.lock().await;
        if let Some((at, problem, _)) = &*last
            && at.elapsed() < REMEMBERED
        {
            return problem.clone();
        }
        let (problem, full) = match tokio::time::timeout(CHECK_MAX, self.check()).await {
            Ok(checked) => checked,
            Err(_) => {
                let text = "the storage does not answer";
                (Some(Problem::new(text, text)), None)
            }
        };
        let before = last.as_ref().and_then(|(_, problem, _)| problem.as_ref());
        match &problem {
            // The others' status, and strangers, are told less.
            Some(now) if before.is_none_or(|before| before.brief != now.brief) => {
                tracing::warn!("this replica is not well: {}", now.whole);
            }
            _ => {}
        }
        *last = Some((Instant::now(), problem.clone(), full));
        problem
    }

    /// What is wrong, and why content is refused where nothing is.
    async fn check(&self) -> (Option<Problem>, Option<String>) {
        if let Err(error) = self.catalog.store().revision().await {
            let problem = match &self.cluster {
                Some(cluster) => {
                    let whole = cluster.unavailable(&error);
                    Problem::new(format!("store: {}", brief(&whole)), format!("store: {whole}"))
                }
                None => {
                    let brief = match error {
                        StoreError::Full { .. } => "store: there is no room",
                        _ => "store: it does not answer",
                    };
                    Problem::new(brief, format!("store: {error}"))
                }
            };
            return (Some(problem), None);
        }
        if let Some(problem) = self.cluster.as_ref().and_then(Cluster::outside) {
            return (Some(Problem::begins(problem)), None);
        }
        if let Some(doubt) = self.catalog.clock().doubt().filter(Doubt::is_wrong) {
            // As others are right, one replica less is better than one of so many requests that fails.
            return (Some(Problem::begins(doubt.text().to_owned())), None);
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
        let problem = problem.map(|problem| Problem::new(cut(&problem, BRIEF_MAX), problem));
        (problem, store.or(full))
    }

    /// What does not hinder the work, and should be looked at.
    async fn trouble(&self) -> Option<String> {
        let cluster = self.cluster.as_ref();
        let full = self.last.lock().await.as_ref().and_then(|(_, _, full)| full.clone());
        let of_etcd = || cluster.and_then(Cluster::trouble).map(|text| brief(&text));
        let of_clock = || Some(brief(self.catalog.clock().doubt()?.alarm()?));
        let of_member = cluster.and_then(Cluster::member_problem).map(|text| brief(&text));
        of_member.or_else(of_etcd).or(full).or_else(of_clock).or_else(|| self.identity.trouble())
    }

    /// `GET /_ping`, as the original answers it; and 404 from a replica that leaves. Load balancers must tell that from one
    /// that is not well: what runs here is finished (haproxy: `disable-on-404`).
    pub async fn ping(&self) -> Response {
        let (status, problem) = if self.leaving.load(Ordering::Acquire) {
            let why = "this replica is about to stop or restart: it finishes what runs";
            (StatusCode::NOT_FOUND, Some(why.to_owned()))
        } else {
            match self.looked().await {
                None => (StatusCode::OK, None),
                Some(problem) => (StatusCode::SERVICE_UNAVAILABLE, Some(problem.brief)),
            }
        };
        let healthy = problem.is_none();
        // What is refused to those who write is no reason to send those who read away.
        let trouble = match problem {
            Some(problem) => Some(problem),
            None => self.trouble().await,
        };
        let body = json!({ "Error": trouble.unwrap_or_default(), "Healthy": healthy });
        let no_store = [(header::CACHE_CONTROL, "no-store")];
        (status, no_store, Json(body)).into_response()
    }
}
