//! How the fate of a commit whose answer was lost is settled.
//!
//! A transaction that was sent and not answered may have been applied, may be refused, or may *still* be on its way, in the
//! log of a leader that has just lost its followers or in a queue between members. Looking at the keys it writes proves
//! nothing: somebody else may have written the same, or over it, and what is not there now may be there in a second.
//!
//! So each of our transactions that writes also moves a *slot*: a key of this client alone, outside the keys of the store,
//! that one transaction at a time may use. The transaction demands that the slot was last put at the revision we know
//! (`modified`), and puts into it a tag that is used once. To settle a lost answer, a *fence* is committed: on the same
//! demand, it puts a tag of its own.
//!
//! - The fence is applied: the slot had not moved, so the transaction was not applied. It never will be: it demands a
//!   revision that the slot has left, and revisions do not come back. It may be tried again.
//! - The fence is refused, and the slot has the transaction's tag: it was applied, at the revision the slot was put at.
//!   Nobody but this client puts this slot, and this client uses it for nothing else meanwhile, so nothing can have hidden
//!   the tag.
//! - The fence is refused, and the slot has another tag: an earlier try of the fence itself (whose own answer was lost), or
//!   an earlier process under the same session name. Either way the slot has moved without the transaction, as above.
//! - The slot is gone: somebody removed it, and with it what we could know. Only then, and when no fence can be committed
//!   in time, the outcome is [`StoreError::Unknown`](dtr_store::StoreError::Unknown).
//!
//! Whoever reads after *unknown* must see what remains true. So a slot in doubt is kept, and every later call of this
//! client that looks at the latest state, or commits, commits its fence first (or fails because it cannot).
//!
//! The one transaction that may not put a slot unconditionally is one that only deletes, because it must make no revision
//! when there is nothing to delete. There the slot is put by a transaction within, whose condition is that any of the keys
//! is there. If none was, nothing was changed, and not applied and applied are the same.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use bytes::Bytes;
use dtr_types::Random;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::wire::{
    Compare, EQUAL, PutRequest, RangeRequest, Request, RequestOp, TARGET_MODIFIED, Target,
    TxnRequest,
};

/// Commits of one client at once; more wait.
const SLOTS_MAX: usize = 128;

/// One slot, as far as this client knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) key: Bytes,
    /// When it was last put; 0 when it never was, or nobody has looked.
    pub(crate) modified: i64,
}

impl Slot {
    /// The demand that it has not moved.
    pub(crate) fn unmoved(&self) -> Compare {
        Compare {
            result: EQUAL,
            target: TARGET_MODIFIED,
            key: self.key.clone(),
            value: Some(Target::Modified(self.modified)),
            range_end: Bytes::new(),
        }
    }

    /// Moves it.
    pub(crate) fn put(&self, tag: Bytes) -> RequestOp {
        Request::Put(PutRequest { key: self.key.clone(), value: tag, lease: 0 }).into()
    }

    /// Reads it.
    pub(crate) fn read(&self) -> RequestOp {
        let key = self.key.clone();
        Request::Range(RangeRequest { key, limit: 1, ..RangeRequest::default() }).into()
    }

    /// The transaction that stops another: see the module. The put is inside another transaction, because etcd with its
    /// quota reached refuses what has puts at the top, and settling must be possible even then.
    pub(crate) fn fence(&self, tag: Bytes) -> TxnRequest {
        let put = TxnRequest { success: vec![self.put(tag)], ..TxnRequest::default() };
        TxnRequest {
            compare: vec![self.unmoved()],
            success: vec![Request::Txn(put).into()],
            failure: vec![self.read()],
        }
    }
}

/// All slots of one client.
pub(crate) struct Slots {
    prefix: Bytes,
    /// First half of each tag: this process.
    process: [u8; 8],
    tags: AtomicU64,
    made: AtomicU64,
    free: Mutex<Vec<Slot>>,
    places: Arc<Semaphore>,
    doubts: Mutex<Vec<(Slot, OwnedSemaphorePermit)>>,
    doubtful: AtomicUsize,
    /// Held by whoever settles what is in doubt; the others wait for it.
    pub(crate) settling: tokio::sync::Mutex<()>,
}

