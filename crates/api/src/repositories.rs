//! Repositories: list, make, show, change, delete.

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use dtr_access::Operation;
use dtr_catalog::{
    CatalogError,
    records::{Account, EventType, Repository, Visibility},
};
use dtr_types::{RepositoryId, RepositoryName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    ApiError, ApiState,
    auth::{self, Asking},
    extract::{Body, Params, Parted, account_name},
    paging::{PageParams, page_of},
};

/// A repository.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RepositoryView {
    /// Its id.
    id: String,
    /// The account that owns it.
    namespace: String,
    /// `user` or `organization`.
    namespace_type: &'static str,
    /// Its name in the namespace.
    name: String,
    /// One line.
    short_description: String,
    /// A page of Markdown.
    long_description: String,
    /// `public` or `private`.
    visibility: String,
    /// Whether a push starts a scan.
    scan_on_push: bool,
    /// Whether no tag can be pushed twice.
    immutable_tags: bool,
    /// How many tags to keep; 0 means all. The oldest goes when another is pushed, and so do those beyond a lowered limit.
    tag_limit: u32,
    /// How often manifests were pulled.
    pulls: u64,
    /// How often manifests were pushed.
    pushes: u64,
    /// When it was made.
    created_at: String,
}

/// A page of repositories.
#[derive(Serialize, ToSchema)]
pub(crate) struct RepositoryList {
    repositories: Vec<RepositoryView>,
}

/// What a new repository is like.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct NewRepository {
    /// Its name in the namespace; may have several components.
    name: String,
    /// `public` or `private` (the default).
    #[serde(default)]
    visibility: Option<String>,
    /// One line.
    #[serde(default)]
    short_description: String,
    /// A page of Markdown.
    #[serde(default)]
    long_description: String,
    /// Whether a push starts a scan; only `false`, for there is no scanner in this version.
    #[serde(default)]
    scan_on_push: bool,
    /// Whether no tag can be pushed twice.
    #[serde(default)]
    immutable_tags: bool,
    /// How many tags to keep; 0 means all. The oldest goes when another is pushed, and so do those beyond a lowered limit.
    #[serde(default)]
    tag_limit: u32,
    /// Accepted for old clients; lists of manifests are always accepted.
    #[serde(default, rename = "enableManifestLists")]
    _enable_manifest_lists: Option<bool>,
}

/// What changes; what is left out stays.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct RepositoryChange {
    /// `public` or `private`.
    visibility: Option<String>,
    /// One line.
    short_description: Option<String>,
    /// A page of Markdown.
    long_description: Option<String>,
    /// Whether a push starts a scan; only `false`, for there is no scanner in this version.
    scan_on_push: Option<bool>,
    /// Whether no tag can be pushed twice.
    immutable_tags: Option<bool>,
    /// How many tags to keep; 0 means all. The oldest goes when another is pushed, and so do those beyond a lowered limit.
    tag_limit: Option<u32>,
    /// Accepted for old clients; lists of manifests are always accepted.
    #[serde(rename = "enableManifestLists")]
    _enable_manifest_lists: Option<bool>,
}

/// Tags beyond a lowered limit that the request itself removes; the background work goes on.
const TAGS_REMOVED_MAX: usize = 100;
/// Characters of a short description.
const SHORT_MAX: usize = 140;
/// Bytes of a long description.
const LONG_MAX: usize = 64 * 1024;

fn visibility(text: Option<&str>) -> Result<Option<Visibility>, ApiError> {
    match text {
        None => Ok(None),
        Some("public") => Ok(Some(Visibility::Public)),
        Some("private") => Ok(Some(Visibility::Private)),
        Some(other) => Err(ApiError::invalid(
            "INVALID_REPOSITORY_VISIBILITY",
            format!("visibility \"{other}\" is not known; use public or private"),
        )),
    }
}

