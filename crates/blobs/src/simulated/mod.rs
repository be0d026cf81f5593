//! A disk in memory for proofs: it counts what is done to it, fails when it is told to, and at a simulated power loss
//! forgets whatever was not synced.
//!
//! It is stricter than file systems are: without a sync of the directory neither a new file, nor a name given by a link
//! or a rename, nor a removal is durable, whatever else was synced. A sync that fails loses what it should have written
//! even if the next one succeeds, as Linux does.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! use dtr_blobs::{BlobStorage as _, body, simulated::{Loss, SimulatedDisk}};
//! use dtr_types::Digest;
//!
//! let disk = SimulatedDisk::new();
//! let storage = disk.storage().await.unwrap();
//! let digest = Digest::of(b"hello");
//! disk.cut_power_at(disk.changes() + 2);
//! assert!(storage.put(&digest, None, body("hello")).await.is_err());
//! disk.restart(Loss::Everything);
//! let storage = disk.storage().await.unwrap();
//! assert!(storage.stat(&digest).await.unwrap().is_none());
//! # });
//! ```

mod tree;

use std::{
    io::{self, IoSlice},
    path::Path,
    sync::Arc,
};

use dtr_types::{SeededRandom, SystemClock, Timestamp};
use parking_lot::Mutex;

use crate::{
    BlobError, FileStorage, Options,
    disk::{Disk, DiskFile, FileInfo, Open, Space},
};
use tree::Tree;

/// What is done to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OperationKind {
    /// A file is opened for reading or writing.
    Open,
    /// A file or directory is looked at.
    Info,
    /// A directory is listed.
    Names,
    /// A file is read.
    Read,
    /// A file is made.
    Create,
    /// A file is written.
    Write,
    /// A file is cut or extended.
    SetSize,
    /// A file's time is set.
    Touch,
    /// A file's content is made durable.
    Sync,
    /// A directory is made.
    CreateDir,
    /// A file gets a second name.
    Link,
    /// A file gets another name.
    Rename,
    /// A name of a file goes.
    RemoveFile,
    /// A directory goes.
    RemoveDir,
    /// A directory's entries are made durable.
    SyncDir,
}

impl OperationKind {
    /// Whether it changes what is on the disk or what would survive a power loss.
    pub fn is_change(self) -> bool {
        !matches!(self, Self::Open | Self::Info | Self::Names | Self::Read)
    }
}

/// One operation about to be carried out.
#[derive(Clone, Debug)]
pub struct Operation {
    /// What is to be done.
    pub kind: OperationKind,
    /// To which path, below the root (the source's of a link or rename; for an open file, the path it was opened by).
    pub path: String,
    /// The number of this change, from 1; for what changes nothing, the number of changes so far.
    pub change: u64,
}

/// What shall become of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is carried out.
    Proceed,
    /// It is not carried out and fails like this.
    Fail(io::ErrorKind),
    /// A write writes half of its bytes and says so; anything else is carried out.
    Half,
    /// The power goes: this and all that follow fail until [`SimulatedDisk::restart`].
    PowerOff,
}

/// What a power loss takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Nothing: the process died, the machine did not (kill -9).
    Nothing,
    /// All that was not synced.
    Everything,
    /// By this seed, each directory entry that was not synced, and each sector of 512 bytes: what disks really do.
    Some(u64),
}

type Script = Box<dyn FnMut(&Operation) -> Verdict + Send>;

struct State {
    tree: Tree,
    powered: bool,
    changes: u64,
    read_only: bool,
    links: bool,
}

struct Shared {
    state: Mutex<State>,
    script: Mutex<Option<Script>>,
}

/// The disk. Clones are the same disk.
#[derive(Clone)]
pub struct SimulatedDisk(Arc<Shared>);

impl Default for SimulatedDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl SimulatedDisk {
    /// An empty disk without limit.
    pub fn new() -> Self {
        let state = State {
            tree: Tree::default(),
            powered: true,
            changes: 0,
            read_only: false,
            links: true,
        };
        Self(Arc::new(Shared { state: Mutex::new(state), script: Mutex::new(None) }))
    }

    /// Another disk with the same content, for trying several things from one beginning. It has no script.
    pub fn copy(&self) -> Self {
        let state = self.0.state.lock();
        let state = State { tree: state.tree.clone(), ..*state };
        Self(Arc::new(Shared { state: Mutex::new(state), script: Mutex::new(None) }))
    }

