//! Alerts: what an administrator should do something about.

use dtr_blobs::BlobStorage;
use dtr_catalog::{Catalog, CatalogError, Need, records::Damage};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use utoipa::ToSchema;

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Alert {
    /// What kind: `backup`, `storage`, `content`, `replica`, `store`.
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
/// A replica that has not reported for longer than this is unhealthy.
pub(crate) const REPORT_LATE: Duration = Duration::from_secs(90);

fn alert(id: &str, class: &str, message: String, page: &str) -> Alert {
    Alert { id: id.to_owned(), class: class.to_owned(), message, url: format!("docs/{page}") }
}

impl Alert {
    /// Something is wrong with the store, although it answers.
    pub(crate) fn store(message: String) -> Self {
        alert("store", "critical", message, "replicas.md#when-etcd-is-full")
    }
}

/// All alerts of this moment.
pub async fn alerts(
    catalog: &Catalog,
    blobs: &dyn BlobStorage,
) -> Result<Vec<Alert>, CatalogError> {
    let now = catalog.now();
    let settings = catalog.settings().await?;
    let mut found = Vec::new();
    if !settings.disable_backup_warning {
        let message = match catalog.last_backup().await? {
            None => Some("no backup was ever taken".to_owned()),
            Some(last) if now.since(last.finished_at) > BACKUP_WEEK => {
                Some(format!("the last backup is of {}", last.finished_at))
            }
            Some(_) => None,
        };
        if let Some(message) = message {
            let message = format!("{message}; take one with \"dtr backup\" and keep it elsewhere");
            found.push(alert("backup", "warning", message, "backup.md"));
        }
    }
    let health = blobs.health().await;
    if let Some(problem) = &health.problem {
        let problem = health.detail.as_ref().unwrap_or(problem);
        let message = format!("nothing can be pushed: {problem}");
        found.push(alert("storage", "critical", message, "install.md#storage"));
    } else if let (Some(free), Some(total)) = (health.free, health.total)
        && free < total / 20
    {
        let message = format!(
            "the blob storage is almost full: {} MiB are free; run \"dtr gc --run\" or make room",
            free / (1024 * 1024)
        );
        found.push(alert("storage", "warning", message, "install.md#storage"));
    }
    found.extend(damaged(catalog).await?);
    for replica in catalog.replicas().await? {
        let late = now.since(replica.reported_at) > REPORT_LATE;
        if late || replica.health != "OK" {
            let reason = if late {
                format!("has not reported since {}", replica.reported_at)
            } else {
                replica.health.clone()
            };
            let message = format!("replica {} on {}: {reason}", replica.id, replica.node);
            found.push(alert("replica", "critical", message, "install.md#health"));
        }
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
