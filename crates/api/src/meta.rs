//! The registry itself: settings, status, features, alerts, the certificate that clients see.

use std::collections::BTreeMap;

use axum::{Json, extract::State, http::StatusCode};
use dtr_access::Operation;
use dtr_catalog::records::{CertificateRecord, EventType, IdentitySource, Settings};
use dtr_cluster::{Cluster, MemberView};
use dtr_store::{Transaction, hold};
use dtr_transport::pki;
use dtr_types::{ClientHost, Secret};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::{
    Alert, ApiError, ApiState,
    alerts::{alerts as find_alerts, replica_problem},
    auth::{self, Asking},
    extract::Body,
};

/// Settings, as they are and as they can be changed; what a change leaves out stays.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SettingsView {
    #[serde(flatten)]
    #[schema(value_type = Object)]
    settings: Settings,
    /// The certificate that clients see, in PEM.
    #[serde(rename = "webTLSCert")]
    web_tls_cert: String,
    /// The authority that clients are to trust, in PEM.
    #[serde(rename = "webTLSCA")]
    web_tls_ca: String,
    /// This replica's id.
    #[serde(rename = "replicaID")]
    replica_id: String,
    /// Ports and machine of each replica.
    #[schema(value_type = Object)]
    replica_settings: BTreeMap<String, Value>,
    /// Where accounts are kept: `built-in` or the address of a UCP.
    identity: String,
}

/// Show the settings: for administrators
#[utoipa::path(
    get, path = "/api/v0/meta/settings", tag = "meta",
    responses((status = 200, body = SettingsView), (status = 403, body = crate::error::Errors)),
    security(("basic" = []), ("bearer" = []))
)]
pub(crate) async fn settings(
    State(state): State<ApiState>,
    asking: Asking,
) -> Result<Json<SettingsView>, ApiError> {
    let _permit = auth::system(&state, &asking, Operation::ViewSettings).await?;
    Ok(Json(settings_view(&state).await?))
}

async fn settings_view(state: &ApiState) -> Result<SettingsView, ApiError> {
    let certificate =
        state.catalog.get(&dtr_catalog::keys::certificate("web")).await?.map(|c| c.value);
    let replicas = state.catalog.replicas().await?.into_iter().map(|replica| {
        let view = json!({
            "HTTPPort": replica.http_port,
            "HTTPSPort": replica.https_port,
            "node": replica.node,
        });
        (replica.id.to_string(), view)
    });
    let identity = match state.catalog.cluster().await?.map(|cluster| cluster.identity) {
        Some(IdentitySource::Ucp { url, .. }) => url,
        _ => "built-in".to_owned(),
    };
    Ok(SettingsView {
        settings: state.catalog.settings().await?,
        web_tls_cert: certificate.as_ref().map(|c| c.certificate.clone()).unwrap_or_default(),
        web_tls_ca: certificate.map(|c| c.ca).unwrap_or_default(),
        replica_id: state.replica.to_string(),
        replica_settings: replicas.collect(),
        identity,
    })
}

/// Change settings: for administrators
#[utoipa::path(
    post, path = "/api/v0/meta/settings", tag = "meta",
    request_body(content = Object, description = "the settings that change"),
    responses((status = 202, body = SettingsView), (status = 400, body = crate::error::Errors),
        (status = 403, body = crate::error::Errors)),
    security(("basic" = []), ("bearer" = []))
)]
pub(crate) async fn change_settings(
    State(state): State<ApiState>,
    asking: Asking,
    Body(change): Body<serde_json::Map<String, Value>>,
) -> Result<(StatusCode, Json<SettingsView>), ApiError> {
    let _permit = auth::system(&state, &asking, Operation::ChangeSettings).await?;
    let event = state.event(
        &asking.caller,
        EventType::Update,
        None,
        "settings",
        change.keys().cloned().collect::<Vec<_>>().join(","),
    );
    state
        .catalog
        .update(&dtr_catalog::keys::settings(), Some(&event), |known| {
            let old = known.cloned().unwrap_or_default();
            let new = merged(&old, &change)?;
            check(&old, &new)?;
            if new.disable_persistent_cookies && !old.disable_persistent_cookies {
                return Err(ApiError::invalid(
                    "INVALID_SETTINGS",
                    "disablePersistentCookies cannot be true: this version sets no cookies",
                ));
            }
            Ok::<_, ApiError>(Some(new))
        })
        .await?;
    Ok((StatusCode::ACCEPTED, Json(settings_view(&state).await?)))
}

