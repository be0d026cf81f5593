//! Whether records fit together, told from compact sets while they stream past. What is referred to comes first in an
//! archive, so each record is judged when it comes.
//!
//! Memory: some 200 bytes for a repository, an account or a team, 16 for a manifest or a blob, 150 for an owner; nothing
//! for tags, events and grants. A million manifests take 16 MiB.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::{BuildHasher as _, RandomState},
};

use dtr_catalog::records::{Account, Repository, TagRecord, Team};
use dtr_types::{AccountId, Digest, RepositoryId, TeamId};
use serde::{Deserialize, Serialize};

use crate::lines::{DirectoryLine, Line, ManifestLine};

/// Findings that are written out; all are counted.
const LISTED_MAX: usize = 10_000;

/// Things that do not fit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    /// How many there are.
    pub count: u64,
    /// The first of them.
    pub listed: Vec<String>,
}

impl Findings {
    pub(crate) fn add(&mut self, finding: impl FnOnce() -> String) {
        self.count += 1;
        if self.listed.len() < LISTED_MAX {
            self.listed.push(finding());
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// An account that owns something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Owner {
    /// Its name, as far as the archive tells.
    pub(crate) name: Option<String>,
    /// Repositories in its namespace.
    pub(crate) repositories: u64,
    /// Access tokens.
    pub(crate) tokens: u64,
}

/// A team that has rights.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TeamOwner {
    /// Its name, as far as the archive tells.
    pub(crate) name: Option<String>,
    /// Its grants.
    pub(crate) grants: u64,
}

/// Everything that owns something, which must be somebody after a restore.
#[derive(Clone, Debug, Default)]
pub(crate) struct Owners {
    pub(crate) accounts: BTreeMap<AccountId, Owner>,
    pub(crate) teams: BTreeMap<(AccountId, TeamId), TeamOwner>,
}

/// An account of the archive.
#[derive(Clone, Debug)]
pub(crate) struct ArchivedAccount {
    pub(crate) name: Box<str>,
    pub(crate) is_org: bool,
}

/// A repository of the archive.
struct ArchivedRepository {
    name: Box<str>,
    owner: AccountId,
}

/// Judges records as they come.
pub(crate) struct References {
    hasher: RandomState,
    repositories: HashMap<RepositoryId, ArchivedRepository>,
    /// Hashes of their names.
    repository_names: HashSet<u64>,
    manifests: HashSet<u64>,
    blobs: HashSet<u64>,
    accounts: HashMap<AccountId, ArchivedAccount>,
    account_names: HashMap<Box<str>, AccountId>,
    /// Teams of the archive: their organizations and names.
    teams: HashMap<TeamId, (AccountId, Box<str>)>,
    team_names: HashMap<AccountId, HashMap<Box<str>, TeamId>>,
    /// Blobs that the storage lacks, and who refers to them.
    missing: HashSet<Digest>,
    missing_by: BTreeMap<Box<str>, Vec<Digest>>,
    /// Blobs whose content has not come yet, from when the first came.
    awaited: Option<HashSet<u64>>,
    owners: Owners,
    /// What must not be in any archive that this product wrote.
    pub(crate) broken: Findings,
    /// Blobs that manifests need and that were not there when the backup was taken: content lost before.
    pub(crate) lacking: Findings,
    /// What may be, and somebody should know.
    pub(crate) dangling: Findings,
    /// Whether the archive has all accounts.
    has_identity: bool,
    pub(crate) blob_count: u64,
    pub(crate) blob_bytes: u64,
}

fn short(digest: &Digest) -> u64 {
    digest.as_bytes().iter().take(8).fold(0, |n, b| (n << 8) | u64::from(*b))
}

impl References {
    pub(crate) fn new(has_identity: bool) -> Self {
        Self {
            hasher: RandomState::new(),
            repositories: HashMap::new(),
            repository_names: HashSet::new(),
            manifests: HashSet::new(),
            blobs: HashSet::new(),
            accounts: HashMap::new(),
            account_names: HashMap::new(),
            teams: HashMap::new(),
            team_names: HashMap::new(),
            missing: HashSet::new(),
            missing_by: BTreeMap::new(),
            awaited: None,
            owners: Owners::default(),
            broken: Findings::default(),
            lacking: Findings::default(),
            dangling: Findings::default(),
            has_identity,
            blob_count: 0,
            blob_bytes: 0,
        }
    }

    /// Notes that the storage lacks a blob whose record has come.
    pub(crate) fn miss(&mut self, digest: Digest) {
        self.missing.insert(digest);
    }

    /// Takes that back: its content was found elsewhere.
    pub(crate) fn found(&mut self, digest: &Digest) {
        self.missing.remove(digest);
    }

