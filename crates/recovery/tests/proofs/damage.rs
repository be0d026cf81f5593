//! Damaged archives, a thousand by default: each is refused and leaves its target untouched.

use std::{io::Cursor, sync::Arc};

use dtr_archive::{KnownKeys, ReadOptions, mutate};
use dtr_recovery::{BackupOptions, Exit, RestoreOptions, ensure_archive_key, restore, signing_key};
use dtr_store::At;

use crate::world::{VERSION, World};

/// How many: `DTR_DAMAGED_ARCHIVES` in the environment, for a longer run.
fn count() -> u64 {
    std::env::var("DTR_DAMAGED_ARCHIVES").ok().and_then(|text| text.parse().ok()).unwrap_or(1000)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_damaged_archive_is_refused_and_nothing_is_changed() {
    let world = World::installed(31).await;
    world.fill().await;
    let with_images = BackupOptions { with_images: true, ..BackupOptions::new(VERSION) };
    let (archive, _) = world.backup(with_images).await;
    let (metadata, _) = world.backup(BackupOptions::new(VERSION)).await;
    let key = signing_key(&ensure_archive_key(&world.catalog).await.unwrap()).unwrap();
    let archive = Arc::new(archive);
    let target = World::empty(32).await;
    let read = || ReadOptions { known: KnownKeys::of(&key.public_key()), ..ReadOptions::default() };

    let kinds = mutate::kinds().count() as u64;
    for seed in 0..count() {
        // Each kind of damage to both, more often to the smaller one: image content is synced blob by blob.
        let harmed = if (seed / kinds).is_multiple_of(5) { &*archive } else { &metadata };
        let damaged = mutate::damage(harmed, seed);
        let what = format!("seed {seed}: {}: {}", damaged.kind, damaged.what);
        let input = Cursor::new(damaged.bytes);
        let options = RestoreOptions::new(VERSION);
        let error = restore(input, read(), &target.target(), options).await.expect_err(&what);
        let (exit, message) = (error.exit(), error.to_string());
        assert!(matches!(exit, Exit::Damaged | Exit::Refused), "{what}: {exit:?}: {message}");
        assert!(message.len() > 20 && !message.chars().any(char::is_control), "{what}: {message}");
        assert!(target.catalog.is_restorable().await.unwrap(), "{what}");
    }
    assert!(target.state(At::Latest).await.is_empty());
    assert!(target.blobs.list(None, 1).await.unwrap().is_empty());
    assert!(target.blobs.uploads(None, 1).await.unwrap().is_empty());

    // The unharmed one is accepted by the very same target.
    let input = Cursor::new(archive.to_vec());
    let back =
        restore(input, read(), &target.target(), RestoreOptions::new(VERSION)).await.unwrap();
    assert_eq!(back.exit(), Exit::Done);
}
