//! Bytes that no record speaks of: what a crash between the publication of a blob and the commit of its record leaves.
//! Found by reading the list of the whole blob storage, so this runs rarely (once a day), unlike the collector.

use std::time::Duration;

use dtr_blobs::BlobStorage;
use dtr_catalog::{Catalog, keys};
use dtr_types::Digest;
use serde::Serialize;

use crate::{
    JobError, collector,
    relink::{self, Found},
};

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SweepReport {
    /// Blobs in the storage.
    pub stored: u64,
    /// Blobs without a record that were removed, or would be.
    pub removed: u64,
    /// Bytes set free, or that would be.
    pub freed_bytes: u64,
    /// Blobs without a record that manifests need: they have their records and links again, or would have.
    pub relinked: u64,
}

/// Blobs listed at once.
const PAGE: usize = 1000;

/// Removes stored bytes that no record speaks of and that are older than `grace`. A push publishes its bytes with a fresh
/// time and commits the record right after, so older bytes without a record are nobody's.
pub async fn sweep(
    catalog: &Catalog,
    blobs: &dyn BlobStorage,
    grace: Duration,
    dry_run: bool,
) -> Result<SweepReport, JobError> {
    let mut report = SweepReport::default();
    if !dry_run {
        blobs.confirm().await?;
        collector::may_delete(catalog)?;
        collector::resume(catalog, blobs).await?;
    }
    let mut after: Option<Digest> = None;
    loop {
        let page = blobs.list(after.as_ref(), PAGE).await?;
        for entry in &page {
            report.stored += 1;
            let old = catalog.now().since(entry.info.modified) >= grace;
            if !old || catalog.get(&keys::blob(&entry.digest)).await?.is_some() {
                continue;
            }
            // What a restore did not find, and came back since.
            if relink::one(catalog, blobs, &entry.digest, dry_run).await? == Found::Relinked {
                report.relinked += 1;
                continue;
            }
            let removed = dry_run
                || match catalog.condemn_orphan(&entry.digest).await? {
                    Some(condemned) => collector::remove(catalog, blobs, &condemned).await?,
                    None => false,
                };
            if removed {
                report.removed += 1;
                report.freed_bytes += entry.info.size;
            }
        }
        after = page.last().map(|entry| entry.digest);
        if page.len() < PAGE {
            return Ok(report);
        }
    }
}
