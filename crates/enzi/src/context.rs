//! One request on its way: who asks, what about, and the stages up to its handler.

use std::{collections::HashMap, net::IpAddr};

use axum::{
    body::{Body, Bytes, HttpBody as _},
    extract::{FromRequestParts as _, Path, Query, Request},
};
use dtr_catalog::records::{Account, Service, Team};
use dtr_identity::{BuiltIn, Identity as _};
use dtr_types::{AccountId, AccountName, Secret, TeamId, TeamName};
use http::{HeaderMap, Response, StatusCode, header};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    Enzi, Route,
    caller::Caller,
    error::ApiError,
    routes::{Standing, Who},
};

/// Largest request body, in bytes: a service with its CA bundle.
const BODY_MAX: usize = 512 << 10;
/// Entries in a page when the request does not say.
const PAGE_DEFAULT: usize = 10;
/// Most entries in a page.
const PAGE_MAX: usize = 1_000;

pub(crate) struct Context {
    pub(crate) state: Enzi,
    pub(crate) caller: Caller,
    pub(crate) from: Option<IpAddr>,
    params: HashMap<String, String>,
    query: HashMap<String, String>,
    body: Bytes,
    account: Option<Account>,
}

impl Context {
    /// Identifies the caller, finds what the path names, and asks the route's row whether this may be done.
    pub(crate) async fn enter(
        state: Enzi,
        route: &Route,
        request: Request,
    ) -> Result<Self, ApiError> {
        let (mut parts, body) = request.into_parts();
        let info = parts.extensions.get::<dtr_transport::RequestInfo>();
        let from = info.and_then(|info| info.source);
        let local = parts.extensions.get::<dtr_access::LocalAdmin>().is_some();
        let caller = match route.who {
            _ if local => Caller::Local,
            // Whoever logs in need not be logged in, and an old header must not stop it.
            Who::Anyone => Caller::Anonymous,
            _ => Caller::identify(&state.identity, &parts.headers, from).await?,
        };
        if matches!(caller, Caller::Anonymous) && route.who != Who::Anyone {
            return Err(ApiError::not_authenticated("log in first"));
        }
        let Path(params) = Path::<HashMap<String, String>>::from_request_parts(&mut parts, &())
            .await
            .map_err(|_| ApiError::invalid("the path is not UTF-8"))?;
        let Query(query) = Query::<HashMap<String, String>>::try_from_uri(&parts.uri)
            .map_err(|_| ApiError::invalid("the query cannot be read"))?;
        let account = match params.get("account") {
            Some(text) => find_account(&state.identity, text).await?,
            None => None,
        };
        let mut context = Self { state, caller, from, params, query, body: Bytes::new(), account };
        let standing = context.standing(route).await?;
        let by_service = route.services && standing.privileged_service;
        if !route.who.allows(&standing) && !by_service {
            return Err(ApiError::not_authorized());
        }
        if route.changes() {
            context.body = read_body(&parts.headers, body).await?;
        }
        Ok(context)
    }

    async fn standing(&self, route: &Route) -> Result<Standing, ApiError> {
        let mut standing = Standing::default();
        match &self.caller {
            Caller::Anonymous => {}
            Caller::Local => {
                standing.user = true;
                standing.admin = true;
            }
            Caller::Service(service) => {
                standing.privileged_service = service.privileged;
                standing.own_service =
                    self.params.get("service").is_some_and(|id| id == service.id.as_str());
            }
            Caller::User { principal, .. } => {
                standing.user = true;
                standing.admin = principal.account.is_admin;
                if let Some(account) = &self.account {
                    standing.itself = principal.account.id == account.id;
                    standing.owner = account.is_org && principal.owns(&account.id);
                    standing.member = account.is_org && principal.is_member(&account.id);
                }
                if route.who == Who::TeamManager
                    && standing.member
                    && let Ok(team) = self.team().await
                {
                    let membership =
                        self.identity().team_membership(&team.id, &principal.account.id).await?;
                    standing.team_manager = membership.is_some_and(|m| m.is_admin);
                }
            }
        }
        Ok(standing)
    }

    pub(crate) fn identity(&self) -> &BuiltIn {
        &self.state.identity
    }

