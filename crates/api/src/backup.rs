//! Backups: taken as a stream, listed, and what each was worth.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    sync::Arc,
};

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::{Bytes, BytesMut};
use dtr_access::Operation;
use dtr_catalog::{
    Kind,
    records::{BackupRecord, Event, EventType},
};
use dtr_recovery::{BackupOptions, BackupReport, RecoveryError};
use futures_util::StreamExt as _;
use http_body::Frame;
use http_body_util::StreamBody;
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use utoipa::{IntoParams, ToSchema};

use crate::{
    ApiError, ApiState,
    auth::{self, Asking},
    extract::{Body, Params, Parted},
};

/// Reports of the backups that this process took, the newest of them; of one that failed, why.
pub type Reports = Arc<Mutex<BTreeMap<String, Result<BackupReport, String>>>>;

/// Reports that are remembered.
const REPORTS_MAX: usize = 32;
/// Bytes that go to the client at once.
const BLOCK: usize = 256 * 1024;
/// Blocks that wait for a slow client.
const BLOCKS_MAX: usize = 4;
/// Says in a trailer that the stream has ended as it should: `complete`, or why not.
pub(crate) const STATUS: HeaderName = HeaderName::from_static("dtr-status");
/// The id under which the report is found afterwards.
const BACKUP_ID: HeaderName = HeaderName::from_static("x-dtr-backup-id");

/// What to put in.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct BackupParams {
    /// The image content.
    #[serde(default)]
    with_images: bool,
    /// The UCP's users, organizations and teams (those of a built-in identity always are).
    #[serde(default)]
    with_identity: bool,
    /// Whether the client encrypts what it gets; only for the report.
    #[serde(default)]
    encrypted: bool,
}

type Sent = Result<Frame<Bytes>, io::Error>;

/// The stream's blocking end.
struct BlockWriter {
    block: BytesMut,
    to: mpsc::Sender<Sent>,
}

impl BlockWriter {
    fn send(&mut self) -> io::Result<()> {
        let block = self.block.split().freeze();
        self.to
            .blocking_send(Ok(Frame::data(block)))
            .map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the client has gone"))
    }
}

impl Write for BlockWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = BLOCK - self.block.len();
        let taken = bytes.len().min(room);
        self.block.extend_from_slice(&bytes[..taken]);
        if self.block.len() == BLOCK {
            self.send()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.block.is_empty() { Ok(()) } else { self.send() }
    }
}

/// Take a backup: the archive is the answer's body. Nothing is stopped meanwhile
///
/// The trailer `dtr-status: complete` ends a whole archive; a stream that ends otherwise is not one. The report is found
/// under the id in `X-DTR-Backup-Id` afterwards. A backup counts when `POST /api/v0/backups/{id}/confirmation` says that it
/// arrived.
#[utoipa::path(
    post, path = "/api/v0/backups", tag = "backup", params(BackupParams),
    responses((status = 200, content_type = "application/x-tar"), (status = 403, body = crate::error::Errors)),
    security(("basic" = []), ("bearer" = []))
)]
pub(crate) async fn take(
    State(state): State<ApiState>,
    asking: Asking,
    Params(params): Params<BackupParams>,
) -> Result<Response, ApiError> {
    let _permit = auth::system(&state, &asking, Operation::TakeBackup).await?;
    let mut options = BackupOptions::new(state.version);
    options.replica = Some(state.replica.clone());
    options.with_images = params.with_images;
    options.encrypted = params.encrypted;
    options.by = asking.caller.name().to_owned();
    options.directory = Some(Arc::clone(&state.identity));
    if params.with_identity && state.built_in.is_none() {
        options.identity =
            Some(crate::state::export_identity(&state, asking.proof.as_ref()).await?);
    }
    let id = Event::new_id(state.catalog.now(), state.catalog.random());
    options.id = Some(id.clone());
    let (to, from) = mpsc::channel::<Sent>(BLOCKS_MAX);
    let event = state.event(&asking.caller, EventType::Send, None, "backup", &id);
    if let Err(error) = state.catalog.record_events(&[event]).await {
        // Without a majority nothing can be written, and a backup is what is needed most.
        tracing::warn!(%error, "that a backup is taken was not recorded");
    }
    tokio::spawn(run(state, options, id.clone(), to));
    let mut response =
        Response::new(axum::body::Body::new(StreamBody::new(ReceiverStream::new(from).boxed())));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-tar"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::TRAILER, HeaderValue::from_static("dtr-status"));
    if let Ok(value) = HeaderValue::from_str(&id) {
        headers.insert(BACKUP_ID, value);
    }
    Ok(response)
}

