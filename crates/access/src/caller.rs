//! Who asks, and what its token takes away from its rights.

use std::{str::FromStr, sync::Arc};

use dtr_catalog::records::AccessToken;
use dtr_identity::Principal;
use dtr_types::{AccountId, RepositoryName};
use serde::{Deserialize, Serialize};

/// What a token may allow, in the words of registry scopes; the registry's own administration is `Manage`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Read.
    Pull,
    /// Write.
    Push,
    /// Delete.
    Delete,
    /// Take backups, list them, and see the status.
    Backup,
    /// Everything else that registry scopes have no word for.
    Manage,
    /// What every token allows, whatever it is limited to.
    Any,
}

/// What a bearer token allows on one repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    /// The repository's full name, as it was asked for.
    pub name: String,
    /// What is allowed there.
    pub actions: Vec<Action>,
}

/// Repositories that an access token is limited to: `namespace/name`, or `namespace/*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepositoryPattern(String);

impl RepositoryPattern {
    /// Whether a repository is among them.
    pub fn matches(&self, name: &RepositoryName) -> bool {
        match self.0.strip_suffix("/*") {
            Some(namespace) => name.namespace().as_str() == namespace,
            None => self.0 == name.as_str(),
        }
    }
}

impl FromStr for RepositoryPattern {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let probe = text.strip_suffix("/*").map_or_else(|| text.to_owned(), |n| format!("{n}/x"));
        match probe.parse::<RepositoryName>() {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(_) => Err(format!(
                "\"{text}\" names no repositories; write namespace/name or namespace/*"
            )),
        }
    }
}

/// What a token takes away. The default takes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Only these repositories.
    pub repositories: Option<Vec<RepositoryPattern>>,
    /// Only pulling.
    pub pull_only: bool,
    /// Only taking backups, listing them, and seeing the status.
    pub backups_only: bool,
    /// Only what these scopes say: a bearer token of `/auth/token`.
    pub scopes: Option<Vec<Scope>>,
}

impl Limits {
    /// Whether anything is taken away.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Whether an action is left, on a repository or (`None`) on anything else.
    pub fn allow(&self, action: Action, repository: Option<&RepositoryName>) -> bool {
        if action == Action::Any {
            return true;
        }
        if (self.pull_only && action != Action::Pull)
            || (self.backups_only && action != Action::Backup)
        {
            return false;
        }
        if let Some(patterns) = &self.repositories {
            match repository {
                Some(name) if patterns.iter().any(|pattern| pattern.matches(name)) => {}
                Some(_) => return false,
                // Lists that are filtered by repository are fine; managing anything else is not.
                None if action == Action::Pull => {}
                None => return false,
            }
        }
        match (&self.scopes, repository) {
            (None, _) => true,
            (Some(scopes), Some(name)) => scopes
                .iter()
                .any(|scope| scope.name == name.as_str() && scope.actions.contains(&action)),
            // The registry's catalog: its scope is checked when the token is issued.
            (Some(scopes), None) => {
                action == Action::Pull && scopes.iter().any(|scope| scope.name == "catalog")
            }
        }
    }
}

/// Marks a request that came in over the local socket, whose permissions have proved who asks.
#[derive(Clone, Copy, Debug)]
pub struct LocalAdmin;

/// The credential that a request came with. Whatever is made on the strength of it ends with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The account's password.
    Password,
    /// A session, by the hash of its token.
    Session(String),
    /// An access token that somebody made.
    AccessToken(Arc<AccessToken>),
    /// A refresh token: an access token that was made at a login, for `/auth/token` alone.
    RefreshToken(Arc<AccessToken>),
    /// A token of `/auth/token`, from which nothing can be made.
    Issued,
}

impl Proof {
    /// Whether it is a person's own, from which credentials that last may be made: a password or a session.
    pub fn is_login(&self) -> bool {
        matches!(self, Self::Password | Self::Session(_))
    }
}

/// Who asks.
#[derive(Clone, Debug)]
pub enum Caller {
    /// Nobody in particular; a bearer token of `/auth/token` may still limit what it was asked for.
    Anonymous,
    /// A user.
    User {
        /// Who, with all rights.
        principal: Arc<Principal>,
        /// What the token takes away from them.
        limits: Arc<Limits>,
        /// The credential that the request came with.
        proof: Proof,
    },
    /// Who may read the replica's data directory: an administrator.
    Local,
}

impl Caller {
    /// A user with all its rights, by its password.
    pub fn user(principal: Arc<Principal>) -> Self {
        Self::User { principal, limits: Arc::default(), proof: Proof::Password }
    }

    /// The credential that the request came with; `None` for nobody, and for who is here locally.
    pub fn proof(&self) -> Option<&Proof> {
        match self {
            Self::User { proof, .. } => Some(proof),
            Self::Anonymous | Self::Local => None,
        }
    }

    /// The user.
    pub fn principal(&self) -> Option<&Arc<Principal>> {
        match self {
            Self::User { principal, .. } => Some(principal),
            Self::Anonymous | Self::Local => None,
        }
    }

    /// Its name, for records: empty for anonymous.
    pub fn name(&self) -> &str {
        match self {
            Self::Anonymous => "",
            Self::User { principal, .. } => principal.account.name.as_str(),
            Self::Local => "local administrator",
        }
    }

    /// Its account.
    pub fn account_id(&self) -> Option<&AccountId> {
        self.principal().map(|principal| &principal.account.id)
    }

    /// What a token takes away from its rights.
    pub fn limits(&self) -> Option<&Limits> {
        match self {
            Self::User { limits, .. } => Some(limits),
            Self::Anonymous | Self::Local => None,
        }
    }

    /// Whether a token takes away anything.
    pub fn is_limited(&self) -> bool {
        self.limits().is_some_and(|limits| !limits.is_none())
    }

    /// Whether it may do everything: an active administrator whose token takes nothing away, or who is here locally.
    pub fn is_admin(&self) -> bool {
        match self {
            Self::Anonymous => false,
            Self::Local => true,
            Self::User { principal, limits, .. } => {
                principal.account.is_admin && principal.account.is_active && limits.is_none()
            }
        }
    }
}

impl std::fmt::Display for RepositoryPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
