//! The run: both registries side by side, measured in turns, so that both meet the machine as it is at the moment.

use std::{path::PathBuf, time::Duration};

use anyhow::{Result, ensure};
use dtr_types::{Algorithm, Digest, Hasher};

use crate::{
    cluster,
    load::{self, Load},
    process::{Endpoint, Server},
    protected, push, servers, state,
    table::{self, Row, Target},
    wrk,
};

/// How much is done.
pub struct Plan {
    /// Rounds of each comparison.
    pub rounds: u32,
    /// Seconds of a load in a round.
    pub seconds: u32,
    /// MiB of a large blob.
    pub mib: usize,
    /// Manifests and tags of the large registry.
    pub many: u32,
    /// How often a leader is killed.
    pub kills: u32,
}

impl Plan {
    fn new(quick: bool) -> Self {
        match quick {
            true => Self { rounds: 1, seconds: 2, mib: 64, many: 5_000, kills: 2 },
            false => Self { rounds: 5, seconds: 5, mib: 512, many: 100_000, kills: 20 },
        }
    }

    /// Time of a load.
    pub fn time(&self) -> Duration {
        Duration::from_secs(self.seconds.into())
    }
}

/// Connections of loads.
pub const CONNECTIONS: usize = 16;
/// Where both registries get their images.
pub const REPOSITORY: &str = "bench/app";

/// `bench run`.
pub async fn run(quick: bool, dir: Option<PathBuf>, only: Vec<String>) -> Result<()> {
    let plan = Plan::new(quick);
    let wanted = |part: &str| only.is_empty() || only.iter().any(|name| name == part);
    let folder = match dir {
        Some(dir) => tempfile::tempdir_in(dir)?,
        None => tempfile::tempdir()?,
    };
    let mut rows = Vec::new();
    let data = folder.path().join("ours");
    let ours = match wanted("state") {
        true => state::measure(&plan, &data, &mut rows).await?,
        false => servers::ours(&data)?,
    };
    let theirs = servers::reference(&folder.path().join("reference"))?;
    let idle = theirs.memory_mib("VmRSS")?;
    let sides = Sides { theirs, ours };
    if wanted("get") {
        sides.manifests(&plan, &mut rows).await?;
    }
    if wanted("push") {
        sides.pushes(&plan, &mut rows).await?;
    }
    if wanted("blob") {
        sides.blobs(&plan, &mut rows).await?;
    }
    if wanted("state") {
        state::pushes_beside_a_backup(&plan, &sides.ours, &mut rows).await?;
    }
    let memory = (sides.theirs.memory_mib("VmRSS")?, sides.ours.memory_mib("VmRSS")?);
    rows.push(Row::pairs("memory after it all, MiB", &[memory], Target::AtMost(64.0)));
    say(&format!("docker-registry took {idle:.0} MiB when it had started"));
    if wanted("protected") {
        protected::measure(&plan, &folder.path().join("protected"), &sides.ours, &mut rows).await?;
    }
    sides.theirs.stop()?;
    sides.ours.stop()?;
    if wanted("cluster") {
        cluster::measure(&plan, &folder.path().join("cluster"), &mut rows).await?;
    }
    println!();
    table::print("docker-registry", "ours", &rows);
    Ok(())
}

/// Tells how far it is.
pub fn say(text: &str) {
    eprintln!("{text}");
}

/// Both registries.
struct Sides {
    theirs: Server,
    ours: Server,
}

/// Stores a small image and says where its manifest is.
pub async fn seed(
    server: &Endpoint,
    authorization: Option<&str>,
    repository: &str,
) -> Result<String> {
    let mut connection = server.connect(authorization).await?;
    push::small_image(&mut connection, repository, 1).await?;
    Ok(format!("/v2/{repository}/manifests/v1"))
}

/// Small images, each of its own content.
pub async fn small_images(
    server: &Endpoint,
    authorization: Option<&str>,
    repository: &'static str,
    from: u64,
    time: Duration,
    connections: usize,
) -> Result<Load> {
    load::run(
        server,
        authorization,
        connections,
        from,
        None,
        time,
        move |mut connection, n| async move {
            push::small_image(&mut connection, repository, n).await?;
            Ok(connection)
        },
    )
    .await
}

impl Sides {
    async fn manifests(&self, plan: &Plan, rows: &mut Vec<Row>) -> Result<()> {
        let target = seed(&self.theirs, None, REPOSITORY).await?;
        seed(&self.ours, None, REPOSITORY).await?;
        let (mut rates, mut cpu) = (Vec::new(), Vec::new());
        for round in 0..plan.rounds {
            let theirs = wrk::get(&self.theirs, &target, None, 16, plan.seconds).await?;
            let ours = wrk::get(&self.ours, &target, None, 16, plan.seconds).await?;
            say(&format!("manifest GET {round}: {:.0} and {:.0} a second", theirs.rate, ours.rate));
            rates.push((theirs.rate, ours.rate));
            cpu.push((theirs.per_cpu_second, ours.per_cpu_second));
        }
        rows.push(Row::pairs("manifest GET by tag, requests/s", &rates, Target::Ratio(12.0)));
        rows.push(Row::pairs("  requests per CPU second", &cpu, Target::None));
        Ok(())
    }

