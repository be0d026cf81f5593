//! What the registry is registered as with its UCP: shown, and changed when the UCP does not know it any more.

use axum::{Json, extract::State, http::StatusCode};
use dtr_access::Operation;
use dtr_catalog::{
    keys,
    records::{ClusterRecord, EventType, IdentitySource, ServiceReplica},
};
use dtr_types::ServiceId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    ApiError, ApiState,
    auth::{self, Asking},
    extract::Body,
};

/// How a UCP knows the registry.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RegistrationView {
    /// The UCP's address.
    url: String,
    /// What the registry is registered as there.
    #[schema(value_type = Option<String>)]
    service: Option<ServiceId>,
    /// The public half of the key that proves the registry to the UCP, in PEM.
    public_key: String,
    /// The address that clients use.
    address: String,
    /// The replicas.
    #[schema(value_type = Vec<Object>)]
    replicas: Vec<ServiceReplica>,
}

/// Another registration.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct NewRegistration {
    /// The UCP's address.
    url: String,
    /// PEM of its authority; empty to trust the system's.
    #[serde(default)]
    ca: String,
    /// Whether its certificate is not verified.
    #[serde(default, rename = "insecureTLS")]
    insecure_tls: bool,
    /// What the registry is registered as there.
    #[schema(value_type = String)]
    service: ServiceId,
}

fn kept_here() -> ApiError {
    let why = "this registry keeps its own accounts; there is no UCP that it is registered with";
    ApiError::new(StatusCode::CONFLICT, "NO_UCP", why.to_owned())
}

async fn view(state: &ApiState, identity: &IdentitySource) -> Result<RegistrationView, ApiError> {
    let IdentitySource::Ucp { url, service, .. } = identity else { return Err(kept_here()) };
    let key = state.catalog.get(&keys::certificate("service")).await?;
    let replicas = state.catalog.replicas().await?;
    let host = state.catalog.settings().await?.dtr_host;
    let own = replicas.iter().find(|replica| replica.id == state.replica);
    let address = match (host.is_empty(), own) {
        (false, _) => format!("https://{host}"),
        (true, Some(own)) => own.address.clone(),
        (true, None) => String::new(),
    };
    let replicas = replicas.into_iter();
    Ok(RegistrationView {
        url: url.clone(),
        service: service.clone(),
        public_key: key.map(|key| key.value.certificate).unwrap_or_default(),
        address,
        replicas: replicas.map(|r| ServiceReplica { id: r.id, address: r.address }).collect(),
    })
}

/// Show what the registry is registered as with its UCP: for administrators
#[utoipa::path(
    get, path = "/api/v0/meta/registration", tag = "meta",
    responses((status = 200, body = RegistrationView), (status = 403, body = crate::error::Errors),
        (status = 409, body = crate::error::Errors)),
    security(("basic" = []), ("bearer" = []))
)]
pub(crate) async fn show(
    State(state): State<ApiState>,
    asking: Asking,
) -> Result<Json<RegistrationView>, ApiError> {
    let _permit = auth::system(&state, &asking, Operation::ViewSettings).await?;
    let cluster = state.catalog.cluster().await?.ok_or_else(kept_here)?;
    Ok(Json(view(&state, &cluster.identity).await?))
}

/// Set what the registry is registered as with its UCP: for administrators
///
/// Replicas ask as the new registration from their next start on.
#[utoipa::path(
    put, path = "/api/v0/meta/registration", tag = "meta", request_body = NewRegistration,
    responses((status = 200, body = RegistrationView), (status = 403, body = crate::error::Errors),
        (status = 409, body = crate::error::Errors)),
    security(("basic" = []), ("bearer" = []))
)]
pub(crate) async fn set(
    State(state): State<ApiState>,
    asking: Asking,
    Body(new): Body<NewRegistration>,
) -> Result<Json<RegistrationView>, ApiError> {
    let _permit = auth::system(&state, &asking, Operation::ChangeSettings).await?;
    let identity = IdentitySource::Ucp {
        url: new.url,
        ca: new.ca,
        insecure_tls: new.insecure_tls,
        service: Some(new.service),
    };
    let event = state.event(&asking.caller, EventType::Update, None, "settings", "registration");
    let key = keys::cluster();
    let changed = state.catalog.change(&key, Some(&event), |cluster| {
        // Accounts of its own would be lost from sight.
        let in_ucp = matches!(cluster.identity, IdentitySource::Ucp { .. });
        in_ucp.then(|| ClusterRecord { identity: identity.clone(), ..cluster.clone() })
    });
    let cluster = changed.await?.ok_or_else(kept_here)?;
    Ok(Json(view(&state, &cluster.identity).await?))
}
