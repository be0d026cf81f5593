//! Committing: all or nothing, conditions, limits, and many callers at once.

use bytes::Bytes;
use dtr_types::Revision;

use super::{Harness, committed};
use crate::{At, Outcome, StoreError, Transaction};

/// Revisions are consecutive.
pub async fn each_commit_gets_the_next_revision(h: &Harness) {
    let mut last = h.put("k", "0").await;
    for n in 1..10 {
        let revision = h.put("k", &n.to_string()).await;
        assert_eq!(revision, last.next());
        last = revision;
    }
    assert_eq!(h.store.revision().await.expect("a revision"), last);
}

/// All writes of a transaction are of one revision; a refused one writes nothing.
pub async fn a_commit_is_all_or_nothing(h: &Harness) {
    h.put("old", "1").await;
    let both = Transaction::new().put("a", "1").put("b", "1").delete("old");
    let revision = committed(h.store.commit(both).await);
    for key in ["a", "b"] {
        assert_eq!(h.get(key).await.expect("is there").modified, revision);
    }
    assert_eq!(h.get("old").await, None);
    let refused = Transaction::new().if_absent("a").put("a", "2").put("c", "2").delete("b");
    let outcome = h.store.commit(refused).await.expect("an answer");
    assert_eq!(outcome, Outcome::Conflict { condition: 0, revision });
    assert_eq!(outcome.committed(), None);
    assert_eq!(&h.get("a").await.expect("is there").value[..], b"1");
    assert!(h.get("b").await.is_some() && h.get("c").await.is_none());
    assert_eq!(h.store.revision().await.expect("a revision"), revision);
}

/// Of several conditions that do not hold, the first is told.
pub async fn the_first_failing_condition_is_named(h: &Harness) {
    let at = h.put("there", "1").await;
    let t = Transaction::new()
        .if_present("there")
        .if_absent("absent")
        .if_modified_at("there", Revision(at.0 + 100))
        .if_absent("there")
        .put("x", "");
    match h.store.commit(t).await {
        Ok(Outcome::Conflict { condition, .. }) => assert_eq!(condition, 2),
        other => panic!("{other:?}"),
    }
}

/// A transaction does not see its own writes.
pub async fn conditions_see_the_state_before_the_writes(h: &Harness) {
    committed(h.store.commit(Transaction::new().put("k", "1").if_absent("k")).await);
    committed(h.store.commit(Transaction::new().delete("k").if_present("k")).await);
    assert_eq!(h.get("k").await, None);
}

/// Absent, present, modified at: each in every case.
pub async fn every_condition_means_what_it_says(h: &Harness) {
    let holds = async |t: Transaction| {
        let outcome = h.store.commit(t).await.expect("an answer");
        matches!(outcome, Outcome::Committed(_))
    };
    let t = Transaction::new;
    assert!(holds(t().if_absent("k")).await);
    assert!(!holds(t().if_present("k")).await);
    assert!(!holds(t().if_modified_at("k", Revision(1))).await);
    assert!(!holds(t().if_modified_at("k", Revision(0))).await, "absent is not revision zero");
    assert!(holds(t().if_unchanged("k", None)).await);
    let first = h.put("k", "1").await;
    let read = h.get("k").await;
    assert!(!holds(t().if_absent("k")).await);
    assert!(holds(t().if_present("k")).await);
    assert!(holds(t().if_modified_at("k", first)).await);
    assert!(holds(t().if_unchanged("k", read.as_ref())).await);
    h.put("k", "1").await;
    assert!(!holds(t().if_modified_at("k", first)).await, "the same value again is a change");
    assert!(!holds(t().if_unchanged("k", read.as_ref())).await);
    h.delete("k").await;
    assert!(holds(t().if_absent("k")).await);
    assert!(!holds(t().if_present("k")).await);
}

