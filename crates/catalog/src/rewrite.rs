//! All records of a kind made others at once: owners that have another id or name after a restore.
//!
//! A record's new key, or a name that leads to it, may be another's old one: two that change places, a chain. So nothing
//! is written before everything that goes has been deleted, and nothing is deleted before it is known that no name would
//! lead to two records.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;
use dtr_store::{At, Transaction};

use crate::{Catalog, CatalogError, Derive, codec};

/// Writes and deletions that are gathered to commits of a size that the engine takes.
struct Commits<'a> {
    catalog: &'a Catalog,
    next: Transaction,
    bytes: usize,
}

impl<'a> Commits<'a> {
    fn new(catalog: &'a Catalog) -> Self {
        Self { catalog, next: Transaction::new(), bytes: 0 }
    }

    /// Takes one more; `None` deletes the key. A key must come once only.
    async fn push(&mut self, key: Bytes, value: Option<Bytes>) -> Result<(), CatalogError> {
        let limits = self.catalog.store().limits();
        let bytes = key.len() + value.as_ref().map_or(0, Bytes::len);
        if self.next.writes.len() >= limits.operations_max
            || (self.bytes > 0 && self.bytes + bytes > limits.transaction_bytes_max / 4)
        {
            self.flush().await?;
        }
        self.bytes += bytes;
        let next = std::mem::take(&mut self.next);
        self.next = match value {
            Some(value) => next.put(key, value),
            None => next.delete(key),
        };
        Ok(())
    }

    async fn put<T: Derive>(&mut self, record: &T) -> Result<(), CatalogError> {
        self.push(record.key(), Some(codec::encode(record)?)).await?;
        match record.derived() {
            Some((key, value)) => self.push(key, Some(value)).await,
            None => Ok(()),
        }
    }

    async fn flush(&mut self) -> Result<(), CatalogError> {
        self.bytes = 0;
        let next = std::mem::take(&mut self.next);
        if next.writes.is_empty() {
            return Ok(());
        }
        self.catalog.commit(next).await.map(drop)
    }
}

impl Catalog {
    /// Lets `change` make other records of all those of a kind (`None`: it stays), and puts them in the place of the old
    /// ones with their derived keys. Records that come to have the same key are made one by `join`, which keeps what is
    /// in either; it must not change the key. For a store that is not served: others must not write, and what was written
    /// when it fails is a part. Yields how many were changed.
    ///
    /// Memory: some 150 bytes for each record of the kind.
    ///
    /// # Errors
    /// [`CatalogError::Exists`] before anything is written, when a name would lead to two records; when the store fails.
    pub async fn rewrite<T: Derive>(
        &self,
        change: impl Fn(&T) -> Option<T> + Send + Sync,
        join: impl Fn(T, T) -> T + Send + Sync,
    ) -> Result<u64, CatalogError> {
        let at = At::Revision(self.store().revision().await?);
        let mut after = None;
        let (mut changed, mut keys, mut shared) = (0, HashSet::new(), HashSet::new());
        let mut derived: HashMap<Bytes, Bytes> = HashMap::new();
        while let Some(page) = self.next_records::<T>(&mut after, at).await? {
            for old in &page {
                let new = change(old);
                changed += u64::from(new.is_some());
                let record = new.as_ref().unwrap_or(old);
                let key = record.key();
                if let Some((name, _)) = record.derived()
                    && derived.insert(name.clone(), key.clone()).is_some_and(|other| other != key)
                {
                    let name = String::from_utf8_lossy(&name).into_owned();
                    return Err(CatalogError::Exists { kind: T::KIND.name(), name });
                }
                if !keys.insert(key.clone()) {
                    shared.insert(key);
                }
            }
        }
        drop((keys, derived));
        if changed == 0 {
            return Ok(0);
        }
        let mut commits = Commits::new(self);
        after = None;
        while let Some(page) = self.next_records::<T>(&mut after, at).await? {
            for old in &page {
                let Some(new) = change(old) else { continue };
                if old.key() != new.key() {
                    commits.push(old.key(), None).await?;
                }
                if let Some((key, _)) = old.derived() {
                    commits.push(key, None).await?;
                }
            }
        }
        commits.flush().await?;
        let mut joined: BTreeMap<Bytes, T> = BTreeMap::new();
        after = None;
        while let Some(page) = self.next_records::<T>(&mut after, at).await? {
            for old in page {
                let new = change(&old);
                let key = new.as_ref().unwrap_or(&old).key();
                if shared.contains(&key) {
                    let new = new.unwrap_or(old);
                    let record = match joined.remove(&key) {
                        Some(other) => join(other, new),
                        None => new,
                    };
                    joined.insert(key, record);
                } else if let Some(new) = new {
                    commits.put(&new).await?;
                }
            }
        }
        for record in joined.values() {
            commits.put(record).await?;
        }
        commits.flush().await?;
        Ok(changed)
    }

    /// The next records of a kind, in the order of their keys; `None` after the last.
    async fn next_records<T: Derive>(
        &self,
        after: &mut Option<Bytes>,
        at: At,
    ) -> Result<Option<Vec<T>>, CatalogError> {
        let prefix = T::KIND.prefix();
        let from = after.as_ref().map(|key| String::from_utf8_lossy(&key[prefix.len()..]));
        let page = self.list::<T>(prefix.as_bytes(), from.as_deref(), 0, at).await?;
        let Some(last) = page.items.last() else { return Ok(None) };
        *after = Some(last.value.key());
        Ok(Some(page.items.into_iter().map(|found| found.value).collect()))
    }
}
