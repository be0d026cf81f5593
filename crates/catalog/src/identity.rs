//! Accounts, memberships, teams: the changes that touch several keys.

use bytes::Bytes;
use dtr_store::{At, Outcome, Transaction};
use dtr_types::{AccountId, AccountName, TeamId, TeamName};

use crate::{
    Catalog, CatalogError, Page, TransactionExt as _, Versioned,
    catalog::ATTEMPTS_MAX,
    keys,
    records::{Account, Credential, Event, Membership, NamespaceGrant, Team, TeamMembership},
};

fn exists(kind: &'static str, name: impl ToString) -> CatalogError {
    CatalogError::Exists { kind, name: name.to_string() }
}

fn missing(kind: &'static str, name: impl ToString) -> CatalogError {
    CatalogError::Missing { kind, name: name.to_string() }
}

fn with_event(
    transaction: Transaction,
    event: Option<&Event>,
) -> Result<Transaction, CatalogError> {
    match event {
        Some(event) => transaction.event(event),
        None => Ok(transaction),
    }
}

impl Catalog {
    /// An account by name.
    pub async fn lookup_account(
        &self,
        name: &AccountName,
    ) -> Result<Option<Versioned<Account>>, CatalogError> {
        let found = self.store().get(&keys::account_name(name), At::Latest).await?;
        let id = found.and_then(|kv| std::str::from_utf8(&kv.value).ok()?.parse().ok());
        match id {
            Some(id) => self.get(&keys::account(&id)).await,
            None => Ok(None),
        }
    }

