//! Records from an archive into a store that nobody serves yet: the catalog's half of a restore. Keys that the archive
//! does not hold (names, links, references, referrers) are made again from the records.
//!
//! A restore is made of three commits and what lies between: [`Catalog::begin_restore`] leaves a mark,
//! [`Catalog::finish_restore`] exchanges it for the cluster's record, which is what makes a store one that is served.
//! Interrupted in between, the next [`Catalog::begin_restore`] finds the mark, removes everything, and starts over;
//! [`Catalog::discard_restore`] removes everything and the mark.

use std::{
    collections::HashSet,
    hash::{BuildHasher as _, RandomState},
    pin::Pin,
};

use bytes::Bytes;
use dtr_store::{At, OWN, Outcome, Range, SharedStore, StoreError, Transaction, hold, prefix_end};
use dtr_types::{Digest, Manifest, RepositoryId};
use futures_util::{StreamExt as _, stream::FuturesUnordered};

use crate::{
    Catalog, CatalogError, Derive, Kind, TransactionExt as _,
    body::pack,
    codec, keys,
    records::{ClusterRecord, ManifestRecord, ReferrerRecord, RestoreRecord, Settings},
};

/// Calls of the engine on their way at once: they share its syncs.
const IN_FLIGHT_MAX: usize = 384;
/// Bytes of them.
const IN_FLIGHT_BYTES: usize = 2 << 20;
/// Bytes of keys that are held back to be put in order. An archive has its records in the order of their keys; what is
/// made again from them (tags by manifest, references by blob) is in no order, and putting that as it comes would touch a
/// page of the store for each key, again and again.
const LATER_BYTES: usize = 16 << 20;
/// Links that are remembered because the next manifests are likely to need them again.
const LINKS_MAX: usize = 16 * 1024;

/// What a restore found in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestoreStart {
    /// Nothing.
    Empty,
    /// What an interrupted restore had left; it is removed now.
    Cleaned,
}

type Load = Pin<Box<dyn Future<Output = (usize, Result<(), StoreError>)> + Send>>;

/// What of a restored manifest's content the archive has.
#[derive(Clone, Debug, Default)]
pub struct RestoredContent {
    /// Blobs that get a reference and a link.
    pub linked: Vec<Digest>,
    /// Blobs that it needs and the archive has not: a reference alone.
    pub lost: Vec<Digest>,
    /// Content that may be absent, and was.
    pub mentioned: Vec<Digest>,
}

/// Puts records into a store that nobody else uses, many at once. In no order, and nothing may be read, before
/// [`Loader::finish`].
pub struct Loader {
    store: SharedStore,
    keys_max: usize,
    bytes_max: usize,
    puts: Vec<(Bytes, Bytes)>,
    /// What is held back.
    later: Vec<(Bytes, Bytes)>,
    later_bytes: usize,
    /// Links that were put, of the repository of the latest manifest.
    links: HashSet<Digest>,
    links_of: Option<RepositoryId>,
    /// Hashes of the names that lead to a record: a second one would hide the first.
    names: HashSet<u64>,
    hasher: RandomState,
    bytes: usize,
    in_flight: FuturesUnordered<Load>,
    in_flight_bytes: usize,
}

impl Loader {
    /// Over the catalog's store.
    pub fn new(catalog: &Catalog) -> Self {
        let store = catalog.store().clone();
        let limits = store.limits();
        Self {
            store,
            keys_max: limits.load_keys_max.max(1),
            bytes_max: limits.transaction_bytes_max / 4,
            puts: Vec::new(),
            later: Vec::new(),
            later_bytes: 0,
            links: HashSet::new(),
            links_of: None,
            names: HashSet::new(),
            hasher: RandomState::new(),
            bytes: 0,
            in_flight: FuturesUnordered::new(),
            in_flight_bytes: 0,
        }
    }

    /// Puts a record with its derived keys. `json` is its JSON as it came, which may have fields that this version does
    /// not know; without it the record is written anew.
    ///
    /// # Errors
    /// [`CatalogError::Exists`] for a name that an earlier record has; when the store fails, be it at an earlier record.
    pub async fn put<T: Derive>(
        &mut self,
        record: &T,
        json: Option<&[u8]>,
    ) -> Result<(), CatalogError> {
        let value = match json {
            Some(json) => codec::from_json(json),
            None => codec::encode(record)?,
        };
        let derived = record.derived();
        if let Some((key, id)) = &derived
            && !id.is_empty()
            && !self.names.insert(self.hasher.hash_one(key))
        {
            let name = String::from_utf8_lossy(key).into_owned();
            return Err(CatalogError::Exists { kind: T::KIND.name(), name });
        }
        self.write(record.key(), value).await?;
        if let Some((key, value)) = derived {
            self.write_later(key, value).await?;
        }
        Ok(())
    }

