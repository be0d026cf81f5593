//! Which names an archive can have. Everything else is refused: a reader never has to ask where a path leads.

use std::fmt;

use dtr_types::Digest;

use crate::{ArchiveError, Result, error::shown};

/// A folder of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Section {
    /// Settings.
    Config,
    /// Repositories, tags, manifests, events.
    Metadata,
    /// Grants and access tokens.
    Access,
    /// Trust data.
    Notary,
    /// Scan results.
    Scans,
    /// Jobs and schedules.
    Jobs,
    /// Users, organizations, teams.
    Identity,
}

impl Section {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Config,
        Self::Metadata,
        Self::Access,
        Self::Notary,
        Self::Scans,
        Self::Jobs,
        Self::Identity,
    ];

    /// The folder's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Metadata => "metadata",
            Self::Access => "access",
            Self::Notary => "notary",
            Self::Scans => "scans",
            Self::Jobs => "jobs",
            Self::Identity => "identity",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == text)
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The name of an entry, relative to the top folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryName {
    /// `header.json`.
    Header,
    /// `manifest.json`.
    Manifest,
    /// `SECTION/KIND.jsonl` (part 0: the only one) or `SECTION/KIND-00001.jsonl` and on.
    Records {
        /// The folder.
        section: Section,
        /// The kind of record, such as `tags`.
        kind: String,
        /// 0 when the kind has only one part, else from 1.
        part: u32,
    },
    /// `certificates/NAME`.
    Certificate(String),
    /// `images/oci-layout`.
    OciLayout,
    /// `images/index.json`.
    OciIndex,
    /// `images/blobs/ALGORITHM/HEX`.
    Blob(Digest),
}

/// Letters, digits, `.`, `_`, `-`; not beginning with a dot; 1 to 100.
fn file_name(text: &str) -> bool {
    (1..=100).contains(&text.len())
        && !text.starts_with('.')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// `[a-z][a-z0-9_]{0,63}`: no dash, so that a part's number cannot be taken for a piece of it.
pub(crate) fn kind_name(text: &str) -> bool {
    text.len() <= 64
        && text.bytes().next().is_some_and(|b| b.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

impl EntryName {
    /// Reads a name; `None` when no archive has it.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "header.json" => return Some(Self::Header),
            "manifest.json" => return Some(Self::Manifest),
            "images/oci-layout" => return Some(Self::OciLayout),
            "images/index.json" => return Some(Self::OciIndex),
            _ => {}
        }
        if let Some(rest) = text.strip_prefix("images/blobs/") {
            let (algorithm, hex) = rest.split_once('/')?;
            return format!("{algorithm}:{hex}").parse().ok().map(Self::Blob);
        }
        let (folder, file) = text.split_once('/')?;
        if folder == "certificates" {
            return file_name(file).then(|| Self::Certificate(file.to_owned()));
        }
        let section = Section::parse(folder)?;
        let stem = file.strip_suffix(".jsonl")?;
        let (kind, part) = match stem.split_once('-') {
            None => (stem, 0),
            Some((kind, digits)) => {
                let part = digits.parse().ok()?;
                if part == 0 || format!("{part:05}") != digits {
                    return None;
                }
                (kind, part)
            }
        };
        kind_name(kind).then(|| Self::Records { section, kind: kind.to_owned(), part })
    }

    /// The folders above, outermost first, each ending with a slash.
    pub(crate) fn folders(&self) -> Vec<String> {
        let text = self.to_string();
        text.match_indices('/').map(|(i, _)| text[..=i].to_owned()).collect()
    }
}

impl fmt::Display for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header => f.write_str("header.json"),
            Self::Manifest => f.write_str("manifest.json"),
            Self::Records { section, kind, part: 0 } => write!(f, "{section}/{kind}.jsonl"),
            Self::Records { section, kind, part } => write!(f, "{section}/{kind}-{part:05}.jsonl"),
            Self::Certificate(name) => write!(f, "certificates/{name}"),
            Self::OciLayout => f.write_str("images/oci-layout"),
            Self::OciIndex => f.write_str("images/index.json"),
            Self::Blob(digest) => {
                write!(f, "images/blobs/{}/{}", digest.algorithm().as_str(), digest.hex())
            }
        }
    }
}

/// Refuses a path that could lead anywhere else, and takes off the top folder.
pub(crate) fn inside<'a>(path: &'a str, folder: &str) -> Result<&'a str> {
    let entry = || shown(path);
    if path.starts_with('/') || path.starts_with('\\') || path.as_bytes().get(1) == Some(&b':') {
        return Err(ArchiveError::AbsolutePath { entry: entry() });
    }
    let trimmed = path.strip_suffix('/').unwrap_or(path);
    if trimmed.split(['/', '\\']).any(|c| matches!(c, "" | "." | "..")) {
        return Err(ArchiveError::PathEscapes { entry: entry() });
    }
    match path.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/')) {
        Some(rest) => Ok(rest),
        None => Err(ArchiveError::OutsideFolder { entry: entry(), folder: folder.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_known_print_as_they_were() {
        let hex = "a".repeat(64);
        let long = "b".repeat(128);
        for good in [
            "header.json",
            "manifest.json",
            "metadata/tags.jsonl",
            "metadata/tags-00001.jsonl",
            "metadata/tags-123456.jsonl",
            "access/client_tokens.jsonl",
            "certificates/ca.pem",
            "images/oci-layout",
            "images/index.json",
            &format!("images/blobs/sha256/{hex}"),
            &format!("images/blobs/sha512/{long}"),
        ] {
            assert_eq!(EntryName::parse(good).expect(good).to_string(), good);
        }
        for bad in [
            "",
            "x",
            "header.json/",
            "metadata/tags",
            "metadata/tags-0.jsonl",
            "metadata/tags-00000.jsonl",
            "metadata/tags-000001.jsonl",
            "metadata/tags-+0001.jsonl",
            "metadata/a/b.jsonl",
            "metadata/.jsonl",
            "other/tags.jsonl",
            "certificates/.x",
            "certificates/a/b",
            "images/blobs/sha256/abc",
            "images/blobs/md5/abc",
            "rethink/properties/0",
        ] {
            assert!(EntryName::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn folders_come_outermost_first() {
        let name = EntryName::parse(&format!("images/blobs/sha256/{}", "a".repeat(64)));
        let folders = name.expect("valid").folders();
        assert_eq!(folders, ["images/", "images/blobs/", "images/blobs/sha256/"]);
    }
}
