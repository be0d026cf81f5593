//! The supervisor: a task that keeps the process running until it is told to stop.

use std::{os::unix::fs::DirBuilderExt as _, path::Path, process::Stdio, time::Duration};

use rustix::process::Signal;
use tokio::{
    process::{Child, Command},
    sync::{oneshot, watch},
    task::JoinHandle,
    time::Instant,
};

use super::{
    Initial, MemberError, MemberOptions,
    log::{self, LastWords},
    process,
};

/// The longest pause before it is started again.
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(30);
/// How long what was left behind may take to end by itself.
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// How long it is listened for what it says at its end.
const LISTEN_MAX: Duration = Duration::from_secs(1);
/// Who has run for this long is not failing: the pause begins from the start.
const HEALTHY: Duration = Duration::from_secs(10);

/// What the process does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberState {
    /// It runs.
    Running {
        /// Its process.
        pid: u32,
        /// How often it was started again.
        restarts: u64,
    },
    /// It has ended and will be started again.
    Down {
        /// How it ended.
        why: String,
        /// How often it was started again until now.
        restarts: u64,
    },
    /// It was stopped.
    Stopped,
}

/// A member that does not stay up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberTrouble {
    /// How often it has ended without having run for long.
    pub ended: u64,
    /// How it ended last, in its own words where it said any.
    pub why: String,
    /// Whether it cannot read its data: starting it again does not help.
    pub damaged: bool,
}

/// A member that is kept running. Dropping it kills the process; [`Member::stop`] ends it cleanly.
pub struct Member {
    options: MemberOptions,
    state: watch::Receiver<MemberState>,
    trouble: watch::Receiver<Option<MemberTrouble>>,
    stop: Option<oneshot::Sender<()>>,
    task: Option<JoinHandle<()>>,
}

impl Member {
    /// Starts it. An etcd that an earlier run has left on the same data is ended first. That the process runs does not
    /// mean that it answers: see [`crate::EtcdStore::ready`].
    ///
    /// # Errors
    /// When the program or the directory cannot be used.
    pub async fn start(options: MemberOptions) -> Result<Self, MemberError> {
        let path = options.data_dir.clone();
        let unusable = |source| MemberError::Directory { path: path.clone(), source };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&options.data_dir)
            .map_err(unusable)?;
        process::end_orphan(&options.data_dir, options.stop_limit).await?;
        let process = spawn(&options, false)?;
        let pid = process.child.id().unwrap_or(0);
        let (sender, state) = watch::channel(MemberState::Running { pid, restarts: 0 });
        let (told, trouble) = watch::channel(None);
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(supervise(options.clone(), process, (sender, told), stopped));
        Ok(Self { options, state, trouble, stop: Some(stop), task: Some(task) })
    }

    /// Ends an etcd that an earlier run has left on `data_dir`, if there is one.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn end_left_behind(data_dir: &Path) -> Result<(), MemberError> {
        process::end_orphan(data_dir, STOP_LIMIT).await?;
        process::forget(data_dir);
        Ok(())
    }

    /// How it was set up.
    pub fn options(&self) -> &MemberOptions {
        &self.options
    }

    /// What it does now; the receiver tells changes.
    pub fn state(&self) -> watch::Receiver<MemberState> {
        self.state.clone()
    }

    /// Why it does not stay up, while that is so.
    pub fn trouble(&self) -> watch::Receiver<Option<MemberTrouble>> {
        self.trouble.clone()
    }

    /// Its process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        match &*self.state.borrow() {
            MemberState::Running { pid, .. } => Some(*pid),
            _ => None,
        }
    }

    /// Ends it cleanly, or by force when it takes longer than [`MemberOptions::stop_limit`].
    pub async fn stop(mut self) {
        drop(self.stop.take());
        if let Some(task) = self.task.take() {
            drop(task.await);
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            // Its process is killed with it.
            task.abort();
        }
    }
}

