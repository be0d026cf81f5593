//! Random operations against a plain in-memory [`Model`], with failures, crashes and reopenings in between.
//!
//! An engine gives a [`Rig`] and calls [`run`] with as many seeds as it likes; a failing seed fails again. After a crash,
//! every acknowledged commit must be there at the revision that was acknowledged, what was refused must not be there, and
//! what is in doubt is there whole or not at all. The order is read from the store and replayed on the model, which must
//! then agree in every record, at every revision.

mod model;

use std::{ops::Bound, pin::pin, time::Duration};

use bytes::Bytes;
use dtr_types::Revision;
use futures_util::{StreamExt as _, stream};

pub use model::Model;

use crate::{At, LeaseId, Outcome, Range, SharedStore, StoreError, Transaction, WatchBatch, Write};

/// How long anything is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
/// Reads at once when everything is compared.
const READS: usize = 16;
/// The time to live of leases here.
const TTL: Duration = Duration::from_secs(3);
/// Few keys, so that they meet often; some are prefixes of others, some are not text.
const KEYS: [&[u8]; 10] =
    [b"a", b"a\0", b"a/", b"a/b", b"b", b"b/\xff", b"c", b"d", b"\x01", b"\xff"];

/// An engine that can be made to fail.
#[async_trait::async_trait]
pub trait Rig: Send {
    /// The store as it is open now.
    fn store(&self) -> SharedStore;
    /// Makes what is below the engine fail after a while; `random` says how and when.
    fn arm(&mut self, random: u64);
    /// Ends the failure: by healing it, or by a crash and opening again; `random` says which.
    async fn recover(&mut self, random: u64);
    /// Lets time pass for leases.
    async fn pass(&mut self, time: Duration);
    /// Whether the engine may use revisions of its own, in which no key changes, to settle what a failure left in doubt.
    fn skips_revisions(&self) -> bool {
        false
    }
}

/// A small repeatable generator (splitmix64).
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    /// The same seed gives the same throws.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.number() % end.max(1)
    }

    fn key(&mut self) -> Bytes {
        Bytes::from_static(KEYS[self.below(KEYS.len() as u64) as usize])
    }
}

/// Runs `steps` random operations.
///
/// # Panics
/// When the engine and the model disagree; the message names the seed.
pub async fn run(rig: &mut dyn Rig, seed: u64, steps: usize) {
    let first = rig.store().revision().await.expect("a revision");
    let mut trial = Trial { dice: Dice::new(seed), model: Model::new(first), tag: 0, seed };
    for step in 0..steps {
        trial.step(rig, step).await;
    }
    trial.compare_all(&rig.store(), steps).await;
}

/// Whether one of two transactions reads or writes what the other writes.
fn meets(a: &Transaction, b: &Transaction) -> bool {
    let writes = |t: &Transaction, key: &Bytes| t.writes.iter().any(|write| write.key() == key);
    let touches = |t: &Transaction, key: &Bytes| {
        writes(t, key) || t.conditions.iter().any(|condition| condition.reads(key))
    };
    a.writes.iter().any(|write| touches(b, write.key()))
        || b.writes.iter().any(|write| touches(a, write.key()))
}

struct Trial {
    dice: Dice,
    model: Model,
    tag: u64,
    seed: u64,
}

impl Trial {
    async fn step(&mut self, rig: &mut dyn Rig, step: usize) {
        let store = rig.store();
        let at = format!("seed {}, step {step}", self.seed);
        match self.dice.below(100) {
            0..50 => {
                let t = self.transaction();
                let (real, model) = (store.commit(t.clone()).await, self.model.commit(&t));
                match (real, model) {
                    (Ok(real), Ok(model)) => assert_eq!(real, model, "{at}: {t:?}"),
                    (Err(StoreError::LeaseNotFound), Err(_)) => {}
                    (real, model) => panic!("{at}: {real:?} instead of {model:?} for {t:?}"),
                }
            }
            50..62 => self.compare_get(&store, &at).await,
            62..74 => self.compare_range(&store, &at).await,
            74..80 => self.compare_watch(&store, &at).await,
            80..84 => {
                let to = self.revision();
                store.compact(to).await.unwrap_or_else(|e| panic!("{at}: compact: {e}"));
                self.model.compact(to);
            }
            84..88 => {
                let lease = store.lease_grant(TTL).await;
                self.model.granted(lease.unwrap_or_else(|e| panic!("{at}: grant: {e}")));
            }
            88..90 => {
                if let Some(lease) = self.lease() {
                    store.lease_revoke(lease).await.unwrap_or_else(|e| panic!("{at}: {e}"));
                    self.model.ended(lease);
                }
            }
            90..92 => {
                rig.pass(TTL * 2).await;
                self.end_leases(&store, &at).await;
            }
            _ => {
                // Nobody but the rig may keep the engine open.
                drop(store);
                self.crash(rig, step).await;
            }
        }
    }

