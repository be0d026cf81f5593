//! Pulls as events, and counters: gathered and stored in batches, so that a pull writes nothing itself. What a crash
//! loses of them is statistics of the last seconds, never content. Pushes and deletes are recorded in their own commits.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
    time::Duration,
};

use dtr_access::Caller;
use dtr_catalog::{
    Catalog,
    records::{Event, EventObject, EventType, Repository},
};
use dtr_types::{AccountId, RepositoryId};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// How often what was gathered is stored.
const EVERY: Duration = Duration::from_secs(2);
/// Events that wait at most; more are counted, not recorded. A thousand machines that pull at once would else fill the store
/// with entries that nobody reads.
const EVENTS_MAX: usize = 256;

/// Pulls that are one event. Of a user, each tag or digest of a repository is told by itself; of strangers the repository
/// alone, since nobody answers for how many there are.
#[derive(PartialEq, Eq, Hash)]
struct Alike {
    repository: RepositoryId,
    of: Option<(AccountId, String, String)>,
}

impl Alike {
    fn new(repository: &RepositoryId, event: &Event) -> Self {
        let of = event.actor_id.clone().map(|actor| {
            let object = &event.object;
            (actor, object.name.clone(), object.id.clone())
        });
        Self { repository: repository.clone(), of }
    }
}

#[derive(Default)]
struct Gathered {
    events: HashMap<Alike, Event>,
    counts: HashMap<RepositoryId, (u64, u64)>,
}

#[derive(Clone)]
pub(crate) struct Recorder {
    catalog: Catalog,
    gathered: Arc<Mutex<Gathered>>,
    _alive: Arc<Alive>,
}

/// Ends the task when the last recorder goes.
struct Alive(Arc<Notify>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

/// An event of now.
pub(crate) fn event(
    catalog: &Catalog,
    caller: &Caller,
    repository: &Repository,
    event_type: EventType,
    kind: &str,
    name: &str,
    id: &str,
) -> Event {
    let now = catalog.now();
    Event {
        id: Event::new_id(now, catalog.random()),
        published_at: now,
        actor: caller.name().to_owned(),
        actor_id: caller.account_id().cloned(),
        event_type,
        repository: repository.name.to_string(),
        repository_id: Some(repository.id.clone()),
        object: EventObject { kind: kind.to_owned(), name: name.to_owned(), id: id.to_owned() },
        count: 1,
    }
}

impl Recorder {
    pub fn start(catalog: Catalog) -> Self {
        let gathered: Arc<Mutex<Gathered>> = Arc::default();
        let end = Arc::new(Notify::new());
        tokio::spawn(store_every(catalog.clone(), Arc::clone(&gathered), Arc::clone(&end)));
        Self { catalog, gathered, _alive: Arc::new(Alive(end)) }
    }

    /// A manifest was pulled; with `event`, that is recorded too.
    pub fn pulled(&self, repository: &RepositoryId, event: Option<Event>) {
        let mut gathered = self.gathered.lock();
        gathered.counts.entry(repository.clone()).or_default().0 += 1;
        let Some(event) = event else { return };
        let full = gathered.events.len() >= EVENTS_MAX;
        match gathered.events.entry(Alike::new(repository, &event)) {
            Entry::Occupied(mut known) => known.get_mut().count += 1,
            Entry::Vacant(place) if !full => {
                place.insert(event);
            }
            Entry::Vacant(_) => {}
        }
    }

    /// A manifest was pushed.
    pub fn pushed(&self, repository: &RepositoryId) {
        self.gathered.lock().counts.entry(repository.clone()).or_default().1 += 1;
    }

    /// Stores what was gathered.
    pub async fn flush(&self) {
        store(&self.catalog, &self.gathered).await;
    }
}

async fn store_every(catalog: Catalog, gathered: Arc<Mutex<Gathered>>, end: Arc<Notify>) {
    loop {
        let ended = tokio::time::timeout(EVERY, end.notified()).await.is_ok();
        store(&catalog, &gathered).await;
        if ended {
            return;
        }
    }
}

async fn store(catalog: &Catalog, gathered: &Mutex<Gathered>) {
    let taken = std::mem::take(&mut *gathered.lock());
    let mut events: Vec<Event> = taken.events.into_values().collect();
    events.sort_by(|a, b| a.id.cmp(&b.id));
    if !events.is_empty()
        && let Err(error) = catalog.record_events(&events).await
    {
        tracing::warn!(%error, events = events.len(), "pulls were not recorded");
    }
    for (repository, (pulls, pushes)) in taken.counts {
        if let Err(error) = catalog.add_counts(&repository, pulls, pushes).await {
            tracing::warn!(%error, "pulls and pushes were not counted");
        }
    }
}
