//! Members of a tar stream as their header blocks say them, before anything but their checksums was checked; and what an
//! input is that is no tar.

use std::io::Read;

use crate::{
    ArchiveError, Result,
    block::{self, BLOCK, Member},
    error::shown,
    header::backup_folder,
    source::{BlockError, Source},
};

/// A member as its header blocks say, before anything was checked but their checksums.
pub(crate) struct Found {
    pub raw: Vec<u8>,
    pub kind: u8,
    pub member: Member,
    /// An empty block came instead.
    pub end: bool,
}

/// The very first member, where it is found out whether this is a tar at all.
pub(crate) fn read_first<R: Read>(source: &mut Source<R>) -> Result<Found> {
    let at = || "at its beginning".to_owned();
    let start = source.peek(BLOCK, &at)?.to_vec();
    if start.is_empty() {
        return Err(ArchiveError::Empty);
    }
    let path = block::plain_path(&start_block(&start));
    let ours = backup_folder(path.split('/').next().unwrap_or_default());
    if start.len() >= BLOCK && !ours {
        let block = start_block(&start);
        let magic = &block[257..262] == b"ustar";
        if !magic && !block::checksum_fits(&block) {
            return Err(ArchiveError::NotTar { hint: hint(&start) });
        }
    } else if start.len() < BLOCK && !ours {
        return Err(ArchiveError::NotTar { hint: hint(&start) });
    }
    let found = read_member(source, "at its beginning")?;
    if found.end {
        return Err(ArchiveError::Missing {
            entry: "header.json".to_owned(),
            why: "the tar has no entry at all".to_owned(),
        });
    }
    Ok(found)
}

fn start_block(start: &[u8]) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let n = start.len().min(BLOCK);
    block[..n].copy_from_slice(&start[..n]);
    block
}

/// What the first bytes look like.
fn hint(start: &[u8]) -> String {
    let known: [(&[u8], &str); 9] = [
        (
            b"\x1f\x8b",
            "it is compressed with gzip; unpack it on the way: gzip -dc FILE | dtr restore ..., or | dtr backup verify -",
        ),
        (
            b"\x28\xb5\x2f\xfd",
            "it is compressed with zstd; unpack it on the way: zstd -dc FILE | dtr restore ..., or | dtr backup verify -",
        ),
        (
            b"\xfd7zXZ",
            "it is compressed with xz; unpack it on the way: xz -dc FILE | dtr restore ..., or | dtr backup verify -",
        ),
        (
            b"BZh",
            "it is compressed with bzip2; unpack it on the way: bzip2 -dc FILE | dtr restore ..., or | dtr backup verify -",
        ),
        (b"PK\x03\x04", "it is a zip file"),
        (b"-----BEGIN PGP", "it is encrypted with PGP; decrypt it first: gpg -d"),
        (b"\x85", "it looks encrypted with PGP; if so, decrypt it first: gpg -d"),
        (b"\x8c\x0d", "it is encrypted with PGP and a passphrase; decrypt it first: gpg -d"),
        (
            b"{",
            "it is JSON text, perhaps an error message of the command that should have written the backup",
        ),
    ];
    if let Some((_, hint)) = known.iter().find(|(magic, _)| start.starts_with(magic)) {
        return (*hint).to_owned();
    }
    let line: Vec<u8> = start.iter().copied().take_while(|b| *b != b'\n').take(80).collect();
    match std::str::from_utf8(&line) {
        Ok(text) if !text.is_empty() && !text.contains(|c: char| c.is_control()) => {
            format!("it begins with the text \"{}\"", shown(text))
        }
        _ => "its first block is no tar header".to_owned(),
    }
}

/// The header blocks of the next member.
pub(crate) fn read_member<R: Read>(source: &mut Source<R>, at: &str) -> Result<Found> {
    let offset = source.offset();
    let cut =
        |offset, what: &str| ArchiveError::Cut { offset, at: at.to_owned(), what: what.to_owned() };
    let mut next = |what: &str| match source.block(&|| at.to_owned()) {
        Ok(Some(block)) => Ok(Some(block)),
        Ok(None) => Ok(None),
        Err(BlockError::Partial) => Err(cut(source.offset(), what)),
        Err(BlockError::Other(error)) => Err(error),
    };
    let Some(mut block) = next("it ends inside a tar header")? else {
        return Err(cut(offset, "more entries, at least manifest.json, were to come"));
    };
    let mut raw = block.to_vec();
    if block == [0; BLOCK] {
        let member = Member { path: String::new(), size: 0, mtime: 0, folder: false };
        return Ok(Found { raw, kind: 0, member, end: true });
    }
    let checksum = || ArchiveError::Checksum { offset, at: at.to_owned() };
    if !block::checksum_fits(&block) {
        return Err(checksum());
    }
    let refuse = |what: String| ArchiveError::Extension { offset, at: at.to_owned(), what };
    let mut long = (None, None);
    match block[156] {
        b'x' => {
            let size = block::octal(&block[124..136]).unwrap_or(u64::MAX);
            if size > block::EXTENSION_MAX {
                return Err(refuse(format!(
                    "an extension header of {size} bytes; a backup's have at most {}",
                    block::EXTENSION_MAX
                )));
            }
            let mut body = Vec::new();
            while (body.len() as u64) < size {
                match next("it ends inside an extension header")? {
                    Some(more) => body.extend(more),
                    None => return Err(cut(offset, "it ends inside an extension header")),
                }
            }
            raw.extend(&body);
            body.truncate(size as usize);
            long = block::extension(&body).map_err(refuse)?;
            block = match next("it ends inside a tar header")? {
                Some(block) => block,
                None => return Err(cut(offset, "it ends after an extension header")),
            };
            if !block::checksum_fits(&block) {
                return Err(checksum());
            }
            raw.extend(block);
        }
        b'g' => return Err(refuse("a global extension header; no backup has one".to_owned())),
        b'L' | b'K' | b'S' | b'M' | b'V' | b'D' | b'N' => {
            return Err(refuse("a GNU extension; no backup has one".to_owned()));
        }
        _ => {}
    }
    let kind = if block[156] == 0 { b'0' } else { block[156] };
    let path = long.0.unwrap_or_else(|| block::plain_path(&block));
    let Some(size) = long.1.or_else(|| block::octal(&block[124..136])) else {
        return Err(refuse(format!("\"{}\" has a size that is not octal digits", shown(&path))));
    };
    if kind == b'x' || kind == b'g' {
        return Err(refuse("an extension header after another".to_owned()));
    }
    let mtime = block::octal(&block[136..148]).unwrap_or(0);
    let member = Member { path, size, mtime, folder: kind == b'5' };
    Ok(Found { raw, kind, member, end: false })
}
