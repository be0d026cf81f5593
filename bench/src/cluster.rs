//! Three replicas over etcd, all on this machine, beside one replica with the embedded engine: the product both times, with
//! TLS and access control, the same 100,000 tags in both, asked by the same clients, who take the replicas in turns.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{
    compare::{CONNECTIONS, Plan, say, seed, small_images},
    process::{Endpoint, Server, answers},
    protected::{REPOSITORY, token},
    push, servers,
    table::{Row, Target, median},
    wrk,
};

/// Most that anything of this may take until it is as it must be.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long one attempt at a push may take while a leader is missing.
const ATTEMPT: Duration = Duration::from_secs(2);

/// Connections of many clients at once: how much is shared by those who ask at a time.
const CROWD: u32 = 96;

/// A replica, its etcd included; both are ended when dropped.
struct Replica {
    dtr: PathBuf,
    data: PathBuf,
    host: String,
}

impl Replica {
    /// The flags of a replica with an address of its own, which stands for a machine.
    fn place(&self, blobs: &Path) -> Result<Vec<String>> {
        let (address, port) = self.host.rsplit_once(':').context("an address")?;
        let id = address.rsplit_once('.').context("an address")?.1;
        let flags = [
            "--replica-http-port=0".to_owned(),
            format!("--data-dir={}", self.data.display()),
            format!("--replica-id={id:0>12}"),
            format!("--listen-address={address}"),
            format!("--replica-https-port={port}"),
            format!("--dtr-external-url=https://{}", self.host),
            format!("--dtr-storage-volume={}", blobs.display()),
        ];
        Ok(flags.to_vec())
    }

    fn pid(&self) -> Option<u32> {
        std::fs::read_to_string(self.data.join("dtr.pid")).ok()?.trim().parse().ok()
    }

    /// Its processes, its own first.
    fn pids(&self) -> Vec<u32> {
        let Some(own) = self.pid() else { return Vec::new() };
        let all = all_processes().into_iter();
        let children = all.filter(|(_, parent)| *parent == own).map(|(pid, _)| pid);
        std::iter::once(own).chain(children).collect()
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint { hosts: vec![self.host.clone()], tls: true, pids: self.pids() }
    }

    fn status(&self) -> Result<Value> {
        let mut command = Command::new(&self.dtr);
        let output =
            command.args(["status", "-o", "json", "--data-dir"]).arg(&self.data).output()?;
        serde_json::from_slice(&output.stdout)
            .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())
    }

    async fn is_well(&self) -> bool {
        let asked = async {
            let mut connection = self.endpoint().connect(None).await?;
            anyhow::Ok(connection.send("GET", "/_ping", "", b"").await?.status)
        };
        matches!(tokio::time::timeout(ATTEMPT, asked).await, Ok(Ok(200)))
    }

    async fn well(&self) -> Result<()> {
        until(&format!("{} to be well", self.host), || self.is_well()).await
    }

    fn start(&self) -> Result<()> {
        let log = File::options().append(true).create(true).open(self.data.join("dtr.log"))?;
        let mut command = Command::new(&self.dtr);
        command.args(["serve", "--detached", "--data-dir"]).arg(&self.data);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        Ok(())
    }

    /// As when the machine goes.
    fn kill(&self) {
        for pid in self.pids() {
            let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
        }
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Each process, with its parent.
fn all_processes() -> Vec<(u32, u32)> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let one = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.ok()?;
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
        Some((pid, parent))
    };
    entries.filter_map(one).collect()
}

