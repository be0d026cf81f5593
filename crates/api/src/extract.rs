//! Typed parts of requests, with errors in this face's form.

use std::str::FromStr;

use axum::{
    Json,
    extract::{FromRequest, FromRequestParts, Path, Query, Request, rejection::JsonRejection},
    http::{HeaderMap, StatusCode, header, request::Parts},
};
use dtr_types::{AccountName, RepositoryName};
use serde::de::DeserializeOwned;

use crate::ApiError;

/// What was wrong, by field where that is known, without the reading library's words about itself.
fn told(rejection: &dyn std::error::Error) -> String {
    rejection.source().map_or_else(|| rejection.to_string(), ToString::to_string)
}

/// A JSON body.
pub(crate) struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = ApiError;
    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        match Json::<T>::from_request(request, state).await {
            Ok(Json(value)) => Ok(Self(value)),
            Err(JsonRejection::MissingJsonContentType(_)) => Err(ApiError::no_json()),
            Err(rejection) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                Err(ApiError::new(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    "INVALID_JSON",
                    "the body is larger than 1 MiB",
                ))
            }
            // JSON, but not of this form: a name that cannot be, a number out of its bounds.
            Err(rejection @ JsonRejection::JsonDataError(_)) => {
                Err(ApiError::invalid("INVALID_PARAMETERS", told(&rejection)))
            }
            Err(rejection) => Err(ApiError::invalid("INVALID_JSON", told(&rejection))),
        }
    }
}

/// Whether the body is said to be JSON.
pub(crate) fn is_json(headers: &HeaderMap) -> bool {
    let mut kinds = headers.get_all(header::CONTENT_TYPE).iter();
    let kind = kinds.next().and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    kinds.next().is_none() && kind.eq_ignore_ascii_case("application/json")
}

/// The query.
pub(crate) struct Params<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(value)) => Ok(Self(value)),
            Err(rejection) => Err(ApiError::invalid("INVALID_PARAMETERS", told(&rejection))),
        }
    }
}

/// The parts of the path, as text.
pub(crate) struct Parted<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Parted<T> {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Path::<T>::from_request_parts(parts, state).await {
            Ok(Path(value)) => Ok(Self(value)),
            Err(rejection) => Err(ApiError::invalid("INVALID_PARAMETERS", told(&rejection))),
        }
    }
}

/// A name of a kind; one that cannot be does not exist.
pub(crate) fn name<T: FromStr>(text: &str, code: &'static str, kind: &str) -> Result<T, ApiError> {
    text.parse().map_err(|_| ApiError::no_such(code, kind, text))
}

/// A repository's full name from the two parts of a path.
pub(crate) fn repository_name(namespace: &str, name: &str) -> Result<RepositoryName, ApiError> {
    let full = format!("{namespace}/{name}");
    full.parse().map_err(|_| ApiError::no_such("NO_SUCH_REPOSITORY", "repository", full))
}

/// An account's name.
pub(crate) fn account_name(text: &str) -> Result<AccountName, ApiError> {
    name(text, "NO_SUCH_ACCOUNT", "account")
}
