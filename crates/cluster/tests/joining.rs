//! Replicas that are let in, wait for each other, and are taken back before they ever started, with all that they got.

use std::{net::TcpListener, path::Path, sync::Arc, time::Duration};

use dtr_catalog::{
    Catalog, keys,
    records::{CertificateRecord, ClusterRecord, DATA_FORMAT, IdentitySource, RestartRecord},
};
use dtr_cluster::{
    Cluster, ClusterError, Ended, Engine, EtcdConfig, Folder, Founded, Identity, JoinRequest,
    Keeper, MemberConfig,
};
use dtr_store::SharedStore;
use dtr_types::{Clock as _, ClusterId, ReplicaId, SystemClock, SystemRandom};
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(30);

fn free() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

fn id(text: &str) -> ReplicaId {
    text.parse().expect("an id")
}

fn founded(id: &ReplicaId) -> Founded {
    Identity::found(id, "127.0.0.1", SystemClock.now()).expect("an identity")
}

/// The first replica, and its cluster.
async fn first(root: &Path) -> (Engine, Cluster, Catalog) {
    let (engine, cluster, catalog, _) = first_with_member(root).await;
    (engine, cluster, catalog)
}

async fn first_with_member(root: &Path) -> (Engine, Cluster, Catalog, MemberConfig) {
    let here = id("000000000001");
    let folder = Folder::new(root.join("etcd"));
    let founded = founded(&here);
    folder.write(&founded.identity).expect("written");
    let member = MemberConfig {
        host: "127.0.0.1".to_owned(),
        client_port: free(),
        peer_port: free(),
        joined: Vec::new(),
        token: "joining".to_owned(),
        quota_bytes: None,
    };
    let config = EtcdConfig { member: Some(member.clone()), endpoints: Vec::new() };
    let engine = Engine::open(&folder, &config, &here).await.expect("started");
    engine.ready(PATIENCE).await.expect("answers");
    let store: SharedStore = Arc::clone(engine.store()) as _;
    let catalog = Catalog::new(store, Arc::new(SystemClock), Arc::new(SystemRandom));
    for record in founded.records(catalog.now()) {
        catalog.put(&record).await.expect("put");
    }
    let record = ClusterRecord {
        id: ClusterId::random(&SystemRandom),
        data_format: DATA_FORMAT,
        created_at: catalog.now(),
        created_by: "test".to_owned(),
        identity: IdentitySource::BuiltIn,
        restored_from: None,
    };
    catalog.put(&record).await.expect("put");
    let options = dtr_blobs::Options::new(Arc::new(SystemClock), Arc::new(SystemRandom));
    let blobs = dtr_blobs::FileStorage::open(&root.join("blobs"), options).await;
    let blobs = Arc::new(blobs.expect("a storage"));
    let cluster = Cluster::new(catalog.clone(), blobs, &engine, here);
    (engine, cluster, catalog, member)
}

fn request(who: &str) -> JoinRequest {
    JoinRequest {
        replica_id: id(who),
        host: "127.0.0.1".to_owned(),
        client_port: free(),
        peer_port: free(),
        public_key: Identity::new_key().expect("a key").public,
        data_format: DATA_FORMAT,
        unsafe_join: false,
        now: None,
    }
}

fn refusal<T>(answer: Result<T, ClusterError>) -> String {
    match answer {
        Err(ClusterError::Refused(why)) => why,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it was not refused"),
    }
}

async fn learners(cluster: &Cluster) -> usize {
    let members = cluster.members().await.expect("a list");
    members.iter().filter(|member| member.facts.learner).count()
}

