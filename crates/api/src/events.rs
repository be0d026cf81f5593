//! Events: who did what, when; of the whole registry or of one repository.

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderValue},
};
use dtr_access::Operation;
use dtr_catalog::records::{Event, EventType, Repository};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{
    ApiError, ApiState,
    auth::{self, Asking},
    extract::{Params, Parted},
    paging::{NEXT_PAGE, PageParams, page_of},
};

/// What was done.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EventView {
    /// Its id; ids sort by time.
    id: String,
    /// When.
    published_at: String,
    /// Who, by name; empty for anonymous.
    actor: String,
    /// Who, by id.
    actor_id: String,
    /// `user`, `system` or `anonymous`.
    actor_type: &'static str,
    /// `CREATE`, `GET`, `UPDATE`, `DELETE`, `SEND`, `FAIL` or `SCAN`.
    #[serde(rename = "type")]
    event_type: &'static str,
    /// In which repository.
    repository: String,
    /// To what.
    object: ObjectView,
    /// How often, within seconds.
    count: u64,
}

/// What it was done to.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ObjectView {
    /// Its id or digest, where it has one besides its name.
    id: String,
    /// `tag`, `manifest`, `repository`, `grant`, `token` ...
    #[serde(rename = "type")]
    kind: String,
    /// Its name.
    name: String,
}

/// Which events.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(crate) struct EventParams {
    /// Only those before this time, in RFC 3339 form.
    #[param(format = DateTime)]
    published_before: Option<String>,
    /// Only those at or after this time, in RFC 3339 form.
    #[param(format = DateTime)]
    published_after: Option<String>,
    /// Only those of this actor, by id.
    actor_id: Option<String>,
    /// Only those of this type.
    event_type: Option<String>,
    /// Only those about this kind of object.
    object_type: Option<String>,
    /// Leave pulls out.
    #[serde(default)]
    exclude_pull: bool,
}

fn type_name(event_type: EventType) -> &'static str {
    match event_type {
        EventType::Create => "CREATE",
        EventType::Get => "GET",
        EventType::Update => "UPDATE",
        EventType::Delete => "DELETE",
        EventType::Send => "SEND",
        EventType::Fail => "FAIL",
        EventType::Scan => "SCAN",
    }
}

pub(crate) fn event_view(event: Event) -> EventView {
    EventView {
        id: event.id,
        published_at: event.published_at.to_string(),
        actor_type: match (&event.actor_id, event.actor.as_str()) {
            (Some(_), _) => "user",
            (None, "") => "anonymous",
            (None, _) => "system",
        },
        actor: event.actor,
        actor_id: event.actor_id.map(|id| id.to_string()).unwrap_or_default(),
        event_type: type_name(event.event_type),
        repository: event.repository,
        object: ObjectView {
            id: event.object.id,
            kind: event.object.kind,
            name: event.object.name,
        },
        count: event.count,
    }
}

impl EventParams {
    fn passes(&self, event: &Event) -> bool {
        let same = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|w| w == is);
        let actor = event.actor_id.as_ref().map(|id| id.as_str()).unwrap_or_default();
        same(&self.actor_id, actor)
            && same(&self.event_type, type_name(event.event_type))
            && same(&self.object_type, &event.object.kind)
            && !(self.exclude_pull && event.event_type == EventType::Get)
    }
}

/// What the ids of events from a time on begin with; empty for no time.
pub(crate) fn bound(text: Option<&str>) -> Result<String, ApiError> {
    let Some(text) = text else { return Ok(String::new()) };
    match text.parse() {
        Ok(at) => Ok(Event::id_prefix(at)),
        Err(error) => {
            let error: dtr_types::TimestampError = error;
            Err(ApiError::invalid("INVALID_PARAMETERS", error.to_string()))
        }
    }
}

/// How many events one request looks at: a filter that matches nothing ends here and says where to go on.
const LOOKED_AT_MAX: usize = 20_000;

/// Newest first is what people want, but ids only run forward in the store: the window from `publishedAfter` on is read
/// forward, and each page is in order of time. `pageStart` goes on where a page ended.
async fn list_page(
    state: &ApiState,
    repository: Option<&Repository>,
    params: &EventParams,
    page: &PageParams,
    hide_pulls: bool,
) -> Result<(HeaderMap, Json<Vec<EventView>>), ApiError> {
    let size = page.size()?;
    let mut from = match page.start() {
        Some(start) => start.to_owned(),
        None => bound(params.published_after.as_deref())?,
    };
    let until = bound(params.published_before.as_deref())?;
    let mut found: Vec<Event> = Vec::new();
    let (mut looked_at, mut goes_on) = (0, None);
    loop {
        let id = repository.map(|repository| &repository.id);
        let read = state.catalog.list_events(id, &from, &until, 500).await?;
        looked_at += read.items.len();
        let last = read.items.last().map(|event| event.id.clone());
        for event in read.items {
            if params.passes(&event) && !(hide_pulls && event.event_type == EventType::Get) {
                found.push(event);
            }
        }
        let Some(last) = last else { break };
        // All ids are of one length, so this is after the last one and before the next.
        from = format!("{last}0");
        if found.len() > size || !read.more {
            break;
        }
        if looked_at >= LOOKED_AT_MAX {
            goes_on = Some(from);
            break;
        }
    }
    let (mut headers, found) = page_of(found, size, |event| event.id.clone());
    if let Some(value) = goes_on.and_then(|from| HeaderValue::from_str(&from).ok()) {
        headers.insert(NEXT_PAGE, value);
    }
    Ok((headers, Json(found.into_iter().map(event_view).collect())))
}

/// List events of the whole registry: for administrators
#[utoipa::path(
    get, path = "/api/v0/events", tag = "events", params(EventParams, PageParams),
    responses((status = 200, body = Vec<EventView>), (status = 403, body = crate::error::Errors)),
    security(("basic" = []), ("bearer" = []))
)]
pub(crate) async fn list(
    State(state): State<ApiState>,
    asking: Asking,
    Params(params): Params<EventParams>,
    Params(page): Params<PageParams>,
) -> Result<(HeaderMap, Json<Vec<EventView>>), ApiError> {
    let _permit = auth::system(&state, &asking, Operation::ViewAllEvents).await?;
    list_page(&state, None, &params, &page, false).await
}

/// List events of a repository; pulls only for who administers it
#[utoipa::path(
    get, path = "/api/v0/repositories/{namespace}/{reponame}/events", tag = "events",
    params(("namespace" = String, Path), ("reponame" = String, Path), EventParams, PageParams),
    responses((status = 200, body = Vec<EventView>), (status = 404, body = crate::error::Errors)),
    security(("basic" = []), ("bearer" = []))
)]
pub(crate) async fn list_repository(
    State(state): State<ApiState>,
    asking: Asking,
    Parted((namespace, name)): Parted<(String, String)>,
    Params(params): Params<EventParams>,
    Params(page): Params<PageParams>,
) -> Result<(HeaderMap, Json<Vec<EventView>>), ApiError> {
    let (repository, _permit) =
        auth::repository(&state, &asking, &namespace, &name, Operation::ViewEvents).await?;
    let sees_pulls = auth::may(&state, &asking, &repository, Operation::ViewPullEvents).await?;
    list_page(&state, Some(&repository), &params, &page, !sees_pulls).await
}
