//! Who may hash next. Each hash takes a core and megabytes, so few run at once; those who wait get their turns address by
//! address, so that one that asks a thousand times holds up the others by one turn. Addresses from which somebody logged in
//! before have places and turns of their own, which strangers cannot take.

use std::{collections::VecDeque, net::IpAddr, sync::Arc, time::Duration};

use dtr_types::household;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::IdentityError;

/// How long a login waits for its turn before it is told to come back.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// How many logins of one address may wait.
const ADDRESS_MAX: usize = 64;
/// How many may wait in all, of strangers and of known addresses each.
const WAITING_MAX: usize = 256;
/// For how long an address from which somebody logged in is known.
const KNOWN_FOR: Duration = Duration::from_secs(7 * 24 * 3600);

/// Those who wait, of strangers or of known addresses.
#[derive(Default)]
struct Lane {
    /// Each address with those of it that wait; the first is next.
    queues: VecDeque<(Option<IpAddr>, VecDeque<oneshot::Sender<Turn>>)>,
    waiting: usize,
}

impl Lane {
    /// Leaves out those who went away.
    fn forget_gone(&mut self) {
        for (_, queue) in &mut self.queues {
            queue.retain(|waiting| !waiting.is_closed());
        }
        self.queues.retain(|(_, queue)| !queue.is_empty());
        self.waiting = self.queues.iter().map(|(_, queue)| queue.len()).sum();
    }

    /// A place at the end of the address's queue.
    fn place(&mut self, from: Option<IpAddr>) -> Result<oneshot::Receiver<Turn>, IdentityError> {
        self.forget_gone();
        if self.waiting >= WAITING_MAX {
            return Err(busy());
        }
        let (give, place) = oneshot::channel();
        match self.queues.iter_mut().find(|(address, _)| *address == from) {
            Some((_, queue)) if queue.len() >= ADDRESS_MAX && from.is_some() => {
                return Err(IdentityError::Throttled { retry_after: Duration::from_secs(1) });
            }
            Some((_, queue)) => queue.push_back(give),
            None => self.queues.push_back((from, VecDeque::from([give]))),
        }
        self.waiting += 1;
        Ok(place)
    }

    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        let (from, mut queue) = self.queues.pop_front()?;
        let next = queue.pop_front();
        self.waiting -= usize::from(next.is_some());
        if !queue.is_empty() {
            self.queues.push_back((from, queue));
        }
        next
    }
}

struct State {
    free: usize,
    lanes: [Lane; 2],
    /// The lane that is asked first the next time: both move on, however full the other is.
    first: usize,
}

impl State {
    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        let first = self.first;
        self.first = 1 - first;
        self.lanes[first].next().or_else(|| self.lanes[1 - first].next())
    }
}

/// The turns.
pub(super) struct Turns {
    state: Arc<Mutex<State>>,
    known: moka::sync::Cache<Option<IpAddr>, ()>,
}

/// A turn; it ends when this is dropped.
pub(super) struct Turn(Option<Arc<Mutex<State>>>);

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(state) = self.0.take() {
            pass_on(&state);
        }
    }
}

/// Gives a turn that is free to the next that still waits for it.
fn pass_on(shared: &Arc<Mutex<State>>) {
    loop {
        let mut state = shared.lock();
        let Some(next) = state.next() else {
            state.free += 1;
            return;
        };
        drop(state);
        match next.send(Turn(Some(Arc::clone(shared)))) {
            Ok(()) => return,
            // Nobody waits there any more; the turn goes to another, not back through its own end.
            Err(mut turn) => turn.0 = None,
        }
    }
}

fn busy() -> IdentityError {
    IdentityError::Unavailable {
        reason: "too many passwords are being checked at once; try again in a moment".to_owned(),
    }
}

impl Turns {
    pub(super) fn new(at_once: usize) -> Self {
        let state = State { free: at_once.max(1), lanes: <[Lane; 2]>::default(), first: 0 };
        Self {
            state: Arc::new(Mutex::new(state)),
            known: moka::sync::Cache::builder()
                .max_capacity(50_000)
                .time_to_idle(KNOWN_FOR)
                .build(),
        }
    }

