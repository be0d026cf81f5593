//! The collector's commits. When to call them, and the removal of the bytes, is the collector's business (`jobs`); the
//! pusher's half of the protocol is in `links`.
//!
//! One blob goes like this: [`Catalog::condemn`] (a marker that makes every commit which would link the blob fail),
//! [`Catalog::examine_condemned`] (are there references? then the marker goes and nothing happened; else the links go),
//! the bytes are set aside, [`Catalog::begin_removal`] (the blob's record goes, if all is still as it was found), the bytes
//! that were set aside are removed, [`Catalog::finish_condemned`] (the marker says that they are).
//!
//! Interrupted anywhere, the marker tells what to do. Who goes on with the work of another takes its marker over first
//! ([`Catalog::take_condemned`]): from then on no commit of the other succeeds, should it still run, and what it had set
//! aside it puts back.

use std::collections::BTreeSet;

use bytes::Bytes;
use dtr_store::{At, Transaction, hold};
use dtr_types::{Digest, RepositoryId, Revision, Timestamp};

use crate::{
    Catalog, CatalogError, Kind, Page, TransactionExt as _, Versioned, keys,
    records::{Candidate, CondemnedRecord, CondemnedStage},
};

/// A blob that is marked for removal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condemned {
    /// The blob.
    pub digest: Digest,
    /// The revision of the marker.
    pub modified: Revision,
    /// How far it has come.
    pub stage: CondemnedStage,
    /// Since when.
    pub since: Timestamp,
}

/// A blob that was found to be needed by nobody.
#[derive(Clone, Debug)]
pub struct Removal {
    condemned: Condemned,
    /// The revisions of its record and of its candidate when that was found.
    blob: Option<(Revision, Option<Revision>)>,
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
    ///
    /// A mention counts where the blob is linked. When the links have gone under a marker, none can come, and a manifest that
    /// was pushed before they went has a reference: see `needs`.
    pub async fn is_referenced(&self, digest: &Digest) -> Result<bool, CatalogError> {
        Ok(self.any(&keys::references(digest)).await? || self.is_mentioned(digest).await?)
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
        let unchanged =
            Transaction::new().if_modified_at(keys::candidate(&digest), candidate.modified);
        self.mark_condemned(&digest, unchanged).await
    }

    /// Marks bytes for removal that no record speaks of. `None` when a record has appeared.
    pub async fn condemn_orphan(&self, digest: &Digest) -> Result<Option<Condemned>, CatalogError> {
        self.mark_condemned(digest, Transaction::new().if_absent(keys::blob(digest))).await
    }

    async fn mark_condemned(
        &self,
        digest: &Digest,
        transaction: Transaction,
    ) -> Result<Option<Condemned>, CatalogError> {
        let key = keys::condemned(digest);
        let transaction = match self.get(&key).await? {
            None => transaction.if_absent(&key),
            Some(found) if found.value.stage == CondemnedStage::Removed => {
                transaction.if_modified_at(&key, found.modified)
            }
            Some(_) => return Ok(None),
        };
        self.put_condemned(digest, CondemnedStage::Marked, transaction).await
    }

    async fn put_condemned(
        &self,
        digest: &Digest,
        stage: CondemnedStage,
        transaction: Transaction,
    ) -> Result<Option<Condemned>, CatalogError> {
        let (digest, since) = (*digest, self.now());
        let record = CondemnedRecord { digest, since, stage };
        let revision = self.commit(transaction.put_record(&record)?).await?.committed();
        Ok(revision.map(|modified| Condemned { digest, modified, stage, since }))
    }

    /// Blobs that are marked and not yet removed: what an interrupted collector left, or another that runs.
    pub async fn list_condemned(&self) -> Result<Vec<Condemned>, CatalogError> {
        let marked = self.all_condemned().await?;
        Ok(marked.into_iter().filter(|c| c.stage != CondemnedStage::Removed).collect())
    }

    async fn all_condemned(&self) -> Result<Vec<Condemned>, CatalogError> {
        let (mut all, mut after) = (Vec::<Condemned>::new(), None::<String>);
        loop {
            let prefix = Kind::Condemned.prefix().as_bytes();
            let page =
                self.list::<CondemnedRecord>(prefix, after.as_deref(), 0, At::Latest).await?;
            all.extend(page.items.into_iter().map(|found| {
                let CondemnedRecord { digest, since, stage } = found.value;
                Condemned { digest, modified: found.modified, stage, since }
            }));
            after = all.last().map(|last| last.digest.to_string());
            if !page.more {
                return Ok(all);
            }
        }
    }

    /// Forgets removals that had ended at a revision. Yields how many.
    pub async fn forget_removed(&self, at: Revision) -> Result<u64, CatalogError> {
        let mut forgotten = 0;
        for removed in self.all_condemned().await? {
            if removed.stage == CondemnedStage::Removed && removed.modified <= at {
                let key = keys::condemned(&removed.digest);
                let gone = Transaction::new().if_modified_at(&key, removed.modified).delete(&key);
                self.commit(gone).await?;
                forgotten += 1;
            }
        }
        Ok(forgotten)
    }

