//! The collector's commits. When to call them, and the removal of the bytes, is the collector's business (`jobs`); the
//! pusher's half of the protocol is in `links`.
//!
//! One blob goes like this: [`Catalog::condemn`] (a marker that makes every commit which would link the blob fail),
//! [`Catalog::decide_condemned`] (are there references? then the marker goes and nothing happened; else the links and
//! the blob's record go), the bytes are removed, [`Catalog::finish_condemned`] (the marker goes). Interrupted anywhere,
//! the marker tells what to do: with the blob's record still there the decision is made anew, without it the bytes are
//! removed.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use dtr_store::{At, Transaction, hold};
use dtr_types::{Digest, RepositoryId, Revision};

use crate::{
    Catalog, CatalogError, Kind, Page, TransactionExt as _, Versioned, keys,
    records::{Candidate, CondemnedRecord},
};

/// A blob that is marked for removal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condemned {
    /// The blob.
    pub digest: Digest,
    /// The revision of the marker.
    pub modified: Revision,
}

/// What [`Catalog::decide_condemned`] decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CondemnedState {
    /// It is needed, or held: nothing happened to it.
    Spared,
    /// Nothing knows of it any more: remove its bytes, then [`Catalog::finish_condemned`].
    Remove,
}

impl Catalog {
    /// A page of the candidates, in order of their digests.
    pub async fn list_candidates(
        &self,
        after: Option<&Digest>,
        limit: usize,
    ) -> Result<Page<Versioned<Candidate>>, CatalogError> {
        let after = after.map(Digest::to_string);
        self.list(Kind::Candidate.prefix().as_bytes(), after.as_deref(), limit, At::Latest).await
    }

    /// Whether a manifest needs the blob. References that were staged for a manifest which never came are dropped once
    /// they are older than `grace`.
    pub async fn is_referenced(
        &self,
        digest: &Digest,
        grace: Duration,
    ) -> Result<bool, CatalogError> {
        Ok(!self.referring_repositories(digest, grace, true).await?.is_empty())
    }

    async fn referring_repositories(
        &self,
        digest: &Digest,
        grace: Duration,
        first_only: bool,
    ) -> Result<BTreeSet<RepositoryId>, CatalogError> {
        let prefix = keys::references(digest);
        let mut found = BTreeSet::new();
        for name in self.all_names(&prefix).await? {
            let parsed = name.split_once('/').and_then(|(repository, manifest)| {
                Some((repository.parse().ok()?, manifest.parse().ok()?))
            });
            let Some((repository, manifest)): Option<(RepositoryId, Digest)> = parsed else {
                continue;
            };
            if self.get_manifest(&repository, &manifest).await?.is_none() {
                let key = keys::reference(digest, &repository, &manifest);
                let staged = self.store().get(&key, At::Latest).await?;
                let fresh = staged.as_ref().is_some_and(|kv| self.is_fresh(&kv.value, grace));
                if !fresh {
                    if let Some(kv) = staged {
                        let drop_it = Transaction::new()
                            .if_modified_at(key.clone(), kv.modified)
                            .if_absent(keys::manifest(&repository, &manifest))
                            .delete(key);
                        self.commit(drop_it).await?;
                    }
                    continue;
                }
            }
            found.insert(repository);
            if first_only {
                break;
            }
        }
        Ok(found)
    }

    fn is_fresh(&self, staged_at: &Bytes, grace: Duration) -> bool {
        let millis = std::str::from_utf8(staged_at).ok().and_then(|text| text.parse().ok());
        millis.is_some_and(|millis| {
            self.now().since(dtr_types::Timestamp::from_millis(millis)) < grace
        })
    }

    /// Takes a blob that is needed off the list, unless it was put there again meanwhile.
    pub async fn clear_candidate(
        &self,
        candidate: &Versioned<Candidate>,
    ) -> Result<(), CatalogError> {
        let key = keys::candidate(&candidate.value.digest);
        let transaction = Transaction::new().if_modified_at(&key, candidate.modified).delete(&key);
        self.commit(transaction).await.map(drop)
    }

    /// Marks a candidate for removal. `None` when it changed since it was read, so somebody just linked the blob.
    pub async fn condemn(
        &self,
        candidate: &Versioned<Candidate>,
    ) -> Result<Option<Condemned>, CatalogError> {
        let digest = candidate.value.digest;
        let record = CondemnedRecord { digest, since: self.now() };
        let transaction = Transaction::new()
            .if_modified_at(keys::candidate(&digest), candidate.modified)
            .create_record(&record)?;
        let revision = self.commit(transaction).await?.committed();
        Ok(revision.map(|modified| Condemned { digest, modified }))
    }

