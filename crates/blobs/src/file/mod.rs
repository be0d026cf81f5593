//! Blobs in files: opening, health, and the trait over the modules that do the work. Every operation on the disk runs
//! on a thread that may block.

mod aside;
mod layout;
mod list;
mod mark;
mod publish;
mod read;
mod room;
mod session;
mod upload;

use std::{
    fmt, io,
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use dtr_types::{Algorithm, Clock, Digest, Hasher, Random, StorageMark, UploadId};

use crate::{
    AppendError, Appended, Aside, BlobEntry, BlobError, BlobInfo, BlobReader, BlobStorage,
    ByteStream, Health, Staged, UploadEntry,
    disk::{Disk, Open, RealDisk},
    error::is_full,
};

/// What a file storage is given besides its place.
#[derive(Clone)]
pub struct Options {
    /// Tells the time that published blobs are marked with.
    pub clock: Arc<dyn Clock>,
    /// Names the temporary files of [`BlobStorage::put`].
    pub random: Arc<dyn Random>,
    /// Bytes of the disk that content leaves free. 0 is none.
    pub reserve_bytes: u64,
}

impl Options {
    /// With this clock and randomness.
    pub fn new(clock: Arc<dyn Clock>, random: Arc<dyn Random>) -> Self {
        Self { clock, random, reserve_bytes: 0 }
    }
}

/// A blob storage on a file system, in the layout of the CNCF distribution registry:
/// `docker/registry/v2/blobs/<algorithm>/<2 digits>/<digits>/data`, and `uploads/` beside it.
///
/// What is acknowledged was synced, the file first and then each directory that got a new entry. The root may be shared
/// by several replicas if its renames are atomic (those of NFS are). No lock is needed between them: see `session`.
#[derive(Clone)]
pub struct FileStorage(Arc<Inner>);

struct Inner {
    disk: Arc<dyn Disk>,
    options: Options,
    pool: read::Pool,
    room: room::Room,
    /// Uploads that this process is writing to.
    busy: session::Busy,
    /// Shards whose own directory entry is known to be durable: a bit each, sha256 before sha512.
    shards: [AtomicU64; 8],
    /// Whether this file system can give a file a second name.
    links: AtomicBool,
}

impl FileStorage {
    /// Opens the storage in directory `root`, which is made if need be, and tries whether it can do what is needed.
    ///
    /// # Errors
    /// [`BlobError::Unsuitable`] with the step that failed.
    pub async fn open(root: impl Into<PathBuf>, options: Options) -> Result<Self, BlobError> {
        let root = root.into();
        let name = root.display().to_string();
        let opened = tokio::task::spawn_blocking(move || RealDisk::open(root)).await;
        let disk = opened.map_err(io::Error::other).and_then(|disk| disk).map_err(|e| {
            BlobError::Unsuitable { root: name, reason: format!("cannot make the directory: {e}") }
        })?;
        Self::on(Arc::new(disk), options).await
    }

    /// The storage in a directory that may not be there at this moment: nothing is made or tried.
    pub fn unprepared(root: impl Into<PathBuf>, options: Options) -> Self {
        Self::over(Arc::new(RealDisk::unprepared(root)), options)
    }

    /// The same on any disk.
    ///
    /// # Errors
    /// As [`FileStorage::open`].
    pub async fn on(disk: Arc<dyn Disk>, options: Options) -> Result<Self, BlobError> {
        let storage = Self::over(disk, options);
        storage.run("prepare the storage", |inner| inner.prepare()).await?;
        Ok(storage)
    }

    fn over(disk: Arc<dyn Disk>, options: Options) -> Self {
        Self(Arc::new(Inner {
            disk,
            room: room::Room::new(options.reserve_bytes),
            options,
            pool: read::Pool::default(),
            busy: session::Busy::default(),
            shards: [const { AtomicU64::new(0) }; 8],
            links: AtomicBool::new(true),
        }))
    }

    /// Runs `work` where it may block. Once begun it is finished, even if nobody waits for it any more.
    async fn run<T, F>(&self, what: &'static str, work: F) -> Result<T, BlobError>
    where
        T: Send + 'static,
        F: FnOnce(&Inner) -> Result<T, BlobError> + Send + 'static,
    {
        let inner = Arc::clone(&self.0);
        match tokio::task::spawn_blocking(move || work(&inner)).await {
            Ok(result) => result,
            Err(e) => Err(BlobError::io(what, io::Error::other(e))),
        }
    }
}

/// An error of the disk with what was attempted on which path.
fn failed<'a>(verb: &'a str, path: &'a Path) -> impl FnOnce(io::Error) -> BlobError + 'a {
    move |source| BlobError::io(format!("{verb} {}", path.display()), source)
}

/// Takes "there is nothing" for success.
fn unless_missing(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

impl Inner {
    /// Makes the directories and writes a probe.
    fn prepare(&self) -> Result<(), BlobError> {
        let unsuitable = |reason: String| BlobError::Unsuitable { root: self.disk.name(), reason };
        for dir in [layout::UPLOADS, layout::BLOBS] {
            self.create_dirs(Path::new(dir))
                .map_err(|e| unsuitable(format!("cannot make the directory {dir} in it: {e}")))?;
        }
        match self.probe() {
            // What is in it can be read, and removed.
            Err(error) if is_full(&error) => {
                tracing::error!(root = self.disk.name(), %error, "the blob storage is full");
                Ok(())
            }
            Err(e) => Err(unsuitable(format!("a file cannot be written and synced: {e}"))),
            Ok(()) => Ok(()),
        }
    }

    /// Makes a directory and those above it, and makes their names durable.
    fn create_dirs(&self, path: &Path) -> io::Result<()> {
        let mut above = PathBuf::new();
        for part in path {
            let dir = above.join(part);
            match self.disk.create_dir(&dir) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
            // Also when it was there: who made it may have died before this.
            self.disk.sync_dir(&above)?;
            above = dir;
        }
        Ok(())
    }

    /// Writes, syncs and removes a small file.
    fn probe(&self) -> io::Result<()> {
        let path = Path::new(layout::PROBE);
        let file = match self.disk.open(path, Open::Create) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                self.disk.open(path, Open::Write)?
            }
            Err(e) => return Err(e),
        };
        let written = file.write_at(&[io::IoSlice::new(b"probe")], 0).and_then(|_| file.sync());
        drop(file);
        let removed = unless_missing(self.disk.remove_file(path));
        written?;
        removed.map(|_| ())
    }

    fn health(&self) -> Health {
        let failed = |e| BlobError::io(format!("write a file in {}", self.disk.name()), e);
        let written = self.probe().map_err(failed);
        let space = match self.disk.space().map_err(failed) {
            Ok(space) => space,
            Err(error) => return Health::failed(&error),
        };
        let mut health = match written {
            Ok(()) => Health { full: self.room.refusal(space), ..Health::default() },
            Err(error) => Health::failed(&error),
        };
        (health.free, health.total) = (Some(space.free), Some(space.total));
        health
    }

    fn stat(&self, digest: &Digest) -> Result<Option<BlobInfo>, BlobError> {
        let path = layout::BlobPath::new(digest).data;
        match self.disk.info(&path) {
            Ok(info) if info.is_file => {
                Ok(Some(BlobInfo { size: info.size, modified: info.modified }))
            }
            Ok(_) => Ok(None),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(failed("look at", &path)(e)),
        }
    }

    /// The same, also of one that is set aside.
    fn stat_anywhere(&self, digest: &Digest) -> Result<Option<BlobInfo>, BlobError> {
        let found = self.wherever(digest, |path| self.disk.info(path))?;
        Ok(found
            .filter(|info| info.is_file)
            .map(|info| BlobInfo { size: info.size, modified: info.modified }))
    }

    fn delete(&self, digest: &Digest) -> Result<bool, BlobError> {
        let path = layout::BlobPath::new(digest);
        let removed = unless_missing(self.disk.remove_file(&path.data))
            .map_err(failed("remove", &path.data))?;
        // Fails when somebody is publishing the same digest again: then the directory is wanted.
        let _ = self.disk.remove_dir(&path.folder);
        Ok(removed)
    }

    /// Marks a shard's directory entry as durable; says whether it was marked already when `mark` is false.
    fn shard_is_durable(&self, digest: &Digest, mark: bool) -> bool {
        let offset = match digest.algorithm() {
            dtr_types::Algorithm::Sha256 => 0,
            dtr_types::Algorithm::Sha512 => 4,
        };
        let shard = usize::from(digest.as_bytes()[0]);
        let bit = 1u64 << (shard % 64);
        let word = &self.shards[offset + shard / 64];
        if mark {
            word.fetch_or(bit, Ordering::AcqRel);
            return true;
        }
        word.load(Ordering::Acquire) & bit != 0
    }
}

#[async_trait::async_trait]
impl BlobStorage for FileStorage {
    async fn stat(&self, digest: &Digest) -> Result<Option<BlobInfo>, BlobError> {
        let digest = *digest;
        self.run("look at a blob", move |inner| inner.stat_anywhere(&digest)).await
    }

    async fn read(
        &self,
        digest: &Digest,
        range: Option<Range<u64>>,
    ) -> Result<BlobReader, BlobError> {
        read::open(self, *digest, range).await
    }

    async fn delete(&self, digest: &Digest) -> Result<bool, BlobError> {
        let digest = *digest;
        self.run("remove a blob", move |inner| inner.delete(&digest)).await
    }

    async fn set_aside(&self, digest: &Digest) -> Result<Aside, BlobError> {
        let digest = *digest;
        self.run("set a blob aside", move |inner| inner.set_aside(digest)).await
    }

    async fn put_back(&self, aside: Aside) -> Result<(), BlobError> {
        self.run("put a blob back", move |inner| inner.put_back(&aside)).await
    }

    async fn remove_aside(&self, aside: Aside) -> Result<bool, BlobError> {
        self.run("remove a blob", move |inner| inner.remove_aside(&aside)).await
    }

    async fn put_back_all(&self) -> Result<u64, BlobError> {
        self.run("put blobs back", |inner| inner.put_back_all()).await
    }

    async fn mark(&self) -> Result<Option<StorageMark>, BlobError> {
        self.run("read the mark", |inner| inner.mark()).await
    }

    async fn has_repositories(&self) -> Result<bool, BlobError> {
        let repositories = Path::new(layout::REPOSITORIES);
        self.run("list the storage", |inner| Ok(!inner.sorted(repositories)?.is_empty())).await
    }

    async fn set_mark(&self, mark: &StorageMark) -> Result<(), BlobError> {
        let mark = mark.clone();
        self.run("write the mark", move |inner| inner.set_mark(&mark)).await
    }

    async fn list(
        &self,
        after: Option<&Digest>,
        limit: usize,
    ) -> Result<Vec<BlobEntry>, BlobError> {
        let after = after.copied();
        self.run("list blobs", move |inner| inner.list(after, limit)).await
    }

    async fn health(&self) -> Health {
        let checked = self.run("check the storage", |inner| Ok(inner.health())).await;
        checked.unwrap_or_else(|e| Health::failed(&e))
    }

    async fn upload_create(&self, id: &UploadId) -> Result<(), BlobError> {
        let id = id.clone();
        self.run("begin an upload", move |inner| inner.upload_create(&id)).await
    }

    async fn upload_append(
        &self,
        id: &UploadId,
        at: u64,
        hasher: Hasher,
        body: ByteStream,
    ) -> Result<Appended, AppendError> {
        let _turn = self.0.busy.take(id)?;
        upload::append(self, id.clone(), at, hasher, body).await
    }

    async fn upload_finish(&self, id: &UploadId, whole: &Appended) -> Result<Staged, BlobError> {
        let _turn = self.0.busy.take(id)?;
        let (id, whole) = (id.clone(), whole.clone());
        self.run("finish an upload", move |inner| inner.upload_finish(id, &whole)).await
    }

    async fn upload_reopen(&self, id: &UploadId, at: u64) -> Result<(), BlobError> {
        let id = id.clone();
        self.run("go on with an upload", move |inner| inner.upload_reopen(&id, at)).await
    }

    async fn staged_digest(
        &self,
        staged: &Staged,
        algorithm: Algorithm,
    ) -> Result<Digest, BlobError> {
        let staged = staged.clone();
        self.run("hash an upload", move |inner| inner.staged_digest(&staged, algorithm)).await
    }

    async fn publish(&self, staged: &Staged, digest: &Digest) -> Result<(), BlobError> {
        let (staged, digest) = (staged.clone(), *digest);
        self.run("publish a blob", move |inner| inner.publish_staged(&staged, &digest)).await
    }

    async fn upload_abort(&self, id: &UploadId) -> Result<(), BlobError> {
        let id = id.clone();
        self.run("give up an upload", move |inner| inner.upload_abort(&id)).await
    }

    async fn upload_end(&self, staged: &Staged) -> Result<(), BlobError> {
        let staged = staged.clone();
        self.run("end an upload", move |inner| inner.upload_end(&staged)).await
    }

    async fn uploads(
        &self,
        after: Option<&UploadId>,
        limit: usize,
    ) -> Result<Vec<UploadEntry>, BlobError> {
        let after = after.cloned();
        self.run("list uploads", move |inner| inner.uploads(after, limit)).await
    }

    async fn put(
        &self,
        digest: &Digest,
        size: Option<u64>,
        body: ByteStream,
    ) -> Result<u64, BlobError> {
        upload::put(self, *digest, size, body).await
    }
}

impl fmt::Debug for FileStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileStorage({})", self.0.disk.name())
    }
}
