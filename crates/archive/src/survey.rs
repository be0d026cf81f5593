//! What is left of a damaged archive: its members found wherever they are, and what the proof at its end, where that is
//! still there, says of them. Nothing found here is proven by itself; whoever uses it says so.
//!
//! A member is believed when its header block fits its checksum and names something that an archive has. Where the next
//! one does not follow as its size says (bytes were lost), the next header is searched for, byte by byte.

use std::{collections::HashMap, fs::File, io, os::unix::fs::FileExt};

use crate::{
    ArchiveError, Header, Manifest, ManifestEntry, Product, Result,
    block::{self, BLOCK},
    header::backup_folder,
    manifest::Listed,
    name::EntryName,
    reader::Limits,
    seal,
};

/// Bytes that can be read anywhere.
pub trait ReadAt {
    /// Fills the buffer from an offset on; yields how many bytes there were, fewer only at the end.
    ///
    /// # Errors
    /// When the system fails.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
}

impl ReadAt for File {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut got = 0;
        while got < buffer.len() {
            match FileExt::read_at(self, &mut buffer[got..], offset + got as u64) {
                Ok(0) => break,
                Ok(n) => got += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(got)
    }
}

impl ReadAt for [u8] {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(self.len());
        let n = buffer.len().min(self.len() - from);
        buffer[..n].copy_from_slice(&self[from..from + n]);
        Ok(n)
    }
}

/// A member that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What it is called.
    pub name: EntryName,
    /// Where its content begins.
    pub offset: u64,
    /// Bytes that its header says.
    pub size: u64,
    /// Bytes that are there before the next member, or the end.
    pub available: u64,
}

impl Found {
    /// Whether as many bytes are there as its header says.
    pub fn is_complete(&self) -> bool {
        self.available == self.size
    }
}

/// Bytes between members that are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Where they begin.
    pub offset: u64,
    /// How many.
    pub bytes: u64,
}

/// What is left.
#[derive(Clone, Debug)]
pub struct Survey {
    /// The top folder's name, without a slash.
    pub folder: String,
    /// The time that the members have, in seconds since 1970.
    pub mtime: u64,
    /// Members that are files, in their order.
    pub found: Vec<Found>,
    /// What is between them and is no member.
    pub gaps: Vec<Gap>,
    /// Bytes in all.
    pub bytes: u64,
}

/// What the end of the archive says of it: signed by the key that its header names.
#[derive(Clone, Debug)]
pub struct Proof {
    /// The head.
    pub manifest: Manifest,
    /// Every entry by its name.
    pub entries: HashMap<String, ManifestEntry>,
}

/// A member's header blocks.
struct Blocks {
    path: String,
    size: u64,
    mtime: u64,
    folder: bool,
    /// Bytes of the blocks.
    bytes: u64,
}

/// How far a search reads at once.
const WINDOW: usize = 1 << 20;
/// Where a header block says that it is one.
const MAGIC_AT: u64 = 257;
const MAGIC: &[u8] = b"ustar\x0000";

struct Scan<'a, R: ReadAt + ?Sized> {
    input: &'a R,
    folder: Option<String>,
}

