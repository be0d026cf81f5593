//! Tar's 512-byte blocks. There is one way to write a member; what is read is written again and compared, so that nothing
//! is left to the interpretation of a tar reader.

use crate::error::shown;

pub(crate) const BLOCK: usize = 512;
/// Our extension headers hold one path and one size: under 300 bytes.
pub(crate) const EXTENSION_MAX: u64 = 1024;
/// What eleven octal digits can say.
const OCTAL_MAX: u64 = 0o777_7777_7777;

/// What is said about a member by its header blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// The whole path, folders with a slash at the end.
    pub path: String,
    pub size: u64,
    pub mtime: u64,
    pub folder: bool,
}

/// The header blocks of a member.
pub(crate) fn encode(member: &Member) -> Vec<u8> {
    let path = member.path.as_bytes();
    let split = split(path);
    let long_size = member.size > OCTAL_MAX;
    let mtime = member.mtime.min(OCTAL_MAX);
    let mut out = Vec::with_capacity(3 * BLOCK);
    if split.is_none() || long_size {
        let mut records = Vec::new();
        if split.is_none() {
            record(&mut records, "path", path);
        }
        if long_size {
            record(&mut records, "size", member.size.to_string().as_bytes());
        }
        out.extend(ustar((b"", b"PaxHeaders/entry"), records.len() as u64, mtime, b'x'));
        out.extend(&records);
        out.resize(out.len().next_multiple_of(BLOCK), 0);
    }
    let names = split.unwrap_or((b"", &path[..path.len().min(100)]));
    let size = if long_size { 0 } else { member.size };
    out.extend(ustar(names, size, mtime, if member.folder { b'5' } else { b'0' }));
    out
}

/// Prefix and name, as ustar splits a path: no prefix up to 100 bytes, else cut at the last slash that fits.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.len() <= 100 {
        return Some((b"", path));
    }
    let cut = (1..path.len() - 1).rev().find(|&i| path[i] == b'/' && i <= 155)?;
    (path.len() - cut - 1 <= 100).then(|| (&path[..cut], &path[cut + 1..]))
}

/// `LENGTH KEY=VALUE\n`, the length counting itself.
fn record(out: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length += 1;
    }
    out.extend(format!("{length} {key}=").as_bytes());
    out.extend(value);
    out.push(b'\n');
}

fn ustar(names: (&[u8], &[u8]), size: u64, mtime: u64, kind: u8) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, names.1);
    put(100, if kind == b'5' { b"0000700\0" } else { b"0000600\0" });
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, format!("{mtime:011o}\0").as_bytes());
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    put(329, b"0000000\0");
    put(337, b"0000000\0");
    put(345, names.0);
    seal(&mut block);
    block
}

