//! Who owns what here: accounts and teams of the archive are found again by what the user says, by id, or by name.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
};

use dtr_catalog::{
    Catalog,
    records::{AccessToken, NamespaceGrant, Repository, RepositoryGrant},
};
use dtr_types::{AccountId, AccountName, RepositoryName, TeamId, TeamName};
use serde::{Deserialize, Serialize};

use super::{Accounts, Job};
use crate::{
    RecoveryError, Refusal,
    verify::{Owners, References},
};

/// Accounts and teams that are others here than in the archive: lines `there here` (a `=` between them is accepted). An
/// account by its name or id, a team as `organization/team`; empty lines and those that begin with `#` say nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnerMap(BTreeMap<String, String>);

/// A line of an owner map that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}; a line of the owner map is written: name-in-the-archive name-here")]
pub struct OwnerMapError {
    line: usize,
    why: &'static str,
}

impl std::str::FromStr for OwnerMap {
    type Err = OwnerMapError;

    fn from_str(text: &str) -> Result<Self, OwnerMapError> {
        let mut map = BTreeMap::new();
        for (line, content) in (1..).zip(text.lines()) {
            let content = content.trim();
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            let wrong = |why| OwnerMapError { line, why };
            let mut names = content.split(['=', ' ', '\t']).filter(|name| !name.is_empty());
            let (Some(there), Some(here), None) = (names.next(), names.next(), names.next()) else {
                return Err(wrong("there are not two names"));
            };
            if there.contains('/') != here.contains('/') {
                return Err(wrong("a team can only be mapped to a team"));
            }
            if map.insert(there.to_owned(), here.to_owned()).is_some() {
                return Err(wrong("this one is mapped already"));
            }
        }
        Ok(Self(map))
    }
}

impl OwnerMap {
    fn account(&self, id: &AccountId, name: Option<&str>) -> Option<&String> {
        self.0.get(id.as_str()).or_else(|| self.0.get(name?))
    }

    fn team(&self, id: &TeamId, organization: Option<&str>, name: Option<&str>) -> Option<&String> {
        let by_name = || self.0.get(&format!("{}/{}", organization?, name?));
        self.0.get(id.as_str()).or_else(by_name)
    }
}

/// How owners were found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OwnerReport {
    /// Known here by the same id.
    pub by_id: u64,
    /// Known here by the same name: what they own was handed to the account of that name.
    pub by_name: Vec<String>,
    /// As the owner map says.
    pub mapped: Vec<String>,
    /// Known to nobody; what they own is reachable by administrators only.
    pub unknown: Vec<String>,
    /// Whether nobody could be asked.
    pub unchecked: bool,
}

/// An account as it is here.
#[derive(Clone, Debug)]
struct Here {
    id: AccountId,
    name: String,
}

/// What is to be changed in the store.
#[derive(Debug, Default)]
pub(super) struct Resolved {
    accounts: HashMap<AccountId, Here>,
    teams: HashMap<TeamId, TeamId>,
    pub(super) report: OwnerReport,
}

/// Who can be asked.
enum Known<'a> {
    /// The accounts that were just loaded from the archive.
    Archive(&'a References),
    /// A UCP.
    Service(&'a dyn dtr_identity::Identity),
}

impl Known<'_> {
    async fn by_id(&self, id: &AccountId) -> Result<Option<Here>, RecoveryError> {
        Ok(match self {
            Self::Archive(references) => references
                .accounts()
                .get(id)
                .map(|name| Here { id: id.clone(), name: name.to_string() }),
            Self::Service(service) => service
                .account_by_id(id)
                .await?
                .map(|account| Here { id: account.id, name: account.name.to_string() }),
        })
    }

    async fn by_name(&self, name: &str) -> Result<Option<Here>, RecoveryError> {
        Ok(match self {
            Self::Archive(references) => references
                .accounts()
                .iter()
                .find(|(_, known)| ***known == *name)
                .map(|(id, name)| Here { id: id.clone(), name: name.to_string() }),
            Self::Service(service) => {
                let Ok(name) = name.parse::<AccountName>() else { return Ok(None) };
                service
                    .account(&name)
                    .await?
                    .map(|account| Here { id: account.id, name: account.name.to_string() })
            }
        })
    }

    async fn team_by_id(&self, org: &AccountId, id: &TeamId) -> Result<bool, RecoveryError> {
        Ok(match self {
            Self::Archive(references) => references.teams().contains_key(id),
            Self::Service(service) => service.team_by_id(org, id).await?.is_some(),
        })
    }

    async fn team_by_name(
        &self,
        org: &AccountId,
        name: &str,
    ) -> Result<Option<TeamId>, RecoveryError> {
        Ok(match self {
            Self::Archive(references) => references
                .teams()
                .iter()
                .find(|(_, known)| ***known == *name)
                .map(|(id, _)| id.clone()),
            Self::Service(service) => {
                let Ok(name) = name.parse::<TeamName>() else { return Ok(None) };
                service.team(org, &name).await?.map(|team| team.id)
            }
        })
    }
}

