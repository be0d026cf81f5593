//! A registry over two simulated disks that lose their power at the same moment.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    body::{Body, Bytes, to_bytes},
    http::{HeaderMap, Request, StatusCode},
};
use base64::Engine as _;
use dtr_access::Access;
use dtr_blobs::{
    FileStorage, Options,
    simulated::{Loss, SimulatedDisk, Verdict},
};
use dtr_catalog::{
    Catalog,
    records::{Repository, Visibility},
};
use dtr_identity::{BuiltIn, BuiltInOptions, Cost};
use dtr_jobs::{CollectOptions, collect, sweep, tidy};
use dtr_registry::Registry;
use dtr_store::{At, Limits, StoreExt as _};
use dtr_store_embedded::{EmbeddedStore, simulated::Disk};
use dtr_types::{
    Clock as _, ClusterId, Digest, Manifest, ManualClock, Random as _, RepositoryId, Revision,
    Secret, SeededRandom, Timestamp,
};
use tower::ServiceExt as _;

use crate::content::{BLOBS, IMAGE, Image, Stock, blob, image};

pub const ONE: &str = "admin/one";
pub const TWO: &str = "admin/two";
pub const GRACE: Duration = Duration::from_secs(60);
const PASSWORD: &str = "a-password-of-a-test";
const TAGS: [&str; 5] = ["v1", "v2", "latest", "big", "new"];
/// An answer that does not come within this is none.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is on both disks.
pub struct Disks {
    pub blobs: SimulatedDisk,
    pub store: Disk,
}

/// Operations that change something, on both disks together, since the power was set to go.
#[derive(Clone)]
pub struct Meter {
    done: Arc<AtomicU64>,
    at: u64,
}

impl Meter {
    fn has_power(&self, changes: bool) -> bool {
        let number = if changes {
            self.done.fetch_add(1, Ordering::SeqCst) + 1
        } else {
            self.done.load(Ordering::SeqCst)
        };
        number < self.at
    }

    /// Whether the power went.
    pub fn is_cut(&self) -> bool {
        self.done.load(Ordering::SeqCst) >= self.at
    }
}

impl Disks {
    pub fn new() -> Self {
        Self { blobs: SimulatedDisk::new(), store: Disk::new() }
    }

    pub fn copy(&self) -> Self {
        Self { blobs: self.blobs.copy(), store: self.store.copy() }
    }

    /// The power of both goes at the change with this number: it is not carried out, and nothing after it.
    pub fn cut_at(&self, at: u64) -> Meter {
        let meter = Meter { done: Arc::default(), at };
        let (first, second) = (meter.clone(), meter.clone());
        self.blobs.on_operation(move |operation| {
            let on = first.has_power(operation.kind.is_change());
            if on { Verdict::Proceed } else { Verdict::PowerOff }
        });
        self.store.on_operation(move |changes| second.has_power(changes));
        meter
    }

    /// Both lose what `loss` says of what was not synced, and work again.
    pub fn restart(&self, loss: Loss) {
        let random = SeededRandom::new(match loss {
            Loss::Some(seed) => seed,
            _ => 0,
        });
        self.blobs.power_off();
        self.blobs.restart(loss);
        self.store.lose_power(|| match loss {
            Loss::Nothing => true,
            Loss::Everything => false,
            Loss::Some(_) => random.bytes::<1>()[0] & 1 == 1,
        });
    }
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn is(&self, status: u16) -> bool {
        self.status == status
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }
}

/// Which paths can be read, and what comes.
pub type Visible = BTreeMap<String, Option<Digest>>;

pub struct World {
    pub catalog: Catalog,
    pub blobs: Arc<FileStorage>,
    pub clock: Arc<ManualClock>,
    registry: Registry,
    router: axum::Router,
}

/// The cluster that all replicas of a test are of.
fn cluster() -> ClusterId {
    "6f1c1c8e-5d0b-4f0e-8a51-0a3d6b8f2c11".parse().expect("an id")
}

