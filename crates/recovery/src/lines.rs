//! A line of an archive as the record that it is.

use std::{borrow::Cow, collections::HashSet};

use bytes::Bytes;
use dtr_archive::Section;
use dtr_catalog::{Kind, Record as _, records::*};
use dtr_types::{AccountId, Digest, Manifest, TeamId};
use serde::{Deserialize, Serialize};

use crate::schema::Migration;

/// The entry of the names of accounts and teams that are not in the archive themselves.
pub(crate) const DIRECTORY: &str = "identity/directory";

/// What an account or a team that is mentioned is called, where the archive does not hold it: for finding it again in
/// another identity service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(crate) enum DirectoryLine {
    /// A user or an organization.
    #[serde(rename_all = "camelCase")]
    Account {
        /// Its id.
        id: AccountId,
        /// Its name.
        name: String,
        /// Whether it is an organization.
        is_org: bool,
    },
    /// A team.
    #[serde(rename_all = "camelCase")]
    Team {
        /// Its id.
        id: TeamId,
        /// Its organization.
        organization: AccountId,
        /// Its name.
        name: String,
    },
}

/// A manifest with its bytes, understood.
#[derive(Debug)]
pub(crate) struct ManifestLine {
    pub(crate) record: ManifestRecord,
    pub(crate) manifest: Manifest,
    pub(crate) body: Bytes,
    /// What it names that may be absent, and that its repository had.
    pub(crate) present: Vec<Digest>,
    /// The JSON of the record alone, where it could be told apart without reading it.
    pub(crate) json: Option<Vec<u8>>,
}

/// A line's parts beside the record.
#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    body: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "bodyHex")]
    body_hex: Option<Cow<'a, str>>,
    #[serde(default)]
    present: Vec<Digest>,
}

/// What a line of ours looks like where its body begins. In JSON this cannot be the inside of a text.
const BODY_BEGINS: &[u8] = br#","body":"#;

impl ManifestLine {
    /// The record and the body of a line that has its body last, as this product writes it. `None` when the line is
    /// another, right or wrong.
    fn split(json: &[u8]) -> Option<(ManifestRecord, String, Vec<u8>)> {
        let at = json.windows(BODY_BEGINS.len()).position(|window| window == BODY_BEGINS)?;
        let body = json[at + BODY_BEGINS.len()..].strip_suffix(b"}")?;
        let head = [&json[..at], b"}"].concat();
        Some((serde_json::from_slice(&head).ok()?, serde_json::from_slice(body).ok()?, head))
    }

    /// The same of any line.
    fn fields(json: &[u8]) -> Result<(ManifestRecord, Bytes, Vec<Digest>), String> {
        let record: ManifestRecord = serde_json::from_slice(json).map_err(|e| e.to_string())?;
        let parts: Body<'_> = serde_json::from_slice(json).map_err(|e| e.to_string())?;
        let body = match (parts.body, parts.body_hex) {
            (Some(text), None) => Bytes::from(text.into_owned().into_bytes()),
            (None, Some(text)) => {
                hex::decode(&*text).map_err(|_| "its bodyHex is not hexadecimal")?.into()
            }
            _ => return Err("it has not exactly one of body and bodyHex".to_owned()),
        };
        Ok((record, body, parts.present))
    }

    /// The blobs that must be there for it: those it needs, and those that may be absent and were not.
    pub(crate) fn needed(&self) -> impl Iterator<Item = Digest> {
        let needed = self.manifest.blobs().into_iter().map(|descriptor| descriptor.digest);
        needed.chain(self.present.iter().copied())
    }

    /// Everything of it that a blob may be behind: what is needed, and those entries of an index that are blobs. Each once.
    pub(crate) fn blobs(&self) -> Vec<Digest> {
        let absent = |digest: &Digest| self.record.may_be_absent.contains(digest);
        let children = self.manifest.children().into_iter().map(|descriptor| descriptor.digest);
        let mut seen = HashSet::new();
        let all = self.needed().chain(children.filter(|child| !absent(child)));
        all.filter(|digest| seen.insert(*digest)).collect()
    }