/// The settings with the changes in them; a name that is not a setting, or a value of the wrong type, is refused.
fn merged(old: &Settings, change: &serde_json::Map<String, Value>) -> Result<Settings, ApiError> {
    let invalid = |reason: String| ApiError::invalid("INVALID_SETTINGS", reason);
    let mut value = serde_json::to_value(old).map_err(|error| ApiError::internal(&error))?;
    let fields = value.as_object_mut().ok_or_else(|| ApiError::internal(&"settings"))?;
    for (name, new) in change {
        if !fields.contains_key(name) {
            let known = fields.keys().cloned().collect::<Vec<_>>().join(", ");
            return Err(invalid(format!(
                "\"{name}\" is not a setting that can be changed here; these can: {known}"
            )));
        }
        fields.insert(name.clone(), new.clone());
    }
    serde_json::from_value(value).map_err(|error| invalid(error.to_string()))
}

fn check(old: &Settings, settings: &Settings) -> Result<(), ApiError> {
    let invalid = |reason: &str| Err(ApiError::invalid("INVALID_SETTINGS", reason));
    if settings.gc_grace_seconds < 60 {
        return invalid("gcGraceSeconds must be at least 60: a push needs that long in peace");
    }
    if settings.gc_interval_seconds < 60 {
        return invalid("gcIntervalSeconds must be at least 60");
    }
    if !(1..=365).contains(&settings.upload_expiry_days) {
        return invalid("uploadExpiryDays must be 1 to 365");
    }
    if !settings.dtr_host.is_empty()
        && settings.dtr_host != old.dtr_host
        && let Err(error) = settings.dtr_host.parse::<ClientHost>()
    {
        return invalid(&format!("dtrHost: {error}"));
    }
    Ok(())
}

/// How the cluster is, as seen from the replica asked: for administrators
#[utoipa::path(
    get, path = "/api/v0/meta/cluster_status", tag = "meta",
    responses((status = 200, body = Object), (status = 403, body = crate::error::Errors)),
    security(("basic" = []), ("bearer" = []))
)]
pub(crate) async fn cluster_status(
    State(state): State<ApiState>,
    asking: Asking,
) -> Result<Json<Value>, ApiError> {
    let _permit = auth::system(&state, &asking, Operation::ViewClusterStatus).await?;
    let members = members(&state).await;
    if let Err(error) = state.catalog.store().revision().await {
        let problem = match &state.cluster {
            Some(cluster) => cluster.unavailable(&error),
            None => error.to_string(),
        };
        return Ok(Json(without_store(&state, &members, &problem).await));
    }
    let now = state.catalog.now();
    let settings = state.catalog.settings().await?;
    let replicas = state.catalog.replicas().await?;
    let by_id = |view: &dyn Fn(&dtr_catalog::records::ReplicaRecord) -> Value| {
        replicas.iter().map(|r| (r.id.to_string(), view(r))).collect::<serde_json::Map<_, _>>()
    };
    let cluster = state.catalog.cluster().await?;
    let status = state.catalog.store().status().await.map_err(dtr_catalog::CatalogError::from)?;
    let held =
        hold::list(&**state.catalog.store()).await.map_err(dtr_catalog::CatalogError::from)?;
    let holder = async |name: &str| {
        let found = state.catalog.get(&dtr_catalog::keys::lock(name)).await?;
        let holder = found.map(|found| found.value.holder.to_string());
        Ok::<_, dtr_catalog::CatalogError>(holder.unwrap_or_default())
    };
    let backups = state.catalog.last_backups().await?;
    // One that cannot be read is told by the next backup; the rest of the status is wanted all the same.
    let archive_keys = dtr_recovery::archive_keys(&state.catalog).await.ok();
    let storage = state.blobs.health().await;
    let identity = match state.identity.health().await {
        Ok(()) => "OK".to_owned(),
        Err(error) => error.to_string(),
    };
    Ok(Json(json!({
        "cluster_id": cluster.as_ref().map(|c| c.id.to_string()),
        "restored_from": cluster.as_ref().and_then(|c| c.restored_from.clone()),
        "version": state.version,
        "replica_health": by_id(&|r| {
            json!(replica_problem(&state, r, now).unwrap_or_else(|| "OK".to_owned()))
        }),
        "replica_timestamp": by_id(&|r| json!(r.reported_at)),
        "replica_readonly": by_id(&|_| json!(settings.read_only_registry)),
        "replica_address": by_id(&|r| json!(r.address)),
        "replica_version": by_id(&|r| json!(r.version)),
        "replica_data_format": by_id(&|r| json!(r.data_format)),
        "data_format": cluster.as_ref().map(|c| c.data_format),
        "members": members.iter().map(member).collect::<Vec<_>>(),
        "gc_lock_holder": holder(dtr_jobs::COLLECTOR).await?,
        "duties_lock_holder": holder(dtr_jobs::DUTIES).await?,
        "identity": identity,
        "store": {
            "engine": status.engine,
            "revision": status.revision,
            "compacted": status.compacted,
            "size_bytes": status.size_bytes,
            "trouble": state.cluster.as_ref().and_then(Cluster::trouble).or(status.full),
            "lack": state.cluster.as_ref().and_then(Cluster::lack),
            "own_member": state.cluster.as_ref().and_then(Cluster::member_problem),
            "holds": held.iter().map(|hold| json!({
                "purpose": hold.record.purpose,
                "revision": hold.revision,
                "taken_at": hold.record.taken_at,
                "expires_at": hold.record.expires_at,
            })).collect::<Vec<_>>(),
        },
        "blob_storage": {
            "health": storage.problem.as_deref().or(storage.full.as_deref()).unwrap_or("OK"),
            "free_bytes": storage.free,
            "total_bytes": storage.total,
            "damaged_blobs": state.catalog.damaged_blobs(1).await?.1,
        },
        "clock": {
            "now": now,
            "problem": state.catalog.clock().doubt().and_then(|doubt| doubt.alarm().map(str::to_owned)),
        },
        "last_backup": backups.confirmed,
        "last_backup_sent": backups.sent,
        "archive_keys": archive_keys,
    })))
}