/// Finds everybody who owns something.
///
/// # Errors
/// [`Refusal::UnknownOwners`], unless they are accepted.
pub(super) async fn resolve(
    job: &Job<'_>,
    references: &mut References,
) -> Result<Resolved, RecoveryError> {
    let owners = references.take_owners();
    let known = match (job.accounts, &job.target.identity) {
        (Accounts::Store, _) => Known::Archive(references),
        (_, Some(service)) => Known::Service(&**service),
        (_, None) => {
            let to_service = job.options.identity.as_ref().is_none_or(|identity| {
                matches!(identity, dtr_catalog::records::IdentitySource::Ucp { .. })
            });
            if to_service {
                // The UCP's address is in the archive, and nobody asked it: the registry will.
                let report = OwnerReport { unchecked: true, ..OwnerReport::default() };
                return Ok(Resolved { report, ..Resolved::default() });
            }
            return refuse_all(job, &owners);
        }
    };
    let mut resolved = Resolved::default();
    resolved.accounts(job, &owners, &known).await?;
    resolved.teams(job, &owners, &known).await?;
    // In a dry run the accounts are not loaded: those of the archive will be known.
    let will_load = job.accounts == Accounts::Service && job.options.dry_run;
    if will_load {
        let report = &mut resolved.report;
        report.by_id += std::mem::take(&mut report.unknown).len() as u64;
    }
    resolved.judge(job)
}

fn refuse_all(job: &Job<'_>, owners: &Owners) -> Result<Resolved, RecoveryError> {
    let mut resolved = Resolved::default();
    for (id, owner) in &owners.accounts {
        resolved.report.unknown.push(account_text(id, owner));
    }
    resolved.judge(job)
}

fn account_text(id: &AccountId, owner: &crate::verify::Owner) -> String {
    let name = owner.name.as_deref().unwrap_or("?");
    let tokens =
        if owner.tokens > 0 { format!(", {} tokens", owner.tokens) } else { String::new() };
    format!("{name} ({id}: {} repositories{tokens})", owner.repositories)
}

impl Resolved {
    fn judge(self, job: &Job<'_>) -> Result<Self, RecoveryError> {
        let owners = &self.report.unknown;
        if owners.is_empty() || job.options.accept_unknown_owners {
            return Ok(self);
        }
        Err(Refusal::UnknownOwners { count: owners.len(), owners: owners.clone() }.into())
    }

    async fn accounts(
        &mut self,
        job: &Job<'_>,
        owners: &Owners,
        known: &Known<'_>,
    ) -> Result<(), RecoveryError> {
        for (id, owner) in &owners.accounts {
            let name = owner.name.as_deref();
            if let Some(wanted) = job.options.owner_map.account(id, name) {
                match known.by_name(wanted).await? {
                    Some(here) => {
                        let there = name.unwrap_or(id.as_str());
                        self.report.mapped.push(format!("{there} -> {}", here.name));
                        self.accounts.insert(id.clone(), here);
                    }
                    None => self.report.unknown.push(format!("{wanted} (named in the owner map)")),
                }
            } else if known.by_id(id).await?.is_some() {
                self.report.by_id += 1;
            } else if let Some(here) = match name {
                Some(name) => known.by_name(name).await?,
                None => None,
            } {
                self.report.by_name.push(here.name.clone());
                self.accounts.insert(id.clone(), here);
            } else {
                self.report.unknown.push(account_text(id, owner));
            }
        }
        Ok(())
    }

