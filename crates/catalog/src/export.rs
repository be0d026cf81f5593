//! Everything at one revision, as the lines of an archive: the catalog's half of a backup. Memory stays that of a page.

use std::collections::{HashSet, VecDeque};

use bytes::Bytes;
use dtr_store::{At, KeyValue, Range, StoreExt as _, prefix_end};
use dtr_types::{Digest, RepositoryId, Revision};
use serde::Deserialize;

use crate::{
    Catalog, CatalogError, Kind, body, codec, keys,
    needs::WRITTEN_AHEAD,
    records::{DeletedManifest, DeletedRepository},
};

/// Bytes of manifests that are read at once.
const BODIES_BYTES: u64 = 4 << 20;
/// Manifests that are read at once.
const BODIES_MAX: usize = 500;

/// The state of the catalog at a revision, for reading all of it. What was deleted by then, but not yet unlinked, is
/// left out.
pub struct Export {
    catalog: Catalog,
    at: Revision,
    /// Repositories that are deleted, whose tags and manifests are still being unlinked.
    gone: HashSet<String>,
    /// `repository/digest` of deleted manifests whose references are still being dropped.
    dropped: HashSet<String>,
}

/// How far the reading of one kind has come.
#[derive(Debug, Default)]
pub struct Cursor {
    after: Option<Bytes>,
    done: bool,
    /// Manifests that were read and whose bytes are still to be; and whether they are the last.
    ahead: VecDeque<KeyValue>,
    last: bool,
    references: References,
}

/// Digests that manifests refer to, in order, read a page ahead.
#[derive(Debug, Default)]
struct References {
    page: std::vec::IntoIter<KeyValue>,
    start: Option<Bytes>,
    more: bool,
    /// The digest that was found last, as text.
    found: Option<String>,
}

/// Some records.
#[derive(Debug)]
pub enum Batch {
    /// The JSON of each, as stored.
    Lines(Vec<Bytes>),
    /// Manifests with their bytes, still to be put together.
    Manifests(Vec<ManifestLine>),
}

/// A manifest's record and its stored bytes.
#[derive(Debug)]
pub struct ManifestLine {
    json: Bytes,
    size: u64,
    packed: Vec<Bytes>,
    /// What it names that may be absent, and that its repository has.
    present: Vec<Digest>,
}

impl ManifestLine {
    /// The record with the manifest itself as a last field: `body`, or `bodyHex` should it not be UTF-8. After it stands
    /// `present`, if there is anything that may be absent and is there.
    ///
    /// # Errors
    /// When the stored bytes cannot be unpacked.
    pub fn write(&self, line: &mut Vec<u8>) -> Result<(), CatalogError> {
        let damaged = |reason: String| CatalogError::Record {
            kind: "manifest",
            key: String::from_utf8_lossy(&self.json).chars().take(200).collect(),
            reason,
        };
        let joined;
        let packed = match self.packed.as_slice() {
            [one] => one,
            parts => {
                joined = Bytes::from(parts.concat());
                &joined
            }
        };
        let size = usize::try_from(self.size).unwrap_or(usize::MAX);
        if size > dtr_types::MANIFEST_BYTES_MAX {
            return Err(damaged("its size is beyond the limit".to_owned()));
        }
        let body = body::unpack(packed, size).map_err(|e| damaged(format!("its bytes: {e}")))?;
        if body.len() != size {
            return Err(damaged("its bytes have another size".to_owned()));
        }
        let head = self.json.strip_suffix(b"}").ok_or_else(|| damaged("its form".to_owned()))?;
        line.extend_from_slice(head);
        let failed = |e: serde_json::Error| damaged(e.to_string());
        match std::str::from_utf8(&body) {
            Ok(text) => {
                line.extend_from_slice(b",\"body\":");
                serde_json::to_writer(&mut *line, text).map_err(failed)?;
            }
            Err(_) => {
                line.extend_from_slice(b",\"bodyHex\":\"");
                for byte in &body {
                    line.extend_from_slice(format!("{byte:02x}").as_bytes());
                }
                line.push(b'"');
            }
        }
        if !self.present.is_empty() {
            line.extend_from_slice(b",\"present\":");
            serde_json::to_writer(&mut *line, &self.present).map_err(failed)?;
        }
        line.push(b'}');
        Ok(())
    }
}

