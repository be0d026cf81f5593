//! Load with many connections at once, and what came of it.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::{http::Connection, process::Endpoint};

/// What a load did.
#[derive(Clone, Debug)]
pub struct Load {
    /// Operations that ended well.
    pub done: u64,
    /// Wall time in seconds.
    pub seconds: f64,
    /// Processor seconds of the server.
    pub cpu: f64,
    /// Latencies in milliseconds, sorted.
    pub latencies: Vec<f64>,
}

impl Load {
    /// Operations a second.
    pub fn rate(&self) -> f64 {
        self.done as f64 / self.seconds
    }

    /// A quantile of the latencies, in milliseconds.
    pub fn quantile(&self, q: f64) -> f64 {
        let last = self.latencies.len().saturating_sub(1);
        self.latencies.get((last as f64 * q) as usize).copied().unwrap_or_default()
    }
}

/// Calls `operation(connection, n)` with n = `from`, `from` + 1 ... on `connections` connections, for `time` or until
/// `count` operations were done, whichever is given first.
pub async fn run<F, R>(
    server: &Endpoint,
    authorization: Option<&str>,
    connections: usize,
    from: u64,
    count: Option<u64>,
    time: Duration,
    operation: F,
) -> Result<Load>
where
    F: Fn(Connection, u64) -> R + Clone + Send + 'static,
    R: Future<Output = Result<Connection>> + Send,
{
    let next = Arc::new(AtomicU64::new(from));
    let end = count.map_or(u64::MAX, |count| from + count);
    let cpu = server.cpu_seconds()?;
    let began = Instant::now();
    let mut tasks = Vec::new();
    for number in 0..connections {
        let mut connection = server.connect_from(number, authorization).await?;
        let (next, operation) = (Arc::clone(&next), operation.clone());
        tasks.push(tokio::spawn(async move {
            let mut latencies = Vec::new();
            while began.elapsed() < time {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= end {
                    break;
                }
                let started = Instant::now();
                connection =
                    operation(connection, n).await.with_context(|| format!("number {n}"))?;
                latencies.push(started.elapsed().as_secs_f64() * 1000.0);
            }
            anyhow::Ok(latencies)
        }));
    }
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await??);
    }
    let seconds = began.elapsed().as_secs_f64();
    latencies.sort_by(f64::total_cmp);
    Ok(Load { done: latencies.len() as u64, seconds, cpu: server.cpu_seconds()? - cpu, latencies })
}