    async fn teams(
        &mut self,
        job: &Job<'_>,
        owners: &Owners,
        known: &Known<'_>,
    ) -> Result<(), RecoveryError> {
        for ((there_org, id), owner) in &owners.teams {
            let org_name = owners.accounts.get(there_org).and_then(|org| org.name.as_deref());
            let name = owner.name.as_deref();
            let org = self.accounts.get(there_org).map_or(there_org, |here| &here.id);
            let text = format!("{}/{}", org_name.unwrap_or("?"), name.unwrap_or(id.as_str()));
            if let Some(wanted) = job.options.owner_map.team(id, org_name, name) {
                let (org_here, team_here) = wanted.split_once('/').unwrap_or(("", wanted));
                let found = match known.by_name(org_here).await? {
                    Some(org) => known.team_by_name(&org.id, team_here).await?,
                    None => None,
                };
                match found {
                    Some(here) => {
                        self.report.mapped.push(format!("{text} -> {wanted}"));
                        self.teams.insert(id.clone(), here);
                    }
                    None => self.report.unknown.push(format!("{wanted} (named in the owner map)")),
                }
            } else if known.team_by_id(org, id).await? {
                self.report.by_id += 1;
            } else if let Some(here) = match name {
                Some(name) => known.team_by_name(org, name).await?,
                None => None,
            } {
                self.report.by_name.push(text);
                self.teams.insert(id.clone(), here);
            } else {
                self.report.unknown.push(format!("team {text} ({} grants)", owner.grants));
            }
        }
        Ok(())
    }

    /// Hands over what belongs to accounts and teams that have another id (or name) here.
    ///
    /// # Errors
    /// [`Refusal::NotEmpty`] when two repositories would get the same name.
    pub(super) async fn apply(&self, catalog: &Catalog) -> Result<(), RecoveryError> {
        if self.accounts.is_empty() && self.teams.is_empty() {
            return Ok(());
        }
        let account = |id: &AccountId| self.accounts.get(id).map(|here| here.id.clone());
        let team = |id: &TeamId| self.teams.get(id).cloned();
        let mut names = HashSet::new();
        let mut twice = None;
        catalog
            .rewrite::<Repository>(|old| {
                let here = self.accounts.get(&old.namespace);
                let name = here.and_then(|here| renamed(&old.name, &here.name));
                let name = name.unwrap_or_else(|| old.name.clone());
                if !names.insert(name.clone()) {
                    twice = Some(name.clone());
                }
                let namespace = here?.id.clone();
                Some(Repository { namespace, name, ..old.clone() })
            })
            .await?;
        if let Some(name) = twice {
            let found = format!("two repositories that would both be named {name}");
            return Err(Refusal::NotEmpty { found }.into());
        }
        catalog
            .rewrite::<RepositoryGrant>(|old| {
                let (org, new) = (account(&old.organization), team(&old.team));
                (org.is_some() || new.is_some()).then(|| RepositoryGrant {
                    organization: org.unwrap_or_else(|| old.organization.clone()),
                    team: new.unwrap_or_else(|| old.team.clone()),
                    ..old.clone()
                })
            })
            .await?;
        catalog
            .rewrite::<NamespaceGrant>(|old| {
                let (org, new) = (account(&old.namespace), team(&old.team));
                (org.is_some() || new.is_some()).then(|| NamespaceGrant {
                    namespace: org.unwrap_or_else(|| old.namespace.clone()),
                    team: new.unwrap_or_else(|| old.team.clone()),
                    ..old.clone()
                })
            })
            .await?;
        catalog
            .rewrite::<AccessToken>(|old| {
                Some(AccessToken { account: account(&old.account)?, ..old.clone() })
            })
            .await?;
        Ok(())
    }
}

/// A repository's name in another namespace; `None` when it stays the same.
fn renamed(name: &RepositoryName, namespace: &str) -> Option<RepositoryName> {
    let (old, rest) = name.as_str().split_once('/')?;
    if old == namespace { None } else { format!("{namespace}/{rest}").parse().ok() }
}

impl fmt::Display for OwnerReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.unchecked {
            return writeln!(f, "  owners: not checked, the identity service was not asked");
        }
        writeln!(f, "  owners: {} known by id", self.by_id)?;
        for (what, names) in
            [("found by name", &self.by_name), ("mapped", &self.mapped), ("UNKNOWN", &self.unknown)]
        {
            for name in names {
                writeln!(f, "    {what}: {name}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "what fails here fails the test")]
mod tests {
    use super::*;

    #[test]
    fn reads_an_owner_map() {
        let map: OwnerMap = "# people\nalice bob\n\norg/web = corp/frontend\n".parse().unwrap();
        assert_eq!(map.0.len(), 2);
        for (bad, line) in [("alice", 1), ("\na=", 2), ("a=b\na=c", 2), ("a/b = c", 1)] {
            let error = bad.parse::<OwnerMap>().unwrap_err();
            assert_eq!(error.line, line, "{bad}");
        }
    }

    #[test]
    fn a_repository_moves_with_its_owner() {
        let name: RepositoryName = "alice/app/web".parse().unwrap();
        assert_eq!(renamed(&name, "bob").unwrap().as_str(), "bob/app/web");
        assert!(renamed(&name, "alice").is_none());
    }
}
