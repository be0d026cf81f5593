//! What is this engine's own: its file, and its behaviour when the disk fails.

use std::{os::unix::fs::PermissionsExt as _, sync::Arc};

use dtr_store::{At, Outcome, Store, StoreError, Transaction};
use dtr_store_embedded::{
    EmbeddedStore, Options,
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
