//! The reading side: everything in the store at the revision, kind by kind, a page at a time.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use dtr_archive::Section;
use dtr_catalog::records::{
    AccessToken, BlobRecord, CertificateRecord, IdentitySource, KeyRecord, NamespaceGrant,
    Repository, RepositoryGrant,
};
use dtr_catalog::{Batch, Cursor, Export, Kind, Record, json};
use dtr_identity::{AccountRecords, Identity, IdentityError};
use dtr_types::{AccountId, Revision, TeamId};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::{Job, Progress, write::Piece};
use crate::{
    RecoveryError,
    lines::{DIRECTORY, DirectoryLine, Place, place},
};

/// What was read.
#[derive(Clone, Debug, Default)]
pub(super) struct Sums {
    /// Records by entry.
    pub(super) kinds: BTreeMap<&'static str, u64>,
    /// Blobs that the archive mentions.
    pub(super) blobs: u64,
    /// Bytes of them.
    pub(super) blob_bytes: u64,
    /// Private keys that go in.
    pub(super) private_keys: u64,
    /// Blobs whose content was to go in and is not in the storage.
    pub(super) missing: Vec<String>,
    /// Why the names of owners are not all in it.
    pub(super) nameless: Option<String>,
}

/// A backup's reading.
pub(super) struct Reading<'a> {
    pub(super) job: &'a Job,
    pub(super) export: Export,
    pub(super) writer: mpsc::Sender<Piece>,
    pub(super) sums: Sums,
    pub(super) progress: Progress,
    accounts: BTreeSet<AccountId>,
    teams: BTreeSet<(AccountId, TeamId)>,
}

fn parse<T: Record + DeserializeOwned>(line: &[u8]) -> Result<T, RecoveryError> {
    serde_json::from_slice(line).map_err(|e| {
        dtr_catalog::CatalogError::Record {
            kind: T::KIND.name(),
            key: String::from_utf8_lossy(line).chars().take(200).collect(),
            reason: e.to_string(),
        }
        .into()
    })
}

impl<'a> Reading<'a> {
    pub(super) async fn new(
        job: &'a Job,
        writer: mpsc::Sender<Piece>,
        at: Revision,
    ) -> Result<Self, RecoveryError> {
        Ok(Self {
            job,
            export: job.catalog.export(at).await?,
            writer,
            sums: Sums::default(),
            progress: Progress::default(),
            accounts: BTreeSet::new(),
            teams: BTreeSet::new(),
        })
    }

    pub(super) fn sums(&self) -> Sums {
        self.sums.clone()
    }

    pub(super) async fn send(&self, piece: Piece) -> Result<(), RecoveryError> {
        let stopped = RecoveryError::Stopped("the archive's writer");
        self.writer.send(piece).await.map_err(|_| stopped)
    }

    pub(super) async fn finish(&mut self) -> Result<(), RecoveryError> {
        self.send(Piece::Finish).await
    }

    pub(super) fn tell(&self) {
        if let Some(tell) = &self.job.options.progress {
            tell(&self.progress);
        }
    }

    /// All records.
    pub(super) async fn records(&mut self) -> Result<(), RecoveryError> {
        let ucp = match (&self.job.cluster.identity, &self.job.options.identity) {
            (IdentitySource::Ucp { .. }, Some(records)) => Some(records),
            _ => None,
        };
        for kind in Kind::ALL.iter().copied() {
            let Some(path) = kind.archived() else { continue };
            let Some(place) = place(kind) else { continue };
            self.progress.phase = kind.name();
            self.sums.kinds.insert(path, 0);
            if let Place::Records(section, name) = place {
                self.send(Piece::Begin(section, name)).await?;
            }
            match ucp.map(|records| ucp_lines(records, kind)) {
                Some(Some(lines)) => {
                    self.count(path, lines.len());
                    self.send(Piece::Lines(lines)).await?;
                }
                _ => self.kind(kind, path, place).await?,
            }
            self.tell();
        }
        self.directory().await
    }

    fn count(&mut self, path: &'static str, records: usize) {
        *self.sums.kinds.entry(path).or_default() += records as u64;
        self.progress.records += records as u64;
    }

    async fn kind(
        &mut self,
        kind: Kind,
        path: &'static str,
        place: Place,
    ) -> Result<(), RecoveryError> {
        let mut cursor = Cursor::default();
        let mut file = zeroize::Zeroizing::new(Vec::new());
        while let Some(batch) = self.export.next(kind, &mut cursor).await? {
            match (batch, place) {
                (Batch::Manifests(manifests), _) => {
                    self.count(path, manifests.len());
                    self.send(Piece::Manifests(manifests)).await?;
                }
                (Batch::Lines(lines), Place::Records(..)) => {
                    self.note(kind, &lines)?;
                    self.count(path, lines.len());
                    self.send(Piece::Lines(lines)).await?;
                }
                (Batch::Lines(lines), Place::Certificates(_)) => {
                    self.note(kind, &lines)?;
                    self.count(path, lines.len());
                    for line in lines {
                        file.extend_from_slice(&line);
                        file.push(b'\n');
                    }
                }
            }
            self.tell();
            // Others that wait for this thread come first: a push must not feel a backup.
            tokio::task::yield_now().await;
        }
        if let Place::Certificates(name) = place {
            self.send(Piece::Certificates(format!("{name}.jsonl"), file)).await?;
        }
        Ok(())
    }

