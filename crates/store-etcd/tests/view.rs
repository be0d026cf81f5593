//! Reads that are answered from the view are as good as those by etcd: with several clients, lost connections, compactions,
//! other stores in the same etcd, and too little room.

mod support;

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use bytes::Bytes;
use dtr_store::{
    At, Expect, Range, Store as _, StoreError, StoreExt as _, Transaction, model_test::Dice,
    prefix_end, together, together::TOGETHER_MAX,
};
use dtr_store_etcd::EtcdStore;
use support::{Etcd, must_put, open, proxy::Proxy, put, until};

const KEYS: usize = 8;

async fn number(store: &EtcdStore, key: &str) -> Result<u64, StoreError> {
    let found = store.get(key.as_bytes(), At::Latest).await?;
    Ok(found.map_or(0, |kv| text(&kv.value)))
}

fn text(value: &[u8]) -> u64 {
    std::str::from_utf8(value).expect("a number").parse().expect("a number")
}

/// One writer a key counts up, through one client; readers of other clients never see less than what was acknowledged
/// before they asked, in single keys and in pages, while their connections are cut.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_old_is_read() {
    let etcd = Etcd::start().await;
    let acknowledged: Arc<[AtomicU64; KEYS]> = Arc::default();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = etcd.store().await;
    let mut tasks = Vec::new();
    for n in 0..KEYS {
        let (writer, acknowledged, stop) = (writer.clone(), acknowledged.clone(), stop.clone());
        tasks.push(tokio::spawn(async move {
            let mut count = 0_u64;
            while !stop.load(Ordering::SeqCst) {
                count += 1;
                must_put(&writer, &format!("k/{n}"), &count.to_string()).await;
                acknowledged[n].store(count, Ordering::SeqCst);
            }
        }));
    }
    let mut readers = Vec::new();
    for seed in 0..2 {
        let proxy = Proxy::to(etcd.address()).await;
        let mut options = etcd.options();
        options.endpoints = vec![proxy.url()];
        let store = open(&options).await;
        readers.push(store.clone());
        let reads = Arc::new(AtomicU64::new(0));
        for _ in 0..4 {
            let (store, acknowledged) = (store.clone(), acknowledged.clone());
            let (stop, reads) = (stop.clone(), reads.clone());
            tasks.push(tokio::spawn(async move {
                let mut dice = Dice::new(seed);
                while !stop.load(Ordering::SeqCst) {
                    let n = dice.below(KEYS as u64) as usize;
                    let known: Vec<_> =
                        acknowledged.iter().map(|a| a.load(Ordering::SeqCst)).collect();
                    if dice.below(4) > 0 {
                        let Ok(found) = number(&store, &format!("k/{n}")).await else { continue };
                        assert!(found >= known[n], "{found} after {}", known[n]);
                    } else {
                        let page = store.page(b"k/", None, 0, false, At::Latest).await;
                        let Ok(page) = page else { continue };
                        for kv in &page.items {
                            let n = usize::from(kv.key[2] - b'0');
                            assert!(text(&kv.value) >= known[n], "{kv:?} after {}", known[n]);
                            assert!(kv.modified <= page.revision, "{kv:?} in {}", page.revision);
                        }
                    }
                    reads.fetch_add(1, Ordering::SeqCst);
                }
            }));
        }
        // Cut again and again, each time after some reads.
        for round in 1..=3 {
            let target = reads.load(Ordering::SeqCst) + 100;
            until("reads", async || reads.load(Ordering::SeqCst) >= target).await;
            proxy.cut_after((round * 1_000) as i64);
        }
    }
    stop.store(true, Ordering::SeqCst);
    for task in tasks {
        task.await.expect("no reader saw the past");
    }
    for reader in readers {
        assert!(reader.view().answered > 50, "{:?}", reader.view());
    }
}

