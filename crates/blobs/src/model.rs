//! The values that go in and out of a blob storage.

use std::{
    ops::Range,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use dtr_types::{Digest, Hasher, Timestamp, UploadId};
use futures_util::{Stream, StreamExt as _, stream::BoxStream};

use crate::{BlobError, BoxError};

/// Content on its way in, as a request's body gives it. Frames may be of any size, also empty.
pub type ByteStream = BoxStream<'static, Result<Bytes, BoxError>>;

/// A body made of bytes that are there already.
pub fn body(content: impl Into<Bytes>) -> ByteStream {
    let content = content.into();
    futures_util::stream::once(async move { Ok(content) }).boxed()
}

/// A body without a byte.
pub fn empty_body() -> ByteStream {
    futures_util::stream::empty().boxed()
}

/// What is known of a stored blob without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobInfo {
    /// Size in bytes.
    pub size: u64,
    /// When it was last published.
    pub modified: Timestamp,
}

/// A blob in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobEntry {
    /// Which blob.
    pub digest: Digest,
    /// What is known of it.
    pub info: BlobInfo,
}

/// An unfinished upload in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadEntry {
    /// Which upload.
    pub id: UploadId,
    /// Bytes it takes.
    pub size: u64,
    /// When it was last written.
    pub modified: Timestamp,
    /// Whether it was finished and only waits for its publication.
    pub staged: bool,
}

/// How far an upload has come: what the caller writes into its upload record ([`Hasher::save`]).
#[derive(Clone, Debug)]
pub struct Appended {
    /// Bytes of the upload that are durable.
    pub size: u64,
    /// The hash of exactly these bytes, so far.
    pub hasher: Hasher,
}

/// A finished upload: all its bytes are durable, nothing can be appended any more, nobody can read it yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Staged {
    /// Which upload.
    pub id: UploadId,
    /// Its size in bytes.
    pub size: u64,
    /// What its bytes hash to, by the algorithm that ran while they came.
    pub hash: Digest,
}

/// A blob that is being removed: see [`BlobStorage::set_aside`](crate::BlobStorage::set_aside).
#[derive(Clone, PartialEq, Eq)]
pub struct Aside {
    /// Which blob.
    pub digest: Digest,
    /// What the engine knows it by; with it the removal can be carried out.
    pub token: String,
}

impl std::fmt::Debug for Aside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Aside({})", self.digest)
    }
}

/// What a storage says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Why the storage cannot be used, found by a small write; `None` when it can: a few words that name no place, for everybody.
    pub problem: Option<String>,
    /// All of it, with place and cause, for administrators and the log.
    pub detail: Option<String>,
    /// Why content is refused for want of room, although the storage is well: it is read, and content is removed from it. In words
    /// that name no place.
    pub full: Option<String>,
    /// Bytes free for use; `None` when the storage has no limit that it knows.
    pub free: Option<u64>,
    /// Bytes altogether; `None` when the storage has no limit that it knows.
    pub total: Option<u64>,
}

impl Health {
    /// Of a storage that did not do what was asked, and of which nothing else is known.
    pub fn failed(error: &BlobError) -> Self {
        match error {
            BlobError::Full { .. } => Self { full: Some(error.short()), ..Self::default() },
            _ => {
                let (problem, detail) = (Some(error.short()), Some(error.to_string()));
                Self { problem, detail, ..Self::default() }
            }
        }
    }

    /// Whether new content can be stored.
    pub fn is_writable(&self) -> bool {
        self.problem.is_none() && self.full.is_none()
    }
}

/// A blob, or a part of it, being read: a stream of large blocks that ends with an error rather than early.
pub struct BlobReader {
    size: u64,
    range: Range<u64>,
    stream: BoxStream<'static, Result<Bytes, BlobError>>,
}

impl BlobReader {
    /// `stream` must yield exactly the bytes of `range` (inside `size`) or an error.
    pub fn new(
        size: u64,
        range: Range<u64>,
        stream: BoxStream<'static, Result<Bytes, BlobError>>,
    ) -> Self {
        Self { size, range, stream }
    }

    /// Size of the whole blob in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The part of the blob that this reads.
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// Bytes that this yields.
    pub fn len(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Whether this yields no byte.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// All of it at once, for content whose size the caller has checked.
    pub async fn bytes(mut self) -> Result<Bytes, BlobError> {
        let Some(first) = self.next().await.transpose()? else { return Ok(Bytes::new()) };
        if first.len() as u64 == self.len() {
            return Ok(first);
        }
        let mut all = Vec::with_capacity(usize::try_from(self.len()).unwrap_or_default());
        all.extend_from_slice(&first);
        while let Some(block) = self.next().await {
            all.extend_from_slice(&block?);
        }
        Ok(all.into())
    }

    /// As a body for [`BlobStorage::put`](crate::BlobStorage::put) of another storage.
    pub fn into_body(self) -> ByteStream {
        self.map(|block| block.map_err(BoxError::from)).boxed()
    }
}

impl Stream for BlobReader {
    type Item = Result<Bytes, BlobError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.stream.poll_next_unpin(cx)
    }
}

impl std::fmt::Debug for BlobReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BlobReader({:?} of {})", self.range, self.size)
    }
}
