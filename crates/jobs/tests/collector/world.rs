//! What the actors act on: a catalog over an engine, blobs on a simulated disk, a clock that is set, a few images that
//! share layers; and what must hold of it.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use dtr_blobs::{SharedBlobs, body, simulated::SimulatedDisk};
use dtr_catalog::{
    Batch, Catalog, CatalogError, Cursor, Kind, LinkCheck, PutManifest,
    records::{Repository, Settings, Visibility},
};
use dtr_jobs::{CollectOptions, JobError, collect, sweep, tidy};
use dtr_store::{
    At, Limits, SharedStore, StoreExt as _, Transaction,
    hold::{self, Hold},
};
use dtr_store_embedded::{EmbeddedStore, Options};
use dtr_types::{
    AccountId, Clock as _, Digest, Manifest, ManualClock, Random as _, RepositoryId, Revision,
    SeededRandom, Timestamp,
};
use serde_json::json;

/// How long what nothing refers to is left alone.
pub(crate) const GRACE: Duration = Duration::from_secs(60);

/// An image to push.
#[derive(Clone)]
pub(crate) struct Image {
    pub(crate) blobs: Vec<Bytes>,
    pub(crate) body: Bytes,
    manifest: Arc<Manifest>,
}

impl Image {
    /// Image number `which`; a large one has a manifest that takes several values. The last layer may be absent.
    fn new(which: usize, layers: usize, large: bool) -> Self {
        let blobs: Vec<Bytes> =
            (0..=layers).map(|n| Bytes::from(format!("blob {}", n + which))).collect();
        let descriptor = |b: &Bytes, kind: &str| {
            let media_type = format!("application/vnd.oci.image.{kind}");
            json!({ "mediaType": media_type, "digest": Digest::of(b).to_string(), "size": b.len() })
        };
        let mut layers: Vec<_> = blobs[1..].iter().map(|b| descriptor(b, "layer.v1.tar")).collect();
        if let Some(last) = layers.last_mut() {
            last["urls"] = json!(["https://example.com/layer"]);
        }
        let random = SeededRandom::new(which as u64);
        let hex = |bytes: [u8; 32]| bytes.map(|byte| format!("{byte:02x}")).concat();
        let annotation: String =
            (0..if large { 20_000 } else { 1 }).map(|_| hex(random.bytes())).collect();
        let body = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor(&blobs[0], "config.v1+json"),
            "layers": layers,
            "annotations": { "a": annotation },
        });
        let body = Bytes::from(body.to_string());
        let manifest = Arc::new(Manifest::parse(None, &body).expect("a manifest"));
        Self { blobs, body, manifest }
    }
}

/// What the actors share.
pub(crate) struct World {
    pub(crate) catalog: Catalog,
    pub(crate) disk: SimulatedDisk,
    blobs: SharedBlobs,
    pub(crate) clock: Arc<ManualClock>,
    /// The images that are pushed, made once each.
    images: Arc<Mutex<HashMap<usize, Image>>>,
    /// Whether one of them is so large that its manifest takes several values: slow, so in some runs only.
    has_large: bool,
    /// Layers of an image.
    layers: usize,
    pub(crate) repositories: Vec<Repository>,
}

/// A backup that is under way.
pub(crate) struct Backup {
    held: Hold,
    mentioned: BTreeSet<Digest>,
}

/// An engine whose transactions take so many operations.
pub(crate) fn engine(operations_max: usize, clock: &Arc<ManualClock>) -> SharedStore {
    let limits = Limits { operations_max, ..Limits::default() };
    let options =
        Options { limits, quick_repair: false, clock: clock.clone(), ..Options::default() };
    EmbeddedStore::in_memory_with(options)
}

/// The time at which every run begins.
pub(crate) fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(Timestamp::from_millis(1_700_000_000_000)))
}

/// What a backup at one revision speaks of.
#[derive(serde::Deserialize)]
struct Named {
    digest: Digest,
}

impl World {
    /// With three repositories and images of so many layers.
    pub(crate) async fn new(
        store: SharedStore,
        clock: Arc<ManualClock>,
        (layers, has_large): (usize, bool),
        seed: u64,
    ) -> Self {
        let random = Arc::new(SeededRandom::new(seed));
        let catalog = Catalog::new(store, clock.clone(), random);
        let disk = SimulatedDisk::new();
        let blobs = Arc::new(disk.storage().await.expect("a storage"));
        let (images, repositories) = (Arc::default(), Vec::new());
        let mut world =
            Self { catalog, disk, blobs, clock, images, has_large, layers, repositories };
        for name in ["team/a", "team/b", "team/c"] {
            let repository = world.create(name).await;
            world.repositories.push(repository);
        }
        world
    }