    /// What is missing, by the full names of the repositories that need it.
    pub(crate) fn missing_by_repository(&self) -> BTreeMap<String, Vec<String>> {
        let mut by = BTreeMap::new();
        for (name, digests) in &self.missing_by {
            let digests = digests.iter().filter(|digest| self.missing.contains(*digest));
            let digests: Vec<_> = digests.map(Digest::to_string).collect();
            if !digests.is_empty() {
                by.insert(name.to_string(), digests);
            }
        }
        by
    }

    /// Whether a record of the blob came.
    pub(crate) fn knows_blob(&self, digest: &Digest) -> bool {
        self.blobs.contains(&short(digest))
    }

    /// A blob's content has come. All records came before.
    pub(crate) fn image(&mut self, digest: &Digest) {
        self.awaited.get_or_insert_with(|| self.blobs.clone()).remove(&short(digest));
    }

    /// Blobs whose content has not come although it was promised, by the first digits of their digests.
    pub(crate) fn images_missing(&self) -> Vec<String> {
        let missing = self.awaited.as_ref().unwrap_or(&self.blobs);
        let mut missing: Vec<String> =
            missing.iter().map(|short| format!("{short:016x}...")).collect();
        missing.sort();
        missing
    }

    /// A repository's full name.
    pub(crate) fn repository_name(&self, id: &RepositoryId) -> Option<&str> {
        self.repositories.get(id).map(|found| &*found.name)
    }

    /// Whether a repository is called so.
    pub(crate) fn has_repository(&self, name: &str) -> bool {
        // The hash only says where to look.
        self.repository_names.contains(&self.hasher.hash_one(name))
            && self.repositories.values().any(|found| *found.name == *name)
    }

    /// All repositories: full name and owner.
    pub(crate) fn repositories(&self) -> impl Iterator<Item = (&str, &AccountId)> {
        self.repositories.values().map(|found| (&*found.name, &found.owner))
    }

    /// An account of the archive.
    pub(crate) fn account(&self, id: &AccountId) -> Option<&ArchivedAccount> {
        self.accounts.get(id)
    }

    /// The account of the archive that is called so.
    pub(crate) fn account_named(&self, name: &str) -> Option<&AccountId> {
        self.account_names.get(name)
    }

    /// A team of the archive: its organization and its name.
    pub(crate) fn team(&self, id: &TeamId) -> Option<&(AccountId, Box<str>)> {
        self.teams.get(id)
    }

    /// The team of an organization of the archive that is called so.
    pub(crate) fn team_named(&self, organization: &AccountId, name: &str) -> Option<&TeamId> {
        self.team_names.get(organization)?.get(name)
    }

    /// Everybody who owns something, with their names as far as the archive tells them.
    pub(crate) fn take_owners(&mut self) -> Owners {
        let mut owners = std::mem::take(&mut self.owners);
        for (id, owner) in &mut owners.accounts {
            if let Some(account) = self.accounts.get(id) {
                owner.name = Some(account.name.to_string());
            }
        }
        for ((_, id), owner) in &mut owners.teams {
            if let Some((_, name)) = self.teams.get(id) {
                owner.name = Some(name.to_string());
            }
        }
        owners
    }

    fn manifest_key(&self, repository: &RepositoryId, digest: &Digest) -> u64 {
        self.hasher.hash_one((repository, digest))
    }

    /// Judges a record.
    pub(crate) fn record(&mut self, line: &Line) {
        match line {
            Line::Account(account) => self.new_account(account),
            Line::Team(team) => self.new_team(team),
            Line::Credential(credential) => {
                self.owned(&credential.account, || "a password".to_owned());
            }
            Line::Membership(membership) => {
                let what = || "a membership".to_owned();
                self.owned(&membership.organization, what);
                self.owned(&membership.member, what);
            }
            Line::TeamMembership(membership) => {
                let what = || "a team membership".to_owned();
                self.of_team(&membership.team, what);
                self.owned(&membership.member, what);
            }
            Line::Repository(repository) => self.new_repository(repository),
            Line::Counters(counters) => self.of_repository(&counters.repository, "counters"),
            Line::Blob(blob) => {
                self.blob_count += 1;
                self.blob_bytes += blob.size;
                self.blobs.insert(short(&blob.digest));
            }
            Line::Manifest(manifest) => self.manifest(manifest),
            Line::Tag(tag) => self.tag(tag),
            Line::RepositoryGrant(grant) => {
                self.of_repository(&grant.repository, "a grant");
                self.of_team(&grant.team, || format!("a grant on repository {}", grant.repository));
                let key = (grant.organization.clone(), grant.team.clone());
                self.owners.teams.entry(key).or_default().grants += 1;
                self.owners.accounts.entry(grant.organization.clone()).or_default();
            }
            Line::NamespaceGrant(grant) => {
                let what = || format!("a grant on namespace {}", grant.namespace);
                self.of_team(&grant.team, what);
                self.owned(&grant.namespace, what);
                let key = (grant.namespace.clone(), grant.team.clone());
                self.owners.teams.entry(key).or_default().grants += 1;
                self.owners.accounts.entry(grant.namespace.clone()).or_default();
            }
            Line::AccessToken(token) => {
                self.owned(&token.account, || format!("access token \"{}\"", token.label));
                self.owners.accounts.entry(token.account.clone()).or_default().tokens += 1;
            }
            Line::Cluster(_)
            | Line::Settings(_)
            | Line::Backup(_)
            | Line::Key(_)
            | Line::Certificate(_)
            | Line::Service(_)
            | Line::Event(_) => {}
        }
    }

