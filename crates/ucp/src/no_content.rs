//! The blob storage of a service that has no images: always empty.

use dtr_blobs::{
    AppendError, Appended, Aside, BlobEntry, BlobError, BlobReader, BlobStorage, ByteStream,
    Health, Staged, UploadEntry,
};
use dtr_types::{Algorithm, Digest, Hasher, StorageMark, UploadId};
use std::ops::Range;

/// An identity service holds no images.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoContent;

#[async_trait::async_trait]
impl BlobStorage for NoContent {
    async fn stat(&self, _: &Digest) -> Result<Option<dtr_blobs::BlobInfo>, BlobError> {
        Ok(None)
    }

    async fn read(&self, digest: &Digest, _: Option<Range<u64>>) -> Result<BlobReader, BlobError> {
        Err(BlobError::NotFound(*digest))
    }

    async fn delete(&self, _: &Digest) -> Result<bool, BlobError> {
        Ok(false)
    }

    async fn set_aside(&self, digest: &Digest) -> Result<Aside, BlobError> {
        Ok(Aside { digest: *digest, token: String::new() })
    }

    async fn put_back(&self, _: Aside) -> Result<(), BlobError> {
        Ok(())
    }

    async fn remove_aside(&self, _: Aside) -> Result<bool, BlobError> {
        Ok(false)
    }

    async fn put_back_all(&self) -> Result<u64, BlobError> {
        Ok(0)
    }

    async fn mark(&self) -> Result<Option<StorageMark>, BlobError> {
        Ok(None)
    }

    async fn set_mark(&self, _: &StorageMark) -> Result<(), BlobError> {
        Ok(())
    }

    async fn list(&self, _: Option<&Digest>, _: usize) -> Result<Vec<BlobEntry>, BlobError> {
        Ok(Vec::new())
    }

    async fn health(&self) -> Health {
        Health::default()
    }

    async fn upload_create(&self, id: &UploadId) -> Result<(), BlobError> {
        Err(BlobError::UploadNotFound(id.clone()))
    }

    async fn upload_append(
        &self,
        id: &UploadId,
        _: u64,
        _: Hasher,
        _: ByteStream,
    ) -> Result<Appended, AppendError> {
        Err(BlobError::UploadNotFound(id.clone()).into())
    }

    async fn upload_finish(&self, id: &UploadId, _: &Appended) -> Result<Staged, BlobError> {
        Err(BlobError::UploadNotFound(id.clone()))
    }

    async fn upload_reopen(&self, id: &UploadId, _: u64) -> Result<(), BlobError> {
        Err(BlobError::UploadNotFound(id.clone()))
    }

    async fn staged_digest(&self, staged: &Staged, _: Algorithm) -> Result<Digest, BlobError> {
        Err(BlobError::UploadNotFound(staged.id.clone()))
    }

    async fn publish(&self, staged: &Staged, _: &Digest) -> Result<(), BlobError> {
        Err(BlobError::UploadNotFound(staged.id.clone()))
    }

    async fn upload_abort(&self, _: &UploadId) -> Result<(), BlobError> {
        Ok(())
    }

    async fn uploads(&self, _: Option<&UploadId>, _: usize) -> Result<Vec<UploadEntry>, BlobError> {
        Ok(Vec::new())
    }

    async fn put(&self, digest: &Digest, _: Option<u64>, _: ByteStream) -> Result<u64, BlobError> {
        Err(BlobError::NotFound(*digest))
    }
}
