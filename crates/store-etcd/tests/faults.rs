//! What etcd may meet besides crashes: a full quota, a past that is gone, strangers, members that accept too little, or
//! connections and say nothing; and its snapshots.

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use dtr_store::{At, Store as _, StoreError, Transaction, together::as_known};
use dtr_store_etcd::{AdminError, AlarmKind, ConnectError, EtcdStore, Tls};
use futures_util::future::join_all;
use rustix::process::Signal;
use support::{Etcd, PATIENCE, Three, must_put, open, pki::Pki, proxy::Proxy, put, send, until};
use tokio::time::Instant;

/// The quota reached: said clearly, what makes room goes on, and afterwards everything does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_etcd_says_so_and_recovers() {
    let etcd = Etcd::start_with(|options| options.quota_bytes = 4 << 20).await;
    let (store, url) = (etcd.store().await, etcd.url());
    let maintenance = store.maintenance();
    must_put(&store, "small", "1").await;
    let mut refused = None;
    for n in 0..200 {
        let t = Transaction::new().put(format!("large/{}", n % 4), vec![n as u8; 100_000]);
        if let Err(error) = store.commit(t).await {
            refused = Some(error);
            break;
        }
    }
    let Some(StoreError::Full { reason }) = &refused else { panic!("{refused:?}") };
    assert!(reason.contains("NOSPACE"), "{reason}");
    let alarms = maintenance.alarms().await.expect("an answer");
    let member = maintenance.status(&url).await.expect("an answer");
    assert_eq!(alarms.len(), 1);
    assert_eq!((alarms[0].kind, alarms[0].member_id), (AlarmKind::NoSpace, member.member_id));
    assert!(member.errors.iter().any(|error| error.contains("NOSPACE")), "{member:?}");
    // Reading goes on, writing does not, and says the same.
    assert!(store.get(b"small", At::Latest).await.expect("an answer").is_some());
    assert!(matches!(put(&store, "small", "2").await, Err(StoreError::Full { .. })));
    let latest = store.revision().await.expect("a revision");
    maintenance.compact_and_wait(&url, latest).await.expect("is compacted");
    maintenance.defragment(&url).await.expect("is defragmented");
    maintenance.disarm(alarms[0]).await.expect("is disarmed");
    assert_eq!(maintenance.alarms().await.expect("an answer"), []);
    let after = maintenance.status(&url).await.expect("an answer");
    assert!(after.size_bytes < member.size_bytes / 2, "{member:?}, {after:?}");
    must_put(&store, "small", "3").await;
    let kept = store.get(b"small", At::Latest).await.expect("an answer").expect("is there");
    assert_eq!((&kept.value[..], kept.version), (&b"3"[..], 2));
}

/// A watch that is cut off while what it still has to tell is compacted says so; one that loses nothing goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_tells_what_it_cannot_tell_any_more() {
    let etcd = Etcd::start().await;
    let proxy = Proxy::to(etcd.address()).await;
    let mut options = etcd.options();
    options.endpoints = vec![proxy.url()];
    let (store, writer) = (open(&options).await, etcd.store().await);
    let first = must_put(&writer, "k", "1").await;
    let mut watch = store.watch(b"k", b"l", first).await.expect("a watch");
    let batch = watch.next().await.expect("goes on").expect("a batch");
    assert_eq!(batch.revision, first);
    // Cut off, without a loss.
    proxy.refuse(true);
    proxy.cut();
    let second = must_put(&writer, "k", "2").await;
    must_put(&writer, "k", "3").await;
    proxy.heal();
    for revision in [second, second.next()] {
        let batch = tokio::time::timeout(PATIENCE, watch.next()).await.expect("in time");
        assert_eq!(batch.expect("goes on").expect("a batch").revision, revision);
    }
    // Cut off, with one.
    proxy.refuse(true);
    proxy.cut();
    let missed = must_put(&writer, "k", "4").await;
    must_put(&writer, "k", "5").await;
    let last = must_put(&writer, "k", "6").await;
    writer.compact(last).await.expect("is compacted");
    proxy.heal();
    let told = tokio::time::timeout(PATIENCE, watch.next()).await.expect("in time");
    match told.expect("a last word") {
        Err(StoreError::Compacted { asked, oldest }) => {
            assert!(asked <= missed && oldest > missed && oldest <= last, "{asked}, {oldest}");
        }
        other => panic!("{other:?}"),
    }
    assert!(watch.next().await.is_none());
    // From there on, nothing is missing.
    let mut watch = store.watch(b"k", b"l", last).await.expect("a watch");
    let batch = tokio::time::timeout(PATIENCE, watch.next()).await.expect("in time");
    assert_eq!(batch.expect("goes on").expect("a batch").revision, last);
}

