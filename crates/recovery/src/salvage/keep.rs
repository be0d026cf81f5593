//! What is kept, kind by kind.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io::Write,
};

use dtr_archive::{
    ArchiveWriter, EntryName, Header, Section, Sha256, SigningKey,
    oci::Index,
    survey::{Found, Proof, ReadAt, Survey},
};
use dtr_catalog::Kind;
use dtr_types::{Digest, Hasher, RepositoryName};

use super::{COPY, SALVAGE, SalvageLine, SalvageReport};
use crate::{
    Findings, RecoveryError,
    lines::{DIRECTORY, DirectoryLine, Line, LineReader, Place, kind_of, place},
    schema::Migration,
    verify::{References, usable_certificate, usable_key},
};

/// The judging of what is left.
pub(super) struct Keep<'a> {
    input: &'a (dyn ReadAt + Send + Sync),
    survey: &'a Survey,
    proof: Option<Proof>,
    header: &'a Header,
    reader: LineReader,
    references: References,
    lost: Findings,
    lines_lost: u64,
    records: BTreeMap<String, u64>,
    /// For the index of the images: sizes of manifests by digest, and tags.
    sizes: HashMap<Digest, u64>,
    tags: Vec<(String, Digest, String)>,
}

type Lines = Vec<Vec<u8>>;

impl<'a> Keep<'a> {
    pub(super) fn new(
        input: &'a (dyn ReadAt + Send + Sync),
        survey: &'a Survey,
        header: &'a Header,
    ) -> Result<Self, RecoveryError> {
        Ok(Self {
            input,
            survey,
            proof: survey.proof(input),
            header,
            reader: LineReader::new(Migration::of(header)?),
            references: References::new(header.scope.identity),
            lost: Findings::default(),
            lines_lost: 0,
            records: BTreeMap::new(),
            sizes: HashMap::new(),
            tags: Vec::new(),
        })
    }

    pub(super) fn lose(&mut self, entry: &str, what: impl ToString) {
        self.lost.add(|| format!("{entry}: {}", what.to_string()));
    }

    /// Writes everything that is kept.
    pub(super) fn write<W: Write>(
        mut self,
        out: W,
        header: &Header,
        key: &SigningKey,
        origin: &SalvageLine,
    ) -> Result<(W, SalvageReport), RecoveryError> {
        let written = Header { schema: crate::SCHEMA, ..header.clone() };
        let mut writer = ArchiveWriter::new(out, written, key)?;
        for gap in &self.survey.gaps {
            let (offset, bytes) = (gap.offset, gap.bytes);
            self.lose("archive", format!("{bytes} bytes at byte {offset} are no part of one"));
        }
        if let Some(proof) = &self.proof {
            let found: HashSet<String> =
                self.survey.found.iter().map(|found| found.name.to_string()).collect();
            let gone: Vec<_> =
                proof.entries.keys().filter(|name| !found.contains(*name)).cloned().collect();
            gone.iter().for_each(|name| self.lose(name, "it is not there any more"));
        } else {
            self.lose(
                "manifest.json",
                "it is not whole: what is kept cannot be compared with what was written",
            );
        }
        for kind in Kind::ALL.iter().copied() {
            let Some(path) = kind.archived() else { continue };
            let lines = self.kind(path, Some(kind))?;
            match place(kind) {
                Some(Place::Records(section, name)) => push(&mut writer, section, name, &lines)?,
                Some(Place::Certificates(name)) => {
                    let mut content = zeroize::Zeroizing::new(Vec::new());
                    for line in &lines {
                        content.extend_from_slice(line);
                        content.push(b'\n');
                    }
                    writer.certificate(&format!("{name}.jsonl"), &content)?;
                }
                None => {}
            }
        }
        if self.found(DIRECTORY).next().is_some() {
            let lines = self.kind(DIRECTORY, None)?;
            push(&mut writer, Section::Identity, "directory", &lines)?;
        }
        let blobs = if header.scope.images { self.images(&mut writer)? } else { 0 };
        let blobs_lost = match header.scope.images {
            true => self.references.images_missing().len() as u64,
            false => 0,
        };
        let mut lines: Vec<Vec<u8>> = vec![serde_json::to_vec(origin)?];
        for lost in &self.lost.listed {
            let (entry, what) = lost.split_once(": ").unwrap_or(("archive", lost));
            let (entry, what) = (entry.to_owned(), what.to_owned());
            lines.push(serde_json::to_vec(&SalvageLine::Lost { entry, what })?);
        }
        let name = SALVAGE.rsplit('/').next().unwrap_or_default();
        push(&mut writer, Section::Config, name, &lines)?;
        let (out, summary) = writer.finish()?;
        let report = SalvageReport {
            whole: false,
            cluster: header.cluster_id.clone(),
            created: header.created,
            signed_by: self.proof.map(|proof| proof.manifest.signer.key_id),
            key_id: summary.key_id,
            records: self.records,
            records_lost: self.lines_lost,
            blobs,
            blobs_lost,
            lost: self.lost,
            bytes: summary.bytes,
        };
        Ok((out, report))
    }

