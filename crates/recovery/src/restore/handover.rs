//! What belongs to accounts and teams that have another id or name here, handed over to them: repositories with their
//! names, grants, access tokens with the repositories that they are limited to.
//!
//! The new names may be others' old ones (two that change places, a chain), and many may become one. Of two repositories
//! none may be lost, so two that would have the same name are refused; two grants of what is one team here are one, with
//! the higher level, since a person in both had that.

use std::collections::{BTreeMap, HashMap};

use dtr_catalog::{
    Catalog,
    records::{AccessToken, NamespaceGrant, Repository, RepositoryGrant},
};
use dtr_types::{AccountId, RepositoryName, TeamId};

use super::owners::Here;
use crate::{RecoveryError, Refusal, verify::References};

/// Who has what from here on.
#[derive(Debug, Default)]
pub(super) struct Handover {
    accounts: HashMap<AccountId, Here>,
    teams: HashMap<(AccountId, TeamId), (AccountId, TeamId)>,
    names: HashMap<String, String>,
}

impl Handover {
    /// `accounts`: by their id in the archive, who they are here. `teams` likewise, by organization and id. `names`: those
    /// of accounts that are called otherwise here.
    pub(super) fn new(
        accounts: HashMap<AccountId, Here>,
        teams: HashMap<(AccountId, TeamId), (AccountId, TeamId)>,
        names: HashMap<String, String>,
    ) -> Self {
        Self { accounts, teams, names }
    }

    /// Refuses what would leave two repositories with one name, or one without a name that it can have.
    pub(super) fn check_names(&self, references: &References) -> Result<(), RecoveryError> {
        let mut by_name: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        let mut wrong = Vec::new();
        for (name, owner) in references.repositories() {
            let here = self.accounts.get(owner);
            let new = here.map_or_else(|| name.to_owned(), |here| moved(name, &here.name));
            if new.parse::<RepositoryName>().is_err() {
                wrong.push(format!("{name} would be {new}, which is no name of a repository"));
            }
            by_name.entry(new).or_default().push(name);
        }
        for (new, mut old) in by_name {
            if old.len() > 1 {
                old.sort_unstable();
                wrong.push(format!("{} would all be {new}", old.join(" and ")));
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(Refusal::Names { names: wrong }.into()) }
    }

    fn repository(&self, old: &Repository) -> Option<Repository> {
        let here = self.accounts.get(&old.namespace)?;
        // It was looked at before; a name that cannot be stays what it is.
        let name = moved(old.name.as_str(), &here.name).parse();
        Some(Repository {
            namespace: here.id.clone(),
            namespace_is_org: here.is_org,
            name: name.unwrap_or_else(|_| old.name.clone()),
            ..old.clone()
        })
    }

    fn token(&self, old: &AccessToken) -> Option<AccessToken> {
        let account = self.accounts.get(&old.account).map(|here| here.id.clone());
        // What it is limited to goes along, or it would open what is somebody else's now.
        let repositories = old.repositories.as_ref().map(|limits| {
            limits.iter().map(|limit| {
                let namespace = limit.split('/').next().unwrap_or_default();
                self.names.get(namespace).map_or_else(|| limit.clone(), |new| moved(limit, new))
            })
        });
        let new = AccessToken {
            account: account.unwrap_or_else(|| old.account.clone()),
            repositories: repositories.map(Iterator::collect),
            ..old.clone()
        };
        (new != *old).then_some(new)
    }

    /// Hands everything over.
    ///
    /// # Errors
    /// When the store fails.
    pub(super) async fn apply(&self, catalog: &Catalog) -> Result<(), RecoveryError> {
        if self.accounts.is_empty() && self.teams.is_empty() {
            return Ok(());
        }
        catalog.rewrite::<Repository>(|old| self.repository(old), |one, _| one).await?;
        catalog
            .rewrite::<RepositoryGrant>(
                |old| {
                    let there = (old.organization.clone(), old.team.clone());
                    let (organization, team) = self.teams.get(&there)?.clone();
                    let new = RepositoryGrant { organization, team, ..old.clone() };
                    (new != *old).then_some(new)
                },
                |one, other| RepositoryGrant { level: one.level.max(other.level), ..one },
            )
            .await?;
        catalog
            .rewrite::<NamespaceGrant>(
                |old| {
                    let there = (old.namespace.clone(), old.team.clone());
                    let team = self.teams.get(&there).map(|(_, team)| team.clone());
                    let namespace = self.accounts.get(&old.namespace).map(|here| here.id.clone());
                    let new = NamespaceGrant {
                        namespace: namespace.unwrap_or_else(|| old.namespace.clone()),
                        team: team.unwrap_or_else(|| old.team.clone()),
                        ..old.clone()
                    };
                    (new != *old).then_some(new)
                },
                |one, other| NamespaceGrant { level: one.level.max(other.level), ..one },
            )
            .await?;
        catalog.rewrite::<AccessToken>(|old| self.token(old), |one, _| one).await?;
        Ok(())
    }
}

/// A repository's name, or a limit to repositories, in another namespace.
fn moved(name: &str, namespace: &str) -> String {
    match name.split_once('/') {
        Some((_, rest)) => format!("{namespace}/{rest}"),
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_moves_with_its_owner() {
        assert_eq!(moved("alice/app/web", "bob"), "bob/app/web");
        assert_eq!(moved("alice/*", "bob"), "bob/*");
        assert_eq!(moved("alice/app", "alice"), "alice/app");
    }
}
