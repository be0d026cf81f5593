//! Content-addressed bytes at rest: the only code that touches image content on disk.
//!
//! - [`BlobStorage`] is what an engine implements. It is made for file systems and for object stores alike: ranged
//!   reads, uploads in parts, publication as a step of its own, no rename and no directory in sight.
//! - [`FileStorage`] keeps blobs in files, in the layout of the CNCF distribution registry.
//! - [`simulated`] is a disk in memory that loses what was not synced, and fails when told to: for proofs.
//! - [`contract`] is the suite that every engine passes.
//!
//! - [`MarkedStorage`] is one that its cluster may write to: it looks at the storage's mark before each step that matters.
//!
//! Nothing here knows repositories, links or records: which blob may be seen is decided by the catalog. A blob counts
//! as stored when its *record* is committed; bytes without a record are rubbish that the collector finds with
//! [`BlobStorage::list`].

pub mod contract;
pub mod disk;
pub mod simulated;

mod error;
mod examine;
mod file;
mod marked;
mod model;

pub use error::{AppendError, BlobError, BoxError, Told};
pub use examine::{Found, examine, proven};
pub use file::{FileStorage, Options};
pub use marked::MarkedStorage;
pub use model::{
    Appended, Aside, BlobEntry, BlobInfo, BlobReader, ByteStream, Health, Staged, UploadEntry,
    body, empty_body,
};

use std::{fmt::Debug, ops::Range, sync::Arc, time::Duration};

use dtr_types::{Algorithm, Digest, Hasher, StorageMark, UploadId};

/// A place for content. All methods may be called at once from many tasks and, on shared storage, many replicas.
///
/// **The life of an upload**: [`upload_create`](Self::upload_create), any number of
/// [`upload_append`](Self::upload_append) (each followed by a commit of the upload's record with the size and hash state
/// that it returned), [`upload_finish`](Self::upload_finish) once the hash is what the client said,
/// [`publish`](Self::publish), the commit of the blob's record or of a link to it, and last
/// [`upload_end`](Self::upload_end), which removes what is left of it. `publish` may be repeated until then: a
/// publication that lost a race against the collector is done again from the same staged bytes.
///
/// Dropping a future of this trait never leaves anything torn: a step that was begun is either done or not. What an
/// abandoned `upload_append` had written is forgotten by the next one. A server that wants to keep it runs the append in
/// a task of its own, so that a lost connection ends the body and not the task.
#[async_trait::async_trait]
pub trait BlobStorage: Send + Sync + Debug {
    /// Size and time of a blob, or `None` when it is not stored.
    async fn stat(&self, digest: &Digest) -> Result<Option<BlobInfo>, BlobError>;

    /// A blob, or the bytes `range` of it. An end after the blob's end is cut to it; an empty range inside yields nothing.
    ///
    /// # Errors
    /// [`BlobError::NotFound`]; [`BlobError::Range`] when the range begins at or after the end (and is not empty at it).
    async fn read(
        &self,
        digest: &Digest,
        range: Option<Range<u64>>,
    ) -> Result<BlobReader, BlobError>;

    /// Removes a blob; says whether there was one. Readers that have it open read on to the end where the engine can.
    /// Only for content that nobody else can be storing at this moment; the collector removes by [`Self::set_aside`].
    async fn delete(&self, digest: &Digest) -> Result<bool, BlobError>;

    /// The first half of a removal. Between it and the second, [`Self::remove_aside`], the collector makes sure that nobody
    /// needs the bytes that are there *now*. However late the second half is carried out, even by a process that was frozen
    /// for hours, it takes nothing that was published after the first. Until then the blob can be read.
    async fn set_aside(&self, digest: &Digest) -> Result<Aside, BlobError>;

    /// Instead of the second half: the blob stays. Always safe, also when somebody else published it meanwhile.
    async fn put_back(&self, aside: Aside) -> Result<(), BlobError>;

    /// The second half of a removal; says whether there was anything to remove.
    async fn remove_aside(&self, aside: Aside) -> Result<bool, BlobError>;

    /// Puts back what was set aside by removals that never came to their end. Yields how many. A removal that still runs
    /// finds nothing to remove then; its bytes are found by the sweep.
    async fn put_back_all(&self) -> Result<u64, BlobError>;

    /// How long after [`Self::set_aside`] the second half may still take effect on bytes that were published since. Zero
    /// where it never can.
    fn removal_settles(&self) -> Duration {
        Duration::ZERO
    }

    /// The storage's mark: whose content it holds. `None` when it has none.
    async fn mark(&self) -> Result<Option<StorageMark>, BlobError>;

    /// Whether a registry of another program keeps its repositories beside the blobs, as the CNCF distribution registry does.
    async fn has_repositories(&self) -> Result<bool, BlobError> {
        Ok(false)
    }

    /// Writes the mark, durably, in the place of what is there.
    async fn set_mark(&self, mark: &StorageMark) -> Result<(), BlobError>;

    /// How long ago the mark may have been looked at when a blob is published. Zero where the storage may become another
    /// at any moment, as a folder does when its share is no longer mounted.
    fn mark_is_good_for(&self) -> Duration {
        Duration::ZERO
    }

