//! Every way a request can fail, and how it is told: `{"errors":[{"code","message"}]}` with the original's codes.

use axum::{
    Json,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use dtr_catalog::CatalogError;
use dtr_identity::IdentityError;
use dtr_store::StoreError;
use serde::Serialize;
use utoipa::ToSchema;

/// A failed request.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    /// After how many seconds it may be tried again.
    retry_after: Option<u64>,
}

/// The body of a failed request.
#[derive(Serialize, ToSchema)]
pub(crate) struct Errors {
    errors: Vec<ErrorBody>,
}

/// One reason.
#[derive(Serialize, ToSchema)]
pub(crate) struct ErrorBody {
    /// For programs.
    code: String,
    /// For people.
    message: String,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        let retry_after = (status == StatusCode::SERVICE_UNAVAILABLE).then_some(5);
        Self { status, code, message: message.into(), retry_after }
    }

    pub(crate) fn invalid(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    pub(crate) fn not_authenticated() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "NOT_AUTHENTICATED",
            "log in first: with user name and password, or user name and access token",
        )
    }

    pub(crate) fn no_json() -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "UNSUPPORTED_MEDIA_TYPE",
            "send JSON, with Content-Type: application/json",
        )
    }

    pub(crate) fn not_authorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "NOT_AUTHORIZED", message)
    }

    pub(crate) fn no_such(code: &'static str, kind: &str, name: impl std::fmt::Display) -> Self {
        let message = format!("{kind} \"{name}\" does not exist, or you may not see it");
        Self::new(StatusCode::NOT_FOUND, code, message)
    }

    /// The status it is told with.
    pub fn status(&self) -> StatusCode {
        self.status
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let errors = vec![ErrorBody { code: self.code.to_owned(), message: self.message }];
        let mut response = (self.status, Json(Errors { errors })).into_response();
        let headers = response.headers_mut();
        if self.status == StatusCode::UNAUTHORIZED {
            let challenge = header::HeaderValue::from_static("Basic realm=\"dtr\"");
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

impl From<CatalogError> for ApiError {
    fn from(error: CatalogError) -> Self {
        let message = error.to_string();
        match error {
            CatalogError::Exists { .. } => Self::new(StatusCode::CONFLICT, "EXISTS", message),
            CatalogError::Missing { .. } => Self::new(StatusCode::NOT_FOUND, "NOT_FOUND", message),
            CatalogError::BlobInUse(_) | CatalogError::Listed { .. } => {
                Self::new(StatusCode::CONFLICT, "IN_USE", message)
            }
            CatalogError::Contention(_) | CatalogError::Condemned(_) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", message)
            }
            CatalogError::Store(StoreError::Full { .. }) => Self::new(
                StatusCode::INSUFFICIENT_STORAGE,
                "STORAGE_FULL",
                "the registry's store (its disk, or the quota of etcd) has no room for this; nothing was changed. Deleting and \
                 collecting go on; \"dtr status\" says what to do",
            ),
            CatalogError::Store(store) if store.may_retry() => {
                tracing::error!(error = %store, "the store cannot be used");
                Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "UNAVAILABLE",
                    "the registry's store cannot be used right now; try again in a moment",
                )
            }
            other => Self::internal(&other),
        }
    }
}

impl From<IdentityError> for ApiError {
    fn from(error: IdentityError) -> Self {
        match error {
            IdentityError::WrongCredentials => {
                Self::new(StatusCode::UNAUTHORIZED, "NOT_AUTHENTICATED", error.to_string())
            }
            IdentityError::Catalog(error) => error.into(),
            // Not 503: a balancer would take a server for sick to which one client guesses passwords.
            IdentityError::Throttled { retry_after } => {
                let status = StatusCode::TOO_MANY_REQUESTS;
                let throttled = Self::new(status, "TOO_MANY_REQUESTS", error.to_string());
                Self { retry_after: Some(retry_after.as_secs().max(1)), ..throttled }
            }
            other => Self::new(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", other.to_string()),
        }
    }
}

impl ApiError {
    /// Something that is nobody's fault who asks: the cause goes to the log, not to the client.
    pub(crate) fn internal(error: &dyn std::fmt::Display) -> Self {
        tracing::error!(%error, "a request failed");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "INTERNAL_ERROR",
            "something went wrong inside the registry; its log says what, under this request's id",
        )
    }
}

pub(crate) async fn not_found() -> ApiError {
    ApiError::new(
        StatusCode::NOT_FOUND,
        "NOT_FOUND",
        "there is no such endpoint; /api/v0/openapi.json lists them",
    )
}

pub(crate) async fn not_allowed() -> ApiError {
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "NOT_ALLOWED",
        "this endpoint has no such method; /api/v0/openapi.json lists them",
    )
}
