//! Filling a store: parts as large as memory for their pages allows, each a transaction without history; the last one makes
//! all of them durable and seen.

use std::ops::Bound;

use bytes::Bytes;
use dtr_store::StoreError;
use redb::{Database, Durability, WriteTransaction};

use crate::{
    committer::{Committer, closed},
    fault::Fault,
    record::{COMPACTED, CURRENT, Header, META, REVISION, write_record},
    view::View,
};

/// While a store is filled, a part is committed when its keys and records come to the cache's size divided by this: so its
/// pages, and those above them, stay in the half of the cache that is for writing until they are committed.
const LOAD_PART: usize = 8;

/// Keys in their order that fall between the same two of the store are put at once, and fill the pages: half the pages, and
/// a third of the time, of putting one by one. That it pays to look for such keys is believed while there are so many.
const RUN_MIN: usize = 4;
/// Keys that are put one by one when it did not pay.
const SCATTERED: usize = 64;

/// What is being loaded.
pub(crate) enum Load {
    None,
    /// A part of it is being put.
    Open(Box<Loading>),
    /// All parts so far are committed up to this revision, and there will be more.
    Between(u64),
    /// It was lost for this reason, which nobody has asked for yet.
    Failed(StoreError),
}

impl Load {
    pub(crate) fn fail(&mut self, error: &StoreError) {
        if let Self::Open(_) = self {
            *self = Self::Failed(error.clone());
        }
    }
}

/// A part of what fills a store: one transaction that is as large as memory for its pages allows, so that each page of
/// the file is written once or a few times. All of it has one revision; what came before it cannot be read afterwards,
/// so neither history nor changes are kept.
pub(crate) struct Loading {
    write: WriteTransaction,
    revision: u64,
    /// Where the part before this one ended, if there was one.
    pub(crate) before: Option<u64>,
    record: Vec<u8>,
    /// Bytes of keys and records so far.
    pub(crate) bytes: usize,
}

impl Loading {
    /// After revision `last`, or after the part that ended at `before`. Only the last part need be durable: it makes those
    /// before it so.
    pub(crate) fn open(
        database: &Database,
        last: u64,
        before: Option<u64>,
        durable: bool,
    ) -> Result<Self, Fault> {
        let mut write = database.begin_write()?;
        if !durable {
            write.set_durability(Durability::None)?;
        }
        let revision = before.unwrap_or(last) + 1;
        Ok(Self { write, revision, before, record: Vec::new(), bytes: 0 })
    }

    pub(crate) fn put(&mut self, puts: &[(Bytes, Bytes)]) -> Result<(), Fault> {
        let Self { write, revision, record, bytes, .. } = self;
        let mut current = write.open_table(CURRENT)?;
        let header = Header { created: *revision, modified: *revision, version: 1, lease: 0 };
        let mut at = 0;
        while at < puts.len() {
            let mut cursor = current.lower_bound_mut(Bound::Included(&puts[at].0[..]))?;
            let mut run = 0;
            for (key, value) in &puts[at..] {
                write_record(record, &header, value);
                match cursor.insert_before(&key[..], &record[..]) {
                    Ok(()) => run += 1,
                    Err(redb::CursorError::UnorderedKey) => break,
                    Err(error) => return Err(error.into()),
                }
                *bytes += key.len() + record.len();
            }
            cursor.close()?;
            at += run;
            if run < RUN_MIN {
                let scattered = &puts[at..(at + SCATTERED).min(puts.len())];
                for (key, value) in scattered {
                    write_record(record, &header, value);
                    current.insert(&key[..], &record[..])?;
                    *bytes += key.len() + record.len();
                }
                at += scattered.len();
            }
        }
        Ok(())
    }

    /// Commits it under one revision more, which it yields: a watch that begins at the oldest revision is owed its changes,
    /// and that one has none.
    pub(crate) fn commit(self) -> Result<u64, Fault> {
        {
            let mut meta = self.write.open_table(META)?;
            meta.insert(REVISION, self.revision + 1)?;
            meta.insert(COMPACTED, self.revision + 1)?;
        }
        self.write.commit()?;
        Ok(self.revision + 1)
    }
}

impl Committer {
    /// Puts what is loaded into the transaction that is open for it.
    pub(crate) fn put_loaded(&mut self, puts: &[(Bytes, Bytes)]) -> Result<(), StoreError> {
        let before = match self.loading {
            Load::None => Some(None),
            Load::Between(last) => Some(Some(last)),
            _ => None,
        };
        if let Some(before) = before {
            let database = self.database.as_ref().ok_or_else(closed)?;
            match Loading::open(database, self.revision, before, false) {
                Ok(part) => self.loading = Load::Open(Box::new(part)),
                Err(fault) => {
                    let error = fault.into();
                    self.lose_load(&error);
                    return Err(error);
                }
            }
        }
        let put = match &mut self.loading {
            Load::Open(loading) => loading.put(puts).map_err(StoreError::from),
            Load::Failed(error) => Err(error.clone()),
            Load::None | Load::Between(_) => Ok(()),
        };
        let part = self.options.cache_bytes / LOAD_PART;
        match (put, &self.loading) {
            (Ok(()), Load::Open(loading)) if loading.bytes >= part => self.commit_part(),
            (Err(error), Load::Open(_)) => {
                self.lose_load(&error);
                Err(error)
            }
            (put, _) => put,
        }
    }

    /// Ends the part that is open. It is neither durable nor seen yet.
    fn commit_part(&mut self) -> Result<(), StoreError> {
        let loading = match std::mem::replace(&mut self.loading, Load::None) {
            Load::Open(loading) => loading,
            other => {
                self.loading = other;
                return Ok(());
            }
        };
        match loading.commit() {
            Ok(last) => {
                self.loading = Load::Between(last);
                Ok(())
            }
            Err(fault) => {
                let error = StoreError::from(fault);
                self.lose_load(&error);
                Err(error)
            }
        }
    }

    /// Makes all parts durable, and shows them.
    fn publish_load(&mut self, last: u64) -> Result<(), StoreError> {
        let published = (|| {
            let database = self.database.as_ref().ok_or_else(closed)?;
            Loading::open(database, last, None, true)?.commit()?;
            Ok::<_, StoreError>(View::open(database)?)
        })();
        match published {
            Ok(view) => {
                self.show(view);
                Ok(())
            }
            Err(error) => {
                let error = StoreError::Unknown { reason: error.to_string() };
                self.lose_load(&error);
                self.loading = Load::None;
                Err(error)
            }
        }
    }

    /// After a failure: nothing more is loaded before somebody was told, and the storage is opened again.
    fn lose_load(&mut self, error: &StoreError) {
        self.loading = Load::Failed(error.clone());
        self.database = None;
        self.reopen_after = None;
        // Its outcome shows at the next request.
        drop(self.reopen());
    }

    /// Makes all that was loaded durable, or gives up what can be given up. After a failure it is forgotten, and the
    /// failure is told once.
    pub(crate) fn end_load(&mut self, keep: bool) -> Result<(), StoreError> {
        if keep {
            // Its error is kept.
            drop(self.commit_part());
        }
        match std::mem::replace(&mut self.loading, Load::None) {
            // Parts that were committed cannot be taken back, only deleted.
            Load::Open(loading) => {
                let before = loading.before;
                drop(loading);
                before.map_or(Ok(()), |last| self.publish_load(last))
            }
            Load::Between(last) => self.publish_load(last),
            Load::Failed(error) if keep => Err(error),
            Load::Failed(_) | Load::None => Ok(()),
        }
    }
}
