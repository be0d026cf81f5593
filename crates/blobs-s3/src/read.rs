//! Reading and listing.

use std::ops::Range;

use dtr_blobs::{BlobEntry, BlobError, BlobInfo, BlobReader, UploadEntry};
use dtr_types::{Digest, Timestamp, UploadId};
use futures_util::{StreamExt as _, TryStreamExt as _, stream, stream::BoxStream};
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore as _};

use crate::{
    client::Bucket,
    layout::{ALGORITHMS, Part},
};

fn modified(meta: &ObjectMeta) -> Timestamp {
    Timestamp::from_millis(meta.last_modified.timestamp_millis())
}

pub(crate) async fn stat(bucket: &Bucket, digest: &Digest) -> Result<Option<BlobInfo>, BlobError> {
    let found = bucket.head(&bucket.layout.blob(digest)).await?;
    Ok(found.map(|meta| BlobInfo { size: meta.size, modified: modified(&meta) }))
}

pub(crate) async fn delete(bucket: &Bucket, digest: &Digest) -> Result<bool, BlobError> {
    let key = bucket.layout.blob(digest);
    // The service does not say whether there was something to delete.
    let there = bucket.head(&key).await?.is_some();
    if there {
        bucket.delete_all(vec![key]).await?;
    }
    Ok(there)
}

pub(crate) async fn read(
    bucket: &Bucket,
    digest: &Digest,
    range: Option<Range<u64>>,
) -> Result<BlobReader, BlobError> {
    let key = bucket.layout.blob(digest);
    let wanted = match range {
        // Nothing is asked for: no request can say that.
        Some(range) if range.is_empty() => return nothing(bucket, digest, range).await,
        Some(range) => Some(GetRange::Bounded(range.start..range.end.min(i64::MAX as u64))),
        None => None,
    };
    let start = match &wanted {
        Some(GetRange::Bounded(range)) => range.start,
        _ => 0,
    };
    let options = GetOptions { range: wanted, ..GetOptions::default() };
    let got = match bucket.store.get_opts(&key, options).await {
        Ok(got) => got,
        Err(error) => {
            // Out of range, or not there: its size tells which.
            return match bucket.head(&key).await? {
                None => Err(BlobError::NotFound(*digest)),
                Some(meta) if start > 0 && start >= meta.size => {
                    Err(BlobError::Range { digest: *digest, size: meta.size })
                }
                Some(meta) if meta.size == 0 => Err(BlobError::Range { digest: *digest, size: 0 }),
                Some(_) => Err(bucket.failed("read", &key, error)),
            };
        }
    };
    let (size, range) = (got.meta.size, got.range.clone());
    if start > 0 && start >= size {
        return Err(BlobError::Range { digest: *digest, size });
    }
    let place = format!("read {key} ({})", bucket.place());
    let blocks = got
        .into_stream()
        .map_err(move |e| crate::error::meaning(&place, "read a blob".to_owned(), &e));
    Ok(BlobReader::new(size, range.clone(), counted(blocks.boxed(), *digest, range)))
}

/// An answer without a byte, to a question for none inside the blob.
async fn nothing(
    bucket: &Bucket,
    digest: &Digest,
    range: Range<u64>,
) -> Result<BlobReader, BlobError> {
    let Some(info) = stat(bucket, digest).await? else {
        return Err(BlobError::NotFound(*digest));
    };
    if range.start > range.end || range.start > info.size {
        return Err(BlobError::Range { digest: *digest, size: info.size });
    }
    Ok(BlobReader::new(info.size, range.start..range.start, stream::empty().boxed()))
}

/// Ends with an error rather than early or late.
fn counted(
    blocks: BoxStream<'static, Result<bytes::Bytes, BlobError>>,
    digest: Digest,
    range: Range<u64>,
) -> BoxStream<'static, Result<bytes::Bytes, BlobError>> {
    let expected = range.end;
    let state = Some((blocks, range.start));
    stream::unfold(state, move |state| async move {
        let (mut blocks, at) = state?;
        match blocks.next().await {
            Some(Ok(block)) => {
                let at = at + block.len() as u64;
                if at > expected {
                    return Some((Err(BlobError::Corrupt { digest, expected, actual: at }), None));
                }
                Some((Ok(block), Some((blocks, at))))
            }
            Some(Err(e)) => Some((Err(e), None)),
            None if at < expected => {
                Some((Err(BlobError::Corrupt { digest, expected, actual: at }), None))
            }
            None => None,
        }
    })
    .boxed()
}

pub(crate) async fn list(
    bucket: &Bucket,
    after: Option<&Digest>,
    limit: usize,
) -> Result<Vec<BlobEntry>, BlobError> {
    let mut found = Vec::new();
    for algorithm in ALGORITHMS {
        // Digests are ordered by algorithm first.
        let folder = bucket.layout.blobs(algorithm);
        let mut listed = match after {
            Some(after) if after.algorithm() > algorithm => continue,
            Some(after) if after.algorithm() == algorithm => {
                bucket.store.list_with_offset(Some(&folder), &bucket.layout.blob(after))
            }
            _ => bucket.store.list(Some(&folder)),
        };
        while found.len() < limit {
            let next = listed.try_next().await.map_err(|e| bucket.failed("list", &folder, e))?;
            let Some(object) = next else { break };
            // What is not a digest is not ours.
            let Some(digest) = bucket.layout.parse_blob(algorithm, &object.location) else {
                continue;
            };
            let info = BlobInfo { size: object.size, modified: modified(&object) };
            found.push(BlobEntry { digest, info });
        }
    }
    Ok(found)
}

pub(crate) async fn uploads(
    bucket: &Bucket,
    after: Option<&UploadId>,
    limit: usize,
) -> Result<Vec<UploadEntry>, BlobError> {
    let folder = bucket.layout.uploads();
    let mut found: Vec<UploadEntry> = Vec::new();
    let mut listed = match after {
        // After all objects of that upload, whose names begin with earlier letters.
        Some(after) => {
            bucket.store.list_with_offset(Some(&folder), &bucket.layout.upload(after).join("z"))
        }
        None => bucket.store.list(Some(&folder)),
    };
    while let Some(object) =
        listed.try_next().await.map_err(|e| bucket.failed("list", &folder, e))?
    {
        let Some((id, part)) = bucket.layout.parse_upload(&object.location) else { continue };
        if found.last().is_none_or(|last| last.id != id) {
            if found.len() >= limit {
                break;
            }
            found.push(UploadEntry { id, size: 0, modified: Timestamp::default(), staged: false });
        }
        if let Some(last) = found.last_mut() {
            last.modified = last.modified.max(modified(&object));
            match part {
                Part::Piece(_) => last.size += object.size,
                Part::Closed(_) => last.staged = true,
                Part::Begun | Part::Copy => {}
            }
        }
    }
    Ok(found)
}
