//! Uploads: pieces beside each other in the bucket, each written once and never changed.

use std::{collections::HashSet, sync::Arc};

use bytes::Bytes;
use dtr_blobs::{AppendError, Appended, BlobError, ByteStream, Staged};
use dtr_types::{Digest, Hasher, UploadId};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use object_store::PutPayload;
use parking_lot::Mutex;

use crate::{
    client::{Bucket, GRAIN},
    layout::{Piece, Tag},
    publish,
    pump::{Gathered, PIECE, pump},
    session::Session,
};

/// Pieces smaller than the parts that a service takes: they have to be read again when the blob is made.
pub(crate) const SMALL: u64 = 5 * 1024 * 1024;
/// So many small ones in a row are joined before more are added.
const JOIN_FROM: usize = 32;

/// The uploads that this process is writing to. Between replicas nothing needs to be locked: see [`Piece`].
#[derive(Debug, Default)]
pub(crate) struct Busy(Mutex<HashSet<UploadId>>);

/// An upload is being written as long as this lives.
pub(crate) struct Turn<'a> {
    busy: &'a Busy,
    id: UploadId,
}

impl Busy {
    pub(crate) fn take(&self, id: &UploadId) -> Result<Turn<'_>, BlobError> {
        if self.0.lock().insert(id.clone()) {
            Ok(Turn { busy: self, id: id.clone() })
        } else {
            Err(BlobError::UploadBusy(id.clone()))
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.busy.0.lock().remove(&self.id);
    }
}

pub(crate) async fn append(
    bucket: &Arc<Bucket>,
    id: &UploadId,
    at: u64,
    hasher: Hasher,
    body: ByteStream,
) -> Result<Appended, AppendError> {
    let session = Session::load(bucket, id).await?;
    if !session.begun || session.closed.is_some() {
        return Err(BlobError::UploadNotFound(id.clone()).into());
    }
    continue_at(bucket, id, &session, at, &hasher).await?;
    let pumped = pump(bucket, at, hasher, body, None, |gathered| {
        write(Arc::clone(bucket), id.clone(), gathered)
    });
    let pumped = pumped.await;
    let appended = Appended { size: pumped.size, hasher: pumped.hasher };
    match pumped.error {
        None => Ok(appended),
        Some(error) => Err(AppendError { kept: Some(Box::new(appended)), error }),
    }
}

async fn write(bucket: Arc<Bucket>, id: UploadId, gathered: Gathered) -> Result<(), BlobError> {
    let piece = Piece {
        start: gathered.start,
        end: gathered.start + gathered.length,
        before: Tag::of(&gathered.before),
        after: Tag::of(&gathered.after),
    };
    let payload: PutPayload = gathered.frames.iter().cloned().collect();
    bucket.put_piece(&id, &bucket.layout.piece(&id, &piece), payload).await
}

/// Sees to it that pieces end at `at`, where the caller goes on.
async fn continue_at(
    bucket: &Bucket,
    id: &UploadId,
    session: &Session,
    at: u64,
    hasher: &Hasher,
) -> Result<(), BlobError> {
    let history = session.history();
    let tag = Tag::of(hasher);
    if let Some(chain) = history.chain(at, &tag) {
        return join(bucket, id, &chain, &tag).await;
    }
    if history.present() < at {
        let present = history.present();
        return Err(BlobError::Offset { upload: id.clone(), expected: at, present });
    }
    // In the middle of a piece: an upload that was finished is opened again at another place than it was recorded at. All
    // of it is read, for the name of a piece alone does not say what its middle hashes to.
    for chain in history.chains_over(at) {
        let wanted = hasher.clone().finish();
        let Some((last, full)) = chain.split_last() else { continue };
        let mut running = Hasher::new(hasher.algorithm());
        for piece in full {
            publish::hash_into(bucket, &bucket.layout.piece(id, piece), piece.len(), &mut running)
                .await?;
        }
        let head =
            Piece { start: last.start, end: at, before: last.before.clone(), after: tag.clone() };
        let bytes = bucket.get(&bucket.layout.piece(id, last), 0..head.len()).await?;
        running.update(&bytes);
        if running.finish() == wanted {
            return bucket.put_piece(id, &bucket.layout.piece(id, &head), bytes.into()).await;
        }
    }
    Err(BlobError::Offset { upload: id.clone(), expected: at, present: 0 })
}

