//! The way in: typed reads and pages, transactions with records, and the values that all operations share.

use std::sync::Arc;

use bytes::Bytes;
use dtr_store::{
    At, Expect, KeyValue, Outcome, SharedStore, StoreExt as _, Transaction,
    age::{self, Ages},
};
use dtr_types::{Clock, Doubt, Random, Revision, Timestamp};

use crate::{
    CatalogError, Key, Record, codec, keys,
    records::{Event, Settings},
};

/// How often an operation starts over when others changed the same thing meanwhile.
pub(crate) const ATTEMPTS_MAX: usize = 64;

/// The catalog of one cluster. Cheap to clone.
#[derive(Clone)]
pub struct Catalog {
    inner: Arc<Inner>,
}

struct Inner {
    store: SharedStore,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
}

/// A record and the revision that wrote it, for changing it only if nobody else did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned<T> {
    /// The record.
    pub value: T,
    /// The revision that wrote it.
    pub modified: Revision,
}

/// A part of a list, in key order, all of one revision.
#[derive(Clone, Debug)]
pub struct Page<T> {
    /// The revision it was read at.
    pub revision: Revision,
    /// The items.
    pub items: Vec<T>,
    /// Whether more follow.
    pub more: bool,
}

impl std::fmt::Debug for Catalog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Catalog")
    }
}

impl Catalog {
    /// Over a store, with the time and the randomness to use.
    pub fn new(store: SharedStore, clock: Arc<dyn Clock>, random: Arc<dyn Random>) -> Self {
        for prefix in keys::FEW {
            store.expect(prefix, Expect::Few);
        }
        for prefix in keys::SELDOM_READ {
            store.expect(prefix, Expect::SeldomRead);
        }
        Self { inner: Arc::new(Inner { store, clock, random }) }
    }

    /// The store beneath: for snapshots, watches and status. Keys and records stay in here.
    pub fn store(&self) -> &SharedStore {
        &self.inner.store
    }

