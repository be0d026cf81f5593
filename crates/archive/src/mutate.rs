//! Damages archives, for tests: bits flipped, streams cut, entries dropped, doubled, moved, renamed, sizes that lie, links,
//! bombs, records edited with every hash made to fit, archives signed anew by a stranger. The same archive and seed always
//! give the same damage. Every result differs from the original and must be refused by a reader that knows the cluster's key.

mod fitted;

use dtr_types::{Digest, Random as _, SeededRandom};

use crate::{
    block::{self, BLOCK, Member},
    name::EntryName,
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
    // Zeros after the end say nothing, so they are no damage.
    let harmed = |bytes: &[u8]| match bytes.strip_prefix(archive) {
        Some(more) => more.iter().any(|byte| *byte != 0),
        None => true,
    };
    if let Some(what) = act(&mut work)
        && harmed(&work.bytes)
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
            0 => self.bytes.extend([&[0; BLOCK][..], b"\x01"].concat()),
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
}
