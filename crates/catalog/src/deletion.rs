//! Deleting tags and manifests, with all that hangs on them.

use dtr_store::{Outcome, Transaction};
use dtr_types::{Digest, RepositoryId, Revision, Tag};

use crate::{
    Catalog, CatalogError, Kind, TransactionExt as _, Versioned,
    catalog::ATTEMPTS_MAX,
    keys,
    needs::Hanging,
    records::{DeletedManifest, Event, TagRecord},
};

impl Catalog {
    /// Deletes a tag; its manifest stays. Yields what it named, or `None` when it is not there.
    pub async fn delete_tag(
        &self,
        repository: &RepositoryId,
        tag: &Tag,
        event: Option<&Event>,
    ) -> Result<Option<TagRecord>, CatalogError> {
        let key = keys::tag(repository, tag);
        for _ in 0..ATTEMPTS_MAX {
            let Some(found) = self.get(&key).await? else { return Ok(None) };
            let mut transaction = Self::without_tag(Transaction::new(), &found);
            if let Some(event) = event {
                transaction = transaction.event(event)?;
            }
            if self.commit(transaction).await?.committed().is_some() {
                return Ok(Some(found.value));
            }
        }
        Err(CatalogError::Contention("tag"))
    }

    /// Adds to a transaction that a tag goes, if it is as it was read.
    pub(crate) fn without_tag(
        transaction: Transaction,
        found: &Versioned<TagRecord>,
    ) -> Transaction {
        let tag = &found.value;
        let key = keys::tag(&tag.repository, &tag.name);
        transaction.if_modified_at(&key, found.modified).delete(&key).delete(keys::manifest_tag(
            &tag.repository,
            &tag.digest,
            &tag.name,
        ))
    }

    /// Deletes a manifest, all tags that name it, and its references; blobs that lose their last reference become
    /// candidates for collection. Yields the tags that went with it, or `None` when it is not there.
    ///
    /// # Errors
    /// [`CatalogError::Listed`] when an index of the repository lists it, tagged or not, also one that is pushed at the
    /// same moment: what an index lists stays pullable as long as the index is there.
    pub async fn delete_manifest(
        &self,
        repository: &RepositoryId,
        digest: &Digest,
        event: Option<&Event>,
    ) -> Result<Option<Vec<Tag>>, CatalogError> {
        self.remove_manifest(repository, digest, event, false).await
    }

    /// [`Self::delete_manifest`]; with `all` of a repository that is deleted, in which nothing needs to stay whole.
    pub(crate) async fn remove_manifest(
        &self,
        repository: &RepositoryId,
        digest: &Digest,
        event: Option<&Event>,
        all: bool,
    ) -> Result<Option<Vec<Tag>>, CatalogError> {
        let mut removed = Vec::new();
        for _ in 0..ATTEMPTS_MAX {
            let Some(found) = self.get_manifest(repository, digest).await? else {
                return Ok(None);
            };
            if !all {
                self.refuse_listed(repository, digest).await?;
            }
            let hanging = match self.hanging(&found.value).await {
                Ok(hanging) => hanging,
                Err(error) if !self.has_changed(&found).await? => return Err(error),
                // Deleted by somebody else between the two reads.
                Err(_) => continue,
            };
            let prefix = keys::manifest_tags(repository, digest);
            let (names, seen) = self.all_names_at(&prefix).await?;
            let mut tags: Vec<Tag> = names.iter().filter_map(|name| name.parse().ok()).collect();
            let limit = self.store().limits().operations_max;
            let fixed = 8 + found.value.parts as usize;
            // Tags beyond what one transaction takes go first, each on its own: half of a large deletion is visible
            // as fewer tags, never as a tag without its manifest.
            while !tags.is_empty() && fixed + 2 * tags.len() > limit {
                let Some(tag) = tags.pop() else { break };
                if self.delete_tag(repository, &tag, None).await?.is_some() {
                    removed.push(tag);
                }
            }
            let inline = fixed + 2 * tags.len() + hanging.writes() <= limit;
            let key = keys::manifest(repository, digest);
            // A push of a tag for it does not write its record, nor does one of an index that lists it.
            let mut transaction = Transaction::new()
                .if_modified_at(&key, found.modified)
                .if_none_put_since(prefix, seen);
            if !all {
                let listings = keys::listings(repository, digest);
                transaction = transaction.if_none_put_since(listings, Revision::ZERO);
            }
            // The mark of a push that is under way goes too: what it wrote ahead goes with this manifest.
            transaction =
                transaction.delete(&key).delete(keys::staged_manifest(repository, digest));
            for part in 0..found.value.parts {
                transaction = transaction.delete(keys::manifest_body(repository, digest, part));
            }
            if let Some(subject) = &found.value.subject {
                transaction = transaction.delete(keys::referrer(repository, subject, digest));
            }
            if let Some(event) = event {
                transaction = transaction.event(event)?;
            }
            transaction = if inline {
                let drops = self.drops(repository, digest, &hanging, 0)?;
                let writes = drops.into_iter().flat_map(|part| part.writes);
                transaction.writes.extend(writes);
                transaction
            } else {
                let Hanging { blobs, mentioned, listed } = hanging;
                let (repository, digest) = (repository.clone(), *digest);
                transaction.put_record(&DeletedManifest {
                    repository,
                    digest,
                    blobs,
                    mentioned,
                    listed,
                })?
            };
            for tag in &tags {
                transaction = transaction.delete(keys::manifest_tag(repository, digest, tag));
                // A tag that moved away meanwhile stays.
                let found = self.get_tag(repository, tag).await?;
                if let Some(found) = found.filter(|found| found.value.digest == *digest) {
                    let key = keys::tag(repository, tag);
                    transaction = transaction.if_modified_at(&key, found.modified).delete(&key);
                }
            }
            if let Outcome::Committed(_) = self.commit(transaction).await? {
                if !inline {
                    self.finish_deleted_manifest(repository, digest).await?;
                }
                removed.extend(tags);
                return Ok(Some(removed));
            }
        }
        Err(CatalogError::Contention("manifest"))
    }

    /// Drops the references of a manifest that was deleted with too many of them for one transaction. May be called
    /// again at any time. While it is under way the manifest cannot be pushed again, so what is dropped is never that
    /// of a new one.
    pub async fn finish_deleted_manifest(
        &self,
        repository: &RepositoryId,
        digest: &Digest,
    ) -> Result<(), CatalogError> {
        let key = keys::deleted_manifest(repository, digest);
        let Some(found) = self.get(&key).await? else { return Ok(()) };
        let DeletedManifest { blobs, mentioned, listed, .. } = found.value;
        let hanging = Hanging { blobs, mentioned, listed };
        for part in self.drops(repository, digest, &hanging, 0)? {
            let transaction = part.if_modified_at(&key, found.modified);
            if self.commit(transaction).await?.committed().is_none() {
                return Ok(());
            }
        }
        let last = Transaction::new().if_modified_at(&key, found.modified).delete(&key);
        self.commit(last).await.map(drop)
    }

    /// Manifests whose references are still to be dropped, after an interruption.
    pub async fn deleted_manifests(&self) -> Result<Vec<DeletedManifest>, CatalogError> {
        self.all(Kind::DeletedManifest.prefix().as_bytes()).await
    }
}
