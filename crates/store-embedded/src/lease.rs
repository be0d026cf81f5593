//! Leases in memory: when each ends. The file knows only which there are and how long they live, so that keeping one
//! alive costs no write; after opening, each has its full time again. Time is what this process has run: no clock that is
//! set ends a lease.

use std::{collections::HashMap, time::Duration};

use redb::{Database, ReadableDatabase as _, ReadableTable as _};

use crate::{fault::Fault, record::LEASES};

#[derive(Clone, Copy, Debug)]
struct Lease {
    ttl: Duration,
    ends: Duration,
}

/// The leases that have not ended.
#[derive(Debug, Default)]
pub(crate) struct Leases(HashMap<i64, Lease>);

impl Leases {
    /// Those in the file, each renewed.
    pub(crate) fn load(database: &Database, now: Duration) -> Result<Self, Fault> {
        let mut leases = Self::default();
        let table = database.begin_read()?.open_table(LEASES)?;
        for item in table.iter()? {
            let (id, ttl) = item?;
            leases.insert(id.value(), Duration::from_millis(ttl.value()), now);
        }
        Ok(leases)
    }

    pub(crate) fn insert(&mut self, id: i64, ttl: Duration, now: Duration) {
        self.0.insert(id, Lease { ttl, ends: now.saturating_add(ttl) });
    }

    /// Extends a lease; false when there is none.
    pub(crate) fn keep_alive(&mut self, id: i64, now: Duration) -> bool {
        self.0.get_mut(&id).map(|lease| lease.ends = now.saturating_add(lease.ttl)).is_some()
    }

    pub(crate) fn remove(&mut self, id: i64) {
        self.0.remove(&id);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those that have ended by `now`, oldest first.
    pub(crate) fn ended(&self, now: Duration) -> Vec<i64> {
        let mut ended: Vec<_> =
            self.0.iter().filter(|(_, l)| l.ends <= now).map(|(id, l)| (l.ends, *id)).collect();
        ended.sort_unstable();
        ended.into_iter().map(|(_, id)| id).collect()
    }
}
