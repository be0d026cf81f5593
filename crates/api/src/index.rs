//! Search: over the names of repositories and accounts that one can see.

use axum::{Json, extract::State};
use dtr_access::Operation;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use crate::{
    ApiError, ApiState,
    auth::{self, Asking},
    extract::Params,
    extract::account_name,
    repositories::{RepositoryView, readable, view},
};

/// What to look for.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(crate) struct AutocompleteParams {
    /// A part of a name.
    query: String,
    /// Whether to look among repositories (yes unless said otherwise).
    include_repositories: Option<bool>,
    /// Whether to look among accounts (yes unless said otherwise).
    include_accounts: Option<bool>,
    /// Only in this namespace.
    namespace: Option<String>,
    /// At most this many of each, up to 100.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<usize>,
}

/// An account.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AccountView {
    /// Its id.
    id: String,
    /// Its name.
    name: String,
    /// Whether it is an organization.
    is_org: bool,
}

/// What was found.
#[derive(Serialize, ToSchema)]
pub(crate) struct Found {
    repositories: Vec<RepositoryView>,
    accounts: Vec<AccountView>,
}

/// Names looked at for one search.
const LOOKED_AT_MAX: usize = 10_000;

/// Find repositories and accounts by a part of their names
#[utoipa::path(
    get, path = "/api/v0/index/autocomplete", tag = "index", params(AutocompleteParams),
    responses((status = 200, body = Found), (status = 401, body = crate::error::Errors)),
    security(("basic" = []), ("bearer" = []))
)]
pub(crate) async fn autocomplete(
    State(state): State<ApiState>,
    asking: Asking,
    Params(params): Params<AutocompleteParams>,
) -> Result<Json<Found>, ApiError> {
    asking.principal()?;
    let _permit = auth::system(&state, &asking, Operation::ListRepositories).await?;
    let limit = params.limit.unwrap_or(25).clamp(1, 100);
    let query = params.query.to_lowercase();
    let mut found = Found { repositories: Vec::new(), accounts: Vec::new() };
    if params.include_repositories.unwrap_or(true) {
        let namespace = params.namespace.as_deref().map(account_name).transpose()?;
        let all = readable(&state, &asking, namespace.as_ref(), None, LOOKED_AT_MAX).await?;
        for repository in all.into_iter().filter(|r| r.name.as_str().contains(&query)).take(limit) {
            found.repositories.push(view(&state, repository).await?);
        }
    }
    if params.include_accounts.unwrap_or(true)
        && state.access.authorize_system(&asking.caller, Operation::SearchAccounts).is_ok()
        && let Some(built_in) = &state.built_in
    {
        let mut after: Option<String> = None;
        let mut looked_at = 0;
        while found.accounts.len() < limit && looked_at < LOOKED_AT_MAX {
            let page = built_in.catalog().list_accounts(after.as_deref(), 500).await?;
            looked_at += 500;
            after = page.items.last().map(|account| account.name.to_string());
            let matching = page.items.into_iter().filter(|a| a.name.as_str().contains(&query));
            found.accounts.extend(matching.map(|account| AccountView {
                id: account.id.to_string(),
                name: account.name.to_string(),
                is_org: account.is_org,
            }));
            if !page.more || after.is_none() {
                break;
            }
        }
        found.accounts.truncate(limit);
    }
    Ok(Json(found))
}

/// What `docker search` looks for.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct SearchParams {
    /// A part of a name.
    q: String,
}

/// Find repositories in the form that `docker search` reads
#[utoipa::path(
    get, path = "/api/v0/index/dockersearch", tag = "index", params(SearchParams),
    responses((status = 200, body = Object), (status = 401, body = crate::error::Errors)),
    security(("basic" = []), ("bearer" = []))
)]
pub(crate) async fn docker_search(
    State(state): State<ApiState>,
    asking: Asking,
    Params(params): Params<SearchParams>,
) -> Result<Json<Value>, ApiError> {
    asking.principal()?;
    let _permit = auth::system(&state, &asking, Operation::ListRepositories).await?;
    let query = params.q.to_lowercase();
    let all = readable(&state, &asking, None, None, LOOKED_AT_MAX).await?;
    let results: Vec<Value> = all
        .into_iter()
        .filter(|repository| repository.name.as_str().contains(&query))
        .take(100)
        .map(|repository| {
            json!({
                "name": repository.name,
                "description": repository.short_description,
                "is_official": false,
                "is_automated": false,
                "is_trusted": false,
                "star_count": 0,
            })
        })
        .collect();
    Ok(Json(json!({
        "query": params.q,
        "num_results": results.len(),
        "results": results,
        "page": 1,
        "num_pages": 1,
        "page_size": 100,
    })))
}
