//! What a replica tells of itself.

use std::{sync::Arc, time::Duration};

use dtr_catalog::{
    Catalog, CatalogError, TransactionExt as _, keys,
    records::{DATA_FORMAT, ReplicaRecord},
};
use dtr_store::Transaction;
use dtr_types::Timestamp;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{ReplicaConfig, health::Health};

/// How often a replica reports.
const EVERY: Duration = Duration::from_secs(20);

/// Reports until `stop`: that the replica lives, and how it is. Asks for the end of serving by `drain` when the data has
/// become something that this program does not know. When told of a `newcomer` it reports at once.
pub(crate) async fn report(
    catalog: Catalog,
    config: ReplicaConfig,
    health: Health,
    node: String,
    newcomer: Arc<Notify>,
    stop: CancellationToken,
    drain: CancellationToken,
) {
    let started_at: Timestamp = catalog.now();
    let mut reported = false;
    loop {
        // Looked at before the time is: others compare that with their own when it comes.
        let problem = health.problem().await.unwrap_or_else(|| "OK".to_owned());
        match catalog.cluster().await {
            // It was raised although this replica did not tell that it knows it, as when it was away for long.
            Ok(Some(cluster)) if cluster.data_format > DATA_FORMAT => {
                tracing::error!(
                    found = cluster.data_format,
                    known = DATA_FORMAT,
                    "the data was brought to a format that this version of dtr does not know: it stops; exchange the program for \
                     the version that the other replicas run, and start it again"
                );
                return drain.cancel();
            }
            _ => {}
        }
        let record = ReplicaRecord {
            id: config.id.clone(),
            address: config.address.clone(),
            https_port: config.https_port,
            http_port: config.http_port,
            node: node.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at,
            reported_at: catalog.now(),
            data_format: DATA_FORMAT,
            health: problem,
        };
        match put(&catalog, &record, reported).await {
            Ok(done) => reported |= done,
            Err(error) => tracing::warn!(%error, "this replica could not report that it lives"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = newcomer.notified() => {}
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

/// Puts the record; again only where it is still there: a replica that is removed meanwhile does not come back by reporting.
async fn put(
    catalog: &Catalog,
    record: &ReplicaRecord,
    reported: bool,
) -> Result<bool, CatalogError> {
    let mut change = Transaction::new().put_record(record)?;
    if reported {
        change = change.if_present(keys::replica(&record.id));
    }
    Ok(catalog.commit(change).await?.committed().is_some())
}
