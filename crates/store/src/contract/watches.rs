//! Watching: in order, without gaps, from any revision that is kept.

use dtr_types::Revision;

use super::{Harness, committed, next};
use crate::{EventKind, StoreError, Transaction, Watcher, prefix_end};

async fn watch(h: &Harness, prefix: &str, from: Revision) -> Watcher {
    let end = prefix_end(prefix.as_bytes());
    h.store.watch(prefix.as_bytes(), &end, from).await.expect("a watch")
}

/// What is committed after the watch began is told, puts with the new state.
pub async fn a_watch_tells_what_comes(h: &Harness) {
    let now = h.put("k", "0").await;
    let mut watch = watch(h, "k", now.next()).await;
    let put = h.put("k", "1").await;
    let deleted = h.delete("k").await;
    let batch = next(&mut watch).await.expect("a batch");
    assert_eq!((batch.revision, batch.events.len()), (put, 1));
    match &batch.events[0].kind {
        EventKind::Put(kv) => {
            assert_eq!((&kv.value[..], kv.created, kv.modified), (&b"1"[..], now, put));
            assert_eq!(kv.version, 2);
        }
        EventKind::Delete => panic!("a put was told as a delete"),
    }
    let batch = next(&mut watch).await.expect("a batch");
    assert_eq!((batch.revision, &batch.events[0].kind), (deleted, &EventKind::Delete));
    assert_eq!(&batch.events[0].key[..], b"k");
}

/// From an earlier revision (inclusive), the past comes first, then the present.
pub async fn a_watch_replays_from_the_past(h: &Harness) {
    let mut revisions = Vec::new();
    for n in 0..10 {
        revisions.push(h.put("k", &n.to_string()).await);
    }
    let mut watch = watch(h, "k", revisions[3]).await;
    for n in 10..13 {
        revisions.push(h.put("k", &n.to_string()).await);
    }
    for (n, revision) in revisions.iter().enumerate().skip(3) {
        let batch = next(&mut watch).await.expect("a batch");
        assert_eq!(batch.revision, *revision);
        match &batch.events[0].kind {
            EventKind::Put(kv) => {
                assert_eq!(kv.value, n.to_string());
                assert_eq!((kv.modified, kv.version), (*revision, n as u64 + 1));
            }
            EventKind::Delete => panic!("a put was told as a delete"),
        }
    }
}

/// Only keys in the range are told; an empty end is no end.
pub async fn a_watch_knows_its_bounds(h: &Harness) {
    let now = h.put("x", "").await;
    let mut some = watch(h, "b/", now.next()).await;
    let mut all = h.store.watch(b"a", b"", now.next()).await.expect("a watch");
    for key in ["a", "b", "b/", "b/1", "b0", "c"] {
        h.put(key, "").await;
    }
    for expected in ["b/", "b/1"] {
        assert_eq!(next(&mut some).await.expect("a batch").events[0].key, expected);
    }
    for expected in ["a", "b", "b/", "b/1", "b0", "c"] {
        assert_eq!(next(&mut all).await.expect("a batch").events[0].key, expected);
    }
}

/// All changes of a revision come in one batch, in key order; those outside are left out.
pub async fn a_watch_batches_a_revision_in_key_order(h: &Harness) {
    let now = h.put("k/b", "0").await;
    let mut watch = watch(h, "k/", now.next()).await;
    let t = Transaction::new().put("k/c", "1").put("other", "1").delete("k/b").put("k/a", "1");
    let revision = committed(h.store.commit(t).await);
    let batch = next(&mut watch).await.expect("a batch");
    assert_eq!(batch.revision, revision);
    let told: Vec<_> = batch
        .events
        .iter()
        .map(|e| (String::from_utf8_lossy(&e.key), e.kind == EventKind::Delete))
        .collect();
    assert_eq!(told, [("k/a".into(), false), ("k/b".into(), true), ("k/c".into(), false)]);
}

/// While many write, each revision is told once and in order.
pub async fn a_watch_has_no_gap_under_load(h: &Harness) {
    const EACH: usize = 50;
    let now = h.put("k/", "").await;
    let mut watch = watch(h, "k/", now.next()).await;
    let tasks: Vec<_> = (0..4)
        .map(|task| {
            let store = h.store.clone();
            tokio::spawn(async move {
                for n in 0..EACH {
                    let put = Transaction::new().put(format!("k/{task}"), n.to_string());
                    committed(store.commit(put).await);
                }
            })
        })
        .collect();
    let (mut last, mut told) = (now, 0);
    while told < 4 * EACH {
        let batch = next(&mut watch).await.expect("a batch");
        assert_eq!(batch.revision, last.next());
        last = batch.revision;
        told += batch.events.len();
    }
    for task in tasks {
        task.await.expect("the task ends");
    }
}

/// A watch that is not read for long holds nobody up and then has everything.
pub async fn a_slow_watch_loses_nothing(h: &Harness) {
    const COUNT: usize = 600;
    let now = h.put("k", "").await;
    let mut watch = watch(h, "k", now.next()).await;
    for n in 0..COUNT {
        h.put("k", &n.to_string()).await;
    }
    let mut last = now;
    for _ in 0..COUNT {
        let batch = next(&mut watch).await.expect("a batch");
        assert_eq!(batch.revision, last.next());
        last = batch.revision;
    }
}

/// What is no longer kept cannot be watched, and the error says so.
pub async fn a_watch_from_compacted_is_refused(h: &Harness) {
    let first = h.put("k", "1").await;
    h.put("k", "2").await;
    let third = h.put("k", "3").await;
    h.store.compact(third).await.expect("compacts");
    let error = match h.store.watch(b"k", b"", first).await {
        Err(error) => error,
        Ok(mut watch) => next(&mut watch).await.expect_err("the past is gone"),
    };
    assert!(matches!(error, StoreError::Compacted { .. }), "{error:?}");
    let mut watch = watch(h, "k", third).await;
    assert_eq!(next(&mut watch).await.expect("a batch").revision, third);
}

/// A watch may begin at a revision that is not there yet.
pub async fn a_watch_waits_for_the_future(h: &Harness) {
    let now = h.put("k", "0").await;
    let mut watch = watch(h, "k", Revision(now.0 + 3)).await;
    for n in 1..4 {
        h.put("k", &n.to_string()).await;
    }
    assert_eq!(next(&mut watch).await.expect("a batch").revision, Revision(now.0 + 3));
}

/// A watch that is dropped in the middle leaves the others alone.
pub async fn a_dropped_watch_harms_nobody(h: &Harness) {
    let now = h.put("k", "0").await;
    let dropped = watch(h, "k", now.next()).await;
    let mut kept = watch(h, "k", now.next()).await;
    let first = h.put("k", "1").await;
    drop(dropped);
    let second = h.put("k", "2").await;
    assert_eq!(next(&mut kept).await.expect("a batch").revision, first);
    assert_eq!(next(&mut kept).await.expect("a batch").revision, second);
}
