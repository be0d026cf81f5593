//! The place of a replica among the others: looked after while it serves, and remembered for its next start.

use std::sync::Arc;

use dtr_cluster::{Cluster, Engine, Keeper, News};
use tokio::sync::Notify;

use crate::{ConfigError, DataDir, ReplicaConfig, StoreConfig};

/// Looks after the replica's place among the others, and remembers where they are for the next start.
pub(crate) fn keeper(
    dir: &DataDir,
    config: &ReplicaConfig,
    members: &Cluster,
    engine: &Engine,
    changed: &Arc<Notify>,
) -> Keeper {
    let member = match &config.store {
        StoreConfig::Etcd(etcd) => etcd.member.clone(),
        StoreConfig::Embedded => None,
    };
    let (dir, changed) = (dir.clone(), Arc::clone(changed));
    Keeper::new(members, engine, member, move |news| {
        let remembered = ReplicaConfig::change(&dir, |config| {
            if let StoreConfig::Etcd(etcd) = &mut config.store {
                match news {
                    News::Endpoints(endpoints) => etcd.endpoints = endpoints,
                    News::Members(joined) => {
                        etcd.member.iter_mut().for_each(|member| member.joined.clone_from(&joined));
                    }
                }
            }
            Ok::<_, ConfigError>(())
        });
        if let Err(error) = &remembered {
            tracing::warn!(%error, "where the other replicas are was not written down");
        }
        // The identity service is told who is there.
        changed.notify_one();
        remembered.is_ok()
    })
}
