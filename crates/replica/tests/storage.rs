//! The mark of the blob storage: what is not the storage of this registry, or is no longer, is not written to, and whoever
//! asks is told why.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use dtr_blobs::BlobError;
use dtr_catalog::{Catalog, keys, records::BlobRecord};
use dtr_replica::{
    DataDir, DestroyError, IdentityOptions, InstallError, MarkError, Opened, ReplicaConfig,
    ReplicaOptions, ServeError, StorageConfig, bind, check_copy, destroy, install, open,
    plan_destroy,
};
use dtr_store::Transaction;
use dtr_store_embedded::EmbeddedStore;
use dtr_transport::Shutdown;
use dtr_types::{Clock as _, Digest, NotOurs, Secret, StorageMark, SystemClock, SystemRandom};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

struct World {
    folder: tempfile::TempDir,
    dir: DataDir,
}

impl World {
    async fn installed() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = DataDir::new(folder.path().join("data"));
        let world = Self { folder, dir };
        world.install("data").await.expect("installed");
        world
    }

    async fn install(&self, name: &str) -> Result<(), InstallError> {
        self.install_over(name, false).await
    }

    async fn install_over(&self, name: &str, take_over_storage: bool) -> Result<(), InstallError> {
        let options = ReplicaOptions {
            id: None,
            https_port: 0,
            http_port: 0,
            listen_address: [127, 0, 0, 1].into(),
            plain_http: Some("127.0.0.1:0".parse().expect("an address")),
            trusted_proxies: Vec::new(),
            external_url: None,
            node: "node".to_owned(),
            certificate: None,
            store: Default::default(),
            storage: StorageConfig::Filesystem { root: Some(self.share()) },
            take_over_storage,
            log_level: "info".to_owned(),
            log_format: "text".to_owned(),
        };
        let identity = IdentityOptions::BuiltIn {
            admin: "admin".parse().expect("a name"),
            password: Secret::new("a-password-of-a-test"),
        };
        install(&DataDir::new(self.folder.path().join(name)), &options, &identity).await.map(drop)
    }

    fn share(&self) -> PathBuf {
        self.folder.path().join("share")
    }

    fn mark_file(&self) -> PathBuf {
        self.share().join("dtr-storage.json")
    }

    fn mark(&self) -> StorageMark {
        StorageMark::parse(&fs::read(self.mark_file()).expect("reads")).expect("a mark")
    }

    fn config(&self) -> ReplicaConfig {
        ReplicaConfig::load(&self.dir).expect("reads")
    }

    fn catalog(&self) -> Catalog {
        let limit = Instant::now() + Duration::from_secs(10);
        let store = loop {
            let path = self.dir.store_file();
            match EmbeddedStore::open(&path, dtr_store_embedded::Options::default()) {
                Ok(store) => break store,
                Err(error) => assert!(Instant::now() < limit, "{error}"),
            }
            // poll: what was dropped ends a moment later
            std::thread::sleep(Duration::from_millis(20));
        };
        Catalog::new(store, Arc::new(SystemClock), Arc::new(SystemRandom))
    }

    /// Opens it, as soon as whoever had it before has let it go.
    async fn open(&self) -> Result<Opened, ServeError> {
        let limit = Instant::now() + Duration::from_secs(10);
        loop {
            match open(&self.dir, &self.config()).await {
                Err(ServeError::Store(error)) if Instant::now() < limit => {
                    assert!(error.to_string().contains("another process"), "{error}");
                    // poll: what was dropped ends a moment later
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                other => return other,
            }
        }
    }

    /// What a version without marks left.
    async fn without_marks(&self) {
        let gone = Transaction::new().delete(keys::storage());
        self.catalog().commit(gone).await.expect("deleted");
        fs::remove_file(self.mark_file()).expect("removed");
    }

    /// Serves while `what` is done with its plain address.
    async fn serving<F: Future>(&self, what: impl FnOnce(SocketAddr) -> F) -> F::Output {
        let serving = bind(&self.dir, &self.config(), "node").await.expect("bound");
        let plain = serving.addresses()["plain"];
        let shutdown = Shutdown::default();
        let running = tokio::spawn(serving.run(shutdown.clone()));
        let done = what(plain).await;
        shutdown.drain.cancel();
        running.await.expect("ends well");
        done
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("reads");
    entries.map(|e| e.expect("reads").file_name().to_string_lossy().into_owned()).collect()
}

/// The status, and the whole answer.
async fn ask(plain: SocketAddr, method: &str, path: &str) -> (u16, String) {
    let mut stream = tokio::net::TcpStream::connect(plain).await.expect("connects");
    let head = "Host: dtr\r\nConnection: close\r\nContent-Length: 0\r\n";
    let request = format!("{method} {path} HTTP/1.1\r\n{head}\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answers");
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.expect("a status"), answer)
}

const PUSH: &str = "/v2/admin/app/blobs/uploads/";

