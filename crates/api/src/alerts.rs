//! Alerts: what an administrator should do something about.

use dtr_catalog::{
    Catalog, CatalogError, LastBackups, Need,
    records::{Damage, ReplicaRecord},
};
use dtr_cluster::{Cluster, REPORT_LATE};
use dtr_types::{Doubt, Timestamp};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use utoipa::ToSchema;

use crate::ApiState;

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Alert {
    /// What kind: `backup`, `content`, `identity`, `storage`, `replica`, `store`, `clock`.
    pub id: String,
    /// `warning` or `critical`.
    pub class: String,
    /// What is wrong, and what to do.
    pub message: String,
    /// Where to read more.
    pub url: String,
}

/// Without a backup for longer than this, there is an alert: as in the original.
const BACKUP_WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

/// What helps where content is in the way, also while pushes are refused.
const MAKE_ROOM: &str = "Delete images (\"dtr tag delete --with-image\") or repositories that nobody needs and run \
     \"dtr gc --run\" when the grace period (gcGraceSeconds) is over, or make the disk larger";

fn alert(id: &str, class: &str, message: String, page: &str) -> Alert {
    Alert { id: id.to_owned(), class: class.to_owned(), message, url: format!("docs/{page}") }
}

/// What is wrong with a replica, as this one sees it; `None` when it is well.
pub(crate) fn replica_problem(
    state: &ApiState,
    replica: &ReplicaRecord,
    now: Timestamp,
) -> Option<String> {
    let is_late = || {
        let since = replica.reported_at;
        (now.since(since) > REPORT_LATE).then(|| format!("has not reported since {since}"))
    };
    // That this one lives, its answer says.
    let late = match &state.cluster {
        _ if replica.id == state.replica => None,
        Some(cluster) => cluster.peers().problem(replica, now),
        None => is_late(),
    };
    late.or_else(|| (replica.health != "OK").then(|| replica.health.clone()))
}

/// What is wrong with the store, although it answers.
fn of_store(cluster: &Cluster) -> impl Iterator<Item = Alert> {
    let store = |message, class, page| alert("store", class, message, page);
    let of = move |found: Option<String>, class: &'static str, page: &'static str| {
        found.map(|message| store(message, class, page))
    };
    [
        of(cluster.trouble(), "critical", "replicas.md#when-etcd-is-full"),
        of(cluster.lack(), "critical", "replicas.md#when-an-etcd-does-not-answer"),
        of(cluster.member_problem(), "critical", "replicas.md#when-an-etcd-cannot-read-its-data"),
        of(cluster.uneven(), "warning", "replicas.md#what-it-takes"),
    ]
    .into_iter()
    .flatten()
}

impl Alert {
    /// The identity service does not do what it is asked.
    pub(crate) fn identity(problem: &str) -> Self {
        let page = "restore.md#when-the-ucp-does-not-know-the-registry";
        alert("identity", "critical", problem.to_owned(), page)
    }

    /// There is no room for content on the disk of the store.
    pub(crate) fn store_disk(full: &str) -> Self {
        let message =
            format!("nothing can be pushed, the disk of the store is full: {full}. {MAKE_ROOM}");
        alert("store", "critical", message, "install.md#when-the-disk-is-full")
    }
}

/// What is wrong with the backups. Only those count that arrived, as a client said, and not in the future.
fn backup_message(last: &LastBackups, now: Timestamp) -> Option<String> {
    let mut message = match (&last.confirmed, &last.sent) {
        (Some(confirmed), _) if now.since(confirmed.finished_at) <= BACKUP_WEEK => return None,
        (Some(confirmed), _) => {
            format!("the last backup that arrived is of {}", confirmed.finished_at)
        }
        (None, Some(_)) => "no backup is known to have arrived".to_owned(),
        (None, None) => "no backup was ever taken".to_owned(),
    };
    let confirmed_at = last.confirmed.as_ref().map(|backup| backup.finished_at);
    if let Some(sent) = &last.sent
        && confirmed_at.is_none_or(|at| sent.finished_at > at)
    {
        message.push_str(&format!(
            ", one was sent at {}, and no client confirmed that it has it",
            sent.finished_at
        ));
    }
    if let Some(to_come) = &last.to_come {
        message.push_str(&format!(
            ", one claims to be of {}, which is yet to come: a clock was wrong",
            to_come.finished_at
        ));
    }
    Some(message)
}

