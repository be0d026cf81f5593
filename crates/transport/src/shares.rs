//! Places for connections, requests and bodies: how many there are, and how many of them one client address may have.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use dtr_types::household;
use parking_lot::Mutex;

use crate::Limits;

/// What places are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Connections,
    Requests,
    Bodies,
    Uploads,
}

const KINDS: [Kind; 4] = [Kind::Connections, Kind::Requests, Kind::Bodies, Kind::Uploads];

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoPlace {
    /// Its name in metrics.
    pub limit: &'static str,
    /// What there are too many of, for the client.
    pub what: &'static str,
}

impl Kind {
    /// All places are taken.
    pub(crate) const fn full(self) -> NoPlace {
        match self {
            Self::Connections => NoPlace { limit: "connections", what: "connections" },
            Self::Requests => NoPlace { limit: "requests", what: "requests" },
            Self::Bodies => {
                NoPlace { limit: "bodies", what: "requests that have yet to send their body" }
            }
            Self::Uploads => NoPlace { limit: "uploads", what: "uploads" },
        }
    }

    /// The address has its share.
    const fn shared(self) -> NoPlace {
        match self {
            Self::Connections => {
                NoPlace { limit: "connections_share", what: "connections from your address" }
            }
            Self::Requests => {
                NoPlace { limit: "requests_share", what: "requests from your address" }
            }
            Self::Bodies => NoPlace {
                limit: "bodies_share",
                what: "requests from your address that have yet to send their body",
            },
            Self::Uploads => NoPlace { limit: "uploads_share", what: "uploads from your address" },
        }
    }
}

/// No room for more of a body.
pub(crate) const NO_MEMORY: NoPlace =
    NoPlace { limit: "body_memory", what: "bytes of requests in memory" };

/// What one address has.
#[derive(Debug, Default)]
pub(crate) struct Address {
    taken: [AtomicUsize; KINDS.len()],
    memory: AtomicUsize,
}

#[derive(Default)]
struct Addresses {
    all: HashMap<IpAddr, Weak<Address>>,
    /// At how many entries those of addresses that have nothing any more are dropped.
    look_at: usize,
}

/// All places.
pub(crate) struct Shares {
    limits: [usize; KINDS.len()],
    memory: usize,
    share: usize,
    taken: [AtomicUsize; KINDS.len()],
    /// Since when all are taken, in milliseconds after `start`; 0 when not.
    full_since: [AtomicU64; KINDS.len()],
    held: AtomicUsize,
    start: Instant,
    addresses: Mutex<Addresses>,
}

impl Shares {
    pub(crate) fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            limits: KINDS.map(|kind| match kind {
                Kind::Connections => limits.max_connections,
                Kind::Requests => limits.max_requests,
                Kind::Bodies => limits.max_bodies,
                Kind::Uploads => limits.max_uploads,
            }),
            memory: limits.body_memory,
            share: limits.share.max(1),
            taken: Default::default(),
            full_since: Default::default(),
            held: AtomicUsize::new(0),
            // So that no moment of use is the first, which stands for none.
            start: Instant::now()
                .checked_sub(Duration::from_millis(1))
                .unwrap_or_else(Instant::now),
            addresses: Mutex::default(),
        })
    }

    /// The counts of an address.
    pub(crate) fn address(&self, address: IpAddr) -> Arc<Address> {
        let mut known = self.addresses.lock();
        if known.all.len() >= known.look_at {
            known.all.retain(|_, address| address.strong_count() > 0);
            known.look_at = (2 * known.all.len()).max(1024);
        }
        let entry = known.all.entry(household(address)).or_default();
        entry.upgrade().unwrap_or_else(|| {
            let made = Arc::default();
            *entry = Arc::downgrade(&made);
            made
        })
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX).max(1)
    }

    /// Whether one who has `own` of `taken` would get more than its share of `limit` with one more.
    fn is_over(&self, own: usize, taken: usize, limit: usize) -> bool {
        self.share > 1 && own >= (limit / self.share).max(1) && taken >= limit / 2
    }

    /// A place, for an address if it has a share.
    pub(crate) fn take(
        self: &Arc<Self>,
        kind: Kind,
        address: Option<&Arc<Address>>,
    ) -> Result<Place, NoPlace> {
        let (at, limit) = (kind as usize, self.limits[kind as usize]);
        let place = self.force(kind, address);
        let taken = self.taken[at].load(Relaxed);
        if taken > limit {
            let _first = self.full_since[at].compare_exchange(0, self.now(), Relaxed, Relaxed);
            return Err(kind.full());
        }
        let own = place.address.as_ref().map_or(0, |own| own.taken[at].load(Relaxed) - 1);
        if place.address.is_some() && self.is_over(own, taken - 1, limit) {
            return Err(kind.shared());
        }
        Ok(place)
    }

    /// A place although there may be none: for what has one of another kind already.
    fn force(self: &Arc<Self>, kind: Kind, address: Option<&Arc<Address>>) -> Place {
        self.taken[kind as usize].fetch_add(1, Relaxed);
        if let Some(own) = address {
            own.taken[kind as usize].fetch_add(1, Relaxed);
        }
        let (shares, address) = (Arc::clone(self), address.cloned());
        Place { shares, kind, address, held: 0 }
    }

    /// Why this server has had no place for this long, if so.
    pub(crate) fn full_for(&self, time: Duration) -> Option<NoPlace> {
        let kinds = [Kind::Connections, Kind::Requests];
        let full = kinds.into_iter().find(|kind| {
            let since = self.full_since[*kind as usize].load(Relaxed);
            since != 0 && u128::from(self.now().saturating_sub(since)) >= time.as_millis()
        });
        full.map(Kind::full)
    }

    /// How many places are taken, for tests.
    #[cfg(test)]
    fn count(&self, kind: Kind) -> usize {
        self.taken[kind as usize].load(Relaxed)
    }
}

