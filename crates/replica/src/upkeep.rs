//! The upkeep of etcd as the background work of a replica.

use std::time::Duration;

use async_trait::async_trait;
use dtr_cluster::Cluster;
use dtr_jobs::Upkeep;
use tokio_util::sync::CancellationToken;

use crate::{DataDir, ReplicaConfig, StoreConfig};

/// How often a replica looks at its own member.
const LOOK: Duration = Duration::from_secs(5);

/// The members' files, as a job.
pub(crate) struct MembersUpkeep(pub Cluster);

#[async_trait]
impl Upkeep for MembersUpkeep {
    async fn keep_up(&self) {
        if let Err(error) = self.0.keep_up().await {
            tracing::warn!(%error, "the files of etcd were not looked after; trying again");
        }
    }

    async fn is_chosen(&self) -> bool {
        self.0.leads().await
    }
}

/// Looks at the member of this replica until `stop`, so that what is wrong with it is told.
pub(crate) async fn look(cluster: Cluster, dir: DataDir, stop: CancellationToken) {
    loop {
        cluster.quota_saved(saved_quota(&dir));
        cluster.look().await;
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// The quota that the next start gives to the member of this replica, where one was configured.
fn saved_quota(dir: &DataDir) -> Option<u64> {
    match ReplicaConfig::load(dir).ok()?.store {
        StoreConfig::Etcd(etcd) => etcd.member?.quota_bytes,
        StoreConfig::Embedded => None,
    }
}
