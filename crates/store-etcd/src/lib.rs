//! The etcd engine: the store over a real etcd of 3.4 or newer, by mutual TLS.
//!
//! [`EtcdStore`] keeps the keys of one store below a prefix of an etcd cluster, and passes the contract and the model test
//! of [`dtr_store`]. Reads of the latest state, commits and leases need a majority of the members; reads at a revision are
//! answered by any member that has it. [`Maintenance`] and [`Members`] are for whoever looks after the cluster, [`member`]
//! starts an etcd of our own and watches over it.
//!
//! Files, in the order of a call: `client` (how long, what is tried next), `outlook` (which member, and whether there is any
//! use in it), `line` and `connection` (one member), `wire` (messages), `fault` (what an error means); `commit` with `slots`
//! (how lost answers are settled) and `group` (what is sent together), `read` with `view` and `fresh` (how reads
//! share their round trips), `watch`.
//!
//! # What is ours in etcd
//! - `<prefix>k<key>`: the keys of the store.
//! - `<prefix>s<session>/<number>`: the slots of one client, see `slots`. They stay when the client goes: a client that
//!   comes back under the same session name uses them again, [`Maintenance::forget_session`] removes those of one that
//!   does not.
//!
//! # Where it differs from the embedded engine
//! Revisions are etcd's: they are consecutive while one store uses the etcd and nothing goes wrong, but settling a lost
//! answer takes a revision in which no key of the store changes, and so do other stores' commits. Commits that do not touch
//! each other may share one, see `group`; if none of such a group is applied, nothing changes in it.

pub mod member;

mod client;
mod commit;
mod connection;
mod fault;
mod fresh;
mod group;
mod line;
mod maintenance;
mod members;
mod outlook;
mod reach;
mod read;
mod room;
mod slots;
mod tls;
mod view;
mod watch;
mod wire;

