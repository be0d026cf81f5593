//! Image content in an S3-compatible object store, shared by all replicas: an engine of [`dtr_blobs`].
//!
//! - [`S3Settings`] says which bucket and how it is reached, in the words of DTR's storage form.
//! - [`S3Storage`] is the engine. [`S3Storage::check`] tries a bucket before it is relied on.
//!
//! Blobs lie where the CNCF distribution registry has them, so a bucket can be taken over from one, and left again. An
//! object is seen whole or not at all; what makes uploads resumable from any replica is told at `Piece` in `layout.rs`:
//! all of it is in the bucket and in the upload's record, and no replica keeps anything of its own.

mod check;
mod client;
mod error;
mod layout;
mod publish;
mod pump;
mod read;
mod remove;
mod session;
mod settings;
mod upload;

pub use settings::S3Settings;

use std::{fmt, ops::Range, sync::Arc, time::Duration};

use dtr_blobs::{
    AppendError, Appended, Aside, BlobEntry, BlobError, BlobInfo, BlobReader, BlobStorage,
    ByteStream, Health, Staged, UploadEntry,
};
use dtr_types::{Algorithm, Digest, Hasher, Random, StorageMark, UploadId};

use client::Bucket;
use upload::Busy;

/// A blob storage in an S3-compatible bucket. Clones are the same storage.
#[derive(Clone)]
pub struct S3Storage {
    bucket: Arc<Bucket>,
    busy: Arc<Busy>,
    removals_good_for: Duration,
}

impl fmt::Debug for S3Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "S3Storage({:?})", self.bucket)
    }
}

impl S3Storage {
    /// Prepares the connection. Nothing is asked of the service yet, so that a replica starts, and says what is wrong,
    /// while its storage is away; see [`S3Storage::check`].
    ///
    /// # Errors
    /// [`BlobError::Unsuitable`] with what is wrong in the settings.
    pub fn open(settings: &S3Settings, random: Arc<dyn Random>) -> Result<Self, BlobError> {
        let bucket = Bucket::open(settings, random)
            .map_err(|reason| BlobError::Unsuitable { root: settings.to_string(), reason })?;
        let (bucket, busy) = (Arc::new(bucket), Arc::default());
        Ok(Self { bucket, busy, removals_good_for: remove::GOOD_FOR })
    }

    /// The same with another time within which a removal must be carried out once it was prepared.
    #[must_use]
    pub fn with_removals_good_for(self, removals_good_for: Duration) -> Self {
        Self { removals_good_for, ..self }
    }

    /// Writes, reads, lists and deletes an object: whether the bucket is there, the key may do what is needed, and the service
    /// encrypts and has the storage class, where the settings ask for that.
    ///
    /// # Errors
    /// [`BlobError::Unsuitable`] with the step that failed, and what to correct.
    pub async fn check(&self) -> Result<(), BlobError> {
        check::probe(&self.bucket).await.map_err(|error| match error {
            error @ BlobError::Unsuitable { .. } => error,
            error => {
                let root = self.bucket.place().to_owned();
                BlobError::Unsuitable { root, reason: error.to_string() }
            }
        })
    }

    /// Leaves a token in the bucket, of letters, digits and hyphens, for another replica to see.
    ///
    /// # Errors
    /// As for any write.
    pub async fn leave_token(&self, token: &str) -> Result<(), BlobError> {
        check::leave_token(&self.bucket, token).await
    }

    /// Whether a token is in the bucket: then whoever left it uses the same one.
    ///
    /// # Errors
    /// As for any read.
    pub async fn sees_token(&self, token: &str) -> Result<bool, BlobError> {
        check::sees_token(&self.bucket, token).await
    }

    /// Removes a token.
    ///
    /// # Errors
    /// As for any deletion.
    pub async fn remove_token(&self, token: &str) -> Result<(), BlobError> {
        check::remove_token(&self.bucket, token).await
    }
}

