//! Damages archives, for tests: bits flipped, streams cut, entries dropped, doubled, moved, renamed, sizes that lie, links,
//! bombs, records edited with every hash made to fit, archives signed anew by a stranger. The same archive and seed always
//! give the same damage. Every result differs from the original and must be refused by a reader that knows the cluster's key.

use dtr_types::{Digest, Random as _, SeededRandom};

use crate::{
    block::{self, BLOCK, Member},
    entries::EntryLog,
    header::Header,
    manifest::{Manifest, StreamProof},
    name::EntryName,
    sign::{Sha256, SigningKey},
};

/// An archive after something was done to it.
#[derive(Clone, Debug)]
pub struct Damaged {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Which kind of damage, one of [`kinds`].
    pub kind: &'static str,
    /// What exactly, for a test's message.
    pub what: String,
}

/// The kinds of damage. [`damage`] takes them in turn by seed.
pub fn kinds() -> impl Iterator<Item = &'static str> {
    KINDS.iter().map(|(name, _)| *name)
}

/// Damages an archive. One that is encrypted (or is none) only gets damage that needs no knowledge of the format.
pub fn damage(archive: &[u8], seed: u64) -> Damaged {
    let index = usize::try_from(seed % KINDS.len() as u64).unwrap_or(0);
    let pieces = pieces(archive).unwrap_or_default();
    let mut work = Work { bytes: archive.to_vec(), pieces, random: SeededRandom::new(seed) };
    let (kind, act) = KINDS[index];
    if let Some(what) = act(&mut work)
        && work.bytes != archive
    {
        return Damaged { bytes: work.bytes, kind, what };
    }
    // Not possible on this archive, or without effect by chance.
    work.bytes = archive.to_vec();
    let (kind, act) = KINDS[0];
    let what = act(&mut work).unwrap_or_default();
    Damaged { bytes: work.bytes, kind, what }
}

/// A member: its header blocks, content and padding.
#[derive(Clone)]
struct Piece {
    start: usize,
    content: usize,
    size: usize,
    end: usize,
    path: String,
    folder: bool,
}

fn pieces(archive: &[u8]) -> Option<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut at = 0;
    loop {
        let start = at;
        let mut block: [u8; BLOCK] = archive.get(at..at + BLOCK)?.try_into().ok()?;
        if block == [0; BLOCK] {
            return (pieces.len() > 2).then_some(pieces);
        }
        let mut long = (None, None);
        if block[156] == b'x' {
            let size = usize::try_from(block::octal(&block[124..136])?).ok()?;
            long = block::extension(archive.get(at + BLOCK..at + BLOCK + size)?).ok()?;
            at += BLOCK + size.next_multiple_of(BLOCK);
            block = archive.get(at..at + BLOCK)?.try_into().ok()?;
        }
        if !block::checksum_fits(&block) {
            return None;
        }
        let size = usize::try_from(long.1.or_else(|| block::octal(&block[124..136]))?).ok()?;
        let content = at + BLOCK;
        at = content + size.next_multiple_of(BLOCK);
        let path = long.0.unwrap_or_else(|| block::plain_path(&block));
        let folder = block[156] == b'5';
        pieces.push(Piece { start, content, size, end: at, path, folder });
    }
}

struct Work {
    bytes: Vec<u8>,
    pieces: Vec<Piece>,
    random: SeededRandom,
}

type Act = fn(&mut Work) -> Option<String>;

const KINDS: &[(&str, Act)] = &[
    ("bit flipped", Work::flip),
    ("bytes overwritten", Work::overwrite),
    ("cut", Work::cut),
    ("cut at a block", Work::cut_block),
    ("cut after an entry", Work::cut_entry),
    ("end missing", Work::no_end),
    ("garbage appended", Work::append),
    ("blocks zeroed", Work::zero),
    ("blocks swapped", Work::swap_blocks),
    ("block removed", Work::remove_block),
    ("block repeated", Work::repeat_block),
    ("entry dropped", Work::drop_entry),
    ("entry doubled", Work::double_entry),
    ("entries swapped", Work::swap_entries),
    ("entry moved", Work::move_entry),
    ("entry renamed", Work::rename),
    ("entry with an unknown name", Work::rename_unknown),
    ("absolute path", Work::absolute),
    ("path that leaves", Work::escape),
    ("other folder", Work::other_folder),
    ("link", Work::link),
    ("device", Work::device),
    ("size too small", Work::smaller),
    ("size too large", Work::larger),
    ("size in binary", Work::binary_size),
    ("header field", Work::field),
    ("extension bomb", Work::bomb),
    ("unknown extension", Work::strange_extension),
    ("entry added", Work::add),
    ("folder added", Work::add_folder),
    ("record edited, hashes fitted", Work::edit_record),
    ("record removed, hashes fitted", Work::remove_record),
    ("entry dropped, hashes fitted", Work::drop_fitted),
    ("entry added, hashes fitted", Work::add_fitted),
    ("line end lost", Work::join_lines),
    ("newer format", Work::newer),
    ("header edited", Work::edit_header),
    ("header edited, hashes fitted", Work::edit_header_fitted),
    ("manifest edited", Work::edit_manifest),
    ("manifest missing", Work::no_manifest),
    ("signature replaced", Work::signature),
    ("signed by a stranger", Work::stranger),
    ("manifest signed by a stranger", Work::stranger_manifest),
    ("something before it", Work::prepend),
];