/// Who has a certificate of another authority gets nothing; and nothing is told to a member that has one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_get_nothing() {
    let etcd = Etcd::start().await;
    let store = etcd.store().await;
    must_put(&store, "secret", "1").await;
    let (ours, theirs) = (etcd.pki.client(), Pki::new().client());
    let stranger = Tls { ca: ours.ca.clone(), ..theirs.clone() };
    let misled = Tls { ca: theirs.ca.clone(), ..ours };
    for (tls, why) in [(stranger, "TLS|answer"), (misled, "certificate"), (theirs, "certificate")] {
        let mut options = etcd.options();
        options.tls = tls;
        options.timing.call = Duration::from_millis(500);
        let refused = EtcdStore::connect(&options, Duration::from_millis(500)).await;
        let Err(ConnectError::Unusable(StoreError::Unavailable { reason })) = refused else {
            panic!("let in: {:?}", refused.map(|store| store.cluster_id()))
        };
        assert!(why.split('|').any(|why| reason.contains(why)), "{reason}");
        let store = EtcdStore::new(&options).expect("good options");
        assert!(store.get(b"secret", At::Latest).await.is_err());
        assert!(put(&store, "secret", "2").await.is_err());
        assert!(store.watch(b"secret", b"", dtr_types::Revision(1)).await.is_err());
        assert!(store.members().list().await.is_err());
        assert!(store.maintenance().status(&etcd.url()).await.is_err());
    }
    let kept = store.get(b"secret", At::Latest).await.expect("an answer").expect("is there");
    assert_eq!(kept.version, 1);
}

/// Members that accept less than is configured here are refused at the start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_accept_less_are_refused() {
    let connect = async |etcd: &Etcd| EtcdStore::connect(&etcd.options(), PATIENCE).await;
    let etcd = Etcd::start_with(|options| options.txn_operations_max = 128).await;
    match connect(&etcd).await {
        Err(ConnectError::Unusable(StoreError::Invalid(why))) => {
            assert!(why.contains("--max-txn-ops"), "{why}");
        }
        other => panic!("{:?}", other.map(drop)),
    }
    let mut options = etcd.options();
    options.txn_operations_max = 128;
    EtcdStore::connect(&options, PATIENCE).await.expect("is as configured");
    let etcd = Etcd::start_with(|options| options.request_bytes_max = 512 * 1024).await;
    match connect(&etcd).await {
        Err(ConnectError::Unusable(error @ StoreError::TooLarge { .. })) => {
            assert!(error.to_string().contains("--max-request-bytes"), "{error}");
        }
        other => panic!("{:?}", other.map(drop)),
    }
    let mut options = etcd.options();
    options.request_bytes_max = 512 * 1024;
    EtcdStore::connect(&options, PATIENCE).await.expect("is as configured");
}

