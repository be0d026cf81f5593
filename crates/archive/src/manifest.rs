//! `manifest.json`: the proof. One JSON document, written line by line so that neither side has to hold it: a head, one
//! line for each entry, and the signature on the last line, over everything before that line.

use aws_lc_rs::digest::{Context, SHA256};
use dtr_types::{ClusterId, Revision, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    ArchiveError, Result,
    entries::{EntryLog, ManifestEntry, Totals},
    error::shown,
    header::{Header, Signer},
    sign::{Sha256, SigningKey},
};

/// The stream up to the tar header of `manifest.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamProof {
    /// Its bytes.
    pub bytes: u64,
    /// Its hash.
    pub sha256: Sha256,
}

/// The head of the manifest: all of it but the list of entries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// As in the header.
    pub format: u32,
    /// As in the header.
    pub cluster_id: ClusterId,
    /// As in the header.
    pub revision: Revision,
    /// As in the header.
    pub created: Timestamp,
    /// As in the header.
    pub signer: Signer,
    /// Everything before the manifest, as one hash.
    pub stream: StreamProof,
    /// Sums over the entries.
    pub totals: Totals,
}

const ENTRIES: &[u8] = b"\"entries\":[\n";
const ENTRIES_END: &[u8] = b"],\n";

fn message(hash: Sha256) -> Vec<u8> {
    format!("dtr-backup-manifest-v1\n{hash}\n").into_bytes()
}

fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| ArchiveError::Manifest { line: 0, why: e.to_string() })
}

impl Manifest {
    pub(crate) fn new(header: &Header, stream: StreamProof, totals: Totals) -> Self {
        Self {
            format: header.format,
            cluster_id: header.cluster_id.clone(),
            revision: header.revision,
            created: header.created,
            signer: header.signer.clone(),
            stream,
            totals,
        }
    }

    /// Gives every line but the signature to `to`.
    fn lines(&self, log: &EntryLog, mut to: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut line = b"{\"manifest\":".to_vec();
        line.extend(json(self)?);
        line.extend(b",\n");
        to(&line)?;
        to(ENTRIES)?;
        for index in 0..log.len() {
            let Some(entry) = log.get(index) else { break };
            let mut line = json(&entry)?;
            line.extend(if index + 1 < log.len() { &b",\n"[..] } else { b"\n" });
            to(&line)?;
        }
        to(ENTRIES_END)
    }

    /// The document's length, and its signature line.
    pub(crate) fn seal(&self, log: &EntryLog, key: &SigningKey) -> Result<(u64, Vec<u8>)> {
        let mut size = 0u64;
        let mut hash = Context::new(&SHA256);
        self.lines(log, |line| {
            size += line.len() as u64;
            hash.update(line);
            Ok(())
        })?;
        let signature = key.sign(&message(Sha256::finish(hash)));
        let last = format!("\"signature\":\"{}\"}}\n", hex::encode(signature)).into_bytes();
        Ok((size + last.len() as u64, last))
    }

    /// Gives the document to `to`, line by line.
    pub(crate) fn write(
        &self,
        log: &EntryLog,
        signature: &[u8],
        mut to: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        self.lines(log, &mut to)?;
        to(signature)
    }

    /// Compares with the header that came first.
    fn check_header(&self, header: &Header) -> Result<()> {
        let field = if self.format != header.format {
            "format"
        } else if self.cluster_id != header.cluster_id {
            "cluster_id"
        } else if self.revision != header.revision {
            "revision"
        } else if self.created != header.created {
            "created"
        } else if self.signer != header.signer {
            "signer"
        } else {
            return Ok(());
        };
        Err(ArchiveError::HeaderMismatch { field })
    }
}

enum Expect {
    Head,
    List,
    Entries,
    Signature,
    Nothing,
}

/// Reads the document line by line and compares it with what came. What does not fit is kept until the signature was
/// looked at: if that is broken too, it is the manifest that was altered, not the entry.
pub(crate) struct Checker {
    expect: Expect,
    line: u64,
    hash: Context,
    manifest: Option<Manifest>,
    index: usize,
    last_entry: bool,
    mismatch: Option<ArchiveError>,
    /// The entry that came in another's place, until it is known whether it is listed further down.
    stray: Option<(ManifestEntry, String)>,
}