    /// What it names that may be absent, and was.
    pub(crate) fn absent(&self) -> Vec<Digest> {
        let mut absent: Vec<Digest> = self.record.may_be_absent.clone();
        absent.extend(self.manifest.optional_blobs().iter().map(|descriptor| descriptor.digest));
        absent.retain(|digest| !self.present.contains(digest));
        absent.sort_unstable();
        absent.dedup();
        absent
    }

    fn parse(line: &[u8]) -> Result<Self, String> {
        let (record, body, present, json) = match Self::split(line) {
            Some((record, body, json)) => (record, Bytes::from(body), Vec::new(), Some(json)),
            None => {
                let (record, body, present) = Self::fields(line)?;
                (record, body, present, None)
            }
        };
        if body.len() as u64 != record.size {
            return Err(format!(
                "its body has {} bytes, its size says {}",
                body.len(),
                record.size
            ));
        }
        if !record.digest.matches(&body) {
            let found = Digest::with(record.digest.algorithm(), &body);
            return Err(format!("its body hashes to {found}, its digest says {}", record.digest));
        }
        let manifest = Manifest::stored(Some(record.media_type.as_str()), &body)
            .map_err(|e| format!("its body is no manifest: {e}"))?;
        if manifest.subject.as_ref().map(|subject| subject.digest) != record.subject {
            return Err("its subject is not the one in its body".to_owned());
        }
        Ok(Self { record, manifest, body, present, json })
    }
}

macro_rules! lines {
    ($($kind:ident($type:ty);)*) => {
        /// A record of any kind that archives hold.
        #[derive(Debug)]
        pub(crate) enum Line { $($kind($type),)* Manifest(Box<ManifestLine>) }

        impl Line {
            /// Reads one.
            pub(crate) fn parse(kind: Kind, json: &[u8]) -> Result<Self, String> {
                match kind {
                    $(Kind::$kind => serde_json::from_slice(json)
                        .map(Self::$kind)
                        .map_err(|e| e.to_string()),)*
                    Kind::Manifest => {
                        ManifestLine::parse(json).map(|line| Self::Manifest(Box::new(line)))
                    }
                    other => Err(format!("archives hold no {}", other.name())),
                }
            }

            /// The key that it is stored under.
            pub(crate) fn key(&self) -> Bytes {
                match self {
                    $(Self::$kind(record) => record.key(),)*
                    Self::Manifest(line) => line.record.key(),
                }
            }
        }

        #[cfg(test)]
        const KINDS: &[Kind] = &[$(Kind::$kind,)* Kind::Manifest];
    };
}

lines! {
    Cluster(ClusterRecord);
    Settings(Settings);
    Backup(BackupRecord);
    Key(KeyRecord);
    Certificate(CertificateRecord);
    Account(Account);
    Credential(Credential);
    Membership(Membership);
    Team(Team);
    TeamMembership(TeamMembership);
    Service(Service);
    Repository(Repository);
    Counters(Counters);
    Blob(BlobRecord);
    Tag(TagRecord);
    RepositoryGrant(RepositoryGrant);
    NamespaceGrant(NamespaceGrant);
    AccessToken(AccessToken);
    Event(Event);
}

