//! How records lie in the file: the tables, and the bytes of their values.
//!
//! A put of a new key writes one record and one line in `changes`; the state of a key before its last change is kept in
//! `history` only when there is one. A deletion is not a record: it is the revision at which the last one ended.

use bytes::Bytes;
use dtr_store::{KeyValue, LeaseId};
use dtr_types::Revision;
use redb::TableDefinition;

/// Key to its latest record.
pub(crate) const CURRENT: TableDefinition<'static, &'static [u8], &'static [u8]> =
    TableDefinition::new("current");
/// (Key, the revision that put it) to the revision that ended it, and the record.
pub(crate) const HISTORY: TableDefinition<'static, (&'static [u8], u64), &'static [u8]> =
    TableDefinition::new("history");
/// Revision to the keys that it changed, in key order.
pub(crate) const CHANGES: TableDefinition<'static, u64, &'static [u8]> =
    TableDefinition::new("changes");
/// Lease to its time to live in milliseconds.
pub(crate) const LEASES: TableDefinition<'static, i64, u64> = TableDefinition::new("leases");
/// (Lease, key that vanishes with it).
pub(crate) const LEASED: TableDefinition<'static, (i64, &'static [u8]), ()> =
    TableDefinition::new("leased");
/// Numbers of the whole file, by the names below.
pub(crate) const META: TableDefinition<'static, &'static str, u64> = TableDefinition::new("meta");

/// The layout's number, [`FORMAT_NUMBER`].
pub(crate) const FORMAT: &str = "format";
/// The latest revision.
pub(crate) const REVISION: &str = "revision";
/// The oldest revision that can be read.
pub(crate) const COMPACTED: &str = "compacted";
/// The lease that was granted last.
pub(crate) const LAST_LEASE: &str = "last_lease";
/// The layout that this version writes, and the newest that it reads.
pub(crate) const FORMAT_NUMBER: u64 = 1;

const HEADER: usize = 32;

/// A record's fixed part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) created: u64,
    pub(crate) modified: u64,
    pub(crate) version: u64,
    pub(crate) lease: i64,
}

/// Bytes in the file that this module did not write.
#[derive(Debug)]
pub(crate) struct Damaged(pub(crate) &'static str);

fn word(bytes: &[u8], at: usize) -> Result<u64, Damaged> {
    let bytes = bytes.get(at..at + 8).ok_or(Damaged("a record is too short"))?;
    bytes.try_into().map(u64::from_le_bytes).map_err(|_| Damaged("a record is too short"))
}

impl Header {
    pub(crate) fn read(record: &[u8]) -> Result<Self, Damaged> {
        Ok(Self {
            created: word(record, 0)?,
            modified: word(record, 8)?,
            version: word(record, 16)?,
            lease: word(record, 24)? as i64,
        })
    }
}

/// Writes a record into `buffer`, in place of what is there.
pub(crate) fn write_record(buffer: &mut Vec<u8>, header: &Header, value: &[u8]) {
    buffer.clear();
    buffer.reserve(HEADER + value.len());
    for word in [header.created, header.modified, header.version, header.lease as u64] {
        buffer.extend_from_slice(&word.to_le_bytes());
    }
    buffer.extend_from_slice(value);
}

/// Writes a superseded record into `buffer`, in place of what is there.
pub(crate) fn write_history(buffer: &mut Vec<u8>, ended: u64, record: &[u8]) {
    buffer.clear();
    buffer.reserve(8 + record.len());
    buffer.extend_from_slice(&ended.to_le_bytes());
    buffer.extend_from_slice(record);
}

/// When a superseded record ended, and the record.
pub(crate) fn read_history(stored: &[u8]) -> Result<(u64, &[u8]), Damaged> {
    Ok((word(stored, 0)?, &stored[8..]))
}

/// What a caller sees of a record.
pub(crate) fn key_value(key: &[u8], record: &[u8], keys_only: bool) -> Result<KeyValue, Damaged> {
    let header = Header::read(record)?;
    Ok(KeyValue {
        key: Bytes::copy_from_slice(key),
        value: if keys_only { Bytes::new() } else { Bytes::copy_from_slice(&record[HEADER..]) },
        created: Revision(header.created),
        modified: Revision(header.modified),
        version: header.version,
        lease: (header.lease != 0).then_some(LeaseId(header.lease)),
    })
}

/// One key's line in a revision's changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change<K> {
    pub(crate) key: K,
    /// Deleted; else put.
    pub(crate) deleted: bool,
    /// The revision of the record before, which this change moved to the history; 0 when there was none.
    pub(crate) before: u64,
}

/// Encodes the changes of one revision, in key order.
pub(crate) fn write_changes(changes: &mut [Change<Bytes>]) -> Vec<u8> {
    changes.sort_unstable_by(|a, b| a.key.cmp(&b.key));
    let mut bytes = Vec::with_capacity(changes.iter().map(|c| c.key.len() + 13).sum());
    for change in changes {
        bytes.push(u8::from(change.deleted));
        bytes.extend_from_slice(&change.before.to_le_bytes());
        bytes.extend_from_slice(&(change.key.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&change.key);
    }
    bytes
}

/// Decodes the changes of one revision.
pub(crate) struct ReadChanges<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for ReadChanges<'a> {
    type Item = Result<Change<&'a [u8]>, Damaged>;
    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let taken = self.take();
        if taken.is_err() {
            self.0 = &[];
        }
        Some(taken)
    }
}

impl<'a> ReadChanges<'a> {
    fn take(&mut self) -> Result<Change<&'a [u8]>, Damaged> {
        let short = || Damaged("a line of changes is too short");
        let deleted = self.0[0] == 1;
        let before = word(self.0, 1)?;
        let length = self.0.get(9..13).and_then(|b| b.try_into().ok()).ok_or_else(short)?;
        let end = 13 + u32::from_le_bytes(length) as usize;
        let key = self.0.get(13..end).ok_or_else(short)?;
        self.0 = &self.0[end..];
        Ok(Change { key, deleted, before })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_come_back_in_key_order() {
        let change = |key: &'static str, deleted, before| Change {
            key: Bytes::from_static(key.as_bytes()),
            deleted,
            before,
        };
        let bytes = write_changes(&mut [change("b", true, 7), change("a", false, 0)]);
        let read: Vec<_> = ReadChanges(&bytes).map(|c| c.expect("well formed")).collect();
        assert_eq!(read.len(), 2);
        assert_eq!((read[0].key, read[0].deleted, read[0].before), (&b"a"[..], false, 0));
        assert_eq!((read[1].key, read[1].deleted, read[1].before), (&b"b"[..], true, 7));
    }

    #[test]
    fn damage_is_an_error_not_a_panic() {
        for bytes in [&[1_u8][..], &[0; 12], &[0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 1]] {
            assert!(ReadChanges(bytes).next().is_some_and(|c| c.is_err()));
        }
        assert!(Header::read(&[0; 31]).is_err());
        assert!(read_history(&[0; 7]).is_err());
    }
}
