//! The engine against the model: answers lost, connections cut, and etcd killed or frozen at any moment.
//!
//! `DTR_ETCD_SEEDS` sets how many seeds each test runs, `DTR_ETCD_STEPS` how long each is.

mod support;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use dtr_store::{
    At, KeyValue, LeaseId, Limits, Outcome, Page, Range, SharedStore, Status, Store, StoreError,
    Transaction, Watcher,
    model_test::{Dice, Rig, run},
};
use dtr_store_etcd::EtcdStore;
use dtr_types::Revision;
use rustix::process::Signal;
use support::{Etcd, PATIENCE, open, proxy::Proxy};
use tokio::task::JoinHandle;

/// The engine with leases that end when the test says so: in real time they would end in the middle of anything.
struct Leased {
    inner: Arc<EtcdStore>,
    granted: std::sync::Mutex<Vec<LeaseId>>,
}

#[async_trait::async_trait]
impl Store for Leased {
    fn limits(&self) -> Limits {
        self.inner.limits()
    }
    async fn revision(&self) -> Result<Revision, StoreError> {
        self.inner.revision().await
    }
    async fn get(&self, key: &[u8], at: At) -> Result<Option<KeyValue>, StoreError> {
        self.inner.get(key, at).await
    }
    async fn range(&self, range: Range) -> Result<Page, StoreError> {
        self.inner.range(range).await
    }
    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        self.inner.commit(transaction).await
    }
    async fn load(&self, puts: Vec<(Bytes, Bytes)>) -> Result<(), StoreError> {
        self.inner.load(puts).await
    }
    async fn watch(&self, start: &[u8], end: &[u8], from: Revision) -> Result<Watcher, StoreError> {
        self.inner.watch(start, end, from).await
    }
    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.inner.compact(revision).await
    }
    async fn lease_grant(&self, _: Duration) -> Result<LeaseId, StoreError> {
        let lease = self.inner.lease_grant(Duration::from_secs(3600)).await?;
        self.granted.lock().expect("nobody panics here").push(lease);
        Ok(lease)
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

struct Real {
    etcd: Etcd,
    proxy: Proxy,
    store: Arc<Leased>,
    failing: Option<JoinHandle<()>>,
}

impl Real {
    async fn start(view_bytes_max: usize) -> Self {
        let etcd = Etcd::start().await;
        let proxy = Proxy::to(etcd.address()).await;
        let mut options = etcd.options();
        options.endpoints = vec![proxy.url()];
        options.view_bytes_max = view_bytes_max;
        options.timing.attempt = Duration::from_millis(700);
        options.timing.call = Duration::from_millis(1500);
        let inner = open(&options).await;
        let store = Arc::new(Leased { inner, granted: std::sync::Mutex::default() });
        Self { etcd, proxy, store, failing: None }
    }
}

#[async_trait::async_trait]
impl Rig for Real {
    fn store(&self) -> SharedStore {
        self.store.clone()
    }

    fn arm(&mut self, random: u64) {
        let mut dice = Dice::new(random);
        let after = Duration::from_micros(dice.below(15_000));
        let pid = self.etcd.member.pid().and_then(|pid| i32::try_from(pid).ok());
        let signal = match dice.below(10) {
            0..6 => {
                self.proxy.cut_after(dice.below(6_000) as i64);
                return;
            }
            6..9 => Signal::KILL,
            _ => Signal::STOP,
        };
        self.failing = Some(tokio::spawn(async move {
            tokio::time::sleep_until(tokio::time::Instant::now() + after).await;
            if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, signal);
            }
        }));
    }

    async fn recover(&mut self, _: u64) {
        if let Some(failing) = self.failing.take() {
            failing.await.expect("no panic");
        }
        support::send(&self.etcd.member, Signal::CONT);
        self.proxy.heal();
        self.store.inner.ready(PATIENCE).await.expect("comes back by itself");
    }

    async fn pass(&mut self, _: Duration) {
        let granted = std::mem::take(&mut *self.store.granted.lock().expect("nobody panics here"));
        for lease in granted {
            match self.store.inner.lease_revoke(lease).await {
                Ok(()) | Err(StoreError::LeaseNotFound) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn skips_revisions(&self) -> bool {
        true
    }
}

fn setting<T: std::str::FromStr>(text: &str, usual: T) -> T {
    text.parse().unwrap_or(usual)
}

async fn seeds(from: u64, count: u64, view_bytes_max: usize) {
    let steps = setting(&std::env::var("DTR_ETCD_STEPS").unwrap_or_default(), 100);
    let more = std::env::var("DTR_ETCD_SEEDS").unwrap_or_default();
    let count = setting(&more, count);
    for seed in from..from + count {
        run(&mut Real::start(view_bytes_max).await, seed, steps).await;
    }
}

/// Room for some of what the model has, so that the view both answers and forgets.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agrees_with_the_model() {
    seeds(1_000, 1, 32 * 1024).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agrees_with_the_model_without_a_view() {
    seeds(2_000, 1, 0).await;
}
