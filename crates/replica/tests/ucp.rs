//! Registries and their UCP: who has which place there, what a copy has to do with it, and what is noticed of it.

use std::{
    io::Write,
    time::{Duration, Instant},
};

use dtr_catalog::{
    Catalog,
    records::{IdentitySource, Service},
};
use dtr_enzi::Enzi;
use dtr_identity::{Actor, BuiltIn, BuiltInOptions, Cost};
use dtr_recovery::{BackupOptions, Exit};
use dtr_replica::{
    DataDir, IdentityOptions, InstallError, Outcome, ReplicaConfig, ReplicaOptions, RestoreError,
    RestoreRequest, Restored, StorageConfig, UcpLogin, backup_offline, bind, install, restore,
};
use dtr_store_embedded::EmbeddedStore;
use dtr_transport::Shutdown;
use dtr_types::{Secret, SystemClock, SystemRandom};

const PASSWORD: &str = "a-password-of-a-test";
/// A name that only the original's machine resolves.
const ADDRESS: &str = "registry.nowhere.invalid:15231";
const ID: &str = "0123456789ab";

/// A UCP over plain HTTP, on this machine alone.
struct Ucp {
    identity: BuiltIn,
    url: String,
}

impl Ucp {
    async fn start() -> Self {
        let catalog = Catalog::new(
            EmbeddedStore::in_memory(),
            std::sync::Arc::new(SystemClock),
            std::sync::Arc::new(SystemRandom),
        );
        let options = BuiltInOptions { cost: Cost::least(), ..BuiltInOptions::default() };
        let identity = BuiltIn::new(catalog, options);
        let admin = "admin".parse().expect("a name");
        identity.create_first_admin(admin, Secret::new(PASSWORD)).await.expect("made");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let router = dtr_enzi::router(Enzi::new(identity.clone(), &url));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { identity, url }
    }

    fn login(&self) -> UcpLogin {
        UcpLogin {
            url: self.url.clone(),
            ca: String::new(),
            insecure_tls: false,
            username: "admin".to_owned(),
            password: Secret::new(PASSWORD),
        }
    }

    async fn services(&self) -> Vec<Service> {
        self.identity.services().await.expect("listed")
    }

    /// Of each service, the ids of its replicas.
    async fn listed(&self) -> Vec<(String, Vec<String>)> {
        let mut listed: Vec<_> = self
            .services()
            .await
            .into_iter()
            .map(|s| (s.name, s.replicas.iter().map(|r| r.id.to_string()).collect()))
            .collect();
        listed.sort();
        listed
    }
}

fn options(id: &str) -> ReplicaOptions {
    ReplicaOptions {
        id: Some(id.parse().expect("an id")),
        https_port: 0,
        http_port: 0,
        listen_address: [127, 0, 0, 1].into(),
        plain_http: Some("127.0.0.1:0".parse().expect("an address")),
        trusted_proxies: Vec::new(),
        external_url: Some(format!("https://{ADDRESS}")),
        node: "node".to_owned(),
        certificate: None,
        store: Default::default(),
        storage: StorageConfig::Filesystem { root: None },
        take_over_storage: false,
        log_level: "info".to_owned(),
        log_format: "text".to_owned(),
    }
}

