//! The JSON that goes between a DTR, the commands, and an identity service. Both sides use these types.

use std::net::IpAddr;

use dtr_catalog::records::{Account, Membership, Service, Team};
use dtr_types::{AccountId, Secret, TeamId, TeamName, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{Member, Principal};

/// `{"errors":[{"code","message"}]}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Errors {
    /// One or more.
    pub errors: Vec<ErrorEntry>,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorEntry {
    /// For programs.
    pub code: String,
    /// For people.
    pub message: String,
}

/// `POST /id/login` and `/auth/login`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LoginForm {
    /// The user's name.
    pub username: String,
    /// The password.
    pub password: Secret,
}

/// The answer of `POST /id/login`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoginAnswer {
    /// The session's token: send it as `Authorization: Bearer`.
    pub session_token: Secret,
    /// Who logged in.
    pub account: Account,
    /// When it ends unless it is used.
    pub expires_at: Timestamp,
}

/// A page of accounts.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AccountList {
    /// All users there are.
    #[serde(default)]
    pub users_count: u64,
    /// All organizations there are.
    #[serde(default)]
    pub orgs_count: u64,
    /// Entries in this page.
    #[serde(default)]
    pub resource_count: u64,
    /// `start` of the next page; empty at the end.
    #[serde(default)]
    pub next_page_start: String,
    /// The accounts.
    pub accounts: Vec<Account>,
}

/// A page of members.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberList {
    /// All members there are.
    #[serde(default)]
    pub resource_count: u64,
    /// `start` of the next page; empty at the end.
    #[serde(default)]
    pub next_page_start: String,
    /// The members.
    pub members: Vec<Member>,
}

/// An organization that a user is in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberOrg {
    /// The organization.
    pub org: Account,
    /// Whether the user owns it.
    pub is_admin: bool,
}

/// A page of a user's organizations.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberOrgList {
    /// All there are.
    #[serde(default)]
    pub resource_count: u64,
    /// `start` of the next page; empty at the end.
    #[serde(default)]
    pub next_page_start: String,
    /// The organizations.
    pub member_orgs: Vec<MemberOrg>,
}

/// A team.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TeamView {
    /// Its id.
    pub id: TeamId,
    /// The organization.
    #[serde(rename = "orgID")]
    pub org_id: AccountId,
    /// Its name in the organization.
    pub name: TeamName,
    /// What it is for.
    #[serde(default)]
    pub description: String,
    /// How many are in it; only where one team is shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub members_count: Option<u64>,
    /// When it was made.
    #[serde(default)]
    pub created_at: Timestamp,
}

impl From<Team> for TeamView {
    fn from(team: Team) -> Self {
        Self {
            id: team.id,
            org_id: team.organization,
            name: team.name,
            description: team.description,
            members_count: None,
            created_at: team.created_at,
        }
    }
}

impl From<TeamView> for Team {
    fn from(view: TeamView) -> Self {
        Self {
            id: view.id,
            organization: view.org_id,
            name: view.name,
            description: view.description,
            created_at: view.created_at,
        }
    }
}

/// A page of teams.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TeamList {
    /// All there are.
    #[serde(default)]
    pub resource_count: u64,
    /// `start` of the next page; empty at the end.
    #[serde(default)]
    pub next_page_start: String,
    /// The teams.
    pub teams: Vec<TeamView>,
}

/// Registered services.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceList {
    /// All there are.
    #[serde(default)]
    pub resource_count: u64,
    /// The services.
    pub services: Vec<Service>,
}

/// A team and its organization, as part of a principal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrincipalTeam {
    /// The team.
    pub id: TeamId,
    /// The organization.
    #[serde(rename = "orgID")]
    pub org_id: AccountId,
}

/// A user with everything that decides about rights: what a registered service asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrincipalView {
    /// The user.
    pub account: Account,
    /// The organizations.
    pub memberships: Vec<Membership>,
    /// The teams.
    pub teams: Vec<PrincipalTeam>,
    /// When the password was last changed.
    #[serde(default, rename = "passwordChangedAt", skip_serializing_if = "Option::is_none")]
    pub password_changed_at: Option<Timestamp>,
}

impl From<&Principal> for PrincipalView {
    fn from(principal: &Principal) -> Self {
        let teams = principal.teams.iter();
        Self {
            account: principal.account.clone(),
            memberships: principal.memberships.clone(),
            teams: teams
                .map(|(id, org)| PrincipalTeam { id: id.clone(), org_id: org.clone() })
                .collect(),
            password_changed_at: principal.password_changed_at,
        }
    }
}

impl From<PrincipalView> for Principal {
    fn from(view: PrincipalView) -> Self {
        Self {
            account: view.account,
            memberships: view.memberships,
            teams: view.teams.into_iter().map(|team| (team.id, team.org_id)).collect(),
            password_changed_at: view.password_changed_at,
        }
    }
}

/// `POST /enzi/v0/service/authenticate`, by a registered service for a user of its own.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AuthenticateForm {
    /// The user's name.
    pub username: String,
    /// The password, or a session's token.
    pub password: Secret,
    /// Where the user comes from, for counting failures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<IpAddr>,
    /// Whether to begin a session.
    #[serde(default)]
    pub session: bool,
}

/// The answer to [`AuthenticateForm`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthenticateAnswer {
    /// Who it is.
    pub principal: PrincipalView,
    /// The session that was begun, if that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_token: Option<Secret>,
    /// When it ends unless it is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// `POST /enzi/v0/services/{service}/session`, by whoever is logged in.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct BindForm {
    /// Whether the service may fetch the accounts with their password hashes.
    #[serde(default)]
    pub export: bool,
}

/// `POST /enzi/v0/service/session` and `/enzi/v0/service/logout`, by a registered service: one of the two fields.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SessionForm {
    /// The session's token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Secret>,
    /// [`session_hash`](crate::session_hash) of the token, for what was made with a session and keeps no token. It ends no
    /// session, nor does a session last longer for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
}
