//! What a salvage says: to whoever made it, and in the archive to whoever uses that.

use std::{collections::BTreeMap, fmt};

use dtr_types::{ClusterId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{Exit, Findings, VerifyReport, bounded};

/// The entry of an archive that was salvaged: what it is of, and what is lost.
pub(crate) const SALVAGE: &str = "config/salvage";

/// A line of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(crate) enum SalvageLine {
    /// The first.
    #[serde(rename_all = "camelCase")]
    Origin {
        /// The version of the program that salvaged it.
        version: String,
        /// When it did.
        salvaged_at: Timestamp,
        /// The key that had signed the damaged archive, where its end was whole.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signed_by: Option<String>,
    },
    /// Something that is not as it was.
    Lost {
        /// The entry of the damaged archive.
        entry: String,
        /// What of it.
        what: String,
    },
}

/// What an archive says that was salvaged from a damaged one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Salvaged {
    /// When that was.
    pub at: Timestamp,
    /// The key that had signed the damaged archive, where its end was whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed_by: Option<String>,
    /// What is not as it was.
    pub lost: Findings,
}

impl Salvaged {
    pub(crate) fn line(&mut self, line: SalvageLine) {
        match line {
            SalvageLine::Origin { salvaged_at, signed_by, .. } => {
                (self.at, self.signed_by) = (salvaged_at, signed_by);
            }
            SalvageLine::Lost { entry, what } => self.lost.add(|| format!("{entry}: {what}")),
        }
    }
}

impl fmt::Display for Salvaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let was = match &self.signed_by {
            Some(key) => format!("signed by key {key}"),
            None => "whose signature is lost".to_owned(),
        };
        writeln!(f, "  SALVAGED at {} from a damaged archive {was}", self.at)?;
        let lost = self.lost.listed.iter().map(|lost| format!("    lost: {lost}"));
        bounded::lines(f, lost, "    lost")
    }
}

/// What was kept of a damaged archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SalvageReport {
    /// Whether the archive itself is whole, and was written with its own signature.
    pub whole: bool,
    /// The cluster that it is of; a made-up one where the header is lost.
    pub cluster: ClusterId,
    /// When the backup was begun.
    pub created: Timestamp,
    /// The key that had signed the damaged archive, where its end was whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed_by: Option<String>,
    /// The key that signed what was written.
    pub key_id: String,
    /// Records that were kept, by entry.
    pub records: BTreeMap<String, u64>,
    /// Lines that were not.
    pub records_lost: u64,
    /// Blobs and manifests of images that were kept.
    pub blobs: u64,
    /// Blobs whose content was in the archive, or should have been, and was not kept.
    pub blobs_lost: u64,
    /// Everything that is not as it was.
    pub lost: Findings,
    /// Bytes that were written.
    pub bytes: u64,
}

impl SalvageReport {
    pub(super) fn of_whole(judged: &VerifyReport, bytes: u64) -> Self {
        Self {
            whole: true,
            cluster: judged.header.cluster_id.clone(),
            created: judged.header.created,
            signed_by: Some(judged.key_id.clone()),
            key_id: judged.key_id.clone(),
            records: judged.records.clone(),
            records_lost: 0,
            blobs: judged.image_entries,
            blobs_lost: 0,
            lost: Findings::default(),
            bytes,
        }
    }

    /// The exit code of the command.
    pub fn exit(&self) -> Exit {
        if self.whole { Exit::Done } else { Exit::Incomplete }
    }
}

impl fmt::Display for SalvageReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cluster, created, key_id, .. } = self;
        if self.whole {
            return writeln!(
                f,
                "The archive of cluster {cluster} ({created}) is whole, and was written as it is, without what came after its \
                 end: signed by key {key_id}"
            );
        }
        let kept: u64 = self.records.values().sum();
        writeln!(f, "Salvaged from a damaged archive of cluster {cluster} ({created})")?;
        writeln!(f, "  records  {kept} kept, {} lost", self.records_lost)?;
        writeln!(
            f,
            "  images   {} blobs and manifests kept, {} lost",
            self.blobs, self.blobs_lost
        )?;
        match &self.signed_by {
            Some(key) => writeln!(f, "  it was signed by key {key}")?,
            None => writeln!(
                f,
                "  its signature is lost: whether what was kept is what was written cannot be told"
            )?,
        }
        writeln!(f, "  what was written is signed by key {key_id}, made for it alone")?;
        let lost = self.lost.listed.iter().map(|lost| format!("  lost: {lost}"));
        bounded::lines(f, lost, "  lost")?;
        writeln!(f, "Restore it with --salvaged, and compare what comes back with what you know.")
    }
}
