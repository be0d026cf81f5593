//! The one thread that writes. It takes everything that is waiting, evaluates it in order in one redb transaction, makes
//! that durable with one fsync, publishes the new state, and only then answers: group commit.
//!
//! redb stops for good after an I/O error. Then the thread opens the storage again by itself, and reads there what
//! became of the group in doubt. Callers see an error, not a restart.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant},
};

use bytes::Bytes;
use dtr_store::{LeaseId, Outcome, StoreError, Transaction};
use parking_lot::{Condvar, Mutex, RwLock};
use redb::Database;
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

use crate::{
    Options,
    apply::Group,
    backend::BackendFactory,
    fault::Fault,
    lease::Leases,
    loading::Load,
    opening::{open_database, open_to_read, refused_content},
    view::View,
};

/// Most requests in one group.
const GROUP_REQUESTS_MAX: usize = 1024;
/// A group is closed when its keys and values reach this, in bytes.
const GROUP_BYTES_MAX: usize = 8 << 20;
/// Changes that compaction removes in one group: some milliseconds of a writer's time.
const SWEEP_CHANGES: usize = 1_000;
/// How often the clock is looked at while there are leases.
const LEASE_TICK: Duration = Duration::from_millis(50);
/// How long after a failed attempt to open the storage again the next one is made.
const REOPEN_PAUSE: Duration = Duration::from_millis(100);

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// What the thread is asked for.
pub(crate) enum Work {
    Commit(Transaction, Reply<Outcome>),
    Load(Vec<(Bytes, Bytes)>, Reply<()>),
    /// Ends a load: whether what was loaded is kept.
    EndLoad(bool, Reply<()>),
    Compact(u64, Reply<()>),
    Grant(Duration, Reply<LeaseId>),
    KeepAlive(LeaseId, Reply<()>),
    Revoke(LeaseId, Reply<()>),
}

impl Work {
    /// Whether it is part of filling the store.
    fn loads(&self) -> bool {
        matches!(self, Self::Load(..) | Self::EndLoad(..))
    }

    /// Whether it must leave the reserve alone.
    fn fills(&self) -> bool {
        match self {
            Self::Commit(transaction, _) => transaction.fills(),
            Self::Load(..) => true,
            _ => false,
        }
    }
}

/// A request and the place in the queue that it takes.
pub(crate) struct Request {
    pub(crate) work: Work,
    pub(crate) bytes: usize,
    pub(crate) _permit: OwnedSemaphorePermit,
}

#[derive(Default)]
struct Queue {
    requests: VecDeque<Request>,
    closed: bool,
    /// A reader met an I/O error, after which redb answers nothing: open again.
    stopped: bool,
}

/// What the thread and its callers share.
pub(crate) struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    /// The state that may be read, or why there is none.
    view: RwLock<Result<Arc<View>, StoreError>>,
    /// Tells watches that there is more.
    pub(crate) published: watch::Sender<u64>,
    pub(crate) length: Arc<AtomicU64>,
}

impl Shared {
    pub(crate) fn view(&self) -> Result<Arc<View>, StoreError> {
        self.view.read().clone()
    }

    pub(crate) fn push(&self, request: Request) {
        let mut queue = self.queue.lock();
        if !queue.closed {
            queue.requests.push_back(request);
            self.wake.notify_one();
        }
    }

    pub(crate) fn close(&self) {
        self.queue.lock().closed = true;
        self.wake.notify_one();
    }

    /// Asks for the storage to be opened again.
    pub(crate) fn report_stopped(&self) {
        self.queue.lock().stopped = true;
        self.wake.notify_one();
    }

    fn publish(&self, view: View) {
        let revision = view.revision;
        *self.view.write() = Ok(Arc::new(view));
        self.published.send_replace(revision);
    }
}

/// Why a group came to nothing.
enum Failure {
    /// Certainly not applied.
    NotDone(StoreError),
    /// The fsync or the writes before it failed.
    InDoubt(StoreError),
}

impl<E: Into<Fault>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::NotDone(error.into().into())
    }
}

/// Whatever ends the thread, nobody waits for it any more.
struct Closing(Arc<Shared>);

impl Drop for Closing {
    fn drop(&mut self) {
        let mut queue = self.0.queue.lock();
        queue.closed = true;
        queue.requests.clear();
        *self.0.view.write() =
            Err(StoreError::Unavailable { reason: "the store was closed".to_owned() });
    }
}

