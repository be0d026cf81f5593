//! The mark of a replica's blob storage ([`StorageMark`]): written by an installation, taken over by a restore and an
//! emergency repair, looked at whenever the storage is opened. What it should be is in the store, so that all replicas of
//! a cluster agree on it, whatever is mounted on their machines.

use std::{sync::Arc, time::Duration};

use dtr_blobs::{BlobError, MarkedStorage, SharedBlobs};
use dtr_catalog::{
    Catalog, CatalogError, Kind, TransactionExt as _, keys,
    records::{BlobRecord, StorageRecord},
};
use dtr_jobs::{JobError, Lock};
use dtr_store::{At, Transaction};
use dtr_types::{ClusterId, NotOurs, ReplicaId, StorageMark};

use crate::{
    DataDir, Metadata, ReplicaConfig, StorageConfig,
    storage::{look_at_storage, open_storage, place},
};

/// The lock of the replica that writes the first mark of a storage that was used without one.
const LOCK: &str = "storage";
/// How long another replica may take for that, and how often it is looked for.
const MARKING_MAX: Duration = Duration::from_secs(20);
const MARKING_LOOK: Duration = Duration::from_millis(200);
/// How long a replica waits for its storage before it starts without.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Blobs of which one must be there before a storage gets its first mark.
const SAMPLE: usize = 50;

/// Why a storage cannot be opened, or taken over.
#[derive(Debug, thiserror::Error)]
pub enum MarkError {
    /// It is not the right one, or failed.
    #[error(transparent)]
    Storage(#[from] BlobError),
    /// The store failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// It is to take the place of another, and has not what that has.
    #[error(
        "{place} is not a copy of the blob storage that is used now ({why}): copy all of it there, dtr-storage.json included"
    )]
    NotACopy {
        /// Where.
        place: String,
        /// Why not.
        why: &'static str,
    },
    /// There is the content of another registry.
    #[error(
        "{place} holds the image content of another registry (cluster {cluster}): restore that one from its backup with \"dtr \
         restore\" and the same storage. If it is gone for good and its content is not wanted, remove dtr-storage.json there \
         and install again with --take-over-storage"
    )]
    InUse {
        /// Where.
        place: String,
        /// Whose.
        cluster: ClusterId,
    },
    /// There is content without a mark, or of a registry of another kind.
    #[error(
        "{place} holds {what}: of that, this registry would remove all that none of its own images needs. Name an empty folder or \
         bucket, or another folder in the bucket, and copy the images with \"dtr image copy\"; or give --take-over-storage if no \
         other registry uses it any more and what has no image here may go (see docs/storage.md, \"Taking over\")"
    )]
    Content {
        /// Where.
        place: String,
        /// Kind of content.
        what: &'static str,
    },
}

impl From<JobError> for MarkError {
    fn from(error: JobError) -> Self {
        match error {
            JobError::Catalog(error) => error.into(),
            JobError::Blobs(error) => error.into(),
            other => BlobError::Unavailable {
                action: "write its first mark".to_owned(),
                source: std::io::Error::other(other),
            }
            .into(),
        }
    }
}

/// Where a replica's content is, and whose it is.
pub(crate) struct Place<'a> {
    pub dir: &'a DataDir,
    pub storage: &'a StorageConfig,
    pub cluster: &'a ClusterId,
}