fn check_descriptions(short: Option<&str>, long: Option<&str>) -> Result<(), ApiError> {
    if short.is_some_and(|text| text.chars().count() > SHORT_MAX) {
        return Err(ApiError::invalid(
            "INVALID_PARAMETERS",
            format!("shortDescription has more than {SHORT_MAX} characters"),
        ));
    }
    if long.is_some_and(|text| text.len() > LONG_MAX) {
        return Err(ApiError::invalid(
            "INVALID_PARAMETERS",
            format!("longDescription has more than {LONG_MAX} bytes"),
        ));
    }
    Ok(())
}

/// Refuses what nothing would come of.
fn check_scan(scan_on_push: bool) -> Result<(), ApiError> {
    match scan_on_push {
        true => Err(ApiError::invalid(
            "INVALID_PARAMETERS",
            "scanOnPush cannot be true: this version has no scanner",
        )),
        false => Ok(()),
    }
}

/// A limit removes tags, and immutable ones are to stay.
fn check_tags(repository: &Repository) -> Result<(), ApiError> {
    match repository.immutable_tags && repository.tag_limit > 0 {
        true => Err(ApiError::invalid(
            "INVALID_PARAMETERS",
            "immutableTags and tagLimit exclude each other: a limit removes the oldest tags. Set tagLimit to 0, or \
             immutableTags to false",
        )),
        false => Ok(()),
    }
}

pub(crate) async fn view(
    state: &ApiState,
    repository: Repository,
) -> Result<RepositoryView, ApiError> {
    let counters = state.catalog.counters(&repository.id).await?;
    Ok(RepositoryView {
        id: repository.id.to_string(),
        namespace: repository.name.namespace().to_string(),
        namespace_type: if repository.namespace_is_org { "organization" } else { "user" },
        name: repository.name.name().to_owned(),
        short_description: repository.short_description,
        long_description: repository.long_description,
        visibility: match repository.visibility {
            Visibility::Public => "public".to_owned(),
            Visibility::Private => "private".to_owned(),
        },
        scan_on_push: repository.scan_on_push,
        immutable_tags: repository.immutable_tags,
        tag_limit: repository.tag_limit,
        pulls: counters.pulls,
        pushes: counters.pushes,
        created_at: repository.created_at.to_string(),
    })
}

/// The readable repositories from a name on: reads on until a page is full or nothing is left.
pub(crate) async fn readable(
    state: &ApiState,
    asking: &Asking,
    namespace: Option<&dtr_types::AccountName>,
    start: Option<&str>,
    want: usize,
) -> Result<Vec<Repository>, ApiError> {
    let mut found = Vec::new();
    let mut after: Option<RepositoryName> = None;
    if let Some(start) = start {
        let first: RepositoryName = start.parse().map_err(|_| {
            ApiError::invalid("INVALID_PARAMETERS", "pageStart is not a repository's full name")
        })?;
        if let Some(at_start) = state.catalog.lookup_repository(&first).await?
            && namespace.is_none_or(|namespace| *namespace == first.namespace())
            && auth::may_read(state, asking, &at_start.value).await?
        {
            found.push(at_start.value);
        }
        after = Some(first);
    }
    loop {
        let page = state
            .catalog
            .list_repositories(namespace, after.as_ref().map(RepositoryName::as_str), 200)
            .await?;
        after = page.items.last().map(|repository| repository.name.clone());
        for repository in page.items {
            if auth::may_read(state, asking, &repository).await? {
                found.push(repository);
                if found.len() == want {
                    return Ok(found);
                }
            }
        }
        if !page.more || after.is_none() {
            return Ok(found);
        }
    }
}

async fn list_page(
    state: &ApiState,
    asking: &Asking,
    namespace: Option<&dtr_types::AccountName>,
    page: &PageParams,
) -> Result<(HeaderMap, Json<RepositoryList>), ApiError> {
    let _permit = auth::system(state, asking, Operation::ListRepositories).await?;
    let size = page.size()?;
    let found = readable(state, asking, namespace, page.start(), size + 1).await?;
    let (headers, found) = page_of(found, size, |repository| repository.name.to_string());
    let mut repositories = Vec::with_capacity(found.len());
    for repository in found {
        repositories.push(view(state, repository).await?);
    }
    Ok((headers, Json(RepositoryList { repositories })))
}

