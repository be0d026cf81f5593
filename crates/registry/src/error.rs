//! The errors of `/v2`: codes and statuses of the distribution specification, messages for people. One place maps what
//! the rooms below say to what a client is told.

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use dtr_access::{AuthError, Operation};
use dtr_blobs::BlobError;
use dtr_catalog::CatalogError;
use dtr_identity::IdentityError;
use dtr_store::StoreError;
use dtr_types::{Digest, ManifestError, RepositoryName, UploadId};
use serde_json::{Value, json};

use crate::path::Reference;

/// A refused request.
#[derive(Debug)]
pub struct OciError {
    status: StatusCode,
    code: &'static str,
    message: String,
    detail: Value,
    headers: Vec<(header::HeaderName, HeaderValue)>,
    /// Whether it is the store that cannot answer.
    store_away: bool,
}

impl OciError {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        let (message, detail, headers) = (message.into(), Value::Null, Vec::new());
        Self { status, code, message, detail, headers, store_away: false }
    }

    fn detail(mut self, detail: Value) -> Self {
        self.detail = detail;
        self
    }

    pub(crate) fn header(mut self, name: header::HeaderName, value: impl AsRef<str>) -> Self {
        if let Ok(value) = HeaderValue::from_str(value.as_ref()) {
            self.headers.push((name, value));
        }
        self
    }

    /// The message for clients.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// The specification's code.
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Whether the store cannot be asked for the latest state, whatever else works.
    pub(crate) fn is_store_away(&self) -> bool {
        self.store_away
    }

    pub(crate) fn name_invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "NAME_INVALID", message)
    }

    pub(crate) fn tag_invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "TAG_INVALID", message)
    }

    pub(crate) fn digest_invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "DIGEST_INVALID", message)
    }

    pub(crate) fn size_invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "SIZE_INVALID", message)
    }

    pub(crate) fn upload_unknown(id: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "BLOB_UPLOAD_UNKNOWN",
            format!("upload {id} is not known (any more); start the upload again"),
        )
    }

    /// A name that no repository here can have.
    pub(crate) fn name_impossible(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NAME_UNKNOWN", message)
    }

    /// One text for what is absent and for what the caller may not see.
    pub(crate) fn name_unknown(name: &RepositoryName, operation: Operation) -> Self {
        let advice = match operation {
            Operation::Push => "it must be created before it is pushed to",
            _ => "check the name, and as whom you are logged in",
        };
        let message = format!("repository {name} does not exist, or you may not see it; {advice}");
        Self::new(StatusCode::NOT_FOUND, "NAME_UNKNOWN", message).detail(json!({ "name": name }))
    }

    /// The session moved on under a request: what that brought fits nowhere any more.
    pub(crate) fn upload_moved(id: &UploadId) -> Self {
        Self::new(
            StatusCode::RANGE_NOT_SATISFIABLE,
            "BLOB_UPLOAD_INVALID",
            format!(
                "upload {id} was written by another request meanwhile; ask for its status and go on from there"
            ),
        )
    }

    pub(crate) fn manifest_unknown(name: &RepositoryName, reference: &Reference) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "MANIFEST_UNKNOWN",
            format!("{name} has no manifest {reference}"),
        )
        .detail(json!({ "name": name, "reference": reference.to_string() }))
    }

    pub(crate) fn blob_unknown(name: &RepositoryName, digest: &Digest) -> Self {
        Self::new(StatusCode::NOT_FOUND, "BLOB_UNKNOWN", format!("{name} has no blob {digest}"))
            .detail(json!({ "name": name, "digest": digest }))
    }

    pub(crate) fn unsupported(message: impl Into<String>) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", message)
    }

    pub(crate) fn denied(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "DENIED", message)
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", message)
            .header(header::RETRY_AFTER, "5")
    }

    pub(crate) fn read_only() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "UNAVAILABLE",
            "the registry is read-only at the moment; pulling works, pushing works again when an administrator says so",
        )
        .header(header::RETRY_AFTER, "60")
    }

    pub(crate) fn page_invalid() -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "PAGINATION_NUMBER_INVALID",
            "n must be a number that is not negative",
        )
    }

    fn full(what: &str) -> Self {
        Self::new(
            StatusCode::INSUFFICIENT_STORAGE,
            "UNAVAILABLE",
            format!(
                "the registry's {what} is full: pushes are refused, nothing was lost. Push again when an administrator has made \
                 room; pulling and deleting go on"
            ),
        )
        .header(header::RETRY_AFTER, "60")
    }

    fn internal(error: &dyn std::fmt::Display) -> Self {
        tracing::error!(%error, "a request failed");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "UNKNOWN",
            "something went wrong inside the registry; its log says what, under this request's id",
        )
    }
}

impl IntoResponse for OciError {
    fn into_response(self) -> Response {
        let mut error = json!({ "code": self.code, "message": self.message });
        if !self.detail.is_null() {
            error["detail"] = self.detail;
        }
        let body = json!({ "errors": [error] }).to_string();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for (name, value) in self.headers {
            headers.insert(name, value);
        }
        response
    }
}

