//! Trying the bucket: before it is relied on, and from time to time.

use std::time::Duration;

use dtr_blobs::{BlobError, Health};
use dtr_types::StorageMark;
use futures_util::TryStreamExt as _;
use object_store::{ObjectStore as _, ObjectStoreExt as _, path::Path};

use crate::client::Bucket;

/// A service that does not answer within this is not well.
const PATIENCE: Duration = Duration::from_secs(4);

/// A bucket does not become another by itself, as a folder does: so a push need not ask each time.
pub(crate) const MARK_IS_GOOD_FOR: Duration = Duration::from_secs(2);

/// The mark of the storage.
pub(crate) async fn mark(bucket: &Bucket) -> Result<Option<StorageMark>, BlobError> {
    let key = bucket.layout.mark();
    let got = bucket.store.get(&key).await;
    let Some(got) = bucket.unless_missing("read", &key, got)? else { return Ok(None) };
    let text = got.bytes().await.map_err(|e| bucket.failed("read", &key, e))?;
    let damaged = |reason| BlobError::Unavailable {
        action: format!("understand {key} ({})", bucket.place()),
        source: std::io::Error::new(std::io::ErrorKind::InvalidData, reason),
    };
    StorageMark::parse(&text).map(Some).map_err(damaged)
}

/// Whether a distribution registry keeps its repositories here.
pub(crate) async fn has_repositories(bucket: &Bucket) -> Result<bool, BlobError> {
    let folder = bucket.layout.repositories();
    let first = bucket.store.list(Some(&folder)).try_next().await;
    Ok(first.map_err(|e| bucket.failed("list", &folder, e))?.is_some())
}

/// Writes, reads, lists and deletes an object. Where it is left behind, the error names it.
pub(crate) async fn probe(bucket: &Bucket) -> Result<(), BlobError> {
    let content = bucket.random.hex(32);
    let key = bucket.layout.probe(&bucket.random.hex(16));
    bucket.put_blob(&key, content.clone().into()).await?;
    let read = match read_back(bucket, &key, &content).await {
        Ok(()) => bucket.check_wishes(&key).await,
        error => error,
    };
    match (read, bucket.delete_all(vec![key.clone()]).await) {
        (read, Ok(())) => read,
        (Ok(()), Err(error)) => Err(left_behind(bucket, &key, &error)),
        (Err(error), Err(_)) => Err(left_behind(bucket, &key, &error)),
    }
}

fn left_behind(bucket: &Bucket, key: &Path, error: &BlobError) -> BlobError {
    BlobError::Unsuitable {
        root: bucket.place().to_owned(),
        reason: format!("{error}. The object {key} of this check is left in it: delete it"),
    }
}

async fn read_back(bucket: &Bucket, key: &Path, content: &str) -> Result<(), BlobError> {
    let differs = |what: &str| BlobError::Unavailable {
        action: format!("read {key} ({})", bucket.place()),
        source: std::io::Error::other(format!(
            "{what}: the service does not show at once what was written, which is needed"
        )),
    };
    let half = content.len() as u64 / 2;
    let read = bucket.get(key, half..content.len() as u64).await?;
    if read != content.as_bytes()[content.len() / 2..] {
        return Err(differs("other bytes came back"));
    }
    if bucket.size(key).await? != Some(content.len() as u64) {
        return Err(differs("another size came back"));
    }
    bucket.list_one(key).await
}

/// A small write that is given up after a while.
pub(crate) async fn health(bucket: &Bucket) -> Health {
    let written = tokio::time::timeout(PATIENCE, async {
        let key = bucket.layout.probe(&bucket.random.hex(16));
        bucket.try_write(&key).await
    });
    let seconds = PATIENCE.as_secs();
    match written.await {
        Ok(Ok(())) => Health::default(),
        Ok(Err(error)) => Health::failed(&error),
        Err(_) => Health {
            problem: Some(format!("the service does not answer within {seconds} s")),
            detail: Some(format!("{} does not answer within {seconds} s", bucket.place())),
            ..Health::default()
        },
    }
}

/// The key of a token, if its text can be one.
fn token_key(bucket: &Bucket, token: &str) -> Result<Path, BlobError> {
    let fine = !token.is_empty()
        && token.len() <= 128
        && token.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    if fine {
        return Ok(bucket.layout.shared(token));
    }
    Err(BlobError::Unsuitable {
        root: bucket.place().to_owned(),
        reason: "a token has 1 to 128 letters, digits and hyphens".to_owned(),
    })
}

pub(crate) async fn leave_token(bucket: &Bucket, token: &str) -> Result<(), BlobError> {
    bucket.put(&token_key(bucket, token)?, token.to_owned().into()).await
}

pub(crate) async fn sees_token(bucket: &Bucket, token: &str) -> Result<bool, BlobError> {
    let key = token_key(bucket, token)?;
    let got = bucket.store.get(&key).await;
    let Some(got) = bucket.unless_missing("read", &key, got)? else { return Ok(false) };
    let text = got.bytes().await.map_err(|e| bucket.failed("read", &key, e))?;
    Ok(text == token)
}

pub(crate) async fn remove_token(bucket: &Bucket, token: &str) -> Result<(), BlobError> {
    bucket.delete_all(vec![token_key(bucket, token)?]).await
}
