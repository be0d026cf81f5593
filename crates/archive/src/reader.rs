//! Reads an archive as it streams past, refusing whatever a backup would not have written.

use std::{
    io::{self, Read},
    ops::Range,
    sync::Arc,
};

use dtr_types::Digest;
use serde::Deserialize;

use crate::{
    ArchiveError, Result,
    core::Core,
    entries::Totals,
    error::shown,
    header::{Header, Product},
    known::KnownKeys,
    manifest::Manifest,
    name::{EntryName, Section},
    seal::{self, Keys, Opened},
};

/// How much an archive may ask for. The writer keeps to the defaults, so that a backup that could be written can be read.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Entries.
    pub entries: u64,
    /// Bytes of `header.json`.
    pub header_bytes: u64,
    /// Bytes of one record.
    pub record_bytes: u64,
    /// Bytes of one file of records.
    pub part_bytes: u64,
    /// Bytes of a certificate or of `oci-layout`.
    pub file_bytes: u64,
    /// Bytes of `images/index.json`.
    pub index_bytes: u64,
    /// Bytes of one blob.
    pub blob_bytes: u64,
    /// Bytes of `manifest.json`.
    pub manifest_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 16 << 20,
            header_bytes: 64 << 10,
            record_bytes: 16 << 20,
            part_bytes: 64 << 20,
            file_bytes: 16 << 20,
            index_bytes: 4 << 30,
            blob_bytes: 16 << 40,
            manifest_bytes: 8 << 30,
        }
    }
}

impl Limits {
    pub(crate) fn size(&self, entry: &EntryName) -> u64 {
        match entry {
            EntryName::Header => self.header_bytes,
            EntryName::Manifest => self.manifest_bytes,
            EntryName::Records { .. } => self.part_bytes,
            EntryName::Certificate(_) | EntryName::OciLayout => self.file_bytes,
            EntryName::OciIndex => self.index_bytes,
            EntryName::Blob(_) => self.blob_bytes,
        }
    }
}

/// How to read.
#[derive(Default)]
pub struct ReadOptions {
    /// How much is accepted.
    pub limits: Limits,
    /// What may open an encrypted archive.
    pub keys: Keys,
    /// The keys of which one must have signed it. Without any, the archive only proves that nothing in it was damaged.
    pub known: KnownKeys,
    /// The program whose state is wanted.
    pub product: Option<Product>,
}

/// What comes next.
pub enum Entry<'a, R: Read> {
    /// Records of one kind, or a part of them.
    Records(Records<'a, R>),
    /// A certificate, `oci-layout` or `index.json`.
    File(FileReader<'a, R>),
    /// An image's layer, configuration or manifest.
    Blob(BlobReader<'a, R>),
    /// The end, and that everything before it is what was written.
    End(Box<Manifest>),
}

#[derive(PartialEq)]
enum State {
    Reading,
    Ended,
}

/// Reads one archive, encrypted or not.
pub struct ArchiveReader<R: Read> {
    core: Core<Opened<R>>,
    header: Header,
    encrypted: bool,
    state: State,
}

impl<R: Read> ArchiveReader<R> {
    /// Begins: recognizes encryption and foreign formats, reads the header.
    ///
    /// # Errors
    /// For anything that is not an archive, cannot be decrypted with the keys given, is newer, or has a damaged header.
    pub fn open(input: R, options: ReadOptions) -> Result<Self> {
        let (opened, encrypted) = seal::open(input, &options.keys)?;
        let (core, header) = Core::open(opened, encrypted, options.limits, options.product)?;
        // That this key signed it is proven at the end: header and proof must name the same.
        options.known.check(&header.signer.key_id)?;
        Ok(Self { core, header, encrypted, state: State::Reading })
    }

    /// What the archive says about itself. Not proven before [`Entry::End`].
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Whether the stream is encrypted.
    pub fn encrypted(&self) -> bool {
        self.encrypted
    }

    /// Sums over the entries that were read whole.
    pub fn totals(&self) -> &Totals {
        &self.core.log.totals
    }

    /// Bytes read so far (of the clear stream).
    pub fn bytes(&self) -> u64 {
        self.core.offset()
    }

    /// The next entry; what the last one still had is read and checked first. `None` after [`Entry::End`].
    ///
    /// # Errors
    /// Everything in [`ArchiveError`]; after one, the archive is to be given up.
    pub fn next_entry(&mut self) -> Result<Option<Entry<'_, R>>> {
        if self.state == State::Ended {
            return Ok(None);
        }
        if self.core.failed {
            let why = "reading it failed before";
            return Err(ArchiveError::Misuse { entry: "archive".to_owned(), why });
        }
        self.core.failed = true;
        let next = self.core.next(&self.header)?;
        self.core.failed = false;
        let core = &mut self.core;
        Ok(Some(match next {
            Ok(EntryName::Records { section, kind, part }) => {
                let name = EntryName::Records { section, kind: kind.clone(), part };
                let name = name.to_string().into();
                Entry::Records(Records { core, section, kind, part, name, line: 0 })
            }
            Ok(EntryName::Blob(digest)) => {
                Entry::Blob(BlobReader { digest, content: Content::new(core) })
            }
            Ok(name) => Entry::File(FileReader { name, content: Content::new(core) }),
            Err(manifest) => {
                self.state = State::Ended;
                Entry::End(Box::new(manifest))
            }
        }))
    }
}

/// Records of one kind, or a part of them.
pub struct Records<'a, R: Read> {
    core: &'a mut Core<Opened<R>>,
    section: Section,
    kind: String,
    part: u32,
    name: Arc<str>,
    line: u64,
}

