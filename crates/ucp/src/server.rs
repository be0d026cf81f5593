//! What answers: the identity face, `/ca`, `/_ping` over HTTPS; status, metrics and backups over the local socket.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use axum::{
    Json, Router,
    body::Body,
    extract::{Query, State},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use dtr_catalog::{
    Catalog, keys,
    records::{CertificateRecord, DATA_FORMAT},
};
use dtr_enzi::{BackupSource, Enzi};
use dtr_identity::{BuiltIn, BuiltInOptions, Identity as _};
use dtr_service::local;
use dtr_transport::{
    Metrics, Server, Shutdown,
    pki::{self, Authority, ServerCertificate},
    tls::ServerTls,
};
use dtr_types::SystemRandom;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::{
    VERSION,
    backup::Source,
    data_dir::Config,
    install::{CA, WEB, issue},
};

/// How often sessions that are over are removed, history is forgotten and the certificate is looked at.
const UPKEEP: Duration = Duration::from_secs(600);

/// What `ucp status` shows.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The version that serves.
    pub version: String,
    /// Its address for clients.
    pub url: String,
    /// The process.
    pub pid: u32,
    /// Why it is not healthy; empty when it is.
    pub problem: String,
    /// The store's revision.
    pub revision: u64,
    /// Bytes of the store's file.
    pub store_bytes: u64,
    /// Users.
    pub users: u64,
    /// Organizations.
    pub orgs: u64,
    /// Registered services.
    pub services: usize,
    /// When the certificate ends.
    pub certificate_until: String,
    /// When the last backup ended; empty when there is none.
    pub last_backup: String,
}

/// An opened UCP.
#[derive(Clone)]
pub struct Service {
    catalog: Catalog,
    identity: BuiltIn,
    config: Arc<Config>,
    authority: Arc<Authority>,
    metrics: Arc<Metrics>,
}

impl Service {
    /// Over an installed store.
    ///
    /// # Errors
    /// When the store is not complete, or of a newer format.
    pub async fn open(catalog: Catalog, config: Config) -> anyhow::Result<Self> {
        let cluster = catalog.cluster().await?.context("the store was never completed")?;
        ensure!(
            cluster.data_format <= DATA_FORMAT,
            "the data has format {}, made by a newer version ({}); this version knows formats up to {DATA_FORMAT}",
            cluster.data_format,
            cluster.created_by
        );
        let ca =
            catalog.get(&keys::certificate(CA)).await?.context("the store has no authority")?;
        let authority = Authority::from_pem(&ca.value.certificate, &ca.value.private_key)?;
        let identity = BuiltIn::new(catalog.clone(), BuiltInOptions::default());
        let metrics = Metrics::new();
        metrics.register(|registry| identity.login_figures().register(registry));
        Ok(Self {
            catalog,
            identity,
            config: Arc::new(config),
            authority: Arc::new(authority),
            metrics,
        })
    }

    /// The certificate to serve with; a new one when there is none, it ends soon, or the names are others.
    async fn certificate(&self) -> anyhow::Result<ServerCertificate> {
        let known = self.catalog.get(&keys::certificate(WEB)).await?.map(|found| found.value);
        let good = known.filter(|record| record.user_given || self.is_good(record));
        let record = match good {
            Some(record) => record,
            None => {
                let record = issue(&self.catalog, &self.authority, &self.config)?;
                self.catalog.put(&record).await?;
                tracing::info!("a new certificate was issued");
                record
            }
        };
        Ok(ServerCertificate { chain_pem: record.certificate, key_pem: record.private_key })
    }

    fn is_good(&self, record: &CertificateRecord) -> bool {
        let (Ok(facts), Ok(names)) = (pki::facts(&record.certificate), self.config.names()) else {
            return false;
        };
        let lasts = facts.not_after > self.catalog.now().plus(pki::EXPIRES_SOON);
        lasts && names.iter().all(|name| facts.names.contains(name))
    }