    fn new_account(&mut self, account: &Account) {
        let name: Box<str> = account.name.as_str().into();
        if let Some(other) = self.account_names.insert(name.clone(), account.id.clone()) {
            let id = &account.id;
            self.broken.add(|| format!("two accounts are named {name}: {other} and {id}"));
        }
        let known = ArchivedAccount { name, is_org: account.is_org };
        self.accounts.insert(account.id.clone(), known);
    }

    fn new_team(&mut self, team: &Team) {
        let name: Box<str> = team.name.as_str().into();
        self.owned(&team.organization, || format!("team {name}"));
        let known = (team.organization.clone(), name.clone());
        if let Some((other, _)) = self.teams.insert(team.id.clone(), known) {
            let (id, of) = (&team.id, &team.organization);
            self.broken.add(|| format!("two teams have the id {id}, in {other} and in {of}"));
        }
        let names = self.team_names.entry(team.organization.clone()).or_default();
        if let Some(other) = names.insert(name.clone(), team.id.clone()) {
            let (id, of) = (&team.id, &team.organization);
            self.broken.add(|| format!("two teams of {of} are named {name}: {other} and {id}"));
        }
    }

    fn new_repository(&mut self, repository: &Repository) {
        let name = repository.name.to_string();
        self.owned(&repository.namespace, || format!("repository {name}"));
        let owner = self.owners.accounts.entry(repository.namespace.clone()).or_default();
        owner.repositories += 1;
        if owner.name.is_none() {
            owner.name = name.split('/').next().map(str::to_owned);
        }
        if !self.repository_names.insert(self.hasher.hash_one(name.as_str())) {
            let other = self.repositories.iter().find(|(_, other)| *other.name == *name);
            if let Some((other, _)) = other {
                let id = &repository.id;
                self.broken.add(|| format!("two repositories are named {name}: {other} and {id}"));
            }
        }
        let owner = repository.namespace.clone();
        let known = ArchivedRepository { name: name.into_boxed_str(), owner };
        self.repositories.insert(repository.id.clone(), known);
    }

    /// Takes the name of an owner that is not in the archive itself.
    pub(crate) fn directory(&mut self, line: DirectoryLine) {
        match line {
            DirectoryLine::Account { id, name, .. } => {
                if let Some(owner) = self.owners.accounts.get_mut(&id) {
                    owner.name = Some(name);
                }
            }
            DirectoryLine::Team { id, organization, name } => {
                if let Some(owner) = self.owners.teams.get_mut(&(organization, id)) {
                    owner.name = Some(name);
                }
            }
        }
    }

    fn owned(&mut self, id: &AccountId, what: impl Fn() -> String) {
        if self.has_identity && !self.accounts.contains_key(id) {
            self.dangling.add(|| format!("{} belongs to account {id}, which is not there", what()));
        }
    }

    fn of_team(&mut self, id: &TeamId, what: impl Fn() -> String) {
        if self.has_identity && !self.teams.contains_key(id) {
            self.dangling.add(|| format!("{} is of team {id}, which is not there", what()));
        }
    }

    fn of_repository(&mut self, id: &RepositoryId, what: &str) {
        if !self.repositories.contains_key(id) {
            self.broken.add(|| format!("{what} of repository {id}, which is not in the archive"));
        }
    }

    fn manifest(&mut self, line: &ManifestLine) {
        let (id, digest) = (&line.record.repository, &line.record.digest);
        let Some(ArchivedRepository { name, .. }) = self.repositories.get(id) else {
            self.of_repository(id, "a manifest");
            return;
        };
        self.manifests.insert(self.manifest_key(id, digest));
        for blob in line.needed() {
            if !self.blobs.contains(&short(&blob)) {
                self.lacking.add(|| format!("{name}@{digest} needs blob {blob}"));
            }
        }
        if !self.missing.is_empty() {
            for blob in line.blobs().into_iter().filter(|blob| self.missing.contains(blob)) {
                let list = self.missing_by.entry(name.clone()).or_default();
                if !list.contains(&blob) {
                    list.push(blob);
                }
            }
        }
    }

    fn tag(&mut self, tag: &TagRecord) {
        let key = self.manifest_key(&tag.repository, &tag.digest);
        if !self.manifests.contains(&key) {
            let name = self.repositories.get(&tag.repository).map_or("?", |known| &known.name);
            self.broken.add(|| {
                format!("tag {name}:{} names manifest {}, which is not there", tag.name, tag.digest)
            });
        }
    }
}
