//! Changes of several keys: they happen wholly or not at all, and what takes several transactions is brought to its end.

use std::{pin::pin, task::Poll, time::Duration};

use dtr_catalog::{
    CatalogError, Kind,
    records::{Session, Settings},
};
use dtr_store::Limits;
use dtr_types::{AccountId, Clock as _, Digest, Random as _};
use futures_util::poll;

use crate::world::World;

#[tokio::test]
async fn a_name_is_given_once_and_free_again_after_a_deletion() {
    let world = World::new();
    let first = world.create("corp/web").await;
    let taken = world.catalog.create_repository(&world.repository("corp/web"), None).await;
    assert!(matches!(taken, Err(CatalogError::Exists { .. })), "{taken:?}");
    world.push(&first, "one", 2).await;
    assert!(world.catalog.delete_repository(&first.name, None).await.expect("deleted"));
    assert!(!world.catalog.delete_repository(&first.name, None).await.expect("nothing to delete"));
    let second = world.create("corp/web").await;
    assert_ne!(first.id, second.id);
    let tags = world.catalog.all_names(&dtr_catalog::keys::tags(&second.id)).await;
    assert!(tags.expect("reads").is_empty(), "nothing of the first is seen through the second");
}

/// What a repository leaves behind when it is deleted: events, blobs, candidates.
fn is_left(key: &str) -> bool {
    ["e/", "b/", "gc/"].iter().any(|prefix| key.starts_with(prefix))
}

#[tokio::test]
async fn a_deletion_that_stops_anywhere_is_seen_at_once_and_finished_later() {
    let mut stopped = 0;
    for steps in 1.. {
        let world = World::with(Limits { operations_max: 18, ..Limits::default() });
        let repository = world.create("corp/web").await;
        world.push(&repository, "one", 3).await;
        world.push(&repository, "large", 20).await;
        let before = world.keys().await;
        let finished = {
            let mut deletion = pin!(world.catalog.delete_repository(&repository.name, None));
            let mut finished = false;
            for _ in 0..steps {
                if poll!(&mut deletion).is_ready() {
                    finished = true;
                    break;
                }
                // Whatever was sent is answered, so that each poll is one step further.
                let other = world.repository("any/other");
                world.catalog.put(&other).await.expect("put");
            }
            finished
        };
        let deleted: Vec<dtr_catalog::records::DeletedRepository> =
            world.catalog.all(Kind::DeletedRepository.prefix().as_bytes()).await.expect("reads");
        let there = world.catalog.lookup_repository(&repository.name).await.expect("reads");
        // It is there as it was, or gone with a record of what is left to do, or gone.
        if there.is_some() {
            assert!(deleted.is_empty());
            assert!(before.iter().all(|key| !key.starts_with("rd/")));
            continue;
        }
        // As the small duties do it.
        for left in world.catalog.deleted_manifests().await.expect("reads") {
            let finished = world.catalog.finish_deleted_manifest(&left.repository, &left.digest);
            finished.await.expect("goes on");
        }
        for left in &deleted {
            world.catalog.purge_repository(&left.id).await.expect("goes on");
            world.catalog.purge_repository(&left.id).await.expect("may be repeated");
        }
        stopped += usize::from(!deleted.is_empty());
        let id = repository.id.as_str();
        let left: Vec<String> = world.keys().await.into_iter().filter(|k| k.contains(id)).collect();
        assert!(left.iter().all(|key| is_left(key)), "after {steps} steps: {left:?}");
        if finished {
            assert!(deleted.is_empty());
            break;
        }
    }
    assert!(stopped > 5, "it was stopped in between {stopped} times");
}

#[tokio::test]
async fn what_a_manifest_needs_must_be_there() {
    let world = World::new();
    let (here, there) = (world.create("corp/web").await, world.create("corp/other").await);
    let (body, blobs) = World::image("one", 2);
    for blob in &blobs {
        world.link(&there, blob, 9).await;
    }
    // Stored, but not readable through this repository.
    let missing = world.put(&here, &body, &["v1"]).await;
    assert!(matches!(missing, Err(CatalogError::BlobMissing(_))), "{missing:?}");
    assert!(world.keys().await.iter().all(|key| !key.starts_with("m/") && !key.starts_with("t/")));
    for blob in &blobs {
        assert!(world.catalog.mount_blob(&there.id, &here.id, blob).await.expect("mounted"));
    }
    let put = world.put(&here, &body, &["v1"]).await.expect("pushed");
    assert!(put.moved.is_empty());
    let used = world.catalog.unlink_blob(&here.id, &blobs[0], None).await;
    assert!(matches!(used, Err(CatalogError::BlobInUse(_))), "{used:?}");
    let read = world.catalog.read_manifest(&here.id, &Digest::of(&body)).await.expect("reads");
    assert_eq!(read.expect("is there").body, body);
}

