//! What ends: history by compaction, holds, leases.

use std::time::Duration;

use bytes::Bytes;
use dtr_types::{ManualClock, Revision, SeededRandom, Timestamp};

use super::{Harness, committed, next};
use crate::{At, EventKind, LeaseId, StoreError, Transaction, age, hold};

const TTL: Duration = Duration::from_secs(2);

/// Reads before the compacted revision say so, and from where reading is possible.
pub async fn compaction_forgets_the_past(h: &Harness) {
    let first = h.put("k", "1").await;
    let second = h.put("k", "2").await;
    h.put("k", "3").await;
    h.store.compact(second).await.expect("compacts");
    match h.store.get(b"k", At::Revision(first)).await {
        Err(StoreError::Compacted { asked, oldest }) => {
            assert_eq!((asked, oldest), (first, second));
        }
        other => panic!("{other:?}"),
    }
    let page = crate::StoreExt::page(h.store(), b"k", None, 0, false, At::Revision(first)).await;
    assert!(matches!(page, Err(StoreError::Compacted { .. })), "{page:?}");
}

/// The state at the compacted revision, and every later one, stays readable.
pub async fn compaction_keeps_its_own_state(h: &Harness) {
    h.put("a", "1").await;
    h.put("gone", "1").await;
    h.put("going", "1").await;
    h.delete("gone").await;
    let at = h.put("b", "1").await;
    let after = h.put("a", "2").await;
    h.delete("going").await;
    h.store.compact(at).await.expect("compacts");
    for _ in 0..3 {
        assert_eq!(h.value_at("a", at).await, Some(Bytes::from("1")));
        assert_eq!(h.value_at("going", at).await, Some(Bytes::from("1")));
        assert_eq!(h.value_at("gone", at).await, None);
        assert_eq!(h.value_at("a", after).await, Some(Bytes::from("2")));
        let page = crate::StoreExt::page(h.store(), b"", None, 0, true, At::Revision(at)).await;
        let page = page.expect("a page");
        let keys: Vec<_> = page.items.iter().map(|kv| kv.key.clone()).collect();
        assert_eq!(keys, ["a", "b", "going"]);
        // Gives an engine that forgets in the background something to do it with.
        h.put("tick", "").await;
    }
}

/// Compacting to where was compacted already changes nothing and is no error.
pub async fn compaction_may_be_repeated(h: &Harness) {
    let first = h.put("k", "1").await;
    let second = h.put("k", "2").await;
    for to in [second, second, first] {
        h.store.compact(to).await.expect("compacts");
    }
    assert_eq!(h.store.status().await.expect("a status").compacted, second);
    assert_eq!(h.value_at("k", second).await, Some(Bytes::from("2")));
}

/// What was not committed yet cannot be compacted.
pub async fn compaction_of_the_future_is_refused(h: &Harness) {
    let latest = h.put("k", "1").await;
    let refused = h.store.compact(Revision(latest.0 + 1)).await;
    assert!(matches!(refused, Err(StoreError::Future { .. })), "{refused:?}");
}

/// Much history goes; what is alive, and was alive at the compacted revision, stays.
pub async fn compaction_spares_what_lives(h: &Harness) {
    const KEYS: usize = 50;
    for round in 0..30 {
        let t = (0..KEYS).fold(Transaction::new(), |t, k| {
            let key = format!("k{k:02}");
            if (round + k) % 5 == 4 { t.delete(key) } else { t.put(key, round.to_string()) }
        });
        committed(h.store.commit(t).await);
    }
    let at = h.store.revision().await.expect("a revision");
    let read = async |at| {
        let page = crate::StoreExt::page(h.store(), b"k", None, 0, false, at).await;
        page.expect("a page").items
    };
    let before = read(At::Latest).await;
    h.put("k00", "later").await;
    h.delete("k01").await;
    h.store.compact(at).await.expect("compacts");
    for _ in 0..5 {
        h.put("other", "").await;
        assert_eq!(read(At::Revision(at)).await, before);
    }
}