    /// Somebody logged in from there.
    pub(super) fn know(&self, from: Option<IpAddr>) {
        self.known.insert(from.map(household), ());
    }

    /// Waits for a turn.
    ///
    /// # Errors
    /// [`IdentityError::Throttled`] when too many of this address wait, [`IdentityError::Unavailable`] when too many wait at
    /// all, or it took too long.
    pub(super) async fn take(&self, from: Option<IpAddr>) -> Result<Turn, IdentityError> {
        let from = from.map(household);
        let known = self.known.contains_key(&from);
        let place = {
            let mut state = self.state.lock();
            if state.free > 0 {
                state.free -= 1;
                return Ok(Turn(Some(Arc::clone(&self.state))));
            }
            state.lanes[usize::from(known)].place(from)?
        };
        match tokio::time::timeout(WAIT_MAX, place).await {
            Ok(Ok(turn)) => Ok(turn),
            _ => Err(busy()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([10, 0, 0, last]))
    }

    /// Begins to wait, and is in its queue when this returns.
    async fn waits(
        turns: &Arc<Turns>,
        from: Option<IpAddr>,
        done: &Arc<Mutex<Vec<Option<IpAddr>>>>,
    ) -> tokio::task::JoinHandle<()> {
        let before = turns.state.lock().lanes.iter().map(|lane| lane.waiting).sum::<usize>();
        let (turns_of, done) = (Arc::clone(turns), Arc::clone(done));
        let task = tokio::spawn(async move {
            let turn = turns_of.take(from).await.expect("a turn");
            done.lock().push(from);
            drop(turn);
        });
        while turns.state.lock().lanes.iter().map(|lane| lane.waiting).sum::<usize>() == before {
            tokio::task::yield_now().await;
        }
        task
    }

    #[tokio::test]
    async fn addresses_take_turns() {
        let turns = Arc::new(Turns::new(1));
        let held = turns.take(None).await.expect("free");
        let done = Arc::default();
        let mut tasks = Vec::new();
        for from in [1, 1, 1, 2, 3] {
            tasks.push(waits(&turns, address(from), &done).await);
        }
        turns.know(address(9));
        tasks.push(waits(&turns, address(9), &done).await);
        drop(held);
        for task in tasks {
            task.await.expect("ends");
        }
        let order: Vec<_> = done.lock().iter().map(|from| from.map(|f| f.to_string())).collect();
        let last = |n: u8| address(n).map(|a| a.to_string());
        assert_eq!(order, [last(1), last(9), last(2), last(3), last(1), last(1)]);
        assert_eq!(turns.state.lock().free, 1);
    }

    #[tokio::test]
    async fn one_address_cannot_take_all_places_nor_strangers_those_of_the_known() {
        let turns = Arc::new(Turns::new(1));
        let held = turns.take(None).await.expect("free");
        let done = Arc::default();
        let mut tasks = Vec::new();
        for _ in 0..ADDRESS_MAX {
            tasks.push(waits(&turns, address(1), &done).await);
        }
        let refused = turns.take(address(1)).await.err();
        assert!(matches!(refused, Some(IdentityError::Throttled { .. })), "{refused:?}");
        for from in 2..=4 {
            for _ in 0..ADDRESS_MAX {
                tasks.push(waits(&turns, address(from), &done).await);
            }
        }
        let refused = turns.take(address(5)).await.err();
        assert!(matches!(refused, Some(IdentityError::Unavailable { .. })), "{refused:?}");
        turns.know(address(6));
        tasks.push(waits(&turns, address(6), &done).await);
        // Those who went away hold no place.
        for task in tasks.drain(..ADDRESS_MAX) {
            task.abort();
            assert!(task.await.is_err());
        }
        tasks.push(waits(&turns, address(1), &done).await);
        drop(held);
        for task in tasks {
            task.await.expect("ends");
        }
        assert_eq!(turns.state.lock().free, 1);
    }
}
