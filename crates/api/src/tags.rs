//! Tags: list, show, delete.

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use dtr_access::Operation;
use dtr_catalog::records::{EventType, TagRecord};
use dtr_store::At;
use dtr_types::Tag;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{
    ApiError, ApiState,
    auth::{self, Asking},
    extract::{Params, Parted, name as parse_name},
    manifests::{ManifestView, manifest_view},
    paging::{PageParams, page_of},
};

/// A tag.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TagView {
    /// The tag.
    name: String,
    /// What it names.
    digest: String,
    /// Who pushed it last.
    author: String,
    /// When it was first pushed.
    created_at: String,
    /// When it was last pushed.
    updated_at: String,
    /// Whether its trust data names other content (no trust data is kept yet).
    hash_mismatch: bool,
    /// Whether it has trust data (none is kept yet).
    in_notary: bool,
    /// What is known of the manifest.
    #[serde(skip_serializing_if = "Option::is_none")]
    manifest: Option<ManifestView>,
}

/// What to tell of tags.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(crate) struct TagParams {
    /// Whether to tell of their manifests as well.
    #[serde(default)]
    include_manifests: bool,
}

async fn tag_view(
    state: &ApiState,
    record: TagRecord,
    with_manifest: bool,
) -> Result<TagView, ApiError> {
    let manifest = if with_manifest {
        let found = state.catalog.get_manifest(&record.repository, &record.digest).await?;
        found.map(|found| manifest_view(found.value))
    } else {
        None
    };
    Ok(TagView {
        name: record.name.to_string(),
        digest: record.digest.to_string(),
        author: record.author,
        created_at: record.created_at.to_string(),
        updated_at: record.updated_at.to_string(),
        hash_mismatch: false,
        in_notary: false,
        manifest,
    })
}

/// List the tags of a repository
#[utoipa::path(
    get, path = "/api/v0/repositories/{namespace}/{reponame}/tags", tag = "tags",
    params(("namespace" = String, Path), ("reponame" = String, Path), TagParams, PageParams),
    responses((status = 200, body = Vec<TagView>), (status = 404, body = crate::error::Errors)),
    security(("basic" = []), ("bearer" = []), ())
)]
pub(crate) async fn list(
    State(state): State<ApiState>,
    asking: Asking,
    Parted((namespace, name)): Parted<(String, String)>,
    Params(params): Params<TagParams>,
    Params(page): Params<PageParams>,
) -> Result<(HeaderMap, Json<Vec<TagView>>), ApiError> {
    let (repository, _permit) =
        auth::repository(&state, &asking, &namespace, &name, Operation::ViewRepository).await?;
    let size = page.size()?;
    let prefix = dtr_catalog::keys::tags(&repository.id);
    let mut tags: Vec<TagRecord> = Vec::new();
    if let Some(start) = page.start().and_then(|start| start.parse().ok()) {
        tags.extend(state.catalog.get_tag(&repository.id, &start).await?.map(|tag| tag.value));
    }
    let rest = state.catalog.list::<TagRecord>(&prefix, page.start(), size + 1, At::Latest).await?;
    tags.extend(rest.items.into_iter().map(|tag| tag.value));
    let (headers, tags) = page_of(tags, size, |tag| tag.name.to_string());
    let mut views = Vec::with_capacity(tags.len());
    for tag in tags {
        views.push(tag_view(&state, tag, params.include_manifests).await?);
    }
    Ok((headers, Json(views)))
}

/// Show a tag
#[utoipa::path(
    get, path = "/api/v0/repositories/{namespace}/{reponame}/tags/{tag}", tag = "tags",
    params(("namespace" = String, Path), ("reponame" = String, Path), ("tag" = String, Path)),
    responses((status = 200, body = TagView), (status = 404, body = crate::error::Errors)),
    security(("basic" = []), ("bearer" = []), ())
)]
pub(crate) async fn get(
    State(state): State<ApiState>,
    asking: Asking,
    Parted((namespace, name, tag)): Parted<(String, String, String)>,
) -> Result<Json<TagView>, ApiError> {
    let (repository, _permit) =
        auth::repository(&state, &asking, &namespace, &name, Operation::ViewRepository).await?;
    let parsed: Tag = parse_name(&tag, "NO_SUCH_TAG", "tag")?;
    match state.catalog.get_tag(&repository.id, &parsed).await? {
        Some(found) => Ok(Json(tag_view(&state, found.value, true).await?)),
        None => Err(ApiError::no_such("NO_SUCH_TAG", "tag", tag)),
    }
}

/// Delete a tag; what it names stays, as the original does it: 204 also when it was not there
#[utoipa::path(
    delete, path = "/api/v0/repositories/{namespace}/{reponame}/tags/{tag}", tag = "tags",
    params(("namespace" = String, Path), ("reponame" = String, Path), ("tag" = String, Path)),
    responses((status = 204), (status = 403, body = crate::error::Errors),
        (status = 404, body = crate::error::Errors)),
    security(("basic" = []), ("bearer" = []))
)]
pub(crate) async fn delete(
    State(state): State<ApiState>,
    asking: Asking,
    Parted((namespace, name, tag)): Parted<(String, String, String)>,
) -> Result<StatusCode, ApiError> {
    let (repository, _permit) =
        auth::repository(&state, &asking, &namespace, &name, Operation::DeleteTag).await?;
    let parsed: Tag = parse_name(&tag, "NO_SUCH_TAG", "tag")?;
    auth::writable(&state).await?;
    let event = state.event(&asking.caller, EventType::Delete, Some(&repository), "tag", &tag);
    state.catalog.delete_tag(&repository.id, &parsed, Some(&event)).await?;
    Ok(StatusCode::NO_CONTENT)
}