    /// A revision that can be read.
    fn revision(&mut self) -> Revision {
        let (low, high) = (self.model.compacted().0, self.model.revision().0);
        Revision(low + self.dice.below(high - low + 1))
    }

    fn lease(&mut self) -> Option<LeaseId> {
        let leases = self.model.leases();
        let n = self.dice.below(leases.len() as u64) as usize;
        leases.get(n).copied()
    }

    fn transaction(&mut self) -> Transaction {
        let mut t = Transaction::new();
        for _ in 0..self.dice.below(3) {
            let key = self.dice.key();
            let known = self.model.state(self.model.revision()).get(&key).map(|kv| kv.modified);
            let before = Revision(self.dice.below(self.model.revision().0 + 1));
            t = match (self.dice.below(5), known) {
                (0, _) => t.if_absent(key),
                (1, _) => t.if_present(key),
                (2, Some(modified)) => t.if_modified_at(key, modified),
                (3, Some(modified)) => t.if_none_put_since(key, modified),
                (3, None) => t.if_none_put_since(key, before),
                _ => t.if_modified_at(key, before),
            };
        }
        for _ in 0..self.dice.below(5) {
            let key = self.dice.key();
            if t.writes.iter().any(|write| *write.key() == key) {
                continue;
            }
            self.tag += 1;
            t = match self.dice.below(4) {
                0 => t.delete(key),
                1 => match self.lease() {
                    Some(lease) => t.put_leased(key, self.tag.to_string(), lease),
                    None => t.put(key, self.tag.to_string()),
                },
                2 => t.put(key, vec![self.tag as u8; self.dice.below(9_000) as usize]),
                _ => t.put(key, self.tag.to_string()),
            };
        }
        t
    }

    async fn compare_get(&mut self, store: &SharedStore, at: &str) {
        let (key, revision) = (self.dice.key(), self.revision());
        let real = store.get(&key, At::Revision(revision)).await;
        let real = real.unwrap_or_else(|e| panic!("{at}: get at {revision}: {e}"));
        let model = self.model.state(revision).get(&key);
        assert_eq!(real.as_ref(), model, "{at}: get {key:?} at {revision}");
        let real = store.get(&key, At::Latest).await;
        let real = real.unwrap_or_else(|e| panic!("{at}: get at the latest: {e}"));
        let model = self.model.state(self.model.revision()).get(&key);
        assert_eq!(real.as_ref(), model, "{at}: get {key:?} at the latest");
        if self.model.compacted() > Revision::ZERO {
            let early = Revision(self.model.compacted().0 - 1);
            let real = store.get(&key, At::Revision(early)).await;
            // What was before the test began may be readable or not.
            let refused = matches!(real, Err(StoreError::Compacted { .. }) | Ok(None));
            assert!(refused, "{at}: get at the compacted {early}: {real:?}");
        }
    }