/// Writes the checksum that fits the block.
pub(crate) fn seal(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u64 = block[..BLOCK].iter().map(|b| u64::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// Whether the block's checksum fits.
pub(crate) fn checksum_fits(block: &[u8; BLOCK]) -> bool {
    let sum: u64 = block
        .iter()
        .enumerate()
        .map(|(i, b)| if (148..156).contains(&i) { 32 } else { u64::from(*b) })
        .sum();
    octal(&block[148..156]) == Some(sum)
}

/// A number as tars write it: octal digits between blanks and zeros. `None` for anything else, base 256 included.
pub(crate) fn octal(field: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(field).ok()?.trim_matches(|c| c == ' ' || c == '\0');
    if text.is_empty() || !text.bytes().all(|b| (b'0'..=b'7').contains(&b)) {
        return None;
    }
    u64::from_str_radix(text, 8).ok()
}

/// Path (lossy), as a plain ustar header says it.
pub(crate) fn plain_path(block: &[u8; BLOCK]) -> String {
    let text = |field: &[u8]| {
        let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
        String::from_utf8_lossy(&field[..end]).into_owned()
    };
    let name = text(&block[..100]);
    // GNU's old magic has other things where the prefix is.
    let prefix =
        if &block[257..263] == b"ustar\0" { text(&block[345..500]) } else { String::new() };
    if prefix.is_empty() { name } else { format!("{prefix}/{name}") }
}

/// Path and size from an extension header; an error is what a person should know.
pub(crate) fn extension(body: &[u8]) -> Result<(Option<String>, Option<u64>), String> {
    let (mut path, mut size) = (None, None);
    let mut rest = body;
    while !rest.is_empty() {
        let form = || "its records are not of the form LENGTH KEY=VALUE".to_owned();
        let blank = rest.iter().take(8).position(|b| *b == b' ').ok_or_else(form)?;
        let length: usize = std::str::from_utf8(&rest[..blank])
            .ok()
            .and_then(|t| t.parse().ok())
            .ok_or_else(form)?;
        if length <= blank + 1 || length > rest.len() || rest[length - 1] != b'\n' {
            return Err(form());
        }
        let text = std::str::from_utf8(&rest[blank + 1..length - 1]).map_err(|_| form())?;
        match text.split_once('=') {
            Some(("path", value)) if path.is_none() => path = Some(value.to_owned()),
            Some(("size", value)) if size.is_none() => {
                size = Some(value.parse().map_err(|_| "its size is not a number".to_owned())?);
            }
            Some((key, _)) => {
                return Err(format!("it sets \"{}\", which no backup does", shown(key)));
            }
            None => return Err(form()),
        }
        rest = &rest[length..];
    }
    Ok((path, size))
}

/// Which field differs between the blocks that came and those we would have written.
pub(crate) fn difference(found: &[u8], expected: &[u8]) -> Option<&'static str> {
    if found.len() != expected.len() {
        return Some("its extension header");
    }
    let at = found.iter().zip(expected).position(|(a, b)| a != b)?;
    if at < found.len() - BLOCK {
        return Some("its extension header");
    }
    Some(match at % BLOCK {
        0..100 | 345..500 => "the form of its name",
        100..108 => "its mode",
        108..116 => "its owner",
        116..124 => "its group",
        124..136 => "the form of its size",
        136..148 => "its time",
        148..156 => "the form of its checksum",
        156 => "its type",
        157..257 => "its link target",
        257..265 => "its magic",
        265..329 => "its owner's name",
        329..345 => "its device number",
        _ => "its reserved part",
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]
mod tests {
    use super::*;

    fn member(path: &str, size: u64) -> Member {
        Member { path: path.to_owned(), size, mtime: 1_700_000_000, folder: path.ends_with('/') }
    }

    #[test]
    fn another_tar_library_reads_what_we_write() {
        let long = format!("dtr-backup-v1.0.0/images/blobs/sha512/{}", "a".repeat(128));
        let middle = format!("dtr-backup-v1.0.0/images/blobs/sha256/{}", "b".repeat(64));
        for path in ["top/", "top/a.json", middle.as_str(), long.as_str()] {
            let mut tar = encode(&member(path, 0));
            tar.resize(tar.len() + 1024, 0);
            let mut archive = tar::Archive::new(tar.as_slice());
            let entry = archive.entries().unwrap().next().unwrap().unwrap();
            assert_eq!(entry.path_bytes(), path.as_bytes());
            assert_eq!(entry.header().mtime().unwrap(), 1_700_000_000);
            assert_eq!(entry.header().mode().unwrap(), if path == "top/" { 0o700 } else { 0o600 });
        }
    }

    #[test]
    fn sizes_over_eight_gibibytes_go_into_an_extension() {
        let blocks = encode(&member("a", 1 << 40));
        assert_eq!(blocks.len(), 3 * BLOCK);
        assert_eq!(extension(b"22 size=1099511627776\n"), Ok((None, Some(1 << 40))));
        assert!(blocks[BLOCK..].starts_with(b"22 size=1099511627776\n"));
        assert_eq!(encode(&member("a", OCTAL_MAX)).len(), BLOCK);
    }

    #[test]
    fn hostile_extensions_are_refused() {
        for bad in [
            &b"x"[..],
            b"5 a=b",
            b"99 path=x\n",
            b"0 path=x\n",
            b"2 \n",
            b"10 path=aa\n10 path=aa\n",
            b"11 uname=rt\n",
            b"9 size=-\n",
            b"99999999999999999999 path=x\n",
        ] {
            assert!(extension(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }
}
