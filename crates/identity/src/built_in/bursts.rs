//! Failed logins as an operator hears of them: one line in the log and one event for a burst of failures, however many there
//! are, since a stranger decides how many.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use dtr_catalog::records::EventType;
use dtr_types::household;
use parking_lot::Mutex;
use prometheus_client::{metrics::counter::Counter, registry::Registry};

use super::BuiltIn;
use crate::Actor;

/// The longest time between two lines about one address.
const BURST_MAX: Duration = Duration::from_secs(600);
/// Failures of a burst that are also an event. Fewer are a person that mistypes.
const EVENT_MIN: u64 = 5;
/// Names that are told of a burst.
const NAMES_MAX: usize = 5;
/// Addresses of which bursts are gathered at once; those of others are told together.
const OPEN_MAX: usize = 1_000;

/// How logins go, for metrics. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct LoginFigures {
    /// Passwords that were checked and did not fit.
    pub failed: Counter,
    /// Logins that were told to wait after failures, and were not checked.
    pub throttled: Counter,
    /// Logins that were not checked since too many waited.
    pub refused: Counter,
}

impl LoginFigures {
    /// Adds them to a program's metrics.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "identity_logins_failed",
            "Passwords that were checked and did not fit",
            self.failed.clone(),
        );
        registry.register(
            "identity_logins_throttled",
            "Logins that were told to wait after failures, and were not checked",
            self.throttled.clone(),
        );
        registry.register(
            "identity_logins_refused",
            "Logins that were not checked since too many waited",
            self.refused.clone(),
        );
    }
}

#[derive(Default)]
struct Burst {
    count: u64,
    /// Accounts that exist. Other names are not told: people type passwords where names belong.
    accounts: BTreeSet<String>,
    more_accounts: bool,
    unknown: u64,
}

impl Burst {
    fn add(&mut self, account: Option<&str>) {
        self.count += 1;
        match account {
            Some(name) if self.accounts.len() < NAMES_MAX => {
                self.accounts.insert(name.to_owned());
            }
            Some(name) => self.more_accounts |= !self.accounts.contains(name),
            None => self.unknown += 1,
        }
    }

    fn names(&self) -> String {
        let mut names: Vec<String> = self.accounts.iter().cloned().collect();
        if self.more_accounts {
            names.push("other accounts".to_owned());
        }
        if self.unknown > 0 {
            names.push("unknown names".to_owned());
        }
        names.join(", ")
    }
}

/// The bursts that are being gathered, by address.
#[derive(Default)]
pub(super) struct Bursts(Mutex<HashMap<Option<IpAddr>, Burst>>);

impl Bursts {
    /// Adds a failure; yields the address of a burst that begins with it.
    fn add(&self, account: Option<&str>, from: Option<IpAddr>) -> Option<Option<IpAddr>> {
        let mut open = self.0.lock();
        let mut from = from.map(household);
        if open.len() >= OPEN_MAX && !open.contains_key(&from) {
            from = None;
        }
        let begins = !open.contains_key(&from);
        open.entry(from).or_default().add(account);
        begins.then_some(from)
    }

    /// What was gathered since the last time; nothing ends the burst.
    fn take(&self, from: &Option<IpAddr>) -> Option<Burst> {
        let mut open = self.0.lock();
        let taken = std::mem::take(open.get_mut(from)?);
        if taken.count == 0 {
            open.remove(from);
            return None;
        }
        Some(taken)
    }
}

impl BuiltIn {
    /// Notes that a password did not fit.
    pub(super) fn login_failed(&self, account: Option<&str>, from: Option<IpAddr>) {
        self.inner.figures.failed.inc();
        let Some(from) = self.inner.bursts.add(account, from) else { return };
        let inner = Arc::downgrade(&self.inner);
        let mut time = self.inner.options.gather_failures;
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(time).await;
                let Some(inner) = inner.upgrade() else { return };
                let Some(burst) = inner.bursts.take(&from) else { return };
                Self { inner }.tell(&burst, from, time).await;
                time = (2 * time).min(BURST_MAX);
            }
        });
    }

    async fn tell(&self, burst: &Burst, from: Option<IpAddr>, time: Duration) {
        let address = from.map(|from| from.to_string()).unwrap_or_default();
        let (names, failures) = (burst.names(), burst.count);
        tracing::warn!(address, names, failures, seconds = time.as_secs(), "logins failed");
        if burst.count >= EVENT_MIN {
            self.record_failures(names, &address, burst.count).await;
        }
    }

    /// Tells that a user is guessed at from many addresses.
    pub(super) async fn tell_of_attack(&self, account: &str, failures: u64) {
        tracing::warn!(
            name = account,
            failures,
            "passwords of this user are guessed from many addresses; strangers to it are slowed down"
        );
        self.record_failures(account.to_owned(), "many addresses", failures).await;
    }

    async fn record_failures(&self, names: String, address: &str, count: u64) {
        let nobody = Actor { name: String::new(), id: None };
        let mut event = self.event(&nobody, EventType::Fail, "login", names, address);
        event.count = count;
        if let Err(error) = self.catalog().record_events(&[event]).await {
            tracing::warn!(%error, "failed logins were not recorded as an event");
        }
    }

    /// How logins go, for metrics.
    pub fn login_figures(&self) -> LoginFigures {
        self.inner.figures.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_told_by_its_address_and_names_that_exist() {
        let bursts = Bursts::default();
        let from = Some(IpAddr::from([10, 0, 0, 1]));
        assert_eq!(bursts.add(Some("ann"), from), Some(from));
        for _ in 0..9 {
            assert_eq!(bursts.add(Some("ann"), from), None);
        }
        bursts.add(None, from);
        let told = bursts.take(&from).expect("a burst");
        assert_eq!((told.count, told.names()), (11, "ann, unknown names".to_owned()));
        for name in ["a", "b", "c", "d", "e", "f"] {
            bursts.add(Some(name), from);
        }
        let told = bursts.take(&from).expect("it goes on");
        assert_eq!((told.count, told.names()), (6, "a, b, c, d, e, other accounts".to_owned()));
        assert!(bursts.take(&from).is_none() && bursts.0.lock().is_empty(), "it is over");
    }

    #[test]
    fn a_thousand_addresses_are_told_together() {
        let bursts = Bursts::default();
        for i in 0..OPEN_MAX + 100 {
            bursts.add(None, Some(IpAddr::from([10, 0, (i >> 8) as u8, i as u8])));
        }
        assert_eq!(bursts.take(&None).map(|burst| burst.count), Some(100));
    }
}
