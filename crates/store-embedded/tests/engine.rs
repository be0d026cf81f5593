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
    let full = put(&store, "b", "1").await;
    assert!(matches!(full, Err(StoreError::Full { .. })), "{full:?}");
    let deleted = store.commit(Transaction::new().delete("a")).await.expect("may be deleted");
    store.compact(deleted.committed().expect("a revision")).await.expect("may be compacted");
    free.store(reserve, Ordering::SeqCst);
    put(&store, "b", "1").await.expect("has room again");
}
