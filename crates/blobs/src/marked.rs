//! A blob storage that is written to only while it has the mark that the cluster's store says. A share that is not
//! mounted, another one in its place, or one that another cluster has taken over is never written to, and nothing in it
//! is removed.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use dtr_types::{Algorithm, Digest, Hasher, NotOurs, StorageMark, UploadId};
use parking_lot::Mutex;

use crate::{
    AppendError, Appended, Aside, BlobEntry, BlobError, BlobInfo, BlobReader, BlobStorage,
    ByteStream, Health, SharedBlobs, Staged, UploadEntry,
};

/// How old a look at the mark may be for what is neither published nor removed.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// A storage with the mark that it must have.
#[derive(Debug)]
pub struct MarkedStorage {
    inner: SharedBlobs,
    place: String,
    mark: StorageMark,
    /// When the mark was read last, and what was wrong with it.
    seen: Mutex<Option<(Instant, Option<NotOurs>)>>,
}

impl MarkedStorage {
    /// Over a storage that must have this mark. `place` is where it is, for messages.
    pub fn new(inner: SharedBlobs, place: impl Into<String>, mark: StorageMark) -> Self {
        Self { inner, place: place.into(), mark, seen: Mutex::default() }
    }

    /// Looks at the mark, unless that was done within `age`.
    ///
    /// # Errors
    /// [`BlobError::NotOurs`]; what went wrong with reading it.
    pub async fn look(&self, age: Duration) -> Result<(), BlobError> {
        let known = self.seen.lock().clone().filter(|(at, _)| at.elapsed() < age);
        let trouble = match known {
            Some((_, trouble)) => trouble,
            None => {
                // Before it is read: what is remembered must not seem younger than it is.
                let at = Instant::now();
                let trouble = self.mark.check(self.inner.mark().await?.as_ref()).err();
                self.tell(trouble.as_ref());
                *self.seen.lock() = Some((at, trouble.clone()));
                trouble
            }
        };
        trouble.map_or(Ok(()), |why| Err(self.refused(why)))
    }

    /// The same for requests that write anything at all: `None` when they may, or when it is not known within a moment, as
    /// when the storage hangs. What needs the storage finds out by itself.
    pub async fn trouble(&self) -> Option<NotOurs> {
        match tokio::time::timeout(LOOK_AGAIN, self.look(LOOK_AGAIN)).await {
            Ok(Err(BlobError::NotOurs { why, .. })) => Some(why),
            _ => self.seen.lock().as_ref().and_then(|(_, trouble)| trouble.clone()),
        }
    }

    fn refused(&self, why: NotOurs) -> BlobError {
        BlobError::NotOurs { place: self.place.clone(), why }
    }

    /// Says in the log what has changed.
    fn tell(&self, trouble: Option<&NotOurs>) {
        let before = self.seen.lock().as_ref().and_then(|(_, trouble)| trouble.clone());
        match (before, trouble) {
            (before, Some(now)) if before.as_ref() != Some(now) => {
                tracing::error!(place = self.place, "the blob storage cannot be used: {now}");
            }
            (Some(_), None) => {
                tracing::info!(place = self.place, "the blob storage is the right one again");
            }
            _ => {}
        }
    }

    /// For what was not found: whether it can be trusted that it is not there.
    async fn sure(&self) -> Result<(), BlobError> {
        match self.look(LOOK_AGAIN).await {
            // It is the right one; that another cluster writes to it does not matter to who reads.
            Err(BlobError::NotOurs { why: NotOurs::TakenOver { .. }, .. }) => Ok(()),
            other => other,
        }
    }
}

#[async_trait::async_trait]
impl BlobStorage for MarkedStorage {
    async fn stat(&self, digest: &Digest) -> Result<Option<BlobInfo>, BlobError> {
        let found = self.inner.stat(digest).await?;
        if found.is_none() {
            self.sure().await?;
        }
        Ok(found)
    }