    /// The members that hold a kind, in the order of their parts.
    fn found(&self, path: &str) -> impl Iterator<Item = &'a Found> + use<'a> {
        let of = |found: &&Found| match &found.name {
            EntryName::Records { section, kind, .. } => Some(format!("{section}/{kind}")),
            EntryName::Certificate(name) => {
                Some(format!("certificates/{}", name.trim_end_matches(".jsonl")))
            }
            _ => None,
        };
        let path = path.to_owned();
        let mut all: Vec<&Found> =
            self.survey.found.iter().filter(|f| of(f).as_ref() == Some(&path)).collect();
        all.sort_by_key(|found| match &found.name {
            EntryName::Records { part, .. } => *part,
            _ => 0,
        });
        all.into_iter()
    }

    /// The lines of a kind that are kept.
    fn kind(&mut self, path: &str, kind: Option<Kind>) -> Result<Lines, RecoveryError> {
        let (mut kept, mut any) = (Vec::new(), false);
        for found in self.found(path) {
            any = true;
            let (entry, content) =
                (found.name.to_string(), self.survey.content(self.input, found)?);
            if !found.is_complete() {
                let (there, size) = (found.available, found.size);
                self.lose(&entry, format!("{there} of its {size} bytes are there"));
            } else if self.differs(&entry, &content) {
                self.lose(&entry, "it is not what was written: what is kept of it may be altered");
            }
            let whole = content.ends_with(b"\n") || content.is_empty();
            let count = content.split(|byte| *byte == b'\n').count();
            for (number, line) in (1..).zip(content.split(|byte| *byte == b'\n')) {
                if line.is_empty() {
                    continue;
                }
                let judged = match (number == count && !whole, kind) {
                    (true, _) => Err("it is cut".to_owned()),
                    (false, Some(kind)) => self.judge(kind, line),
                    (false, None) => self.directory(line),
                };
                match judged {
                    Ok(line) => kept.push(line),
                    Err(why) => {
                        self.lines_lost += 1;
                        self.lose(&format!("{entry} line {number}"), crate::pump::printable(&why));
                    }
                }
            }
        }
        if !any && kind.is_some() {
            self.lose(path, "no file of this kind is there");
        }
        self.records.insert(path.to_owned(), kept.len() as u64);
        Ok(kept)
    }

    /// Whether the proof says that an entry was another.
    fn differs(&self, entry: &str, content: &[u8]) -> bool {
        let listed = self.proof.as_ref().and_then(|proof| proof.entries.get(entry));
        listed.is_some_and(|listed| listed.sha256 != Sha256::of(content))
    }