    /// Remembers what the report and the directory need to know of some kinds. They are few, or cheap to read.
    fn note(&mut self, kind: Kind, lines: &[Bytes]) -> Result<(), RecoveryError> {
        match kind {
            Kind::Blob => {
                for line in lines {
                    self.sums.blobs += 1;
                    self.sums.blob_bytes += parse::<BlobRecord>(line)?.size;
                }
            }
            Kind::Key => {
                for line in lines {
                    let key: KeyRecord = parse(line)?;
                    self.sums.private_keys += u64::from(!key.private_key.is_empty());
                }
            }
            Kind::Certificate => {
                for line in lines {
                    let certificate: CertificateRecord = parse(line)?;
                    self.sums.private_keys += u64::from(!certificate.private_key.is_empty());
                }
            }
            _ if self.job.options.directory.is_none() => {}
            Kind::Repository => {
                for line in lines {
                    self.accounts.insert(parse::<Repository>(line)?.namespace);
                }
            }
            Kind::AccessToken => {
                for line in lines {
                    self.accounts.insert(parse::<AccessToken>(line)?.account);
                }
            }
            Kind::RepositoryGrant => {
                for line in lines {
                    let grant: RepositoryGrant = parse(line)?;
                    self.accounts.insert(grant.organization.clone());
                    self.teams.insert((grant.organization, grant.team));
                }
            }
            Kind::NamespaceGrant => {
                for line in lines {
                    let grant: NamespaceGrant = parse(line)?;
                    self.accounts.insert(grant.namespace.clone());
                    self.teams.insert((grant.namespace, grant.team));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The names of owners that live elsewhere, as far as the identity service knows them right now. One that is away is
    /// no reason to have no backup: names help only where the accounts have other ids.
    async fn directory(&mut self) -> Result<(), RecoveryError> {
        let Some(identity) = &self.job.options.directory else { return Ok(()) };
        if matches!(self.job.cluster.identity, IdentitySource::BuiltIn) {
            return Ok(());
        }
        let mut found = Vec::new();
        if let Err(error) = names(&**identity, &self.accounts, &self.teams, &mut found).await {
            self.sums.nameless = Some(error.to_string());
        }
        found.sort();
        let lines = found
            .iter()
            .map(|line| serde_json::to_vec(line).map(Bytes::from))
            .collect::<Result<Vec<_>, _>>()?;
        self.send(Piece::Begin(Section::Identity, "directory")).await?;
        self.count(DIRECTORY, lines.len());
        self.send(Piece::Lines(lines)).await
    }
}

async fn names(
    identity: &dyn Identity,
    accounts: &BTreeSet<AccountId>,
    teams: &BTreeSet<(AccountId, TeamId)>,
    found: &mut Vec<DirectoryLine>,
) -> Result<(), IdentityError> {
    for id in accounts {
        if let Some(account) = identity.account_by_id(id).await? {
            found.push(DirectoryLine::Account {
                id: id.clone(),
                name: account.name.to_string(),
                is_org: account.is_org,
            });
        }
    }
    for (organization, id) in teams {
        if let Some(team) = identity.team_by_id(organization, id).await? {
            found.push(DirectoryLine::Team {
                id: id.clone(),
                organization: organization.clone(),
                name: team.name.to_string(),
            });
        }
    }
    Ok(())
}

/// The lines of a kind that come from a UCP and not from the store.
fn ucp_lines(records: &AccountRecords, kind: Kind) -> Option<Vec<Bytes>> {
    fn lines<T: Record>(records: &[T]) -> Vec<Bytes> {
        let mut keyed: Vec<(Bytes, Bytes)> = records
            .iter()
            .filter_map(|record| {
                let stored = dtr_catalog::encode(record).ok()?;
                let key = record.key();
                let json = json(T::KIND, &key, &stored).ok()?;
                Some((key, json))
            })
            .collect();
        keyed.sort();
        keyed.dedup_by(|a, b| a.0 == b.0);
        keyed.into_iter().map(|(_, json)| json).collect()
    }
    match kind {
        Kind::Account => Some(lines(&records.accounts)),
        Kind::Credential => Some(lines(&records.credentials)),
        Kind::Membership => Some(lines(&records.memberships)),
        Kind::Team => Some(lines(&records.teams)),
        Kind::TeamMembership => Some(lines(&records.team_members)),
        _ => None,
    }
}
