//! The events as an audit log: a stream of JSON lines from a time on, whose end is proved. It is read in pages, so that a long
//! one takes no more memory than a short one.

use std::io;

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, header},
    response::Response,
};
use bytes::{BufMut as _, Bytes, BytesMut};
use dtr_access::Operation;
use dtr_catalog::{
    Catalog, CatalogError,
    records::{Event, EventType},
};
use dtr_types::Timestamp;
use futures_util::StreamExt as _;
use http_body::Frame;
use http_body_util::StreamBody;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use utoipa::IntoParams;

use crate::{
    ApiError, ApiState,
    auth::{self, Asking},
    backup::STATUS,
    events::{bound, event_view},
    extract::Params,
};

/// Events of one page.
const PAGE: usize = 500;
/// Pages that wait for a slow client.
const WAITING: usize = 2;

type Sent = Result<Frame<Bytes>, io::Error>;

/// Which events.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(crate) struct ExportParams {
    /// Only those at or after this time, in RFC 3339 form.
    published_after: Option<String>,
    /// Only those before this time, in RFC 3339 form; the time of the request when left out.
    published_before: Option<String>,
    /// Only those after the event of this id: the last one of an earlier export.
    after: Option<String>,
    /// Leave pulls out.
    #[serde(default)]
    exclude_pull: bool,
}

/// Export events as JSON lines, oldest first: for administrators
///
/// The trailer `dtr-status: complete` ends a whole export. The next one goes on after the `id` of the last line.
#[utoipa::path(
    get, path = "/api/v0/events/export", tag = "events", params(ExportParams),
    responses((status = 200, content_type = "application/x-ndjson"), (status = 400, body = crate::error::Errors),
        (status = 403, body = crate::error::Errors)),
    security(("basic" = []), ("bearer" = []))
)]
pub(crate) async fn export(
    State(state): State<ApiState>,
    asking: Asking,
    Params(params): Params<ExportParams>,
) -> Result<Response, ApiError> {
    let _permit = auth::system(&state, &asking, Operation::ViewAllEvents).await?;
    let since = bound(params.published_after.as_deref())?;
    let from = match &params.after {
        // All ids are of one length, so this is after that one and before the next.
        Some(id) => since.max(format!("{id}0")),
        None => since,
    };
    let now = state.catalog.now();
    let until = match bound(params.published_before.as_deref())? {
        until if until.is_empty() => Event::id_prefix(Timestamp::from_millis(now.millis() + 1)),
        until => until,
    };
    let (to, lines) = mpsc::channel::<Sent>(WAITING);
    tokio::spawn(send(state.catalog.clone(), from, until, params.exclude_pull, to));
    let body = StreamBody::new(ReceiverStream::new(lines).boxed());
    let mut response = Response::new(Body::new(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::TRAILER, HeaderValue::from_static("dtr-status"));
    Ok(response)
}

/// Sends page after page until the end, or until nobody listens any more.
async fn send(
    catalog: Catalog,
    mut from: String,
    until: String,
    exclude_pull: bool,
    to: mpsc::Sender<Sent>,
) {
    loop {
        let (lines, next) = match page(&catalog, &from, &until, exclude_pull).await {
            Ok(page) => page,
            Err(error) => {
                tracing::error!(%error, "an export of events was not finished");
                let error = io::Error::other("the export was not finished");
                let _ = to.send(Err(error)).await;
                return;
            }
        };
        if !lines.is_empty() && to.send(Ok(Frame::data(lines))).await.is_err() {
            return;
        }
        let Some(next) = next else { break };
        from = next;
    }
    let mut trailers = HeaderMap::new();
    trailers.insert(STATUS, HeaderValue::from_static("complete"));
    let _ = to.send(Ok(Frame::trailers(trailers))).await;
}

/// The lines of a page, and where the next one begins, if there is one.
async fn page(
    catalog: &Catalog,
    from: &str,
    until: &str,
    exclude_pull: bool,
) -> Result<(Bytes, Option<String>), CatalogError> {
    let read = catalog.list_events(None, from, until, PAGE).await?;
    let next = read.items.last().filter(|_| read.more).map(|last| format!("{}0", last.id));
    let mut lines = BytesMut::new();
    for event in read.items {
        if exclude_pull && event.event_type == EventType::Get {
            continue;
        }
        // A view holds texts and numbers, which JSON can always write.
        if let Ok(line) = serde_json::to_vec(&event_view(event)) {
            lines.put_slice(&line);
            lines.put_u8(b'\n');
        }
    }
    Ok((lines.freeze(), next))
}
