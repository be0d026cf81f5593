//! Whether the storage has a blob as its record says: asked before a client is told that it need not send it, and looked at
//! while it is sent. What is wrong is recorded once, told in the log and by an alert, and counts as absent until a push has
//! brought it again.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use dtr_blobs::{BlobError, BlobReader, Found, examine, proven};
use dtr_catalog::records::{BlobRecord, Damage};
use dtr_types::{Digest, Random};
use futures_util::{StreamExt as _, stream};
use parking_lot::Mutex;

use crate::{OciError, Registry};

/// Blobs of at most so many bytes are hashed before each answer: it costs less than the answer itself.
const SMALL: u64 = 16 * 1024;

/// Which of the whole reads of larger blobs are hashed as they are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampling {
    /// One of so many, by chance; 1 for all, 0 for none.
    pub one_of: u32,
    /// At most so many bytes a second on average; a blob that is begun is hashed to its end.
    pub bytes_per_second: u64,
}

impl Sampling {
    /// Every read, whatever it costs: for tests.
    pub const ALL: Self = Self { one_of: 1, bytes_per_second: u64::MAX };
}

impl Default for Sampling {
    /// Some percent of one processor at most.
    fn default() -> Self {
        Self { one_of: 16, bytes_per_second: 32 * 1024 * 1024 }
    }
}

/// Chooses reads.
#[derive(Clone, Debug)]
pub(crate) struct Sampler {
    sampling: Sampling,
    /// When there may be the next one: later by what each has cost.
    next: Arc<Mutex<Instant>>,
}

impl Sampler {
    pub fn new(sampling: Sampling) -> Self {
        Self { sampling, next: Arc::new(Mutex::new(Instant::now())) }
    }

    fn takes(&self, size: u64, random: &dyn Random) -> bool {
        let Sampling { one_of, bytes_per_second } = self.sampling;
        if one_of == 0 || bytes_per_second == 0 {
            return false;
        }
        let mut drawn = [0; 4];
        random.fill(&mut drawn);
        if !u32::from_be_bytes(drawn).is_multiple_of(one_of) {
            return false;
        }
        let now = Instant::now();
        let mut next = self.next.lock();
        if *next > now {
            return false;
        }
        *next = now + Duration::from_secs_f64((size as f64 / bytes_per_second as f64).min(1e6));
        true
    }
}

/// The result of a look, as it is recorded.
fn damage(found: Found) -> Option<Damage> {
    match found {
        Found::Good => None,
        Found::Missing => Some(Damage::Missing),
        Found::OtherSize => Some(Damage::Size),
        Found::OtherBytes => Some(Damage::Content),
    }
}

/// The known damage of a blob. While the store cannot say, there is none: reads go on without it.
async fn known(registry: &Registry, digest: &Digest) -> Option<Damage> {
    match registry.catalog.damage(digest).await {
        Ok(found) => found.map(|found| found.value.damage),
        Err(error) => {
            tracing::debug!(%error, "whether a blob is damaged is not known");
            None
        }
    }
}

/// Whether the storage has a blob, with its size, and it is not known to be damaged. What is found out otherwise is
/// recorded.
///
/// # Errors
/// When the storage cannot be asked.
pub(crate) async fn is_stored(registry: &Registry, blob: &BlobRecord) -> Result<bool, OciError> {
    if known(registry, &blob.digest).await.is_some() {
        return Ok(false);
    }
    let found = examine(&*registry.blobs, &blob.digest, Some(blob.size), false).await?;
    if found == Found::Good {
        return Ok(true);
    }
    record(registry, &blob.digest, false).await;
    Ok(false)
}

/// Looks at a blob that seems damaged once more, and records what is wrong. Nothing of it is an error for whoever asked.
pub(crate) async fn record(registry: &Registry, digest: &Digest, deep: bool) {
    if let Err(error) = look_and_record(registry, digest, deep).await {
        tracing::warn!(%digest, error = error.message(), "a blob seems damaged, which could not be recorded");
    }
}

