//! Clocks that are wrong: nothing is deleted because one machine's says that it is old.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use dtr_catalog::{
    Catalog, keys,
    records::{Session, Settings, UploadRecord},
};
use dtr_jobs::{CollectOptions, JobError, collect, sweep, tidy};
use dtr_types::{
    AccountId, Clock, Digest, ManualClock, Random as _, Revision, SeededRandom, Timestamp,
    UploadId, WatchedClock,
};

use super::world::{GRACE, World, clock, engine};

const SIX_HOURS: i64 = 6 * 3_600_000;
const MONTH: i64 = 31 * 24 * 3_600_000;

async fn world() -> World {
    let clock = clock();
    World::new(engine(512, &clock), clock, (1, false), 7).await
}

/// The same catalog, as a machine with another clock sees it.
fn with_clock(world: &World, clock: Arc<dyn Clock>) -> Catalog {
    Catalog::new(Arc::clone(world.catalog.store()), clock, Arc::new(SeededRandom::new(77)))
}

/// A clock that is so many milliseconds from the right one.
fn apart(world: &World, by: i64) -> Arc<ManualClock> {
    let clock = Arc::new(ManualClock::new(world.clock.now()));
    clock.set_by(by);
    clock
}

/// As `dtr gc --run`.
async fn gc(world: &World, catalog: &Catalog) -> Result<u64, JobError> {
    let options = CollectOptions { grace: GRACE, dry_run: false };
    Ok(collect(catalog, &**world.storage(), options).await?.removed)
}

async fn is_there(world: &World, bytes: &Bytes) -> bool {
    let linked = world.catalog.linked_blob(&world.repositories[0].id, &Digest::of(bytes)).await;
    let stored = world.storage().stat(&Digest::of(bytes)).await.expect("an answer").is_some();
    linked.expect("reads").is_some() && stored
}

/// A blob was acknowledged, its manifest is yet to come, and another machine is hours ahead; or the one that took it was
/// hours behind.
#[tokio::test]
async fn a_blob_survives_a_collection_by_a_machine_with_another_clock() {
    for (pushed_by, collected_by) in [(0, SIX_HOURS), (-SIX_HOURS, 0)] {
        let world = world().await;
        // The cluster has run for long.
        world.pass(Duration::from_secs(24 * 3600)).await;
        let pusher = world.with_catalog(with_clock(&world, apart(&world, pushed_by)));
        let bytes = Bytes::from_static(b"acknowledged");
        pusher.push_blob(&world.repositories[0].id, &bytes).await;
        let collector = with_clock(&world, apart(&world, collected_by));
        assert_eq!(gc(&world, &collector).await.expect("collects"), 0);
        // Also when that machine does the background work, and sees no time pass.
        collector.observe().await.expect("observed");
        collector.observe().await.expect("observed");
        assert_eq!(gc(&world, &collector).await.expect("collects"), 0);
        assert!(is_there(&world, &bytes).await);
        // Once the grace period was seen to pass, it goes, on whatever machine.
        world.pass(2 * GRACE).await;
        assert_eq!(gc(&world, &collector).await.expect("collects"), 1);
        assert!(!is_there(&world, &bytes).await);
    }
}

/// A machine that was off for a month: what was in its grace period is in it still.
#[tokio::test]
async fn what_was_in_grace_is_so_after_a_month() {
    let world = world().await;
    world.pass(Duration::from_secs(24 * 3600)).await;
    let bytes = Bytes::from_static(b"acknowledged");
    world.push_blob(&world.repositories[0].id, &bytes).await;
    world.pass(GRACE / 2).await;
    // Another process has run for no time yet.
    let clock = Arc::new(ManualClock::new(world.clock.now()));
    clock.set_by(MONTH);
    let after = with_clock(&world, clock.clone());
    after.observe().await.expect("observed");
    assert_eq!(gc(&world, &after).await.expect("collects"), 0);
    clock.advance(GRACE / 4);
    after.observe().await.expect("observed");
    assert_eq!(gc(&world, &after).await.expect("collects"), 0);
    assert!(is_there(&world, &bytes).await);
    clock.advance(GRACE);
    after.observe().await.expect("observed");
    assert_eq!(gc(&world, &after).await.expect("collects"), 1, "it has run for long enough by now");
}

/// A clock that was set: nothing is deleted until somebody says that it is right.
#[tokio::test]
async fn after_a_jump_deletion_pauses_until_it_is_confirmed() {
    let world = world().await;
    let manual = apart(&world, 0);
    let watched: Arc<dyn Clock> = Arc::new(WatchedClock::new(manual.clone()));
    let catalog = with_clock(&world, Arc::clone(&watched));
    let random = SeededRandom::new(5);
    let session = Session {
        hash: random.hex(32),
        account: AccountId::random(&random),
        created_at: manual.now(),
        expires_at: manual.now().plus(Duration::from_secs(3600)),
        service: None,
        bound: None,
    };
    catalog.create_session(&session).await.expect("logged in");
    let upload = UploadRecord {
        id: UploadId::random(&random),
        repository: world.repositories[0].id.clone(),
        account: None,
        offset: 0,
        hash: String::new(),
        started_at: manual.now(),
        updated_at: manual.now(),
        ended: false,
    };
    assert!(catalog.create_upload(&upload).await.expect("begun"));
    let bytes = Bytes::from_static(b"garbage");
    world.push_blob(&world.repositories[0].id, &bytes).await;
    catalog.observe().await.expect("observed");
    manual.advance(2 * GRACE);
    catalog.observe().await.expect("observed");
    manual.set_by(MONTH);
    let settings = Settings::default();
    let tidied = async || {
        let report = tidy(&catalog, &**world.storage(), &settings, Revision::ZERO).await;
        let report = report.expect("tidies");
        (report.uploads, report.sessions)
    };
    assert!(matches!(gc(&world, &catalog).await, Err(JobError::Clock(_))));
    let swept = sweep(&catalog, &**world.storage(), Duration::ZERO, false).await;
    assert!(matches!(swept, Err(JobError::Clock(_))), "{swept:?}");
    assert_eq!(tidied().await, (0, 0));
    assert!(is_there(&world, &bytes).await);
    let options = CollectOptions { grace: GRACE, dry_run: true };
    let report = collect(&catalog, &**world.storage(), options).await.expect("may look");
    assert_eq!(report.removed, 1);
    watched.confirm();
    assert_eq!(gc(&world, &catalog).await.expect("collects"), 1);
    // The session is over by a clock that is right; the upload has not been seen to lie still for a week.
    assert_eq!(tidied().await, (0, 1));
    assert!(catalog.get(&keys::upload(&upload.id)).await.expect("reads").is_some());
    assert!(manual.now() > Timestamp::default());
}
