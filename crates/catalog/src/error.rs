//! What a catalog operation can end with besides success, by what the caller does about it.

use dtr_store::StoreError;
use dtr_types::{Digest, Tag};

/// A catalog's error.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The engine failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A record cannot be read: damaged, or written by a newer version.
    #[error("the {kind} record at \"{key}\" cannot be read: {reason}")]
    Record {
        /// What it should be.
        kind: &'static str,
        /// Where it is.
        key: String,
        /// Why not.
        reason: String,
    },
    /// A record could not be written as bytes.
    #[error("a {kind} record cannot be encoded: {reason}")]
    Encode {
        /// What it is.
        kind: &'static str,
        /// Why not.
        reason: String,
    },
    /// Something of that name is there already.
    #[error("{kind} \"{name}\" exists already")]
    Exists {
        /// Which kind of thing.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// The thing to change is not there.
    #[error("{kind} \"{name}\" is not there")]
    Missing {
        /// Which kind of thing.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// Others changed the same thing again and again; try later.
    #[error("{0} was changed by others at the same time, several times in a row; try again")]
    Contention(&'static str),
    /// A manifest refers to a blob that its repository does not have.
    #[error("blob {0} is not in the repository")]
    BlobMissing(Digest),
    /// An index refers to a manifest that its repository does not have.
    #[error("manifest {0} is not in the repository")]
    ManifestMissing(Digest),
    /// The tag exists, names other content, and the repository's tags are immutable.
    #[error("tag {0} exists and the repository's tags are immutable")]
    TagImmutable(Tag),
    /// The registry was made read-only.
    #[error("the registry is read-only")]
    ReadOnly,
    /// The blob is just being collected; it can be stored again in a moment.
    #[error("blob {0} is just being removed by the collector; try again in a moment")]
    Condemned(Digest),
    /// A blob that is deleted is needed by manifests of the repository.
    #[error("blob {0} is used by a manifest of the repository")]
    BlobInUse(Digest),
    /// A manifest that is deleted is listed by an index of the repository.
    #[error(
        "manifest {manifest} is part of the index {index}{}; delete that index first, or only the tags of this manifest",
        tag.as_ref().map(|tag| format!(" (tag {tag})")).unwrap_or_default()
    )]
    Listed {
        /// The manifest that was to be deleted.
        manifest: Box<Digest>,
        /// The index that lists it; one with a tag, if there is one.
        index: Box<Digest>,
        /// A tag of that index.
        tag: Option<Tag>,
    },
    /// The manifest refers to more content than a transaction can hold, even in stages.
    #[error("{what}: {count} is more than the {limit} that can be handled")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How many.
        count: usize,
        /// How many can be handled.
        limit: usize,
    },
}
