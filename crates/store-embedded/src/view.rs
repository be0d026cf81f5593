//! Reading: one durable state of the file, at its latest revision or an earlier one.
//!
//! The committer makes a [`View`] after each fsync and publishes it before it acknowledges, so a read that begins after
//! an acknowledgement sees what was acknowledged, and no read sees what a power loss could take back.

use std::ops::Bound;

use bytes::Bytes;
use dtr_store::{At, Event, EventKind, KeyValue, Page, StoreError, WatchBatch};
use dtr_types::Revision;
use redb::{AccessGuard, Database, ReadOnlyTable, ReadableDatabase as _};

use crate::{
    fault::Fault,
    record::{
        CHANGES, COMPACTED, CURRENT, HISTORY, Header, META, REVISION, ReadChanges, key_value,
        read_history,
    },
};

/// A page ends here even when fewer items than asked for fit, so that a page of large values stays affordable.
const PAGE_BYTES_MAX: usize = 8 << 20;
/// How many versions of one key are stepped over before the tree is asked for the next key instead.
const STEPS_BEFORE_SEEK: usize = 16;

type CurrentTable = ReadOnlyTable<&'static [u8], &'static [u8]>;
type HistoryTable = ReadOnlyTable<(&'static [u8], u64), &'static [u8]>;
type CurrentItem = (AccessGuard<'static, &'static [u8]>, AccessGuard<'static, &'static [u8]>);
type HistoryItem =
    (AccessGuard<'static, (&'static [u8], u64)>, AccessGuard<'static, &'static [u8]>);

/// One durable state.
pub(crate) struct View {
    pub(crate) revision: u64,
    pub(crate) compacted: u64,
    current: CurrentTable,
    history: HistoryTable,
    changes: ReadOnlyTable<u64, &'static [u8]>,
}

/// What a range is asked for, without the revision.
pub(crate) struct Bounds {
    pub(crate) start: Bytes,
    pub(crate) end: Bytes,
    pub(crate) limit: usize,
    pub(crate) keys_only: bool,
}

impl Bounds {
    fn is_empty(&self) -> bool {
        !self.end.is_empty() && self.end <= self.start
    }

    fn end<'a, T>(&'a self, bound: impl FnOnce(&'a [u8]) -> T) -> Bound<T> {
        if self.end.is_empty() { Bound::Unbounded } else { Bound::Excluded(bound(&self.end)) }
    }
}

/// A page as it grows.
struct Pages {
    items: Vec<KeyValue>,
    bytes: usize,
    limit: usize,
    keys_only: bool,
    more: bool,
}

impl Pages {
    fn new(bounds: &Bounds) -> Self {
        Self {
            items: Vec::with_capacity(bounds.limit.min(1024)),
            bytes: 0,
            limit: bounds.limit,
            keys_only: bounds.keys_only,
            more: false,
        }
    }

    /// Adds an item; false when it did not fit any more, so that the page is at its end.
    fn add(&mut self, key: &[u8], record: &[u8]) -> Result<bool, Fault> {
        if self.items.len() == self.limit || self.bytes >= PAGE_BYTES_MAX {
            self.more = true;
            return Ok(false);
        }
        self.bytes += key.len() + if self.keys_only { 0 } else { record.len() };
        self.items.push(key_value(key, record, self.keys_only)?);
        Ok(true)
    }

    fn finish(self, revision: u64) -> Page {
        Page { revision: Revision(revision), items: self.items, more: self.more }
    }
}

impl View {
    pub(crate) fn open(database: &Database) -> Result<Self, Fault> {
        let read = database.begin_read()?;
        let meta = read.open_table(META)?;
        let number = |name| Ok::<_, Fault>(meta.get(name)?.map_or(0, |n| n.value()));
        Ok(Self {
            revision: number(REVISION)?,
            compacted: number(COMPACTED)?,
            current: read.open_table(CURRENT)?,
            history: read.open_table(HISTORY)?,
            changes: read.open_table(CHANGES)?,
        })
    }

    /// The revision that `at` means here.
    pub(crate) fn resolve(&self, at: At) -> Result<u64, StoreError> {
        match at {
            At::Latest => Ok(self.revision),
            At::Revision(asked) if asked.0 > self.revision => {
                Err(StoreError::Future { asked, latest: Revision(self.revision) })
            }
            At::Revision(asked) if asked.0 < self.compacted => {
                Err(StoreError::Compacted { asked, oldest: Revision(self.compacted) })
            }
            At::Revision(asked) => Ok(asked.0),
        }
    }

    pub(crate) fn get(&self, key: &[u8], at: u64) -> Result<Option<KeyValue>, Fault> {
        if let Some(record) = self.current.get(key)? {
            let record = record.value();
            if Header::read(record)?.modified <= at {
                return Ok(Some(key_value(key, record, false)?));
            }
        }
        if at == self.revision {
            return Ok(None);
        }
        let mut found = None;
        self.version_at(key, at, |record| {
            found = Some(key_value(key, record, false)?);
            Ok(())
        })?;
        Ok(found)
    }

    /// The superseded record of `key` that was in force at `at`, if there was one.
    fn version_at(
        &self,
        key: &[u8],
        at: u64,
        found: impl FnOnce(&[u8]) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        if let Some(last) = self.history.range((key, 0)..=(key, at))?.next_back() {
            let (_, stored) = last?;
            let (ended, record) = read_history(stored.value())?;
            if ended > at {
                found(record)?;
            }
        }
        Ok(())
    }

