//! Slows down guessing. Failures are counted for each user and address, for each address over all users, and for each user
//! over all addresses; after some, each further one doubles a wait, or lets strangers wait a little.

use std::{net::IpAddr, time::Duration};

use dtr_types::{Timestamp, household};

use crate::source::Missed;

/// Failures of a user from an address before anybody waits: a person mistypes, a script retries.
const FREE: u32 = 10;
/// The longest wait for a user and an address.
const WAIT_MAX: Duration = Duration::from_secs(300);
/// After how long without a failure a count is forgotten.
const FORGET: Duration = Duration::from_secs(900);

/// Failures of an address over all users before it waits: of a whole office behind it some mistype.
const ADDRESS_FREE: u32 = 30;
/// The longest wait for an address.
const ADDRESS_WAIT_MAX: Duration = Duration::from_secs(60);
/// How long until an address has one failure less.
const ADDRESS_FORGETS: Duration = Duration::from_secs(30);

/// Failures of a user over all addresses before strangers are slowed down. That blocks nobody: whoever guesses from many
/// addresses must not keep a user out.
const USER_FREE: u32 = 100;

#[derive(Clone, Copy)]
struct Failures {
    count: u32,
    last: Timestamp,
}

impl Failures {
    /// How long is still to be waited after so many failures, if `free` of them cost nothing.
    fn wait(&self, free: u32, max: Duration, now: Timestamp) -> Option<Duration> {
        let over = self.count.checked_sub(free)?;
        let wait = Duration::from_secs(1 << over.min(10)).min(max);
        let passed = now.since(self.last);
        (passed < wait).then(|| wait - passed)
    }

    /// One more, unless the others are forgotten.
    fn one_more(known: Option<Self>, now: Timestamp) -> Self {
        let before = known.filter(|known| now.since(known.last) < FORGET).map_or(0, |k| k.count);
        Self { count: before.saturating_add(1), last: now }
    }

    /// As it is after some of them were forgotten one by one.
    fn drained(self, now: Timestamp) -> Self {
        let gone = now.since(self.last).as_secs() / ADDRESS_FORGETS.as_secs();
        Self { count: self.count.saturating_sub(u32::try_from(gone).unwrap_or(u32::MAX)), ..self }
    }
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Source {
    user: String,
    from: Option<IpAddr>,
}

/// What became of the counts with one more failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counted {
    /// Whether this failure is the one with which guesses at the user from many addresses become an attack.
    pub user_attacked: bool,
    /// Failures of the user over all addresses.
    pub of_user: u32,
}

/// The counts. Bounded: the oldest are forgotten first.
pub(super) struct Throttle {
    sources: moka::sync::Cache<Source, Failures>,
    addresses: moka::sync::Cache<IpAddr, Failures>,
    users: moka::sync::Cache<String, Failures>,
    /// Tries during a wait that what is remembered did not answer.
    missed: Missed,
}

impl Throttle {
    pub(super) fn new() -> Self {
        Self {
            sources: moka::sync::Cache::new(50_000),
            addresses: moka::sync::Cache::new(50_000),
            users: moka::sync::Cache::new(50_000),
            missed: Missed::new(),
        }
    }

    /// How long this source still has to wait, if it has to.
    pub(super) fn check(
        &self,
        user: &str,
        from: Option<IpAddr>,
        now: Timestamp,
    ) -> Option<Duration> {
        let source = self.sources.get(&source(user, from));
        let source = source.and_then(|known| known.wait(FREE, WAIT_MAX, now));
        let address = from.and_then(|from| self.addresses.get(&household(from)));
        let address =
            address.and_then(|known| known.drained(now).wait(ADDRESS_FREE, ADDRESS_WAIT_MAX, now));
        source.max(address)
    }

    /// Whether a source that waits may still be answered from what it proved before: not once many tries did not fit.
    pub(super) fn may_remember(&self, user: &str, from: Option<IpAddr>, now: Timestamp) -> bool {
        self.missed.is_bearable(user, from, now)
    }

    /// A source that waits tried something that was not what it had proved.
    pub(super) fn missed(&self, user: &str, from: Option<IpAddr>, now: Timestamp) {
        self.missed.add(user, from, now);
    }