use std::{
    sync::{Arc, Weak, atomic::AtomicU64, atomic::AtomicUsize, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use dtr_store::{
    At, Expect, KeyValue, LeaseId, Limits, Outcome, Page, Range, Status, Store, StoreError,
    Transaction, Watcher, together,
};
use dtr_types::{Random, Revision, SystemRandom};

use client::{Client, KeepAlive};
pub use connection::Timing;
use fault::Fault;
use fresh::Fresh;
use group::Groups;
pub use maintenance::{AdminError, Alarm, AlarmKind, Maintenance, MemberStatus, SnapshotStatus};
pub use members::{MemberFacts, Members};
pub use reach::{Reach, reach};
use slots::Slots;
pub use tls::Tls;
pub use view::ViewStatus;
use view::{Following, Index, View};
use watch::Feeds;

/// The longest prefix, in bytes.
pub const PREFIX_BYTES_MAX: usize = 64;
/// What etcd accepts unless its members are started otherwise.
const REQUEST_BYTES_USUAL: usize = 1_572_864;
const TXN_OPERATIONS_USUAL: usize = 128;
/// Room of the view unless it is set.
const VIEW_BYTES_USUAL: usize = 64 << 20;
/// What a transaction may need beyond its keys and values: the conditions, the slot, the encoding.
const REQUEST_BYTES_KEPT: usize = 32 * 1024;
/// More puts in one transaction would make those who wait behind it wait too long.
const LOAD_KEYS_MAX: usize = 1_000;

/// Why a store cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No endpoint was given.
    #[error("no endpoint of etcd was given: give at least one, such as https://10.0.0.1:2379")]
    NoEndpoints,
    /// An endpoint that cannot be one.
    #[error("\"{url}\" is no endpoint of etcd: {why}; give one such as https://10.0.0.1:2379")]
    Endpoint {
        /// As it was given.
        url: String,
        /// What is wrong.
        why: String,
    },
    /// Certificates or a key that cannot be used.
    #[error("{what} cannot be used to connect to etcd: {why}")]
    Certificate {
        /// Which.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
    /// Any other option that makes no sense.
    #[error("the etcd store cannot be set up: {0}")]
    Option(&'static str),
    /// The members do not answer, or not as they must.
    #[error("etcd cannot be used: {0}")]
    Unusable(#[from] StoreError),
}

/// How a store is set up.
#[derive(Clone)]
pub struct Options {
    /// The members' client URLs, `https://host:port`. The first that answers is used; the others when it fails.
    pub endpoints: Vec<String>,
    /// Certificates.
    pub tls: Tls,
    /// What comes before each of our keys, at most [`PREFIX_BYTES_MAX`] bytes: so that several stores share an etcd.
    pub prefix: String,
    /// The name of this client among those of the store: letters, digits, `-`, `_`, `.`. One process at a time may use a
    /// name. Empty: a random one, which leaves its slots (some 60 bytes for each commit that was ever in flight beside
    /// others) in etcd.
    pub session: String,
    /// The etcd cluster's number, if it is known: another one is refused. Else that of the first connection is kept to.
    pub cluster_id: Option<u64>,
    /// How long things may take.
    pub timing: Timing,
    /// The members' `--max-request-bytes`.
    pub request_bytes_max: usize,
    /// The members' `--max-txn-ops`. A transaction of the store has up to half as many operations: the rest is for
    /// telling what became of it.
    pub txn_operations_max: usize,
    /// Room for what was read lately, in bytes, so that it need not be read again; 0 for none. See [`EtcdStore::view`].
    pub view_bytes_max: usize,
    /// Names and tags are made of it.
    pub random: Arc<dyn Random>,
}

impl Options {
    /// As etcd is when nobody has configured it.
    pub fn new(endpoints: Vec<String>, tls: Tls) -> Self {
        Self {
            endpoints,
            tls,
            prefix: "dtr/".to_owned(),
            session: String::new(),
            cluster_id: None,
            timing: Timing::default(),
            request_bytes_max: REQUEST_BYTES_USUAL,
            txn_operations_max: TXN_OPERATIONS_USUAL,
            view_bytes_max: VIEW_BYTES_USUAL,
            random: Arc::new(SystemRandom),
        }
    }

    fn limits(&self) -> Result<Limits, ConnectError> {
        let usual = Limits::default();
        if self.prefix.len() > PREFIX_BYTES_MAX {
            return Err(ConnectError::Option("its prefix is longer than 64 bytes"));
        }
        if self.txn_operations_max < 8 || self.request_bytes_max < 4 * REQUEST_BYTES_KEPT {
            return Err(ConnectError::Option(
                "etcd must accept at least 8 operations in a transaction and requests of 128 KiB",
            ));
        }
        let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if self.session.len() > PREFIX_BYTES_MAX || !self.session.chars().all(good) {
            return Err(ConnectError::Option(
                "a session's name has up to 64 letters, digits, \"-\", \"_\" and \".\"",
            ));
        }
        let transaction_bytes_max = self.request_bytes_max - REQUEST_BYTES_KEPT;
        Ok(Limits {
            operations_max: (self.txn_operations_max / 2 - 1).min(usual.operations_max),
            // Beside them, the slot.
            load_keys_max: (self.txn_operations_max - 1).min(LOAD_KEYS_MAX),
            transaction_bytes_max,
            value_bytes_max: usual.value_bytes_max.min(transaction_bytes_max - REQUEST_BYTES_KEPT),
            ..usual
        })
    }
}

/// The engine. It connects when it is first needed and ends its watches when it is dropped.
pub struct EtcdStore {
    client: Arc<Client>,
    slots: Arc<Slots>,
    groups: Groups,
    room: room::Room,
    limits: Limits,
    request_bytes_max: usize,
    txn_operations_max: usize,
    random: Arc<dyn Random>,
    keys: Keys,
    /// The oldest revision that can be read, as far as this client knows; 0 when it does not.
    floor: Arc<AtomicU64>,
    /// How many items fitted into a page lately.
    page_hint: AtomicUsize,
    index: Index,
    view: View,
    fresh: Fresh,
    feeds: Feeds,
    /// Closed with the store.
    open: tokio::sync::watch::Sender<()>,
    /// For what goes on when the caller has gone.
    me: Weak<Self>,
}

/// Where the keys of the store are in etcd.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    prefix: Bytes,
    sessions: Bytes,
}

impl Keys {
    fn new(prefix: &str) -> Self {
        Self {
            prefix: format!("{prefix}k").into_bytes().into(),
            sessions: format!("{prefix}s").into_bytes().into(),
        }
    }

    /// Our key as etcd's.
    pub(crate) fn outside(&self, key: &[u8]) -> Bytes {
        [&self.prefix[..], key].concat().into()
    }

    /// The end of a range as etcd's; the prefix ends in a letter, so there is always one.
    pub(crate) fn end_outside(&self, end: &[u8]) -> Bytes {
        if end.is_empty() { dtr_store::prefix_end(&self.prefix) } else { self.outside(end) }
    }

    /// etcd's key and value as ours. Copied: what came in a page would else keep the whole page in memory.
    pub(crate) fn inside(&self, kv: &wire::KeyValue) -> KeyValue {
        let number = |n: i64| u64::try_from(n).unwrap_or(0);
        KeyValue {
            key: Bytes::copy_from_slice(kv.key.get(self.prefix.len()..).unwrap_or_default()),
            value: Bytes::copy_from_slice(&kv.value),
            created: Revision(number(kv.create_revision)),
            modified: Revision(number(kv.mod_revision)),
            version: number(kv.version),
            lease: (kv.lease != 0).then_some(LeaseId(kv.lease)),
        }
    }

    /// All that is ours: from, to.
    pub(crate) fn all(&self) -> (Bytes, Bytes) {
        let from = self.prefix.slice(..self.prefix.len() - 1);
        let to = dtr_store::prefix_end(&from);
        // To etcd, a zero byte is the first key, and as an end it is behind the last.
        let zero = Bytes::from_static(b"\0");
        match from.is_empty() {
            true => (zero.clone(), zero),
            false => (from, to),
        }
    }

    /// Whether it is a key of the store.
    pub(crate) fn is_key(&self, kv: &wire::KeyValue) -> bool {
        kv.key.starts_with(&self.prefix)
    }

    fn session(&self, name: &str) -> Bytes {
        [&self.sessions[..], name.as_bytes(), b"/"].concat().into()
    }
}

impl EtcdStore {
    /// Sets up a store; nothing is connected yet. See [`EtcdStore::ready`].
    ///
    /// # Errors
    /// When an option cannot be used.
    pub fn new(options: &Options) -> Result<Arc<Self>, ConnectError> {
        let limits = options.limits()?;
        let keys = Keys::new(&options.prefix);
        let session = match options.session.as_str() {
            "" => {
                let mut bytes = [0; 8];
                options.random.fill(&mut bytes);
                bytes.iter().map(|byte| format!("{byte:02x}")).collect()
            }
            name => name.to_owned(),
        };
        let client = Client::new(options)?;
        let (floor, open) = (Arc::<AtomicU64>::default(), tokio::sync::watch::Sender::new(()));
        let feeds = Feeds {
            client: client.clone(),
            keys: keys.clone(),
            floor: floor.clone(),
            begun: Arc::default(),
            open: open.subscribe(),
        };
        Ok(Arc::new_cyclic(|me| Self {
            me: me.clone(),
            groups: Groups::default(),
            room: room::Room::default(),
            index: Index::new(client.clone(), keys.clone()),
            view: View::new(options.view_bytes_max),
            fresh: Fresh::new(),
            feeds,
            client,
            slots: Slots::new(keys.session(&session), &*options.random),
            limits,
            request_bytes_max: options.request_bytes_max,
            txn_operations_max: options.txn_operations_max,
            random: options.random.clone(),
            keys,
            floor,
            page_hint: AtomicUsize::new(0),
            open,
        }))
    }

    /// Sets up a store, waits until a majority answers, at most for `limit`, and finds out whether the members accept what
    /// the options say they do.
    ///
    /// # Errors
    /// When an option cannot be used, nobody answers in time, or the members accept less.
    pub async fn connect(options: &Options, limit: Duration) -> Result<Arc<Self>, ConnectError> {
        let store = Self::new(options)?;
        store.ready(limit).await?;
        store.verify_limits().await?;
        Ok(store)
    }

    /// Waits until a majority answers, at most for `limit`.
    ///
    /// # Errors
    /// The last reason why it did not.
    pub async fn ready(&self, limit: Duration) -> Result<Revision, StoreError> {
        let end = tokio::time::Instant::now() + limit;
        loop {
            match self.revision().await {
                Err(StoreError::Unavailable { .. }) if tokio::time::Instant::now() < end => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                answer => return answer,
            }
        }
    }

    /// Uses other certificates from the next connection on; watches go on with theirs until they break.
    ///
    /// # Errors
    /// When they cannot be used; then the old ones stay.
    pub fn set_tls(&self, tls: &Tls) -> Result<(), ConnectError> {
        self.client.set_tls(tls)
    }

    /// Asks these endpoints from here on, the first of them first: members have come or gone.
    ///
    /// # Errors
    /// When one cannot be an endpoint, or there is none; then the old ones stay.
    pub fn set_endpoints(&self, urls: &[String]) -> Result<(), ConnectError> {
        self.client.set_endpoints(urls)
    }

    /// The number of the etcd cluster that this store is in, once it was connected.
    pub fn cluster_id(&self) -> Option<u64> {
        self.client.cluster()
    }

    /// Finds out whether the members accept what [`Options`] says they do, with a transaction that reads as often as it may,
    /// and one as large as it may be that changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] or [`StoreError::TooLarge`] when they accept less.
    pub async fn verify_limits(&self) -> Result<(), StoreError> {
        let operations = self.probe_operations(self.txn_operations_max);
        self.client.call::<_, wire::TxnResponse>(wire::method::TXN, operations).await?;
        let (request, size) = self.probe_size();
        let answer = self.client.call::<_, wire::TxnResponse>(wire::method::TXN, request).await;
        answer.map(drop).map_err(|fault| self.refusal(fault, size))
    }

    /// For looking after the members' files and alarms.
    pub fn maintenance(&self) -> Maintenance {
        Maintenance::new(self.client.clone(), self.keys.clone())
    }

    /// For changing who is a member.
    pub fn members(&self) -> Members {
        Members::new(self.client.clone())
    }

    /// How the view does: what was read lately, kept up to date by a watch, from which reads of the latest state are answered
    /// after one question to etcd that all who read at a time share.
    pub fn view(&self) -> ViewStatus {
        ViewStatus { asked: self.index.asked(), ..self.view.status() }
    }

    fn following(&self) -> Following {
        Following {
            client: self.client.clone(),
            slots: self.slots.clone(),
            index: self.index.clone(),
            feeds: self.feeds.clone(),
            closed: self.open.subscribe(),
        }
    }

    /// Settles what is in doubt, before anything is said about the latest state; see `slots`.
    async fn settle(&self) -> Result<(), StoreError> {
        if !self.slots.in_doubt() {
            return Ok(());
        }
        let _one = self.slots.settling.lock().await;
        while let Some(doubt) = self.slots.doubt() {
            match commit::fence(&self.client, &self.slots, &doubt).await {
                Ok(fenced) => {
                    // Before anybody may read on.
                    self.fresh.doubted();
                    self.slots.settled(&doubt, fenced.modified());
                }
                Err(fault) => {
                    let StoreError::Unavailable { reason } = fault.into() else {
                        return Err(StoreError::Unavailable { reason: "etcd is full".to_owned() });
                    };
                    let reason =
                        format!("what became of an earlier commit cannot be settled yet: {reason}");
                    return Err(StoreError::Unavailable { reason });
                }
            }
        }
        Ok(())
    }
}

#[async_trait::async_trait]
impl Store for EtcdStore {
    fn limits(&self) -> Limits {
        self.limits
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        if together::is_as_known() {
            return self.known_revision().await;
        }
        self.settle().await?;
        self.latest().await.map_err(StoreError::from)
    }

    async fn get(&self, key: &[u8], at: At) -> Result<Option<KeyValue>, StoreError> {
        self.read_one(key, at).await
    }

    async fn range(&self, range: Range) -> Result<Page, StoreError> {
        self.read_page(range).await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        self.transact(transaction).await
    }

    async fn load(&self, puts: Vec<(Bytes, Bytes)>) -> Result<(), StoreError> {
        self.fill(puts).await
    }

    async fn watch(&self, start: &[u8], end: &[u8], from: Revision) -> Result<Watcher, StoreError> {
        self.feeds.begin(start, end, from).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        let latest = self.revision().await?;
        if revision > latest {
            return Err(StoreError::Future { asked: revision, latest });
        }
        // One less than asked for: see `read` for why.
        if revision.0 > 1 {
            self.client.compact(Revision(revision.0 - 1), false).await?;
            self.floor.fetch_max(revision.0, Ordering::AcqRel);
        }
        Ok(())
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let ttl = i64::try_from(ttl.as_millis().div_ceil(1000)).unwrap_or(i64::MAX).max(1);
        // The number is ours, so that granting may be tried again when the answer was lost.
        let mut bytes = [0; 8];
        self.random.fill(&mut bytes);
        let id = (i64::from_be_bytes(bytes) & i64::MAX).max(1);
        let request = wire::LeaseGrantRequest { ttl, id };
        match self.client.call::<_, wire::LeaseResponse>(wire::method::LEASE_GRANT, request).await {
            Ok(_) | Err(Fault::LeaseExists) => Ok(LeaseId(id)),
            Err(fault) => Err(fault.into()),
        }
    }

    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        let answer = self.client.run(&KeepAlive(lease.0), true, self.client.deadline()).await?;
        if answer.ttl > 0 { Ok(()) } else { Err(StoreError::LeaseNotFound) }
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        let answer = std::marker::PhantomData::<fn() -> wire::HeaderOnly>;
        let (method, message) = (wire::method::LEASE_REVOKE, wire::LeaseRequest { id: lease.0 });
        let call = client::Unary { method, message, leader: true, answer };
        let deadline = self.client.deadline();
        let revoked = match self.client.run(&call, false, deadline).await {
            Ok(_) => Ok(()),
            // It may have been revoked: then it is not there any more, and that is what was asked for.
            Err(Fault::Doubt(_)) => match self.client.run(&call, true, deadline).await {
                Ok(_) | Err(Fault::LeaseNotFound) => Ok(()),
                Err(fault) => Err(fault.into()),
            },
            Err(fault) => Err(fault.into()),
        };
        // Its keys are gone, at a revision that the answer does not tell.
        self.fresh.doubted();
        revoked
    }

    fn expect(&self, prefix: &[u8], what: Expect) {
        self.view.expect(prefix, what);
    }

    async fn prefetch(&self, keys: &[Bytes]) {
        if let Err(error) = self.read_ahead(keys).await {
            tracing::debug!(%error, "what is about to be read was not read together");
        }
    }

    async fn status(&self) -> Result<Status, StoreError> {
        let revision = self.revision().await?;
        let compacted = match together::is_as_known() {
            true => Revision(self.floor.load(Ordering::Acquire).max(1)),
            false => self.oldest().await?,
        };
        let size_bytes = self.maintenance().size_bytes().await?;
        Ok(Status {
            engine: "etcd",
            revision,
            compacted: compacted.min(revision),
            size_bytes,
            full: self.full(),
        })
    }
}