impl Work {
    /// A number below `n`; 0 when `n` is 0.
    fn below(&self, n: usize) -> usize {
        let raw = u64::from_le_bytes(self.random.bytes());
        usize::try_from(raw % (n.max(1) as u64)).unwrap_or(0)
    }

    fn piece(&self, wanted: impl Fn(&Piece) -> bool) -> Option<Piece> {
        let found: Vec<_> = self.pieces.iter().filter(|p| wanted(p)).collect();
        found.get(self.below(found.len())).map(|p| (*p).clone())
    }

    fn any(&self) -> Option<Piece> {
        self.piece(|_| true)
    }

    fn file(&self) -> Option<Piece> {
        self.piece(|p| !p.folder)
    }

    fn named(&self, name: &str) -> Option<Piece> {
        self.piece(|p| p.path.ends_with(name))
    }

    fn records(&self) -> Option<Piece> {
        self.piece(|p| p.path.ends_with(".jsonl") && p.size > 0)
    }

    fn top(&self) -> String {
        self.pieces.first().map_or(String::new(), |p| p.path.clone())
    }

    fn flip(&mut self) -> Option<String> {
        let (at, bit) = (self.below(self.bytes.len()), self.below(8));
        *self.bytes.get_mut(at)? ^= 1 << bit;
        Some(format!("bit {bit} of byte {at}"))
    }

    fn overwrite(&mut self) -> Option<String> {
        let (at, n) = (self.below(self.bytes.len()), 1 + self.below(40));
        let end = (at + n).min(self.bytes.len());
        let mut noise = vec![0; end - at];
        self.random.fill(&mut noise);
        self.bytes[at..end].copy_from_slice(&noise);
        Some(format!("{at}..{end}"))
    }

    fn cut(&mut self) -> Option<String> {
        let at = self.below(self.bytes.len());
        self.bytes.truncate(at);
        Some(format!("after {at} bytes"))
    }

    fn cut_block(&mut self) -> Option<String> {
        let at = self.below(self.bytes.len() / BLOCK) * BLOCK;
        self.bytes.truncate(at);
        Some(format!("after {at} bytes"))
    }

    fn cut_entry(&mut self) -> Option<String> {
        let piece = self.any()?;
        self.bytes.truncate(piece.end);
        Some(format!("after {}", piece.path))
    }

    fn no_end(&mut self) -> Option<String> {
        let n = (1 + self.below(2)) * BLOCK - self.below(2);
        self.bytes.truncate(self.bytes.len().checked_sub(n)?);
        Some(format!("{n} bytes"))
    }

    fn append(&mut self) -> Option<String> {
        match self.below(3) {
            0 => self.bytes.extend([0; BLOCK]),
            1 => self.bytes.push(b'\n'),
            _ => self.bytes.extend(self.bytes.clone()),
        }
        Some(format!("{} bytes now", self.bytes.len()))
    }

    fn block_at(&self) -> usize {
        self.below(self.bytes.len() / BLOCK) * BLOCK
    }

    fn zero(&mut self) -> Option<String> {
        let at = self.block_at();
        let end = (at + BLOCK * (1 + self.below(3))).min(self.bytes.len());
        self.bytes[at..end].fill(0);
        Some(format!("{at}..{end}"))
    }

    fn swap_blocks(&mut self) -> Option<String> {
        let (a, b) = (self.block_at(), self.block_at());
        let first = self.bytes.get(a..a + BLOCK)?.to_vec();
        let second = self.bytes.get(b..b + BLOCK)?.to_vec();
        self.bytes[a..a + BLOCK].copy_from_slice(&second);
        self.bytes[b..b + BLOCK].copy_from_slice(&first);
        Some(format!("at {a} and {b}"))
    }

