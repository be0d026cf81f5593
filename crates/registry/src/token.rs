//! `/auth/token`: credentials and scopes in, a short-lived token out. Source: Docker registry token authentication (GET)
//! and its OAuth 2 form (POST).
//!
//! A scope that the caller has no right to is left out; a token without any is no error, and good for nothing. The
//! resource then says what was missing.
//!
//! A token of here is no credential here: whoever copies one from a log could renew it for ever. It also ends with what it was
//! made with (`dtr_access`).

use std::net::IpAddr;

use axum::{
    Extension, Json,
    extract::{Form, Query, Request, State, rejection::FormRejection},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use dtr_access::{Access, AccessError, Action, Caller, NewAccessToken, Operation, Scope};
use dtr_catalog::records::TokenOrigin;
use dtr_store::together;
use dtr_transport::RequestInfo;
use dtr_types::{RepositoryName, Secret};
use serde_json::json;

use crate::{Gate, OciError, Registry, auth::Challenger};

/// Scopes of one request; more are ignored.
const SCOPES_MAX: usize = 50;

/// `GET /auth/token`
pub(crate) async fn get(
    State(registry): State<Registry>,
    Query(pairs): Query<Vec<(String, String)>>,
    request: Request,
) -> Response {
    let external = registry.external_host().await;
    let challenger = Challenger::of(&request, &external);
    let (parts, _) = request.into_parts();
    let answer = async {
        let caller = match registry.exchanger(&challenger, &parts.headers).await {
            Ok(caller) => caller,
            Err(error) if error.status() == StatusCode::UNAUTHORIZED => {
                return Err(refused());
            }
            Err(error) => return Err(error),
        };
        let value = |key: &str| pairs.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
        let scopes = pairs.iter().filter(|(key, _)| key == "scope").map(|(_, v)| v.as_str());
        let wants_refresh = value("offline_token") == Some("true") && is_password(&parts.headers);
        let client = value("client_id").unwrap_or_default();
        let service = value("service").unwrap_or_default();
        let client = Client { id: client, headers: &parts.headers, from: challenger.client() };
        grant(&registry, &caller, scopes, service, &client, wants_refresh).await
    };
    match together(answer).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    }
}

/// Whether somebody logs in with a password: only then is a token handed out that lasts. One for an access token would
/// outlive it, and one for a session or for such a token itself would never have to end.
fn is_password(headers: &HeaderMap) -> bool {
    let header = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    header.is_some_and(Access::is_password_header)
}

fn refused() -> OciError {
    OciError::new(
        StatusCode::UNAUTHORIZED,
        "UNAUTHORIZED",
        "the user name, password or token is wrong or over, or the account is not active; a token of /auth/token is not taken \
         here",
    )
    .header(header::WWW_AUTHENTICATE, "Basic realm=\"dtr\"")
}

/// The form of `POST /auth/token`.
#[derive(Default)]
struct TokenForm {
    grant_type: String,
    service: String,
    client_id: String,
    /// Several scopes come as one field with blanks, or as one field for each: podman, skopeo and buildah send one for
    /// the target of a mount and one for its source.
    scopes: Vec<String>,
    access_type: String,
    username: String,
    password: Secret,
    refresh_token: Secret,
}

impl TokenForm {
    /// The last of a field that may stand there once counts.
    fn of(pairs: Vec<(String, String)>) -> Self {
        let mut form = Self::default();
        for (key, value) in pairs {
            match key.as_str() {
                "grant_type" => form.grant_type = value,
                "service" => form.service = value,
                "client_id" => form.client_id = value,
                "scope" => form.scopes.push(value),
                "access_type" => form.access_type = value,
                "username" => form.username = value,
                "password" => form.password = value.into(),
                "refresh_token" => form.refresh_token = value.into(),
                _ => {}
            }
        }
        form
    }
}

fn form_expected(status: StatusCode) -> OciError {
    OciError::new(
        status,
        "UNSUPPORTED",
        "POST /auth/token takes a form (application/x-www-form-urlencoded) with grant_type and scope, \
         and username and password, or refresh_token",
    )
}

