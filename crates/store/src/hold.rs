//! Holds: records in the store itself that keep a revision readable, and what it mentions uncollected, until they are
//! released or expire. Because they are ordinary keys, every replica sees them and every engine has them. They expire by
//! observed time ([`age`]): a clock that is wrong ends none.

use std::time::Duration;

use bytes::Bytes;
use dtr_types::{Clock, HoldId, Random, Revision, Timestamp};
use futures_util::TryStreamExt as _;
use serde::{Deserialize, Serialize};

use crate::{
    At, KeyValue, Outcome, Store, StoreError, Transaction,
    age::{self, Ages},
};

/// Where holds are kept.
pub const PREFIX: &[u8] = b"!hold/";

/// Why and how long a revision is held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldRecord {
    /// What for, such as `backup`; shown by `status`.
    pub purpose: String,
    /// When it was taken.
    pub taken_at: Timestamp,
    /// When it ends by itself, should its owner have died, as far as the clock was right then; it is shown.
    pub expires_at: Timestamp,
    /// For how long it holds from its last extension on, in milliseconds; 0 in records that did not say it.
    #[serde(default)]
    pub lifetime_ms: u64,
}

impl HoldRecord {
    fn lifetime(&self) -> Duration {
        match self.lifetime_ms {
            0 => self.expires_at.since(self.taken_at),
            millis => Duration::from_millis(millis),
        }
    }
}

fn millis(lifetime: Duration) -> u64 {
    u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX).max(1)
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
    let record = HoldRecord {
        purpose: purpose.to_owned(),
        taken_at,
        expires_at: taken_at.plus(lifetime),
        lifetime_ms: millis(lifetime),
    };
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
    hold.record.lifetime_ms = millis(lifetime);
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

/// The holds in force. A hold's revision is that of its creation, so that [`extend`] does not move it.
pub async fn list(store: &dyn Store) -> Result<Vec<Hold>, StoreError> {
    let found: Vec<_> = crate::scan(store, PREFIX, At::Latest).try_collect().await?;
    let ages = ages(store, &found).await?;
    let mut holds = Vec::with_capacity(found.len());
    for kv in found {
        let damaged = || StoreError::Corrupt("a hold cannot be read".to_owned());
        let record: HoldRecord = serde_json::from_slice(&kv.value).map_err(|_| damaged())?;
        let id = std::str::from_utf8(&kv.key[PREFIX.len()..]).map_err(|_| damaged())?;
        let id = id.parse().map_err(|_| damaged())?;
        if !is_over(&record, &kv, &ages) {
            holds.push(Hold { id, revision: kv.created, record });
        }
    }
    Ok(holds)
}

/// What is needed to judge these; nothing where there are none.
async fn ages(store: &dyn Store, found: &[KeyValue]) -> Result<Ages, StoreError> {
    if found.is_empty() { Ok(Ages::default()) } else { age::read(store).await }
}

fn is_over(record: &HoldRecord, kv: &KeyValue, ages: &Ages) -> bool {
    ages.age(kv.modified) >= record.lifetime()
}

/// The oldest revision that a hold keeps, if there is any hold.
pub async fn oldest(store: &dyn Store) -> Result<Option<Revision>, StoreError> {
    Ok(list(store).await?.iter().map(|hold| hold.revision).min())
}

/// Compacts up to `revision`, but never past a hold; removes the records of holds that expired. Yields up to where.
pub async fn compact(store: &dyn Store, revision: Revision) -> Result<Revision, StoreError> {
    let all: Vec<_> = crate::scan(store, PREFIX, At::Latest).try_collect().await?;
    let ages = ages(store, &all).await?;
    for kv in all {
        let expired = serde_json::from_slice::<HoldRecord>(&kv.value)
            .is_ok_and(|record| is_over(&record, &kv, &ages));
        if expired {
            // An owner that extends at this moment wins: the condition then fails.
            let key = kv.key.clone();
            store
                .commit(Transaction::new().if_modified_at(key.clone(), kv.modified).delete(key))
                .await?;
        }
    }
    let to = oldest(store).await?.map_or(revision, |held| held.min(revision));
    store.compact(to).await?;
    Ok(to)
}