    /// Marks bytes for removal that no record speaks of. `None` when a record has appeared.
    pub async fn condemn_orphan(&self, digest: &Digest) -> Result<Option<Condemned>, CatalogError> {
        let record = CondemnedRecord { digest: *digest, since: self.now() };
        let transaction =
            Transaction::new().if_absent(keys::blob(digest)).create_record(&record)?;
        let revision = self.commit(transaction).await?.committed();
        Ok(revision.map(|modified| Condemned { digest: *digest, modified }))
    }

    /// Blobs that are marked: what an interrupted collector left, when no other is running.
    pub async fn list_condemned(&self) -> Result<Vec<Condemned>, CatalogError> {
        let page =
            self.list::<CondemnedRecord>(Kind::Condemned.prefix().as_bytes(), None, 0, At::Latest);
        let marked = page.await?.items;
        Ok(marked
            .into_iter()
            .map(|found| Condemned { digest: found.value.digest, modified: found.modified })
            .collect())
    }

    /// Decides about a marked blob. After [`CondemnedState::Remove`] nothing refers to it, links it or records it.
    pub async fn decide_condemned(
        &self,
        condemned: &Condemned,
        grace: Duration,
    ) -> Result<CondemnedState, CatalogError> {
        let digest = &condemned.digest;
        let Some(blob) = self.get(&keys::blob(digest)).await? else {
            return Ok(CondemnedState::Remove);
        };
        let candidate = self.get(&keys::candidate(digest)).await?;
        let held = hold::oldest(&**self.store(), self.now()).await?;
        let is_held = match (&candidate, held) {
            (Some(candidate), Some(held)) => candidate.modified >= held,
            (None, Some(_)) => true,
            (_, None) => false,
        };
        if is_held || self.is_referenced(digest, grace).await? {
            return self.spare(condemned, grace).await;
        }
        // From here on a manifest that needs the blob cannot be pushed: the links it would be conditioned on go.
        self.delete_links(digest).await?;
        if self.is_referenced(digest, grace).await? {
            return self.spare(condemned, grace).await;
        }
        let transaction = Transaction::new()
            .if_modified_at(keys::condemned(digest), condemned.modified)
            .if_modified_at(keys::blob(digest), blob.modified)
            .delete(keys::blob(digest))
            .delete(keys::candidate(digest));
        match self.commit(transaction).await?.committed() {
            Some(_) => Ok(CondemnedState::Remove),
            None => self.spare(condemned, grace).await,
        }
    }

    /// The bytes are gone: so is the marker.
    pub async fn finish_condemned(&self, condemned: &Condemned) -> Result<(), CatalogError> {
        let key = keys::condemned(&condemned.digest);
        let transaction = Transaction::new().if_modified_at(&key, condemned.modified).delete(&key);
        self.commit(transaction).await.map(drop)
    }

    /// Takes the marker away, with the links of all who need the blob in place.
    async fn spare(
        &self,
        condemned: &Condemned,
        grace: Duration,
    ) -> Result<CondemnedState, CatalogError> {
        let digest = &condemned.digest;
        let users: Vec<_> =
            self.referring_repositories(digest, grace, false).await?.into_iter().collect();
        for chunk in users.chunks((self.store().limits().operations_max / 2).max(1)) {
            let transaction = chunk.iter().fold(Transaction::new(), |t, repository| {
                t.put(keys::link(repository, digest), Bytes::new())
                    .put(keys::blob_link(digest, repository), Bytes::new())
            });
            self.commit(transaction).await?;
        }
        let key = keys::condemned(digest);
        let transaction = Transaction::new()
            .if_modified_at(&key, condemned.modified)
            .delete(&key)
            .put_record(&Candidate { digest: *digest, since: self.now() })?;
        self.commit(transaction).await?;
        Ok(CondemnedState::Spared)
    }

    pub(crate) async fn delete_links(&self, digest: &Digest) -> Result<(), CatalogError> {
        let repositories = self.all_names(&keys::blob_links(digest)).await?;
        let ids: Vec<RepositoryId> =
            repositories.iter().filter_map(|text| text.parse().ok()).collect();
        for chunk in ids.chunks((self.store().limits().operations_max / 2).max(1)) {
            let transaction = chunk.iter().fold(Transaction::new(), |t, repository| {
                t.delete(keys::link(repository, digest)).delete(keys::blob_link(digest, repository))
            });
            self.commit(transaction).await?;
        }
        Ok(())
    }
}
