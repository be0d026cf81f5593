//! The blob storage that a replica's configuration names.

use std::{path::Path, sync::Arc};

use dtr_blobs::{BlobError, FileStorage, SharedBlobs};
use dtr_blobs_s3::{S3Settings, S3Storage};
use dtr_types::{SystemClock, SystemRandom};

use crate::{DataDir, StorageConfig};

/// Opens the blob storage of a replica. A folder must be there and be writable. A bucket may be away at this moment: the
/// replica starts, and its health says what is wrong.
///
/// # Errors
/// [`BlobError::Unsuitable`].
pub async fn open_storage(
    dir: &DataDir,
    storage: &StorageConfig,
) -> Result<SharedBlobs, BlobError> {
    match storage {
        StorageConfig::Filesystem { root } => {
            open_folder(&root.clone().unwrap_or_else(|| dir.default_storage())).await
        }
        StorageConfig::S3(settings) => Ok(Arc::new(open_bucket(settings)?)),
        StorageConfig::Nfs { url } => {
            url.mount(&dir.nfs()).await?;
            open_folder(&dir.nfs()).await
        }
    }
}

/// Opens the blob storage of a replica for a look: nothing is made, tried or written.
///
/// # Errors
/// [`BlobError::Unsuitable`].
pub(crate) async fn look_at_storage(
    dir: &DataDir,
    storage: &StorageConfig,
) -> Result<SharedBlobs, BlobError> {
    let folder = match storage {
        StorageConfig::Filesystem { root } => root.clone().unwrap_or_else(|| dir.default_storage()),
        StorageConfig::S3(settings) => return Ok(Arc::new(open_bucket(settings)?)),
        StorageConfig::Nfs { url } => {
            url.mount(&dir.nfs()).await?;
            dir.nfs()
        }
    };
    Ok(Arc::new(FileStorage::unprepared(folder, options())))
}

/// Content stops before the store does, which mostly lies on the same disk: a push of which the content is there can be
/// finished then.
fn options() -> dtr_blobs::Options {
    let options = dtr_blobs::Options::new(Arc::new(SystemClock), Arc::new(SystemRandom));
    dtr_blobs::Options { reserve_bytes: 2 * dtr_store_embedded::RESERVE_BYTES, ..options }
}

/// Opens a storage in a folder, which is made if need be.
pub(crate) async fn open_folder(root: &Path) -> Result<SharedBlobs, BlobError> {
    Ok(Arc::new(FileStorage::open(root, options()).await?))
}

/// The place, for messages.
pub(crate) fn place(dir: &DataDir, storage: &StorageConfig) -> String {
    match storage {
        StorageConfig::Filesystem { root: Some(root) } => root.display().to_string(),
        StorageConfig::Filesystem { root: None } => dir.default_storage().display().to_string(),
        StorageConfig::S3(settings) => settings.to_string(),
        StorageConfig::Nfs { url } => url.to_string(),
    }
}

fn open_bucket(settings: &S3Settings) -> Result<S3Storage, BlobError> {
    S3Storage::open(settings, Arc::new(SystemRandom))
}

/// Tries a storage before it is relied on: a bucket is written to, read and listed. A folder is tried when it is opened.
///
/// # Errors
/// [`BlobError::Unsuitable`] with what to correct.
pub async fn check_storage(storage: &StorageConfig) -> Result<(), BlobError> {
    match storage {
        StorageConfig::Filesystem { .. } => Ok(()),
        StorageConfig::Nfs { url } => url.check(),
        StorageConfig::S3(settings) => open_bucket(settings)?.check().await,
    }
}
