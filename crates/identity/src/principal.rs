//! The interface that everything above uses, and what it knows of a person.

use std::sync::Arc;

use dtr_catalog::records::{Account, Membership, Team};
use dtr_types::{AccountId, AccountName, Secret, TeamId, TeamName};

/// A user with everything that decides about rights: one consistent copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The user.
    pub account: Account,
    /// The organizations the user is in, and which of them the user owns.
    pub memberships: Vec<Membership>,
    /// The teams the user is in, each with its organization.
    pub teams: Vec<(TeamId, AccountId)>,
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

/// Why an identity cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Unknown user, wrong password, or an account that is switched off: they look alike.
    #[error("the user name or password is wrong, or the account is not active")]
    WrongCredentials,
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

/// Tells who is who. Answers are cached for seconds at most, except while the service cannot be reached: then what was
/// last known goes on.
#[async_trait::async_trait]
pub trait Identity: Send + Sync {
    /// Checks a password (or, where the identity service has them, its own session token given as one).
    async fn authenticate(
        &self,
        username: &str,
        password: &Secret,
    ) -> Result<Arc<Principal>, IdentityError>;

    /// The user behind a session token; `None` when it is unknown or over, or the user is not active.
    async fn session(&self, token: &Secret) -> Result<Option<Arc<Principal>>, IdentityError>;

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

    /// Whether the service can be asked right now; the reason when not. For `/_ping` and `status`.
    async fn health(&self) -> Result<(), IdentityError>;
}
