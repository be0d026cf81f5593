//! The mark of a blob storage: which storage it is, and which cluster may write to it. It lies in the storage itself, and
//! what it should be is in the cluster's store; so a folder in which a share is not mounted is told from the share, and
//! a cluster that another took the storage over from learns of it, although the two have nothing else in common.

use serde::{Deserialize, Serialize};

use crate::{ClusterId, Random, StorageId};

/// The mark of a blob storage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StorageMark {
    /// Which storage: stays for as long as the storage lives, also in copies of it.
    pub storage: StorageId,
    /// Raised whenever a cluster takes the storage over. Only who knows the highest may write.
    pub generation: u64,
    /// Made anew with each generation: two that take it over at once both count on from the same number.
    pub holder: String,
    /// The cluster that took it over.
    pub cluster: ClusterId,
}

/// Why a storage is not the one that a cluster may write to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotOurs {
    /// It has no mark.
    Unmarked,
    /// It is another storage.
    Other,
    /// It has an older mark: it is a copy from before the cluster took it over.
    Older,
    /// Another cluster has taken it over.
    TakenOver {
        /// Which. After a repair it has the same id, and other replicas.
        by: ClusterId,
    },
}

impl NotOurs {
    /// A few words that name nobody.
    pub fn short(&self) -> &'static str {
        match self {
            Self::Unmarked => {
                "it has no mark: the share is not mounted, or another folder or bucket"
            }
            Self::Other => "it has the mark of another storage: another share is mounted",
            Self::Older => "it is an older copy of the storage",
            Self::TakenOver { .. } => "another cluster has taken it over",
        }
    }
}

impl std::fmt::Display for NotOurs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unmarked => f.write_str(
                "it has no mark of this registry's storage: the share is not mounted, or this is another folder or bucket. \
                 Mount it; nothing is written until it is there",
            ),
            Self::Other => f.write_str(
                "it has the mark of another storage: another share is mounted, or another folder or bucket is named. \
                 Mount the right one; nothing is written until it is there",
            ),
            Self::Older => f.write_str(
                "it is a copy from before this cluster took its storage over; restart the replica if this copy is to be used \
                 from now on",
            ),
            Self::TakenOver { by } => write!(
                f,
                "cluster {by} has taken it over by a restore or an emergency repair: this replica is of the former cluster, \
                 and neither writes nor collects. Remove it with \"dtr destroy --keep-storage\", and join the new one"
            ),
        }
    }
}

impl StorageMark {
    /// The first mark of a storage.
    pub fn first(cluster: &ClusterId, random: &dyn Random) -> Self {
        let storage = StorageId::random(random);
        Self { storage, generation: 1, holder: random.hex(16), cluster: cluster.clone() }
    }

    /// The mark of the cluster that takes the storage over now.
    #[must_use]
    pub fn next(&self, cluster: &ClusterId, random: &dyn Random) -> Self {
        let generation = self.generation.saturating_add(1);
        let (storage, holder) = (self.storage.clone(), random.hex(16));
        Self { storage, generation, holder, cluster: cluster.clone() }
    }

    /// Whether a storage that has the mark `found` is the one that a cluster with this mark in its store may write to.
    ///
    /// # Errors
    /// [`NotOurs`].
    pub fn check(&self, found: Option<&Self>) -> Result<(), NotOurs> {
        let Some(found) = found else { return Err(NotOurs::Unmarked) };
        if found.storage != self.storage {
            return Err(NotOurs::Other);
        }
        if found.generation < self.generation {
            return Err(NotOurs::Older);
        }
        if found.generation > self.generation || found.holder != self.holder {
            return Err(NotOurs::TakenOver { by: found.cluster.clone() });
        }
        Ok(())
    }

    /// As it is written into the storage: for people as well.
    pub fn to_text(&self) -> String {
        #[derive(Serialize)]
        struct Written<'a> {
            #[serde(rename = "//")]
            comment: &'static str,
            #[serde(flatten)]
            mark: &'a StorageMark,
        }
        let comment = "Whose image content this is. DTR refuses to write where this is missing: leave it here, and copy it along.";
        let written = Written { comment, mark: self };
        serde_json::to_string_pretty(&written).map(|text| text + "\n").unwrap_or_default()
    }

    /// Reads what [`Self::to_text`] wrote.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(text).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SeededRandom;

    #[test]
    fn only_the_newest_holder_may_write() {
        let random = SeededRandom::new(1);
        let cluster = ClusterId::random(&random);
        let first = StorageMark::first(&cluster, &random);
        assert_eq!(StorageMark::parse(first.to_text().as_bytes()).as_ref(), Ok(&first));
        assert_eq!(first.check(Some(&first)), Ok(()));
        assert_eq!(first.check(None), Err(NotOurs::Unmarked));
        assert_eq!(first.check(Some(&StorageMark::first(&cluster, &random))), Err(NotOurs::Other));
        // Two that count on from the same mark.
        let (one, two) = (first.next(&cluster, &random), first.next(&cluster, &random));
        let taken = Err(NotOurs::TakenOver { by: cluster });
        assert_eq!(first.check(Some(&one)), taken);
        assert_eq!(two.check(Some(&one)), taken);
        assert_eq!(one.check(Some(&two)), taken);
        assert_eq!(one.check(Some(&first)), Err(NotOurs::Older));
    }

    #[test]
    fn what_is_no_mark_is_told() {
        for wrong in ["", "{}", "{\"storage\":1}"] {
            assert!(StorageMark::parse(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
