//! Writes an archive to anything that takes bytes. Synchronous: run it on a thread that may block.

use std::io::{self, BufWriter, Read, Write};

use aws_lc_rs::digest::{Context, SHA256, SHA512};
use dtr_types::{Algorithm, Digest};
use serde::Serialize;

use crate::{
    ArchiveError, Result,
    block::{self, BLOCK, Member},
    entries::{EntryLog, Totals},
    header::{FORMAT, Header},
    manifest::{Manifest, StreamProof},
    name::{EntryName, Section, kind_name},
    oci,
    reader::Limits,
    sign::{Sha256, SigningKey},
};

/// A file of records is closed, and the next part begun, when it has this many bytes. One part is held in memory.
pub const PART_BYTES: usize = 4 << 20;
const COPY_BYTES: usize = 256 * 1024;

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Sums over the entries.
    pub totals: Totals,
    /// Bytes of the whole stream, before any encryption.
    pub bytes: u64,
    /// SHA-256 of the whole stream, before any encryption.
    pub sha256: Sha256,
    /// The id of the key that signed it.
    pub key_id: String,
}

struct OpenRecords {
    section: Section,
    kind: String,
    /// Parts written.
    parts: u32,
    records: u64,
    buffer: Vec<u8>,
}

/// Writes one archive. Entries come in the order of the calls. An archive that is not brought to
/// [`ArchiveWriter::finish`] has no proof and is refused by every reader; that is how a backup is given up.
pub struct ArchiveWriter<'k, W: Write> {
    out: BufWriter<W>,
    key: &'k SigningKey,
    header: Header,
    folder: String,
    folders: Vec<String>,
    stream: Context,
    written: u64,
    log: EntryLog,
    open: Option<OpenRecords>,
    spare: Vec<u8>,
    failed: bool,
}

impl<'k, W: Write> ArchiveWriter<'k, W> {
    /// Begins with the header. Its `format` and `signer` are set to what they must be.
    ///
    /// # Errors
    /// When the output cannot be written, or the header's version cannot be part of a file name.
    pub fn new(out: W, header: Header, key: &'k SigningKey) -> Result<Self> {
        let header = Header { format: FORMAT, signer: key.signer(), ..header };
        let json = header.to_json()?;
        let folder = header.folder();
        let mut writer = Self {
            out: BufWriter::with_capacity(COPY_BYTES, out),
            key,
            header,
            folder,
            folders: Vec::new(),
            stream: Context::new(&SHA256),
            written: 0,
            log: EntryLog::default(),
            open: None,
            spare: Vec::new(),
            failed: false,
        };
        writer.member("", 0, true)?;
        writer.whole(&EntryName::Header, &json, None)?;
        Ok(writer)
    }

    /// The header as it was written.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Sums over the entries that are complete so far, for progress.
    pub fn totals(&self) -> &Totals {
        &self.log.totals
    }

    /// Bytes written so far.
    pub fn bytes(&self) -> u64 {
        self.written
    }

    /// Begins a kind of records, such as `tags` in [`Section::Metadata`]. All records of a kind come in one go; the next
    /// call of anything else on the writer ends it. A kind without a record becomes an empty file.
    ///
    /// # Errors
    /// For a kind that was written already or has a name outside `[a-z][a-z0-9_]*`, and when the output fails.
    pub fn records(&mut self, section: Section, kind: &str) -> Result<RecordsWriter<'_, 'k, W>> {
        self.end_records()?;
        let path = format!("{section}/{kind}");
        if !kind_name(kind) {
            return Err(misuse(
                &path,
                "a kind has 1 to 64 lower-case letters, digits and underscores",
            ));
        }
        if self.log.totals.kinds.contains_key(&path) {
            return Err(misuse(&path, "all records of a kind must come in one go"));
        }
        let mut buffer = std::mem::take(&mut self.spare);
        buffer.clear();
        self.open =
            Some(OpenRecords { section, kind: kind.to_owned(), parts: 0, records: 0, buffer });
        Ok(RecordsWriter { writer: self })
    }

    /// Writes a certificate or key as `certificates/NAME`.
    ///
    /// # Errors
    /// For a name that is not a plain file name or was used, and when the output fails.
    pub fn certificate(&mut self, name: &str, content: &[u8]) -> Result<()> {
        let path = format!("certificates/{name}");
        let entry = EntryName::parse(&path);
        let entry = entry.ok_or_else(|| misuse(&path, "not a plain file name"))?;
        self.end_records()?;
        self.whole(&entry, content, None)
    }

    /// Writes `images/oci-layout`; to be called once, before or after the blobs, if there are images.
    ///
    /// # Errors
    /// When called twice, and when the output fails.
    pub fn oci_layout(&mut self) -> Result<()> {
        self.end_records()?;
        self.whole(&EntryName::OciLayout, oci::LAYOUT, None)
    }