    fn remove_block(&mut self) -> Option<String> {
        let at = self.block_at();
        self.bytes.drain(at..(at + BLOCK).min(self.bytes.len()));
        Some(format!("at {at}"))
    }

    fn repeat_block(&mut self) -> Option<String> {
        let at = self.block_at();
        let block = self.bytes.get(at..at + BLOCK)?.to_vec();
        self.bytes.splice(at..at, block);
        Some(format!("at {at}"))
    }

    fn drop_entry(&mut self) -> Option<String> {
        let piece = self.any()?;
        self.bytes.drain(piece.start..piece.end);
        Some(piece.path)
    }

    fn double_entry(&mut self) -> Option<String> {
        let (piece, after) = (self.any()?, self.any()?);
        let copy = self.bytes[piece.start..piece.end].to_vec();
        self.bytes.splice(after.end..after.end, copy);
        Some(format!("{} again after {}", piece.path, after.path))
    }

    fn swap_entries(&mut self) -> Option<String> {
        let index = self.below(self.pieces.len().checked_sub(1)?);
        let (a, b) = (self.pieces.get(index)?.clone(), self.pieces.get(index + 1)?.clone());
        let mut both = self.bytes[b.start..b.end].to_vec();
        both.extend(&self.bytes[a.start..a.end]);
        self.bytes.splice(a.start..b.end, both);
        Some(format!("{} and {}", a.path, b.path))
    }

    fn move_entry(&mut self) -> Option<String> {
        let (piece, to) = (self.any()?, self.any()?);
        let copy = self.bytes[piece.start..piece.end].to_vec();
        if to.start >= piece.end {
            self.bytes.splice(to.end..to.end, copy);
            self.bytes.drain(piece.start..piece.end);
        } else if to.end <= piece.start {
            self.bytes.drain(piece.start..piece.end);
            self.bytes.splice(to.start..to.start, copy);
        } else {
            return None;
        }
        Some(format!("{} to {}", piece.path, to.path))
    }

    /// Exchanges the header blocks for those of another path or size.
    fn rehead(&mut self, piece: &Piece, path: String, size: u64) {
        let mtime = block::octal(&self.bytes[136..148]).unwrap_or(0);
        let blocks = block::encode(&Member { path, size, mtime, folder: piece.folder });
        self.bytes.splice(piece.start..piece.content, blocks);
    }

    fn rename_to(&mut self, make: impl Fn(&str, &str) -> String) -> Option<String> {
        let piece = self.file()?;
        let top = self.top();
        let path = make(&top, &piece.path);
        self.rehead(&piece, path.clone(), piece.size as u64);
        Some(format!("{} to {path}", piece.path))
    }

    fn rename(&mut self) -> Option<String> {
        let digest = Digest::of(&self.random.bytes::<8>());
        let name = match self.below(4) {
            0 => "metadata/other.jsonl".to_owned(),
            1 => "certificates/other.pem".to_owned(),
            2 => EntryName::Blob(digest).to_string(),
            _ => "metadata/tags-00007.jsonl".to_owned(),
        };
        self.rename_to(|top, _| format!("{top}{name}"))
    }

    fn rename_unknown(&mut self) -> Option<String> {
        const NAMES: [&str; 6] = [
            "metadata/TAGS.jsonl",
            "x",
            "rethink2/0",
            "images/blobs/md5/00",
            "config",
            "a\u{1b}[2J",
        ];
        let name = NAMES[self.below(NAMES.len())];
        self.rename_to(|top, _| format!("{top}{name}"))
    }

    fn absolute(&mut self) -> Option<String> {
        self.rename_to(|_, path| format!("/{path}"))
    }

    fn escape(&mut self) -> Option<String> {
        const NAMES: [&str; 5] = [
            "../../etc/passwd",
            "../header.json",
            "a/../../b",
            "./header.json",
            "metadata//tags.jsonl",
        ];
        let name = NAMES[self.below(NAMES.len())];
        self.rename_to(|top, _| format!("{top}{name}"))
    }

    fn other_folder(&mut self) -> Option<String> {
        self.rename_to(|top, path| path.replacen(top, "dtr-backup-v9/", 1))
    }

    /// Changes the last header block of a member and makes its checksum fit.
    fn touch(&mut self, piece: &Piece, change: impl FnOnce(&mut [u8])) {
        let block = &mut self.bytes[piece.content - BLOCK..piece.content];
        change(block);
        block::seal(block);
    }

