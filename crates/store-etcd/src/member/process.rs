//! The process's id in a file beside its data, and what to do with one that an earlier run of ours has left behind: it
//! still has the data and the ports.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use super::MemberError;

/// Where the id is.
pub(super) fn pid_file(data_dir: &Path) -> PathBuf {
    let mut name = data_dir.file_name().unwrap_or_default().to_owned();
    name.push(".pid");
    data_dir.with_file_name(name)
}

pub(super) fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may have ended meanwhile.
        let _ = kill_process(pid, signal);
    }
}

/// Whether the process works on `data_dir`: its number may have been given to another one since.
fn is_ours(pid: Pid, data_dir: &Path) -> bool {
    let wanted = format!("--data-dir={}", data_dir.display());
    fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero()))
        .is_ok_and(|line| line.split(|byte| *byte == 0).any(|part| part == wanted.as_bytes()))
}

/// Ends an etcd that runs on `data_dir` since an earlier run, first politely.
pub(super) async fn end_orphan(data_dir: &Path, limit: Duration) -> Result<(), MemberError> {
    let file = pid_file(data_dir);
    let Some(pid) = fs::read_to_string(&file)
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .and_then(Pid::from_raw)
    else {
        return Ok(());
    };
    for (kind, limit) in [(Signal::TERM, limit), (Signal::KILL, Duration::from_secs(5))] {
        if !is_ours(pid, data_dir) {
            return Ok(());
        }
        tracing::warn!(pid = pid.as_raw_nonzero(), "an etcd of an earlier run is ended");
        let _ = kill_process(pid, kind);
        let end = tokio::time::Instant::now() + limit;
        while tokio::time::Instant::now() < end {
            if test_kill_process(pid).is_err() || !is_ours(pid, data_dir) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let pid = pid.as_raw_nonzero().get();
    Err(MemberError::Running { pid, path: data_dir.to_owned() })
}

/// Writes the id of a process that was just started. Not synced: after a loss of power there is no process.
pub(super) fn remember(data_dir: &Path, pid: u32) -> io::Result<()> {
    fs::write(pid_file(data_dir), format!("{pid}\n"))
}

pub(super) fn forget(data_dir: &Path) {
    drop(fs::remove_file(pid_file(data_dir)));
}
