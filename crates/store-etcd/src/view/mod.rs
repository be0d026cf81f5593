//! The present state close at hand: reads of it that cost no round trip each.
//!
//! A view follows all changes of the store by a watch, and keeps what was read of it lately (see `known`), within a bounded
//! room. A read asks for the latest revision together with everybody who asks at that moment (see `index`), waits until the
//! view has come that far, and answers from it. So it is as linearizable as a read by etcd; what it saves is that etcd does
//! it once for all. What is not known is read from etcd at the view's revision, which any member answers by itself, and is
//! known from then on.
//!
//! Whenever something of this does not work (the watch is cut off, or lags behind, or nothing was read yet), the answer is
//! that there is none, and the caller asks etcd itself.
//!
//! # Revisions that a watch does not tell
//! The watch is over all that is ours in etcd, slots included, so each revision that a commit of this store makes comes
//! through it. Other stores in the same etcd make revisions that it does not tell, and until the next one of ours the view
//! cannot know that nothing was missed: etcd 3.4 does not say reliably how far a watch has come. When that lasts, the view
//! moves a slot of its own, which makes a revision that comes through.

mod follow;
mod index;
mod known;
mod leader;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use dtr_store::{Expect, KeyValue, Page, Range};
use dtr_types::Revision;
use parking_lot::RwLock;
use tokio::{sync::watch, time::Instant};

pub(crate) use follow::Following;
pub(crate) use index::Index;
use known::Known;

/// How long a read waits for the view before it asks etcd itself.
const BEHIND_LIMIT: Duration = Duration::from_millis(100);

/// How many keys are few, and how long it is remembered that there were more below a prefix.
pub(crate) const FEW: usize = 256;
const MANY_FOR: Duration = Duration::from_secs(60);

/// How the view does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ViewStatus {
    /// The revision that it has come to; zero while it follows nothing.
    pub revision: Revision,
    /// Keys that it knows.
    pub keys: usize,
    /// Their room, in bytes, with what is kept beside them.
    pub bytes: usize,
    /// Questions for the latest revision, each for all who waited for it.
    pub asked: u64,
    /// Reads that were answered from it.
    pub answered: u64,
    /// Reads that it did not know the answer to, and has learned.
    pub learned: u64,
    /// Reads that were left to etcd.
    pub passed: u64,
}

struct State {
    known: Known,
    /// The revision that it is of; 0 while it follows nothing.
    at: u64,
}

#[derive(Default)]
struct Counts {
    answered: AtomicU64,
    learned: AtomicU64,
    passed: AtomicU64,
}

/// A prefix below which there are mostly few keys.
struct Few {
    prefix: Bytes,
    /// When there were many nevertheless.
    many: Option<Instant>,
}

/// What the readers and the follower share.
struct Shared {
    state: RwLock<State>,
    /// The same revision, for those who wait for it.
    at: watch::Sender<u64>,
    /// Where somebody has waited in vain; while the view is there still, nobody waits again.
    stuck: AtomicU64,
    counts: Counts,
}

impl Shared {
    /// Takes over what belongs together.
    fn change(&self, to: u64, change: impl FnOnce(&mut Known)) {
        let mut state = self.state.write();
        change(&mut state.known);
        state.at = to;
        drop(state);
        self.at.send_replace(to);
    }

    /// Waits until the view has come to `revision`; says whether it has.
    async fn reach(&self, revision: u64) -> bool {
        let at = *self.at.borrow();
        if at >= revision {
            return true;
        }
        if at == 0 || self.stuck.load(Ordering::Relaxed) == at {
            return false;
        }
        let mut seen = self.at.subscribe();
        let reached = seen.wait_for(|at| *at >= revision);
        if tokio::time::timeout(BEHIND_LIMIT, reached).await.is_ok_and(|reached| reached.is_ok()) {
            return true;
        }
        self.stuck.store(*self.at.borrow(), Ordering::Relaxed);
        false
    }
}

/// What is to be read because the view does not know it.
pub(crate) struct Unknown {
    shared: Arc<Shared>,
    fill: u64,
    /// The revision to read it at.
    pub(crate) at: Revision,
}

impl Unknown {
    /// It was read: up to `end`, there is nothing but `items`.
    pub(crate) fn is(self, end: Bytes, items: &[KeyValue]) {
        self.shared.state.write().known.fill(self.fill, end, items);
    }
}

impl Drop for Unknown {
    fn drop(&mut self) {
        self.shared.state.write().known.give_up(self.fill);
    }
}

