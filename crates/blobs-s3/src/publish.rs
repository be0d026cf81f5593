//! Making a blob of an upload's pieces. The bytes stay with the service: it copies them into the parts of a multipart
//! upload that becomes the blob in one step; only pieces too small to be parts come through here.

use std::{ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use dtr_blobs::{BlobError, Staged};
use dtr_types::{Algorithm, Digest, Hasher, UploadId};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use object_store::{ObjectStoreExt as _, multipart::PartId, path::Path};

use crate::{
    client::{Bucket, Seen},
    layout::{Piece, Tag},
    session::Session,
    upload::SMALL,
};

/// Parts that are copied at once.
const AT_ONCE: usize = 8;
/// How long those under way are waited for when one has failed.
const DRAIN: Duration = Duration::from_secs(10);

/// A part of the blob: bytes of these objects.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    from: Vec<(Path, Range<u64>)>,
}

impl Plan {
    fn length(&self) -> u64 {
        self.from.iter().map(|(_, range)| range.end - range.start).sum()
    }
}

/// Divides pieces into parts of which all but the last have at least [`SMALL`] bytes, as few of them as possible made of
/// more than one piece.
fn plan(pieces: Vec<(Path, u64)>) -> Vec<Plan> {
    let mut parts: Vec<Plan> = Vec::new();
    let mut open = Plan { from: Vec::new() };
    for (path, length) in pieces {
        let missing = if open.from.is_empty() { 0 } else { SMALL.saturating_sub(open.length()) };
        if missing == 0 && length >= SMALL {
            parts.push(Plan { from: vec![(path, 0..length)] });
        } else if missing > 0 && length >= missing + SMALL {
            open.from.push((path.clone(), 0..missing));
            parts.push(std::mem::replace(&mut open, Plan { from: Vec::new() }));
            parts.push(Plan { from: vec![(path, missing..length)] });
        } else {
            open.from.push((path, 0..length));
            if open.length() >= SMALL {
                parts.push(std::mem::replace(&mut open, Plan { from: Vec::new() }));
            }
        }
    }
    if !open.from.is_empty() {
        parts.push(open);
    }
    parts
}

/// The pieces of a finished upload that hash to `digest`.
async fn pieces(
    bucket: &Bucket,
    session: &Session,
    staged: &Staged,
    digest: &Digest,
) -> Result<Vec<(Path, u64)>, BlobError> {
    let key = |piece: &&Piece| (bucket.layout.piece(&staged.id, piece), piece.len());
    let history = session.history();
    if staged.size == 0 {
        return Ok(Vec::new());
    }
    if let Some(chain) = history.chain(staged.size, &Tag::from_digest(digest)) {
        return Ok(chain.iter().map(key).collect());
    }
    // Their names speak of another algorithm: the one that ran while they came.
    let Some(chain) = history.chain(staged.size, &Tag::from_digest(&staged.hash)) else {
        return Err(BlobError::UploadNotFound(staged.id.clone()));
    };
    let keys: Vec<_> = chain.iter().map(key).collect();
    let actual = hash(bucket, &keys, digest.algorithm()).await?;
    if actual != *digest {
        return Err(BlobError::Mismatch { expected: Box::new(*digest), actual: Box::new(actual) });
    }
    Ok(keys)
}

async fn hash(
    bucket: &Bucket,
    keys: &[(Path, u64)],
    algorithm: Algorithm,
) -> Result<Digest, BlobError> {
    let mut hasher = Hasher::new(algorithm);
    for (key, length) in keys {
        hash_into(bucket, key, *length, &mut hasher).await?;
    }
    Ok(hasher.finish())
}

/// Hashes an object that must have `length` bytes.
pub(crate) async fn hash_into(
    bucket: &Bucket,
    key: &Path,
    length: u64,
    hasher: &mut Hasher,
) -> Result<(), BlobError> {
    let got = bucket.store.get(key).await.map_err(|e| bucket.failed("read", key, e))?;
    let mut blocks = got.into_stream();
    let mut came = 0;
    while let Some(block) = blocks.try_next().await.map_err(|e| bucket.failed("read", key, e))? {
        came += block.len() as u64;
        hasher.update(&block);
    }
    if came == length {
        return Ok(());
    }
    let action = format!("read {key} ({})", bucket.place());
    Err(BlobError::Unavailable { action, source: std::io::ErrorKind::UnexpectedEof.into() })
}

