//! What belongs to no other face: `/_ping`, `/ca`, `/metrics`.

use std::{net::IpAddr, sync::Arc};

use axum::{
    Extension, Router,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use dtr_access::{Access, AuthError, Caller, Denied, LocalAdmin, Operation};
use dtr_catalog::Catalog;
use dtr_identity::IdentityError;
use dtr_transport::{Metrics, RequestInfo, error_response};
use serde_json::json;

use crate::{assets, health::Health};

/// The routes.
pub(crate) fn routes(
    catalog: &Catalog,
    health: &Health,
    access: &Access,
    metrics: &Arc<Metrics>,
) -> Router {
    let (ca, ping) = (catalog.clone(), health.clone());
    let (access, metrics) = (access.clone(), Arc::clone(metrics));
    let figures = move |local: Option<Extension<LocalAdmin>>,
                        info: Option<Extension<RequestInfo>>,
                        headers: HeaderMap| async move {
        let from = info.and_then(|Extension(info)| info.source);
        let allowed = match local {
            Some(_) => Ok(()),
            None => may_read_figures(&access, &headers, from).await,
        };
        allowed.map_or_else(|refused| refused, |()| metrics.response())
    };
    Router::new()
        .route("/_ping", get(move || async move { ping.ping().await }))
        .route("/ca", get(move || async move { serve_ca(&ca).await }))
        .route("/metrics", get(figures))
}

async fn serve_ca(catalog: &Catalog) -> Response {
    match assets::trust_bundle(catalog).await {
        Ok(pem) => ([(header::CONTENT_TYPE, "application/x-pem-file")], pem).into_response(),
        Err(error) => {
            tracing::error!(%error, "the certificate authority cannot be served");
            StatusCode::SERVICE_UNAVAILABLE.into_response()
        }
    }
}

/// Whether the figures are for who asks: an administrator, also by a token that can only pull.
async fn may_read_figures(
    access: &Access,
    headers: &HeaderMap,
    from: Option<IpAddr>,
) -> Result<(), Response> {
    let header = headers.get(header::AUTHORIZATION).map(HeaderValue::to_str);
    let caller = match header {
        None => Caller::Anonymous,
        Some(Ok(text)) => match access.caller_from_header_at(text, from).await {
            Ok(caller) => caller,
            Err(error) => return Err(refused_login(&error)),
        },
        Some(Err(_)) => return Err(unauthorized()),
    };
    match access.authorize_system(&caller, Operation::ViewMetrics) {
        Ok(_permit) => Ok(()),
        Err(Denied::NotAuthenticated) => Err(unauthorized()),
        Err(denied) => {
            let (status, code) = (StatusCode::FORBIDDEN, "DENIED");
            Err(error_response(status, code, &denied.to_string(), &json!({})))
        }
    }
}

fn refused_login(error: &AuthError) -> Response {
    match error {
        AuthError::Wrong(_) | AuthError::Identity(IdentityError::WrongCredentials) => {
            unauthorized()
        }
        AuthError::Identity(IdentityError::Throttled { retry_after }) => {
            let (status, code) = (StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS");
            let mut response = error_response(status, code, &error.to_string(), &json!({}));
            let seconds = retry_after.as_secs().max(1);
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
            response
        }
        other => {
            let status = StatusCode::SERVICE_UNAVAILABLE;
            error_response(status, "UNAVAILABLE", &other.to_string(), &json!({}))
        }
    }
}

fn unauthorized() -> Response {
    let message =
        "log in as an administrator, for instance with an access token of one that can only pull";
    let mut response =
        error_response(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", message, &json!({}));
    let challenge = HeaderValue::from_static("Basic realm=\"dtr\"");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    response
}