    /// Opens a file storage on it, with the machine's clock and repeatable names.
    ///
    /// # Errors
    /// As [`FileStorage::open`].
    pub async fn storage(&self) -> Result<FileStorage, BlobError> {
        let seed = self.changes();
        let random = Arc::new(SeededRandom::new(seed));
        self.storage_with(Options::new(Arc::new(SystemClock), random)).await
    }

    /// Opens a file storage on it.
    ///
    /// # Errors
    /// As [`FileStorage::open`].
    pub async fn storage_with(&self, options: Options) -> Result<FileStorage, BlobError> {
        FileStorage::on(Arc::new(self.clone()), options).await
    }

    /// How many changes there were so far.
    pub fn changes(&self) -> u64 {
        self.0.state.lock().changes
    }

    /// Asks `script` before each operation. It must not call this disk.
    pub fn on_operation(&self, script: impl FnMut(&Operation) -> Verdict + Send + 'static) {
        *self.0.script.lock() = Some(Box::new(script));
    }

    /// Lets everything proceed again.
    pub fn without_script(&self) {
        *self.0.script.lock() = None;
    }

    /// The power goes just before the change with this number is carried out.
    pub fn cut_power_at(&self, change: u64) {
        self.at(change, Verdict::PowerOff);
    }

    /// The change with this number fails.
    pub fn fail_at(&self, change: u64, how: io::ErrorKind) {
        self.at(change, Verdict::Fail(how));
    }

    fn at(&self, change: u64, verdict: Verdict) {
        self.on_operation(move |operation| {
            let now = operation.kind.is_change() && operation.change == change;
            if now { verdict } else { Verdict::Proceed }
        });
    }

    /// The power goes now.
    pub fn power_off(&self) {
        self.0.state.lock().powered = false;
    }

    /// Whether the power is on.
    pub fn is_powered(&self) -> bool {
        self.0.state.lock().powered
    }

    /// Applies the loss and turns the power on; files that were open stay unusable. The script is forgotten.
    pub fn restart(&self, loss: Loss) {
        self.without_script();
        let mut state = self.0.state.lock();
        state.tree.crash(loss);
        state.powered = true;
    }

    /// Sets the number of bytes that files may have altogether; `None` for no limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.0.state.lock().tree.capacity = bytes;
    }

    /// Makes every change fail as on a file system mounted read-only.
    pub fn set_read_only(&self, read_only: bool) {
        self.0.state.lock().read_only = read_only;
    }

    /// Whether files can get a second name.
    pub fn set_links(&self, links: bool) {
        self.0.state.lock().links = links;
    }

    /// All files, by path: what a reader of the bare disk would find.
    pub fn files(&self) -> Vec<(String, Vec<u8>)> {
        self.0.state.lock().tree.files()
    }

    /// Asks the script, then carries the operation out.
    fn operate<T>(
        &self,
        kind: OperationKind,
        path: &str,
        work: impl FnOnce(&mut State, bool) -> io::Result<T>,
    ) -> io::Result<T> {
        let operation = {
            let mut state = self.0.state.lock();
            state.check_power()?;
            state.changes += u64::from(kind.is_change());
            Operation { kind, path: path.to_owned(), change: state.changes }
        };
        let verdict = match self.0.script.lock().as_mut() {
            Some(script) => script(&operation),
            None => Verdict::Proceed,
        };
        let mut state = self.0.state.lock();
        state.check_power()?;
        match verdict {
            Verdict::PowerOff => {
                state.powered = false;
                state.check_power()?;
            }
            Verdict::Fail(how) => {
                if kind == OperationKind::Sync {
                    state.tree.sync_failed(Path::new(path));
                }
                return Err(io::Error::new(how, "injected"));
            }
            Verdict::Proceed | Verdict::Half => {}
        }
        if kind.is_change() && state.read_only {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        work(&mut state, verdict == Verdict::Half)
    }
}