    async fn pushes(&self, plan: &Plan, rows: &mut Vec<Row>) -> Result<()> {
        let (mut rates, mut cpu, mut tails) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..plan.rounds {
            let from = 1_000_000 * u64::from(round + 1);
            let push =
                |server| small_images(server, None, REPOSITORY, from, plan.time(), CONNECTIONS);
            let (theirs, ours) = (push(&self.theirs).await?, push(&self.ours).await?);
            say(&format!("pushes {round}: {:.0} and {:.0} a second", theirs.rate(), ours.rate()));
            rates.push((theirs.rate(), ours.rate()));
            tails.push((theirs.quantile(0.99), ours.quantile(0.99)));
            let each = |load: &Load| load.cpu * 1000.0 / load.done.max(1) as f64;
            cpu.push((each(&theirs), each(&ours)));
        }
        rows.push(Row::pairs("small image pushes/s, 16 at once", &rates, Target::Ratio(4.0)));
        rows.push(Row::pairs("  p99, ms", &tails, Target::None));
        rows.push(Row::pairs("  CPU ms each", &cpu, Target::None));
        Ok(())
    }

    async fn blobs(&self, plan: &Plan, rows: &mut Vec<Row>) -> Result<()> {
        let (mut up, mut up_cpu, mut down, mut down_cpu) = (vec![], vec![], vec![], vec![]);
        for round in 0..plan.rounds {
            let (block, digest) = content(plan.mib, round);
            let ours = upload(&self.ours, &block, plan.mib, &digest).await?;
            let theirs = upload(&self.theirs, &block, plan.mib, &digest).await?;
            say(&format!("upload {round}: {:.0} and {:.0} MiB/s", theirs.0, ours.0));
            up.push((theirs.0, ours.0));
            up_cpu.push((theirs.1, ours.1));
            let theirs = download(&self.theirs, plan.mib, &digest).await?;
            let ours = download(&self.ours, plan.mib, &digest).await?;
            say(&format!("download {round}: {:.0} and {:.0} MiB/s", theirs.0, ours.0));
            down.push((theirs.0, ours.0));
            down_cpu.push((theirs.1, ours.1));
        }
        let size = plan.mib;
        rows.push(Row::pairs(&format!("{size} MiB upload, MiB/s"), &up, Target::Ratio(1.3)));
        rows.push(Row::pairs("  CPU s", &up_cpu, Target::RatioAtMost(1.0)));
        rows.push(Row::pairs(&format!("{size} MiB download, MiB/s"), &down, Target::Ratio(1.0)));
        rows.push(Row::pairs("  CPU s", &down_cpu, Target::RatioAtMost(1.0)));
        Ok(())
    }
}

/// A block to repeat `mib` times, and the digest of that.
fn content(mib: usize, round: u32) -> (Vec<u8>, Digest) {
    let mut state = u64::from(round) + 1;
    let mut block = Vec::with_capacity(1 << 20);
    while block.len() < 1 << 20 {
        // A small generator of numbers: what does not compress, and differs in every round.
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        block.extend_from_slice(&state.to_be_bytes());
    }
    let mut hasher = Hasher::new(Algorithm::Sha256);
    for _ in 0..mib {
        hasher.update(&block);
    }
    (block, hasher.finish())
}

/// MiB a second, and processor seconds.
async fn upload(server: &Server, block: &[u8], mib: usize, digest: &Digest) -> Result<(f64, f64)> {
    let mut connection = server.connect(None).await?;
    let (cpu, began) = (server.cpu_seconds()?, std::time::Instant::now());
    push::large_blob(&mut connection, REPOSITORY, block, mib, digest).await?;
    let seconds = began.elapsed().as_secs_f64();
    Ok((mib as f64 / seconds, server.cpu_seconds()? - cpu))
}

async fn download(server: &Server, mib: usize, digest: &Digest) -> Result<(f64, f64)> {
    let mut connection = server.connect(None).await?;
    let (cpu, began) = (server.cpu_seconds()?, std::time::Instant::now());
    let response = connection.download(&format!("/v2/{REPOSITORY}/blobs/{digest}")).await?;
    let seconds = began.elapsed().as_secs_f64();
    ensure!(response.status == 200, "GET of a blob answered {}", response.status);
    ensure!(response.length == (mib as u64) << 20, "the blob has {} bytes", response.length);
    Ok((mib as f64 / seconds, server.cpu_seconds()? - cpu))
}