async fn run(state: ApiState, options: BackupOptions, id: String, to: mpsc::Sender<Sent>) {
    let out = BlockWriter { block: BytesMut::with_capacity(BLOCK), to: to.clone() };
    let remember = |report: Result<BackupReport, String>| {
        let mut reports = state.reports.lock();
        reports.insert(id.clone(), report);
        while reports.len() > REPORTS_MAX {
            reports.pop_first();
        }
    };
    let last = match dtr_recovery::backup(&state.catalog, &state.blobs, options, out).await {
        Ok((_, report)) => {
            tracing::info!(id, revision = %report.revision, records = report.total_records, "backed up");
            remember(Ok(report));
            let mut trailers = HeaderMap::new();
            trailers.insert(STATUS, HeaderValue::from_static("complete"));
            Ok(Frame::trailers(trailers))
        }
        Err(error) => {
            tracing::error!(id, %error, "a backup was not finished");
            // Breaking off is what every client understands; why can be asked for.
            remember(Err(message(&error)));
            Err(io::Error::other(message(&error)))
        }
    };
    // The client may have gone; then nobody is left to be told.
    let _ = to.send(last).await;
}

fn message(error: &RecoveryError) -> String {
    format!("the backup was not finished: {error}")
}

/// List the backups that were taken, newest first
#[utoipa::path(
    get, path = "/api/v0/backups", tag = "backup",
    responses((status = 200, body = Vec<Object>), (status = 403, body = crate::error::Errors)),
    security(("basic" = []), ("bearer" = []))
)]
pub(crate) async fn list(
    State(state): State<ApiState>,
    asking: Asking,
) -> Result<Json<Vec<BackupRecord>>, ApiError> {
    let _permit = auth::system(&state, &asking, Operation::TakeBackup).await?;
    let mut backups: Vec<BackupRecord> =
        state.catalog.all(Kind::Backup.prefix().as_bytes()).await?;
    backups.reverse();
    Ok(Json(backups))
}

/// What a client has.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Confirmation {
    /// SHA-256 of the stream as it arrived, before any encryption: 64 hexadecimal digits.
    sha256: String,
}

/// Confirm that a backup arrived: from then on it counts
///
/// To be said when the whole archive is where it is to be kept. May be repeated.
#[utoipa::path(
    post, path = "/api/v0/backups/{id}/confirmation", tag = "backup", params(("id" = String, Path)),
    request_body = Confirmation,
    responses((status = 200, body = Object), (status = 404, body = crate::error::Errors),
        (status = 409, body = crate::error::Errors)),
    security(("basic" = []), ("bearer" = []))
)]
pub(crate) async fn confirm(
    State(state): State<ApiState>,
    asking: Asking,
    Parted(id): Parted<String>,
    Body(confirmation): Body<Confirmation>,
) -> Result<Json<BackupRecord>, ApiError> {
    let _permit = auth::system(&state, &asking, Operation::TakeBackup).await?;
    let sha256 = confirmation.sha256.trim().to_ascii_lowercase();
    let event = state.event(&asking.caller, EventType::Update, None, "backup", &id);
    match state.catalog.confirm_backup(&id, &sha256, Some(&event)).await? {
        Some(record) if record.sha256 == sha256 => Ok(Json(record)),
        Some(record) => Err(ApiError::new(
            StatusCode::CONFLICT,
            "BACKUP_DIFFERS",
            format!(
                "what arrived has the hash {sha256}, and what was sent {}: it is not this backup, or not all of it (of an \
                 encrypted one, the hash of what was encrypted is meant)",
                record.sha256
            ),
        )),
        None => Err(ApiError::no_such("NO_SUCH_BACKUP", "backup", id)),
    }
}

/// What a backup that was taken through this replica was worth
#[utoipa::path(
    get, path = "/api/v0/backups/{id}/report", tag = "backup", params(("id" = String, Path)),
    responses((status = 200, body = Object), (status = 404, body = crate::error::Errors),
        (status = 409, body = crate::error::Errors)),
    security(("basic" = []), ("bearer" = []))
)]
pub(crate) async fn report(
    State(state): State<ApiState>,
    asking: Asking,
    Parted(id): Parted<String>,
) -> Result<Response, ApiError> {
    let _permit = auth::system(&state, &asking, Operation::TakeBackup).await?;
    let found = state.reports.lock().get(&id).cloned();
    match found {
        Some(Ok(report)) => Ok(Json(report).into_response()),
        Some(Err(why)) => Err(ApiError::new(StatusCode::CONFLICT, "BACKUP_FAILED", why)),
        None => Err(ApiError::no_such("NO_SUCH_BACKUP", "report of backup", id)),
    }
}