impl World {
    /// Opens what is on the disks. `seed` makes its random values others than those of earlier lives.
    pub async fn open(disks: &Disks, operations_max: usize, seed: u64) -> Self {
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_700_000_000_000)));
        let random = Arc::new(SeededRandom::new(seed));
        let options = dtr_store_embedded::Options {
            clock: clock.clone(),
            limits: Limits { operations_max, ..Limits::default() },
            ..dtr_store_embedded::Options::default()
        };
        let store = EmbeddedStore::open_with_backend(disks.store.clone(), options);
        let store = store.expect("the store opens after whatever happened");
        let blobs = disks.blobs.storage_with(Options::new(clock.clone(), random.clone())).await;
        let blobs = Arc::new(blobs.expect("the blob storage opens after whatever happened"));
        let catalog = Catalog::new(store, clock.clone(), random);
        let options = BuiltInOptions { cost: Cost::least(), ..BuiltInOptions::default() };
        let identity = BuiltIn::new(catalog.clone(), options);
        let cluster = cluster();
        let access = Access::new(catalog.clone(), &cluster, Arc::new(identity));
        let access = access.await.expect("opens");
        let registry = Registry::new(catalog.clone(), blobs.clone(), access);
        let router = registry.router();
        Self { catalog, blobs, clock, registry, router }
    }

    /// An administrator, two repositories, and in them images, tags, blobs without an image, remains of deleted ones.
    pub async fn fill(&self, stock: Stock) {
        let options = BuiltInOptions { cost: Cost::least(), ..BuiltInOptions::default() };
        let identity = BuiltIn::new(self.catalog.clone(), options);
        let name = "admin".parse().expect("a name");
        let admin = identity.create_first_admin(name, Secret::new(PASSWORD)).await.expect("made");
        for name in [ONE, TWO] {
            let repository = Repository {
                id: RepositoryId::random(self.catalog.random()),
                name: name.parse().expect("a name"),
                namespace: admin.id.clone(),
                namespace_is_org: false,
                visibility: Visibility::Private,
                short_description: String::new(),
                long_description: String::new(),
                immutable_tags: false,
                scan_on_push: false,
                tag_limit: 0,
                created_at: self.clock.now(),
            };
            self.catalog.create_repository(&repository, None).await.expect("made");
        }
        let orphan = blob("orphan");
        let put = self.blobs.put_whole(&orphan).await;
        put.expect("stored");
        let d = image("d").digest;
        for (repository, name, tags) in [
            (ONE, "a", "tag=v1&tag=latest"),
            (ONE, "b", "tag=v2"),
            (ONE, "h", ""),
            (ONE, "d", "tag=new"),
            (TWO, "c", "tag=v1"),
            (TWO, "g", "tag=big"),
        ] {
            let has = match name {
                "g" => stock == Stock::Large,
                "d" => stock != Stock::Tidy,
                _ => true,
            };
            if !has {
                continue;
            }
            self.push_blobs(repository, &image(name)).await;
            assert!(self.put(repository, &format!("{}?{tags}", image(name).digest), name).await);
        }
        let deleted = self.send("DELETE", &format!("/v2/{ONE}/manifests/{d}"), "").await;
        assert!(deleted.is(202) || stock == Stock::Tidy);
        let only_blobs: &[&str] = match stock {
            Stock::Usual => &["e"],
            Stock::Large => &["e", "f"],
            Stock::Tidy => &[],
        };
        for name in only_blobs {
            self.push_blobs(ONE, &image(name)).await;
        }
        assert!(self.push_blob(ONE, &blob("lonely")).await);
        self.registry.shutdown().await;
    }

    pub async fn send(&self, method: &str, path: &str, body: impl Into<Bytes>) -> Answer {
        let body = body.into();
        let text = base64::engine::general_purpose::STANDARD.encode(format!("admin:{PASSWORD}"));
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "dtr.example.com")
            .header("authorization", format!("Basic {text}"))
            .header("content-type", IMAGE)
            .header("content-length", body.len());
        let request = request.body(Body::from(body)).expect("a request");
        let answer = async {
            let response = self.router.clone().oneshot(request).await.expect("answers");
            let (parts, body) = response.into_parts();
            // A body that breaks off is one that is not what it should be.
            let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
            Answer { status: parts.status, headers: parts.headers, body }
        };
        tokio::time::timeout(PATIENCE, answer).await.expect("an answer, if only an error")
    }

    pub async fn push_blob(&self, repository: &str, bytes: &Bytes) -> bool {
        let path = format!("/v2/{repository}/blobs/uploads/?digest={}", Digest::of(bytes));
        self.send("POST", &path, bytes.clone()).await.is(201)
    }

    pub async fn push_blobs(&self, repository: &str, image: &Image) -> bool {
        for blob in &image.blobs {
            if !self.push_blob(repository, blob).await {
                return false;
            }
        }
        true
    }

    pub async fn put(&self, repository: &str, reference: &str, name: &str) -> bool {
        let path = format!("/v2/{repository}/manifests/{reference}");
        self.send("PUT", &path, image(name).manifest).await.is(201)
    }

    /// Every path that there could be. What can be read is whole, or this fails.
    pub async fn visible(&self, stock: Stock, context: &str) -> Visible {
        let mut visible = Visible::new();
        for repository in [ONE, TWO] {
            let list = format!("/v2/{repository}/tags/list");
            visible.insert(list.clone(), self.read(&list, context).await.map(|b| Digest::of(&b)));
            for tag in TAGS {
                let path = format!("/v2/{repository}/manifests/{tag}");
                let read = self.read(&path, context).await;
                if let Some(manifest) = &read {
                    self.whole(repository, manifest, context).await;
                }
                visible.insert(path, read.map(|bytes| Digest::of(&bytes)));
            }
            for name in stock.names() {
                let image = image(name);
                let path = format!("/v2/{repository}/manifests/{}", image.digest);
                self.exactly(&path, &image.digest, context, &mut visible).await;
                if visible[&path].is_some() {
                    self.whole(repository, &image.manifest, context).await;
                }
                let path = format!("/v2/{repository}/referrers/{}", image.digest);
                let read = self.read(&path, context).await;
                visible.insert(path, read.map(|bytes| Digest::of(&bytes)));
                for blob in &image.blobs {
                    self.exactly_blob(repository, blob, context, &mut visible).await;
                }
            }
            for name in BLOBS {
                self.exactly_blob(repository, &blob(name), context, &mut visible).await;
            }
        }
        visible
    }

    /// A manifest that can be read has everything it needs.
    async fn whole(&self, repository: &str, manifest: &Bytes, context: &str) {
        let manifest = Manifest::parse(Some(IMAGE), manifest).expect("a manifest");
        for blob in manifest.blobs() {
            let path = format!("/v2/{repository}/blobs/{}", blob.digest);
            let head = self.send("HEAD", &path, "").await;
            assert!(
                head.is(200),
                "{context}: {repository}: {} lost {}",
                manifest.media_type.as_str(),
                blob.digest
            );
        }
    }

    async fn exactly_blob(
        &self,
        repository: &str,
        blob: &Bytes,
        context: &str,
        into: &mut Visible,
    ) {
        let digest = Digest::of(blob);
        let path = format!("/v2/{repository}/blobs/{digest}");
        if !into.contains_key(&path) {
            self.exactly(&path, &digest, context, into).await;
        }
    }

    async fn exactly(&self, path: &str, digest: &Digest, context: &str, into: &mut Visible) {
        let read = self.read(path, context).await.map(|bytes| Digest::of(&bytes));
        assert!(read.is_none_or(|read| read == *digest), "{context}: {path} has other bytes");
        into.insert(path.to_owned(), read);
    }

    async fn read(&self, path: &str, context: &str) -> Option<Bytes> {
        let answer = self.send("GET", path, "").await;
        match answer.status.as_u16() {
            200 => Some(answer.body),
            404 => None,
            other => panic!("{context}: {path}: {other} {}", String::from_utf8_lossy(&answer.body)),
        }
    }

    /// So much time passes, and is seen to.
    pub async fn pass(&self, time: Duration) {
        for time in [time, Duration::ZERO] {
            // A disk that has failed is looked at by the test itself.
            drop(self.catalog.observe().await);
            self.clock.advance(time);
        }
    }

    pub async fn collect(&self) -> bool {
        let options = CollectOptions { grace: GRACE, dry_run: false };
        collect(&self.catalog, &*self.blobs, options).await.is_ok()
            && sweep(&self.catalog, &*self.blobs, GRACE, false).await.is_ok()
    }

    /// Deletes everything; then the duties and the collector leave nothing on the disks but who is who, and what
    /// happened.
    pub async fn ends_empty(&self, context: &str) {
        for name in [ONE, TWO] {
            let deleted =
                self.catalog.delete_repository(&name.parse().expect("a name"), None).await;
            deleted.unwrap_or_else(|error| panic!("{context}: {error}"));
        }
        let settings = self.catalog.settings().await.expect("reads");
        for _ in 0..2 {
            self.pass(Duration::from_secs(8 * 86_400)).await;
            let tidied = tidy(&self.catalog, &*self.blobs, &settings, Revision::ZERO).await;
            tidied.unwrap_or_else(|error| panic!("{context}: {error}"));
            assert!(self.collect().await, "{context}: the collector fails");
        }
        // What was removed is remembered for a while.
        self.pass(Duration::from_secs(8 * 86_400)).await;
        let tidied = tidy(&self.catalog, &*self.blobs, &settings, Revision::ZERO).await;
        tidied.unwrap_or_else(|error| panic!("{context}: {error}"));
        let stored = self.blobs.list_all().await;
        assert!(stored.is_empty(), "{context}: blobs stay for ever: {stored:?}");
        for prefix in PREFIXES {
            let store = self.catalog.store();
            let page = store.page(prefix.as_bytes(), None, 10, true, At::Latest).await;
            let left = page.expect("reads").items;
            assert!(left.is_empty(), "{context}: records stay for ever: {left:?}");
        }
    }
}

/// Everything of the key layout that is about content.
const PREFIXES: [&str; 20] = [
    "r/", "rn/", "rd/", "t/", "m/", "mb/", "mt/", "sub/", "b/", "l/", "bl/", "lu/", "ref/", "gc/",
    "x/", "md/", "ms/", "u/", "gr/", "gt/",
];

/// Shorthands.
trait Whole {
    async fn put_whole(&self, bytes: &Bytes) -> Result<u64, dtr_blobs::BlobError>;
    async fn list_all(&self) -> Vec<String>;
}

impl Whole for FileStorage {
    async fn put_whole(&self, bytes: &Bytes) -> Result<u64, dtr_blobs::BlobError> {
        use dtr_blobs::BlobStorage as _;
        self.put(&Digest::of(bytes), None, dtr_blobs::body(bytes.clone())).await
    }

    /// Blobs and uploads.
    async fn list_all(&self) -> Vec<String> {
        use dtr_blobs::BlobStorage as _;
        let blobs = self.list(None, 1000).await.expect("lists");
        let uploads = self.uploads(None, 1000).await.expect("lists");
        let blobs = blobs.iter().map(|entry| entry.digest.to_string());
        blobs.chain(uploads.iter().map(|entry| entry.id.to_string())).collect()
    }
}