    fn link(&mut self) -> Option<String> {
        let (piece, kind) = (self.any()?, b'1' + self.below(2) as u8);
        self.touch(&piece, |block| {
            block[156] = kind;
            block[157..168].copy_from_slice(b"/etc/passwd");
        });
        Some(piece.path)
    }

    fn device(&mut self) -> Option<String> {
        let kinds = b"3467Z";
        let (piece, kind) = (self.any()?, kinds[self.below(kinds.len())]);
        self.touch(&piece, |block| block[156] = kind);
        Some(format!("{} as type {}", piece.path, char::from(kind)))
    }

    fn resize(&mut self, size: impl Fn(usize, usize) -> usize) -> Option<String> {
        let (piece, by) = (self.piece(|p| p.size > 0)?, 1 + self.below(600));
        let size = size(piece.size, by);
        self.rehead(&piece, piece.path.clone(), size as u64);
        Some(format!("{}: {} instead of {}", piece.path, size, piece.size))
    }

    fn smaller(&mut self) -> Option<String> {
        self.resize(|size, by| size.saturating_sub(by))
    }

    fn larger(&mut self) -> Option<String> {
        if self.below(4) == 0 {
            self.resize(|_, by| by << 35)
        } else {
            self.resize(|size, by| size + by)
        }
    }

    fn binary_size(&mut self) -> Option<String> {
        let piece = self.file()?;
        self.touch(&piece, |block| {
            block[124] = 0x80;
            block[125..128].fill(0);
            block[128..136].copy_from_slice(&(piece.size as u64).to_be_bytes());
        });
        Some(piece.path)
    }

    fn field(&mut self) -> Option<String> {
        const FIELDS: [(usize, &[u8]); 10] = [
            (100, b"0004755"),
            (108, b"0001750"),
            (116, b"0001750"),
            (136, b"00000000001"),
            (124, b" "),
            (157, b"x"),
            (257, b"ustar  "),
            (265, b"root"),
            (329, b"0000001"),
            (500, b"hidden"),
        ];
        let (piece, (at, value)) = (self.any()?, FIELDS[self.below(FIELDS.len())]);
        self.touch(&piece, |block| block[at..at + value.len()].copy_from_slice(value));
        Some(format!("{} at {at}", piece.path))
    }

    fn insert(&mut self, at: usize, path: &str, kind: u8, content: &[u8], size: Option<u64>) {
        let mtime = block::octal(&self.bytes[136..148]).unwrap_or(0);
        let folder = path.ends_with('/');
        let said = size.unwrap_or(content.len() as u64);
        let mut blocks =
            block::encode(&Member { path: path.to_owned(), size: said, mtime, folder });
        if kind != 0 {
            blocks[156] = kind;
            block::seal(&mut blocks);
        }
        blocks.extend(content);
        blocks.resize(blocks.len().next_multiple_of(BLOCK), 0);
        self.bytes.splice(at..at, blocks);
    }

    fn bomb(&mut self) -> Option<String> {
        let piece = self.any()?;
        let size = 1u64 << (11 + self.below(22));
        self.insert(piece.start, "PaxHeaders/entry", b'x', &[b'9'; 4096], Some(size));
        Some(format!("{size} bytes before {}", piece.path))
    }

    fn strange_extension(&mut self) -> Option<String> {
        let piece = self.any()?;
        let (kind, body): (u8, &[u8]) = match self.below(6) {
            0 => (b'g', b"13 comment=x\n"),
            1 => (b'L', b"././@LongLink\0"),
            2 => (b'x', b"28 GNU.sparse.name=elsewhere\n"),
            3 => (b'x', b"25 linkpath=/etc/passwd\n"),
            4 => (b'x', b"11 size=-1\n"),
            _ => (b'x', b"19 path=../../evil\n"),
        };
        self.insert(piece.start, "PaxHeaders/entry", kind, body, None);
        Some(format!("type {} before {}", char::from(kind), piece.path))
    }

    fn add(&mut self) -> Option<String> {
        let (piece, top) = (self.any()?, self.top());
        let name =
            ["certificates/evil.pem", "metadata/evil.jsonl", "header.json", "evil"][self.below(4)];
        self.insert(piece.end, &format!("{top}{name}"), 0, b"{}\n", None);
        Some(format!("{name} after {}", piece.path))
    }

