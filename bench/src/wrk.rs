//! Load from `wrk`, which costs so little itself that the server is what is measured.

use anyhow::{Context as _, Result, ensure};
use tokio::process::Command;

use crate::process::Endpoint;

/// What a round of `wrk` came to.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    /// Requests a second.
    pub rate: f64,
    /// Requests in a second of the server's processor time.
    pub per_cpu_second: f64,
}

/// `GET target` again and again on `connections` connections for `seconds`; with several hosts, on a part of them to each.
pub async fn get(
    server: &Endpoint,
    target: &str,
    authorization: Option<&str>,
    connections: u32,
    seconds: u32,
) -> Result<Round> {
    let cpu = server.cpu_seconds()?;
    let hosts = server.hosts.len() as u32;
    let mut parts = Vec::new();
    for (number, host) in (0..).zip(&server.hosts) {
        let part = connections / hosts + u32::from(number < connections % hosts);
        parts.push(one(server.tls, host, target, authorization, part, seconds));
    }
    let parts = futures_util::future::try_join_all(parts).await?;
    let cpu = server.cpu_seconds()? - cpu;
    let sum = |pick: fn(&(f64, f64)) -> f64| parts.iter().map(pick).sum::<f64>();
    Ok(Round { rate: sum(|part| part.0), per_cpu_second: sum(|part| part.1) / cpu.max(0.01) })
}

/// Requests a second, and how many in all.
async fn one(
    tls: bool,
    host: &str,
    target: &str,
    authorization: Option<&str>,
    connections: u32,
    seconds: u32,
) -> Result<(f64, f64)> {
    let scheme = if tls { "https" } else { "http" };
    let mut command = Command::new("wrk");
    command.args(["-t1", &format!("-c{connections}"), &format!("-d{seconds}s")]);
    command.args(["-H", "Accept: application/vnd.docker.distribution.manifest.v2+json"]);
    if let Some(authorization) = authorization {
        command.args(["-H", &format!("Authorization: {authorization}")]);
    }
    command.arg(format!("{scheme}://{host}{target}"));
    let output = command.output().await.context("running wrk (Debian's package \"wrk\")")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "wrk failed: {}", String::from_utf8_lossy(&output.stderr));
    ensure!(!text.contains("Non-2xx"), "wrk was answered with errors:\n{text}");
    let number = |before: &str| {
        let rest = text.split(before).nth(1)?;
        rest.split_whitespace().next()?.parse::<f64>().ok()
    };
    let rate = number("Requests/sec:").context("wrk's rate")?;
    let count = text
        .lines()
        .find_map(|line| line.trim().split_once(" requests in ")?.0.parse::<f64>().ok())
        .context("wrk's count")?;
    Ok((rate, count))
}
