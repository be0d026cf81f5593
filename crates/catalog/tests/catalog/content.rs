//! What belongs to an image: content that may be absent, and the manifests that an index lists.

use bytes::Bytes;
use dtr_catalog::{CatalogError, keys, records::Repository};
use dtr_store::Limits;
use dtr_types::Digest;

use crate::world::World;

const OCI: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const FOREIGN: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
const NONDISTRIBUTABLE: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar";
const URLS: &str = r#","urls":["https://example.com/it"]"#;

fn blob(name: &str) -> Digest {
    Digest::of(name.as_bytes())
}

fn entry(media_type: &str, digest: &Digest, size: usize, more: &str) -> String {
    format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{size}{more}}}"#)
}

fn image(config: &str, layers: &[String]) -> Bytes {
    let layers = layers.join(",");
    format!(r#"{{"schemaVersion":2,"mediaType":"{OCI}","config":{config},"layers":[{layers}]}}"#)
        .into()
}

fn index(name: &str, entries: &[String]) -> Bytes {
    let entries = entries.join(",");
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{INDEX}","annotations":{{"of":"{name}"}},"manifests":[{entries}]}}"#
    )
    .into()
}

/// Each kind of descriptor behind which content may be absent, in a manifest: the content, and the manifest's bytes.
fn kinds() -> Vec<(&'static str, Digest, Bytes)> {
    let config = entry("a/config", &blob("config"), 9, "");
    let layer = |media_type, name, more| entry(media_type, &blob(name), 9, more);
    vec![
        ("foreign", blob("foreign"), image(&config, &[layer(FOREIGN, "foreign", "")])),
        ("nondist", blob("nondist"), image(&config, &[layer(NONDISTRIBUTABLE, "nondist", "")])),
        ("urls", blob("urls"), image(&config, &[layer(LAYER, "urls", URLS)])),
        ("config", blob("of config"), image(&layer("a/config", "of config", URLS), &[])),
        ("entry", blob("entry"), index("entry", &[layer(LAYER, "entry", URLS)])),
    ]
}

async fn world() -> (World, Repository) {
    let world = World::new();
    let repository = world.create("corp/win").await;
    world.link(&repository, &blob("config"), 9).await;
    (world, repository)
}

#[tokio::test]
async fn content_that_may_be_absent_belongs_to_the_image_when_it_is_there() {
    for (name, content, body) in kinds() {
        // There before the push, and pushed after it.
        for early in [true, false] {
            let (world, repository) = world().await;
            let catalog = &world.catalog;
            if early {
                world.link(&repository, &content, 9).await;
            }
            world.put(&repository, &body, &[name]).await.expect("accepted");
            assert_eq!(catalog.is_referenced(&content).await.expect("reads"), early, "{name}");
            world.link(&repository, &content, 9).await;
            assert!(catalog.is_referenced(&content).await.expect("reads"), "{name} {early}");
            let refused = catalog.unlink_blob(&repository.id, &content, None).await;
            assert!(matches!(refused, Err(CatalogError::BlobInUse(_))), "{name}: {refused:?}");
            // With the manifest it becomes one of those that may be collected, and nothing is left of it.
            let digest = Digest::of(&body);
            catalog.delete_manifest(&repository.id, &digest, None).await.expect("deleted");
            assert!(!catalog.is_referenced(&content).await.expect("reads"), "{name} {early}");
            assert!(catalog.get(&keys::candidate(&content)).await.expect("reads").is_some());
            let left = |key: &String| key.contains(&digest.to_string()) && !key.starts_with('e');
            let left: Vec<String> = world.keys().await.into_iter().filter(left).collect();
            assert!(left.is_empty(), "{name} {early}: {left:?}");
            assert!(catalog.unlink_blob(&repository.id, &content, None).await.expect("gone"));
        }
    }
}

/// Whoever names the digest of another repository's content neither keeps it nor gets at it.
#[tokio::test]
async fn naming_content_of_others_gives_nothing() {
    for (name, content, body) in kinds() {
        let (world, repository) = world().await;
        let catalog = &world.catalog;
        let others = world.create("others/secret").await;
        world.link(&others, &content, 9).await;
        world.put(&repository, &body, &[name]).await.expect("accepted");
        assert!(!catalog.is_referenced(&content).await.expect("reads"), "{name}");
        let candidate = catalog.get(&keys::candidate(&content)).await.expect("reads");
        let marked = catalog.condemn(&candidate.expect("one")).await.expect("commits");
        let marked = marked.expect("marked");
        catalog.spare(&marked).await.expect("spared");
        let seen = catalog.linked_blob(&repository.id, &content).await.expect("reads");
        assert_eq!(seen, None, "{name}");
        assert!(catalog.unlink_blob(&others.id, &content, None).await.expect("gone"), "{name}");
    }
}

async fn child(world: &World, repository: &Repository, name: &str) -> (Digest, String) {
    let (body, blobs) = World::image(name, 1);
    for blob in &blobs {
        world.link(repository, blob, 9).await;
    }
    world.put(repository, &body, &[]).await.expect("pushed");
    let digest = Digest::of(&body);
    (digest, entry(OCI, &digest, body.len(), ""))
}

