//! Manifests and tags: stored with their references in one transaction, read back with their exact bytes.

use bytes::{Bytes, BytesMut};
use dtr_store::{At, Condition, Outcome, Transaction};
use dtr_types::{AccountId, Digest, Manifest, ManifestKind, RepositoryId, Tag, Timestamp};

use crate::{
    Catalog, CatalogError, TransactionExt as _, Versioned, body,
    catalog::ATTEMPTS_MAX,
    keys,
    needs::{Hanging, Need},
    records::{
        Event, EventObject, EventType, ManifestRecord, ReferrerRecord, Repository, TagRecord,
    },
    staging::Ahead,
};

/// Blobs and manifests that one manifest may refer to.
const NEEDS_MAX: usize = 10_000;

/// A manifest to store, checked as far as that needs no catalog.
#[derive(Clone, Debug)]
pub struct PutManifest<'a> {
    /// Where to.
    pub repository: &'a Repository,
    /// Its digest, which `body` hashes to.
    pub digest: Digest,
    /// What `body` says.
    pub manifest: &'a Manifest,
    /// The exact bytes.
    pub body: &'a Bytes,
    /// The tags that shall name it.
    pub tags: &'a [Tag],
    /// Who pushes, by name.
    pub author: &'a str,
    /// Who pushes, by id.
    pub author_id: Option<AccountId>,
    /// Operating system and architecture, where the configuration tells.
    pub platform: Option<(String, String)>,
    /// Whether an index may list manifests that are not here.
    pub allow_sparse: bool,
}

/// What became of a push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PutOutcome {
    /// The manifest as recorded.
    pub record: ManifestRecord,
    /// What each tag named before, where it named something else.
    pub moved: Vec<(Tag, Digest)>,
}

/// A manifest with its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredManifest {
    /// What is recorded of it.
    pub record: ManifestRecord,
    /// The exact bytes that were pushed.
    pub body: Bytes,
}

impl Catalog {
    /// A hint that a manifest is about to be stored under these tags.
    pub async fn prefetch_manifest(
        &self,
        repository: &RepositoryId,
        digest: &Digest,
        tags: &[Tag],
    ) {
        let mut wanted = vec![keys::settings().into(), keys::manifest(repository, digest).into()];
        wanted.extend(tags.iter().map(|tag| Bytes::from(keys::tag(repository, tag))));
        self.store().prefetch(&wanted).await;
    }

    /// A manifest's record.
    pub async fn get_manifest(
        &self,
        repository: &RepositoryId,
        digest: &Digest,
    ) -> Result<Option<Versioned<ManifestRecord>>, CatalogError> {
        self.get(&keys::manifest(repository, digest)).await
    }

    /// The exact bytes of a manifest, at a revision.
    ///
    /// # Errors
    /// [`CatalogError::Record`] when they are not what was stored.
    pub async fn manifest_body(
        &self,
        record: &ManifestRecord,
        at: At,
    ) -> Result<Bytes, CatalogError> {
        let damaged = |reason: &str| CatalogError::Record {
            kind: "manifest",
            key: format!("{}@{}", record.repository, record.digest),
            reason: reason.to_owned(),
        };
        let mut packed = BytesMut::new();
        let mut whole = Bytes::new();
        for part in 0..record.parts {
            let key = keys::manifest_body(&record.repository, &record.digest, part);
            let found = self.store().get(&key, at).await?;
            whole = found.ok_or_else(|| damaged("a part of its bytes is missing"))?.value;
            if record.parts > 1 {
                packed.extend_from_slice(&whole);
            }
        }
        let packed = if record.parts > 1 { packed.freeze() } else { whole };
        let size = usize::try_from(record.size).unwrap_or(usize::MAX);
        if size > dtr_types::MANIFEST_BYTES_MAX {
            return Err(damaged("its size is beyond the limit"));
        }
        let body =
            body::unpack(&packed, size).map_err(|_| damaged("its bytes cannot be unpacked"))?;
        if body.len() != size {
            return Err(damaged("its bytes have another size"));
        }
        Ok(body.into())
    }

