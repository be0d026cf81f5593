//! Transactions as data: conditions and writes, all or nothing.

use bytes::Bytes;
use dtr_types::Revision;

use crate::{KeyValue, LeaseId};

/// What must hold for a transaction to be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// The key is not there.
    Absent(Bytes),
    /// The key is there.
    Present(Bytes),
    /// The key was last put at this revision, and is there.
    ModifiedAt(Bytes, Revision),
    /// No key that begins with this was put after this revision. What was deleted since does not count; at
    /// [`Revision::ZERO`] it says that there is none.
    NonePutSince(Bytes, Revision),
}

impl Condition {
    /// The key it is about, or what the keys that it is about begin with.
    pub fn key(&self) -> &Bytes {
        match self {
            Self::Absent(key) | Self::Present(key) => key,
            Self::ModifiedAt(key, _) | Self::NonePutSince(key, _) => key,
        }
    }

    /// Whether it is about this key.
    pub fn reads(&self, key: &[u8]) -> bool {
        match self {
            Self::NonePutSince(prefix, _) => key.starts_with(prefix),
            _ => self.key() == key,
        }
    }
}

/// A change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Puts a value, on a lease if one is named.
    Put {
        /// The key.
        key: Bytes,
        /// Its new value.
        value: Bytes,
        /// The lease it vanishes with.
        lease: Option<LeaseId>,
    },
    /// Deletes a key; no error when it is not there.
    Delete(Bytes),
}

impl Write {
    /// The key it is about.
    pub fn key(&self) -> &Bytes {
        match self {
            Self::Put { key, .. } | Self::Delete(key) => key,
        }
    }
}

/// What a commit is for, which decides whether it is accepted when room runs out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Class {
    /// Deletions, collection, holds, locks, logins, heartbeats, settings: small, and needed to make room again. They may use
    /// the engine's reserve.
    #[default]
    Essential,
    /// What fills a registry: uploads, links, manifests, tags, new repositories, events of pulls. Refused with
    /// [`StoreError::Full`](crate::StoreError::Full) while only the reserve is left.
    Content,
}

/// Conditions and writes, built one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    /// What it is for.
    pub class: Class,
    /// All must hold.
    pub conditions: Vec<Condition>,
    /// All are applied; a key at most once.
    pub writes: Vec<Write>,
}

impl Transaction {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says that it brings in content: it must leave the engine's reserve alone.
    #[must_use]
    pub fn content(mut self) -> Self {
        self.class = Class::Content;
        self
    }

    /// Whether it needs room that must not come from the reserve: content that is put. Whatever only deletes makes room.
    pub fn fills(&self) -> bool {
        self.class == Class::Content
            && self.writes.iter().any(|write| matches!(write, Write::Put { .. }))
    }

    /// Demands that `key` is not there.
    #[must_use]
    pub fn if_absent(mut self, key: impl Into<Bytes>) -> Self {
        self.conditions.push(Condition::Absent(key.into()));
        self
    }

    /// Demands that `key` is there.
    #[must_use]
    pub fn if_present(mut self, key: impl Into<Bytes>) -> Self {
        self.conditions.push(Condition::Present(key.into()));
        self
    }

    /// Demands that `key` was last put at `revision`.
    #[must_use]
    pub fn if_modified_at(mut self, key: impl Into<Bytes>, revision: Revision) -> Self {
        self.conditions.push(Condition::ModifiedAt(key.into(), revision));
        self
    }

    /// Demands that no key that begins with `prefix` was put after `revision`: that a list which was read then has nothing
    /// new in it. Costs a look at each of them.
    #[must_use]
    pub fn if_none_put_since(mut self, prefix: impl Into<Bytes>, revision: Revision) -> Self {
        self.conditions.push(Condition::NonePutSince(prefix.into(), revision));
        self
    }

    /// Demands that `key` is as it was when it was read: at the same revision, or absent.
    #[must_use]
    pub fn if_unchanged(self, key: impl Into<Bytes>, read: Option<&KeyValue>) -> Self {
        match read {
            Some(kv) => self.if_modified_at(key, kv.modified),
            None => self.if_absent(key),
        }
    }

    /// Puts a value.
    #[must_use]
    pub fn put(mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        self.writes.push(Write::Put { key: key.into(), value: value.into(), lease: None });
        self
    }

    /// Puts a value that vanishes with `lease`.
    #[must_use]
    pub fn put_leased(
        mut self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        lease: LeaseId,
    ) -> Self {
        self.writes.push(Write::Put { key: key.into(), value: value.into(), lease: Some(lease) });
        self
    }

    /// Deletes a key.
    #[must_use]
    pub fn delete(mut self, key: impl Into<Bytes>) -> Self {
        self.writes.push(Write::Delete(key.into()));
        self
    }
}

/// What became of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was applied and is durable.
    Committed(Revision),
    /// A condition did not hold; nothing was applied.
    Conflict {
        /// Index of the first condition that did not hold.
        condition: usize,
        /// The state it was evaluated on.
        revision: Revision,
    },
}

impl Outcome {
    /// The revision, if it was applied.
    pub fn committed(self) -> Option<Revision> {
        match self {
            Self::Committed(revision) => Some(revision),
            Self::Conflict { .. } => None,
        }
    }
}
