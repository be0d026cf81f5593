//! The questions of [`Identity`], answered from the catalog.

use std::{net::IpAddr, sync::Arc, time::Duration};

use dtr_catalog::{
    Kind, keys,
    records::{Account, Membership, Team, TeamMembership},
};
use dtr_store::At;
use dtr_types::{AccountId, AccountName, Secret, ServiceId, TeamId, TeamName};

use super::{BuiltIn, sessions};
use crate::{
    AccountCounts, AccountPage, AccountQuery, Identity, IdentityError, Login, Member, Principal,
    login_name,
};

/// For how long the numbers of accounts are remembered.
const COUNTS_TTL: Duration = Duration::from_secs(10);

#[async_trait::async_trait]
impl Identity for BuiltIn {
    async fn authenticate(
        &self,
        username: &str,
        password: &Secret,
    ) -> Result<Arc<Principal>, IdentityError> {
        self.authenticate_from(username, password, None).await
    }

    async fn authenticate_from(
        &self,
        username: &str,
        password: &Secret,
        from: Option<IpAddr>,
    ) -> Result<Arc<Principal>, IdentityError> {
        let username = &login_name(username);
        if sessions::is_session_token(password)
            && let Some(principal) = self.find_session(password, None).await?
            && principal.account.name.as_str() == username.as_str()
        {
            return Ok(principal);
        }
        self.check_password(username, password, from).await
    }

    async fn login(
        &self,
        username: &str,
        password: &Secret,
        from: Option<IpAddr>,
    ) -> Result<Login, IdentityError> {
        self.begin_session(&login_name(username), password, from, None).await
    }

    async fn logout(&self, token: &Secret) -> Result<(), IdentityError> {
        self.end_session(token).await
    }

    async fn session(&self, token: &Secret) -> Result<Option<Arc<Principal>>, IdentityError> {
        self.find_session(token, None).await
    }

    async fn session_account(&self, hash: &str) -> Result<Option<AccountId>, IdentityError> {
        Ok(self.open_session(hash, None).await?.map(|session| session.account))
    }

    async fn principal(&self, id: &AccountId) -> Result<Option<Arc<Principal>>, IdentityError> {
        self.load_principal(id).await
    }

    async fn account(&self, name: &AccountName) -> Result<Option<Account>, IdentityError> {
        Ok(self.catalog().lookup_account(name).await?.map(|found| found.value))
    }

    async fn account_by_id(&self, id: &AccountId) -> Result<Option<Account>, IdentityError> {
        self.account_record(id).await
    }

    async fn team(&self, org: &AccountId, name: &TeamName) -> Result<Option<Team>, IdentityError> {
        Ok(self.catalog().lookup_team(org, name).await?.map(|found| found.value))
    }

    async fn team_by_id(
        &self,
        org: &AccountId,
        id: &TeamId,
    ) -> Result<Option<Team>, IdentityError> {
        Ok(self.catalog().get(&keys::team(org, id)).await?.map(|found| found.value))
    }

