//! What was acknowledged: the state that must be found after every crash.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use bytes::Bytes;
use dtr_types::{Digest, Random as _, SeededRandom};

/// The shortest grace period that a registry accepts.
pub const GRACE_SECONDS: u64 = 60;
/// Until when content that no manifest needs must be there: a little less than the grace period.
const KEPT: Duration = Duration::from_secs(GRACE_SECONDS - 10);

/// A manifest that was acknowledged.
#[derive(Clone, Debug)]
pub struct Held {
    pub body: Bytes,
    pub media_type: &'static str,
    pub blobs: Vec<Digest>,
    pub subject: Option<Digest>,
    pub round: u32,
}

/// One repository, as acknowledged.
#[derive(Clone, Debug, Default)]
pub struct Repository {
    pub name: String,
    pub tags: BTreeMap<String, Digest>,
    pub manifests: BTreeMap<Digest, Held>,
    /// Tags that were changed since they were last looked at.
    pub touched: BTreeSet<String>,
    /// Manifests whose deletion was acknowledged, with its round.
    pub deleted: BTreeMap<Digest, u32>,
    /// Blobs, with the last acknowledgement.
    pub blobs: BTreeMap<Digest, Instant>,
    /// Blobs whose deletion was acknowledged.
    pub deleted_blobs: BTreeSet<Digest>,
}

impl Repository {
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    pub fn path(&self, kind: &str, reference: impl std::fmt::Display) -> String {
        format!("/v2/{}/{kind}/{reference}", self.name)
    }

    pub fn has_blob(&mut self, digest: Digest) {
        self.deleted_blobs.remove(&digest);
        self.blobs.insert(digest, Instant::now());
    }

    pub fn has_manifest(&mut self, digest: Digest, held: &Held, tags: &[String]) {
        self.deleted.remove(&digest);
        self.manifests.insert(digest, held.clone());
        for tag in tags {
            self.tags.insert(tag.clone(), digest);
            self.touched.insert(tag.clone());
        }
    }

    pub fn lost_manifest(&mut self, digest: &Digest, round: u32) {
        if let Some(held) = self.manifests.remove(digest) {
            // They may be collected a grace period after the last manifest that needed them has gone, not before.
            for blob in held.blobs {
                self.blobs.insert(blob, Instant::now());
            }
        }
        self.tags.retain(|_, named| named != digest);
        self.deleted.insert(*digest, round);
    }

    /// Whether an index lists this manifest, which then cannot be deleted.
    pub fn is_listed(&self, digest: &Digest) -> bool {
        let entry = format!("\"digest\":\"{digest}\"");
        self.manifests.values().any(|held| {
            held.media_type.contains("index")
                && held.subject.as_ref() != Some(digest)
                && String::from_utf8_lossy(&held.body).replace(' ', "").contains(&entry)
        })
    }

    /// Blobs that no manifest needs and that have been so for longer than the grace period.
    pub fn old_blobs(&self) -> Vec<Digest> {
        let needed: BTreeSet<&Digest> = self.manifests.values().flat_map(|m| &m.blobs).collect();
        let old = self.blobs.iter().filter(|(_, since)| since.elapsed() > KEPT);
        old.map(|(digest, _)| *digest).filter(|digest| !needed.contains(digest)).collect()
    }

    /// Blobs without a manifest that no collector may have touched yet.
    pub fn young_blobs(&self) -> impl Iterator<Item = &Digest> {
        self.blobs.iter().filter(|(_, since)| since.elapsed() < KEPT).map(|(digest, _)| digest)
    }
}

/// A request whose answer never came: its effect is there wholly or not at all.
#[derive(Clone, Debug)]
pub enum Doubt {
    Push {
        repository: String,
        digest: Digest,
        held: Held,
        tags: Vec<String>,
    },
    DeleteTag {
        repository: String,
        tag: String,
    },
    DeleteManifest {
        repository: String,
        digest: Digest,
    },
    DeleteBlob {
        repository: String,
        digest: Digest,
    },
    /// An upload in parts: of `content`, `arrived` bytes were acknowledged, at least.
    Upload {
        repository: String,
        location: String,
        content: Bytes,
        arrived: u64,
    },
    Create {
        repository: String,
    },
    Delete {
        repository: String,
    },
}

/// One client: its repositories and what it does not know.
pub struct Worker {
    pub number: usize,
    pub repositories: Vec<Repository>,
    /// Repositories that are gone.
    pub gone: BTreeSet<String>,
    pub doubt: Option<Doubt>,
    pub dice: Dice,
    pub made: u64,
}

impl Worker {
    pub fn new(number: usize, seed: u64) -> Self {
        Self {
            number,
            repositories: Vec::new(),
            gone: BTreeSet::new(),
            doubt: None,
            dice: Dice::new(seed.wrapping_mul(1000).wrapping_add(number as u64)),
            made: 0,
        }
    }

    pub fn at(&self, name: &str) -> Option<usize> {
        self.repositories.iter().position(|repository| repository.name == name)
    }

    pub fn find(&mut self, name: &str) -> Option<&mut Repository> {
        self.repositories.iter_mut().find(|repository| repository.name == name)
    }
}

/// Repeatable choices.
pub struct Dice(SeededRandom);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(SeededRandom::new(seed))
    }

    /// A number below `end`.
    pub fn below(&self, end: u64) -> u64 {
        u64::from_le_bytes(self.0.bytes()) % end.max(1)
    }

    pub fn index(&self, end: usize) -> usize {
        usize::try_from(self.below(end as u64)).unwrap_or(0)
    }

    pub fn percent(&self, chance: u64) -> bool {
        self.below(100) < chance
    }
}

/// Content that is the same for the same number, and different for another.
pub fn content(number: u64, size: usize) -> Bytes {
    let head = Digest::of(&number.to_le_bytes());
    let mut bytes = Vec::with_capacity(size + 64);
    let mut block = 0_u64;
    while bytes.len() < size {
        bytes.extend_from_slice(head.as_bytes());
        bytes.extend_from_slice(&block.to_le_bytes());
        block += 1;
    }
    bytes.truncate(size);
    bytes.into()
}
