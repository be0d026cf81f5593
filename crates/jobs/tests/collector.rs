//! Nothing referenced is ever collected, and all else goes in the end: pushes, deletions and the collector at once, with
//! limits so small that every push and deletion takes several transactions.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use dtr_blobs::{SharedBlobs, body, simulated::SimulatedDisk};
use dtr_catalog::{
    Catalog, CatalogError, Kind, LinkCheck, PutManifest,
    records::{Repository, Visibility},
};
use dtr_jobs::{CollectOptions, collect};
use dtr_store::{At, Limits, StoreExt as _, Transaction};
use dtr_store_embedded::{EmbeddedStore, Options};
use dtr_types::{
    AccountId, Clock as _, Digest, Manifest, ManualClock, Random as _, RepositoryId, SeededRandom,
    Timestamp,
};

const GRACE: Duration = Duration::from_secs(60);
const ROUNDS: usize = 60;

struct World {
    catalog: Catalog,
    blobs: SharedBlobs,
    clock: Arc<ManualClock>,
    repositories: Vec<Repository>,
}

async fn world(operations_max: usize) -> Arc<World> {
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_700_000_000_000)));
    let limits = Limits { operations_max, ..Limits::default() };
    let options =
        Options { limits, quick_repair: false, clock: clock.clone(), ..Options::default() };
    let random = Arc::new(SeededRandom::new(1));
    let store = EmbeddedStore::in_memory_with(options);
    let catalog = Catalog::new(store, clock.clone(), random.clone());
    let blobs = Arc::new(SimulatedDisk::new().storage().await.expect("a storage"));
    let mut repositories = Vec::new();
    for name in ["team/a", "team/b"] {
        let repository = Repository {
            id: RepositoryId::random(&*random),
            name: name.parse().expect("a name"),
            namespace: AccountId::random(&*random),
            namespace_is_org: false,
            visibility: Visibility::Private,
            short_description: String::new(),
            long_description: String::new(),
            immutable_tags: false,
            scan_on_push: false,
            tag_limit: 0,
            created_at: clock.now(),
        };
        catalog.create_repository(&repository, None).await.expect("made");
        repositories.push(repository);
    }
    Arc::new(World { catalog, blobs, clock, repositories })
}

impl World {
    async fn push_blob(&self, repository: &RepositoryId, bytes: &Bytes) {
        let digest = Digest::of(bytes);
        loop {
            let linked = match self.catalog.check_link(&digest).await.expect("reads") {
                LinkCheck::Condemned => Ok(false),
                LinkCheck::Present { modified, .. } => {
                    self.catalog.link_blob(repository, &digest, modified, Transaction::new()).await
                }
                LinkCheck::Absent => {
                    self.blobs.put(&digest, None, body(bytes.clone())).await.expect("stored");
                    let size = bytes.len() as u64;
                    self.catalog.link_new_blob(repository, &digest, size, Transaction::new()).await
                }
            };
            if linked.expect("commits") {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    /// One of a few images that share layers; `false` when the collector was faster, which is the client's to repeat.
    async fn push(&self, repository: &Repository, which: usize) -> bool {
        let bytes: Vec<Bytes> =
            (0..9).map(|n| Bytes::from(format!("blob {}", n + which))).collect();
        for blob in &bytes {
            self.push_blob(&repository.id, blob).await;
        }
        let descriptor = |b: &Bytes, kind: &str| {
            format!(
                r#"{{"mediaType":"application/vnd.oci.image.{kind}","digest":"{}","size":{}}}"#,
                Digest::of(b),
                b.len()
            )
        };
        let layers: Vec<String> =
            bytes[1..].iter().map(|b| descriptor(b, "layer.v1.tar")).collect();
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{},"layers":[{}]}}"#,
            descriptor(&bytes[0], "config.v1+json"),
            layers.join(",")
        );
        let text = Bytes::from(text);
        let manifest = Manifest::parse(None, &text).expect("a manifest");
        let put = PutManifest {
            repository,
            digest: Digest::of(&text),
            manifest: &manifest,
            body: &text,
            tags: &["latest".parse().expect("a tag")],
            author: "somebody",
            author_id: None,
            platform: None,
            allow_sparse: false,
        };
        match self.catalog.put_manifest(&put).await {
            Ok(_) => true,
            Err(CatalogError::BlobMissing(_) | CatalogError::Contention(_)) => false,
            Err(error) => panic!("{error}"),
        }
    }