impl Catalog {
    /// Everything at `at`, which must stay readable while the export is used: take a hold.
    pub async fn export(&self, at: Revision) -> Result<Export, CatalogError> {
        let gone = self.all_at::<DeletedRepository>(at).await?;
        let dropped = self.all_at::<DeletedManifest>(at).await?;
        Ok(Export {
            catalog: self.clone(),
            at,
            gone: gone.into_iter().map(|deleted| deleted.id.to_string()).collect(),
            dropped: dropped
                .into_iter()
                .map(|deleted| format!("{}/{}", deleted.repository, deleted.digest))
                .collect(),
        })
    }

    async fn all_at<T: crate::Record>(&self, at: Revision) -> Result<Vec<T>, CatalogError> {
        let prefix = T::KIND.prefix().as_bytes();
        let mut items = Vec::new();
        let mut after: Option<Bytes> = None;
        loop {
            let page = self.store().page(prefix, after.as_deref(), 0, false, at.into()).await?;
            for kv in &page.items {
                items.push(codec::decode(&kv.key, &kv.value)?);
            }
            after = page.items.last().map(|kv| kv.key.clone());
            if !page.more {
                return Ok(items);
            }
        }
    }
}

impl Export {
    /// The revision.
    pub fn revision(&self) -> Revision {
        self.at
    }

    /// The next records of a kind, in order of their keys; `None` at the end. A batch may be empty.
    ///
    /// # Errors
    /// When the store fails, or a stored record has a form that this version does not know.
    pub async fn next(
        &self,
        kind: Kind,
        cursor: &mut Cursor,
    ) -> Result<Option<Batch>, CatalogError> {
        if cursor.done {
            return Ok(None);
        }
        match kind {
            Kind::Manifest => self.manifests(cursor).await.map(|m| Some(Batch::Manifests(m))),
            Kind::Blob => self.blobs(cursor).await.map(|lines| Some(Batch::Lines(lines))),
            _ => self.lines(kind, cursor).await.map(|lines| Some(Batch::Lines(lines))),
        }
    }

    async fn page(
        &self,
        kind: Kind,
        cursor: &mut Cursor,
        limit: usize,
    ) -> Result<Vec<KeyValue>, CatalogError> {
        let prefix = kind.prefix().as_bytes();
        let after = cursor.after.as_deref();
        let page = self.catalog.store().page(prefix, after, limit, false, self.at.into()).await?;
        cursor.done = !page.more;
        if let Some(last) = page.items.last() {
            cursor.after = Some(last.key.clone());
        }
        Ok(page.items)
    }

    async fn lines(&self, kind: Kind, cursor: &mut Cursor) -> Result<Vec<Bytes>, CatalogError> {
        let items = self.page(kind, cursor, 0).await?;
        let of_repository = matches!(kind, Kind::Tag | Kind::Counters | Kind::RepositoryGrant);
        items
            .iter()
            .filter(|kv| !of_repository || !self.is_gone(kind.prefix(), &kv.key))
            .map(|kv| codec::json(kind, &kv.key, &kv.value))
            .collect()
    }

    /// Whether a key whose first component is a repository's id is one of a deleted repository.
    fn is_gone(&self, prefix: &str, key: &[u8]) -> bool {
        if self.gone.is_empty() {
            return false;
        }
        let rest = std::str::from_utf8(&key[prefix.len()..]).unwrap_or_default();
        self.gone.contains(rest.split('/').next().unwrap_or_default())
    }

