//! Everything at once, at random: pushes, mounts, deletions of all kinds, backups' holds and the collector, each cut off
//! at varied moments, with limits so small that every push and deletion takes several transactions.

use std::sync::Arc;

use dtr_blobs::simulated::{OperationKind, Verdict};
use dtr_catalog::{CatalogError, records::Repository};
use dtr_types::{Digest, Random as _, SeededRandom};

use crate::{
    pausing::{cut, pausing},
    world::{GRACE, World, clock, engine},
};

const ROUNDS: usize = 60;

/// One thing that a client does.
async fn act(world: &World, choice: u8, which: usize, repository: &Repository) {
    let catalog = &world.catalog;
    let first = async || world.manifests(&repository.id).await.first().copied();
    match choice {
        0..5 => drop(world.push(repository, which % 4 * 3).await),
        // A client, or the whole process, that goes away in the middle.
        5 => {
            cut(world.push(repository, which % 4 * 3), which).await;
        }
        6 | 7 => {
            let Some(digest) = first().await else { return };
            let delete = catalog.delete_manifest(&repository.id, &digest, None);
            let deleted = match choice {
                6 => delete.await,
                _ => cut(delete, which / 4).await.unwrap_or(Ok(None)),
            };
            assert!(matches!(deleted, Ok(_) | Err(CatalogError::Contention(_))), "{deleted:?}");
        }
        8 => {
            let digest = Digest::of(format!("blob {}", which % 18).as_bytes());
            let unlink = catalog.unlink_blob(&repository.id, &digest, None);
            let unlinked = cut(unlink, which / 4).await.unwrap_or(Ok(false));
            let may = |e: &CatalogError| {
                matches!(e, CatalogError::BlobInUse(_) | CatalogError::Contention(_))
            };
            assert!(unlinked.as_ref().is_ok() || unlinked.as_ref().is_err_and(may), "{unlinked:?}");
        }
        _ => {
            let backup = world.begin_backup().await;
            for _ in 0..which {
                tokio::task::yield_now().await;
            }
            world.end_backup(backup).await;
        }
    }
}

/// A repository that comes, is pushed to, and goes with all it had, over and over.
async fn come_and_go(world: Arc<World>, rounds: usize) {
    for round in 0..rounds {
        let repository = world.create("team/passing").await;
        world.push(&repository, round % 4 * 3).await;
        let deletion = world.catalog.delete_repository(&repository.name, None);
        if cut(deletion, round * 5).await.is_none() {
            let again = world.catalog.delete_repository(&repository.name, None).await;
            again.expect("deleted, by this or by the one that was cut off");
        }
    }
}

async fn storm(operations_max: usize, seed: u64) {
    let clock = clock();
    let store = pausing(engine(operations_max, &clock), seed);
    let world = Arc::new(World::new(store, clock, (8, seed.is_multiple_of(3)), seed).await);
    // Every seventh removal fails, as on a disk with a bad sector.
    let mut removals = 0_u32;
    world.disk.on_operation(move |operation| {
        let removes = match operation.kind {
            OperationKind::RemoveFile => operation.path.starts_with("removed/"),
            OperationKind::Rename => operation.path.ends_with("/data"),
            _ => false,
        };
        if removes {
            removals += 1;
            if removals.is_multiple_of(7) {
                return Verdict::Fail(std::io::ErrorKind::Other);
            }
        }
        Verdict::Proceed
    });
    let mut tasks = vec![tokio::spawn(come_and_go(world.clone(), ROUNDS / 3))];
    for task in 0..4 {
        let world = world.clone();
        tasks.push(tokio::spawn(async move {
            let random = SeededRandom::new(seed * 100 + task);
            for _ in 0..ROUNDS {
                let [choice, which, place] = random.bytes::<3>();
                let repository = &world.repositories[usize::from(place) % 3];
                act(&world, choice % 10, usize::from(which), repository).await;
            }
        }));
    }
    let mut turns = 0_u32;
    while !tasks.iter().all(tokio::task::JoinHandle::is_finished) {
        // A run that is given up anywhere is the crash of a collector: the next one goes on.
        match turns % 4 {
            // Two at once: neither knows of the other.
            0 => drop(tokio::join!(world.collect(), world.collect())),
            1 => world.tidy().await,
            2 if turns.is_multiple_of(3) => drop(tokio::join!(world.collect(), world.sweep())),
            _ => drop(cut(world.collect(), turns as usize * 7 % 300).await),
        }
        world.pass(GRACE / 10).await;
        turns += 1;
    }
    for task in tasks {
        task.await.expect("ends well");
    }
    world.disk.without_script();
    world.check().await;
    world.pass(2 * GRACE).await;
    world.tidy().await;
    world.collect().await;
    world.check().await;
    world.drain(&format!("seed {seed}")).await;
}

/// A few; `COLLECTOR_SEEDS=1000` for more, and `COLLECTOR_SEED=7` for one alone.
fn seeds() -> std::ops::RangeInclusive<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse().ok());
    match (number("COLLECTOR_SEED"), number("COLLECTOR_SEEDS")) {
        (Some(seed), _) => seed..=seed,
        (None, count) => 1..=count.unwrap_or(3),
    }
}

#[tokio::test]
async fn with_limits_so_small_that_everything_is_staged() {
    for seed in seeds() {
        storm(18, seed).await;
    }
}

#[tokio::test]
async fn with_the_usual_limits() {
    for seed in seeds() {
        storm(128, seed).await;
    }
}
