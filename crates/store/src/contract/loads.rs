//! Loading: filling a store that nobody serves.

use bytes::Bytes;

use super::{Harness, committed};
use crate::{At, Range, StoreError, Transaction};

fn numbered(from: u32, to: u32, value: &'static str) -> Vec<(Bytes, Bytes)> {
    (from..to).map(|n| (format!("k{n:06}").into(), Bytes::from_static(value.as_bytes()))).collect()
}

async fn count(h: &Harness) -> usize {
    let (mut start, mut all) = (Bytes::from_static(b"k"), 0);
    loop {
        let range = Range {
            start,
            end: Bytes::from_static(b"l"),
            limit: 0,
            keys_only: true,
            at: At::Latest,
        };
        let page = h.store.range(range).await.expect("a page");
        all += page.items.len();
        match page.items.last() {
            Some(last) if page.more => start = [&last.key[..], &[0]].concat().into(),
            _ => return all,
        }
    }
}

/// What was loaded is there when the load is finished, in the order of keys, and the store goes on from there.
pub async fn what_was_loaded_is_there(h: &Harness) {
    let before = h.put("k000000", "before").await;
    let at_once = h.store.limits().load_keys_max.min(500) as u32;
    for part in (0..20).rev() {
        let puts = numbered(part * at_once, (part + 1) * at_once, "loaded");
        h.store.load(puts).await.expect("is loaded");
    }
    h.store.load(Vec::new()).await.expect("nothing is loaded");
    h.store.finish_load().await.expect("is finished");
    assert_eq!(count(h).await, 20 * at_once as usize);
    let first = h.get("k000000").await.expect("is there");
    assert_eq!(&first.value[..], b"loaded");
    assert!(first.modified > before);
    let loaded = h.store.revision().await.expect("a revision");
    assert!(loaded >= first.modified);
    h.store.finish_load().await.expect("finishing twice is finishing once");
    // Life goes on: conditions, deletions, history, watches.
    let mut watch = h.store.watch(b"k", b"l", loaded.next()).await.expect("a watch");
    let change = Transaction::new()
        .if_modified_at("k000000", first.modified)
        .put("k000000", "after")
        .delete("k000001");
    let changed = committed(h.store.commit(change).await);
    assert_eq!(changed, loaded.next());
    assert_eq!(super::next(&mut watch).await.expect("a batch").events.len(), 2);
    assert_eq!(h.value_at("k000000", loaded).await, Some(Bytes::from_static(b"loaded")));
    assert_eq!(count(h).await, 20 * at_once as usize - 1);
}

/// Of a key that is loaded twice the last put counts, in one call and in two.
pub async fn the_last_put_of_a_load_counts(h: &Harness) {
    let puts = [numbered(0, 2, "first"), numbered(1, 3, "second")].concat();
    h.store.load(puts).await.expect("is loaded");
    h.store.load(numbered(2, 4, "third")).await.expect("is loaded");
    h.store.finish_load().await.expect("is finished");
    for (key, value) in
        [("k000000", "first"), ("k000001", "second"), ("k000002", "third"), ("k000003", "third")]
    {
        assert_eq!(h.get(key).await.expect("is there").value, value, "{key}");
    }
}

/// Giving a load up leaves what was there before as it was, and the store usable.
pub async fn an_abandoned_load_harms_nothing(h: &Harness) {
    h.put("other", "1").await;
    h.store.load(numbered(0, 10, "loaded")).await.expect("is loaded");
    h.store.abandon_load().await.expect("is given up");
    h.store.abandon_load().await.expect("twice is once");
    assert_eq!(h.get("other").await.expect("is there").value, "1");
    h.put("other", "2").await;
    h.store.load(numbered(0, 3, "again")).await.expect("is loaded");
    h.store.finish_load().await.expect("is finished");
    assert_eq!(h.get("k000002").await.expect("is there").value, "again");
    assert_eq!(h.get("other").await.expect("is there").value, "2");
}

/// Whatever else is asked of the store in between finds what was loaded before.
pub async fn a_commit_ends_a_load(h: &Harness) {
    h.store.load(numbered(0, 10, "loaded")).await.expect("is loaded");
    let seen = Transaction::new().if_present("k000009").if_absent("k000010").put("seen", "yes");
    committed(h.store.commit(seen).await);
    assert_eq!(count(h).await, 10);
    h.store.finish_load().await.expect("is finished");
    assert_eq!(count(h).await, 10);
}

/// What is too large to be loaded at once is refused.
pub async fn a_load_has_limits(h: &Harness) {
    let limits = h.store.limits();
    let too_many = numbered(0, limits.load_keys_max as u32 + 1, "");
    let long_key = vec![(Bytes::from(vec![b'k'; limits.key_bytes_max + 1]), Bytes::new())];
    let long_value =
        vec![(Bytes::from_static(b"k"), Bytes::from(vec![0; limits.value_bytes_max + 1]))];
    for puts in [too_many, long_key, long_value] {
        let refused = h.store.load(puts).await;
        assert!(matches!(refused, Err(StoreError::TooLarge { .. })), "{refused:?}");
    }
    let nameless = h.store.load(vec![(Bytes::new(), Bytes::new())]).await;
    assert!(matches!(nameless, Err(StoreError::Invalid(_))), "{nameless:?}");
    h.store.finish_load().await.expect("nothing was loaded");
    assert_eq!(count(h).await, 0);
}
