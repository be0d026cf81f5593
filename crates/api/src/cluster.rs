//! Replicas coming in and going.

use axum::{Json, extract::State, http::StatusCode};
use dtr_access::Operation;
use dtr_catalog::{
    keys,
    records::{ClusterRecord, EventType, RestartRecord},
};
use dtr_cluster::{Admission, Cluster, ClusterError, JoinRequest, Raise, Removal};
use dtr_types::ReplicaId;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

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

/// Which replicas are to restart.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct RestartRequest {
    /// Their ids; an empty list stands for all of them.
    replicas: Vec<String>,
    /// How long each says that it goes before it does, in seconds: until a load balancer has seen it.
    #[serde(default = "drain_usual")]
    drain_seconds: u64,
}

/// Two looks of a load balancer that looks every five seconds, and a little.
const fn drain_usual() -> u64 {
    12
}
/// Longer than any load balancer takes.
const DRAIN_MAX: u64 = 600;

/// Have replicas restart, one after the other: for administrators. Each waits until all others are well, says at `/_ping`
/// that it goes, finishes what runs, and begins anew
#[utoipa::path(
    post, path = "/api/v0/cluster/restart", tag = "cluster", request_body = RestartRequest,
    responses(
        (status = 202, body = Object), (status = 400, body = crate::error::Errors),
        (status = 403, body = crate::error::Errors)
    ),
    security(("basic" = []), ("bearer" = []))
)]
pub(crate) async fn restart(
    State(state): State<ApiState>,
    asking: Asking,
    Body(request): Body<RestartRequest>,
) -> Result<(StatusCode, Json<RestartRecord>), ApiError> {
    let _permit = auth::system(&state, &asking, Operation::ManageCluster).await?;
    if request.drain_seconds > DRAIN_MAX {
        let what = format!("drainSeconds is at most {DRAIN_MAX}");
        return Err(ApiError::invalid("INVALID_RESTART", what));
    }
    let known: Vec<ReplicaId> = state.catalog.replicas().await?.into_iter().map(|r| r.id).collect();
    let mut wanted = Vec::new();
    for text in &request.replicas {
        let found = known.iter().find(|id| id.as_str() == text).cloned();
        wanted.push(found.ok_or_else(|| {
            ApiError::invalid("INVALID_RESTART", format!("there is no replica \"{text}\""))
        })?);
    }
    if wanted.is_empty() {
        wanted.clone_from(&known);
    }
    let key = keys::restart();
    let asked_at = state.catalog.now();
    let put = state.catalog.update(&key, None, |found: Option<&RestartRecord>| {
        let mut replicas = wanted.clone();
        // One that is no more would be waited for without end.
        let earlier = found.into_iter().flat_map(|found| &found.replicas);
        let earlier = earlier.filter(|id| !wanted.contains(id) && known.contains(id));
        replicas.extend(earlier.cloned());
        let drain_seconds = request.drain_seconds;
        Ok::<_, ApiError>(Some(RestartRecord { replicas, drain_seconds, asked_at }))
    });
    let record = put.await?.ok_or_else(|| ApiError::internal(&"nobody is to restart"))?;
    for id in &wanted {
        tell(&state, &asking, EventType::Update, id).await;
    }
    Ok((StatusCode::ACCEPTED, Json(record)))
}

/// Show which replicas are still to restart: for administrators
#[utoipa::path(
    get, path = "/api/v0/cluster/restart", tag = "cluster",
    responses((status = 200, body = Object), (status = 403, body = crate::error::Errors)),
    security(("basic" = []), ("bearer" = []))
)]
pub(crate) async fn restarting(
    State(state): State<ApiState>,
    asking: Asking,
) -> Result<Json<RestartRecord>, ApiError> {
    let _permit = auth::system(&state, &asking, Operation::ViewClusterStatus).await?;
    let found = state.catalog.get(&keys::restart()).await?.map(|found| found.value);
    let asked_at = state.catalog.now();
    let none = || RestartRecord { replicas: Vec::new(), drain_seconds: 0, asked_at };
    Ok(Json(found.unwrap_or_else(none)))
}

/// Bring the data to the newest format that all replicas know: for administrators
#[utoipa::path(
    post, path = "/api/v0/cluster/upgrade", tag = "cluster",
    responses(
        (status = 200, body = Object), (status = 403, body = crate::error::Errors),
        (status = 409, body = crate::error::Errors)
    ),
    security(("basic" = []), ("bearer" = []))
)]
pub(crate) async fn upgrade(
    State(state): State<ApiState>,
    asking: Asking,
) -> Result<Json<Value>, ApiError> {
    let _permit = auth::system(&state, &asking, Operation::ManageCluster).await?;
    let key = keys::cluster();
    let known = state.catalog.replicas().await?;
    let known: Vec<_> = known.into_iter().map(|r| (r.id, r.data_format)).collect();
    let mut raised = false;
    let put = state.catalog.update(&key, None, |found: Option<&ClusterRecord>| {
        let found = found.ok_or_else(|| ApiError::internal(&"there is no cluster"))?;
        raised = false;
        match dtr_cluster::raise(found.data_format, &known) {
            Raise::Newest => Ok(None),
            Raise::WaitsFor(old) => {
                let old: Vec<_> = old.iter().map(ReplicaId::to_string).collect();
                Err(ClusterError::Refused(format!(
                    "these replicas run a program that does not know the newer format: {}",
                    old.join(", ")
                ))
                .into())
            }
            Raise::To(data_format) => {
                raised = true;
                Ok::<_, ApiError>(Some(ClusterRecord { data_format, ..found.clone() }))
            }
        }
    });
    let cluster = put.await?.ok_or_else(|| ApiError::internal(&"there is no cluster"))?;
    if raised {
        tell(&state, &asking, EventType::Update, &state.replica).await;
    }
    Ok(Json(json!({ "dataFormat": cluster.data_format, "raised": raised })))
}

/// What was done stays done, even if it cannot be recorded.
async fn tell(state: &ApiState, asking: &Asking, what: EventType, id: &ReplicaId) {
    let event = state.event(&asking.caller, what, None, "replica", id);
    if let Err(error) = state.catalog.record_events(&[event]).await {
        tracing::warn!(%error, replica = %id, "an event was not recorded");
    }
}
