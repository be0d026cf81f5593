//! What an operator does to a cluster that is used: all replicas restarted, a new version, new certificates. Clients push
//! and pull meanwhile as docker does behind a load balancer; none of their operations may fail for good.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use dtr_types::Digest;
use reqwest::Method;

use super::{
    REPOSITORY,
    clients::{MANIFEST, OCTETS, manifest},
    machines::{Machines, run},
};
use crate::crash::{Answer, Dice, Wire};

/// How often docker tries.
const ATTEMPTS: u32 = 5;
/// How long it waits before the second attempt; then twice as long each time.
const BACK_OFF: Duration = Duration::from_millis(500);
/// The load balancer's question, how often.
const ASKED: Duration = Duration::from_millis(500);
/// What a step may take.
const LIMIT: Duration = Duration::from_secs(240);
/// How long replicas answer "not well" before they restart: longer than the balancer takes to notice.
const DRAIN: &str = "2";
/// Clients at once.
const CLIENTS: u64 = 4;

/// What the clients met.
#[derive(Default)]
struct Met {
    operations: AtomicUsize,
    again: AtomicUsize,
    lost: Mutex<Vec<String>>,
    stop: AtomicBool,
}

/// Takes the replicas that do not say that they are well out of the turn, as a load balancer does.
struct Balancer {
    wires: Vec<Wire>,
    well: Mutex<BTreeSet<usize>>,
    turn: AtomicUsize,
}

impl Balancer {
    async fn watch(&self, met: &Met) {
        while !met.stop.load(Ordering::Relaxed) {
            for (number, wire) in self.wires.iter().enumerate() {
                let asked = tokio::time::timeout(Duration::from_secs(1), wire.get("/_ping")).await;
                let well = matches!(asked, Ok(Ok(answer)) if answer.is(200));
                if let Ok(mut all) = self.well.lock() {
                    match well {
                        true => all.insert(number),
                        false => all.remove(&number),
                    };
                }
            }
            tokio::time::sleep(ASKED).await;
        }
    }

    fn next(&self) -> &Wire {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let well: Vec<_> =
            self.well.lock().map(|all| all.iter().copied().collect()).unwrap_or_default();
        let number = match well.len() {
            0 => turn % self.wires.len(),
            some => well[turn % some],
        };
        &self.wires[number]
    }
}

/// One docker.
struct Docker {
    through: Arc<Balancer>,
    met: Arc<Met>,
    dice: Dice,
    number: u64,
}

impl Docker {
    async fn run(self) {
        let mut count = 0_u32;
        let mut pushed: Vec<(String, Digest)> = Vec::new();
        while !self.met.stop.load(Ordering::Relaxed) {
            count += 1;
            let name = format!("r{}-{count}", self.number);
            let image = self.try_all(&format!("push {name}"), || self.push(&name)).await;
            pushed.extend(image.map(|digest| (name, digest)));
            if pushed.is_empty() {
                continue;
            }
            let (name, digest) = &pushed[self.dice.index(pushed.len())];
            self.try_all(&format!("pull {name}"), || self.pull(name, digest)).await;
        }
        // At the end all are there.
        for (name, digest) in &pushed {
            self.try_all(&format!("pull {name} at the end"), || self.pull(name, digest)).await;
        }
    }

    /// An operation of docker's, tried again from its beginning.
    async fn try_all<T, F>(&self, what: &str, attempt: impl Fn() -> F) -> Option<T>
    where
        F: Future<Output = anyhow::Result<T>>,
    {
        self.met.operations.fetch_add(1, Ordering::Relaxed);
        let mut wait = BACK_OFF;
        let mut said = String::new();
        for number in 0..ATTEMPTS {
            match tokio::time::timeout(Duration::from_secs(20), attempt()).await {
                Ok(Ok(done)) => {
                    self.met.again.fetch_add(usize::from(number > 0), Ordering::Relaxed);
                    return Some(done);
                }
                Ok(Err(error)) => said = format!("{error:#}"),
                Err(_) => said = "no answer in 20 s".to_owned(),
            }
            tokio::time::sleep(wait).await;
            wait *= 2;
        }
        if let Ok(mut lost) = self.met.lost.lock() {
            lost.push(format!("{what}: {said}"));
        }
        None
    }