/// The members of etcd, where there are any.
async fn members(state: &ApiState) -> Vec<MemberView> {
    let Some(cluster) = &state.cluster else { return Vec::new() };
    cluster.members().await.unwrap_or_else(|error| {
        tracing::warn!(%error, "the members of etcd cannot be listed");
        Vec::new()
    })
}

fn member(member: &MemberView) -> Value {
    json!({
        "replica": member.facts.name.trim_start_matches("dtr-"),
        "votes": !member.facts.learner,
        "leads": member.leader,
        "problem": member.problem,
        "peer_urls": member.facts.peer_urls,
        "size_bytes": member.status.as_ref().map(|status| status.size_bytes),
        "size_in_use_bytes": member.status.as_ref().map(|status| status.size_in_use_bytes),
    })
}

/// What can be told when the store does not answer, as without a majority.
async fn without_store(state: &ApiState, members: &[MemberView], problem: &str) -> Value {
    let storage = state.blobs.health().await;
    let health = members.iter().map(|member| {
        let id = member.facts.name.trim_start_matches("dtr-").to_owned();
        (id, json!(member.problem.as_deref().unwrap_or("answers, without a majority")))
    });
    let mut health: serde_json::Map<_, _> = health.collect();
    health.entry(state.replica.to_string()).or_insert_with(|| json!(problem));
    json!({
        "version": state.version,
        "replica_health": health,
        "members": members.iter().map(member).collect::<Vec<_>>(),
        "identity": "not known without the store",
        "store": { "problem": problem },
        "blob_storage": {
            "health": storage.problem.as_deref().or(storage.full.as_deref()).unwrap_or("OK"),
            "free_bytes": storage.free,
            "total_bytes": storage.total,
        },
    })
}

