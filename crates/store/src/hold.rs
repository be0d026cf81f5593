//! Holds: records in the store itself that keep a revision readable, and what it mentions uncollected, until they are
//! released or expire. Because they are ordinary keys, every replica sees them and every engine has them.

use std::time::Duration;

use bytes::Bytes;
use dtr_types::{Clock, HoldId, Random, Revision, Timestamp};
use futures_util::TryStreamExt as _;
use serde::{Deserialize, Serialize};

use crate::{At, Outcome, Store, StoreError, Transaction};

/// Where holds are kept: the only keys that this crate knows.
pub const PREFIX: &[u8] = b"!hold/";

/// Why and how long a revision is held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldRecord {
    /// What for, such as `backup`; shown by `status`.
    pub purpose: String,
    /// When it was taken.
    pub taken_at: Timestamp,
    /// When it ends by itself, should its owner have died.
    pub expires_at: Timestamp,
}

/// A hold that was taken. Nothing happens when it is dropped: release it, or let it expire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Its id.
    pub id: HoldId,
    /// The revision that stays readable: the one that made the hold.
    pub revision: Revision,
    /// What was recorded.
    pub record: HoldRecord,
}

fn key(id: &HoldId) -> Bytes {
    [PREFIX, id.as_str().as_bytes()].concat().into()
}

fn encode(record: &HoldRecord) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(record).map_err(|e| StoreError::Corrupt(e.to_string()))
}

/// Takes a hold on the present. Its revision is that of its own commit: everything committed before is held.
pub async fn take(
    store: &dyn Store,
    clock: &dyn Clock,
    random: &dyn Random,
    purpose: &str,
    lifetime: Duration,
) -> Result<Hold, StoreError> {
    let taken_at = clock.now();
    let record =
        HoldRecord { purpose: purpose.to_owned(), taken_at, expires_at: taken_at.plus(lifetime) };
    let id = HoldId::random(random);
    let put = Transaction::new().if_absent(key(&id)).put(key(&id), encode(&record)?);
    match store.commit(put).await? {
        Outcome::Committed(revision) => Ok(Hold { id, revision, record }),
        Outcome::Conflict { .. } => Err(StoreError::Invalid("a hold of that id exists")),
    }
}

/// Moves a hold's expiry to `lifetime` from now; its revision stays the one it was taken at.
///
/// # Errors
/// [`StoreError::Invalid`] when it is no longer there, so what it held may be gone.
pub async fn extend(
    store: &dyn Store,
    clock: &dyn Clock,
    hold: &mut Hold,
    lifetime: Duration,
) -> Result<(), StoreError> {
    hold.record.expires_at = clock.now().plus(lifetime);
    let put =
        Transaction::new().if_present(key(&hold.id)).put(key(&hold.id), encode(&hold.record)?);
    match store.commit(put).await? {
        Outcome::Committed(_) => Ok(()),
        Outcome::Conflict { .. } => Err(StoreError::Invalid("the hold has expired")),
    }
}

/// Releases a hold; no error when it has expired already.
pub async fn release(store: &dyn Store, id: &HoldId) -> Result<(), StoreError> {
    store.commit(Transaction::new().delete(key(id))).await.map(drop)
}

/// The holds in force at `now`. A hold's revision is that of its creation, so that [`extend`] does not move it.
pub async fn list(store: &dyn Store, now: Timestamp) -> Result<Vec<Hold>, StoreError> {
    let found: Vec<_> = crate::scan(store, PREFIX, At::Latest).try_collect().await?;
    let mut holds = Vec::with_capacity(found.len());
    for kv in found {
        let damaged = || StoreError::Corrupt("a hold cannot be read".to_owned());
        let record: HoldRecord = serde_json::from_slice(&kv.value).map_err(|_| damaged())?;
        let id = std::str::from_utf8(&kv.key[PREFIX.len()..]).map_err(|_| damaged())?;
        let id = id.parse().map_err(|_| damaged())?;
        if record.expires_at > now {
            holds.push(Hold { id, revision: kv.created, record });
        }
    }
    Ok(holds)
}

/// The oldest revision that a hold keeps, if there is any hold.
pub async fn oldest(store: &dyn Store, now: Timestamp) -> Result<Option<Revision>, StoreError> {
    Ok(list(store, now).await?.iter().map(|hold| hold.revision).min())
}

/// Compacts up to `revision`, but never past a hold; removes the records of holds that expired. Yields up to where.
pub async fn compact(
    store: &dyn Store,
    now: Timestamp,
    revision: Revision,
) -> Result<Revision, StoreError> {
    let all: Vec<_> = crate::scan(store, PREFIX, At::Latest).try_collect().await?;
    for kv in all {
        let expired = serde_json::from_slice::<HoldRecord>(&kv.value)
            .is_ok_and(|record| record.expires_at <= now);
        if expired {
            // An owner that extends at this moment wins: the condition then fails.
            let key = kv.key.clone();
            store
                .commit(Transaction::new().if_modified_at(key.clone(), kv.modified).delete(key))
                .await?;
        }
    }
    let to = oldest(store, now).await?.map_or(revision, |held| held.min(revision));
    store.compact(to).await?;
    Ok(to)
}