    /// The clock.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.inner.clock
    }

    /// The randomness.
    pub fn random(&self) -> &dyn Random {
        &*self.inner.random
    }

    /// Now.
    pub fn now(&self) -> Timestamp {
        self.inner.clock.now()
    }

    /// How old revisions are at least, in time that was seen to pass: what is deleted for its age goes by this.
    pub async fn ages(&self) -> Result<Ages, CatalogError> {
        Ok(age::read(&**self.store()).await?)
    }

    /// Adds to that what has passed since this process did so last: for the one who does the background work.
    pub async fn observe(&self) -> Result<Ages, CatalogError> {
        Ok(age::observe(&**self.store(), &**self.clock()).await?)
    }

    /// The same, if this process did so last: for whoever is about to delete what is old.
    pub async fn observe_again(&self) -> Result<Ages, CatalogError> {
        Ok(age::observe_again(&**self.store(), &**self.clock()).await?)
    }

    /// Why nothing may be deleted for its age at this moment, if that is so: the clock is not to be relied on.
    pub fn deletion_pauses(&self) -> Option<Doubt> {
        self.inner.clock.doubt().filter(Doubt::pauses_deletion)
    }

    /// One record, at the latest revision.
    pub async fn get<T: Record>(&self, key: &Key<T>) -> Result<Option<Versioned<T>>, CatalogError> {
        self.get_at(key, At::Latest).await
    }

    /// One record at a revision.
    pub async fn get_at<T: Record>(
        &self,
        key: &Key<T>,
        at: At,
    ) -> Result<Option<Versioned<T>>, CatalogError> {
        let found = self.inner.store.get(key.bytes(), at).await?;
        found.map(|kv| decode_kv(&kv)).transpose()
    }

    /// A page of the records whose keys begin with `prefix` and come after `after`, which is what follows the prefix
    /// (a tag, a digest, an id). `limit` 0 means as many as the store gives at once.
    pub async fn list<T: Record>(
        &self,
        prefix: &[u8],
        after: Option<&str>,
        limit: usize,
        at: At,
    ) -> Result<Page<Versioned<T>>, CatalogError> {
        let after = after.map(|after| [prefix, after.as_bytes()].concat());
        let page = self.inner.store.page(prefix, after.as_deref(), limit, false, at).await?;
        let items = page.items.iter().map(decode_kv).collect::<Result<_, _>>()?;
        Ok(Page { revision: page.revision, items, more: page.more })
    }

    /// All records whose keys begin with `prefix`, at one revision. For lists that are small by nature.
    pub async fn all<T: Record>(&self, prefix: &[u8]) -> Result<Vec<T>, CatalogError> {
        let mut items = Vec::new();
        let mut at = At::Latest;
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = self.inner.store.page(prefix, after.as_deref(), 0, false, at).await?;
            at = At::Revision(page.revision);
            after = page.items.last().map(|kv| kv.key.to_vec());
            for kv in &page.items {
                items.push(codec::decode(&kv.key, &kv.value)?);
            }
            if !page.more {
                return Ok(items);
            }
        }
    }

    /// A page of what follows `prefix` in the keys that begin with it, without reading values.
    pub async fn names(
        &self,
        prefix: &[u8],
        after: Option<&str>,
        limit: usize,
        at: At,
    ) -> Result<Page<String>, CatalogError> {
        let after = after.map(|after| [prefix, after.as_bytes()].concat());
        let page = self.inner.store.page(prefix, after.as_deref(), limit, true, at).await?;
        let items = page
            .items
            .iter()
            .map(|kv| String::from_utf8_lossy(&kv.key[prefix.len()..]).into_owned())
            .collect();
        Ok(Page { revision: page.revision, items, more: page.more })
    }

    /// What follows `prefix` in every key that begins with it. For lists that are small by nature.
    pub async fn all_names(&self, prefix: &[u8]) -> Result<Vec<String>, CatalogError> {
        Ok(self.all_names_at(prefix).await?.0)
    }

    /// [`Self::all_names`], and the revision at which it was read.
    pub(crate) async fn all_names_at(
        &self,
        prefix: &[u8],
    ) -> Result<(Vec<String>, Revision), CatalogError> {
        let mut names: Vec<String> = Vec::new();
        let mut at = At::Latest;
        loop {
            let page = self.names(prefix, names.last().map(String::as_str), 0, at).await?;
            at = At::Revision(page.revision);
            names.extend(page.items);
            if !page.more {
                return Ok((names, page.revision));
            }
        }
    }

    /// Whether any key begins with `prefix`.
    pub async fn any(&self, prefix: &[u8]) -> Result<bool, CatalogError> {
        Ok(!self.inner.store.page(prefix, None, 1, true, At::Latest).await?.items.is_empty())
    }

    /// Commits a transaction. One that changes accounts, passwords or memberships says so to whoever remembers rights: see
    /// [`Catalog::rights_changed`].
    pub async fn commit(&self, mut transaction: Transaction) -> Result<Outcome, CatalogError> {
        let of_rights =
            |key: &[u8]| keys::RIGHTS.iter().any(|prefix| key.starts_with(prefix.as_bytes()));
        if transaction.writes.iter().any(|write| of_rights(write.key())) {
            transaction = transaction.put(keys::RIGHTS_CHANGED, Bytes::new());
        }
        Ok(self.inner.store.commit(transaction).await?)
    }

    /// Puts one record whatever was there.
    pub async fn put<T: Record>(&self, record: &T) -> Result<Revision, CatalogError> {
        let put = Transaction::new().put_record(record)?;
        self.commit(put).await?.committed().ok_or(CatalogError::Contention(T::KIND.name()))
    }

    /// Reads a record, lets `change` make the new one (`None` = leave as it is), and puts it if nobody else changed it
    /// meanwhile; else starts over. Yields what is stored now, or `None` when it is not there.
    pub async fn change<T: Record + Clone>(
        &self,
        key: &Key<T>,
        event: Option<&Event>,
        mut change: impl FnMut(&T) -> Option<T> + Send,
    ) -> Result<Option<T>, CatalogError> {
        self.update(key, event, |found| Ok(found.and_then(&mut change))).await
    }

    /// As [`Catalog::change`], for a record that may be missing and is then made, and with a `make` that may refuse.
    ///
    /// # Errors
    /// The error of `make`; [`CatalogError::Contention`] when others change the record all the time.
    pub async fn update<T: Record + Clone, E: From<CatalogError>>(
        &self,
        key: &Key<T>,
        event: Option<&Event>,
        mut make: impl FnMut(Option<&T>) -> Result<Option<T>, E> + Send,
    ) -> Result<Option<T>, E> {
        for _ in 0..ATTEMPTS_MAX {
            let found = self.get(key).await?;
            let Some(new) = make(found.as_ref().map(|found| &found.value))? else {
                return Ok(found.map(|found| found.value));
            };
            let transaction = match &found {
                Some(found) => Transaction::new().if_modified_at(key, found.modified),
                None => Transaction::new().if_absent(key),
            };
            let mut transaction = transaction.put_record(&new)?;
            if let Some(event) = event {
                transaction = transaction.event(event)?;
            }
            if self.commit(transaction).await?.committed().is_some() {
                return Ok(Some(new));
            }
        }
        Err(CatalogError::Contention(T::KIND.name()).into())
    }

    /// Deletes all keys that begin with `prefix`, in as many transactions as it takes.
    pub(crate) async fn delete_prefix(&self, prefix: &[u8]) -> Result<(), CatalogError> {
        let limit = self.inner.store.limits().operations_max;
        loop {
            let page = self.inner.store.page(prefix, None, limit, true, At::Latest).await?;
            if page.items.is_empty() {
                return Ok(());
            }
            let transaction =
                page.items.into_iter().fold(Transaction::new(), |t, kv| t.delete(kv.key));
            self.commit(transaction).await?;
        }
    }

    /// When accounts, passwords or memberships were last changed, on whatever replica. What was read of them after this was
    /// asked for is right as long as the answer is the same.
    pub async fn rights_changed(&self) -> Result<Revision, CatalogError> {
        let found = self.inner.store.get(keys::RIGHTS_CHANGED, At::Latest).await?;
        Ok(found.map_or(Revision::ZERO, |found| found.modified))
    }

    /// The settings and their revision, unless that is `known`: for whoever keeps them.
    pub async fn settings_after(
        &self,
        known: Option<Revision>,
    ) -> Result<Option<(Revision, Settings)>, CatalogError> {
        let key = keys::settings();
        let Some(found) = self.inner.store.get(key.bytes(), At::Latest).await? else {
            let none = (Revision::ZERO, Settings::default());
            return Ok((known != Some(Revision::ZERO)).then_some(none));
        };
        if known == Some(found.modified) {
            return Ok(None);
        }
        Ok(Some((found.modified, decode_kv(&found)?.value)))
    }

    /// The settings; their defaults when none were ever stored.
    pub async fn settings(&self) -> Result<Settings, CatalogError> {
        Ok(self.get(&keys::settings()).await?.map(|found| found.value).unwrap_or_default())
    }
}

