//! `cargo xtask cluster`: several replicas on machines of their own, used by clients through all of them while machines
//! are killed, frozen and cut off. What the clients saw of each tag must be linearizable; what was acknowledged must be
//! there at the end, on every replica; every backup that was taken meanwhile must be good.
//!
//! A seed repeats the choices; how they fall into what the clients do is the machine's.

mod history;
mod machines;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use clap::Args;
use dtr_types::Digest;
use futures_util::future::join_all;
use serde_json::json;
use tokio::sync::Mutex;

use crate::crash::{Dice, Wire};
use history::{Act, Operation, Verdict, check};
use machines::{Machines, PASSWORD};

/// Where the tags are.
const REPOSITORY: &str = "admin/history";
/// Tags that are written and read at a time.
const TAGS: usize = 4;
/// How long they are the same: short histories are quick to check.
const EPOCH: Duration = Duration::from_secs(10);
/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// The most time between two operations of a client, in milliseconds.
const PAUSE: u64 = 60;
/// Of a hundred operations, those that write.
const WRITES: u64 = 45;
/// How long the replicas may take to be well once everything is mended.
const MENDED: Duration = Duration::from_secs(90);
const OCTETS: &str = "application/octet-stream";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

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

/// What all clients write down.
struct Log {
    began: Instant,
    /// By tag.
    seen: Mutex<HashMap<String, Vec<Operation>>>,
    /// Every manifest that was ever sent: its bytes, and whether it was acknowledged.
    sent: Mutex<Vec<(Digest, Bytes, bool)>>,
}

impl Log {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    async fn note(&self, tag: &str, act: Act, began: u64, answered: bool) {
        let ended = answered.then(|| self.now());
        let mut seen = self.seen.lock().await;
        seen.entry(tag.to_owned()).or_default().push(Operation { act, began, ended });
    }
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
    let config = prepare(&wires[0]).await?;
    let log =
        Arc::new(Log { began: Instant::now(), seen: Mutex::default(), sent: Mutex::default() });
    let until = Instant::now() + Duration::from_secs(options.seconds);
    let clients = (0..options.clients).map(|number| {
        let client = Client {
            wires: wires.clone(),
            dice: Dice::new(seed ^ (number as u64 + 1) << 32),
            log: Arc::clone(&log),
            config,
        };
        tokio::spawn(client.run(until))
    });
    let clients: Vec<_> = clients.collect();
    let (broken, backups) = tokio::join!(
        break_things(machines, options.replicas, Dice::new(seed), until),
        take_backups(machines, options.replicas, Dice::new(seed ^ 0xb), until, folder)
    );
    let broken = broken?;
    for client in join_all(clients).await {
        client.context("a client")?;
    }
    machines.well(MENDED).await?;
    let mut wrong = Vec::new();
    let (operations, unanswered) = judge(&log, &mut wrong).await;
    let (kept, lost) = compare(&log, &wires, &mut wrong).await;
    let mut good = 0;
    for file in &backups {
        let file = file.display().to_string();
        match machines.dtr(0, &["backup", "verify", &file]).await {
            Ok(_) => good += 1,
            Err(error) => wrong.push(format!("{error:#}")),
        }
    }
    if backups.is_empty() || operations == 0 {
        wrong.push("nothing was done: the run proves nothing".to_owned());
    }
    println!(
        "seed {seed}: {} replicas, {broken}; {operations} operations on tags ({unanswered} writes without an answer), {kept} \
         acknowledged manifests on every replica, {lost} lost, {good} of {} backups good, {} wrong",
        options.replicas,
        backups.len(),
        wrong.len()
    );
    Ok(wrong)
}

/// A repository, and a configuration that all manifests share.
async fn prepare(wire: &Wire) -> anyhow::Result<(Digest, usize)> {
    let made = wire.post("/api/v0/repositories/admin", &json!({ "name": "history" })).await;
    let made = made.ok().context("no answer")?;
    ensure!(made.is(201), "a repository: {}", made.text());
    let config = Bytes::from_static(b"{}");
    let digest = Digest::of(&config);
    let path = format!("/v2/{REPOSITORY}/blobs/uploads/?digest={digest}");
    let pushed = wire.send(reqwest::Method::POST, &path, Some(OCTETS), Some(config.clone())).await;
    let pushed = pushed.ok().context("no answer")?;
    ensure!(pushed.is(201), "a blob: {}", pushed.text());
    Ok((digest, config.len()))
}

struct Client {
    wires: Vec<Wire>,
    dice: Dice,
    log: Arc<Log>,
    config: (Digest, usize),
}

impl Client {
    async fn run(self, until: Instant) {
        while Instant::now() < until {
            let wire = &self.wires[self.dice.index(self.wires.len())];
            let epoch = self.log.began.elapsed().as_secs() / EPOCH.as_secs();
            let tag = format!("t{}-{epoch}", self.dice.index(TAGS));
            let done = async {
                match self.dice.percent(WRITES) {
                    true => self.write(wire, &tag).await,
                    false => self.read(wire, &tag).await,
                }
            };
            done.await;
            tokio::time::sleep(Duration::from_millis(self.dice.below(PAUSE))).await;
        }
    }

