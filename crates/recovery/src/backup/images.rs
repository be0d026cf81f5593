//! Image content, as an OCI layout that any OCI tool reads: every blob that a manifest refers to, every manifest, and an
//! index with the name `namespace/repository:tag` of each tag.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use dtr_archive::oci::Index;
use dtr_blobs::{BlobError, Found, examine, proven};
use dtr_catalog::{
    Batch, Cursor, Kind, keys,
    records::{BlobRecord, Damage, Repository, TagRecord},
};
use dtr_store::At;
use dtr_types::{Digest, RepositoryId};
use futures_util::StreamExt as _;

use super::{read::Reading, write::Piece};
use crate::{RecoveryError, lines::Line};

/// The largest block of a blob that is handed on at once.
const BLOCK: usize = 1 << 20;

fn failed(digest: &Digest) -> impl FnOnce(BlobError) -> RecoveryError + use<> {
    let digest = Box::new(*digest);
    move |source| RecoveryError::Blob { digest, source }
}

fn parse<T: serde::de::DeserializeOwned>(line: &[u8]) -> Result<T, RecoveryError> {
    Ok(serde_json::from_slice(line)?)
}

/// Half of a digest: enough to tell content apart, and half the memory.
fn short(digest: &Digest) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&digest.as_bytes()[..16]);
    short
}

impl Reading<'_> {
    /// The layout. Remembers 16 bytes for each blob and manifest, and some 250 for each tag.
    pub(super) async fn images(&mut self) -> Result<(), RecoveryError> {
        self.progress.phase = "images";
        self.send(Piece::OciLayout).await?;
        let mut seen = HashSet::new();
        let mut cursor = Cursor::default();
        while let Some(batch) = self.export.next(Kind::Blob, &mut cursor).await? {
            let Batch::Lines(lines) = batch else { continue };
            for line in &lines {
                let blob: BlobRecord = parse(line)?;
                if self.blob(&blob).await? {
                    seen.insert(short(&blob.digest));
                }
            }
        }
        self.manifests(&mut seen).await?;
        let index = self.index().await?;
        self.send(Piece::OciIndex(index)).await
    }

    /// Copies a blob; false when the storage does not have it, or is known to have it damaged, which the report says. A damage
    /// that shows while it is copied ends this backup, and is known to the next.
    async fn blob(&mut self, blob: &BlobRecord) -> Result<bool, RecoveryError> {
        let digest = &blob.digest;
        if self.job.catalog.damage(digest).await?.is_some() {
            self.sums.missing.push(digest.to_string());
            return Ok(false);
        }
        let mut reader = match self.job.blobs.read(digest, None).await {
            Ok(reader) if reader.size() == blob.size => proven(reader, *digest),
            Ok(_) | Err(BlobError::NotFound(_)) => {
                self.sums.missing.push(digest.to_string());
                return Ok(false);
            }
            Err(error) => return Err(failed(digest)(error)),
        };
        self.send(Piece::BlobBegin(*digest, blob.size)).await?;
        while let Some(block) = reader.next().await {
            if matches!(block, Err(BlobError::Altered(_))) {
                self.record_damage(digest).await?;
            }
            let mut block = block.map_err(failed(digest))?;
            self.progress.blob_bytes += block.len() as u64;
            while !block.is_empty() {
                let next = block.split_to(block.len().min(BLOCK));
                self.send(Piece::BlobChunk(next)).await?;
            }
            self.tell();
        }
        self.send(Piece::BlobEnd).await?;
        self.progress.blobs += 1;
        self.tell();
        Ok(true)
    }

    /// Looks at a blob once more, and records that it is damaged.
    async fn record_damage(&self, digest: &Digest) -> Result<(), RecoveryError> {
        let catalog = &self.job.catalog;
        let Some(suspicion) = catalog.suspect(digest).await? else { return Ok(()) };
        let found = examine(&*self.job.blobs, digest, Some(suspicion.size()), true).await;
        if found.map_err(failed(digest))? == Found::OtherBytes {
            catalog.record_damage(&suspicion, Damage::Content).await?;
        }
        Ok(())
    }

    /// Manifests are content like any other in a layout; the same one of several repositories goes in once.
    async fn manifests(&mut self, seen: &mut HashSet<[u8; 16]>) -> Result<(), RecoveryError> {
        let mut cursor = Cursor::default();
        let mut line = Vec::new();
        while let Some(batch) = self.export.next(Kind::Manifest, &mut cursor).await? {
            let Batch::Manifests(manifests) = batch else { continue };
            for manifest in manifests {
                line.clear();
                manifest.write(&mut line)?;
                let damaged = |reason: String| dtr_catalog::CatalogError::Record {
                    kind: Kind::Manifest.name(),
                    key: String::from_utf8_lossy(&line).chars().take(200).collect(),
                    reason,
                };
                let Line::Manifest(parsed) = Line::parse(Kind::Manifest, &line).map_err(damaged)?
                else {
                    continue;
                };
                let digest = parsed.record.digest;
                if seen.insert(short(&digest)) {
                    self.send(Piece::BlobBegin(digest, parsed.body.len() as u64)).await?;
                    self.send(Piece::BlobChunk(parsed.body)).await?;
                    self.send(Piece::BlobEnd).await?;
                }
            }
        }
        Ok(())
    }

    async fn index(&mut self) -> Result<Vec<u8>, RecoveryError> {
        let mut names: HashMap<RepositoryId, String> = HashMap::new();
        for line in self.all(Kind::Repository).await? {
            let repository: Repository = parse(&line)?;
            names.insert(repository.id, repository.name.to_string());
        }
        let at = At::Revision(self.export.revision());
        let mut index = Index::new();
        let mut cursor = Cursor::default();
        while let Some(batch) = self.export.next(Kind::Tag, &mut cursor).await? {
            let Batch::Lines(lines) = batch else { continue };
            for line in &lines {
                let tag: TagRecord = parse(line)?;
                let key = keys::manifest(&tag.repository, &tag.digest);
                let manifest = self.job.catalog.get_at(&key, at).await?;
                let (Some(manifest), Some(name)) = (manifest, names.get(&tag.repository)) else {
                    continue;
                };
                let name = format!("{name}:{}", tag.name);
                let size = manifest.value.size;
                index.push(tag.media_type.as_str(), &tag.digest, size, Some(&name));
            }
        }
        Ok(index.finish())
    }

    async fn all(&mut self, kind: Kind) -> Result<Vec<Bytes>, RecoveryError> {
        let mut all = Vec::new();
        let mut cursor = Cursor::default();
        while let Some(batch) = self.export.next(kind, &mut cursor).await? {
            if let Batch::Lines(lines) = batch {
                all.extend(lines);
            }
        }
        Ok(all)
    }
}