impl Checker {
    pub(crate) fn new() -> Self {
        Self {
            expect: Expect::Head,
            line: 0,
            hash: Context::new(&SHA256),
            manifest: None,
            index: 0,
            last_entry: false,
            mismatch: None,
            stray: None,
        }
    }

    fn wrong(&self, why: impl std::fmt::Display) -> ArchiveError {
        ArchiveError::Manifest { line: self.line, why: shown(&why.to_string()) }
    }

    /// Takes the next line, without its end.
    pub(crate) fn line(&mut self, line: &[u8], header: &Header, log: &EntryLog) -> Result<()> {
        self.line += 1;
        if !matches!(self.expect, Expect::Signature) {
            self.hash.update(line);
            self.hash.update(b"\n");
        }
        match self.expect {
            Expect::Head => {
                let json = line
                    .strip_prefix(b"{\"manifest\":")
                    .and_then(|l| l.strip_suffix(b","))
                    .ok_or_else(|| self.wrong("it does not begin as a manifest does"))?;
                let manifest: Manifest = serde_json::from_slice(json).map_err(|e| self.wrong(e))?;
                manifest.check_header(header)?;
                self.manifest = Some(manifest);
                self.expect = Expect::List;
            }
            Expect::List => {
                if line != b"\"entries\":[" {
                    return Err(self.wrong("the list of entries was to begin here"));
                }
                self.expect = Expect::Entries;
            }
            Expect::Entries if line == b"]," => {
                if self.index > 0 && !self.last_entry {
                    return Err(self.wrong("the list of entries ends after a comma"));
                }
                self.expect = Expect::Signature;
            }
            Expect::Entries => {
                if self.last_entry {
                    return Err(self.wrong("a comma is missing between two entries"));
                }
                let json = line.strip_suffix(b",").unwrap_or(line);
                self.last_entry = json.len() == line.len();
                let listed: ManifestEntry =
                    serde_json::from_slice(json).map_err(|e| self.wrong(e))?;
                self.compare(&listed, log);
                self.index += 1;
            }
            Expect::Signature => {
                let hex = line
                    .strip_prefix(b"\"signature\":\"")
                    .and_then(|l| l.strip_suffix(b"\"}"))
                    .ok_or_else(|| self.wrong("the signature was to come here"))?;
                let upper = hex.iter().any(u8::is_ascii_uppercase);
                let signature = hex::decode(hex).ok().filter(|s| s.len() == 64 && !upper);
                let signature = signature.ok_or_else(|| {
                    self.wrong("a signature has 128 lower-case hexadecimal digits")
                })?;
                self.expect = Expect::Nothing;
                self.check_signature(&signature)?;
            }
            Expect::Nothing => return Err(self.wrong("nothing may follow the signature")),
        }
        Ok(())
    }

    fn check_signature(&self, signature: &[u8]) -> Result<()> {
        let Some(manifest) = &self.manifest else {
            return Err(self.wrong("it has no head"));
        };
        let signed = message(Sha256::finish(self.hash.clone()));
        if manifest.signer.public_key.verifies(&signed, signature) {
            Ok(())
        } else {
            Err(ArchiveError::Signature { key_id: manifest.signer.key_id.clone() })
        }
    }

    fn compare(&mut self, listed: &ManifestEntry, log: &EntryLog) {
        if let Some((stray, expected)) = &self.stray {
            if stray.name == listed.name {
                let (entry, expected) = (stray.name.clone(), format!("\"{expected}\""));
                self.mismatch = Some(ArchiveError::OutOfOrder { entry, expected });
                self.stray = None;
            }
            return;
        }
        if self.mismatch.is_some() {
            return;
        }
        let name = shown(&listed.name);
        match log.get(self.index) {
            Some(found) if found == *listed => {}
            Some(found) if found.name == listed.name => {
                self.mismatch = Some(differ(&found, listed))
            }
            found => {
                if !log.contains_text(&listed.name) {
                    let why = "manifest.json lists it, but it did not come".to_owned();
                    self.mismatch = Some(ArchiveError::Missing { entry: name, why });
                } else if let Some(found) = found {
                    self.stray = Some((found, name));
                } else {
                    self.mismatch = Some(ArchiveError::Duplicate { entry: name });
                }
            }
        }
    }

