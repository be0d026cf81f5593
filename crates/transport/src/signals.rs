//! Stopping: the first signal drains, the second ends at once.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How the server is asked to stop.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    /// Cancelled: accept nothing new, finish what runs (bounded by [`Limits::drain`](crate::Limits::drain)).
    pub drain: CancellationToken,
    /// Cancelled: cut what still runs.
    pub now: CancellationToken,
}

impl From<CancellationToken> for Shutdown {
    fn from(drain: CancellationToken) -> Self {
        Self { drain, now: CancellationToken::new() }
    }
}

/// A [`Shutdown`] that SIGTERM and SIGINT operate: the first drains, the second cuts. For binaries.
///
/// # Errors
/// When the system refuses the signal handlers.
pub fn shutdown_on_signals() -> io::Result<Shutdown> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let shutdown = Shutdown::default();
    let ours = shutdown.clone();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! { _ = term.recv() => "SIGTERM", _ = int.recv() => "SIGINT" }
        };
        let name = next().await;
        tracing::info!(
            signal = name,
            "stopping: finishing requests in flight; a second signal cuts them"
        );
        ours.drain.cancel();
        let name = next().await;
        tracing::warn!(signal = name, "stopping now");
        ours.now.cancel();
    });
    Ok(shutdown)
}