    /// Serves until `shutdown`.
    ///
    /// # Errors
    /// When an address or the certificate cannot be used.
    pub async fn run(self, root: &Path, shutdown: Shutdown) -> anyhow::Result<()> {
        let tls = ServerTls::new(&self.certificate().await?)?;
        let server = Server::new(self.router(), Arc::clone(&self.metrics), &SystemRandom)
            .https(self.config.listen(), tls.clone())
            .bind()
            .await?;
        let local = local::listen(root)?;
        let local = tokio::spawn(local.serve(self.local_router(), shutdown.drain.clone()));
        let upkeep = tokio::spawn(self.clone().upkeep(tls, shutdown.drain.clone()));
        for (kind, address) in server.addresses() {
            tracing::info!(%kind, %address, url = self.config.url(), "serving");
        }
        dtr_service::notify_ready();
        let drained = server.run(shutdown).await;
        dtr_service::notify_stopping();
        if drained.cut > 0 {
            tracing::warn!(connections = drained.cut, "connections were cut");
        }
        upkeep.abort();
        local.await.context("the local socket")?;
        Ok(())
    }

    /// What is served over HTTPS.
    pub fn router(&self) -> Router {
        let source = Arc::new(Source::new(self.catalog.clone()));
        let enzi = Enzi::new(self.identity.clone(), &self.config.url())
            .with_accounts_alias()
            .with_backup(source);
        let face =
            Router::new().route("/_ping", get(ping)).route("/ca", get(ca)).with_state(self.clone());
        dtr_enzi::router(enzi).merge(face)
    }

    fn local_router(&self) -> Router {
        Router::new()
            .route("/_ping", get(ping))
            .route("/status", get(status))
            .route("/metrics", get(metrics))
            .route("/backup", post(backup))
            .with_state(self.clone())
    }

    async fn problem(&self) -> Option<String> {
        self.identity.health().await.err().map(|error| error.to_string())
    }

    async fn status(&self) -> anyhow::Result<Status> {
        let store = self.catalog.store().status().await?;
        let counts = self.identity.account_counts().await?;
        let certificate = self.certificate().await?;
        let last_backup = self.catalog.last_backups().await?.sent;
        Ok(Status {
            version: VERSION.to_owned(),
            url: self.config.url(),
            pid: std::process::id(),
            problem: self.problem().await.unwrap_or_default(),
            revision: store.revision.0,
            store_bytes: store.size_bytes,
            users: counts.users,
            orgs: counts.orgs,
            services: self.identity.services().await?.len(),
            certificate_until: pki::facts(&certificate.chain_pem)?.not_after.to_string(),
            last_backup: last_backup.map(|b| b.finished_at.to_string()).unwrap_or_default(),
        })
    }

    async fn upkeep(self, tls: ServerTls, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(UPKEEP) => {}
            }
            if let Err(error) = self.tidy(&tls).await {
                tracing::warn!(%error, "upkeep failed; it is tried again");
            }
        }
    }

    async fn tidy(&self, tls: &ServerTls) -> anyhow::Result<()> {
        let store = &**self.catalog.store();
        self.catalog.observe().await?;
        match self.catalog.deletion_pauses() {
            None => drop(self.catalog.purge_sessions(self.catalog.now()).await?),
            Some(doubt) => tracing::warn!("sessions that are over are kept for a while: {doubt}"),
        }
        let revision = store.revision().await?;
        dtr_store::hold::compact(store, revision).await?;
        tls.exchange(&self.certificate().await?)?;
        Ok(())
    }
}

async fn ping(State(service): State<Service>) -> Response {
    let problem = service.problem().await;
    let status = if problem.is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let healthy = problem.is_none();
    let body = serde_json::json!({"Error": problem.unwrap_or_default(), "Healthy": healthy});
    (status, Json(body)).into_response()
}

async fn ca(State(service): State<Service>) -> Response {
    let kind = [(http::header::CONTENT_TYPE, "application/x-pem-file")];
    (kind, service.authority.certificate_pem().to_owned()).into_response()
}

async fn metrics(State(service): State<Service>) -> Response {
    service.metrics.response()
}

async fn status(State(service): State<Service>) -> Response {
    match service.status().await {
        Ok(status) => Json(status).into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error:#}")).into_response(),
    }
}

#[derive(Deserialize)]
struct BackupQuery {
    #[serde(default)]
    encrypted: bool,
}

async fn backup(State(service): State<Service>, Query(query): Query<BackupQuery>) -> Body {
    Source::new(service.catalog.clone()).backup("system", query.encrypted).await
}
