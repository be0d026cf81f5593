//! Refuses to write while the blob storage is not the one that this replica may write to. A replica without its storage
//! takes no push. One whose cluster was replaced, by a restore or an emergency repair, changes nothing at all: what it
//! acknowledged nobody would ever see again.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{Method, StatusCode, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse as _, Response},
};
use dtr_blobs::MarkedStorage;
use dtr_types::NotOurs;
use serde_json::json;

/// What is asked for with a method that changes something, and changes nothing that anybody would miss: tokens, sessions,
/// backups.
const HARMLESS: [&str; 6] = [
    "/auth/token",
    "/api/v0/backups",
    "/id/",
    "/enzi/v0/id/",
    "/enzi/v0/service/",
    "/enzi/v0/admin/backup",
];

/// Puts the fence before all routes.
pub(crate) fn around(router: Router, blobs: &Arc<MarkedStorage>) -> Router {
    router.layer(from_fn_with_state(Arc::clone(blobs), fence))
}

async fn fence(State(blobs): State<Arc<MarkedStorage>>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let is_change = !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS)
        && !HARMLESS.iter().any(|harmless| path.starts_with(harmless));
    if is_change
        && let Some(why) = blobs.trouble().await
        && (path.starts_with("/v2") || matches!(why, NotOurs::TakenOver { .. }))
    {
        return refused(&why);
    }
    next.run(request).await
}

fn refused(why: &NotOurs) -> Response {
    let message = format!("the registry's blob storage is not the one it should be: {why}");
    let errors = json!({ "errors": [{ "code": "UNAVAILABLE", "message": message }] });
    let retry = [(header::RETRY_AFTER, "30")];
    (StatusCode::SERVICE_UNAVAILABLE, retry, Json(errors)).into_response()
}
