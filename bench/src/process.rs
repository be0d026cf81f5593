//! A server under measurement: a process of its own, with what it used of processor and memory.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::http::Connection;

/// Where requests go, and which processes answer them.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// `host:port` of each; with several, each takes its turn.
    pub hosts: Vec<String>,
    /// Whether their listeners speak TLS.
    pub tls: bool,
    /// The processes.
    pub pids: Vec<u32>,
}

impl Endpoint {
    /// A connection to it, with `authorization` if it asks for that.
    pub async fn connect(&self, authorization: Option<&str>) -> Result<Connection> {
        self.connect_from(0, authorization).await
    }

    /// The same; connection `number` begins with another of the hosts than the one before.
    pub async fn connect_from(
        &self,
        number: usize,
        authorization: Option<&str>,
    ) -> Result<Connection> {
        let mut connection = Connection::open(&self.hosts, self.tls, number).await?;
        connection.authorization = authorization.map(str::to_owned);
        Ok(connection)
    }

    /// Processor seconds used so far, user and system, by all of its processes.
    pub fn cpu_seconds(&self) -> Result<f64> {
        self.pids.iter().map(|pid| cpu_seconds(*pid)).sum()
    }

    /// A line of `/proc/<pid>/status` in MiB, of its first process: `VmRSS` (now) or `VmHWM` (the most).
    pub fn memory_mib(&self, line: &str) -> Result<f64> {
        let pid = self.pids.first().context("no process")?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        memory_line(&status, line)
    }

    /// Sets the most memory of its first process back to what is used now.
    pub fn reset_peak(&self) {
        // Where the kernel does not allow it, the peak is that of the whole run: a stricter figure.
        if let Some(pid) = self.pids.first() {
            let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
        }
    }
}

fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit_once(')').context("stat")?.1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(ticks as f64 / 100.0)
}

/// A running server; ended when dropped.
pub struct Server {
    child: Child,
    /// Where it answers.
    pub endpoint: Endpoint,
    /// How long it took until it answered.
    pub started_in: Duration,
}

impl std::ops::Deref for Server {
    type Target = Endpoint;

    fn deref(&self) -> &Endpoint {
        &self.endpoint
    }
}

impl Server {
    /// Starts a command and waits until `host` answers `GET /v2/` with anything; a TLS listener
    /// answers with an alert.
    pub fn start(mut command: Command, host: &str, log: &Path) -> Result<Self> {
        let log = fs::File::create(log)?;
        let began = Instant::now();
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {command:?}"))?;
        let endpoint =
            Endpoint { hosts: vec![host.to_owned()], tls: false, pids: vec![child.id()] };
        let mut server = Self { child, endpoint, started_in: Duration::ZERO };
        while !answers(host) {
            if let Some(status) = server.child.try_wait()? {
                bail!("{command:?} ended with {status}");
            }
            if began.elapsed() > Duration::from_secs(30) {
                bail!("{command:?} does not answer on {host}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        server.started_in = began.elapsed();
        Ok(server)
    }

    /// Ends it and waits for its end.
    pub fn stop(mut self) -> Result<()> {
        Command::new("kill").arg(self.child.id().to_string()).status()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // It is ours, and the measurement is over.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// How the answer of a TLS listener to plain text begins.
const TLS_ALERT: u8 = 0x15;

/// Whether somebody at `host` answers.
pub fn answers(host: &str) -> bool {
    use std::io::{Read as _, Write as _};
    let Ok(mut stream) = std::net::TcpStream::connect(host) else { return false };
    let request = format!("GET /v2/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let mut first = [0; 5];
    stream.write_all(request.as_bytes()).is_ok()
        && stream.read_exact(&mut first).is_ok()
        && (&first == b"HTTP/" || first[0] == TLS_ALERT)
}

/// A line of this process's own `/proc/self/status` in MiB.
pub fn own_memory_mib(line: &str) -> Result<f64> {
    memory_line(&fs::read_to_string("/proc/self/status")?, line)
}

fn memory_line(status: &str, line: &str) -> Result<f64> {
    let value = status
        .lines()
        .find_map(|l| l.strip_prefix(line)?.trim_start_matches(':').split_whitespace().next())
        .context("memory")?;
    Ok(value.parse::<f64>()? / 1024.0)
}