impl Place<'_> {
    fn name(&self) -> String {
        place(self.dir, self.storage)
    }

    fn not_ours(&self, why: NotOurs) -> MarkError {
        BlobError::NotOurs { place: self.name(), why }.into()
    }

    /// Opens the storage to be served. One that is not there, or is another, is opened as well, and refuses to be written
    /// to until the right one is in its place: without its content a replica still is one of the majority.
    pub async fn open(
        &self,
        catalog: &Catalog,
        here: &ReplicaId,
    ) -> Result<Arc<MarkedStorage>, MarkError> {
        let mark = match catalog.get(&keys::storage()).await? {
            Some(found) => found.value.mark,
            None => self.first_mark(catalog, here).await?,
        };
        let bare = look_at_storage(self.dir, self.storage).await?;
        let is_ours = match tokio::time::timeout(ANSWER_MAX, bare.mark()).await {
            Ok(Ok(found)) => match mark.check(found.as_ref()) {
                Ok(()) => true,
                Err(NotOurs::Older) => {
                    tracing::warn!(
                        place = self.name(),
                        "this is an older copy of the blob storage: it is used from now on"
                    );
                    bare.set_mark(&mark).await?;
                    true
                }
                Err(why) => {
                    tracing::error!(place = self.name(), "the blob storage cannot be used: {why}");
                    false
                }
            },
            Ok(Err(error)) => {
                tracing::error!(%error, place = self.name(), "the blob storage cannot be read");
                false
            }
            Err(_) => {
                tracing::error!(place = self.name(), "the blob storage does not answer");
                false
            }
        };
        let blobs = match is_ours {
            true => open_storage(self.dir, self.storage).await?,
            false => bare,
        };
        Ok(Arc::new(MarkedStorage::new(blobs, self.name(), mark)))
    }

    /// Marks a storage that a version without marks has used; one of the replicas does, once.
    async fn first_mark(
        &self,
        catalog: &Catalog,
        here: &ReplicaId,
    ) -> Result<StorageMark, MarkError> {
        let begun = tokio::time::Instant::now();
        loop {
            if let Some(found) = catalog.get(&keys::storage()).await? {
                return Ok(found.value.mark);
            }
            match Lock::take(catalog, LOCK, here).await? {
                Ok(lock) => {
                    let marked = self.mark_it(catalog).await;
                    lock.release().await;
                    return marked;
                }
                Err(other) if begun.elapsed() > MARKING_MAX => {
                    let (holder, since) = (other.holder, other.since);
                    return Err(JobError::Busy { holder, since }.into());
                }
                Err(_) => tokio::time::sleep(MARKING_LOOK).await,
            }
        }
    }

    async fn mark_it(&self, catalog: &Catalog) -> Result<StorageMark, MarkError> {
        let bare = look_at_storage(self.dir, self.storage).await?;
        let mark = match bare.mark().await? {
            // Written by a start that was cut off before the record.
            Some(found) if found.cluster == *self.cluster => found,
            Some(found) => return Err(self.not_ours(NotOurs::TakenOver { by: found.cluster })),
            None => {
                if !holds_content(catalog, &bare).await? {
                    return Err(self.not_ours(NotOurs::Unmarked));
                }
                let mark = StorageMark::first(self.cluster, catalog.random());
                open_storage(self.dir, self.storage).await?.set_mark(&mark).await?;
                mark
            }
        };
        let record = StorageRecord { mark: mark.clone(), since: catalog.now() };
        catalog.commit(Transaction::new().create_record(&record)?).await?;
        match catalog.get(&keys::storage()).await? {
            Some(found) => Ok(found.value.mark),
            None => Ok(mark),
        }
    }

    /// Marks the storage of a new cluster.
    ///
    /// # Errors
    /// [`MarkError::InUse`] when another cluster has it.
    pub async fn begin(&self, catalog: &Catalog, blobs: &SharedBlobs) -> Result<(), MarkError> {
        self.unmarked(blobs).await?;
        let mark = StorageMark::first(self.cluster, catalog.random());
        blobs.set_mark(&mark).await?;
        catalog.put(&StorageRecord { mark, since: catalog.now() }).await?;
        Ok(())
    }

    /// Refuses a storage for a new cluster that has a mark, or content, unless that may be taken over.
    pub async fn unused(&self, take_over: bool) -> Result<(), MarkError> {
        let blobs = look_at_storage(self.dir, self.storage).await?;
        self.unmarked(&blobs).await?;
        self.no_other_kind(&blobs, take_over).await?;
        if !take_over && !blobs.list(None, 1).await?.is_empty() {
            let what = "image content without the mark of a registry";
            return Err(MarkError::Content { place: self.name(), what });
        }
        Ok(())
    }

    /// Refuses a storage without a mark in which a distribution registry keeps its repositories, unless it may be taken over.
    pub async fn no_other_kind(
        &self,
        blobs: &SharedBlobs,
        take_over: bool,
    ) -> Result<(), MarkError> {
        if take_over || blobs.mark().await?.is_some() || !blobs.has_repositories().await? {
            return Ok(());
        }
        let what = "the content and the repositories of a distribution registry";
        Err(MarkError::Content { place: self.name(), what })
    }

    async fn unmarked(&self, blobs: &SharedBlobs) -> Result<(), MarkError> {
        match blobs.mark().await? {
            Some(found) if found.cluster != *self.cluster => {
                Err(MarkError::InUse { place: self.name(), cluster: found.cluster })
            }
            _ => Ok(()),
        }
    }

    /// Takes the storage over from the other replicas of the same cluster: from here on they neither write to it nor remove
    /// anything from it, should they run.
    ///
    /// # Errors
    /// [`BlobError::NotOurs`] when it is not there, or when another survivor, or a restore, has taken it over already.
    pub async fn take_over(&self, catalog: &Catalog) -> Result<(), MarkError> {
        let blobs = look_at_storage(self.dir, self.storage).await?;
        let found = blobs.mark().await?;
        let record = catalog.get(&keys::storage()).await?.map(|found| found.value.mark);
        let mark = match (record, found) {
            (Some(ours), found) => match ours.check(found.as_ref()) {
                // Older: this was cut off between the two writes below.
                Ok(()) | Err(NotOurs::Older) => ours.next(self.cluster, catalog.random()),
                Err(why) => return Err(self.not_ours(why)),
            },
            (None, Some(found)) if found.cluster == *self.cluster => {
                found.next(self.cluster, catalog.random())
            }
            (None, Some(found)) => {
                return Err(self.not_ours(NotOurs::TakenOver { by: found.cluster }));
            }
            (None, None) if holds_content(catalog, &blobs).await? => {
                StorageMark::first(self.cluster, catalog.random())
            }
            (None, None) => return Err(self.not_ours(NotOurs::Unmarked)),
        };
        // First what it should be: cut off in between, the storage has an older mark, and is still this cluster's.
        catalog.put(&StorageRecord { mark: mark.clone(), since: catalog.now() }).await?;
        blobs.set_mark(&mark).await?;
        blobs.put_back_all().await?;
        Ok(())
    }
}