/// Reads that belong together ask once, and yet see what this process has committed meanwhile, also in another task, what a
/// conflict tells of, and what was acknowledged to anybody before the first of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn together_is_as_good_as_one_by_one() {
    let etcd = Etcd::start().await;
    let (store, other) = (etcd.store().await, etcd.store().await);
    until("the view to follow", async || {
        number(&store, "k").await.is_ok() && store.view().answered > 0
    })
    .await;
    for round in 1..200_u64 {
        must_put(&other, "theirs", &round.to_string()).await;
        together(async {
            assert_eq!(number(&store, "theirs").await.ok(), Some(round));
            let (mine, at) = (store.clone(), round.to_string());
            tokio::spawn(async move { must_put(&mine, "mine", &at).await }).await.expect("is put");
            assert_eq!(
                number(&store, "mine").await.ok(),
                Some(round),
                "committed by a task of its own"
            );
            let found =
                store.get(b"theirs", At::Latest).await.expect("an answer").expect("is there");
            must_put(&other, "theirs", &(round + 1000).to_string()).await;
            let late =
                Transaction::new().if_modified_at("theirs", found.modified).put("theirs", "0");
            let outcome = store.commit(late).await.expect("an answer");
            assert!(outcome.committed().is_none(), "{outcome:?}");
            let theirs = number(&store, "theirs").await.ok();
            assert_eq!(theirs, Some(round + 1000), "after a conflict");
        })
        .await;
    }
}

/// However much is read by one request, it asks once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn together_asks_once() {
    let etcd = Etcd::start().await;
    let store = etcd.store().await;
    must_put(&store, "k", "1").await;
    until("the view to follow", async || {
        number(&store, "k").await.is_ok() && store.view().answered > 0
    })
    .await;
    let before = store.view();
    let reads = together(async {
        let (began, mut reads) = (std::time::Instant::now(), 0);
        while began.elapsed() < TOGETHER_MAX / 5 {
            assert_eq!(number(&store, "k").await.ok(), Some(1));
            reads += 1;
        }
        reads
    })
    .await;
    let after = store.view();
    assert_eq!((after.asked, after.answered), (before.asked + 1, before.answered + reads));
    assert_eq!(number(&store, "k").await.ok(), Some(1));
    assert_eq!(store.view().asked, after.asked + 1, "outside of it");
}

/// What is written becomes known to all clients without being read; of prefixes with few keys, all is known after one read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_and_what_is_rare_is_known() {
    let etcd = Etcd::start().await;
    let (store, other) = (etcd.store().await, etcd.store().await);
    store.expect(b"rare/", Expect::Few);
    until("the view to follow", async || {
        number(&store, "k").await.is_ok() && store.view().answered > 0
    })
    .await;
    must_put(&other, "new", "1").await;
    must_put(&other, "rare/7", "7").await;
    let before = store.view().learned;
    assert_eq!(number(&store, "new").await.ok(), Some(1));
    assert_eq!(store.view().learned, before, "what another client wrote");
    assert_eq!(number(&store, "rare/3").await.ok(), Some(0));
    let before = store.view().learned;
    for n in 0..50 {
        let expected = if n == 7 { 7 } else { 0 };
        assert_eq!(number(&store, &format!("rare/{n}")).await.ok(), Some(expected));
    }
    assert_eq!(store.view().learned, before, "all of few");
    must_put(&other, "rare/8", "8").await;
    assert_eq!(number(&store, "rare/8").await.ok(), Some(8));
    // Many after all: one by one.
    for n in 100..400 {
        must_put(&other, &format!("rare/{n}"), &n.to_string()).await;
    }
    let anew = etcd.store().await;
    anew.expect(b"rare/", Expect::Few);
    until("the view to follow", async || {
        number(&anew, "k").await.is_ok() && anew.view().answered > 0
    })
    .await;
    for n in [399, 50, 100] {
        let expected = if n >= 100 { n } else { 0 };
        assert_eq!(number(&anew, &format!("rare/{n}")).await.ok(), Some(expected));
    }
}

