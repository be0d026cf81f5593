//! Content that came back: blobs that manifests need and that have no record, since a restore found them nowhere, or they
//! had been lost before the backup. When their bytes are in the storage again, they get their records and links.

use dtr_blobs::{BlobError, BlobStorage};
use dtr_catalog::{Catalog, LinkCheck};
use dtr_store::Transaction;
use dtr_types::{Digest, Hasher};
use futures_util::StreamExt as _;
use serde::Serialize;

use crate::JobError;

/// How often a blob is tried that others change at the same time.
const ATTEMPTS_MAX: usize = 16;
/// Digests that are told.
const SAMPLE: usize = 20;

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RelinkReport {
    /// Blobs that manifests need.
    pub needed: u64,
    /// Of these, blobs whose content came back, and that are read again, or would be.
    pub relinked: u64,
    /// Blobs that are there with other content: push them again, or put the right bytes in their place.
    pub damaged: u64,
    /// Blobs that are nowhere.
    pub missing: u64,
    /// Some of those that are damaged or missing.
    pub sample: Vec<String>,
}

/// What became of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// No manifest needs it.
    NotNeeded,
    /// It has its record.
    Known,
    /// It had none and has it now, or would have.
    Relinked,
    /// Its content is another's.
    Damaged,
    /// It is not in the storage.
    Missing,
}

/// Looks for the content of every blob that a manifest needs and that has no record, and gives it record and links where it
/// is. Every byte of it is hashed first.
///
/// # Errors
/// When the store or the storage fails; what was done stays done.
pub async fn relink(
    catalog: &Catalog,
    blobs: &dyn BlobStorage,
    dry_run: bool,
) -> Result<RelinkReport, JobError> {
    let mut report = RelinkReport::default();
    let mut after = None;
    while let Some(digest) = catalog.next_needed(after.as_ref()).await? {
        report.needed += 1;
        let found = one(catalog, blobs, &digest, dry_run).await?;
        match found {
            Found::NotNeeded | Found::Known => {}
            Found::Relinked => report.relinked += 1,
            Found::Damaged => report.damaged += 1,
            Found::Missing => report.missing += 1,
        }
        let lacking = matches!(found, Found::Damaged | Found::Missing);
        if lacking && report.sample.len() < SAMPLE {
            report.sample.push(digest.to_string());
        }
        after = Some(digest);
    }
    Ok(report)
}

/// Does so for one blob.
pub(crate) async fn one(
    catalog: &Catalog,
    blobs: &dyn BlobStorage,
    digest: &Digest,
    dry_run: bool,
) -> Result<Found, JobError> {
    let repositories = catalog.needing(digest).await?;
    if repositories.is_empty() {
        return Ok(Found::NotNeeded);
    }
    // Asked before the bytes are read: should the collector remove them meanwhile, the commit fails.
    let before = match catalog.check_link(digest).await? {
        LinkCheck::Present { .. } => return Ok(Found::Known),
        LinkCheck::Condemned => return Ok(Found::Missing),
        LinkCheck::Absent { removed } => removed,
    };
    let size = match content(blobs, digest).await? {
        Ok(size) => size,
        Err(found) => return Ok(found),
    };
    if dry_run {
        return Ok(Found::Relinked);
    }
    let mut found = Found::Known;
    for repository in &repositories {
        // One that is being deleted takes no link, and needs none.
        for _ in 0..ATTEMPTS_MAX {
            let linked = match catalog.check_link(digest).await? {
                LinkCheck::Present { modified, .. } => {
                    let nothing = Transaction::new();
                    catalog.link_blob(repository, digest, modified, nothing).await?
                }
                LinkCheck::Absent { removed } if removed == before => {
                    let nothing = Transaction::new();
                    catalog.link_new_blob(repository, digest, size, removed, nothing).await?
                }
                // It was removed after it had been looked at.
                LinkCheck::Absent { .. } | LinkCheck::Condemned => return Ok(Found::Missing),
            };
            if linked {
                found = Found::Relinked;
                break;
            }
        }
    }
    Ok(found)
}

/// The size of a blob's content, if that is what its digest says.
async fn content(blobs: &dyn BlobStorage, digest: &Digest) -> Result<Result<u64, Found>, JobError> {
    let mut reader = match blobs.read(digest, None).await {
        Ok(reader) => reader,
        Err(BlobError::NotFound(_)) => return Ok(Err(Found::Missing)),
        Err(BlobError::Corrupt { .. }) => return Ok(Err(Found::Damaged)),
        Err(error) => return Err(error.into()),
    };
    let (mut hasher, mut size) = (Hasher::new(digest.algorithm()), 0);
    while let Some(block) = reader.next().await {
        match block {
            Ok(block) => {
                size += block.len() as u64;
                hasher.update(&block);
            }
            Err(BlobError::Corrupt { .. }) => return Ok(Err(Found::Damaged)),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(if hasher.finish() == *digest { Ok(size) } else { Err(Found::Damaged) })
}
