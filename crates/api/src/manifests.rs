//! Manifests: list, delete.

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use dtr_access::Operation;
use dtr_catalog::records::{EventType, ManifestRecord};
use dtr_store::At;
use dtr_types::{Digest, Tag};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    ApiError, ApiState,
    auth::{self, Asking},
    extract::{Params, Parted},
    paging::{PageParams, page_of},
};

/// What is known of a manifest.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ManifestView {
    /// Its digest.
    digest: String,
    /// What it is served as.
    media_type: &'static str,
    /// The configuration of an image.
    #[serde(skip_serializing_if = "Option::is_none")]
    config_digest: Option<String>,
    /// The media type of that configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    config_media_type: Option<String>,
    /// What kind of artifact it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    artifact_type: Option<String>,
    /// The manifest that it refers to as its subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    /// Operating system.
    #[serde(skip_serializing_if = "Option::is_none")]
    os: Option<String>,
    /// Architecture.
    #[serde(skip_serializing_if = "Option::is_none")]
    architecture: Option<String>,
    /// Who pushed it first.
    author: String,
    /// What it refers to, added up, in bytes.
    size: u64,
    /// When it was first pushed.
    created_at: String,
}

pub(crate) fn manifest_view(record: ManifestRecord) -> ManifestView {
    ManifestView {
        digest: record.digest.to_string(),
        media_type: record.media_type.as_str(),
        config_digest: record.config_digest.map(|digest| digest.to_string()),
        config_media_type: record.config_media_type,
        artifact_type: record.artifact_type,
        subject: record.subject.map(|digest| digest.to_string()),
        os: record.os,
        architecture: record.architecture,
        author: record.author,
        size: record.content_size,
        created_at: record.pushed_at.to_string(),
    }
}

/// List the manifests of a repository
#[utoipa::path(
    get, path = "/api/v0/repositories/{namespace}/{reponame}/manifests", tag = "manifests",
    params(("namespace" = String, Path), ("reponame" = String, Path), PageParams),
    responses((status = 200, body = Vec<ManifestView>), (status = 404, body = crate::error::Errors)),
    security(("basic" = []), ("bearer" = []), ())
)]
pub(crate) async fn list(
    State(state): State<ApiState>,
    asking: Asking,
    Parted((namespace, name)): Parted<(String, String)>,
    Params(page): Params<PageParams>,
) -> Result<(HeaderMap, Json<Vec<ManifestView>>), ApiError> {
    let (repository, _permit) =
        auth::repository(&state, &asking, &namespace, &name, Operation::ViewRepository).await?;
    let size = page.size()?;
    let prefix = dtr_catalog::keys::manifests(&repository.id);
    let mut found: Vec<ManifestRecord> = Vec::new();
    if let Some(start) = page.start().and_then(|start| start.parse::<Digest>().ok()) {
        let first = state.catalog.get_manifest(&repository.id, &start).await?;
        found.extend(first.map(|manifest| manifest.value));
    }
    let rest =
        state.catalog.list::<ManifestRecord>(&prefix, page.start(), size + 1, At::Latest).await?;
    found.extend(rest.items.into_iter().map(|manifest| manifest.value));
    let (headers, found) = page_of(found, size, |manifest| manifest.digest.to_string());
    Ok((headers, Json(found.into_iter().map(manifest_view).collect())))
}

/// Delete a manifest and all tags that name it; by a tag, only the tag. What an index lists is refused: delete the index
/// first
#[utoipa::path(
    delete, path = "/api/v0/repositories/{namespace}/{reponame}/manifests/{reference}", tag = "manifests",
    params(("namespace" = String, Path), ("reponame" = String, Path), ("reference" = String, Path)),
    responses((status = 204), (status = 400, body = crate::error::Errors),
        (status = 403, body = crate::error::Errors), (status = 404, body = crate::error::Errors),
        (status = 409, body = crate::error::Errors)),
    security(("basic" = []), ("bearer" = []))
)]
pub(crate) async fn delete(
    State(state): State<ApiState>,
    asking: Asking,
    Parted((namespace, name, reference)): Parted<(String, String, String)>,
) -> Result<StatusCode, ApiError> {
    let (repository, _permit) =
        auth::repository(&state, &asking, &namespace, &name, Operation::DeleteTag).await?;
    auth::writable(&state).await?;
    let event =
        |kind| state.event(&asking.caller, EventType::Delete, Some(&repository), kind, &reference);
    if let Ok(digest) = reference.parse::<Digest>() {
        state.catalog.delete_manifest(&repository.id, &digest, Some(&event("manifest"))).await?;
    } else if let Ok(tag) = reference.parse::<Tag>() {
        state.catalog.delete_tag(&repository.id, &tag, Some(&event("tag"))).await?;
    } else {
        return Err(ApiError::invalid(
            "INVALID_DIGEST",
            format!("\"{reference}\" is neither a digest nor a tag"),
        ));
    }
    Ok(StatusCode::NO_CONTENT)
}