    async fn accounts(&self, query: &AccountQuery) -> Result<AccountPage, IdentityError> {
        let limit = query.effective_limit();
        let mut accounts = Vec::new();
        // One more than asked for tells where the next page starts.
        let mut take = |account: Account| {
            if query.filter.passes(&account) {
                accounts.push(account);
            }
            accounts.len() > limit
        };
        let mut after = query.start.clone();
        if let Some(Ok(first)) = query.start.as_deref().map(str::parse)
            && let Some(account) = self.account(&first).await?
        {
            take(account);
        }
        'pages: loop {
            let page = self.catalog().list_accounts(after.as_deref(), limit + 1).await?;
            after = page.items.last().map(|account| account.name.to_string());
            for account in page.items {
                if take(account) {
                    break 'pages;
                }
            }
            if !page.more || after.is_none() {
                break;
            }
        }
        let next = if accounts.len() > limit { accounts.pop() } else { None };
        Ok(AccountPage { accounts, next: next.map(|account| account.name.to_string()) })
    }

    async fn account_counts(&self) -> Result<AccountCounts, IdentityError> {
        if let Some(known) = &*self.inner.counts.lock()
            && self.is_fresh(known, COUNTS_TTL)
        {
            return Ok(known.value);
        }
        let generation = self.generation();
        let (mut counts, mut after, mut at) =
            (AccountCounts::default(), None::<String>, At::Latest);
        loop {
            let prefix = Kind::Account.prefix().as_bytes();
            let page = self.catalog().list::<Account>(prefix, after.as_deref(), 0, at).await?;
            at = At::Revision(page.revision);
            after = page.items.last().map(|found| found.value.id.to_string());
            for found in &page.items {
                let count = if found.value.is_org { &mut counts.orgs } else { &mut counts.users };
                *count += 1;
            }
            if !page.more {
                break;
            }
        }
        *self.inner.counts.lock() = Some(self.known(counts, generation));
        Ok(counts)
    }

    async fn members(&self, org: &AccountId) -> Result<Vec<Member>, IdentityError> {
        let memberships = self.catalog().all::<Membership>(&keys::memberships(org)).await?;
        self.named(memberships.into_iter().map(|m| (m.member, m.is_admin))).await
    }

    async fn organizations(&self, user: &AccountId) -> Result<Vec<Member>, IdentityError> {
        let memberships = self.catalog().member_orgs(user).await?;
        self.named(memberships.into_iter().map(|m| (m.organization, m.is_admin))).await
    }

    async fn teams(&self, org: &AccountId) -> Result<Vec<Team>, IdentityError> {
        let mut teams = self.catalog().all::<Team>(&keys::teams(org)).await?;
        teams.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(teams)
    }

    async fn team_members(
        &self,
        org: &AccountId,
        team: &TeamId,
    ) -> Result<Vec<Member>, IdentityError> {
        if self.team_by_id(org, team).await?.is_none() {
            return Ok(Vec::new());
        }
        let memberships =
            self.catalog().all::<TeamMembership>(&keys::team_memberships(team)).await?;
        self.named(memberships.into_iter().map(|m| (m.member, m.is_admin))).await
    }

    async fn health(&self) -> Result<(), IdentityError> {
        self.catalog().store().revision().await.map_err(dtr_catalog::CatalogError::from)?;
        Ok(())
    }
}

impl BuiltIn {
    /// Begins a session for a registered service: it is good there alone.
    pub async fn login_for(
        &self,
        service: &ServiceId,
        username: &str,
        password: &Secret,
        from: Option<IpAddr>,
    ) -> Result<Login, IdentityError> {
        self.begin_session(&login_name(username), password, from, Some(service)).await
    }

    /// The user behind a session token, for a registered service: of its own sessions, and of those that were begun here.
    pub async fn session_for(
        &self,
        service: &ServiceId,
        token: &Secret,
    ) -> Result<Option<Arc<Principal>>, IdentityError> {
        self.find_session(token, Some(service)).await
    }

    /// As [`Identity::session_account`], for a registered service.
    pub async fn session_account_for(
        &self,
        service: &ServiceId,
        hash: &str,
    ) -> Result<Option<AccountId>, IdentityError> {
        Ok(self.open_session(hash, Some(service)).await?.map(|session| session.account))
    }

    /// The accounts behind ids, by name.
    async fn named(
        &self,
        ids: impl Iterator<Item = (AccountId, bool)> + Send,
    ) -> Result<Vec<Member>, IdentityError> {
        let mut members = Vec::new();
        for (id, is_admin) in ids {
            if let Some(member) = self.account_record(&id).await? {
                members.push(Member { member, is_admin });
            }
        }
        members.sort_by(|a, b| a.member.name.cmp(&b.member.name));
        Ok(members)
    }
}
