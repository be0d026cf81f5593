//! What a replica tells of itself.

use std::time::Duration;

use dtr_catalog::{Catalog, records::ReplicaRecord};
use dtr_types::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::{ReplicaConfig, health::Health};

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
