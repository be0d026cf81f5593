//! The embedded engine: one file, group commit, history until compacted.
//!
//! [`EmbeddedStore`] keeps everything in one [redb](https://www.redb.org) file. One thread writes (`committer`), any
//! number of tasks read (`view`); watches follow the changes in the file (`watcher`). `record` shows how it lies there.

pub mod simulated;

mod apply;
mod backend;
mod committer;
mod fault;
mod lease;
mod loading;
mod opening;
mod overlay;
mod reader;
mod record;
mod view;
mod watcher;

use std::{
    path::Path,
    sync::{Arc, atomic::Ordering},
    thread::JoinHandle,
    time::Duration,
};

pub use backend::BackendFactory;
use bytes::Bytes;
use committer::{Committer, Request, Shared, Work};
use dtr_store::{
    At, KeyValue, LeaseId, Limits, Outcome, Page, Range, Status, Store, StoreError, Transaction,
    Watcher, Write,
};
use dtr_types::{Clock, Revision, SystemClock};
use fault::Fault;
use tokio::sync::{Semaphore, oneshot};
use view::{Bounds, View};

/// Requests that wait for the committer at most; more callers wait outside the queue.
const QUEUE_MAX: usize = 4096;
/// Batches that a watch holds for its reader before it stops reading ahead.
const WATCH_BATCHES: usize = 64;
/// Pages up to this many items of the latest state are read where they are asked for.
const INLINE_ITEMS: usize = 256;
/// How often a read is tried again when the storage was opened again below it.
const READ_ATTEMPTS: usize = 3;

/// What is usually kept free on the disk of the file ([`Options::reserve_bytes`]).
pub const RESERVE_BYTES: u64 = 32 << 20;

/// How an engine is set up.
#[derive(Clone)]
pub struct Options {
    /// By which leases end.
    pub clock: Arc<dyn Clock>,
    /// What is accepted.
    pub limits: Limits,
    /// Memory for pages of the file, in bytes. Small is fine: the operating system caches the file as well.
    pub cache_bytes: usize,
    /// Content ([`dtr_store::Class::Content`]) and loads are refused with [`StoreError::Full`] while fewer bytes than these
    /// are free on the file's disk. They are for what makes room again, and for repairing the file.
    pub reserve_bytes: u64,
    /// Whether each commit also saves what makes opening after a crash instant, at the price of a second fsync. Without
    /// it, opening after a crash reads the whole file once.
    pub quick_repair: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            limits: Limits { load_keys_max: 4096, ..Limits::default() },
            cache_bytes: 16 << 20,
            reserve_bytes: RESERVE_BYTES,
            quick_repair: true,
        }
    }
}

/// The engine. Dropping it finishes what is queued, closes the file and ends the watches.
pub struct EmbeddedStore {
    inner: Arc<Inner>,
    thread: Option<JoinHandle<()>>,
    limits: Limits,
    places: Arc<Semaphore>,
    reader: reader::Reader,
    factory: Arc<dyn BackendFactory>,
    reserve_bytes: u64,
}

/// What watches may outlive the engine with.
pub(crate) struct Inner {
    pub(crate) shared: Arc<Shared>,
}

impl EmbeddedStore {
    /// Opens the store in the file at `path`, made with mode 0600 if it is not there. Its directory must exist.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the file cannot be opened, or another process has it open;
    /// [`StoreError::Corrupt`] when it is no store, is damaged, or was written by a newer version.
    pub fn open(path: &Path, options: Options) -> Result<Arc<Self>, StoreError> {
        Self::start(Arc::new(backend::FileFactory::new(path)), options)
            .map_err(|error| backend::name(path, error))
    }

    /// Opens the store over any backend: for tests that take the power away. The factory is called again after an error.
    ///
    /// # Errors
    /// As [`EmbeddedStore::open`].
    pub fn open_with_backend(
        factory: impl BackendFactory,
        options: Options,
    ) -> Result<Arc<Self>, StoreError> {
        Self::start(Arc::new(factory), options)
    }

    /// A store in memory, gone when dropped: for tests.
    ///
    /// # Panics
    /// Never: memory does not fail.
    pub fn in_memory() -> Arc<Self> {
        Self::in_memory_with(Options { quick_repair: false, ..Options::default() })
    }

    /// As [`EmbeddedStore::in_memory`], set up otherwise.
    ///
    /// # Panics
    /// Never: memory does not fail.
    pub fn in_memory_with(options: Options) -> Arc<Self> {
        let factory = || Ok(Box::new(redb::backends::InMemoryBackend::new()) as _);
        Self::open_with_backend(factory, options).expect("an empty store in memory opens")
    }