async fn look_and_record(registry: &Registry, digest: &Digest, deep: bool) -> Result<(), OciError> {
    let catalog = &registry.catalog;
    let Some(suspicion) = catalog.suspect(digest).await? else { return Ok(()) };
    let found = examine(&*registry.blobs, digest, Some(suspicion.size()), deep).await?;
    if let Some(damage) = damage(found)
        && catalog.record_damage(&suspicion, damage).await?
    {
        tracing::error!(
            %digest,
            ?damage,
            "a blob is lost or damaged in the storage: the next push of it brings it again; the alerts say which images need it"
        );
    }
    Ok(())
}

/// A blob's bytes for a client, all of them or a range: those of another size are never sent, those of a small blob only when
/// they are right, and of a larger one a share is hashed on its way and cut before its end.
pub(crate) async fn read(
    registry: &Registry,
    blob: &BlobRecord,
    range: Option<std::ops::Range<u64>>,
) -> Result<BlobReader, OciError> {
    let (digest, size) = (blob.digest, blob.size);
    match known(registry, &digest).await {
        None => {}
        Some(Damage::Missing) => return Err(BlobError::NotFound(digest).into()),
        Some(Damage::Size | Damage::Content) => return Err(BlobError::Altered(digest).into()),
    }
    let is_whole = range.is_none();
    let reader = match registry.blobs.read(&digest, range).await {
        Ok(reader) if reader.size() == size => reader,
        Ok(reader) => {
            record(registry, &digest, false).await;
            let actual = reader.size();
            return Err(BlobError::Corrupt { digest, expected: size, actual }.into());
        }
        // A range is asked for within the size of the record, so a shorter blob may have none of it.
        Err(error @ (BlobError::NotFound(_) | BlobError::Range { .. })) => {
            record(registry, &digest, false).await;
            return Err(match error {
                BlobError::Range { size: actual, .. } if actual != size => {
                    BlobError::Corrupt { digest, expected: size, actual }.into()
                }
                error => error.into(),
            });
        }
        Err(error) => return Err(error.into()),
    };
    if !is_whole {
        return Ok(reader);
    }
    if size <= SMALL {
        let bytes = reader.bytes().await?;
        if !digest.matches(&bytes) {
            record(registry, &digest, true).await;
            return Err(BlobError::Altered(digest).into());
        }
        let all = if bytes.is_empty() { None } else { Some(Ok(bytes)) };
        return Ok(BlobReader::new(size, 0..size, stream::iter(all).boxed()));
    }
    if !registry.sampler.takes(size, registry.catalog.random()) {
        return Ok(reader);
    }
    let registry = registry.clone();
    let blocks = proven(reader, digest).inspect(move |block| {
        if let Err(BlobError::Altered(digest)) = block {
            let (registry, digest) = (registry.clone(), *digest);
            // Whoever reads has been told; this takes as long again.
            tokio::spawn(async move { record(&registry, &digest, true).await });
        }
    });
    Ok(BlobReader::new(size, 0..size, blocks.boxed()))
}

#[cfg(test)]
mod tests {
    use dtr_types::SeededRandom;

    use super::*;

    #[test]
    fn a_share_is_taken_within_a_budget() {
        let random = SeededRandom::new(1);
        let taken = |sampling: Sampling, size: u64| {
            let sampler = Sampler::new(sampling);
            (0..16_000).filter(|_| sampler.takes(size, &random)).count()
        };
        assert_eq!(taken(Sampling::ALL, 1 << 40), 16_000);
        assert_eq!(taken(Sampling { one_of: 0, ..Sampling::ALL }, 1), 0);
        let share = taken(Sampling { one_of: 16, bytes_per_second: u64::MAX }, 1);
        assert!((800..1200).contains(&share), "{share}");
        // One that takes hours of the budget is the last for hours.
        assert_eq!(taken(Sampling { one_of: 1, bytes_per_second: 1 }, 100_000), 1);
    }
}
