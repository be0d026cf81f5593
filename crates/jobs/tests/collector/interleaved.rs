//! One actor does all its work between two steps of another, for every such gap: what a race does once in a million runs
//! happens here in each.

use std::{future::Future, pin::pin};

use dtr_catalog::CatalogError;
use dtr_types::Digest;

use crate::{
    pausing::{Gate, polls, until},
    stalling::Stall,
    world::{Backup, GRACE, World, clock, engine},
};

/// So few that pushing and deleting an image takes several transactions.
const OPERATIONS_FEW: usize = 14;
const OPERATIONS_USUAL: usize = 128;

/// What an actor does. The image is number 0, in the first repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Push,
    Delete,
    /// Deletes a blob of the image by digest.
    Unlink,
    /// Pushes the image into another repository, where its blobs are mounted.
    PushElsewhere,
    DeleteElsewhere,
    Backup,
    Collect,
    /// Looks for bytes without a record.
    Sweep,
    Tidy,
    /// A second push, given up after these steps.
    PushCut(usize),
}

/// How things are before.
#[derive(Clone, Copy, Debug)]
enum Before {
    Nothing,
    /// The image is there.
    Pushed,
    /// It was there: its blobs are old candidates.
    Garbage,
    /// Its blobs are there, and no record speaks of them.
    Orphans,
}

async fn act(world: &World, act: Act, backups: &mut Vec<Backup>) {
    let [here, elsewhere, ..] = world.repositories.as_slice() else { panic!("repositories") };
    let delete = async |repository| {
        let digest = Digest::of(&world.image(0).body);
        let deleted = world.catalog.delete_manifest(repository, &digest, None).await;
        deleted.expect("deleted, or not there");
    };
    match act {
        // A push that the collector was faster than is repeated by its client.
        Act::Push => while !world.push(here, 0).await {},
        Act::PushElsewhere => while !world.push(elsewhere, 0).await {},
        Act::PushCut(steps) => drop(crate::pausing::cut(world.push(here, 0), steps).await),
        Act::Delete => delete(&here.id).await,
        Act::DeleteElsewhere => delete(&elsewhere.id).await,
        Act::Unlink => {
            let digest = Digest::of(&world.image(0).blobs[1]);
            let unlinked = world.catalog.unlink_blob(&here.id, &digest, None).await;
            let fine = matches!(unlinked, Ok(_) | Err(CatalogError::BlobInUse(_)));
            assert!(fine, "{unlinked:?}");
        }
        Act::Backup => backups.push(world.begin_backup().await),
        Act::Collect => world.collect().await,
        Act::Sweep => world.sweep().await,
        Act::Tidy => world.tidy().await,
    }
}

async fn acts(world: &World, acts: &[Act]) -> Vec<Backup> {
    let mut backups = Vec::new();
    for next in acts {
        act(world, *next, &mut backups).await;
    }
    backups
}

/// Runs `first` up to where it stops, then all of `second`, then the rest of `first`. Should `second` have to wait
/// for `first`, they go on together. `false` when `first` does not stop.
async fn between<A, B>(
    is_waiting: impl Fn() -> bool,
    open: impl FnOnce(),
    first: A,
    second: B,
) -> (A::Output, Option<B::Output>)
where
    A: Future,
    B: Future,
{
    let (mut first, mut second) = (pin!(first), pin!(second));
    if let Some(output) = until(first.as_mut(), is_waiting).await {
        return (output, None);
    }
    let mut done = polls(second.as_mut(), 3000).await;
    open();
    if done.is_none() {
        let (output, other) = tokio::join!(first, second);
        return (output, Some(other));
    }
    (first.await, done.take())
}

/// A world as it is before.
async fn world_before(operations_max: usize, before: Before) -> World {
    let clock = clock();
    let store = engine(operations_max, &clock);
    let world = World::new(store, clock, (2, false), 1).await;
    match before {
        Before::Nothing => {}
        Before::Pushed => drop(acts(&world, &[Act::Push]).await),
        Before::Garbage => drop(acts(&world, &[Act::Push, Act::Delete]).await),
        Before::Orphans => world.orphan(0).await,
    }
    world.pass(2 * GRACE).await;
    world
}

/// What must hold afterwards.
async fn well_after(world: &World, backups: Vec<Backup>, what: &str) {
    world.check().await;
    // What the collector was kept from it now does.
    world.pass(2 * GRACE).await;
    world.tidy().await;
    world.collect().await;
    world.check().await;
    for backup in backups {
        world.end_backup(backup).await;
    }
    world.drain(what).await;
}

/// All gaps of `first` between two operations of the store.
async fn every_gap(operations_max: usize, before: Before, first: Act, second: &[Act]) {
    for step in 1.. {
        let what = format!("{before:?}: {second:?} before step {step} of {first:?}");
        let world = world_before(operations_max, before).await;
        let gate = Gate::at(step);
        let gated = world.through(gate.before(world.catalog.store().clone()));
        let (mut backups, others) = between(
            || gate.is_waiting(),
            || gate.open(),
            acts(&gated, &[first]),
            acts(&world, second),
        )
        .await;
        let Some(others) = others else { return };
        backups.extend(others);
        well_after(&world, backups, &what).await;
    }
}