/// Where a kind of record goes in an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Into numbered parts of records.
    Records(Section, &'static str),
    /// Into one file under `certificates/`.
    Certificates(&'static str),
}

/// Where a kind goes, if archives hold it.
pub(crate) fn place(kind: Kind) -> Option<Place> {
    let (folder, name) = kind.archived()?.split_once('/')?;
    if folder == "certificates" {
        return Some(Place::Certificates(name));
    }
    let section = Section::ALL.into_iter().find(|section| section.as_str() == folder)?;
    Some(Place::Records(section, name))
}

/// The kind that an entry holds, by `folder/name`.
pub(crate) fn kind_of(path: &str) -> Option<Kind> {
    Kind::ALL.iter().copied().find(|kind| kind.archived() == Some(path))
}

/// Reads lines one after the other and demands that their keys ascend: so none comes twice.
#[derive(Debug)]
pub(crate) struct LineReader {
    migration: Migration,
    last: Option<(Kind, Bytes)>,
}

impl LineReader {
    pub(crate) fn new(migration: Migration) -> Self {
        Self { migration, last: None }
    }

    /// The record, and its JSON in today's schema.
    pub(crate) fn read<'a>(
        &mut self,
        kind: Kind,
        json: &'a [u8],
    ) -> Result<(Line, Cow<'a, [u8]>), String> {
        let json = self.migration.apply(kind, json)?;
        let line = Line::parse(kind, &json)?;
        let key = line.key();
        if let Some((last_kind, last)) = &self.last
            && *last_kind == kind
            && *last >= key
        {
            return Err(
                "the records are not in the order of their keys, or one comes twice".to_owned()
            );
        }
        self.last = Some((kind, key));
        Ok((line, json))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line whose record has these fields more, with the body at the end or not.
    fn line(more: &str, body_last: bool) -> String {
        let body = r#"{"schemaVersion":2,"config":{"mediaType":"a/b","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0},"layers":[]}"#;
        let digest = Digest::of(body.as_bytes());
        let fields = format!(
            r#""repository":"1e373eae-8248-45dd-abc5-26e081ba1f38","digest":"{digest}","mediaType":"application/vnd.oci.image.manifest.v1+json","size":{},"contentSize":0,"parts":1,"author":"a,\"body\":\"b","pushedAt":"2026-11-23T12:14:46.712Z"{more}"#,
            body.len()
        );
        let body = serde_json::Value::from(body);
        if body_last {
            format!(r#"{{{fields},"body":{body}}}"#)
        } else {
            format!(r#"{{"body":{body},{fields}}}"#)
        }
    }

    #[test]
    fn a_manifest_is_read_wherever_its_body_stands() {
        let last = ManifestLine::parse(line("", true).as_bytes()).expect("is read");
        let first = ManifestLine::parse(line("", false).as_bytes()).expect("is read");
        assert_eq!((&last.record, &last.body), (&first.record, &first.body));
        assert_eq!(last.record.author, r#"a,"body":"b"#);
        let alone: ManifestRecord =
            serde_json::from_slice(&last.json.expect("is told apart")).expect("a record");
        assert_eq!(alone, last.record);
        assert!(first.json.is_none());
        // What a later version may add is kept, also if it looks alike.
        let odd = line(r#","more":{"a":1,"body":"x"}"#, true);
        let odd = ManifestLine::parse(odd.as_bytes()).expect("is read");
        assert_eq!((&odd.record, &odd.body), (&last.record, &last.body));
        let kept = line(r#","more":[1]"#, true);
        let kept = ManifestLine::parse(kept.as_bytes()).expect("is read").json.expect("told apart");
        assert!(kept.ends_with(br#","more":[1]}"#));
        for broken in [r#"{"body":"x"}"#, r#"{,"body":"x"}"#, r#","body":"x"}"#] {
            assert!(ManifestLine::parse(broken.as_bytes()).is_err(), "{broken}");
        }
        let twice = line(r#","body":"x""#, true);
        assert!(ManifestLine::parse(twice.as_bytes()).is_err(), "two bodies");
    }

    #[test]
    fn every_archived_kind_has_a_place_and_a_reader() {
        for kind in Kind::ALL.iter().copied() {
            let Some(path) = kind.archived() else { continue };
            assert!(place(kind).is_some(), "{path} is in no folder that archives have");
            assert_eq!(kind_of(path), Some(kind), "{path} is used twice");
            assert!(KINDS.contains(&kind), "{path} cannot be read back");
        }
    }
}
