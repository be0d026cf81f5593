//! Stores that decide who goes first: one that stops at one of its operations until it is told to go on, and one that pauses at random before what it does, so that on one thread everything that can come between two steps
//! of an operation does come between them in some run; and futures that are given up after so many steps.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use dtr_store::{
    At, KeyValue, LeaseId, Limits, Outcome, Page, Range, SharedStore, Status, Store, StoreError,
    Transaction, Watcher,
};
use dtr_types::{Random as _, Revision, SeededRandom};

/// Gives up a future after `steps` of it had to wait: what a cancelled request or a killed process leaves. `None` then.
pub(crate) async fn cut<F: Future>(future: F, steps: usize) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = steps;
    std::future::poll_fn(move |context: &mut Context<'_>| {
        if let Poll::Ready(output) = future.as_mut().poll(context) {
            return Poll::Ready(Some(output));
        }
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        Poll::Pending
    })
    .await
}

/// Polls a future that many times at most; it can go on after that.
pub(crate) async fn polls<F: Future>(mut future: Pin<&mut F>, steps: usize) -> Option<F::Output> {
    cut(std::future::poll_fn(move |context| future.as_mut().poll(context)), steps).await
}

/// Runs a future until it ends, or something is so (`None`).
pub(crate) async fn until<F: Future>(
    mut future: Pin<&mut F>,
    is_so: impl Fn() -> bool,
) -> Option<F::Output> {
    std::future::poll_fn(move |context| match future.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending if is_so() => Poll::Ready(None),
        Poll::Pending => {
            context.waker().wake_by_ref();
            Poll::Pending
        }
    })
    .await
}

/// Stops whoever uses its store before one of the operations.
pub(crate) struct Gate(Arc<GateState>);

struct GateState {
    /// Operations until it closes.
    left: AtomicUsize,
    is_waiting: AtomicBool,
    is_open: AtomicBool,
}

impl Gate {
    /// Before operation number `step`, counted from 1.
    pub(crate) fn at(step: usize) -> Self {
        let left = AtomicUsize::new(step);
        let (is_waiting, is_open) = (AtomicBool::new(false), AtomicBool::new(false));
        Self(Arc::new(GateState { left, is_waiting, is_open }))
    }

    /// A store that has this gate.
    pub(crate) fn before(&self, inner: SharedStore) -> SharedStore {
        Arc::new(Slowed { inner, how: How::Gate(self.0.clone()) })
    }

    /// Whether somebody waits at it.
    pub(crate) fn is_waiting(&self) -> bool {
        self.0.is_waiting.load(Relaxed)
    }

    /// Lets it go on.
    pub(crate) fn open(&self) {
        self.0.is_open.store(true, Relaxed);
    }
}

/// A store with pauses at random, by a seed.
pub(crate) fn pausing(inner: SharedStore, seed: u64) -> SharedStore {
    Arc::new(Slowed { inner, how: How::AtRandom(Box::new(SeededRandom::new(seed))) })
}

struct Slowed {
    inner: SharedStore,
    how: How,
}

enum How {
    AtRandom(Box<SeededRandom>),
    Gate(Arc<GateState>),
}

impl Slowed {
    async fn pause(&self) {
        match &self.how {
            How::AtRandom(random) => {
                // Mostly short, now and then so long that others do much meanwhile.
                let [which, long] = random.bytes::<2>();
                let turns = match which {
                    0..160 => 0,
                    160..240 => long % 8,
                    240.. => long,
                };
                for _ in 0..turns {
                    tokio::task::yield_now().await;
                }
            }
            How::Gate(gate) => {
                if gate.left.fetch_sub(1, Relaxed) == 1 {
                    gate.is_waiting.store(true, Relaxed);
                    while !gate.is_open.load(Relaxed) {
                        tokio::task::yield_now().await;
                    }
                }
            }
        }
    }
}

#[async_trait::async_trait]
impl Store for Slowed {
    fn limits(&self) -> Limits {
        self.inner.limits()
    }
    async fn revision(&self) -> Result<Revision, StoreError> {
        self.inner.revision().await
    }
    async fn get(&self, key: &[u8], at: At) -> Result<Option<KeyValue>, StoreError> {
        self.pause().await;
        self.inner.get(key, at).await
    }
    async fn range(&self, range: Range) -> Result<Page, StoreError> {
        self.pause().await;
        self.inner.range(range).await
    }
    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        self.pause().await;
        self.inner.commit(transaction).await
    }
    async fn watch(&self, start: &[u8], end: &[u8], from: Revision) -> Result<Watcher, StoreError> {
        self.inner.watch(start, end, from).await
    }
    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.inner.compact(revision).await
    }
    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.inner.lease_grant(ttl).await
    }
    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.inner.lease_keep_alive(lease).await
    }
    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.inner.lease_revoke(lease).await
    }
    async fn status(&self) -> Result<Status, StoreError> {
        self.inner.status().await
    }
}
