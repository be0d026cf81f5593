//! Writing: frames of a body are gathered to batches; one is hashed and written while the next is received.

use std::{
    io::{self, IoSlice},
    path::PathBuf,
    pin::pin,
    sync::Arc,
};

use bytes::Bytes;
use dtr_types::{Digest, Hasher, UploadId};
use futures_util::StreamExt as _;

use super::{FileStorage, Inner, failed, layout::UploadPath, unless_missing};
use crate::{
    AppendError, Appended, BlobError, ByteStream,
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

/// A file being written, which nobody else writes, and the hash of what is in it.
struct Writer {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    /// Which upload it is of, unless it is of a `put`.
    upload: Option<UploadId>,
    /// Bytes that were in it.
    began: u64,
    size: u64,
    hasher: Hasher,
    /// Up to where the system was asked to write out.
    written_out: u64,
    /// Whether there is anything to sync.
    dirty: bool,
}

impl Writer {
    /// Takes the recorded bytes of an upload.
    fn open(inner: &Inner, id: &UploadId, at: u64, hasher: Hasher) -> Result<Self, BlobError> {
        let (file, path) = inner.take(id, at, &hasher)?;
        let upload = Some(id.clone());
        Ok(Self {
            file,
            path,
            upload,
            began: at,
            size: at,
            hasher,
            written_out: at,
            dirty: at == 0,
        })
    }

    /// Makes a new file for a `put`.
    fn create(inner: &Inner, id: &UploadId, hasher: Hasher) -> Result<Self, BlobError> {
        let path = UploadPath::new(id).begun;
        let file = inner.disk.open(&path, Open::Create).map_err(failed("create", &path))?;
        Ok(Self {
            file,
            path,
            upload: None,
            began: 0,
            size: 0,
            hasher,
            written_out: 0,
            dirty: true,
        })
    }

    /// Writes a batch and hashes what was written of it.
    fn write(&mut self, inner: &Inner, frames: &[Bytes]) -> Result<(), BlobError> {
        let bytes = frames.iter().map(|frame| frame.len() as u64).sum();
        inner.room.take(&*inner.disk, bytes, &self.path)?;
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
        result.map_err(failed("write", &self.path))
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
            self.file.sync().map_err(failed("sync", &self.path))?;
            self.dirty = false;
        }
        Ok(())
    }

    /// Makes all of it durable and leaves it to whoever goes on; nothing is written to it after that.
    fn settle(&mut self, inner: &Inner) -> Result<(), BlobError> {
        self.sync()?;
        match &self.upload {
            Some(id) => inner.leave(id, &self.path, &self.appended()),
            None => Ok(()),
        }
    }

    /// Removes what nobody will ask for: that with recorded bytes in it stays until the upload ends.
    fn discard(self, inner: &Inner) {
        if self.began == 0 {
            let _ = inner.disk.remove_file(&self.path);
        }
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
    /// The next batch. The last one is settled in the same go; so is what was written when an error comes up, and the
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
        let result = writer.write(inner, frames);
        if last || result.is_err() {
            // When this fails nothing can be said about the new bytes, so the writer is not given back.
            if let Err(e) = writer.settle(inner) {
                writer.discard(inner);
                return (None, result.and(Err(e)));
            }
        }
        (Some(writer), result)
    }
}

/// Runs a body into a file. The writer comes back settled, with the error that ended it, if its bytes can be relied on.
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
        let _ = storage.run("give up an upload", move |inner| inner.drop_put(&id)).await;
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
        runtime.spawn_blocking(move || inner.drop_put(&id));
    }
}

impl Inner {
    fn drop_put(&self, id: &UploadId) -> Result<(), BlobError> {
        let path = UploadPath::new(id).begun;
        unless_missing(self.disk.remove_file(&path)).map(drop).map_err(failed("remove", &path))
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
        writer.file.touch(now).map_err(failed("touch", &writer.path))?;
        self.publish_put(id, &digest)?;
        Ok(actual)
    }
}
