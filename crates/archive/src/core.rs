//! The state of reading: which entry is open, which were seen, what must come next. [`crate::ArchiveReader`] is the face.

use std::{collections::BTreeMap, io::Read, ops::Range};

use dtr_types::Algorithm;

use crate::{
    ArchiveError, Result,
    block::{self, BLOCK, Member},
    entries::EntryLog,
    error::shown,
    header::{Header, Product, backup_folder},
    manifest::{Checker, Manifest, StreamProof},
    members::{Found, read_first, read_member},
    name::{EntryName, Section, inside},
    oci,
    reader::Limits,
    source::{BlockError, Source},
};

struct Open {
    name: EntryName,
    text: String,
    size: u64,
    remaining: u64,
    records: u64,
}

/// Reads one clear stream.
pub(crate) struct Core<R: Read> {
    source: Source<R>,
    folder: String,
    folders: Vec<String>,
    mtime: u64,
    pub(crate) log: EntryLog,
    open: Option<Open>,
    /// The last part of each kind, by `SECTION/KIND`.
    kinds: BTreeMap<String, u32>,
    line: Vec<u8>,
    limits: Limits,
    /// An error was given out; nothing more can be trusted to be in step.
    pub(crate) failed: bool,
}

impl<R: Read> Core<R> {
    /// Reads up to the end of the header.
    pub(crate) fn open(
        input: R,
        sealed: bool,
        limits: Limits,
        product: Option<Product>,
    ) -> Result<(Self, Header)> {
        let mut source = Source::new(input, sealed);
        let first = read_first(&mut source)?;
        let path = &first.member.path;
        let folder = path.split('/').next().unwrap_or_default().to_owned();
        if path.contains("/rethink/") {
            return Err(ArchiveError::OriginalDtr { folder: shown(&folder) });
        }
        if path.starts_with('/') || path.split('/').any(|c| c == "..") {
            inside(path, &folder)?;
        }
        if !backup_folder(&folder) {
            return Err(ArchiveError::Foreign { entry: shown(path) });
        }
        check_kind(first.kind, &shown(path))?;
        if *path != format!("{folder}/") {
            let why = format!("\"{}\" comes without it", shown(path));
            return Err(ArchiveError::Missing { entry: format!("{folder}/"), why });
        }
        let mut core = Self {
            source,
            folder,
            folders: Vec::new(),
            mtime: first.member.mtime,
            log: EntryLog::default(),
            open: None,
            kinds: BTreeMap::new(),
            line: Vec::new(),
            limits,
            failed: false,
        };
        let second = core.read_member()?;
        if second.member.path.starts_with(&format!("{}/rethink/", core.folder)) {
            return Err(ArchiveError::OriginalDtr { folder: core.folder });
        }
        core.check_form(&first)?;
        core.source.resume(&first.raw);
        let header = core.read_header(second, product)?;
        Ok((core, header))
    }

    fn read_header(&mut self, found: Found, product: Option<Product>) -> Result<Header> {
        let name = self.accept(&found)?;
        if name != Some(EntryName::Header) {
            return Err(ArchiveError::OutOfOrder {
                entry: shown(&found.member.path),
                expected: "header.json".to_owned(),
            });
        }
        self.begin(EntryName::Header, found)?;
        let json = self.read_rest()?;
        let header = Header::from_json(&json, &self.folder)?;
        if u64::try_from(header.created.seconds()) != Ok(self.mtime) {
            return Err(ArchiveError::NotCanonical {
                entry: "header.json".to_owned(),
                field: "its time",
            });
        }
        if product.is_some_and(|product| product != header.product) {
            return Err(ArchiveError::Header {
                why: format!(
                    "it is a backup of {}, not of the program asked for",
                    header.product.as_str()
                ),
            });
        }
        Ok(header)
    }

    /// Bytes read so far.
    pub(crate) fn offset(&self) -> u64 {
        self.source.offset()
    }

    /// Finishes the open entry and begins the next one; `None` when that is the manifest, which is read and checked.
    pub(crate) fn next(&mut self, header: &Header) -> Result<Result<EntryName, Manifest>> {
        self.skip_rest()?;
        loop {
            let found = self.read_member()?;
            if found.end {
                let why = "the archive ends before it".to_owned();
                return Err(ArchiveError::Missing { entry: "manifest.json".to_owned(), why });
            }
            let Some(name) = self.accept(&found)? else {
                self.source.resume(&found.raw);
                continue;
            };
            if name == EntryName::Manifest {
                let manifest = self.read_manifest(found, header)?;
                return Ok(Err(manifest));
            }
            self.begin(name.clone(), found)?;
            return Ok(Ok(name));
        }
    }

