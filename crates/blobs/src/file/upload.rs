//! Writing: frames of a body are gathered to batches; one is hashed and written while the next is received.

use std::{
    io::{self, IoSlice},
    path::Path,
    pin::pin,
    sync::Arc,
};

use bytes::Bytes;
use dtr_types::{Algorithm, Digest, Hasher, UploadId};
use futures_util::StreamExt as _;

use super::{FileStorage, Inner, failed, layout::UploadPath, unless_missing};
use crate::{
    AppendError, Appended, BlobError, ByteStream, Staged,
    disk::{DiskFile, Open},
};

/// Bytes at which a batch is handed to the disk.
const BATCH: usize = 512 * 1024;
/// Parts of one write call: the system takes at most 1024.
const PARTS: usize = 512;
/// After so many bytes the system is asked to begin writing them to the device.
const WRITE_OUT: u64 = 8 * 1024 * 1024;

/// How a batch ended.
enum End {
    /// There may be more.
    More,
    /// The body is complete.
    Done,
    /// The body broke off.
    Broken(BlobError),
}

struct Batch {
    frames: Vec<Bytes>,
    bytes: u64,
    end: End,
}

/// Receives frames until there is enough for a write or the body ends.
async fn gather(body: &mut ByteStream) -> Batch {
    let (mut frames, mut bytes) = (Vec::new(), 0);
    while bytes < BATCH && frames.len() < PARTS {
        match body.next().await {
            Some(Ok(frame)) if frame.is_empty() => {}
            Some(Ok(frame)) => {
                bytes += frame.len();
                frames.push(frame);
            }
            Some(Err(e)) => {
                return Batch { frames, bytes: bytes as u64, end: End::Broken(BlobError::Body(e)) };
            }
            None => return Batch { frames, bytes: bytes as u64, end: End::Done },
        }
    }
    Batch { frames, bytes: bytes as u64, end: End::More }
}

/// A file being written and the hash of what is in it.
struct Writer {
    file: Box<dyn DiskFile>,
    path: UploadPath,
    size: u64,
    hasher: Hasher,
    /// Up to where the system was asked to write out.
    written_out: u64,
    /// Whether there is anything to sync.
    dirty: bool,
}

impl Writer {
    /// Opens the file of an upload that has `at` recorded bytes.
    fn open(inner: &Inner, id: &UploadId, at: u64, hasher: Hasher) -> Result<Self, BlobError> {
        let path = UploadPath::new(id);
        let (file, present) = inner.lock(id)?;
        if present < at {
            return Err(BlobError::Offset { upload: id.clone(), expected: at, present });
        }
        if present > at {
            file.set_size(at).map_err(failed("cut", &path.open))?;
        }
        Ok(Self { file, path, size: at, hasher, written_out: at, dirty: present > at })
    }

    /// Makes a new file for a `put`.
    fn create(inner: &Inner, id: &UploadId, hasher: Hasher) -> Result<Self, BlobError> {
        let path = UploadPath::new(id);
        let file = inner.create(id)?;
        Ok(Self { file, path, size: 0, hasher, written_out: 0, dirty: true })
    }

    /// Writes a batch and hashes what was written of it.
    fn write(&mut self, frames: &[Bytes]) -> Result<(), BlobError> {
        let mut parts: Vec<IoSlice<'_>> = frames.iter().map(|frame| IoSlice::new(frame)).collect();
        let mut rest = parts.as_mut_slice();
        let mut written = 0;
        let mut result = Ok(());
        while !rest.is_empty() {
            match self.file.write_at(rest, self.size + written) {
                Ok(0) => {
                    result = Err(io::Error::from(io::ErrorKind::WriteZero));
                    break;
                }
                Ok(n) => {
                    written += n as u64;
                    IoSlice::advance_slices(&mut rest, n);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    result = Err(e);
                    break;
                }
            }
        }
        self.hash(frames, written);
        self.size += written;
        self.dirty |= written > 0;
        if self.size - self.written_out >= WRITE_OUT {
            self.file.write_out(self.written_out, self.size - self.written_out);
            self.written_out = self.size;
        }
        result.map_err(failed("write", &self.path.open))
    }

