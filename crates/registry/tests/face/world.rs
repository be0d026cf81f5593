//! A small organization with every kind of caller and two repositories, behind the face.

use std::sync::Arc;

use axum::{
    body::{Body, Bytes, to_bytes},
    http::{HeaderMap, Method, Request, StatusCode, header},
};
use base64::Engine as _;
use dtr_access::Access;
use dtr_blobs::{FileStorage, Options, SharedBlobs, simulated::SimulatedDisk};
use dtr_catalog::{
    Catalog,
    records::{AccessLevel, NamespaceGrant, Repository, RepositoryGrant, Settings, Visibility},
};
use dtr_identity::{Actor, BuiltIn, BuiltInOptions, Cost, NewAccount, NewTeam};
use dtr_registry::{Registry, Sampling};
use dtr_store_embedded::EmbeddedStore;
use dtr_types::{
    AccountId, Clock as _, ClusterId, Digest, ManualClock, RepositoryId, Secret, SeededRandom,
    SystemClock,
};
use serde_json::{Value, json};
use tower::ServiceExt as _;

pub const PASSWORD: &str = "password-of-all";
pub const OCI: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub const PUBLIC: &str = "acme/public";
pub const PRIVATE: &str = "acme/private";

/// Every kind of caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Anonymous,
    Inactive,
    Stranger,
    /// In the organization, in no team.
    Member,
    ReadOnly,
    ReadWrite,
    AdminLevel,
    /// With a level on the whole namespace, none on the repository.
    NamespaceReadOnly,
    NamespaceReadWrite,
    /// Read-only on the repository by one team, read-write on the namespace by another.
    Additive,
    Owner,
    Admin,
}

impl Who {
    pub const ALL: [Self; 12] = [
        Self::Anonymous,
        Self::Inactive,
        Self::Stranger,
        Self::Member,
        Self::ReadOnly,
        Self::ReadWrite,
        Self::AdminLevel,
        Self::NamespaceReadOnly,
        Self::NamespaceReadWrite,
        Self::Additive,
        Self::Owner,
        Self::Admin,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Anonymous => "",
            Self::Inactive => "inactive",
            Self::Stranger => "stranger",
            Self::Member => "member",
            Self::ReadOnly => "reader",
            Self::ReadWrite => "writer",
            Self::AdminLevel => "adminlevel",
            Self::NamespaceReadOnly => "nsreader",
            Self::NamespaceReadWrite => "nswriter",
            Self::Additive => "additive",
            Self::Owner => "owner",
            Self::Admin => "admin",
        }
    }

    pub fn authorization(self) -> Option<String> {
        (self != Self::Anonymous).then(|| basic(self.name(), PASSWORD))
    }
}

pub fn basic(user: &str, password: &str) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    format!("Basic {text}")
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    #[track_caller]
    pub fn is(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}", String::from_utf8_lossy(&self.body));
        self
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    /// The code of the first error. Checks that it is a whole error of the specification.
    #[track_caller]
    pub fn code(&self) -> String {
        assert_eq!(self.header("content-type"), "application/json");
        let error = &self.json()["errors"][0];
        assert!(!error["message"].as_str().expect("a message").is_empty());
        error["code"].as_str().expect("a code").to_owned()
    }

    #[track_caller]
    pub fn message(&self) -> String {
        self.json()["errors"][0]["message"].as_str().expect("a message").to_owned()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }
}

pub struct World {
    pub catalog: Catalog,
    pub identity: BuiltIn,
    pub access: Access,
    pub registry: Registry,
    pub router: axum::Router,
    pub clock: Arc<ManualClock>,
    pub org: AccountId,
    pub public: Repository,
    pub private: Repository,
    pub dir: Option<tempfile::TempDir>,
}

/// A request that is being put together.
pub struct Call<'a> {
    world: &'a World,
    request: axum::http::request::Builder,
    body: Body,
}

impl Call<'_> {
    pub fn who(self, who: Who) -> Self {
        match who.authorization() {
            Some(value) => self.header("authorization", &value),
            None => self,
        }
    }

    pub fn bearer(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.request = self.request.header(name, value);
        self
    }

    /// A body with its length.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        self.request = self.request.header(header::CONTENT_LENGTH, body.len());
        self.body = Body::from(body);
        self
    }

    /// A body without a length.
    pub fn stream(mut self, body: Body) -> Self {
        self.body = body;
        self
    }

    pub async fn send(self) -> Answer {
        let request = self.request.body(self.body).expect("a request");
        self.world.answer(request).await
    }
}

