//! The collector, by hand.

use axum::{Json, extract::State, http::StatusCode};
use dtr_access::Operation;
use dtr_jobs::JobError;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::IntoParams;

use crate::{
    ApiError, ApiState,
    auth::{self, Asking},
    extract::Params,
};

/// How to run. A parameter that is not known is refused: a mistyped `dryRun` must not become a run.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct GcParams {
    /// Only say what would be removed.
    #[serde(default)]
    dry_run: bool,
    /// Remove nothing: look in the storage for content that images lack, and give it to them again.
    #[serde(default)]
    relink: bool,
    /// That this replica's clock is right now, although it was set or had jumped: what is old is deleted again.
    #[serde(default)]
    clock_is_right: bool,
}

/// Remove content that nothing refers to and that is older than the grace period: for administrators
#[utoipa::path(
    post, path = "/api/v0/gc", tag = "meta", params(GcParams),
    responses((status = 200, body = Object), (status = 403, body = crate::error::Errors)),
    security(("basic" = []), ("bearer" = []))
)]
pub(crate) async fn run(
    State(state): State<ApiState>,
    asking: Asking,
    Params(params): Params<GcParams>,
) -> Result<Json<Value>, ApiError> {
    let _permit = auth::system(&state, &asking, Operation::CollectGarbage).await?;
    if params.clock_is_right {
        state.catalog.clock().confirm();
    }
    let report = match params.relink {
        true => state.scheduler.relink_now(params.dry_run).await.map(|report| json!(report)),
        false => state.scheduler.collect_now(params.dry_run).await.map(|report| json!(report)),
    };
    match report {
        Ok(report) => Ok(Json(report)),
        Err(JobError::Catalog(error)) => Err(error.into()),
        Err(error @ (JobError::Busy { .. } | JobError::Lost)) => {
            Err(ApiError::new(StatusCode::CONFLICT, "BUSY", error.to_string()))
        }
        Err(error @ JobError::Clock(_)) => {
            Err(ApiError::new(StatusCode::CONFLICT, "CLOCK", error.to_string()))
        }
        Err(JobError::Blobs(error)) if error.is_storage_fault() => {
            Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", error.to_string()))
        }
        Err(error) => Err(ApiError::internal(&error)),
    }
}
