//! The ordered, versioned key-value engine under everything: its trait, and the contract suite that every engine passes.
//!
//! The model is etcd's, because etcd is the engine when there are several replicas: byte keys in byte order, one global
//! [`Revision`], reads at the latest or an earlier revision, transactions of conditions and writes,
//! watches, leases, compaction. Nothing here knows what a repository is.
//!
//! - [`Store`] is what an engine implements: few, primitive operations.
//! - [`StoreExt`] has the conveniences that every engine gets for free.
//! - [`age`] tells how old a revision is at least, whatever clocks say.
//! - [`hold`] keeps revisions readable while somebody needs them.
//! - [`together()`] lets the reads of one request share what it costs to know the latest state.
//! - [`contract`] is the suite; an engine's own tests run it. [`model_test`] is the same by random operations.

pub mod age;
pub mod contract;
pub mod hold;
pub mod model_test;
pub mod together;

mod error;
mod ext;
mod model;
mod transaction;

pub use error::StoreError;
pub use ext::{StoreExt, prefix_end, scan};
pub use model::{
    At, Event, EventKind, Expect, KeyValue, LeaseId, Limits, Page, Range, Status, WatchBatch,
    Watcher,
};
pub use together::together;
pub use transaction::{Class, Condition, Outcome, Transaction, Write};

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use dtr_types::Revision;

/// What the keys begin with under which this crate keeps something for itself: [`hold`]s and [`age`]s.
pub const OWN: &[u8] = b"!";

/// An engine. All methods may be called at once from many tasks.
///
/// Limits ([`Store::limits`]) are refused by the engine with [`StoreError::TooLarge`], never cut.
#[async_trait::async_trait]
pub trait Store: Send + Sync {
    /// The sizes that this engine accepts.
    fn limits(&self) -> Limits;

    /// The latest committed revision, linearizable: at least that of every commit acknowledged before the call.
    async fn revision(&self) -> Result<Revision, StoreError>;

    /// One key.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] or [`StoreError::Future`] for an `at` that cannot be read.
    async fn get(&self, key: &[u8], at: At) -> Result<Option<KeyValue>, StoreError>;

    /// Keys in order, a page at a time. All of a page is of one revision; ask for the next pages at [`Page::revision`]
    /// to see the same state. A page may have fewer items than asked for and yet say [`Page::more`]: engines also end it
    /// when its values become many megabytes. It has at least one item then.
    async fn range(&self, range: Range) -> Result<Page, StoreError>;

    /// Applies all writes at once if every condition holds, else none. The answer is given when the outcome is durable.
    ///
    /// A key may be written once in a transaction. A transaction without writes commits nothing and yields the latest
    /// revision; so does one whose writes only delete what is not there. Conditions are evaluated on the state before the
    /// writes. Transactions that are on their way at the same time may share a revision, if none of them reads or writes what
    /// another writes: nobody can tell in which order they came.
    ///
    /// When room runs out, content ([`Class::Content`]) is refused first, so that what makes room can still be committed.
    ///
    /// # Errors
    /// [`StoreError::Full`] without a change. [`StoreError::Unknown`] when the answer was lost: it may or may not be committed, reading settles it.
    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError>;

    /// Puts keys into a store that is being filled: nobody else writes to it, and what is loaded is not read before
    /// [`Store::finish_load`]. Until that has returned, nothing of it is promised: it may be there or not, also after a
    /// crash. An engine may therefore write it without syncs and without a history that could be read or watched. Each
    /// call has the size of a transaction and [`Limits::load_keys_max`] keys at most; of a key that is put twice the last put counts.
    ///
    /// # Errors
    /// As [`Store::commit`]. After an error, everything loaded so far is in doubt: [`Store::abandon_load`].
    async fn load(&self, puts: Vec<(Bytes, Bytes)>) -> Result<(), StoreError> {
        let mut transaction = Transaction::new();
        let mut latest = std::collections::BTreeMap::new();
        latest.extend(puts);
        for (key, value) in latest {
            transaction = transaction.put(key, value);
        }
        self.commit(transaction).await.map(drop)
    }

    /// Returns when everything loaded is durable and can be read. Revisions before it may be gone then.
    async fn finish_load(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Gives up what was loaded and not finished; parts of it may be there nevertheless.
    async fn abandon_load(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Changes to keys in `[start, end)` from revision `from` on (inclusive), in order, without gaps: one batch a
    /// revision. An empty `end` means no upper bound.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] at once, or later in the stream, when `from` is no longer kept.
    async fn watch(&self, start: &[u8], end: &[u8], from: Revision) -> Result<Watcher, StoreError>;

    /// Forgets history before `revision`: reads at earlier revisions and watches from them end with
    /// [`StoreError::Compacted`]. The state at `revision` stays readable. Holds are not known here: call
    /// [`hold::compact`], which respects them. A `revision` that was compacted already is no error.
    async fn compact(&self, revision: Revision) -> Result<(), StoreError>;

    /// Grants a lease: keys put with it vanish in one commit when it is not kept alive for `ttl`.
    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, StoreError>;

    /// Extends a lease by its time to live. [`StoreError::LeaseNotFound`] when it has ended.
    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Ends a lease now; its keys are deleted.
    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// A hint to what the keys below `prefix` are like. It changes no answer.
    fn expect(&self, prefix: &[u8], what: Expect) {
        let _ = (prefix, what);
    }

    /// A hint that these keys are about to be read, at the latest revision: an engine for which each read costs a round trip
    /// reads them in one. It changes no answer.
    async fn prefetch(&self, keys: &[Bytes]) {
        let _ = keys;
    }

    /// What the engine says of itself, for health and metrics.
    async fn status(&self) -> Result<Status, StoreError>;
}

/// A shared engine.
pub type SharedStore = Arc<dyn Store>;