/// `POST /auth/token`
pub(crate) async fn post(
    State(registry): State<Registry>,
    info: Option<Extension<RequestInfo>>,
    headers: HeaderMap,
    form: Result<Form<Vec<(String, String)>>, FormRejection>,
) -> Response {
    let answer = async {
        let Form(pairs) = form.map_err(|rejection| form_expected(rejection.status()))?;
        let form = TokenForm::of(pairs);
        let Gate::Access(access) = &registry.gate else {
            return Err(OciError::unsupported("this registry hands out no tokens"));
        };
        let from = info.and_then(|Extension(info)| info.source);
        let caller = match form.grant_type.as_str() {
            "password" => {
                access.exchanger_from_password(&form.username, &form.password, from).await
            }
            "refresh_token" => access.exchanger_from_token(&form.refresh_token).await,
            "" => return Err(form_expected(StatusCode::BAD_REQUEST)),
            other => {
                return Err(OciError::new(
                    StatusCode::BAD_REQUEST,
                    "UNSUPPORTED",
                    format!(
                        "grant_type \"{}\" is not offered; use password or refresh_token",
                        other.chars().take(40).collect::<String>()
                    ),
                ));
            }
        };
        let caller = caller.map_err(|error| {
            let error = OciError::from(error);
            if error.status() == StatusCode::UNAUTHORIZED { refused() } else { error }
        })?;
        let scopes = form.scopes.iter().map(String::as_str);
        let wants_refresh = form.access_type == "offline"
            && form.grant_type == "password"
            && Access::is_password(&form.password);
        let client = form.client_id.as_str();
        let client = Client { id: client, headers: &headers, from };
        grant(&registry, &caller, scopes, &form.service, &client, wants_refresh).await
    };
    match together(answer).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    }
}

/// `type[(class)]:name:action[,action...]`; the name may hold a host with a port, so it ends at the last colon.
fn parse_scope(text: &str) -> Option<(&str, &str, Vec<&str>)> {
    let (kind, rest) = text.split_once(':')?;
    let (name, actions) = rest.rsplit_once(':')?;
    let kind = kind.split_once('(').map_or(kind, |(kind, _)| kind);
    Some((kind, name, actions.split(',').map(str::trim).collect()))
}

/// What of a scope the caller may have.
async fn granted(
    registry: &Registry,
    access: &Access,
    caller: &Caller,
    text: &str,
) -> Result<Option<Scope>, OciError> {
    let Some((kind, name, actions)) = parse_scope(text) else { return Ok(None) };
    let wants = |action: &str| actions.contains(&action) || actions.contains(&"*");
    if kind == "registry" {
        let listed = access.authorize_system(caller, Operation::ListCatalog).is_ok();
        // docker's search asks for a word of its own.
        let asks = actions.contains(&"*") || actions.contains(&"search");
        let catalog = name == "catalog" && asks && listed;
        let scope = Scope { name: "catalog".to_owned(), actions: vec![Action::Pull] };
        return Ok(catalog.then_some(scope));
    }
    let Ok(repository_name) = name.parse::<RepositoryName>() else { return Ok(None) };
    if kind != "repository" {
        return Ok(None);
    }
    let mut allowed = Vec::new();
    let found = registry.catalog.lookup_repository(&repository_name).await?;
    for (action, word, operation) in [
        (Action::Pull, "pull", Operation::Pull),
        (Action::Push, "push", Operation::Push),
        (Action::Delete, "delete", Operation::DeleteTag),
    ] {
        if !wants(word) {
            continue;
        }
        let yes = match &found {
            Some(found) => {
                access.authorize_repository(caller, operation, &found.value).await?.is_ok()
            }
            None => may_create(registry, access, caller, &repository_name).await?,
        };
        if yes {
            allowed.push(action);
        }
    }
    Ok((!allowed.is_empty()).then(|| Scope { name: name.to_owned(), actions: allowed }))
}

