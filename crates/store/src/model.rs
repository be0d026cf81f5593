//! The values that go in and out of an engine.

use bytes::Bytes;
use dtr_types::Revision;
use tokio::sync::mpsc;

use crate::StoreError;

/// Which state to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// Everything acknowledged before the call, at least (linearizable).
    Latest,
    /// The state right after this revision was committed.
    Revision(Revision),
}

/// A key, its value, and its history in short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// The value; empty when only keys were asked for.
    pub value: Bytes,
    /// When it was last created, that is: put while absent.
    pub created: Revision,
    /// When it was last put.
    pub modified: Revision,
    /// How often it has been put since it was created, from 1.
    pub version: u64,
    /// The lease it hangs on.
    pub lease: Option<LeaseId>,
}

/// What to read in order.
#[derive(Clone, Debug)]
pub struct Range {
    /// First key, inclusive.
    pub start: Bytes,
    /// End, exclusive; empty means: to the last key.
    pub end: Bytes,
    /// At most this many; 0 means as many as the engine gives in one page ([`Limits::page_items_max`]).
    pub limit: usize,
    /// Leave the values out.
    pub keys_only: bool,
    /// Which state.
    pub at: At,
}

/// A part of a range, all of one revision.
#[derive(Clone, Debug)]
pub struct Page {
    /// The revision it was read at.
    pub revision: Revision,
    /// In key order.
    pub items: Vec<KeyValue>,
    /// Whether keys follow in the range.
    pub more: bool,
}

/// A lease's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId(pub i64);

/// A change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It was put; the new state.
    Put(KeyValue),
    /// It was deleted.
    Delete,
}

/// A change of one key, as a watch tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Which key.
    pub key: Bytes,
    /// What happened.
    pub kind: EventKind,
}

/// All changes of one revision to the keys that are watched, in key order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchBatch {
    /// The revision that made them.
    pub revision: Revision,
    /// What changed; never empty.
    pub events: Vec<Event>,
}

/// A running watch. Dropping it ends it.
#[derive(Debug)]
pub struct Watcher {
    receiver: mpsc::Receiver<Result<WatchBatch, StoreError>>,
}

impl Watcher {
    /// For engines: a watch fed through a bounded channel.
    pub fn channel(capacity: usize) -> (mpsc::Sender<Result<WatchBatch, StoreError>>, Self) {
        let (sender, receiver) = mpsc::channel(capacity);
        (sender, Self { receiver })
    }

    /// The next changes. `None` when the engine was closed; after an error nothing follows.
    pub async fn next(&mut self) -> Option<Result<WatchBatch, StoreError>> {
        self.receiver.recv().await
    }
}

/// What an engine accepts. The defaults are etcd's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest key, in bytes.
    pub key_bytes_max: usize,
    /// Largest value, in bytes.
    pub value_bytes_max: usize,
    /// Keys and values of one transaction together, in bytes.
    pub transaction_bytes_max: usize,
    /// Conditions of one transaction, and writes of one transaction: each at most this many.
    pub operations_max: usize,
    /// Keys in one call of [`load`](crate::Store::load).
    pub load_keys_max: usize,
    /// Most items in one page.
    pub page_items_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            key_bytes_max: 4 * 1024,
            value_bytes_max: 1_572_864 - 64 * 1024,
            transaction_bytes_max: 1_572_864 - 32 * 1024,
            operations_max: 128,
            load_keys_max: 128,
            page_items_max: 1_000,
        }
    }
}

/// What an engine says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Its name: `embedded` or `etcd`.
    pub engine: &'static str,
    /// The latest revision.
    pub revision: Revision,
    /// The oldest revision that can be read.
    pub compacted: Revision,
    /// Bytes on disk.
    pub size_bytes: u64,
    /// Why content is refused at this moment for want of room, if it is.
    pub full: Option<String>,
}

/// What keys below a prefix are like, for an engine for which a read is expensive ([`crate::Store::expect`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// There are mostly few, and most that are asked for are not there: all may be found out about at once.
    Few,
    /// They are read seldom, and not soon after they were written.
    SeldomRead,
}
