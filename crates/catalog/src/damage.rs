//! Blobs that are lost or damaged in the storage: noticed by whoever looks at their bytes, forgotten when a push has brought
//! them again, and who needs them.
//!
//! A look at the storage takes time, in which a push may mend what was seen. So it is announced first
//! ([`Catalog::suspect`]): each push renews the blob's candidate, and what was seen before that is not recorded.

use dtr_store::{At, Transaction};
use dtr_types::{Digest, RepositoryId, RepositoryName, Revision, Tag};

use crate::{
    Catalog, CatalogError, Kind, TransactionExt as _, Versioned, keys,
    records::{Damage, DamagedBlob},
};

/// A blob that is about to be looked at in the storage.
#[derive(Clone, Debug)]
pub struct Suspicion {
    digest: Digest,
    size: u64,
    blob: Revision,
    candidate: Option<Revision>,
}

impl Suspicion {
    /// The size that its record says, in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }
}

/// Content that needs a blob.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Need {
    /// The repository.
    pub repository: RepositoryName,
    /// The manifest.
    pub manifest: Digest,
    /// Its tags, and those of the indexes that list it.
    pub tags: Vec<Tag>,
}

impl Catalog {
    /// The known damage of a blob in the storage.
    pub async fn damage(
        &self,
        digest: &Digest,
    ) -> Result<Option<Versioned<DamagedBlob>>, CatalogError> {
        self.get(&keys::damaged_blob(digest)).await
    }

    /// Blobs that are known to be lost or damaged, in the order of their digests, at most `limit`; and how many there are
    /// altogether.
    pub async fn damaged_blobs(
        &self,
        limit: usize,
    ) -> Result<(Vec<DamagedBlob>, u64), CatalogError> {
        let prefix = Kind::DamagedBlob.prefix().as_bytes();
        let page = self.list::<DamagedBlob>(prefix, None, limit, At::Latest).await?;
        let more = page.more;
        let found: Vec<_> = page.items.into_iter().map(|found| found.value).collect();
        let count = if more { self.count(Kind::DamagedBlob).await? } else { found.len() as u64 };
        Ok((found, count))
    }

    /// To be called before a blob is looked at in the storage. `None` when it has no record, or is known to be damaged.
    pub async fn suspect(&self, digest: &Digest) -> Result<Option<Suspicion>, CatalogError> {
        let candidate = self.get(&keys::candidate(digest)).await?.map(|found| found.modified);
        if self.damage(digest).await?.is_some() {
            return Ok(None);
        }
        let found = self.get(&keys::blob(digest)).await?;
        Ok(found.map(|blob| Suspicion {
            digest: *digest,
            size: blob.value.size,
            blob: blob.modified,
            candidate,
        }))
    }

    /// Records what was seen after [`Catalog::suspect`]. `false` when the blob was pushed or removed since, or somebody else
    /// has recorded it.
    pub async fn record_damage(
        &self,
        suspicion: &Suspicion,
        damage: Damage,
    ) -> Result<bool, CatalogError> {
        let digest = suspicion.digest;
        let transaction = Transaction::new().if_modified_at(keys::blob(&digest), suspicion.blob);
        let transaction = match suspicion.candidate {
            Some(found) => transaction.if_modified_at(keys::candidate(&digest), found),
            None => transaction.if_absent(keys::candidate(&digest)),
        };
        let damaged = DamagedBlob { digest, since: self.now(), damage };
        Ok(self.commit(transaction.create_record(&damaged)?).await?.committed().is_some())
    }

    /// Forgets a damage: the bytes are there again, or nothing speaks of the blob any more. `false` when it has changed.
    pub async fn forget_damage(
        &self,
        known: &Versioned<DamagedBlob>,
    ) -> Result<bool, CatalogError> {
        let key = keys::damaged_blob(&known.value.digest);
        let gone = Transaction::new().if_modified_at(&key, known.modified).delete(&key);
        Ok(self.commit(gone).await?.committed().is_some())
    }

    /// Which manifests need a blob, at most `limit` of them, by repository.
    pub async fn needed_by(
        &self,
        digest: &Digest,
        limit: usize,
    ) -> Result<Vec<Need>, CatalogError> {
        let page = self.names(&keys::references(digest), None, limit, At::Latest).await?;
        let mut needs = Vec::new();
        for name in &page.items {
            let Some((repository, manifest)) = name.split_once('/') else { continue };
            let (Ok(repository), Ok(manifest)) =
                (repository.parse::<RepositoryId>(), manifest.parse::<Digest>())
            else {
                continue;
            };
            let Some(found) = self.get(&keys::repository(&repository)).await? else { continue };
            // Its own tags, and those of the indexes that list it, at whatever depth.
            let (mut above, mut at, mut tags) = (vec![manifest], 0, Vec::new());
            while let Some(manifest) = above.get(at).copied() {
                at += 1;
                let own = keys::manifest_tags(&repository, &manifest);
                let own = self.names(&own, None, limit, At::Latest).await?;
                tags.extend(own.items.iter().filter_map(|text| text.parse::<Tag>().ok()));
                let listing = keys::listings(&repository, &manifest);
                let listing = self.names(&listing, None, limit, At::Latest).await?;
                let listing = listing.items.iter().filter_map(|text| text.parse().ok());
                above.extend(listing.filter(|index| !above.contains(index)).collect::<Vec<_>>());
                above.truncate(limit.max(1));
            }
            tags.sort();
            tags.dedup();
            needs.push(Need { repository: found.value.name, manifest, tags });
        }
        needs.sort();
        Ok(needs)
    }
}
