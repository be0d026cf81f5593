//! Grants and access tokens.

use dtr_types::{AccountId, RepositoryId, TeamId, Timestamp};
use serde::{Deserialize, Serialize};

use super::record;
use crate::keys;

/// How much a team may do on a repository or namespace. Levels are additive: the highest of all applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AccessLevel {
    /// Browse and pull.
    ReadOnly,
    /// Also push and delete tags.
    ReadWrite,
    /// Also change the repository, its access, and delete it.
    Admin,
}

/// A team's level on one repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RepositoryGrant {
    /// The repository.
    pub repository: RepositoryId,
    /// The team.
    pub team: TeamId,
    /// The organization that has the team.
    pub organization: AccountId,
    /// How much it may do.
    pub level: AccessLevel,
    /// Since when.
    pub granted_at: Timestamp,
}
record!(RepositoryGrant, RepositoryGrant, |g| keys::repository_grant(&g.repository, &g.team));

/// A team's level on all repositories of a namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NamespaceGrant {
    /// The account whose namespace it is.
    pub namespace: AccountId,
    /// The team.
    pub team: TeamId,
    /// How much it may do.
    pub level: AccessLevel,
    /// Since when.
    pub granted_at: Timestamp,
}
record!(NamespaceGrant, NamespaceGrant, |g| keys::namespace_grant(&g.namespace, &g.team));

/// How an access token came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenOrigin {
    /// A person made it.
    User,
    /// Made at login, such as docker's refresh token.
    Auto,
}

/// A token that stands for an account. Only its hash is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AccessToken {
    /// SHA-256 of the token in hexadecimal: its id.
    pub hash: String,
    /// Whose rights it gives.
    pub account: AccountId,
    /// What its owner calls it.
    pub label: String,
    /// Whether it is accepted.
    pub is_active: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends, if ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// When it was last used, to the minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used: Option<Timestamp>,
    /// How it came to be.
    pub generated_by: TokenOrigin,
    /// The user agent that made it.
    #[serde(default)]
    pub creator_ua: String,
    /// The repositories it is limited to (full names, or `namespace/*`); none means all of its account's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repositories: Option<Vec<String>>,
    /// Where the client was that it was made for at a login: its address; empty for what a person made.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub creator_address: String,
    /// Whether it can only pull.
    #[serde(default)]
    pub pull_only: bool,
    /// Whether it can only take backups, list them, and see the status.
    #[serde(default)]
    pub backups_only: bool,
    /// For a refresh token: when its account's password was last changed before it was made, by the identity service's
    /// clock. Another time there means another password, and the token is good no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_changed_at: Option<Timestamp>,
}
record!(AccessToken, AccessToken, |t| keys::access_token(&t.hash));