/// A process, and what is heard of it.
struct Process {
    child: Child,
    words: Option<JoinHandle<LastWords>>,
}

impl Process {
    /// What it said at its end.
    async fn last_words(&mut self) -> LastWords {
        let Some(words) = self.words.take() else { return LastWords::default() };
        // What it has started may hold the stream open.
        match tokio::time::timeout(LISTEN_MAX, words).await {
            Ok(Ok(words)) => words,
            _ => LastWords::default(),
        }
    }
}

fn spawn(options: &MemberOptions, begun: bool) -> Result<Process, MemberError> {
    let failed = |source| MemberError::Program { program: options.program.clone(), source };
    let mut child = Command::new(&options.program)
        .args(options.arguments(begun))
        // Its environment could set any of its flags; without PATH it would be looked for in /bin and /usr/bin alone.
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let stderr = child.stderr.take();
    let words = stderr.map(|stderr| tokio::spawn(log::forward(stderr, options.name.clone())));
    if let Some(pid) = child.id() {
        let unusable = |source| MemberError::Directory { path: options.data_dir.clone(), source };
        process::remember(&options.data_dir, pid).map_err(unusable)?;
    }
    Ok(Process { child, words })
}

async fn supervise(
    options: MemberOptions,
    mut process: Process,
    (state, trouble): (watch::Sender<MemberState>, watch::Sender<Option<MemberTrouble>>),
    mut stopped: oneshot::Receiver<()>,
) {
    let (mut restarts, mut pause) = (0, options.restart_pause);
    // Told to forget the others once only: with data of its own cluster, it must not do so again.
    let mut begun = false;
    let mut ended: u64 = 0;
    loop {
        let started = Instant::now();
        let mut why = loop {
            tokio::select! {
                done = process.child.wait() => break match done {
                    Ok(status) => status.to_string(),
                    Err(error) => error.to_string(),
                },
                () = tokio::time::sleep_until(started + HEALTHY), if ended > 0 => {
                    ended = 0;
                    trouble.send_replace(None);
                }
                _ = &mut stopped => {
                    end(&options, &mut process.child).await;
                    process::forget(&options.data_dir);
                    state.send_replace(MemberState::Stopped);
                    return;
                }
            }
        };
        let LastWords { line, damaged } = process.last_words().await;
        if let Some(line) = line {
            why = format!("{why}: {line}");
        }
        if started.elapsed() >= HEALTHY {
            pause = options.restart_pause;
        }
        ended += 1;
        // Once is an accident.
        if damaged || ended > 1 {
            trouble.send_replace(Some(MemberTrouble { ended, why: why.clone(), damaged }));
        }
        begun |= started.elapsed() >= HEALTHY || options.initial != Initial::Alone;
        tracing::warn!(member = options.name, why, ?pause, "etcd has ended and is started again");
        state.send_replace(MemberState::Down { why, restarts });
        process = loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = &mut stopped => {
                    process::forget(&options.data_dir);
                    state.send_replace(MemberState::Stopped);
                    return;
                }
            }
            pause = (pause * 2).min(RESTART_PAUSE_MAX);
            match spawn(&options, begun) {
                Ok(process) => break process,
                Err(error) => {
                    let why = error.to_string();
                    tracing::error!(member = options.name, why, "etcd cannot be started");
                    state.send_replace(MemberState::Down { why, restarts });
                }
            }
        };
        restarts += 1;
        let pid = process.child.id().unwrap_or(0);
        state.send_replace(MemberState::Running { pid, restarts });
    }
}

async fn end(options: &MemberOptions, child: &mut Child) {
    if let Some(pid) = child.id() {
        process::signal(pid, Signal::TERM);
    }
    if tokio::time::timeout(options.stop_limit, child.wait()).await.is_err() {
        tracing::warn!(member = options.name, "etcd does not stop and is killed");
        drop(child.kill().await);
    }
}