    fn hash(&mut self, frames: &[Bytes], mut length: u64) {
        for frame in frames {
            let take = length.min(frame.len() as u64);
            self.hasher.update(&frame[..take as usize]);
            length -= take;
        }
    }

    fn sync(&mut self) -> Result<(), BlobError> {
        if self.dirty {
            self.file.sync().map_err(failed("sync", &self.path.open))?;
            self.dirty = false;
        }
        Ok(())
    }

    fn appended(&self) -> Appended {
        Appended { size: self.size, hasher: self.hasher.clone() }
    }
}

/// Either not opened yet or writing; it travels between the task and the threads that may block.
enum State {
    Open { id: UploadId, at: u64, hasher: Hasher },
    Create { id: UploadId, hasher: Hasher },
    Writing(Writer),
}

impl State {
    /// The next batch. The last one is synced in the same go; so is what was written when an error comes up, and the
    /// writer goes back with it.
    fn step(
        self,
        inner: &Inner,
        frames: &[Bytes],
        last: bool,
    ) -> (Option<Writer>, Result<(), BlobError>) {
        let opened = match self {
            Self::Open { id, at, hasher } => Writer::open(inner, &id, at, hasher),
            Self::Create { id, hasher } => Writer::create(inner, &id, hasher),
            Self::Writing(writer) => Ok(writer),
        };
        let mut writer = match opened {
            Ok(writer) => writer,
            Err(e) => return (None, Err(e)),
        };
        let result = writer.write(frames);
        if last || result.is_err() {
            // When this fails nothing can be said about the new bytes, so the writer is not given back.
            if let Err(e) = writer.sync() {
                return (None, result.and(Err(e)));
            }
        }
        (Some(writer), result)
    }
}

/// Runs a body into a file. The writer comes back synced, with the error that ended it, if its bytes can be relied on.
async fn transfer(
    storage: &FileStorage,
    mut state: State,
    mut body: ByteStream,
    limit: Option<u64>,
) -> (Option<Writer>, Result<(), BlobError>) {
    let mut batch = gather(&mut body).await;
    let mut received = batch.bytes;
    loop {
        let Batch { frames, end, .. } = batch;
        let over = limit.is_some_and(|limit| received > limit);
        let last = over || !matches!(end, End::More);
        let inner = Arc::clone(&storage.0);
        let mut writing = tokio::task::spawn_blocking(move || state.step(&inner, &frames, last));
        let broken = |e| (None, Err(BlobError::io("write an upload", io::Error::other(e))));
        if last {
            let (writer, result) = writing.await.unwrap_or_else(broken);
            return (writer, result.and(if let End::Broken(e) = end { Err(e) } else { Ok(()) }));
        }
        let mut gathering = pin!(gather(&mut body));
        let (next, written) = tokio::select! {
            written = &mut writing => {
                let written = written.unwrap_or_else(broken);
                if written.1.is_err() {
                    return written;
                }
                (gathering.await, written)
            }
            next = &mut gathering => (next, writing.await.unwrap_or_else(broken)),
        };
        match written {
            (Some(writer), Ok(())) => state = State::Writing(writer),
            ended => return ended,
        }
        received += next.bytes;
        batch = next;
    }
}

pub(super) async fn append(
    storage: &FileStorage,
    id: UploadId,
    at: u64,
    hasher: Hasher,
    body: ByteStream,
) -> Result<Appended, AppendError> {
    match transfer(storage, State::Open { id, at, hasher }, body, None).await {
        (Some(writer), Ok(())) => Ok(writer.appended()),
        (writer, Err(error)) => {
            Err(AppendError { kept: writer.map(|w| Box::new(w.appended())), error })
        }
        (None, Ok(())) => {
            Err(BlobError::io("write an upload", io::Error::other("it ended without a result"))
                .into())
        }
    }
}