/// The cluster that all replicas of a test are of.
pub fn cluster() -> ClusterId {
    "6f1c1c8e-5d0b-4f0e-8a51-0a3d6b8f2c11".parse().expect("an id")
}

impl World {
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let options = Options::new(Arc::new(SystemClock), Arc::new(SeededRandom::new(3)));
        let blobs = FileStorage::open(dir.path(), options).await.expect("opens");
        let store = EmbeddedStore::in_memory();
        let mut world = Self::over(store, Arc::new(blobs), change).await;
        world.dir = Some(dir);
        world
    }

    /// Another replica of it: the same store, the same folder of blobs, and nothing else.
    pub async fn replica(&self) -> Self {
        let dir = self.dir.as_ref().expect("in a folder").path();
        let random = Arc::new(SeededRandom::new(1_000));
        let options = Options::new(Arc::new(SystemClock), random.clone());
        let blobs = FileStorage::open(dir, options).await.expect("opens");
        let catalog = Catalog::new(self.catalog.store().clone(), self.clock.clone(), random);
        let options = BuiltInOptions { cost: Cost::least(), ..BuiltInOptions::default() };
        let identity = BuiltIn::new(catalog.clone(), options);
        let cluster = cluster();
        let access = Access::new(catalog.clone(), &cluster, Arc::new(identity.clone()));
        let access = access.await.expect("opens");
        let registry = Registry::new(catalog.clone(), Arc::new(blobs), access.clone());
        let registry = registry.with_sampling(Sampling::ALL);
        let router = registry.router();
        let (clock, org) = (self.clock.clone(), self.org.clone());
        let (public, private) = (self.public.clone(), self.private.clone());
        Self { catalog, identity, access, registry, router, clock, org, public, private, dir: None }
    }

    /// Another replica's registry over the same store, for what needs no blobs.
    pub async fn beside(other: &Self) -> Self {
        let disk = SimulatedDisk::default();
        let random = Arc::new(SeededRandom::new(2_000));
        let options = Options::new(Arc::new(SystemClock), random.clone());
        let blobs = FileStorage::on(Arc::new(disk), options).await.expect("opens");
        let catalog = Catalog::new(other.catalog.store().clone(), other.clock.clone(), random);
        let options = BuiltInOptions { cost: Cost::least(), ..BuiltInOptions::default() };
        let identity = BuiltIn::new(catalog.clone(), options);
        let cluster = cluster();
        let access = Access::new(catalog.clone(), &cluster, Arc::new(identity.clone()));
        let access = access.await.expect("opens");
        let registry = Registry::new(catalog.clone(), Arc::new(blobs), access.clone());
        let router = registry.router();
        let (clock, org) = (other.clock.clone(), other.org.clone());
        let (public, private) = (other.public.clone(), other.private.clone());
        Self { catalog, identity, access, registry, router, clock, org, public, private, dir: None }
    }

    /// Over a disk that fails when it is told to.
    pub async fn on_disk(disk: &SimulatedDisk) -> Self {
        let options = Options::new(Arc::new(SystemClock), Arc::new(SeededRandom::new(3)));
        let blobs = FileStorage::on(Arc::new(disk.clone()), options).await.expect("opens");
        Self::over(EmbeddedStore::in_memory(), Arc::new(blobs), |_| {}).await
    }

    pub async fn over(
        store: Arc<EmbeddedStore>,
        blobs: SharedBlobs,
        change: impl FnOnce(&mut Settings),
    ) -> Self {
        let clock = Arc::new(ManualClock::new(SystemClock.now()));
        let catalog = Catalog::new(store, clock.clone(), Arc::new(SeededRandom::new(1)));
        let dtr_host = "dtr.example.com".to_owned();
        let mut settings = Settings { dtr_host, ..Settings::default() };
        change(&mut settings);
        catalog.put(&settings).await.expect("put");
        let options = BuiltInOptions { cost: Cost::least(), ..BuiltInOptions::default() };
        let identity = BuiltIn::new(catalog.clone(), options);
        let (org, ids) = people(&identity).await;
        let public = repository(&catalog, PUBLIC, &org, Visibility::Public).await;
        let private = repository(&catalog, PRIVATE, &org, Visibility::Private).await;
        teams(&catalog, &identity, &org, &ids, &[&public, &private]).await;
        let cluster = cluster();
        let access = Access::new(catalog.clone(), &cluster, Arc::new(identity.clone()));
        let access = access.await.expect("opens");
        let registry = Registry::new(catalog.clone(), blobs, access.clone());
        let registry = registry.with_sampling(Sampling::ALL);
        let router = registry.router();
        Self { catalog, identity, access, registry, router, clock, org, public, private, dir: None }
    }

    /// The folder of blobs.
    pub fn blobs_dir(&self) -> &std::path::Path {
        self.dir.as_ref().expect("in a folder").path()
    }

    /// The file of a blob.
    pub fn blob_file(&self, digest: &Digest) -> std::path::PathBuf {
        let hex = digest.hex();
        let blobs = self.blobs_dir().join("docker/registry/v2/blobs/sha256");
        blobs.join(&hex[..2]).join(hex.as_str()).join("data")
    }

    /// This world, with another share of reads that are hashed.
    pub fn sampled(mut self, sampling: Sampling) -> Self {
        self.registry = self.registry.with_sampling(sampling);
        self.router = self.registry.router();
        self
    }

    /// The body of an answer to GET: all bytes, or the error that cuts them off.
    pub async fn body_of(&self, path: &str) -> Result<Bytes, axum::Error> {
        let call = self.own("GET", path);
        let request = call.request.body(Body::empty()).expect("a request");
        let response = self.router.clone().oneshot(request).await.expect("answers");
        assert_eq!(response.status(), StatusCode::OK);
        to_bytes(response.into_body(), usize::MAX).await
    }

    pub async fn answer(&self, request: Request<Body>) -> Answer {
        let is_head = request.method() == Method::HEAD;
        let path = request.uri().path().to_owned();
        let response = self.router.clone().oneshot(request).await.expect("answers");
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, usize::MAX).await.expect("a body");
        let answer = Answer { status: parts.status, headers: parts.headers, body };
        if path.starts_with("/v2") {
            assert_eq!(answer.header("docker-distribution-api-version"), "registry/2.0", "{path}");
        }
        if is_head {
            assert!(answer.body.is_empty(), "HEAD of {path} has a body");
        } else if answer.status.is_client_error() || answer.status.is_server_error() {
            answer.code();
        }
        answer
    }

    pub fn call(&self, method: &str, path: &str) -> Call<'_> {
        let request = Request::builder().method(method).uri(path).header("host", "dtr.example.com");
        Call { world: self, request, body: Body::empty() }
    }

    /// As the organization's owner.
    pub fn own(&self, method: &str, path: &str) -> Call<'_> {
        self.call(method, path).who(Who::Owner)
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.own("GET", path).send().await
    }

    /// Uploads a blob in one request.
    pub async fn blob(&self, repository: &str, content: impl Into<Bytes>) -> Digest {
        let content = content.into();
        let digest = Digest::of(&content);
        let path = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
        self.own("POST", &path).body(content).send().await.is(201);
        digest
    }

    /// Begins an upload; yields its location.
    pub async fn begin(&self, repository: &str) -> String {
        let path = format!("/v2/{repository}/blobs/uploads/");
        let answer = self.own("POST", &path).body("").send().await.is(202);
        assert!(!answer.header("docker-upload-uuid").is_empty());
        answer.header("location").to_owned()
    }

    pub async fn put(
        &self,
        repository: &str,
        reference: &str,
        media_type: &str,
        body: impl Into<Bytes>,
    ) -> Answer {
        let path = format!("/v2/{repository}/manifests/{reference}");
        self.own("PUT", &path).header("content-type", media_type).body(body).send().await
    }

    /// An image with one layer, under a tag; yields its bytes and digest.
    pub async fn image(&self, repository: &str, tag: &str) -> (String, Digest) {
        let config = self.blob(repository, format!("{{\"os\":\"linux\",\"of\":\"{tag}\"}}")).await;
        let size = format!("{{\"os\":\"linux\",\"of\":\"{tag}\"}}").len();
        let layer = self.blob(repository, format!("layer of {tag}")).await;
        let layer = descriptor(LAYER, &layer, format!("layer of {tag}").len());
        let manifest = image(descriptor(CONFIG, &config, size), &[layer], &json!({}));
        let digest = Digest::of(manifest.as_bytes());
        let answer = self.put(repository, tag, OCI, manifest.clone()).await.is(201);
        assert_eq!(answer.header("docker-content-digest"), digest.to_string());
        (manifest, digest)
    }

    /// Waits until a request is answered with a status: for what is remembered for a second.
    pub async fn until(&self, status: u16, call: impl AsyncFn() -> Answer) -> Answer {
        for _ in 0..200 {
            let answer = call().await;
            if answer.status.as_u16() == status {
                return answer;
            }
            // poll: until what was remembered has been forgotten
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        panic!("never answered with {status}");
    }
}

pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

pub fn descriptor(media_type: &str, digest: &Digest, size: usize) -> Value {
    json!({ "mediaType": media_type, "digest": digest, "size": size })
}

/// An OCI image manifest with further fields.
pub fn image(config: Value, layers: &[Value], more: &Value) -> String {
    let mut manifest =
        json!({ "schemaVersion": 2, "mediaType": OCI, "config": config, "layers": layers });
    for (key, value) in more.as_object().expect("an object") {
        manifest[key] = value.clone();
    }
    manifest.to_string()
}

pub fn index(media_type: &str, manifests: &[Value], more: &Value) -> String {
    let mut index = json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": manifests });
    for (key, value) in more.as_object().expect("an object") {
        index[key] = value.clone();
    }
    index.to_string()
}

type Ids = std::collections::HashMap<&'static str, AccountId>;

async fn people(identity: &BuiltIn) -> (AccountId, Ids) {
    let actor = Actor::system();
    identity
        .create_first_admin("admin".parse().expect("a name"), Secret::new(PASSWORD))
        .await
        .expect("made");
    let mut ids = Ids::new();
    for who in Who::ALL {
        if matches!(who, Who::Anonymous | Who::Admin) {
            continue;
        }
        let mut new = NewAccount::user(who.name().parse().expect("a name"), Secret::new(PASSWORD));
        new.is_active = who != Who::Inactive;
        let made = identity.create_account(&actor, new).await.expect("made");
        ids.insert(who.name(), made.id);
    }
    let org = NewAccount::org("acme".parse().expect("a name"));
    let org = identity.create_account(&actor, org).await.expect("made").id;
    identity.put_member(&actor, &org, &ids["owner"], Some(true)).await.expect("put");
    identity.put_member(&actor, &org, &ids["member"], None).await.expect("put");
    (org, ids)
}

