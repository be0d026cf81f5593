//! The plain model: every state is kept whole, every operation is the obvious one.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use dtr_types::Revision;

use crate::{
    Condition, Event, EventKind, KeyValue, LeaseId, Outcome, StoreError, Transaction, WatchBatch,
    Write,
};

type State = BTreeMap<Bytes, KeyValue>;

/// What a store should be.
#[derive(Debug, Default)]
pub struct Model {
    states: BTreeMap<u64, State>,
    changes: BTreeMap<u64, Vec<Event>>,
    leases: BTreeSet<LeaseId>,
    latest: u64,
    compacted: u64,
}

impl Model {
    /// An empty store at `revision`.
    pub fn new(revision: Revision) -> Self {
        let states = BTreeMap::from([(revision.0, State::new())]);
        Self { states, latest: revision.0, compacted: revision.0, ..Self::default() }
    }

    /// The latest revision.
    pub fn revision(&self) -> Revision {
        Revision(self.latest)
    }

    /// The oldest revision that can be read.
    pub fn compacted(&self) -> Revision {
        Revision(self.compacted)
    }

    /// The state at a revision that is kept.
    pub fn state(&self, at: Revision) -> &BTreeMap<Bytes, KeyValue> {
        &self.states[&at.0]
    }

    /// The changes from a revision on.
    pub fn changes(&self, from: Revision) -> Vec<WatchBatch> {
        let batch = |(revision, events): (&u64, &Vec<Event>)| WatchBatch {
            revision: Revision(*revision),
            events: events.clone(),
        };
        self.changes.range(from.0..).map(batch).collect()
    }

    /// The leases that have not ended.
    pub fn leases(&self) -> Vec<LeaseId> {
        self.leases.iter().copied().collect()
    }

    /// A lease was granted.
    pub fn granted(&mut self, lease: LeaseId) {
        self.leases.insert(lease);
    }

    /// A lease ends.
    pub fn ended(&mut self, lease: LeaseId) {
        self.leases.remove(&lease);
        let state = self.state(self.revision());
        let t = state.values().filter(|kv| kv.lease == Some(lease)).map(|kv| kv.key.clone());
        let writes = t.map(Write::Delete).collect();
        drop(self.commit(&Transaction { writes, ..Transaction::new() }));
    }

    /// Forgets what is before `to`.
    pub fn compact(&mut self, to: Revision) {
        if to.0 > self.compacted {
            self.compacted = to.0;
            self.states.retain(|revision, _| *revision >= to.0);
            self.changes.retain(|revision, _| *revision >= to.0);
        }
    }

    /// Revisions up to `to` went by without a change.
    pub fn skip(&mut self, to: Revision) {
        while self.latest < to.0 {
            let state = self.states[&self.latest].clone();
            self.latest += 1;
            self.states.insert(self.latest, state);
        }
    }

    fn holds(state: &State, condition: &Condition) -> bool {
        match condition {
            Condition::Absent(key) => !state.contains_key(key),
            Condition::Present(key) => state.contains_key(key),
            Condition::ModifiedAt(key, at) => state.get(key).is_some_and(|kv| kv.modified == *at),
            Condition::NonePutSince(prefix, at) => state
                .range(prefix.clone()..)
                .take_while(|(key, _)| key.starts_with(prefix))
                .all(|(_, kv)| kv.modified <= *at),
        }
    }

    /// What committing should do and answer.
    ///
    /// # Errors
    /// [`StoreError::LeaseNotFound`] only.
    pub fn commit(&mut self, transaction: &Transaction) -> Result<Outcome, StoreError> {
        let mut state = self.states[&self.latest].clone();
        let failing = transaction.conditions.iter().position(|c| !Self::holds(&state, c));
        if let Some(condition) = failing {
            return Ok(Outcome::Conflict { condition, revision: self.revision() });
        }
        let revision = self.revision().next();
        let mut events = Vec::new();
        for write in &transaction.writes {
            match write {
                Write::Put { key, value, lease } => {
                    if lease.is_some_and(|lease| !self.leases.contains(&lease)) {
                        return Err(StoreError::LeaseNotFound);
                    }
                    let before = state.get(key);
                    let kv = KeyValue {
                        key: key.clone(),
                        value: value.clone(),
                        created: before.map_or(revision, |kv| kv.created),
                        modified: revision,
                        version: before.map_or(1, |kv| kv.version + 1),
                        lease: *lease,
                    };
                    state.insert(key.clone(), kv.clone());
                    events.push(Event { key: key.clone(), kind: EventKind::Put(kv) });
                }
                Write::Delete(key) => {
                    if state.remove(key).is_some() {
                        events.push(Event { key: key.clone(), kind: EventKind::Delete });
                    }
                }
            }
        }
        if !events.is_empty() {
            events.sort_by(|a, b| a.key.cmp(&b.key));
            self.latest = revision.0;
            self.states.insert(self.latest, state);
            self.changes.insert(self.latest, events);
        }
        Ok(Outcome::Committed(self.revision()))
    }
}