/// A list that was read has nothing new in it: told for each change that there can be, within the bounds of the prefix.
pub async fn what_is_put_into_a_list_is_noticed(h: &Harness) {
    let holds = async |at: Revision| {
        let t = Transaction::new().if_present("other").if_none_put_since("l/", at);
        let alone = h.store.commit(t.clone()).await.expect("an answer");
        let noted = h.store.commit(t.put("noted", "")).await.expect("an answer");
        if let Outcome::Conflict { condition, .. } = noted {
            assert_eq!(condition, 1);
        }
        assert_eq!(alone.committed().is_some(), noted.committed().is_some());
        noted.committed().is_some()
    };
    for beside in ["other", "l", "l.", "l0", "k/a"] {
        h.put(beside, "").await;
    }
    assert!(holds(Revision::ZERO).await, "an empty list");
    let first = h.put("l/b", "").await;
    assert!(!holds(Revision::ZERO).await && holds(first).await);
    let second = h.put("l/c", "").await;
    assert!(!holds(first).await && holds(second).await);
    h.put("l0", "").await;
    assert!(holds(second).await);
    let again = h.put("l/b", "").await;
    assert!(!holds(second).await && holds(again).await, "put again is put");
    h.delete("l/b").await;
    assert!(holds(second).await && !holds(first).await, "what has gone does not count");
    h.delete("l/c").await;
    assert!(holds(Revision::ZERO).await);
    let alone = Transaction::new().if_none_put_since("other", Revision::ZERO).put("x", "");
    let refused = h.store.commit(alone).await.expect("an answer");
    assert!(matches!(refused, Outcome::Conflict { condition: 0, .. }), "the prefix itself is one");
}

/// Of those who look at a list and enter themselves at once, one is the first.
pub async fn only_one_enters_an_empty_list(h: &Harness) {
    let entries = (0..16).map(|n| {
        let t = Transaction::new().if_none_put_since("l/", Revision::ZERO);
        h.store.commit(t.put(format!("l/{n}"), ""))
    });
    let outcomes = futures_util::future::join_all(entries).await;
    let entered = outcomes.into_iter().filter_map(|o| o.expect("an answer").committed());
    assert_eq!(entered.count(), 1);
}

/// Conditions alone are answered with the latest revision and change nothing.
pub async fn without_writes_nothing_is_committed(h: &Harness) {
    let latest = h.put("k", "1").await;
    let outcome = h.store.commit(Transaction::new().if_present("k")).await;
    assert_eq!(committed(outcome), latest);
    assert_eq!(committed(h.store.commit(Transaction::new()).await), latest);
    assert_eq!(h.store.revision().await.expect("a revision"), latest);
}

/// Deleting what is not there is no error; alone, it makes no revision.
pub async fn deleting_nothing_changes_nothing(h: &Harness) {
    let latest = h.put("k", "1").await;
    assert_eq!(h.delete("other").await, latest);
    assert_eq!(h.store.revision().await.expect("a revision"), latest);
    let mixed = Transaction::new().delete("other").put("k", "2");
    assert_eq!(committed(h.store.commit(mixed).await), latest.next());
}

/// A key written twice in one transaction, and an empty key, are refused.
pub async fn a_key_is_written_once(h: &Harness) {
    let latest = h.put("k", "1").await;
    for t in [
        Transaction::new().put("a", "1").put("a", "2"),
        Transaction::new().put("a", "1").delete("a"),
        Transaction::new().delete("k").delete("k"),
        Transaction::new().put("", "1"),
    ] {
        let refused = h.store.commit(t).await;
        assert!(matches!(refused, Err(StoreError::Invalid(_))), "{refused:?}");
    }
    assert_eq!(h.store.revision().await.expect("a revision"), latest);
}

/// What passes a limit is refused whole.
pub async fn limits_are_refused_not_cut(h: &Harness) {
    let limits = h.store.limits();
    let latest = h.put("k", "1").await;
    let many = |n: usize| (0..n).fold(Transaction::new(), |t, n| t.put(format!("n{n}"), ""));
    let conditions =
        |n: usize| (0..n).fold(Transaction::new(), |t, n| t.if_absent(format!("n{n}")));
    let half = vec![0; limits.transaction_bytes_max / 2 + 1];
    for t in [
        Transaction::new().put(vec![b'k'; limits.key_bytes_max + 1], ""),
        Transaction::new().if_absent(vec![b'k'; limits.key_bytes_max + 1]).put("a", ""),
        Transaction::new().put("a", vec![0; limits.value_bytes_max + 1]),
        Transaction::new().put("a", half.clone()).put("b", half),
        many(limits.operations_max + 1),
        conditions(limits.operations_max + 1).put("a", ""),
    ] {
        let refused = h.store.commit(t).await;
        assert!(matches!(refused, Err(StoreError::TooLarge { .. })), "{refused:?}");
    }
    assert_eq!(h.store.revision().await.expect("a revision"), latest);
}

