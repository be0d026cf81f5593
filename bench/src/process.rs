//! A server under measurement: a process of its own, with what it used of processor and memory.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::http::Connection;

/// A running server; ended when dropped.
pub struct Server {
    child: Child,
    /// `host:port` of its plain listener.
    pub host: String,
    /// Whether its listener speaks TLS.
    pub tls: bool,
    /// How long it took until it answered.
    pub started_in: Duration,
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
        let mut server =
            Self { child, host: host.to_owned(), tls: false, started_in: Duration::ZERO };
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

    /// A connection to it, with `authorization` if it asks for that.
    pub async fn connect(&self, authorization: Option<&str>) -> Result<Connection> {
        let mut connection = match self.tls {
            true => Connection::open_tls(&self.host).await?,
            false => Connection::open(&self.host).await?,
        };
        connection.authorization = authorization.map(str::to_owned);
        Ok(connection)
    }

    /// Processor seconds used so far, user and system.
    pub fn cpu_seconds(&self) -> Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields: Vec<&str> =
            stat.rsplit_once(')').context("stat")?.1.split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
        Ok(ticks as f64 / 100.0)
    }

    /// A line of `/proc/<pid>/status` in MiB: `VmRSS` (now) or `VmHWM` (the most).
    pub fn memory_mib(&self, line: &str) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        memory_line(&status, line)
    }

    /// Sets the most memory back to what is used now.
    pub fn reset_peak(&self) {
        // Where the kernel does not allow it, the peak is that of the whole run: a stricter figure.
        let _ = fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5");
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

fn answers(host: &str) -> bool {
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