/// Asks until that status comes: what was seen of a storage is remembered for two seconds.
async fn until(plain: SocketAddr, method: &str, path: &str, wanted: u16) -> String {
    let limit = Instant::now() + Duration::from_secs(20);
    loop {
        let (status, answer) = ask(plain, method, path).await;
        if status == wanted {
            return answer;
        }
        assert!(Instant::now() < limit, "never {wanted}: {answer}");
        // poll: until what is remembered is forgotten
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_share_that_is_not_mounted_is_not_taken_for_the_storage() {
    let world = World::installed().await;
    let aside = world.folder.path().join("unmounted");
    fs::rename(world.share(), &aside).expect("moved");
    fs::create_dir(world.share()).expect("made");
    let (share, unmounted) = (world.share(), aside.clone());
    world
        .serving(async |plain| {
            // It takes part in everything else, so that the others have their majority.
            for (method, path) in [("GET", "/_ping"), ("POST", PUSH)] {
                let answer = until(plain, method, path, 503).await;
                assert!(answer.contains("the share is not mounted"), "{answer}");
            }
            assert_eq!(ask(plain, "GET", "/v2/").await.0, 401);
            assert_eq!(names(&share), Vec::<String>::new(), "nothing is written there");
            fs::remove_dir(&share).expect("removed");
            fs::rename(&unmounted, &share).expect("mounted");
            until(plain, "GET", "/_ping", 200).await;
            // Whoever pushes is asked who he is again.
            until(plain, "POST", PUSH, 401).await;
            // And away again, while it serves.
            fs::rename(&share, &unmounted).expect("moved");
            fs::create_dir(&share).expect("made");
            until(plain, "GET", "/_ping", 503).await;
            until(plain, "POST", PUSH, 503).await;
            assert_eq!(names(&share), Vec::<String>::new(), "nothing is written there");
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_never_land_where_the_share_was() {
    let world = World::installed().await;
    let opened = world.open().await.expect("opens");
    let (digest, body) = (Digest::of(b"hello"), || dtr_blobs::body("hello"));
    opened.blobs.put(&digest, None, body()).await.expect("stored");
    // Even where the folders are there that a storage has.
    fs::rename(world.share(), world.folder.path().join("unmounted")).expect("moved");
    fs::create_dir_all(world.share().join("uploads")).expect("made");
    let refused = opened.blobs.put(&digest, None, body()).await;
    assert!(matches!(refused, Err(BlobError::NotOurs { .. })), "{refused:?}");
    let read = opened.blobs.read(&digest, None).await;
    assert!(matches!(read, Err(BlobError::NotOurs { .. })), "it is not gone: {read:?}");
    assert_eq!(names(&world.share()), ["uploads"]);
    opened.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_whose_storage_was_taken_over_changes_nothing() {
    let world = World::installed().await;
    let ours = world.mark();
    assert_eq!(ours.generation, 1);
    world
        .serving(async |plain| {
            until(plain, "POST", PUSH, 401).await;
            let theirs = ours.next(&dtr_types::ClusterId::random(&SystemRandom), &SystemRandom);
            fs::write(world.mark_file(), theirs.to_text()).expect("written");
            let answer = until(plain, "GET", "/_ping", 503).await;
            assert!(answer.contains("another cluster has taken it over"), "{answer}");
            assert!(!answer.contains(theirs.cluster.as_str()), "open to everybody: {answer}");
            for (method, path) in [
                ("POST", PUSH),
                ("PUT", "/v2/admin/app/manifests/latest"),
                ("DELETE", "/api/v0/repositories/admin/app"),
                ("POST", "/api/v0/gc"),
                ("POST", "/enzi/v0/accounts"),
            ] {
                let answer = until(plain, method, path, 503).await;
                assert!(answer.contains("has taken it over"), "{method} {path}: {answer}");
            }
            // Reading goes on, and so does what helps.
            assert_eq!(ask(plain, "GET", "/v2/").await.0, 401);
            assert_eq!(ask(plain, "POST", "/api/v0/backups").await.0, 401);
            assert_ne!(ask(plain, "POST", "/enzi/v0/id/login").await.0, 503);
        })
        .await;
    let opened = world.open().await.expect("opens");
    let refused = opened.blobs.confirm().await;
    let is_taken =
        matches!(&refused, Err(BlobError::NotOurs { why: NotOurs::TakenOver { .. }, .. }));
    assert!(is_taken, "{refused:?}");
    opened.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_storage_is_marked_once() {
    let world = World::installed().await;
    // Of something stored, so that the storage can be told.
    let digest = Digest::of(b"hello");
    let opened = world.open().await.expect("opens");
    opened.blobs.put(&digest, None, dtr_blobs::body("hello")).await.expect("stored");
    let stored_at = SystemClock.now();
    opened.catalog.put(&BlobRecord { digest, size: 5, stored_at }).await.expect("put");
    drop(opened);
    world.without_marks().await;
    // Not where nothing of the content is.
    let aside = world.folder.path().join("unmounted");
    fs::rename(world.share(), &aside).expect("moved");
    fs::create_dir(world.share()).expect("made");
    let refused = world.open().await.map(drop);
    assert!(matches!(refused, Err(ServeError::Storage(_))), "{refused:?}");
    assert_eq!(names(&world.share()), Vec::<String>::new());
    fs::remove_dir(world.share()).expect("removed");
    fs::rename(&aside, world.share()).expect("mounted");
    world.open().await.expect("opens").close().await;
    let mark = world.mark();
    world.open().await.expect("opens").close().await;
    assert_eq!(world.mark(), mark);
    // From then on a storage without it is another.
    fs::remove_file(world.mark_file()).expect("removed");
    let opened = world.open().await.expect("opens");
    assert!(opened.blobs.confirm().await.is_err());
    assert!(!world.mark_file().exists());
}

/// A start that was cut off between the mark and the record of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mark_without_its_record_is_our_own() {
    let world = World::installed().await;
    let mark = world.mark();
    let gone = Transaction::new().delete(keys::storage());
    world.catalog().commit(gone).await.expect("deleted");
    let opened = world.open().await.expect("opens");
    opened.blobs.confirm().await.expect("ours");
    drop(opened);
    assert_eq!(world.mark(), mark);
    // That of another cluster is not.
    let theirs = mark.next(&dtr_types::ClusterId::random(&SystemRandom), &SystemRandom);
    fs::write(world.mark_file(), theirs.to_text()).expect("written");
    let gone = Transaction::new().delete(keys::storage());
    world.catalog().commit(gone).await.expect("deleted");
    let refused = world.open().await.map(drop);
    assert!(matches!(refused, Err(ServeError::Storage(_))), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_content_of_another_registry_is_left_to_it() {
    let world = World::installed().await;
    let mark = world.mark();
    let refused = world.install("other").await;
    assert!(matches!(refused, Err(InstallError::Mark(MarkError::InUse { .. }))), "{refused:?}");
    assert_eq!(world.mark(), mark);
    // Also when it has become another's since.
    let theirs = mark.next(&dtr_types::ClusterId::random(&SystemRandom), &SystemRandom);
    fs::write(world.mark_file(), theirs.to_text()).expect("written");
    let refused = destroy(&plan_destroy(&world.dir, false).expect("planned")).await;
    assert!(matches!(refused, Err(DestroyError::NotOurs { .. })), "{refused:?}");
    assert!(world.share().join("docker").is_dir() && world.dir.config_file().exists());
    fs::write(world.mark_file(), mark.to_text()).expect("written");
    // With the registry its mark goes, and the storage may be another's.
    destroy(&plan_destroy(&world.dir, false).expect("planned")).await.expect("destroyed");
    world.install("other").await.expect("installed");
    assert_ne!(world.mark().storage, mark.storage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_copy_takes_the_place_of_a_storage() {
    let world = World::installed().await;
    let now = world.config().storage;
    let elsewhere = world.folder.path().join("copy");
    let new = StorageConfig::Filesystem { root: Some(elsewhere.clone()) };
    fs::create_dir(&elsewhere).expect("made");
    let refused = check_copy(&world.dir, &now, &new).await;
    assert!(matches!(refused, Err(MarkError::NotACopy { .. })), "{refused:?}");
    let other = StorageMark::first(&world.mark().cluster, &SystemRandom);
    fs::write(elsewhere.join("dtr-storage.json"), other.to_text()).expect("written");
    let refused = check_copy(&world.dir, &now, &new).await;
    assert!(matches!(refused, Err(MarkError::NotACopy { .. })), "{refused:?}");
    fs::copy(world.mark_file(), elsewhere.join("dtr-storage.json")).expect("copied");
    check_copy(&world.dir, &now, &new).await.expect("a copy");
    // The one that is used was lost.
    fs::remove_dir_all(world.share()).expect("removed");
    check_copy(&world.dir, &now, &new).await.expect("a copy");
}

/// What a distribution registry, or somebody without marks, has stored would be removed by the sweep, piece by piece.
#[tokio::test]
async fn the_content_of_others_is_taken_only_on_request() {
    for with_repositories in [true, false] {
        let folder = tempfile::tempdir().expect("a folder");
        let world = World { dir: DataDir::new(folder.path().join("data")), folder };
        let registry = world.share().join("docker/registry/v2");
        let hex = dtr_types::Digest::of(b"theirs").hex();
        let blob = registry.join("blobs/sha256").join(&hex[..2]).join(hex.as_str());
        fs::create_dir_all(&blob).expect("made");
        fs::write(blob.join("data"), b"theirs").expect("written");
        if with_repositories {
            fs::create_dir_all(registry.join("repositories/library/app/_layers")).expect("made");
        }
        let refused = world.install("data").await.expect_err("refused").to_string();
        let what = if with_repositories { "distribution registry" } else { "without the mark" };
        assert!(refused.contains(what) && refused.contains("--take-over-storage"), "{refused}");
        assert_eq!(names(&world.share()), ["docker"], "nothing is made there");
        assert!(!world.dir.root().exists() || names(world.dir.root()).is_empty());
        world.install_over("data", true).await.expect("taken over");
        assert_eq!(fs::read(blob.join("data")).expect("kept"), b"theirs");
    }
}
