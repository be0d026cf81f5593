//! The collector's commits. When to call them, and the removal of the bytes, is the collector's business (`jobs`); the
//! pusher's half of the protocol is in `links`.
//!
//! One blob goes like this: [`Catalog::condemn`] (a marker that makes every commit which would link the blob fail),
//! [`Catalog::decide_condemned`] (are there references? then the marker goes and nothing happened; else the links and
//! the blob's record go), the bytes are removed, [`Catalog::finish_condemned`] (the marker goes). Interrupted anywhere,
//! the marker tells what to do: with the blob's record still there the decision is made anew, without it the bytes are
//! removed.

use std::collections::BTreeSet;

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

    /// Whether a manifest needs the blob: one that is there, one that is being pushed, or one that is being deleted. Each
    /// reference that goes makes its blob a candidate in the same transaction, so a blob that is needed now may leave
    /// the list.
    pub async fn is_referenced(&self, digest: &Digest) -> Result<bool, CatalogError> {
        self.any(&keys::references(digest)).await
    }

    async fn referring_repositories(
        &self,
        digest: &Digest,
    ) -> Result<BTreeSet<RepositoryId>, CatalogError> {
        let names = self.all_names(&keys::references(digest)).await?;
        let repository = |name: &String| name.split_once('/')?.0.parse().ok();
        Ok(names.iter().filter_map(repository).collect())
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
        if is_held || self.is_referenced(digest).await? {
            return self.spare(condemned).await;
        }
        // From here on a manifest that needs the blob cannot be pushed: the links it would be conditioned on go.
        self.delete_links(digest).await?;
        if self.is_referenced(digest).await? {
            return self.spare(condemned).await;
        }
        // The candidate is as it was before the holds were read. So no reference has gone since, and a backup that began
        // since knows of none either.
        let mut transaction = Transaction::new()
            .if_modified_at(keys::condemned(digest), condemned.modified)
            .if_modified_at(keys::blob(digest), blob.modified)
            .delete(keys::blob(digest));
        transaction = match &candidate {
            Some(found) => transaction.if_modified_at(keys::candidate(digest), found.modified),
            None => transaction.if_absent(keys::candidate(digest)),
        };
        match self.commit(transaction.delete(keys::candidate(digest))).await?.committed() {
            Some(_) => Ok(CondemnedState::Remove),
            None => self.spare(condemned).await,
        }
    }

    /// The bytes are gone: so is the marker, and a candidate that speaks of them.
    pub async fn finish_condemned(&self, condemned: &Condemned) -> Result<(), CatalogError> {
        let key = keys::condemned(&condemned.digest);
        let transaction = Transaction::new()
            .if_modified_at(&key, condemned.modified)
            .delete(&key)
            .delete(keys::candidate(&condemned.digest));
        self.commit(transaction).await.map(drop)
    }

    /// Takes the marker away, with the links of all who need the blob in place.
    async fn spare(&self, condemned: &Condemned) -> Result<CondemnedState, CatalogError> {
        let digest = &condemned.digest;
        for repository in self.referring_repositories(digest).await? {
            let link = Transaction::new()
                .if_present(keys::repository(&repository))
                .if_modified_at(keys::condemned(digest), condemned.modified)
                .put(keys::link(&repository, digest), Bytes::new())
                .put(keys::blob_link(digest, &repository), Bytes::new());
            self.commit(link).await?;
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
        for chunk in ids.chunks((self.store().limits().operations_max / 3).max(1)) {
            let transaction = chunk.iter().fold(Transaction::new(), |t, repository| {
                t.delete(keys::link(repository, digest))
                    .delete(keys::unlinked_blob(repository, digest))
                    .delete(keys::blob_link(digest, repository))
            });
            self.commit(transaction).await?;
        }
        Ok(())
    }
}