impl<R: ReadAt + ?Sized> Scan<'_, R> {
    fn block(&self, offset: u64) -> Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        let got = self.input.read_at(offset, &mut block);
        let got =
            got.map_err(|source| ArchiveError::Read { at: format!("byte {offset}"), source })?;
        Ok((got == BLOCK).then_some(block))
    }

    /// The header blocks that begin at an offset, if some do.
    fn header(&self, offset: u64) -> Result<Option<Blocks>> {
        let Some(first) = self.block(offset)? else { return Ok(None) };
        if &first[257..265] != MAGIC || !block::checksum_fits(&first) {
            return Ok(None);
        }
        let (mut last, mut bytes, mut long) = (first, BLOCK as u64, (None, None));
        if first[156] == b'x' {
            let size = block::octal(&first[124..136]).unwrap_or(u64::MAX);
            if size > block::EXTENSION_MAX {
                return Ok(None);
            }
            let mut body = vec![0; size as usize];
            let read = self.input.read_at(offset + bytes, &mut body);
            read.map_err(|source| ArchiveError::Read { at: format!("byte {offset}"), source })?;
            let Ok(said) = block::extension(&body) else { return Ok(None) };
            long = said;
            bytes += size.next_multiple_of(BLOCK as u64);
            let Some(next) = self.block(offset + bytes)? else { return Ok(None) };
            if !block::checksum_fits(&next) {
                return Ok(None);
            }
            last = next;
            bytes += BLOCK as u64;
        }
        let path = long.0.unwrap_or_else(|| block::plain_path(&last));
        let size = long.1.or_else(|| block::octal(&last[124..136]));
        let (Some(size), b'0' | b'5') = (size, last[156]) else { return Ok(None) };
        let top = path.split('/').next().unwrap_or_default();
        let ours = match &self.folder {
            Some(folder) => folder == top,
            None => backup_folder(top),
        };
        let mtime = block::octal(&last[136..148]).unwrap_or(0);
        let folder = last[156] == b'5';
        Ok(ours.then_some(Blocks { path, size, mtime, folder, bytes }))
    }

    /// Where the next header is, from an offset on and before another.
    fn search(&self, from: u64, to: u64) -> Result<Option<u64>> {
        let mut window = vec![0; WINDOW];
        let mut at = from;
        while at < to {
            let got = self.input.read_at(at, &mut window);
            let got =
                got.map_err(|source| ArchiveError::Read { at: format!("byte {at}"), source })?;
            let hits = window[..got].windows(MAGIC.len()).enumerate();
            for (hit, _) in hits.filter(|(_, bytes)| *bytes == MAGIC) {
                let Some(start) = (at + hit as u64).checked_sub(MAGIC_AT) else { continue };
                if start >= from && start < to && self.header(start)?.is_some() {
                    return Ok(Some(start));
                }
            }
            if got < window.len() {
                break;
            }
            at += (got - (MAGIC.len() - 1)) as u64;
        }
        Ok(None)
    }

    /// Whether something that may follow a member begins at an offset: a header, empty blocks, or nothing.
    fn follows(&self, offset: u64) -> Result<bool> {
        let mut block = [0; BLOCK];
        let got = self.input.read_at(offset, &mut block);
        let got =
            got.map_err(|source| ArchiveError::Read { at: format!("byte {offset}"), source })?;
        Ok(block[..got].iter().all(|b| *b == 0) || self.header(offset)?.is_some())
    }
}

/// Looks for what is left of an archive that is not encrypted. `length` is the number of its bytes.
///
/// # Errors
/// [`ArchiveError::NotTar`] when there is no member of an archive in it at all; [`ArchiveError::NeedsIdentity`] when it is
/// encrypted; when the input fails.
pub fn survey(input: &(impl ReadAt + ?Sized), length: u64) -> Result<Survey> {
    let mut start = [0; 40];
    let got = input.read_at(0, &mut start);
    let got =
        got.map_err(|source| ArchiveError::Read { at: "its beginning".to_owned(), source })?;
    if seal::is_encrypted(&start[..got]) {
        return Err(ArchiveError::NeedsIdentity);
    }
    let limits = Limits::default();
    let mut scan = Scan { input, folder: None };
    let mut survey = Survey {
        folder: String::new(),
        mtime: 0,
        found: Vec::new(),
        gaps: Vec::new(),
        bytes: length,
    };
    let mut at = 0;
    while at < length {
        let Some(blocks) = scan.header(at)? else {
            let next = scan.search(at + 1, length)?.unwrap_or(length);
            survey.gap(input, at, next)?;
            at = next;
            continue;
        };
        if scan.folder.is_none() {
            let folder = blocks.path.split('/').next().unwrap_or_default().to_owned();
            survey.folder.clone_from(&folder);
            survey.mtime = blocks.mtime;
            scan.folder = Some(folder);
        }
        let content = at + blocks.bytes;
        let name = blocks.path.split_once('/').and_then(|(_, name)| EntryName::parse(name));
        let (false, Some(name)) = (blocks.folder, name) else {
            if !blocks.folder {
                survey.gaps.push(Gap { offset: at, bytes: blocks.bytes });
            }
            at = content;
            continue;
        };
        let size = blocks.size;
        let padded = size.checked_next_multiple_of(BLOCK as u64).unwrap_or(u64::MAX);
        let end = content.saturating_add(padded);
        let next = if size <= limits.size(&name) && end <= length && scan.follows(end)? {
            end
        } else {
            scan.search(content, end.min(length))?.unwrap_or(end.min(length))
        };
        survey.found.push(Found {
            name,
            offset: content,
            size,
            available: size.min(next - content),
        });
        at = next;
    }
    if survey.found.is_empty() {
        let hint = "no part of a backup was found in it".to_owned();
        return Err(ArchiveError::NotTar { hint });
    }
    Ok(survey)
}

