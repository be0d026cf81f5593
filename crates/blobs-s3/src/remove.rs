//! Removing in two steps. A bucket has no rename, so what bounds a removal is time: the first step signs the request, which
//! the service refuses after some minutes, whoever sends it and however long he was frozen. Who takes such a removal over
//! waits until that has passed.

use std::time::Duration;

use dtr_blobs::{Aside, BlobError};
use dtr_types::Digest;

use crate::client::Bucket;

/// How long a signed removal is good for; clocks that differ by less do no harm.
pub(crate) const GOOD_FOR: Duration = Duration::from_secs(300);
/// When nothing of it can happen any more, also by a clock that is some minutes ahead.
pub(crate) const SETTLES: Duration = Duration::from_secs(900);

pub(crate) async fn set_aside(
    bucket: &Bucket,
    digest: &Digest,
    good_for: Duration,
) -> Result<Aside, BlobError> {
    let token = bucket.deletion(&bucket.layout.blob(digest), good_for).await?;
    Ok(Aside { digest: *digest, token })
}

pub(crate) async fn remove_aside(bucket: &Bucket, aside: Aside) -> Result<bool, BlobError> {
    let key = bucket.layout.blob(&aside.digest);
    // The service does not say whether there was something to delete.
    let there = bucket.head(&key).await?.is_some();
    if there {
        bucket.send_deletion(&key, &aside.token).await?;
    }
    Ok(there)
}
