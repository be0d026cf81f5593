//! Image content on its way from the archive into the blob storage: as uploads, which nobody sees, until the archive has
//! been proven; then published, before the commit that makes the records valid.

use std::sync::Arc;

use bytes::Bytes;
use dtr_blobs::{AppendError, Appended, BlobError, BlobStorage, BoxError, Staged};
use dtr_types::{Digest, Hasher, Random, UploadId};
use futures_util::StreamExt as _;
use tokio::{sync::mpsc, task::JoinHandle};

use crate::RecoveryError;

/// Blocks between the archive's reader and the storage.
const QUEUE: usize = 4;

struct Open {
    digest: Digest,
    id: UploadId,
    sender: mpsc::Sender<Result<Bytes, BoxError>>,
    task: JoinHandle<Result<Appended, AppendError>>,
}

/// The content so far. Remembers some 130 bytes for each blob that comes from the archive.
pub(super) struct Staging {
    storage: Arc<dyn BlobStorage>,
    /// What all upload ids of this restore begin with; a number follows.
    prefix: String,
    open: Option<Open>,
    staged: Vec<(Digest, Staged)>,
    /// Uploads that were begun, staged or not.
    begun: u64,
    published: u64,
}

fn failed(digest: &Digest, source: BlobError) -> RecoveryError {
    RecoveryError::Blob { digest: Box::new(*digest), source }
}

impl Staging {
    pub(super) fn new(storage: Arc<dyn BlobStorage>, random: &dyn Random) -> Self {
        let id = UploadId::random(random);
        let prefix = id.as_str().chars().take(24).collect();
        Self { storage, prefix, open: None, staged: Vec::new(), begun: 0, published: 0 }
    }

    fn id(&self, number: u64, digest: &Digest) -> Result<UploadId, RecoveryError> {
        format!("{}{number:012x}", self.prefix).parse().map_err(|_| {
            failed(
                digest,
                BlobError::Unsuitable {
                    root: "restore".to_owned(),
                    reason: "too many blobs".to_owned(),
                },
            )
        })
    }

    /// Begins the content of a blob.
    pub(super) async fn begin(&mut self, digest: Digest) -> Result<(), RecoveryError> {
        let id = self.id(self.begun, &digest)?;
        self.begun += 1;
        self.storage.upload_create(&id).await.map_err(|e| failed(&digest, e))?;
        let (sender, receiver) = mpsc::channel(QUEUE);
        let body = futures_util::stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|block| (block, receiver))
        })
        .boxed();
        let (storage, upload) = (self.storage.clone(), id.clone());
        let hasher = Hasher::new(digest.algorithm());
        let task =
            tokio::spawn(async move { storage.upload_append(&upload, 0, hasher, body).await });
        self.open = Some(Open { digest, id, sender, task });
        Ok(())
    }

    /// Takes the next bytes, if this content is wanted.
    pub(super) async fn chunk(&mut self, bytes: Bytes) -> Result<(), RecoveryError> {
        let Some(open) = &self.open else { return Ok(()) };
        if open.sender.send(Ok(bytes)).await.is_err() {
            // The storage takes no more: it says why.
            self.end().await?;
        }
        Ok(())
    }

    /// Ends it; yields its digest if it was wanted.
    pub(super) async fn end(&mut self) -> Result<Option<Digest>, RecoveryError> {
        let Some(Open { digest, id, sender, task }) = self.open.take() else { return Ok(None) };
        drop(sender);
        let stopped = RecoveryError::Stopped("the writing of a blob");
        let appended = task.await.map_err(|_| stopped)?.map_err(|e| failed(&digest, e.error))?;
        // The archive's reader has compared them already; this is what was written, not what was read.
        let actual = appended.hasher.clone().finish();
        if actual != digest {
            let (expected, actual) = (Box::new(digest), Box::new(actual));
            return Err(failed(&digest, BlobError::Mismatch { expected, actual }));
        }
        let staged = self.storage.upload_finish(&id, &appended).await;
        self.staged.push((digest, staged.map_err(|e| failed(&digest, e))?));
        Ok(Some(digest))
    }

    /// Makes everything readable.
    pub(super) async fn publish(&mut self) -> Result<(), RecoveryError> {
        for (digest, staged) in &self.staged {
            self.storage.publish(staged, digest).await.map_err(|e| failed(digest, e))?;
            self.published += 1;
        }
        Ok(())
    }

    /// Blobs that were published.
    pub(super) fn published(&self) -> u64 {
        self.published
    }

    /// Removes what is not published, and what the publication left.
    pub(super) async fn clear(mut self) {
        if let Some(open) = self.open.take() {
            open.task.abort();
            // Whether it had ended or not, the upload is free afterwards.
            let _ = open.task.await;
        }
        for (_, staged) in &self.staged {
            if let Err(error) = self.storage.upload_end(staged).await {
                tracing::warn!(%error, id = %staged.id, "what a restore had staged could not be removed; it is purged later");
            }
        }
        // One after those may have been begun and not staged.
        for number in self.staged.len() as u64..self.begun {
            let Ok(id) = format!("{}{number:012x}", self.prefix).parse::<UploadId>() else {
                continue;
            };
            if let Err(error) = self.storage.upload_abort(&id).await {
                tracing::warn!(%error, %id, "what a restore had staged could not be removed; it is purged later");
            }
        }
    }
}