impl Survey {
    /// Notes what is no member, unless it is empty, as the end of an archive is.
    fn gap(&mut self, input: &(impl ReadAt + ?Sized), from: u64, to: u64) -> Result<()> {
        let mut window = vec![0; WINDOW];
        let mut at = from;
        while at < to {
            let want = usize::try_from(to - at).unwrap_or(WINDOW).min(WINDOW);
            let got = input.read_at(at, &mut window[..want]);
            let got =
                got.map_err(|source| ArchiveError::Read { at: format!("byte {at}"), source })?;
            if got == 0 {
                break;
            }
            if window[..got].iter().any(|byte| *byte != 0) {
                self.gaps.push(Gap { offset: from, bytes: to - from });
                break;
            }
            at += got as u64;
        }
        Ok(())
    }

    /// A member's content, as far as it is there.
    ///
    /// # Errors
    /// [`ArchiveError::TooLarge`] for one that is not to be held in memory; when the input fails.
    pub fn content(&self, input: &(impl ReadAt + ?Sized), found: &Found) -> Result<Vec<u8>> {
        let limit = Limits::default().part_bytes;
        if found.available > limit && !matches!(found.name, EntryName::Manifest) {
            let (entry, size) = (found.name.to_string(), found.available);
            return Err(ArchiveError::TooLarge { entry, size, limit });
        }
        let mut content = vec![0; usize::try_from(found.available).unwrap_or_default()];
        let got = input.read_at(found.offset, &mut content);
        let at = || format!("in \"{}\"", found.name);
        let got = got.map_err(|source| ArchiveError::Read { at: at(), source })?;
        content.truncate(got);
        Ok(content)
    }

    /// The header, if that is whole.
    ///
    /// # Errors
    /// [`ArchiveError::NewerFormat`]; when the input fails.
    pub fn header(&self, input: &(impl ReadAt + ?Sized)) -> Result<Option<Header>> {
        let found = self.found.iter().find(|found| found.name == EntryName::Header);
        let Some(found) = found else { return Ok(None) };
        match Header::from_json(&self.content(input, found)?, &self.folder) {
            Ok(header) => Ok(Some(header)),
            Err(error @ ArchiveError::NewerFormat { .. }) => Err(error),
            Err(_) => Ok(None),
        }
    }

    /// Whose state it is, as the top folder's name says.
    pub fn product(&self) -> Product {
        if self.folder.starts_with("ucp-") { Product::Ucp } else { Product::Dtr }
    }

    /// Whether any content of images is there.
    pub fn has_images(&self) -> bool {
        self.found.iter().any(|found| matches!(found.name, EntryName::Blob(_)))
    }

    /// The bytes up to the end of the last member, which is where an archive ends but for two empty blocks.
    pub fn end(&self) -> u64 {
        let last = self.found.last().map_or(0, |last| last.offset + last.size);
        last.next_multiple_of(BLOCK as u64)
    }