    /// Accounts in order of their names, those after `after`.
    pub async fn list_accounts(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page<Account>, CatalogError> {
        let prefix = keys::ACCOUNT_NAMES.as_bytes();
        let names = self.names(prefix, after, limit, At::Latest).await?;
        let mut items = Vec::with_capacity(names.items.len());
        for name in names.items.iter().filter_map(|name| name.parse().ok()) {
            if let Some(found) = self.lookup_account(&name).await? {
                items.push(found.value);
            }
        }
        Ok(Page { revision: names.revision, items, more: names.more })
    }

    /// Makes an account, with a password if it is a user that has one.
    ///
    /// # Errors
    /// [`CatalogError::Exists`] when its name is taken.
    pub async fn create_account(
        &self,
        account: &Account,
        credential: Option<&Credential>,
        event: Option<&Event>,
    ) -> Result<(), CatalogError> {
        let name = keys::account_name(&account.name);
        let mut transaction = Transaction::new()
            .if_absent(name.clone())
            .put(name, account.id.to_string())
            .create_record(account)?;
        if let Some(credential) = credential {
            transaction = transaction.put_record(credential)?;
        }
        match self.commit(with_event(transaction, event)?).await? {
            Outcome::Committed(_) => Ok(()),
            Outcome::Conflict { .. } => Err(exists("account", &account.name)),
        }
    }

    /// Deletes an account with its memberships, teams, password and tokens. Its repositories are the caller's business:
    /// they are deleted or handed over before. `false` when it is not there.
    pub async fn delete_account(
        &self,
        id: &AccountId,
        event: Option<&Event>,
    ) -> Result<bool, CatalogError> {
        let Some(found) = self.get(&keys::account(id)).await? else { return Ok(false) };
        // Rights go first, the name last: an interruption leaves an account with fewer rights, never rights without
        // their account.
        for team in self.all::<Team>(&keys::teams(id)).await? {
            self.delete_team(id, &team.id, None).await?;
        }
        for member in self.all::<Membership>(&keys::memberships(id)).await? {
            self.delete_membership(id, &member.member, None).await?;
        }
        for org in self.all_names(&keys::member_orgs(id)).await? {
            if let Ok(org) = org.parse() {
                self.delete_membership(&org, id, None).await?;
            }
        }
        for token in self.account_tokens(id).await? {
            self.delete_access_token(&token.hash, None).await?;
        }
        self.delete_account_sessions(id).await?;
        self.delete_prefix(&keys::namespace_grants(id)).await?;
        let transaction = Transaction::new()
            .if_present(keys::account(id))
            .delete(keys::account(id))
            .delete(keys::account_name(&found.value.name))
            .delete(keys::credential(id));
        Ok(self.commit(with_event(transaction, event)?).await?.committed().is_some())
    }

    /// Makes a user a member of an organization, or changes whether it owns it.
    pub async fn put_membership(
        &self,
        membership: &Membership,
        event: Option<&Event>,
    ) -> Result<(), CatalogError> {
        let transaction = Transaction::new()
            .if_present(keys::account(&membership.organization))
            .if_present(keys::account(&membership.member))
            .put_record(membership)?
            .put(keys::member_org(&membership.member, &membership.organization), Bytes::new());
        match self.commit(with_event(transaction, event)?).await? {
            Outcome::Committed(_) => Ok(()),
            Outcome::Conflict { condition: 0, .. } => {
                Err(missing("organization", &membership.organization))
            }
            Outcome::Conflict { .. } => Err(missing("account", &membership.member)),
        }
    }

    /// Takes a user out of an organization and all its teams. No error when it is in none.
    pub async fn delete_membership(
        &self,
        org: &AccountId,
        member: &AccountId,
        event: Option<&Event>,
    ) -> Result<(), CatalogError> {
        for (team, of) in self.member_teams(member).await? {
            if of == *org {
                self.delete_team_membership(&team, member, None).await?;
            }
        }
        let transaction = Transaction::new()
            .delete(keys::membership(org, member))
            .delete(keys::member_org(member, org));
        self.commit(with_event(transaction, event)?).await.map(drop)
    }

    /// The memberships of a user.
    pub async fn member_orgs(&self, member: &AccountId) -> Result<Vec<Membership>, CatalogError> {
        let mut memberships = Vec::new();
        for org in self.all_names(&keys::member_orgs(member)).await? {
            let Ok(org) = org.parse::<AccountId>() else { continue };
            if let Some(found) = self.get(&keys::membership(&org, member)).await? {
                memberships.push(found.value);
            }
        }
        Ok(memberships)
    }

    /// The teams of a user, each with its organization.
    pub async fn member_teams(
        &self,
        member: &AccountId,
    ) -> Result<Vec<(TeamId, AccountId)>, CatalogError> {
        let prefix = keys::member_teams(member);
        let mut teams = Vec::new();
        let mut after: Option<Bytes> = None;
        loop {
            let page = dtr_store::StoreExt::page(
                &**self.store(),
                &prefix,
                after.as_deref(),
                0,
                false,
                At::Latest,
            )
            .await?;
            for kv in &page.items {
                let team = std::str::from_utf8(&kv.key[prefix.len()..]).ok();
                let org = std::str::from_utf8(&kv.value).ok();
                if let (Some(Ok(team)), Some(Ok(org))) = (team.map(str::parse), org.map(str::parse))
                {
                    teams.push((team, org));
                }
            }
            if !page.more {
                return Ok(teams);
            }
            after = page.items.last().map(|kv| kv.key.clone());
        }
    }

    /// A team by name.
    pub async fn lookup_team(
        &self,
        org: &AccountId,
        name: &TeamName,
    ) -> Result<Option<Versioned<Team>>, CatalogError> {
        let found = self.store().get(&keys::team_name(org, name), At::Latest).await?;
        let id = found.and_then(|kv| std::str::from_utf8(&kv.value).ok()?.parse().ok());
        match id {
            Some(id) => self.get(&keys::team(org, &id)).await,
            None => Ok(None),
        }
    }

    /// Makes a team.
    pub async fn create_team(
        &self,
        team: &Team,
        event: Option<&Event>,
    ) -> Result<(), CatalogError> {
        let name = keys::team_name(&team.organization, &team.name);
        let transaction = Transaction::new()
            .if_present(keys::account(&team.organization))
            .if_absent(name.clone())
            .put(name, team.id.to_string())
            .create_record(team)?;
        match self.commit(with_event(transaction, event)?).await? {
            Outcome::Committed(_) => Ok(()),
            Outcome::Conflict { condition: 0, .. } => {
                Err(missing("organization", &team.organization))
            }
            Outcome::Conflict { .. } => Err(exists("team", &team.name)),
        }
    }

    /// Changes a team's name or description.
    pub async fn update_team(&self, new: &Team, event: Option<&Event>) -> Result<(), CatalogError> {
        let key = keys::team(&new.organization, &new.id);
        for _ in 0..ATTEMPTS_MAX {
            let Some(found) = self.get(&key).await? else {
                return Err(missing("team", &new.name));
            };
            let mut transaction =
                Transaction::new().if_modified_at(&key, found.modified).put_record(new)?;
            if found.value.name != new.name {
                let name = keys::team_name(&new.organization, &new.name);
                if self.store().get(&name, At::Latest).await?.is_some() {
                    return Err(exists("team", &new.name));
                }
                transaction = transaction
                    .if_absent(name.clone())
                    .put(name, new.id.to_string())
                    .delete(keys::team_name(&new.organization, &found.value.name));
            }
            if self.commit(with_event(transaction, event)?).await?.committed().is_some() {
                return Ok(());
            }
        }
        Err(CatalogError::Contention("team"))
    }

    /// Deletes a team with its memberships and grants. `false` when it is not there.
    pub async fn delete_team(
        &self,
        org: &AccountId,
        id: &TeamId,
        event: Option<&Event>,
    ) -> Result<bool, CatalogError> {
        let Some(found) = self.get(&keys::team(org, id)).await? else { return Ok(false) };
        for grant in self.team_grants(id).await? {
            self.delete_repository_grant(&grant.repository, id, None).await?;
        }
        let namespace: Option<Versioned<NamespaceGrant>> =
            self.get(&keys::namespace_grant(org, id)).await?;
        if namespace.is_some() {
            self.delete_namespace_grant(org, id, None).await?;
        }
        for member in self.all::<TeamMembership>(&keys::team_memberships(id)).await? {
            self.delete_team_membership(id, &member.member, None).await?;
        }
        let transaction = Transaction::new()
            .if_modified_at(keys::team(org, id), found.modified)
            .delete(keys::team(org, id))
            .delete(keys::team_name(org, &found.value.name));
        Ok(self.commit(with_event(transaction, event)?).await?.committed().is_some())
    }

    /// Makes a user a member of a team. Whoever is in a team is in its organization: that is put too if it is missing.
    pub async fn put_team_membership(
        &self,
        membership: &TeamMembership,
        event: Option<&Event>,
    ) -> Result<(), CatalogError> {
        let org = &membership.organization;
        let in_org = keys::membership(org, &membership.member);
        for _ in 0..ATTEMPTS_MAX {
            let known = self.store().get(in_org.bytes(), At::Latest).await?;
            let mut transaction = Transaction::new()
                .if_present(keys::team(org, &membership.team))
                .if_present(keys::account(&membership.member))
                .if_unchanged(&in_org, known.as_ref())
                .put_record(membership)?
                .put(keys::member_team(&membership.member, &membership.team), org.to_string());
            if known.is_none() {
                let member = Membership {
                    organization: org.clone(),
                    member: membership.member.clone(),
                    is_admin: false,
                };
                transaction = transaction
                    .put_record(&member)?
                    .put(keys::member_org(&membership.member, org), Bytes::new());
            }
            match self.commit(with_event(transaction, event)?).await? {
                Outcome::Committed(_) => return Ok(()),
                Outcome::Conflict { condition: 0, .. } => {
                    return Err(missing("team", &membership.team));
                }
                Outcome::Conflict { condition: 1, .. } => {
                    return Err(missing("account", &membership.member));
                }
                Outcome::Conflict { .. } => {}
            }
        }
        Err(CatalogError::Contention("team membership"))
    }

    /// Takes a user out of a team. No error when it is not in it.
    pub async fn delete_team_membership(
        &self,
        team: &TeamId,
        member: &AccountId,
        event: Option<&Event>,
    ) -> Result<(), CatalogError> {
        let transaction = Transaction::new()
            .delete(keys::team_membership(team, member))
            .delete(keys::member_team(member, team));
        self.commit(with_event(transaction, event)?).await.map(drop)
    }
}
