//! How many reads and commits a second, over one member and over three: what it prints is for the notes.
//!
//! `cargo run --release -p dtr-store-etcd --example rates -- [SECONDS]`, with `DTR_ETCD_DIR` for members whose data shall be
//! on a certain disk instead of in memory.

#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use dtr_store::{At, Store as _, Transaction, model_test::Dice};
use dtr_store_etcd::{EtcdStore, Options};
use support::{Etcd, Three, open};

const KEYS: u64 = 10_000;
const TASKS: u64 = 64;

fn key(n: u64) -> String {
    format!("tag/{n:08}")
}

async fn fill(store: &EtcdStore) {
    for part in 0..KEYS / 100 {
        let key = |n| (key(part * 100 + n).into(), vec![b'v'; 300].into());
        store.load((0..100).map(key).collect()).await.expect("is loaded");
    }
    store.finish_load().await.expect("is loaded");
}

/// What many tasks do a second, and the 99th percentile of one.
async fn rate(seconds: u64, tasks: u64, one: impl AsyncDo) -> (f64, Duration) {
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let began = Instant::now();
    let running: Vec<_> = (0..tasks)
        .map(|task| {
            let (stop, count, one) = (stop.clone(), count.clone(), one.clone());
            tokio::spawn(async move {
                let (mut dice, mut times) = (Dice::new(task), Vec::new());
                while !stop.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    one.run(task, dice.number()).await;
                    times.push(began.elapsed());
                    count.fetch_add(1, Ordering::Relaxed);
                }
                times
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    stop.store(true, Ordering::Relaxed);
    let rate = count.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64();
    let mut times = Vec::new();
    for task in running {
        times.extend(task.await.expect("the task ends"));
    }
    times.sort_unstable();
    (rate, times.get(times.len() * 99 / 100).copied().unwrap_or_default())
}

trait AsyncDo: Clone + Send + 'static {
    fn run(&self, task: u64, random: u64) -> impl Future<Output = ()> + Send;
}

#[derive(Clone)]
struct Get(Arc<EtcdStore>);

impl AsyncDo for Get {
    async fn run(&self, _: u64, random: u64) {
        let found = self.0.get(key(random % KEYS).as_bytes(), At::Latest).await;
        assert!(found.expect("an answer").is_some());
    }
}

#[derive(Clone)]
struct Put(Arc<EtcdStore>);

impl AsyncDo for Put {
    async fn run(&self, task: u64, random: u64) {
        let key = key(KEYS + task * 1_000 + random % 1_000);
        let put = Transaction::new().put(key, vec![b'w'; 300]);
        self.0.commit(put).await.expect("an answer").committed().expect("is committed");
    }
}

async fn measure(what: &str, options: &Options, seconds: u64) {
    let store = open(options).await;
    fill(&store).await;
    let mut plain = options.clone();
    plain.view_bytes_max = 0;
    let plain = open(&plain).await;
    let tell = |name: &str, (rate, slow): (f64, Duration)| {
        println!("{what}: {name}: {rate:.0}/s, p99 {:.2} ms", slow.as_secs_f64() * 1e3);
    };
    tell("gets, 64 readers, plain ranges", rate(seconds, TASKS, Get(plain.clone())).await);
    // Once, so that all is known.
    let _ = rate(seconds.min(5), TASKS, Get(store.clone())).await;
    tell("gets, 64 readers, view", rate(seconds, TASKS, Get(store.clone())).await);
    tell("gets, 1 reader, plain ranges", rate(seconds, 1, Get(plain.clone())).await);
    tell("gets, 1 reader, view", rate(seconds, 1, Get(store.clone())).await);
    tell("commits, 64 writers", rate(seconds, TASKS, Put(store.clone())).await);
    for (name, reader) in [("plain ranges", &plain), ("view", &store)] {
        let writing = tokio::spawn(rate(seconds, 16, Put(store.clone())));
        let read = rate(seconds, TASKS, Get(reader.clone())).await;
        tell(&format!("gets, 64 readers beside 16 writers, {name}"), read);
        tell(&format!("  the writers, beside {name}"), writing.await.expect("the task ends"));
    }
    println!("{what}: {:?}", store.view());
}

#[tokio::main]
async fn main() {
    let seconds = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(5);
    let one = Etcd::start().await;
    measure("one member", &one.options(), seconds).await;
    drop(one);
    let three = Three::start().await;
    measure("three members", &three.options(), seconds).await;
}