impl Slots {
    pub(crate) fn new(prefix: Bytes, random: &dyn Random) -> Arc<Self> {
        let mut process = [0; 8];
        random.fill(&mut process);
        Arc::new(Self {
            prefix,
            process,
            tags: AtomicU64::new(0),
            made: AtomicU64::new(0),
            free: Mutex::default(),
            places: Arc::new(Semaphore::new(SLOTS_MAX)),
            doubts: Mutex::default(),
            doubtful: AtomicUsize::new(0),
            settling: tokio::sync::Mutex::new(()),
        })
    }

    /// A tag that nobody else has.
    pub(crate) fn tag(&self) -> Bytes {
        let count = self.tags.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        [self.process, count].concat().into()
    }

    /// A slot for one transaction.
    pub(crate) async fn take(self: &Arc<Self>) -> Taken {
        let place = self.places.clone().acquire_owned().await.ok();
        let free = self.free.lock().pop();
        let slot = free.unwrap_or_else(|| {
            let number = self.made.fetch_add(1, Ordering::Relaxed).to_string();
            Slot { key: [&self.prefix, number.as_bytes()].concat().into(), modified: 0 }
        });
        Taken { slots: self.clone(), slot, place, sent: false }
    }

    /// Whether anything is in doubt.
    pub(crate) fn in_doubt(&self) -> bool {
        self.doubtful.load(Ordering::Acquire) > 0
    }

    /// One that is in doubt; to be looked at only by whoever holds `settling`.
    pub(crate) fn doubt(&self) -> Option<Slot> {
        self.doubts.lock().last().map(|(slot, _)| slot.clone())
    }

    /// The doubt about a slot is settled: it was last put at `modified`.
    pub(crate) fn settled(&self, slot: &Slot, modified: i64) {
        let mut doubts = self.doubts.lock();
        if let Some(at) = doubts.iter().position(|(doubt, _)| doubt.key == slot.key) {
            drop(doubts.remove(at));
            self.doubtful.fetch_sub(1, Ordering::Release);
            self.free.lock().push(Slot { key: slot.key.clone(), modified });
        }
    }
}

/// A slot in use. When it is dropped after something was sent and before that was settled, it is in doubt: so it is also
/// when the caller of a commit goes away in the middle.
pub(crate) struct Taken {
    slots: Arc<Slots>,
    pub(crate) slot: Slot,
    place: Option<OwnedSemaphorePermit>,
    sent: bool,
}

impl Taken {
    /// Something that moves it is on its way.
    pub(crate) fn sent(&mut self) {
        self.sent = true;
    }

    /// What was sent is settled; the slot was last put at `modified`.
    pub(crate) fn settled(&mut self, modified: i64) {
        self.sent = false;
        self.slot.modified = modified;
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        match self.place.take() {
            Some(place) if self.sent => {
                self.slots.doubtful.fetch_add(1, Ordering::Release);
                self.slots.doubts.lock().push((self.slot.clone(), place));
            }
            _ => self.slots.free.lock().push(self.slot.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_dropped_unsettled_is_in_doubt() {
        let random = dtr_types::SeededRandom::new(1);
        let slots = Slots::new(Bytes::from_static(b"s/"), &random);
        let mut taken = slots.take().await;
        taken.sent();
        taken.settled(7);
        drop(taken);
        assert!(!slots.in_doubt());
        let mut taken = slots.take().await;
        assert_eq!(taken.slot, Slot { key: Bytes::from_static(b"s/0"), modified: 7 });
        taken.sent();
        drop(taken);
        assert!(slots.in_doubt());
        assert_eq!(slots.take().await.slot.key, "s/1", "one in doubt is not used");
        let doubt = slots.doubt().expect("one");
        slots.settled(&doubt, 9);
        assert!(!slots.in_doubt() && slots.doubt().is_none());
        assert_eq!(slots.places.available_permits(), SLOTS_MAX);
        assert_ne!(slots.tag(), slots.tag());
    }
}
