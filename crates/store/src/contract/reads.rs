//! Reading: the latest state, earlier ones, ranges and pages.

use bytes::Bytes;
use dtr_types::Revision;
use futures_util::TryStreamExt as _;

use super::{Harness, committed};
use crate::{At, KeyValue, Page, Range, StoreError, StoreExt as _, Transaction, scan};

async fn page(h: &Harness, start: &str, end: &str, limit: usize, at: At) -> Page {
    let (start, end) = (Bytes::from(start.to_owned()), Bytes::from(end.to_owned()));
    let range = Range { start, end, limit, keys_only: false, at };
    h.store.range(range).await.expect("a page")
}

fn keys(items: &[KeyValue]) -> Vec<String> {
    items.iter().map(|kv| String::from_utf8_lossy(&kv.key).into_owned()).collect()
}

/// A key that was never put, and one that was deleted, are not there.
pub async fn an_absent_key_is_none(h: &Harness) {
    assert_eq!(h.get("never").await, None);
    h.put("gone", "1").await;
    h.delete("gone").await;
    assert_eq!(h.get("gone").await, None);
}

/// `created`, `modified` and `version` follow puts and deletes.
pub async fn a_get_tells_the_history_in_short(h: &Harness) {
    let first = h.put("k", "1").await;
    let second = h.put("k", "2").await;
    let kv = h.get("k").await.expect("is there");
    assert_eq!((kv.created, kv.modified, kv.version), (first, second, 2));
    assert_eq!((&kv.key[..], &kv.value[..], kv.lease), (&b"k"[..], &b"2"[..], None));
    h.delete("k").await;
    let third = h.put("k", "3").await;
    let kv = h.get("k").await.expect("is there");
    assert_eq!((kv.created, kv.modified, kv.version), (third, third, 1));
}

/// Every revision can be read as it was.
pub async fn reads_at_every_revision(h: &Harness) {
    let mut revisions = Vec::new();
    for value in 0..20 {
        revisions.push(h.put("k", &value.to_string()).await);
        h.put("other", &value.to_string()).await;
    }
    for (value, revision) in revisions.iter().enumerate() {
        let expected = Bytes::from(value.to_string());
        assert_eq!(h.value_at("k", *revision).await, Some(expected.clone()));
        assert_eq!(h.value_at("k", revision.next()).await, Some(expected));
    }
    let before = Revision(revisions[0].0 - 1);
    assert_eq!(h.value_at("k", before).await, None);
}

/// What was deleted since is there in an earlier state, and what was put since is not.
pub async fn an_earlier_read_sees_deleted_keys(h: &Harness) {
    let put = h.put("k", "1").await;
    let deleted = h.delete("k").await;
    let again = h.put("k", "2").await;
    assert_eq!(h.value_at("k", put).await, Some(Bytes::from("1")));
    assert_eq!(h.value_at("k", deleted).await, None);
    assert_eq!(h.value_at("k", again).await, Some(Bytes::from("2")));
}

/// A revision that was not committed yet cannot be read.
pub async fn the_future_is_refused(h: &Harness) {
    let latest = h.put("k", "1").await;
    let error = h.store.get(b"k", At::Revision(Revision(latest.0 + 5))).await;
    assert!(matches!(error, Err(StoreError::Future { .. })), "{error:?}");
    let start = Bytes::from("k");
    let at = At::Revision(Revision(latest.0 + 5));
    let range = Range { start, end: Bytes::new(), limit: 1, keys_only: false, at };
    let error = h.store.range(range).await;
    assert!(matches!(error, Err(StoreError::Future { .. })), "{error:?}");
}

/// Keys come in byte order, whatever the order of puts.
pub async fn ranges_are_in_byte_order(h: &Harness) {
    for key in ["b", "a", "ab", "a/", "B", "a0", "aa"] {
        h.put(key, "").await;
    }
    let found = page(h, "A", "", 0, At::Latest).await;
    assert_eq!(keys(&found.items), ["B", "a", "a/", "a0", "aa", "ab", "b"]);
    assert!(!found.more);
}

/// The start is included, the end is not, an empty end is none.
pub async fn a_range_has_its_bounds(h: &Harness) {
    for key in ["a", "b", "c", "d"] {
        h.put(key, "").await;
    }
    assert_eq!(keys(&page(h, "b", "d", 0, At::Latest).await.items), ["b", "c"]);
    assert_eq!(keys(&page(h, "b", "", 0, At::Latest).await.items), ["b", "c", "d"]);
    let found = h.store.page(b"c", None, 0, false, At::Latest).await.expect("a page");
    assert_eq!(keys(&found.items), ["c"]);
}

/// Nothing is found where nothing is, or where the end is not after the start.
pub async fn an_empty_range_is_empty(h: &Harness) {
    h.put("m", "").await;
    for (start, end) in [("n", "z"), ("m", "m"), ("z", "a")] {
        let found = page(h, start, end, 0, At::Latest).await;
        assert!(found.items.is_empty() && !found.more, "{start} to {end}");
    }
}

