//! Watching: changes as etcd tells them, put together to one batch a revision, and gone on with after a lost connection.
//!
//! Each watch has a connection of its own: in one that is shared, what a slow reader does not take would fill the window
//! of everybody. A watch asks etcd for one revision more than it needs, and drops it: at the revision that etcd was
//! compacted at, deletions may be missing (see `read`), and asking from there is refused only if that one is gone too. So
//! what is told has no gap, or the watch ends with [`StoreError::Compacted`].

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use dtr_store::{Event, EventKind, StoreError, WatchBatch, Watcher};
use dtr_types::Revision;
use parking_lot::Mutex;
use tokio::{sync::mpsc, time::Instant};
use tonic::Streaming;

use crate::{
    Keys,
    client::Client,
    connection::Connection,
    fault::Fault,
    wire::{self, EVENT_DELETE, WatchCreateRequest, WatchRequest, WatchResponse, method},
};

/// Batches that a watch holds for its reader before it stops reading ahead.
const BATCHES: usize = 64;
/// Pauses between attempts to go on.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Since when a watch runs without a break; nothing while it is cut off.
#[derive(Clone, Default)]
pub(crate) struct Alive(Arc<Mutex<Option<Instant>>>);

impl Alive {
    pub(crate) fn since(&self) -> Option<Instant> {
        *self.0.lock()
    }

    fn set(&self, alive: bool) {
        *self.0.lock() = alive.then(Instant::now);
    }
}

/// What all watches of a store share.
#[derive(Clone)]
pub(crate) struct Feeds {
    pub(crate) client: Arc<Client>,
    pub(crate) keys: Keys,
    /// See [`crate::EtcdStore`].
    pub(crate) floor: Arc<AtomicU64>,
    pub(crate) begun: Arc<AtomicUsize>,
    pub(crate) open: tokio::sync::watch::Receiver<()>,
}

impl Feeds {
    /// Begins a watch of keys in `[start, end)`: when this returns, a member has accepted it.
    pub(crate) async fn begin(
        &self,
        start: &[u8],
        end: &[u8],
        from: Revision,
    ) -> Result<Watcher, StoreError> {
        let (key, range_end) = (self.keys.outside(start), self.keys.end_outside(end));
        if range_end <= key {
            // Nothing is ever told; etcd would refuse it.
            let (sender, watcher) = Watcher::channel(BATCHES);
            let mut closed = self.open.clone();
            tokio::spawn(async move {
                tokio::select! {
                    () = sender.closed() => {}
                    _ = closed.changed() => {}
                }
            });
            return Ok(watcher);
        }
        Ok(self.begin_range(key, range_end, from).await?.0)
    }

    /// Begins a watch of everything that is ours. It also tells the revisions in which only slots move, by batches without
    /// events.
    pub(crate) async fn begin_all(&self, from: Revision) -> Result<(Watcher, Alive), StoreError> {
        let (key, range_end) = self.keys.all();
        self.begin_range(key, range_end, from).await
    }

    async fn begin_range(
        &self,
        key: Bytes,
        range_end: Bytes,
        from: Revision,
    ) -> Result<(Watcher, Alive), StoreError> {
        let floor = self.floor.load(Ordering::Acquire);
        if from.0 < floor {
            return Err(StoreError::Compacted { asked: from, oldest: Revision(floor) });
        }
        let (sender, watcher) = Watcher::channel(BATCHES);
        let mut feed = Feed {
            client: self.client.clone(),
            keys: self.keys.clone(),
            floor: self.floor.clone(),
            key,
            range_end,
            next: from.0.max(1),
            turn: self.begun.fetch_add(1, Ordering::Relaxed),
            gathered: None,
            alive: Alive::default(),
        };
        let (first, alive) = (feed.begin_in_time().await?, feed.alive.clone());
        let mut closed = self.open.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = sender.closed() => {}
                _ = closed.changed() => {}
                () = feed.run(first, &sender) => {}
            }
        });
        Ok((watcher, alive))
    }
}

/// A stream and the connection that it keeps open.
struct Running {
    stream: Streaming<WatchResponse>,
    _connection: Connection,
}

/// How a stream came to its end.
enum End {
    /// The reader has gone.
    Unread,
    /// Nothing can follow.
    Told(StoreError),
    /// It can be gone on with.
    Lost(String),
}

struct Feed {
    client: Arc<Client>,
    keys: Keys,
    floor: Arc<AtomicU64>,
    key: Bytes,
    range_end: Bytes,
    /// The first revision that was not told yet.
    next: u64,
    /// Which endpoint to begin with.
    turn: usize,
    /// The changes of one revision, until all of them have come.
    gathered: Option<WatchBatch>,
    alive: Alive,
}

type Sender = mpsc::Sender<Result<WatchBatch, StoreError>>;

