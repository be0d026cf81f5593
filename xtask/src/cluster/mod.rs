//! `cargo xtask cluster`: several replicas on machines of their own, used by clients through all of them while machines
//! are killed, frozen, cut off, slowed down and filled up. What the clients and the backups that are taken meanwhile show
//! of all tags must be linearizable; what was acknowledged must be there at the end, on every replica; a registry that is
//! restored from a backup must be what the backup shows. Then, with `--rolling`, what operators do while clients go on,
//! and with `--conformance` the protocol's own tests on each replica.
//!
//! A seed repeats the choices; how they fall into what the clients do is the machine's.

mod backups;
mod clients;
mod conformance;
mod faults;
mod history;
mod machines;
mod rolling;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use clap::Args;
use futures_util::future::join_all;

use crate::crash::{Dice, Wire};
use backups::Backup;
use clients::{Client, Log};
use conformance::Outcomes;
use history::{Act, Verdict, check};
use machines::{Machines, PASSWORD};

/// Where the tags are.
const REPOSITORY: &str = "admin/history";
/// How long the replicas may take to be well once everything is mended.
const MENDED: Duration = Duration::from_secs(90);

/// How the run goes.
#[derive(Args)]
pub struct Options {
    /// Replicas: 3 or 5
    #[arg(long, default_value_t = 3)]
    replicas: usize,
    /// How long machines are broken
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Repeats a run [default: by the clock]
    #[arg(long)]
    seed: Option<u64>,
    /// Clients at once
    #[arg(long, default_value_t = 6)]
    clients: usize,
    /// Backups of the run that are restored, spread over it [default: all]
    #[arg(long)]
    restores: Option<usize>,
    /// Also restart, upgrade and renew certificates under load
    #[arg(long)]
    rolling: bool,
    /// Also run this program on each replica: the conformance test of OCI's distribution specification
    #[arg(long, value_name = "PROGRAM")]
    conformance: Option<PathBuf>,
    /// The program of the replicas [default: the developer's build of this checkout]
    #[arg(long, env = "DTR_BIN")]
    dtr: Option<PathBuf>,
    /// Leave the replicas' folder where it is
    #[arg(long)]
    keep: bool,
}

/// Runs it; the exit status says whether everything held.
pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    machines::own_network()?;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(2).enable_all().build()?.block_on(go(options))
}