/// Joins the small pieces at the end of a chain to one, when there are many: a client may send a byte at a time.
async fn join(
    bucket: &Bucket,
    id: &UploadId,
    chain: &[&Piece],
    after: &Tag,
) -> Result<(), BlobError> {
    let mut length = 0;
    let small = chain.iter().rev().take_while(|piece| {
        length += piece.len();
        piece.len() < SMALL && length <= PIECE as u64
    });
    let tail = &chain[chain.len() - small.count()..];
    let (Some(first), Some(last)) = (tail.first(), tail.last()) else { return Ok(()) };
    if tail.len() < JOIN_FROM {
        return Ok(());
    }
    let sources: Vec<_> =
        tail.iter().map(|piece| (bucket.layout.piece(id, piece), piece.len())).collect();
    let read = stream::iter(
        sources
            .clone()
            .into_iter()
            .map(|(key, length)| async move { bucket.get(&key, 0..length).await }),
    );
    let blocks: Vec<Bytes> = read.buffered(8).try_collect().await?;
    let joined = Piece {
        start: first.start,
        end: last.end,
        before: first.before.clone(),
        after: after.clone(),
    };
    let payload = blocks.into_iter().collect();
    bucket.put_piece(id, &bucket.layout.piece(id, &joined), payload).await?;
    // What is not deleted now is when the upload ends.
    let keys = sources.into_iter().map(|(key, _)| key).collect();
    if let Err(error) = bucket.delete_all(keys).await {
        tracing::debug!(%error, "pieces that were joined are left for later");
    }
    Ok(())
}

pub(crate) async fn create(bucket: &Bucket, id: &UploadId) -> Result<(), BlobError> {
    match bucket.create(&bucket.layout.begun(id)).await? {
        true => Ok(()),
        false => Err(BlobError::UploadExists(id.clone())),
    }
}

pub(crate) async fn finish(
    bucket: &Bucket,
    id: &UploadId,
    whole: &Appended,
) -> Result<Staged, BlobError> {
    let (size, hash) = (whole.size, whole.hasher.clone().finish());
    let session = Session::load(bucket, id).await?;
    if !session.begun {
        return Err(BlobError::UploadNotFound(id.clone()));
    }
    let offset = |present| BlobError::Offset { upload: id.clone(), expected: size, present };
    match session.closed {
        Some(closed) if closed == size => {}
        Some(closed) => return Err(offset(closed)),
        None => {
            let history = session.history();
            if history.chain(size, &Tag::from_digest(&hash)).is_none() {
                return Err(offset(history.present()));
            }
            bucket.put(&bucket.layout.closed(id, size), PutPayload::default()).await?;
        }
    }
    Ok(Staged { id: id.clone(), size, hash })
}

pub(crate) async fn reopen(bucket: &Bucket, id: &UploadId, at: u64) -> Result<(), BlobError> {
    let session = Session::load(bucket, id).await?;
    match session.closed {
        _ if !session.begun => Err(BlobError::UploadNotFound(id.clone())),
        None => Ok(()),
        Some(present) if present < at => {
            Err(BlobError::Offset { upload: id.clone(), expected: at, present })
        }
        Some(closed) => bucket.delete_all(vec![bucket.layout.closed(id, closed)]).await,
    }
}

/// Removes an upload: first the multipart uploads that it began, then all its objects.
pub(crate) async fn abort(bucket: &Bucket, id: &UploadId) -> Result<(), BlobError> {
    let session = Session::load(bucket, id).await?;
    for record in &session.copies {
        publish::give_up(bucket, record).await?;
    }
    bucket.delete_all(session.keys).await
}