fn holder() -> (ManualClock, SeededRandom) {
    (ManualClock::new(Timestamp::from_millis(1_000_000)), SeededRandom::new(7))
}

/// [`hold::compact`] never passes a hold; released, it does.
pub async fn a_hold_keeps_its_revision(h: &Harness) {
    let (clock, random) = holder();
    let store = h.store();
    h.put("k", "1").await;
    let held = hold::take(store, &clock, &random, "backup", TTL).await.expect("a hold");
    let latest = h.put("k", "2").await;
    let to = hold::compact(store, latest).await.expect("compacts");
    assert_eq!(to, held.revision);
    assert_eq!(h.value_at("k", held.revision).await, Some(Bytes::from("1")));
    hold::release(store, &held.id).await.expect("releases");
    hold::release(store, &held.id).await.expect("releasing twice is no error");
    assert_eq!(hold::compact(store, latest).await.expect("compacts"), latest);
    let read = h.store.get(b"k", At::Revision(held.revision)).await;
    assert!(matches!(read, Err(StoreError::Compacted { .. })), "{read:?}");
}

/// So much time passes, and is seen to.
async fn pass(store: &dyn crate::Store, clock: &ManualClock, time: Duration) {
    age::observe(store, clock).await.expect("observed");
    clock.advance(time);
    age::observe(store, clock).await.expect("observed");
}

/// Extending moves the end, not the revision.
pub async fn an_extended_hold_keeps_its_first_revision(h: &Harness) {
    let (clock, random) = holder();
    let store = h.store();
    let mut held = hold::take(store, &clock, &random, "backup", TTL).await.expect("a hold");
    let latest = h.put("k", "1").await;
    pass(store, &clock, TTL / 2).await;
    hold::extend(store, &clock, &mut held, TTL).await.expect("extends");
    pass(store, &clock, TTL / 2 + TTL / 4).await;
    assert_eq!(hold::oldest(store).await.expect("reads"), Some(held.revision));
    assert_eq!(hold::compact(store, latest).await.expect("compacts"), held.revision);
    hold::release(store, &held.id).await.expect("releases");
    let gone = hold::extend(store, &clock, &mut held, TTL).await;
    assert!(matches!(gone, Err(StoreError::Invalid(_))), "{gone:?}");
}

/// A hold whose owner died ends by itself, and its record goes with the next compaction.
pub async fn an_expired_hold_is_removed(h: &Harness) {
    let (clock, random) = holder();
    let store = h.store();
    let held = hold::take(store, &clock, &random, "backup", TTL).await.expect("a hold");
    let latest = h.put("k", "1").await;
    // However a clock is set, and however long nobody has looked.
    clock.set_by(i64::try_from(TTL.as_millis()).expect("fits") * 1000);
    age::observe(store, &clock).await.expect("observed");
    assert_eq!(hold::list(store).await.expect("reads").len(), 1);
    pass(store, &clock, TTL).await;
    assert_eq!(hold::list(store).await.expect("reads"), []);
    assert_eq!(hold::compact(store, latest).await.expect("compacts"), latest);
    let key = [hold::PREFIX, held.id.as_str().as_bytes()].concat();
    assert_eq!(h.store.get(&key, At::Latest).await.expect("reads"), None);
}

/// All holds in force are listed, with why and how long; the oldest decides.
pub async fn holds_are_listed(h: &Harness) {
    let (clock, random) = holder();
    let store = h.store();
    let a = hold::take(store, &clock, &random, "backup", TTL).await.expect("a hold");
    let b = hold::take(store, &clock, &random, "drill", TTL * 2).await.expect("a hold");
    let mut listed = hold::list(store).await.expect("reads");
    listed.sort_by_key(|hold| hold.revision);
    assert_eq!(listed, [a.clone(), b.clone()]);
    assert_eq!(hold::oldest(store).await.expect("reads"), Some(a.revision));
    pass(store, &clock, TTL).await;
    assert_eq!(hold::oldest(store).await.expect("reads"), Some(b.revision));
}

