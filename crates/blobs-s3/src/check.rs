//! Trying the bucket: before it is relied on, and from time to time.

use std::time::Duration;

use dtr_blobs::{BlobError, Health};
use dtr_types::StorageMark;
use object_store::{ObjectStoreExt as _, path::Path};

use crate::client::Bucket;

/// A service that does not answer within this is not well.
const PATIENCE: Duration = Duration::from_secs(10);

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

/// Writes, reads, lists and deletes an object.
pub(crate) async fn probe(bucket: &Bucket) -> Result<(), BlobError> {
    let content = bucket.random.hex(32);
    let key = bucket.layout.probe(&bucket.random.hex(16));
    bucket.put(&key, content.clone().into()).await?;
    let read = read_back(bucket, &key, &content).await;
    let deleted = bucket.delete_all(vec![key]).await;
    read.and(deleted)
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
        bucket.put(&key, "probe".into()).await?;
        bucket.delete_all(vec![key]).await
    });
    let problem = match written.await {
        Ok(Ok(())) => None,
        Ok(Err(e)) => Some(e.to_string()),
        Err(_) => {
            Some(format!("{} does not answer within {} s", bucket.place(), PATIENCE.as_secs()))
        }
    };
    Health { problem, free: None, total: None }
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