    fn start(factory: Arc<dyn BackendFactory>, options: Options) -> Result<Arc<Self>, StoreError> {
        let (limits, reserve_bytes) = (options.limits, options.reserve_bytes);
        let committer = Committer::open(Arc::clone(&factory), options)?;
        let shared = committer.shared();
        let thread = std::thread::Builder::new()
            .name("store-commit".to_owned())
            .spawn(move || committer.run())
            .map_err(|e| StoreError::Unavailable { reason: e.to_string() })?;
        let places = Arc::new(Semaphore::new(QUEUE_MAX));
        let inner = Arc::new(Inner { shared });
        let reader = reader::Reader::start()?;
        Ok(Arc::new(Self {
            inner,
            thread: Some(thread),
            limits,
            places,
            reader,
            factory,
            reserve_bytes,
        }))
    }

    async fn ask<T>(
        &self,
        bytes: usize,
        work: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Work,
    ) -> Result<T, StoreError> {
        let gone = || StoreError::Unavailable { reason: "the store was closed".to_owned() };
        let permit = self.places.clone().acquire_owned().await.map_err(|_| gone())?;
        let (reply, answer) = oneshot::channel();
        self.inner.shared.push(Request { work: work(reply), bytes, _permit: permit });
        answer.await.unwrap_or_else(|_| {
            Err(StoreError::Unknown { reason: "the store stopped in between".to_owned() })
        })
    }
}

impl Inner {
    /// Reads the published state. When the storage was opened again since, reads once more.
    pub(crate) fn read<T>(
        &self,
        read: impl Fn(&View) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        let mut last = None;
        for _ in 0..READ_ATTEMPTS {
            let view = self.shared.view()?;
            match read(&view) {
                Ok(value) => return Ok(value),
                Err(fault) => {
                    let newer = self.shared.view().is_ok_and(|newer| !Arc::ptr_eq(&newer, &view));
                    let again = fault.is_stopped() && newer;
                    if fault.is_stopped() && !newer {
                        self.shared.report_stopped();
                    }
                    last = Some(fault);
                    if !again {
                        break;
                    }
                }
            }
        }
        Err(last.map_or_else(
            || StoreError::Unavailable { reason: "the store is being opened again".to_owned() },
            StoreError::from,
        ))
    }

    fn page(&self, bounds: &Bounds, at: At) -> Result<Page, StoreError> {
        self.read(|view| match view.resolve(at) {
            Ok(at) => view.page(bounds, at).map(Ok),
            Err(error) => Ok(Err(error)),
        })?
    }
}

/// Refuses what is too large or makes no sense; else says how large it is. The writes are in the order of their keys.
fn check(transaction: &Transaction, limits: &Limits) -> Result<usize, StoreError> {
    let too_large = |what, size, limit| Err(StoreError::TooLarge { what, size, limit });
    let (conditions, writes) = (&transaction.conditions, &transaction.writes);
    let operations = conditions.len().max(writes.len());
    if operations > limits.operations_max {
        return too_large(
            "a transaction's number of operations",
            operations,
            limits.operations_max,
        );
    }
    let mut bytes = 0;
    let keys = conditions.iter().map(|c| c.key()).chain(writes.iter().map(Write::key));
    for key in keys {
        if key.is_empty() {
            return Err(StoreError::Invalid("a key is empty"));
        }
        if key.len() > limits.key_bytes_max {
            return too_large("a key", key.len(), limits.key_bytes_max);
        }
        bytes += key.len();
    }
    for write in writes {
        if let Write::Put { value, .. } = write {
            if value.len() > limits.value_bytes_max {
                return too_large("a value", value.len(), limits.value_bytes_max);
            }
            bytes += value.len();
        }
    }
    if bytes > limits.transaction_bytes_max {
        return too_large("a transaction", bytes, limits.transaction_bytes_max);
    }
    if writes.windows(2).any(|pair| pair[0].key() == pair[1].key()) {
        return Err(StoreError::Invalid("a key is written twice in one transaction"));
    }
    Ok(bytes)
}

