//! The cluster itself: its identity, replicas, keys, certificates, backups.

use dtr_types::{ClusterId, ReplicaId, Revision, Secret, ServiceId, StorageMark, Timestamp};
use serde::{Deserialize, Serialize};

use super::record;
use crate::keys;

/// The form of the data as a whole. A store of a newer format is refused by name; an older one is migrated at start.
pub const DATA_FORMAT: u32 = 1;

/// Which identity service says who is who.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum IdentitySource {
    /// This store.
    BuiltIn,
    /// A UCP.
    #[serde(rename_all = "camelCase")]
    Ucp {
        /// Its address: `https://host:port`.
        url: String,
        /// PEM of its certificate authority; empty to trust the system's.
        #[serde(default)]
        ca: String,
        /// Whether its certificate is not verified.
        #[serde(default)]
        insecure_tls: bool,
        /// What this cluster is registered as there.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        service: Option<ServiceId>,
    },
}

/// Where a restored cluster came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoredFrom {
    /// The cluster that was backed up.
    pub cluster: ClusterId,
    /// At which revision.
    pub revision: Revision,
    /// When the backup was taken.
    pub backed_up_at: Timestamp,
    /// When it was restored.
    pub restored_at: Timestamp,
    /// Blobs whose content was nowhere.
    #[serde(default)]
    pub blobs_missing: u64,
    /// Ids of the keys that signed the backups of the clusters that it came from, the last one's first. None of them signs
    /// any more: a restore makes a new one.
    #[serde(default)]
    pub archive_keys: Vec<String>,
}

/// The cluster. Written last by an install and by a restore: a store without it is not served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterRecord {
    /// Its id. A restore makes a new one, so that old replicas cannot come back into it.
    pub id: ClusterId,
    /// The form of the data ([`DATA_FORMAT`]).
    pub data_format: u32,
    /// When it was made.
    pub created_at: Timestamp,
    /// The version of the program that made it.
    pub created_by: String,
    /// Who says who is who.
    pub identity: IdentitySource,
    /// The backup that it was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored_from: Option<RestoredFrom>,
}
record!(ClusterRecord, Cluster, |_c| keys::cluster());

/// The mark of a restore that has not finished: what is in the store besides it may be incomplete, and goes when the
/// restore is run again. Removed in the same commit that writes the [`ClusterRecord`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoreRecord {
    /// The cluster that the archive is of.
    pub cluster: ClusterId,
    /// The revision that the archive is of.
    pub revision: Revision,
    /// When the restore was begun.
    pub started_at: Timestamp,
    /// The version of the program that restores.
    pub version: String,
}
record!(RestoreRecord, Restore, |_r| keys::restore());

/// A replica, as it tells the others of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaRecord {
    /// Its id.
    pub id: ReplicaId,
    /// Where it is reached: `https://host:port`.
    pub address: String,
    /// Its HTTPS port.
    pub https_port: u16,
    /// Its HTTP port; 0 when it has none.
    pub http_port: u16,
    /// The machine it runs on.
    pub node: String,
    /// The version it runs.
    pub version: String,
    /// When it was started.
    pub started_at: Timestamp,
    /// When it last said that it lives.
    pub reported_at: Timestamp,
    /// `OK`, or what is wrong.
    pub health: String,
    /// The newest form of the data that its program knows ([`DATA_FORMAT`]).
    #[serde(default = "first_format")]
    pub data_format: u32,
}
record!(ReplicaRecord, Replica, |r| keys::replica(&r.id));

/// What programs knew that did not say it.
const fn first_format() -> u32 {
    1
}

/// The mark that the cluster's blob storage must have. Not there in a cluster that was made by a version without marks,
/// until its first start with this one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StorageRecord {
    /// As it is written into the storage.
    pub mark: StorageMark,
    /// Since when.
    pub since: Timestamp,
}
record!(StorageRecord, Storage, |_s| keys::storage());

/// Replicas that are to restart, one after the other. Each takes itself off when it is well again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestartRecord {
    /// Which are still to restart.
    pub replicas: Vec<ReplicaId>,
    /// How long each says that it goes before it does, in seconds: until a load balancer has seen it.
    pub drain_seconds: u64,
    /// When that was asked for.
    pub asked_at: Timestamp,
}
record!(RestartRecord, Restart, |_r| keys::restart());

/// Who does what only one replica does at a time. It is put with a lease, and vanishes with the replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LockRecord {
    /// What is done.
    pub name: String,
    /// By whom.
    pub holder: ReplicaId,
    /// Since when.
    pub since: Timestamp,
}
record!(LockRecord, Lock, |l| keys::lock(&l.name));

/// What a key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyPurpose {
    /// Signs the bearer tokens of `/auth/token` (ES256).
    Token,
    /// Signs archives (Ed25519).
    Archive,
    /// Proves this cluster to the UCP it is registered with (ES256).
    Service,
}

impl KeyPurpose {
    /// As it stands in keys.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Archive => "archive",
            Self::Service => "service",
        }
    }
}

/// A signing key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyRecord {
    /// What for.
    pub purpose: KeyPurpose,
    /// Its id (`kid`): the first 32 hexadecimal digits of the SHA-256 of its public key.
    pub id: String,
    /// PKCS #8 in PEM.
    pub private_key: Secret,
    /// When it was made. The newest of a purpose signs.
    pub created_at: Timestamp,
    /// Until when its signatures are accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Timestamp>,
}
record!(KeyRecord, Key, |k| keys::signing_key(k.purpose, &k.id));

/// A certificate with its key: `ca` is the cluster's own authority, `web` the front end's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateRecord {
    /// `ca`, `web`.
    pub name: String,
    /// The certificate and what comes between it and its authority, in PEM.
    pub certificate: String,
    /// PKCS #8 in PEM; empty when only the certificate is known.
    pub private_key: Secret,
    /// The authority that clients are to trust, in PEM, when it is not the cluster's own.
    #[serde(default)]
    pub ca: String,
    /// Whether the user gave it (so it is not ours to renew).
    #[serde(default)]
    pub user_given: bool,
    /// When it was stored.
    pub created_at: Timestamp,
}
record!(CertificateRecord, Certificate, |c| keys::certificate(&c.name));

/// A backup that was sent to its end. Whether it arrived is known when a client confirms it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupRecord {
    /// Its id, which begins with its time: [`Event`](super::Event)'s form.
    pub id: String,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Timestamp,
    /// The point in time that it holds.
    pub revision: Revision,
    /// Records in it.
    pub records: u64,
    /// Bytes of the stream.
    pub bytes: u64,
    /// Whether it holds image content.
    pub with_images: bool,
    /// Who took it.
    pub by: String,
    /// SHA-256 of the stream, before any encryption: 64 hexadecimal digits. Empty, as the next two fields, in records of
    /// versions that did not keep it.
    #[serde(default)]
    pub sha256: String,
    /// The id of the key that signed it.
    #[serde(default)]
    pub key_id: String,
    /// Blobs whose content should be inside and was not in the storage.
    #[serde(default)]
    pub missing_blobs: u64,
    /// When a client said that it has the whole stream, with this hash, where it wanted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmed_at: Option<Timestamp>,
}
record!(BackupRecord, Backup, |b| keys::backup(&b.id));
