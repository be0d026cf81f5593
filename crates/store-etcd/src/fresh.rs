//! What the reads of one request must not be older than: see [`dtr_store::together`].

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use dtr_store::together;
use dtr_types::Revision;
use parking_lot::Mutex;

static STORES: AtomicU64 = AtomicU64::new(0);

/// What one client knows of it.
pub(crate) struct Fresh {
    /// Which client of this process.
    engine: u64,
    /// The latest revision that a commit of this client was answered with: what was committed in a task of its own is seen
    /// by the request that waited for it.
    answered: AtomicU64,
    /// Commits whose fate was in doubt, or that failed: how far one must read to see what became of them is not known.
    doubts: AtomicU64,
    /// The last confirmation for anybody: of which doubts, what, and when it was asked for.
    last: Mutex<Option<(u64, Revision, Instant)>>,
}

/// A confirmation that is under way.
pub(crate) struct Asked {
    doubts: u64,
    at: Instant,
}

impl Fresh {
    pub(crate) fn new() -> Self {
        let engine = STORES.fetch_add(1, Ordering::Relaxed);
        let (answered, doubts) = Default::default();
        Self { engine, answered, doubts, last: Mutex::default() }
    }

    /// What is confirmed for this request; else to be given back with the answer.
    pub(crate) fn known(&self) -> Result<Revision, Asked> {
        let doubts = self.doubts.load(Ordering::Acquire);
        let known = together::confirmed(self.engine, doubts).or_else(|| self.lately(doubts));
        match known {
            Some(revision) => Ok(revision.max(Revision(self.answered.load(Ordering::Acquire)))),
            None => Err(Asked { doubts, at: Instant::now() }),
        }
    }

    /// What was confirmed for others, where that is good.
    fn lately(&self, doubts: u64) -> Option<Revision> {
        let last = (*self.last.lock()).filter(|_| together::is_lately());
        let (_, revision, asked) = last.filter(|(then, _, _)| *then == doubts)?;
        (asked.elapsed() < together::TOGETHER_MAX).then(|| {
            together::confirm(self.engine, doubts, revision, asked);
            revision
        })
    }

    /// The answer to a confirmation.
    pub(crate) fn confirmed(&self, asked: &Asked, revision: Revision) {
        *self.last.lock() = Some((asked.doubts, revision, asked.at));
        together::confirm(self.engine, asked.doubts, revision, asked.at);
    }

    /// A read was answered from the state at `revision`.
    pub(crate) fn seen(&self, revision: Revision) {
        together::seen(self.engine, revision);
    }

    /// A commit was answered.
    pub(crate) fn answered(&self, revision: Revision) {
        self.answered.fetch_max(revision.0, Ordering::AcqRel);
    }

    /// A commit was not answered, or what became of it was found out.
    pub(crate) fn doubted(&self) {
        self.doubts.fetch_add(1, Ordering::AcqRel);
    }
}