    async fn read(
        &self,
        digest: &Digest,
        range: Option<Range<u64>>,
    ) -> Result<BlobReader, BlobError> {
        let read = self.inner.read(digest, range).await;
        if matches!(read, Err(BlobError::NotFound(_))) {
            self.sure().await?;
        }
        read
    }

    async fn delete(&self, digest: &Digest) -> Result<bool, BlobError> {
        self.confirm().await?;
        self.inner.delete(digest).await
    }

    async fn set_aside(&self, digest: &Digest) -> Result<Aside, BlobError> {
        self.confirm().await?;
        self.inner.set_aside(digest).await
    }

    async fn put_back(&self, aside: Aside) -> Result<(), BlobError> {
        self.inner.put_back(aside).await
    }

    async fn remove_aside(&self, aside: Aside) -> Result<bool, BlobError> {
        // After it was set aside, not before: whoever takes the storage over from here on puts it back.
        if let Err(error) = self.confirm().await {
            self.inner.put_back(aside).await?;
            return Err(error);
        }
        self.inner.remove_aside(aside).await
    }

    async fn put_back_all(&self) -> Result<u64, BlobError> {
        self.confirm().await?;
        self.inner.put_back_all().await
    }

    fn removal_settles(&self) -> Duration {
        self.inner.removal_settles()
    }

    async fn mark(&self) -> Result<Option<StorageMark>, BlobError> {
        self.inner.mark().await
    }

    async fn has_repositories(&self) -> Result<bool, BlobError> {
        self.inner.has_repositories().await
    }

    async fn set_mark(&self, mark: &StorageMark) -> Result<(), BlobError> {
        self.inner.set_mark(mark).await
    }

    fn mark_is_good_for(&self) -> Duration {
        self.inner.mark_is_good_for()
    }

    async fn confirm(&self) -> Result<(), BlobError> {
        self.look(Duration::ZERO).await
    }

    async fn list(
        &self,
        after: Option<&Digest>,
        limit: usize,
    ) -> Result<Vec<BlobEntry>, BlobError> {
        self.look(LOOK_AGAIN).await?;
        self.inner.list(after, limit).await
    }

    async fn health(&self) -> Health {
        // The probe is a write: not into what is not ours.
        match self.confirm().await {
            Ok(()) => self.inner.health().await,
            Err(error) => Health::failed(&error),
        }
    }

    fn place(&self) -> Option<String> {
        self.inner.place()
    }

    async fn upload_create(&self, id: &UploadId) -> Result<(), BlobError> {
        self.look(LOOK_AGAIN).await?;
        self.inner.upload_create(id).await
    }

    async fn upload_append(
        &self,
        id: &UploadId,
        at: u64,
        hasher: Hasher,
        body: ByteStream,
    ) -> Result<Appended, AppendError> {
        self.look(LOOK_AGAIN).await?;
        self.inner.upload_append(id, at, hasher, body).await
    }

    async fn upload_finish(&self, id: &UploadId, whole: &Appended) -> Result<Staged, BlobError> {
        self.look(LOOK_AGAIN).await?;
        self.inner.upload_finish(id, whole).await
    }

    async fn upload_reopen(&self, id: &UploadId, at: u64) -> Result<(), BlobError> {
        self.look(LOOK_AGAIN).await?;
        self.inner.upload_reopen(id, at).await
    }

    async fn staged_digest(
        &self,
        staged: &Staged,
        algorithm: Algorithm,
    ) -> Result<Digest, BlobError> {
        self.inner.staged_digest(staged, algorithm).await
    }

    async fn publish(&self, staged: &Staged, digest: &Digest) -> Result<(), BlobError> {
        self.look(self.inner.mark_is_good_for()).await?;
        self.inner.publish(staged, digest).await
    }

    async fn upload_abort(&self, id: &UploadId) -> Result<(), BlobError> {
        self.look(LOOK_AGAIN).await?;
        self.inner.upload_abort(id).await
    }

    async fn uploads(
        &self,
        after: Option<&UploadId>,
        limit: usize,
    ) -> Result<Vec<UploadEntry>, BlobError> {
        self.look(LOOK_AGAIN).await?;
        self.inner.uploads(after, limit).await
    }