    /// Takes over what another collector began. `None` when that one, or a third, was faster.
    pub async fn take_condemned(
        &self,
        condemned: &Condemned,
    ) -> Result<Option<Condemned>, CatalogError> {
        let key = keys::condemned(&condemned.digest);
        let unchanged = Transaction::new().if_modified_at(key, condemned.modified);
        self.put_condemned(&condemned.digest, condemned.stage, unchanged).await
    }

    /// Finds out whether a marked blob is needed. `None` when it is, or is held: then nothing happened to it; or when the
    /// marker was taken over. Otherwise no manifest that needs it can be pushed any more.
    pub async fn examine_condemned(
        &self,
        condemned: &Condemned,
    ) -> Result<Option<Removal>, CatalogError> {
        let digest = &condemned.digest;
        let Some(blob) = self.get(&keys::blob(digest)).await? else {
            return Ok(Some(Removal { condemned: condemned.clone(), blob: None }));
        };
        let candidate = self.get(&keys::candidate(digest)).await?;
        let held = hold::oldest(&**self.store()).await?;
        let is_held = match (&candidate, held) {
            (Some(candidate), Some(held)) => candidate.modified >= held,
            (None, Some(_)) => true,
            (_, None) => false,
        };
        if is_held || self.is_referenced(digest).await? {
            self.spare(condemned).await?;
            return Ok(None);
        }
        // From here on a manifest that needs the blob cannot be pushed: the links it would be conditioned on go.
        if !self.delete_links(digest, Some(condemned)).await? {
            return Ok(None);
        }
        if self.is_referenced(digest).await? {
            self.spare(condemned).await?;
            return Ok(None);
        }
        let candidate = candidate.map(|found| found.modified);
        let blob = Some((blob.modified, candidate));
        Ok(Some(Removal { condemned: condemned.clone(), blob }))
    }

    /// Takes the blob's record away. `None` when something has changed since [`Self::examine_condemned`]: then the bytes
    /// that were set aside are to be put back, and [`Self::spare`] ends it. After `Some` nothing refers to the blob, links
    /// it or records it, and what was set aside before is to be removed.
    pub async fn begin_removal(
        &self,
        removal: &Removal,
    ) -> Result<Option<Condemned>, CatalogError> {
        let Removal { condemned, blob } = removal;
        let digest = &condemned.digest;
        let mut transaction =
            Transaction::new().if_modified_at(keys::condemned(digest), condemned.modified);
        // The candidate is as it was before the holds were read. So no reference has gone since, and a backup that began
        // since knows of none either.
        transaction = match blob {
            Some((blob, candidate)) => {
                let transaction = transaction
                    .if_modified_at(keys::blob(digest), *blob)
                    .delete(keys::blob(digest))
                    .delete(keys::damaged_blob(digest))
                    .delete(keys::candidate(digest));
                match candidate {
                    Some(found) => transaction.if_modified_at(keys::candidate(digest), *found),
                    None => transaction.if_absent(keys::candidate(digest)),
                }
            }
            None => transaction.if_absent(keys::blob(digest)),
        };
        self.put_condemned(digest, CondemnedStage::Removing, transaction).await
    }

    /// The bytes are gone: the marker says so, and a candidate that speaks of them goes.
    pub async fn finish_condemned(&self, condemned: &Condemned) -> Result<(), CatalogError> {
        let transaction = Transaction::new()
            .if_modified_at(keys::condemned(&condemned.digest), condemned.modified)
            .delete(keys::candidate(&condemned.digest));
        let removed = CondemnedStage::Removed;
        self.put_condemned(&condemned.digest, removed, transaction).await.map(drop)
    }

    /// Takes the marker away, with the links of all who need the blob in place. Without effect when it was taken over.
    pub async fn spare(&self, condemned: &Condemned) -> Result<(), CatalogError> {
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
        self.commit(transaction).await.map(drop)
    }

    /// Takes away all links of a blob; with a marker, only while that is unchanged: `false` when it is not.
    pub(crate) async fn delete_links(
        &self,
        digest: &Digest,
        condemned: Option<&Condemned>,
    ) -> Result<bool, CatalogError> {
        let repositories = self.all_names(&keys::blob_links(digest)).await?;
        let ids: Vec<RepositoryId> =
            repositories.iter().filter_map(|text| text.parse().ok()).collect();
        for chunk in ids.chunks((self.store().limits().operations_max / 3).max(1)) {
            let mut transaction = Transaction::new();
            if let Some(condemned) = condemned {
                transaction =
                    transaction.if_modified_at(keys::condemned(digest), condemned.modified);
            }
            let transaction = chunk.iter().fold(transaction, |t, repository| {
                t.delete(keys::link(repository, digest))
                    .delete(keys::unlinked_blob(repository, digest))
                    .delete(keys::blob_link(digest, repository))
            });
            if self.commit(transaction).await?.committed().is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
