//! How a record becomes a value: one byte with the version of its form, then JSON. JSON because an archive carries
//! records line by line and people read them with `jq`; a version byte so that a record of a newer form is refused by
//! name instead of being guessed at.

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use crate::{CatalogError, Kind};

/// The form that this version writes.
const FORM: u8 = 1;

/// Something stored under one key. The record holds everything that its key is built from, so that a line of an
/// archive is enough to put it back.
pub trait Record: Serialize + DeserializeOwned + Send + Sync {
    /// Its row in the key layout.
    const KIND: Kind;

    /// The key it is stored under.
    fn key(&self) -> Bytes;
}

/// A record as stored.
pub fn encode<T: Record>(record: &T) -> Result<Bytes, CatalogError> {
    let mut value = Vec::with_capacity(256);
    value.push(FORM);
    serde_json::to_writer(&mut value, record)
        .map_err(|e| CatalogError::Encode { kind: T::KIND.name(), reason: e.to_string() })?;
    Ok(value.into())
}

/// The JSON of a stored record, as it goes into an archive line.
pub fn json(kind: Kind, key: &[u8], value: &Bytes) -> Result<Bytes, CatalogError> {
    match value.split_first() {
        Some((&FORM, _)) => Ok(value.slice(1..)),
        Some((form, _)) => Err(damaged(
            kind,
            key,
            format!("its form is {form}, this version knows forms up to {FORM}"),
        )),
        None => Err(damaged(kind, key, "it is empty".to_owned())),
    }
}

/// A record as stored, from its JSON (the reverse of [`json`]). That it is JSON is the caller's business.
pub(crate) fn from_json(json: &[u8]) -> Bytes {
    let mut value = Vec::with_capacity(json.len() + 1);
    value.push(FORM);
    value.extend_from_slice(json);
    value.into()
}

/// Reads a stored record.
pub fn decode<T: Record>(key: &[u8], value: &Bytes) -> Result<T, CatalogError> {
    let json = json(T::KIND, key, value)?;
    serde_json::from_slice(&json).map_err(|e| damaged(T::KIND, key, e.to_string()))
}

fn damaged(kind: Kind, key: &[u8], reason: String) -> CatalogError {
    CatalogError::Record {
        kind: kind.name(),
        key: String::from_utf8_lossy(key).into_owned(),
        reason,
    }
}
