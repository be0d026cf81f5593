//! Following the store while serving: the address that clients use and the certificate that they see are shared by all
//! replicas and change without a restart. What others were told of this replica (its address, its authority) follows them.

use std::{sync::Arc, time::Duration};

use dtr_catalog::{Catalog, keys, records::Settings};
use dtr_identity::{Actor, BuiltIn, Identity as _, Remote, ServiceForm};
use dtr_store::{StoreError, WatchBatch, Watcher};
use dtr_transport::{
    ExternalHost,
    pki::{PkiError, SubjectNames},
    tls::ServerTls,
};
use dtr_types::ClientHost;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{DataDir, ReplicaConfig, ServeError, assets, install::registration};

/// How long until a UCP that was away is told again.
const TELL_AGAIN: Duration = Duration::from_secs(15);
/// How often it is looked whether a replica came or went.
const LOOK_WHO: Duration = Duration::from_secs(5);
/// How long until a watch that ended begins again.
const WATCH_AGAIN: Duration = Duration::from_secs(1);
/// How often the certificate is looked at although nothing changed: one of our own is made anew before it ends.
const RENEW: Duration = Duration::from_secs(12 * 60 * 60);

/// The names that a certificate of our own has. An address for clients that is none, as an older version may have stored
/// it, is left out: nobody could use it, and the others go on.
pub(crate) fn names(config: &ReplicaConfig, external: &str) -> Result<SubjectNames, PkiError> {
    let names = SubjectNames::local().with_url(&config.address)?;
    if external.is_empty() {
        return Ok(names);
    }
    match external.parse::<ClientHost>() {
        Ok(host) => names.with_host(host.host()),
        Err(error) => {
            tracing::warn!(
                %error,
                "the setting dtrHost is not used; set it anew with \"dtr reconfigure --dtr-external-url\""
            );
            Ok(names)
        }
    }
}

/// The same, and those of all replicas: they share one certificate, and each makes it anew where it lacks a name.
pub(crate) async fn shared_names(
    catalog: &Catalog,
    config: &ReplicaConfig,
    external: &str,
) -> Result<SubjectNames, ServeError> {
    let mut all = names(config, external)?;
    for replica in catalog.replicas().await? {
        if let Ok(more) = all.clone().with_url(&replica.address) {
            all = more;
        }
    }
    Ok(all)
}

/// What follows the store.
pub(crate) struct Follower {
    pub catalog: Catalog,
    pub config: ReplicaConfig,
    pub tls: ServerTls,
    /// Where the plain port sends clients.
    pub external: ExternalHost,
    /// Told when address or authority may have changed.
    pub changed: Arc<Notify>,
    /// Where the certificate is remembered for a start without a majority.
    pub remember: Option<DataDir>,
}

impl Follower {
    /// Follows until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                result = self.watch() => {
                    if let Err(error) = result {
                        tracing::warn!(%error, "the certificate and the settings are not followed for a moment");
                    }
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(WATCH_AGAIN) => {}
            }
        }
    }

    async fn watch(&self) -> Result<(), StoreError> {
        let from = self.catalog.store().revision().await?.next();
        // What was stored before the watch began.
        self.apply().await;
        let certificate = keys::certificate(assets::WEB);
        let settings = keys::settings();
        let mut certificates = self.one(certificate.bytes(), from).await?;
        let mut settings = self.one(settings.bytes(), from).await?;
        loop {
            let batch: Option<Result<WatchBatch, StoreError>> = tokio::select! {
                batch = certificates.next() => batch,
                batch = settings.next() => batch,
                () = tokio::time::sleep(RENEW) => {
                    self.apply().await;
                    continue;
                }
            };
            let Some(batch) = batch else { return Ok(()) };
            batch?;
            self.apply().await;
        }
    }

    async fn one(&self, key: &[u8], from: dtr_types::Revision) -> Result<Watcher, StoreError> {
        let end = [key, &b"\0"[..]].concat();
        self.catalog.store().watch(key, &end, from).await
    }

    /// Serves what the store says. A certificate of our own is made anew where it lacks a name, ends soon, or is there no more.
    async fn apply(&self) {
        if let Err(error) = self.try_apply().await {
            tracing::error!(%error, "what is stored of address and certificate cannot be served; the former goes on");
        }
    }

    async fn try_apply(&self) -> Result<(), ServeError> {
        let Settings { dtr_host, .. } = self.catalog.settings().await?;
        self.external.set(dtr_host.parse().ok());
        let names = shared_names(&self.catalog, &self.config, &dtr_host).await?;
        let certificate = assets::web_certificate(&self.catalog, &names).await?;
        self.tls.exchange(&certificate)?;
        if let Some(dir) = &self.remember {
            assets::remember(dir, &certificate);
        }
        tracing::debug!("address and certificate are those in the store");
        self.changed.notify_one();
        Ok(())
    }
}

