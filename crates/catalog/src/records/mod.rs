//! What is stored, one file a noun. All records carry the parts of their key.

mod access;
mod cluster;
mod content;
mod event;
mod identity;
mod repository;
mod settings;

pub use access::{AccessLevel, AccessToken, NamespaceGrant, RepositoryGrant, TokenOrigin};
pub use cluster::{
    BackupRecord, CertificateRecord, ClusterRecord, DATA_FORMAT, IdentitySource, KeyPurpose,
    KeyRecord, LockRecord, ReplicaRecord, RestartRecord, RestoreRecord, RestoredFrom,
    StorageRecord,
};
pub use content::{
    BlobRecord, Candidate, CondemnedRecord, CondemnedStage, Damage, DamagedBlob, DeletedManifest,
    ManifestRecord, ReferrerRecord, StagedManifest, TagRecord, UnlinkedBlob, UploadRecord,
};
pub use event::{Event, EventObject, EventType};
pub use identity::{
    Account, Bound, Credential, Membership, Service, ServiceReplica, Session, Team, TeamMembership,
};
pub use repository::{Counters, DeletedRepository, Repository, Visibility};
pub use settings::Settings;

/// Implements [`Record`](crate::Record): its kind, and the key from its own fields.
macro_rules! record {
    ($type:ident, $kind:ident, |$self:ident| $key:expr) => {
        impl crate::Record for $type {
            const KIND: crate::Kind = crate::Kind::$kind;
            fn key(&self) -> bytes::Bytes {
                let $self = self;
                $key.into()
            }
        }
    };
}
pub(crate) use record;