/// A snapshot is the member's file, whole, for nobody else to read; a file that is there is left alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_is_whole() {
    use std::os::unix::fs::PermissionsExt as _;
    let etcd = Etcd::start().await;
    let (store, url) = (etcd.store().await, etcd.url());
    for n in 0..20 {
        let t = Transaction::new().put(format!("k/{n}"), vec![b'x'; 50_000]);
        store.commit(t).await.expect("an answer").committed().expect("is committed");
    }
    let latest = store.revision().await.expect("a revision");
    let path = etcd.dir.path().join("snapshot.db");
    let status = store.maintenance().snapshot(&url, &path).await.expect("a snapshot");
    assert!(status.revision >= latest && status.sha256.len() == 64, "{status:?}");
    let file = std::fs::read(&path).expect("is there");
    assert_eq!(status.size_bytes, file.len() as u64);
    assert_eq!(file.len() % 4096, 32, "pages and a hash");
    // The magic number of the file's format, in its first page.
    assert_eq!(file[16..20], 0xED0C_DAED_u32.to_le_bytes());
    let mode = std::fs::metadata(&path).expect("is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    match store.maintenance().snapshot(&url, &path).await {
        Err(AdminError::File { source, .. }) => {
            assert_eq!(source.kind(), std::io::ErrorKind::AlreadyExists);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(std::fs::read(&path).expect("is there"), file);
}

/// More than there are slots for commits.
const MANY: usize = 160;

/// Tries to write, many times at once; the longest that one took to be refused.
async fn all_refused(store: &EtcdStore) -> Duration {
    let writes = (0..MANY).map(async |n| {
        let began = Instant::now();
        let refused = put(store, &format!("w/{n}"), "1").await;
        assert!(
            matches!(refused, Err(StoreError::Unavailable { .. } | StoreError::Unknown { .. })),
            "{refused:?}"
        );
        began.elapsed()
    });
    join_all(writes).await.into_iter().max().expect("some")
}

/// Two of three take connections and say nothing: once that is known, writes are refused at once, however many; what is known
/// is read at once all the time; and when the two go on, so does all else, by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_nobody_waits() {
    let three = Three::start_quick().await;
    let store = open(&three.options()).await;
    must_put(&store, "k", "1").await;
    let others = |signal| {
        for member in three.members[1..].iter().flatten() {
            send(member, signal);
        }
    };
    let stop = Arc::new(AtomicBool::new(false));
    let pulls = (0..8).map(|_| {
        let (store, stop) = (store.clone(), stop.clone());
        tokio::spawn(async move {
            let (mut longest, mut ticks) =
                (Duration::ZERO, tokio::time::interval(Duration::from_millis(20)));
            while !stop.load(Ordering::SeqCst) {
                ticks.tick().await;
                let began = Instant::now();
                let found = as_known(store.get(b"k", At::Latest)).await.expect("an answer");
                assert_eq!(found.expect("is there").value, "1");
                longest = longest.max(began.elapsed());
            }
            longest
        })
    });
    let pulls: Vec<_> = pulls.collect();
    others(Signal::STOP);
    let first = all_refused(&store).await;
    assert!(first < Duration::from_secs(15), "{first:?}");
    for _ in 0..3 {
        let refused = all_refused(&store).await;
        assert!(refused < Duration::from_millis(500), "{refused:?}");
        // As a pull by digest reads.
        let began = Instant::now();
        let latest = store.get(b"k", At::Latest).await;
        assert!(matches!(latest, Err(StoreError::Unavailable { .. })), "{latest:?}");
        let known = as_known(store.get(b"k", At::Latest)).await.expect("an answer");
        assert_eq!(known.expect("is there").value, "1");
        assert!(began.elapsed() < Duration::from_millis(300), "{:?}", began.elapsed());
    }
    others(Signal::CONT);
    let began = Instant::now();
    until("a write", async || put(&store, "k", "1").await.is_ok()).await;
    let back = began.elapsed();
    assert!(back < Duration::from_secs(3), "{back:?}");
    let found = store.get(b"k", At::Latest).await.expect("an answer").expect("is there");
    assert_eq!(found.value, "1");
    stop.store(true, Ordering::SeqCst);
    for pull in pulls {
        let longest = pull.await.expect("each is answered");
        assert!(longest < Duration::from_millis(500), "{longest:?}");
    }
}
