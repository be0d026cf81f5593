//! Errors as the original writes them: `{"errors":[{"code","message"}]}`.

use axum::body::Body;
use dtr_catalog::CatalogError;
use dtr_identity::{
    IdentityError, ManageError,
    wire::{ErrorEntry, Errors},
};
use dtr_store::StoreError;
use http::{HeaderValue, Response, StatusCode, header};

/// An error on its way to the client.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    retry_after: Option<u64>,
    challenge: bool,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), retry_after: None, challenge: false }
    }

    pub(crate) fn not_authenticated(message: &str) -> Self {
        let error = Self::new(StatusCode::UNAUTHORIZED, "NOT_AUTHENTICATED", message);
        Self { challenge: true, ..error }
    }

    pub(crate) fn not_authorized() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "NOT_AUTHORIZED",
            "you may not do this, or what it is about is not there",
        )
    }

    pub(crate) fn not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "NOT_ALLOWED",
            "this address does not know that method",
        )
    }

    pub(crate) fn not_offered(message: &str) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, "NOT_IMPLEMENTED", message)
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "INVALID_PARAMETERS", message)
    }

    pub(crate) fn missing(kind: &str, name: &str) -> Self {
        let code = match kind {
            "user" => "NO_SUCH_USER",
            "team" => "NO_SUCH_TEAM",
            "service" => "NO_SUCH_SERVICE",
            "member" => "NO_SUCH_MEMBER",
            "organization" => "NO_SUCH_ORGANIZATION",
            _ => "NO_SUCH_ACCOUNT",
        };
        let name: String = name.chars().take(100).collect();
        Self::new(StatusCode::NOT_FOUND, code, format!("{kind} \"{name}\" is not there"))
    }

    fn unavailable(message: String) -> Self {
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", message);
        Self { retry_after: Some(1), ..error }
    }

    pub(crate) fn into_response(self) -> Response<Body> {
        let errors = Errors {
            errors: vec![ErrorEntry { code: self.code.to_owned(), message: self.message }],
        };
        let text = serde_json::to_vec(&errors).unwrap_or_default();
        let mut response = Response::new(Body::from(text));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if self.challenge {
            let basic = HeaderValue::from_static("Basic realm=\"enzi\"");
            headers.insert(header::WWW_AUTHENTICATE, basic);
        }
        response
    }
}

impl From<IdentityError> for ApiError {
    fn from(error: IdentityError) -> Self {
        match error {
            IdentityError::WrongCredentials => Self::not_authenticated(&error.to_string()),
            IdentityError::Throttled { retry_after } => {
                let status = StatusCode::TOO_MANY_REQUESTS;
                let throttled = Self::new(status, "TOO_MANY_REQUESTS", error.to_string());
                Self { retry_after: Some(retry_after.as_secs().max(1)), ..throttled }
            }
            IdentityError::Unavailable { reason } => Self::unavailable(reason),
            IdentityError::Catalog(error) => error.into(),
        }
    }
}

impl From<CatalogError> for ApiError {
    fn from(error: CatalogError) -> Self {
        match &error {
            CatalogError::Store(StoreError::Full { .. }) => Self::new(
                StatusCode::INSUFFICIENT_STORAGE,
                "NO_SPACE",
                "the identity service has no room left to store this",
            ),
            CatalogError::Store(store) if store.may_retry() => Self::unavailable(error.to_string()),
            CatalogError::Contention(_) => Self::unavailable(error.to_string()),
            _ => {
                tracing::error!(%error, "the catalog failed");
                Self::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "INTERNAL_ERROR",
                    "an error inside the server; its log has more",
                )
            }
        }
    }
}

impl From<ManageError> for ApiError {
    fn from(error: ManageError) -> Self {
        let text = error.to_string();
        match error {
            ManageError::Exists { kind, .. } => {
                let code = match kind {
                    "team" => "TEAM_EXISTS",
                    "service" => "SERVICE_EXISTS",
                    _ => "ACCOUNT_EXISTS",
                };
                Self::new(StatusCode::CONFLICT, code, text)
            }
            ManageError::Missing { kind, name } => Self::missing(kind, &name),
            ManageError::Refused(_) => Self::new(StatusCode::CONFLICT, "NOT_ALLOWED", text),
            ManageError::Invalid { .. } => Self::invalid(text),
            ManageError::Identity(error) => error.into(),
        }
    }
}