    async fn push(&self, name: &str) -> anyhow::Result<Digest> {
        let layer = Bytes::from(format!("the configuration of {name}"));
        let digest = Digest::of(&layer);
        let start = format!("/v2/{REPOSITORY}/blobs/uploads/");
        let begun = self.ask(Method::POST, &start, None, &[202]).await?;
        let at = path_of(begun.header("location"))?;
        let (half, rest) = (layer.slice(..5), layer.slice(5..));
        let sent = self.ask(Method::PATCH, &at, Some((OCTETS, half)), &[202]).await?;
        let at = path_of(sent.header("location"))?;
        let joined = if at.contains('?') { '&' } else { '?' };
        let end = format!("{at}{joined}digest={digest}");
        self.ask(Method::PUT, &end, Some((OCTETS, rest)), &[201]).await?;
        let body = manifest(&digest, layer.len(), name);
        let image = Digest::of(&body);
        let path = format!("/v2/{REPOSITORY}/manifests/{name}");
        self.ask(Method::PUT, &path, Some((MANIFEST, body)), &[201]).await?;
        Ok(image)
    }

    async fn pull(&self, name: &str, digest: &Digest) -> anyhow::Result<()> {
        let path = format!("/v2/{REPOSITORY}/manifests/{name}");
        let answer = self.ask(Method::GET, &path, None, &[200]).await?;
        ensure!(Digest::of(&answer.body) == *digest, "{name} is other than what was pushed");
        Ok(())
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, Bytes)>,
        wanted: &[u16],
    ) -> anyhow::Result<Answer> {
        let what = format!("{method} {path}");
        let (kind, body) = body.unzip();
        let answer = self.through.next().send(method, path, kind, body).await;
        let answer = answer.ok().with_context(|| format!("{what}: no answer"))?;
        ensure!(wanted.iter().any(|status| answer.is(*status)), "{what}: {}", answer.text());
        Ok(answer)
    }
}

/// Of a location: another replica answers the next request.
fn path_of(location: &str) -> anyhow::Result<String> {
    let rest = location.split_once("://").map_or(location, |(_, rest)| rest);
    let at = rest.find('/').context("a location without a path")?;
    Ok(rest[at..].to_owned())
}

/// Does all of it; says what was done, and what went wrong.
pub async fn roll(
    machines: &Machines,
    wires: &[Wire],
    folder: &Path,
    seed: u64,
    wrong: &mut Vec<String>,
) -> anyhow::Result<String> {
    let mut told = Vec::new();
    let met = Arc::new(Met::default());
    let through = Arc::new(Balancer {
        wires: wires.to_vec(),
        well: Mutex::new((0..wires.len()).collect()),
        turn: AtomicUsize::new(0),
    });
    let watching = (Arc::clone(&through), Arc::clone(&met));
    let watch = tokio::spawn(async move { watching.0.watch(&watching.1).await });
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let dice = Dice::new(seed ^ (number + 1) << 40);
            let docker =
                Docker { through: Arc::clone(&through), met: Arc::clone(&met), dice, number };
            tokio::spawn(docker.run())
        })
        .collect();
    let mut failed = None;
    for step in [Step::Certificates, Step::Restart, Step::Upgrade] {
        let before = (met.operations.load(Ordering::Relaxed), met.again.load(Ordering::Relaxed));
        let began = Instant::now();
        let done = tokio::time::timeout(LIMIT, step.take(machines, wires.len(), folder)).await;
        let done = done.unwrap_or_else(|_| Err(anyhow::anyhow!("not done after {LIMIT:?}")));
        if let Err(error) = done {
            failed = Some(error.context(format!("{step:?}")));
            break;
        }
        let operations = met.operations.load(Ordering::Relaxed) - before.0;
        let again = met.again.load(Ordering::Relaxed) - before.1;
        told.push(format!(
            "{step:?} {:.0} s: {operations} operations, {again} needed another attempt",
            began.elapsed().as_secs_f64()
        ));
    }
    met.stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.context("a client")?;
    }
    watch.await.context("the balancer")?;
    if let Some(error) = failed {
        return Err(error);
    }
    let lost = met.lost.lock().map(|lost| lost.clone()).unwrap_or_default();
    let (operations, again) = (&met.operations, &met.again);
    let figures = format!(
        "{}; in all {operations:?} operations, {again:?} again, {} lost",
        told.join("; "),
        lost.len()
    );
    wrong.extend(lost);
    Ok(figures)
}

/// What is done to the cluster.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Replicas' certificates that are about to end, and the one that clients see.
    Certificates,
    Restart,
    Upgrade,
}

impl Step {
    async fn take(self, machines: &Machines, count: usize, folder: &Path) -> anyhow::Result<()> {
        match self {
            Self::Certificates => renew(machines, count, folder).await,
            Self::Restart => by_way_of(machines, 1, &["reconfigure"], RESTART).await,
            Self::Upgrade => upgrade(machines, count).await,
        }
    }
}

const RESTART: &[&str] = &["--restart", "--drain-seconds", DRAIN];

