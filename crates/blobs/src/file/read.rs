//! Reading a blob in large blocks, the next one being read while one is sent.

use std::{io, ops::Range, sync::Arc};

use bytes::Bytes;
use dtr_types::Digest;
use futures_util::{StreamExt as _, stream};
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::{FileStorage, Inner, failed, layout::BlobPath};
use crate::{
    BlobError, BlobReader,
    disk::{DiskFile, Open},
};

/// Bytes of a block. It still fits the processor's second cache on its way from the page cache to the socket.
pub(super) const BLOCK: usize = 256 * 1024;

/// Blocks kept for the next reads: at most 4 MiB.
const POOLED: usize = 16;

/// Blocks that are not in use. Getting memory from the system for each block costs as much as the copy into it.
#[derive(Clone, Default)]
pub(super) struct Pool(Arc<Mutex<Vec<Vec<u8>>>>);

struct Pooled {
    block: Vec<u8>,
    pool: Pool,
}

impl AsRef<[u8]> for Pooled {
    fn as_ref(&self) -> &[u8] {
        &self.block
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        let mut block = std::mem::take(&mut self.block);
        block.clear();
        let mut idle = self.pool.0.lock();
        if idle.len() < POOLED {
            idle.push(block);
        }
    }
}

impl Pool {
    fn take(&self) -> Vec<u8> {
        self.0.lock().pop().unwrap_or_else(|| Vec::with_capacity(BLOCK))
    }

    /// The filled block as bytes that return it here when the last reference goes.
    fn freeze(&self, block: Vec<u8>) -> Bytes {
        Bytes::from_owner(Pooled { block, pool: self.clone() })
    }
}

/// An open blob and what is left to read of it.
struct Source {
    inner: Arc<Inner>,
    digest: Digest,
    file: Box<dyn DiskFile>,
    size: u64,
    left: Range<u64>,
}

type Step = Result<(Source, Option<Bytes>), BlobError>;

pub(super) async fn open(
    storage: &FileStorage,
    digest: Digest,
    range: Option<Range<u64>>,
) -> Result<BlobReader, BlobError> {
    let inner = Arc::clone(&storage.0);
    // The first block comes along: most blobs are small.
    let (source, range, first) = storage
        .run("open a blob", move |_| {
            let source = Source::open(inner, digest, range)?;
            let range = source.left.clone();
            let (source, first) = source.step()?;
            Ok((source, range, first))
        })
        .await?;
    let size = source.size;
    let blocks = match first {
        None => stream::empty().boxed(),
        Some(first) if source.left.is_empty() => stream::once(async { Ok(first) }).boxed(),
        Some(first) => {
            let rest = stream::unfold(Some(read_on(source)), |reading| async move {
                match reading?.await {
                    Ok(Ok((source, Some(block)))) => {
                        let next = (!source.left.is_empty()).then(|| read_on(source));
                        Some((Ok(block), next))
                    }
                    Ok(Ok((_, None))) => None,
                    Ok(Err(e)) => Some((Err(e), None)),
                    Err(e) => Some((Err(BlobError::io("read a blob", io::Error::other(e))), None)),
                }
            });
            stream::once(async { Ok(first) }).chain(rest).boxed()
        }
    };
    Ok(BlobReader::new(size, range, blocks))
}

fn read_on(source: Source) -> JoinHandle<Step> {
    tokio::task::spawn_blocking(move || source.step())
}

impl Source {
    fn open(
        inner: Arc<Inner>,
        digest: Digest,
        range: Option<Range<u64>>,
    ) -> Result<Self, BlobError> {
        let found = inner.wherever(&digest, |path| inner.disk.open(path, Open::Read))?;
        let file = found.ok_or(BlobError::NotFound(digest))?;
        let path = BlobPath::new(&digest).data;
        let size = file.info().map_err(failed("look at", &path))?.size;
        let left = clamp(range, size).ok_or(BlobError::Range { digest, size })?;
        Ok(Self { inner, digest, file, size, left })
    }

    /// Reads the next block.
    fn step(mut self) -> Step {
        let left = usize::try_from(self.left.end - self.left.start).unwrap_or(usize::MAX);
        if left == 0 {
            return Ok((self, None));
        }
        let want = left.min(BLOCK);
        // What is small is not worth a whole block.
        let pooled = want > BLOCK / 4;
        let mut block = if pooled { self.inner.pool.take() } else { Vec::with_capacity(want) };
        while block.len() < want {
            let at = self.left.start + block.len() as u64;
            match self.file.read_at(&mut block, at) {
                Ok(0) => return Err(self.ended(at)),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(failed("read", &BlobPath::new(&self.digest).data)(e)),
            }
        }
        block.truncate(want);
        self.left.start += want as u64;
        let block = if pooled { self.inner.pool.freeze(block) } else { Bytes::from(block) };
        Ok((self, Some(block)))
    }

    fn ended(&self, at: u64) -> BlobError {
        BlobError::Corrupt { digest: self.digest, expected: self.size, actual: at }
    }
}

/// The range cut to the size; `None` when it is not inside.
fn clamp(range: Option<Range<u64>>, size: u64) -> Option<Range<u64>> {
    let Some(range) = range else { return Some(0..size) };
    let end = range.end.min(size);
    let inside = range.start < size || (range.start == size && range.end == size);
    (inside && range.start <= end).then_some(range.start..end)
}