    fn add_folder(&mut self) -> Option<String> {
        let (piece, top) = (self.any()?, self.top());
        let name = ["jobs/", "notary/", "scans/", "evil/", "metadata/"][self.below(5)];
        self.insert(piece.end, &format!("{top}{name}"), 0, b"", None);
        Some(format!("{name} after {}", piece.path))
    }

    /// Puts the archive together again from its parts, with every size and hash as it must be, and the old signature or a
    /// new one.
    fn rebuild(&mut self, parts: &[(String, Vec<u8>)], key: Option<&SigningKey>) -> Option<()> {
        let top = self.top();
        let old = self.named("manifest.json")?;
        let old = &self.bytes[old.content..old.content + old.size];
        let mut lines = old.split_inclusive(|b| *b == b'\n');
        let first = lines.next()?.strip_prefix(b"{\"manifest\":")?.strip_suffix(b",\n")?;
        let mut manifest: Manifest = serde_json::from_slice(first).ok()?;
        let mut signature = lines.next_back()?.to_vec();
        let mtime = block::octal(&self.bytes[136..148])?;
        let mut out = Vec::new();
        let put = |out: &mut Vec<u8>, name: &str, content: &[u8]| {
            let (path, folder) = (format!("{top}{name}"), name.is_empty() || name.ends_with('/'));
            let size = content.len() as u64;
            out.extend(block::encode(&Member { path, size, mtime, folder }));
            out.extend(content);
            out.resize(out.len().next_multiple_of(BLOCK), 0);
        };
        let mut log = EntryLog::default();
        for (name, content) in parts {
            put(&mut out, name, content);
            if let Some(entry) = EntryName::parse(name) {
                let lines = content.iter().filter(|b| **b == b'\n').count() as u64;
                let records = matches!(entry, EntryName::Records { .. }).then_some(lines);
                log.push(&entry, content.len() as u64, Sha256::of(content), records);
            }
        }
        manifest.stream = StreamProof { bytes: out.len() as u64, sha256: Sha256::of(&out) };
        manifest.totals = log.totals.clone();
        if let Some(key) = key {
            manifest.signer = key.signer();
            signature = manifest.seal(&log, key).ok()?.1;
        }
        let mut document = Vec::new();
        let write = |line: &[u8]| {
            document.extend_from_slice(line);
            Ok(())
        };
        manifest.write(&log, &signature, write).ok()?;
        put(&mut out, "manifest.json", &document);
        out.extend([0; 2 * BLOCK]);
        self.bytes = out;
        Some(())
    }

    /// All members but the manifest, names without the top folder.
    fn parts(&self) -> Vec<(String, Vec<u8>)> {
        let top = self.top();
        self.pieces
            .iter()
            .filter(|p| !p.path.ends_with("/manifest.json"))
            .map(|p| {
                let name = p.path.strip_prefix(&top).unwrap_or(&p.path).to_owned();
                (name, self.bytes[p.content..p.content + p.size].to_vec())
            })
            .collect()
    }

    fn fitted(
        &mut self,
        wanted: impl Fn(&Piece) -> bool,
        change: impl Fn(&Self, &mut Vec<(String, Vec<u8>)>, usize),
    ) -> Option<String> {
        let piece = self.piece(|p| !p.path.ends_with("/manifest.json") && wanted(p))?;
        let mut parts = self.parts();
        let index = parts
            .iter()
            .position(|(name, _)| piece.path.ends_with(name.as_str()) && !name.is_empty())?;
        change(self, &mut parts, index);
        self.rebuild(&parts, None)?;
        Some(piece.path)
    }

    fn edit_record(&mut self) -> Option<String> {
        self.fitted(
            |p| p.path.ends_with(".jsonl") && p.size > 8,
            |work, parts, index| {
                let content = &mut parts[index].1;
                let start = work.below(content.len());
                let letter = (0..content.len())
                    .map(|n| (start + n) % content.len())
                    .find(|at| content[*at].is_ascii_lowercase());
                if let Some(at) = letter {
                    content[at] = if content[at] == b'z' { b'a' } else { content[at] + 1 };
                }
            },
        )
    }

    fn remove_record(&mut self) -> Option<String> {
        self.fitted(
            |p| p.path.ends_with(".jsonl") && p.size > 0,
            |work, parts, index| {
                let content = &mut parts[index].1;
                let mut lines: Vec<_> =
                    content.split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
                lines.remove(work.below(lines.len()));
                *content = lines.concat();
            },
        )
    }