    /// A manifest with its bytes; `None` when it is not there, or is deleted just now.
    pub async fn read_manifest(
        &self,
        repository: &RepositoryId,
        digest: &Digest,
    ) -> Result<Option<StoredManifest>, CatalogError> {
        for _ in 0..ATTEMPTS_MAX {
            let Some(found) = self.get_manifest(repository, digest).await? else { return Ok(None) };
            match self.manifest_body(&found.value, At::Latest).await {
                Ok(body) => return Ok(Some(StoredManifest { record: found.value, body })),
                Err(error) if !self.has_changed(&found).await? => return Err(error),
                // Deleted between the two reads, and perhaps pushed again.
                Err(_) => {}
            }
        }
        Err(CatalogError::Contention("manifest"))
    }

    /// Whether a manifest was deleted or pushed since it was read, which explains missing bytes.
    pub(crate) async fn has_changed(
        &self,
        read: &Versioned<ManifestRecord>,
    ) -> Result<bool, CatalogError> {
        let now = self.get_manifest(&read.value.repository, &read.value.digest).await?;
        Ok(now.is_none_or(|now| now.modified != read.modified))
    }

    /// Stores a manifest, its tags, references, place among referrers and events, in one transaction. What does not fit
    /// into one is staged before, and shows nowhere until the last commit.
    ///
    /// Once the setting that makes the registry read-only is stored, no manifest is any more, also of a push that began
    /// before, on any replica: a backup that is taken then has everything.
    ///
    /// # Errors
    /// [`CatalogError::BlobMissing`], [`CatalogError::ManifestMissing`], [`CatalogError::TagImmutable`],
    /// [`CatalogError::ReadOnly`], [`CatalogError::Missing`] when the repository has gone.
    pub async fn put_manifest(&self, put: &PutManifest<'_>) -> Result<PutOutcome, CatalogError> {
        let limits = self.store().limits();
        let parts = body::pack(put.body)?;
        let base = 9 + 6 * put.tags.len();
        let id = &put.repository.id;
        // Whether all of it is written, also what should be there already.
        let mut whole = false;
        for _ in 0..ATTEMPTS_MAX {
            let needs = self.needs(put).await?;
            if needs.len() > NEEDS_MAX {
                return Err(CatalogError::TooMany {
                    what: "blobs and manifests that the manifest refers to",
                    count: needs.len(),
                    limit: NEEDS_MAX,
                });
            }
            let record = new_record(put, parts.len(), &needs, self.now());
            let known = self.get_manifest(id, &put.digest).await?;
            let is_new =
                whole || known.as_ref().is_none_or(|known| !says_as_much(&known.value, &record));
            let stage_parts = is_new && parts.len() > 1;
            let conditions = if is_new { needs.len() } else { 2 * needs.len() };
            let alone = conditions + base > limits.operations_max;
            let stage_needs = is_new && alone;
            let mut staged = None;
            if stage_parts || stage_needs {
                let ahead = Ahead {
                    parts: if stage_parts { &parts } else { &[] },
                    needs: if stage_needs { &needs } else { &[] },
                };
                match self.stage_manifest(put, &ahead).await? {
                    Some(mark) => staged = Some(mark),
                    None => continue,
                }
            } else if alone {
                match self.confirm_needs(put, &needs).await? {
                    None => {}
                    Some(Failed::Reference) => {
                        whole = true;
                        continue;
                    }
                    Some(Failed::Need(_)) => continue,
                }
            }
            let now = record.pushed_at;
            let stored = Stored { known, record, is_new };
            let (mut transaction, outcome) = self.manifest_transaction(put, stored, now).await?;
            if let Some(mark) = staged {
                let key = keys::staged_manifest(id, &put.digest);
                transaction = transaction.if_modified_at(&key, mark).delete(&key);
            }
            if is_new && !stage_parts {
                let key = keys::manifest_body(id, &put.digest, 0);
                transaction = transaction.put(key, parts.first().cloned().unwrap_or_default());
            }
            let first = transaction.conditions.len();
            let mut met = Vec::new();
            if !alone {
                (transaction, met) = with_needs(transaction, put, &needs, is_new);
            }
            match self.commit(transaction).await? {
                Outcome::Committed(_) => return Ok(outcome),
                Outcome::Conflict { condition: 0, .. } => return Err(repository_gone(put)),
                Outcome::Conflict { condition: 1, .. } => {
                    self.finish_deleted_manifest(id, &put.digest).await?;
                }
                Outcome::Conflict { condition, .. } if condition >= first => {
                    match met.get(condition - first) {
                        Some(Failed::Need(need)) => need.refusal().map_or(Ok(()), Err)?,
                        Some(Failed::Reference) => whole = true,
                        None => {}
                    }
                }
                Outcome::Conflict { .. } => {}
            }
        }
        Err(CatalogError::Contention("manifest"))
    }

