//! Blobs that are known to be damaged, looked at again: whoever put the right bytes back into the storage by other means
//! than a push need not tell anybody.

use dtr_blobs::{BlobStorage, Found, examine};
use dtr_catalog::{
    Catalog, Kind, keys,
    records::{Damage, DamagedBlob},
};
use dtr_store::At;

use crate::JobError;

/// Damages that are looked at in one run.
const RECHECKED_MAX: usize = 100;
/// Bytes that are hashed in one run; the first blob is hashed whatever its size.
const HASHED_MAX: u64 = 256 * 1024 * 1024;

/// Looks again at blobs that are known to be damaged, beginning anywhere among them, and forgets the damage of those that are
/// good again or that no record speaks of. Yields how many.
pub(crate) async fn recheck(catalog: &Catalog, blobs: &dyn BlobStorage) -> Result<u64, JobError> {
    let prefix = Kind::DamagedBlob.prefix().as_bytes();
    let from = format!("sha256:{}", catalog.random().hex(8));
    let mut page =
        catalog.list::<DamagedBlob>(prefix, Some(&from), RECHECKED_MAX, At::Latest).await?.items;
    if page.len() < RECHECKED_MAX {
        let first = catalog.list::<DamagedBlob>(prefix, None, RECHECKED_MAX, At::Latest).await?;
        let first = first.items.into_iter().filter(|found| found.value.digest.to_string() <= from);
        page.extend(first.take(RECHECKED_MAX));
    }
    let (mut hashed, mut good) = (0, 0);
    for known in &page {
        let digest = &known.value.digest;
        let Some(blob) = catalog.get(&keys::blob(digest)).await? else {
            catalog.forget_damage(known).await?;
            continue;
        };
        let size = blob.value.size;
        let is_turn = hashed == 0 || hashed + size <= HASHED_MAX;
        let found = examine(blobs, digest, Some(size), is_turn).await?;
        if is_turn && !matches!(found, Found::Missing | Found::OtherSize) {
            hashed += size;
        }
        if is_turn && found == Found::Good && catalog.forget_damage(known).await? {
            tracing::info!(%digest, "a blob that was damaged is good again");
            good += 1;
        } else if known.value.damage == Damage::Missing && found == Found::OtherBytes {
            tracing::warn!(%digest, "a blob that was lost is there again with wrong bytes");
        }
    }
    Ok(good)
}
