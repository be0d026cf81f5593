//! Access tokens: one's own, and (for administrators) everybody's.

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use dtr_access::{NewAccessToken, Operation};
use dtr_catalog::records::{AccessToken, Account, EventType, TokenOrigin};
use dtr_types::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{
    ApiError, ApiState,
    auth::{self, Asking},
    extract::{Body, Params, Parted, account_name},
};

/// An access token; the token itself is shown only when it is made.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TokenView {
    /// Its id: the hash of the token.
    hashed_token: String,
    /// What its owner calls it.
    token_label: String,
    /// Whether it is accepted.
    is_active: bool,
    /// When it was last used, to the minute; empty for never.
    last_used: String,
    /// When it was made.
    created_at: String,
    /// `user` or `auto`.
    generated_by: &'static str,
    /// The user agent that made it.
    creator_ua: String,
    /// When it ends; empty for never.
    expires_at: String,
    /// The repositories it is limited to; left out when it is not limited.
    #[serde(skip_serializing_if = "Option::is_none")]
    repositories: Option<Vec<String>>,
    /// Whether it can only pull.
    pull_only: bool,
    /// Whether it can only take backups, list them, and see the status.
    backups_only: bool,
    /// Of a login: the client's address.
    creator_address: String,
    /// The token: only in the answer to its making.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
}

/// What a new token is like.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct NewToken {
    /// What its owner calls it.
    #[schema(min_length = 1, max_length = 100)]
    token_label: String,
    /// When it ends, in RFC 3339 form.
    #[serde(default)]
    #[schema(format = DateTime)]
    expires_at: Option<String>,
    /// The repositories it is limited to: `namespace/name` or `namespace/*`.
    #[serde(default)]
    repositories: Option<Vec<String>>,
    /// Whether it can only pull.
    #[serde(default)]
    pull_only: bool,
    /// Whether it can only take backups, list them, and see the status: for an administrator's account.
    #[serde(default)]
    backups_only: bool,
}

/// What changes; what is left out stays.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct TokenChange {
    /// What its owner calls it.
    #[schema(min_length = 1, max_length = 100)]
    token_label: Option<String>,
    /// Whether it is accepted.
    is_active: Option<bool>,
}

/// Whose tokens.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct TokenParams {
    /// Whose; one's own when left out.
    username: Option<String>,
}

/// Which tokens to delete.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct DeleteParams {
    /// Whose; one's own when left out.
    username: Option<String>,
    /// Only those not used since this time, in RFC 3339 form.
    usedbefore: Option<String>,
    /// `auto` (the default) or `user`.
    generatedby: Option<String>,
}

/// Characters of a label.
const LABEL_MAX: usize = 100;
/// Tokens that people made, of one account.
const TOKENS_MAX: usize = 1000;

fn token_view(record: AccessToken, token: Option<String>) -> TokenView {
    let time = |at: Option<Timestamp>| at.map(|at| at.to_string()).unwrap_or_default();
    TokenView {
        hashed_token: record.hash,
        token_label: record.label,
        is_active: record.is_active,
        last_used: time(record.last_used),
        created_at: record.created_at.to_string(),
        generated_by: match record.generated_by {
            TokenOrigin::User => "user",
            TokenOrigin::Auto => "auto",
        },
        creator_ua: record.creator_ua,
        expires_at: time(record.expires_at),
        repositories: record.repositories,
        pull_only: record.pull_only,
        backups_only: record.backups_only,
        creator_address: record.creator_address,
        token,
    }
}

async fn whose(
    state: &ApiState,
    asking: &Asking,
    username: Option<&str>,
) -> Result<Account, ApiError> {
    let account = match username {
        None => asking.principal()?.account.clone(),
        Some(name) => {
            auth::left_by_token(state, asking, Operation::ManageTokens)?;
            auth::oneself_or_admin(state, asking, &account_name(name)?).await?
        }
    };
    let permit =
        state.access.authorize_namespace(&asking.caller, Operation::ManageTokens, &account);
    let _permit = permit.await??;
    Ok(account)
}