/// Refuses a storage that is no copy of the one that a replica uses now. What cannot be looked at is found out by the next
/// start.
///
/// # Errors
/// [`MarkError::NotACopy`].
pub async fn check_copy(
    dir: &DataDir,
    now: &StorageConfig,
    new: &StorageConfig,
) -> Result<(), MarkError> {
    if matches!(new, StorageConfig::Nfs { .. }) {
        return Ok(());
    }
    // The one that is used may be lost.
    let used = match tokio::time::timeout(ANSWER_MAX, mark_in_place(dir, now)).await {
        Ok(Ok(used)) => used,
        Ok(Err(_)) | Err(_) => None,
    };
    let found = look_at_storage(dir, new).await?.mark().await?;
    let place = place(dir, new);
    match (used, found) {
        (Some(_), None) => Err(MarkError::NotACopy { place, why: "it has no mark" }),
        (Some(used), Some(found)) if used.storage != found.storage => {
            Err(MarkError::NotACopy { place, why: "it has the mark of another storage" })
        }
        (Some(used), Some(found)) if used.generation < found.generation => {
            Err(MarkError::NotACopy { place, why: "another cluster has taken it over" })
        }
        _ => Ok(()),
    }
}

/// Whether the storage of a replica that does not run is known to be another's. What cannot be found out is no reason not to
/// remove a replica.
pub(crate) async fn taken_over(dir: &DataDir) -> Option<NotOurs> {
    let config = ReplicaConfig::load(dir).ok()?;
    if !dir.store_file().exists() {
        return None;
    }
    let metadata = Metadata::open(dir, &config).await.ok()?;
    let record = metadata.catalog.get(&keys::storage()).await;
    metadata.close().await;
    let mark = record.ok()??.value.mark;
    let found = mark_in_place(dir, &config.storage).await.ok()?;
    match mark.check(found.as_ref()).err()? {
        // A removal that was cut off.
        NotOurs::Unmarked | NotOurs::Older => None,
        why => Some(why),
    }
}

