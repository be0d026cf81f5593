//! Watching over this machine's clock, beside the work: whether it was set, whether it fits to the last commit, and whether the
//! other replicas' clocks say the same. What follows from a doubt is decided where the work is done; here it is said.

use std::{mem::discriminant, sync::Arc, time::Duration};

use dtr_catalog::{Catalog, CatalogError, Kind, Versioned, keys, records::ReplicaRecord};
use dtr_cluster::Cluster;
use dtr_store::At;
use dtr_types::{Clock as _, Doubt, ReplicaId, WatchedClock};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// How often.
const LOOK: Duration = Duration::from_secs(2);

/// Watches over the clock of one replica.
pub(crate) struct Clocks {
    pub catalog: Catalog,
    pub clock: Arc<WatchedClock>,
    pub id: ReplicaId,
    pub members: Option<Cluster>,
    /// Told when another replica has begun: it waits for a report of this one, to compare its clock with.
    pub newcomer: Arc<Notify>,
}

impl Clocks {
    /// The first look, before anything is served. The last time that this replica has written itself is that of its report.
    pub async fn begin(&self) {
        match self.catalog.get(&keys::replica(&self.id)).await {
            Ok(Some(own)) => self.clock.after_commit(own.value.reported_at),
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "the clock is not compared with the last commit"),
        }
        self.look().await;
    }

    /// Looks until `stop`, and says what has changed.
    pub async fn run(self, stop: CancellationToken) {
        let mut told: Option<Doubt> = None;
        loop {
            let doubt = self.clock.doubt();
            if doubt.as_ref().map(discriminant) != told.as_ref().map(discriminant) {
                match &doubt {
                    Some(Doubt::Early(_)) => {}
                    Some(doubt @ (Doubt::Wrong(_) | Doubt::Apart(_))) => tracing::error!("{doubt}"),
                    Some(doubt) => tracing::warn!("{doubt}"),
                    None if told.as_ref().is_some_and(|told| told.alarm().is_some()) => {
                        tracing::info!("the clock of this machine is relied on again");
                    }
                    None => {}
                }
                told = doubt;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            self.look().await;
        }
    }

    async fn look(&self) {
        let Some(members) = &self.members else { return };
        match self.replicas().await {
            Ok(records) => {
                let look = members.peers().look(&self.id, &records, self.clock.now());
                self.clock.compared(look.doubt, look.agrees);
                if look.has_newcomer {
                    self.newcomer.notify_one();
                }
            }
            // What was known stays so.
            Err(error) => tracing::debug!(%error, "the clocks are not compared"),
        }
    }

    async fn replicas(&self) -> Result<Vec<Versioned<ReplicaRecord>>, CatalogError> {
        let prefix = Kind::Replica.prefix().as_bytes();
        Ok(self.catalog.list(prefix, None, 0, At::Latest).await?.items)
    }
}
