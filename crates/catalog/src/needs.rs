//! What a manifest refers to, as the keys that say so and the conditions under which they may be written.
//!
//! A blob that is linked when its manifest is committed has a reference, and that keeps it. Content that may be absent
//! (see [`Descriptor::foreign`](dtr_types::Descriptor)), and is, has a mention instead: it counts as soon as the blob is linked in the same
//! repository, and never before, so that nobody gets at a blob of others by naming its digest. Each entry of an index is
//! listed, so that no manifest is deleted under an index.

use bytes::Bytes;
use dtr_store::{At, Condition, Transaction};
use dtr_types::{Digest, Manifest, RepositoryId, Tag};

use crate::{
    Catalog, CatalogError, PutManifest, TransactionExt as _, keys,
    records::{Candidate, ManifestRecord},
};

/// The value of what is written ahead of a manifest: whether it counts in a backup depends on that.
pub(crate) const WRITTEN_AHEAD: &[u8] = b"ahead";
/// Indexes that are looked through for one with a tag, to name it.
const NAMED_MAX: usize = 20;

/// One thing that a manifest refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// A blob without which the manifest is not accepted.
    Layer(Digest),
    /// Another blob that is linked: content that may be absent, an entry of an index.
    Blob(Digest),
    /// Content that is not here.
    Mention(Digest),
    /// A manifest that an index lists.
    Child(Digest),
    /// An entry of an index that is no manifest here.
    Entry(Digest),
}

impl Need {
    /// What must hold when it is written.
    pub(crate) fn condition(self, repository: &RepositoryId) -> Option<Condition> {
        match self {
            Self::Layer(blob) | Self::Blob(blob) => {
                Some(Condition::Present(keys::link(repository, &blob)))
            }
            Self::Mention(blob) => Some(Condition::Absent(keys::link(repository, &blob))),
            Self::Child(child) => {
                Some(Condition::Present(keys::manifest(repository, &child).into()))
            }
            Self::Entry(_) => None,
        }
    }

    /// The key that says it.
    pub(crate) fn key(self, repository: &RepositoryId, manifest: &Digest) -> Bytes {
        match self {
            Self::Layer(blob) | Self::Blob(blob) => keys::reference(&blob, repository, manifest),
            Self::Mention(blob) => keys::mention(&blob, repository, manifest),
            Self::Child(child) | Self::Entry(child) => keys::listing(repository, &child, manifest),
        }
    }

    /// Why the push is refused when the condition does not hold; `None` when looking again helps.
    pub(crate) fn refusal(self) -> Option<CatalogError> {
        match self {
            Self::Layer(blob) => Some(CatalogError::BlobMissing(blob)),
            Self::Blob(_) | Self::Mention(_) | Self::Child(_) | Self::Entry(_) => None,
        }
    }
}

/// What hangs on a manifest that is being pushed in several steps, or was deleted in several.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hanging {
    /// Blobs with a reference.
    pub(crate) blobs: Vec<Digest>,
    /// Those with a mention.
    pub(crate) mentioned: Vec<Digest>,
    /// The entries of an index.
    pub(crate) listed: Vec<Digest>,
}

impl Hanging {
    pub(crate) fn of(needs: &[Need]) -> Self {
        let mut all = Self::default();
        for need in needs {
            match *need {
                Need::Layer(blob) | Need::Blob(blob) => all.blobs.push(blob),
                Need::Mention(blob) => all.mentioned.push(blob),
                Need::Child(child) | Need::Entry(child) => all.listed.push(child),
            }
        }
        all
    }

    /// How many writes it takes to drop it.
    pub(crate) fn writes(&self) -> usize {
        2 * self.blobs.len() + self.mentioned.len() + self.listed.len()
    }
}

impl Catalog {
    /// What a manifest that is pushed refers to, as things are now.
    ///
    /// # Errors
    /// [`CatalogError::ManifestMissing`] when an index lists what is not there.
    pub(crate) async fn needs(&self, put: &PutManifest<'_>) -> Result<Vec<Need>, CatalogError> {
        let id = &put.repository.id;
        let blobs = put.manifest.blobs();
        let mut needs: Vec<Need> = blobs.iter().map(|d| Need::Layer(d.digest)).collect();
        for blob in put.manifest.optional_blobs() {
            let linked = self.is_linked(id, &blob.digest).await?;
            needs.push(if linked { Need::Blob(blob.digest) } else { Need::Mention(blob.digest) });
        }
        for child in put.manifest.children() {
            let digest = child.digest;
            if self.get_manifest(id, &digest).await?.is_some() {
                needs.push(Need::Child(digest));
            } else if self.is_linked(id, &digest).await? {
                // As in the indexes that BuildKit makes of its caches.
                needs.push(Need::Blob(digest));
            } else if put.allow_sparse || child.foreign {
                needs.extend([Need::Mention(digest), Need::Entry(digest)]);
            } else {
                return Err(CatalogError::ManifestMissing(digest));
            }
        }
        Ok(needs)
    }