/// A token by its hash, if it is the caller's own or the caller is an administrator.
async fn find(state: &ApiState, asking: &Asking, hash: &str) -> Result<AccessToken, ApiError> {
    auth::left_by_token(state, asking, Operation::ManageTokens)?;
    let unknown = || ApiError::no_such("NO_SUCH_API_TOKEN", "access token", hash);
    if hash.len() != 64 || !hash.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(unknown());
    }
    let found = state.catalog.get(&dtr_catalog::keys::access_token(hash)).await?;
    let token = found.ok_or_else(unknown)?.value;
    if asking.caller.account_id() != Some(&token.account) && !asking.is_admin() {
        return Err(unknown());
    }
    Ok(token)
}

fn label(text: &str) -> Result<(), ApiError> {
    if text.trim().is_empty() || text.chars().count() > LABEL_MAX {
        return Err(ApiError::invalid(
            "INVALID_PARAMETERS",
            format!("tokenLabel must have 1 to {LABEL_MAX} characters"),
        ));
    }
    Ok(())
}

fn time(text: Option<&str>) -> Result<Option<Timestamp>, ApiError> {
    text.map(|text| {
        text.parse().map_err(|error: dtr_types::TimestampError| {
            ApiError::invalid("INVALID_PARAMETERS", error.to_string())
        })
    })
    .transpose()
}

/// List access tokens
#[utoipa::path(
    get, path = "/api/v0/api_tokens", tag = "tokens", params(TokenParams),
    responses((status = 200, body = Vec<TokenView>), (status = 401, body = crate::error::Errors)),
    security(("basic" = []), ("bearer" = []))
)]
pub(crate) async fn list(
    State(state): State<ApiState>,
    asking: Asking,
    Params(params): Params<TokenParams>,
) -> Result<Json<Vec<TokenView>>, ApiError> {
    let account = whose(&state, &asking, params.username.as_deref()).await?;
    let tokens = state.catalog.account_tokens(&account.id).await?;
    Ok(Json(tokens.into_iter().map(|token| token_view(token, None)).collect()))
}

/// Make an access token; it is in this answer and nowhere else
#[utoipa::path(
    post, path = "/api/v0/api_tokens", tag = "tokens", params(TokenParams), request_body = NewToken,
    responses((status = 201, body = TokenView), (status = 400, body = crate::error::Errors)),
    security(("basic" = []), ("bearer" = []))
)]
pub(crate) async fn create(
    State(state): State<ApiState>,
    asking: Asking,
    Params(params): Params<TokenParams>,
    headers: HeaderMap,
    Body(new): Body<NewToken>,
) -> Result<Response, ApiError> {
    let account = whose(&state, &asking, params.username.as_deref()).await?;
    asking.logged_in()?;
    label(&new.token_label)?;
    if new.backups_only && !account.is_admin {
        return Err(ApiError::invalid(
            "INVALID_PARAMETERS",
            format!(
                "\"{}\" may take no backups, so a token of it cannot either; make it for an administrator's account",
                account.name
            ),
        ));
    }
    let tokens = state.catalog.account_tokens(&account.id).await?;
    if tokens.iter().filter(|t| t.generated_by == TokenOrigin::User).count() >= TOKENS_MAX {
        return Err(ApiError::invalid(
            "INVALID_PARAMETERS",
            format!("an account has at most {TOKENS_MAX} access tokens; delete some"),
        ));
    }
    let agent = headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok());
    let event = state.event(&asking.caller, EventType::Create, None, "token", &new.token_label);
    let (record, token) = state
        .access
        .create_access_token(
            NewAccessToken {
                account: account.id,
                label: new.token_label,
                expires_at: time(new.expires_at.as_deref())?,
                repositories: new.repositories,
                pull_only: new.pull_only,
                backups_only: new.backups_only,
                password_changed_at: None,
                origin: TokenOrigin::User,
                creator_ua: agent.unwrap_or_default().chars().take(200).collect(),
                creator_address: String::new(),
            },
            Some(&event),
        )
        .await
        .map_err(|error| ApiError::invalid("INVALID_PARAMETERS", error.to_string()))?;
    let view = token_view(record, Some(token.expose().to_owned()));
    Ok((StatusCode::CREATED, Json(view)).into_response())
}

