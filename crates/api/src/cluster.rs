//! Replicas coming in and going.

use axum::{Json, extract::State, http::StatusCode};
use dtr_access::Operation;
use dtr_catalog::records::EventType;
use dtr_cluster::{Admission, Cluster, ClusterError, JoinRequest, Removal};
use dtr_types::ReplicaId;

use crate::{
    ApiError, ApiState,
    auth::{self, Asking},
    extract::{Body, Parted},
};

impl From<ClusterError> for ApiError {
    fn from(error: ClusterError) -> Self {
        let message = error.to_string();
        match error {
            ClusterError::Refused(_) => Self::new(StatusCode::CONFLICT, "REFUSED", message),
            ClusterError::Pki(_) => Self::invalid("INVALID_REPLICA", message),
            ClusterError::Catalog(error) => error.into(),
            ClusterError::Etcd(_) | ClusterError::Storage(_) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", message)
            }
            ClusterError::NoAuthority => Self::internal(&message),
        }
    }
}

fn cluster(state: &ApiState) -> Result<&Cluster, ApiError> {
    state.cluster.as_ref().ok_or_else(|| {
        ApiError::new(
            StatusCode::CONFLICT,
            "ONE_REPLICA",
            "this registry has the embedded store, which is for one replica: take a backup and restore it with \"--store \
             etcd\", then replicas can join",
        )
    })
}

/// Let a replica in: for administrators. The answer is what it needs to become a member; it votes when it has caught up
#[utoipa::path(
    post, path = "/api/v0/cluster/replicas", tag = "cluster", request_body = Object,
    responses(
        (status = 201, body = Object), (status = 403, body = crate::error::Errors),
        (status = 409, body = crate::error::Errors)
    ),
    security(("basic" = []), ("bearer" = []))
)]
pub(crate) async fn join(
    State(state): State<ApiState>,
    asking: Asking,
    Body(request): Body<JoinRequest>,
) -> Result<(StatusCode, Json<Admission>), ApiError> {
    let _permit = auth::system(&state, &asking, Operation::ManageCluster).await?;
    let admission = cluster(&state)?.admit(&request).await?;
    let id = &request.replica_id;
    tell(&state, &asking, EventType::Create, id).await;
    Ok((StatusCode::CREATED, Json(admission)))
}

/// Remove a replica: for administrators. It leaves the members first; its certificate is good for nothing then
#[utoipa::path(
    delete, path = "/api/v0/cluster/replicas/{replicaid}", tag = "cluster",
    params(("replicaid" = String, Path, description = "Its id")),
    responses(
        (status = 200, body = Object), (status = 403, body = crate::error::Errors),
        (status = 409, body = crate::error::Errors)
    ),
    security(("basic" = []), ("bearer" = []))
)]
pub(crate) async fn remove(
    State(state): State<ApiState>,
    asking: Asking,
    Parted(id): Parted<String>,
) -> Result<Json<Removal>, ApiError> {
    let _permit = auth::system(&state, &asking, Operation::ManageCluster).await?;
    let id: ReplicaId = id
        .parse()
        .map_err(|error| ApiError::invalid("INVALID_REPLICA", format!("\"{id}\": {error}")))?;
    let removal = cluster(&state)?.remove(&id).await?;
    tell(&state, &asking, EventType::Delete, &id).await;
    Ok(Json(removal))
}

/// What was done stays done, even if it cannot be recorded.
async fn tell(state: &ApiState, asking: &Asking, what: EventType, id: &ReplicaId) {
    let event = state.event(&asking.caller, what, None, "replica", id);
    if let Err(error) = state.catalog.record_events(&[event]).await {
        tracing::warn!(%error, replica = %id, "an event was not recorded");
    }
}
