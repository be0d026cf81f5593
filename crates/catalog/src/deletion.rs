//! Deleting tags and manifests, with all that hangs on them.

use dtr_store::{At, Outcome, Transaction};
use dtr_types::{Digest, Manifest, RepositoryId, Tag};

use crate::{
    Catalog, CatalogError, Kind, TransactionExt as _,
    catalog::ATTEMPTS_MAX,
    keys,
    records::{Candidate, DeletedManifest, Event, ManifestRecord, TagRecord},
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
            let mut transaction = Transaction::new()
                .if_modified_at(&key, found.modified)
                .delete(&key)
                .delete(keys::manifest_tag(repository, &found.value.digest, tag));
            if let Some(event) = event {
                transaction = transaction.event(event)?;
            }
            if self.commit(transaction).await?.committed().is_some() {
                return Ok(Some(found.value));
            }
        }
        Err(CatalogError::Contention("tag"))
    }

    /// Deletes a manifest, all tags that name it, and its references; blobs that lose their last reference become
    /// candidates for collection. Yields the tags that went with it, or `None` when it is not there.
    pub async fn delete_manifest(
        &self,
        repository: &RepositoryId,
        digest: &Digest,
        event: Option<&Event>,
    ) -> Result<Option<Vec<Tag>>, CatalogError> {
        let mut removed = Vec::new();
        for _ in 0..ATTEMPTS_MAX {
            let Some(found) = self.get_manifest(repository, digest).await? else {
                return Ok(None);
            };
            let blobs = match self.referenced_blobs(&found.value).await {
                Ok(blobs) => blobs,
                Err(error) if !self.has_changed(&found).await? => return Err(error),
                // Deleted by somebody else between the two reads.
                Err(_) => continue,
            };
            let prefix = keys::manifest_tags(repository, digest);
            let names = self.all_names(&prefix).await?;
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
            let inline = fixed + 2 * tags.len() + 2 * blobs.len() <= limit;
            let key = keys::manifest(repository, digest);
            // The mark of a push that is under way goes too: what it wrote ahead goes with this manifest.
            let mut transaction = Transaction::new()
                .if_modified_at(&key, found.modified)
                .delete(&key)
                .delete(keys::staged_manifest(repository, digest));
            for part in 0..found.value.parts {
                transaction = transaction.delete(keys::manifest_body(repository, digest, part));
            }
            if let Some(subject) = &found.value.subject {
                transaction = transaction.delete(keys::referrer(repository, subject, digest));
            }
            for tag in &tags {
                transaction = transaction
                    .delete(keys::tag(repository, tag))
                    .delete(keys::manifest_tag(repository, digest, tag));
            }
            if let Some(event) = event {
                transaction = transaction.event(event)?;
            }
            let left = DeletedManifest { repository: repository.clone(), digest: *digest, blobs };
            transaction = if inline {
                self.drop_references(&left, &left.blobs, transaction)?
            } else {
                transaction.put_record(&left)?
            };
            // A push of the same manifest, or of a tag for it, writes its record, so the condition on it covers the
            // tags too; a tag that moved away meanwhile is protected by its own condition.
            for tag in &tags {
                let found = self.get_tag(repository, tag).await?;
                let ours = found.filter(|found| found.value.digest == *digest);
                if let Some(found) = ours {
                    transaction =
                        transaction.if_modified_at(keys::tag(repository, tag), found.modified);
                } else {
                    transaction
                        .writes
                        .retain(|write| *write.key() != *keys::tag(repository, tag).bytes());
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
        let left = &found.value;
        let under_way = || Transaction::new().if_modified_at(&key, found.modified);
        let chunk = (self.store().limits().operations_max / 2).max(1);
        for blobs in left.blobs.chunks(chunk) {
            let transaction = self.drop_references(left, blobs, under_way())?;
            if self.commit(transaction).await?.committed().is_none() {
                return Ok(());
            }
        }
        self.commit(under_way().delete(&key)).await.map(drop)
    }

    /// Manifests whose references are still to be dropped, after an interruption.
    pub async fn deleted_manifests(&self) -> Result<Vec<DeletedManifest>, CatalogError> {
        self.all(Kind::DeletedManifest.prefix().as_bytes()).await
    }

    fn drop_references(
        &self,
        left: &DeletedManifest,
        blobs: &[Digest],
        mut transaction: Transaction,
    ) -> Result<Transaction, CatalogError> {
        let since = self.now();
        for blob in blobs {
            transaction = transaction
                .delete(keys::reference(blob, &left.repository, &left.digest))
                .put_record(&Candidate { digest: *blob, since })?;
        }
        Ok(transaction)
    }

    /// Every blob that a stored manifest may have references to: its blobs, and the entries of an index, which may be
    /// blobs.
    pub(crate) async fn referenced_blobs(
        &self,
        record: &ManifestRecord,
    ) -> Result<Vec<Digest>, CatalogError> {
        let body = self.manifest_body(record, At::Latest).await?;
        let manifest = Manifest::parse(Some(record.media_type.as_str()), &body).map_err(|e| {
            CatalogError::Record {
                kind: "manifest",
                key: format!("{}@{}", record.repository, record.digest),
                reason: e.to_string(),
            }
        })?;
        let mut blobs: Vec<Digest> = manifest.blobs().iter().map(|d| d.digest).collect();
        for child in manifest.children() {
            let key = keys::reference(&child.digest, &record.repository, &record.digest);
            if self.store().get(&key, At::Latest).await?.is_some() {
                blobs.push(child.digest);
            }
        }
        Ok(blobs)
    }
}
