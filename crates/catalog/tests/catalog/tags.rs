//! Many tags of one manifest at once.

use std::sync::Arc;

use dtr_catalog::{CatalogError, keys};
use dtr_store::Limits;
use dtr_types::Digest;

use crate::world::World;

/// How many tags each client pushes: few here; `DTR_TAGS=313` makes it 5,000.
fn tags_each() -> usize {
    std::env::var("DTR_TAGS").ok().and_then(|text| text.parse().ok()).unwrap_or(40)
}

/// Pushes of different tags write nothing in common, so none is ever in the way of another, whatever the manifest needs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn different_tags_of_one_manifest_never_meet() {
    for limits in [Limits::default(), Limits { operations_max: 20, ..Limits::default() }] {
        let world = Arc::new(World::with(limits));
        let repository = Arc::new(world.create("corp/base").await);
        let (body, blobs) = World::image("base", 20);
        for blob in &blobs {
            world.link(&repository, blob, 9).await;
        }
        let clients = (0..16).map(|client| {
            let (world, repository, body) = (world.clone(), repository.clone(), body.clone());
            tokio::spawn(async move {
                for n in 0..tags_each() {
                    let tag = format!("t{client}-{n}");
                    world.put(&repository, &body, &[&tag]).await.expect("not refused");
                }
            })
        });
        for client in clients.collect::<Vec<_>>() {
            client.await.expect("no client was refused");
        }
        let prefix = keys::manifest_tags(&repository.id, &Digest::of(&body));
        assert_eq!(world.catalog.all_names(&prefix).await.expect("reads").len(), 16 * tags_each());
        // The record is that of the first push, and was written once.
        let record = world.catalog.get_manifest(&repository.id, &Digest::of(&body)).await;
        let record = record.expect("reads").expect("is there");
        let key = keys::manifest(&repository.id, &Digest::of(&body));
        let stored = world.catalog.store().get(key.bytes(), dtr_store::At::Latest).await;
        assert_eq!(stored.expect("reads").expect("is there").version, 1, "{record:?}");
    }
}

/// A manifest is deleted while tags for it are pushed: a tag never names what is not there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_takes_all_tags_or_fails() {
    let world = Arc::new(World::new());
    let repository = Arc::new(world.create("corp/base").await);
    let (body, blobs) = World::image("base", 2);
    for blob in &blobs {
        world.link(&repository, blob, 9).await;
    }
    let digest = Digest::of(&body);
    let pushes = {
        let (world, repository) = (world.clone(), repository.clone());
        tokio::spawn(async move {
            for n in 0..300 {
                world.put(&repository, &body, &[&format!("t{n}")]).await.expect("pushed");
            }
        })
    };
    let mut deleted = 0;
    while !pushes.is_finished() {
        match world.catalog.delete_manifest(&repository.id, &digest, None).await {
            Ok(gone) => deleted += usize::from(gone.is_some()),
            Err(error) => assert!(matches!(error, CatalogError::Contention(_)), "{error}"),
        }
        let tags = world.catalog.all_names(&keys::tags(&repository.id)).await.expect("reads");
        for tag in tags {
            // By then the manifest may have gone, and its tags with it.
            let tag = tag.parse().expect("a tag");
            let there = world.catalog.get_tag(&repository.id, &tag).await.expect("reads");
            let manifest = world.catalog.get_manifest(&repository.id, &digest).await;
            if there.is_some() && manifest.expect("reads").is_none() {
                let again = world.catalog.get_tag(&repository.id, &tag).await.expect("reads");
                assert_eq!(again, None, "{tag} names what is not there");
            }
        }
    }
    pushes.await.expect("no push was refused");
    assert!(deleted > 0, "none was in the way");
    let listed = world.catalog.all_names(&keys::manifest_tags(&repository.id, &digest)).await;
    let mut tags = world.catalog.all_names(&keys::tags(&repository.id)).await.expect("reads");
    tags.sort();
    let mut listed = listed.expect("reads");
    listed.sort();
    assert_eq!(listed, tags);
}
