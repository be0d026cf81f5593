//! A real etcd and many who push at once: tags of one manifest, and an index beside the deletion of what it lists.

use std::{net::TcpListener, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use dtr_catalog::{
    Catalog, CatalogError, LinkCheck, PutManifest, PutOutcome, keys,
    records::{Repository, Visibility},
};
use dtr_cluster::{Engine, EtcdConfig, Folder, Identity, MemberConfig};
use dtr_store::Transaction;
use dtr_types::{
    AccountId, Clock as _, Digest, Manifest, ReplicaId, RepositoryId, SystemClock, SystemRandom,
    Tag,
};

const PATIENCE: Duration = Duration::from_secs(30);
const CLIENTS: usize = 16;

/// How many tags each client pushes: few here; `DTR_TAGS=313` makes it 5,000.
fn tags_each() -> usize {
    std::env::var("DTR_TAGS").ok().and_then(|text| text.parse().ok()).unwrap_or(20)
}

fn free() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

async fn engine(root: &Path) -> Engine {
    let id: ReplicaId = "0123456789ab".parse().expect("an id");
    let folder = Folder::new(root.join("etcd"));
    let founded = Identity::found(&id, "127.0.0.1", SystemClock.now()).expect("an identity");
    folder.write(&founded.identity).expect("written");
    let member = MemberConfig {
        host: "127.0.0.1".to_owned(),
        client_port: free(),
        peer_port: free(),
        joined: Vec::new(),
        token: "pushes".to_owned(),
        quota_bytes: None,
    };
    let config = EtcdConfig { member: Some(member), endpoints: Vec::new() };
    let engine = Engine::open(&folder, &config, &id).await.expect("started");
    engine.ready(PATIENCE).await.expect("answers");
    engine
}

struct World {
    catalog: Catalog,
    repository: Repository,
}

impl World {
    async fn new(engine: &Engine) -> Self {
        let (clock, random) = (Arc::new(SystemClock), Arc::new(SystemRandom));
        let catalog = Catalog::new(Arc::clone(engine.store()) as _, clock, random);
        let repository = Repository {
            id: RepositoryId::random(&SystemRandom),
            name: "corp/base".parse().expect("a name"),
            namespace: AccountId::random(&SystemRandom),
            namespace_is_org: false,
            visibility: Visibility::Private,
            short_description: String::new(),
            long_description: String::new(),
            immutable_tags: false,
            scan_on_push: false,
            tag_limit: 0,
            created_at: catalog.now(),
        };
        catalog.create_repository(&repository, None).await.expect("made");
        Self { catalog, repository }
    }

    async fn image(&self, name: &str) -> Bytes {
        let blob = Digest::of(name.as_bytes());
        let size = name.len() as u64;
        let id = &self.repository.id;
        if let LinkCheck::Absent { removed } = self.catalog.check_link(&blob).await.expect("reads")
        {
            let extra = Transaction::new();
            let linked = self.catalog.link_new_blob(id, &blob, size, removed, extra).await;
            assert!(linked.expect("commits"));
        }
        format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"a/b","digest":"{blob}","size":{size}}},"layers":[]}}"#
        )
        .into()
    }

    async fn put(&self, body: &Bytes, tags: &[Tag]) -> Result<PutOutcome, CatalogError> {
        let manifest = Manifest::parse(None, body).expect("a manifest");
        let put = PutManifest {
            repository: &self.repository,
            digest: Digest::of(body),
            manifest: &manifest,
            body,
            tags,
            author: "somebody",
            author_id: None,
            platform: None,
            allow_sparse: false,
        };
        self.catalog.put_manifest(&put).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tags_of_one_manifest_and_none_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let engine = engine(dir.path()).await;
    let world = Arc::new(World::new(&engine).await);
    let body = world.image("base").await;
    let began = std::time::Instant::now();
    let clients = (0..CLIENTS).map(|client| {
        let (world, body) = (world.clone(), body.clone());
        tokio::spawn(async move {
            for n in 0..tags_each() {
                let tag = format!("t{client}-{n}").parse().expect("a tag");
                world.put(&body, &[tag]).await.expect("not refused");
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.expect("no client was refused");
    }
    let count = CLIENTS * tags_each();
    println!("{count} tags in {:?}", began.elapsed());
    let prefix = keys::manifest_tags(&world.repository.id, &Digest::of(&body));
    assert_eq!(world.catalog.all_names(&prefix).await.expect("reads").len(), count);
    let key = keys::manifest(&world.repository.id, &Digest::of(&body));
    let stored = world.catalog.store().get(key.bytes(), dtr_store::At::Latest).await;
    assert_eq!(stored.expect("reads").expect("is there").version, 1, "written by one alone");
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_beside_the_deletion_of_its_child() {
    let dir = tempfile::tempdir().expect("a folder");
    let engine = engine(dir.path()).await;
    let world = World::new(&engine).await;
    for round in 0..20 {
        let child = world.image(&format!("child {round}")).await;
        let digest = Digest::of(&child);
        world.put(&child, &[]).await.expect("pushed");
        let index = Bytes::from(format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{digest}","size":{}}}]}}"#,
            child.len()
        ));
        let tag = "multi".parse().expect("a tag");
        let (pushed, deleted) = tokio::join!(
            world.put(&index, std::slice::from_ref(&tag)),
            world.catalog.delete_manifest(&world.repository.id, &digest, None)
        );
        let there = world.catalog.get_manifest(&world.repository.id, &digest).await.expect("reads");
        match (&pushed, &deleted) {
            (Ok(_), Err(CatalogError::Listed { .. })) => assert!(there.is_some()),
            (Err(CatalogError::ManifestMissing(_)), Ok(_)) => assert!(there.is_none()),
            other => panic!("{other:?}"),
        }
    }
    engine.stop().await;
}
