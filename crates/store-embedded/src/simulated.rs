//! A disk that forgets what was not synced, runs full and fails, on command: for crash proofs.

use std::{fmt, io, ops::Bound, sync::Arc};

use parking_lot::Mutex;
use redb::{BackendError, StorageBackend};

use crate::BackendFactory;

/// What was done since the last sync.
enum Unsynced {
    Write(usize, Vec<u8>),
    Resize(usize),
}

type Power = Box<dyn FnMut(bool) -> bool + Send>;

#[derive(Default)]
struct State {
    /// What a reader sees.
    bytes: Vec<u8>,
    /// What is certainly on the disk.
    durable: Vec<u8>,
    unsynced: Vec<Unsynced>,
    /// Writes, resizes and syncs so far.
    operations: u64,
    fault: Option<Fault>,
    /// Says before each operation whether there is still power.
    power: Option<Power>,
    /// The size that the disk does not go beyond.
    capacity: Option<usize>,
    /// Counts power losses: handles from before one are dead.
    life: u64,
    /// Handles so far, to tell them apart.
    handles: u64,
    /// The handle that has the disk locked.
    locked: Option<u64>,
}

/// From when on the disk fails, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Operations (writes, resizes, syncs) that still succeed, counted from now.
    pub after: u64,
    /// Whether reads fail too.
    pub reads: bool,
    /// The error.
    pub kind: io::ErrorKind,
}

/// The disk. Clones are the same disk. As a [`BackendFactory`] it can be opened any number of times.
#[derive(Clone, Default)]
pub struct Disk(Arc<Mutex<State>>);

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Disk")
    }
}

fn resize(bytes: &mut Vec<u8>, length: usize) {
    bytes.resize(length, 0);
}

fn write(bytes: &mut Vec<u8>, offset: usize, data: &[u8]) {
    if bytes.len() < offset + data.len() {
        resize(bytes, offset + data.len());
    }
    bytes[offset..offset + data.len()].copy_from_slice(data);
}

impl Disk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// Another disk with the same durable content, for trying several things from one beginning.
    pub fn copy(&self) -> Self {
        let state = self.0.lock();
        let (bytes, durable) = (state.durable.clone(), state.durable.clone());
        Self(Arc::new(Mutex::new(State { bytes, durable, ..State::default() })))
    }

    /// Asks before each operation whether there is still power; told is whether it is a change (a write, resize or
    /// sync). An operation without power fails. It must not call this disk. [`Disk::lose_power`] forgets it.
    pub fn on_operation(&self, power: impl FnMut(bool) -> bool + Send + 'static) {
        self.0.lock().power = Some(Box::new(power));
    }

    /// Takes the power away: everything synced stays; of the rest, `keep` chooses by sector of 512 bytes (true keeps),
    /// so writes may be torn, lost and out of order. Stores that are open over it get errors from then on.
    pub fn lose_power(&self, mut keep: impl FnMut() -> bool) {
        const SECTOR: usize = 512;
        let mut state = self.0.lock();
        let mut bytes = std::mem::take(&mut state.durable);
        for operation in state.unsynced.drain(..) {
            match operation {
                Unsynced::Resize(length) => {
                    // Growing is harmless; cutting off what is still referred to would not be.
                    if length > bytes.len() || keep() {
                        resize(&mut bytes, length);
                    }
                }
                Unsynced::Write(offset, data) => {
                    let mut at = 0;
                    while at < data.len() {
                        let end = (at + SECTOR - (offset + at) % SECTOR).min(data.len());
                        if keep() {
                            write(&mut bytes, offset + at, &data[at..end]);
                        }
                        at = end;
                    }
                }
            }
        }
        state.durable.clone_from(&bytes);
        state.bytes = bytes;
        state.fault = None;
        state.power = None;
        state.life += 1;
        state.locked = None;
    }

    /// Makes the disk fail, or work again with `None`.
    pub fn set_fault(&self, fault: Option<Fault>) {
        let mut state = self.0.lock();
        state.fault = fault.map(|f| Fault { after: state.operations + f.after, ..f });
    }

    /// Limits the disk's size in bytes; writes into what is not there yet fail beyond it.
    pub fn set_capacity(&self, bytes: Option<usize>) {
        self.0.lock().capacity = bytes;
    }

    /// Writes, resizes and syncs so far.
    pub fn operations(&self) -> u64 {
        self.0.lock().operations
    }

    /// The file's length in bytes.
    pub fn length(&self) -> usize {
        self.0.lock().bytes.len()
    }
}

impl BackendFactory for Disk {
    fn open(&self) -> io::Result<Box<dyn StorageBackend>> {
        let mut state = self.0.lock();
        state.handles += 1;
        let handle = Handle { disk: self.clone(), life: state.life, number: state.handles };
        Ok(Box::new(handle))
    }

    fn open_to_read(&self) -> io::Result<Box<dyn StorageBackend>> {
        self.open()
    }
}

#[derive(Debug)]
struct Handle {
    disk: Disk,
    life: u64,
    number: u64,
}

impl Handle {
    fn with<T>(&self, reads: bool, act: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.disk.0.lock();
        if state.life != self.life {
            return Err(io::Error::other("the power was lost"));
        }
        if !reads {
            state.operations += 1;
        }
        if state.power.as_mut().is_some_and(|power| !power(!reads)) {
            return Err(io::Error::other("the power is off"));
        }
        match state.fault {
            Some(fault) if state.operations > fault.after && (!reads || fault.reads) => {
                Err(fault.kind.into())
            }
            _ => act(&mut state),
        }
    }
}

impl StorageBackend for Handle {
    /// Like a file, the disk has one user at a time; its whole is all that can be locked.
    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        let whole = matches!(start, Bound::Unbounded | Bound::Included(0));
        if !whole || end != Bound::Unbounded {
            return Err(BackendError::Unsupported);
        }
        let mut state = self.disk.0.lock();
        let free = state.locked.is_none_or(|by| by == self.number);
        if free && state.life == self.life {
            state.locked = Some(self.number);
        }
        Ok(free)
    }

    fn unlock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<(), BackendError> {
        let mut state = self.disk.0.lock();
        if state.locked == Some(self.number) {
            state.locked = None;
        }
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        Ok(self.unlock_range(Bound::Unbounded, Bound::Unbounded)?)
    }

    fn len(&self) -> io::Result<u64> {
        self.with(true, |state| Ok(state.bytes.len() as u64))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.with(true, |state| {
            let offset = offset as usize;
            let found = state.bytes.get(offset..offset + out.len());
            out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(false, |state| {
            let length = len as usize;
            if state
                .capacity
                .is_some_and(|capacity| length > capacity && length > state.bytes.len())
            {
                return Err(io::ErrorKind::StorageFull.into());
            }
            resize(&mut state.bytes, length);
            state.unsynced.push(Unsynced::Resize(length));
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(false, |state| {
            let mut durable = std::mem::take(&mut state.durable);
            for operation in state.unsynced.drain(..) {
                match operation {
                    Unsynced::Write(offset, data) => write(&mut durable, offset, &data),
                    Unsynced::Resize(length) => resize(&mut durable, length),
                }
            }
            state.durable = durable;
            Ok(())
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.with(false, |state| {
            write(&mut state.bytes, offset as usize, data);
            state.unsynced.push(Unsynced::Write(offset as usize, data.to_vec()));
            Ok(())
        })
    }
}
