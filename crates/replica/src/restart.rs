//! Restarting when it is asked for, so that nobody sees an error: one replica at a time, when all others are well; first it
//! says that it goes, then finishes what runs, then begins anew with what is on disk by then. The next has its turn when
//! this one is well again.
//!
//! Who has the turn is in the store. Where that takes no writes, as etcd at the end of its quota, a replica can be told to
//! restart on its own machine ([`local_routes`]): what helps there, a larger quota, holds from a restart on.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{Json, Router, extract::State, http::StatusCode, routing::get};
use dtr_catalog::{Catalog, keys, records::RestartRecord};
use dtr_cluster::{Cluster, strike_restart};
use dtr_jobs::{JobError, Lock, RESTART};
use dtr_types::{Random as _, ReplicaId, SystemRandom};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::health::Health;

/// How often it is looked whether a restart was asked for, or whether it is this replica's turn.
const LOOK: Duration = Duration::from_secs(2);
/// How often a replica that begins looks whether it is well.
const WELL: Duration = Duration::from_millis(250);
/// A replica that has not reported for so long is not well.
const REPORT_LATE: Duration = Duration::from_secs(60);

/// What became of a replica that was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It is to stay so.
    Stopped,
    /// It is to be served anew, by the program that is installed now.
    Restarts,
}

/// Watches over the restarts of one replica.
#[derive(Clone)]
pub(crate) struct Restarter {
    pub catalog: Catalog,
    pub id: ReplicaId,
    pub members: Option<Cluster>,
    pub health: Health,
    /// Ends serving.
    pub drain: CancellationToken,
    /// Set when it ends for a restart.
    pub restarts: Arc<AtomicBool>,
}

impl Restarter {
    pub async fn run(self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.follow() => {}
        }
    }

    async fn follow(&self) {
        // This process is what was asked for, if anything was.
        while let Err(error) = self.finish().await {
            tracing::warn!(%error, "that this replica has restarted could not be told; trying again");
            tokio::time::sleep(LOOK).await;
        }
        let mut told = String::new();
        loop {
            tokio::time::sleep(LOOK).await;
            match self.turn().await {
                Ok(Turn::Gone) => return,
                Ok(Turn::NotAsked) => told.clear(),
                Ok(Turn::Waits(why)) if why != told => {
                    tracing::warn!("this replica is to restart, and waits: {why}");
                    told = why;
                }
                Ok(Turn::Waits(_)) => {}
                Err(error) => tracing::debug!(%error, "whether to restart is not known"),
            }
        }
    }

    async fn asked(&self) -> Result<Option<RestartRecord>, JobError> {
        let found = self.catalog.get(&keys::restart()).await?.map(|found| found.value);
        Ok(found.filter(|record| record.replicas.contains(&self.id)))
    }

    /// Takes this replica off the list as soon as it is well, and leaves the turn to the next.
    async fn finish(&self) -> Result<(), JobError> {
        if self.asked().await?.is_none() {
            return Ok(());
        }
        let lock = Lock::take(&self.catalog, RESTART, &self.id).await?;
        while self.health.problem().await.is_some() || !self.votes().await {
            tokio::time::sleep(WELL).await;
        }
        strike_restart(&self.catalog, &self.id).await?;
        if let Ok(lock) = lock {
            lock.release().await;
        }
        tracing::info!("restarted, and well");
        Ok(())
    }

    async fn votes(&self) -> bool {
        match &self.members {
            Some(cluster) => cluster.votes().await.unwrap_or(false),
            None => true,
        }
    }

    async fn turn(&self) -> Result<Turn, JobError> {
        if self.asked().await?.is_none() {
            return Ok(Turn::NotAsked);
        }
        let lock = match Lock::take(&self.catalog, RESTART, &self.id).await? {
            Ok(lock) => lock,
            Err(other) => return Ok(Turn::Waits(format!("{} restarts just now", other.holder))),
        };
        // Another may have been asked less, or more, meanwhile.
        let Some(record) = self.asked().await? else {
            lock.release().await;
            return Ok(Turn::NotAsked);
        };
        let others = self.others().await?;
        if let Some(why) = others.problem {
            lock.release().await;
            return Ok(Turn::Waits(why));
        }
        tracing::info!("this replica restarts, as was asked: it takes no new work");
        self.health.leave();
        if others.any {
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(record.drain_seconds)) => {}
                () = lock.lost() => {
                    self.health.stay();
                    return Ok(Turn::Waits("another may have the turn: the lock was lost".to_owned()));
                }
            }
            // It took a while: who has fallen ill meanwhile must not be one too many.
            let others = self.others().await;
            if !matches!(&others, Ok(others) if others.problem.is_none()) {
                self.health.stay();
                lock.release().await;
                return Ok(Turn::Waits(others?.problem.unwrap_or_default()));
            }
        }
        lock.hand_over();
        self.restarts.store(true, Ordering::Release);
        self.drain.cancel();
        Ok(Turn::Gone)
    }

    /// How the other replicas are.
    async fn others(&self) -> Result<Others, JobError> {
        let now = self.catalog.now();
        let mut replicas = self.catalog.replicas().await?;
        replicas.retain(|replica| replica.id != self.id);
        let any = !replicas.is_empty();
        let ill = replicas.iter().find_map(|replica| {
            // By what this process has seen: what the other's clock says is no sign of life.
            let is_late = match &self.members {
                Some(cluster) => !cluster.peers().was_seen(&replica.id, REPORT_LATE),
                None => now.since(replica.reported_at) > REPORT_LATE,
            };
            if is_late {
                Some(format!("{} was not seen to report lately", replica.id))
            } else {
                (replica.health != "OK").then(|| format!("{}: {}", replica.id, replica.health))
            }
        });
        let Some(cluster) = self.members.as_ref().filter(|cluster| cluster.runs_members()) else {
            return Ok(Others { any, problem: ill });
        };
        Ok(Others { any, problem: ill.or(silent_member(cluster).await) })
    }

    /// Restarts without the turn, if all members of etcd answer. Yields after how long.
    async fn at_once(&self, drain: Duration) -> Result<Duration, String> {
        let mut wait = Duration::ZERO;
        if let Some(cluster) = self.members.as_ref().filter(|cluster| cluster.runs_members()) {
            if let Some(why) = silent_member(cluster).await {
                return Err(format!("not while another member of etcd is away: {why}"));
            }
            if cluster.members().await.is_ok_and(|members| members.len() > 1) {
                wait = drain;
            }
        }
        tracing::info!("this replica restarts, as was asked on its machine: it takes no new work");
        self.health.leave();
        let restarter = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            restarter.restarts.store(true, Ordering::Release);
            restarter.drain.cancel();
        });
        Ok(wait)
    }
}

