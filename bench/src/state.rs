//! A registry with very many tags: its start, its lists, its backup and restore, and pushes beside a backup.

use std::{
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    compare::{Plan, REPOSITORY, say, small_images},
    load::{self},
    ours,
    process::Server,
    servers,
    table::{Row, Target, median},
};

/// Pushes at once while a backup runs: some load, but none that alone takes all of the machine.
const PUSHERS: usize = 4;

/// Fills a registry, starts it, measures, and gives it back running.
pub async fn measure(plan: &Plan, dir: &Path, rows: &mut Vec<Row>) -> Result<Server> {
    let many = plan.many;
    let filled = Instant::now();
    let mut fill = Command::new(servers::this_program()?);
    fill.args(["fill", "--manifests", &many.to_string(), "--tags", &many.to_string(), "--dir"]);
    ensure!(fill.arg(dir).status()?.success(), "filling failed");
    say(&format!("{many} manifests and tags made in {:.1} s", filled.elapsed().as_secs_f64()));
    // The first start opens a file that was just written; the later ones are what an operator meets.
    let mut starts = Vec::new();
    for _ in 0..2 {
        let server = servers::ours(dir)?;
        starts.push(server.started_in.as_secs_f64());
        server.stop()?;
    }
    let server = servers::ours(dir)?;
    starts.push(server.started_in.as_secs_f64());
    rows.push(Row::alone(
        &format!("start with {many} manifests, s"),
        median(&starts),
        Target::AtMost(1.0),
    ));
    rows.push(Row::alone("memory when started, MiB", server.memory_mib("VmRSS")?, Target::None));
    lists(plan, &server, rows).await?;
    recovery(plan, dir, &server, rows).await?;
    Ok(server)
}

async fn lists(plan: &Plan, server: &Server, rows: &mut Vec<Row>) -> Result<()> {
    let (many, repository) = (plan.many, ours::REPOSITORY);
    let load = load::run(
        server,
        None,
        1,
        0,
        Some(2000),
        plan.time(),
        move |mut connection, n| async move {
            // From all over the list.
            let last = n.wrapping_mul(7919) % u64::from(many.saturating_sub(200));
            let target = format!("/v2/{repository}/tags/list?n=100&last=tag-{last:08}");
            let response = connection.send("GET", &target, "", b"").await?;
            ensure!(response.status == 200, "tags/list answered {}", response.status);
            Ok(connection)
        },
    );
    let load = load.await?;
    let what = format!("tags/list?n=100 of {many} tags, ms (p50)");
    rows.push(Row::alone(&what, load.quantile(0.5), Target::AtMost(1.0)));
    rows.push(Row::alone("  p99", load.quantile(0.99), Target::None));
    Ok(())
}

/// Takes a backup to a file; what the server says of it.
async fn backup(server: &Server, to: &Path) -> Result<Value> {
    let mut connection = server.connect(None).await?;
    let target = format!("/bench/backup?to={}", to.display());
    let response = connection.send("GET", &target, "", b"").await?;
    let text = String::from_utf8_lossy(&response.body);
    ensure!(response.status == 200, "the backup failed: {text}");
    Ok(serde_json::from_slice(&response.body)?)
}

fn number(report: &Value, field: &str) -> f64 {
    report[field].as_f64().unwrap_or(f64::NAN)
}

async fn recovery(plan: &Plan, dir: &Path, server: &Server, rows: &mut Vec<Row>) -> Result<()> {
    let archive = dir.join("backup.tar");
    let (mut rates, mut peaks, mut restores, mut restore_peaks) = (vec![], vec![], vec![], vec![]);
    for round in 0..plan.rounds.min(3) {
        server.reset_peak();
        let idle = server.memory_mib("VmRSS")?;
        let report = backup(server, &archive).await?;
        peaks.push(server.memory_mib("VmHWM")? - idle);
        rates.push(number(&report, "records") / number(&report, "seconds"));
        let into = dir.join(format!("restored{round}"));
        let mut restore = Command::new(servers::this_program()?);
        restore.arg("restore").arg("--archive").arg(&archive).arg("--dir").arg(&into);
        let output = restore.arg("--blobs").arg(dir.join("blobs")).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "the restore failed: {said}");
        let restored: Value = serde_json::from_slice(&output.stdout).context("its report")?;
        restores.push(number(&restored, "records") / number(&restored, "seconds"));
        restore_peaks.push(number(&restored, "memory"));
        std::fs::remove_dir_all(&into)?;
        say(&format!(
            "backup {round}: {} records in {:.2} s; restore in {:.2} s",
            report["records"],
            number(&report, "seconds"),
            number(&restored, "seconds")
        ));
    }
    let most = |all: &[f64]| all.iter().copied().fold(0.0, f64::max);
    rows.push(Row::alone("backup, records/s", median(&rates), Target::AtLeast(200_000.0)));
    rows.push(Row::alone("  memory above idle, MiB", most(&peaks), Target::AtMost(64.0)));
    rows.push(Row::alone("restore, records/s", median(&restores), Target::AtLeast(100_000.0)));
    rows.push(Row::alone("  memory above idle, MiB", most(&restore_peaks), Target::AtMost(64.0)));
    Ok(())
}

/// Pushes without and with backups that follow one another, in turns.
pub async fn pushes_beside_a_backup(
    plan: &Plan,
    server: &Server,
    rows: &mut Vec<Row>,
) -> Result<()> {
    // To nowhere: in practice it leaves the machine, and its writing would be measured with the pushes.
    let archive = Path::new("/dev/null");
    let (mut tails, mut middles, mut rates) = (vec![], vec![], vec![]);
    for round in 0..plan.rounds {
        let from = 1_000_000_000 + 10_000_000 * u64::from(round);
        let push = |from| small_images(server, None, REPOSITORY, from, plan.time(), PUSHERS);
        let without = push(from).await?;
        let over = Arc::new(AtomicBool::new(false));
        let backups = async {
            let mut taken = 0;
            while !over.load(Ordering::Relaxed) {
                backup(server, archive).await?;
                taken += 1;
            }
            anyhow::Ok(taken)
        };
        let pushing = async {
            let load = push(from + 5_000_000).await;
            over.store(true, Ordering::Relaxed);
            load
        };
        let (with, taken) = tokio::try_join!(pushing, backups)?;
        say(&format!(
            "pushes {round}: p99 {:.1} ms, {:.1} ms beside {taken} backups",
            without.quantile(0.99),
            with.quantile(0.99)
        ));
        tails.push((without.quantile(0.99), with.quantile(0.99)));
        middles.push((without.quantile(0.5), with.quantile(0.5)));
        rates.push((without.rate(), with.rate()));
    }
    let what = "push p99 without and during backups, ms";
    rows.push(Row::pairs(what, &tails, Target::RatioAtMost(1.2)));
    rows.push(Row::pairs("  p50, ms", &middles, Target::None));
    rows.push(Row::pairs("  pushes/s", &rates, Target::None));
    Ok(())
}
