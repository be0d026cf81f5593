//! Slows down guessing: failures are counted for each user and address, and after some each further one doubles a wait.

use std::{net::IpAddr, time::Duration};

use dtr_types::Timestamp;

/// Failures before anybody waits: a person mistypes, a script retries.
const FREE: u32 = 10;
/// The longest wait.
const WAIT_MAX: Duration = Duration::from_secs(300);
/// After how long without a failure the count is forgotten.
const FORGET: Duration = Duration::from_secs(900);

#[derive(Clone, Copy)]
struct Failures {
    count: u32,
    last: Timestamp,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Source {
    user: String,
    from: Option<IpAddr>,
}

/// The counts. Bounded: the oldest are forgotten first.
pub(super) struct Throttle {
    failures: moka::sync::Cache<Source, Failures>,
}

impl Throttle {
    pub(super) fn new() -> Self {
        Self { failures: moka::sync::Cache::new(50_000) }
    }

    /// How long this source still has to wait, if it has to.
    pub(super) fn check(
        &self,
        user: &str,
        from: Option<IpAddr>,
        now: Timestamp,
    ) -> Option<Duration> {
        let known = self.failures.get(&source(user, from))?;
        if known.count < FREE {
            return None;
        }
        let wait = Duration::from_secs(1 << (known.count - FREE).min(10)).min(WAIT_MAX);
        let passed = now.since(known.last);
        (passed < wait).then(|| wait - passed)
    }

    pub(super) fn failed(&self, user: &str, from: Option<IpAddr>, now: Timestamp) {
        self.failures.entry(source(user, from)).and_upsert_with(|known| {
            let before = known
                .map(|entry| entry.into_value())
                .filter(|known| now.since(known.last) < FORGET)
                .map_or(0, |known| known.count);
            Failures { count: before.saturating_add(1), last: now }
        });
    }

    pub(super) fn succeeded(&self, user: &str, from: Option<IpAddr>) {
        self.failures.invalidate(&source(user, from));
    }
}

/// One household of IPv6 addresses counts as one.
fn source(user: &str, from: Option<IpAddr>) -> Source {
    let from = from.map(|address| match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) & !u128::from(u64::MAX)).into()),
        v4 => v4,
    });
    Source { user: user.chars().take(100).collect(), from }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_are_forgotten() {
        let throttle = Throttle::new();
        let at = Timestamp::from_millis(1_000_000);
        let from = Some(IpAddr::from([10, 0, 0, 1]));
        for _ in 0..FREE {
            assert_eq!(throttle.check("ann", from, at), None);
            throttle.failed("ann", from, at);
        }
        assert_eq!(throttle.check("ann", from, at), Some(Duration::from_secs(1)));
        throttle.failed("ann", from, at);
        assert_eq!(throttle.check("ann", from, at), Some(Duration::from_secs(2)));
        assert_eq!(throttle.check("ann", Some(IpAddr::from([10, 0, 0, 2])), at), None);
        assert_eq!(throttle.check("bob", from, at), None);
        for _ in 0..100 {
            throttle.failed("ann", from, at);
        }
        assert_eq!(throttle.check("ann", from, at), Some(WAIT_MAX));
        let later = at.plus(FORGET);
        throttle.failed("ann", from, later);
        assert_eq!(throttle.check("ann", from, later), None);
        throttle.succeeded("ann", from);
        assert_eq!(throttle.check("ann", from, at), None);
    }
}