#[tokio::test]
async fn immutable_tags_stay_and_others_move() {
    let world = World::new();
    let mut repository = world.create("corp/web").await;
    let (first, second) = (World::image("one", 1), World::image("two", 1));
    for blob in first.1.iter().chain(&second.1) {
        world.link(&repository, blob, 9).await;
    }
    world.put(&repository, &first.0, &["v1"]).await.expect("pushed");
    let moved = world.put(&repository, &second.0, &["v1", "v2"]).await.expect("pushed").moved;
    assert_eq!(moved, [("v1".parse().expect("a tag"), Digest::of(&first.0))]);
    repository.immutable_tags = true;
    let refused = world.put(&repository, &first.0, &["v3", "v1"]).await;
    assert!(matches!(refused, Err(CatalogError::TagImmutable(_))), "{refused:?}");
    let tag = "v3".parse().expect("a tag");
    let none = world.catalog.get_tag(&repository.id, &tag).await.expect("reads");
    assert!(none.is_none(), "of several tags none is set when one is refused");
    world.put(&repository, &second.0, &["v1"]).await.expect("the same again is no change");
}

/// A backup that is taken once the registry is read-only has every manifest that was acknowledged.
#[tokio::test]
async fn nothing_is_stored_after_the_registry_was_made_read_only() {
    let mut refused = 0;
    for steps in 0.. {
        let world = World::with(Limits { operations_max: 18, ..Limits::default() });
        let repository = world.create("corp/web").await;
        let (body, blobs) = World::image("large", 80);
        for blob in &blobs {
            world.link(&repository, blob, 9).await;
        }
        let read_only = Settings { read_only_registry: true, ..Settings::default() };
        let mut put = pin!(world.put(&repository, &body, &["v1"]));
        let mut early = None;
        for _ in 0..steps {
            if let Poll::Ready(ended) = poll!(&mut put) {
                early = Some(ended);
                break;
            }
            let other = world.repository("any/other");
            world.catalog.put(&other).await.expect("put");
        }
        let is_early = early.is_some();
        let then = world.catalog.put(&read_only).await.expect("put");
        let ended = match early {
            Some(ended) => ended,
            None => put.await,
        };
        let stored = world.catalog.get_manifest(&repository.id, &Digest::of(&body)).await;
        match (ended, stored.expect("reads")) {
            (Ok(_), Some(found)) => assert!(found.modified < then, "after {steps} steps"),
            (Err(CatalogError::ReadOnly), None) => refused += 1,
            (ended, found) => panic!("{ended:?}, {found:?}"),
        }
        if is_early {
            break;
        }
    }
    assert!(refused > 0, "none was refused");
}

#[tokio::test]
async fn limits_are_told_and_large_ones_below_them_work() {
    let world = World::new();
    let repository = world.create("corp/web").await;
    let (body, _) = World::image("endless", 10_001);
    let refused = world.put(&repository, &body, &["v1"]).await;
    assert!(matches!(refused, Err(CatalogError::TooMany { .. })), "{refused:?}");
    let digest = world.push(&repository, "large", 400).await;
    let read = world.catalog.read_manifest(&repository.id, &digest).await.expect("reads");
    assert_eq!(Digest::of(&read.expect("is there").body), digest);
    // Nothing says any more that something was written ahead.
    assert!(world.keys().await.iter().all(|key| !key.starts_with("ms/")));
}

fn session(world: &World, account: &AccountId, lasts: Duration) -> Session {
    let now = world.clock.now();
    Session {
        hash: world.random.hex(32),
        account: account.clone(),
        created_at: now,
        expires_at: now.plus(lasts),
        service: None,
        bound: None,
    }
}

/// Every key of sessions, in both tables.
async fn session_keys(world: &World) -> usize {
    let mut keys = 0;
    for prefix in ["is/", "isa/"] {
        keys += world.catalog.all_names(prefix.as_bytes()).await.expect("read").len();
    }
    keys
}

#[tokio::test]
async fn sessions_that_are_over_leave_nothing_behind() {
    let world = World::new();
    let catalog = &world.catalog;
    let account = AccountId::random(&*world.random);
    for minutes in 1..=600_u32 {
        let one = session(&world, &account, Duration::from_secs(60) * minutes);
        catalog.create_session(&one).await.expect("made");
    }
    world.clock.advance(Duration::from_secs(60 * 400));
    assert_eq!(catalog.purge_sessions(world.clock.now()).await.expect("purged"), 400);
    assert_eq!(session_keys(&world).await, 2 * 200);
    assert_eq!(catalog.account_sessions(&account).await.expect("read").len(), 200);
    assert_eq!(catalog.delete_all_sessions().await.expect("ended"), 200);
    assert_eq!(session_keys(&world).await, 0);
}

#[tokio::test]
async fn a_change_that_never_comes_through_ends() {
    let world = World::new();
    let catalog = world.catalog.clone();
    let (key, mut tries) = (dtr_catalog::keys::settings(), 0);
    let changed = catalog
        .update(&key, None, |known: Option<&Settings>| {
            // Others change it each time.
            let mut other = known.cloned().unwrap_or_default();
            other.upload_expiry_days += 1;
            tries += 1;
            let put = blocking(world.catalog.put(&other));
            put.expect("put");
            Ok::<_, CatalogError>(Some(Settings::default()))
        })
        .await;
    assert!(matches!(changed, Err(CatalogError::Contention(_))), "{changed:?}");
    assert_eq!(tries, 64);
}

/// Waits for work inside a closure that cannot.
fn blocking<F: Future + Send>(work: F) -> F::Output
where
    F::Output: Send,
{
    std::thread::scope(|scope| {
        let own = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(work)
        });
        own.join().expect("done")
    })
}
