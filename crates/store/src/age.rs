//! How old a revision is at least, in time that was seen to pass. No clock has a part in it: whoever keeps the store in
//! order ([`observe`]) adds the time that its own process has run since it last did, and marks the latest revision with the
//! sum. So a machine that was off, a clock that was set, and a replica with a clock of its own make nothing old.
//!
//! What is deleted because it is old goes by this. The marks lie in the store itself, under [`KEY`]: the further back, the
//! fewer, so an age may be told as an eighth less than it is, and never as more.

use std::time::Duration;

use dtr_types::{Clock, Revision};
use serde::{Deserialize, Serialize};

use crate::{At, Store, StoreError, Transaction};

/// Where the marks are kept.
pub const KEY: &[u8] = b"!age";

/// Marks are at most by this part of their age apart from each other, and not much less.
const SPACING: u64 = 16;

/// What was seen to pass, and when which revision was the latest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ages {
    /// The sum of the time that was seen to pass, in milliseconds.
    passed_ms: u64,
    /// Who has seen the last of it, and how long that one had run by then.
    by: u64,
    by_ms: u64,
    /// Revisions and the sum at which each was the latest; the oldest first.
    marks: Vec<(u64, u64)>,
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Ages {
    /// How old a revision is at least. Zero of one that came after the last look.
    pub fn age(&self, revision: Revision) -> Duration {
        let after = self.marks.partition_point(|(marked, _)| *marked < revision.0);
        let seen = self.marks.get(after).map_or(self.passed_ms, |(_, at)| *at);
        Duration::from_millis(self.passed_ms.saturating_sub(seen))
    }

    /// The latest revision that is known to be so old; what was last written at it or before is old enough. For no time at
    /// all, every revision is.
    pub fn older_than(&self, age: Duration) -> Revision {
        if age.is_zero() {
            return Revision(u64::MAX);
        }
        let until = self.passed_ms.checked_sub(millis(age));
        let old = until.and_then(|until| self.marks.iter().rev().find(|(_, at)| *at <= until));
        old.map_or(Revision::ZERO, |(revision, _)| Revision(*revision))
    }

    /// Adds a look at the store, at which `revision` was the latest.
    fn add(&mut self, revision: Revision, by: u64, by_ms: u64) {
        if self.by == by && self.by_ms <= by_ms {
            self.passed_ms = self.passed_ms.saturating_add(by_ms - self.by_ms);
        }
        (self.by, self.by_ms) = (by, by_ms);
        if self.marks.last().is_none_or(|(last, _)| *last < revision.0) {
            self.marks.push((revision.0, self.passed_ms));
        }
        // One of each slot of time is kept, and slots are the wider the older they are. Each is one of two halves of a wider
        // one, so that what is kept is spread evenly however often this is done.
        let slot = |at: u64| {
            let width = ((self.passed_ms - at) / SPACING).max(1).ilog2();
            (width, at >> width)
        };
        let mut kept: Vec<(u64, u64)> = Vec::with_capacity(self.marks.len());
        for (revision, at) in &self.marks {
            match kept.last_mut() {
                Some(last) if slot(last.1) == slot(*at) => *last = (*revision, *at),
                _ => kept.push((*revision, *at)),
            }
        }
        self.marks = kept;
    }
}

/// What is known now.
///
/// # Errors
/// When the store fails.
pub async fn read(store: &dyn Store) -> Result<Ages, StoreError> {
    let found = store.get(KEY, At::Latest).await?;
    Ok(found.and_then(|kv| serde_json::from_slice(&kv.value).ok()).unwrap_or_default())
}

/// Adds what has passed since this process did so last, and yields what is known then. For the one who keeps the store in
/// order, every few seconds: of two that do it in turn, none sees time pass.
///
/// # Errors
/// When the store fails.
pub async fn observe(store: &dyn Store, clock: &dyn Clock) -> Result<Ages, StoreError> {
    let revision = store.revision().await?;
    let found = store.get(KEY, At::Latest).await?;
    let known = found.as_ref().and_then(|kv| serde_json::from_slice(&kv.value).ok());
    let mut ages: Ages = known.unwrap_or_default();
    let running = clock.running();
    ages.add(revision, running.of, millis(running.passed));
    let value =
        serde_json::to_vec(&ages).map_err(|error| StoreError::Corrupt(error.to_string()))?;
    let put = match found {
        Some(kv) => Transaction::new().if_modified_at(KEY, kv.modified),
        None => Transaction::new().if_absent(KEY),
    };
    match store.commit(put.put(KEY, value)).await?.committed() {
        Some(_) => Ok(ages),
        // Somebody else has done it at this moment.
        None => read(store).await,
    }
}

/// The same if this process did so last, so that what has passed since counts at this moment; else only reads.
///
/// # Errors
/// When the store fails.
pub async fn observe_again(store: &dyn Store, clock: &dyn Clock) -> Result<Ages, StoreError> {
    let known = read(store).await?;
    if known.by == clock.running().of && known.by_ms > 0 {
        observe(store, clock).await
    } else {
        Ok(known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1000;

    #[test]
    fn time_is_what_one_process_has_seen() {
        let mut ages = Ages::default();
        ages.add(Revision(5), 1, 100 * SECOND);
        assert_eq!(ages.age(Revision(5)), Duration::ZERO);
        ages.add(Revision(8), 1, 160 * SECOND);
        assert_eq!(ages.age(Revision(5)), Duration::from_secs(60));
        assert_eq!(ages.age(Revision(6)), Duration::ZERO, "it was written since");
        // Another process, and this one again: what lies between is not known.
        ages.add(Revision(9), 2, 5000 * SECOND);
        ages.add(Revision(10), 1, 9000 * SECOND);
        assert_eq!(ages.age(Revision(5)), Duration::from_secs(60));
        ages.add(Revision(11), 1, 9001 * SECOND);
        assert_eq!(ages.age(Revision(5)), Duration::from_secs(61));
        assert_eq!(ages.age(Revision(12)), Duration::ZERO, "nobody has looked since");
    }

    #[test]
    fn what_is_old_enough_is_told_by_revision() {
        let mut ages = Ages::default();
        assert_eq!(ages.older_than(Duration::from_secs(1)), Revision::ZERO);
        for n in 0..10 {
            ages.add(Revision(10 + n), 1, n * 15 * SECOND);
        }
        assert_eq!(ages.older_than(Duration::from_secs(60)), Revision(15));
        assert_eq!(ages.older_than(Duration::from_secs(61)), Revision(14));
        assert_eq!(ages.older_than(Duration::from_secs(3600)), Revision::ZERO);
        assert_eq!(ages.older_than(Duration::ZERO), Revision(u64::MAX));
    }

    /// A year in looks of 15 seconds: few marks, none of which makes anything older than it is.
    #[test]
    fn marks_are_few_and_never_tell_too_much() {
        let mut ages = Ages::default();
        let (step, looks) = (15 * SECOND, 200_000);
        for n in 0..looks {
            ages.add(Revision(1 + n), 1, n * step);
        }
        assert!(ages.marks.len() < 400, "{}", ages.marks.len());
        for n in (0..looks).rev().step_by(997) {
            let (age, real) = (millis(ages.age(Revision(1 + n))), (looks - 1 - n) * step);
            assert!(age <= real, "{age} of {real}");
            assert!(age + real / 7 + step >= real, "{age} of {real}");
        }
    }
}