/// Delete many access tokens at once
#[utoipa::path(
    delete, path = "/api/v0/api_tokens", tag = "tokens", params(DeleteParams),
    responses((status = 204), (status = 400, body = crate::error::Errors)),
    security(("basic" = []), ("bearer" = []))
)]
pub(crate) async fn delete_unused(
    State(state): State<ApiState>,
    asking: Asking,
    Params(params): Params<DeleteParams>,
) -> Result<StatusCode, ApiError> {
    let account = whose(&state, &asking, params.username.as_deref()).await?;
    let before = time(params.usedbefore.as_deref())?;
    let origin = match params.generatedby.as_deref() {
        None | Some("auto") => TokenOrigin::Auto,
        Some("user") => TokenOrigin::User,
        Some(other) => {
            return Err(ApiError::invalid(
                "INVALID_PARAMETERS",
                format!("generatedby \"{other}\" is not known; use auto or user"),
            ));
        }
    };
    for token in state.catalog.account_tokens(&account.id).await? {
        let used = token.last_used.unwrap_or(token.created_at);
        if token.generated_by == origin && before.is_none_or(|before| used < before) {
            let event = state.event(&asking.caller, EventType::Delete, None, "token", &token.label);
            state.access.delete_access_token(&token.hash, Some(&event)).await?;
        }
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Show an access token
#[utoipa::path(
    get, path = "/api/v0/api_tokens/{hashedtoken}", tag = "tokens",
    params(("hashedtoken" = String, Path)),
    responses((status = 200, body = TokenView), (status = 404, body = crate::error::Errors)),
    security(("basic" = []), ("bearer" = []))
)]
pub(crate) async fn get(
    State(state): State<ApiState>,
    asking: Asking,
    Parted(hash): Parted<String>,
) -> Result<Json<TokenView>, ApiError> {
    Ok(Json(token_view(find(&state, &asking, &hash).await?, None)))
}

/// Rename an access token, or switch it on or off
#[utoipa::path(
    patch, path = "/api/v0/api_tokens/{hashedtoken}", tag = "tokens",
    params(("hashedtoken" = String, Path)), request_body = TokenChange,
    responses((status = 200, body = TokenView), (status = 404, body = crate::error::Errors)),
    security(("basic" = []), ("bearer" = []))
)]
pub(crate) async fn update(
    State(state): State<ApiState>,
    asking: Asking,
    Parted(hash): Parted<String>,
    Body(change): Body<TokenChange>,
) -> Result<Json<TokenView>, ApiError> {
    let token = find(&state, &asking, &hash).await?;
    if let Some(text) = &change.token_label {
        label(text)?;
    }
    let event = state.event(&asking.caller, EventType::Update, None, "token", &token.label);
    let changed = state
        .access
        .update_access_token(&hash, change.token_label.as_deref(), change.is_active, Some(&event))
        .await?;
    let changed =
        changed.ok_or_else(|| ApiError::no_such("NO_SUCH_API_TOKEN", "access token", &hash))?;
    Ok(Json(token_view(changed, None)))
}

/// Delete an access token
#[utoipa::path(
    delete, path = "/api/v0/api_tokens/{hashedtoken}", tag = "tokens",
    params(("hashedtoken" = String, Path)),
    responses((status = 204), (status = 404, body = crate::error::Errors)),
    security(("basic" = []), ("bearer" = []))
)]
pub(crate) async fn delete(
    State(state): State<ApiState>,
    asking: Asking,
    Parted(hash): Parted<String>,
) -> Result<StatusCode, ApiError> {
    let token = find(&state, &asking, &hash).await?;
    let event = state.event(&asking.caller, EventType::Delete, None, "token", &token.label);
    state.access.delete_access_token(&token.hash, Some(&event)).await?;
    Ok(StatusCode::NO_CONTENT)
}
