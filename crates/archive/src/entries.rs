//! What came so far: the list that ends up in, or is compared with, `manifest.json`. Kept small, since an archive with
//! images has an entry for each blob.

use std::collections::{BTreeMap, HashSet};

use dtr_types::Algorithm;
use serde::{Deserialize, Serialize};

use crate::{name::EntryName, sign::Sha256};

/// One line of the manifest's list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestEntry {
    /// The name, relative to the top folder.
    pub name: String,
    /// Bytes of content.
    pub size: u64,
    /// The content's hash.
    pub sha256: Sha256,
    /// Lines, for files of records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub records: Option<u64>,
}

/// Sums over the list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Totals {
    /// Files before `manifest.json`; folders do not count.
    pub entries: u64,
    /// Bytes of their contents.
    pub bytes: u64,
    /// Records of all kinds.
    pub records: u64,
    /// Image blobs (manifests stored as blobs included).
    pub blobs: u64,
    /// Bytes of them.
    pub blob_bytes: u64,
    /// Records by `SECTION/KIND`; a kind that was looked at and found empty has 0.
    pub kinds: BTreeMap<String, u64>,
}

enum Logged {
    /// A sha256 blob: its name is its hash.
    Blob {
        sha256: Sha256,
        size: u64,
    },
    Other(Box<ManifestEntry>),
}

/// The entries so far, in order.
#[derive(Default)]
pub(crate) struct EntryLog {
    entries: Vec<Logged>,
    names: HashSet<Box<str>>,
    /// The first eight bytes of each sha256 blob's digest. Two different digests that share them make the second refused
    /// as a duplicate; that never happens by chance, and an attacker only gets his own archive refused.
    blobs: HashSet<u64>,
    pub(crate) totals: Totals,
}

fn short(sha256: &[u8]) -> u64 {
    sha256.iter().take(8).fold(0, |n, b| (n << 8) | u64::from(*b))
}

impl EntryLog {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn contains(&self, name: &EntryName) -> bool {
        match name {
            EntryName::Blob(digest) if digest.algorithm() == Algorithm::Sha256 => {
                self.blobs.contains(&short(digest.as_bytes()))
            }
            other => self.names.contains(other.to_string().as_str()),
        }
    }

    /// Whether an entry of this name came, by its text.
    pub(crate) fn contains_text(&self, name: &str) -> bool {
        EntryName::parse(name).is_some_and(|name| self.contains(&name))
    }

    pub(crate) fn push(
        &mut self,
        name: &EntryName,
        size: u64,
        sha256: Sha256,
        records: Option<u64>,
    ) {
        self.totals.entries += 1;
        self.totals.bytes += size;
        self.totals.records += records.unwrap_or(0);
        match name {
            EntryName::Records { section, kind, .. } => {
                *self.totals.kinds.entry(format!("{section}/{kind}")).or_default() +=
                    records.unwrap_or(0);
            }
            EntryName::Blob(digest) => {
                self.totals.blobs += 1;
                self.totals.blob_bytes += size;
                if digest.algorithm() == Algorithm::Sha256 {
                    self.blobs.insert(short(digest.as_bytes()));
                    self.entries.push(Logged::Blob { sha256, size });
                    return;
                }
            }
            _ => {}
        }
        let name = name.to_string();
        self.names.insert(name.clone().into_boxed_str());
        self.entries.push(Logged::Other(Box::new(ManifestEntry { name, size, sha256, records })));
    }

    pub(crate) fn get(&self, index: usize) -> Option<ManifestEntry> {
        self.entries.get(index).map(|logged| match logged {
            Logged::Blob { sha256, size } => ManifestEntry {
                name: format!("images/blobs/sha256/{sha256}"),
                size: *size,
                sha256: *sha256,
                records: None,
            },
            Logged::Other(entry) => (**entry).clone(),
        })
    }
}
