//! `cargo xtask crash`: promise one. A real server is killed with kill -9 at a random moment of a push load, again and
//! again, mostly while it serves, sometimes while it starts. After each start everything that was acknowledged is pulled
//! and compared, what was deleted stays deleted, and what was not answered happened wholly or not at all.
//!
//! A seed repeats the choices and the moments; how far the load has come by then is the machine's.

mod load;
mod proof;
mod server;
mod state;
mod wire;

use std::{
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Args;
use futures_util::future::join_all;
use serde_json::json;
use tokio::task::JoinHandle;

use load::{Counted, End, Load};
use proof::{Extent, Findings};
use server::Server;
pub use state::Dice;
use state::{GRACE_SECONDS, Worker};
pub use wire::{Answer, Wire};

/// Of the administrator of a server that lives for some minutes.
const PASSWORD: &str = "a-password-for-some-minutes";
/// Of a hundred rounds, those with a further kill during the start.
const KILLED_STARTING: u64 = 20;
/// How often the collector is asked to run.
const COLLECT_EVERY: Duration = Duration::from_millis(300);

/// How the run goes.
#[derive(Args)]
pub struct Options {
    /// Kills
    #[arg(long, default_value_t = 500)]
    rounds: u32,
    /// Repeats a run [default: by the clock]
    #[arg(long)]
    seed: Option<u64>,
    /// Clients that push at once
    #[arg(long, default_value_t = 8)]
    clients: usize,
    /// The longest time until a kill, in milliseconds
    #[arg(long, default_value_t = 1500)]
    longest: u64,
    /// The server's program [default: the developer's build of this checkout]
    #[arg(long, env = "DTR_BIN")]
    dtr: Option<PathBuf>,
    /// Leave the server's folder where it is
    #[arg(long)]
    keep: bool,
}

/// Runs it; the exit status says whether everything was found.
pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(2).enable_all().build()?.block_on(go(options))
}

struct Run {
    server: Server,
    wire: Wire,
    workers: Vec<Worker>,
    counted: Arc<Counted>,
    seen: Arc<Findings>,
    wrong: Vec<String>,
    dice: Dice,
    slowest_start: Duration,
    kills: u64,
}