    /// At the end of the document: everything that was kept, and the sums.
    pub(crate) fn finish(self, log: &EntryLog, stream: StreamProof) -> Result<Manifest> {
        let unfinished = self.wrong("it ends before its signature");
        let (Expect::Nothing, Some(manifest)) = (&self.expect, self.manifest) else {
            return Err(unfinished);
        };
        if let Some(mismatch) = self.mismatch {
            return Err(mismatch);
        }
        if let Some((stray, _)) = self.stray {
            return Err(ArchiveError::Extra { entry: stray.name });
        }
        if let Some(extra) = log.get(self.index) {
            return Err(ArchiveError::Extra { entry: extra.name });
        }
        let (said, found) = (&manifest.totals, &log.totals);
        for (what, equal) in [
            ("entries", said.entries == found.entries),
            ("bytes", said.bytes == found.bytes),
            ("records", said.records == found.records),
            ("blobs", said.blobs == found.blobs),
            ("blob bytes", said.blob_bytes == found.blob_bytes),
            ("records by kind", said.kinds == found.kinds),
        ] {
            if !equal {
                return Err(ArchiveError::Totals { what });
            }
        }
        if manifest.stream != stream {
            return Err(ArchiveError::StreamHash);
        }
        Ok(manifest)
    }
}

fn differ(found: &ManifestEntry, listed: &ManifestEntry) -> ArchiveError {
    let count = |records: Option<u64>| {
        records.map_or("no record count".to_owned(), |n| format!("{n} records"))
    };
    let (listed_as, found_as) = if found.size != listed.size {
        (format!("{} bytes", listed.size), format!("{} bytes", found.size))
    } else if found.records != listed.records {
        (count(listed.records), count(found.records))
    } else {
        (format!("SHA-256 {}", listed.sha256), format!("SHA-256 {}", found.sha256))
    };
    ArchiveError::EntryDiffers { entry: shown(&found.name), listed: listed_as, found: found_as }
}

/// The document by itself, without anything that it speaks of.
pub(crate) struct Listed {
    pub(crate) manifest: Manifest,
    pub(crate) entries: Vec<ManifestEntry>,
}

impl Listed {
    /// Reads it, if it is whole and signed by the key that it names.
    pub(crate) fn read(document: &[u8]) -> Result<Self> {
        let wrong = |line: u64, why: &str| ArchiveError::Manifest { line, why: why.to_owned() };
        let document = document.strip_suffix(b"\n").ok_or_else(|| wrong(0, "it is cut short"))?;
        let mut lines = document.split(|byte| *byte == b'\n');
        let head = lines.next().and_then(|line| line.strip_prefix(b"{\"manifest\":"));
        let head = head.and_then(|line| line.strip_suffix(b","));
        let head = head.ok_or_else(|| wrong(1, "it does not begin as a manifest does"))?;
        let manifest: Manifest =
            serde_json::from_slice(head).map_err(|error| wrong(1, &error.to_string()))?;
        let mut entries = Vec::new();
        for (number, line) in (2..).zip(lines) {
            if line == b"\"entries\":[" || line == b"]," {
                continue;
            }
            if let Some(signature) = line.strip_prefix(b"\"signature\":\"") {
                let signed = document.len() - line.len();
                let signature =
                    signature.strip_suffix(b"\"}").and_then(|hex| hex::decode(hex).ok());
                let mut hash = Context::new(&SHA256);
                hash.update(&document[..signed]);
                let signed = message(Sha256::finish(hash));
                let fits = signature.is_some_and(|signature| {
                    manifest.signer.public_key.verifies(&signed, &signature)
                });
                let key_id = manifest.signer.key_id.clone();
                return if fits {
                    Ok(Self { manifest, entries })
                } else {
                    Err(ArchiveError::Signature { key_id })
                };
            }
            let json = line.strip_suffix(b",").unwrap_or(line);
            let entry = serde_json::from_slice(json);
            entries.push(entry.map_err(|error| wrong(number, &error.to_string()))?);
        }
        Err(wrong(0, "it ends before its signature"))
    }
}