/// What this registry can do
#[utoipa::path(
    get, path = "/api/v0/meta/features", tag = "meta",
    responses((status = 200, body = Object), (status = 401, body = crate::error::Errors)),
    security(("basic" = []), ("bearer" = []))
)]
pub(crate) async fn features(
    State(state): State<ApiState>,
    asking: Asking,
) -> Result<Json<Value>, ApiError> {
    let _permit = auth::system(&state, &asking, Operation::ViewFeatures).await?;
    let ucp = match state.catalog.cluster().await?.map(|cluster| cluster.identity) {
        Some(IdentitySource::Ucp { url, .. }) => url,
        _ => String::new(),
    };
    Ok(Json(json!({
        "scanningEnabled": false,
        "scanningLicensed": false,
        "promotionLicensed": false,
        "mirroringLicensed": false,
        "onlineGCEnabled": true,
        "metadataStoreOptedIn": true,
        "db_version": 0,
        "ucpHost": ucp,
        "version": state.version,
    })))
}

/// What an administrator should do something about
#[utoipa::path(
    get, path = "/api/v0/meta/alerts", tag = "meta",
    responses((status = 200, body = Vec<Alert>), (status = 403, body = crate::error::Errors)),
    security(("basic" = []), ("bearer" = []))
)]
pub(crate) async fn alerts(
    State(state): State<ApiState>,
    asking: Asking,
) -> Result<Json<Vec<Alert>>, ApiError> {
    let _permit = auth::system(&state, &asking, Operation::ViewAlerts).await?;
    let mut found = find_alerts(&state).await?;
    if state.cluster.is_none() {
        let store = state.catalog.store().status().await;
        let store = store.map_err(dtr_catalog::CatalogError::from)?;
        found.extend(store.full.as_deref().map(Alert::store_disk));
    }
    if let Err(error) = state.identity.health().await {
        found.push(Alert::identity(&error.to_string()));
    }
    Ok(Json(found))
}

/// A certificate of one's own; an empty certificate and an empty key give it up again, for one of the cluster's own
/// authority.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct NewCertificate {
    /// The certificate, intermediates appended, in PEM.
    #[serde(rename = "webTLSCert")]
    web_tls_cert: String,
    /// Its private key, in PEM.
    #[serde(rename = "webTLSKey")]
    #[schema(value_type = String)]
    web_tls_key: Secret,
    /// The authority that clients are to trust, in PEM.
    #[serde(default, rename = "webTLSCA")]
    web_tls_ca: String,
}

/// What came of it.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CertificateSet {
    /// Nothing wrong, but worth knowing.
    warnings: Vec<String>,
}

/// Exchange the certificate that clients see, without a restart: for administrators
#[utoipa::path(
    put, path = "/api/v0/meta/certificate", tag = "meta", request_body = NewCertificate,
    responses((status = 200, body = CertificateSet), (status = 400, body = crate::error::Errors),
        (status = 403, body = crate::error::Errors)),
    security(("basic" = []), ("bearer" = []))
)]
pub(crate) async fn set_certificate(
    State(state): State<ApiState>,
    asking: Asking,
    Body(new): Body<NewCertificate>,
) -> Result<Json<CertificateSet>, ApiError> {
    let _permit = auth::system(&state, &asking, Operation::ChangeSettings).await?;
    use dtr_catalog::TransactionExt as _;
    let now = state.catalog.now();
    let event = state.event(&asking.caller, EventType::Update, None, "settings", "webTLSCert");
    if new.web_tls_cert.is_empty() && new.web_tls_key.is_empty() {
        // Replicas make one when they see that it is gone.
        let key = dtr_catalog::keys::certificate("web");
        let transaction = Transaction::new().delete(key).event(&event)?;
        state.catalog.commit(transaction).await?;
        return Ok(Json(CertificateSet { warnings: Vec::new() }));
    }
    let ca = (!new.web_tls_ca.trim().is_empty()).then_some(new.web_tls_ca.as_str());
    let checked = pki::check_server_certificate(
        &new.web_tls_cert,
        &new.web_tls_key,
        ca,
        &pki::SubjectNames::none(),
        now,
    )
    .map_err(|error| ApiError::invalid("INVALID_SETTINGS", error.to_string()))?;
    let record = CertificateRecord {
        name: "web".to_owned(),
        certificate: checked.certificate.chain_pem,
        private_key: checked.certificate.key_pem,
        ca: new.web_tls_ca,
        user_given: true,
        created_at: now,
    };
    let transaction = Transaction::new().put_record(&record)?.event(&event)?;
    state.catalog.commit(transaction).await?;
    Ok(Json(CertificateSet { warnings: checked.warnings }))
}