    /// Whether manifests of the repository can be conditioned on the blob.
    async fn is_linked(&self, id: &RepositoryId, blob: &Digest) -> Result<bool, CatalogError> {
        Ok(self.store().get(&keys::link(id, blob), At::Latest).await?.is_some())
    }

    /// What hangs on a stored manifest.
    pub(crate) async fn hanging(&self, record: &ManifestRecord) -> Result<Hanging, CatalogError> {
        let body = self.manifest_body(record, At::Latest).await?;
        let manifest = Manifest::stored(Some(record.media_type.as_str()), &body).map_err(|e| {
            CatalogError::Record {
                kind: "manifest",
                key: format!("{}@{}", record.repository, record.digest),
                reason: e.to_string(),
            }
        })?;
        let listed: Vec<Digest> = manifest.children().iter().map(|d| d.digest).collect();
        let mut mentioned: Vec<Digest> =
            manifest.optional_blobs().iter().map(|d| d.digest).collect();
        mentioned.extend(&record.may_be_absent);
        mentioned.sort_unstable();
        mentioned.dedup();
        let mut blobs: Vec<Digest> = manifest.blobs().iter().map(|d| d.digest).collect();
        for perhaps in listed.iter().chain(&mentioned) {
            let reference = keys::reference(perhaps, &record.repository, &record.digest);
            let counts = self.store().get(&reference, At::Latest).await?.is_some()
                // A mention that counted.
                || mentioned.contains(perhaps) && self.is_linked(&record.repository, perhaps).await?;
            if counts && !blobs.contains(perhaps) {
                blobs.push(*perhaps);
            }
        }
        Ok(Hanging { blobs, mentioned, listed })
    }

    /// The writes that drop it, in parts that fit into a transaction with `fixed` others each. A blob whose reference
    /// goes becomes a candidate in the same part.
    pub(crate) fn drops(
        &self,
        repository: &RepositoryId,
        manifest: &Digest,
        hanging: &Hanging,
        fixed: usize,
    ) -> Result<Vec<Transaction>, CatalogError> {
        let since = self.now();
        let room = self.store().limits().operations_max.saturating_sub(fixed).max(2);
        let (mut parts, mut part) = (Vec::new(), Transaction::new());
        for blob in &hanging.blobs {
            if part.writes.len() + 2 > room {
                parts.push(std::mem::take(&mut part));
            }
            part = part
                .delete(keys::reference(blob, repository, manifest))
                .put_record(&Candidate { digest: *blob, since })?;
        }
        let mentions = hanging.mentioned.iter().map(|b| keys::mention(b, repository, manifest));
        let listings = hanging.listed.iter().map(|c| keys::listing(repository, c, manifest));
        for key in mentions.chain(listings) {
            if part.writes.len() == room {
                parts.push(std::mem::take(&mut part));
            }
            part = part.delete(key);
        }
        parts.push(part);
        Ok(parts)
    }

    /// Whether a manifest names the blob as content that may be absent, in a repository that links it.
    pub(crate) async fn is_mentioned(&self, digest: &Digest) -> Result<bool, CatalogError> {
        let prefix = keys::mentions(digest);
        let mut after: Option<String> = None;
        loop {
            let page = self.names(&prefix, after.as_deref(), 1, At::Latest).await?;
            let Some((repository, _)) = page.items.first().and_then(|n| n.split_once('/')) else {
                return Ok(false);
            };
            if let Ok(id) = repository.parse()
                && self.is_linked(&id, digest).await?
            {
                return Ok(true);
            }
            // On to the next repository: what follows `/` in the order of bytes.
            after = Some(format!("{repository}0"));
        }
    }

    /// Whether an index lists a manifest, as the refusal that names the index. Listings whose index is gone for good are
    /// taken away.
    pub(crate) async fn refuse_listed(
        &self,
        repository: &RepositoryId,
        child: &Digest,
    ) -> Result<(), CatalogError> {
        let prefix = keys::listings(repository, child);
        let mut first = None;
        let names = self.names(&prefix, None, NAMED_MAX, At::Latest).await?.items;
        for name in names {
            let Ok(index) = name.parse::<Digest>() else { continue };
            if self.get_manifest(repository, &index).await?.is_none() {
                self.finish_deleted_manifest(repository, &index).await?;
                if self.get(&keys::staged_manifest(repository, &index)).await?.is_none() {
                    let gone = Transaction::new()
                        .if_absent(keys::manifest(repository, &index))
                        .if_absent(keys::staged_manifest(repository, &index))
                        .delete(keys::listing(repository, child, &index));
                    self.commit(gone).await?;
                    continue;
                }
            }
            let tags = keys::manifest_tags(repository, &index);
            let tags = self.names(&tags, None, 1, At::Latest).await?;
            let tag: Option<Tag> = tags.items.first().and_then(|tag| tag.parse().ok());
            let is_tagged = tag.is_some();
            if is_tagged || first.is_none() {
                let (manifest, index) = (Box::new(*child), Box::new(index));
                first = Some(CatalogError::Listed { manifest, index, tag });
            }
            if is_tagged {
                break;
            }
        }
        first.map_or(Ok(()), Err)
    }
}
