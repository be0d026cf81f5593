//! A catalog with repositories and images.

use std::sync::Arc;

use bytes::Bytes;
use dtr_catalog::{
    Catalog, CatalogError, LinkCheck, PutManifest, PutOutcome,
    records::{Repository, Visibility},
};
use dtr_store::{Limits, Transaction};
use dtr_store_embedded::{EmbeddedStore, Options};
use dtr_types::{
    AccountId, Clock as _, Digest, Manifest, ManualClock, RepositoryId, SeededRandom, Tag,
    Timestamp,
};

pub struct World {
    pub catalog: Catalog,
    pub clock: Arc<ManualClock>,
    pub random: Arc<SeededRandom>,
}

impl World {
    pub fn new() -> Self {
        Self::with(Limits::default())
    }

    pub fn with(limits: Limits) -> Self {
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_700_000_000_000)));
        let random = Arc::new(SeededRandom::new(1));
        let options =
            Options { limits, quick_repair: false, clock: clock.clone(), ..Options::default() };
        let store = EmbeddedStore::in_memory_with(options);
        Self { catalog: Catalog::new(store, clock.clone(), random.clone()), clock, random }
    }

    pub fn repository(&self, name: &str) -> Repository {
        Repository {
            id: RepositoryId::random(&*self.random),
            name: name.parse().expect("a name"),
            namespace: AccountId::random(&*self.random),
            namespace_is_org: false,
            visibility: Visibility::Private,
            short_description: String::new(),
            long_description: String::new(),
            immutable_tags: false,
            scan_on_push: false,
            tag_limit: 0,
            created_at: self.clock.now(),
        }
    }

    pub async fn create(&self, name: &str) -> Repository {
        let repository = self.repository(name);
        self.catalog.create_repository(&repository, None).await.expect("made");
        repository
    }

    pub async fn link(&self, repository: &Repository, blob: &Digest, size: u64) {
        let id = &repository.id;
        let linked = match self.catalog.check_link(blob).await.expect("reads") {
            LinkCheck::Present { modified, .. } => {
                self.catalog.link_blob(id, blob, modified, Transaction::new()).await
            }
            _ => self.catalog.link_new_blob(id, blob, size, None, Transaction::new()).await,
        };
        assert!(linked.expect("commits"));
    }

    /// The bytes of an image with so many layers.
    pub fn image(name: &str, layers: usize) -> (Bytes, Vec<Digest>) {
        let blobs: Vec<Digest> =
            (0..=layers).map(|n| Digest::of(format!("{name} {n}").as_bytes())).collect();
        let of = |kind: &str, digest: &Digest| {
            format!(
                r#"{{"mediaType":"application/vnd.oci.image.{kind}","digest":"{digest}","size":9}}"#
            )
        };
        let layers: Vec<String> = blobs[1..].iter().map(|blob| of("layer.v1.tar", blob)).collect();
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{},"layers":[{}]}}"#,
            of("config.v1+json", &blobs[0]),
            layers.join(",")
        );
        (text.into(), blobs)
    }

    /// Pushes a manifest whose blobs are linked already.
    pub async fn put(
        &self,
        repository: &Repository,
        body: &Bytes,
        tags: &[&str],
    ) -> Result<PutOutcome, CatalogError> {
        let manifest = Manifest::parse(None, body).expect("a manifest");
        let tags: Vec<Tag> = tags.iter().map(|tag| tag.parse().expect("a tag")).collect();
        let put = PutManifest {
            repository,
            digest: Digest::of(body),
            manifest: &manifest,
            body,
            tags: &tags,
            author: "somebody",
            author_id: None,
            platform: None,
            allow_sparse: false,
        };
        self.catalog.put_manifest(&put).await
    }

    pub async fn push(&self, repository: &Repository, name: &str, layers: usize) -> Digest {
        let (body, blobs) = Self::image(name, layers);
        for blob in &blobs {
            self.link(repository, blob, 9).await;
        }
        self.put(repository, &body, &[name]).await.expect("pushed");
        Digest::of(&body)
    }

    /// Every key there is.
    pub async fn keys(&self) -> Vec<String> {
        self.catalog.all_names(b"").await.expect("reads")
    }
}
