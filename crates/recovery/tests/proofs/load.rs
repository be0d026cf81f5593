//! Backups under full write load: pushes, deletes, grants, collection and compaction all the time. Each backup must
//! verify, restore, and equal the state at its revision, record by record.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use dtr_archive::ReadOptions;
use dtr_recovery::{BackupOptions, Exit, RestoreOptions, VerifyOptions, verify};
use dtr_store::{At, hold};
use dtr_types::{Clock as _, Digest, Random as _};

use crate::world::{VERSION, World, assert_same, expected, restored};

/// How many backups: `DTR_LOADED_BACKUPS` in the environment, for a longer run.
fn count() -> u64 {
    std::env::var("DTR_LOADED_BACKUPS").ok().and_then(|text| text.parse().ok()).unwrap_or(12)
}

fn pick(world: &World, from: usize) -> usize {
    usize::from(world.random.bytes::<1>()[0]) % from
}

/// One of the things that people do, at random.
async fn act(world: &World, number: u64) {
    const NAMES: [&str; 4] = ["alice/app", "alice/tool", "corp/web", "corp/deep/er"];
    let name = NAMES[pick(world, NAMES.len())];
    let tag = format!("t{}", pick(world, 12));
    match pick(world, 20) {
        0..9 => {
            let layers = [format!("shared {}", pick(world, 6)), format!("own {number}")];
            world.push(name, &tag, &layers).await;
        }
        9..12 => {
            let repository = world.repository(name).await;
            let tag = tag.parse().unwrap();
            world.catalog.delete_tag(&repository.id, &tag, None).await.unwrap();
        }
        12..15 => {
            let repository = world.repository(name).await;
            let tag = tag.parse().unwrap();
            if let Some(found) = world.catalog.get_tag(&repository.id, &tag).await.unwrap() {
                let digest = found.value.digest;
                // Somebody else may be deleting it too, or the repository.
                let _ = world.catalog.delete_manifest(&repository.id, &digest, None).await;
            }
        }
        15 => world.grant(&world.repository(name).await).await,
        16 => {
            let token = world.token("busy").await;
            if pick(world, 2) == 0 {
                world.catalog.delete_access_token(&token.hash, None).await.unwrap();
            }
        }
        17 => {
            let repository = world.repository(name).await;
            world.catalog.add_counts(&repository.id, 1, 1).await.unwrap();
        }
        _ if pick(world, 8) == 0 => {
            let name = name.parse().unwrap();
            let _ = world.catalog.delete_repository(&name, None).await;
        }
        _ => {
            let repository = world.repository(name).await;
            let digest = Digest::of(format!("shared {}", pick(world, 6)).as_bytes());
            // In use, or not there.
            let _ = world.catalog.unlink_blob(&repository.id, &digest, None).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn backups_under_full_load_are_consistent_and_restore() {
    let world = Arc::new(World::installed(51).await);
    let stop = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicU64::new(0));
    let mut tasks = Vec::new();
    for _ in 0..4 {
        let (world, stop, done) = (world.clone(), stop.clone(), done.clone());
        tasks.push(tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let number = done.fetch_add(1, Ordering::Relaxed);
                act(&world, number).await;
            }
        }));
    }
    let (collected, stopping) = (world.clone(), stop.clone());
    tasks.push(tokio::spawn(async move {
        while !stopping.load(Ordering::Relaxed) {
            collected.collect().await;
            let store = &**collected.store();
            let latest = store.revision().await.unwrap();
            hold::compact(store, collected.clock.now(), latest).await.unwrap();
            tokio::task::yield_now().await;
        }
    }));

    let mut total = 0;
    for seed in 0..count() {
        let before = done.load(Ordering::Relaxed);
        while done.load(Ordering::Relaxed) < before + 40 {
            tokio::task::yield_now().await;
        }
        // Holds the history for the comparison; the backup has its own.
        let store = &**world.store();
        let minutes = Duration::from_secs(600);
        let held = hold::take(store, &*world.clock, &*world.random, "test", minutes).await.unwrap();
        let options = BackupOptions { with_images: seed % 3 == 2, ..BackupOptions::new(VERSION) };
        let (archive, report) = world.backup(options).await;
        assert_eq!(report.exit(), Exit::Done, "{report}");
        total += report.total_records;

        let input = std::io::Cursor::new(archive.clone());
        let check = VerifyOptions { storage: Some(world.blobs.clone()), deep: true };
        let verified = verify(input, ReadOptions::default(), check).await.unwrap();
        assert_eq!(verified.exit(), Exit::Done, "{verified}");

        let state = world.state(At::Revision(report.revision)).await;
        let target = world.beside(100 + seed).await;
        let back = target.restore(&archive, RestoreOptions::new(VERSION)).await.unwrap();
        assert_eq!(back.exit(), Exit::Done, "{back}");
        assert_same(&restored(target.state(At::Latest).await), &expected(&state));
        hold::release(store, &held.id).await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
    assert!(total > 0);
}