/// Pages follow one another, each at the first one's revision, and say whether more follows.
pub async fn a_range_is_paged_at_one_revision(h: &Harness) {
    for n in 0..25 {
        h.put(&format!("k{n:02}"), "").await;
    }
    let first = h.store.page(b"k", None, 10, false, At::Latest).await.expect("a page");
    assert_eq!((first.items.len(), first.more), (10, true));
    h.put("k105", "too late").await;
    h.delete("k20").await;
    let after = |page: &Page| page.items.last().map(|kv| kv.key.clone());
    let at = At::Revision(first.revision);
    let second = h.store.page(b"k", after(&first).as_deref(), 10, false, at).await.expect("more");
    assert_eq!((second.items.len(), second.more), (10, true));
    let third = h.store.page(b"k", after(&second).as_deref(), 10, false, at).await.expect("more");
    assert_eq!((third.items.len(), third.more), (5, false));
    assert_eq!(second.revision, first.revision);
    assert_eq!(keys(&third.items), ["k20", "k21", "k22", "k23", "k24"]);
}

/// Values are left out on demand, and nothing else.
pub async fn keys_only_leaves_values_out(h: &Harness) {
    let revision = h.put("k", "value").await;
    let found = h.store.page(b"k", None, 0, true, At::Latest).await.expect("a page");
    let kv = &found.items[0];
    assert_eq!((&kv.key[..], &kv.value[..]), (&b"k"[..], &b""[..]));
    assert_eq!((kv.created, kv.modified, kv.version), (revision, revision, 1));
}

/// A range of an earlier revision has what was there then, no more and no less.
pub async fn a_range_of_an_earlier_revision_is_exact(h: &Harness) {
    for key in ["stays", "changes", "goes"] {
        h.put(key, "old").await;
    }
    let then = h.store.revision().await.expect("a revision");
    h.put("changes", "new").await;
    h.delete("goes").await;
    h.put("comes", "new").await;
    let found = page(h, "a", "", 0, At::Revision(then)).await;
    assert_eq!(keys(&found.items), ["changes", "goes", "stays"]);
    assert!(found.items.iter().all(|kv| &kv.value[..] == b"old"));
    assert_eq!(found.revision, then);
    let found = page(h, "a", "", 0, At::Latest).await;
    assert_eq!(keys(&found.items), ["changes", "comes", "stays"]);
}

/// A key with a long history does not disturb the range around it, at any revision.
pub async fn many_versions_do_not_hide_a_key(h: &Harness) {
    h.put("a", "").await;
    let mut revisions = Vec::new();
    for n in 0..60 {
        revisions.push(h.put("hot", &n.to_string()).await);
    }
    h.delete("hot").await;
    let gone = h.put("z", "").await;
    for (n, revision) in revisions.iter().enumerate() {
        let found = page(h, "a", "", 0, At::Revision(*revision)).await;
        assert_eq!(keys(&found.items), ["a", "hot"], "at {revision}");
        assert_eq!(&found.items[1].value[..], n.to_string().as_bytes());
    }
    h.put("zz", "").await;
    assert_eq!(keys(&page(h, "a", "", 0, At::Revision(gone)).await.items), ["a", "z"]);
}

/// A scan of many pages sees one state while writers go on: here, pairs that are always equal.
pub async fn pages_stay_at_one_revision_while_writers_go_on(h: &Harness) {
    const KEYS: usize = 40;
    let write = |n: usize| {
        (0..KEYS).fold(Transaction::new(), |t, k| t.put(format!("p/{k:03}"), n.to_string()))
    };
    committed(h.store.commit(write(0)).await);
    let writer = async {
        for n in 1..30 {
            committed(h.store.commit(write(n)).await);
        }
    };
    let reader = async {
        for _ in 0..20 {
            let mut after: Option<Bytes> = None;
            let mut at = At::Latest;
            let mut seen = Vec::new();
            loop {
                let page = h.store.page(b"p/", after.as_deref(), 7, false, at).await;
                let page = page.expect("a page");
                at = At::Revision(page.revision);
                after = page.items.last().map(|kv| kv.key.clone());
                seen.extend(page.items.into_iter().map(|kv| kv.value));
                if !page.more {
                    break;
                }
                tokio::task::yield_now().await;
            }
            assert_eq!(seen.len(), KEYS);
            assert!(seen.iter().all(|value| value == &seen[0]), "a page of another state");
        }
    };
    tokio::join!(writer, reader);
}

/// No page is longer than the engine's limit, and [`scan`] finds everything nevertheless.
pub async fn the_limit_of_a_page_holds(h: &Harness) {
    let limits = h.store.limits();
    let count = limits.page_items_max + 10;
    let mut n = 0;
    while n < count {
        let upto = (n + limits.operations_max.min(100)).min(count);
        let puts = (n..upto).fold(Transaction::new(), |t, n| t.put(format!("k{n:08}"), ""));
        committed(h.store.commit(puts).await);
        n = upto;
    }
    for limit in [0, count] {
        let found = page(h, "k", "", limit, At::Latest).await;
        assert!(found.items.len() <= limits.page_items_max && found.more);
    }
    let all: Vec<_> = scan(h.store(), b"k", At::Latest).try_collect().await.expect("a scan");
    assert_eq!(all.len(), count);
}

/// A read that begins after an acknowledgement sees it; so does `revision`.
pub async fn reads_see_what_was_acknowledged(h: &Harness) {
    for n in 0..100 {
        let revision = h.put("k", &n.to_string()).await;
        assert!(h.store.revision().await.expect("a revision") >= revision);
        assert_eq!(h.get("k").await.expect("is there").modified, revision);
    }
}