pub(crate) async fn staged_digest(
    bucket: &Bucket,
    staged: &Staged,
    algorithm: Algorithm,
) -> Result<Digest, BlobError> {
    let session = Session::load(bucket, &staged.id).await?;
    let missing = || BlobError::UploadNotFound(staged.id.clone());
    if !session.begun {
        return Err(missing());
    }
    let chain = session
        .history()
        .chain(staged.size, &Tag::from_digest(&staged.hash))
        .ok_or_else(missing)?;
    let keys: Vec<_> =
        chain.iter().map(|piece| (bucket.layout.piece(&staged.id, piece), piece.len())).collect();
    hash(bucket, &keys, algorithm).await
}

pub(crate) async fn publish(
    bucket: &Arc<Bucket>,
    staged: &Staged,
    digest: &Digest,
) -> Result<(), BlobError> {
    let session = Session::load(bucket, &staged.id).await?;
    if !session.begun {
        return Err(BlobError::UploadNotFound(staged.id.clone()));
    }
    let pieces = pieces(bucket, &session, staged, digest).await?;
    let blob = bucket.layout.blob(digest);
    match pieces.as_slice() {
        [] => bucket.put_blob(&blob, Bytes::new().into()).await,
        [(piece, _)] if !bucket.has_class() => {
            bucket.copy_blob(piece, &blob).await?;
            landed(bucket, staged, &blob, digest).await
        }
        _ => {
            // It goes on to its end whether or not somebody still waits for it.
            let made = tokio::spawn(assemble(
                Arc::clone(bucket),
                staged.clone(),
                *digest,
                blob,
                plan(pieces),
            ));
            made.await.unwrap_or_else(|e| {
                let action = format!("make a blob ({})", bucket.place());
                Err(BlobError::Unavailable { action, source: std::io::Error::other(e) })
            })
        }
    }
}

/// Makes a blob of many parts. What fails is given up once nothing of it is under way any more: a part that arrives after
/// that would stay.
async fn assemble(
    bucket: Arc<Bucket>,
    staged: Staged,
    digest: Digest,
    blob: Path,
    parts: Vec<Plan>,
) -> Result<(), BlobError> {
    let multipart = bucket.multipart(&staged.id, &blob).await?;
    let done = fill(&bucket, &staged.id, &blob, &multipart, parts).await;
    let completed = match done {
        Ok(parts) => bucket.complete(&blob, &multipart, parts).await,
        Err(error) => Err(error),
    };
    let Err(error) = completed else { return landed(&bucket, &staged, &blob, &digest).await };
    if let Err(error) = bucket.give_up(&blob, &multipart).await {
        tracing::debug!(%error, "a multipart upload is given up later, with its upload");
    }
    // The answer to a try that succeeded may have been lost.
    landed(&bucket, &staged, &blob, &digest).await.map_err(|_| error)
}

/// Whether a blob that the service says it has made is there. Services answer a copy or a completion with 200 that they have
/// not carried out, as of an upload that was given up meanwhile, and then what was there before is still there, perhaps
/// damaged. One that is made of another upload was made by somebody else at once, which its bytes show.
async fn landed(
    bucket: &Bucket,
    staged: &Staged,
    blob: &Path,
    digest: &Digest,
) -> Result<(), BlobError> {
    let seen = bucket.seen(blob).await?;
    if let Some(Seen { size, upload }) = &seen
        && *size == staged.size
    {
        if upload.as_deref() == Some(staged.id.as_str()) {
            return Ok(());
        }
        let mut hasher = Hasher::new(digest.algorithm());
        hash_into(bucket, blob, *size, &mut hasher).await?;
        if hasher.finish() == *digest {
            return Ok(());
        }
    }
    let found = match seen {
        None => "it is not there".to_owned(),
        Some(Seen { size, .. }) if size != staged.size => format!("it has {size} bytes"),
        Some(_) => "other bytes are there".to_owned(),
    };
    let action = format!("make {blob} ({})", bucket.place());
    let source = std::io::Error::other(format!(
        "the service says that it has made it of {} bytes, but {found}",
        staged.size
    ));
    Err(BlobError::Unavailable { action, source })
}

