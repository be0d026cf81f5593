//! Writing: what one transaction does to the tables, inside the redb transaction of its group.

use bytes::Bytes;
use dtr_store::{Condition, LeaseId, Outcome, StoreError, Transaction, Write};
use dtr_types::Revision;
use redb::{ReadableTable as _, Table, WriteTransaction};

use crate::{
    fault::Fault,
    record::{
        CHANGES, COMPACTED, CURRENT, Change, HISTORY, Header, LAST_LEASE, LEASED, LEASES, META,
        REVISION, ReadChanges, write_changes, write_history, write_record,
    },
};

/// The tables of one group, and how far it is.
pub(crate) struct Group<'t> {
    current: Table<'t, &'static [u8], &'static [u8]>,
    history: Table<'t, (&'static [u8], u64), &'static [u8]>,
    changes: Table<'t, u64, &'static [u8]>,
    leases: Table<'t, i64, u64>,
    leased: Table<'t, (i64, &'static [u8]), ()>,
    meta: Table<'t, &'static str, u64>,
    /// The latest revision, with what this group did so far.
    pub(crate) revision: u64,
    /// The revision below which nothing can be read.
    pub(crate) compacted: u64,
    /// Whether there is anything to make durable.
    pub(crate) dirty: bool,
    record: Vec<u8>,
    ended: Vec<u8>,
}

/// A caller's error, inside an engine's.
pub(crate) type Answer<T> = Result<Result<T, StoreError>, Fault>;

impl<'t> Group<'t> {
    pub(crate) fn open(
        write: &'t WriteTransaction,
        revision: u64,
        compacted: u64,
    ) -> Result<Self, Fault> {
        Ok(Self {
            current: write.open_table(CURRENT)?,
            history: write.open_table(HISTORY)?,
            changes: write.open_table(CHANGES)?,
            leases: write.open_table(LEASES)?,
            leased: write.open_table(LEASED)?,
            meta: write.open_table(META)?,
            revision,
            compacted,
            dirty: false,
            record: Vec::new(),
            ended: Vec::new(),
        })
    }

    /// Writes the numbers of the whole file; to be called once, last.
    pub(crate) fn finish(mut self) -> Result<(), Fault> {
        self.meta.insert(REVISION, self.revision)?;
        self.meta.insert(COMPACTED, self.compacted)?;
        Ok(())
    }

    /// Evaluates one transaction on the state so far; `now` is not needed: expired leases were ended before.
    pub(crate) fn transact(&mut self, transaction: &Transaction) -> Answer<Outcome> {
        for (index, condition) in transaction.conditions.iter().enumerate() {
            if !self.holds(condition)? {
                let revision = Revision(self.revision);
                return Ok(Ok(Outcome::Conflict { condition: index, revision }));
            }
        }
        for write in &transaction.writes {
            if let Write::Put { lease: Some(LeaseId(lease)), .. } = write
                && self.leases.get(lease)?.is_none()
            {
                return Ok(Err(StoreError::LeaseNotFound));
            }
        }
        let revision = self.revision + 1;
        let mut changes = Vec::with_capacity(transaction.writes.len());
        for write in &transaction.writes {
            match write {
                Write::Put { key, value, lease } => {
                    let lease = lease.map_or(0, |lease| lease.0);
                    changes.push(self.put(revision, key, value, lease)?);
                }
                Write::Delete(key) => changes.extend(self.delete(revision, key)?),
            }
        }
        self.record_changes(changes)?;
        Ok(Ok(Outcome::Committed(Revision(self.revision))))
    }

    /// Makes a revision of changes, if there are any.
    fn record_changes(&mut self, mut changes: Vec<Change<Bytes>>) -> Result<(), Fault> {
        if !changes.is_empty() {
            self.revision += 1;
            self.changes.insert(self.revision, &write_changes(&mut changes)[..])?;
            self.dirty = true;
        }
        Ok(())
    }

    fn holds(&self, condition: &Condition) -> Result<bool, Fault> {
        let found = |key: &Bytes| self.current.get(&key[..]);
        Ok(match condition {
            Condition::Absent(key) => found(key)?.is_none(),
            Condition::Present(key) => found(key)?.is_some(),
            Condition::ModifiedAt(key, at) => match found(key)? {
                Some(record) => Header::read(record.value())?.modified == at.0,
                None => false,
            },
            Condition::NonePutSince(prefix, at) => {
                for item in self.current.range(&prefix[..]..)? {
                    let (key, record) = item?;
                    if !key.value().starts_with(prefix) {
                        break;
                    }
                    if Header::read(record.value())?.modified > at.0 {
                        return Ok(false);
                    }
                }
                true
            }
        })
    }

