//! What can go wrong with stored content, by what it means to the caller and not by which engine said it.

use std::io;

use dtr_types::{Digest, NotOurs, UploadId};

use crate::Appended;

/// Any error a body may end with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Words of a service, few and all of them: the source of an error that has both.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{long}")]
pub struct Told {
    /// A few words that name no place.
    pub short: String,
    /// All of it.
    pub long: String,
}

/// Why an operation on the blob storage did not succeed. Nothing that was acknowledged before is lost by any of these.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// No such blob.
    #[error("blob {0} is not in the storage")]
    NotFound(Digest),
    /// No such upload: never begun, finished, given up, or purged.
    #[error("upload {0} is not known to the storage; start the upload again")]
    UploadNotFound(UploadId),
    /// An upload with this id was begun before.
    #[error("upload {0} exists already")]
    UploadExists(UploadId),
    /// Another request is writing to this upload right now.
    #[error("upload {0} is being written by another request; wait for it or start a new upload")]
    UploadBusy(UploadId),
    /// The storage has fewer bytes of the upload than the caller counts on.
    #[error(
        "upload {upload} has {present} bytes in the storage, not {expected}; ask for its status and continue there"
    )]
    Offset {
        /// Which upload.
        upload: UploadId,
        /// Bytes that the caller counts on.
        expected: u64,
        /// Bytes that are there.
        present: u64,
    },
    /// The range begins at or after the end of the blob, or ends before it begins.
    #[error("the range asked for is not inside blob {digest} of {size} bytes")]
    Range {
        /// Which blob.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
    },
    /// The bytes hash to something else than was said. Nothing of them is kept.
    #[error("the content hashes to {actual}, not to {expected}; it was refused")]
    Mismatch {
        /// The digest that was promised.
        expected: Box<Digest>,
        /// The digest of the bytes that came.
        actual: Box<Digest>,
    },
    /// Another number of bytes came than was said. Nothing of them is kept.
    #[error("the content of {digest} has {actual} bytes, not {expected}; it was refused")]
    Size {
        /// Which blob.
        digest: Digest,
        /// Bytes promised.
        expected: u64,
        /// Bytes that came (or how many had come when it was refused).
        actual: u64,
    },
    /// What is stored is not what was written: the file ends too early.
    #[error(
        "blob {digest} is damaged: it has {actual} of {expected} bytes; push it again or restore it from a backup with images"
    )]
    Corrupt {
        /// Which blob.
        digest: Digest,
        /// Bytes it had when it was opened.
        expected: u64,
        /// Bytes that could be read.
        actual: u64,
    },
    /// A stored blob that is not as it was written: the size is right, the bytes are others.
    #[error(
        "blob {0} is damaged: its bytes in the storage hash to something else; push it again or restore it from a backup with images"
    )]
    Altered(Digest),
    /// No room: the disk, the quota or the bucket is full. Works again when there is room.
    #[error(
        "no room in the blob storage to {action}; delete images that nobody needs and run \"dtr gc --run\", or make the \
         volume larger"
    )]
    Full {
        /// What was attempted, on which path.
        action: String,
    },
    /// The storage can be read but not written. Works again when it is writable.
    #[error(
        "the blob storage cannot be written to: {action}: {source}; check the mount and its permissions"
    )]
    ReadOnly {
        /// What was attempted, on which path.
        action: String,
        /// What the system said.
        source: io::Error,
    },
    /// The storage did not do what was asked: an I/O error, a lost mount, a server that is away.
    #[error("the blob storage could not {action}: {source}")]
    Unavailable {
        /// What was attempted, on which path.
        action: String,
        /// What the system said.
        source: io::Error,
    },
    /// It is not the storage that this registry may write to. Works again when the right one is in its place.
    #[error("the blob storage {place} cannot be used: {why}")]
    NotOurs {
        /// Where it is.
        place: String,
        /// What is wrong with it, and what to do.
        why: NotOurs,
    },
    /// The body that was being stored broke off or was refused by its reader. The cause is as the body gave it.
    #[error("the content ended early: {0}")]
    Body(BoxError),
    /// The place given at start cannot serve as a blob storage.
    #[error("{root} cannot be used as blob storage: {reason}")]
    Unsuitable {
        /// The place as configured.
        root: String,
        /// What was tried and what the system said.
        reason: String,
    },
}

/// Whether the system says that there is no room.
pub(crate) fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

impl BlobError {
    /// From what the system said about `action` ("write uploads/..."), by meaning.
    pub(crate) fn io(action: impl Into<String>, source: io::Error) -> Self {
        let action = action.into();
        match source.kind() {
            _ if is_full(&source) => Self::Full { action },
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
                Self::ReadOnly { action, source }
            }
            _ => Self::Unavailable { action, source },
        }
    }

    /// The error in a few words that name no place: for answers that are open to everybody, and for tables.
    pub fn short(&self) -> String {
        let told = |source: &io::Error, otherwise: &str| match source.get_ref() {
            Some(told) => {
                told.downcast_ref::<Told>().map_or(otherwise, |told| &told.short).to_owned()
            }
            None => otherwise.to_owned(),
        };
        match self {
            Self::Full { .. } => "there is no room".to_owned(),
            Self::ReadOnly { source, .. } => told(source, "it cannot be written to"),
            Self::Unavailable { source, .. } => told(source, "it cannot be read or written"),
            Self::NotOurs { why, .. } => why.short().to_owned(),
            _ => "it does not do what it should".to_owned(),
        }
    }

    /// Whether the storage is at fault and the same request may succeed later, without a change by the client.
    pub fn is_storage_fault(&self) -> bool {
        matches!(
            self,
            Self::Full { .. }
                | Self::ReadOnly { .. }
                | Self::Unavailable { .. }
                | Self::Unsuitable { .. }
                | Self::NotOurs { .. }
        )
    }
}

/// An append that did not get to the end of its body.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct AppendError {
    /// What is durable nevertheless. Record it, and the client can go on from there; `None` when nothing can be said
    /// about the new bytes: then the record made before stays true.
    pub kept: Option<Box<Appended>>,
    /// Why it stopped.
    #[source]
    pub error: BlobError,
}

impl From<BlobError> for AppendError {
    fn from(error: BlobError) -> Self {
        Self { kept: None, error }
    }
}

impl From<AppendError> for BlobError {
    fn from(error: AppendError) -> Self {
        error.error
    }
}
