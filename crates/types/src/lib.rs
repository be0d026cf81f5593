//! Values that cannot be wrong once made: digests, names, ids, revisions, times, secrets, and the manifests of the
//! image formats. Everything is parsed at the edge and passed on as a type.
//!
//! Invariant: no I/O, no async, no global clock or randomness; both are traits here and are handed in.

mod client_host;
mod clock;
mod digest;
mod household;
mod ids;
mod manifest;
mod mark;
mod name;
mod pem;
mod random;
mod revision;
mod secret;
mod spelling;
mod watched;

pub use client_host::{ClientHost, ClientHostError};
pub use clock::{Clock, Doubt, ManualClock, Running, SystemClock, Timestamp, TimestampError};
pub use digest::{Algorithm, Digest, DigestError, Hasher};
pub use household::household;
pub use ids::{
    AccountId, ClusterId, HoldId, IdError, ReplicaId, RepositoryId, ServiceId, StorageId, TeamId,
    UploadId,
};
pub use manifest::{
    Descriptor, MANIFEST_BYTES_MAX, Manifest, ManifestError, ManifestKind, MediaType, media_types,
};
pub use mark::{NotOurs, StorageMark};
pub use name::{AccountName, NameError, RepositoryName, Tag, TeamName};
pub use pem::why_no_pem;
pub use random::{Random, SeededRandom, SystemRandom};
pub use revision::Revision;
pub use secret::Secret;
pub use watched::{WatchedClock, span};
