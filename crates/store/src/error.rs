//! What can go wrong in an engine, by what the caller can do about it.

use dtr_types::Revision;

/// An engine's error.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// Nothing was done; the same call may work later.
    #[error("the store is not available: {reason}")]
    Unavailable {
        /// Why, for an operator.
        reason: String,
    },
    /// The answer to a commit was lost: it may or may not have been applied. Read before trying again.
    #[error("the outcome of a commit is not known: {reason}")]
    Unknown {
        /// Why, for an operator.
        reason: String,
    },
    /// No room is left (disk full, or etcd's space alarm). Nothing was done.
    #[error("the store has no room left: {reason}")]
    Full {
        /// Where, for an operator.
        reason: String,
    },
    /// The revision asked for has been compacted.
    #[error("revision {asked} is no longer kept; the oldest is {oldest}")]
    Compacted {
        /// What was asked for.
        asked: Revision,
        /// What can still be read.
        oldest: Revision,
    },
    /// The revision asked for has not been committed yet.
    #[error("revision {asked} is not there yet; the latest is {latest}")]
    Future {
        /// What was asked for.
        asked: Revision,
        /// What is there.
        latest: Revision,
    },
    /// A limit of the engine was passed; nothing was done.
    #[error("{what} is {size}, the store's limit is {limit}")]
    TooLarge {
        /// What was too large: a value, a key, the operations of a transaction.
        what: &'static str,
        /// How large it was.
        size: usize,
        /// What is accepted.
        limit: usize,
    },
    /// The call itself is wrong, such as one key written twice in a transaction.
    #[error("the store refused a call: {0}")]
    Invalid(&'static str),
    /// No such lease, or it has ended.
    #[error("the lease is not there any more")]
    LeaseNotFound,
    /// What is on disk is not what was written.
    #[error("the store's data is damaged: {0}")]
    Corrupt(String),
}

impl StoreError {
    /// Whether the same call may work later without anybody changing anything but time or room.
    pub fn may_retry(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Full { .. } | Self::Unknown { .. })
    }
}