/// List the repositories that one can see
#[utoipa::path(
    get, path = "/api/v0/repositories", tag = "repositories", params(PageParams),
    responses((status = 200, body = RepositoryList)), security(("basic" = []), ("bearer" = []), ())
)]
pub(crate) async fn list(
    State(state): State<ApiState>,
    asking: Asking,
    Params(page): Params<PageParams>,
) -> Result<(HeaderMap, Json<RepositoryList>), ApiError> {
    list_page(&state, &asking, None, &page).await
}

/// List the repositories of a namespace that one can see
#[utoipa::path(
    get, path = "/api/v0/repositories/{namespace}", tag = "repositories",
    params(("namespace" = String, Path), PageParams),
    responses((status = 200, body = RepositoryList)), security(("basic" = []), ("bearer" = []), ())
)]
pub(crate) async fn list_namespace(
    State(state): State<ApiState>,
    asking: Asking,
    Parted(namespace): Parted<String>,
    Params(page): Params<PageParams>,
) -> Result<(HeaderMap, Json<RepositoryList>), ApiError> {
    list_page(&state, &asking, Some(&account_name(&namespace)?), &page).await
}

/// Make a repository
#[utoipa::path(
    post, path = "/api/v0/repositories/{namespace}", tag = "repositories",
    params(("namespace" = String, Path)), request_body = NewRepository,
    responses((status = 201, body = RepositoryView), (status = 400, body = crate::error::Errors),
        (status = 403, body = crate::error::Errors)),
    security(("basic" = []), ("bearer" = []))
)]
pub(crate) async fn create(
    State(state): State<ApiState>,
    asking: Asking,
    Parted(namespace): Parted<String>,
    Body(new): Body<NewRepository>,
) -> Result<Response, ApiError> {
    let namespace = account_name(&namespace)?;
    let (owner, _permit) =
        auth::namespace(&state, &asking, &namespace, Operation::CreateRepository).await?;
    let repository = new_repository(&state, &owner, new)?;
    let event = state.event(
        &asking.caller,
        EventType::Create,
        Some(&repository),
        "repository",
        &repository.name,
    );
    match state.catalog.create_repository(&repository, Some(&event)).await {
        Err(CatalogError::Exists { .. }) => Err(ApiError::invalid(
            "REPOSITORY_EXISTS",
            format!("repository \"{}\" exists already", repository.name),
        )),
        Err(error) => Err(error.into()),
        Ok(()) => Ok((StatusCode::CREATED, Json(view(&state, repository).await?)).into_response()),
    }
}

fn new_repository(
    state: &ApiState,
    owner: &Account,
    new: NewRepository,
) -> Result<Repository, ApiError> {
    let name = RepositoryName::new(&owner.name, &new.name)
        .map_err(|error| ApiError::invalid("INVALID_PARAMETERS", error.to_string()))?;
    check_descriptions(Some(&new.short_description), Some(&new.long_description))?;
    check_scan(new.scan_on_push)?;
    let repository = Repository {
        id: RepositoryId::random(state.catalog.random()),
        name,
        namespace: owner.id.clone(),
        namespace_is_org: owner.is_org,
        visibility: visibility(new.visibility.as_deref())?.unwrap_or_default(),
        short_description: new.short_description,
        long_description: new.long_description,
        immutable_tags: new.immutable_tags,
        scan_on_push: new.scan_on_push,
        tag_limit: new.tag_limit,
        created_at: state.catalog.now(),
    };
    check_tags(&repository)?;
    Ok(repository)
}

/// Show a repository
#[utoipa::path(
    get, path = "/api/v0/repositories/{namespace}/{reponame}", tag = "repositories",
    params(("namespace" = String, Path), ("reponame" = String, Path, description = "a slash in it is written %2F")),
    responses((status = 200, body = RepositoryView), (status = 404, body = crate::error::Errors)),
    security(("basic" = []), ("bearer" = []), ())
)]
pub(crate) async fn get(
    State(state): State<ApiState>,
    asking: Asking,
    Parted((namespace, name)): Parted<(String, String)>,
) -> Result<Json<RepositoryView>, ApiError> {
    let (repository, _permit) =
        auth::repository(&state, &asking, &namespace, &name, Operation::ViewRepository).await?;
    Ok(Json(view(&state, repository).await?))
}

