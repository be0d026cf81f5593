//! What is this engine's own: its file, and its behaviour when the disk fails.

use std::{
    os::unix::fs::PermissionsExt as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use dtr_store::{At, Outcome, Store, StoreError, Transaction};
use dtr_store_embedded::{
    BackendFactory, EmbeddedStore, Options,
    simulated::{Disk, Fault},
};
use dtr_types::Revision;

async fn put(store: &Arc<EmbeddedStore>, key: &str, value: &str) -> Result<Outcome, StoreError> {
    store.commit(Transaction::new().put(key.to_owned(), value.to_owned())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_is_private_exclusive_and_comes_back() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("store.redb");
    let store = EmbeddedStore::open(&path, Options::default()).expect("opens");
    assert_eq!(put(&store, "a", "1").await.expect("commits"), Outcome::Committed(Revision(1)));
    let mode = std::fs::metadata(&path).expect("is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let second = EmbeddedStore::open(&path, Options::default()).map(drop);
    match second {
        Err(StoreError::Unavailable { reason }) => {
            assert!(reason.contains("another process"), "{reason}");
            assert!(reason.contains("store.redb"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    drop(store);
    let store = EmbeddedStore::open(&path, Options::default()).expect("opens again");
    let kv = store.get(b"a", At::Latest).await.expect("reads").expect("is there");
    assert_eq!((&kv.value[..], kv.modified), (&b"1"[..], Revision(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_disk_is_an_error_and_needs_no_restart() {
    let disk = Disk::new();
    let store = EmbeddedStore::open_with_backend(disk.clone(), Options::default()).expect("opens");
    put(&store, "a", "1").await.expect("commits");
    for after in 0..12 {
        let kind = std::io::ErrorKind::StorageFull;
        disk.set_fault(Some(Fault { after, reads: false, kind }));
        let value = format!("try {after}");
        let outcome = put(&store, "b", &value).await;
        disk.set_fault(None);
        // Ours again without opening anything: whatever was said must be what is there.
        let mut again = put(&store, "c", "1").await;
        for _ in 0..100 {
            if again.is_ok() {
                break;
            }
            // poll: until the engine has opened its file again.
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            again = put(&store, "c", "1").await;
        }
        again.expect("works again when there is room");
        let found = store.get(b"b", At::Latest).await.expect("reads").map(|kv| kv.value);
        let there = found.is_some_and(|found| found == value);
        match outcome {
            Ok(_) => assert!(there, "acknowledged after {after}, but lost"),
            Err(StoreError::Full { .. }) => assert!(!there, "refused after {after}, but done"),
            Err(StoreError::Unknown { .. }) => {}
            Err(other) => panic!("{other}"),
        }
        assert!(store.get(b"a", At::Latest).await.expect("reads").is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_disk_is_still_read() {
    let disk = Disk::new();
    let store = EmbeddedStore::open_with_backend(disk.clone(), Options::default()).expect("opens");
    put(&store, "a", "1").await.expect("commits");
    let now = store.revision().await.expect("a revision");
    let mut watch = store.watch(b"a", b"", now.next()).await.expect("a watch");
    let kind = std::io::ErrorKind::ReadOnlyFilesystem;
    disk.set_fault(Some(Fault { after: 0, reads: false, kind }));
    for _ in 0..3 {
        match put(&store, "a", "2").await {
            Err(StoreError::Unavailable { reason }) => {
                assert!(reason.contains("read-only"), "{reason}");
            }
            // The first may be in doubt: whether it came to the disk can be told only by opening it.
            Err(StoreError::Unknown { .. }) => {}
            other => panic!("{other:?}"),
        }
        let kv = store.get(b"a", At::Latest).await.expect("reads").expect("is there");
        assert_eq!(&kv.value[..], b"1");
    }
    disk.set_fault(None);
    let begin = std::time::Instant::now();
    while put(&store, "a", "3").await.is_err() {
        assert!(begin.elapsed() < Duration::from_secs(10), "works again by itself");
        tokio::task::yield_now().await;
    }
    // The watch went on through all of it.
    let batch = tokio::time::timeout(Duration::from_secs(10), watch.next()).await;
    let batch = batch.expect("in time").expect("goes on").expect("a batch");
    assert_eq!(batch.revision, now.next());
    assert_eq!(store.get(b"a", At::Latest).await.expect("reads").expect("is there").value, "3");
}

/// Keys `from..to` of a load.
fn numbered(from: u32, to: u32) -> Vec<(bytes::Bytes, bytes::Bytes)> {
    (from..to).map(|n| (format!("k{n:05}").into(), vec![7; 300].into())).collect()
}

async fn loaded(store: &Arc<EmbeddedStore>) -> usize {
    let (mut found, mut start) = (0, bytes::Bytes::from_static(b"k"));
    loop {
        let end = bytes::Bytes::from_static(b"l");
        let range = dtr_store::Range { start, end, limit: 0, keys_only: true, at: At::Latest };
        let page = store.range(range).await.expect("a page");
        found += page.items.len();
        match page.items.last() {
            Some(last) if page.more => start = [&last.key[..], &[0]].concat().into(),
            _ => return found,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_loses_power_is_there_once_it_is_finished() {
    for lose_after_finish in [false, true] {
        let disk = Disk::new();
        let store =
            EmbeddedStore::open_with_backend(disk.clone(), Options::default()).expect("opens");
        put(&store, "mark", "1").await.expect("commits");
        for part in 0..200 {
            store.load(numbered(part * 100, (part + 1) * 100)).await.expect("is loaded");
        }
        if lose_after_finish {
            store.finish_load().await.expect("is finished");
        }
        // Half of what was not synced reaches the disk, torn.
        let mut sector = 0;
        disk.lose_power(|| {
            sector += 1;
            sector % 2 == 0
        });
        drop(store);
        let store = EmbeddedStore::open_with_backend(disk, Options::default()).expect("opens");
        let found = loaded(&store).await;
        if lose_after_finish {
            assert_eq!(found, 20_000);
        }
        // What is there of an unfinished one is whole: it can be read, changed and deleted.
        for n in 0..found.min(100) {
            let delete = Transaction::new().if_present(format!("k{n:05}"));
            let deleted = store.commit(delete.delete(format!("k{n:05}"))).await.expect("commits");
            assert!(deleted.committed().is_some());
        }
        assert_eq!(loaded(&store).await, found - found.min(100));
        assert!(store.get(b"mark", At::Latest).await.expect("reads").is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_load_that_is_given_up_can_be_deleted_and_done_again() {
    let disk = Disk::new();
    let store = EmbeddedStore::open_with_backend(disk.clone(), Options::default()).expect("opens");
    put(&store, "mark", "1").await.expect("commits");
    for part in 0..200 {
        store.load(numbered(part * 100, (part + 1) * 100)).await.expect("is loaded");
    }
    assert_eq!(loaded(&store).await, 0, "nothing is seen while it is loaded");
    store.abandon_load().await.expect("is given up");
    let found = loaded(&store).await;
    for part in (0..found).step_by(100) {
        let delete = (part..found.min(part + 100))
            .map(|n| format!("k{n:05}"))
            .fold(Transaction::new(), |transaction, key| {
                transaction.if_present(key.clone()).delete(key)
            });
        assert!(store.commit(delete).await.expect("commits").committed().is_some());
    }
    assert_eq!(loaded(&store).await, 0);
    for part in 0..200 {
        store.load(numbered(part * 100, (part + 1) * 100)).await.expect("is loaded");
    }
    store.finish_load().await.expect("is finished");
    assert_eq!(loaded(&store).await, 20_000);
    drop(store);
    let store = EmbeddedStore::open_with_backend(disk, Options::default()).expect("opens");
    assert_eq!(loaded(&store).await, 20_000);
    assert!(store.get(b"mark", At::Latest).await.expect("reads").is_some());
    let next = put(&store, "mark", "2").await.expect("commits").committed().expect("committed");
    let found = store.get(b"k00000", At::Latest).await.expect("reads").expect("is there");
    assert!(found.modified < next, "revisions go on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_may_end_where_a_part_ends() {
    // So little memory that every call is a part.
    let options = Options { cache_bytes: 16 << 10, ..Options::default() };
    let disk = Disk::new();
    let store = EmbeddedStore::open_with_backend(disk.clone(), options).expect("opens");
    for part in 0..5 {
        store.load(numbered(part * 100, (part + 1) * 100)).await.expect("is loaded");
    }
    store.finish_load().await.expect("is finished");
    assert_eq!(loaded(&store).await, 500);
    disk.lose_power(|| false);
    drop(store);
    let store = EmbeddedStore::open_with_backend(disk, Options::default()).expect("opens");
    assert_eq!(loaded(&store).await, 500);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_on_a_failing_disk_is_an_error_until_it_is_given_up() {
    let disk = Disk::new();
    let store = EmbeddedStore::open_with_backend(disk.clone(), Options::default()).expect("opens");
    put(&store, "mark", "1").await.expect("commits");
    for after in [0, 1, 3, 20, 200, 2_000] {
        let kind = std::io::ErrorKind::StorageFull;
        disk.set_fault(Some(Fault { after, reads: false, kind }));
        let mut failed = false;
        for part in 0..200 {
            failed = store.load(numbered(part * 100, (part + 1) * 100)).await.is_err();
            if failed {
                break;
            }
        }
        if failed {
            let next = store.load(numbered(0, 1)).await;
            assert!(next.is_err(), "what follows a failure is not loaded without what came before");
        }
        let finished = store.finish_load().await;
        disk.set_fault(None);
        if failed {
            assert!(finished.is_err(), "{after}: the failure is told");
        }
        store.abandon_load().await.expect("is given up");
        while put(&store, "other", "1").await.is_err() {
            // poll: until the engine has opened its file again.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let keys = loaded(&store).await;
        assert!(finished.is_err() || keys == 20_000, "{after}: {keys}");
        for part in (0..keys).step_by(100) {
            let delete = (part..keys.min(part + 100))
                .fold(Transaction::new(), |all, n| all.delete(format!("k{n:05}")));
            store.commit(delete).await.expect("deletes");
        }
    }
}

/// A disk that says how much room it has.
struct Small(Disk, Arc<AtomicU64>);

impl BackendFactory for Small {
    fn open(&self) -> std::io::Result<Box<dyn redb::StorageBackend>> {
        self.0.open()
    }
    fn free_bytes(&self) -> Option<u64> {
        Some(self.1.load(Ordering::SeqCst))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reserve_is_for_reading_and_deleting() {
    let free = Arc::new(AtomicU64::new(1 << 40));
    let options = Options::default();
    let reserve = options.reserve_bytes;
    let disk = Small(Disk::new(), free.clone());
    let store = EmbeddedStore::open_with_backend(disk, options).expect("opens");
    put(&store, "a", "1").await.expect("commits");
    free.store(reserve - 1, Ordering::SeqCst);
    assert!(store.status().await.expect("a status").full.is_some());
    let content = || Transaction::new().content().put("b", "1");
    let full = store.commit(content()).await;
    assert!(matches!(full, Err(StoreError::Full { .. })), "{full:?}");
    let full = store.load(numbered(0, 1)).await;
    assert!(matches!(full, Err(StoreError::Full { .. })), "{full:?}");
    store
        .commit(content().delete("none"))
        .await
        .expect_err("what deletes beside it is content too");
    let only_deleted = Transaction::new().content().delete("none");
    store.commit(only_deleted).await.expect("what only deletes makes room");
    // However little another program has left: it may fit into the file.
    free.store(0, Ordering::SeqCst);
    put(&store, "session", "1").await.expect("what is essential uses the reserve");
    store.lease_grant(Duration::from_secs(60)).await.expect("locks can be taken");
    let deleted = store.commit(Transaction::new().delete("a")).await.expect("may be deleted");
    store.compact(deleted.committed().expect("a revision")).await.expect("may be compacted");
    free.store(reserve, Ordering::SeqCst);
    store.commit(content()).await.expect("has room again");
    assert_eq!(store.status().await.expect("a status").full, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_cannot_be_opened_for_writing_is_read() {
    let disk = Disk::new();
    let store = EmbeddedStore::open_with_backend(disk.clone(), Options::default()).expect("opens");
    put(&store, "a", "1").await.expect("commits");
    drop(store);
    let kind = std::io::ErrorKind::StorageFull;
    disk.set_fault(Some(Fault { after: 0, reads: false, kind }));
    let store = EmbeddedStore::open_with_backend(disk.clone(), Options::default()).expect("reads");
    let kv = store.get(b"a", At::Latest).await.expect("reads").expect("is there");
    assert_eq!(&kv.value[..], b"1");
    let full = put(&store, "b", "1").await;
    assert!(matches!(full, Err(StoreError::Full { .. })), "{full:?}");
    disk.set_fault(None);
    let begin = std::time::Instant::now();
    while put(&store, "b", "2").await.is_err() {
        assert!(begin.elapsed() < Duration::from_secs(10), "writes again by itself");
        tokio::task::yield_now().await;
    }
    assert_eq!(store.get(b"b", At::Latest).await.expect("reads").expect("is there").value, "2");
}
