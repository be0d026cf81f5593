//! Backups under full write load: pushes, deletes, grants, collection and compaction all the time, one backup after the
//! other. Each must verify, restore, and equal the state at its revision, record by record.
//!
//! What the state was is told by a watch that has seen every change, so that nothing but the backup itself holds its
//! revision: one that let go too early would meet the compaction and the collector. Those backups have the images
//! inside. A backup without images is judged by the storage, which the collector may change as soon as it has ended:
//! for these, and no others, the test has a hold of its own.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use dtr_archive::ReadOptions;
use dtr_recovery::{BackupOptions, Exit, RestoreOptions, VerifyOptions, verify};
use dtr_store::{At, EventKind, WatchBatch, Watcher, hold};
use dtr_types::{Digest, Random as _, Revision};

use crate::world::{State, VERSION, World, assert_same, expected, restored};

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

/// Every change since the beginning, and the state that they add up to.
struct Recorder {
    watch: Watcher,
    state: State,
    /// Up to where `state` goes.
    seen: u64,
    /// The batch after that.
    next: Option<WatchBatch>,
    /// Told to the compaction, which must not overtake the watch.
    told: Arc<AtomicU64>,
}

impl Recorder {
    async fn start(world: &World, told: Arc<AtomicU64>) -> Self {
        let seen = world.store().revision().await.unwrap();
        let state = world.state(At::Revision(seen)).await;
        let watch = world.store().watch(b"\0", b"", seen.next()).await.unwrap();
        Self { watch, state, seen: seen.0, next: None, told }
    }

    /// The state at a revision, which must be later than the last that was asked for, and not the latest.
    async fn at(&mut self, revision: Revision) -> &State {
        loop {
            let batch = match self.next.take() {
                Some(batch) => batch,
                None => self.watch.next().await.expect("goes on").expect("has no gap"),
            };
            if batch.revision > revision {
                self.next = Some(batch);
                return &self.state;
            }
            self.apply(batch);
        }
    }

    fn apply(&mut self, batch: WatchBatch) {
        self.seen = batch.revision.0;
        self.told.store(self.seen, Ordering::Relaxed);
        for event in batch.events {
            match event.kind {
                EventKind::Put(kv) => self.state.insert(event.key.to_vec(), kv.value.to_vec()),
                EventKind::Delete => self.state.remove(&event.key[..]),
            };
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
    let told = Arc::new(AtomicU64::new(0));
    let mut recorder = Recorder::start(&world, told.clone()).await;
    let (collected, stopping) = (world.clone(), stop.clone());
    tasks.push(tokio::spawn(async move {
        while !stopping.load(Ordering::Relaxed) {
            collected.collect().await;
            let store = &**collected.store();
            let seen = Revision(told.load(Ordering::Relaxed));
            hold::compact(store, seen).await.unwrap();
            tokio::task::yield_now().await;
        }
    }));

    let mut total = 0;
    for seed in 0..count() {
        let before = done.load(Ordering::Relaxed);
        while done.load(Ordering::Relaxed) < before + 40 {
            tokio::task::yield_now().await;
        }
        let with_images = seed % 3 != 2;
        let store = &**world.store();
        let mut held = None;
        if !with_images {
            let minutes = Duration::from_secs(600);
            held = Some(
                hold::take(store, &*world.clock, &*world.random, "test", minutes).await.unwrap(),
            );
        }
        let options = BackupOptions { with_images, ..BackupOptions::new(VERSION) };
        let (archive, report) = world.backup(options).await;
        assert_eq!(report.exit(), Exit::Done, "{report}");
        total += report.total_records;

        let input = std::io::Cursor::new(archive.clone());
        let storage = (!with_images).then(|| world.blobs.clone());
        let check = VerifyOptions { deep: storage.is_some(), storage };
        let verified = verify(input, ReadOptions::default(), check).await.unwrap();
        assert_eq!(verified.exit(), Exit::Done, "{verified}");

        let state = recorder.at(report.revision).await.clone();
        if !with_images {
            let direct = world.state(At::Revision(report.revision)).await;
            assert_same(&state, &direct);
        }
        let state = expected(&state);
        // In the storage of a registry that goes on, what nobody holds any more is collected at any time.
        let target = match with_images {
            true => World::empty(100 + seed).await,
            false => world.beside(100 + seed).await,
        };
        let back = target.restore(&archive, RestoreOptions::new(VERSION)).await.unwrap();
        assert_eq!(back.exit(), Exit::Done, "{back}");
        assert_same(&restored(target.state(At::Latest).await), &state);
        if let Some(held) = held {
            hold::release(store, &held.id).await.unwrap();
        }
    }
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
    assert!(total > 0);
}
