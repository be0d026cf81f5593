//! What teams may do: on one repository, or on all repositories of a namespace.

use axum::{Json, extract::State, http::StatusCode};
use dtr_access::Operation;
use dtr_catalog::records::{
    AccessLevel, Account, EventType, NamespaceGrant, Repository, RepositoryGrant, Team,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    ApiError, ApiState,
    auth::{self, Asking},
    extract::{Body, Parted, account_name},
};

/// A team.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TeamView {
    /// Its id.
    id: String,
    /// The organization's id.
    #[serde(rename = "orgID")]
    org_id: String,
    /// Its name; empty when the identity service does not know it any more.
    name: String,
    /// What it is for.
    description: String,
}

/// A team's level.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TeamAccessView {
    /// The team.
    team: TeamView,
    /// `read-only`, `read-write` or `admin`.
    access_level: String,
}

/// The teams with a level.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TeamAccessList {
    team_access_list: Vec<TeamAccessView>,
}

/// A level.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct NewAccess {
    /// `read-only`, `read-write` or `admin`.
    access_level: String,
}

pub(crate) const fn level_name(level: AccessLevel) -> &'static str {
    match level {
        AccessLevel::ReadOnly => "read-only",
        AccessLevel::ReadWrite => "read-write",
        AccessLevel::Admin => "admin",
    }
}

fn level(new: &NewAccess) -> Result<AccessLevel, ApiError> {
    [AccessLevel::ReadOnly, AccessLevel::ReadWrite, AccessLevel::Admin]
        .into_iter()
        .find(|level| level_name(*level) == new.access_level)
        .ok_or_else(|| {
            ApiError::invalid(
                "INVALID_PARAMETERS",
                format!(
                    "accessLevel \"{}\" is not known; use read-only, read-write or admin",
                    new.access_level
                ),
            )
        })
}

async fn access_view(
    state: &ApiState,
    org: &dtr_types::AccountId,
    team: &dtr_types::TeamId,
    level: AccessLevel,
) -> Result<TeamAccessView, ApiError> {
    let known = state.identity.team_by_id(org, team).await?;
    Ok(TeamAccessView {
        team: TeamView {
            id: team.to_string(),
            org_id: org.to_string(),
            name: known.as_ref().map(|team| team.name.to_string()).unwrap_or_default(),
            description: known.map(|team| team.description).unwrap_or_default(),
        },
        access_level: level_name(level).to_owned(),
    })
}

/// The team of the organization that owns a namespace.
async fn team_of(state: &ApiState, owner: &Account, name: &str) -> Result<Team, ApiError> {
    if !owner.is_org {
        return Err(ApiError::invalid(
            "INVALID_PARAMETERS",
            format!("\"{}\" is a user; only organizations have teams", owner.name),
        ));
    }
    let unknown = || ApiError::no_such("NO_SUCH_TEAM", "team", name);
    let parsed = name.parse().map_err(|_| unknown())?;
    state.identity.team(&owner.id, &parsed).await?.ok_or_else(unknown)
}

async fn owner_of(state: &ApiState, repository: &Repository) -> Result<Account, ApiError> {
    let found = state.identity.account_by_id(&repository.namespace).await?;
    found
        .ok_or_else(|| ApiError::no_such("NO_SUCH_ACCOUNT", "account", repository.name.namespace()))
}

/// List the teams with a level on a repository
#[utoipa::path(
    get, path = "/api/v0/repositories/{namespace}/{reponame}/teamAccess", tag = "access",
    params(("namespace" = String, Path), ("reponame" = String, Path)),
    responses((status = 200, body = TeamAccessList), (status = 403, body = crate::error::Errors),
        (status = 404, body = crate::error::Errors)),
    security(("basic" = []), ("bearer" = []))
)]
pub(crate) async fn list(
    State(state): State<ApiState>,
    asking: Asking,
    Parted((namespace, name)): Parted<(String, String)>,
) -> Result<Json<TeamAccessList>, ApiError> {
    let (repository, _permit) =
        auth::repository(&state, &asking, &namespace, &name, Operation::ManageTeamAccess).await?;
    let mut team_access_list = Vec::new();
    for grant in state.catalog.repository_grants(&repository.id).await? {
        let view = access_view(&state, &grant.organization, &grant.team, grant.level).await?;
        team_access_list.push(view);
    }
    Ok(Json(TeamAccessList { team_access_list }))
}

