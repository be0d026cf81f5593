//! The limit of a repository's tags: which go, which stay, and that each one that goes is told.

use std::sync::Arc;

use dtr_catalog::{
    Catalog, keys,
    records::{ClusterRecord, DATA_FORMAT, Event, IdentitySource, Repository, Settings},
};
use dtr_types::{Clock as _, ClusterId, Digest, ManualClock, Timestamp};

use crate::world::World;

async fn limited(world: &World, limit: u32) -> Repository {
    let repository = Repository { tag_limit: limit, ..world.repository("corp/web") };
    world.catalog.create_repository(&repository, None).await.expect("made");
    repository
}

async fn tags(world: &World, repository: &Repository) -> Vec<String> {
    world.catalog.all_names(&keys::tags(&repository.id)).await.expect("reads")
}

/// Names of tags of which an event says that they were removed.
async fn told(world: &World) -> Vec<String> {
    let events = world.catalog.oldest_events(500).await.expect("reads");
    let events = events.into_iter().map(|found| found.value);
    let by_system = events.filter(|event: &Event| event.actor == "system");
    by_system.map(|event| event.object.name).collect()
}

async fn enforce(world: &World, repository: &Repository, most: usize) -> usize {
    world.catalog.enforce_tag_limit(&repository.id, most).await.expect("enforced")
}

#[tokio::test]
async fn the_tags_that_were_pushed_last_stay() {
    let world = World::new();
    let repository = limited(&world, 3).await;
    let mut digests = Vec::new();
    for name in ["e", "d", "c", "b", "a"] {
        digests.push(world.push(&repository, name, 2).await);
    }
    // The oldest is pushed once more: it is the newest then.
    world.push(&repository, "e", 2).await;
    assert_eq!(enforce(&world, &repository, 100).await, 2);
    assert_eq!(tags(&world, &repository).await, ["a", "b", "e"]);
    assert_eq!(told(&world).await, ["d", "c"]);
    assert_eq!(enforce(&world, &repository, 100).await, 0, "once is enough");
    for digest in &digests {
        let there = world.catalog.get_manifest(&repository.id, digest).await.expect("reads");
        assert!(there.is_some(), "what a tag named stays");
    }
    let left = world.keys().await.into_iter().filter(|key| key.contains(&digests[1].to_string()));
    assert!(left.into_iter().all(|key| !key.ends_with("/d")), "nothing points at what is gone");
}

#[tokio::test]
async fn a_clock_that_goes_wrong_decides_nothing() {
    let world = World::new();
    let cluster = ClusterRecord {
        id: ClusterId::random(&*world.random),
        data_format: DATA_FORMAT,
        created_at: world.clock.now(),
        created_by: "0.0.0".to_owned(),
        identity: IdentitySource::BuiltIn,
        restored_from: None,
    };
    let repository = limited(&world, 2).await;
    // Those of a restore come before the cluster's record, in the order of their keys.
    let hour = std::time::Duration::from_secs(3600);
    let (body, blobs) = World::image("image", 1);
    for blob in &blobs {
        world.link(&repository, blob, 9).await;
    }
    let at = |clock: Timestamp| {
        let clock = Arc::new(ManualClock::new(clock));
        let catalog =
            Catalog::new(world.catalog.store().clone(), clock.clone(), world.random.clone());
        World { catalog, clock, random: world.random.clone() }
    };
    let now = world.clock.now();
    at(now.plus(hour)).put(&repository, &body, &["a-newer"]).await.expect("pushed");
    world.put(&repository, &body, &["b-older"]).await.expect("pushed");
    world.catalog.create_cluster(&cluster).await.expect("made");
    let late = at(now.minus(24 * hour));
    late.put(&repository, &body, &["c-pushed-with-a-late-clock"]).await.expect("pushed");
    assert_eq!(enforce(&world, &repository, 100).await, 1);
    assert_eq!(tags(&world, &repository).await, ["a-newer", "c-pushed-with-a-late-clock"]);
}

#[tokio::test]
async fn nothing_goes_where_it_must_stay() {
    let world = World::new();
    for (limit, immutable) in [(0, false), (1, true)] {
        let repository = Repository {
            tag_limit: limit,
            immutable_tags: immutable,
            ..world.repository(&format!("corp/kept{limit}"))
        };
        world.catalog.create_repository(&repository, None).await.expect("made");
        world.push(&repository, "a", 1).await;
        world.push(&repository, "b", 1).await;
        assert_eq!(enforce(&world, &repository, 100).await, 0);
        assert_eq!(tags(&world, &repository).await, ["a", "b"]);
    }
    let repository = limited(&world, 1).await;
    world.push(&repository, "a", 1).await;
    world.push(&repository, "b", 1).await;
    let mut settings = Settings { read_only_registry: true, ..Settings::default() };
    world.catalog.put(&settings).await.expect("put");
    assert_eq!(enforce(&world, &repository, 100).await, 0, "the registry is read-only");
    settings.read_only_registry = false;
    world.catalog.put(&settings).await.expect("put");
    assert_eq!(world.catalog.enforce_tag_limits(100).await.expect("enforced"), 1);
    assert_eq!(tags(&world, &repository).await, ["b"]);
}

#[tokio::test]
async fn a_limit_that_is_lowered_far_is_reached_in_steps() {
    let world = World::new();
    let repository = limited(&world, 0).await;
    let (body, blobs) = World::image("image", 1);
    for blob in &blobs {
        world.link(&repository, blob, 9).await;
    }
    for n in 0..40 {
        world.put(&repository, &body, &[&format!("t{n:03}")]).await.expect("pushed");
    }
    let lowered = Repository { tag_limit: 5, ..repository.clone() };
    world.catalog.put(&lowered).await.expect("put");
    assert_eq!(enforce(&world, &repository, 10).await, 10);
    assert_eq!(tags(&world, &repository).await.first().map(String::as_str), Some("t010"));
    assert_eq!(world.catalog.enforce_tag_limits(20).await.expect("enforced"), 20);
    assert_eq!(world.catalog.enforce_tag_limits(20).await.expect("enforced"), 5);
    assert_eq!(tags(&world, &repository).await, ["t035", "t036", "t037", "t038", "t039"]);
    let digest = Digest::of(&body);
    let named = world.catalog.all_names(&keys::manifest_tags(&repository.id, &digest)).await;
    assert_eq!(named.expect("reads").len(), 5, "the manifest knows its tags");
}
