//! What is given to change accounts, and why a change is refused.

use dtr_catalog::{CatalogError, records::ServiceReplica};
use dtr_types::{AccountId, AccountName, Secret, TeamName};
use serde::{Deserialize, Serialize};

use crate::{IdentityError, Principal};

/// Shortest password, in bytes.
pub const PASSWORD_BYTES_MIN: usize = 8;
/// Longest password, in bytes: what is hashed must be bounded.
pub const PASSWORD_BYTES_MAX: usize = 1_024;

/// Who changes something, for the event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// The name; `system` for the product itself.
    pub name: String,
    /// The id, if it is an account.
    pub id: Option<AccountId>,
}

impl Actor {
    /// The product itself, such as an install.
    pub fn system() -> Self {
        Self { name: "system".to_owned(), id: None }
    }
}

impl From<&Principal> for Actor {
    fn from(principal: &Principal) -> Self {
        Self { name: principal.account.name.to_string(), id: Some(principal.account.id.clone()) }
    }
}

/// Why accounts were not changed.
#[derive(Debug, thiserror::Error)]
pub enum ManageError {
    /// Something of that name is there already.
    #[error("{kind} \"{name}\" exists already")]
    Exists {
        /// Which kind of thing.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// The thing to change is not there.
    #[error("{kind} \"{name}\" is not there")]
    Missing {
        /// Which kind of thing.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// A rule forbids it.
    #[error("{0}")]
    Refused(String),
    /// What was given is not of the right form.
    #[error("{field}: {reason}")]
    Invalid {
        /// Which part.
        field: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Who is who could not be told, or the store failed.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

impl From<CatalogError> for ManageError {
    fn from(error: CatalogError) -> Self {
        match error {
            CatalogError::Exists { kind, name } => Self::Exists { kind, name },
            CatalogError::Missing { kind, name } => Self::Missing { kind, name },
            other => Self::Identity(other.into()),
        }
    }
}

/// An account to make.
#[derive(Clone, Debug)]
pub struct NewAccount {
    /// Its name.
    pub name: AccountName,
    /// What it is called in full.
    pub full_name: String,
    /// Whether it is an organization.
    pub is_org: bool,
    /// Whether a user may do everything.
    pub is_admin: bool,
    /// Whether a user may log in.
    pub is_active: bool,
    /// A user's password; a user without one cannot log in by password until one is set.
    pub password: Option<Secret>,
}

impl NewAccount {
    /// An active user.
    pub fn user(name: AccountName, password: Secret) -> Self {
        Self {
            name,
            full_name: String::new(),
            is_org: false,
            is_admin: false,
            is_active: true,
            password: Some(password),
        }
    }

    /// An organization.
    pub fn org(name: AccountName) -> Self {
        Self {
            name,
            full_name: String::new(),
            is_org: true,
            is_admin: false,
            is_active: true,
            password: None,
        }
    }
}

/// What to change of an account; `None` leaves it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AccountChange {
    /// What it is called in full.
    pub full_name: Option<String>,
    /// Whether a user may do everything.
    pub is_admin: Option<bool>,
    /// Whether a user may log in.
    pub is_active: Option<bool>,
}

/// A team to make.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct NewTeam {
    /// Its name in the organization.
    pub name: TeamName,
    /// What it is for.
    #[serde(default)]
    pub description: String,
}

/// What to change of a team; `None` leaves it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct TeamChange {
    /// Its new name.
    pub name: Option<TeamName>,
    /// What it is for.
    pub description: Option<String>,
}

/// A service to register, or what to change of one: `None` leaves it, or takes the default of a new one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceForm {
    /// Its name, unique for its owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Where people reach it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Whether it acts for all accounts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub privileged: Option<bool>,
    /// Where a browser may be sent back to.
    #[serde(default, rename = "redirectURIs", skip_serializing_if = "Option::is_none")]
    pub redirect_uris: Option<Vec<String>>,
    /// Where its public keys are found.
    #[serde(default, rename = "jwksURIs", skip_serializing_if = "Option::is_none")]
    pub jwks_uris: Option<Vec<String>>,
    /// What it is addressed as in tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_identities: Option<Vec<String>>,
    /// PEM of the authority behind its certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle: Option<String>,
    /// Its public key in PEM (SubjectPublicKeyInfo, P-256).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
    /// Its replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<Vec<ServiceReplica>>,
}