impl<R: Read> Records<'_, R> {
    /// The folder.
    pub fn section(&self) -> Section {
        self.section
    }

    /// The kind, such as `tags`.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// 0 when the kind has only one part, else from 1.
    pub fn part(&self) -> u32 {
        self.part
    }

    /// The entry's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The number of the line that came last, from 1.
    pub fn line_number(&self) -> u64 {
        self.line
    }

    /// The next record's JSON, not looked into; `None` after the last of this part.
    ///
    /// # Errors
    /// For an empty, endless or cut line, and whatever is wrong with the stream.
    pub fn next_line(&mut self) -> Result<Option<&[u8]>> {
        self.line += 1;
        self.core.next_line()
    }

    /// The next record. It may borrow from the line.
    ///
    /// # Errors
    /// As [`Records::next_line`], and when the line is not such a record.
    pub fn next_record<'b, T: Deserialize<'b>>(&'b mut self) -> Result<Option<T>> {
        let (name, line) = (Arc::clone(&self.name), self.line + 1);
        let Some(json) = self.next_line()? else { return Ok(None) };
        serde_json::from_slice(json).map(Some).map_err(|e| ArchiveError::Record {
            entry: name.as_ref().to_owned(),
            line,
            why: shown(&e.to_string()),
        })
    }
}

/// The rest of an entry's content, and what of it is in the buffer.
struct Content<'a, R: Read> {
    core: &'a mut Core<Opened<R>>,
    size: u64,
    ready: Range<usize>,
}

impl<'a, R: Read> Content<'a, R> {
    fn new(core: &'a mut Core<Opened<R>>) -> Self {
        let size = core.size();
        Self { core, size, ready: 0..0 }
    }

    fn chunk(&mut self) -> Result<Option<&[u8]>> {
        if self.ready.is_empty() {
            self.ready = self.core.content()?;
        }
        if self.ready.is_empty() {
            self.core.close()?;
            return Ok(None);
        }
        Ok(Some(self.core.bytes(std::mem::take(&mut self.ready))))
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ready.is_empty() {
            self.ready = self.core.content().map_err(io::Error::other)?;
        }
        if self.ready.is_empty() {
            self.core.close().map_err(io::Error::other)?;
            return Ok(0);
        }
        let n = buffer.len().min(self.ready.len());
        let range = self.ready.start..self.ready.start + n;
        buffer[..n].copy_from_slice(self.core.bytes(range));
        self.ready.start += n;
        Ok(n)
    }
}

/// A certificate, `oci-layout` or `index.json`. An error that comes through [`Read`] is an [`ArchiveError`]; see
/// [`ArchiveError::from_io`].
pub struct FileReader<'a, R: Read> {
    name: EntryName,
    content: Content<'a, R>,
}

impl<R: Read> FileReader<'_, R> {
    /// The entry's name.
    pub fn name(&self) -> &EntryName {
        &self.name
    }

    /// Bytes of content.
    pub fn size(&self) -> u64 {
        self.content.size
    }

    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// Whatever is wrong with the stream.
    pub fn chunk(&mut self) -> Result<Option<&[u8]>> {
        self.content.chunk()
    }

    /// All of it, which is at most what [`Limits`] allow for its kind.
    ///
    /// # Errors
    /// Whatever is wrong with the stream.
    pub fn read_all(mut self) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        while let Some(chunk) = self.chunk()? {
            all.extend_from_slice(chunk);
        }
        Ok(all)
    }
}

impl<R: Read> Read for FileReader<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.content.read(buffer)
    }
}

/// An image's layer, configuration or manifest. Reading it to the end ([`BlobReader::chunk`] gives `None`, [`Read`] gives
/// 0 bytes) proves that the content has its digest.
pub struct BlobReader<'a, R: Read> {
    digest: Digest,
    content: Content<'a, R>,
}

impl<R: Read> BlobReader<'_, R> {
    /// The digest in its name.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Bytes of content.
    pub fn size(&self) -> u64 {
        self.content.size
    }

    /// The next bytes; `None` at the end, after the digest was checked.
    ///
    /// # Errors
    /// [`ArchiveError::BlobDigest`] at the end, and whatever is wrong with the stream.
    pub fn chunk(&mut self) -> Result<Option<&[u8]>> {
        self.content.chunk()
    }
}

impl<R: Read> Read for BlobReader<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.content.read(buffer)
    }
}
