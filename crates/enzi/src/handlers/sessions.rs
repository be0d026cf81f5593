//! Sessions, what is fixed about how people log in, and the way to a backup.

use dtr_identity::{
    Identity as _, Login,
    wire::{LoginAnswer, LoginForm},
};
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;

use super::Answer;
use crate::{
    context::{Context, json, no_content, ok},
    error::ApiError,
};

async fn begin(context: &Context) -> Result<Login, ApiError> {
    let form: LoginForm = context.form()?;
    Ok(context.identity().login(&form.username, &form.password, context.from).await?)
}

pub(super) async fn login(context: Context) -> Answer {
    let login = begin(&context).await?;
    let account = login.principal.account.clone();
    json(
        StatusCode::OK,
        &LoginAnswer { session_token: login.token, account, expires_at: login.expires_at },
    )
}

pub(super) async fn auth_login(context: Context) -> Answer {
    let login = begin(&context).await?;
    ok(&json!({"auth_token": login.token}))
}

pub(super) fn who_am_i(context: &Context) -> Answer {
    match context.caller.principal() {
        Some(principal) => ok(&principal.account),
        None => Err(ApiError::not_authorized()),
    }
}

pub(super) async fn logout(context: Context) -> Answer {
    if let Some(token) = context.session() {
        context.identity().logout(token).await?;
    }
    no_content()
}

pub(super) fn auth_config() -> Answer {
    ok(&json!({"backend": "managed"}))
}

#[derive(Deserialize)]
struct AuthConfigForm {
    backend: String,
}

pub(super) fn put_auth_config(context: &Context) -> Answer {
    let form: AuthConfigForm = context.form()?;
    match form.backend.as_str() {
        "managed" => auth_config(),
        _ => {
            Err(ApiError::not_offered("accounts are managed here; \"managed\" is the only backend"))
        }
    }
}

pub(super) fn openid(context: &Context) -> Answer {
    ok(&json!({"issuerIdentifier": &*context.state.issuer}))
}

pub(super) async fn backup(context: &Context) -> Answer {
    let Some(source) = &context.state.backup else {
        let message = "the accounts are in the registry's own backup; take that one";
        return Err(ApiError::not_offered(message));
    };
    let by = context.caller.actor().name;
    let encrypted = context.query("encrypted") == Some("true");
    let body = source.backup(&by, encrypted).await;
    let mut response = http::Response::new(body);
    let tar = http::HeaderValue::from_static("application/x-tar");
    response.headers_mut().insert(http::header::CONTENT_TYPE, tar);
    Ok(response)
}

pub(super) async fn end(context: Context) -> Answer {
    let account = context.account()?;
    let actor = context.caller.actor();
    let ended = context.identity().end_sessions(&actor, Some(&account.id)).await?;
    ok(&json!({ "sessions": ended }))
}

pub(super) async fn end_all(context: Context) -> Answer {
    let ended = context.identity().end_sessions(&context.caller.actor(), None).await?;
    ok(&json!({ "sessions": ended }))
}