    async fn put(
        &self,
        digest: &Digest,
        size: Option<u64>,
        body: ByteStream,
    ) -> Result<u64, BlobError> {
        self.look(self.inner.mark_is_good_for()).await?;
        self.inner.put(digest, size, body).await
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "what fails here fails the test")]
mod tests {
    use std::sync::Arc;

    use dtr_types::{ClusterId, Random as _, SeededRandom};

    use super::*;
    use crate::{body, simulated::SimulatedDisk};

    fn marked(inner: &SharedBlobs, mark: &StorageMark) -> MarkedStorage {
        MarkedStorage::new(inner.clone(), "here", mark.clone())
    }

    #[tokio::test]
    async fn it_keeps_the_contract() {
        let inner: SharedBlobs = Arc::new(SimulatedDisk::new().storage().await.unwrap());
        let random = SeededRandom::new(1);
        let mark = StorageMark::first(&ClusterId::random(&random), &random);
        inner.set_mark(&mark).await.unwrap();
        crate::contract::run(Arc::new(marked(&inner, &mark))).await;
    }

    #[tokio::test]
    async fn what_is_not_ours_is_neither_written_nor_removed() {
        let random = SeededRandom::new(2);
        let cluster = ClusterId::random(&random);
        let ours = StorageMark::first(&cluster, &random);
        let others =
            [None, Some(StorageMark::first(&cluster, &random)), Some(ours.next(&cluster, &random))];
        for other in others {
            let disk = SimulatedDisk::new();
            let inner: SharedBlobs = Arc::new(disk.storage().await.unwrap());
            let digest = Digest::of(b"hello");
            inner.put(&digest, None, body("hello")).await.unwrap();
            if let Some(other) = &other {
                inner.set_mark(other).await.unwrap();
            }
            let storage = marked(&inner, &ours);
            let before = disk.files();
            let id = UploadId::random(&random);
            let new = Digest::of(b"new");
            let staged = Staged { id: id.clone(), size: 0, hash: Digest::of(b"") };
            let aside = Aside { digest, token: random.hex(8) };
            for refused in [
                storage.upload_create(&id).await,
                storage.put(&new, None, body("new")).await.map(drop),
                storage.publish(&staged, &new).await,
                storage.delete(&digest).await.map(drop),
                storage.set_aside(&digest).await.map(drop),
                storage.remove_aside(aside).await.map(drop),
                storage.list(None, 10).await.map(drop),
                storage.upload_abort(&id).await,
                storage.confirm().await,
            ] {
                assert!(matches!(refused, Err(BlobError::NotOurs { .. })), "{other:?} {refused:?}");
            }
            assert!(storage.health().await.problem.is_some());
            assert_eq!(disk.files(), before);
            // What is there is read; what is not there may be where the share is.
            assert!(storage.read(&digest, None).await.is_ok());
            let missing = storage.read(&new, None).await;
            let is_gone = matches!(missing, Err(BlobError::NotFound(_)));
            let is_taken = other.is_some_and(|other| other.storage == ours.storage);
            assert_eq!(is_gone, is_taken, "{missing:?}");
        }
    }

    #[tokio::test]
    async fn what_was_set_aside_before_it_was_taken_over_goes_back() {
        let random = SeededRandom::new(3);
        let cluster = ClusterId::random(&random);
        let inner: SharedBlobs = Arc::new(SimulatedDisk::new().storage().await.unwrap());
        let ours = StorageMark::first(&cluster, &random);
        inner.set_mark(&ours).await.unwrap();
        let digest = Digest::of(b"hello");
        inner.put(&digest, None, body("hello")).await.unwrap();
        let storage = marked(&inner, &ours);
        let aside = storage.set_aside(&digest).await.unwrap();
        inner.set_mark(&ours.next(&cluster, &random)).await.unwrap();
        let removed = storage.remove_aside(aside).await;
        assert!(matches!(removed, Err(BlobError::NotOurs { .. })), "{removed:?}");
        assert_eq!(inner.list(None, 10).await.unwrap().len(), 1);
    }
}
