//! What a backup says of itself at its end, to people and to programs.

use std::{collections::BTreeMap, fmt, time::Duration};

use dtr_archive::{Product, Summary};
use dtr_catalog::records::IdentitySource;
use dtr_identity::AccountRecords;
use dtr_types::{ClusterId, Revision, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Job, read::Sums};
use crate::{Exit, bounded};

/// Something that the archive does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotIncluded {
    /// What.
    pub what: String,
    /// How to save it, or why there is nothing to do.
    pub how: String,
}

/// What an archive is worth.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupReport {
    /// Its id, under which the registry lists it.
    #[serde(default)]
    pub id: String,
    /// The cluster.
    pub cluster: ClusterId,
    /// The version that wrote it.
    pub version: String,
    /// The one point in time of everything in it.
    pub revision: Revision,
    /// Whether a majority of the replicas confirmed that this is the latest state, and held it. Without a majority a backup is
    /// what one replica knows: the others may have acknowledged more.
    #[serde(default = "confirmed")]
    pub confirmed: bool,
    /// When that was.
    pub created: Timestamp,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// Records by entry.
    pub records: BTreeMap<String, u64>,
    /// Records of all kinds.
    pub total_records: u64,
    /// Bytes of the stream, before any encryption.
    pub bytes: u64,
    /// SHA-256 of the stream, before any encryption.
    pub sha256: String,
    /// The id of the key that signed it.
    pub key_id: String,
    /// Whether image content is inside.
    pub with_images: bool,
    /// Whether accounts are inside.
    pub with_identity: bool,
    /// Whether password hashes are inside; those of a UCP's users are only if it handed them out.
    #[serde(default)]
    pub with_passwords: bool,
    /// Whether it was written to an encrypted stream.
    pub encrypted: bool,
    /// Private keys inside.
    pub private_keys: u64,
    /// Blobs that the records mention, held in place while the backup ran.
    pub blobs: u64,
    /// Bytes of them.
    pub blob_bytes: u64,
    /// Entries of image content inside: blobs and manifests.
    pub image_entries: u64,
    /// Bytes of them.
    pub image_bytes: u64,
    /// Blobs whose content should be inside and was not in the storage.
    pub missing_blobs: Vec<String>,
    /// What to know before relying on it.
    pub warnings: Vec<String>,
    /// What it does not hold.
    pub not_included: Vec<NotIncluded>,
}

fn confirmed() -> bool {
    true
}

impl BackupReport {
    /// The exit code of the command.
    pub fn exit(&self) -> Exit {
        if self.missing_blobs.is_empty() { Exit::Done } else { Exit::Incomplete }
    }
}

fn item(what: &str, how: &str) -> NotIncluded {
    NotIncluded { what: what.to_owned(), how: how.to_owned() }
}