    /// A page at revision `at`, which must be resolved already.
    pub(crate) fn page(&self, bounds: &Bounds, at: u64) -> Result<Page, Fault> {
        let mut page = Pages::new(bounds);
        if bounds.is_empty() {
            return Ok(page.finish(at));
        }
        if at == self.revision {
            let range = (Bound::Included(&bounds.start[..]), bounds.end(|end| end));
            for item in self.current.range::<&[u8]>(range)? {
                let (key, record) = item?;
                if !page.add(key.value(), record.value())? {
                    break;
                }
            }
        } else {
            Merge::new(self, bounds, at)?.fill(&mut page)?;
        }
        Ok(page.finish(at))
    }

    /// The changes from revision `from` on to keys in the bounds: some of them, and where to go on.
    pub(crate) fn changes(
        &self,
        bounds: &Bounds,
        from: u64,
    ) -> Result<(Vec<WatchBatch>, u64), Fault> {
        const REVISIONS: usize = 512;
        const BYTES: usize = 1 << 20;
        let (mut batches, mut bytes, mut next) = (Vec::new(), 0, from);
        for line in self.changes.range(from..)?.take(REVISIONS) {
            let (revision, changes) = line?;
            let revision = revision.value();
            let mut events = Vec::new();
            for change in ReadChanges(changes.value()) {
                let change = change?;
                let inside = change.key >= &bounds.start[..]
                    && (bounds.end.is_empty() || change.key < &bounds.end[..]);
                if inside {
                    let kind = if change.deleted {
                        EventKind::Delete
                    } else {
                        let kv = self.put_at(change.key, revision)?;
                        bytes += kv.value.len();
                        EventKind::Put(kv)
                    };
                    bytes += change.key.len();
                    events.push(Event { key: Bytes::copy_from_slice(change.key), kind });
                }
            }
            if !events.is_empty() {
                batches.push(WatchBatch { revision: Revision(revision), events });
            }
            next = revision + 1;
            if bytes >= BYTES {
                break;
            }
        }
        Ok((batches, next))
    }

    /// What a revision put under a key that it changed.
    fn put_at(&self, key: &[u8], revision: u64) -> Result<KeyValue, Fault> {
        if let Some(record) = self.current.get(key)?
            && Header::read(record.value())?.modified == revision
        {
            return Ok(key_value(key, record.value(), false)?);
        }
        let stored =
            self.history.get((key, revision))?.ok_or(Fault::Damaged("a change has no record"))?;
        let (_, record) = read_history(stored.value())?;
        Ok(key_value(key, record, false)?)
    }
}

/// Walks the latest records and the superseded ones side by side, in key order.
struct Merge<'a> {
    view: &'a View,
    bounds: &'a Bounds,
    at: u64,
    currents: redb::Range<'static, &'static [u8], &'static [u8]>,
    histories: redb::Range<'static, (&'static [u8], u64), &'static [u8]>,
    current: Option<CurrentItem>,
    history: Option<HistoryItem>,
}

impl<'a> Merge<'a> {
    fn new(view: &'a View, bounds: &'a Bounds, at: u64) -> Result<Self, Fault> {
        let start = &bounds.start[..];
        let mut currents =
            view.current.range::<&[u8]>((Bound::Included(start), bounds.end(|end| end)))?;
        let mut histories = view
            .history
            .range::<(&[u8], u64)>((Bound::Included((start, 0)), bounds.end(|end| (end, 0))))?;
        let (current, history) = (currents.next().transpose()?, histories.next().transpose()?);
        Ok(Self { view, bounds, at, currents, histories, current, history })
    }

    fn fill(&mut self, page: &mut Pages) -> Result<(), Fault> {
        loop {
            // Which of the two has the next key, or both.
            let (in_current, in_history) = match (&self.current, &self.history) {
                (None, None) => return Ok(()),
                (Some(_), None) => (true, false),
                (None, Some(_)) => (false, true),
                (Some((current, _)), Some((history, _))) => {
                    let (current, history) = (current.value(), history.value().0);
                    (current <= history, history <= current)
                }
            };
            let mut open = true;
            let mut seen = false;
            if in_current {
                if let Some((key, record)) = &self.current
                    && Header::read(record.value())?.modified <= self.at
                {
                    seen = true;
                    open = page.add(key.value(), record.value())?;
                }
                self.current = self.currents.next().transpose()?;
            }
            if in_history {
                open &= self.pass_history(page, seen)?;
            }
            if !open {
                return Ok(());
            }
        }
    }

    /// Passes all versions of the next key in the history; adds the one in force unless the key was `seen` already.
    fn pass_history(&mut self, page: &mut Pages, mut seen: bool) -> Result<bool, Fault> {
        let Some((first, _)) = &self.history else { return Ok(true) };
        let key = Bytes::copy_from_slice(first.value().0);
        for _ in 0..STEPS_BEFORE_SEEK {
            let Some((version, stored)) = &self.history else { return Ok(true) };
            let (version_key, modified) = version.value();
            if version_key != &key[..] {
                return Ok(true);
            }
            if !seen && modified <= self.at {
                let (ended, record) = read_history(stored.value())?;
                if ended > self.at {
                    seen = true;
                    if !page.add(&key, record)? {
                        return Ok(false);
                    }
                }
            }
            self.history = self.histories.next().transpose()?;
        }
        if !seen {
            let mut open = true;
            self.view.version_at(&key, self.at, |record| {
                open = page.add(&key, record)?;
                Ok(())
            })?;
            if !open {
                return Ok(false);
            }
        }
        let rest = (Bound::Excluded((&key[..], u64::MAX)), self.bounds.end(|end| (end, 0)));
        self.histories = self.view.history.range::<(&[u8], u64)>(rest)?;
        self.history = self.histories.next().transpose()?;
        Ok(true)
    }
}