/// Once something was read, it is read from the view: keys, absent keys, pages; and changes come through.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_read_is_known() {
    let etcd = Etcd::start().await;
    let store = etcd.store().await;
    for n in 0..10 {
        must_put(&store, &format!("k/{n}"), &n.to_string()).await;
    }
    until("the view to follow", async || {
        number(&store, "k/3").await.is_ok() && store.view().answered > 0
    })
    .await;
    assert_eq!(number(&store, "none").await.ok(), Some(0));
    let all = Range {
        start: Bytes::from("k/"),
        end: prefix_end(b"k/"),
        limit: 0,
        keys_only: false,
        at: At::Latest,
    };
    assert_eq!(store.range(all.clone()).await.expect("a page").items.len(), 10);
    let before = store.view();
    assert_eq!(number(&store, "none").await.ok(), Some(0));
    assert_eq!(number(&store, "k/7").await.ok(), Some(7));
    assert!(store.get(b"k/77", At::Latest).await.expect("an answer").is_none());
    let page = store.range(all.clone()).await.expect("a page");
    let again = store.range(Range { at: page.revision.into(), ..all.clone() }).await;
    assert_eq!(again.expect("a page").items, page.items);
    let after = store.view();
    assert_eq!((after.answered, after.learned), (before.answered + 4, before.learned));
    let other = etcd.store().await;
    let change = Transaction::new().put("none", "5").delete("k/7").put("k/77", "6");
    let changed = other.commit(change).await.expect("an answer").committed().expect("done");
    assert_eq!(number(&store, "none").await.ok(), Some(5));
    assert_eq!(number(&store, "k/7").await.ok(), Some(0));
    let kv = store.get(b"k/77", At::Latest).await.expect("an answer").expect("is there");
    assert_eq!((kv.value, kv.created, kv.version), (Bytes::from("6"), changed, 1));
    let found = store.range(Range { keys_only: true, ..all }).await.expect("a page");
    assert_eq!(found.items.len(), 10);
    assert!(found.items.iter().all(|kv| kv.value.is_empty()));
}

/// Another store in the same etcd makes revisions that the view is not told of: it finds out where it is nevertheless.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_stores_do_not_hold_it_up() {
    let etcd = Etcd::start().await;
    let store = etcd.store().await;
    let mut options = etcd.options();
    options.prefix = "other/".to_owned();
    let other = open(&options).await;
    must_put(&store, "k", "1").await;
    for round in 0..2 {
        must_put(&other, "k", &round.to_string()).await;
        let before = store.view().answered;
        until("an answer from the view", async || {
            assert_eq!(number(&store, "k").await.ok(), Some(1));
            store.view().answered > before
        })
        .await;
    }
}

/// Cut off, and compacted beyond where it was: the view begins anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_whose_past_is_gone_begins_anew() {
    let etcd = Etcd::start().await;
    let proxy = Proxy::to(etcd.address()).await;
    let mut options = etcd.options();
    options.endpoints = vec![proxy.url()];
    let (store, writer) = (open(&options).await, etcd.store().await);
    must_put(&writer, "k", "1").await;
    until("the view to follow", async || {
        assert_eq!(number(&store, "k").await.ok(), Some(1));
        store.view().answered > 0
    })
    .await;
    proxy.refuse(true);
    proxy.cut();
    for n in 2..20 {
        must_put(&writer, "k", &n.to_string()).await;
    }
    let latest = writer.revision().await.expect("a revision");
    writer.compact(latest).await.expect("is compacted");
    assert!(matches!(number(&store, "k").await, Err(StoreError::Unavailable { .. })));
    proxy.heal();
    let before = store.view().answered;
    until("the view to follow again", async || match number(&store, "k").await {
        Ok(found) => {
            assert_eq!(found, 19);
            store.view().answered > before
        }
        Err(_) => false,
    })
    .await;
}

/// With room for a tenth of what is read, everything is read right.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_little_room_is_room_for_some() {
    let etcd = Etcd::start().await;
    let mut options = etcd.options();
    options.view_bytes_max = 16 * 1024;
    let store = open(&options).await;
    for n in 0..400 {
        put(&store, &format!("k/{n:03}"), &n.to_string()).await.expect("is put");
    }
    for _ in 0..2 {
        for n in 0..400 {
            assert_eq!(number(&store, &format!("k/{n:03}")).await.ok(), Some(n));
            assert_eq!(number(&store, "k/000").await.ok(), Some(0));
            assert!(store.view().bytes <= 16 * 1024);
        }
    }
    let view = store.view();
    assert!(view.keys < 100 && view.answered > 500, "{view:?}");
}