/// The same for what is loaded.
fn check_load(puts: &[(Bytes, Bytes)], limits: &Limits) -> Result<usize, StoreError> {
    let too_large = |what, size, limit| Err(StoreError::TooLarge { what, size, limit });
    if puts.len() > limits.load_keys_max {
        return too_large("a load's number of keys", puts.len(), limits.load_keys_max);
    }
    let mut bytes = 0;
    for (key, value) in puts {
        if key.is_empty() {
            return Err(StoreError::Invalid("a key is empty"));
        }
        for (what, size, limit) in [
            ("a key", key.len(), limits.key_bytes_max),
            ("a value", value.len(), limits.value_bytes_max),
        ] {
            if size > limit {
                return too_large(what, size, limit);
            }
            bytes += size;
        }
    }
    if bytes > limits.transaction_bytes_max {
        return too_large("a load", bytes, limits.transaction_bytes_max);
    }
    Ok(bytes)
}

#[async_trait::async_trait]
impl Store for EmbeddedStore {
    fn limits(&self) -> Limits {
        self.limits
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.inner.shared.view().map(|view| Revision(view.revision))
    }

    /// Read where it is asked for: a walk down a tree of some pages that are nearly always in memory takes a microsecond
    /// or two, moving it to another thread ten times that. A page that must come from the disk blocks for one read.
    async fn get(&self, key: &[u8], at: At) -> Result<Option<KeyValue>, StoreError> {
        self.inner.read(|view| match view.resolve(at) {
            Ok(at) => view.get(key, at).map(Ok),
            Err(error) => Ok(Err(error)),
        })?
    }

    /// Short pages of the latest state are read where they are asked for, as [`EmbeddedStore::get`] does. Long ones, and
    /// those of earlier revisions, which may step over many records to find few, go to a thread for blocking work; what is
    /// both, to the thread of backups.
    async fn range(&self, range: Range) -> Result<Page, StoreError> {
        let most = self.limits.page_items_max;
        let limit = if range.limit == 0 { most } else { range.limit.min(most) };
        let Range { start, end, keys_only, at, .. } = range;
        let bounds = Bounds { start, end, limit, keys_only };
        if at == At::Latest && limit <= INLINE_ITEMS {
            return self.inner.page(&bounds, at);
        }
        let inner = self.inner.clone();
        if at != At::Latest && limit > INLINE_ITEMS {
            return self.reader.read(move || inner.page(&bounds, at)).await;
        }
        tokio::task::spawn_blocking(move || inner.page(&bounds, at))
            .await
            .map_err(|e| StoreError::Unavailable { reason: e.to_string() })?
    }

    async fn commit(&self, mut transaction: Transaction) -> Result<Outcome, StoreError> {
        // In order, neighbours in the tree are written one after the other.
        transaction.writes.sort_unstable_by(|a, b| a.key().cmp(b.key()));
        let bytes = check(&transaction, &self.limits)?;
        self.ask(bytes, |reply| Work::Commit(transaction, reply)).await
    }

    async fn load(&self, puts: Vec<(Bytes, Bytes)>) -> Result<(), StoreError> {
        let bytes = check_load(&puts, &self.limits)?;
        self.ask(bytes, |reply| Work::Load(puts, reply)).await
    }

    async fn finish_load(&self) -> Result<(), StoreError> {
        self.ask(0, |reply| Work::EndLoad(true, reply)).await
    }

    async fn abandon_load(&self) -> Result<(), StoreError> {
        self.ask(0, |reply| Work::EndLoad(false, reply)).await
    }

    async fn watch(&self, start: &[u8], end: &[u8], from: Revision) -> Result<Watcher, StoreError> {
        let view = self.inner.shared.view()?;
        if from.0 < view.compacted {
            let oldest = Revision(view.compacted);
            return Err(StoreError::Compacted { asked: from, oldest });
        }
        let bounds = Bounds {
            start: Bytes::copy_from_slice(start),
            end: Bytes::copy_from_slice(end),
            limit: 0,
            keys_only: false,
        };
        let (sender, watcher) = Watcher::channel(WATCH_BATCHES);
        tokio::spawn(watcher::feed(Arc::downgrade(&self.inner), sender, bounds, from.0.max(1)));
        Ok(watcher)
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.ask(0, |reply| Work::Compact(revision.0, reply)).await
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.ask(0, |reply| Work::Grant(ttl, reply)).await
    }

    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.ask(0, |reply| Work::KeepAlive(lease, reply)).await
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.ask(0, |reply| Work::Revoke(lease, reply)).await
    }

    async fn status(&self) -> Result<Status, StoreError> {
        let view = self.inner.shared.view()?;
        Ok(Status {
            engine: "embedded",
            revision: Revision(view.revision),
            compacted: Revision(view.compacted),
            size_bytes: self.inner.shared.length.load(Ordering::Relaxed),
            full: opening::refused_content(self.factory.free_bytes(), self.reserve_bytes),
        })
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.inner.shared.close();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the store's committer had stopped");
        }
    }
}