/// The mark of a storage as it is mounted now.
async fn mark_in_place(
    dir: &DataDir,
    storage: &StorageConfig,
) -> Result<Option<StorageMark>, BlobError> {
    let mounted = match storage {
        StorageConfig::Nfs { .. } => StorageConfig::Filesystem { root: Some(dir.nfs()) },
        other => other.clone(),
    };
    look_at_storage(dir, &mounted).await?.mark().await
}

/// Whether a storage has at least one of the blobs that the store knows, if that knows any.
async fn holds_content(catalog: &Catalog, blobs: &SharedBlobs) -> Result<bool, MarkError> {
    let prefix = Kind::Blob.prefix().as_bytes();
    let known = catalog.list::<BlobRecord>(prefix, None, SAMPLE, At::Latest).await?.items;
    for blob in &known {
        if blobs.stat(&blob.value.digest).await?.is_some() {
            return Ok(true);
        }
    }
    Ok(known.is_empty())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "what fails here fails the test")]
mod tests {
    use dtr_blobs::BlobStorage as _;
    use dtr_store_embedded::EmbeddedStore;
    use dtr_types::{SystemClock, SystemRandom};

    use super::*;

    fn catalog() -> Catalog {
        let store = EmbeddedStore::in_memory();
        Catalog::new(store, Arc::new(SystemClock), Arc::new(SystemRandom))
    }

    /// Two survivors of one cluster, each with what it knows, on one storage.
    #[tokio::test]
    async fn only_one_survivor_takes_the_storage_over() {
        let folder = tempfile::tempdir().unwrap();
        let dir = DataDir::new(folder.path().join("data"));
        let storage = StorageConfig::Filesystem { root: Some(folder.path().join("share")) };
        let cluster = ClusterId::random(&SystemRandom);
        let place = Place { dir: &dir, storage: &storage, cluster: &cluster };
        let here: ReplicaId = "0123456789ab".parse().unwrap();
        let (one, other) = (catalog(), catalog());
        place.begin(&one, &open_storage(&dir, &storage).await.unwrap()).await.unwrap();
        let record = one.get(&keys::storage()).await.unwrap().unwrap().value;
        other.put(&record).await.unwrap();
        let served = place.open(&other, &here).await.unwrap();
        served.confirm().await.unwrap();
        place.take_over(&one).await.unwrap();
        // At once, also for who serves already.
        assert!(matches!(served.confirm().await, Err(BlobError::NotOurs { .. })));
        let refused = place.take_over(&other).await;
        assert!(matches!(refused, Err(MarkError::Storage(BlobError::NotOurs { .. }))));
        place.open(&one, &here).await.unwrap().confirm().await.unwrap();
        // Run again, as after it was cut off anywhere: before the mark was written, and after.
        let mark = one.get(&keys::storage()).await.unwrap().unwrap().value.mark;
        assert_eq!(mark.generation, 2);
        look_at_storage(&dir, &storage).await.unwrap().set_mark(&record.mark).await.unwrap();
        place.take_over(&one).await.unwrap();
        place.take_over(&one).await.unwrap();
        place.open(&one, &here).await.unwrap().confirm().await.unwrap();
        assert!(place.take_over(&other).await.is_err());
        // Where the share is not mounted, nothing is taken over.
        std::fs::rename(folder.path().join("share"), folder.path().join("unmounted")).unwrap();
        assert!(place.take_over(&one).await.is_err());
    }
}
