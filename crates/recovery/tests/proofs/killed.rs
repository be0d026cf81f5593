//! Restores that are killed: wherever that happens, the next one comes to the same end.

use std::{
    io::{Cursor, Read},
    sync::{Arc, Condvar, Mutex},
};

use dtr_archive::{ArchiveReader, Entry, ReadOptions};
use dtr_recovery::{BackupOptions, RestoreOptions, restore};
use dtr_store::At;

use crate::world::{VERSION, World, assert_same, restored};

/// Gives out the beginning of an archive and then nothing more, not even an end: as a pipe whose writer stands still.
struct Stalling {
    content: Cursor<Vec<u8>>,
    stalled: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Default)]
struct State {
    is_stalled: bool,
    give_up: bool,
}

impl Read for Stalling {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.content.read(buffer)?;
        if read > 0 {
            return Ok(read);
        }
        let (state, changed) = &*self.stalled;
        let mut state = state.lock().unwrap();
        state.is_stalled = true;
        changed.notify_all();
        while !state.give_up {
            state = changed.wait(state).unwrap();
        }
        Err(std::io::ErrorKind::BrokenPipe.into())
    }
}

/// Where each entry of an archive begins.
fn starts(archive: &[u8]) -> Vec<usize> {
    let mut reader = ArchiveReader::open(archive, ReadOptions::default()).unwrap();
    let mut starts = Vec::new();
    loop {
        let at = usize::try_from(reader.bytes()).unwrap();
        match reader.next_entry().unwrap() {
            Some(Entry::End(_)) | None => break,
            Some(_) => starts.push(at),
        }
    }
    starts.push(archive.len() - 1);
    starts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_killed_at_any_entry_and_run_again_is_equal() {
    let world = World::installed(41).await;
    world.fill().await;
    let with_images = BackupOptions { with_images: true, ..BackupOptions::new(VERSION) };
    let (archive, _) = world.backup(with_images).await;
    let reference = World::empty(42).await;
    reference.restore(&archive, RestoreOptions::new(VERSION)).await.unwrap();
    let wanted = restored(reference.state(At::Latest).await);

    let starts = starts(&archive);
    assert!(starts.len() > 20);
    for cut in starts {
        let target = World::empty(43).await;
        let stalled = Arc::new((Mutex::new(State::default()), Condvar::new()));
        let input =
            Stalling { content: Cursor::new(archive[..cut].to_vec()), stalled: stalled.clone() };
        let to = target.target();
        let running = tokio::spawn(async move {
            restore(input, ReadOptions::default(), &to, RestoreOptions::new(VERSION)).await
        });
        let waiting = stalled.clone();
        tokio::task::spawn_blocking(move || {
            let (state, changed) = &*waiting;
            let mut state = state.lock().unwrap();
            while !state.is_stalled {
                state = changed.wait(state).unwrap();
            }
        })
        .await
        .unwrap();
        // Nothing of it runs any further: what is in the store stays as it is, mark and all.
        running.abort();
        assert!(running.await.unwrap_err().is_cancelled());
        {
            let (state, changed) = &*stalled;
            state.lock().unwrap().give_up = true;
            changed.notify_all();
        }
        // What was on its way to the engine has come or not when it answers again: a process that is killed cannot send
        // anything afterwards.
        let lease = target.store().lease_grant(std::time::Duration::from_secs(60)).await.unwrap();
        target.store().lease_revoke(lease).await.unwrap();
        assert!(target.catalog.cluster().await.unwrap().is_none(), "cut at {cut}");

        let report = target.restore(&archive, RestoreOptions::new(VERSION)).await.unwrap();
        assert_eq!(report.blobs_missing_count, 0);
        assert_same(&restored(target.state(At::Latest).await), &wanted);
    }
}