async fn by_way_of(
    machines: &Machines,
    machine: usize,
    command: &[&str],
    flags: &[&str],
) -> anyhow::Result<()> {
    let through = machines.through(machine);
    let through: Vec<&str> = through.iter().map(String::as_str).collect();
    machines.dtr(machine, &[command, &through, flags].concat()).await.map(drop)
}

/// Gives every replica a certificate that ends in some days, as if months had gone by, and restarts one of them: it renews
/// its own at once, and the others, told of that, theirs, while they serve.
async fn renew(machines: &Machines, count: usize, folder: &Path) -> anyhow::Result<()> {
    let archive = folder.join("authority.tar");
    machines.backup(0, &archive).await?;
    let archive = archive.display().to_string();
    let unpacked = folder.join("authority");
    std::fs::create_dir_all(&unpacked)?;
    let records = ["-xOf", &archive, "--wildcards", "*/certificates/certificates.jsonl"];
    let records = run("tar", &records).await?;
    let records = records.lines().map(serde_json::from_str::<serde_json::Value>);
    let records = records.collect::<Result<Vec<_>, _>>()?;
    let authority = records.iter().find(|record| record["name"] == "replicas");
    let authority = authority.context("the backup has no authority of the replicas")?;
    for (field, file) in [("certificate", "ca.pem"), ("privateKey", "ca.key")] {
        let text = authority[field].as_str().context("no text")?;
        std::fs::write(unpacked.join(file), text)?;
    }
    let mut before = Vec::new();
    for machine in 0..count {
        before.push(shorten(&unpacked, &machines.data(machine)).await?);
    }
    by_way_of(machines, 1, &["reconfigure"], &["--no-dtr-cert"]).await?;
    let data = machines.data(0);
    let own = ["reconfigure", "--data-dir", &data];
    machines.dtr(0, &[&own, RESTART].concat()).await?;
    for (machine, short) in before.iter().enumerate() {
        let file = format!("{}/etcd/replica.pem", machines.data(machine));
        let began = Instant::now();
        while std::fs::read_to_string(&file)? == *short {
            ensure!(
                began.elapsed() < Duration::from_secs(60),
                "replica {machine} keeps its old certificate"
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    Ok(())
}

/// Signs a replica's key anew for ten days.
async fn shorten(authority: &Path, data: &str) -> anyhow::Result<String> {
    let (ca, key) = (authority.join("ca.pem"), authority.join("ca.key"));
    let certificate = format!("{data}/etcd/replica.pem");
    let (ca, key) = (ca.display().to_string(), key.display().to_string());
    let short = format!("{data}/etcd/short.pem");
    let (own, request) = (format!("{data}/etcd/replica.key"), format!("{data}/etcd/short.csr"));
    let all = ["-copy_extensions", "copyall"];
    let ask = ["x509", "-x509toreq", "-in", &certificate, "-signkey", &own, "-out", &request];
    run("openssl", &[&ask[..], &all].concat()).await?;
    let sign = [
        "x509", "-req", "-in", &request, "-CA", &ca, "-CAkey", &key, "-days", "10", "-out", &short,
    ];
    run("openssl", &[&sign[..], &["-CAcreateserial"], &all].concat()).await?;
    std::fs::remove_file(&request)?;
    std::fs::rename(&short, &certificate)?;
    Ok(std::fs::read_to_string(&certificate)?)
}

/// Another version of the program takes the place of the one that runs: the same one, but for the number that it says.
async fn upgrade(machines: &Machines, count: usize) -> anyhow::Result<()> {
    let now = machines.dtr(0, &["--version"]).await?;
    let now = now.split_whitespace().last().context("no version")?.to_owned();
    let next = match now.rsplit_once('.') {
        Some((front, last)) if last.len() == 1 && last != "9" => format!("{front}.9"),
        _ => anyhow::bail!("no other version is as long as {now}"),
    };
    let program = machines.program();
    let mut bytes = std::fs::read(program)?;
    let places: Vec<usize> = bytes
        .windows(now.len())
        .enumerate()
        .filter_map(|(at, found)| (found == now.as_bytes()).then_some(at))
        .collect();
    for at in places {
        bytes[at..at + now.len()].copy_from_slice(next.as_bytes());
    }
    let beside = program.with_extension("new");
    std::fs::write(&beside, bytes)?;
    std::fs::set_permissions(&beside, std::fs::metadata(program)?.permissions())?;
    std::fs::rename(&beside, program)?;
    by_way_of(machines, 1, &["upgrade"], &["--drain-seconds", DRAIN]).await?;
    let data = machines.data(1);
    let status = machines.dtr(1, &["status", "--data-dir", &data, "-o", "json"]).await?;
    let times = status.matches(&format!("\"{next}\"")).count();
    ensure!(times >= count, "not all replicas run {next}: {status}");
    Ok(())
}