#[tokio::test]
async fn what_an_index_lists_is_not_deleted_under_it() {
    // In one transaction, and in several.
    for limit in [Limits::default(), Limits { operations_max: 20, ..Limits::default() }] {
        let world = World::with(limit);
        let repository = world.create("corp/multi").await;
        let (id, catalog) = (&repository.id, &world.catalog);
        let (mut children, mut entries) = (Vec::new(), Vec::new());
        for n in 0..30 {
            let (digest, entry) = child(&world, &repository, &format!("child {n}")).await;
            children.push(digest);
            entries.push(entry);
        }
        let body = index("all", &entries);
        let digest = Digest::of(&body);
        world.put(&repository, &body, &[]).await.expect("pushed");
        // Of an index without a tag, and of one with one.
        for tag in [None, Some("multi")] {
            if let Some(tag) = tag {
                world.put(&repository, &body, &[tag]).await.expect("tagged");
            }
            for child in [children[0], children[29]] {
                let refused = catalog.delete_manifest(id, &child, None).await;
                let Err(error @ CatalogError::Listed { .. }) = refused else {
                    panic!("{refused:?}")
                };
                let text = error.to_string();
                assert!(text.contains(&digest.to_string()), "{text}");
                assert_eq!(text.contains("(tag multi)"), tag.is_some(), "{text}");
                assert!(catalog.get_manifest(id, &child).await.expect("reads").is_some());
            }
        }
        // Another index that lists it as well.
        let other = index("some", &entries[..1]);
        world.put(&repository, &other, &[]).await.expect("pushed");
        catalog.delete_manifest(id, &digest, None).await.expect("the index is");
        let refused = catalog.delete_manifest(id, &children[0], None).await;
        assert!(matches!(refused, Err(CatalogError::Listed { .. })), "{refused:?}");
        catalog.delete_manifest(id, &Digest::of(&other), None).await.expect("deleted");
        for child in children {
            let gone = catalog.delete_manifest(id, &child, None).await.expect("deleted");
            assert!(gone.is_some());
        }
        let left: Vec<String> =
            world.keys().await.into_iter().filter(|key| key.starts_with("mi/")).collect();
        assert!(left.is_empty(), "{left:?}");
        // A whole repository goes in whatever order.
        world.put(&repository, &World::image("child 0", 1).0, &["a"]).await.expect("pushed");
        world.put(&repository, &other, &["b"]).await.expect("pushed");
        assert!(catalog.delete_repository(&repository.name, None).await.expect("deleted"));
        let mut left = world.keys().await;
        left.retain(|key| key.contains(id.as_str()) && !key.starts_with("e/"));
        assert!(left.is_empty(), "{left:?}");
    }
}

/// The subject of a referrer, and a tag of what is listed, may go.
#[tokio::test]
async fn what_is_no_part_of_an_index_is_deleted() {
    let world = World::new();
    let repository = world.create("corp/multi").await;
    let (id, catalog) = (&repository.id, &world.catalog);
    let subject = world.push(&repository, "subject", 1).await;
    let (body, _) = World::image("subject", 1);
    let of = entry(OCI, &subject, body.len(), "");
    let referrer =
        format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[],"subject":{of}}}"#);
    world.put(&repository, &Bytes::from(referrer), &[]).await.expect("pushed");
    assert!(catalog.delete_manifest(id, &subject, None).await.expect("deleted").is_some());
    world.put(&repository, &body, &["staging"]).await.expect("pushed");
    world.put(&repository, &index("multi", &[of]), &["multi"]).await.expect("pushed");
    let tag = "staging".parse().expect("a tag");
    assert!(catalog.delete_tag(id, &tag, None).await.expect("deleted").is_some());
    assert!(catalog.get_manifest(id, &subject).await.expect("reads").is_some());
}

/// An index is pushed and its child deleted at the same moment: one of the two is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_and_its_child_at_once() {
    let mut outcomes = [0, 0];
    for round in 0..100 {
        let world = World::new();
        let repository = world.create("corp/multi").await;
        let (digest, entry) = child(&world, &repository, "child").await;
        let body = index(&round.to_string(), &[entry]);
        let (pushed, deleted) =
            tokio::join!(async { world.put(&repository, &body, &["multi"]).await }, async {
                world.catalog.delete_manifest(&repository.id, &digest, None).await
            });
        let there = world.catalog.get_manifest(&repository.id, &digest).await.expect("reads");
        match (&pushed, &deleted) {
            (Ok(_), Err(CatalogError::Listed { .. })) => assert!(there.is_some()),
            (Err(CatalogError::ManifestMissing(_)), Ok(_)) => assert!(there.is_none()),
            other => panic!("{other:?}"),
        }
        outcomes[usize::from(pushed.is_ok())] += 1;
    }
    assert!(outcomes[0] + outcomes[1] == 100, "{outcomes:?}");
}