/// A place, and the memory held with it; dropping it frees both.
pub(crate) struct Place {
    shares: Arc<Shares>,
    kind: Kind,
    address: Option<Arc<Address>>,
    held: usize,
}

impl Place {
    /// The body is there: from here on the request works.
    pub(crate) fn works(mut self) -> Self {
        let mut place = self.shares.force(Kind::Requests, self.address.as_ref());
        place.held = std::mem::take(&mut self.held);
        place
    }

    /// Holds more bytes in memory.
    pub(crate) fn hold(&mut self, bytes: usize) -> Result<(), NoPlace> {
        self.held += bytes;
        let shares = &self.shares;
        let held = shares.held.fetch_add(bytes, Relaxed) + bytes;
        let own = self.address.as_ref().map(|own| own.memory.fetch_add(bytes, Relaxed));
        let is_over = own.is_some_and(|own| shares.is_over(own, held - bytes, shares.memory));
        if held > shares.memory || is_over { Err(NO_MEMORY) } else { Ok(()) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let (shares, at) = (&self.shares, self.kind as usize);
        let left = shares.taken[at].fetch_sub(1, Relaxed) - 1;
        // A place that is taken again at once does not mean that there is room.
        let limit = shares.limits[at];
        if left < limit - limit / 8 {
            shares.full_since[at].store(0, Relaxed);
        }
        shares.held.fetch_sub(self.held, Relaxed);
        if let Some(own) = &self.address {
            own.taken[at].fetch_sub(1, Relaxed);
            own.memory.fetch_sub(self.held, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares() -> Arc<Shares> {
        Shares::new(&Limits {
            max_requests: 16,
            max_bodies: 16,
            body_memory: 1600,
            ..Limits::default()
        })
    }

    fn address(shares: &Shares, last: u8) -> Arc<Address> {
        shares.address(IpAddr::from([10, 0, 0, last]))
    }

    #[test]
    fn an_address_has_its_share_and_more_only_while_half_is_free() {
        let shares = shares();
        let [one, two] = [1, 2].map(|last| address(&shares, last));
        let mut places = Vec::new();
        while let Ok(place) = shares.take(Kind::Requests, Some(&one)) {
            places.push(place);
        }
        assert_eq!(places.len(), 8, "half of them, while nobody else is there");
        let refused = shares.take(Kind::Requests, Some(&one)).err();
        assert_eq!(refused.map(|no| no.limit), Some("requests_share"));
        for _ in 0..2 {
            places.push(shares.take(Kind::Requests, Some(&two)).expect("its share"));
        }
        assert!(shares.take(Kind::Requests, Some(&two)).is_err());
        // A proxy has many clients.
        while let Ok(place) = shares.take(Kind::Requests, None) {
            places.push(place);
        }
        assert_eq!(places.len(), 16);
        let refused = shares.take(Kind::Requests, Some(&two)).err();
        assert_eq!(refused.map(|no| no.limit), Some("requests"));
        assert_eq!(shares.full_for(Duration::ZERO).map(|no| no.limit), Some("requests"));
        assert_eq!(shares.full_for(Duration::from_secs(3)), None);
        places.truncate(14);
        assert!(
            shares.full_for(Duration::ZERO).is_some(),
            "one that is free will be taken at once"
        );
        places.clear();
        assert_eq!(shares.full_for(Duration::ZERO), None);
        assert_eq!(shares.count(Kind::Requests), 0);
    }

    #[test]
    fn a_body_that_is_there_takes_its_memory_along() {
        let shares = shares();
        let one = address(&shares, 1);
        let mut body = shares.take(Kind::Bodies, Some(&one)).expect("a place");
        assert_eq!(body.hold(200), Ok(()));
        assert_eq!(body.hold(600), Ok(()), "while half is free");
        assert_eq!(body.hold(1), Err(NO_MEMORY));
        let request = body.works();
        assert_eq!((shares.count(Kind::Bodies), shares.count(Kind::Requests)), (0, 1));
        assert_eq!(shares.held.load(Relaxed), 801);
        drop(request);
        assert_eq!((shares.held.load(Relaxed), one.memory.load(Relaxed)), (0, 0));
    }

    #[test]
    fn addresses_that_are_gone_are_forgotten() {
        let shares = shares();
        let kept = address(&shares, 1);
        for i in 0..5_000_u16 {
            let [a, b] = i.to_be_bytes();
            shares.address(IpAddr::from([10, 1, a, b]));
        }
        assert!(shares.addresses.lock().all.len() < 2_500);
        assert!(Arc::ptr_eq(&kept, &address(&shares, 1)));
    }
}