#[async_trait::async_trait]
impl BlobStorage for S3Storage {
    async fn stat(&self, digest: &Digest) -> Result<Option<BlobInfo>, BlobError> {
        read::stat(&self.bucket, digest).await
    }

    async fn read(
        &self,
        digest: &Digest,
        range: Option<Range<u64>>,
    ) -> Result<BlobReader, BlobError> {
        read::read(&self.bucket, digest, range).await
    }

    async fn delete(&self, digest: &Digest) -> Result<bool, BlobError> {
        read::delete(&self.bucket, digest).await
    }

    async fn set_aside(&self, digest: &Digest) -> Result<Aside, BlobError> {
        remove::set_aside(&self.bucket, digest, self.removals_good_for).await
    }

    async fn put_back(&self, _: Aside) -> Result<(), BlobError> {
        Ok(())
    }

    async fn remove_aside(&self, aside: Aside) -> Result<bool, BlobError> {
        remove::remove_aside(&self.bucket, aside).await
    }

    async fn put_back_all(&self) -> Result<u64, BlobError> {
        Ok(0)
    }

    fn removal_settles(&self) -> Duration {
        remove::SETTLES
    }

    async fn mark(&self) -> Result<Option<StorageMark>, BlobError> {
        check::mark(&self.bucket).await
    }

    async fn has_repositories(&self) -> Result<bool, BlobError> {
        check::has_repositories(&self.bucket).await
    }

    async fn set_mark(&self, mark: &StorageMark) -> Result<(), BlobError> {
        self.bucket.put(&self.bucket.layout.mark(), mark.to_text().into()).await
    }

    fn mark_is_good_for(&self) -> Duration {
        check::MARK_IS_GOOD_FOR
    }

    async fn list(
        &self,
        after: Option<&Digest>,
        limit: usize,
    ) -> Result<Vec<BlobEntry>, BlobError> {
        read::list(&self.bucket, after, limit).await
    }

    async fn health(&self) -> Health {
        check::health(&self.bucket).await
    }

    fn place(&self) -> Option<String> {
        Some(self.bucket.place().to_owned())
    }

    async fn upload_create(&self, id: &UploadId) -> Result<(), BlobError> {
        upload::create(&self.bucket, id).await
    }

    async fn upload_append(
        &self,
        id: &UploadId,
        at: u64,
        hasher: Hasher,
        body: ByteStream,
    ) -> Result<Appended, AppendError> {
        let _turn = self.busy.take(id)?;
        upload::append(&self.bucket, id, at, hasher, body).await
    }

    async fn upload_finish(&self, id: &UploadId, whole: &Appended) -> Result<Staged, BlobError> {
        let _turn = self.busy.take(id)?;
        upload::finish(&self.bucket, id, whole).await
    }

    async fn upload_reopen(&self, id: &UploadId, at: u64) -> Result<(), BlobError> {
        let _turn = self.busy.take(id)?;
        upload::reopen(&self.bucket, id, at).await
    }

    async fn staged_digest(
        &self,
        staged: &Staged,
        algorithm: Algorithm,
    ) -> Result<Digest, BlobError> {
        publish::staged_digest(&self.bucket, staged, algorithm).await
    }

    async fn publish(&self, staged: &Staged, digest: &Digest) -> Result<(), BlobError> {
        publish::publish(&self.bucket, staged, digest).await
    }

    async fn upload_abort(&self, id: &UploadId) -> Result<(), BlobError> {
        upload::abort(&self.bucket, id).await
    }

    async fn uploads(
        &self,
        after: Option<&UploadId>,
        limit: usize,
    ) -> Result<Vec<UploadEntry>, BlobError> {
        read::uploads(&self.bucket, after, limit).await
    }

    async fn put(
        &self,
        digest: &Digest,
        size: Option<u64>,
        body: ByteStream,
    ) -> Result<u64, BlobError> {
        upload::put(&self.bucket, digest, size, body).await
    }
}