pub(crate) fn decode_kv<T: Record>(kv: &KeyValue) -> Result<Versioned<T>, CatalogError> {
    Ok(Versioned { value: codec::decode(&kv.key, &kv.value)?, modified: kv.modified })
}

/// Records in transactions.
pub trait TransactionExt: Sized {
    /// Puts a record under its own key.
    fn put_record<T: Record>(self, record: &T) -> Result<Self, CatalogError>;
    /// Puts a record and demands that there is none under its key.
    fn create_record<T: Record>(self, record: &T) -> Result<Self, CatalogError>;
    /// Puts an event and its place in the list of its repository.
    fn event(self, event: &Event) -> Result<Self, CatalogError>;
}

impl TransactionExt for Transaction {
    fn put_record<T: Record>(self, record: &T) -> Result<Self, CatalogError> {
        Ok(self.put(record.key(), codec::encode(record)?))
    }

    fn create_record<T: Record>(self, record: &T) -> Result<Self, CatalogError> {
        let key = record.key();
        Ok(self.if_absent(key.clone()).put(key, codec::encode(record)?))
    }

    fn event(self, event: &Event) -> Result<Self, CatalogError> {
        let this = self.put_record(event)?;
        Ok(match &event.repository_id {
            Some(repository) => {
                this.put(keys::repository_event(repository, &event.id), Bytes::new())
            }
            None => this,
        })
    }
}
