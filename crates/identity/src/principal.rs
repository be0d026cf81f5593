//! The interface that everything above uses, and what it knows of a person.

use std::{net::IpAddr, sync::Arc, time::Duration};

use dtr_catalog::records::{Account, Membership, Team};
use dtr_types::{AccountId, AccountName, Secret, TeamId, TeamName, Timestamp};

use crate::{AccountCounts, AccountPage, AccountQuery, AccountRecords, Login, Member};

/// A user with everything that decides about rights: one consistent copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The user.
    pub account: Account,
    /// The organizations the user is in, and which of them the user owns.
    pub memberships: Vec<Membership>,
    /// The teams the user is in, each with its organization.
    pub teams: Vec<(TeamId, AccountId)>,
    /// When the password was last changed, by the identity service's clock; `None` without one, and from a service that
    /// does not say.
    pub password_changed_at: Option<Timestamp>,
}

impl Principal {
    /// Whether the user owns the account's namespace: it is the user's own, or that of an organization it owns.
    pub fn owns(&self, namespace: &AccountId) -> bool {
        self.account.id == *namespace
            || self.memberships.iter().any(|m| m.is_admin && m.organization == *namespace)
    }

    /// Whether the user is in the organization.
    pub fn is_member(&self, org: &AccountId) -> bool {
        self.memberships.iter().any(|m| m.organization == *org)
    }
}

/// The name of the account that somebody means who types `text` at a login: names are in lower case by rule, and a blank that
/// was typed or pasted with one belongs to none.
pub fn login_name(text: &str) -> String {
    text.trim().to_ascii_lowercase()
}

/// Why an identity cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Unknown user, wrong password, or an account that is switched off: they look alike.
    #[error("the user name or password is wrong, or the account is not active")]
    WrongCredentials,
    /// Too many failures for this user from this address, or of this address; nothing was checked.
    #[error("too many failed logins; try again in {} s", retry_after.as_secs().max(1))]
    Throttled {
        /// How long to wait.
        retry_after: Duration,
    },
    /// The identity service does not answer; says why and where.
    #[error("the identity service cannot be asked: {reason}")]
    Unavailable {
        /// What was tried, and what happened.
        reason: String,
    },
    /// The catalog failed.
    #[error(transparent)]
    Catalog(#[from] dtr_catalog::CatalogError),
}

/// Tells who is who: exactly, where accounts are in the catalog; from a UCP, answers are cached for seconds (a password for a
/// minute), and longer while it cannot be reached: then what was last known goes on.
#[async_trait::async_trait]
pub trait Identity: Send + Sync {
    /// Checks a password (or, where the identity service has them, its own session token given as one).
    async fn authenticate(
        &self,
        username: &str,
        password: &Secret,
    ) -> Result<Arc<Principal>, IdentityError>;

    /// The same, saying where the login comes from, so that failures are counted for each address by itself.
    async fn authenticate_from(
        &self,
        username: &str,
        password: &Secret,
        from: Option<IpAddr>,
    ) -> Result<Arc<Principal>, IdentityError> {
        let _ = from;
        self.authenticate(username, password).await
    }

    /// Checks a password and begins a session.
    async fn login(
        &self,
        username: &str,
        password: &Secret,
        from: Option<IpAddr>,
    ) -> Result<Login, IdentityError> {
        let _ = (username, password, from);
        Err(not_offered("begin a session"))
    }

    /// Ends a session. No error when it is over already.
    async fn logout(&self, token: &Secret) -> Result<(), IdentityError> {
        let _ = token;
        Err(not_offered("end a session"))
    }

    /// The user behind a session token; `None` when it is unknown or over, or the user is not active.
    async fn session(&self, token: &Secret) -> Result<Option<Arc<Principal>>, IdentityError>;

    /// The account of a session that goes on, by [`session_hash`](crate::session_hash) of its token; `None` when it is
    /// unknown or over. The session lasts no longer for being asked about.
    async fn session_account(&self, hash: &str) -> Result<Option<AccountId>, IdentityError> {
        let _ = hash;
        Err(not_offered("tell whether a session goes on"))
    }

    /// A user's rights, by id; `None` when there is no such active user.
    async fn principal(&self, id: &AccountId) -> Result<Option<Arc<Principal>>, IdentityError>;

    /// A user or an organization by name.
    async fn account(&self, name: &AccountName) -> Result<Option<Account>, IdentityError>;

    /// A user or an organization by id.
    async fn account_by_id(&self, id: &AccountId) -> Result<Option<Account>, IdentityError>;

    /// A team by name.
    async fn team(&self, org: &AccountId, name: &TeamName) -> Result<Option<Team>, IdentityError>;

    /// A team by id.
    async fn team_by_id(&self, org: &AccountId, id: &TeamId)
    -> Result<Option<Team>, IdentityError>;

    /// Accounts in order of their names.
    async fn accounts(&self, query: &AccountQuery) -> Result<AccountPage, IdentityError> {
        let _ = query;
        Err(not_offered("list accounts"))
    }

    /// How many accounts there are; may be seconds old.
    async fn account_counts(&self) -> Result<AccountCounts, IdentityError> {
        Err(not_offered("count accounts"))
    }

    /// The members of an organization, by name.
    async fn members(&self, org: &AccountId) -> Result<Vec<Member>, IdentityError> {
        let _ = org;
        Err(not_offered("list members"))
    }

    /// The organizations that a user is in, by name; `is_admin` says whether the user owns one.
    async fn organizations(&self, user: &AccountId) -> Result<Vec<Member>, IdentityError> {
        let _ = user;
        Err(not_offered("list organizations"))
    }

    /// The teams of an organization, by name.
    async fn teams(&self, org: &AccountId) -> Result<Vec<Team>, IdentityError> {
        let _ = org;
        Err(not_offered("list teams"))
    }

    /// The members of a team, by name.
    async fn team_members(
        &self,
        org: &AccountId,
        team: &TeamId,
    ) -> Result<Vec<Member>, IdentityError> {
        let _ = (org, team);
        Err(not_offered("list members of teams"))
    }

    /// All accounts with their password hashes, for whoever proves to be an administrator of the service with `proof`: the
    /// whole `Authorization` header that came with the request. `None` when the service gives none out for that.
    async fn export(&self, proof: &Secret) -> Result<Option<AccountRecords>, IdentityError> {
        let _ = proof;
        Ok(None)
    }

    /// Whether the service can be asked right now; the reason when not. For `/_ping` and `status`.
    async fn health(&self) -> Result<(), IdentityError>;

    /// Why the service refuses this registry, if it did when it last answered. Asks nobody.
    fn trouble(&self) -> Option<String> {
        None
    }
}

/// What a source says that knows people only, such as a test's.
fn not_offered(what: &str) -> IdentityError {
    IdentityError::Unavailable { reason: format!("this source of identity cannot {what}") }
}