    /// What the end of the archive says, if that is whole and signed by the key that it names.
    pub fn proof(&self, input: &(impl ReadAt + ?Sized)) -> Option<Proof> {
        let found = self.found.iter().rfind(|found| found.name == EntryName::Manifest)?;
        let content = self.content(input, found).ok()?;
        let Listed { manifest, entries } = Listed::read(&content).ok()?;
        let entries = entries.into_iter().map(|entry| (entry.name.clone(), entry)).collect();
        Some(Proof { manifest, entries })
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]
mod tests {
    use dtr_types::{ClusterId, SeededRandom};

    use super::*;
    use crate::{ArchiveWriter, Product, Section, SigningKey};

    fn sample() -> Vec<u8> {
        let key = SigningKey::from_seed(&[1; 32]).unwrap();
        let cluster = ClusterId::random(&SeededRandom::new(1));
        let header = Header::new(Product::Dtr, "1.0.0", cluster, &key);
        let mut writer = ArchiveWriter::new(Vec::new(), header, &key).unwrap();
        for kind in ["blobs", "manifests", "tags"] {
            let mut records = writer.records(Section::Metadata, kind).unwrap();
            for n in 0..200 {
                records.push(&format!("record {n} of {kind}")).unwrap();
            }
        }
        let content = vec![7; 70_000];
        let digest = dtr_types::Digest::of(&content);
        writer.blob(&digest, content.len() as u64, &mut &content[..]).unwrap();
        writer.finish().unwrap().0
    }

    fn names(survey: &Survey) -> Vec<String> {
        survey.found.iter().map(|found| found.name.to_string()).collect()
    }

    #[test]
    fn a_whole_archive_is_found_whole() {
        let archive = sample();
        let survey = survey(&archive[..], archive.len() as u64).unwrap();
        assert_eq!(survey.found.len(), 6, "{:?}", names(&survey));
        assert!(survey.found.iter().all(Found::is_complete) && survey.gaps.is_empty());
        assert_eq!(survey.header(&archive[..]).unwrap().unwrap().version, "1.0.0");
        assert_eq!(survey.end() + 1024, archive.len() as u64);
        let proof = survey.proof(&archive[..]).unwrap();
        assert_eq!(proof.entries.len(), 5);
        assert_eq!(proof.manifest.totals.records, 600);
    }

    #[test]
    fn what_follows_lost_bytes_is_found_again() {
        let archive = sample();
        let whole = survey(&archive[..], archive.len() as u64).unwrap();
        // Bytes lost inside a member, more of them than a block and no whole number of blocks.
        let inside = usize::try_from(whole.found[2].offset).unwrap() + 700;
        let mut lost = archive.clone();
        lost.drain(inside..inside + 777);
        let found = survey(&lost[..], lost.len() as u64).unwrap();
        assert_eq!(names(&found), names(&whole));
        let incomplete: Vec<_> = found.found.iter().filter(|found| !found.is_complete()).collect();
        assert_eq!(incomplete.len(), 1);
        assert!(found.proof(&lost[..]).is_some());
        // A header that is damaged: what it led is gone, what follows is there.
        let mut hurt = archive.clone();
        let at = usize::try_from(whole.found[2].offset).unwrap() - BLOCK;
        hurt[at] ^= 1;
        let found = survey(&hurt[..], hurt.len() as u64).unwrap();
        assert_eq!(found.found.len(), 5);
        assert_eq!(found.gaps.len(), 1);
        // Cut, and with a beginning that is no more.
        let cut = &archive[..archive.len() * 2 / 3];
        let found = survey(cut, cut.len() as u64).unwrap();
        assert!(found.proof(cut).is_none() && !found.found.last().unwrap().is_complete());
        let mut blank = archive.clone();
        blank[..2048].fill(0);
        let found = survey(&blank[..], blank.len() as u64).unwrap();
        assert!(found.header(&blank[..]).unwrap().is_none() && found.found.len() == 5);
        assert!(survey(&b"something else"[..], 14).is_err());
    }
}