async fn go(options: &Options) -> anyhow::Result<ExitCode> {
    ensure!(matches!(options.replicas, 3 | 5), "a cluster has 3 or 5 replicas here");
    let seed = match options.seed {
        Some(seed) => seed,
        None => std::time::UNIX_EPOCH.elapsed().map_or(0, |now| now.as_secs()),
    };
    let program =
        options.dtr.clone().unwrap_or_else(|| crate::check::root().join("target/debug/dtr"));
    let folder = tempfile::Builder::new().prefix("dtr-cluster.").tempdir()?;
    eprintln!(
        "seed {seed}, {} replicas, {} s, {}",
        options.replicas,
        options.seconds,
        folder.path().display()
    );
    let machines = Machines::make(&program, folder.path(), options.replicas).await?;
    let ended = measured(options, seed, &machines, folder.path()).await;
    drop(machines);
    let wrong = match ended {
        Ok(wrong) => wrong,
        Err(error) => vec![format!("{error:#}")],
    };
    for wrong in &wrong {
        eprintln!("wrong: {wrong}");
    }
    if options.keep || !wrong.is_empty() {
        eprintln!("kept: {}", folder.keep().display());
    }
    Ok(if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn measured(
    options: &Options,
    seed: u64,
    machines: &Machines,
    folder: &Path,
) -> anyhow::Result<Vec<String>> {
    for machine in 0..options.replicas {
        machines.install(machine).await.with_context(|| format!("replica {machine}"))?;
    }
    machines.well(MENDED).await?;
    let wires: Vec<Wire> = (0..options.replicas)
        .map(|machine| Wire::new(machines.url(machine), PASSWORD))
        .collect::<anyhow::Result<_>>()?;
    let mut wrong = Vec::new();
    under_faults(options, seed, machines, folder, &wires, &mut wrong).await?;
    conform(options, machines, folder, &wires, "after the faults", &mut wrong).await?;
    if options.rolling {
        println!("{}", rolling::roll(machines, &wires, folder, seed, &mut wrong).await?);
        machines.well(MENDED).await?;
        conform(options, machines, folder, &wires, "after the upgrade", &mut wrong).await?;
    }
    Ok(wrong)
}

/// Clients, backups and faults, and what is wrong with what came of them.
async fn under_faults(
    options: &Options,
    seed: u64,
    machines: &Machines,
    folder: &Path,
    wires: &[Wire],
    wrong: &mut Vec<String>,
) -> anyhow::Result<()> {
    let config = clients::prepare(&wires[0]).await?;
    let log = Arc::new(Log::new());
    let until = Instant::now() + Duration::from_secs(options.seconds);
    let clients = (0..options.clients).map(|number| {
        let client = Client {
            wires: wires.to_vec(),
            dice: Dice::new(seed ^ (number as u64 + 1) << 32),
            log: Arc::clone(&log),
            config,
        };
        tokio::spawn(client.run(until))
    });
    let clients: Vec<_> = clients.collect();
    let count = options.replicas;
    let (broken, (mut backups, refused)) = tokio::join!(
        faults::break_things(machines, count, Dice::new(seed), until),
        backups::take(machines, count, Dice::new(seed ^ 0xb), until, folder, &log)
    );
    let broken = broken?;
    for client in join_all(clients).await {
        client.context("a client")?;
    }
    machines.well(MENDED).await?;
    for wire in wires {
        for tag in 0..log.tags() {
            log.read(wire, tag).await;
        }
    }
    for backup in &mut backups {
        if let Err(error) = backup.read(machines, count).await {
            wrong.push(format!("{}: {error:#}", backup.file.display()));
        }
    }
    for backup in &backups {
        let confirmed = |other: &&Backup| other.confirmed && backup.confirmed;
        if let Some(other) = backups.iter().filter(confirmed).find(|b| !backup.comes_before(b)) {
            wrong.push(format!(
                "{} began when {} had ended, and has an earlier revision: {} and {}",
                other.file.display(),
                backup.file.display(),
                other.revision,
                backup.revision
            ));
        }
    }
    let (operations, unanswered) = judge(&log, &backups, wrong).await;
    let (kept, lost) = compare(&log, wires, wrong).await;
    let restored = restore_some(options, machines, &backups, wrong).await?;
    let unconfirmed = backups.iter().filter(|backup| !backup.confirmed).count();
    if backups.is_empty() || operations == 0 {
        wrong.push("nothing was done: the run proves nothing".to_owned());
    }
    println!(
        "seed {seed}: {} replicas, {broken}; {operations} operations on tags ({unanswered} writes without an answer), {kept} \
         acknowledged manifests on every replica, {lost} lost; {} backups in the same history ({unconfirmed} without a majority), {restored} restored, {refused} \
         refused during a fault; {} wrong",
        options.replicas,
        backups.len(),
        wrong.len()
    );
    Ok(())
}

/// Restores as many backups as wanted, spread evenly; yields how many came back as they should.
async fn restore_some(
    options: &Options,
    machines: &Machines,
    backups: &[Backup],
    wrong: &mut Vec<String>,
) -> anyhow::Result<usize> {
    let wanted = options.restores.unwrap_or(backups.len()).min(backups.len());
    let spare = options.replicas;
    let wire = backups::wire_to(machines, spare)?;
    let mut good = 0;
    for number in 0..wanted {
        // The last of each part, so that the very last is one of them.
        let backup = &backups[(number + 1) * backups.len() / wanted - 1];
        match backup.restore(machines, spare, &wire).await {
            Ok(()) => good += 1,
            Err(error) => wrong.push(format!("{error:#}")),
        }
    }
    Ok(good)
}

/// Checks the history of all tags and backups; yields how many operations there were, and how many writes without an
/// answer.
async fn judge(log: &Log, backups: &[Backup], wrong: &mut Vec<String>) -> (usize, usize) {
    let values = log.values().await;
    let mut seen = log.seen.lock().await.clone();
    let operations = seen.len();
    let unanswered = seen.iter().filter(|operation| operation.ended.is_none()).count();
    // Each by itself first: what is wrong there is easier to understand.
    for tag in 0..log.tags() {
        let one = |act: &Act| matches!(act, Act::Write(t, _) | Act::Read(t, _) if *t == tag);
        let of_one: Vec<_> = seen.iter().filter(|seen| one(&seen.act)).cloned().collect();
        told(&Log::name_of(tag), &check(&of_one), wrong);
    }
    if wrong.is_empty() {
        let shown: Vec<_> = backups.iter().map(|b| b.operation(&values, &seen)).collect();
        seen.extend(shown);
        told("all tags and backups", &check(&seen), wrong);
    }
    (operations, unanswered)
}

fn told(what: &str, verdict: &Verdict, wrong: &mut Vec<String>) {
    match verdict {
        Verdict::Linearizable => {}
        Verdict::Not(most, stuck) => wrong.push(format!(
            "what was seen of {what} is not linearizable: {most} operations have an order, then {stuck}"
        )),
        Verdict::Unknown => wrong.push(format!("what was seen of {what} is too much to check")),
    }
}

/// The tests of the protocol's authors, on each replica.
async fn conform(
    options: &Options,
    machines: &Machines,
    folder: &Path,
    wires: &[Wire],
    when: &str,
    wrong: &mut Vec<String>,
) -> anyhow::Result<()> {
    let Some(program) = &options.conformance else { return Ok(()) };
    let program = program.display().to_string();
    for (replica, wire) in wires.iter().enumerate() {
        let name = format!("conformance-{}-{replica}", when.replace(' ', "-"));
        let results = folder.join(&name);
        let names = [format!("{name}-1"), format!("{name}-2")];
        for name in &names {
            clients::make_repository(wire, name).await?;
        }
        let settings = [
            ("OCI_REGISTRY", machines.url(replica).replace("http://", "")),
            ("OCI_TLS", "disabled".to_owned()),
            ("OCI_REPO1", format!("admin/{}", names[0])),
            ("OCI_REPO2", format!("admin/{}", names[1])),
            ("OCI_USERNAME", "admin".to_owned()),
            ("OCI_PASSWORD", PASSWORD.to_owned()),
            ("OCI_RESULTS_DIR", results.display().to_string()),
        ];
        let settings: Vec<_> = settings.map(|(name, value)| format!("{name}={value}")).into();
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        let arguments = [&settings[..], &[&program]].concat();
        let ran = machines::run("env", &arguments);
        let ran = tokio::time::timeout(Duration::from_secs(120), ran).await;
        let said = ran.context("the conformance test does not end").and_then(|ran| ran);
        let results = std::fs::read_to_string(results.join("junit.xml"));
        let results = results.with_context(|| format!("no results: {said:?}"))?;
        let outcomes = Outcomes::of(&results);
        println!("conformance {when}, replica {replica}: {outcomes}");
        // The exit status and the report both decide: a report without failures may be one of a run that reached nothing.
        if let Err(error) = said.and_then(|_| outcomes.check()) {
            wrong.push(format!("conformance {when}, replica {replica}: {error:#}"));
        }
    }
    Ok(())
}

/// Pulls every acknowledged manifest from every replica; yields how many there are, and how many are missing or other.
async fn compare(log: &Log, wires: &[Wire], wrong: &mut Vec<String>) -> (usize, usize) {
    let sent = log.sent.lock().await;
    let acknowledged: Vec<_> = sent.iter().filter(|(.., acknowledged)| *acknowledged).collect();
    let mut lost = 0;
    for (digest, body, _) in &acknowledged {
        for (replica, wire) in wires.iter().enumerate() {
            let found = wire.pull(&format!("/v2/{REPOSITORY}/manifests/{digest}")).await;
            if found.as_ref().ok().and_then(Option::as_ref) != Some(body) {
                lost += 1;
                wrong.push(format!("{digest} was acknowledged; replica {replica} has {found:?}"));
            }
        }
    }
    (acknowledged.len(), lost)
}
