//! Restarting replicas one after the other, and waiting until they are well; `dtr upgrade`, which is that and a little more.

use std::time::Duration;

use anyhow::Context as _;
use dtr_client::ClientError;
use dtr_recovery::Exit;
use dtr_replica::{DataDir, ReplicaConfig};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::connect::{self, Connection};
use crate::{
    cli::{DrainArgs, UpgradeArgs},
    failure::{Failure, Result},
    terminal::{self, field, waiting},
};

/// How long one replica may take to go and to be well again, beside what it waits for the load balancer.
const RESTART_MAX: Duration = Duration::from_secs(180);
/// The status of what is refused because the store takes no writes.
const FULL: u16 = 507;
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// Where replicas are unless another place is named.
const USUAL_PLACE: &str = "/var/lib/dtr";

/// Has these replicas restart, all when none is named, and returns when all are well.
pub(super) async fn restart(c: &Connection, replicas: &[String], drain: &DrainArgs) -> Result<()> {
    let wish = json!({ "replicas": replicas, "drainSeconds": drain.drain_seconds });
    let asked: Value = match c.api.post("/api/v0/cluster/restart", &wish).await {
        Ok(asked) => asked,
        Err(error) if error.status().is_some_and(|status| status.as_u16() == FULL) => {
            return restart_full(c, drain, error).await;
        }
        Err(error) => {
            return Err(anyhow::Error::new(error).context("cannot ask the replicas to restart"));
        }
    };
    let mut left = ids(&asked["replicas"]);
    let limit = RESTART_MAX + Duration::from_secs(drain.drain_seconds);
    let mut progress = Instant::now();
    while !left.is_empty() {
        tokio::time::sleep(LOOK).await;
        // The one that answers restarts too.
        let Ok(now) = c.api.get::<Value>("/api/v0/cluster/restart").await else {
            if progress.elapsed() > limit {
                return Err(late(&left));
            }
            continue;
        };
        let now = ids(&now["replicas"]);
        for done in left.iter().filter(|id| !now.contains(id)) {
            terminal::say(&format!("{done} has restarted, and is well"));
            progress = Instant::now();
        }
        left = now;
        if progress.elapsed() > limit {
            return Err(late(&left));
        }
    }
    Ok(())
}

/// Restarts the replica of this machine where the store takes no writes, so that nobody can be given a turn: what is saved for
/// it, such as a larger quota, may be what ends that.
async fn restart_full(c: &Connection, drain: &DrainArgs, error: ClientError) -> Result<()> {
    if !c.is_local() {
        let what = "the store takes no writes, so no replica can be given its turn: on the machine of each, one after the other, \
                    run \"dtr reconfigure --data-dir DIR --restart\"";
        return Err(anyhow::Error::new(error).context(what));
    }
    terminal::say(
        "the store takes no writes: only the replica of this machine is restarted. Where there are several, do this on one machine \
         after the other",
    );
    let process =
        async || c.api.get::<Value>("/_restart").await.ok().map(|told| field(&told, "process"));
    let before = process().await;
    let wish = json!({ "drainSeconds": drain.drain_seconds });
    let _: Value = c.api.post("/_restart", &wish).await.context("it was not restarted")?;
    let limit = RESTART_MAX + Duration::from_secs(drain.drain_seconds);
    let began = Instant::now();
    loop {
        tokio::time::sleep(LOOK).await;
        let now = process().await;
        if now.is_some() && now != before && c.api.get::<Value>("/_ping").await.is_ok() {
            terminal::say("restarted, and well");
            return Ok(());
        }
        if began.elapsed() > limit {
            let what = "this replica has not come back in time; see \"dtr status\" and its log";
            return Err(Failure::ending(Exit::Failed, what.to_owned()));
        }
    }
}

fn late(left: &[String]) -> anyhow::Error {
    Failure::ending(
        Exit::Failed,
        format!(
            "{} did not restart in time: a replica waits until all others are well; see \"dtr status\" and its log. It goes on by \
             itself",
            left.join(", ")
        ),
    )
}

fn ids(list: &Value) -> Vec<String> {
    let list = list.as_array().into_iter().flatten();
    list.filter_map(Value::as_str).map(ToOwned::to_owned).collect()
}

/// `dtr upgrade`
pub async fn upgrade(mut args: UpgradeArgs) -> Result<()> {
    if args.connect.ucp.ucp_url.is_none() {
        let dir = args.connect.data_dir.get_or_insert_with(|| USUAL_PLACE.into());
        let dir = DataDir::new(std::path::absolute(dir).context("cannot use the data directory")?);
        if dtr_replica::running(&dir).is_none() {
            return look(&dir).await;
        }
    }
    connect::with(&args.connect, async |c| {
        let old = with_other_version(c).await?;
        if !old.is_empty() {
            terminal::say(&format!(
                "to version {}, one after the other: {}",
                env!("CARGO_PKG_VERSION"),
                old.join(", ")
            ));
            waiting("restarting", restart(c, &old, &args.drain)).await?;
            let still = with_other_version(c).await?;
            if !still.is_empty() {
                return Err(Failure::ending(
                    Exit::Failed,
                    format!(
                        "these replicas still run another version: {}. Exchange the program on their machines, and run this \
                         again; the format of the data is left as it is",
                        still.join(", ")
                    ),
                ));
            }
        }
        let done: Value = c
            .api
            .post("/api/v0/cluster/upgrade", &json!({}))
            .await
            .context("cannot bring the data to a newer format")?;
        let silent = not_well(c).await?;
        if !silent.is_empty() {
            return Err(Failure::ending(
                Exit::Failed,
                format!(
                    "the data has format {}. These replicas are not well, so nobody knows what they run: {}. Mend or remove \
                     them, then run this again",
                    done["dataFormat"],
                    silent.join("; ")
                ),
            ));
        }
        let raised = if done["raised"] == Value::Bool(true) { "now" } else { "already" };
        terminal::print(&format!(
            "all replicas run version {}; the data has format {} {raised}",
            env!("CARGO_PKG_VERSION"),
            done["dataFormat"]
        ))
    })
    .await
}

/// Which replicas run another version than this program's.
async fn with_other_version(c: &Connection) -> Result<Vec<String>> {
    let status: Value =
        c.api.get("/api/v0/meta/cluster_status").await.context("cannot ask for the status")?;
    let replicas = status["replica_version"].as_object().into_iter().flatten();
    let other = |id: &String| field(&status["replica_version"], id) != env!("CARGO_PKG_VERSION");
    Ok(replicas.map(|(id, _)| id.clone()).filter(other).collect())
}

/// Replicas that are silent or ill, and why.
async fn not_well(c: &Connection) -> Result<Vec<String>> {
    let status: Value =
        c.api.get("/api/v0/meta/cluster_status").await.context("cannot ask for the status")?;
    let health = status["replica_health"].as_object().into_iter().flatten();
    let ill = health.filter(|(_, health)| health.as_str() != Some("OK"));
    Ok(ill.map(|(id, why)| format!("{id} {}", why.as_str().unwrap_or_default())).collect())
}

/// Of a replica that does not run: whether this program understands its data.
async fn look(dir: &DataDir) -> Result<()> {
    let config = ReplicaConfig::load(dir)?;
    let opened = dtr_replica::open(dir, &config).await.context("cannot upgrade")?;
    let format = opened.cluster.data_format;
    opened.close().await;
    terminal::print(&format!(
        "the replica does not run; its data has format {format}, which version {} knows: start it with \"dtr serve\"",
        env!("CARGO_PKG_VERSION")
    ))
}