    /// Where the bytes are.
    pub(crate) fn storage(&self) -> &SharedBlobs {
        &self.blobs
    }

    /// The same world, with another machine's catalog.
    pub(crate) fn with_catalog(&self, catalog: Catalog) -> Self {
        Self { catalog, ..self.through(Arc::clone(self.catalog.store())) }
    }

    /// The same world, whose store is reached in another way.
    pub(crate) fn through(&self, store: SharedStore) -> Self {
        let random = Arc::new(SeededRandom::new(1_000_000));
        Self {
            catalog: Catalog::new(store, self.clock.clone(), random),
            disk: self.disk.clone(),
            blobs: self.blobs.clone(),
            clock: self.clock.clone(),
            images: self.images.clone(),
            has_large: self.has_large,
            layers: self.layers,
            repositories: self.repositories.clone(),
        }
    }

    /// The same world, whose blobs are reached in another way.
    pub(crate) fn with_blobs(self, blobs: SharedBlobs) -> Self {
        Self { blobs, ..self }
    }

    /// Bytes of all of an image's blobs without a record, as a push leaves them that was cut off.
    pub(crate) async fn orphan(&self, which: usize) {
        for bytes in &self.image(which).blobs {
            let stored = self.blobs.put(&Digest::of(bytes), None, body(bytes.clone())).await;
            stored.expect("stored");
        }
    }

    /// Looks for bytes without a record; all are old enough.
    pub(crate) async fn sweep(&self) {
        let swept = sweep(&self.catalog, &*self.blobs, Duration::ZERO, false).await;
        assert!(matches!(swept, Ok(_) | Err(JobError::Blobs(_))), "{swept:?}");
    }