    /// Demands all that a manifest refers to, which is stored already and too much for one transaction. Yields what was
    /// not as it should be, if looking again helps.
    async fn confirm_needs(
        &self,
        put: &PutManifest<'_>,
        needs: &[Need],
    ) -> Result<Option<Failed>, CatalogError> {
        let chunk = (self.store().limits().operations_max / 2).max(1);
        for needs in needs.chunks(chunk) {
            let (transaction, met) = with_needs(Transaction::new(), put, needs, false);
            if let Outcome::Conflict { condition, .. } = self.commit(transaction).await? {
                return match met[condition] {
                    Failed::Need(need) => need.refusal().map_or(Ok(Some(met[condition])), Err),
                    Failed::Reference => Ok(Some(Failed::Reference)),
                };
            }
        }
        Ok(None)
    }

    /// The record, tags, referrer and events. Condition 0 is that the repository is there; condition 1 that no deletion
    /// of this manifest is under way, which would take the references of the new one with it; another one that the
    /// settings are as read.
    ///
    /// Of a manifest that is stored already nothing is written but its tags and events, so pushes of different tags do
    /// not meet: a deletion of the manifest looks at the list of its tags.
    async fn manifest_transaction(
        &self,
        put: &PutManifest<'_>,
        stored: Stored,
        now: Timestamp,
    ) -> Result<(Transaction, PutOutcome), CatalogError> {
        let id = &put.repository.id;
        let settings = self.get(&keys::settings()).await?;
        if settings.as_ref().is_some_and(|settings| settings.value.read_only_registry) {
            return Err(CatalogError::ReadOnly);
        }
        let Stored { known, record, is_new } = stored;
        let manifest_key = keys::manifest(id, &put.digest);
        let mut transaction = Transaction::new()
            .content()
            .if_present(keys::repository(id))
            .if_absent(keys::deleted_manifest(id, &put.digest));
        transaction = match &known {
            Some(known) if is_new => transaction.if_modified_at(&manifest_key, known.modified),
            Some(_) => transaction.if_present(&manifest_key),
            None => transaction.if_absent(&manifest_key),
        };
        transaction = match &settings {
            Some(settings) => transaction.if_modified_at(keys::settings(), settings.modified),
            None => transaction.if_absent(keys::settings()),
        };
        let record = match known {
            Some(known) if !is_new => known.value,
            _ => {
                transaction = transaction.put_record(&record)?;
                record
            }
        };
        if let Some(subject) = put.manifest.subject.as_ref().filter(|_| is_new) {
            transaction = transaction.put_record(&ReferrerRecord {
                repository: id.clone(),
                subject: subject.digest,
                digest: put.digest,
                media_type: put.manifest.media_type,
                size: put.body.len() as u64,
                artifact_type: put.manifest.artifact_type.clone(),
                annotations: put.manifest.annotations.clone(),
            })?;
        }
        let mut moved = Vec::new();
        for tag in put.tags {
            transaction = self.tag_transaction(put, tag, now, transaction, &mut moved).await?;
        }
        if put.tags.is_empty() {
            let object = EventObject {
                kind: "manifest".to_owned(),
                name: put.digest.to_string(),
                id: put.digest.to_string(),
            };
            transaction = transaction.event(&self.push_event(put, now, object))?;
        }
        Ok((transaction, PutOutcome { record, moved }))
    }

    async fn tag_transaction(
        &self,
        put: &PutManifest<'_>,
        tag: &Tag,
        now: Timestamp,
        mut transaction: Transaction,
        moved: &mut Vec<(Tag, Digest)>,
    ) -> Result<Transaction, CatalogError> {
        let id = &put.repository.id;
        let key = keys::tag(id, tag);
        let known = self.get(&key).await?;
        let mut created_at = now;
        match &known {
            Some(known) => {
                transaction.conditions.push(Condition::ModifiedAt((&key).into(), known.modified));
                created_at = known.value.created_at;
                if known.value.digest != put.digest {
                    if put.repository.immutable_tags {
                        return Err(CatalogError::TagImmutable(tag.clone()));
                    }
                    moved.push((tag.clone(), known.value.digest));
                    transaction =
                        transaction.delete(keys::manifest_tag(id, &known.value.digest, tag));
                }
            }
            None => transaction.conditions.push(Condition::Absent((&key).into())),
        }
        let object = EventObject {
            kind: "tag".to_owned(),
            name: tag.to_string(),
            id: put.digest.to_string(),
        };
        transaction
            .put_record(&TagRecord {
                repository: id.clone(),
                name: tag.clone(),
                digest: put.digest,
                media_type: put.manifest.media_type,
                author: put.author.to_owned(),
                created_at,
                updated_at: now,
            })?
            .put(keys::manifest_tag(id, &put.digest, tag), Bytes::new())
            .event(&self.push_event(put, now, object))
    }

