//! Accounts, teams, sessions and registered services: the identity service's records, in a DTR's own store or a UCP's.

use dtr_types::{
    AccountId, AccountName, ReplicaId, Secret, ServiceId, TeamId, TeamName, Timestamp,
};
use serde::{Deserialize, Serialize};

use super::record;
use crate::keys;

/// A user or an organization.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Account {
    /// Its id, which everything else refers to.
    pub id: AccountId,
    /// Its name: users and organizations share one namespace.
    pub name: AccountName,
    /// What it is called in full.
    #[serde(default)]
    pub full_name: String,
    /// Whether it is an organization.
    pub is_org: bool,
    /// Whether a user may do everything everywhere.
    #[serde(default)]
    pub is_admin: bool,
    /// Whether a user may log in and act.
    pub is_active: bool,
    /// When it was made.
    pub created_at: Timestamp,
}
record!(Account, Account, |a| keys::account(&a.id));

/// A user's password, hashed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Credential {
    /// Whose.
    pub account: AccountId,
    /// Argon2id in PHC form.
    pub password_hash: Secret,
    /// When it was set; sessions from before are over.
    pub changed_at: Timestamp,
}
record!(Credential, Credential, |c| keys::credential(&c.account));

/// A user in an organization.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Membership {
    /// The organization.
    pub organization: AccountId,
    /// The user.
    pub member: AccountId,
    /// Whether the user owns the organization.
    #[serde(default)]
    pub is_admin: bool,
}
record!(Membership, Membership, |m| keys::membership(&m.organization, &m.member));

/// A team of an organization.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Team {
    /// Its id.
    pub id: TeamId,
    /// The organization.
    pub organization: AccountId,
    /// Its name in the organization.
    pub name: TeamName,
    /// What it is for.
    #[serde(default)]
    pub description: String,
    /// When it was made.
    pub created_at: Timestamp,
}
record!(Team, Team, |t| keys::team(&t.organization, &t.id));

/// A user in a team.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TeamMembership {
    /// The team.
    pub team: TeamId,
    /// The organization that has the team.
    pub organization: AccountId,
    /// The user.
    pub member: AccountId,
    /// Whether the user may manage the team's members.
    #[serde(default)]
    pub is_admin: bool,
}
record!(TeamMembership, TeamMembership, |m| keys::team_membership(&m.team, &m.member));

/// What a session was made of that a registered service was handed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bound {
    /// The session that it was made with, by its hash: it ends with that.
    pub parent: String,
    /// Whether the service may fetch the accounts with their password hashes, as whoever logged in.
    #[serde(default)]
    pub export: bool,
}

/// A login that goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Session {
    /// SHA-256 of the session token in hexadecimal.
    pub hash: String,
    /// Who logged in.
    pub account: AccountId,
    /// When.
    pub created_at: Timestamp,
    /// When it ends unless it is used.
    pub expires_at: Timestamp,
    /// The registered service that began it, where it is good alone; none for one that was begun here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceId>,
    /// For a session of a registered service that was made out of one that was begun here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound: Option<Bound>,
}
record!(Session, Session, |s| keys::session(&s.hash));

/// A replica of a registered DTR.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceReplica {
    /// Its id.
    pub id: ReplicaId,
    /// Where it is reached: `https://host:port`.
    pub address: String,
}

/// A service that trusts this identity service: a DTR.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Service {
    /// Its id.
    pub id: ServiceId,
    /// The account that registered it.
    pub owner: AccountId,
    /// Its name, unique for its owner.
    pub name: String,
    /// What it is.
    #[serde(default)]
    pub description: String,
    /// Where people reach it.
    pub url: String,
    /// Whether it acts for all accounts; only an admin can say so.
    #[serde(default)]
    pub privileged: bool,
    /// Where a browser may be sent back to.
    #[serde(default, rename = "redirectURIs")]
    pub redirect_uris: Vec<String>,
    /// Where its public keys are found.
    #[serde(default, rename = "jwksURIs")]
    pub jwks_uris: Vec<String>,
    /// What it is addressed as in tokens.
    #[serde(default)]
    pub provider_identities: Vec<String>,
    /// PEM of the authority behind its certificate.
    #[serde(default)]
    pub ca_bundle: String,
    /// Its public key in PEM (SubjectPublicKeyInfo, P-256): it signs what it asks with the private half.
    #[serde(default)]
    pub public_key: String,
    /// Its replicas.
    #[serde(default)]
    pub replicas: Vec<ServiceReplica>,
    /// When it was registered.
    pub created_at: Timestamp,
}
record!(Service, Service, |s| keys::service(&s.id));