async fn go(options: &Options) -> anyhow::Result<ExitCode> {
    let seed = match options.seed {
        Some(seed) => seed,
        None => std::time::UNIX_EPOCH.elapsed().map_or(0, |now| now.as_secs()),
    };
    let folder = tempfile::Builder::new().prefix("dtr-crash.").tempdir()?;
    let program =
        options.dtr.clone().unwrap_or_else(|| crate::check::root().join("target/debug/dtr"));
    let (server, address) = Server::install(&program, folder.path(), PASSWORD).await?;
    eprintln!(
        "seed {seed}, {} rounds, {} clients, {}",
        options.rounds,
        options.clients,
        folder.path().display()
    );
    let mut run = Run {
        server,
        wire: Wire::new(address, PASSWORD)?,
        workers: (0..options.clients).map(|number| Worker::new(number, seed)).collect(),
        counted: Arc::default(),
        seen: Arc::default(),
        wrong: Vec::new(),
        dice: Dice::new(seed),
        slowest_start: Duration::ZERO,
        kills: 0,
    };
    let began = Instant::now();
    let collector = tokio::spawn(collect(run.wire.clone()));
    let ended = run.rounds(options).await;
    collector.abort();
    run.server.kill().await?;
    if let Err(error) = ended {
        run.wrong.push(format!("{error:#}"));
    }
    let lost = run.wrong.len();
    if lost > 0 {
        for wrong in &run.wrong {
            eprintln!("wrong: {wrong}");
        }
        eprintln!("the server's last words:\n{}", run.server.last_words());
    }
    println!("{}", run.summary(seed, began.elapsed()));
    if options.keep || lost > 0 {
        eprintln!("kept: {}", folder.keep().display());
    }
    Ok(if lost == 0 && run.counted.acknowledged() > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

impl Run {
    async fn rounds(&mut self, options: &Options) -> anyhow::Result<()> {
        self.slowest_start = self.server.start(&self.wire).await?;
        let settings = json!({ "gcGraceSeconds": GRACE_SECONDS });
        let set = self.wire.post("/api/v0/meta/settings", &settings).await;
        let set = set.ok().context("the settings were not answered")?;
        anyhow::ensure!(set.is(202), "the settings: {}", set.text());
        let mut told = Instant::now();
        for round in 1..=options.rounds {
            self.one(round, options.longest).await?;
            if !self.wrong.is_empty() {
                self.wrong.push(format!("that was round {round}"));
                return Ok(());
            }
            if told.elapsed() > Duration::from_secs(10) {
                told = Instant::now();
                let acknowledged = self.counted.acknowledged();
                eprintln!("round {round} of {}: {acknowledged} acknowledged", options.rounds);
            }
        }
        self.prove(options.rounds, Extent::Everything).await;
        self.back_up().await
    }

    /// Load, kill, start, look.
    async fn one(&mut self, round: u32, longest: u64) -> anyhow::Result<()> {
        let load = self.load(round);
        let clients: Vec<JoinHandle<(Worker, End)>> = std::mem::take(&mut self.workers)
            .into_iter()
            .map(|mut worker| {
                let load = load.clone();
                tokio::spawn(async move {
                    let end = load.work(&mut worker).await;
                    (worker, end)
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(50 + self.dice.below(longest))).await;
        self.kill().await?;
        for client in clients {
            let (worker, end) = client.await?;
            if let End::Refused(why) = end {
                self.wrong.push(format!("client {}: {why}", worker.number));
            }
            self.workers.push(worker);
        }
        if self.dice.percent(KILLED_STARTING) {
            self.server.spawn()?;
            tokio::time::sleep(Duration::from_millis(self.dice.below(150))).await;
            self.kill().await?;
        }
        let took = self.server.start(&self.wire).await?;
        self.slowest_start = self.slowest_start.max(took);
        self.prove(round, Extent::Round(round)).await;
        Ok(())
    }

    async fn kill(&mut self) -> anyhow::Result<()> {
        self.kills += 1;
        self.server.kill().await
    }

    fn load(&self, round: u32) -> Load {
        Load {
            wire: self.wire.clone(),
            round,
            counted: Arc::clone(&self.counted),
            mountable: Arc::default(),
        }
    }

    async fn prove(&mut self, round: u32, extent: Extent) {
        let load = self.load(round);
        let parts = self.workers.iter_mut().map(|worker| {
            let (load, seen) = (&load, &self.seen);
            async move { proof::prove(load, worker, extent, seen).await }
        });
        self.wrong.extend(join_all(parts).await.into_iter().flatten());
        if let Err(error) = proof::prove_catalog(&self.wire, &self.workers).await {
            self.wrong.push(error);
        }
    }

    /// What is there after all that goes into a backup, which is verified down to the bytes of every blob.
    async fn back_up(&self) -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("backup.tar");
        let file = file.to_str().context("a path that is text")?;
        self.server
            .command(&["backup", "--output", file, "--data-dir", &self.server.data()])
            .await?;
        let blobs = format!("{}/blobs", self.server.data());
        self.server.command(&["backup", "verify", file, "--storage", &blobs, "--deep"]).await
    }

    fn summary(&self, seed: u64, took: Duration) -> String {
        let number = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (c, s) = (&self.counted, &self.seen);
        format!(
            "seed {seed}: {} kills in {:.0} s, {} acknowledged ({} blobs, {} mounts, {} chunks, {} manifests, {} deletions, {} changes of repositories), \
             {} without an answer ({} had happened, {} had not, {} uploads went on), {} blobs collected, slowest start {} ms, {} looked at, {} lost or wrong",
            self.kills,
            took.as_secs_f64(),
            c.acknowledged(),
            number(&c.blobs),
            number(&c.mounts),
            number(&c.chunks),
            number(&c.manifests),
            number(&c.deletions),
            number(&c.repositories),
            number(&s.applied) + number(&s.dropped) + number(&s.resumed),
            number(&s.applied),
            number(&s.dropped),
            number(&s.resumed),
            number(&s.collected),
            self.slowest_start.as_millis(),
            number(&s.pulled),
            self.wrong.len(),
        )
    }
}

/// Asks for the collector, again and again, whether or not there is a server.
async fn collect(wire: Wire) {
    loop {
        let _ = wire.post("/api/v0/gc", &json!({})).await;
        tokio::time::sleep(COLLECT_EVERY).await;
    }
}