/// All gaps of `first` between two operations of the disk.
async fn every_stall(before: Before, first: Act, second: &[Act]) {
    for step in 1.. {
        let what = format!("{before:?}: {second:?} before {first:?} does step {step} on the disk");
        let world = world_before(OPERATIONS_USUAL, before).await;
        let (stall, blobs) = Stall::before(step, &world.disk).await;
        let stalled = world.through(world.catalog.store().clone()).with_blobs(blobs);
        let (mut backups, others) = between(
            || stall.is_waiting(),
            || stall.open(),
            acts(&stalled, &[first]),
            acts(&world, second),
        )
        .await;
        let Some(others) = others else { return };
        backups.extend(others);
        well_after(&world, backups, &what).await;
    }
}

#[tokio::test]
async fn of_the_collector() {
    use Act::*;
    for (operations_max, count) in [(OPERATIONS_FEW, 5), (OPERATIONS_USUAL, 2)] {
        let others: [&[Act]; 5] = [
            &[Push],
            &[Push, Backup, Delete],
            &[PushElsewhere, Backup, Delete],
            &[PushElsewhere, Unlink, Backup, DeleteElsewhere],
            &[PushCut(20), Backup],
        ];
        for second in &others[..count] {
            every_gap(operations_max, Before::Garbage, Collect, second).await;
        }
        every_gap(operations_max, Before::Pushed, Collect, &[Backup, Delete]).await;
    }
}

/// Another collector goes on where the first stands still, somebody pushes what it removed, and the first wakes up.
#[tokio::test]
async fn of_a_collector_that_another_takes_the_work_over_from() {
    use Act::*;
    let others: [&[Act]; 4] = [
        &[Collect, Push],
        &[Collect, Push, Collect],
        &[Collect, Sweep, PushElsewhere, Tidy],
        &[Push, Collect, Sweep],
    ];
    for second in others {
        every_gap(OPERATIONS_USUAL, Before::Garbage, Collect, second).await;
        every_stall(Before::Garbage, Collect, second).await;
    }
    every_gap(OPERATIONS_FEW, Before::Garbage, Collect, &[Collect, Push]).await;
}

#[tokio::test]
async fn of_a_sweep() {
    use Act::*;
    let others: [&[Act]; 4] =
        [&[Push], &[Sweep, Push], &[Collect, Push, Sweep], &[Push, Delete, Push]];
    for second in others {
        every_gap(OPERATIONS_USUAL, Before::Orphans, Sweep, second).await;
        every_stall(Before::Orphans, Sweep, second).await;
    }
}

/// Bytes that were published are swept before the commit that should have followed.
#[tokio::test]
async fn of_a_push_beside_a_sweep() {
    use Act::*;
    let others: [&[Act]; 2] = [&[Sweep], &[Sweep, Tidy, Collect]];
    for second in others {
        for before in [Before::Nothing, Before::Orphans] {
            every_gap(OPERATIONS_USUAL, before, Push, second).await;
            every_stall(before, Push, second).await;
        }
    }
    every_gap(OPERATIONS_USUAL, Before::Garbage, Push, &[Sweep, Collect]).await;
}

#[tokio::test]
async fn of_a_push() {
    use Act::*;
    for (operations_max, count) in [(OPERATIONS_FEW, 6), (OPERATIONS_USUAL, 2)] {
        let others: [&[Act]; 6] = [
            &[Collect],
            &[Push, Delete],
            &[Push, Delete, PushCut(60)],
            &[Push, Delete, PushCut(40), Collect],
            &[Unlink, Tidy, Collect],
            &[Push, Backup, Delete, Collect],
        ];
        for second in &others[..count] {
            every_gap(operations_max, Before::Garbage, Push, second).await;
        }
        every_gap(operations_max, Before::Pushed, Push, &[Delete, Collect]).await;
        every_gap(operations_max, Before::Nothing, Push, &[Push, Delete, Backup]).await;
    }
}

#[tokio::test]
async fn of_a_deletion() {
    use Act::*;
    for (operations_max, count) in [(OPERATIONS_FEW, 5), (OPERATIONS_USUAL, 2)] {
        let others: [&[Act]; 5] = [
            &[Delete, Push, Backup],
            &[Collect, Push],
            &[Push, Backup],
            &[Delete, PushCut(50), Collect],
            &[Backup, Delete, Collect],
        ];
        for first in [Delete, Unlink] {
            for second in &others[..count] {
                every_gap(operations_max, Before::Pushed, first, second).await;
                if first == Unlink {
                    every_gap(operations_max, Before::Garbage, first, second).await;
                }
            }
        }
    }
}