    pub(crate) fn param(&self, name: &str) -> &str {
        self.params.get(name).map_or("", String::as_str)
    }

    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str).filter(|text| !text.is_empty())
    }

    /// The registered service that asks.
    pub(crate) fn calling_service(&self) -> Result<&Service, ApiError> {
        match &self.caller {
            Caller::Service(service) => Ok(service),
            _ => Err(ApiError::not_authorized()),
        }
    }

    /// The session that the request was made with.
    pub(crate) fn session(&self) -> Option<&Secret> {
        match &self.caller {
            Caller::User { session, .. } => session.as_ref(),
            _ => None,
        }
    }

    /// The account that the path names.
    pub(crate) fn account(&self) -> Result<&Account, ApiError> {
        self.account.as_ref().ok_or_else(|| ApiError::missing("account", self.param("account")))
    }

    /// The organization that the path names.
    pub(crate) fn org(&self) -> Result<&Account, ApiError> {
        let missing = || ApiError::missing("organization", self.param("account"));
        self.account.as_ref().filter(|account| account.is_org).ok_or_else(missing)
    }

    /// The user that the path names as a member.
    pub(crate) async fn member(&self) -> Result<Account, ApiError> {
        let text = self.param("member");
        find_account(self.identity(), text)
            .await?
            .filter(|account| !account.is_org)
            .ok_or_else(|| ApiError::missing("user", text))
    }

    /// The team that the path names, by id or by name.
    pub(crate) async fn team(&self) -> Result<Team, ApiError> {
        let (org, text) = (&self.org()?.id, self.param("team"));
        if let Ok(id) = text.parse::<TeamId>()
            && let Some(team) = self.identity().team_by_id(org, &id).await?
        {
            return Ok(team);
        }
        let missing = || ApiError::missing("team", text);
        let name: TeamName = text.parse().map_err(|_| missing())?;
        self.identity().team(org, &name).await?.ok_or_else(missing)
    }

    /// The service that the path names, by id or, of an account, by name.
    pub(crate) async fn service(&self) -> Result<Service, ApiError> {
        let text = self.param("service");
        let owner = self.params.contains_key("account").then(|| self.account()).transpose()?;
        self.identity()
            .services()
            .await?
            .into_iter()
            .find(|service| match owner {
                Some(owner) => {
                    service.owner == owner.id
                        && (service.id.as_str() == text || service.name == text)
                }
                None => service.id.as_str() == text,
            })
            .ok_or_else(|| ApiError::missing("service", text))
    }

    /// The body as a form.
    pub(crate) fn form<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        serde_json::from_slice(&self.body).map_err(|error| {
            // The message names fields and positions. It may quote a value, so a body with a password must not come here
            // with a type error on it: forms with passwords take texts only.
            let code = if error.is_data() { "INVALID_PARAMETERS" } else { "INVALID_JSON" };
            ApiError::new(StatusCode::BAD_REQUEST, code, error.to_string())
        })
    }

    /// The body as a form; an empty one for no body at all.
    pub(crate) fn optional_form<T: DeserializeOwned + Default>(&self) -> Result<T, ApiError> {
        if self.body.is_empty() { Ok(T::default()) } else { self.form() }
    }

    pub(crate) fn limit(&self) -> Result<usize, ApiError> {
        match self.query("limit").map(str::parse::<usize>) {
            None | Some(Ok(0)) => Ok(PAGE_DEFAULT),
            Some(Ok(limit)) => Ok(limit.min(PAGE_MAX)),
            Some(Err(_)) => Err(ApiError::invalid("limit: use a number")),
        }
    }

    /// The part of a list, in order of names, that was asked for, and where the next part starts.
    pub(crate) fn page<T>(
        &self,
        items: Vec<T>,
        name: impl Fn(&T) -> &str,
    ) -> Result<(Vec<T>, String), ApiError> {
        let (start, limit) = (self.query("start").unwrap_or_default(), self.limit()?);
        let mut rest = items.into_iter().filter(|item| name(item) >= start);
        let page: Vec<T> = rest.by_ref().take(limit).collect();
        let next = rest.next().map(|item| name(&item).to_owned()).unwrap_or_default();
        Ok((page, next))
    }
}

/// An account by id or by name. No account has a name of an id's form.
pub(crate) async fn find_account(
    identity: &BuiltIn,
    text: &str,
) -> Result<Option<Account>, ApiError> {
    if let Ok(id) = text.parse::<AccountId>() {
        return Ok(identity.account_by_id(&id).await?);
    }
    match text.parse::<AccountName>() {
        Ok(name) => Ok(identity.account(&name).await?),
        Err(_) => Ok(None),
    }
}

async fn read_body(headers: &HeaderMap, body: Body) -> Result<Bytes, ApiError> {
    let mut kinds = headers.get_all(header::CONTENT_TYPE).iter();
    let kind = kinds.next().and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    let is_json = kinds.next().is_none() && kind.eq_ignore_ascii_case("application/json");
    // Demanded wherever there is a body: a page of another site can have a browser send a form, but not this type.
    if !is_json && !body.is_end_stream() {
        return Err(ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "UNSUPPORTED_MEDIA_TYPE",
            "send JSON, with Content-Type: application/json",
        ));
    }
    axum::body::to_bytes(body, BODY_MAX).await.map_err(|_| {
        ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "TOO_LARGE",
            format!("the body did not come to its end, or is longer than {BODY_MAX} bytes"),
        )
    })
}

/// 200 with JSON.
pub(crate) fn ok(value: &impl Serialize) -> Result<Response<Body>, ApiError> {
    json(StatusCode::OK, value)
}

/// A status with JSON.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Result<Response<Body>, ApiError> {
    let text = serde_json::to_vec(value).map_err(|error| {
        tracing::error!(%error, "an answer cannot be written as JSON");
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL_ERROR", "see the server's log")
    })?;
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    Ok(response)
}

/// 204.
pub(crate) fn no_content() -> Result<Response<Body>, ApiError> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}