/// All alerts of this moment.
pub(crate) async fn alerts(state: &ApiState) -> Result<Vec<Alert>, CatalogError> {
    let (catalog, blobs) = (&state.catalog, &state.blobs);
    let now = catalog.now();
    let settings = catalog.settings().await?;
    let mut found = Vec::new();
    if !settings.disable_backup_warning
        && let Some(message) = backup_message(&catalog.last_backups().await?, now)
    {
        let message = format!("{message}; take one with \"dtr backup\" and keep it elsewhere");
        found.push(alert("backup", "warning", message, "backup.md#how-often"));
    }
    let health = blobs.health().await;
    if let Some(problem) = &health.problem {
        let problem = health.detail.as_ref().unwrap_or(problem);
        let message = format!("nothing can be pushed: {problem}");
        found.push(alert("storage", "critical", message, "install.md#storage"));
    } else if let Some(full) = &health.full {
        let message =
            format!("nothing can be pushed, the blob storage is full: {full}. {MAKE_ROOM}");
        found.push(alert("storage", "critical", message, "install.md#when-the-disk-is-full"));
    } else if let (Some(free), Some(total)) = (health.free, health.total)
        && free < total / 20
    {
        let message = format!(
            "the blob storage is almost full: {} MiB are free. {MAKE_ROOM}",
            free / (1024 * 1024)
        );
        found.push(alert("storage", "warning", message, "install.md#storage"));
    }
    found.extend(damaged(catalog).await?);
    for replica in catalog.replicas().await? {
        if let Some(reason) = replica_problem(state, &replica, now) {
            let message = format!("replica {} on {}: {reason}", replica.id, replica.node);
            found.push(alert("replica", "critical", message, "install.md#health"));
        }
    }
    found.extend(state.cluster.iter().flat_map(of_store));
    if let Some(doubt) = catalog.clock().doubt() {
        let class = match doubt {
            Doubt::Wrong(_) | Doubt::Apart(_) => "critical",
            _ => "warning",
        };
        let message = doubt.alarm().map(str::to_owned);
        found.extend(message.map(|message| alert("clock", class, message, "replicas.md#clocks")));
    }
    Ok(found)
}

/// Damaged blobs that have an alert of their own; the rest is counted in one.
const DAMAGED_NAMED: usize = 20;
/// Images that such an alert names.
const NEEDS_NAMED: usize = 20;

/// Content that was lost or altered in the storage, and the images that need it.
async fn damaged(catalog: &Catalog) -> Result<Vec<Alert>, CatalogError> {
    let (blobs, count) = catalog.damaged_blobs(DAMAGED_NAMED).await?;
    let mut found = Vec::new();
    for blob in &blobs {
        let wrong = match blob.damage {
            Damage::Missing => "is missing",
            Damage::Size => "has another size",
            Damage::Content => "has other bytes",
        };
        let needs = catalog.needed_by(&blob.digest, NEEDS_NAMED + 1).await?;
        let mut names: Vec<String> = needs.iter().flat_map(names).collect();
        let more = names.len() > NEEDS_NAMED;
        names.truncate(NEEDS_NAMED);
        let needed = match names.as_slice() {
            [] => "no image needs it".to_owned(),
            names => format!(
                "{}{} cannot be pulled",
                names.join(", "),
                if more { " and more" } else { "" }
            ),
        };
        let message = format!(
            "blob {} {wrong} in the blob storage (noticed {}): {needed}; push one of the images that need it again, or put the file back from a copy of the storage",
            blob.digest, blob.since
        );
        found.push(alert("content", "critical", message, "storage.md#lost-content"));
    }
    let rest = count.saturating_sub(blobs.len() as u64);
    if rest > 0 {
        let message = format!("{rest} more blobs are lost or damaged in the blob storage");
        found.push(alert("content", "critical", message, "storage.md#lost-content"));
    }
    Ok(found)
}

/// An image by its tags, or by its digest when it has none.
fn names(need: &Need) -> Vec<String> {
    let Need { repository, manifest, tags } = need;
    match tags.as_slice() {
        [] => vec![format!("{repository}@{manifest}")],
        tags => tags.iter().map(|tag| format!("{repository}:{tag}")).collect(),
    }
}