/// Give a team a level on a repository
#[utoipa::path(
    put, path = "/api/v0/repositories/{namespace}/{reponame}/teamAccess/{teamname}", tag = "access",
    params(("namespace" = String, Path), ("reponame" = String, Path), ("teamname" = String, Path)),
    request_body = NewAccess,
    responses((status = 200, body = TeamAccessView), (status = 400, body = crate::error::Errors),
        (status = 403, body = crate::error::Errors), (status = 404, body = crate::error::Errors)),
    security(("basic" = []), ("bearer" = []))
)]
pub(crate) async fn put(
    State(state): State<ApiState>,
    asking: Asking,
    Parted((namespace, name, team)): Parted<(String, String, String)>,
    Body(new): Body<NewAccess>,
) -> Result<Json<TeamAccessView>, ApiError> {
    let (repository, _permit) =
        auth::repository(&state, &asking, &namespace, &name, Operation::ManageTeamAccess).await?;
    let level = level(&new)?;
    let owner = owner_of(&state, &repository).await?;
    let team = team_of(&state, &owner, &team).await?;
    let grant = RepositoryGrant {
        repository: repository.id.clone(),
        team: team.id.clone(),
        organization: owner.id.clone(),
        level,
        granted_at: state.catalog.now(),
    };
    let target = format!("{} {}", team.name, level_name(level));
    let event = state.event(&asking.caller, EventType::Update, Some(&repository), "grant", target);
    state.catalog.put_repository_grant(&grant, Some(&event)).await?;
    Ok(Json(access_view(&state, &owner.id, &team.id, level).await?))
}

/// Take a team's level on a repository away
#[utoipa::path(
    delete, path = "/api/v0/repositories/{namespace}/{reponame}/teamAccess/{teamname}", tag = "access",
    params(("namespace" = String, Path), ("reponame" = String, Path), ("teamname" = String, Path)),
    responses((status = 204), (status = 403, body = crate::error::Errors),
        (status = 404, body = crate::error::Errors)),
    security(("basic" = []), ("bearer" = []))
)]
pub(crate) async fn delete(
    State(state): State<ApiState>,
    asking: Asking,
    Parted((namespace, name, team)): Parted<(String, String, String)>,
) -> Result<StatusCode, ApiError> {
    let (repository, _permit) =
        auth::repository(&state, &asking, &namespace, &name, Operation::ManageTeamAccess).await?;
    let owner = owner_of(&state, &repository).await?;
    let team = team_of(&state, &owner, &team).await?;
    let event =
        state.event(&asking.caller, EventType::Delete, Some(&repository), "grant", &team.name);
    state.catalog.delete_repository_grant(&repository.id, &team.id, Some(&event)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// List the teams with a level on a namespace
#[utoipa::path(
    get, path = "/api/v0/repositoryNamespaces/{namespace}/teamAccess", tag = "access",
    params(("namespace" = String, Path)),
    responses((status = 200, body = TeamAccessList), (status = 403, body = crate::error::Errors),
        (status = 404, body = crate::error::Errors)),
    security(("basic" = []), ("bearer" = []))
)]
pub(crate) async fn list_namespace(
    State(state): State<ApiState>,
    asking: Asking,
    Parted(namespace): Parted<String>,
) -> Result<Json<TeamAccessList>, ApiError> {
    let namespace = account_name(&namespace)?;
    let (owner, _permit) =
        auth::namespace(&state, &asking, &namespace, Operation::ManageNamespaceAccess).await?;
    let mut team_access_list = Vec::new();
    for grant in state.catalog.namespace_grants(&owner.id).await? {
        team_access_list.push(access_view(&state, &owner.id, &grant.team, grant.level).await?);
    }
    Ok(Json(TeamAccessList { team_access_list }))
}