async fn until<R: Future<Output = bool>>(what: &str, condition: impl Fn() -> R) -> Result<()> {
    let began = Instant::now();
    while !condition().await {
        ensure!(began.elapsed() < PATIENCE, "waited for {what} in vain");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Measures all of it, if the product is built and etcd is there.
pub async fn measure(plan: &Plan, dir: &Path, rows: &mut Vec<Row>) -> Result<()> {
    let there = Command::new("etcd").arg("--version").stdout(Stdio::null()).status();
    if servers::product()?.is_none() || there.is_err() {
        say("dtr is not built beside bench, or etcd is missing: several replicas are left out");
        return Ok(());
    }
    let single = servers::protected(&dir.join("single"), plan.many)?.context("the product")?;
    let replicas = replicas(plan, dir, rows).await?;
    compare(plan, &single, &replicas, rows).await?;
    single.stop()?;
    backups(plan, dir, &replicas[0], rows).await?;
    leaders(plan, &replicas, rows).await
}

/// Moves the one registry to three machines, as an operator does.
async fn replicas(plan: &Plan, dir: &Path, rows: &mut Vec<Row>) -> Result<Vec<Replica>> {
    let (dtr, single) = (servers::product()?.context("dtr")?, dir.join("single/data"));
    let (archive, blobs) = (dir.join("backup.tar"), dir.join("blobs"));
    let mut backup = Command::new(&dtr);
    backup.args(["backup", "--data-dir"]).arg(&single).arg("--output").arg(&archive);
    servers::done(&mut backup)?;
    servers::done(Command::new("cp").arg("-a").arg(single.join("blobs")).arg(&blobs))?;
    let (mut all, mut joins) = (Vec::<Replica>::new(), Vec::new());
    for number in 0..3 {
        let address = format!("127.0.0.{}", number + 2);
        let free = std::net::TcpListener::bind((address.as_str(), 0))?.local_addr()?;
        let data = dir.join(number.to_string());
        let replica = Replica { dtr: dtr.clone(), data, host: free.to_string() };
        let mut command = Command::new(&dtr);
        let began = Instant::now();
        match all.first() {
            None => {
                command.args(["restore", "--store=etcd", "--allow-unknown-owners"]);
                command.stdin(File::open(&archive)?);
            }
            Some(first) => {
                command.args(["join", "--ucp-insecure-tls", "--ucp-username", servers::ADMIN.0]);
                command.arg(format!("--ucp-url=https://{}", first.host));
                command.arg("--existing-replica-id=000000000002");
                command.env("UCP_PASSWORD", servers::ADMIN.1);
            }
        }
        servers::done(command.args(replica.place(&blobs)?))?;
        replica.well().await?;
        let seconds = began.elapsed().as_secs_f64();
        match number {
            0 => say(&format!("restored into etcd, with its start, in {seconds:.1} s")),
            _ => joins.push(seconds),
        }
        all.push(replica);
    }
    let what = format!("join of an empty replica to {} tags until it is ready, s", plan.many);
    let most = joins.iter().copied().fold(0.0, f64::max);
    rows.push(Row::alone(&what, most, Target::AtMost(20.0)));
    Ok(all)
}

async fn compare(
    plan: &Plan,
    single: &Server,
    replicas: &[Replica],
    rows: &mut Vec<Row>,
) -> Result<()> {
    let three = Endpoint {
        hosts: replicas.iter().map(|replica| replica.host.clone()).collect(),
        tls: true,
        pids: replicas.iter().flat_map(Replica::pids).collect(),
    };
    let (mut gets, mut crowds, mut pushes) = (vec![], vec![], vec![]);
    let (mut tails, mut cpu) = (vec![], vec![]);
    for round in 0..plan.rounds {
        // Tokens live for some minutes only.
        let (one_token, three_token) = (token(single).await?, token(&three).await?);
        let (one_token, three_token) = (Some(one_token.as_str()), Some(three_token.as_str()));
        let target = seed(single, one_token, REPOSITORY).await?;
        seed(&three, three_token, REPOSITORY).await?;
        let one = wrk::get(single, &target, one_token, 16, plan.seconds).await?;
        let all = wrk::get(&three, &target, three_token, 16, plan.seconds).await?;
        say(&format!("GET, one and three replicas {round}: {:.0}, {:.0}/s", one.rate, all.rate));
        gets.push((one.rate, all.rate));
        let one = wrk::get(single, &target, one_token, CROWD, plan.seconds).await?;
        let all = wrk::get(&three, &target, three_token, CROWD, plan.seconds).await?;
        say(&format!("  on {CROWD} connections {round}: {:.0}, {:.0}/s", one.rate, all.rate));
        crowds.push((one.rate, all.rate));
        let from = 1_000_000 * u64::from(round + 1);
        let time = plan.time();
        let one = small_images(single, one_token, REPOSITORY, from, time, CONNECTIONS).await?;
        let all = small_images(&three, three_token, REPOSITORY, from, time, CONNECTIONS).await?;
        say(&format!(
            "pushes, one and three replicas {round}: {:.0}, {:.0}/s",
            one.rate(),
            all.rate()
        ));
        pushes.push((one.rate(), all.rate()));
        tails.push((one.quantile(0.99), all.quantile(0.99)));
        let each = |load: &crate::load::Load| load.cpu * 1000.0 / load.done.max(1) as f64;
        cpu.push((each(&one), each(&all)));
    }
    let what = "one replica, then three over etcd: manifest GET by tag/s";
    rows.push(Row::pairs(what, &gets, Target::Ratio(0.7)));
    let what = format!("  the same on {CROWD} connections");
    rows.push(Row::pairs(&what, &crowds, Target::None));
    rows.push(Row::pairs("  small image pushes/s, 16 at once", &pushes, Target::Ratio(0.4)));
    rows.push(Row::pairs("  p99, ms", &tails, Target::None));
    rows.push(Row::pairs("  CPU ms each, etcd included", &cpu, Target::None));
    Ok(())
}

async fn backups(plan: &Plan, dir: &Path, replica: &Replica, rows: &mut Vec<Row>) -> Result<()> {
    let endpoint = replica.endpoint();
    let (mut rates, mut peaks, report) = (vec![], vec![], dir.join("report.json"));
    for round in 0..plan.rounds.min(3) {
        endpoint.reset_peak();
        let idle = endpoint.memory_mib("VmRSS")?;
        let began = Instant::now();
        let mut backup = Command::new(&replica.dtr);
        backup.args(["backup", "--data-dir"]).arg(&replica.data).arg("--report").arg(&report);
        // To nowhere: in practice it leaves the machine.
        servers::done(backup.stdout(File::create("/dev/null")?))?;
        let seconds = began.elapsed().as_secs_f64();
        peaks.push(endpoint.memory_mib("VmHWM")? - idle);
        let report: Value = serde_json::from_slice(&std::fs::read(&report)?)?;
        let records = report["totalRecords"].as_f64().context("records in the report")?;
        say(&format!("backup from etcd {round}: {records} records in {seconds:.2} s"));
        rates.push(records / seconds);
    }
    let peak = peaks.iter().copied().fold(0.0, f64::max);
    rows.push(Row::alone("backup from etcd, records/s", median(&rates), Target::AtLeast(1e5)));
    rows.push(Row::alone("  memory above idle, MiB", peak, Target::AtMost(64.0)));
    Ok(())
}

/// Kills the replica whose etcd leads, again and again: how long until somebody's push is acknowledged.
async fn leaders(plan: &Plan, replicas: &[Replica], rows: &mut Vec<Row>) -> Result<()> {
    let mut waits = Vec::new();
    for round in 0..plan.kills {
        let leader = leader(replicas).await?;
        let others: Vec<&Replica> =
            replicas.iter().filter(|replica| replica.host != leader.host).collect();
        let authorization = token(&others[0].endpoint()).await?;
        leader.kill();
        let (killed, mut attempt) = (Instant::now(), 0);
        loop {
            ensure!(killed.elapsed() < PATIENCE, "no push succeeds after a leader's end");
            let to = others[attempt % others.len()].endpoint();
            let n = 500_000_000 + u64::from(round) * 1000 + attempt as u64;
            let pushed = async {
                let mut connection = to.connect(Some(&authorization)).await?;
                push::small_image(&mut connection, REPOSITORY, n).await
            };
            if let Ok(Ok(())) = tokio::time::timeout(ATTEMPT, pushed).await {
                break;
            }
            attempt += 1;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let seconds = killed.elapsed().as_secs_f64();
        say(&format!(
            "leader killed {round}: a push after {seconds:.2} s, attempt {}",
            attempt + 1
        ));
        waits.push(seconds);
        until("the port to be free", async || !answers(&leader.host)).await?;
        leader.start()?;
        leader.well().await?;
    }
    waits.sort_by(f64::total_cmp);
    // Of twenty, the 99th percentile is the longest.
    let most = waits.last().copied().unwrap_or(f64::NAN);
    let what = "leader killed, until a push is acknowledged, s (worst)";
    rows.push(Row::alone(what, most, Target::AtMost(3.0)));
    rows.push(Row::alone("  p50", median(&waits), Target::None));
    Ok(())
}

/// Who leads, once all are well.
async fn leader(replicas: &[Replica]) -> Result<&Replica> {
    let began = Instant::now();
    loop {
        let status = replicas[0].status()?;
        let members = status["members"].as_array().cloned().unwrap_or_default();
        let well = members.iter().filter(|member| member["problem"].is_null()).count();
        let leader = members.iter().find(|member| member["leads"] == true);
        if let Some(leader) = leader.filter(|_| well == replicas.len()) {
            let id = leader["replica"].as_str().unwrap_or_default().trim_start_matches('0');
            let found = replicas.iter().find(|replica| {
                replica.host.split(':').next().is_some_and(|host| host.ends_with(&format!(".{id}")))
            });
            return found.context("the leader is none of the replicas");
        }
        if began.elapsed() > PATIENCE {
            bail!("the replicas do not get well: {status}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
