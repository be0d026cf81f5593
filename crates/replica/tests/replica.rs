//! A replica on its machine: what it writes and for whom, what it refuses, who may have its folder, how it reports.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use dtr_catalog::{
    Catalog, keys,
    records::{ClusterRecord, DATA_FORMAT},
};
use dtr_replica::{
    ConfigError, DataDir, DestroyError, IdentityOptions, InstallError, ReplicaConfig,
    ReplicaOptions, S3Settings, ServeError, StorageConfig, bind, destroy, install, open,
    plan_destroy, running,
};
use dtr_service::{PidFile, ServiceError};
use dtr_store::Transaction;
use dtr_store_embedded::EmbeddedStore;
use dtr_transport::Shutdown;
use dtr_types::{Secret, SystemClock, SystemRandom};

fn options() -> ReplicaOptions {
    ReplicaOptions {
        id: Some("0123456789ab".parse().expect("an id")),
        https_port: 0,
        http_port: 0,
        listen_address: [127, 0, 0, 1].into(),
        plain_http: Some("127.0.0.1:0".parse().expect("an address")),
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

async fn installed(dir: &DataDir) -> ReplicaConfig {
    let identity = IdentityOptions::BuiltIn {
        admin: "admin".parse().expect("a name"),
        password: Secret::new("a-password-of-a-test"),
    };
    install(dir, &options(), &identity).await.expect("installed");
    ReplicaConfig::load(dir).expect("reads")
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("is there").permissions().mode() & 0o777
}

fn catalog(dir: &DataDir) -> Catalog {
    let store = EmbeddedStore::open(&dir.store_file(), dtr_store_embedded::Options::default());
    Catalog::new(
        store.expect("opens"),
        std::sync::Arc::new(SystemClock),
        std::sync::Arc::new(SystemRandom),
    )
}

#[tokio::test]
async fn changes_of_the_configuration_are_all_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = DataDir::new(folder.path().join("dtr"));
    installed(&dir).await;
    let change = |n: usize| {
        let dir = dir.clone();
        std::thread::spawn(move || {
            ReplicaConfig::change(&dir, |config| {
                config.trusted_proxies.push(format!("10.0.0.{n}/32"));
                Ok::<_, ConfigError>(())
            })
        })
    };
    let changes: Vec<_> = (0..20).map(change).collect();
    for done in changes {
        done.join().expect("ended").expect("changed");
    }
    let config = ReplicaConfig::load(&dir).expect("reads");
    assert_eq!(config.trusted_proxies.len(), 20, "{:?}", config.trusted_proxies);
    let refused = ReplicaConfig::change(&dir, |config| {
        config.trusted_proxies.clear();
        Err(ConfigError::NotInstalled(folder.path().to_owned()))
    });
    assert!(refused.is_err());
    assert_eq!(ReplicaConfig::load(&dir).expect("reads"), config, "nothing was written");
}

#[test]
fn the_configuration_comes_back_and_what_is_none_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = DataDir::new(folder.path());
    let missing = ReplicaConfig::load(&dir);
    assert!(matches!(missing, Err(ConfigError::NotInstalled(_))), "{missing:?}");
    let config = ReplicaConfig {
        id: "0123456789ab".parse().expect("an id"),
        listen_address: dtr_replica::any_address(),
        https_port: 4443,
        http_port: 0,
        plain_http: Some("127.0.0.1:5000".parse().expect("an address")),
        trusted_proxies: vec!["10.0.0.0/8".to_owned()],
        address: "https://r.example.com:4443".to_owned(),
        store: Default::default(),
        storage: StorageConfig::Filesystem { root: Some("/srv/images".into()) },
        log_level: "debug".to_owned(),
        log_format: "json".to_owned(),
    };
    config.save(&dir).expect("saved");
    assert_eq!(ReplicaConfig::load(&dir).expect("reads"), config);
    assert_eq!(mode(&dir.config_file()), 0o600);
    let bucket = S3Settings {
        bucket: "images".to_owned(),
        secretkey: Secret::new("hidden"),
        ..S3Settings::default()
    };
    let shared = ReplicaConfig { storage: StorageConfig::S3(Box::new(bucket)), ..config };
    shared.save(&dir).expect("saved");
    assert_eq!(ReplicaConfig::load(&dir).expect("reads"), shared);
    assert!(!format!("{shared:?}").contains("hidden"));
    // What an older version wrote.
    let older = r#"{"id":"0123456789ab","httpsPort":443,"httpPort":80,"address":"https://r","storage":{"kind":"filesystem"}}"#;
    fs::write(dir.config_file(), older).expect("written");
    let read = ReplicaConfig::load(&dir).expect("reads");
    assert_eq!((read.log_level.as_str(), read.plain_http), ("info", None));
    assert_eq!(read.storage, StorageConfig::Filesystem { root: None });
    let stranger = older.replace("\"address\"", "\"adress\":1,\"address\"");
    let short = &older[..older.len() - 1];
    let other_storage = older.replace("filesystem", "punched-cards");
    for wrong in ["", "{}", short, &stranger, &other_storage, &older.replace("443", "70000")] {
        fs::write(dir.config_file(), wrong).expect("written");
        match ReplicaConfig::load(&dir) {
            Err(error @ ConfigError::Form { .. }) => {
                assert!(error.to_string().contains("replica.json"), "{error}");
            }
            other => panic!("{wrong}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn an_installation_is_for_its_owner_alone_and_only_into_an_empty_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = DataDir::new(folder.path().join("deep/data"));
    installed(&dir).await;
    assert_eq!(mode(dir.root()), 0o700);
    for file in [dir.config_file(), dir.store_file()] {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
    let identity = IdentityOptions::BuiltIn {
        admin: "other".parse().expect("a name"),
        password: Secret::new("another-password"),
    };
    let before = fs::read(dir.config_file()).expect("reads");
    let again = install(&dir, &options(), &identity).await;
    assert!(matches!(again, Err(InstallError::Occupied { .. })), "{again:?}");
    assert_eq!(fs::read(dir.config_file()).expect("reads"), before);
    // Somebody's own folder.
    let own = DataDir::new(folder.path().join("own"));
    fs::create_dir(own.root()).expect("made");
    fs::write(own.root().join("thesis.txt"), "years").expect("written");
    let refused = install(&own, &options(), &identity).await;
    assert!(matches!(refused, Err(InstallError::Foreign { .. })), "{refused:?}");
    // What is refused leaves nothing behind that would be in the way of the next try.
    let short = IdentityOptions::BuiltIn {
        admin: "other".parse().expect("a name"),
        password: Secret::new("short"),
    };
    let mounted = DataDir::new(folder.path().join("mounted"));
    fs::create_dir_all(mounted.root().join("lost+found")).expect("made");
    let refused = install(&mounted, &options(), &short).await;
    assert!(matches!(refused, Err(InstallError::Identity(_))), "{refused:?}");
    let elsewhere = ReplicaOptions {
        storage: StorageConfig::Filesystem { root: Some("/proc/nothing".into()) },
        ..options()
    };
    let refused = install(&mounted, &elsewhere, &identity).await;
    assert!(matches!(refused, Err(InstallError::Storage(_))), "{refused:?}");
    assert_eq!(fs::read_dir(mounted.root()).expect("reads").count(), 1);
    install(&mounted, &options(), &identity).await.expect("installed");
    let planned = plan_destroy(&own, false);
    assert!(matches!(planned, Err(DestroyError::Foreign { .. })), "{planned:?}");
    assert_eq!(fs::read_dir(own.root()).expect("reads").count(), 1);
    // What is refused for another reason has written nothing.
    let none = DataDir::new(folder.path().join("none"));
    let wrong = ReplicaOptions { external_url: Some("http://plain".to_owned()), ..options() };
    assert!(install(&none, &wrong, &identity).await.is_err());
    assert!(!none.root().exists());
}

#[tokio::test]
async fn a_folder_has_one_server_and_a_dead_one_is_in_nobodys_way() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = DataDir::new(folder.path().join("data"));
    let config = installed(&dir).await;
    let serving = bind(&dir, &config, "node").await.expect("bound");
    assert_eq!(running(&dir), Some(std::process::id()));
    let second = bind(&dir, &config, "node").await;
    match second {
        Err(ServeError::Service(ServiceError::Running { pid, .. })) => {
            assert_eq!(pid, std::process::id());
        }
        other => panic!("{other:?}"),
    }
    // Also whoever does not ask for the pid file cannot have the store.
    let store = open(&dir, &config).await.map(drop);
    assert!(matches!(store, Err(ServeError::Store { .. })), "{store:?}");
    drop(serving);
    let pid_file = dir.pid_file();
    let limit = Instant::now() + Duration::from_secs(10);
    while running(&dir).is_some() {
        assert!(Instant::now() < limit, "it is still served");
        // poll: until what was bound has been dropped
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // The id of a process that is gone, or is somebody else's: only who holds the file serves.
    fs::write(&pid_file, "1\n").expect("written");
    assert_eq!(running(&dir), None);
    drop(PidFile::claim(&pid_file).expect("claimed"));
}

/// The lock is between processes, not only within one: this test runs itself as the second.
#[test]
fn another_process_cannot_claim_the_folder() {
    const SECOND: &str = "DTR_TEST_SECOND_PROCESS";
    if let Some(path) = std::env::var_os(SECOND) {
        let refused = PidFile::claim(Path::new(&path));
        assert!(matches!(refused, Err(ServiceError::Running { .. })), "{refused:?}");
        println!("it was refused");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = DataDir::new(folder.path()).pid_file();
    let held = PidFile::claim(&path).expect("claimed");
    let out = Command::new(std::env::current_exe().expect("a program"))
        .args(["--exact", "another_process_cannot_claim_the_folder", "--nocapture"])
        .env(SECOND, &path)
        .output()
        .expect("runs");
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success() && said.contains("it was refused"), "{said}");
    drop(held);
}

#[tokio::test]
async fn what_is_not_whole_is_not_served() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = DataDir::new(folder.path().join("data"));
    let config = installed(&dir).await;
    // Written by a version of tomorrow.
    let cluster = {
        let catalog = catalog(&dir);
        let cluster = catalog.cluster().await.expect("reads").expect("is there");
        let newer = ClusterRecord { data_format: DATA_FORMAT + 1, ..cluster.clone() };
        catalog.put(&newer).await.expect("put");
        cluster
    };
    let newer = open(&dir, &config).await.map(drop);
    assert!(matches!(newer, Err(ServeError::Newer { .. })), "{newer:?}");
    // Half restored, or half installed: everything is there but the cluster's record.
    {
        let catalog = catalog(&dir);
        catalog.put(&cluster).await.expect("put");
        let gone = Transaction::new().delete(keys::cluster());
        catalog.commit(gone).await.expect("deleted");
    }
    let half = bind(&dir, &config, "node").await;
    assert!(matches!(half, Err(ServeError::Unfinished(_))), "{half:?}");
    // Half destroyed: the store has gone, the configuration not yet. No empty registry appears in its place.
    fs::remove_file(dir.store_file()).expect("removed");
    let half = bind(&dir, &config, "node").await;
    assert!(matches!(half, Err(ServeError::Unfinished(_))), "{half:?}");
    // Damaged.
    fs::write(dir.store_file(), vec![7; 100_000]).expect("written");
    let damaged = open(&dir, &config).await.map(drop);
    assert!(matches!(damaged, Err(ServeError::Store { .. })), "{damaged:?}");
    // And it can be destroyed, whatever it is.
    destroy(&plan_destroy(&dir, false).expect("planned")).await.expect("destroyed");
    assert!(!dir.root().exists());
    assert!(matches!(ReplicaConfig::load(&dir), Err(ConfigError::NotInstalled(_))));
    assert!(matches!(plan_destroy(&dir, false), Err(DestroyError::Config(_))));
}

#[tokio::test]
async fn content_elsewhere_goes_with_the_replica_and_what_is_not_its_own_stays() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = DataDir::new(folder.path().join("data"));
    let volume = folder.path().join("volume");
    fs::create_dir(&volume).expect("made");
    fs::write(volume.join("thesis.txt"), "years").expect("written");
    let options = ReplicaOptions {
        storage: StorageConfig::Filesystem { root: Some(volume.clone()) },
        ..options()
    };
    let identity = IdentityOptions::BuiltIn {
        admin: "admin".parse().expect("a name"),
        password: Secret::new("a-password-of-a-test"),
    };
    install(&dir, &options, &identity).await.expect("installed");
    assert!(volume.join("uploads").is_dir());
    let kept = plan_destroy(&dir, true).expect("planned");
    assert_eq!(kept.storage, None);
    destroy(&plan_destroy(&dir, false).expect("planned")).await.expect("destroyed");
    let left: Vec<_> =
        fs::read_dir(&volume).expect("reads").map(|e| e.expect("reads").file_name()).collect();
    assert_eq!(left, ["thesis.txt"]);
}

#[tokio::test]
async fn it_answers_for_its_health_and_reports_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = DataDir::new(folder.path().join("data"));
    let config = installed(&dir).await;
    let serving = bind(&dir, &config, "the-node").await.expect("bound");
    let plain = serving.addresses()["plain"];
    let shutdown = Shutdown::default();
    let running = tokio::spawn(serving.run(shutdown.clone()));
    let ping = || async move {
        let mut stream = tokio::net::TcpStream::connect(plain).await.expect("connects");
        let request = b"GET /_ping HTTP/1.1\r\nHost: dtr\r\nConnection: close\r\n\r\n";
        tokio::io::AsyncWriteExt::write_all(&mut stream, request).await.expect("sent");
        let mut answer = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer).await.expect("answers");
        answer
    };
    let well = ping().await;
    assert!(
        well.starts_with("HTTP/1.1 200") && well.contains(r#"{"Error":"","Healthy":true}"#),
        "{well}"
    );
    // The folder of the content goes away, as a volume does that is no longer mounted.
    let blobs = dir.default_storage();
    let aside = folder.path().join("aside");
    fs::rename(&blobs, &aside).expect("moved");
    let until = |wanted: &'static str| async move {
        let limit = Instant::now() + Duration::from_secs(20);
        loop {
            let answer = ping().await;
            if answer.starts_with(wanted) {
                return answer;
            }
            assert!(Instant::now() < limit, "never {wanted}: {answer}");
            // poll: until the remembered answer is forgotten
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let ill = until("HTTP/1.1 503").await;
    assert!(ill.contains(r#""Healthy":false"#) && ill.contains("blob storage: "), "{ill}");
    let place = folder.path().display().to_string();
    assert!(!ill.contains(&place), "no place is named to everybody: {ill}");
    fs::rename(&aside, &blobs).expect("moved");
    until("HTTP/1.1 200").await;
    shutdown.drain.cancel();
    running.await.expect("ends well");
    let replicas = catalog(&dir).replicas().await.expect("reads");
    let [replica] = replicas.as_slice() else { panic!("{replicas:?}") };
    assert_eq!((replica.id.as_str(), replica.node.as_str()), ("0123456789ab", "the-node"));
    assert_eq!((replica.health.as_str(), &replica.address), ("OK", &config.address));
    assert!(replica.reported_at >= replica.started_at);
}