pub(super) async fn put(
    storage: &FileStorage,
    digest: Digest,
    size: Option<u64>,
    body: ByteStream,
) -> Result<u64, BlobError> {
    let id = UploadId::random(&*storage.0.options.random);
    let mut left = Leftover { storage: storage.clone(), id: Some(id.clone()) };
    let state = State::Create { id: id.clone(), hasher: Hasher::new(digest.algorithm()) };
    let (writer, result) = transfer(storage, state, body, size).await;
    let stored = match (writer, result) {
        (Some(writer), Ok(())) => {
            let publish = move |inner: &Inner| inner.check_and_publish(&id, writer, digest, size);
            storage.run("publish a blob", publish).await
        }
        (_, Err(e)) => Err(e),
        (None, Ok(())) => Err(BlobError::UploadNotFound(id)),
    };
    if let Some(id) = left.id.take()
        && stored.is_err()
    {
        let _ = storage.run("give up an upload", move |inner| inner.upload_abort(&id)).await;
    }
    stored
}

/// Removes the file of a `put` that nobody waits for any more.
struct Leftover {
    storage: FileStorage,
    id: Option<UploadId>,
}

impl Drop for Leftover {
    fn drop(&mut self) {
        let (Some(id), Ok(runtime)) = (self.id.take(), tokio::runtime::Handle::try_current())
        else {
            return;
        };
        let inner = Arc::clone(&self.storage.0);
        runtime.spawn_blocking(move || inner.upload_abort(&id));
    }
}