/// Where the replica is registered.
pub(crate) enum Directory {
    /// With accounts of its own, the registry is its own identity service: commands find its replicas there.
    Here(BuiltIn),
    /// A UCP.
    Ucp(Arc<Remote>),
}

impl Directory {
    /// Says what this replica is now; also after a restore elsewhere.
    pub(crate) async fn tell(
        &self,
        catalog: &Catalog,
        config: &ReplicaConfig,
    ) -> Result<(), ServeError> {
        let host = catalog.settings().await?.dtr_host;
        let url = if host.is_empty() { config.address.clone() } else { format!("https://{host}") };
        let form = registration(catalog, &url, config).await?;
        match self {
            Self::Here(built_in) => register_here(catalog, built_in, form).await,
            Self::Ucp(remote) => {
                // The name, and what only an administrator may say, were said at the registration.
                let form = ServiceForm { name: None, privileged: None, ..form };
                Ok(remote.update_registration(&form).await?)
            }
        }
    }

    /// Says it again at each change; until it is heard, since a UCP may be away.
    pub(crate) async fn keep_told(
        self,
        catalog: Catalog,
        config: ReplicaConfig,
        changed: Arc<Notify>,
        stop: CancellationToken,
    ) {
        let mut last = Vec::new();
        loop {
            let told = self.tell(&catalog, &config).await;
            if let Ok(now) = there(&catalog).await {
                last = now;
            }
            if let Err(error) = &told {
                tracing::warn!(%error, "the identity service was not told of this replica; trying again");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = changed.notified() => {}
                () = tokio::time::sleep(TELL_AGAIN), if told.is_err() => {}
                () = self.well_again(), if told.is_err() => {}
                () = self.others_than(&catalog, &last), if told.is_ok() => {}
            }
        }
    }
}

impl Directory {
    /// Whether the identity service takes this registry for one that it knows; by asking, this becomes known to whoever
    /// asks for the health of this replica.
    async fn is_well(&self) -> bool {
        match self {
            Self::Here(_) => true,
            Self::Ucp(remote) => remote.health().await.is_ok(),
        }
    }

    /// Returns when the identity service can be told again.
    async fn well_again(&self) {
        loop {
            tokio::time::sleep(LOOK_WHO).await;
            if self.is_well().await {
                return;
            }
        }
    }

    /// Returns when the replicas are others than those (one came, or was removed), or the identity service is not well.
    async fn others_than(&self, catalog: &Catalog, known: &[String]) {
        loop {
            tokio::time::sleep(LOOK_WHO).await;
            match there(catalog).await {
                Ok(now) if now != known => return,
                _ if !self.is_well().await => return,
                _ => {}
            }
        }
    }
}

/// The replicas of this moment.
async fn there(catalog: &Catalog) -> Result<Vec<String>, ServeError> {
    let replicas = catalog.replicas().await?;
    Ok(replicas.iter().map(|replica| format!("{} {}", replica.id, replica.address)).collect())
}

async fn register_here(
    catalog: &Catalog,
    built_in: &BuiltIn,
    mut form: ServiceForm,
) -> Result<(), ServeError> {
    form.name = Some("dtr".to_owned());
    let known = catalog.services().await?;
    match known.iter().find(|service| Some(&service.name) == form.name.as_ref()) {
        Some(service) => {
            built_in.update_service(&Actor::system(), &service.id, form).await?;
        }
        None => {
            let mut accounts = catalog.list_accounts(None, 500).await?.items.into_iter();
            if let Some(owner) = accounts.find(|account| account.is_admin) {
                built_in.register_service(&Actor::system(), &owner.id, form).await?;
            }
        }
    }
    Ok(())
}
