//! A line of an archive as the record that it is.

use std::borrow::Cow;

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
}

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    body: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "bodyHex")]
    body_hex: Option<Cow<'a, str>>,
}

impl ManifestLine {
    fn parse(json: &[u8]) -> Result<Self, String> {
        let record: ManifestRecord = serde_json::from_slice(json).map_err(|e| e.to_string())?;
        let body: Body<'_> = serde_json::from_slice(json).map_err(|e| e.to_string())?;
        let body = match (body.body, body.body_hex) {
            (Some(text), None) => Bytes::from(text.into_owned().into_bytes()),
            (None, Some(text)) => {
                hex::decode(&*text).map_err(|_| "its bodyHex is not hexadecimal")?.into()
            }
            _ => return Err("it has not exactly one of body and bodyHex".to_owned()),
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
        let manifest = Manifest::parse(Some(record.media_type.as_str()), &body)
            .map_err(|e| format!("its body is no manifest: {e}"))?;
        if manifest.subject.as_ref().map(|subject| subject.digest) != record.subject {
            return Err("its subject is not the one in its body".to_owned());
        }
        Ok(Self { record, manifest, body })
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