/// Whether a push to a repository that does not exist would make it.
async fn may_create(
    registry: &Registry,
    access: &Access,
    caller: &Caller,
    name: &RepositoryName,
) -> Result<bool, OciError> {
    if !registry.settings().await?.create_repository_on_push {
        return Ok(false);
    }
    let Some(owner) = access.identity().account(&name.namespace()).await? else {
        return Ok(false);
    };
    let operation = Operation::CreateRepository;
    Ok(access.authorize_namespace(caller, operation, &owner).await?.is_ok())
}

/// The program that asks, as far as it says.
struct Client<'a> {
    id: &'a str,
    headers: &'a HeaderMap,
    from: Option<IpAddr>,
}

async fn grant(
    registry: &Registry,
    caller: &Caller,
    scopes: impl Iterator<Item = &str>,
    service: &str,
    client: &Client<'_>,
    wants_refresh: bool,
) -> Result<Response, OciError> {
    let Gate::Access(access) = &registry.gate else {
        return Err(OciError::unsupported("this registry hands out no tokens"));
    };
    let mut allowed = Vec::new();
    for scope in scopes.flat_map(str::split_ascii_whitespace).take(SCOPES_MAX) {
        allowed.extend(granted(registry, access, caller, scope).await?);
    }
    let words: Vec<String> = allowed
        .iter()
        .map(|scope: &Scope| {
            let actions: Vec<&str> = scope
                .actions
                .iter()
                .map(|action| match action {
                    Action::Pull => "pull",
                    Action::Push => "push",
                    Action::Delete => "delete",
                    Action::Backup | Action::Manage | Action::Any => "*",
                })
                .collect();
            match scope.name.as_str() {
                "catalog" => "registry:catalog:*".to_owned(),
                name => format!("repository:{name}:{}", actions.join(",")),
            }
        })
        .collect();
    let issued = access.issue_token(caller, allowed, service).await.map_err(|error| {
        if matches!(error, AccessError::Derived) {
            return refused();
        }
        tracing::error!(%error, "no token was issued");
        OciError::unavailable("no token can be issued right now; try again in a moment")
    })?;
    let token = issued.token.expose();
    let mut answer = json!({
        "token": token,
        "access_token": token,
        "expires_in": issued.expires_in.as_secs(),
        "issued_at": issued.issued_at,
        "scope": words.join(" "),
    });
    if wants_refresh && let Some(refresh) = refresh_token(access, caller, client).await? {
        answer["refresh_token"] = refresh.expose().into();
    }
    let no_store = [(header::CACHE_CONTROL, "no-store")];
    Ok((no_store, Json(answer)).into_response())
}

/// A token that docker keeps instead of the password, and that ends when the password is changed.
async fn refresh_token(
    access: &Access,
    caller: &Caller,
    client: &Client<'_>,
) -> Result<Option<Secret>, OciError> {
    let Some(principal) = caller.principal() else { return Ok(None) };
    if caller.is_limited() {
        return Ok(None);
    }
    let agent = client.headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok());
    let name: String = client.id.chars().take(60).collect();
    let made = access
        .create_access_token(
            NewAccessToken {
                account: principal.account.id.clone(),
                label: format!("login of {}", if name.is_empty() { "a client" } else { &name }),
                expires_at: Some(access.refresh_token_end()),
                repositories: None,
                pull_only: false,
                backups_only: false,
                password_changed_at: principal.password_changed_at,
                origin: TokenOrigin::Auto,
                creator_ua: agent.unwrap_or_default().chars().take(200).collect(),
                creator_address: client.from.map(|from| from.to_string()).unwrap_or_default(),
            },
            None,
        )
        .await;
    match made {
        Ok((_, token)) => Ok(Some(token)),
        Err(error) => {
            tracing::warn!(%error, "no refresh token was made");
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_with_hosts_and_classes_are_read() {
        let parsed = parse_scope("repository:reg.example.com:5443/team/app:pull,push");
        assert_eq!(
            parsed,
            Some(("repository", "reg.example.com:5443/team/app", vec!["pull", "push"]))
        );
        let parsed = parse_scope("repository(plugin):a/b:pull");
        assert_eq!(parsed, Some(("repository", "a/b", vec!["pull"])));
        assert_eq!(parse_scope("registry"), None);
        assert_eq!(parse_scope("registry:catalog"), None);
    }
}
