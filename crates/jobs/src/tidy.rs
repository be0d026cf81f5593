//! The small duties: unfinished deletions, expired uploads, sessions and access tokens, old events, history of the store.

use std::time::Duration;

use dtr_blobs::BlobStorage;
use dtr_catalog::{
    Catalog, Kind, keys,
    records::{AccessToken, DeletedRepository, Event, Settings, TokenOrigin},
};
use dtr_store::{At, age::Ages, hold};
use dtr_types::{Revision, Timestamp};
use serde::Serialize;

use crate::{JobError, recheck::recheck};

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TidyReport {
    /// Deleted repositories whose content was unlinked.
    pub repositories: u64,
    /// Manifests whose deletion, or whose push in several steps, was interrupted: what was left of them is gone.
    pub manifests: u64,
    /// Uploads that were purged.
    pub uploads: u64,
    /// Blobs that had been damaged in the storage and are good again.
    pub mended: u64,
    /// Sessions that were over.
    pub sessions: u64,
    /// Access tokens that had ended.
    pub tokens: u64,
    /// Tags that were removed because a repository had more than its limit.
    pub tags: u64,
    /// Events that were deleted.
    pub events: u64,
    /// History before this revision was forgotten.
    pub compacted_to: Revision,
}

/// How long a push may take for its last steps, which are a few writes to the store. One that is given up while it still
/// runs starts over by itself.
const STAGED_EXPIRY: Duration = Duration::from_secs(3600);

/// How long an access token that somebody made is shown after its end.
const ENDED_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

/// Tags beyond the limits of their repositories that one run removes; the next goes on.
const TAGS_MAX: usize = 1_000;

/// How long a removal of a blob is remembered: longer than a push takes from the publication of its bytes to the commit.
const REMOVED_KEPT: Duration = Duration::from_secs(3600);

/// Does all small duties once. History of the store is kept from `keep_from` on (and from every hold on).
pub async fn tidy(
    catalog: &Catalog,
    blobs: &dyn BlobStorage,
    settings: &Settings,
    keep_from: Revision,
) -> Result<TidyReport, JobError> {
    let now = catalog.now();
    let mut report = TidyReport::default();
    for left in catalog.deleted_manifests().await? {
        catalog.finish_deleted_manifest(&left.repository, &left.digest).await?;
        report.manifests += 1;
    }
    let ages = catalog.ages().await?;
    report.manifests += catalog.drop_staged_manifests(ages.older_than(STAGED_EXPIRY)).await?;
    catalog.finish_unlinked_blobs().await?;
    catalog.forget_removed(ages.older_than(REMOVED_KEPT)).await?;
    let deleted: Vec<DeletedRepository> =
        catalog.all(Kind::DeletedRepository.prefix().as_bytes()).await?;
    for repository in deleted {
        catalog.purge_repository(&repository.id).await?;
        report.repositories += 1;
    }
    report.tags = catalog.enforce_tag_limits(TAGS_MAX).await? as u64;
    if catalog.deletion_pauses().is_none() {
        let expiry = Duration::from_secs(settings.upload_expiry_days.max(1) * 86_400);
        let old = (ages.older_than(expiry), now.minus(expiry));
        report.uploads = purge_uploads(catalog, blobs, old).await?;
        report.sessions = catalog.purge_sessions(now).await?;
        report.tokens = purge_tokens(catalog, now).await?;
        if settings.repo_event_history_compaction_enabled {
            report.events = purge_events(catalog, settings, &ages).await?;
        }
    }
    if keep_from > Revision::ZERO {
        report.compacted_to = hold::compact(&**catalog.store(), keep_from).await?;
    }
    // Last, for it needs the storage.
    report.mended = recheck(catalog, blobs).await?;
    Ok(report)
}

/// Uploads that have not moved since a revision, or, where it is bytes that lost their record, since a time of the storage.
async fn purge_uploads(
    catalog: &Catalog,
    blobs: &dyn BlobStorage,
    (moved, before): (Revision, Timestamp),
) -> Result<u64, JobError> {
    let mut purged = 0;
    let mut after = None;
    loop {
        let page = catalog.list_uploads(after.as_ref()).await?;
        for upload in page.items.iter().filter(|upload| upload.modified <= moved) {
            let upload = &upload.value;
            blobs.confirm().await?;
            catalog.delete_upload(&upload.id).await?;
            blobs.upload_abort(&upload.id).await?;
            purged += 1;
        }
        after = page.items.last().map(|upload| upload.value.id.clone());
        if !page.more || after.is_none() {
            break;
        }
    }
    let mut after = None;
    loop {
        let page = blobs.uploads(after.as_ref(), 500).await?;
        for entry in page.iter().filter(|entry| entry.modified < before) {
            if catalog.get_upload(&entry.id).await?.is_none() {
                blobs.confirm().await?;
                blobs.upload_abort(&entry.id).await?;
                purged += 1;
            }
        }
        after = page.last().map(|entry| entry.id.clone());
        if page.len() < 500 {
            return Ok(purged);
        }
    }
}

/// Access tokens that have ended: those of logins, of which nobody hears any more, and people's own a while later.
async fn purge_tokens(catalog: &Catalog, now: Timestamp) -> Result<u64, JobError> {
    let mut purged = 0;
    let mut after: Option<String> = None;
    loop {
        let prefix = Kind::AccessToken.prefix().as_bytes();
        let page = catalog.list::<AccessToken>(prefix, after.as_deref(), 0, At::Latest).await?;
        for token in page.items.iter().map(|found| &found.value) {
            let kept = match token.generated_by {
                TokenOrigin::Auto => Duration::ZERO,
                TokenOrigin::User => ENDED_KEPT,
            };
            let over = token.expires_at.is_some_and(|end| end.plus(kept) <= now);
            // Of a login whose password is another one now, if passwords are kept here.
            let outdated = token.password_changed_at.is_some()
                && catalog
                    .get(&keys::credential(&token.account))
                    .await?
                    .is_some_and(|now| Some(now.value.changed_at) != token.password_changed_at);
            if over || outdated {
                purged += u64::from(catalog.delete_access_token(&token.hash, None).await?);
            }
        }
        after = page.items.last().map(|found| found.value.hash.clone());
        if !page.more {
            return Ok(purged);
        }
    }
}

/// Deletes events by age and by count, oldest first.
async fn purge_events(
    catalog: &Catalog,
    settings: &Settings,
    ages: &Ages,
) -> Result<u64, JobError> {
    let age = Duration::from_secs(settings.repo_event_history_max_age);
    // By both: a restored event is new here, and a clock that was set makes none old.
    let (old, oldest_kept) = match age.is_zero() {
        true => (Revision::ZERO, String::new()),
        false => (ages.older_than(age), Event::id_prefix(catalog.now().minus(age))),
    };
    let mut excess = match settings.repo_event_history_to_keep {
        0 => 0,
        keep => catalog.count(Kind::Event).await?.saturating_sub(keep),
    };
    let mut purged = 0;
    loop {
        let events = catalog.oldest_events(50).await?;
        let gone: Vec<_> = events
            .into_iter()
            .enumerate()
            .filter(|(i, event)| {
                let is_old = event.modified <= old && event.value.id < oldest_kept;
                is_old || (*i as u64) < excess
            })
            .map(|(_, event)| event.value)
            .collect();
        if gone.is_empty() {
            return Ok(purged);
        }
        catalog.delete_events(&gone).await?;
        purged += gone.len() as u64;
        excess = excess.saturating_sub(gone.len() as u64);
    }
}