/// Why a member of etcd could not be spared, or bear that another goes.
async fn silent_member(cluster: &Cluster) -> Option<String> {
    match cluster.members().await {
        Ok(members) => members.iter().find_map(|member| {
            let name = &member.facts.name;
            match &member.problem {
                Some(problem) => Some(format!("{name}: {problem}")),
                None => member.facts.learner.then(|| format!("{name} has not caught up")),
            }
        }),
        Err(error) => Some(error.to_string()),
    }
}

/// How a restart on the own machine is asked for.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AtOnce {
    drain_seconds: u64,
}

/// `GET /_restart` tells which process this is, by a name that the next one does not have; `POST` has it restart. Only for
/// those who may read the data directory.
pub(crate) fn local_routes(restarter: Restarter) -> Router {
    let told = json!({ "process": SystemRandom.hex(8) });
    Router::new()
        .route("/_restart", get(move || async move { Json(told) }).post(restart_here))
        .with_state(restarter)
}

async fn restart_here(
    State(restarter): State<Restarter>,
    Json(asked): Json<AtOnce>,
) -> (StatusCode, Json<Value>) {
    match restarter.at_once(Duration::from_secs(asked.drain_seconds)).await {
        Ok(wait) => (StatusCode::ACCEPTED, Json(json!({ "seconds": wait.as_secs() }))),
        Err(why) => {
            let errors = json!({ "errors": [{ "code": "REFUSED", "message": why }] });
            (StatusCode::CONFLICT, Json(errors))
        }
    }
}

struct Others {
    /// Whether there are any, so that a load balancer may stand in front.
    any: bool,
    /// Why none may go now.
    problem: Option<String>,
}

enum Turn {
    NotAsked,
    Waits(String),
    Gone,
}
