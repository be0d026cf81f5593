//! Who owns what here: accounts and teams of the archive are found again by what the user says, by id, or by name.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
};

use dtr_types::{AccountId, AccountName, TeamId, TeamName};
use serde::{Deserialize, Serialize};

use super::{Accounts, Job, handover::Handover};
use crate::{
    RecoveryError, Refusal, bounded,
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
    /// The line that says who an owner is here: its first word and its second. `there` are the ways to write the owner.
    fn line(&self, there: [Option<String>; 2]) -> Option<(&str, &str)> {
        let lines = there.into_iter().flatten();
        let mut found = lines.filter_map(|there| self.0.get_key_value(&there));
        found.next().map(|(there, here)| (there.as_str(), here.as_str()))
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
    /// Named in the owner map, and owning nothing in the archive: a typing error, perhaps.
    #[serde(default)]
    pub not_in_archive: Vec<String>,
    /// Whether nobody could be asked.
    pub unchecked: bool,
}

/// An account as it is here.
#[derive(Clone, Debug)]
pub(super) struct Here {
    pub(super) id: AccountId,
    pub(super) name: String,
    pub(super) is_org: bool,
}

impl Here {
    fn of(account: dtr_catalog::records::Account) -> Self {
        Self { id: account.id, name: account.name.to_string(), is_org: account.is_org }
    }
}

/// A team of the archive: its organization and its id there.
type TeamThere = (AccountId, TeamId);

/// Who everybody is here.
#[derive(Debug, Default)]
pub(super) struct Resolved {
    accounts: HashMap<AccountId, Here>,
    teams: HashMap<TeamThere, TeamThere>,
    /// Names that accounts had in the archive, and what they are here.
    names: HashMap<String, String>,
    /// The lines of the owner map that were of use.
    used: BTreeSet<String>,
    report: OwnerReport,
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
            Self::Archive(references) => references.account(id).map(|known| Here {
                id: id.clone(),
                name: known.name.to_string(),
                is_org: known.is_org,
            }),
            Self::Service(service) => service.account_by_id(id).await?.map(Here::of),
        })
    }

    async fn by_name(&self, name: &str) -> Result<Option<Here>, RecoveryError> {
        match self {
            Self::Archive(references) => match references.account_named(name).cloned() {
                Some(id) => self.by_id(&id).await,
                None => Ok(None),
            },
            Self::Service(service) => {
                let Ok(name) = name.parse::<AccountName>() else { return Ok(None) };
                Ok(service.account(&name).await?.map(Here::of))
            }
        }
    }

    /// By its name, or by its id.
    async fn called(&self, text: &str) -> Result<Option<Here>, RecoveryError> {
        match (self.by_name(text).await?, text.parse::<AccountId>()) {
            (None, Ok(id)) => self.by_id(&id).await,
            (found, _) => Ok(found),
        }
    }

    async fn team_by_id(&self, org: &AccountId, id: &TeamId) -> Result<bool, RecoveryError> {
        Ok(match self {
            Self::Archive(references) => references.team(id).is_some_and(|(of, _)| of == org),
            Self::Service(service) => service.team_by_id(org, id).await?.is_some(),
        })
    }

    async fn team_by_name(
        &self,
        org: &AccountId,
        name: &str,
    ) -> Result<Option<TeamId>, RecoveryError> {
        Ok(match self {
            Self::Archive(references) => references.team_named(org, name).cloned(),
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
/// [`Refusal::UnknownOwners`], unless they are accepted; [`Refusal::Names`] when the repositories of two owners would
/// come to have the same name.
pub(super) async fn resolve(
    job: &Job<'_>,
    references: &mut References,
) -> Result<(OwnerReport, Handover), RecoveryError> {
    let owners = references.take_owners();
    let references = &*references;
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
                return Ok((report, Handover::default()));
            }
            return refuse_all(job, &owners, references);
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
    resolved.judge(job, references)
}

fn refuse_all(
    job: &Job<'_>,
    owners: &Owners,
    references: &References,
) -> Result<(OwnerReport, Handover), RecoveryError> {
    let mut resolved = Resolved::default();
    for (id, owner) in &owners.accounts {
        resolved.report.unknown.push(account_text(id, owner));
    }
    resolved.judge(job, references)
}

fn account_text(id: &AccountId, owner: &crate::verify::Owner) -> String {
    let name = owner.name.as_deref().unwrap_or("?");
    let tokens =
        if owner.tokens > 0 { format!(", {} tokens", owner.tokens) } else { String::new() };
    format!("{name} ({id}: {} repositories{tokens})", owner.repositories)
}

impl Resolved {
    fn judge(
        mut self,
        job: &Job<'_>,
        references: &References,
    ) -> Result<(OwnerReport, Handover), RecoveryError> {
        let lines = job.options.owner_map.0.keys();
        let unused = lines.filter(|there| !self.used.contains(*there)).cloned();
        self.report.not_in_archive = unused.collect();
        let owners = &self.report.unknown;
        if !owners.is_empty() && !job.options.accept_unknown_owners {
            let (count, owners) = (owners.len(), owners.clone());
            return Err(Refusal::UnknownOwners { count, owners }.into());
        }
        let handover = Handover::new(self.accounts, self.teams, self.names);
        handover.check_names(references)?;
        Ok((self.report, handover))
    }

    async fn accounts(
        &mut self,
        job: &Job<'_>,
        owners: &Owners,
        known: &Known<'_>,
    ) -> Result<(), RecoveryError> {
        for (id, owner) in &owners.accounts {
            let name = owner.name.as_deref();
            let ways = [Some(id.to_string()), name.map(str::to_owned)];
            let here = if let Some((line, wanted)) = job.options.owner_map.line(ways) {
                self.used.insert(line.to_owned());
                let Some(here) = known.called(wanted).await? else {
                    self.report.unknown.push(format!("{wanted} (named in the owner map)"));
                    continue;
                };
                let there = name.unwrap_or(id.as_str());
                self.report.mapped.push(format!("{there} -> {}", here.name));
                here
            } else if known.by_id(id).await?.is_some() {
                self.report.by_id += 1;
                continue;
            } else if let Some(here) = match name {
                Some(name) => known.by_name(name).await?,
                None => None,
            } {
                self.report.by_name.push(here.name.clone());
                here
            } else {
                self.report.unknown.push(account_text(id, owner));
                continue;
            };
            if let Some(name) = name.filter(|name| **name != *here.name) {
                self.names.insert(name.to_owned(), here.name.clone());
            }
            self.accounts.insert(id.clone(), here);
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
            let org = self.accounts.get(there_org).map_or(there_org, |here| &here.id).clone();
            let text = format!("{}/{}", org_name.unwrap_or("?"), name.unwrap_or(id.as_str()));
            let by_name = org_name.zip(name).map(|(org, name)| format!("{org}/{name}"));
            let ways = [Some(id.to_string()), by_name];
            let here = if let Some((line, wanted)) = job.options.owner_map.line(ways) {
                self.used.insert(line.to_owned());
                let (org_here, team_here) = wanted.split_once('/').unwrap_or(("", wanted));
                let found = match known.called(org_here).await? {
                    Some(org) => {
                        let team = known.team_by_name(&org.id, team_here).await?;
                        team.map(|team| (org.id, team))
                    }
                    None => None,
                };
                let Some(here) = found else {
                    self.report.unknown.push(format!("{wanted} (named in the owner map)"));
                    continue;
                };
                self.report.mapped.push(format!("{text} -> {wanted}"));
                here
            } else if known.team_by_id(&org, id).await? {
                self.report.by_id += 1;
                (org, id.clone())
            } else if let Some(here) = match name {
                Some(name) => known.team_by_name(&org, name).await?,
                None => None,
            } {
                self.report.by_name.push(text);
                (org, here)
            } else {
                self.report.unknown.push(format!("team {text} ({} grants)", owner.grants));
                continue;
            };
            self.teams.insert((there_org.clone(), id.clone()), here);
        }
        Ok(())
    }
}

impl fmt::Display for OwnerReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.unchecked {
            return writeln!(f, "  owners: not checked, the identity service was not asked");
        }
        writeln!(f, "  owners: {} known by id", self.by_id)?;
        for (what, names) in [
            ("found by name", &self.by_name),
            ("mapped", &self.mapped),
            ("UNKNOWN", &self.unknown),
            ("in the owner map, owning nothing in the archive", &self.not_in_archive),
        ] {
            let listed = names.iter().map(|name| format!("    {what}: {name}"));
            bounded::lines(f, listed, &format!("    {what}"))?;
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
}