    fn judge(&mut self, kind: Kind, json: &[u8]) -> Result<Vec<u8>, String> {
        let (mut line, json) = self.reader.read(kind, json)?;
        let mut json = json.into_owned();
        match &mut line {
            Line::Key(key) => usable_key(key)?,
            Line::Certificate(certificate) => {
                usable_certificate(certificate, self.header.created)?;
            }
            Line::Repository(repository)
                if self.references.has_repository(repository.name.as_str()) =>
            {
                // Both are kept, and somebody decides which is the right one.
                let id: String = repository.id.as_str().chars().take(8).collect();
                let old = repository.name.clone();
                let name: RepositoryName =
                    format!("{old}-{id}").parse().map_err(|_| format!("two are named {old}"))?;
                let mut value: serde_json::Value =
                    serde_json::from_slice(&json).map_err(|error| error.to_string())?;
                value["name"] = name.as_str().into();
                json = serde_json::to_vec(&value).map_err(|error| error.to_string())?;
                repository.name = name.clone();
                self.lose(
                    kind_path(kind),
                    format!("two repositories were named {old}; the second is {name} now"),
                );
            }
            _ => {}
        }
        self.references.record(&line);
        let broken = std::mem::take(&mut self.references.broken);
        if let Some(why) = broken.listed.into_iter().next() {
            return Err(why);
        }
        if self.header.scope.images {
            self.note(&line);
        }
        Ok(json)
    }

    fn directory(&mut self, json: &[u8]) -> Result<Vec<u8>, String> {
        serde_json::from_slice::<DirectoryLine>(json).map_err(|error| error.to_string())?;
        Ok(json.to_owned())
    }

    /// Remembers what the index of the images is made of.
    fn note(&mut self, line: &Line) {
        match line {
            Line::Manifest(manifest) => {
                self.sizes.insert(manifest.record.digest, manifest.record.size);
            }
            Line::Tag(tag) => {
                if let Some(name) = self.references.repository_name(&tag.repository) {
                    let name = format!("{name}:{}", tag.name);
                    self.tags.push((tag.media_type.as_str().to_owned(), tag.digest, name));
                }
            }
            _ => {}
        }
    }

    /// Copies the content whose digest fits; yields how much that is.
    fn images<W: Write>(
        &mut self,
        writer: &mut ArchiveWriter<'_, W>,
    ) -> Result<u64, RecoveryError> {
        writer.oci_layout()?;
        let mut seen = HashSet::new();
        for found in &self.survey.found {
            let EntryName::Blob(digest) = &found.name else { continue };
            if !found.is_complete() || !self.hashes(found, digest)? {
                self.lose(&found.name.to_string(), "its content is not whole");
                continue;
            }
            if !seen.insert(*digest) {
                continue;
            }
            self.references.image(digest);
            let mut blob = writer.begin_blob(digest, found.size)?;
            self.each(found, |block| Ok(blob.write(block)?))?;
            blob.finish()?;
        }
        let mut index = Index::new();
        for (media_type, digest, name) in &self.tags {
            if let Some(size) = self.sizes.get(digest) {
                index.push(media_type, digest, *size, Some(name));
            }
        }
        writer.oci_index(&index.finish())?;
        Ok(seen.len() as u64)
    }

    fn hashes(&self, found: &Found, digest: &Digest) -> Result<bool, RecoveryError> {
        let mut hasher = Hasher::new(digest.algorithm());
        self.each(found, |block| {
            hasher.update(block);
            Ok(())
        })?;
        Ok(hasher.finish() == *digest)
    }

    fn each(
        &self,
        found: &Found,
        mut to: impl FnMut(&[u8]) -> Result<(), RecoveryError>,
    ) -> Result<(), RecoveryError> {
        let (mut buffer, mut at) = (vec![0; COPY], 0);
        while at < found.available {
            let want = usize::try_from(found.available - at).unwrap_or(COPY).min(COPY);
            let got = self.input.read_at(found.offset + at, &mut buffer[..want]);
            let got = got.map_err(dtr_archive::ArchiveError::from_io)?;
            if got == 0 {
                break;
            }
            to(&buffer[..got])?;
            at += got as u64;
        }
        Ok(())
    }
}

fn kind_path(kind: Kind) -> &'static str {
    debug_assert!(kind_of(kind.archived().unwrap_or_default()) == Some(kind));
    kind.archived().unwrap_or("records")
}

fn push<W: Write>(
    writer: &mut ArchiveWriter<'_, W>,
    section: Section,
    kind: &str,
    lines: &Lines,
) -> Result<(), RecoveryError> {
    let mut records = writer.records(section, kind)?;
    for line in lines {
        records.push_json(line)?;
    }
    Ok(())
}
