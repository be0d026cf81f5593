//! The collector: walks the candidates, never all content; runs while everybody pushes and pulls. What makes that safe
//! is the protocol in the catalog (`links`, `collect`) and the removal of bytes in two steps (`dtr_blobs`); here is when a
//! candidate's time has come, and what is done in which order. Two that run at once, and one that was frozen at any
//! moment and goes on much later, take nothing that anybody needs.

use std::time::Duration;

use dtr_blobs::BlobStorage;
use dtr_catalog::{Catalog, Condemned, keys, records::CondemnedStage};
use dtr_store::hold;
use dtr_types::Digest;
use serde::Serialize;

use crate::JobError;

/// The shortest grace period: longer than any commit that follows the check it depends on.
pub const GRACE_MIN: Duration = Duration::from_secs(60);

/// How a run goes about it.
#[derive(Clone, Copy, Debug)]
pub struct CollectOptions {
    /// How long content without references is left alone; at least [`GRACE_MIN`] in the product (tests with a clock of
    /// their own may go lower).
    pub grace: Duration,
    /// Only say what would be removed.
    pub dry_run: bool,
}

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CollectReport {
    /// Candidates looked at.
    pub candidates: u64,
    /// Blobs removed, or that would be.
    pub removed: u64,
    /// Bytes set free, or that would be.
    pub freed_bytes: u64,
    /// Candidates that a manifest needs: taken off the list.
    pub needed: u64,
    /// Candidates younger than the grace period.
    pub young: u64,
    /// Candidates that a hold keeps: a backup is being taken.
    pub held: u64,
    /// Removals that an interrupted run had begun, brought to their end.
    pub resumed: u64,
    /// The first blobs that were removed, or would be.
    pub sample: Vec<Digest>,
}

/// Digests named in a report.
const SAMPLE_MAX: usize = 20;
/// Candidates read at once.
const PAGE: usize = 500;

/// Removes content that nothing refers to. One run at a time is enough: the caller sees to that.
///
/// # Errors
/// What was done until then is done; the next run goes on.
pub async fn collect(
    catalog: &Catalog,
    blobs: &dyn BlobStorage,
    options: CollectOptions,
) -> Result<CollectReport, JobError> {
    let mut report = CollectReport::default();
    if !options.dry_run {
        blobs.confirm().await?;
        may_delete(catalog)?;
        report.resumed = resume(catalog, blobs).await?;
    }
    let old = catalog.ages().await?.older_than(options.grace);
    let mut after: Option<Digest> = None;
    loop {
        let page = catalog.list_candidates(after.as_ref(), PAGE).await?;
        for candidate in &page.items {
            let digest = candidate.value.digest;
            report.candidates += 1;
            if catalog.is_referenced(&digest).await? {
                report.needed += 1;
                if !options.dry_run {
                    catalog.clear_candidate(candidate).await?;
                }
                continue;
            }
            if candidate.modified > old {
                report.young += 1;
                continue;
            }
            // A hold from before the candidate was listed may need the blob: it had references then.
            let oldest = hold::oldest(&**catalog.store()).await?;
            if oldest.is_some_and(|held| candidate.modified >= held) {
                report.held += 1;
                continue;
            }
            let size = catalog.get(&keys::blob(&digest)).await?.map_or(0, |b| b.value.size);
            let removed = options.dry_run
                || match catalog.condemn(candidate).await? {
                    Some(condemned) => remove(catalog, blobs, &condemned).await?,
                    None => false,
                };
            if removed {
                report.removed += 1;
                report.freed_bytes += size;
                if report.sample.len() < SAMPLE_MAX {
                    report.sample.push(digest);
                }
            }
        }
        after = page.items.last().map(|candidate| candidate.value.digest);
        if !page.more || after.is_none() {
            return Ok(report);
        }
        tokio::task::yield_now().await;
    }
}

/// Whether anything may be deleted for its age at this moment.
pub(crate) fn may_delete(catalog: &Catalog) -> Result<(), JobError> {
    catalog.deletion_pauses().map_or(Ok(()), |doubt| Err(JobError::Clock(doubt)))
}

/// Goes on with what others have begun. Yields how many.
pub(crate) async fn resume(catalog: &Catalog, blobs: &dyn BlobStorage) -> Result<u64, JobError> {
    // Whoever set it aside needs it no more, or puts it back as well.
    blobs.put_back_all().await?;
    let mut resumed = 0;
    let ages = catalog.ages().await?;
    for condemned in catalog.list_condemned().await? {
        let age = ages.age(condemned.modified);
        if condemned.stage == CondemnedStage::Removing && age < blobs.removal_settles() {
            continue;
        }
        if let Some(own) = catalog.take_condemned(&condemned).await? {
            remove(catalog, blobs, &own).await?;
            resumed += 1;
        }
    }
    Ok(resumed)
}

/// Brings one removal to its end; `false` when the blob stays. The order is what makes it safe: the commit proves that
/// nobody needed the bytes that had been set aside by then, and these alone are removed, whenever that happens.
pub(crate) async fn remove(
    catalog: &Catalog,
    blobs: &dyn BlobStorage,
    condemned: &Condemned,
) -> Result<bool, JobError> {
    let Some(removal) = catalog.examine_condemned(condemned).await? else { return Ok(false) };
    let aside = blobs.set_aside(&condemned.digest).await?;
    let removing = match catalog.begin_removal(&removal).await {
        Ok(Some(removing)) => removing,
        Ok(None) => {
            blobs.put_back(aside).await?;
            catalog.spare(condemned).await?;
            return Ok(false);
        }
        Err(error) => {
            blobs.put_back(aside).await?;
            return Err(error.into());
        }
    };
    blobs.remove_aside(aside).await?;
    catalog.finish_condemned(&removing).await?;
    Ok(true)
}