    async fn compare_range(&mut self, store: &SharedStore, at: &str) {
        let revision = self.revision();
        let (start, end) = (self.dice.key(), self.dice.key());
        let end = if self.dice.below(2) == 0 { Bytes::new() } else { end };
        let limit = self.dice.below(6) as usize;
        let keys_only = self.dice.below(3) == 0;
        let latest = revision == self.model.revision() && self.dice.below(2) == 0;
        let read = if latest { At::Latest } else { At::Revision(revision) };
        let range = Range { start: start.clone(), end: end.clone(), limit, keys_only, at: read };
        let page = store.range(range).await.unwrap_or_else(|e| panic!("{at}: range: {e}"));
        let mut model = Vec::new();
        if end.is_empty() || start < end {
            let upper = if end.is_empty() { Bound::Unbounded } else { Bound::Excluded(end) };
            let range = (Bound::Included(start), upper);
            model.extend(self.model.state(revision).range(range).map(|(_, kv)| kv.clone()));
        }
        let more = limit != 0 && model.len() > limit;
        model.truncate(if limit == 0 { model.len() } else { limit });
        if keys_only {
            model.iter_mut().for_each(|kv| kv.value = Bytes::new());
        }
        assert_eq!(page.items, model, "{at}: range at {revision}");
        assert_eq!((page.more, page.revision), (more, revision), "{at}");
    }

    async fn compare_watch(&mut self, store: &SharedStore, at: &str) {
        let from = self.revision();
        let model = self.model.changes(from);
        let real = replay(store, from, self.model.revision()).await;
        assert_eq!(real, model, "{at}: watch from {from}");
    }

    /// After all leases should have ended: they did, each in one commit.
    async fn end_leases(&mut self, store: &SharedStore, at: &str) {
        let before = self.model.revision();
        let state = self.model.state(before);
        let mut holding: Vec<_> = state.values().filter_map(|kv| kv.lease).collect();
        holding.sort_unstable();
        holding.dedup();
        let target = Revision(before.0 + holding.len() as u64);
        wait(async || store.revision().await.is_ok_and(|now| now >= target)).await;
        for batch in replay(store, before.next(), target).await {
            let key = &batch.events[0].key;
            let lease = self.model.state(self.model.revision()).get(key).and_then(|kv| kv.lease);
            self.model.ended(lease.unwrap_or_else(|| panic!("{at}: {key:?} had no lease")));
            assert_eq!(self.model.changes(batch.revision), [batch], "{at}: a lease's end");
        }
        assert_eq!(self.model.revision(), target, "{at}");
        // Those without keys leave no trace.
        for lease in self.model.leases() {
            self.model.ended(lease);
        }
    }

    /// Many commits in flight while the engine fails; then it must be what was said.
    async fn crash(&mut self, rig: &mut dyn Rig, step: usize) {
        let at = format!("seed {}, step {step}", self.seed);
        let before = self.model.revision();
        rig.arm(self.dice.number());
        let mut tasks = Vec::new();
        for _ in 0..1 + self.dice.below(24) {
            let mut t = self.transaction();
            self.tag += 1;
            // Named by a key of its own, by which the store's order is recognised.
            let name = Bytes::from(format!("tag/{}", self.tag));
            t = t.put(name.clone(), "");
            let (store, commit) = (rig.store(), t.clone());
            tasks.push((name, t, tokio::spawn(async move { store.commit(commit).await })));
        }
        let mut flight = Vec::new();
        for (name, t, task) in tasks {
            let answer = tokio::time::timeout(PATIENCE, task).await;
            let answer = answer.unwrap_or_else(|_| panic!("{at}: a commit was never answered"));
            flight.push((name, t, answer.expect("the task ends")));
        }
        rig.recover(self.dice.number()).await;
        let store = rig.store();
        // An engine may read before it can write again; what is in doubt is settled once it can.
        wait(async || store.commit(Transaction::new()).await.is_ok()).await;
        if rig.skips_revisions() {
            // So that the last revision is one that a watch tells of.
            let t = Transaction::new().put("tag/", "");
            let answer = store.commit(t.clone()).await;
            flight.push((Bytes::from("tag/"), t, answer));
        }
        let after = store.revision().await.expect("a revision");
        assert!(after >= before, "{at}: went back from {before} to {after}");
        let mut there = Vec::new();
        for batch in replay(&store, before.next(), after).await {
            let named = |name: &Bytes| batch.events.iter().any(|e| e.key == *name);
            let found: Vec<_> = flight.iter().filter(|(name, ..)| named(name)).collect();
            assert!(!found.is_empty(), "{at}: {batch:?} of nobody");
            if rig.skips_revisions() {
                self.model.skip(Revision(batch.revision.0 - 1));
            }
            // Those that share a revision are as one.
            let mut all = Transaction::new();
            for (name, t, _) in &found {
                assert!(!meets(&all, t), "{at}: {name:?} meets another at {}", batch.revision);
                all.conditions.extend(t.conditions.iter().cloned());
                all.writes.extend(t.writes.iter().cloned());
            }
            let model = self.model.commit(&all);
            let expected = Outcome::Committed(batch.revision);
            assert_eq!(model.ok(), Some(expected), "{at}: {found:?} against their conditions");
            assert_eq!(self.model.changes(batch.revision), [batch], "{at}: torn");
            for (name, _, answer) in found {
                match answer {
                    Ok(outcome) => assert_eq!(*outcome, expected, "{at}: {name:?}"),
                    Err(StoreError::Unknown { .. }) => {}
                    Err(refused) => panic!("{at}: {name:?} is there though refused: {refused}"),
                }
                there.push(name.clone());
            }
        }
        for (name, _, answer) in &flight {
            if let Ok(Outcome::Committed(revision)) = answer {
                assert!(there.contains(name), "{at}: {name:?} acknowledged at {revision}, lost");
            }
        }
        self.compare_all(&store, step).await;
    }