    pub(crate) async fn create(&self, name: &str) -> Repository {
        let random = self.catalog.random();
        let repository = Repository {
            id: RepositoryId::random(random),
            name: name.parse().expect("a name"),
            namespace: AccountId::random(random),
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
        repository
    }

    /// Mounts the blob from another repository, or else uploads it, unless it is there.
    pub(crate) async fn push_blob(&self, repository: &RepositoryId, bytes: &Bytes) {
        let digest = Digest::of(bytes);
        // As clients do: what is there is not sent again.
        if self.catalog.linked_blob(repository, &digest).await.expect("reads").is_some() {
            return;
        }
        for other in self.repositories.iter().filter(|other| other.id != *repository) {
            match self.catalog.mount_blob(&other.id, repository, &digest).await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => panic!("{error}"),
            }
        }
        loop {
            let linked = match self.catalog.check_link(&digest).await.expect("reads") {
                LinkCheck::Condemned => Ok(false),
                LinkCheck::Present { modified, .. } => {
                    self.blobs.put(&digest, None, body(bytes.clone())).await.expect("stored");
                    self.catalog.link_blob(repository, &digest, modified, Transaction::new()).await
                }
                LinkCheck::Absent { removed } => {
                    self.blobs.put(&digest, None, body(bytes.clone())).await.expect("stored");
                    let size = bytes.len() as u64;
                    let new = Transaction::new();
                    self.catalog.link_new_blob(repository, &digest, size, removed, new).await
                }
            };
            if linked.expect("commits") {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    /// One of a few images that share layers; `false` when the collector was faster, which is the client's to repeat.
    pub(crate) async fn push(&self, repository: &Repository, which: usize) -> bool {
        let image = self.image(which);
        for blob in &image.blobs {
            self.push_blob(&repository.id, blob).await;
        }
        let put = PutManifest {
            repository,
            digest: Digest::of(&image.body),
            manifest: &image.manifest,
            body: &image.body,
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

    pub(crate) fn image(&self, which: usize) -> Image {
        let mut images = self.images.lock().expect("nobody panics with it");
        let is_large = which == 0 && self.has_large;
        images.entry(which).or_insert_with(|| Image::new(which, self.layers, is_large)).clone()
    }

    /// What a backup does first: a hold, and all that is mentioned at its revision.
    pub(crate) async fn begin_backup(&self) -> Backup {
        let store = &**self.catalog.store();
        let random = self.catalog.random();
        let lifetime = GRACE * 100_000;
        let held = hold::take(store, &*self.clock, random, "test", lifetime).await.expect("held");
        let export = self.catalog.export(held.revision).await.expect("readable");
        let mut needed = BTreeSet::new();
        let (mut cursor, mut mentioned) = (Cursor::default(), BTreeSet::new());
        while let Some(batch) = export.next(Kind::Manifest, &mut cursor).await.expect("reads") {
            let Batch::Manifests(lines) = batch else { panic!("manifests") };
            for line in lines {
                let mut text = Vec::new();
                line.write(&mut text).expect("whole");
                let line: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
                let body = line["body"].as_str().expect("a body").as_bytes();
                let manifest = Manifest::parse(None, body).expect("a manifest");
                needed.extend(manifest.blobs().iter().map(|blob| blob.digest));
                let present = line["present"].as_array().into_iter().flatten();
                needed.extend(present.map(|digest| {
                    digest.as_str().expect("text").parse::<Digest>().expect("a digest")
                }));
            }
        }
        let mut cursor = Cursor::default();
        while let Some(batch) = export.next(Kind::Blob, &mut cursor).await.expect("reads") {
            let Batch::Lines(lines) = batch else { panic!("lines") };
            for line in lines {
                let named: Named = serde_json::from_slice(&line).expect("JSON");
                mentioned.insert(named.digest);
            }
        }
        assert_eq!(needed, mentioned, "a backup mentions the blobs of its manifests and no others");
        Backup { held, mentioned }
    }

    /// And at its end: all that it mentions must still be there.
    pub(crate) async fn end_backup(&self, backup: Backup) {
        for digest in &backup.mentioned {
            let kept = self.blobs.read(digest, None).await;
            let revision = backup.held.revision;
            assert!(kept.is_ok(), "{digest} was collected under a backup of {revision}");
        }
        hold::release(&**self.catalog.store(), &backup.held.id).await.expect("released");
    }

    pub(crate) async fn manifests(&self, repository: &RepositoryId) -> Vec<Digest> {
        let prefix = dtr_catalog::keys::manifests(repository);
        let names = self.catalog.all_names(&prefix).await.expect("reads");
        names.iter().map(|name| name.parse().expect("a digest")).collect()
    }

    /// Every manifest has its bytes, its blobs and its links; what may be absent has bytes where it is linked.
    pub(crate) async fn check(&self) {
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
                for blob in manifest.optional_blobs() {
                    let linked = self.catalog.linked_blob(&repository.id, &blob.digest).await;
                    if linked.expect("reads").is_some() {
                        self.blobs.read(&blob.digest, None).await.expect("is stored");
                    }
                }
            }
        }
    }

    /// So much time passes, and is seen to.
    pub(crate) async fn pass(&self, time: Duration) {
        self.catalog.observe().await.expect("observed");
        self.clock.advance(time);
        self.catalog.observe().await.expect("observed");
    }

    pub(crate) async fn collect(&self) {
        let options = CollectOptions { grace: GRACE, dry_run: false };
        let collected = collect(&self.catalog, &*self.blobs, options).await;
        // Only the disk may fail, and only where it was told to.
        assert!(matches!(collected, Ok(_) | Err(JobError::Blobs(_))), "{collected:?}");
    }

    pub(crate) async fn tidy(&self) {
        // The simulated disk has a time of its own, in which every upload is old.
        let settings = Settings { upload_expiry_days: 100 * 365, ..Settings::default() };
        tidy(&self.catalog, &*self.blobs, &settings, Revision::ZERO).await.expect("tidies");
    }

    /// Deletes every manifest; then all that there ever was must go.
    pub(crate) async fn drain(&self, what: &str) {
        for repository in &self.repositories {
            for digest in self.manifests(&repository.id).await {
                self.catalog.delete_manifest(&repository.id, &digest, None).await.expect("deleted");
            }
        }
        // Longer than any push may take, and than bytes without a record are left alone.
        self.pass(Duration::from_secs(2 * 3600)).await;
        self.tidy().await;
        for _ in 0..2 {
            self.pass(2 * GRACE).await;
            self.collect().await;
        }
        sweep(&self.catalog, &*self.blobs, Duration::ZERO, false).await.expect("sweeps");
        let left = self.blobs.list(None, 100).await.expect("lists");
        assert!(left.is_empty(), "{what}: {} blobs stay for ever", left.len());
        let files: Vec<_> = self.disk.files().into_iter().map(|(path, _)| path).collect();
        assert!(files.is_empty(), "{what}: {files:?} stay for ever");
        // What was removed is remembered for a while.
        self.pass(Duration::from_secs(2 * 3600)).await;
        self.tidy().await;
        let kinds = [
            Kind::Blob,
            Kind::Candidate,
            Kind::Condemned,
            Kind::StagedManifest,
            Kind::DeletedManifest,
            Kind::DeletedRepository,
            Kind::UnlinkedBlob,
        ];
        for prefix in
            kinds.iter().map(|kind| kind.prefix()).chain(["ref/", "l/", "bl/", "mb/", "mt/"])
        {
            let page =
                self.catalog.store().page(prefix.as_bytes(), None, 10, true, At::Latest).await;
            let items = page.expect("reads").items;
            assert!(items.is_empty(), "{what}: {prefix} is not empty: {items:?}");
        }
    }
}
