//! What a restore says at its end: what came back, what did not, what to do next.

use std::{collections::BTreeMap, fmt};

use dtr_archive::IdentityKind;
use dtr_identity::ImportAnswer;
use dtr_types::{ClusterId, Revision, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Accounts, Job, OwnerReport, load::Loading};
use crate::{Exit, Salvaged, bounded, verify::Unknown};

/// What came back, and what did not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoreReport {
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// The new cluster.
    pub cluster: Option<ClusterId>,
    /// The cluster that was backed up.
    pub from_cluster: ClusterId,
    /// The version that wrote the archive.
    pub from_version: String,
    /// The point in time of everything that came back.
    pub revision: Revision,
    /// When that was.
    pub backed_up_at: Timestamp,
    /// Whether the archive was encrypted.
    pub encrypted: bool,
    /// The id of the key that signed it.
    #[serde(default)]
    pub key_id: String,
    /// The known key that it is: its name, or its id. Nothing where no key was known to compare it with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer: Option<String>,
    /// The id of the key that signs the restored registry's backups; empty in a dry run.
    #[serde(default)]
    pub signs_with: String,
    /// Whether this is a copy beside the original, for a rehearsal.
    #[serde(default)]
    pub copy: bool,
    /// What is good here and at the cluster that was backed up, should that still run, for people.
    #[serde(default)]
    pub shared: Vec<String>,
    /// Whether an unfinished restore was removed first.
    pub cleaned: bool,
    /// Records by entry, as they were in the archive.
    pub records: BTreeMap<String, u64>,
    /// Records of all kinds.
    pub total_records: u64,
    /// Whether the archive's accounts came back.
    pub accounts_loaded: bool,
    /// What became of them in the identity service, if that is elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accounts: Option<ImportAnswer>,
    /// How owners were found.
    pub owners: OwnerReport,
    /// Blobs that the records mention.
    pub blobs: u64,
    /// Blobs whose content came from the archive.
    pub blobs_restored: u64,
    /// Those of them that the storage had, damaged.
    #[serde(default)]
    pub blobs_mended: u64,
    /// Blobs whose content is nowhere.
    pub blobs_missing_count: u64,
    /// The same by the repositories that need them.
    pub blobs_missing: BTreeMap<String, Vec<String>>,
    /// Blobs that had been lost before the backup was taken.
    pub blobs_lost_before: Vec<String>,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// What the archive says, if it was salvaged from a damaged one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub salvaged: Option<Salvaged>,
    /// What is worth knowing of the archive.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// What to do next.
    pub next: Vec<String>,
}

impl RestoreReport {
    /// The exit code of the command.
    pub fn exit(&self) -> Exit {
        let lost = self.blobs_missing_count > 0 || !self.blobs_lost_before.is_empty();
        if lost || self.salvaged.is_some() { Exit::Incomplete } else { Exit::Done }
    }

    pub(super) fn advise(&mut self, job: &Job<'_>) {
        let mut next = Vec::new();
        if self.blobs_missing_count > 0 {
            next.push(
                "put the missing content back into the blob storage and run \"dtr gc --relink\", or push the images that \
                 need it again: clients are asked for what is missing"
                    .to_owned(),
            );
        }
        if !self.owners.unknown.is_empty() {
            next.push(
                "hand the repositories of unknown owners over, as an administrator".to_owned(),
            );
        }
        if job.accounts == Accounts::Nowhere && job.header.identity.kind == IdentityKind::BuiltIn {
            next.push(
                "the archive's accounts were not loaded: people need accounts in the identity service".to_owned(),
            );
        }
        if self.copy {
            next.push(
                "this is a copy for a rehearsal: try it, and remove it with \"dtr destroy\"; access tokens are switched off in \
                 it, and accounts of a UCP are known as far as the archive has them"
                    .to_owned(),
            );
            self.next = next;
            return;
        }
        next.push("people log in again: sessions are not part of a backup".to_owned());
        next.push(
            "what is left of the old cluster cannot come back into this one: destroy it".to_owned(),
        );
        next.push(format!(
            "take a backup of the restored registry; it is signed by a new key, {}: note it where you keep the former one",
            self.signs_with
        ));
        self.next = next;
    }
}