impl Feed {
    async fn begin_in_time(&mut self) -> Result<Running, StoreError> {
        let deadline = self.client.deadline();
        let mut pause = PAUSE;
        loop {
            match tokio::time::timeout_at(deadline, self.begin()).await {
                Ok(Ok(running)) => return Ok(running),
                Ok(Err(fault)) if fault.elsewhere(true) => {
                    let hopeless = self.client.without_majority().is_some();
                    if hopeless || Instant::now() + pause >= deadline {
                        return Err(fault.into());
                    }
                }
                Ok(Err(fault)) => return Err(fault.into()),
                Err(_) => {
                    let reason = "no member accepted a watch in time".to_owned();
                    return Err(StoreError::Unavailable { reason });
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Asks a member to watch, and waits until it says that it does.
    async fn begin(&mut self) -> Result<Running, Fault> {
        self.turn = self.turn.wrapping_add(1);
        let connection = self.client.separate(self.turn).await?;
        let create = WatchCreateRequest {
            key: self.key.clone(),
            range_end: self.range_end.clone(),
            start_revision: i64::try_from(self.next.saturating_sub(1).max(1)).unwrap_or(i64::MAX),
            progress_notify: true,
            fragment: true,
        };
        let request = WatchRequest { create: Some(create) };
        let attempt = self.client.timing.attempt;
        let begun = tokio::time::timeout(attempt, async {
            let mut stream: Streaming<WatchResponse> =
                connection.stream(method::WATCH, request, false).await?;
            match stream.message().await.map_err(Fault::from)? {
                Some(answer) if answer.created && !answer.canceled => Ok(stream),
                Some(answer) => Err(Fault::Refused(answer.cancel_reason)),
                None => Err(Fault::NotDone("the watch ended at once".to_owned())),
            }
        });
        let stream = begun.await.unwrap_or_else(|_| {
            Err(Fault::NotDone(format!("a member did not accept a watch in {attempt:?}")))
        })?;
        self.alive.set(true);
        Ok(Running { stream, _connection: connection })
    }

    /// Tells until the reader is gone or nothing can follow.
    async fn run(&mut self, first: Running, sender: &Sender) {
        let mut running = first;
        loop {
            match self.tell(&mut running, sender).await {
                End::Unread => return,
                End::Told(error) => return drop(sender.send(Err(error)).await),
                End::Lost(why) => tracing::debug!(why, next = self.next, "a watch is resumed"),
            }
            self.alive.set(false);
            // Half of a revision may have come; it is told anew.
            self.gathered = None;
            drop(running);
            let mut pause = PAUSE;
            running = loop {
                match self.begin().await {
                    Ok(running) => break running,
                    Err(fault) => tracing::debug!(?fault, "a watch cannot be resumed yet"),
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            };
        }
    }

    async fn tell(&mut self, running: &mut Running, sender: &Sender) -> End {
        loop {
            let message = match running.stream.message().await {
                Ok(Some(message)) => message,
                Ok(None) => return End::Lost("the member ended the stream".to_owned()),
                Err(status) => return End::Lost(format!("{:?}", Fault::from(status))),
            };
            if message.canceled {
                return self.canceled(&message);
            }
            if message.events.is_empty() && !message.fragment && self.gathered.is_none() {
                // Progress: everything up to here was told.
                let to = u64::try_from(wire::revision(message.header.as_ref())).unwrap_or(0);
                self.next = self.next.max(to.saturating_add(1));
                continue;
            }
            let whole = !message.fragment;
            for batch in self.gather(message.events, whole) {
                self.next = batch.revision.0 + 1;
                if sender.send(Ok(batch)).await.is_err() {
                    return End::Unread;
                }
            }
        }
    }

    fn canceled(&self, message: &WatchResponse) -> End {
        let at = u64::try_from(message.compact_revision).unwrap_or(0);
        if at > 0 {
            let oldest = self.floor.fetch_max(at + 1, Ordering::AcqRel).max(at + 1);
            return End::Told(StoreError::Compacted {
                asked: Revision(self.next),
                oldest: Revision(oldest),
            });
        }
        End::Lost(message.cancel_reason.clone())
    }

    /// Adds events; yields the batches that are complete. A revision is when the next one begins, or the message is
    /// `whole`: etcd ends a message that is not in the middle of a revision.
    fn gather(&mut self, events: Vec<wire::Event>, whole: bool) -> Vec<WatchBatch> {
        let mut batches = Vec::new();
        for event in events {
            let Some(kv) = event.kv else { continue };
            let revision = Revision(u64::try_from(kv.mod_revision).unwrap_or(0));
            if revision.0 < self.next {
                continue;
            }
            if self.gathered.as_ref().is_none_or(|batch| batch.revision != revision) {
                let next = WatchBatch { revision, events: Vec::new() };
                batches.extend(self.gathered.replace(next));
            }
            // A slot's is its revision alone.
            if let Some(batch) = self.gathered.as_mut().filter(|_| self.keys.is_key(&kv)) {
                let kv = self.keys.inside(&kv);
                let key = kv.key.clone();
                let deleted = event.kind == EVENT_DELETE;
                let kind = if deleted { EventKind::Delete } else { EventKind::Put(kv) };
                batch.events.push(Event { key, kind });
            }
        }
        if whole {
            batches.extend(self.gathered.take());
        }
        for batch in &mut batches {
            batch.events.sort_by(|a, b| a.key.cmp(&b.key));
        }
        batches
    }
}