/// Show a team's level on a namespace; its members may ask too
#[utoipa::path(
    get, path = "/api/v0/repositoryNamespaces/{namespace}/teamAccess/{teamname}", tag = "access",
    params(("namespace" = String, Path), ("teamname" = String, Path)),
    responses((status = 200, body = TeamAccessView), (status = 403, body = crate::error::Errors),
        (status = 404, body = crate::error::Errors)),
    security(("basic" = []), ("bearer" = []))
)]
pub(crate) async fn get_namespace(
    State(state): State<ApiState>,
    asking: Asking,
    Parted((namespace, team)): Parted<(String, String)>,
) -> Result<Json<TeamAccessView>, ApiError> {
    let namespace = account_name(&namespace)?;
    let (owner, _permit) =
        auth::namespace(&state, &asking, &namespace, Operation::ViewNamespaceAccess).await?;
    let team = team_of(&state, &owner, &team).await?;
    let key = dtr_catalog::keys::namespace_grant(&owner.id, &team.id);
    match state.catalog.get(&key).await? {
        Some(found) => Ok(Json(access_view(&state, &owner.id, &team.id, found.value.level).await?)),
        None => Err(ApiError::no_such("NO_SUCH_TEAM", "access of team", &team.name)),
    }
}

/// Give a team a level on all repositories of a namespace
#[utoipa::path(
    put, path = "/api/v0/repositoryNamespaces/{namespace}/teamAccess/{teamname}", tag = "access",
    params(("namespace" = String, Path), ("teamname" = String, Path)), request_body = NewAccess,
    responses((status = 200, body = TeamAccessView), (status = 400, body = crate::error::Errors),
        (status = 403, body = crate::error::Errors), (status = 404, body = crate::error::Errors)),
    security(("basic" = []), ("bearer" = []))
)]
pub(crate) async fn put_namespace(
    State(state): State<ApiState>,
    asking: Asking,
    Parted((namespace, team)): Parted<(String, String)>,
    Body(new): Body<NewAccess>,
) -> Result<Json<TeamAccessView>, ApiError> {
    let namespace = account_name(&namespace)?;
    let (owner, _permit) =
        auth::namespace(&state, &asking, &namespace, Operation::ManageNamespaceAccess).await?;
    let level = level(&new)?;
    let team = team_of(&state, &owner, &team).await?;
    let grant = NamespaceGrant {
        namespace: owner.id.clone(),
        team: team.id.clone(),
        level,
        granted_at: state.catalog.now(),
    };
    let target = format!("{}/* {} {}", owner.name, team.name, level_name(level));
    let event = state.event(&asking.caller, EventType::Update, None, "grant", target);
    state.catalog.put_namespace_grant(&grant, Some(&event)).await?;
    Ok(Json(access_view(&state, &owner.id, &team.id, level).await?))
}

/// Take a team's level on a namespace away
#[utoipa::path(
    delete, path = "/api/v0/repositoryNamespaces/{namespace}/teamAccess/{teamname}", tag = "access",
    params(("namespace" = String, Path), ("teamname" = String, Path)),
    responses((status = 204), (status = 403, body = crate::error::Errors),
        (status = 404, body = crate::error::Errors)),
    security(("basic" = []), ("bearer" = []))
)]
pub(crate) async fn delete_namespace(
    State(state): State<ApiState>,
    asking: Asking,
    Parted((namespace, team)): Parted<(String, String)>,
) -> Result<StatusCode, ApiError> {
    let namespace = account_name(&namespace)?;
    let (owner, _permit) =
        auth::namespace(&state, &asking, &namespace, Operation::ManageNamespaceAccess).await?;
    let team = team_of(&state, &owner, &team).await?;
    let target = format!("{}/* {}", owner.name, team.name);
    let event = state.event(&asking.caller, EventType::Delete, None, "grant", target);
    state.catalog.delete_namespace_grant(&owner.id, &team.id, Some(&event)).await?;
    Ok(StatusCode::NO_CONTENT)
}
