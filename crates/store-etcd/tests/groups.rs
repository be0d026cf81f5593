//! Commits that are sent together: each has its own outcome, none is lost or applied twice, whatever happens to the answers.

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use dtr_store::{At, Outcome, Store as _, StoreError, Transaction, model_test::Dice};
use dtr_store_etcd::EtcdStore;
use dtr_types::Revision;
use support::{Etcd, PATIENCE, open, proxy::Proxy, until};

const TASKS: u64 = 24;

fn own(task: u64) -> String {
    format!("own/{task:02}")
}

/// Reads a counter until there is an answer; it and when it was put.
async fn read(store: &EtcdStore, key: &str) -> (u64, Revision) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match store.get(key.as_bytes(), At::Latest).await {
            Ok(found) => {
                let found = found.expect("is there");
                let text = std::str::from_utf8(&found.value).expect("text");
                return (text.parse().expect("a number"), found.modified);
            }
            Err(StoreError::Unavailable { .. }) if tokio::time::Instant::now() < deadline => {
                // poll: whether the store answers again.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Err(error) => panic!("{key}: {error}"),
        }
    }
}

/// What the tasks count together.
#[derive(Default)]
struct Done {
    commits: AtomicU64,
    shared: AtomicU64,
    unknown: AtomicU64,
}

/// Counts a key of its own up, each time on the condition that it is as the last time, and now and then one that all share.
async fn count(store: Arc<EtcdStore>, task: u64, until: u64, done: Arc<Done>) {
    let mut dice = Dice::new(task);
    let key = own(task);
    let (mut number, mut modified) = read(&store, &key).await;
    while number < until {
        let next = number + 1;
        let mut transaction = Transaction::new()
            .if_modified_at(key.clone(), modified)
            .if_present("all")
            .put(key.clone(), next.to_string())
            .put(format!("trace/{task:02}/{next:04}"), "");
        let shared = dice.below(6) == 0;
        if shared {
            let (count, at) = read(&store, "shared").await;
            transaction =
                transaction.if_modified_at("shared", at).put("shared", (count + 1).to_string());
        }
        match store.commit(transaction).await {
            Ok(Outcome::Committed(revision)) => {
                let then = store.get(key.as_bytes(), At::Revision(revision)).await;
                if let Ok(then) = then {
                    let then = then.expect("is there at its revision");
                    assert_eq!(
                        (&then.value[..], then.modified),
                        (next.to_string().as_bytes(), revision)
                    );
                }
                (number, modified) = (next, revision);
                done.commits.fetch_add(1, Ordering::Relaxed);
                done.shared.fetch_add(u64::from(shared), Ordering::Relaxed);
            }
            Ok(Outcome::Conflict { condition, .. }) => {
                assert!(shared && condition == 2, "{key} at {number}: condition {condition}");
                assert_eq!(
                    read(&store, &key).await,
                    (number, modified),
                    "refused, and not applied"
                );
            }
            Err(StoreError::Unavailable { .. }) => {
                assert_eq!(read(&store, &key).await, (number, modified), "not applied, ever");
            }
            Err(StoreError::Unknown { .. }) => {
                done.unknown.fetch_add(1, Ordering::Relaxed);
                let (found, at) = read(&store, &key).await;
                assert!(found == number || found == next, "{key}: {found} after {number}");
                if found == next {
                    done.shared.fetch_add(u64::from(shared), Ordering::Relaxed);
                }
                (number, modified) = (found, at);
            }
            Err(error) => panic!("{key}: {error}"),
        }
    }
}

async fn prepare(store: &EtcdStore) -> Revision {
    let counters = (0..TASKS).fold(Transaction::new(), |t, task| t.put(own(task), "0"));
    let made = store.commit(counters.put("shared", "0").put("all", "")).await;
    made.expect("an answer").committed().expect("is committed")
}

async fn run(store: &Arc<EtcdStore>, until: u64, done: &Arc<Done>) {
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| tokio::spawn(count(store.clone(), task, until, done.clone())))
        .collect();
    for task in tasks {
        task.await.expect("all holds");
    }
    for task in 0..TASKS {
        assert_eq!(read(store, &own(task)).await.0, until);
    }
    assert_eq!(read(store, "shared").await.0, done.shared.load(Ordering::Relaxed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_a_group_has_its_own_outcome() {
    let etcd = Etcd::start().await;
    let store = etcd.store().await;
    let before = prepare(&store).await;
    let done = Arc::<Done>::default();
    run(&store, 25, &done).await;
    let commits = done.commits.load(Ordering::Relaxed);
    let revisions = store.revision().await.expect("a revision").0 - before.0;
    assert_eq!(commits, TASKS * 25);
    assert!(revisions < commits / 2, "{revisions} revisions for {commits} commits");
}

/// The traffic is cut off again and again, and etcd is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_became_of_each_is_settled_when_answers_are_lost() {
    for seed in 0..3 {
        let etcd = Etcd::start().await;
        let proxy = Proxy::to(etcd.address()).await;
        let mut options = etcd.options();
        options.endpoints = vec![proxy.url()];
        options.timing.attempt = Duration::from_millis(700);
        options.timing.call = Duration::from_millis(3000);
        let store = open(&options).await;
        prepare(&store).await;
        let (stop, done) = (AtomicBool::new(false), Arc::<Done>::default());
        let commits = || done.commits.load(Ordering::Relaxed);
        let faults = async {
            let (mut dice, mut faults) = (Dice::new(seed), 0);
            while !stop.load(Ordering::Relaxed) {
                match dice.below(8) {
                    0 => etcd.kill(),
                    _ => proxy.cut_after(dice.below(40_000) as i64),
                }
                // Until it has had its effect, or all is done.
                let cuts = proxy.cuts();
                let mut looks = 0;
                until("a fault", async || {
                    looks += 1;
                    looks > 10 || proxy.cuts() > cuts || stop.load(Ordering::Relaxed)
                })
                .await;
                proxy.heal();
                faults += 1;
                let before = commits();
                let on = async || commits() > before + TASKS / 2 || stop.load(Ordering::Relaxed);
                until("commits again", on).await;
            }
            faults
        };
        let work = async {
            run(&store, 60, &done).await;
            stop.store(true, Ordering::Relaxed);
        };
        let (faults, ()) = tokio::join!(faults, work);
        println!(
            "seed {seed}: {faults} faults, {} commits, {} unknown",
            commits(),
            done.unknown.load(Ordering::Relaxed)
        );
        assert!(faults > 3, "it ended before anything happened");
    }
}
