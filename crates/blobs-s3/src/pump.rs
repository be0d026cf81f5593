//! Content on its way in: a body's frames are gathered to pieces, which are written while the next ones come, in bounded
//! memory.

use std::{future::Future, time::Duration};

use bytes::Bytes;
use dtr_blobs::{BlobError, ByteStream};
use dtr_types::Hasher;
use futures_util::{StreamExt as _, future::OptionFuture, stream::FuturesOrdered};
use tokio::sync::OwnedSemaphorePermit;

use crate::client::{Bucket, GRAIN};

/// Bytes of a piece. Below [`LARGE_FROM`]; with the larger ones it takes fewer than the 10,000 parts that a blob may be
/// made of, up to 280 GiB.
pub(crate) const PIECE: usize = 8 * 1024 * 1024;
const LARGE_PIECE: usize = 32 * 1024 * 1024;
const LARGE_FROM: u64 = 8 * 1024 * 1024 * 1024;
/// Pieces of one upload that are written at once.
const AT_ONCE: usize = 4;
/// Frames are taken in no larger bites, so that memory can be had for each.
const BITE: usize = 1024 * 1024;
/// A body that says nothing for so long gives back the memory that it holds: what came of it is written.
const QUIET: Duration = Duration::from_secs(5);

/// Bytes that were gathered, before they are written.
pub(crate) struct Gathered {
    pub start: u64,
    pub frames: Vec<Bytes>,
    /// The hash up to the start.
    pub before: Hasher,
    /// The hash up to the end.
    pub after: Hasher,
    pub length: u64,
    /// Memory, held until they are written.
    _memory: Option<OwnedSemaphorePermit>,
}

impl Gathered {
    fn end(&self) -> u64 {
        self.start + self.length
    }
}

/// How far a body came.
pub(crate) struct Pumped {
    /// Where everything before is written.
    pub size: u64,
    /// The hash up to there.
    pub hasher: Hasher,
    /// Why it went no farther; `None` when the body is complete.
    pub error: Option<BlobError>,
}

struct Filling {
    frames: Vec<Bytes>,
    length: usize,
    start: u64,
    before: Hasher,
    memory: Option<OwnedSemaphorePermit>,
}

impl Filling {
    fn new(start: u64, hasher: &Hasher) -> Self {
        Self { frames: Vec::new(), length: 0, start, before: hasher.clone(), memory: None }
    }

    fn target(&self) -> usize {
        if self.start < LARGE_FROM { PIECE } else { LARGE_PIECE }
    }

    fn add(&mut self, bytes: Bytes, memory: OwnedSemaphorePermit) {
        self.length += bytes.len();
        self.frames.push(bytes);
        match &mut self.memory {
            Some(all) => all.merge(memory),
            none => *none = Some(memory),
        }
    }

    fn take(&mut self, hasher: &Hasher) -> Gathered {
        let full = std::mem::replace(self, Self::new(self.start + self.length as u64, hasher));
        Gathered {
            start: full.start,
            length: full.length as u64,
            frames: full.frames,
            before: full.before,
            after: hasher.clone(),
            _memory: full.memory,
        }
    }
}

/// The next bite of a frame that has not got memory yet.
struct Waiting {
    rest: Bytes,
}

impl Waiting {
    fn bite(&self) -> usize {
        self.rest.len().min(BITE)
    }

    fn grains(&self) -> u32 {
        u32::try_from(self.bite().div_ceil(GRAIN)).unwrap_or(u32::MAX)
    }
}

/// Says of a write where it ended.
async fn tracked<F>(write: F, end: u64, after: Hasher) -> Result<(u64, Hasher), BlobError>
where
    F: Future<Output = Result<(), BlobError>>,
{
    write.await.map(|()| (end, after))
}

/// Runs a body, whose first byte is at `size` after what hashed to `hasher`, through `write`. More than `limit` bytes
/// altogether end it.
pub(crate) async fn pump<W, F>(
    bucket: &Bucket,
    size: u64,
    hasher: Hasher,
    mut body: ByteStream,
    limit: Option<u64>,
    mut write: W,
) -> Pumped
where
    W: FnMut(Gathered) -> F,
    F: Future<Output = Result<(), BlobError>>,
{
    let mut done = Pumped { size, hasher: hasher.clone(), error: None };
    let mut running = hasher;
    let mut filling = Filling::new(size, &running);
    let mut writing = FuturesOrdered::new();
    let mut waiting: Option<Waiting> = None;
    let mut ended: Option<Option<BlobError>> = None;
    loop {
        let wanted = ended.is_none() && writing.len() < AT_ONCE;
        let full = filling.length >= filling.target()
            || (ended.is_some() && filling.length > 0)
            || (filling.length > 0
                && waiting
                    .as_ref()
                    .is_some_and(|next| bucket.pool.available_permits() < next.grains() as usize));
        if full && writing.len() < AT_ONCE {
            let gathered = filling.take(&running);
            let (end, after) = (gathered.end(), gathered.after.clone());
            writing.push_back(tracked(write(gathered), end, after));
            continue;
        }
        if ended.is_some() && filling.length == 0 && writing.is_empty() {
            done.error = ended.flatten();
            return done;
        }
        let memory: OptionFuture<_> = waiting
            .as_ref()
            .filter(|_| wanted)
            .map(|next| std::sync::Arc::clone(&bucket.pool).acquire_many_owned(next.grains()))
            .into();
        tokio::select! {
            Some(written) = writing.next(), if !writing.is_empty() => match written {
                Ok((end, after)) => (done.size, done.hasher) = (end, after),
                // Those behind it are dropped: what they may have written follows on nothing.
                Err(e) => {
                    done.error = Some(e);
                    return done;
                }
            },
            Some(memory) = memory, if wanted && waiting.is_some() => {
                if let (Some(mut next), Ok(memory)) = (waiting.take(), memory) {
                    let bite = next.rest.split_to(next.bite());
                    running.update(&bite);
                    filling.add(bite, memory);
                    waiting = (!next.rest.is_empty()).then_some(next);
                }
            }
            frame = body.next(), if wanted && waiting.is_none() => match frame {
                Some(Ok(frame)) => {
                    let came = filling.start + (filling.length + frame.len()) as u64;
                    if limit.is_some_and(|limit| came > limit) {
                        // Whoever set the limit throws everything away.
                        done.size = came;
                        return done;
                    }
                    waiting = (!frame.is_empty()).then_some(Waiting { rest: frame });
                }
                Some(Err(e)) => ended = Some(Some(BlobError::Body(e))),
                None => ended = Some(None),
            },
            () = tokio::time::sleep(QUIET), if wanted && waiting.is_none() && filling.length > 0 => {
                let gathered = filling.take(&running);
                let (end, after) = (gathered.end(), gathered.after.clone());
                writing.push_back(tracked(write(gathered), end, after));
            }
        }
    }
}
