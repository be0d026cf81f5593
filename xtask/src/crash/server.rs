//! The server under test: a real `dtr` with a data folder of its own, killed and started again.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use tokio::process::{Child, Command};

use super::wire::Wire;

/// How long a server may take until it answers.
const START_MAX: Duration = Duration::from_secs(120);

/// The server's program, its folder and its process, while there is one.
pub struct Server {
    program: PathBuf,
    data: PathBuf,
    log: PathBuf,
    process: Option<Child>,
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

impl Server {
    /// Installs a replica below `folder`; it does not run yet. Yields where it will answer.
    pub async fn install(
        program: &Path,
        folder: &Path,
        password: &str,
    ) -> anyhow::Result<(Self, String)> {
        let (https, plain) = (free_port()?, free_port()?);
        let data = folder.join("data");
        let server = Self {
            program: program.to_owned(),
            data: data.clone(),
            log: folder.join("log"),
            process: None,
        };
        let plain = format!("127.0.0.1:{plain}");
        let out = Command::new(program)
            .args(["install", "--no-start", "--replica-http-port", "0"])
            .args(["--listen-address", "127.0.0.1", "--replica-https-port", &https.to_string()])
            .args(["--dtr-external-url", &format!("https://127.0.0.1:{https}")])
            .args(["--plain-http", &plain, "--admin-password", password])
            .arg("--data-dir")
            .arg(&data)
            .output()
            .await
            .with_context(|| format!("{} cannot be run; build it first", program.display()))?;
        ensure!(out.status.success(), "install: {}", String::from_utf8_lossy(&out.stderr));
        Ok((server, format!("http://{plain}")))
    }

    /// Starts it, without waiting.
    pub fn spawn(&mut self) -> anyhow::Result<()> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.log)?;
        let process = Command::new(&self.program)
            .args(["serve", "--log-level", "warn", "--data-dir"])
            .arg(&self.data)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        self.process = Some(process);
        Ok(())
    }

    /// Starts it and waits until it answers; yields how long that took.
    pub async fn start(&mut self, wire: &Wire) -> anyhow::Result<Duration> {
        let began = Instant::now();
        self.spawn()?;
        while !wire.answers().await {
            let process = self.process.as_mut().context("no process")?;
            if let Some(status) = process.try_wait()? {
                bail!("the server does not start any more ({status}):\n{}", self.last_words());
            }
            ensure!(began.elapsed() < START_MAX, "no answer after a start:\n{}", self.last_words());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(began.elapsed())
    }

    /// kill -9, and the end of the process.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut process) = self.process.take() {
            process.kill().await?;
        }
        Ok(())
    }

    /// The folder of its data.
    pub fn data(&self) -> String {
        self.data.display().to_string()
    }

    /// Runs the program to its end, which must be a good one.
    pub async fn command(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let out = Command::new(&self.program).args(arguments).output().await?;
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        ensure!(out.status.success(), "dtr {}: {}\n{said}", arguments.join(" "), out.status);
        Ok(())
    }

    /// The end of the log.
    pub fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}