async fn leased(h: &Harness, key: &str) -> LeaseId {
    let lease = h.store.lease_grant(TTL).await.expect("a lease");
    committed(h.store.commit(Transaction::new().put_leased(key.to_owned(), "v", lease)).await);
    assert_eq!(h.get(key).await.expect("is there").lease, Some(lease));
    lease
}

/// A lease that nobody keeps alive ends after its time, and its keys are deleted.
pub async fn a_lease_takes_its_keys_with_it(h: &Harness) {
    leased(h, "k").await;
    h.put("free", "1").await;
    h.pass(TTL + TTL / 2).await;
    h.gone("k").await;
    assert!(h.get("free").await.is_some());
}

/// Kept alive, it goes on.
pub async fn a_kept_lease_lives(h: &Harness) {
    let lease = leased(h, "k").await;
    for _ in 0..4 {
        h.pass(TTL / 2).await;
        h.store.lease_keep_alive(lease).await.expect("lives");
    }
    h.put("tick", "").await;
    assert!(h.get("k").await.is_some());
}

/// Ended by hand, its keys go at once.
pub async fn a_revoked_lease_takes_its_keys(h: &Harness) {
    let lease = leased(h, "k").await;
    h.store.lease_revoke(lease).await.expect("ends");
    assert_eq!(h.get("k").await, None);
}

/// An ended lease can be neither kept alive, nor ended again, nor written with; the refused transaction does nothing.
pub async fn an_ended_lease_is_refused(h: &Harness) {
    let lease = leased(h, "k").await;
    h.store.lease_revoke(lease).await.expect("ends");
    let t = Transaction::new().put("free", "1").put_leased("k", "2", lease);
    let answers = [
        h.store.lease_keep_alive(lease).await,
        h.store.lease_revoke(lease).await,
        h.store.commit(t).await.map(drop),
    ];
    for answer in answers {
        assert!(matches!(answer, Err(StoreError::LeaseNotFound)), "{answer:?}");
    }
    assert!(h.get("k").await.is_none() && h.get("free").await.is_none());
}

/// Put again without it, or with another, a key stays when the lease ends.
pub async fn a_key_can_leave_its_lease(h: &Harness) {
    let first = leased(h, "k").await;
    let second = h.store.lease_grant(TTL * 100).await.expect("a lease");
    let moved = Transaction::new().put_leased("k", "2", second);
    committed(h.store.commit(moved).await);
    h.put("l", "1").await;
    let both = Transaction::new().put_leased("l", "1", first);
    committed(h.store.commit(both).await);
    h.put("l", "2").await;
    h.store.lease_revoke(first).await.expect("ends");
    assert_eq!(h.get("k").await.expect("stays").lease, Some(second));
    assert_eq!(h.get("l").await.expect("stays").lease, None);
    h.store.lease_revoke(second).await.expect("ends");
    assert_eq!(h.get("k").await, None);
}

/// All keys of a lease vanish in one revision, which a watch tells as one batch.
pub async fn a_lease_ends_in_one_commit(h: &Harness) {
    let lease = h.store.lease_grant(TTL).await.expect("a lease");
    let t = (0..5).fold(Transaction::new(), |t, n| t.put_leased(format!("k/{n}"), "", lease));
    let revision = committed(h.store.commit(t).await);
    let mut watch = h.store.watch(b"k/", b"k0", revision.next()).await.expect("a watch");
    h.pass(TTL + TTL / 2).await;
    let batch = next(&mut watch).await.expect("a batch");
    assert_eq!((batch.revision, batch.events.len()), (revision.next(), 5));
    assert!(batch.events.iter().all(|event| event.kind == EventKind::Delete));
}

/// The status follows.
pub async fn status_tells_the_revision(h: &Harness) {
    let revision = h.put("k", "1").await;
    let status = h.store.status().await.expect("a status");
    assert_eq!(status.revision, revision);
    assert!(status.compacted <= revision && status.size_bytes > 0);
    assert!(!status.engine.is_empty());
}
