//! Damage that makes every size and hash fit again, as somebody would who wants it unseen and has no key.

use dtr_types::Random as _;

use super::{Piece, Work};
use crate::{
    block::{self, BLOCK, Member},
    entries::EntryLog,
    header::Header,
    manifest::{Manifest, StreamProof},
    name::EntryName,
    sign::{Sha256, SigningKey},
};

impl Work {
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

    pub(super) fn edit_record(&mut self) -> Option<String> {
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

    pub(super) fn remove_record(&mut self) -> Option<String> {
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

    pub(super) fn drop_fitted(&mut self) -> Option<String> {
        self.fitted(
            |p| !p.folder && !p.path.ends_with("/header.json"),
            |_, parts, index| drop(parts.remove(index)),
        )
    }

    pub(super) fn add_fitted(&mut self) -> Option<String> {
        self.fitted(
            |p| p.path.ends_with(".jsonl"),
            |_, parts, index| {
                let folder = parts[index].0.split('/').next().unwrap_or_default().to_owned();
                parts.insert(index + 1, (format!("{folder}/evil.jsonl"), b"{}\n".to_vec()));
            },
        )
    }

    pub(super) fn join_lines(&mut self) -> Option<String> {
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

    pub(super) fn newer(&mut self) -> Option<String> {
        self.replace("/header.json", "\"format\": 1", "\"format\": 9")
    }

    pub(super) fn edit_header(&mut self) -> Option<String> {
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

    pub(super) fn edit_header_fitted(&mut self) -> Option<String> {
        self.edit_header()?;
        let parts = self.parts();
        self.rebuild(&parts, None)?;
        Some("header.json".to_owned())
    }

    pub(super) fn edit_manifest(&mut self) -> Option<String> {
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

    pub(super) fn no_manifest(&mut self) -> Option<String> {
        let piece = self.named("/manifest.json")?;
        self.bytes.drain(piece.start..piece.end);
        Some(piece.path)
    }

    pub(super) fn signature(&mut self) -> Option<String> {
        let piece = self.named("/manifest.json")?;
        let noise = hex::encode(self.random.bytes::<64>());
        let end = piece.content + piece.size - 3;
        self.bytes[end - 128..end].copy_from_slice(noise.as_bytes());
        Some(noise)
    }

    pub(super) fn stranger(&mut self) -> Option<String> {
        let key = SigningKey::from_seed(&self.random.bytes()).ok()?;
        let mut parts = self.parts();
        let folder = self.top();
        let json = &mut parts.iter_mut().find(|(name, _)| name == "header.json")?.1;
        let header = Header::from_json(json, folder.trim_end_matches('/')).ok()?;
        *json = Header { signer: key.signer(), ..header }.to_json().ok()?;
        self.rebuild(&parts, Some(&key))?;
        Some(key.public_key().id())
    }

    pub(super) fn stranger_manifest(&mut self) -> Option<String> {
        let key = SigningKey::from_seed(&self.random.bytes()).ok()?;
        let parts = self.parts();
        self.rebuild(&parts, Some(&key))?;
        Some(key.public_key().id())
    }

    pub(super) fn prepend(&mut self) -> Option<String> {
        const STARTS: [&[u8]; 4] = [b"\n", b"Warning: something\n", b"\x1f\x8b\x08", &[0; BLOCK]];
        let start = STARTS[self.below(STARTS.len())];
        self.bytes.splice(0..0, start.iter().copied());
        Some(format!("{} bytes", start.len()))
    }
}