    /// Puts a manifest with its bytes (`json` as in [`Loader::put`], without them), its place among the referrers of its
    /// subject, and what follows from its content.
    ///
    /// # Errors
    /// When the store fails, be it at an earlier record.
    pub async fn put_manifest(
        &mut self,
        record: &ManifestRecord,
        json: Option<&[u8]>,
        manifest: &Manifest,
        body: &[u8],
        content: &RestoredContent,
    ) -> Result<(), CatalogError> {
        let id = &record.repository;
        let parts = pack(body)?;
        let parts_count = u32::try_from(parts.len()).unwrap_or(u32::MAX);
        for (number, part) in (0..).zip(parts) {
            self.write(keys::manifest_body(id, &record.digest, number), part).await?;
        }
        let value = match json {
            Some(json) if record.parts == parts_count => codec::from_json(json),
            _ => codec::encode(&ManifestRecord { parts: parts_count, ..record.clone() })?,
        };
        self.write(keys::manifest(id, &record.digest).into(), value).await?;
        if let Some(subject) = &record.subject {
            let referrer = ReferrerRecord {
                repository: id.clone(),
                subject: *subject,
                digest: record.digest,
                media_type: record.media_type,
                size: record.size,
                artifact_type: record.artifact_type.clone(),
                annotations: manifest.annotations.clone(),
            };
            let key = keys::referrer(id, subject, &record.digest);
            self.write_later(key.into(), codec::encode(&referrer)?).await?;
        }
        if self.links_of.as_ref() != Some(id) || self.links.len() >= LINKS_MAX {
            self.links.clear();
            self.links_of = Some(id.clone());
        }
        for blob in &content.linked {
            self.write_later(keys::reference(blob, id, &record.digest), Bytes::new()).await?;
            // Most manifests of a repository share layers; a link has no value, and is put once.
            if self.links.insert(*blob) {
                self.write_later(keys::link(id, blob), Bytes::new()).await?;
                self.write_later(keys::blob_link(blob, id), Bytes::new()).await?;
            }
        }
        for blob in &content.lost {
            self.write_later(keys::reference(blob, id, &record.digest), Bytes::new()).await?;
        }
        for blob in &content.mentioned {
            self.write_later(keys::mention(blob, id, &record.digest), Bytes::new()).await?;
        }
        for child in manifest.children() {
            let listing = keys::listing(id, &child.digest, &record.digest);
            self.write_later(listing, Bytes::new()).await?;
        }
        Ok(())
    }

    async fn write(&mut self, key: Bytes, value: Bytes) -> Result<(), CatalogError> {
        let bytes = key.len() + value.len();
        let full = self.puts.len() >= self.keys_max
            || (self.bytes > 0 && self.bytes + bytes > self.bytes_max);
        if full {
            self.flush().await?;
        }
        self.bytes += bytes;
        self.puts.push((key, value));
        Ok(())
    }

    async fn write_later(&mut self, key: Bytes, value: Bytes) -> Result<(), CatalogError> {
        self.later_bytes += key.len() + value.len() + size_of::<(Bytes, Bytes)>();
        self.later.push((key, value));
        if self.later_bytes >= LATER_BYTES {
            self.write_held_back().await?;
        }
        Ok(())
    }

    async fn write_held_back(&mut self) -> Result<(), CatalogError> {
        self.later_bytes = 0;
        let mut later = std::mem::take(&mut self.later);
        later.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        for (key, value) in later {
            self.write(key, value).await?;
        }
        Ok(())
    }

    /// Sends what is gathered on its way.
    async fn flush(&mut self) -> Result<(), CatalogError> {
        if self.puts.is_empty() {
            return Ok(());
        }
        let mut puts = std::mem::replace(&mut self.puts, Vec::with_capacity(self.keys_max));
        // Neighbours are put one after the other. Of equal keys the last stays last.
        puts.sort_by(|a, b| a.0.cmp(&b.0));
        let bytes = std::mem::take(&mut self.bytes);
        while self.in_flight.len() >= IN_FLIGHT_MAX
            || (!self.in_flight.is_empty() && self.in_flight_bytes + bytes > IN_FLIGHT_BYTES)
        {
            self.settle().await?;
        }
        let store = self.store.clone();
        self.in_flight_bytes += bytes;
        self.in_flight.push(Box::pin(async move { (bytes, store.load(puts).await) }));
        // A future does nothing before it is polled: give the new one its start.
        while let Some(Some((bytes, outcome))) =
            futures_util::FutureExt::now_or_never(self.in_flight.next())
        {
            self.in_flight_bytes -= bytes;
            outcome?;
        }
        Ok(())
    }

    async fn settle(&mut self) -> Result<(), CatalogError> {
        if let Some((bytes, outcome)) = self.in_flight.next().await {
            self.in_flight_bytes -= bytes;
            outcome?;
        }
        Ok(())
    }

    /// Waits for what is on its way, whatever becomes of it, and drops the rest: nothing is written after this. To be
    /// called before [`Catalog::discard_restore`], which would otherwise run ahead of it.
    pub async fn abandon(mut self) {
        while self.in_flight.next().await.is_some() {}
    }

