//! A disk on which one actor stops before one of its operations, as a process does that is frozen or whose file server
//! is away, until it is told to go on. The others use the same disk meanwhile.

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use dtr_blobs::{
    FileStorage, Options, SharedBlobs,
    disk::{Disk, DiskFile, FileInfo, Open, Space},
    simulated::SimulatedDisk,
};
use dtr_types::{SeededRandom, SystemClock};
use parking_lot::{Condvar, Mutex};

/// Before which operation an actor stops.
pub(crate) struct Stall(Arc<State>);

struct State {
    /// Operations until it stops; never at 0.
    left: AtomicUsize,
    phase: Mutex<Phase>,
    opened: Condvar,
}

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    Going,
    Stopped,
    Released,
}

struct StallingDisk {
    inner: SimulatedDisk,
    stall: Arc<State>,
}

impl Stall {
    /// A storage on this disk that stops before its operation number `step`, counted from 1.
    pub(crate) async fn before(step: usize, disk: &SimulatedDisk) -> (Self, SharedBlobs) {
        let state = State {
            left: AtomicUsize::new(0),
            phase: Mutex::new(Phase::Going),
            opened: Condvar::new(),
        };
        let stall = Self(Arc::new(state));
        let disk = StallingDisk { inner: disk.clone(), stall: Arc::clone(&stall.0) };
        let random = Arc::new(SeededRandom::new(2_000_000 + step as u64));
        let options = Options::new(Arc::new(SystemClock), random);
        let blobs = FileStorage::on(Arc::new(disk), options).await.expect("a storage");
        stall.0.left.store(step, SeqCst);
        (stall, Arc::new(blobs))
    }

    pub(crate) fn is_waiting(&self) -> bool {
        *self.0.phase.lock() == Phase::Stopped
    }

    pub(crate) fn open(&self) {
        *self.0.phase.lock() = Phase::Released;
        self.0.opened.notify_all();
    }
}

impl State {
    fn pass(&self) {
        let counted = self.left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1));
        if counted == Ok(1) {
            let mut phase = self.phase.lock();
            if *phase == Phase::Going {
                *phase = Phase::Stopped;
            }
            while *phase == Phase::Stopped {
                self.opened.wait(&mut phase);
            }
        }
    }
}

/// Lets the actor go on also when the test fails: its thread would be waited for.
impl Drop for Stall {
    fn drop(&mut self) {
        self.open();
    }
}

impl Disk for StallingDisk {
    fn name(&self) -> String {
        self.inner.name()
    }
    fn open(&self, path: &Path, how: Open) -> io::Result<Box<dyn DiskFile>> {
        self.stall.pass();
        self.inner.open(path, how)
    }
    fn info(&self, path: &Path) -> io::Result<FileInfo> {
        self.stall.pass();
        self.inner.info(path)
    }
    fn names(&self, path: &Path) -> io::Result<Vec<String>> {
        self.stall.pass();
        self.inner.names(path)
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.stall.pass();
        self.inner.create_dir(path)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.stall.pass();
        self.inner.link(from, to)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.stall.pass();
        self.inner.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.stall.pass();
        self.inner.remove_file(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.stall.pass();
        self.inner.remove_dir(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.stall.pass();
        self.inner.sync_dir(path)
    }
    fn space(&self) -> io::Result<Space> {
        self.inner.space()
    }
}
