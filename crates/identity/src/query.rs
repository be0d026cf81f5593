//! What is asked of an identity service besides single accounts, and what comes back.

use std::{str::FromStr, sync::Arc};

use dtr_catalog::records::Account;
use dtr_types::{Secret, Timestamp};
use serde::{Deserialize, Serialize};

use crate::Principal;

/// Which accounts to list. Names as in the original's `filter`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AccountFilter {
    /// Users and organizations.
    #[default]
    All,
    /// Users.
    Users,
    /// Organizations.
    Orgs,
    /// Users who may do everything.
    Admins,
    /// Users who may not.
    NonAdmins,
    /// Users who may log in.
    ActiveUsers,
    /// Users who may not.
    InactiveUsers,
}

impl AccountFilter {
    /// Every filter.
    pub const ALL: [Self; 7] = [
        Self::All,
        Self::Users,
        Self::Orgs,
        Self::Admins,
        Self::NonAdmins,
        Self::ActiveUsers,
        Self::InactiveUsers,
    ];

    /// As it stands in a query.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Users => "users",
            Self::Orgs => "orgs",
            Self::Admins => "admins",
            Self::NonAdmins => "non-admins",
            Self::ActiveUsers => "active-users",
            Self::InactiveUsers => "inactive-users",
        }
    }

    /// Whether an account passes.
    pub fn passes(self, account: &Account) -> bool {
        match self {
            Self::All => true,
            Self::Users => !account.is_org,
            Self::Orgs => account.is_org,
            Self::Admins => !account.is_org && account.is_admin,
            Self::NonAdmins => !account.is_org && !account.is_admin,
            Self::ActiveUsers => !account.is_org && account.is_active,
            Self::InactiveUsers => !account.is_org && !account.is_active,
        }
    }
}

impl FromStr for AccountFilter {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|filter| filter.as_str() == text).ok_or(())
    }
}

/// Which accounts, from where, how many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccountQuery {
    /// The first name, inclusive; `None` begins at the first account.
    pub start: Option<String>,
    /// At most this many; 0 means the default of 10. Never more than [`AccountQuery::LIMIT_MAX`].
    pub limit: usize,
    /// Which.
    pub filter: AccountFilter,
}

impl AccountQuery {
    /// Most accounts in one page.
    pub const LIMIT_MAX: usize = 1_000;

    /// The limit that applies.
    pub fn effective_limit(&self) -> usize {
        if self.limit == 0 { 10 } else { self.limit.min(Self::LIMIT_MAX) }
    }
}

/// A page of accounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountPage {
    /// In order of their names.
    pub accounts: Vec<Account>,
    /// Where the next page starts, if there is one.
    pub next: Option<String>,
}

/// How many accounts there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AccountCounts {
    /// Users.
    pub users: u64,
    /// Organizations.
    pub orgs: u64,
}

/// An account in its part as a member, or as what one is a member of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// The user; the organization where a user's organizations are listed.
    #[serde(alias = "org")]
    pub member: Account,
    /// Whether the user owns the organization, or may manage the team.
    pub is_admin: bool,
}

/// A session that has just begun.
#[derive(Clone, Debug)]
pub struct Login {
    /// The session's token; it is stored nowhere.
    pub token: Secret,
    /// Who logged in.
    pub principal: Arc<Principal>,
    /// When it ends unless it is used.
    pub expires_at: Timestamp,
}
