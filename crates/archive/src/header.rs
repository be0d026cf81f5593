//! `header.json`: what the archive is and what it promises to hold.

use dtr_types::{ClusterId, ReplicaId, Revision, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    ArchiveError, Result,
    error::shown,
    sign::{PublicKey, SigningKey},
};

/// The newest format number that this version writes and reads. It grows with any change that an older reader would refuse
/// or misread, be it a new field.
pub const FORMAT: u32 = 1;

/// Which program's state is inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Product {
    /// The registry.
    Dtr,
    /// The identity service.
    Ucp,
}

impl Product {
    /// As it stands in the header and at the beginning of the top folder's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dtr => "dtr",
            Self::Ucp => "ucp",
        }
    }
}

/// What the archive holds, as promised before the first record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scope {
    /// Settings, repositories, tags, manifests, access, certificates.
    pub metadata: bool,
    /// The content of the images.
    pub images: bool,
    /// Users, organizations and teams.
    pub identity: bool,
}

/// Where the accounts that own things live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IdentityKind {
    /// In the registry itself.
    BuiltIn,
    /// In a UCP.
    Ucp,
}

/// The identity service that the archive's account ids belong to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentitySource {
    /// Built in, or a UCP.
    pub kind: IdentityKind,
    /// The UCP's URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The UCP's own id, so that a restore can tell the same from another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// Whose key signs the manifest. By itself it proves only that nothing was damaged; who wrote the archive is proven by
/// comparing it with the key that the cluster is known to have ([`crate::ReadOptions::known`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signer {
    /// Always `ed25519`.
    pub algorithm: String,
    /// SHA-256 of the public key's 32 bytes, in hexadecimal.
    pub key_id: String,
    /// The public key's 32 bytes, in hexadecimal.
    pub public_key: PublicKey,
}

/// The content of `header.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// The format number of the archive, [`FORMAT`] or older.
    pub format: u32,
    /// Which program's state is inside.
    pub product: Product,
    /// The version of the program that wrote it; also in the top folder's name.
    pub version: String,
    /// The number of the records' schema, judged by whoever reads the records.
    pub schema: u32,
    /// The cluster it was taken from.
    pub cluster_id: ClusterId,
    /// The replica that wrote it, if the program has replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica_id: Option<ReplicaId>,
    /// The store's engine, for people; a restore does not depend on it.
    pub engine: String,
    /// The bucket that image content is in, for people; absent when it is in a folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<String>,
    /// The one point in the store's history that everything in the archive is from.
    pub revision: Revision,
    /// When the backup was begun; also the time of every entry.
    pub created: Timestamp,
    /// What is inside.
    pub scope: Scope,
    /// Where the accounts live.
    pub identity: IdentitySource,
    /// Whether it was meant to be encrypted. That somebody decrypted it since is not an error.
    pub encrypted: bool,
    /// Whose key signs `manifest.json`.
    pub signer: Signer,
}

impl Header {
    /// A header with the least: metadata only, built-in identity, not encrypted, revision 0 at 1970. The fields are public.
    pub fn new(product: Product, version: &str, cluster_id: ClusterId, key: &SigningKey) -> Self {
        Self {
            format: FORMAT,
            product,
            version: version.to_owned(),
            schema: 1,
            cluster_id,
            replica_id: None,
            engine: "embedded".to_owned(),
            storage: None,
            revision: Revision::ZERO,
            created: Timestamp::default(),
            scope: Scope { metadata: true, images: false, identity: false },
            identity: IdentitySource { kind: IdentityKind::BuiltIn, url: None, id: None },
            encrypted: false,
            signer: key.signer(),
        }
    }

    /// The same, taken at this point and time.
    pub fn at(mut self, revision: Revision, created: Timestamp) -> Self {
        self.revision = revision;
        self.created = created;
        self
    }

    /// The archive's top folder, without a slash.
    pub fn folder(&self) -> String {
        format!("{}-backup-v{}", self.product.as_str(), self.version)
    }

    pub(crate) fn to_json(&self) -> Result<Vec<u8>> {
        if !version_form(&self.version) {
            return Err(ArchiveError::Misuse {
                entry: "header.json".to_owned(),
                why: "a version has 1 to 40 letters, digits, dots, dashes and plus signs",
            });
        }
        let mut json = serde_json::to_vec_pretty(self)
            .map_err(|e| ArchiveError::Header { why: e.to_string() })?;
        json.push(b'\n');
        Ok(json)
    }

    /// Reads `header.json`, the format number first, so that a newer archive is refused by name and not by a field.
    pub(crate) fn from_json(json: &[u8], folder: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Probe {
            format: u64,
            version: String,
        }
        let wrong = |why: String| ArchiveError::Header { why: shown(&why) };
        let probe: Probe = serde_json::from_slice(json).map_err(|e| wrong(e.to_string()))?;
        if probe.format > u64::from(FORMAT) {
            return Err(ArchiveError::NewerFormat {
                format: probe.format,
                version: shown(&probe.version),
                known: FORMAT,
            });
        }
        let header: Self = serde_json::from_slice(json).map_err(|e| wrong(e.to_string()))?;
        if header.format == 0 {
            return Err(wrong("there is no format 0".to_owned()));
        }
        if !version_form(&header.version) || header.folder() != folder {
            return Err(wrong(format!(
                "it says {} {}, but the folder is \"{folder}\"",
                header.product.as_str(),
                header.version
            )));
        }
        let signer = &header.signer;
        if signer.algorithm != "ed25519" || signer.key_id != signer.public_key.id() {
            return Err(wrong("its signer is not an Ed25519 key with its own id".to_owned()));
        }
        Ok(header)
    }
}

fn version_form(text: &str) -> bool {
    (1..=40).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'+'))
}

/// Whether a top folder's name is one of ours (or of the original product, which used the same form).
pub(crate) fn backup_folder(name: &str) -> bool {
    ["dtr-backup-v", "ucp-backup-v"]
        .iter()
        .any(|prefix| name.strip_prefix(prefix).is_some_and(version_form))
}