    /// Whether this storage may be written to, looked at just now: for whoever is about to remove something.
    ///
    /// # Errors
    /// [`BlobError::NotOurs`].
    async fn confirm(&self) -> Result<(), BlobError> {
        Ok(())
    }

    /// Blobs in ascending order of digest after `after`, at most `limit`; fewer than `limit` means there are no more.
    /// Blobs that come and go meanwhile may or may not be in it.
    async fn list(&self, after: Option<&Digest>, limit: usize)
    -> Result<Vec<BlobEntry>, BlobError>;

    /// Whether content can be stored at this moment, tried with a small write, and how much room there is.
    async fn health(&self) -> Health;

    /// Where the content is, for people, without secrets; `None` when there is nothing to say.
    fn place(&self) -> Option<String> {
        None
    }

    /// Begins an upload.
    ///
    /// # Errors
    /// [`BlobError::UploadExists`].
    async fn upload_create(&self, id: &UploadId) -> Result<(), BlobError>;

    /// Adds `body` to an upload of which the caller has recorded `at` bytes with the hash state `hasher`. When it returns,
    /// all bytes that it counts are durable: after a power loss an upload that is still there has the recorded bytes, and
    /// none that differ from what was hashed. (An upload begun shortly before may be gone as a whole.)
    ///
    /// Bytes beyond `at`, left by a crash between an append and its record, or by an append that has no record yet, are
    /// neither counted nor changed: whatever appends to an upload at once, on whatever replica, each finds the bytes of its
    /// own record, and whose record is committed finds them again. Frames are gathered to large writes; memory is bounded
    /// by a few of them.
    ///
    /// # Errors
    /// When the body breaks off or the disk is full, [`AppendError::kept`] says what is durable of it nevertheless.
    /// [`BlobError::Offset`] when the storage has less than `at` bytes, [`BlobError::UploadBusy`] when this process is
    /// appending to it or finishing it, [`BlobError::UploadNotFound`] when no such bytes are there, and it may be so after
    /// [`Self::upload_finish`], until [`Self::upload_reopen`].
    async fn upload_append(
        &self,
        id: &UploadId,
        at: u64,
        hasher: Hasher,
        body: ByteStream,
    ) -> Result<Appended, AppendError>;

    /// Closes an upload with the bytes of which `whole` is the size and hash state; they do not change any more. May be
    /// repeated.
    ///
    /// # Errors
    /// As [`Self::upload_append`].
    async fn upload_finish(&self, id: &UploadId, whole: &Appended) -> Result<Staged, BlobError>;

    /// Makes an upload that was finished one that can be appended to again, with its first `at` bytes: the process died
    /// between the finish and the commit that should have followed. Without effect on one that was not finished.
    ///
    /// # Errors
    /// As [`Self::upload_append`], and [`BlobError::UploadNotFound`] where publishing took the staged bytes away.
    async fn upload_reopen(&self, id: &UploadId, at: u64) -> Result<(), BlobError>;

    /// The digest of a staged upload by an algorithm that did not run while it came. Reads all of it.
    ///
    /// # Errors
    /// [`BlobError::UploadNotFound`] after [`Self::upload_abort`].
    async fn staged_digest(
        &self,
        staged: &Staged,
        algorithm: Algorithm,
    ) -> Result<Digest, BlobError>;

    /// Makes a staged upload readable as `digest`, with the present time as its time of modification. When it returns, the
    /// blob is durable under its name. Replaces what is there under the name: these bytes are known to be right. May be
    /// repeated, and may run at once for several uploads of the same digest.
    ///
    /// # Errors
    /// [`BlobError::Mismatch`] when they hash to something else, [`BlobError::UploadNotFound`] after [`Self::upload_abort`].
    async fn publish(&self, staged: &Staged, digest: &Digest) -> Result<(), BlobError>;

    /// Removes an upload, staged or not, published or not. Without effect when there is none.
    async fn upload_abort(&self, id: &UploadId) -> Result<(), BlobError>;

    /// The same for one that was finished, which may be quicker. What late requests on other replicas leave of it, the purge
    /// removes.
    async fn upload_end(&self, staged: &Staged) -> Result<(), BlobError> {
        self.upload_abort(&staged.id).await
    }

    /// Uploads in ascending order of id after `after`, at most `limit`; fewer than `limit` means there are no more.
    /// Also what a [`Self::put`] cut off by a crash left.
    async fn uploads(
        &self,
        after: Option<&UploadId>,
        limit: usize,
    ) -> Result<Vec<UploadEntry>, BlobError>;

    /// Stores a whole blob at once and makes it readable; returns its size. Replaces what is there under the name.
    ///
    /// # Errors
    /// [`BlobError::Mismatch`] when the bytes hash to something else, [`BlobError::Size`] when `size` is given and not
    /// what came (told as soon as it is exceeded). Whatever the error, nothing is left.
    async fn put(
        &self,
        digest: &Digest,
        size: Option<u64>,
        body: ByteStream,
    ) -> Result<u64, BlobError>;
}

/// A shared storage.
pub type SharedBlobs = Arc<dyn BlobStorage>;