    async fn write(&self, wire: &Wire, tag: &str) {
        let (config, size) = self.config;
        let (number, body, digest) = {
            let mut sent = self.log.sent.lock().await;
            let number = u32::try_from(sent.len()).unwrap_or(u32::MAX);
            let body = json!({
                "schemaVersion": 2, "mediaType": MANIFEST, "layers": [],
                "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": size },
                "annotations": { "number": number.to_string() },
            });
            let body = Bytes::from(body.to_string());
            let digest = Digest::of(&body);
            sent.push((digest, body.clone(), false));
            (number, body, digest)
        };
        let began = self.log.now();
        let path = format!("/v2/{REPOSITORY}/manifests/{tag}");
        let put = wire.send(reqwest::Method::PUT, &path, Some(MANIFEST), Some(body));
        let answered = match tokio::time::timeout(PATIENCE, put).await {
            // Any other answer may stand for one that was lost further in.
            Ok(Ok(answer)) => answer.is(201),
            Ok(Err(_)) | Err(_) => false,
        };
        self.log.note(tag, Act::Write(number), began, answered).await;
        if answered {
            let mut sent = self.log.sent.lock().await;
            if let Some(sent) = sent.get_mut(number as usize) {
                debug_assert_eq!(sent.0, digest);
                sent.2 = true;
            }
        }
    }

    async fn read(&self, wire: &Wire, tag: &str) {
        let began = self.log.now();
        let Ok(Ok(found)) = tokio::time::timeout(PATIENCE, wire.tag(REPOSITORY, tag)).await else {
            return;
        };
        let value = match found {
            None => None,
            Some(digest) => {
                let sent = self.log.sent.lock().await;
                let number = sent.iter().position(|(known, ..)| *known == digest);
                // What nobody sent is a value that no write has.
                Some(number.and_then(|n| u32::try_from(n).ok()).unwrap_or(u32::MAX))
            }
        };
        self.log.note(tag, Act::Read(value), began, true).await;
    }
}

/// Kills, freezes and cuts off until the end, at most a minority at a time, but now and then a majority. All is mended when
/// this returns.
async fn break_things(
    machines: &Machines,
    count: usize,
    dice: Dice,
    until: Instant,
) -> anyhow::Result<String> {
    let (mut kills, mut freezes, mut cuts, mut majorities) = (0, 0, 0, 0);
    while Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(500 + dice.below(2500))).await;
        let first = dice.index(count);
        let many = match dice.percent(12) {
            true => count / 2 + 1,
            false => 1 + dice.index(count / 2),
        };
        majorities += u32::from(many > count / 2);
        let victims: Vec<_> = (0..many).map(|n| (first + n) % count).collect();
        let way = dice.index(3);
        let pause = Duration::from_millis(300 + dice.below(4000));
        for &victim in &victims {
            match way {
                0 => machines.kill(victim).await?,
                1 => machines.freeze(victim, true).await?,
                _ => machines.cable(victim, false).await?,
            }
        }
        tokio::time::sleep(pause).await;
        for &victim in &victims {
            match way {
                0 => machines.start(victim)?,
                1 => machines.freeze(victim, false).await?,
                _ => machines.cable(victim, true).await?,
            }
        }
        match way {
            0 => kills += many,
            1 => freezes += many,
            _ => cuts += many,
        }
    }
    Ok(format!("{kills} killed, {freezes} frozen, {cuts} cut off ({majorities} times a majority)"))
}

/// One backup after the other, through any replica; one that meets a fault fails, and says so.
async fn take_backups(
    machines: &Machines,
    count: usize,
    dice: Dice,
    until: Instant,
    folder: &Path,
) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut number = 0;
    while Instant::now() < until {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let file = folder.join(format!("backup-{number}.tar"));
        number += 1;
        let taken = machines.backup(dice.index(count), &file);
        if let Ok(Ok(())) = tokio::time::timeout(Duration::from_secs(30), taken).await {
            files.push(file);
        }
    }
    files
}

/// Checks every tag's history; yields how many operations there were, and how many writes without an answer.
async fn judge(log: &Log, wrong: &mut Vec<String>) -> (usize, usize) {
    let seen = log.seen.lock().await;
    for (tag, operations) in &*seen {
        match check(operations) {
            Verdict::Linearizable => {}
            Verdict::Not(most) => wrong.push(format!(
                "what was seen of {tag} is not linearizable: {most} of {} operations have an order",
                operations.len()
            )),
            Verdict::Unknown => wrong.push(format!("what was seen of {tag} is too much to check")),
        }
    }
    let all = seen.values().flatten();
    (all.clone().count(), all.filter(|operation| operation.ended.is_none()).count())
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