    async fn manifests(&self, repository: &RepositoryId) -> Vec<Digest> {
        let prefix = dtr_catalog::keys::manifests(repository);
        let names = self.catalog.all_names(&prefix).await.expect("reads");
        names.iter().map(|name| name.parse().expect("a digest")).collect()
    }

    /// Every manifest has its bytes, its blobs and its links.
    async fn check(&self) {
        for repository in &self.repositories {
            for digest in self.manifests(&repository.id).await {
                let stored = self.catalog.read_manifest(&repository.id, &digest).await;
                let stored = stored.expect("reads").expect("is there");
                let manifest = Manifest::parse(None, &stored.body).expect("a manifest");
                for blob in manifest.blobs() {
                    let linked = self.catalog.linked_blob(&repository.id, &blob.digest).await;
                    assert!(linked.expect("reads").is_some(), "{} lost its link", blob.digest);
                    let kept = self.blobs.read(&blob.digest, None).await.expect("is stored");
                    let bytes = kept.bytes().await.expect("reads");
                    assert_eq!(Digest::of(&bytes), blob.digest);
                }
            }
        }
    }

    async fn collect(&self) {
        let options = CollectOptions { grace: GRACE, dry_run: false };
        collect(&self.catalog, &*self.blobs, options).await.expect("collects");
    }
}

async fn storm(operations_max: usize, seed: u64) {
    let world = world(operations_max).await;
    let mut tasks = Vec::new();
    for task in 0..4 {
        let world = world.clone();
        tasks.push(tokio::spawn(async move {
            let random = SeededRandom::new(seed * 100 + task);
            for _ in 0..ROUNDS {
                let [choice, which, place] = random.bytes::<3>();
                let repository = &world.repositories[usize::from(place) % 2];
                if choice % 3 > 0 {
                    world.push(repository, usize::from(which) % 4 * 3).await;
                } else if let Some(digest) = world.manifests(&repository.id).await.first() {
                    let deleted = world.catalog.delete_manifest(&repository.id, digest, None).await;
                    assert!(matches!(deleted, Ok(_) | Err(CatalogError::Contention(_))));
                }
            }
        }));
    }
    let mut turns = 0_u32;
    while !tasks.iter().all(tokio::task::JoinHandle::is_finished) {
        // A run that is given up anywhere is the crash of a collector: the next one goes on.
        let limit = Duration::from_micros(u64::from(turns % 7) * 400 + 100);
        if turns.is_multiple_of(3) {
            world.collect().await;
        } else {
            let _given_up = tokio::time::timeout(limit, world.collect()).await;
        }
        world.clock.advance(GRACE / 10);
        turns += 1;
    }
    for task in tasks {
        task.await.expect("ends well");
    }
    world.check().await;
    world.clock.advance(2 * GRACE);
    world.collect().await;
    world.check().await;
    for repository in &world.repositories {
        for digest in world.manifests(&repository.id).await {
            world.catalog.delete_manifest(&repository.id, &digest, None).await.expect("deleted");
        }
    }
    for _ in 0..2 {
        world.clock.advance(2 * GRACE);
        world.collect().await;
    }
    let left = world.blobs.list(None, 100).await.expect("lists");
    assert!(left.is_empty(), "seed {seed}: {} blobs stay for ever", left.len());
    for prefix in [Kind::Candidate.prefix(), Kind::Condemned.prefix(), "ref/", "l/", "bl/"] {
        let page = world.catalog.store().page(prefix.as_bytes(), None, 10, true, At::Latest).await;
        assert!(page.expect("reads").items.is_empty(), "seed {seed}: {prefix} is not empty");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_limits_so_small_that_everything_is_staged() {
    for seed in 1..4 {
        storm(18, seed).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_usual_limits() {
    for seed in 1..4 {
        storm(128, seed).await;
    }
}