    fn at(&self) -> String {
        place(self.open.as_ref(), &self.log)
    }

    fn read_member(&mut self) -> Result<Found> {
        self.source.pause();
        let at = self.at();
        let found = read_member(&mut self.source, &at)?;
        if !found.end && self.folders_missing(&found) {
            // The folder that was to come was dropped, moved or renamed.
            let path = inside(&found.member.path, &self.folder)?;
            if let Some(name) = EntryName::parse(path) {
                let folder = name.folders().into_iter().find(|f| !self.folders.contains(f));
                let why = format!("\"{}\" comes without it", shown(path));
                let entry = folder.unwrap_or_default();
                return Err(ArchiveError::Missing { entry, why });
            }
        }
        Ok(found)
    }

    fn folders_missing(&self, found: &Found) -> bool {
        found.kind == b'0'
            && inside(&found.member.path, &self.folder)
                .ok()
                .and_then(EntryName::parse)
                .is_some_and(|name| name.folders().iter().any(|f| !self.folders.contains(f)))
    }

    /// Whether the header blocks are those that we would have written.
    fn check_form(&self, found: &Found) -> Result<()> {
        let member = Member { mtime: self.mtime, ..found.member.clone() };
        match block::difference(&found.raw, &block::encode(&member)) {
            None => Ok(()),
            Some(field) => {
                Err(ArchiveError::NotCanonical { entry: shown(&found.member.path), field })
            }
        }
    }

    /// Checks a member's type, name, size, place and form. `None` for a folder.
    fn accept(&mut self, found: &Found) -> Result<Option<EntryName>> {
        let entry = || shown(&found.member.path);
        check_kind(found.kind, &entry())?;
        let path = inside(&found.member.path, &self.folder)?;
        if found.member.folder {
            self.check_form(found)?;
            self.accept_folder(path)?;
            return Ok(None);
        }
        let Some(name) = EntryName::parse(path) else {
            return Err(ArchiveError::UnknownName { entry: shown(path) });
        };
        if self.log.contains(&name) {
            return Err(ArchiveError::Duplicate { entry: shown(path) });
        }
        let (size, limit) = (found.member.size, self.limits.size(&name));
        if size > limit {
            return Err(ArchiveError::TooLarge { entry: shown(path), size, limit });
        }
        if self.log.len() as u64 >= self.limits.entries {
            let limit = self.limits.entries;
            return Err(ArchiveError::TooManyEntries { entry: shown(path), limit });
        }
        self.check_form(found)?;
        if let EntryName::Records { section, kind, part } = &name {
            self.accept_part(path, *section, kind, *part)?;
        }
        Ok(Some(name))
    }

    /// A folder comes once, and only right before the first entry in it; the latter is checked when that comes.
    fn accept_folder(&mut self, path: &str) -> Result<()> {
        let entry = || shown(path);
        if path.is_empty() || self.folders.iter().any(|f| f == path) {
            let entry = if path.is_empty() { format!("{}/", self.folder) } else { entry() };
            return Err(ArchiveError::Duplicate { entry });
        }
        let known = matches!(
            path,
            "certificates/"
                | "images/"
                | "images/blobs/"
                | "images/blobs/sha256/"
                | "images/blobs/sha512/"
        ) || Section::ALL.iter().any(|s| path.strip_suffix('/') == Some(s.as_str()));
        if !known {
            return Err(ArchiveError::UnknownName { entry: entry() });
        }
        let above = path.trim_end_matches('/').rfind('/').map(|at| &path[..=at]);
        if let Some(above) = above.filter(|above| !self.folders.iter().any(|f| f == above)) {
            let why = format!("\"{path}\" comes without it");
            return Err(ArchiveError::Missing { entry: above.to_owned(), why });
        }
        self.folders.push(path.to_owned());
        Ok(())
    }

    /// Parts come one after the other, from 1, or there is a single one without a number.
    fn accept_part(&mut self, path: &str, section: Section, kind: &str, part: u32) -> Result<()> {
        let key = format!("{section}/{kind}");
        let last = self.kinds.get(&key).copied();
        let expected = match last {
            None => u32::from(part != 0),
            Some(0) => return Err(ArchiveError::Duplicate { entry: shown(path) }),
            Some(last) => last + 1,
        };
        if part != expected {
            let entry = EntryName::Records { section, kind: kind.to_owned(), part: expected };
            let why = format!("\"{}\" comes in its place", shown(path));
            return Err(ArchiveError::Missing { entry: entry.to_string(), why });
        }
        self.kinds.insert(key, part);
        Ok(())
    }