    fn put(
        &mut self,
        revision: u64,
        key: &Bytes,
        value: &[u8],
        lease: i64,
    ) -> Result<Change<Bytes>, Fault> {
        let before = match self.current.get(&key[..])? {
            None => None,
            Some(record) => {
                write_history(&mut self.ended, revision, record.value());
                Some(Header::read(record.value())?)
            }
        };
        if let Some(before) = before {
            self.history.insert((&key[..], before.modified), &self.ended[..])?;
        }
        let lease_before = before.map_or(0, |b| b.lease);
        if lease_before != lease {
            self.move_lease(key, lease_before, lease)?;
        }
        let header = Header {
            created: before.map_or(revision, |b| b.created),
            modified: revision,
            version: before.map_or(1, |b| b.version.saturating_add(1)),
            lease,
        };
        write_record(&mut self.record, &header, value);
        self.current.insert(&key[..], &self.record[..])?;
        let before = before.map_or(0, |b| b.modified);
        Ok(Change { key: key.clone(), deleted: false, before })
    }

    fn delete(&mut self, revision: u64, key: &Bytes) -> Result<Option<Change<Bytes>>, Fault> {
        let before = match self.current.remove(&key[..])? {
            None => return Ok(None),
            Some(record) => {
                write_history(&mut self.ended, revision, record.value());
                Header::read(record.value())?
            }
        };
        self.history.insert((&key[..], before.modified), &self.ended[..])?;
        self.move_lease(key, before.lease, 0)?;
        Ok(Some(Change { key: key.clone(), deleted: true, before: before.modified }))
    }

    fn move_lease(&mut self, key: &[u8], from: i64, to: i64) -> Result<(), Fault> {
        if from != 0 {
            self.leased.remove((from, key))?;
        }
        if to != 0 {
            self.leased.insert((to, key), ())?;
        }
        Ok(())
    }

    /// Grants a lease.
    pub(crate) fn grant(&mut self, ttl_ms: u64) -> Result<i64, Fault> {
        let last = self.meta.get(LAST_LEASE)?.map_or(0, |n| n.value());
        let lease = last as i64 + 1;
        self.meta.insert(LAST_LEASE, last + 1)?;
        self.leases.insert(lease, ttl_ms)?;
        self.dirty = true;
        Ok(lease)
    }

    /// Ends a lease and deletes its keys, as one revision.
    pub(crate) fn revoke(&mut self, lease: i64) -> Answer<()> {
        if self.leases.remove(lease)?.is_none() {
            return Ok(Err(StoreError::LeaseNotFound));
        }
        self.dirty = true;
        let mut keys = Vec::new();
        for item in self.leased.range((lease, &[][..])..)? {
            let (item, ()) = item.map(|(key, _)| (key, ()))?;
            let (of, key) = item.value();
            if of != lease {
                break;
            }
            keys.push(Bytes::copy_from_slice(key));
        }
        let mut changes = Vec::with_capacity(keys.len());
        for key in &keys {
            changes.extend(self.delete(self.revision + 1, key)?);
        }
        self.record_changes(changes)?;
        Ok(Ok(()))
    }

    /// Marks everything before `to` as forgotten; [`Group::sweep`] removes it bit by bit.
    pub(crate) fn compact(&mut self, to: u64) -> Result<(), StoreError> {
        if to > self.revision {
            return Err(StoreError::Future {
                asked: Revision(to),
                latest: Revision(self.revision),
            });
        }
        if to > self.compacted {
            self.compacted = to;
            self.dirty = true;
        }
        Ok(())
    }

    /// Removes what was forgotten, up to about `changes_max` changes; false when there may be more. Costs what is removed:
    /// the changes up to the compacted revision name exactly the superseded records that nobody can read any more.
    ///
    /// Only up to `limit`: what an earlier group marked, so that no reader of that state misses anything.
    pub(crate) fn sweep(&mut self, limit: u64, changes_max: usize) -> Result<bool, Fault> {
        let (mut ended, mut revisions) = (Vec::new(), Vec::new());
        let mut done = true;
        for line in self.changes.range(..=limit)? {
            let (revision, changes) = line?;
            if ended.len() >= changes_max {
                done = false;
                break;
            }
            for change in ReadChanges(changes.value()) {
                let change = change?;
                if change.before != 0 {
                    ended.push((Bytes::copy_from_slice(change.key), change.before));
                } else {
                    ended.push((Bytes::new(), 0));
                }
            }
            // A watch may still begin at the compacted revision itself.
            if revision.value() < limit {
                revisions.push(revision.value());
            }
        }
        for (key, before) in ended.iter().filter(|(_, before)| *before != 0) {
            self.dirty |= self.history.remove((&key[..], *before))?.is_some();
        }
        for revision in revisions {
            self.changes.remove(revision)?;
            self.dirty = true;
        }
        Ok(done)
    }
}