    /// Writes `images/index.json`, as [`oci::Index`] makes it.
    ///
    /// # Errors
    /// When called twice, and when the output fails.
    pub fn oci_index(&mut self, json: &[u8]) -> Result<()> {
        self.end_records()?;
        self.whole(&EntryName::OciIndex, json, None)
    }

    /// Copies a blob (or an image manifest) of known size into `images/blobs/`, checking it against its digest.
    ///
    /// # Errors
    /// When the reader fails, gives more or fewer bytes, or other content; the archive is useless then, since what is
    /// written cannot be taken back. Also when the blob is there already, and when the output fails.
    pub fn blob(&mut self, digest: &Digest, size: u64, reader: &mut impl Read) -> Result<()> {
        let mut blob = self.begin_blob(digest, size)?;
        let mut buffer = std::mem::take(&mut blob.writer.spare);
        buffer.resize(COPY_BYTES.max(buffer.len()), 0);
        loop {
            match reader.read(&mut buffer[..COPY_BYTES]) {
                Ok(0) => break,
                Ok(n) => blob.write(&buffer[..n])?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(ArchiveError::Read { at: blob.entry.to_string(), source });
                }
            }
        }
        blob.writer.spare = buffer;
        blob.finish()
    }

    /// As [`ArchiveWriter::blob`], for content that comes piece by piece.
    ///
    /// # Errors
    /// When the blob is there already, and when the output fails.
    pub fn begin_blob(&mut self, digest: &Digest, size: u64) -> Result<BlobWriter<'_, 'k, W>> {
        self.end_records()?;
        let entry = EntryName::Blob(*digest);
        self.begin(&entry, size)?;
        // Until the blob is complete the archive is not.
        self.failed = true;
        let sha512 = digest.algorithm() == Algorithm::Sha512;
        Ok(BlobWriter {
            writer: self,
            entry,
            digest: *digest,
            size,
            written: 0,
            sha256: Context::new(&SHA256),
            sha512: sha512.then(|| Context::new(&SHA512)),
        })
    }

    /// Writes the proof and the end, flushes, and gives the output back.
    ///
    /// # Errors
    /// When an entry failed before, and when the output fails.
    pub fn finish(mut self) -> Result<(W, Summary)> {
        self.end_records()?;
        self.usable("manifest.json")?;
        let stream =
            StreamProof { bytes: self.written, sha256: Sha256::finish(self.stream.clone()) };
        let manifest = Manifest::new(&self.header, stream, self.log.totals.clone());
        let log = std::mem::take(&mut self.log);
        let (size, signature) = manifest.seal(&log, self.key)?;
        self.member("manifest.json", size, false)?;
        manifest.write(&log, &signature, |line| self.put(line, "manifest.json"))?;
        self.pad(size, "manifest.json")?;
        self.put(&[0; 2 * BLOCK], "manifest.json")?;
        let summary = Summary {
            totals: manifest.totals,
            bytes: self.written,
            sha256: Sha256::finish(self.stream),
            key_id: self.header.signer.key_id,
        };
        let failed = |source| ArchiveError::Write { at: "manifest.json".to_owned(), source };
        self.out.flush().map_err(failed)?;
        let out = self.out.into_inner().map_err(|e| failed(e.into_error()))?;
        Ok((out, summary))
    }

    fn usable(&self, entry: &str) -> Result<()> {
        if self.failed { Err(misuse(entry, "an entry before it failed")) } else { Ok(()) }
    }

    fn put(&mut self, bytes: &[u8], at: &str) -> Result<()> {
        self.stream.update(bytes);
        self.written += bytes.len() as u64;
        self.out.write_all(bytes).map_err(|source| {
            self.failed = true;
            ArchiveError::Write { at: at.to_owned(), source }
        })
    }

    fn pad(&mut self, size: u64, at: &str) -> Result<()> {
        let over = (size % BLOCK as u64) as usize;
        if over == 0 { Ok(()) } else { self.put(&[0; BLOCK][over..], at) }
    }

    fn member(&mut self, name: &str, size: u64, folder: bool) -> Result<()> {
        let mtime = u64::try_from(self.header.created.seconds()).unwrap_or(0);
        let path = format!("{}/{name}", self.folder);
        let blocks = block::encode(&Member { path, size, mtime, folder });
        self.put(&blocks, name)
    }

    /// Checks and writes the tar header of an entry, and of the folders that it is the first in.
    fn begin(&mut self, entry: &EntryName, size: u64) -> Result<()> {
        let name = entry.to_string();
        self.usable(&name)?;
        if self.log.contains(entry) {
            return Err(misuse(&name, "it is in the archive already"));
        }
        let limits = Limits::default();
        let limit = limits.size(entry);
        if size > limit {
            return Err(ArchiveError::TooLarge { entry: name, size, limit });
        }
        if self.log.len() as u64 >= limits.entries {
            return Err(ArchiveError::TooManyEntries { entry: name, limit: limits.entries });
        }
        for folder in entry.folders() {
            if !self.folders.contains(&folder) {
                self.member(&folder, 0, true)?;
                self.folders.push(folder);
            }
        }
        self.member(&name, size, false)
    }

    /// Writes an entry that is in memory.
    fn whole(&mut self, entry: &EntryName, content: &[u8], records: Option<u64>) -> Result<()> {
        let size = content.len() as u64;
        self.begin(entry, size)?;
        let name = entry.to_string();
        self.put(content, &name)?;
        self.pad(size, &name)?;
        self.log.push(entry, size, Sha256::of(content), records);
        Ok(())
    }

    /// Writes what the open kind has gathered as its next part.
    fn flush_part(&mut self, last: bool) -> Result<()> {
        let Some(mut open) = self.open.take() else { return Ok(()) };
        if !last || open.parts == 0 || !open.buffer.is_empty() {
            let part = if last && open.parts == 0 { 0 } else { open.parts + 1 };
            let (section, kind) = (open.section, open.kind.clone());
            let entry = EntryName::Records { section, kind, part };
            self.whole(&entry, &open.buffer, Some(open.records))?;
            open.parts += 1;
        }
        open.buffer.clear();
        open.records = 0;
        if last {
            self.spare = open.buffer;
        } else {
            self.open = Some(open);
        }
        Ok(())
    }

    fn end_records(&mut self) -> Result<()> {
        self.flush_part(true)
    }
}

