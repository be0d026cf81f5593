//! Where the bytes of the file go: what redb is given, whatever a test or a read-only file system makes of it.

use std::{
    fmt, io,
    ops::Bound,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use dtr_store::StoreError;
use redb::{BackendError, StorageBackend, backends::FileBackend};

/// Opens the same storage again and again: at the start, and after an error that made redb stop.
pub trait BackendFactory: Send + Sync + 'static {
    /// Opens the storage for reading and writing.
    ///
    /// # Errors
    /// What the operating system says.
    fn open(&self) -> io::Result<Box<dyn StorageBackend>>;

    /// Opens the storage so that it can be read only, for the time in which [`BackendFactory::open`] fails.
    ///
    /// # Errors
    /// What the operating system says; [`io::ErrorKind::Unsupported`] unless overridden.
    fn open_to_read(&self) -> io::Result<Box<dyn StorageBackend>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Bytes that may still be written, where that is known. Content is refused while it is under the reserve.
    fn free_bytes(&self) -> Option<u64> {
        None
    }
}

impl<F> BackendFactory for F
where
    F: Fn() -> io::Result<Box<dyn StorageBackend>> + Send + Sync + 'static,
{
    fn open(&self) -> io::Result<Box<dyn StorageBackend>> {
        self()
    }
}

/// A file of its own, readable by its owner only.
pub(crate) struct FileFactory {
    path: PathBuf,
    directory: PathBuf,
}

impl FileFactory {
    pub(crate) fn new(path: &Path) -> Self {
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        Self { path: path.to_owned(), directory }
    }
}

impl BackendFactory for FileFactory {
    fn open(&self) -> io::Result<Box<dyn StorageBackend>> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&self.path)?;
        if file.metadata()?.len() == 0 {
            // The name must survive a power loss as well as the bytes.
            std::fs::File::open(&self.directory)?.sync_all()?;
        }
        file_backend(file)
    }

    fn open_to_read(&self) -> io::Result<Box<dyn StorageBackend>> {
        file_backend(std::fs::File::open(&self.path)?)
    }

    fn free_bytes(&self) -> Option<u64> {
        let stat = rustix::fs::statvfs(&self.directory).ok()?;
        Some(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

fn file_backend(file: std::fs::File) -> io::Result<Box<dyn StorageBackend>> {
    match FileBackend::new(file) {
        Ok(backend) => Ok(Box::new(backend)),
        Err(redb::DatabaseError::Storage(redb::StorageError::Io(e))) => Err(e),
        Err(e) => Err(io::Error::other(e.to_string())),
    }
}

/// Any backend as one type, with its length kept for the status.
pub(crate) struct Backend {
    inner: Box<dyn StorageBackend>,
    length: Arc<AtomicU64>,
}

impl Backend {
    pub(crate) fn new(inner: Box<dyn StorageBackend>, length: Arc<AtomicU64>) -> Self {
        if let Ok(now) = inner.len() {
            length.store(now, Ordering::Relaxed);
        }
        Self { inner, length }
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)?;
        self.length.store(len, Ordering::Relaxed);
        Ok(())
    }
    fn sync_data(&self) -> io::Result<()> {
        self.inner.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.inner.write(offset, data)
    }
    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }
    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_range(start, end)
    }
    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.inner.try_lock_shared_range(start, end)
    }
    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_range(start, end)
    }
    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_shared_range(start, end)
    }
    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.unlock_range(start, end)
    }
    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.query_lock_range(start, end)
    }
}

/// Says which file an error is about, where the operating system did not.
pub(crate) fn name(path: &Path, error: StoreError) -> StoreError {
    let at = |reason: String| format!("{}: {reason}", path.display());
    match error {
        StoreError::Unavailable { reason } => StoreError::Unavailable { reason: at(reason) },
        StoreError::Full { reason } => StoreError::Full { reason: at(reason) },
        StoreError::Corrupt(reason) => StoreError::Corrupt(at(reason)),
        other => other,
    }
}