pub(super) fn make(
    job: &Job,
    revision: Revision,
    sums: Sums,
    summary: &Summary,
    took: Duration,
) -> BackupReport {
    let options = &job.options;
    let ucp = matches!(job.cluster.identity, IdentitySource::Ucp { .. });
    let with_identity = !ucp || options.identity.is_some();
    let no_passwords = options.identity.as_ref().is_some_and(AccountRecords::has_no_passwords);
    let mut warnings = Vec::new();
    if !job.confirmed {
        warnings.push(format!(
            "not confirmed: no majority of the replicas could be asked, so this is what one of them knows, up to revision \
             {revision}; others may have acknowledged more. Back up again when the majority is back"
        ));
    }
    if !options.encrypted && sums.private_keys > 0 {
        warnings.push(format!(
            "the archive is not encrypted and holds {} private keys and every access token's hash: keep it as you \
             would keep a password, or make it with --encrypt-to or --passphrase-file",
            sums.private_keys
        ));
    }
    if let Some(why) = &sums.nameless {
        warnings.push(format!(
            "the identity service could not be asked for the names of owners ({why}): the archive restores with this UCP, or \
             one restored from its own backup, but owners cannot be matched by name with one set up anew; back up again \
             when it answers"
        ));
    }
    if !sums.missing.is_empty() {
        warnings.push(format!(
            "{} blobs are not in the blob storage (or have another size), so the archive lacks them; the images that \
             need them are broken in the running registry too",
            sums.missing.len()
        ));
    }
    BackupReport {
        id: options.id.clone().unwrap_or_default(),
        cluster: job.cluster.id.clone(),
        version: options.version.clone(),
        revision,
        confirmed: job.confirmed,
        created: job.begun,
        duration_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        total_records: sums.kinds.values().sum(),
        records: sums.kinds.into_iter().map(|(path, n)| (path.to_owned(), n)).collect(),
        bytes: summary.bytes,
        sha256: summary.sha256.to_string(),
        key_id: summary.key_id.clone(),
        with_images: options.with_images,
        with_identity,
        with_passwords: with_identity && !no_passwords,
        encrypted: options.encrypted,
        private_keys: sums.private_keys,
        blobs: sums.blobs,
        blob_bytes: sums.blob_bytes,
        image_entries: summary.totals.blobs,
        image_bytes: summary.totals.blob_bytes,
        missing_blobs: sums.missing,
        warnings,
        not_included: {
            let mut list = not_included(options.product, options.with_images, with_identity);
            if no_passwords {
                list.insert(
                    0,
                    item(
                        "password hashes of the UCP's users",
                        "run `ucp backup`, or back up with --with-identity and an administrator's password: the UCP gives \
                         them to nobody else, not to an access token nor to this machine's own socket",
                    ),
                );
            }
            list
        },
    }
}

fn not_included(product: Product, images: bool, identity: bool) -> Vec<NotIncluded> {
    let mut list = Vec::new();
    if product == Product::Dtr && !images {
        list.push(item(
            "image content",
            "copy the blob storage after this backup (it holds everything that the archive mentions, as long as the \
             collector's grace period and no longer), or back up with --with-images",
        ));
    }
    if !identity {
        list.push(item(
            "users, organizations and teams of the UCP",
            "run `ucp backup`, or back up with --with-identity",
        ));
    }
    list.push(item("sessions of people who are logged in", "nothing to do: they log in again"));
    if product == Product::Dtr {
        list.push(item(
            "uploads in progress",
            "nothing to do: clients push again what was not acknowledged",
        ));
        list.push(item(
            "content that no manifest refers to",
            "nothing to do: it is what the collector removes",
        ));
        list.push(item(
            "replicas, their addresses and data directories",
            "a restore makes the replica anew",
        ));
        list.push(item("the vulnerability database", "it is fetched again"));
    }
    list.push(item("command-line flags and unit files of this machine", "keep your own notes"));
    list
}

/// Bytes for people.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

impl fmt::Display for BackupReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "Backup of cluster {} at revision {} ({}): {} records, {}, in {:.1} s",
            self.cluster,
            self.revision,
            self.created,
            self.total_records,
            size(self.bytes),
            self.duration_ms as f64 / 1000.0
        )?;
        for (path, count) in self.records.iter().filter(|(_, count)| **count > 0) {
            writeln!(f, "  {count:>9}  {path}")?;
        }
        if self.with_images {
            writeln!(f, "  {:>9}  images: {}", self.image_entries, size(self.image_bytes))?;
        } else if self.blobs > 0 {
            let bytes = size(self.blob_bytes);
            writeln!(f, "  mentions {} blobs of {bytes} in the blob storage", self.blobs)?;
        }
        writeln!(
            f,
            "  id {}, sha256 {}{}",
            self.id,
            self.sha256,
            if self.encrypted { " before encryption" } else { "" }
        )?;
        writeln!(f, "  signed by key {}", self.key_id)?;
        writeln!(f, "Not in it:")?;
        for missing in &self.not_included {
            writeln!(f, "  {}: {}", missing.what, missing.how)?;
        }
        for warning in &self.warnings {
            writeln!(f, "WARNING: {warning}")?;
        }
        let missing = self.missing_blobs.iter().map(|blob| format!("  missing {blob}"));
        bounded::lines(f, missing, "  missing")?;
        Ok(())
    }
}