fn misuse(entry: &str, why: &'static str) -> ArchiveError {
    ArchiveError::Misuse { entry: entry.to_owned(), why }
}

/// Takes the records of one kind.
pub struct RecordsWriter<'w, 'k, W: Write> {
    writer: &'w mut ArchiveWriter<'k, W>,
}

impl<W: Write> RecordsWriter<'_, '_, W> {
    /// Adds a record.
    ///
    /// # Errors
    /// When it cannot be JSON, is longer than [`Limits::record_bytes`], or the output fails.
    pub fn push(&mut self, record: &(impl Serialize + ?Sized)) -> Result<()> {
        self.add(|buffer| serde_json::to_writer(buffer, record).map_err(|e| e.to_string()))
    }

    /// Adds a record that is JSON already, on one line.
    ///
    /// # Errors
    /// When it has a line end in it or is empty; else as [`RecordsWriter::push`]. That it is JSON is not checked.
    pub fn push_json(&mut self, json: &[u8]) -> Result<()> {
        self.add(|buffer| {
            if json.is_empty() || json.contains(&b'\n') {
                return Err("a record is one line of JSON".to_owned());
            }
            buffer.extend_from_slice(json);
            Ok(())
        })
    }

    fn add(&mut self, put: impl FnOnce(&mut Vec<u8>) -> Result<(), String>) -> Result<()> {
        let Some(open) = &mut self.writer.open else {
            return Err(misuse("records", "an entry before it failed"));
        };
        let start = open.buffer.len();
        let put = put(&mut open.buffer);
        let length = (open.buffer.len() - start) as u64;
        let limit = Limits::default().record_bytes;
        if put.is_err() || length > limit {
            open.buffer.truncate(start);
            let entry = format!("{}/{}", open.section, open.kind);
            let line = open.records + 1;
            return Err(match put {
                Err(why) => ArchiveError::Record { entry, line, why },
                Ok(()) => ArchiveError::LineTooLong { entry, line, limit },
            });
        }
        open.buffer.push(b'\n');
        open.records += 1;
        if open.buffer.len() >= PART_BYTES {
            self.writer.flush_part(false)?;
        }
        Ok(())
    }
}

/// Takes the content of one blob. Without [`BlobWriter::finish`] the archive cannot be finished.
pub struct BlobWriter<'w, 'k, W: Write> {
    writer: &'w mut ArchiveWriter<'k, W>,
    entry: EntryName,
    digest: Digest,
    size: u64,
    written: u64,
    sha256: Context,
    sha512: Option<Context>,
}

impl<W: Write> BlobWriter<'_, '_, W> {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// When they are more than announced, and when the output fails.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.written += bytes.len() as u64;
        if self.written > self.size {
            return Err(self.wrong_size());
        }
        self.sha256.update(bytes);
        if let Some(hash) = &mut self.sha512 {
            hash.update(bytes);
        }
        self.writer.put(bytes, "images/blobs")
    }

    fn wrong_size(&self) -> ArchiveError {
        ArchiveError::BlobSize {
            entry: self.entry.to_string(),
            size: self.size,
            found: self.written,
        }
    }

    /// Ends it, checking size and digest.
    ///
    /// # Errors
    /// When the content is not the one announced, and when the output fails.
    pub fn finish(self) -> Result<()> {
        if self.written != self.size {
            return Err(self.wrong_size());
        }
        let sha256 = Sha256::finish(self.sha256);
        let sha512 = self.sha512.map(|c| c.finish().as_ref().to_vec());
        oci::check_digest(&self.entry, &self.digest, sha256, sha512.as_deref())?;
        self.writer.failed = false;
        self.writer.pad(self.size, "images/blobs")?;
        self.writer.log.push(&self.entry, self.size, sha256, None);
        Ok(())
    }
}