/// Change a repository
#[utoipa::path(
    patch, path = "/api/v0/repositories/{namespace}/{reponame}", tag = "repositories",
    params(("namespace" = String, Path), ("reponame" = String, Path)), request_body = RepositoryChange,
    responses((status = 200, body = RepositoryView), (status = 403, body = crate::error::Errors),
        (status = 404, body = crate::error::Errors)),
    security(("basic" = []), ("bearer" = []))
)]
pub(crate) async fn update(
    State(state): State<ApiState>,
    asking: Asking,
    Parted((namespace, name)): Parted<(String, String)>,
    Body(change): Body<RepositoryChange>,
) -> Result<Json<RepositoryView>, ApiError> {
    let (repository, _permit) =
        auth::repository(&state, &asking, &namespace, &name, Operation::EditRepository).await?;
    check_scan(change.scan_on_push.unwrap_or_default())?;
    let visible = visibility(change.visibility.as_deref())?;
    check_descriptions(change.short_description.as_deref(), change.long_description.as_deref())?;
    let event = state.event(
        &asking.caller,
        EventType::Update,
        Some(&repository),
        "repository",
        &repository.name,
    );
    let key = dtr_catalog::keys::repository(&repository.id);
    let mut exclusive = Ok(());
    let changed = state
        .catalog
        .change(&key, Some(&event), |old| {
            let mut new = old.clone();
            new.visibility = visible.unwrap_or(old.visibility);
            new.scan_on_push = change.scan_on_push.unwrap_or(old.scan_on_push);
            new.immutable_tags = change.immutable_tags.unwrap_or(old.immutable_tags);
            new.tag_limit = change.tag_limit.unwrap_or(old.tag_limit);
            if let Some(text) = &change.short_description {
                new.short_description.clone_from(text);
            }
            if let Some(text) = &change.long_description {
                new.long_description.clone_from(text);
            }
            // What is there from before stays until one of the two is changed.
            let touched = change.immutable_tags.is_some() || change.tag_limit.is_some();
            exclusive = if touched { check_tags(&new) } else { Ok(()) };
            (exclusive.is_ok() && new != *old).then_some(new)
        })
        .await?;
    exclusive?;
    let changed = changed
        .ok_or_else(|| ApiError::no_such("NO_SUCH_REPOSITORY", "repository", &repository.name))?;
    if change.tag_limit.is_some() {
        state.catalog.enforce_tag_limit(&changed.id, TAGS_REMOVED_MAX).await?;
    }
    Ok(Json(view(&state, changed).await?))
}

/// Delete a repository with all its tags
#[utoipa::path(
    delete, path = "/api/v0/repositories/{namespace}/{reponame}", tag = "repositories",
    params(("namespace" = String, Path), ("reponame" = String, Path)),
    responses((status = 204), (status = 403, body = crate::error::Errors),
        (status = 404, body = crate::error::Errors)),
    security(("basic" = []), ("bearer" = []))
)]
pub(crate) async fn delete(
    State(state): State<ApiState>,
    asking: Asking,
    Parted((namespace, name)): Parted<(String, String)>,
) -> Result<StatusCode, ApiError> {
    let (repository, _permit) =
        auth::repository(&state, &asking, &namespace, &name, Operation::DeleteRepository).await?;
    delete_one(&state, &asking, &repository).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Deletes a repository with its event. The event is not in the repository's own list: that goes with it.
pub(crate) async fn delete_one(
    state: &ApiState,
    asking: &Asking,
    repository: &Repository,
) -> Result<(), ApiError> {
    let name = &repository.name;
    let mut event =
        state.event(&asking.caller, EventType::Delete, Some(repository), "repository", name);
    event.repository_id = None;
    state.catalog.delete_repository(name, Some(&event)).await?;
    Ok(())
}
