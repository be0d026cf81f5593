//! Where a login comes from, and what its source may still be told while it has to wait.

use std::{net::IpAddr, time::Duration};

use dtr_types::{Timestamp, household};

/// How many tries of a source that has to wait may miss what it proved before, in each [`WINDOW`]. Until then it is answered
/// from memory: of many machines behind one address, one that goes on with an old password must not stop the others. Above
/// it, memory would tell whoever guesses which guess is right.
const MISSED_MAX: u32 = 10;
const WINDOW: Duration = Duration::from_secs(60);

/// Counts tries of sources that have to wait. Bounded: the oldest are forgotten first.
pub(crate) struct Missed(moka::sync::Cache<(String, Option<IpAddr>), (u32, Timestamp)>);

impl Missed {
    pub(crate) fn new() -> Self {
        Self(moka::sync::Cache::new(50_000))
    }

    /// Whether the source has missed so little that memory may answer it.
    pub(crate) fn is_bearable(&self, user: &str, from: Option<IpAddr>, now: Timestamp) -> bool {
        let known = self.0.get(&key(user, from));
        known.is_none_or(|(count, since)| count < MISSED_MAX || now.since(since) >= WINDOW)
    }

    pub(crate) fn add(&self, user: &str, from: Option<IpAddr>, now: Timestamp) {
        self.0.entry(key(user, from)).and_upsert_with(|known| {
            let known = known.map(|entry| entry.into_value());
            let (count, since) =
                known.filter(|(_, since)| now.since(*since) < WINDOW).unwrap_or((0, now));
            (count.saturating_add(1), since)
        });
    }
}

fn key(user: &str, from: Option<IpAddr>) -> (String, Option<IpAddr>) {
    (user.chars().take(100).collect(), from.map(household))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_misses_often_is_no_longer_answered_from_memory() {
        let missed = Missed::new();
        let at = Timestamp::from_millis(1_000_000);
        let from = Some(IpAddr::from([10, 0, 0, 1]));
        for _ in 0..MISSED_MAX {
            assert!(missed.is_bearable("ann", from, at));
            missed.add("ann", from, at);
        }
        assert!(!missed.is_bearable("ann", from, at));
        assert!(missed.is_bearable("ann", None, at) && missed.is_bearable("bob", from, at));
        assert!(missed.is_bearable("ann", from, at.plus(WINDOW)));
    }
}