/// What a view says to a read.
pub(crate) enum Answer<T> {
    /// This is it.
    Known(T),
    /// Read it at this revision.
    Unknown(Unknown),
    /// Ask etcd itself.
    None,
}

/// The view of one client.
pub(crate) struct View {
    shared: Arc<Shared>,
    bytes_max: usize,
    following: AtomicBool,
    few: RwLock<Vec<Few>>,
}

impl View {
    /// With room for so many bytes; with none, it knows nothing.
    pub(crate) fn new(bytes_max: usize) -> Self {
        let shared = Shared {
            state: RwLock::new(State { known: Known::new(bytes_max), at: 0 }),
            at: watch::Sender::new(0),
            stuck: AtomicU64::new(0),
            counts: Counts::default(),
        };
        let (following, few) = (AtomicBool::new(false), RwLock::default());
        Self { shared: Arc::new(shared), bytes_max, following, few }
    }

    pub(crate) fn is_off(&self) -> bool {
        self.bytes_max == 0
    }

    pub(crate) fn status(&self) -> ViewStatus {
        let (revision, (keys, bytes)) = {
            let state = self.shared.state.read();
            (Revision(state.at), state.known.size())
        };
        let counts = &self.shared.counts;
        let [answered, learned, passed] = [&counts.answered, &counts.learned, &counts.passed]
            .map(|count| count.load(Ordering::Relaxed));
        ViewStatus { revision, keys, bytes, asked: 0, answered, learned, passed }
    }

    pub(crate) fn expect(&self, prefix: &[u8], what: Expect) {
        let prefix = Bytes::copy_from_slice(prefix);
        match what {
            Expect::SeldomRead => self.shared.state.write().known.leave(prefix),
            Expect::Few => {
                let mut few = self.few.write();
                if !few.iter().any(|known| known.prefix == prefix) {
                    few.push(Few { prefix, many: None });
                }
            }
        }
    }

    /// The prefix of `key` below which few keys are expected.
    pub(crate) fn few(&self, key: &[u8]) -> Option<Bytes> {
        let few = self.few.read();
        let found = few.iter().find(|few| key.starts_with(&few.prefix))?;
        let many = found.many.is_some_and(|many| many.elapsed() < MANY_FOR);
        (!many).then(|| found.prefix.clone())
    }

    /// There were many.
    pub(crate) fn many(&self, prefix: &[u8]) {
        if let Some(few) = self.few.write().iter_mut().find(|few| few.prefix == prefix) {
            few.many = Some(Instant::now());
        }
    }

    /// One key, not earlier than at `confirmed`.
    pub(crate) async fn get(&self, key: &[u8], confirmed: Revision) -> Answer<Option<KeyValue>> {
        let start = || Bytes::copy_from_slice(key);
        self.answer(confirmed, |known, _| known.get(key), || (start(), known::after(key))).await
    }

    /// A page, not earlier than at `confirmed`.
    pub(crate) async fn page(
        &self,
        range: &Range,
        limit: usize,
        bytes_max: usize,
        confirmed: Revision,
    ) -> Answer<Page> {
        let look = |known: &Known, at| {
            let (mut items, more) = known.page(&range.start, &range.end, limit, bytes_max)?;
            if range.keys_only {
                items.iter_mut().for_each(|kv| kv.value = Bytes::new());
            }
            Some(Page { revision: at, items, more })
        };
        self.answer(confirmed, look, || (range.start.clone(), range.end.clone())).await
    }

    async fn answer<T>(
        &self,
        confirmed: Revision,
        look: impl Fn(&Known, Revision) -> Option<T>,
        wanted: impl FnOnce() -> (Bytes, Bytes),
    ) -> Answer<T> {
        let counts = &self.shared.counts;
        if !self.shared.reach(confirmed.0).await {
            counts.passed.fetch_add(1, Ordering::Relaxed);
            return Answer::None;
        }
        let looked = {
            let state = self.shared.state.read();
            (state.at >= confirmed.0).then(|| look(&state.known, Revision(state.at)))
        };
        if let Some(Some(found)) = looked {
            counts.answered.fetch_add(1, Ordering::Relaxed);
            return Answer::Known(found);
        }
        let (start, end) = wanted();
        let mut state = self.shared.state.write();
        if looked.is_none() || state.at < confirmed.0 {
            // It has begun anew in between.
            counts.passed.fetch_add(1, Ordering::Relaxed);
            return Answer::None;
        }
        counts.learned.fetch_add(1, Ordering::Relaxed);
        let fill = state.known.begin_fill(start, end);
        let at = Revision(state.at);
        drop(state);
        Answer::Unknown(Unknown { shared: self.shared.clone(), fill, at })
    }
}