/// What a request gets once its group is durable.
enum Done {
    Commit(Reply<Outcome>, Result<Outcome, StoreError>),
    Unit(Reply<()>, Result<(), StoreError>),
    Grant(Reply<LeaseId>, Result<LeaseId, StoreError>),
}

impl Done {
    /// Answers; a caller that went away does not mind.
    fn send(self) {
        match self {
            Self::Commit(reply, answer) => drop(reply.send(answer)),
            Self::Unit(reply, answer) => drop(reply.send(answer)),
            Self::Grant(reply, answer) => drop(reply.send(answer)),
        }
    }

    fn fail(self, error: StoreError) {
        match self {
            Self::Commit(reply, _) => drop(reply.send(Err(error))),
            Self::Unit(reply, _) => drop(reply.send(Err(error))),
            Self::Grant(reply, _) => drop(reply.send(Err(error))),
        }
    }
}

/// The thread's own state.
pub(crate) struct Committer {
    shared: Arc<Shared>,
    factory: Arc<dyn BackendFactory>,
    pub(crate) options: Options,
    /// What is being loaded. Before the database, which outlives its transactions.
    pub(crate) loading: Load,
    pub(crate) database: Option<Database>,
    /// What is read while the storage cannot be opened for writing.
    reading: Option<Database>,
    leases: Leases,
    pub(crate) revision: u64,
    compacted: u64,
    /// Whether forgotten history is still in the file.
    sweeping: bool,
    pub(crate) reopen_after: Option<(Instant, StoreError)>,
}

