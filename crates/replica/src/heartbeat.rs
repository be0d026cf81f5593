//! What a replica tells of itself, and the certificate it follows.

use std::time::Duration;

use dtr_catalog::{Catalog, keys, records::ReplicaRecord};
use dtr_transport::{pki::ServerCertificate, tls::ServerTls};
use dtr_types::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::{ReplicaConfig, assets, health::Health};

/// How often a replica reports.
const EVERY: Duration = Duration::from_secs(20);

/// Reports until `stop`: that the replica lives, and how it is.
pub(crate) async fn report(
    catalog: Catalog,
    config: ReplicaConfig,
    health: Health,
    node: String,
    stop: CancellationToken,
) {
    let started_at: Timestamp = catalog.now();
    loop {
        let record = ReplicaRecord {
            id: config.id.clone(),
            address: config.address.clone(),
            https_port: config.https_port,
            http_port: config.http_port,
            node: node.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at,
            reported_at: catalog.now(),
            health: health.problem().await.unwrap_or_else(|| "OK".to_owned()),
        };
        if let Err(error) = catalog.put(&record).await {
            tracing::warn!(%error, "this replica could not report that it lives");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

/// Follows the certificate in the store: one that is stored by any replica is served by this one without a restart.
pub(crate) async fn follow_certificate(catalog: Catalog, tls: ServerTls, stop: CancellationToken) {
    let key = keys::certificate(assets::WEB);
    let end = [key.bytes(), &b"\0"[..]].concat();
    loop {
        let watched = async {
            let from = catalog.store().revision().await?.next();
            // What was stored before the watch began.
            exchange(&catalog, &tls).await;
            let mut watcher = catalog.store().watch(key.bytes(), &end, from).await?;
            while let Some(batch) = watcher.next().await {
                batch?;
                exchange(&catalog, &tls).await;
            }
            Ok::<(), dtr_store::StoreError>(())
        };
        tokio::select! {
            () = stop.cancelled() => return,
            result = watched => {
                if let Err(error) = result {
                    tracing::warn!(%error, "the certificate is not followed for a moment");
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
}

async fn exchange(catalog: &Catalog, tls: &ServerTls) {
    let found = match catalog.get(&keys::certificate(assets::WEB)).await {
        Ok(Some(found)) => found.value,
        Ok(None) => return,
        Err(error) => {
            tracing::warn!(%error, "the certificate cannot be read");
            return;
        }
    };
    let certificate =
        ServerCertificate { chain_pem: found.certificate, key_pem: found.private_key };
    match tls.exchange(&certificate) {
        Ok(()) => tracing::debug!("the certificate was exchanged"),
        Err(error) => tracing::error!(%error, "the stored certificate cannot be served"),
    }
}
