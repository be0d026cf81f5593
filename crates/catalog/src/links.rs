//! Blobs and links: the commits that make stored bytes readable through a repository, in step with the collector.
//!
//! The rules that keep a blob from vanishing under a push (the collector's half is in `collect`):
//! 1. Whoever stores bytes first reads the blob's record and condemned marker ([`Catalog::check_link`]).
//! 2. Then the bytes are published, whatever the record says: what the storage has may be lost or damaged, and these are
//!    proven. Present: [`Catalog::link_blob`] demands that the blob's record has not changed. Absent:
//!    [`Catalog::link_new_blob`] demands that it is still absent. Either forgets what was known of a damage.
//! 3. Both demand that no marker is there, and both renew the candidate, which makes a condemnation in flight fail.
//! 4. A marker of a removal that has ended stays for a while. Who saw none, or an older one, before the bytes were
//!    published cannot commit: what was published may have been removed in between.
//!
//! So a commit that succeeds proves that no collector was removing the bytes it speaks of, and that none will for a
//! whole grace period.

use bytes::Bytes;
use dtr_store::{At, Transaction};
use dtr_types::{Digest, RepositoryId, Revision, UploadId};

use crate::{
    Catalog, CatalogError, Kind, TransactionExt as _,
    catalog::ATTEMPTS_MAX,
    keys,
    records::{BlobRecord, Candidate, CondemnedStage, Event, UnlinkedBlob},
};

/// What is known of a blob before it is linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkCheck {
    /// It is not stored: publish the bytes, then [`Catalog::link_new_blob`].
    Absent {
        /// The revision at which its last removal ended, if that was not long ago.
        removed: Option<Revision>,
    },
    /// It has a record: publish the bytes, in the place of what may be damaged, then [`Catalog::link_blob`] with this
    /// revision.
    Present {
        /// Its size in bytes, by the record.
        size: u64,
        /// The revision of its record.
        modified: Revision,
    },
    /// It is just being removed: wait a moment and check again.
    Condemned,
}

impl Catalog {
    /// A hint that an upload is about to end as this blob.
    pub async fn prefetch_upload(&self, upload: &UploadId, digest: &Digest) {
        self.store().prefetch(&[keys::upload(upload).into(), keys::blob(digest).into()]).await;
    }

    /// Reads what must be known before a blob is linked.
    pub async fn check_link(&self, digest: &Digest) -> Result<LinkCheck, CatalogError> {
        // The marker is read last: one that appears after the blob's record was read is then seen here, or makes
        // the commit fail.
        let blob = self.get(&keys::blob(digest)).await?;
        let removed = match self.get(&keys::condemned(digest)).await? {
            Some(found) if found.value.stage == CondemnedStage::Removed => Some(found.modified),
            Some(_) => return Ok(LinkCheck::Condemned),
            None => None,
        };
        Ok(match blob {
            Some(found) => LinkCheck::Present { size: found.value.size, modified: found.modified },
            None => LinkCheck::Absent { removed },
        })
    }

