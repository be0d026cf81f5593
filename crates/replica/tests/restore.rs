//! Restores into folders of every kind: what is refused leaves every file as it was, what is done is never done twice, and
//! what makes way can be had back.

use std::{
    collections::BTreeMap,
    fs,
    io::Cursor,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use dtr_archive::{ArchiveWriter, Header, Product, SigningKey};
use dtr_catalog::{LinkCheck, PutManifest, keys, records::*};
use dtr_recovery::{BackupOptions, Exit};
use dtr_replica::{
    Admission, Before, DataDir, EtcdOptions, IdentityOptions, InstallError, Joining, Opened,
    Outcome, ReplicaConfig, ReplicaOptions, RestoreRequest, Restored, ServeError, StorageConfig,
    StoreOptions, UserCertificate, backup_offline, bind, destroy, install, open, plan_destroy,
    put_aside, restore,
};
use dtr_store::Transaction;
use dtr_transport::Shutdown;
use dtr_types::{
    ClusterId, Digest, Manifest, ReplicaId, RepositoryId, Secret, SystemRandom, Timestamp,
    media_types,
};

fn options() -> ReplicaOptions {
    ReplicaOptions {
        id: None,
        https_port: 0,
        http_port: 0,
        listen_address: [127, 0, 0, 1].into(),
        plain_http: None,
        trusted_proxies: Vec::new(),
        external_url: None,
        node: "node".to_owned(),
        certificate: None,
        store: Default::default(),
        storage: StorageConfig::Filesystem { root: None },
        take_over_storage: false,
        log_level: "info".to_owned(),
        log_format: "text".to_owned(),
    }
}

fn in_folder(root: PathBuf) -> ReplicaOptions {
    ReplicaOptions { storage: StorageConfig::Filesystem { root: Some(root) }, ..options() }
}

fn identity() -> IdentityOptions {
    IdentityOptions::BuiltIn {
        admin: "admin".parse().expect("a name"),
        password: Secret::new("a-password-of-a-test"),
    }
}

/// Opens it, as soon as whoever had it before has let it go.
async fn opened(dir: &DataDir) -> Opened {
    let limit = Instant::now() + Duration::from_secs(10);
    loop {
        match open(dir, &ReplicaConfig::load(dir).expect("reads")).await {
            Err(ServeError::Store(error)) if Instant::now() < limit => {
                assert!(error.to_string().contains("another process"), "{error}");
                // poll: what was dropped ends a moment later
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            other => return other.expect("opens"),
        }
    }
}

/// Every file below a folder and what it holds. The engine's file changes when it is only looked into.
fn tree(root: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut next = vec![root.to_owned()];
    while let Some(path) = next.pop() {
        if path.is_dir() {
            next.extend(fs::read_dir(&path).expect("reads").map(|e| e.expect("reads").path()));
            found.insert(path, None);
        } else {
            let engine = path.ends_with("store.redb");
            let content = if engine { Vec::new() } else { fs::read(&path).expect("reads") };
            found.insert(path, Some(content));
        }
    }
    found
}

/// A registry with an image, and its archives.
struct World {
    folder: tempfile::TempDir,
    dir: DataDir,
    archive: Vec<u8>,
    blob: Digest,
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = DataDir::new(folder.path().join("old"));
        install(&dir, &options(), &identity()).await.expect("installed");
        let registry = opened(&dir).await;
        let (catalog, now) = (&registry.catalog, Timestamp::from_millis(1_700_000_000_000));
        let admin = catalog.lookup_account(&"admin".parse().expect("a name")).await;
        let repository = Repository {
            id: RepositoryId::random(&SystemRandom),
            name: "admin/app".parse().expect("a name"),
            namespace: admin.expect("read").expect("there").value.id,
            namespace_is_org: false,
            visibility: Visibility::Private,
            short_description: String::new(),
            long_description: String::new(),
            immutable_tags: false,
            scan_on_push: false,
            tag_limit: 0,
            created_at: now,
        };
        catalog.create_repository(&repository, None).await.expect("made");
        let (blob, body) = (Digest::of(b"layer"), || dtr_blobs::body("layer"));
        registry.blobs.put(&blob, None, body()).await.expect("stored");
        let LinkCheck::Absent { removed } = catalog.check_link(&blob).await.expect("read") else {
            panic!("it is new");
        };
        let linked = catalog.link_new_blob(&repository.id, &blob, 5, removed, Transaction::new());
        assert!(linked.await.expect("linked"));
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","config":{{"mediaType":"a/b","digest":"{blob}","size":5}},"layers":[]}}"#,
            media_types::OCI_MANIFEST
        );
        let body = Bytes::from(text);
        let put = PutManifest {
            repository: &repository,
            digest: Digest::of(&body),
            manifest: &Manifest::parse(None, &body).expect("a manifest"),
            body: &body,
            tags: &["1".parse().expect("a tag")],
            author: "admin",
            author_id: None,
            platform: None,
            allow_sparse: false,
        };
        catalog.put_manifest(&put).await.expect("pushed");
        registry.close().await;
        let mut world = Self { folder, dir, archive: Vec::new(), blob };
        world.archive = world.backup(false).await;
        world
    }

    async fn backup(&self, with_images: bool) -> Vec<u8> {
        let mut how = BackupOptions::new(env!("CARGO_PKG_VERSION"));
        how.with_images = with_images;
        let limit = Instant::now() + Duration::from_secs(10);
        loop {
            let taken = Arc::new(std::sync::Mutex::new(Vec::new()));
            let kept = Arc::clone(&taken);
            let finish = move |archive: Vec<u8>| {
                *kept.lock().expect("a lock") = archive;
                Ok(())
            };
            match backup_offline(&self.dir, how.clone(), Vec::new(), finish).await {
                Ok(_) => return std::mem::take(&mut *taken.lock().expect("a lock")),
                Err(error) => assert!(Instant::now() < limit, "{error}"),
            }
            // poll: what was dropped ends a moment later
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn at(&self, name: &str) -> DataDir {
        DataDir::new(self.folder.path().join(name))
    }

    /// Is refused, with this exit code and these words, and nothing below the folder is different afterwards.
    async fn refused(
        &self,
        dir: &DataDir,
        options: &ReplicaOptions,
        request: RestoreRequest,
        archive: &[u8],
        exit: Exit,
        words: &[&str],
    ) {
        let before = tree(self.folder.path());
        let input = Box::new(Cursor::new(archive.to_vec()));
        let error = restore(dir, options, request, input).await.expect_err("refused");
        assert_eq!(error.exit(), exit, "{error}");
        let text = error.to_string();
        for word in words {
            assert!(text.contains(word), "{word:?} is not said in: {text}");
        }
        let after = tree(self.folder.path());
        let changed = after.iter().filter(|(path, now)| before.get(*path) != Some(now));
        let changed: Vec<_> = changed.map(|(path, _)| path).collect();
        let gone: Vec<_> = before.keys().filter(|path| !after.contains_key(*path)).collect();
        assert!(
            changed.is_empty() && gone.is_empty(),
            "{text}: changed {changed:?}, gone {gone:?}"
        );
    }
}

async fn restored(dir: &DataDir, request: RestoreRequest, archive: &[u8]) -> Restored {
    let input = Box::new(Cursor::new(archive.to_vec()));
    match restore(dir, &options(), request, input).await.expect("restored") {
        Outcome::Restored(restored) => *restored,
        Outcome::Before(before) => panic!("{before:?}"),
    }
}

fn empty_allowed() -> RestoreRequest {
    RestoreRequest { accept_empty_storage: true, ..RestoreRequest::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_changes_nothing_at_all() {
    let world = World::new().await;
    let images = world.backup(true).await;
    let fresh = || world.at("a/deep/new");
    let plain = RestoreRequest::default;
    let here = options();

    // The archive.
    let cut = &images[..images.len() - 600];
    let empty = world.at("empty");
    fs::create_dir(empty.root()).expect("made");
    for dir in [fresh(), empty.clone()] {
        for (archive, exit) in
            [(cut, Exit::Damaged), (&b""[..], Exit::Damaged), (b"\x1f\x8bx", Exit::Damaged)]
        {
            world.refused(&dir, &here, plain(), archive, exit, &[]).await;
        }
        let elsewhere = in_folder(world.folder.path().join("share/deep"));
        world.refused(&dir, &elsewhere, plain(), cut, Exit::Damaged, &[]).await;
        // A storage without content, however it was named.
        for options in [&here, &elsewhere] {
            let words = ["none of the 1 blobs", "--allow-empty-storage"];
            world.refused(&dir, options, plain(), &world.archive, Exit::Refused, &words).await;
            let looking = RestoreRequest { dry_run: true, ..plain() };
            world.refused(&dir, options, looking, &world.archive, Exit::Refused, &words).await;
        }
        let named = RestoreRequest { storage_of_archive: true, ..plain() };
        let words = ["--allow-empty-storage"];
        world.refused(&dir, &here, named, &world.archive, Exit::Refused, &words).await;
        let other = RestoreRequest {
            known: dtr_recovery::KnownKeys::only(&"0".repeat(64)).expect("an id"),
            ..plain()
        };
        world.refused(&dir, &here, other, &images, Exit::Refused, &["signed by key"]).await;
        let loaded =
            RestoreRequest { owner_map: "admin nobody".parse().expect("a map"), ..plain() };
        let words = ["nobody (named in the owner map)"];
        world.refused(&dir, &here, loaded, &images, Exit::Refused, &words).await;
        let odd = ReplicaOptions { external_url: Some("http://a b".to_owned()), ..options() };
        world.refused(&dir, &odd, plain(), &images, Exit::Usage, &["not an address"]).await;
        let certificate =
            UserCertificate { certificate: "x".to_owned(), key: Secret::new("x"), ca: None };
        let odd = ReplicaOptions { certificate: Some(certificate), ..options() };
        world.refused(&dir, &odd, plain(), &images, Exit::Failed, &[]).await;
        let key = SigningKey::from_seed(&[1; 32]).expect("a key");
        let cluster = ClusterId::random(&SystemRandom);
        let mut header = Header::new(Product::Dtr, "0.1.0", cluster, &key);
        header.storage = Some("bucket images".to_owned());
        let writer = ArchiveWriter::new(Vec::new(), header, &key).expect("written");
        let bucket = writer.finish().expect("written").0;
        let named = RestoreRequest { storage_of_archive: true, ..plain() };
        let words = ["bucket images", "--s3-bucket"];
        world.refused(&dir, &here, named, &bucket, Exit::Refused, &words).await;
    }

    // The folder.
    let foreign = world.at("foreign");
    fs::create_dir(foreign.root()).expect("made");
    fs::write(foreign.root().join("thesis.txt"), "years of work").expect("written");
    for keep_old in [false, true] {
        let request = RestoreRequest { keep_old, ..plain() };
        world.refused(&foreign, &here, request, &images, Exit::Refused, &["thesis.txt"]).await;
    }
    let words = ["a replica is there", "dtr serve", "--keep-old"];
    world.refused(&world.dir, &here, plain(), &images, Exit::Refused, &words).await;
    let kept = RestoreRequest { keep_old: true, ..plain() };
    world.refused(&world.dir, &here, kept.clone(), cut, Exit::Damaged, &[]).await;
    // Its configuration is lost: it is a registry all the same, and gets no other.
    fs::remove_file(world.dir.config_file()).expect("removed");
    let words = ["without its replica.json", "--keep-old"];
    world.refused(&world.dir, &here, plain(), &images, Exit::Refused, &words).await;
    world.refused(&world.dir, &here, kept, cut, Exit::Damaged, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_install_changes_nothing_either() {
    let world = World::new().await;
    let share = world.folder.path().join("share");
    install(&world.at("owner"), &in_folder(share.clone()), &identity()).await.expect("installed");
    let weak = IdentityOptions::BuiltIn {
        admin: "admin".parse().expect("a name"),
        password: Secret::new(""),
    };
    let file = world.folder.path().join("file");
    fs::write(&file, "x").expect("written");
    let content = world.at("content");
    fs::create_dir_all(content.default_storage()).expect("made");
    let (taken, fresh) = (in_folder(share), world.at("a/fresh"));
    let unusable = in_folder(file.join("in-a-file"));
    for (dir, options, identity, word) in [
        (&fresh, &taken, identity(), "another registry"),
        (&fresh, &unusable, identity(), "in-a-file"),
        (&fresh, &options(), weak, "password"),
        (&world.dir, &options(), identity(), "a replica is there"),
        (&content, &options(), identity(), "dtr restore"),
    ] {
        let before = tree(world.folder.path());
        let error = install(dir, options, &identity).await.expect_err("refused").to_string();
        assert!(error.contains(word), "{word:?} is not said in: {error}");
        let after = tree(world.folder.path());
        assert!(before == after, "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_registry_is_never_to_be_destroyed() {
    let world = World::new().await;
    drop(opened(&world.dir).await);
    let limit = Instant::now() + Duration::from_secs(10);
    let serving = loop {
        let config = ReplicaConfig::load(&world.dir).expect("reads");
        match bind(&world.dir, &config, "node").await {
            Ok(serving) => break serving,
            Err(error) => assert!(Instant::now() < limit, "{error}"),
        }
        // poll: what was dropped ends a moment later
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let shutdown = Shutdown::default();
    let running = tokio::spawn(serving.run(shutdown.clone()));
    for keep_old in [false, true] {
        let request = RestoreRequest { keep_old, ..empty_allowed() };
        let input = Box::new(Cursor::new(world.archive.clone()));
        let error = restore(&world.dir, &options(), request, input).await.expect_err("refused");
        let text = error.to_string();
        assert!(text.contains("a replica runs there") && !text.contains("dtr destroy"), "{text}");
        assert_eq!(error.exit(), Exit::Refused);
    }
    let error = install(&world.dir, &options(), &identity()).await.expect_err("refused");
    assert!(matches!(error, InstallError::Occupied { .. }));
    assert!(!error.to_string().contains("dtr destroy"), "{error}");
    shutdown.drain.cancel();
    running.await.expect("ends well");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_restored_is_not_restored_again() {
    let world = World::new().await;
    let new = world.at("new");
    let first = restored(&new, empty_allowed(), &world.archive).await;
    assert_eq!(first.report.exit(), Exit::Incomplete);
    // The one who did it never saw its end: it is told how it ended.
    let again = Box::new(Cursor::new(world.archive.clone()));
    let again = restore(&new, &options(), empty_allowed(), again).await.expect("is done");
    let Outcome::Before(Before { cluster, blobs_missing, .. }) = again else { panic!("again") };
    assert_eq!((Some(cluster), blobs_missing), (first.report.cluster.clone(), 1));
    // Another archive is another matter.
    let other = world.backup(false).await;
    world.refused(&new, &options(), empty_allowed(), &other, Exit::Refused, &["dtr serve"]).await;
    // Once it has served, a restore would take what came since away.
    let registry = opened(&new).await;
    let replica = ReplicaRecord {
        id: first.id.clone(),
        address: String::new(),
        https_port: 1,
        http_port: 0,
        node: String::new(),
        version: String::new(),
        started_at: Timestamp::default(),
        reported_at: Timestamp::default(),
        health: "OK".to_owned(),
        data_format: DATA_FORMAT,
    };
    registry.catalog.put(&replica).await.expect("written");
    registry.close().await;
    let words = ["this archive was restored here at", "dtr serve"];
    world.refused(&new, &options(), empty_allowed(), &world.archive, Exit::Refused, &words).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_makes_way_can_be_had_back() {
    let world = World::new().await;
    let before = tree(world.dir.root());
    let request = RestoreRequest { keep_old: true, ..RestoreRequest::default() };
    let back = restored(&world.dir, request, &world.archive).await;
    // With the content of the old one, which both have.
    assert_eq!(back.report.exit(), Exit::Done, "{}", back.report);
    let aside = back.aside.expect("put aside");
    assert!(aside.display().to_string().contains("old.before-2"), "{}", aside.display());
    fs::remove_dir_all(world.dir.default_storage()).expect("removed");
    // The new one goes, and the old one is as it was.
    destroy(&plan_destroy(&world.dir, false).expect("a plan")).await.expect("destroyed");
    fs::rename(&aside, world.dir.root()).expect("renamed");
    assert!(tree(world.dir.root()) == before, "it is as it was");
    let registry = opened(&world.dir).await;
    assert!(registry.blobs.stat(&world.blob).await.expect("asked").is_some());
    registry.close().await;
    let aside = put_aside(&world.dir).await.expect("put aside");
    assert!(!world.dir.root().exists() && aside.path().join("store.redb").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kept_content_is_there_for_the_restore() {
    let world = World::new().await;
    let plan = plan_destroy(&world.dir, true).expect("a plan");
    assert_eq!(plan.kept, Some(world.dir.default_storage()));
    let loss = plan.loss().await;
    let known = loss.known.expect("asked");
    assert_eq!(known.repositories, 1);
    assert!(!known.last_backup.expect("one was taken").with_images);
    destroy(&plan).await.expect("destroyed");
    assert!(!world.dir.config_file().exists() && world.dir.default_storage().exists());
    let error = install(&world.dir, &options(), &identity()).await.expect_err("refused");
    assert!(error.to_string().contains("image content is there"), "{error}");
    let back = restored(&world.dir, RestoreRequest::default(), &world.archive).await;
    assert_eq!(back.report.exit(), Exit::Done, "{}", back.report);
    let key = keys::blob(&world.blob);
    assert!(opened(&world.dir).await.catalog.get(&key).await.expect("read").is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rehearsal_counts_what_the_archive_brings() {
    let world = World::new().await;
    let images = world.backup(true).await;
    let new = world.at("new");
    let looking = RestoreRequest { dry_run: true, ..RestoreRequest::default() };
    let would = restored(&new, looking, &images).await.report;
    assert!(!new.root().exists());
    let done = restored(&new, RestoreRequest::default(), &images).await.report;
    assert_eq!((would.blobs_restored, would.blobs_missing_count), (1, 0), "{would}");
    assert_eq!((done.blobs_restored, done.blobs_missing_count), (1, 0), "{done}");
    assert_eq!(would.exit(), Exit::Done);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_that_is_refused_changes_nothing_either() {
    let world = World::new().await;
    let etcd =
        EtcdOptions { host: None, client_port: 1, peer_port: 2, quota_bytes: None, given: None };
    let admission = Admission {
        cluster: ClusterId::random(&SystemRandom),
        own_member: true,
        ca: String::new(),
        certificate: String::new(),
        revoked: String::new(),
        members: Vec::new(),
        endpoints: Vec::new(),
        token: String::new(),
        probe: dtr_cluster::Probe { digest: Digest::of(b"a probe"), size: 7 },
        external: String::new(),
    };
    let foreign = world.at("foreign");
    fs::create_dir(foreign.root()).expect("made");
    fs::write(foreign.root().join("thesis.txt"), "years of work").expect("written");
    let empty = world.at("empty");
    fs::create_dir(empty.root()).expect("made");
    for (dir, word) in [
        (world.at("a/fresh"), "share/deep"),
        (empty, "share/deep"),
        (foreign, "thesis.txt"),
        (world.dir.clone(), "a replica is there"),
    ] {
        let before = tree(world.folder.path());
        let store = StoreOptions::Etcd(etcd.clone());
        let options = ReplicaOptions { store, ..in_folder(world.folder.path().join("share/deep")) };
        let id = ReplicaId::random(&SystemRandom);
        let joining = Joining::new(&options, id, false).expect("set up");
        let error = joining.complete(&dir, &admission).await.expect_err("refused").to_string();
        assert!(error.contains(word), "{word:?} is not said in: {error}");
        assert!(tree(world.folder.path()) == before, "{error}");
    }
}

/// What a distribution registry keeps would be removed by the sweep, piece by piece.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_storage_of_a_distribution_registry_is_taken_only_on_request() {
    let world = World::new().await;
    let theirs = world.folder.path().join("theirs");
    fs::create_dir_all(theirs.join("docker/registry/v2/repositories/library/app")).expect("made");
    let into =
        |take_over_storage| ReplicaOptions { take_over_storage, ..in_folder(theirs.clone()) };
    let input = || Box::new(Cursor::new(world.archive.to_vec()));
    let (new, before) = (world.at("new"), tree(world.folder.path()));
    for dry_run in [true, false] {
        let request = RestoreRequest { dry_run, ..empty_allowed() };
        let error = restore(&new, &into(false), request, input()).await.expect_err("refused");
        assert_eq!(error.exit(), Exit::Refused);
        assert!(error.to_string().contains("--take-over-storage"), "{error}");
        assert!(tree(world.folder.path()) == before, "something was changed");
    }
    restore(&new, &into(true), empty_allowed(), input()).await.expect("taken over");
}