/// Stores a whole blob: in one request if it is small, else as an upload of its own.
pub(crate) async fn put(
    bucket: &Arc<Bucket>,
    digest: &Digest,
    size: Option<u64>,
    mut body: ByteStream,
) -> Result<u64, BlobError> {
    let grains = u32::try_from(PIECE / GRAIN).unwrap_or(u32::MAX);
    let memory = Arc::clone(&bucket.pool).acquire_many_owned(grains).await;
    let (mut frames, mut length, mut ended) = (Vec::new(), 0, false);
    while !ended && length <= PIECE as u64 {
        match body.next().await {
            Some(frame) => {
                let frame = frame.map_err(BlobError::Body)?;
                length += frame.len() as u64;
                frames.push(frame);
                exceeds(digest, size, length)?;
            }
            None => ended = true,
        }
    }
    let mut hasher = Hasher::new(digest.algorithm());
    if ended {
        frames.iter().for_each(|frame| hasher.update(frame));
        check(digest, size, length, hasher)?;
        bucket.put_blob(&bucket.layout.blob(digest), frames.into_iter().collect()).await?;
        return Ok(length);
    }
    drop(memory);
    let body = stream::iter(frames.into_iter().map(Ok)).chain(body).boxed();
    let id = UploadId::random(&*bucket.random);
    let mut left = Leftover { bucket: Arc::clone(bucket), id: Some(id.clone()) };
    let stored = put_large(bucket, &id, digest, size, body).await;
    left.id = None;
    let removed = abort(bucket, &id).await;
    if let Err(error) = removed {
        tracing::warn!(upload = %id, %error, "what is left of an upload could not be removed; it is purged later");
    }
    stored
}

async fn put_large(
    bucket: &Arc<Bucket>,
    id: &UploadId,
    digest: &Digest,
    size: Option<u64>,
    body: ByteStream,
) -> Result<u64, BlobError> {
    create(bucket, id).await?;
    let hasher = Hasher::new(digest.algorithm());
    let pumped = pump(bucket, 0, hasher, body, size, |gathered| {
        write(Arc::clone(bucket), id.clone(), gathered)
    });
    let pumped = pumped.await;
    if let Some(error) = pumped.error {
        return Err(error);
    }
    exceeds(digest, size, pumped.size)?;
    check(digest, size, pumped.size, pumped.hasher)?;
    let staged = Staged { id: id.clone(), size: pumped.size, hash: *digest };
    publish::publish(bucket, &staged, digest).await?;
    Ok(pumped.size)
}

fn exceeds(digest: &Digest, size: Option<u64>, actual: u64) -> Result<(), BlobError> {
    match size {
        Some(expected) if actual > expected => {
            Err(BlobError::Size { digest: *digest, expected, actual })
        }
        _ => Ok(()),
    }
}

fn check(digest: &Digest, size: Option<u64>, actual: u64, hasher: Hasher) -> Result<(), BlobError> {
    if let Some(expected) = size
        && expected != actual
    {
        return Err(BlobError::Size { digest: *digest, expected, actual });
    }
    let hashed = hasher.finish();
    if hashed != *digest {
        return Err(BlobError::Mismatch { expected: Box::new(*digest), actual: Box::new(hashed) });
    }
    Ok(())
}

/// Removes the upload of a `put` that nobody waits for any more.
struct Leftover {
    bucket: Arc<Bucket>,
    id: Option<UploadId>,
}

impl Drop for Leftover {
    fn drop(&mut self) {
        let (Some(id), Ok(runtime)) = (self.id.take(), tokio::runtime::Handle::try_current())
        else {
            return;
        };
        let bucket = Arc::clone(&self.bucket);
        runtime.spawn(async move { abort(&bucket, &id).await });
    }
}