    /// Whether the user is guessed at from many addresses: then one that has not proved itself is held up.
    pub(super) fn is_attacked(&self, user: &str, now: Timestamp) -> bool {
        let known = self.users.get(&bounded(user));
        known.is_some_and(|known| known.count >= USER_FREE && now.since(known.last) < FORGET)
    }

    pub(super) fn failed(&self, user: &str, from: Option<IpAddr>, now: Timestamp) -> Counted {
        self.sources.entry(source(user, from)).and_upsert_with(|known| {
            Failures::one_more(known.map(|entry| entry.into_value()), now)
        });
        if let Some(from) = from {
            self.addresses.entry(household(from)).and_upsert_with(|known| {
                let before = known.map_or(0, |entry| entry.into_value().drained(now).count);
                Failures { count: before.saturating_add(1), last: now }
            });
        }
        let of_user = self.users.entry(bounded(user)).and_upsert_with(|known| {
            Failures::one_more(known.map(|entry| entry.into_value()), now)
        });
        let of_user = of_user.into_value().count;
        Counted { user_attacked: of_user == USER_FREE, of_user }
    }

    /// A password was checked and fits. What others guess at the same user or from the same address still counts.
    pub(super) fn succeeded(&self, user: &str, from: Option<IpAddr>) {
        self.sources.invalidate(&source(user, from));
    }
}

fn bounded(user: &str) -> String {
    user.chars().take(100).collect()
}

fn source(user: &str, from: Option<IpAddr>) -> Source {
    Source { user: bounded(user), from: from.map(household) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([10, 0, 0, last]))
    }

    #[test]
    fn waits_double_and_are_forgotten() {
        let throttle = Throttle::new();
        let at = Timestamp::from_millis(1_000_000);
        let from = address(1);
        for _ in 0..FREE {
            assert_eq!(throttle.check("ann", from, at), None);
            throttle.failed("ann", from, at);
        }
        assert_eq!(throttle.check("ann", from, at), Some(Duration::from_secs(1)));
        throttle.failed("ann", from, at);
        assert_eq!(throttle.check("ann", from, at), Some(Duration::from_secs(2)));
        assert_eq!(throttle.check("ann", address(2), at), None);
        assert_eq!(throttle.check("bob", from, at), None);
        for _ in 0..100 {
            throttle.failed("ann", from, at);
        }
        assert_eq!(throttle.check("ann", from, at), Some(WAIT_MAX));
        let later = at.plus(FORGET);
        throttle.failed("ann", from, later);
        throttle.succeeded("ann", from);
        assert_eq!(throttle.check("ann", address(2), later), None);
    }

    #[test]
    fn an_address_that_tries_many_users_waits() {
        let throttle = Throttle::new();
        let at = Timestamp::from_millis(1_000_000);
        for user in 0..ADDRESS_FREE {
            let user = format!("user{user}");
            assert_eq!(throttle.check(&user, address(1), at), None);
            throttle.failed(&user, address(1), at);
        }
        assert_eq!(throttle.check("next", address(1), at), Some(Duration::from_secs(1)));
        assert_eq!(throttle.check("next", address(2), at), None);
        // Where nobody says which address it is, users would only keep each other out.
        for user in 0..2 * ADDRESS_FREE {
            throttle.failed(&format!("user{user}"), None, at);
        }
        assert_eq!(throttle.check("next", None, at), None);
        // One of many that mistypes now and then never waits.
        let mut now = at.plus(ADDRESS_FORGETS * ADDRESS_FREE);
        for _ in 0..100 {
            now = now.plus(ADDRESS_FORGETS);
            assert_eq!(throttle.check("next", address(1), now), None);
            throttle.failed("someone", address(1), now);
            throttle.succeeded("someone", address(1));
        }
    }

    #[test]
    fn a_user_guessed_at_from_many_addresses_is_slowed_down_and_not_kept_out() {
        let throttle = Throttle::new();
        let at = Timestamp::from_millis(1_000_000);
        let mut attacks = 0;
        for i in 0..2 * USER_FREE {
            let from = Some(IpAddr::from([10, 1, (i >> 8) as u8, i as u8]));
            attacks += u32::from(throttle.failed("ann", from, at).user_attacked);
        }
        assert_eq!(attacks, 1, "told once");
        assert!(throttle.is_attacked("ann", at) && !throttle.is_attacked("bob", at));
        assert_eq!(throttle.check("ann", address(1), at), None);
        assert!(!throttle.is_attacked("ann", at.plus(FORGET)));
    }
}