impl Committer {
    /// Opens the storage; the committer's [`Committer::run`] belongs on a thread of its own.
    pub(crate) fn open(
        factory: Arc<dyn BackendFactory>,
        options: Options,
    ) -> Result<Self, StoreError> {
        let length = Arc::new(AtomicU64::new(0));
        let (mut database, mut reading) = (None, None);
        let (leases, view) = match open_database(&*factory, &options, &length) {
            Ok((opened, leases, view)) => {
                database = Some(opened);
                (leases, view)
            }
            // Opening may write. What is there can be read without that, until there is room.
            Err(error @ StoreError::Full { .. }) => {
                let Ok((opened, view)) = open_to_read(&*factory, &options) else {
                    return Err(error);
                };
                tracing::warn!(%error, "the store can be read only");
                reading = Some(opened);
                (Leases::default(), view)
            }
            Err(error) => return Err(error),
        };
        let (revision, compacted) = (view.revision, view.compacted);
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            wake: Condvar::new(),
            view: RwLock::new(Ok(Arc::new(view))),
            published: watch::Sender::new(revision),
            length,
        });
        Ok(Self {
            shared,
            factory,
            options,
            database,
            reading,
            leases,
            revision,
            compacted,
            loading: Load::None,
            sweeping: compacted > 0,
            reopen_after: None,
        })
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// Serves until the queue is closed and empty.
    pub(crate) fn run(mut self) {
        let _closing = Closing(self.shared.clone());
        while let Some(work) = self.next() {
            self.turn(work);
        }
    }

    /// Waits for work: everything that is there, an empty group when time has come for something else, `None` at the end.
    fn next(&mut self) -> Option<Vec<Work>> {
        let mut queue = self.shared.queue.lock();
        let loads = !matches!(self.loading, Load::None);
        let busy = self.sweeping && self.database.is_some() && !loads;
        if queue.requests.is_empty() && !queue.closed && !queue.stopped && !busy {
            let tick = match (self.database.is_none(), self.leases.is_empty()) {
                (true, _) => Some(REOPEN_PAUSE),
                // Leases do not end while the store is filled.
                (false, false) if !loads => Some(LEASE_TICK),
                (false, _) => None,
            };
            match tick {
                None => self.shared.wake.wait(&mut queue),
                Some(tick) => drop(self.shared.wake.wait_for(&mut queue, tick)),
            }
        }
        if queue.requests.is_empty() && queue.closed {
            return None;
        }
        if std::mem::take(&mut queue.stopped) {
            self.loading.fail(&closed());
            (self.database, self.reading) = (None, None);
        }
        let (mut group, mut bytes) = (Vec::new(), 0);
        while group.len() < GROUP_REQUESTS_MAX && bytes < GROUP_BYTES_MAX {
            let Some(next) = queue.requests.front() else { break };
            // Loads are not committed with the rest: a group is of one sort.
            if group.last().is_some_and(|last: &Work| last.loads() != next.work.loads()) {
                break;
            }
            let Some(request) = queue.requests.pop_front() else { break };
            bytes += request.bytes;
            // Its place in the queue is free from here on; the group itself is bounded.
            group.push(request.work);
        }
        Some(group)
    }

    fn turn(&mut self, mut group: Vec<Work>) {
        if group.first().is_some_and(Work::loads) {
            group.into_iter().for_each(|work| self.load(work));
            return;
        }
        if let Err(error) = self.reopen() {
            group.into_iter().for_each(|work| refused(work).fail(error.clone()));
            return;
        }
        if group.iter().any(Work::fills)
            && let Some(error) = self.no_room()
        {
            let (fills, rest): (Vec<_>, _) = group.into_iter().partition(Work::fills);
            fills.into_iter().for_each(|work| refused(work).fail(error.clone()));
            group = rest;
        }
        // Whoever does anything else wants to find what was loaded.
        if !group.is_empty()
            && let Err(error) = self.end_load(true)
        {
            group.into_iter().for_each(|work| refused(work).fail(error.clone()));
            return;
        }
        if !matches!(self.loading, Load::None) {
            return;
        }
        let mut done = Vec::with_capacity(group.len());
        match self.apply(group, &mut done) {
            Ok(()) => done.into_iter().for_each(Done::send),
            Err(failure) => self.settle(failure, done),
        }
    }

    fn load(&mut self, work: Work) {
        let (outcome, reply) = match work {
            Work::Load(puts, reply) => {
                let ready = self.reopen().and_then(|()| self.no_room().map_or(Ok(()), Err));
                (ready.and_then(|()| self.put_loaded(&puts)), reply)
            }
            Work::EndLoad(keep, reply) => (self.end_load(keep), reply),
            other => return refused(other).fail(closed()),
        };
        // A caller that went away does not mind.
        drop(reply.send(outcome));
    }

    /// Refuses content when the disk is nearly full. What is left then is for deletions and all else that makes room, and
    /// enough for redb to repair the file should the machine die at this moment. Should another program take that as well,
    /// essential commits are tried nevertheless: there may be room inside the file.
    fn no_room(&self) -> Option<StoreError> {
        let reason = refused_content(self.factory.free_bytes(), self.options.reserve_bytes)?;
        Some(StoreError::Full { reason })
    }

    /// Evaluates a group and makes it durable; `done` has an answer for each request.
    fn apply(&mut self, works: Vec<Work>, done: &mut Vec<Done>) -> Result<(), Failure> {
        let mut waiting = works.into_iter();
        let result = self.evaluate(&mut waiting, done);
        // After an error in between, the rest were not looked at.
        done.extend(waiting.map(refused));
        result
    }

    fn evaluate(
        &mut self,
        works: &mut std::vec::IntoIter<Work>,
        done: &mut Vec<Done>,
    ) -> Result<(), Failure> {
        let database = self.database.as_ref().ok_or_else(closed).map_err(Failure::NotDone)?;
        let now = self.options.clock.running().passed;
        let mut write = database.begin_write().map_err(Fault::from)?;
        write.set_quick_repair(self.options.quick_repair);
        let mut group = Group::open(&write, self.revision, self.compacted)?;
        for lease in self.leases.ended(now) {
            // Not there when a failed group has ended it already: then it is gone either way.
            drop(group.revoke(lease)?);
            self.leases.remove(lease);
        }
        for work in works.by_ref() {
            let answered = match work {
                Work::Commit(transaction, reply) => match group.transact(&transaction) {
                    Ok(answer) => Ok(Done::Commit(reply, answer)),
                    Err(fault) => Err((Done::Commit(reply, Err(closed())), fault)),
                },
                Work::Load(_, reply) | Work::EndLoad(_, reply) => {
                    Ok(Done::Unit(reply, Err(closed())))
                }
                Work::Compact(to, reply) => Ok(Done::Unit(reply, group.compact(to))),
                Work::Grant(ttl, reply) => match group.grant(ttl.as_millis() as u64) {
                    Ok(lease) => {
                        self.leases.insert(lease, ttl, now);
                        Ok(Done::Grant(reply, Ok(LeaseId(lease))))
                    }
                    Err(fault) => Err((Done::Grant(reply, Err(closed())), fault)),
                },
                Work::KeepAlive(LeaseId(lease), reply) => {
                    let alive = self.leases.keep_alive(lease, now);
                    let answer = if alive { Ok(()) } else { Err(StoreError::LeaseNotFound) };
                    Ok(Done::Unit(reply, answer))
                }
                Work::Revoke(LeaseId(lease), reply) => match group.revoke(lease) {
                    Ok(answer) => {
                        self.leases.remove(lease);
                        Ok(Done::Unit(reply, answer))
                    }
                    Err(fault) => Err((Done::Unit(reply, Err(closed())), fault)),
                },
            };
            match answered {
                Ok(answer) => done.push(answer),
                Err((answer, fault)) => {
                    done.push(answer);
                    return Err(fault.into());
                }
            }
        }
        let marked = group.compacted > self.compacted;
        if self.sweeping && self.compacted > 0 {
            // Bounded by what is published, so that no reader misses what it may read.
            self.sweeping = !group.sweep(self.compacted, SWEEP_CHANGES)?;
        }
        self.sweeping |= marked;
        let (revision, compacted, dirty) = (group.revision, group.compacted, group.dirty);
        if !dirty {
            // Answers about the state as it is; it is durable already.
            drop(group);
            write.abort().map_err(Fault::from)?;
            return Ok(());
        }
        group.finish()?;
        write.commit().map_err(|e| Failure::InDoubt(Fault::from(e).into()))?;
        (self.revision, self.compacted) = (revision, compacted);
        match View::open(database) {
            Ok(view) => self.shared.publish(view),
            // Durable but unreadable: only opening again can help. To the callers it is unknown.
            Err(fault) => return Err(Failure::InDoubt(fault.into())),
        }
        Ok(())
    }

    /// After a failed group: opens the storage again and tells the callers what became of it.
    fn settle(&mut self, failure: Failure, done: Vec<Done>) {
        let before = self.revision;
        self.database = None;
        self.reopen_after = None;
        let reopened = self.reopen();
        let error = match failure {
            Failure::NotDone(error) => error,
            // The group is in the file whole or not at all. If its first revision is not there, nothing is.
            Failure::InDoubt(error) if reopened.is_ok() && self.revision == before => error,
            Failure::InDoubt(error) => StoreError::Unknown { reason: error.to_string() },
        };
        tracing::warn!(%error, "a group of {} commits failed", done.len());
        for done in done {
            done.fail(error.clone());
        }
    }

    /// Shows a state that compaction has touched.
    pub(crate) fn show(&mut self, view: View) {
        (self.revision, self.compacted) = (view.revision, view.compacted);
        self.sweeping = true;
        self.shared.publish(view);
    }

    /// Opens the storage if it is not open.
    pub(crate) fn reopen(&mut self) -> Result<(), StoreError> {
        if self.database.is_some() {
            return Ok(());
        }
        if let Some((after, error)) = &self.reopen_after
            && Instant::now() < *after
        {
            return Err(error.clone());
        }
        match open_database(&*self.factory, &self.options, &self.shared.length) {
            Ok((database, leases, view)) => {
                self.database = Some(database);
                self.reading = None;
                self.leases = leases;
                (self.revision, self.compacted) = (view.revision, view.compacted);
                self.sweeping = view.compacted > 0;
                self.reopen_after = None;
                self.shared.publish(view);
                tracing::info!(revision = self.revision, "the store was opened again");
                Ok(())
            }
            Err(error) => {
                self.read_only(&error);
                self.reopen_after = Some((Instant::now() + REOPEN_PAUSE, error.clone()));
                Err(error)
            }
        }
    }

    /// Goes on reading what was durable, if that is possible, while nothing can be written because of `error`.
    fn read_only(&mut self, error: &StoreError) {
        if self.reading.is_some() {
            return;
        }
        match open_to_read(&*self.factory, &self.options) {
            // A commit in doubt may be readable and not durable: then nothing is shown.
            Ok((database, view)) if view.revision == self.revision => {
                self.reading = Some(database);
                self.shared.publish(view);
                tracing::warn!(%error, "the store can be read only");
            }
            _ => *self.shared.view.write() = Err(error.clone()),
        }
    }
}

pub(crate) fn closed() -> StoreError {
    StoreError::Unavailable { reason: "the store is being opened again".to_owned() }
}

/// A request that was not looked at.
fn refused(work: Work) -> Done {
    match work {
        Work::Commit(_, reply) => Done::Commit(reply, Err(closed())),
        Work::Grant(_, reply) => Done::Grant(reply, Err(closed())),
        Work::Load(_, reply)
        | Work::EndLoad(_, reply)
        | Work::Compact(_, reply)
        | Work::KeepAlive(_, reply)
        | Work::Revoke(_, reply) => Done::Unit(reply, Err(closed())),
    }
}