/// What is written, in the end in the hands of whoever asked for it.
#[derive(Clone, Default)]
struct Shared(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("a lock").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

struct World {
    ucp: Ucp,
    folder: tempfile::TempDir,
    original: DataDir,
    archive: Vec<u8>,
}

impl World {
    async fn new() -> Self {
        let (ucp, folder) = (Ucp::start().await, tempfile::tempdir().expect("a folder"));
        let original = DataDir::new(folder.path().join("original"));
        let identity = IdentityOptions::Ucp { login: ucp.login(), replace: false };
        install(&original, &options(ID), &identity).await.expect("installed");
        let out = Shared::default();
        let backup = BackupOptions { with_images: true, ..BackupOptions::new("0.0.0") };
        backup_offline(&original, backup, out.clone(), |_| Ok(())).await.expect("backed up");
        let archive = out.0.lock().expect("a lock").clone();
        Self { ucp, folder, original, archive }
    }

    async fn restore(
        &self,
        name: &str,
        id: &str,
        change: impl FnOnce(&mut RestoreRequest),
    ) -> Result<Restored, RestoreError> {
        let dir = DataDir::new(self.folder.path().join(name));
        let mut request =
            RestoreRequest { ucp: Some(self.ucp.login()), ..RestoreRequest::default() };
        change(&mut request);
        let input = Box::new(std::io::Cursor::new(self.archive.clone()));
        match restore(&dir, &options(id), request, input).await? {
            Outcome::Restored(restored) => Ok(*restored),
            Outcome::Before(before) => panic!("{before:?}"),
        }
    }
}

fn of(names: &[&str]) -> Vec<(String, Vec<String>)> {
    names.iter().map(|id| (format!("dtr-{id}"), vec![(*id).to_owned()])).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_takes_nobodys_place_unless_it_is_told_to() {
    let world = World::new().await;
    assert_eq!(world.ucp.listed().await, of(&[ID]));
    // Where the original is not reached from here, and has the same address: nothing proves that it is lost.
    let dry = world.restore("dry", "aaaaaaaaaaaa", |request| request.dry_run = true).await;
    let dry = dry.expect("would do").warnings.join("\n");
    assert!(dry.contains("stays registered beside this one"), "{dry}");
    assert_eq!(world.ucp.listed().await, of(&[ID]));
    let beside = world.restore("beside", "aaaaaaaaaaaa", |_| {}).await.expect("restored");
    let said = beside.warnings.join("\n");
    assert!(
        said.contains(&format!("dtr-{ID}")) && said.contains("--replace-registration"),
        "{said}"
    );
    assert_eq!(world.ucp.listed().await, of(&[ID, "aaaaaaaaaaaa"]));

    // With its very id it would be cut off.
    let refused = world.restore("same", ID, |_| {}).await.expect_err("refused");
    assert!(
        matches!(&refused, RestoreError::Install(InstallError::Registered { name, .. }) if *name == format!("dtr-{ID}")),
        "{refused}"
    );
    assert_eq!(refused.exit(), Exit::Refused);
    assert!(refused.to_string().contains("--replace-registration"), "{refused}");
    assert_eq!(world.ucp.listed().await, of(&[ID, "aaaaaaaaaaaa"]));
    let identity = IdentityOptions::Ucp { login: world.ucp.login(), replace: false };
    let dir = DataDir::new(world.folder.path().join("installed"));
    let refused = install(&dir, &options(ID), &identity).await.expect_err("refused");
    assert!(matches!(refused, InstallError::Registered { .. }), "{refused}");

    // Told to, it is the only one of its address.
    let told = world.restore("told", ID, |request| request.replace_registration = true).await;
    let said = told.expect("restored").warnings.join("\n");
    assert!(said.contains("has taken the place"), "{said}");
    assert_eq!(world.ucp.listed().await, of(&[ID]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_reaches_out_to_nobody() {
    let world = World::new().await;
    let before = world.ucp.services().await;
    let copy = world.restore("copy", ID, |request| request.copy = true).await.expect("copied");
    assert!(copy.report.copy && copy.warnings.is_empty(), "{:?}", copy.warnings);
    assert_eq!(world.ucp.services().await, before);
    let dir = DataDir::new(world.folder.path().join("copy"));
    let opened = dtr_replica::open(&dir, &ReplicaConfig::load(&dir).expect("reads")).await;
    let opened = opened.expect("opens");
    assert_eq!(opened.cluster.identity, IdentitySource::BuiltIn);
    let of = async |catalog: &Catalog, name: &str| {
        let key = dtr_catalog::keys::certificate(name);
        let found = catalog.get(&key).await.expect("read");
        found.map(|found| (found.value.certificate, found.value.private_key.expose().to_owned()))
    };
    let (ca, service) = (of(&opened.catalog, "ca").await, of(&opened.catalog, "service").await);
    assert!(ca.is_some() && service.is_some());
    assert_eq!(of(&opened.catalog, "web").await, None, "made at the first start");
    opened.close().await;
    let config = ReplicaConfig::load(&world.original).expect("reads");
    let original = dtr_replica::open(&world.original, &config).await.expect("opens");
    assert_ne!(of(&original.catalog, "ca").await, ca);
    assert_ne!(of(&original.catalog, "service").await, service);
    original.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_its_ucp_does_not_know_says_so_and_when_it_does_again() {
    let world = World::new().await;
    let config = ReplicaConfig::load(&world.original).expect("reads");
    let serving = bind(&world.original, &config, "node").await.expect("bound");
    let plain = serving.addresses()["plain"];
    let shutdown = Shutdown::default();
    let running = tokio::spawn(serving.run(shutdown.clone()));
    let ping = async || {
        let mut stream = tokio::net::TcpStream::connect(plain).await.expect("connects");
        let request = b"GET /_ping HTTP/1.1\r\nHost: dtr\r\nConnection: close\r\n\r\n";
        tokio::io::AsyncWriteExt::write_all(&mut stream, request).await.expect("sent");
        let mut answer = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer).await.expect("answers");
        answer
    };
    let until = async |known: bool| {
        let limit = Instant::now() + Duration::from_secs(20);
        loop {
            let answer = ping().await;
            // It serves those who have a token all the same.
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            if answer.contains("does not know this registry") != known {
                return;
            }
            assert!(Instant::now() < limit, "never {known}: {answer}");
            // poll: until the UCP has been asked again
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    until(true).await;
    let services = world.ucp.services().await;
    let [service] = services.as_slice() else { panic!("{services:?}") };
    world.ucp.identity.delete_service(&Actor::system(), &service.id).await.expect("deleted");
    until(false).await;
    world.ucp.identity.catalog().put(service).await.expect("put back");
    until(true).await;
    shutdown.drain.cancel();
    running.await.expect("ends well");
}