    fn push_event(&self, put: &PutManifest<'_>, now: Timestamp, object: EventObject) -> Event {
        Event {
            id: Event::new_id(now, self.random()),
            published_at: now,
            actor: put.author.to_owned(),
            actor_id: put.author_id.clone(),
            event_type: EventType::Create,
            repository: put.repository.name.to_string(),
            repository_id: Some(put.repository.id.clone()),
            object,
            count: 1,
        }
    }
}

pub(crate) fn repository_gone(put: &PutManifest<'_>) -> CatalogError {
    CatalogError::Missing { kind: "repository", name: put.repository.name.to_string() }
}

/// A manifest as it is stored, and as this push would store it.
struct Stored {
    known: Option<Versioned<ManifestRecord>>,
    record: ManifestRecord,
    /// Whether the push has something to write about it.
    is_new: bool,
}

/// Whether a stored record says all that a push of the same bytes could.
fn says_as_much(known: &ManifestRecord, new: &ManifestRecord) -> bool {
    known.media_type == new.media_type
        && known.may_be_absent == new.may_be_absent
        && (new.os.is_none() || known.os == new.os)
        && (new.architecture.is_none() || known.architecture == new.architecture)
}

/// What a condition of a push was about.
#[derive(Clone, Copy, Debug)]
enum Failed {
    /// Something that the manifest refers to.
    Need(Need),
    /// A reference that should be there, since the manifest is.
    Reference,
}

/// Adds what a manifest refers to; yields what the conditions that were added are about. What stands as long as the
/// manifest does is written with it, and looked at by further pushes, which so have nothing to write in common.
fn with_needs(
    mut transaction: Transaction,
    put: &PutManifest<'_>,
    needs: &[Need],
    is_new: bool,
) -> (Transaction, Vec<Failed>) {
    let id = &put.repository.id;
    let mut met = Vec::new();
    for need in needs {
        if let Some(condition) = need.condition(id) {
            transaction.conditions.push(condition);
            met.push(Failed::Need(*need));
        }
        let key = need.key(id, &put.digest);
        if is_new {
            transaction = transaction.put(key, Bytes::new());
        } else {
            transaction = transaction.if_present(key);
            met.push(Failed::Reference);
        }
    }
    (transaction, met)
}

fn new_record(
    put: &PutManifest<'_>,
    parts: usize,
    needs: &[Need],
    now: Timestamp,
) -> ManifestRecord {
    let mut may_be_absent: Vec<Digest> = put
        .manifest
        .optional_blobs()
        .into_iter()
        .chain(put.manifest.children().into_iter().filter(|child| child.foreign))
        .map(|descriptor| descriptor.digest)
        .collect();
    may_be_absent.extend(Hanging::of(needs).mentioned);
    may_be_absent.sort_unstable();
    may_be_absent.dedup();
    let config = match &put.manifest.kind {
        ManifestKind::Image { config, .. } => Some(config),
        ManifestKind::Index { .. } => None,
    };
    let (os, architecture) = put.platform.clone().unzip();
    ManifestRecord {
        repository: put.repository.id.clone(),
        digest: put.digest,
        media_type: put.manifest.media_type,
        size: put.body.len() as u64,
        content_size: put.manifest.content_size(),
        parts: u32::try_from(parts).unwrap_or(u32::MAX),
        config_digest: config.map(|c| c.digest),
        config_media_type: config.map(|c| c.media_type.clone()),
        artifact_type: put.manifest.artifact_type.clone(),
        subject: put.manifest.subject.as_ref().map(|s| s.digest),
        os,
        architecture,
        may_be_absent,
        author: put.author.to_owned(),
        pushed_at: now,
    }
}
