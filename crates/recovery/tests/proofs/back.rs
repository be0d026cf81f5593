//! Content that comes back after a restore did not find it: the images have it again, by hand and by themselves, and no
//! sweep takes it for nobody's.

use std::time::Duration;

use dtr_blobs::body;
use dtr_jobs::{relink, sweep};
use dtr_recovery::{BackupOptions, Exit, RestoreOptions, VerifyOptions, verify};
use dtr_store::At;
use futures_util::TryStreamExt as _;

use crate::world::{VERSION, World};

/// The keys that make content readable.
async fn readable(world: &World) -> Vec<String> {
    let state = world.state(At::Latest).await;
    let keys = state.into_keys().map(|key| String::from_utf8_lossy(&key).into_owned());
    keys.filter(|key| ["b/", "l/", "bl/", "ref/"].iter().any(|p| key.starts_with(p))).collect()
}

async fn copy(from: &World, to: &World) {
    for entry in from.blobs.list(None, 1000).await.unwrap() {
        let reader = from.blobs.read(&entry.digest, None).await.unwrap();
        let content: Vec<u8> = reader.map_ok(|block| block.to_vec()).try_concat().await.unwrap();
        to.blobs.put(&entry.digest, None, body(content)).await.unwrap();
    }
}

#[tokio::test]
async fn content_that_comes_back_is_read_again() {
    let world = World::installed(91).await;
    world.fill().await;
    let (archive, _) = world.backup(BackupOptions::new(VERSION)).await;
    let whole = world.beside(92).await;
    whole.restore(&archive, RestoreOptions::new(VERSION)).await.unwrap();
    let wanted = readable(&whole).await;

    for by_hand in [true, false] {
        let target = World::empty(93).await;
        let allowed = RestoreOptions { accept_empty_storage: true, ..RestoreOptions::new(VERSION) };
        let back = target.restore(&archive, allowed).await.unwrap();
        assert_eq!(back.exit(), Exit::Incomplete);
        let nothing = relink(&target.catalog, &*target.blobs, false).await.unwrap();
        assert_eq!((nothing.relinked, nothing.missing), (0, nothing.needed));
        assert!(nothing.needed > 5 && !nothing.sample.is_empty());
        copy(&world, &target).await;
        if by_hand {
            let would = relink(&target.catalog, &*target.blobs, true).await.unwrap();
            assert!(readable(&target).await != wanted, "it was only looked");
            let done = relink(&target.catalog, &*target.blobs, false).await.unwrap();
            assert_eq!((done.relinked, done.missing, &done), (done.needed, 0, &would));
        } else {
            let swept =
                sweep(&target.catalog, &*target.blobs, Duration::ZERO, false).await.unwrap();
            assert_eq!(swept.relinked, nothing.needed);
            assert_eq!(swept.stored, swept.relinked + swept.removed, "{swept:?}");
        }
        assert_eq!(readable(&target).await, wanted);
        target.collect().await;
        assert_eq!(readable(&target).await, wanted, "the collector knows that it is needed");
        let again = relink(&target.catalog, &*target.blobs, false).await.unwrap();
        assert_eq!(again.relinked, 0);
        let (archive, _) = target.backup(BackupOptions::new(VERSION)).await;
        let check = VerifyOptions { storage: Some(target.blobs.clone()), deep: true };
        let input = std::io::Cursor::new(archive);
        let judged = verify(input, Default::default(), check).await.unwrap();
        assert_eq!(judged.exit(), Exit::Done, "{judged}");
    }
}
