//! The day of a compromise: whatever proves who somebody is ends, passwords excepted.

use axum::{Json, extract::State};
use dtr_access::Operation;
use dtr_catalog::records::EventType;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    ApiError, ApiState,
    auth::{self, Asking},
    extract::{Body, account_name},
};

/// Whose credentials end.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Revocation {
    /// The user's.
    #[serde(default)]
    username: Option<String>,
    /// Everybody's, in place of a user's.
    #[serde(default)]
    everybody: bool,
}

/// What ended.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Revoked {
    /// Sessions; left out where a UCP keeps them.
    #[serde(skip_serializing_if = "Option::is_none")]
    sessions: Option<u64>,
    /// Access and refresh tokens.
    access_tokens: u64,
    /// Keys that signed tokens of `/auth/token`: every such token is over, whosever it was, and clients get another.
    signing_keys: u64,
}

/// End all sessions, access and refresh tokens of a user or of everybody, and all tokens of `/auth/token`: for administrators
///
/// Passwords stay. Where a UCP keeps the accounts, sessions are ended there (`DELETE /enzi/v0/sessions`).
#[utoipa::path(
    post, path = "/api/v0/revoke", tag = "tokens", request_body = Revocation,
    responses((status = 200, body = Revoked), (status = 400, body = crate::error::Errors),
        (status = 403, body = crate::error::Errors), (status = 404, body = crate::error::Errors)),
    security(("basic" = []), ("bearer" = []))
)]
pub(crate) async fn revoke(
    State(state): State<ApiState>,
    asking: Asking,
    Body(revocation): Body<Revocation>,
) -> Result<Json<Revoked>, ApiError> {
    let _permit = auth::system(&state, &asking, Operation::RevokeCredentials).await?;
    let catalog = &state.catalog;
    let account = match (&revocation.username, revocation.everybody) {
        (None, true) => None,
        (Some(name), false) => {
            Some(auth::oneself_or_admin(&state, &asking, &account_name(name)?).await?)
        }
        _ => {
            return Err(ApiError::invalid(
                "INVALID_PARAMETERS",
                "say whose credentials end: \"username\", or \"everybody\": true",
            ));
        }
    };
    let of = account.as_ref().map_or("everybody", |account| account.name.as_str());
    let event = state.event(&asking.caller, EventType::Delete, None, "credentials", of);
    let sessions = match (&account, &state.built_in) {
        (_, None) => None,
        (Some(account), Some(_)) => Some(catalog.delete_account_sessions(&account.id).await?),
        (None, Some(_)) => Some(catalog.delete_all_sessions().await?),
    };
    let access_tokens = match &account {
        Some(account) => catalog.delete_account_tokens(&account.id, None).await?,
        None => catalog.delete_all_tokens().await?,
    };
    // Last, so that no token is made with a session or a token that is about to end, and outlives this.
    let signing_keys = catalog.delete_token_keys(&event).await?;
    tracing::warn!(of, ?sessions, access_tokens, signing_keys, "credentials were revoked");
    Ok(Json(Revoked { sessions, access_tokens, signing_keys }))
}