pub async fn repository(
    catalog: &Catalog,
    name: &str,
    owner: &AccountId,
    visibility: Visibility,
) -> Repository {
    let repository = Repository {
        id: RepositoryId::random(catalog.random()),
        name: name.parse().expect("a name"),
        namespace: owner.clone(),
        namespace_is_org: true,
        visibility,
        short_description: String::new(),
        long_description: String::new(),
        immutable_tags: false,
        scan_on_push: false,
        tag_limit: 0,
        created_at: catalog.now(),
    };
    catalog.create_repository(&repository, None).await.expect("made");
    repository
}

async fn teams(
    catalog: &Catalog,
    identity: &BuiltIn,
    org: &AccountId,
    ids: &Ids,
    repositories: &[&Repository],
) {
    let actor = Actor::system();
    let on_repository: [(&str, AccessLevel, &[&str]); 3] = [
        ("readers", AccessLevel::ReadOnly, &["reader", "additive"]),
        ("writers", AccessLevel::ReadWrite, &["writer"]),
        ("admins", AccessLevel::Admin, &["adminlevel"]),
    ];
    let on_namespace: [(&str, AccessLevel, &[&str]); 2] = [
        ("nsreaders", AccessLevel::ReadOnly, &["nsreader"]),
        ("nswriters", AccessLevel::ReadWrite, &["nswriter", "additive"]),
    ];
    for (name, level, members) in on_repository.into_iter().chain(on_namespace) {
        let new = NewTeam { name: name.parse().expect("a name"), description: String::new() };
        let team = identity.create_team(&actor, org, new).await.expect("made").id;
        for member in members {
            let member = &ids[member];
            identity.put_team_member(&actor, org, &team, member, None).await.expect("put");
        }
        let granted_at = catalog.now();
        if name.starts_with("ns") {
            let grant = NamespaceGrant { namespace: org.clone(), team, level, granted_at };
            catalog.put_namespace_grant(&grant, None).await.expect("put");
            continue;
        }
        for repository in repositories {
            let grant = RepositoryGrant {
                repository: repository.id.clone(),
                team: team.clone(),
                organization: org.clone(),
                level,
                granted_at,
            };
            catalog.put_repository_grant(&grant, None).await.expect("put");
        }
    }
}
