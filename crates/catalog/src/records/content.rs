//! Tags, manifests, blobs, uploads.

use std::collections::BTreeMap;

use dtr_types::{AccountId, Digest, MediaType, RepositoryId, Tag, Timestamp, UploadId};
use serde::{Deserialize, Serialize};

use super::record;
use crate::keys;

/// A tag and what it names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TagRecord {
    /// The repository.
    pub repository: RepositoryId,
    /// The tag.
    pub name: Tag,
    /// The manifest it names.
    pub digest: Digest,
    /// That manifest's media type, so that a pull by tag needs no more.
    pub media_type: MediaType,
    /// Who pushed it, by name.
    pub author: String,
    /// When it was first pushed.
    pub created_at: Timestamp,
    /// When it was last pushed.
    pub updated_at: Timestamp,
}
record!(TagRecord, Tag, |t| keys::tag(&t.repository, &t.name));

/// A manifest of a repository. Its bytes are kept beside it, see [`keys::manifest_body`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManifestRecord {
    /// The repository.
    pub repository: RepositoryId,
    /// Its digest.
    pub digest: Digest,
    /// What it is served as.
    pub media_type: MediaType,
    /// Its own size in bytes.
    pub size: u64,
    /// What it refers to, added up, in bytes.
    pub content_size: u64,
    /// How many parts its stored bytes have.
    pub parts: u32,
    /// The configuration of an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_digest: Option<Digest>,
    /// The media type of that configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_media_type: Option<String>,
    /// What kind of artifact it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The manifest that it refers to as its subject.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Digest>,
    /// Operating system, read from the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os: Option<String>,
    /// Architecture, read from the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// What it names that may be absent: content with an address elsewhere or of a type that is not distributed, and
    /// entries of an index that were not there. Where a blob of the repository is behind it, it counts like any other.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub may_be_absent: Vec<Digest>,
    /// Who pushed it first, by name.
    pub author: String,
    /// When that was. A push of the same manifest under another tag leaves this as it is, so that such pushes do not
    /// meet; the tag says when it was pushed.
    pub pushed_at: Timestamp,
}
record!(ManifestRecord, Manifest, |m| keys::manifest(&m.repository, &m.digest));

/// A manifest as it is listed among the referrers of its subject.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReferrerRecord {
    /// The repository.
    pub repository: RepositoryId,
    /// The subject.
    pub subject: Digest,
    /// The referrer's digest.
    pub digest: Digest,
    /// Its media type.
    pub media_type: MediaType,
    /// Its size in bytes.
    pub size: u64,
    /// What kind of artifact it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Its annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}
record!(ReferrerRecord, Referrer, |r| keys::referrer(&r.repository, &r.subject, &r.digest));

/// A blob that is in the blob storage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlobRecord {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// When it was stored.
    pub stored_at: Timestamp,
}
record!(BlobRecord, Blob, |b| keys::blob(&b.digest));

/// A blob whose bytes in the storage are known to be lost or wrong. It counts as absent until they are there again, so
/// that the next push of it brings them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DamagedBlob {
    /// The blob.
    pub digest: Digest,
    /// When it was noticed.
    pub since: Timestamp,
    /// The kind of damage.
    pub damage: Damage,
}
record!(DamagedBlob, DamagedBlob, |d| keys::damaged_blob(&d.digest));

/// Kinds of damage of a blob in the storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Damage {
    /// It is not there.
    Missing,
    /// It has another number of bytes than its record says.
    Size,
    /// Its bytes hash to something else.
    Content,
}

/// A blob that may be garbage: stored or linked and not yet referred to, or its last reference has gone. The collector
/// walks these and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Candidate {
    /// The blob.
    pub digest: Digest,
    /// Since when; the grace period counts from here.
    pub since: Timestamp,
}
record!(Candidate, Candidate, |c| keys::candidate(&c.digest));

/// A blob that the collector is removing, or has removed. Until it has, nobody can link the blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CondemnedRecord {
    /// The blob.
    pub digest: Digest,
    /// Since when it is at this stage.
    pub since: Timestamp,
    /// How far it has come.
    #[serde(default)]
    pub stage: CondemnedStage,
}
record!(CondemnedRecord, Condemned, |c| keys::condemned(&c.digest));

/// How far the removal of a blob has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CondemnedStage {
    /// It is being found out whether it is needed.
    #[default]
    Marked,
    /// It is not, and has no record any more: the bytes are being removed.
    Removing,
    /// The bytes are gone. It stays for a while for those who looked before and publish after: they look again.
    Removed,
}

/// A manifest that was deleted with more references than one transaction takes: what is left to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeletedManifest {
    /// The repository it was in.
    pub repository: RepositoryId,
    /// Its digest.
    pub digest: Digest,
    /// The blobs it referred to.
    pub blobs: Vec<Digest>,
    /// What it named that may be absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mentioned: Vec<Digest>,
    /// What it listed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listed: Vec<Digest>,
}
record!(DeletedManifest, DeletedManifest, |d| keys::deleted_manifest(&d.repository, &d.digest));

/// A manifest that is being pushed, and has more references or bytes than one transaction takes: they are written ahead
/// of it. While this is there unchanged, so is what was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StagedManifest {
    /// The repository it will be in.
    pub repository: RepositoryId,
    /// Its digest.
    pub digest: Digest,
    /// The blobs it will refer to, if the references are written ahead.
    pub blobs: Vec<Digest>,
    /// What it will name that may be absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mentioned: Vec<Digest>,
    /// What it will list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listed: Vec<Digest>,
    /// Since when.
    pub since: Timestamp,
}
record!(StagedManifest, StagedManifest, |s| keys::staged_manifest(&s.repository, &s.digest));

/// A blob that is being taken away from a repository: no manifest can be pushed that needs it, but it stays readable
/// until it is clear that none does already.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnlinkedBlob {
    /// The repository.
    pub repository: RepositoryId,
    /// The blob.
    pub digest: Digest,
    /// Since when.
    pub since: Timestamp,
}
record!(UnlinkedBlob, UnlinkedBlob, |u| keys::unlinked_blob(&u.repository, &u.digest));

/// An upload session: what is needed to go on with it on any replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UploadRecord {
    /// Its id.
    pub id: UploadId,
    /// The repository that it uploads to.
    pub repository: RepositoryId,
    /// Who started it; nobody else can go on with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<AccountId>,
    /// Bytes received and hashed.
    pub offset: u64,
    /// The state of the hash over these bytes ([`dtr_types::Hasher::save`]).
    pub hash: String,
    /// When it was started.
    pub started_at: Timestamp,
    /// When bytes last arrived.
    pub updated_at: Timestamp,
    /// Whether it has ended without a blob. It stays for a while, so that nobody goes on with it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ended: bool,
}
record!(UploadRecord, Upload, |u| keys::upload(&u.id));