/// Copies the first `length` bytes and makes them durable.
fn copy_start(from: &dyn DiskFile, to: &dyn DiskFile, length: u64) -> io::Result<()> {
    let (mut at, mut block) = (0, Vec::with_capacity(BATCH));
    while at < length {
        block.clear();
        match from.read_at(&mut block, at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        }
        block.truncate(usize::try_from(length - at).unwrap_or(usize::MAX));
        let mut rest = block.as_slice();
        while !rest.is_empty() {
            match to.write_at(&[IoSlice::new(rest)], at) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    at += n as u64;
                    rest = &rest[n..];
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
    to.sync()
}

impl Inner {
    fn create(&self, id: &UploadId) -> Result<Box<dyn DiskFile>, BlobError> {
        let path = UploadPath::new(id).open;
        self.disk.open(&path, Open::Create).map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => BlobError::UploadExists(id.clone()),
            _ => failed("create", &path)(e),
        })
    }

    pub(super) fn upload_create(&self, id: &UploadId) -> Result<(), BlobError> {
        self.create(id).map(|_| ())
    }

    /// Opens an upload for this caller alone; returns its present size too.
    fn lock(&self, id: &UploadId) -> Result<(Box<dyn DiskFile>, u64), BlobError> {
        let path = UploadPath::new(id).open;
        let missing = |e: io::Error| match e.kind() {
            io::ErrorKind::NotFound => BlobError::UploadNotFound(id.clone()),
            _ => failed("open", &path)(e),
        };
        let file = self.disk.open(&path, Open::Write).map_err(missing)?;
        if !file.lock().map_err(failed("lock", &path))? {
            return Err(BlobError::UploadBusy(id.clone()));
        }
        // Between opening and locking it may have been finished: then its bytes must not change any more.
        let named = self.disk.info(&path).map_err(missing)?;
        let info = file.info().map_err(failed("look at", &path))?;
        if named.identity != info.identity {
            return Err(BlobError::UploadNotFound(id.clone()));
        }
        Ok((file, info.size))
    }

    pub(super) fn upload_finish(&self, id: UploadId, size: u64) -> Result<Staged, BlobError> {
        let path = UploadPath::new(&id);
        let (file, present) = match self.lock(&id) {
            Err(BlobError::UploadNotFound(_)) => return self.finished_before(id, size),
            locked => locked?,
        };
        if present < size {
            return Err(BlobError::Offset { upload: id, expected: size, present });
        }
        if present > size {
            file.set_size(size).map_err(failed("cut", &path.open))?;
            // What was appended is durable; that it was cut is not yet.
            file.sync().map_err(failed("sync", &path.open))?;
        }
        self.disk.rename(&path.open, &path.staged).map_err(failed("stage", &path.open))?;
        Ok(Staged { id, size })
    }

    fn finished_before(&self, id: UploadId, size: u64) -> Result<Staged, BlobError> {
        let path = UploadPath::new(&id).staged;
        match self.disk.info(&path) {
            Ok(info) if info.size == size => Ok(Staged { id, size }),
            Ok(info) => Err(BlobError::Offset { upload: id, expected: size, present: info.size }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(BlobError::UploadNotFound(id)),
            Err(e) => Err(failed("look at", &path)(e)),
        }
    }

    /// The staged bytes may be those of a blob already, under its name: so they are copied, and stay what they are.
    pub(super) fn upload_reopen(&self, id: &UploadId, at: u64) -> Result<(), BlobError> {
        let path = UploadPath::new(id);
        let missing = |name: &Path| {
            let name = name.to_owned();
            move |e: io::Error| match e.kind() {
                io::ErrorKind::NotFound => BlobError::UploadNotFound(id.clone()),
                _ => failed("open", &name)(e),
            }
        };
        match self.disk.info(&path.open) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            found => return found.map(drop).map_err(failed("look at", &path.open)),
        }
        let staged = self.disk.open(&path.staged, Open::Read).map_err(missing(&path.staged))?;
        let present = staged.info().map_err(failed("look at", &path.staged))?.size;
        if present < at {
            return Err(BlobError::Offset { upload: id.clone(), expected: at, present });
        }
        unless_missing(self.disk.remove_file(&path.publish))
            .map_err(failed("remove", &path.publish))?;
        let copy = self.disk.open(&path.publish, Open::Create);
        let copy = copy.map_err(failed("create", &path.publish))?;
        copy_start(&*staged, &*copy, at).map_err(failed("write", &path.publish))?;
        // It gets its name with all its bytes: whoever dies in between leaves the staged ones to be copied again.
        self.disk.rename(&path.publish, &path.open).map_err(failed("reopen", &path.open))
    }

    pub(super) fn staged_digest(
        &self,
        staged: &Staged,
        algorithm: Algorithm,
    ) -> Result<Digest, BlobError> {
        let path = UploadPath::new(&staged.id).staged;
        let file = match self.disk.open(&path, Open::Read) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(BlobError::UploadNotFound(staged.id.clone()));
            }
            opened => opened.map_err(failed("open", &path))?,
        };
        let (mut hasher, mut at) = (Hasher::new(algorithm), 0);
        let mut block = Vec::with_capacity(BATCH);
        loop {
            block.clear();
            match file.read_at(&mut block, at) {
                Ok(0) => return Ok(hasher.finish()),
                Ok(n) => {
                    hasher.update(&block[..n]);
                    at += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(failed("read", &path)(e)),
            }
        }
    }

    fn check_and_publish(
        &self,
        id: &UploadId,
        writer: Writer,
        digest: Digest,
        size: Option<u64>,
    ) -> Result<u64, BlobError> {
        let (actual, hasher) = (writer.size, writer.hasher);
        if let Some(expected) = size
            && expected != actual
        {
            return Err(BlobError::Size { digest, expected, actual });
        }
        let hashed = hasher.finish();
        if hashed != digest {
            return Err(BlobError::Mismatch {
                expected: Box::new(digest),
                actual: Box::new(hashed),
            });
        }
        let now = self.options.clock.now();
        writer.file.touch(now).map_err(failed("touch", &writer.path.open))?;
        self.publish_put(id, &digest)?;
        Ok(actual)
    }
}