async fn fill(
    bucket: &Bucket,
    id: &UploadId,
    blob: &Path,
    multipart: &str,
    parts: Vec<Plan>,
) -> Result<Vec<PartId>, BlobError> {
    // Whoever dies in between leaves a record of it with the upload, and it goes when that does.
    let record = bucket.layout.copy(id, &bucket.random.hex(8));
    bucket.put(&record, format!("{blob}\n{multipart}").into()).await?;
    let copies = parts
        .into_iter()
        .enumerate()
        .map(|(index, plan)| async move { part(bucket, blob, multipart, index, plan).await });
    let mut copies = stream::iter(copies).buffered(AT_ONCE);
    let mut done = Vec::new();
    let mut failed = None;
    while let Some(part) = copies.next().await {
        match part {
            Ok(part) => done.push(part),
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    let Some(error) = failed else { return Ok(done) };
    // Those under way end; new ones would be begun too, so there is a limit.
    let _ = tokio::time::timeout(DRAIN, copies.for_each(|_| async {})).await;
    Err(error)
}

async fn part(
    bucket: &Bucket,
    blob: &Path,
    multipart: &str,
    index: usize,
    plan: Plan,
) -> Result<PartId, BlobError> {
    if let [(from, range)] = plan.from.as_slice() {
        match bucket.copy_part(blob, multipart, index, from, range.clone()).await {
            Err(error) if error.to_string().contains("[NotImplemented]") => {
                tracing::debug!(%error, "the service cannot copy parts: they come through here");
            }
            done => return done,
        }
    }
    let mut blocks = Vec::with_capacity(plan.from.len());
    for (from, range) in &plan.from {
        blocks.push(bucket.get(from, range.clone()).await?);
    }
    bucket.part(blob, multipart, index, blocks.into_iter().collect()).await
}

/// Gives up the multipart upload that a record names.
pub(crate) async fn give_up(bucket: &Bucket, record: &Path) -> Result<(), BlobError> {
    let got = bucket.store.get(record).await;
    let Some(got) = bucket.unless_missing("read", record, got)? else { return Ok(()) };
    let text = got.bytes().await.map_err(|e| bucket.failed("read", record, e))?;
    let text = String::from_utf8_lossy(&text);
    match text.split_once('\n').map(|(key, id)| (Path::parse(key), id)) {
        Some((Ok(key), id)) => bucket.give_up(&key, id).await,
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn parts_are_large_enough_and_complete() {
        let lengths: [&[u64]; 8] = [
            &[8 * MIB, 8 * MIB, 1],
            &[1, 8 * MIB, 8 * MIB],
            &[1; 40],
            &[MIB; 23],
            &[4 * MIB, 32 * MIB, 3 * MIB, 5 * MIB - 1, 32 * MIB],
            &[8 * MIB, 3, 8 * MIB, 3, 8 * MIB, 3],
            &[5 * MIB],
            &[4 * MIB, 6 * MIB, 10 * MIB],
        ];
        for lengths in lengths {
            let pieces: Vec<_> = lengths
                .iter()
                .enumerate()
                .map(|(n, length)| (Path::from(format!("{n:03}")), *length))
                .collect();
            let parts = plan(pieces);
            let (last, rest) = parts.split_last().expect("some");
            assert!(rest.iter().all(|part| part.length() >= SMALL), "{parts:?}");
            assert!(last.length() > 0);
            // Put together they are all bytes in order.
            let mut all: Vec<(Path, Range<u64>)> = Vec::new();
            for (path, range) in parts.iter().flat_map(|part| part.from.iter().cloned()) {
                match all.last_mut() {
                    Some((last, end)) if *last == path => {
                        assert_eq!(end.end, range.start);
                        end.end = range.end;
                    }
                    _ => {
                        assert_eq!(range.start, 0);
                        all.push((path, range));
                    }
                }
            }
            let whole: Vec<u64> = all.iter().map(|(_, range)| range.end).collect();
            assert_eq!(whole, lengths);
        }
    }
}