    fn begin(&mut self, name: EntryName, found: Found) -> Result<()> {
        self.source.resume(&found.raw);
        let sha512 =
            matches!(&name, EntryName::Blob(digest) if digest.algorithm() == Algorithm::Sha512);
        self.source.begin(sha512);
        let (text, size) = (name.to_string(), found.member.size);
        self.open = Some(Open { name, text, size, remaining: size, records: 0 });
        Ok(())
    }

    /// The next bytes of the open entry; an empty range at its end.
    pub(crate) fn content(&mut self) -> Result<Range<usize>> {
        let content = self.content_inner();
        self.failed |= content.is_err();
        content
    }

    fn content_inner(&mut self) -> Result<Range<usize>> {
        let Some(open) = &mut self.open else { return Ok(0..0) };
        if open.remaining == 0 {
            return Ok(0..0);
        }
        let (text, remaining) = (open.text.clone(), open.remaining);
        if self.source.fill(&|| text.clone())? == 0 {
            let offset = self.source.offset();
            let what = format!("{remaining} more bytes of it were to come");
            return Err(ArchiveError::Cut { offset, at: format!("in \"{text}\""), what });
        }
        let range = self.source.take(remaining);
        open.remaining -= range.len() as u64;
        Ok(range)
    }

    /// After an entry's last byte: padding, digest, and into the list.
    pub(crate) fn close(&mut self) -> Result<()> {
        let closed = self.close_inner();
        self.failed |= closed.is_err();
        closed
    }

    fn close_inner(&mut self) -> Result<()> {
        let Some(open) = self.open.take() else { return Ok(()) };
        let (sha256, sha512) = self.source.finish();
        if let EntryName::Blob(digest) = &open.name {
            oci::check_digest(&open.name, digest, sha256, sha512.as_deref())?;
        }
        self.padding(open.size, &open.text)?;
        let records = matches!(open.name, EntryName::Records { .. }).then_some(open.records);
        self.log.push(&open.name, open.size, sha256, records);
        Ok(())
    }

    fn padding(&mut self, size: u64, entry: &str) -> Result<()> {
        let mut left = size.next_multiple_of(BLOCK as u64) - size;
        while left > 0 {
            if self.source.fill(&|| entry.to_owned())? == 0 {
                let (offset, at) = (self.source.offset(), format!("after \"{entry}\""));
                let what = "the padding after it and manifest.json were to come".to_owned();
                return Err(ArchiveError::Cut { offset, at, what });
            }
            let range = self.source.take(left);
            left -= range.len() as u64;
            if self.source.bytes(range).iter().any(|b| *b != 0) {
                return Err(ArchiveError::Padding { entry: entry.to_owned() });
            }
        }
        Ok(())
    }

    /// Reads what the open entry still has, checking records' lines too.
    fn skip_rest(&mut self) -> Result<()> {
        while let Some(open) = &self.open {
            let records = matches!(open.name, EntryName::Records { .. });
            if records {
                while self.next_line()?.is_some() {}
            } else {
                while !self.content()?.is_empty() {}
                self.close()?;
            }
        }
        Ok(())
    }

    /// What a range of [`Core::content`] holds.
    pub(crate) fn bytes(&self, range: Range<usize>) -> &[u8] {
        self.source.bytes(range)
    }

    /// Bytes of the open entry.
    pub(crate) fn size(&self) -> u64 {
        self.open.as_ref().map_or(0, |open| open.size)
    }

    /// Reads the whole of the open entry, whose size was checked against its limit.
    fn read_rest(&mut self) -> Result<Vec<u8>> {
        let mut content = Vec::new();
        loop {
            let range = self.content()?;
            if range.is_empty() {
                break;
            }
            content.extend_from_slice(self.source.bytes(range));
        }
        self.close()?;
        Ok(content)
    }