pub(super) fn begin(job: &Job<'_>, loading: &Loading<'_>) -> RestoreReport {
    let header = &job.header;
    let records = loading.checks.counts.clone();
    RestoreReport {
        dry_run: job.options.dry_run,
        cluster: None,
        from_cluster: header.cluster_id.clone(),
        from_version: header.version.clone(),
        revision: header.revision,
        backed_up_at: header.created,
        encrypted: false,
        key_id: header.signer.key_id.clone(),
        signer: None,
        signs_with: String::new(),
        copy: job.options.copy,
        shared: Vec::new(),
        cleaned: false,
        total_records: records.values().sum(),
        records,
        accounts_loaded: job.accounts != Accounts::Nowhere && header.scope.identity,
        accounts: None,
        owners: OwnerReport::default(),
        blobs: loading.checks.references.blob_count,
        blobs_restored: 0,
        blobs_mended: 0,
        blobs_missing_count: 0,
        blobs_missing: BTreeMap::new(),
        blobs_lost_before: loading.checks.references.lacking.listed.clone(),
        duration_ms: 0,
        salvaged: loading.checks.salvaged.clone(),
        warnings: loading.checks.warnings().to_vec(),
        next: Vec::new(),
    }
}

impl fmt::Display for RestoreReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let records = self.total_records;
        let (from, revision, at) = (&self.from_cluster, self.revision, self.backed_up_at);
        match &self.cluster {
            Some(cluster) => writeln!(
                f,
                "Restored cluster {from} at revision {revision} ({at}) as cluster {cluster}: {records} records in {:.1} s",
                self.duration_ms as f64 / 1000.0
            )?,
            None => writeln!(
                f,
                "A restore of cluster {from} at revision {revision} ({at}) would bring back {records} records; nothing was changed"
            )?,
        }
        for (path, count) in self.records.iter().filter(|(_, count)| **count > 0) {
            writeln!(f, "  {count:>9}  {path}")?;
        }
        writeln!(f, "  signed by key {}", self.key_id)?;
        if self.signer.is_none() {
            writeln!(f, "{}", Unknown(&self.key_id))?;
        }
        if let Some(ImportAnswer { created, existing, skipped, .. }) = &self.accounts {
            if self.dry_run {
                writeln!(
                    f,
                    "  accounts: {created} would be made in the UCP, {existing} are there and would stay as they are"
                )?;
            } else {
                writeln!(
                    f,
                    "  accounts, teams and memberships in the UCP: {created} made, {existing} were there and stayed as they were, \
                 {skipped} of what is not there left out"
                )?;
            }
        }
        write!(f, "{}", self.owners)?;
        let there = self.blobs.saturating_sub(self.blobs_missing_count);
        writeln!(
            f,
            "  blobs: {there} of {} there ({} from the archive)",
            self.blobs, self.blobs_restored
        )?;
        if self.blobs_mended > 0 {
            writeln!(f, "    {} damaged in the storage, replaced", self.blobs_mended)?;
        }
        bounded::by_repository(f, &self.blobs_missing, "    MISSING for ")?;
        let lost = self.blobs_lost_before.iter();
        let lost = lost.map(|blob| format!("    lost before the backup: {blob}"));
        bounded::lines(f, lost, "    lost before the backup")?;
        if let Some(salvaged) = &self.salvaged {
            write!(f, "{salvaged}")?;
        }
        let warnings = self.warnings.iter().map(|warning| format!("  WARNING: {warning}"));
        bounded::lines(f, warnings, "  WARNING")?;
        if !self.shared.is_empty() {
            let (from, shared) = (&self.from_cluster, self.shared.join(", "));
            writeln!(f, "  in common with cluster {from}: {shared}")?;
        }
        if !self.next.is_empty() {
            writeln!(f, "Next:")?;
        }
        for step in &self.next {
            writeln!(f, "  - {step}")?;
        }
        Ok(())
    }
}
