//! A lock is one replica's at a time, until it is given up or its replica is gone.

use std::{sync::Arc, time::Duration};

use dtr_catalog::Catalog;
use dtr_jobs::{COLLECTOR, DUTIES, Lock};
use dtr_store_embedded::{EmbeddedStore, Options};
use dtr_types::{Clock as _, ManualClock, ReplicaId, SystemRandom, Timestamp};

struct World {
    clock: Arc<ManualClock>,
    catalog: Catalog,
}

fn world() -> World {
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_000_000)));
    let options = Options { clock: clock.clone(), quick_repair: false, ..Options::default() };
    let store = EmbeddedStore::in_memory_with(options);
    let catalog = Catalog::new(store, clock.clone(), Arc::new(SystemRandom));
    World { clock, catalog }
}

fn replica(digit: char) -> ReplicaId {
    digit.to_string().repeat(12).parse().expect("an id")
}

async fn take(world: &World, name: &str, who: char) -> Result<Lock, ReplicaId> {
    let taken = Lock::take(&world.catalog, name, &replica(who)).await.expect("the store works");
    taken.map_err(|other| {
        assert_eq!(other.name, name);
        assert!(other.since <= world.clock.now());
        other.holder
    })
}

#[tokio::test]
async fn one_replica_has_it() {
    let world = world();
    let lock = take(&world, DUTIES, 'a').await.expect("nobody has it");
    assert_eq!(take(&world, DUTIES, 'b').await.err(), Some(replica('a')));
    take(&world, COLLECTOR, 'b').await.expect("another lock is another's");
    lock.release().await;
    take(&world, DUTIES, 'b').await.expect("it was given up");
}

#[tokio::test]
async fn dropping_it_gives_it_up() {
    let world = world();
    drop(take(&world, DUTIES, 'a').await.expect("nobody has it"));
    let taken = async {
        loop {
            if let Ok(lock) = take(&world, DUTIES, 'b').await {
                return lock;
            }
            // poll: until the task that extended it has given it up
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), taken).await.expect("it was given up");
}

#[tokio::test]
async fn a_replica_that_comes_back_has_its_own_again() {
    let world = world();
    let before = take(&world, DUTIES, 'a').await.expect("nobody has it");
    let after = take(&world, DUTIES, 'a').await.expect("it is its own");
    // What the former run had is over, and takes nothing with it.
    before.release().await;
    assert_eq!(take(&world, DUTIES, 'b').await.err(), Some(replica('a')));
    after.release().await;
    take(&world, DUTIES, 'b').await.expect("it was given up");
}

#[tokio::test]
async fn a_dead_replica_is_replaced() {
    let world = world();
    let _dead = take(&world, DUTIES, 'a').await.expect("nobody has it");
    world.clock.advance(Duration::from_secs(29));
    assert_eq!(take(&world, DUTIES, 'b').await.err(), Some(replica('a')));
    world.clock.advance(Duration::from_secs(2));
    let taken = async {
        loop {
            if let Ok(lock) = take(&world, DUTIES, 'b').await {
                return lock;
            }
            // poll: until the store has looked at its clock
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), taken).await.expect("its lease has ended");
}