    /// The next line of the open entry, without its end; it is in the buffer, or in `self.line` when the range is empty.
    fn line_range(&mut self, limit: u64) -> Result<Option<Range<usize>>> {
        self.line.clear();
        let Some(open) = &mut self.open else { return Ok(None) };
        let line = open.records + 1;
        loop {
            if open.remaining == 0 {
                if self.line.is_empty() {
                    return Ok(None);
                }
                let (entry, why) = (open.text.clone(), "its line end is missing".to_owned());
                return Err(ArchiveError::Record { entry, line, why });
            }
            if self.source.fill(&|| open.text.clone())? == 0 {
                let (offset, at) = (self.source.offset(), format!("in \"{}\"", open.text));
                let what = format!("{} more bytes of it were to come", open.remaining);
                return Err(ArchiveError::Cut { offset, at, what });
            }
            let range = self.source.take_line(open.remaining);
            open.remaining -= range.len() as u64;
            let bytes = self.source.bytes(range.clone());
            if (self.line.len() + bytes.len()) as u64 > limit + 1 {
                let entry = open.text.clone();
                return Err(ArchiveError::LineTooLong { entry, line, limit });
            }
            let ended = bytes.last() == Some(&b'\n');
            if ended && self.line.is_empty() {
                open.records += 1;
                let end = range.end - 1;
                if range.start == end {
                    let (entry, why) = (open.text.clone(), "the line is empty".to_owned());
                    return Err(ArchiveError::Record { entry, line, why });
                }
                return Ok(Some(range.start..end));
            }
            self.line.extend_from_slice(if ended { &bytes[..bytes.len() - 1] } else { bytes });
            if ended {
                open.records += 1;
                return Ok(Some(0..0));
            }
        }
    }

    pub(crate) fn next_line(&mut self) -> Result<Option<&[u8]>> {
        match self.line_range(self.limits.record_bytes) {
            Ok(Some(range)) if range.is_empty() => Ok(Some(&self.line)),
            Ok(Some(range)) => Ok(Some(self.source.bytes(range))),
            Ok(None) => {
                self.close()?;
                Ok(None)
            }
            Err(error) => {
                self.failed = true;
                Err(error)
            }
        }
    }

    fn read_manifest(&mut self, found: Found, header: &Header) -> Result<Manifest> {
        let bytes = self.source.offset() - found.raw.len() as u64;
        let stream = StreamProof { bytes, sha256: self.source.stream_hash() };
        self.begin(EntryName::Manifest, found)?;
        let mut checker = Checker::new();
        while let Some(range) = self.line_range(self.limits.record_bytes)? {
            let line = if range.is_empty() { &self.line[..] } else { self.source.bytes(range) };
            checker.line(line, header, &self.log)?;
        }
        let manifest = checker.finish(&self.log, stream)?;
        let size = self.open.take().map_or(0, |open| open.size);
        self.padding(size, "manifest.json")?;
        self.read_end()?;
        Ok(manifest)
    }

    fn read_end(&mut self) -> Result<()> {
        let at = || "after manifest.json".to_owned();
        for count in 0..2 {
            match self.source.block(&at) {
                Ok(Some(block)) if block == [0; BLOCK] => {}
                Ok(Some(_)) => {
                    let what = "something else comes there".to_owned();
                    return Err(ArchiveError::EndBlocks { what });
                }
                Ok(None) | Err(BlockError::Partial) => {
                    let what = format!("the input ends after {count} of them");
                    return Err(ArchiveError::EndBlocks { what });
                }
                Err(BlockError::Other(error)) => return Err(error),
            }
        }
        // What writes in blocks of its own, as a tape does, fills the last one with zeros. They say nothing.
        while self.source.fill(&at)? > 0 {
            let offset = self.source.offset();
            let range = self.source.take(u64::MAX);
            if let Some(first) = self.source.bytes(range).iter().position(|byte| *byte != 0) {
                return Err(ArchiveError::TrailingGarbage { offset: offset + first as u64 });
            }
        }
        Ok(())
    }
}

fn place(open: Option<&Open>, log: &EntryLog) -> String {
    match (open, log.len().checked_sub(1).and_then(|last| log.get(last))) {
        (Some(open), _) => format!("in \"{}\"", open.text),
        (None, Some(last)) => format!("after \"{}\"", shown(&last.name)),
        (None, None) => "at its beginning".to_owned(),
    }
}

fn check_kind(kind: u8, entry: &str) -> Result<()> {
    let entry = entry.to_owned();
    match kind {
        b'0' | b'5' => Ok(()),
        b'1' => Err(ArchiveError::Link { entry, what: "hard link" }),
        b'2' => Err(ArchiveError::Link { entry, what: "symbolic link" }),
        b'3' => Err(ArchiveError::Device { entry, what: "character device" }),
        b'4' => Err(ArchiveError::Device { entry, what: "block device" }),
        b'6' => Err(ArchiveError::Device { entry, what: "pipe" }),
        b'7' => Err(ArchiveError::Device { entry, what: "contiguous file" }),
        _ => Err(ArchiveError::Device { entry, what: "member of an unknown type" }),
    }
}
