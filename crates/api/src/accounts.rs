//! What accounts may do, and what goes with an account that is deleted. Accounts themselves are the identity service's.

use axum::{Json, extract::State, http::StatusCode};
use dtr_access::{Caller, Operation};
use dtr_catalog::records::Repository;
use dtr_types::{AccountName, RepositoryName};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    ApiError, ApiState,
    auth::{self, Asking},
    extract::{Parted, account_name, name as parse_name, repository_name},
    repositories::{RepositoryView, delete_one, view},
    team_access::level_name,
};

/// A repository and a team's level on it.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TeamRepository {
    /// The repository.
    repository: RepositoryView,
    /// `read-only`, `read-write` or `admin`.
    access_level: String,
}

/// The repositories on which a team has a level.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TeamRepositories {
    repository_access_list: Vec<TeamRepository>,
}

/// A user's level on a repository.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct UserLevel {
    /// The user.
    user: String,
    /// The repository.
    repository: RepositoryView,
    /// `read-only`, `read-write`, `admin`; empty for none.
    access_level: String,
}

/// List the repositories on which a team was given a level: for owners of the organization and members of the team
#[utoipa::path(
    get, path = "/api/v0/accounts/{orgname}/teams/{teamname}/repositoryAccess", tag = "access",
    params(("orgname" = String, Path), ("teamname" = String, Path)),
    responses((status = 200, body = TeamRepositories), (status = 404, body = crate::error::Errors)),
    security(("basic" = []), ("bearer" = []))
)]
pub(crate) async fn team_repositories(
    State(state): State<ApiState>,
    asking: Asking,
    Parted((org, team)): Parted<(String, String)>,
) -> Result<Json<TeamRepositories>, ApiError> {
    let unknown = || ApiError::no_such("NO_SUCH_TEAM", "team", &team);
    let principal = asking.principal()?;
    auth::left_by_token(&state, &asking, Operation::ViewTeamRepositories)?;
    let org = state.identity.account(&account_name(&org)?).await?.ok_or_else(unknown)?;
    let name = parse_name(&team, "NO_SUCH_TEAM", "team")?;
    let found = state.identity.team(&org.id, &name).await?.ok_or_else(unknown)?;
    let in_team = principal.teams.iter().any(|(id, _)| *id == found.id);
    if !(principal.account.is_admin || principal.owns(&org.id) || in_team) {
        return Err(unknown());
    }
    let mut repository_access_list = Vec::new();
    for grant in state.catalog.team_grants(&found.id).await? {
        let key = dtr_catalog::keys::repository(&grant.repository);
        let Some(repository) = state.catalog.get(&key).await? else { continue };
        repository_access_list.push(TeamRepository {
            repository: view(&state, repository.value).await?,
            access_level: level_name(grant.level).to_owned(),
        });
    }
    Ok(Json(TeamRepositories { repository_access_list }))
}

/// Show a user's effective level on a repository: for oneself and administrators
#[utoipa::path(
    get, path = "/api/v0/accounts/{username}/repositoryAccess/{namespace}/{reponame}", tag = "access",
    params(("username" = String, Path), ("namespace" = String, Path), ("reponame" = String, Path)),
    responses((status = 200, body = UserLevel), (status = 404, body = crate::error::Errors)),
    security(("basic" = []), ("bearer" = []))
)]
pub(crate) async fn user_level(
    State(state): State<ApiState>,
    asking: Asking,
    Parted((user, namespace, name)): Parted<(String, String, String)>,
) -> Result<Json<UserLevel>, ApiError> {
    let user = account_name(&user)?;
    let asked = auth::oneself_or_admin(&state, &asking, &user).await?;
    let full = repository_name(&namespace, &name)?;
    let unknown = || ApiError::no_such("NO_SUCH_REPOSITORY", "repository", &full);
    let repository = state.catalog.lookup_repository(&full).await?.ok_or_else(unknown)?.value;
    if !auth::may_read(&state, &asking, &repository).await? {
        return Err(unknown());
    }
    let level = match state.identity.principal(&asked.id).await? {
        Some(principal) => state.access.level(&Caller::user(principal), &repository).await?,
        None => None,
    };
    let access_level = level.map_or("", level_name).to_owned();
    if access_level.is_empty() && !asking.is_admin() {
        return Err(unknown());
    }
    let repository = view(&state, repository).await?;
    Ok(Json(UserLevel { user: user.to_string(), repository, access_level }))
}

async fn repositories_of(
    state: &ApiState,
    namespace: &AccountName,
) -> Result<Vec<Repository>, ApiError> {
    let mut all = Vec::new();
    let mut after: Option<RepositoryName> = None;
    loop {
        let page = state
            .catalog
            .list_repositories(Some(namespace), after.as_ref().map(RepositoryName::as_str), 200)
            .await?;
        after = page.items.last().map(|repository| repository.name.clone());
        all.extend(page.items);
        if !page.more || after.is_none() {
            return Ok(all);
        }
    }
}

/// Delete all repositories of an account
#[utoipa::path(
    delete, path = "/api/v0/accounts/{namespace}/repositories", tag = "accounts",
    params(("namespace" = String, Path)),
    responses((status = 204), (status = 403, body = crate::error::Errors),
        (status = 404, body = crate::error::Errors)),
    security(("basic" = []), ("bearer" = []))
)]
pub(crate) async fn delete_repositories(
    State(state): State<ApiState>,
    asking: Asking,
    Parted(namespace): Parted<String>,
) -> Result<StatusCode, ApiError> {
    let namespace = account_name(&namespace)?;
    let _permit =
        auth::namespace(&state, &asking, &namespace, Operation::DeleteNamespaceRepositories)
            .await?;
    auth::writable(&state).await?;
    for repository in repositories_of(&state, &namespace).await? {
        delete_one(&state, &asking, &repository).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Delete an account with all its repositories: for administrators. With a UCP, the account itself stays there
#[utoipa::path(
    delete, path = "/api/v0/accounts/{namespace}", tag = "accounts",
    params(("namespace" = String, Path)),
    responses((status = 204), (status = 403, body = crate::error::Errors),
        (status = 404, body = crate::error::Errors)),
    security(("basic" = []), ("bearer" = []))
)]
pub(crate) async fn delete(
    State(state): State<ApiState>,
    asking: Asking,
    Parted(namespace): Parted<String>,
) -> Result<StatusCode, ApiError> {
    let _permit = auth::system(&state, &asking, Operation::DeleteAccount).await?;
    let namespace = account_name(&namespace)?;
    auth::writable(&state).await?;
    for repository in repositories_of(&state, &namespace).await? {
        delete_one(&state, &asking, &repository).await?;
    }
    if let Some(built_in) = &state.built_in
        && let Some(account) = state.identity.account(&namespace).await?
    {
        built_in
            .delete_account(&asking.actor(), &account.id)
            .await
            .map_err(|error| ApiError::new(StatusCode::CONFLICT, "CONFLICT", error.to_string()))?;
    }
    Ok(StatusCode::NO_CONTENT)
}
