//! The collector, by hand.

use axum::{Json, extract::State, http::StatusCode};
use dtr_access::Operation;
use dtr_jobs::{CollectReport, JobError};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::{
    ApiError, ApiState,
    auth::{self, Asking},
    extract::Params,
};

/// How to run.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(crate) struct GcParams {
    /// Only say what would be removed.
    #[serde(default)]
    dry_run: bool,
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
) -> Result<Json<CollectReport>, ApiError> {
    let _permit = auth::system(&state, &asking, Operation::CollectGarbage).await?;
    match state.scheduler.collect_now(params.dry_run).await {
        Ok(report) => Ok(Json(report)),
        Err(JobError::Catalog(error)) => Err(error.into()),
        Err(error @ (JobError::Busy { .. } | JobError::Lost)) => {
            Err(ApiError::new(StatusCode::CONFLICT, "BUSY", error.to_string()))
        }
        Err(JobError::Blobs(error)) if error.is_storage_fault() => {
            Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", error.to_string()))
        }
        Err(error) => Err(ApiError::internal(&error)),
    }
}
