//! A real etcd whose quota is reached: said in words, never past what a hold keeps, and mended as soon as that is possible.

use std::{net::TcpListener, path::Path, sync::Arc, time::Duration};

use dtr_catalog::Catalog;
use dtr_cluster::{Cluster, Engine, EtcdConfig, Folder, Identity, MemberConfig};
use dtr_store::{At, SharedStore, StoreError, Transaction, hold};
use dtr_types::{Clock as _, Random as _, ReplicaId, SeededRandom, SystemClock, SystemRandom};

const QUOTA: u64 = 16 << 20;
const PATIENCE: Duration = Duration::from_secs(30);

fn free() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

async fn engine(root: &Path, id: &ReplicaId) -> Engine {
    let folder = Folder::new(root.join("etcd"));
    let founded = Identity::found(id, "127.0.0.1", SystemClock.now()).expect("an identity");
    folder.write(&founded.identity).expect("written");
    let member = MemberConfig {
        host: "127.0.0.1".to_owned(),
        client_port: free(),
        peer_port: free(),
        joined: Vec::new(),
        token: "upkeep".to_owned(),
        quota_bytes: Some(QUOTA),
    };
    let config = EtcdConfig { member: Some(member), endpoints: Vec::new() };
    let engine = Engine::open(&folder, &config, id).await.expect("started");
    engine.ready(PATIENCE).await.expect("answers");
    engine
}

/// Writes the same few keys again and again until that is refused.
async fn fill(store: &SharedStore) -> StoreError {
    for n in 0..1000_u32 {
        let put = Transaction::new().put(format!("k{}", n % 4), vec![n as u8; 200_000]);
        if let Err(error) = store.commit(put).await {
            return error;
        }
    }
    panic!("nothing was refused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_quota_is_told_and_mended() {
    let dir = tempfile::tempdir().expect("a folder");
    let id: ReplicaId = "0123456789ab".parse().expect("an id");
    let engine = engine(dir.path(), &id).await;
    let store: SharedStore = Arc::clone(engine.store()) as _;
    let catalog = Catalog::new(Arc::clone(&store), Arc::new(SystemClock), Arc::new(SystemRandom));
    let options = dtr_blobs::Options::new(Arc::new(SystemClock), Arc::new(SystemRandom));
    let blobs = dtr_blobs::FileStorage::open(&dir.path().join("blobs"), options).await;
    let cluster = Cluster::new(catalog, Arc::new(blobs.expect("a storage")), &engine, id);

    cluster.keep_up().await.expect("nothing to do");
    assert_eq!(cluster.trouble(), None);
    assert!(cluster.leads().await, "the only one");

    // While a backup reads all of it, nothing can be given up: it is told, and stays.
    let lifetime = Duration::from_secs(600);
    let held = hold::take(&*store, &SystemClock, &SystemRandom, "backup", lifetime).await;
    let held = held.expect("a hold");
    let refused = fill(&store).await;
    assert!(matches!(refused, StoreError::Full { .. }), "{refused}");
    cluster.keep_up().await.expect("tried");
    let told = cluster.trouble().expect("something is wrong");
    assert!(told.contains("quota of etcd is full") && told.contains("--etcd-quota-mib"), "{told}");
    store.get(b"k0", At::Revision(held.revision)).await.expect("still kept for the backup");
    assert!(store.commit(Transaction::new().put("k0", "x")).await.is_err(), "still full");

    // The backup has ended; its hold goes although the quota is reached.
    hold::release(&*store, &held.id).await.expect("released");
    cluster.keep_up().await.expect("mended");
    assert_eq!(cluster.trouble(), None);
    store.commit(Transaction::new().put("k0", "x")).await.expect("there is room");
    let members = cluster.members().await.expect("a list");
    let size = members[0].status.as_ref().expect("answers").size_bytes;
    assert!(size < QUOTA / 4, "the file was written anew: {size}");
    engine.stop().await;
}

async fn push(store: &SharedStore, n: u32) -> Result<(), StoreError> {
    let mut value = vec![0; 200_000];
    SeededRandom::new(n.into()).fill(&mut value);
    let put = Transaction::new().content().put(format!("m{n:04}"), value);
    store.commit(put).await.map(drop)
}

/// Content stops before etcd does; all else goes on, and makes the room for more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_leaves_room_for_what_is_essential() {
    let dir = tempfile::tempdir().expect("a folder");
    let id: ReplicaId = "0123456789ab".parse().expect("an id");
    let engine = engine(dir.path(), &id).await;
    let store: SharedStore = Arc::clone(engine.store()) as _;
    let catalog = Catalog::new(Arc::clone(&store), Arc::new(SystemClock), Arc::new(SystemRandom));
    let options = dtr_blobs::Options::new(Arc::new(SystemClock), Arc::new(SystemRandom));
    let blobs = dtr_blobs::FileStorage::open(&dir.path().join("blobs"), options).await;
    let cluster = Cluster::new(catalog, Arc::new(blobs.expect("a storage")), &engine, id);

    // Many at once, as of several clients.
    let mut pushed = 0;
    let refused = loop {
        assert!(pushed < 400, "nothing was refused");
        let eight = (pushed..pushed + 8).map(|n| push(&store, n));
        let answers = futures_util::future::join_all(eight).await;
        pushed += 8;
        if let Some(refused) = answers.into_iter().find_map(Result::err) {
            break refused;
        }
    };
    assert!(matches!(refused, StoreError::Full { .. }), "{refused}");
    for n in 0..20 {
        let again = push(&store, 1_000 + n).await;
        assert!(
            matches!(again, Err(StoreError::Full { .. })),
            "it does not come and go: {again:?}"
        );
    }
    assert!(store.status().await.expect("a status").full.is_some());
    cluster.look().await;
    let told = cluster.trouble().expect("something is to be done");
    assert!(told.contains("pushes are refused") && told.contains("--restart"), "{told}");
    assert!(!told.contains("NOSPACE"), "{told}");
    cluster.quota_saved(Some(4 * QUOTA));
    cluster.look().await;
    let told = cluster.trouble().expect("something is to be done");
    assert!(told.contains("64 MiB is saved and waits for the restart"), "{told}");

    // What an operator and the replicas do meanwhile.
    let lifetime = Duration::from_secs(600);
    let held = hold::take(&*store, &SystemClock, &SystemRandom, "backup", lifetime).await;
    hold::release(&*store, &held.expect("a hold").id).await.expect("released");
    for n in 0..200 {
        store.commit(Transaction::new().put("beat", format!("{n}"))).await.expect("a heartbeat");
    }
    for n in 0..pushed {
        let delete = Transaction::new().delete(format!("m{n:04}")).put(format!("event{n}"), "x");
        store.commit(delete).await.expect("a deletion with its event");
    }
    let begin = std::time::Instant::now();
    loop {
        cluster.keep_up().await.expect("the file is written anew");
        if cluster.trouble().is_none() {
            break;
        }
        assert!(begin.elapsed() < PATIENCE, "{:?}", cluster.trouble());
        store.commit(Transaction::new().put("beat", "x")).await.expect("a heartbeat");
        // poll: until etcd counts what was given up, which it does at its next commit
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    push(&store, 2_000).await.expect("there is room");
    engine.stop().await;
}
