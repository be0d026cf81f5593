//! A process that goes on after the command that started it: its own session, no terminal, a log file.

use std::{
    ffi::OsStr,
    fs::{File, OpenOptions},
    future::Future,
    io::{Read as _, Seek as _, SeekFrom},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::{ServiceError, file_error};

/// How much of a log is shown.
const TAIL_BYTES: u64 = 4 << 10;
/// How often the start is looked at.
const STEP: Duration = Duration::from_millis(50);

/// A process that was just started.
#[derive(Debug)]
pub struct Detached {
    child: Child,
    log: PathBuf,
}

/// Whether a variable of this name holds a secret, as names go. The path of a file with a secret is none.
fn is_secret(name: &OsStr) -> bool {
    let name = name.to_string_lossy().to_ascii_uppercase();
    let words = ["PASSWORD", "PASSPHRASE", "SECRET", "TOKEN", "CREDENTIAL"];
    !name.ends_with("_FILE")
        && (name.ends_with("_KEY") || words.iter().any(|word| name.contains(word)))
}

/// Starts `program`, which is to call [`begin_session`] first of all. What it writes goes to the end of `log` (0600). It gets
/// the environment of this process without what is secret in it.
///
/// # Errors
/// [`ServiceError`] when the log cannot be opened or the program not be run.
pub fn spawn_detached(
    program: &Path,
    args: impl IntoIterator<Item = impl AsRef<OsStr>>,
    log: &Path,
) -> Result<Detached, ServiceError> {
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(log)
        .map_err(file_error("opened", log))?;
    let second = file.try_clone().map_err(file_error("opened", log))?;
    let mut command = Command::new(program);
    // What a command was given to log in once is not to stay in a process that runs for months.
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_secret(name)) {
        command.env_remove(name);
    }
    let child = command
        .args(args)
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(second)
        .current_dir("/")
        .spawn()
        .map_err(|source| ServiceError::Spawn { program: program.display().to_string(), source })?;
    Ok(Detached { child, log: log.to_owned() })
}

/// Leaves the session of whoever started this process, so that its terminal's end is not ours. No error when this process
/// leads a session already.
pub fn begin_session() {
    if let Err(error) = rustix::process::setsid() {
        tracing::debug!(%error, "no session of its own");
    }
}

impl Detached {
    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `ready` says so, the process ends, or `limit` is over. The process goes on after a timeout.
    ///
    /// # Errors
    /// [`ServiceError::Ended`] with the end of its log, [`ServiceError::Timeout`].
    pub async fn wait_until_ready<F: Future<Output = bool>>(
        mut self,
        limit: Duration,
        mut ready: impl FnMut() -> F,
    ) -> Result<u32, ServiceError> {
        let started = Instant::now();
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                let (status, tail) = (status.to_string(), tail(&self.log));
                return Err(ServiceError::Ended { status, log: self.log, tail });
            }
            if ready().await {
                return Ok(self.child.id());
            }
            if started.elapsed() > limit {
                let hint = format!("; see {}", self.log.display());
                return Err(ServiceError::Timeout { what: "become ready", limit, hint });
            }
            tokio::time::sleep(STEP).await;
        }
    }
}

/// The end of a log, for a person.
pub fn tail(log: &Path) -> String {
    let read = || {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        std::io::Result::Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_else(|error| format!("(it cannot be read: {error})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_known_by_their_names() {
        for name in [
            "DTR_ADMIN_PASSWORD",
            "UCP_PASSWORD",
            "UCP_TOKEN",
            "DTR_KEY",
            "AWS_SECRET_ACCESS_KEY",
            "my_passphrase",
        ] {
            assert!(is_secret(OsStr::new(name)), "{name}");
        }
        for name in [
            "PATH",
            "HOME",
            "UCP_PASSWORD_FILE",
            "LOG_LEVEL",
            "MIMALLOC_PURGE_DELAY",
            "DTR_CERT",
            "KEYBOARD",
        ] {
            assert!(!is_secret(OsStr::new(name)), "{name}");
        }
    }
}
