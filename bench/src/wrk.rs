//! Load from `wrk`, which costs so little itself that the server is what is measured.

use anyhow::{Context as _, Result, ensure};
use tokio::process::Command;

use crate::process::Server;

/// What a round of `wrk` came to.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    /// Requests a second.
    pub rate: f64,
    /// Requests in a second of the server's processor time.
    pub per_cpu_second: f64,
}

/// `GET target` again and again on `connections` connections for `seconds`.
pub async fn get(
    server: &Server,
    target: &str,
    authorization: Option<&str>,
    connections: u32,
    seconds: u32,
) -> Result<Round> {
    let scheme = if server.tls { "https" } else { "http" };
    let mut command = Command::new("wrk");
    command.args(["-t1", &format!("-c{connections}"), &format!("-d{seconds}s")]);
    command.args(["-H", "Accept: application/vnd.docker.distribution.manifest.v2+json"]);
    if let Some(authorization) = authorization {
        command.args(["-H", &format!("Authorization: {authorization}")]);
    }
    command.arg(format!("{scheme}://{}{target}", server.host));
    let cpu = server.cpu_seconds()?;
    let output = command.output().await.context("running wrk (Debian's package \"wrk\")")?;
    let cpu = server.cpu_seconds()? - cpu;
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
    Ok(Round { rate, per_cpu_second: count / cpu.max(0.01) })
}
