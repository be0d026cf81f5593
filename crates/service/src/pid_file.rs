//! The pid file: its lock says that somebody serves, its content says who. A lock ends with its process, so a crash
//! leaves nothing behind that would have to be cleaned up.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{ErrorKind, Read as _, Seek as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{ServiceError, file_error};

/// Bytes of the file.
const WIDTH: usize = 16;
/// How often a condition of another process is looked at.
const STEP: Duration = Duration::from_millis(50);

/// The right to serve a data directory, held until dropped.
#[derive(Debug)]
pub struct PidFile {
    // Held for its lock.
    file: File,
    path: PathBuf,
}

fn open(path: &Path) -> Result<File, ServiceError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o644)
        .open(path)
        .map_err(file_error("opened", path))
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok().filter(|pid| *pid > 0)
}

impl PidFile {
    /// Claims the file for this process.
    ///
    /// # Errors
    /// [`ServiceError::Running`] when another process has it.
    pub fn claim(path: &Path) -> Result<Self, ServiceError> {
        let mut file = open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let pid = read_pid(&mut file).unwrap_or(0);
                return Err(ServiceError::Running { pid, path: path.to_owned() });
            }
            Err(TryLockError::Error(source)) => return Err(file_error("locked", path)(source)),
        }
        match write(&mut file, &std::process::id().to_string()) {
            // The lock is what counts: a replica on a full disk is to serve what it has.
            Err(error) if error.kind() == ErrorKind::StorageFull => {
                tracing::warn!(%error, path = %path.display(), "the pid file does not say who serves");
            }
            written => written.map_err(file_error("written", path))?,
        }
        Ok(Self { file, path: path.to_owned() })
    }
}

/// Writes over what is there and never makes the file shorter, so that it keeps the room that it has on a disk that becomes
/// full. What is behind the text are newlines.
fn write(file: &mut File, text: &str) -> std::io::Result<()> {
    file.rewind()?;
    file.write_all(format!("{text:\n<WIDTH$}").as_bytes())
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Emptied, not removed: removing a locked file would let two processes hold two files of the same name.
        if let Err(error) = write(&mut self.file, "") {
            tracing::debug!(%error, path = %self.path.display(), "the pid file was not emptied");
        }
    }
}

/// The process that serves, if one does.
pub fn running(path: &Path) -> Option<u32> {
    let mut file = OpenOptions::new().read(true).write(true).open(path).ok()?;
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => read_pid(&mut file),
        _ => None,
    }
}

/// Asks the process that serves to stop, and waits until it has. `false` when none served.
///
/// # Errors
/// [`ServiceError::Timeout`] when it has not stopped within `limit`.
pub fn stop(path: &Path, limit: Duration) -> Result<bool, ServiceError> {
    let Some(pid) = running(path) else { return Ok(false) };
    let Some(target) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(false) };
    match kill_process(target, Signal::TERM) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => {
            return Err(ServiceError::Failed {
                program: format!("stopping process {pid}"),
                message: error.to_string(),
            });
        }
    }
    let started = Instant::now();
    while running(path) == Some(pid) {
        if started.elapsed() > limit {
            let hint = format!(" (process {pid})");
            return Err(ServiceError::Timeout { what: "stop", limit, hint });
        }
        std::thread::sleep(STEP);
    }
    Ok(true)
}