impl From<StoreError> for OciError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Full { .. } => {
                tracing::error!(%error, "the store has no room");
                Self::full("store (its disk, or the quota of etcd)")
            }
            _ if error.may_retry() => {
                tracing::error!(%error, "the store cannot be used");
                let away = Self::unavailable(
                    "the registry's store cannot be used right now; try again in a moment",
                );
                Self { store_away: true, ..away }
            }
            _ => Self::internal(&error),
        }
    }
}

impl From<CatalogError> for OciError {
    fn from(error: CatalogError) -> Self {
        let message = error.to_string();
        match error {
            CatalogError::Store(error) => error.into(),
            CatalogError::BlobMissing(digest) => Self::new(
                StatusCode::BAD_REQUEST,
                "MANIFEST_BLOB_UNKNOWN",
                format!("the manifest refers to blob {digest}, which is not in the repository; push it first"),
            )
            .detail(json!({ "digest": digest })),
            CatalogError::ManifestMissing(digest) => Self::new(
                StatusCode::BAD_REQUEST,
                "MANIFEST_BLOB_UNKNOWN",
                format!("the index lists {digest}, which is not in the repository; push it first"),
            )
            .detail(json!({ "digest": digest })),
            CatalogError::ReadOnly => Self::read_only(),
            CatalogError::TagImmutable(_)
            | CatalogError::BlobInUse(_)
            | CatalogError::Listed { .. } => Self::denied(message),
            CatalogError::Missing { .. } => {
                Self::new(StatusCode::NOT_FOUND, "NAME_UNKNOWN", message)
            }
            CatalogError::TooMany { .. } => {
                Self::new(StatusCode::BAD_REQUEST, "MANIFEST_INVALID", message)
            }
            CatalogError::Contention(_) | CatalogError::Condemned(_) => Self::unavailable(message),
            CatalogError::Record { .. } | CatalogError::Encode { .. } | CatalogError::Exists { .. } => {
                Self::internal(&message)
            }
        }
    }
}

impl From<BlobError> for OciError {
    fn from(error: BlobError) -> Self {
        let message = error.to_string();
        match error {
            BlobError::Full { .. } => {
                tracing::error!(error = %message, "the blob storage has no room");
                Self::full("blob storage")
            }
            BlobError::ReadOnly { .. } | BlobError::Unavailable { .. } => {
                tracing::error!(error = %message, "the blob storage cannot be used");
                Self::unavailable(
                    "the registry's blob storage cannot be used right now; try again in a moment",
                )
            }
            // Said in the log where it was found out.
            BlobError::NotOurs { why, .. } => {
                Self::unavailable(format!("the registry's blob storage cannot be used: {why}"))
            }
            BlobError::NotFound(_) => {
                tracing::error!(error = %message, "a blob is missing from the storage");
                Self::new(StatusCode::NOT_FOUND, "BLOB_UNKNOWN", message)
            }
            BlobError::UploadNotFound(id) => Self::upload_unknown(id.as_str()),
            // Nothing is wrong with the request: the other one ends, or is given up after a minute of silence.
            BlobError::UploadBusy(_) => Self::unavailable(message),
            BlobError::Offset { .. } => {
                Self::new(StatusCode::RANGE_NOT_SATISFIABLE, "BLOB_UPLOAD_INVALID", message)
            }
            BlobError::Range { .. } => {
                Self::new(StatusCode::RANGE_NOT_SATISFIABLE, "RANGE_INVALID", message)
            }
            BlobError::Mismatch { .. } => Self::digest_invalid(message),
            BlobError::Size { .. } => Self::size_invalid(message),
            BlobError::Body(_) => {
                Self::new(StatusCode::BAD_REQUEST, "BLOB_UPLOAD_INVALID", message)
            }
            BlobError::UploadExists(_) | BlobError::Unsuitable { .. } => Self::internal(&message),
            // Told as it is: a push heals it.
            BlobError::Corrupt { .. } | BlobError::Altered(_) => {
                tracing::error!(error = %message, "a blob is damaged in the storage");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN", message)
            }
        }
    }
}

impl From<ManifestError> for OciError {
    fn from(error: ManifestError) -> Self {
        let status = match error {
            ManifestError::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            _ => StatusCode::BAD_REQUEST,
        };
        Self::new(status, "MANIFEST_INVALID", error.to_string())
    }
}

impl From<AuthError> for OciError {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::Wrong(why) => Self::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", why),
            AuthError::Identity(error) => error.into(),
            AuthError::Catalog(error) => error.into(),
        }
    }
}

impl From<IdentityError> for OciError {
    fn from(error: IdentityError) -> Self {
        match error {
            IdentityError::WrongCredentials => {
                Self::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", error.to_string())
            }
            IdentityError::Catalog(error) => error.into(),
            IdentityError::Throttled { retry_after } => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS", error.to_string())
                    .header(header::RETRY_AFTER, retry_after.as_secs().max(1).to_string())
            }
            other => Self::unavailable(other.to_string()),
        }
    }
}