    async fn manifests(&self, cursor: &mut Cursor) -> Result<Vec<ManifestLine>, CatalogError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Sizes {
            size: u64,
            parts: u32,
            #[serde(default)]
            may_be_absent: Vec<Digest>,
        }
        let kind = Kind::Manifest;
        // Records in large pages, their bytes in small ones: etcd 3.4 looks at each key from the beginning of a page to the
        // end of all, however few of them it is asked for.
        if cursor.ahead.is_empty() {
            cursor.ahead = self.page(kind, cursor, 0).await?.into();
            cursor.last = cursor.done;
        }
        let mut items: Vec<KeyValue> = Vec::new();
        let (mut lines, mut parts, mut bytes) = (Vec::new(), Vec::new(), 0);
        while let Some(kv) = cursor.ahead.front() {
            let json = codec::json(kind, &kv.key, &kv.value)?;
            let sizes: Sizes = serde_json::from_slice(&json).map_err(|e| CatalogError::Record {
                kind: kind.name(),
                key: String::from_utf8_lossy(&kv.key).into_owned(),
                reason: e.to_string(),
            })?;
            if bytes > 0 && (bytes + sizes.size > BODIES_BYTES || lines.len() == BODIES_MAX) {
                break;
            }
            let gone = self.is_gone(kind.prefix(), &kv.key);
            let kv = cursor.ahead.pop_front();
            if !gone {
                bytes += sizes.size;
                let present = match &kv {
                    Some(kv) => self.present(&kv.key, sizes.may_be_absent).await?,
                    None => Vec::new(),
                };
                lines.push(ManifestLine { json, size: sizes.size, packed: Vec::new(), present });
                parts.push(sizes.parts);
                items.extend(kv);
            }
        }
        cursor.done = cursor.last && cursor.ahead.is_empty();
        // The keys of the parts that are wanted belong to the lines, one after the other.
        let names: Vec<&[u8]> = items.iter().map(|kv| &kv.key[kind.prefix().len()..]).collect();
        let (Some(first), Some(last)) = (names.first(), names.last()) else { return Ok(lines) };
        let body = |name: &[u8]| [keys::MANIFEST_BODIES.as_bytes(), name, b"/"].concat();
        let mut start = Bytes::from(body(first));
        let end = prefix_end(&body(last));
        let mut line = 0;
        loop {
            let range = Range {
                start: start.clone(),
                end: end.clone(),
                limit: 0,
                keys_only: false,
                at: self.at.into(),
            };
            let page = self.catalog.store().range(range).await?;
            for kv in &page.items {
                let rest = &kv.key[keys::MANIFEST_BODIES.len()..];
                let cut = rest.iter().rposition(|b| *b == b'/').unwrap_or(rest.len());
                let name = &rest[..cut];
                while line < names.len() && names[line] < name {
                    line += 1;
                }
                // What belongs to no manifest is that of one whose push never ended.
                let mine = line < names.len() && names[line] == name;
                if mine && lines[line].packed.len() < parts[line] as usize {
                    lines[line].packed.push(kv.value.clone());
                }
            }
            match page.items.last() {
                Some(last) if page.more => start = [&last.key[..], &[0]].concat().into(),
                _ => break,
            }
        }
        for ((line, parts), name) in lines.iter().zip(parts).zip(names) {
            if line.packed.len() != parts as usize {
                return Err(CatalogError::Record {
                    kind: "manifest",
                    key: String::from_utf8_lossy(name).into_owned(),
                    reason: "a part of its bytes is missing".to_owned(),
                });
            }
        }
        Ok(lines)
    }

    /// Those of the blobs that a manifest's repository has.
    async fn present(&self, key: &[u8], of: Vec<Digest>) -> Result<Vec<Digest>, CatalogError> {
        let name = std::str::from_utf8(&key[Kind::Manifest.prefix().len()..]).unwrap_or_default();
        let repository = name.split('/').next().and_then(|id| id.parse().ok());
        let Some(repository) = repository else { return Ok(Vec::new()) };
        let mut present = Vec::new();
        for blob in of {
            if self.is_linked(&repository, &blob).await?
                && self.has(keys::blob(&blob).bytes()).await?
            {
                present.push(blob);
            }
        }
        Ok(present)
    }

    async fn is_linked(&self, id: &RepositoryId, blob: &Digest) -> Result<bool, CatalogError> {
        self.has(&keys::link(id, blob)).await
    }

    async fn has(&self, key: &[u8]) -> Result<bool, CatalogError> {
        Ok(self.catalog.store().get(key, At::Revision(self.at)).await?.is_some())
    }

    /// Whether a manifest that exists names the blob as content that may be absent, in a repository that links it.
    async fn is_mentioned(&self, digest: &str) -> Result<bool, CatalogError> {
        let Ok(digest) = digest.parse::<Digest>() else { return Ok(false) };
        let (prefix, at) = (keys::mentions(&digest), At::Revision(self.at));
        let mut after: Option<String> = None;
        loop {
            let page = self.catalog.names(&prefix, after.as_deref(), 0, at).await?;
            for by in &page.items {
                let id = by.split('/').next().and_then(|id| id.parse().ok());
                let Some(id) = id else { continue };
                // Written ahead, perhaps: what counts is that the manifest is there.
                if self.is_linked(&id, &digest).await?
                    && self.is_in_force(by, WRITTEN_AHEAD).await?
                {
                    return Ok(true);
                }
            }
            after = page.items.last().cloned();
            if !page.more || after.is_none() {
                return Ok(false);
            }
        }
    }

    async fn blobs(&self, cursor: &mut Cursor) -> Result<Vec<Bytes>, CatalogError> {
        let kind = Kind::Blob;
        let items = self.page(kind, cursor, 0).await?;
        let mut lines = Vec::with_capacity(items.len());
        for kv in &items {
            let digest = std::str::from_utf8(&kv.key[kind.prefix().len()..]).unwrap_or_default();
            if self.is_referenced_at(digest, &mut cursor.references).await?
                || self.is_mentioned(digest).await?
            {
                lines.push(codec::json(kind, &kv.key, &kv.value)?);
            }
        }
        Ok(lines)
    }

    /// Whether a manifest refers to the blob. To be asked in ascending order: both lists are walked side by side.
    async fn is_referenced_at(
        &self,
        digest: &str,
        walk: &mut References,
    ) -> Result<bool, CatalogError> {
        loop {
            match &walk.found {
                Some(found) if found.as_str() >= digest => return Ok(found == digest),
                _ => {}
            }
            let Some(kv) = walk.page.next() else {
                if walk.start.is_some() && !walk.more {
                    return Ok(false);
                }
                // Nothing is asked about digests before this one any more.
                let mut prefix = keys::REFERENCES.as_bytes().to_vec();
                prefix.extend_from_slice(digest.as_bytes());
                let start = walk
                    .start
                    .take()
                    .map_or(Bytes::from(prefix.clone()), |start| start.max(Bytes::from(prefix)));
                let page = self
                    .catalog
                    .store()
                    .range(Range {
                        start: start.clone(),
                        end: prefix_end(keys::REFERENCES.as_bytes()),
                        limit: 0,
                        keys_only: false,
                        at: self.at.into(),
                    })
                    .await?;
                walk.more = page.more;
                walk.start = Some(match page.items.last() {
                    Some(last) => [&last.key[..], &[0]].concat().into(),
                    None => start,
                });
                walk.page = page.items.into_iter();
                continue;
            };
            let rest = std::str::from_utf8(&kv.key[keys::REFERENCES.len()..]).unwrap_or_default();
            let Some((referenced, by)) = rest.split_once('/') else { continue };
            if referenced < digest || walk.found.as_deref() == Some(referenced) {
                continue;
            }
            if self.is_in_force(by, &kv.value).await? {
                walk.found = Some(referenced.to_owned());
                // The further references to it need not be read.
                let next = prefix_end(format!("{}{referenced}/", keys::REFERENCES).as_bytes());
                walk.start = walk.start.take().map(|start| start.max(next));
            }
        }
    }

    /// Whether a reference is that of a manifest that exists: not left from a deletion, nor ahead of a push.
    async fn is_in_force(&self, by: &str, value: &[u8]) -> Result<bool, CatalogError> {
        let repository = by.split('/').next().unwrap_or_default();
        if self.gone.contains(repository) {
            return Ok(false);
        }
        // A manifest that was deleted may have been pushed again since.
        if value.is_empty() && !self.dropped.contains(by) {
            return Ok(true);
        }
        let Some((repository, manifest)) = by.split_once('/') else { return Ok(false) };
        let (Ok(repository), Ok(manifest)) =
            (repository.parse::<RepositoryId>(), manifest.parse::<Digest>())
        else {
            return Ok(false);
        };
        let key = keys::manifest(&repository, &manifest);
        let found = self.catalog.store().get(key.bytes(), At::Revision(self.at)).await?;
        Ok(found.is_some())
    }
}