    /// The next digest, in order, of a blob that a manifest needs, whether it is stored or not.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn next_needed(
        &self,
        after: Option<&Digest>,
    ) -> Result<Option<Digest>, CatalogError> {
        let mut after = after.map(|after| format!("{after}0"));
        loop {
            let page = self.names(keys::REFERENCES.as_bytes(), after.as_deref(), 1, At::Latest);
            let Some(name) = page.await?.items.into_iter().next() else { return Ok(None) };
            let digest = name.split('/').next().and_then(|text| text.parse().ok());
            if digest.is_some() {
                return Ok(digest);
            }
            after = Some(name);
        }
    }

    /// The repositories that have a manifest which needs a blob, in order.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn needing(&self, digest: &Digest) -> Result<Vec<RepositoryId>, CatalogError> {
        let names = self.all_names(&keys::references(digest)).await?;
        let mut all: Vec<RepositoryId> =
            names.iter().filter_map(|name| name.split('/').next()?.parse().ok()).collect();
        all.dedup();
        Ok(all)
    }

    /// Links a blob that has a record and whose bytes were published after [`Catalog::check_link`]. `extra` joins the same
    /// commit (such as the end of an upload). `false` when things changed since: check again, and publish again.
    pub async fn link_blob(
        &self,
        repository: &RepositoryId,
        digest: &Digest,
        modified: Revision,
        extra: Transaction,
    ) -> Result<bool, CatalogError> {
        let transaction =
            extra.if_modified_at(keys::blob(digest), modified).delete(keys::damaged_blob(digest));
        self.commit_link(repository, digest, transaction).await
    }

    /// Records a blob whose bytes were published after [`Catalog::check_link`] found it absent (`removed` is what it said),
    /// and links it. `false` when things changed since: check again, and publish again.
    pub async fn link_new_blob(
        &self,
        repository: &RepositoryId,
        digest: &Digest,
        size: u64,
        removed: Option<Revision>,
        extra: Transaction,
    ) -> Result<bool, CatalogError> {
        let blob = BlobRecord { digest: *digest, size, stored_at: self.now() };
        let transaction = extra.create_record(&blob)?.delete(keys::damaged_blob(digest));
        let transaction = match removed {
            Some(removed) => {
                let key = keys::condemned(digest);
                transaction.if_modified_at(&key, removed).delete(&key)
            }
            None => transaction.if_absent(keys::condemned(digest)),
        };
        self.put_link(repository, digest, transaction).await
    }

    /// Makes a blob of one repository readable through another. `false` when the source does not link it (any more).
    ///
    /// # Errors
    /// [`CatalogError::Condemned`] when it is being removed.
    pub async fn mount_blob(
        &self,
        from: &RepositoryId,
        to: &RepositoryId,
        digest: &Digest,
    ) -> Result<bool, CatalogError> {
        let LinkCheck::Present { modified, .. } = self.check_link(digest).await? else {
            return Ok(false);
        };
        let transaction = Transaction::new()
            .if_present(keys::link(from, digest))
            .if_modified_at(keys::blob(digest), modified);
        self.commit_link(to, digest, transaction).await
    }

    async fn commit_link(
        &self,
        repository: &RepositoryId,
        digest: &Digest,
        transaction: Transaction,
    ) -> Result<bool, CatalogError> {
        self.put_link(repository, digest, transaction.if_absent(keys::condemned(digest))).await
    }

    async fn put_link(
        &self,
        repository: &RepositoryId,
        digest: &Digest,
        transaction: Transaction,
    ) -> Result<bool, CatalogError> {
        let candidate = Candidate { digest: *digest, since: self.now() };
        let transaction = transaction
            .content()
            .if_present(keys::repository(repository))
            .put(keys::link(repository, digest), Bytes::new())
            .put(keys::blob_link(digest, repository), Bytes::new())
            .put_record(&candidate)?;
        Ok(self.commit(transaction).await?.committed().is_some())
    }

    /// Repositories through which a blob may be read, at most `limit` of them.
    pub async fn repositories_with(
        &self,
        digest: &Digest,
        limit: usize,
    ) -> Result<Vec<RepositoryId>, CatalogError> {
        let page = self.names(&keys::blob_links(digest), None, limit, At::Latest).await?;
        Ok(page.items.iter().filter_map(|text| text.parse().ok()).collect())
    }

    /// A blob's record, if it may be read through the repository.
    pub async fn linked_blob(
        &self,
        repository: &RepositoryId,
        digest: &Digest,
    ) -> Result<Option<BlobRecord>, CatalogError> {
        let link = self.store().get(&keys::link(repository, digest), At::Latest).await?;
        if link.is_none() && self.get(&keys::unlinked_blob(repository, digest)).await?.is_none() {
            return Ok(None);
        }
        Ok(self.get(&keys::blob(digest)).await?.map(|found| found.value))
    }

    /// Takes a blob away from a repository. `false` when it does not have it.
    ///
    /// In two steps, since references cannot be looked for within a transaction: the first makes every push that needs
    /// the link fail, the second sees what was pushed before that. Between the two the blob stays readable.
    ///
    /// # Errors
    /// [`CatalogError::BlobInUse`] when one of its manifests needs the blob.
    pub async fn unlink_blob(
        &self,
        repository: &RepositoryId,
        digest: &Digest,
        event: Option<&Event>,
    ) -> Result<bool, CatalogError> {
        let link = keys::link(repository, digest);
        for _ in 0..ATTEMPTS_MAX {
            let Some(found) = self.store().get(&link, At::Latest).await? else {
                // The first step was done, and the second interrupted: the blob can still be read.
                let begun = self.get(&keys::unlinked_blob(repository, digest)).await?.is_some();
                if begun {
                    self.finish_unlink(repository, digest, event).await?;
                }
                return Ok(begun);
            };
            // It is linked, so what names it as content that may be absent has it.
            if self.any(&keys::references_in(digest, repository)).await?
                || self.any(&keys::mentions_in(digest, repository)).await?
            {
                return Err(CatalogError::BlobInUse(*digest));
            }
            let unlinked =
                UnlinkedBlob { repository: repository.clone(), digest: *digest, since: self.now() };
            let first = Transaction::new()
                .if_modified_at(link.clone(), found.modified)
                .delete(link.clone())
                .put_record(&unlinked)?;
            if self.commit(first).await?.committed().is_some() {
                return self.finish_unlink(repository, digest, event).await.map(|()| true);
            }
        }
        Err(CatalogError::Contention("link"))
    }

    /// The second step of [`Self::unlink_blob`]; may be called again at any time.
    ///
    /// # Errors
    /// [`CatalogError::BlobInUse`] when a manifest needs the blob: it is linked again.
    async fn finish_unlink(
        &self,
        repository: &RepositoryId,
        digest: &Digest,
        event: Option<&Event>,
    ) -> Result<(), CatalogError> {
        let key = keys::unlinked_blob(repository, digest);
        let link = keys::link(repository, digest);
        let blob_link = keys::blob_link(digest, repository);
        for _ in 0..ATTEMPTS_MAX {
            let Some(found) = self.get(&key).await? else { return Ok(()) };
            let transaction = Transaction::new().if_modified_at(&key, found.modified).delete(&key);
            if self.any(&keys::references_in(digest, repository)).await? {
                // Not while the collector is deciding about it: that looks for references too, and links it again.
                let back = transaction
                    .if_present(keys::repository(repository))
                    .if_absent(keys::condemned(digest))
                    .put(link.clone(), Bytes::new())
                    .put(blob_link.clone(), Bytes::new());
                if self.commit(back).await?.committed().is_some() {
                    return Err(CatalogError::BlobInUse(*digest));
                }
            } else if self.store().get(&link, At::Latest).await?.is_some() {
                // Linked again by an upload since.
                if self.commit(transaction).await?.committed().is_some() {
                    return Ok(());
                }
            } else {
                let candidate = Candidate { digest: *digest, since: self.now() };
                let mut gone = transaction
                    .if_absent(link.clone())
                    .delete(blob_link.clone())
                    .put_record(&candidate)?;
                if let Some(event) = event {
                    gone = gone.event(event)?;
                }
                if self.commit(gone).await?.committed().is_some() {
                    return Ok(());
                }
            }
        }
        Err(CatalogError::Contention("link"))
    }

    /// Brings to their end the removals of links that were interrupted. Yields how many.
    pub async fn finish_unlinked_blobs(&self) -> Result<u64, CatalogError> {
        let left: Vec<UnlinkedBlob> = self.all(Kind::UnlinkedBlob.prefix().as_bytes()).await?;
        let mut finished = 0;
        for unlinked in left {
            match self.finish_unlink(&unlinked.repository, &unlinked.digest, None).await {
                Ok(()) | Err(CatalogError::BlobInUse(_)) => finished += 1,
                // The collector is at it; the next time will do.
                Err(CatalogError::Contention(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(finished)
    }

    /// Takes all blobs away from a repository that was deleted.
    pub(crate) async fn unlink_all(&self, repository: &RepositoryId) -> Result<(), CatalogError> {
        for name in self.all_names(&keys::unlinked_blobs(repository)).await? {
            let Ok(digest) = name.parse::<Digest>() else { continue };
            let candidate = Candidate { digest, since: self.now() };
            let gone = Transaction::new()
                .delete(keys::unlinked_blob(repository, &digest))
                .delete(keys::blob_link(&digest, repository))
                .put_record(&candidate)?;
            self.commit(gone).await?;
        }
        let limit = (self.store().limits().operations_max / 3).max(1);
        loop {
            let page = self.names(&keys::links(repository), None, limit, At::Latest).await?;
            if page.items.is_empty() {
                return Ok(());
            }
            let mut transaction = Transaction::new();
            for digest in page.items.iter().filter_map(|text| text.parse::<Digest>().ok()) {
                transaction = transaction
                    .delete(keys::link(repository, &digest))
                    .delete(keys::blob_link(&digest, repository))
                    .put_record(&Candidate { digest, since: self.now() })?;
            }
            self.commit(transaction).await?;
        }
    }
}