async fn certificates(catalog: &Catalog, prefix: &str) -> Vec<CertificateRecord> {
    catalog.all(format!("cert/{prefix}").as_bytes()).await.expect("a list")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_with_another_clock_does_not_come_in() {
    let dir = tempfile::tempdir().expect("a folder");
    let (engine, cluster, catalog) = first(dir.path()).await;
    let hours = Duration::from_secs(6 * 3600);
    for (now, way) in [
        (catalog.now().plus(hours), "h 59 min ahead of"),
        (catalog.now().minus(hours), "6 h behind"),
    ] {
        let wrong = JoinRequest { now: Some(now), ..request("000000000002") };
        let why = refusal(cluster.admit(&wrong).await);
        assert!(why.contains("the clock of the machine that wants to join"), "{why}");
        assert!(why.contains(way) || why.contains("6 h ahead of"), "{why}");
    }
    assert_eq!(learners(&cluster).await, 0, "nothing was changed");
    let near = catalog.now().plus(Duration::from_secs(20));
    let right = JoinRequest { now: Some(near), ..request("000000000002") };
    cluster.admit(&right).await.expect("let in");
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_let_in_is_waited_for() {
    let dir = tempfile::tempdir().expect("a folder");
    let (engine, cluster, _) = first(dir.path()).await;
    // Of two at the same moment one is let in, and the other told to come again.
    let (one, other) = (request("000000000002"), request("000000000003"));
    let answers = tokio::join!(cluster.admit(&one), cluster.admit(&other));
    let (come, waits) = match answers {
        (Ok(_), refused) => {
            assert!(refusal(refused).contains("one joins at a time"));
            (one, other)
        }
        (refused, Ok(_)) => {
            assert!(refusal(refused).contains("one joins at a time"));
            (other, one)
        }
        (one, other) => panic!("{} {}", refusal(one), refusal(other)),
    };
    assert_eq!(learners(&cluster).await, 1);
    // It has not started yet, and keeps its place nevertheless.
    let why = refusal(cluster.admit(&waits).await);
    assert!(why.contains(come.replica_id.as_str()) && why.contains("dtr remove"), "{why}");
    // Its own answer was lost: it asks again.
    let again = cluster.admit(&come).await.expect("let in");
    assert_eq!(again.members.len(), 2);
    // Taken back before it ever started, it leaves the place to the other.
    let removal = cluster.remove(&come.replica_id).await.expect("removed");
    assert_eq!(removal.left, 1);
    assert_eq!(learners(&cluster).await, 0);
    cluster.admit(&waits).await.expect("let in");
    assert_eq!(learners(&cluster).await, 1);
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_the_restart_of_one_that_is_removed() {
    let dir = tempfile::tempdir().expect("a folder");
    let (engine, cluster, catalog) = first(dir.path()).await;
    let lost = request("000000000002");
    cluster.admit(&lost).await.expect("let in");
    let replicas = vec![lost.replica_id.clone(), id("000000000001")];
    let asked_at = catalog.now();
    let record = RestartRecord { replicas, drain_seconds: 0, asked_at };
    catalog.put(&record).await.expect("put");
    cluster.remove(&lost.replica_id).await.expect("removed");
    let listed = catalog.get(&keys::restart()).await.expect("an answer").expect("is there");
    assert_eq!(listed.value.replicas, [id("000000000001")]);
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_that_was_given_is_taken_back() {
    let dir = tempfile::tempdir().expect("a folder");
    let (engine, cluster, catalog) = first(dir.path()).await;
    let lost = request("000000000002");
    let mut given = Vec::new();
    for _ in 0..3 {
        given.push(cluster.admit(&lost).await.expect("let in").certificate);
    }
    assert_eq!(certificates(&catalog, "former-").await.len(), 2);
    cluster.remove(&lost.replica_id).await.expect("removed");
    let revoked = certificates(&catalog, "revoked-").await;
    let revoked: Vec<_> = revoked.into_iter().map(|record| record.certificate).collect();
    assert!(given.iter().all(|one| revoked.contains(one)), "{} of 3", revoked.len());
    assert!(certificates(&catalog, "former-").await.is_empty());
    engine.stop().await;
}

/// A repair makes an authority, writes it into the store, and is cut off before it is in the replica's files.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_that_a_repair_left_is_used() {
    let dir = tempfile::tempdir().expect("a folder");
    let (engine, cluster, catalog, member) = first_with_member(dir.path()).await;
    let here = id("000000000001");
    let next = founded(&here);
    for record in next.records(catalog.now()) {
        catalog.put(&record).await.expect("put");
    }
    let folder = engine.folder().clone();
    assert_ne!(folder.read().expect("read").ca, next.identity.ca);
    let keeper = Keeper::new(&cluster, &engine, Some(member.clone()), |_| true);
    let ended = tokio::time::timeout(PATIENCE, keeper.run(CancellationToken::new())).await;
    assert_eq!(ended, Ok(Ended::Restart));
    engine.stop().await;

    // Begun anew, it is what others that join are told to trust.
    assert_eq!(folder.read().expect("read").ca, next.identity.ca);
    let config = EtcdConfig { member: Some(member.clone()), endpoints: Vec::new() };
    let engine = Engine::open(&folder, &config, &here).await.expect("started");
    engine.ready(PATIENCE).await.expect("answers");
    let store: SharedStore = Arc::clone(engine.store()) as _;
    let catalog = Catalog::new(store, Arc::new(SystemClock), Arc::new(SystemRandom));
    let options = dtr_blobs::Options::new(Arc::new(SystemClock), Arc::new(SystemRandom));
    let blobs = dtr_blobs::FileStorage::open(&dir.path().join("blobs"), options).await;
    let cluster = Cluster::new(catalog, Arc::new(blobs.expect("a storage")), &engine, here);
    let admission = cluster.admit(&request("000000000002")).await.expect("let in");
    assert_eq!(admission.ca, next.identity.ca);
    // And it stays so.
    let keeper = Keeper::new(&cluster, &engine, Some(member), |_| true);
    let ended = tokio::time::timeout(Duration::from_secs(3), keeper.run(CancellationToken::new()));
    assert!(ended.await.is_err(), "nothing to do");
    engine.stop().await;
}
