//! What a backup, a verification or a restore can end with, and the exit code of each.

use dtr_archive::ArchiveError;
use dtr_blobs::BlobError;
use dtr_catalog::CatalogError;
use dtr_identity::IdentityError;
use dtr_store::StoreError;
use dtr_types::Digest;

use crate::Exit;

/// Names that are listed in a message; the report has all of them.
const SHOWN_MAX: usize = 20;

/// Why a restore was not even begun, or given up without a trace.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The store has something in it.
    #[error(
        "the target is not empty: it holds {found}. A restore makes a new cluster and never merges: give it a store \
         with nothing in it"
    )]
    NotEmpty {
        /// What was found.
        found: String,
    },
    /// Records of a newer schema.
    #[error(
        "the archive's records have schema {schema}, written by version {version}; this version knows \
         schemas up to {known}. Restore it with version {version} or newer"
    )]
    NewerSchema {
        /// The archive's.
        schema: u32,
        /// The version that wrote it.
        version: String,
        /// The newest known.
        known: u32,
    },
    /// Records of a schema that there never was.
    #[error(
        "the archive's records have schema {schema}, which no version ever wrote: it was altered, or made by something else"
    )]
    UnknownSchema {
        /// The archive's.
        schema: u32,
    },
    /// The archive is one of the other program.
    #[error("the archive is a backup of {found}, not of {expected}")]
    OtherProduct {
        /// What it is of.
        found: &'static str,
        /// What was wanted.
        expected: &'static str,
    },
    /// Accounts or teams that nobody here is.
    #[error(
        "{count} owners of the archive are not known to the identity service here: {}. \
         Restore the identity service first, load the archive's own accounts if it has them (--with-identity), say who \
         they are (--map-owners FILE), or accept that only administrators reach what they own (--allow-unknown-owners)",
        shown(owners)
    )]
    UnknownOwners {
        /// How many.
        count: usize,
        /// Each: what it is called or its id, and what it owns.
        owners: Vec<String>,
    },
    /// Two repositories would have one name, or one a name that none can have.
    #[error(
        "repositories would lose their names: {}. Give owners names of their own in the owner map (--map-owners)",
        shown(names)
    )]
    Names {
        /// Each: which repositories, and what they would be called.
        names: Vec<String>,
    },
    /// It is what was salvaged of a damaged archive, and nobody said that this is known.
    #[error(
        "the archive was salvaged from a damaged one, {lost} things are lost, and who wrote it cannot be proven \
         (\"dtr backup verify\" lists them). If there is no better one, say so with --salvaged"
    )]
    Salvaged {
        /// What it lists.
        lost: u64,
    },
    /// None of the blobs is in the blob storage.
    #[error(
        "the blob storage has none of the {count} blobs that the archive mentions. Is it the right one? \
         Name the storage that the registry used, put its content back first, or say that the registry shall \
         start without (--allow-empty-storage)"
    )]
    StorageEmpty {
        /// How many are missing.
        count: u64,
    },
    /// A copy would take the storage from the cluster that has it.
    #[error(
        "the blob storage is that of cluster {cluster}, and a copy must not take it away: give the copy a storage of its own, \
         with an archive that has the images (dtr backup --with-images), or with a copy of the content from which the file \
         dtr-storage.json was removed"
    )]
    StorageTaken {
        /// Whose it is.
        cluster: String,
    },
    /// The archive has no accounts to load.
    #[error(
        "the accounts of the archive were to be loaded, but it has none: it was made without --with-identity"
    )]
    NoIdentity,
    /// The identity service does not take the archive's accounts.
    #[error(
        "the archive's accounts cannot be loaded: {reason}. Without --with-identity owners are found among the accounts \
         that are there, by id or by name"
    )]
    Accounts {
        /// Who refused what.
        reason: String,
    },
}

fn shown(names: &[String]) -> String {
    let mut text = names.iter().take(SHOWN_MAX).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN_MAX {
        text.push_str(&format!(" and {} more", names.len() - SHOWN_MAX));
    }
    text
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The archive could not be written, or is not what it should be.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A line of the archive that is not a record of its kind, or in the wrong place.
    #[error("\"{entry}\" line {line}: {why}")]
    Record {
        /// The entry.
        entry: String,
        /// The line, from 1.
        line: u64,
        /// What is wrong.
        why: String,
    },
    /// Records that refer to others which are not there.
    #[error(
        "the archive is signed, but its records do not fit together: {first} ({count} such findings)"
    )]
    Inconsistent {
        /// The first finding.
        first: String,
        /// How many there are.
        count: u64,
    },
    /// The catalog failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The blob storage failed.
    #[error("blob {digest}: {source}")]
    Blob {
        /// Which blob.
        digest: Box<Digest>,
        /// What happened.
        source: BlobError,
    },
    /// The blob storage could not be taken over from the cluster that had it.
    #[error("the blob storage cannot be taken over: {0}")]
    Storage(BlobError),
    /// The identity service failed.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Nothing was changed.
    #[error("refused: {0}")]
    Refused(#[from] Refusal),
    /// The store has no cluster.
    #[error(
        "there is nothing to back up: this store is not installed, or a restore into it has not finished"
    )]
    NotInstalled,
    /// The hold was lost, so the revision may be gone.
    #[error(
        "the backup was given up: its hold expired, since this process stood still for too long. Run it again"
    )]
    HoldLost,
    /// The cluster's key for archives is not usable.
    #[error("the cluster's key for signing archives cannot be used: {0}")]
    SigningKey(String),
    /// A certificate that every registry needs could not be made.
    #[error("a certificate could not be made: {0}")]
    Certificate(#[from] dtr_transport::pki::PkiError),
    /// A thread ended without an answer.
    #[error("{0} stopped unexpectedly; see the log")]
    Stopped(&'static str),
}

impl From<StoreError> for RecoveryError {
    fn from(error: StoreError) -> Self {
        Self::Catalog(error.into())
    }
}

impl From<serde_json::Error> for RecoveryError {
    fn from(error: serde_json::Error) -> Self {
        CatalogError::Encode { kind: "archive", reason: error.to_string() }.into()
    }
}

impl RecoveryError {
    /// The exit code of a command that ends with this.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Archive(error) => Exit::of(error),
            Self::Record { .. } | Self::Inconsistent { .. } => Exit::Damaged,
            Self::Refused(_) => Exit::Refused,
            Self::Catalog(_)
            | Self::Blob { .. }
            | Self::Storage(_)
            | Self::Identity(_)
            | Self::NotInstalled
            | Self::HoldLost
            | Self::SigningKey(_)
            | Self::Certificate(_)
            | Self::Stopped(_) => Exit::Failed,
        }
    }
}