    /// Returns when everything put so far is durable. More may be put afterwards.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn finish(&mut self) -> Result<(), CatalogError> {
        self.write_held_back().await?;
        self.flush().await?;
        while !self.in_flight.is_empty() {
            self.settle().await?;
        }
        self.store.finish_load().await?;
        Ok(())
    }
}

impl Catalog {
    /// Whether there is anything in the store besides holds and the remains of an interrupted restore.
    pub async fn is_restorable(&self) -> Result<bool, CatalogError> {
        if self.get(&keys::restore()).await?.is_some() {
            return Ok(self.cluster().await?.is_none());
        }
        Ok(self.first_key().await?.is_none())
    }

    async fn first_key(&self) -> Result<Option<Bytes>, CatalogError> {
        let mut start = Bytes::from_static(&[0]);
        loop {
            let range =
                Range { start, end: Bytes::new(), limit: 2, keys_only: true, at: At::Latest };
            let Some(first) = self.store().range(range).await?.items.into_iter().next() else {
                return Ok(None);
            };
            if !first.key.starts_with(OWN) {
                return Ok(Some(first.key));
            }
            start = prefix_end(OWN);
        }
    }

    /// Begins a restore into an empty store, or into one that an interrupted restore left.
    ///
    /// # Errors
    /// [`CatalogError::Exists`] when there is anything else in it.
    pub async fn begin_restore(
        &self,
        record: &RestoreRecord,
    ) -> Result<RestoreStart, CatalogError> {
        if let Some(cluster) = self.cluster().await? {
            return Err(CatalogError::Exists { kind: "cluster", name: cluster.id.to_string() });
        }
        if self.get(&keys::restore()).await?.is_some() {
            self.put(record).await?;
            self.clear().await?;
            return Ok(RestoreStart::Cleaned);
        }
        if let Some(key) = self.first_key().await? {
            let name = String::from_utf8_lossy(&key).into_owned();
            return Err(CatalogError::Exists { kind: "record", name });
        }
        let transaction = Transaction::new().if_absent(keys::cluster()).create_record(record)?;
        match self.commit(transaction).await? {
            Outcome::Committed(_) => Ok(RestoreStart::Empty),
            Outcome::Conflict { .. } => Err(CatalogError::Contention("restore")),
        }
    }

    /// Removes everything but what the store keeps for itself and the mark of the restore, and forgets that it was there.
    async fn clear(&self) -> Result<(), CatalogError> {
        let mark = keys::restore();
        let limit = self.store().limits().operations_max;
        let mut start = Bytes::from_static(&[0]);
        let mut on_the_way = FuturesUnordered::new();
        loop {
            let range = Range {
                start: start.clone(),
                end: Bytes::new(),
                limit,
                keys_only: true,
                at: At::Latest,
            };
            let page = self.store().range(range).await?;
            let Some(last) = page.items.last() else { break };
            start = [&last.key[..], &[0]].concat().into();
            let transaction = page
                .items
                .into_iter()
                .filter(|kv| kv.key != *mark.bytes() && !kv.key.starts_with(OWN))
                .fold(Transaction::new(), |t, kv| t.delete(kv.key));
            on_the_way.push(self.store().commit(transaction));
            if on_the_way.len() >= IN_FLIGHT_MAX
                && let Some(outcome) = on_the_way.next().await
            {
                outcome?;
            }
        }
        while let Some(outcome) = on_the_way.next().await {
            outcome?;
        }
        let revision = self.store().revision().await?;
        hold::compact(&**self.store(), revision).await?;
        Ok(())
    }

    /// Gives a restore up: the store is as empty as it was before.
    ///
    /// # Errors
    /// When the store fails; the mark is then still there and the next restore cleans up.
    pub async fn discard_restore(&self) -> Result<(), CatalogError> {
        if self.cluster().await?.is_some() {
            return Ok(());
        }
        self.store().abandon_load().await?;
        self.clear().await?;
        self.commit(Transaction::new().delete(keys::restore())).await.map(drop)
    }

    /// Makes the restored store one that may be served, in one commit.
    ///
    /// # Errors
    /// [`CatalogError::Missing`] when no restore is under way.
    pub async fn finish_restore(
        &self,
        cluster: &ClusterRecord,
        settings: &Settings,
    ) -> Result<(), CatalogError> {
        let transaction = Transaction::new()
            .if_present(keys::restore())
            .create_record(cluster)?
            .put_record(settings)?
            .delete(keys::restore());
        match self.commit(transaction).await? {
            Outcome::Committed(_) => Ok(()),
            Outcome::Conflict { .. } => Err(CatalogError::Missing {
                kind: Kind::Restore.name(),
                name: cluster.id.to_string(),
            }),
        }
    }

    /// Takes away the record and the links of a blob whose bytes are nowhere, so that the next push of it stores it
    /// again. The references stay: the manifests still need it. Yields the repositories that had it.
    pub async fn forget_blob(&self, digest: &Digest) -> Result<Vec<RepositoryId>, CatalogError> {
        let names = self.all_names(&keys::blob_links(digest)).await?;
        self.delete_links(digest, None).await?;
        self.commit(Transaction::new().delete(keys::blob(digest))).await?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }
}