    fn drop_fitted(&mut self) -> Option<String> {
        self.fitted(
            |p| !p.folder && !p.path.ends_with("/header.json"),
            |_, parts, index| drop(parts.remove(index)),
        )
    }

    fn add_fitted(&mut self) -> Option<String> {
        self.fitted(
            |p| p.path.ends_with(".jsonl"),
            |_, parts, index| {
                let folder = parts[index].0.split('/').next().unwrap_or_default().to_owned();
                parts.insert(index + 1, (format!("{folder}/evil.jsonl"), b"{}\n".to_vec()));
            },
        )
    }

    fn join_lines(&mut self) -> Option<String> {
        let piece = self.records()?;
        let content = &self.bytes[piece.content..piece.content + piece.size];
        let ends: Vec<_> =
            content.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(at, _)| at).collect();
        let at = *ends.get(self.below(ends.len()))?;
        self.bytes[piece.content + at] = b' ';
        Some(format!("{} at {at}", piece.path))
    }

    /// Replaces text in `header.json`, by text of the same length.
    fn replace(&mut self, name: &str, from: &str, to: &str) -> Option<String> {
        let piece = self.named(name)?;
        let content = &self.bytes[piece.content..piece.content + piece.size];
        let at = content.windows(from.len()).position(|w| w == from.as_bytes())?;
        let at = piece.content + at;
        self.bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
        Some(format!("{from} to {to} in {name}"))
    }

    fn newer(&mut self) -> Option<String> {
        self.replace("/header.json", "\"format\": 1", "\"format\": 9")
    }

    fn edit_header(&mut self) -> Option<String> {
        const EDITS: [(&str, &str); 5] = [
            ("\"revision\"", "\"revisioN\""),
            ("\"metadata\": true", "\"metadata\": null"),
            ("\"ed25519\"", "\"ed25518\""),
            ("\"encrypted\": false", "\"encrypted\": fals3"),
            ("\"schema\": 1", "\"schema\": 2"),
        ];
        let (from, to) = EDITS[self.below(EDITS.len())];
        self.replace("/header.json", from, to)
    }

    fn edit_header_fitted(&mut self) -> Option<String> {
        self.edit_header()?;
        let parts = self.parts();
        self.rebuild(&parts, None)?;
        Some("header.json".to_owned())
    }

    fn edit_manifest(&mut self) -> Option<String> {
        let piece = self.named("/manifest.json")?;
        match self.below(4) {
            0 => {
                let at = piece.content + self.below(piece.size);
                self.bytes[at] = self.bytes[at].wrapping_add(1);
                Some(format!("byte {at}"))
            }
            1 => self.replace("/manifest.json", "\"entries\":[", "\"entrieS\":["),
            2 => self.replace("/manifest.json", "\"records\":", "\"recordz\":"),
            _ => self.replace("/manifest.json", "\"size\":", "\"size\" "),
        }
    }

    fn no_manifest(&mut self) -> Option<String> {
        let piece = self.named("/manifest.json")?;
        self.bytes.drain(piece.start..piece.end);
        Some(piece.path)
    }

    fn signature(&mut self) -> Option<String> {
        let piece = self.named("/manifest.json")?;
        let noise = hex::encode(self.random.bytes::<64>());
        let end = piece.content + piece.size - 3;
        self.bytes[end - 128..end].copy_from_slice(noise.as_bytes());
        Some(noise)
    }

    fn stranger(&mut self) -> Option<String> {
        let key = SigningKey::from_seed(&self.random.bytes()).ok()?;
        let mut parts = self.parts();
        let folder = self.top();
        let json = &mut parts.iter_mut().find(|(name, _)| name == "header.json")?.1;
        let header = Header::from_json(json, folder.trim_end_matches('/')).ok()?;
        *json = Header { signer: key.signer(), ..header }.to_json().ok()?;
        self.rebuild(&parts, Some(&key))?;
        Some(key.public_key().id())
    }

    fn stranger_manifest(&mut self) -> Option<String> {
        let key = SigningKey::from_seed(&self.random.bytes()).ok()?;
        let parts = self.parts();
        self.rebuild(&parts, Some(&key))?;
        Some(key.public_key().id())
    }

    fn prepend(&mut self) -> Option<String> {
        const STARTS: [&[u8]; 4] = [b"\n", b"Warning: something\n", b"\x1f\x8b\x08", &[0; BLOCK]];
        let start = STARTS[self.below(STARTS.len())];
        self.bytes.splice(0..0, start.iter().copied());
        Some(format!("{} bytes", start.len()))
    }
}