impl State {
    fn check_power(&self) -> io::Result<()> {
        if self.powered { Ok(()) } else { Err(io::Error::other("the power is off")) }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

impl Disk for SimulatedDisk {
    fn name(&self) -> String {
        "the simulated disk".to_owned()
    }

    fn open(&self, path: &Path, how: Open) -> io::Result<Box<dyn DiskFile>> {
        let kind = if how == Open::Create { OperationKind::Create } else { OperationKind::Open };
        self.operate(kind, text(path), |state, _| {
            if how == Open::Create {
                state.tree.create_file(path)?;
            }
            let inode = state.tree.file_at(path)?;
            state.tree.file(inode)?.open += 1;
            let restarts = state.tree.restarts;
            let path = text(path).to_owned();
            let file = SimulatedFile { disk: self.clone(), path, inode, restarts };
            Ok(Box::new(file) as Box<dyn DiskFile>)
        })
    }

    fn info(&self, path: &Path) -> io::Result<FileInfo> {
        self.operate(OperationKind::Info, text(path), |state, _| state.tree.info(path))
    }

    fn names(&self, path: &Path) -> io::Result<Vec<String>> {
        self.operate(OperationKind::Names, text(path), |state, _| state.tree.names(path))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.operate(OperationKind::CreateDir, text(path), |state, _| state.tree.create_dir(path))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.operate(OperationKind::Link, text(from), |state, _| {
            if !state.links {
                return Err(io::ErrorKind::Unsupported.into());
            }
            state.tree.link(from, to)
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.operate(OperationKind::Rename, text(from), |state, _| state.tree.rename(from, to))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.operate(OperationKind::RemoveFile, text(path), |state, _| {
            state.tree.remove_file(path)?;
            state.tree.forget_unnamed();
            Ok(())
        })
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.operate(OperationKind::RemoveDir, text(path), |state, _| state.tree.remove_dir(path))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.operate(OperationKind::SyncDir, text(path), |state, _| state.tree.sync_dir(path))
    }

    fn space(&self) -> io::Result<Space> {
        let state = self.0.state.lock();
        state.check_power()?;
        let total = state.tree.capacity.unwrap_or(u64::MAX);
        Ok(Space { free: total.saturating_sub(state.tree.used()), total })
    }
}

struct SimulatedFile {
    disk: SimulatedDisk,
    path: String,
    inode: u64,
    /// How often the disk had been restarted when this was opened.
    restarts: u64,
}

impl SimulatedFile {
    fn operate<T>(
        &self,
        kind: OperationKind,
        work: impl FnOnce(&mut tree::File, &mut Room, bool) -> io::Result<T>,
    ) -> io::Result<T> {
        self.disk.operate(kind, &self.path, |state, half| {
            if state.tree.restarts != self.restarts {
                return Err(io::Error::other("it was opened before the power went"));
            }
            let mut room = Room(
                state.tree.capacity.map_or(u64::MAX, |all| all.saturating_sub(state.tree.used())),
            );
            work(state.tree.file(self.inode)?, &mut room, half)
        })
    }
}

/// Bytes that are free.
struct Room(u64);

impl DiskFile for SimulatedFile {
    fn info(&self) -> io::Result<FileInfo> {
        self.operate(OperationKind::Info, |file, _, _| Ok(file.info(self.inode)))
    }

    fn read_at(&self, into: &mut Vec<u8>, at: u64) -> io::Result<usize> {
        self.operate(OperationKind::Read, |file, _, _| Ok(file.read(into, at)))
    }

    fn write_at(&self, parts: &[IoSlice<'_>], at: u64) -> io::Result<usize> {
        self.operate(OperationKind::Write, |file, room, half| {
            let mut bytes = Vec::new();
            for part in parts {
                bytes.extend_from_slice(part);
            }
            if half {
                bytes.truncate(bytes.len().div_ceil(2));
            }
            let allowed = file.size().saturating_add(room.0).saturating_sub(at);
            if allowed == 0 && !bytes.is_empty() {
                return Err(io::ErrorKind::StorageFull.into());
            }
            bytes.truncate(usize::try_from(allowed).unwrap_or(usize::MAX));
            file.write(&bytes, at);
            Ok(bytes.len())
        })
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.operate(OperationKind::SetSize, |file, _, _| {
            file.set_size(size);
            Ok(())
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.operate(OperationKind::Sync, |file, _, _| {
            file.sync();
            Ok(())
        })
    }

    fn touch(&self, at: Timestamp) -> io::Result<()> {
        self.operate(OperationKind::Touch, |file, _, _| {
            file.modified = at;
            Ok(())
        })
    }

    fn write_out(&self, _: u64, _: u64) {}
}

impl Drop for SimulatedFile {
    fn drop(&mut self) {
        let mut state = self.disk.0.state.lock();
        if state.tree.restarts != self.restarts {
            return;
        }
        if let Ok(file) = state.tree.file(self.inode) {
            file.open = file.open.saturating_sub(1);
        }
        if state.tree.unnamed {
            state.tree.forget_unnamed();
        }
    }
}
