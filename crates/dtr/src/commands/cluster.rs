//! `dtr join`, `dtr remove`, `dtr emergency-repair`: replicas that come, go, or are what is left.

use std::time::Duration;

use anyhow::Context as _;
use dtr_recovery::Exit;
use dtr_replica::{Admission, Joining, StoreOptions};
use dtr_types::{ReplicaId, SystemRandom};
use serde_json::Value;

use super::{
    connect::{self, Connection},
    local,
};
use crate::{
    cli::{ConnectArgs, JoinArgs, Output, RemoveArgs, RepairArgs},
    failure::{Failure, Result},
    terminal::{self, field, waiting},
};

/// How long a new replica may take to catch up before the command stops waiting for it.
const CATCH_UP_MAX: Duration = Duration::from_secs(300);
/// How often it is looked at until then.
const LOOK: Duration = Duration::from_millis(500);

/// `dtr join`
pub async fn join(args: JoinArgs) -> Result<()> {
    let dir = local::data_dir(&args.dir)?;
    if args.unless_installed && local::is_installed(&dir)? {
        return Ok(());
    }
    dtr_replica::unoccupied(&dir).await.context("cannot join")?;
    let store = StoreOptions::Etcd(local::etcd(args.etcd)?);
    let options = local::options(None, args.network, None, store, args.storage, args.log)?;
    local::try_ports(&options, args.no_start).await?;
    let id = args.replica_id.unwrap_or_else(|| ReplicaId::random(&SystemRandom));
    let joining = Joining::new(&options, id.clone(), args.unsafe_join).context("cannot join")?;
    let address = joining.address().to_owned();
    let through = ConnectArgs {
        ucp_token: None,
        ucp: args.ucp,
        existing_replica_id: args.existing_replica_id,
        data_dir: None,
        export: false,
    };
    connect::with(&through, async |c| {
        let admission: Admission = waiting(
            "asking to be let in",
            c.api.post("/api/v0/cluster/replicas", &joining.request()),
        )
        .await
        .context("cannot join")?;
        if let Err(error) = joining.complete(&dir, &admission).await {
            if admission.own_member {
                take_back(c, &id).await;
            }
            return Err(anyhow::Error::new(error).context("cannot join; nothing was changed"));
        }
        let clients = match admission.external.as_str() {
            "" => address.clone(),
            host => format!("https://{host}"),
        };
        terminal::print(&format!(
            "DTR joined cluster {} in {}\n  for clients    {clients}\n  address        {address}\n  replica        {id}\n",
            admission.cluster,
            dir.root().display(),
        ))?;
        local::start(&dir, args.no_start).await?;
        if args.no_start || !admission.own_member {
            return Ok(());
        }
        waiting("catching up", voted(c, &id)).await?;
        terminal::print("it has caught up, and votes")
    })
    .await
}

/// A replica that was let in and cannot come.
async fn take_back(c: &Connection, id: &ReplicaId) {
    if let Err(error) = c.api.delete(&format!("/api/v0/cluster/replicas/{id}")).await {
        terminal::say(&format!(
            "warning: the cluster still expects this replica ({error}); run \"dtr remove --replica-ids {id}\""
        ));
    }
}

/// Returns when the replica votes, as another one sees it.
async fn voted(c: &Connection, id: &ReplicaId) -> Result<()> {
    let end = tokio::time::Instant::now() + CATCH_UP_MAX;
    loop {
        let status: Value = c.api.get("/api/v0/meta/cluster_status").await?;
        let members = status["members"].as_array().into_iter().flatten();
        let own = members.into_iter().find(|member| field(member, "replica") == id.to_string());
        match own {
            Some(own) if own["votes"] == Value::Bool(true) => return Ok(()),
            _ if tokio::time::Instant::now() < end => tokio::time::sleep(LOOK).await,
            _ => {
                return Err(Failure::ending(
                    Exit::Failed,
                    "it runs, and has not caught up yet: it goes on by itself; see \"dtr status\"",
                ));
            }
        }
    }
}

/// `dtr remove`
pub async fn remove(args: RemoveArgs) -> Result<()> {
    connect::with(&args.connect, async |c| {
        for id in &args.replica_ids {
            let path = format!("/api/v0/cluster/replicas/{id}");
            let removal: Value = waiting("removing", c.api.delete_with_answer(&path))
                .await
                .with_context(|| format!("cannot remove {id}"))?;
            match args.output {
                Output::Json => terminal::print_json(&removal)?,
                Output::Text => terminal::print(&told(&removal))?,
            }
        }
        Ok(())
    })
    .await
}

fn told(removal: &Value) -> String {
    let count = |name: &str| removal[name].as_u64().unwrap_or_default();
    let left = count("left");
    let mut text = format!("removed {}; {left} left", field(removal, "replica"));
    match count("mayBeLost") {
        0 => text.push_str(", none of which may be lost"),
        may => text.push_str(&format!(", of which {may} may be lost")),
    }
    // Not where etcd is somewhere else.
    if left % 2 == 0 && count("mayBeLost") + 1 < left {
        text.push_str(&format!(
            ". {left} are no safer than {}: join another one, or remove one",
            left.saturating_sub(1)
        ));
    }
    text.push_str("\nif its machine still has its data, delete them there with \"dtr destroy\"");
    text
}

/// `dtr emergency-repair`
pub async fn emergency_repair(args: RepairArgs) -> Result<()> {
    let dir = local::data_dir(&args.dir)?;
    let alone = waiting("looking at what this replica has", dtr_replica::survey(&dir))
        .await
        .context("cannot repair")?;
    if args.existing_replica_id.as_ref().is_some_and(|wanted| *wanted != alone.id) {
        return Err(Failure::ending(
            Exit::Refused,
            format!("{} holds replica {}; nothing was changed", dir.root().display(), alone.id),
        ));
    }
    let mut text =
        format!("replica {} has everything up to revision {}\n", alone.id, alone.revision);
    if let Some(since) = alone.since {
        text.push_str(&format!("it last had a majority behind it at {since}, or a little later\n"));
    }
    for other in &alone.others {
        text.push_str(&format!(
            "  without   {} at {}, last heard of at {}\n",
            other.id, other.address, other.reported_at
        ));
    }
    text.push_str(
        "What the others acknowledged after that is lost with them. If one of them may have more, stop here and repair that \
         one. Machines of the others must not serve any more: run \"dtr destroy\" there.",
    );
    terminal::say(&text);
    if !args.yes && !terminal::confirm("make this replica a cluster of its own?", "--yes")? {
        return Err(Failure::ending(Exit::Refused, "nothing was changed; the replica is stopped"));
    }
    let revision = waiting("repairing", dtr_replica::repair(&dir, &alone))
        .await
        .context("cannot repair; run it again")?;
    terminal::print(&format!(
        "replica {} is a cluster of its own, at revision {revision}; let others join it",
        alone.id
    ))?;
    local::start(&dir, args.no_start).await
}
