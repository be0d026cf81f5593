//! A survivor's data under an etcd of its own: that nobody else notices, and what an interruption leaves.

use std::{net::TcpListener, path::Path, sync::Arc, time::Duration};

use dtr_cluster::{Engine, EtcdConfig, Folder, Identity, MemberConfig, against_going_alone};
use dtr_store::{At, SharedStore, Transaction};
use dtr_types::{Clock as _, ReplicaId, SystemClock};

const PATIENCE: Duration = Duration::from_secs(30);

fn free() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

fn config() -> EtcdConfig {
    let member = MemberConfig {
        host: "127.0.0.1".to_owned(),
        client_port: free(),
        peer_port: free(),
        joined: Vec::new(),
        token: "alone".to_owned(),
        quota_bytes: None,
    };
    EtcdConfig { member: Some(member), endpoints: Vec::new() }
}

fn folder(root: &Path, id: &ReplicaId) -> Folder {
    let folder = Folder::new(root.join("etcd"));
    let founded = Identity::found(id, "127.0.0.1", SystemClock.now()).expect("an identity");
    folder.write(&founded.identity).expect("written");
    folder
}

fn store(engine: &Engine) -> SharedStore {
    Arc::clone(engine.store()) as _
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_looked_at_is_reached_by_nobody() {
    let dir = tempfile::tempdir().expect("a folder");
    let id: ReplicaId = "0123456789ab".parse().expect("an id");
    let (folder, config) = (folder(dir.path(), &id), config());
    assert_eq!(against_going_alone(&folder, &config).await.expect("asked"), None, "none runs");
    let engine = Engine::open(&folder, &config, &id).await.expect("started");
    engine.ready(PATIENCE).await.expect("answers");
    store(&engine).commit(Transaction::new().put("k", "1")).await.expect("committed");

    // It lives, so nobody goes on alone.
    let why = against_going_alone(&folder, &config).await.expect("asked").expect("a reason");
    assert!(why.contains("majority of the replicas answers"), "{why}");

    // Even beside the member itself, whose ports, ids and data it has, a copy is opened without disturbing it.
    let copy = folder.copied().expect("copied");
    let alone = Engine::open_alone(&copy, &config, &id).await.expect("started");
    alone.ready(PATIENCE).await.expect("answers");
    let found = store(&alone).get(b"k", At::Latest).await.expect("an answer").expect("is there");
    assert_eq!(found.value, "1");
    store(&alone).commit(Transaction::new().put("k", "2")).await.expect("committed");
    let endpoints = alone.store().maintenance().endpoints();
    let url = endpoints.first().expect("one");
    assert!(url.starts_with("https://127.0.0.1:"), "{url}");
    // Who has a certificate of the cluster is nobody to it.
    let member = config.member.clone().expect("one");
    let elsewhere = EtcdConfig { member: Some(member), endpoints: vec![url.clone()] };
    let own = store(&engine);
    own.commit(Transaction::new().put("l", "3")).await.expect("the member goes on");
    engine.stop().await;
    let why = against_going_alone(&folder, &elsewhere).await.expect("asked").expect("a reason");
    assert!(why.contains("is not lost"), "{why}");
    alone.stop().await;
    assert!(!folder.root().join("apart").exists(), "its certificates are gone");

    // One that was killed while it looked leaves nothing that matters.
    std::fs::create_dir_all(folder.root().join("apart")).expect("made");
    let engine = Engine::open(&folder, &config, &id).await.expect("started");
    engine.ready(PATIENCE).await.expect("answers");
    assert!(!copy.data().exists() && !folder.root().join("apart").exists());
    let found = store(&engine).get(b"k", At::Latest).await.expect("an answer").expect("is there");
    assert_eq!(found.value, "1", "what was looked at is as it was");
    engine.stop().await;
}

#[test]
fn certificates_are_exchanged_as_one() {
    let dir = tempfile::tempdir().expect("a folder");
    let id: ReplicaId = "0123456789ab".parse().expect("an id");
    let folder = folder(dir.path(), &id);
    let before = folder.read().expect("read");
    let other = Folder::new(dir.path().join("other"));
    let found = || Identity::found(&id, "127.0.0.1", SystemClock.now()).expect("an identity");
    let next = found().identity;
    other.write(&next).expect("written");
    // Cut off before all of it was there: nothing has changed.
    std::fs::create_dir(folder.root().join(".next")).expect("made");
    std::fs::copy(other.root().join("ca.pem"), folder.root().join(".next/ca.pem")).expect("copied");
    assert_eq!(folder.read().expect("read"), before);
    // Cut off after one of them had taken its place: the next start finishes it, here the next exchange.
    std::fs::rename(other.root(), folder.root().join("next")).expect("moved");
    std::fs::rename(folder.root().join("next/ca.pem"), folder.root().join("ca.pem"))
        .expect("moved");
    assert_eq!(folder.read().expect("read"), next);
    let third = found().identity;
    folder.write(&third).expect("written");
    assert_eq!(folder.read().expect("read"), third);
}
