//! Pushing a manifest that needs several transactions: what does not fit into the last one is written ahead, and shows
//! nowhere until that.
//!
//! The mark ([`StagedManifest`]) holds it together. What is written ahead is written only while the mark is unchanged,
//! the last transaction demands the same and removes it, and so does everything that takes away what was written: a
//! deletion of the manifest, and the giving up of a push that never ended. So a last transaction that succeeds proves
//! that all that was written is there. Several pushes of one manifest share the mark, for they write the same.

use bytes::Bytes;
use dtr_store::{Outcome, Transaction};
use dtr_types::{RepositoryId, Revision};

use crate::{
    Catalog, CatalogError, Kind, PutManifest, TransactionExt as _, Versioned, keys,
    manifests::repository_gone,
    needs::{Hanging, Need, WRITTEN_AHEAD},
    records::{DeletedManifest, StagedManifest},
};

/// What is to be written ahead of a manifest.
pub(crate) struct Ahead<'a> {
    /// Its bytes, if they are several values.
    pub(crate) parts: &'a [Bytes],
    /// What it refers to, if that is too much for one transaction.
    pub(crate) needs: &'a [Need],
}

impl Catalog {
    /// Writes ahead; yields the mark that the last transaction must find unchanged, or `None` when something came
    /// between: start over.
    pub(crate) async fn stage_manifest(
        &self,
        put: &PutManifest<'_>,
        ahead: &Ahead<'_>,
    ) -> Result<Option<Revision>, CatalogError> {
        let id = &put.repository.id;
        let Some(mark) = self.staging_mark(put, ahead).await? else { return Ok(None) };
        let key = keys::staged_manifest(id, &put.digest);
        for (number, part) in (0..).zip(ahead.parts) {
            let body = keys::manifest_body(id, &put.digest, number);
            let write = Transaction::new().content();
            let write = write.if_modified_at(&key, mark).put(body, part.clone());
            if self.commit(write).await?.committed().is_none() {
                return Ok(None);
            }
        }
        let chunk = self.store().limits().operations_max.saturating_sub(1).max(1);
        for needs in ahead.needs.chunks(chunk) {
            let mut write = Transaction::new().content().if_modified_at(&key, mark);
            for need in needs {
                let ahead = Bytes::from_static(WRITTEN_AHEAD);
                write.conditions.extend(need.condition(id));
                write = write.put(need.key(id, &put.digest), ahead);
            }
            match self.commit(write).await? {
                Outcome::Committed(_) => {}
                Outcome::Conflict { condition: 0, .. } => return Ok(None),
                Outcome::Conflict { condition, .. } => {
                    // Nobody will push it with these: what was written is of no use.
                    let left = self.get(&key).await?.filter(|left| left.modified == mark);
                    if let Some(left) = left {
                        self.drop_staged_manifest(&left).await?;
                    }
                    let conditioned = |need: &&Need| need.condition(id).is_some();
                    let failed = needs.iter().filter(conditioned).nth(condition - 1);
                    return match failed.and_then(|need| need.refusal()) {
                        Some(refusal) => Err(refusal),
                        None => Ok(None),
                    };
                }
            }
        }
        Ok(Some(mark))
    }

    async fn staging_mark(
        &self,
        put: &PutManifest<'_>,
        ahead: &Ahead<'_>,
    ) -> Result<Option<Revision>, CatalogError> {
        let id = &put.repository.id;
        let Hanging { blobs, mentioned, listed } = Hanging::of(ahead.needs);
        if let Some(found) = self.get(&keys::staged_manifest(id, &put.digest)).await? {
            // A push that writes other things ahead than this mark speaks of needs one of its own.
            let StagedManifest {
                blobs: of_blobs, mentioned: of_mentioned, listed: of_listed, ..
            } = &found.value;
            let is_same = (of_blobs, of_mentioned, of_listed) == (&blobs, &mentioned, &listed);
            if is_same || ahead.needs.is_empty() {
                return Ok(Some(found.modified));
            }
            self.drop_staged_manifest(&found).await?;
        }
        let record = StagedManifest {
            repository: id.clone(),
            digest: put.digest,
            blobs,
            mentioned,
            listed,
            since: self.now(),
        };
        let create = Transaction::new()
            .content()
            .if_present(keys::repository(id))
            .if_absent(keys::deleted_manifest(id, &put.digest))
            .create_record(&record)?;
        match self.commit(create).await? {
            Outcome::Committed(mark) => Ok(Some(mark)),
            Outcome::Conflict { condition: 0, .. } => Err(repository_gone(put)),
            Outcome::Conflict { condition, .. } => {
                if condition == 1 {
                    self.finish_deleted_manifest(id, &put.digest).await?;
                }
                Ok(None)
            }
        }
    }

    /// Gives up a push that was begun, as if its manifest had been there and were deleted. A push that is still under
    /// way starts over.
    pub(crate) async fn drop_staged_manifest(
        &self,
        staged: &Versioned<StagedManifest>,
    ) -> Result<(), CatalogError> {
        let StagedManifest { repository, digest, blobs, mentioned, listed, .. } = &staged.value;
        let key = keys::staged_manifest(repository, digest);
        let drop_mark = Transaction::new().if_modified_at(&key, staged.modified).delete(&key);
        if let Some(manifest) = self.get_manifest(repository, digest).await? {
            // It is there by another push: all that was written belongs to that one.
            let key = keys::manifest(repository, digest);
            self.commit(drop_mark.if_modified_at(key, manifest.modified)).await?;
            return Ok(());
        }
        let mut transaction = drop_mark.if_absent(keys::manifest(repository, digest));
        let parts = keys::manifest_parts(repository, digest);
        for part in self.all_names(&parts).await? {
            transaction = transaction.delete([&parts[..], part.as_bytes()].concat());
        }
        let left = DeletedManifest {
            repository: repository.clone(),
            digest: *digest,
            blobs: blobs.clone(),
            mentioned: mentioned.clone(),
            listed: listed.clone(),
        };
        if self.commit(transaction.put_record(&left)?).await?.committed().is_some() {
            self.finish_deleted_manifest(repository, digest).await?;
        }
        Ok(())
    }

    /// Gives up pushes that had begun at a revision and have not ended: their clients, or the process, are gone.
    /// Yields how many.
    pub async fn drop_staged_manifests(&self, at: Revision) -> Result<u64, CatalogError> {
        self.drop_staged_in(Kind::StagedManifest.prefix().as_bytes(), Some(at)).await
    }

    /// Gives up all pushes into a repository that was deleted.
    pub(crate) async fn drop_staged_of(&self, id: &RepositoryId) -> Result<(), CatalogError> {
        self.drop_staged_in(&keys::staged_manifests(id), None).await.map(drop)
    }

    async fn drop_staged_in(
        &self,
        prefix: &[u8],
        begun: Option<Revision>,
    ) -> Result<u64, CatalogError> {
        let mut dropped = 0;
        let mut after: Option<String> = None;
        loop {
            // A record may name thousands of blobs.
            let page = self
                .list::<StagedManifest>(prefix, after.as_deref(), 8, dtr_store::At::Latest)
                .await?;
            for staged in &page.items {
                if begun.is_none_or(|begun| staged.modified <= begun) {
                    self.drop_staged_manifest(staged).await?;
                    dropped += 1;
                }
            }
            after = page.items.last().map(|staged| {
                let key = keys::staged_manifest(&staged.value.repository, &staged.value.digest);
                String::from_utf8_lossy(&key.bytes()[prefix.len()..]).into_owned()
            });
            if !page.more {
                return Ok(dropped);
            }
        }
    }
}
