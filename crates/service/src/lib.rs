//! A program as a service of its machine: one process for each data directory, started detached or by systemd, found
//! again by its pid file, stopped gracefully, and talked to locally through a socket that only its owner may open.
//!
//! ```text
//! install                      serve
//!   systemd? write the unit      begin_session (when detached)
//!   else spawn_detached ───────▶ PidFile::claim   (one process a directory)
//!   wait_until_ready             local::listen    (for commands on the same machine)
//!                                notify_ready     (systemd)
//! ```

pub mod local;
pub mod systemd;
pub mod variables;

mod detached;
mod memory;
mod output;
mod pid_file;

pub use detached::{Detached, begin_session, spawn_detached, tail};
pub use memory::settle_allocator;
pub use output::{Output, OutputError};
pub use pid_file::{PidFile, running, stop};

use std::{io, path::PathBuf, time::Duration};

/// What can go wrong with a service.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// Another process serves this directory.
    #[error("process {pid} is serving already (it holds {path}); stop it first")]
    Running {
        /// Its process id.
        pid: u32,
        /// The pid file.
        path: PathBuf,
    },
    /// A file could not be used.
    #[error("{path} could not be {what}: {source}")]
    File {
        /// What was tried.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A program could not be run.
    #[error("{program} could not be run: {source}")]
    Spawn {
        /// Which.
        program: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A program ended with an error.
    #[error("{program} failed: {message}")]
    Failed {
        /// Which.
        program: String,
        /// What it said.
        message: String,
    },
    /// The service ended while it was started.
    #[error(
        "the service ended while it was starting ({status}); the end of its log {log}:\n{tail}"
    )]
    Ended {
        /// How.
        status: String,
        /// Its log.
        log: PathBuf,
        /// The end of the log.
        tail: String,
    },
    /// The service did not do something in time.
    #[error("the service did not {what} within {} s{hint}", limit.as_secs())]
    Timeout {
        /// What was waited for.
        what: &'static str,
        /// How long.
        limit: Duration,
        /// Where to look.
        hint: String,
    },
    /// Nothing listens at the local socket.
    #[error("no service is running for {path}: {source}")]
    NotRunning {
        /// The data directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A local request failed on its way.
    #[error("the local request failed: {0}")]
    Request(String),
    /// The service answered a local request with an error.
    #[error("the service answered {status}: {message}")]
    Answer {
        /// The HTTP status.
        status: u16,
        /// What it said.
        message: String,
    },
}

pub(crate) fn file_error(
    what: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(io::Error) -> ServiceError {
    let path = path.into();
    move |source| ServiceError::File { what, path, source }
}

/// Tells systemd that the service serves; nothing when it was not started by systemd.
pub fn notify_ready() {
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::debug!(%error, "systemd was not told");
    }
}

/// Tells systemd that the service stops.
pub fn notify_stopping() {
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Stopping]) {
        tracing::debug!(%error, "systemd was not told");
    }
}