    /// Every record at every revision that is kept, and the whole history.
    async fn compare_all(&mut self, store: &SharedStore, step: usize) {
        let at = format!("seed {}, step {step}", self.seed);
        let (low, high) = (self.model.compacted(), self.model.revision());
        assert_eq!(store.revision().await.ok(), Some(high), "{at}");
        // Several at once: an engine that is asked over a network takes its time for each.
        let pages = stream::iter(low.0..=high.0).map(async |revision| {
            let range = Range {
                start: Bytes::from_static(b"\0"),
                end: Bytes::new(),
                limit: 0,
                keys_only: false,
                at: At::Revision(Revision(revision)),
            };
            (revision, store.range(range).await)
        });
        let mut pages = pin!(pages.buffered(READS));
        while let Some((revision, page)) = pages.next().await {
            let page = page.unwrap_or_else(|e| panic!("{at}: {e}"));
            assert!(!page.more, "the model stays below a page");
            let model: Vec<_> = self.model.state(Revision(revision)).values().cloned().collect();
            assert_eq!(page.items, model, "{at}: all at {revision}");
        }
        assert_eq!(replay(store, low, high).await, self.model.changes(low), "{at}: history");
        self.tidy(store, &at).await;
    }

    /// Removes the names of a crash, so that a state stays below a page, and now and then the past.
    async fn tidy(&mut self, store: &SharedStore, at: &str) {
        let state = self.model.state(self.model.revision());
        let names: Vec<_> = state.keys().filter(|k| k.starts_with(b"tag/")).cloned().collect();
        for names in names.chunks(100) {
            let writes = names.iter().cloned().map(Write::Delete).collect();
            let t = Transaction { writes, ..Transaction::new() };
            let real = store.commit(t.clone()).await;
            assert_eq!(real.ok(), self.model.commit(&t).ok(), "{at}");
        }
        if self.model.revision().0 - self.model.compacted().0 > 300 {
            let to = Revision(self.model.revision().0 - 50);
            store.compact(to).await.unwrap_or_else(|e| panic!("{at}: {e}"));
            self.model.compact(to);
        }
    }
}

/// All changes from `from` to `to`, as a watch tells them.
async fn replay(store: &SharedStore, from: Revision, to: Revision) -> Vec<WatchBatch> {
    let mut batches = Vec::new();
    if from > to {
        return batches;
    }
    let mut watch = store.watch(b"\0", b"", from).await.expect("a watch");
    // The revision a store begins at, and a compacted one, may have no changes to tell.
    let mut last = from.0.saturating_sub(1);
    while last < to.0 {
        let wait = if batches.is_empty() && from == to { PATIENCE / 100 } else { PATIENCE };
        match tokio::time::timeout(wait, watch.next()).await {
            Ok(batch) => {
                let batch = batch.expect("the watch goes on").expect("a batch");
                last = batch.revision.0;
                if last <= to.0 {
                    batches.push(batch);
                }
            }
            Err(_) => break,
        }
    }
    batches
}

async fn wait(mut done: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !done().await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("in time");
}