/// What just reaches a limit is accepted and comes back.
pub async fn limits_themselves_are_accepted(h: &Harness) {
    let limits = h.store.limits();
    let key = vec![b'k'; limits.key_bytes_max];
    let value: Vec<u8> = (0..limits.value_bytes_max).map(|n| n as u8).collect();
    committed(h.store.commit(Transaction::new().put(key.clone(), "v")).await);
    committed(h.store.commit(Transaction::new().put("large", value.clone())).await);
    let found = h.store.get(&key, At::Latest).await.expect("a read").expect("is there");
    assert_eq!(&found.value[..], b"v");
    assert!(h.get("large").await.expect("is there").value == value);
    let many = (0..limits.operations_max)
        .fold(Transaction::new(), |t, n| t.if_absent(format!("n{n}")).put(format!("n{n}"), "v"));
    let revision = committed(h.store.commit(many).await);
    assert_eq!(h.get("n0").await.expect("is there").modified, revision);
}

/// Keys and values are bytes.
pub async fn binary_keys_and_values_survive(h: &Harness) {
    let keys: [&[u8]; 6] = [b"\0", b"\0\0", b"\0\x01", b"a\0", b"a\0b", b"\xff\xff"];
    for key in keys {
        let put = Transaction::new().put(key.to_vec(), [key, b"\0\xff"].concat());
        committed(h.store.commit(put).await);
    }
    for key in keys {
        let kv = h.store.get(key, At::Latest).await.expect("a read").expect("is there");
        assert_eq!((&kv.key[..], &kv.value[..]), (key, &[key, b"\0\xff"].concat()[..]));
    }
}

/// An empty value is there; an absent key is not.
pub async fn an_empty_value_is_a_value(h: &Harness) {
    h.put("k", "").await;
    assert_eq!(h.get("k").await.map(|kv| kv.value), Some(Bytes::new()));
}

/// Many tasks read, add one and write if unchanged: none of the increments is lost, each has its own revision.
pub async fn a_counter_loses_no_increment(h: &Harness) {
    const TASKS: usize = 8;
    const EACH: usize = 20;
    h.put("counter", "0").await;
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let store = h.store.clone();
            tokio::spawn(async move {
                let mut revisions = Vec::new();
                while revisions.len() < EACH {
                    let read = store.get(b"counter", At::Latest).await.expect("a read");
                    let read = read.expect("is there");
                    let count: u64 = std::str::from_utf8(&read.value)
                        .ok()
                        .and_then(|text| text.parse().ok())
                        .expect("a number");
                    let t = Transaction::new()
                        .if_unchanged("counter", Some(&read))
                        .put("counter", (count + 1).to_string());
                    let outcome = store.commit(t).await.expect("an answer");
                    revisions.extend(outcome.committed());
                }
                revisions
            })
        })
        .collect();
    let mut revisions = Vec::new();
    for task in tasks {
        revisions.extend(task.await.expect("the task ends"));
    }
    let value = h.get("counter").await.expect("is there").value;
    assert_eq!(value, (TASKS * EACH).to_string());
    revisions.sort_unstable();
    revisions.dedup();
    assert_eq!(revisions.len(), TASKS * EACH);
}

/// Of many that create one key at once, one succeeds; the rest are told that it is there.
pub async fn only_one_creator_wins(h: &Harness) {
    let tasks: Vec<_> = (0..32)
        .map(|n| {
            let store = h.store.clone();
            let t = Transaction::new().if_absent("k").put("k", n.to_string());
            tokio::spawn(async move { store.commit(t).await.expect("an answer") })
        })
        .collect();
    let mut winners = Vec::new();
    for (n, task) in tasks.into_iter().enumerate() {
        if task.await.expect("the task ends").committed().is_some() {
            winners.push(n.to_string());
        }
    }
    assert_eq!(winners.len(), 1);
    assert_eq!(h.get("k").await.expect("is there").value, winners[0]);
}
