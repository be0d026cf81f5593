//! Machines of their own: network namespaces on one bridge, each with an address, a replica, and ways to break it.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use tokio::process::Command;

/// The name that says that this process has a network of its own already.
const OWN: &str = "XTASK_NETWORK";
/// Of an administrator that lives for some minutes.
pub const PASSWORD: &str = "a-password-for-some-minutes";
/// Where each replica speaks plain HTTP.
const PLAIN: u16 = 5000;

/// Of the disc of each machine, in MiB: etcd writes ahead in files of 64.
const DISC: u32 = 320;

/// Which of a machine's processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    All,
    /// The replica without its etcd.
    Replica,
    Etcd,
}

impl Which {
    fn is(self, pid: &str) -> bool {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        match self {
            Self::All => true,
            Self::Replica => name.trim() == "dtr",
            Self::Etcd => name.trim() == "etcd",
        }
    }
}

/// Starts this program anew in a network, and with discs, of its own, unless it has them. Needs root, `unshare` and `ip`.
pub fn own_network() -> anyhow::Result<()> {
    use std::os::unix::process::CommandExt as _;
    if std::env::var_os(OWN).is_some() {
        return Ok(());
    }
    let mut again = std::process::Command::new("unshare");
    again
        .args(["--net", "--mount"])
        .arg(std::env::current_exe()?)
        .args(std::env::args_os().skip(1));
    Err(again.env(OWN, "1").exec())
        .context("a network of its own needs root, and unshare of util-linux")
}

pub async fn run(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let out = Command::new(program).args(arguments).stdin(Stdio::null()).output().await;
    let out = out.with_context(|| format!("{program} cannot be run"))?;
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    ensure!(out.status.success(), "{program} {}: {}\n{said}", arguments.join(" "), out.status);
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// All machines. They are gone when this is dropped.
pub struct Machines {
    program: PathBuf,
    folder: PathBuf,
    /// All of them; the last one is none of the cluster's.
    count: usize,
}

impl Drop for Machines {
    fn drop(&mut self) {
        for machine in 0..self.count {
            let name = self.name(machine);
            let disc = self.disc(machine).display().to_string();
            let log = self.folder.join(format!("dtr{machine}.log")).display().to_string();
            let ended = std::process::Command::new("sh")
                .arg("-c")
                .arg(format!("ip netns pids {name} | xargs -r kill -KILL; ip netns del {name}; cp {disc}/replica/dtr.log {log}; umount -l {disc}"))
                .stderr(Stdio::null())
                .status();
            if ended.is_err() {
                eprintln!("machine {name} could not be removed");
            }
        }
    }
}

impl Machines {
    /// Makes them, and one to restore on; nothing runs on them.
    pub async fn make(program: &Path, folder: &Path, replicas: usize) -> anyhow::Result<Self> {
        let count = replicas + 1;
        let own = folder.join("dtr");
        std::fs::copy(program, &own)
            .with_context(|| format!("{} cannot be copied", program.display()))?;
        let all = Self { program: own, folder: folder.to_owned(), count };
        run("ip", &["link", "set", "lo", "up"]).await?;
        run("ip", &["link", "add", "hub", "type", "bridge"]).await?;
        run("ip", &["link", "set", "hub", "up"]).await?;
        run("ip", &["address", "add", "10.78.0.254/24", "dev", "hub"]).await?;
        for machine in 0..count {
            let (name, port) = (all.name(machine), format!("port{machine}"));
            run("ip", &["netns", "add", &name]).await?;
            let pair =
                ["link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &name];
            run("ip", &pair).await?;
            run("ip", &["link", "set", &port, "master", "hub", "up"]).await?;
            let disc = all.disc(machine);
            std::fs::create_dir_all(&disc)?;
            let size = format!("size={DISC}m");
            run("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", &disc.display().to_string()])
                .await?;
            let address = format!("{}/24", all.address(machine));
            all.on(machine, &["ip", "link", "set", "lo", "up"]).await?;
            all.on(machine, &["ip", "address", "add", &address, "dev", "eth0"]).await?;
            all.on(machine, &["ip", "link", "set", "eth0", "up"]).await?;
        }
        Ok(all)
    }

    fn name(&self, machine: usize) -> String {
        format!("xtask{}-{machine}", std::process::id())
    }

    /// Its address.
    pub fn address(&self, machine: usize) -> String {
        format!("10.78.0.{}", machine + 1)
    }

    /// Where the replica of a machine answers.
    pub fn url(&self, machine: usize) -> String {
        format!("http://{}:{PLAIN}", self.address(machine))
    }

    /// The replica's id.
    pub fn id(machine: usize) -> String {
        format!("{:012}", machine + 1)
    }

    /// A disc of its own, so that it can be full.
    fn disc(&self, machine: usize) -> PathBuf {
        self.folder.join(format!("disc{machine}"))
    }

    /// The replica's data directory.
    pub fn data(&self, machine: usize) -> String {
        self.disc(machine).join("replica").display().to_string()
    }

    /// Where the program is that the machines run.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Runs a command on a machine to its good end.
    pub async fn on(&self, machine: usize, command: &[&str]) -> anyhow::Result<String> {
        let name = self.name(machine);
        run("ip", &[&["netns", "exec", &name], command].concat()).await
    }

    /// Runs the program on a machine.
    pub async fn dtr(&self, machine: usize, arguments: &[&str]) -> anyhow::Result<String> {
        let out = self.dtr_command(machine).args(arguments).stdin(Stdio::null()).output().await?;
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        ensure!(out.status.success(), "dtr {}: {}\n{said}", arguments.join(" "), out.status);
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }

    /// The program on a machine, without its arguments. It ends when nobody waits for it any more.
    pub fn dtr_command(&self, machine: usize) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name(machine)]).arg(&self.program);
        command.env("UCP_PASSWORD", PASSWORD).env("DTR_ADMIN_PASSWORD", PASSWORD);
        command.kill_on_drop(true);
        command
    }

    /// Makes the replica of a machine, the first of a cluster or one that joins it, and starts it.
    pub async fn install(&self, machine: usize) -> anyhow::Result<()> {
        let place = self.place(machine);
        let place: Vec<&str> = place.iter().map(String::as_str).collect();
        if machine == 0 {
            self.dtr(0, &[&["install", "--store", "etcd"], &place[..]].concat()).await?;
            return Ok(());
        }
        let through = self.through(0);
        let through: Vec<&str> = through.iter().map(String::as_str).collect();
        self.dtr(machine, &[&["join"], &through[..], &place[..]].concat()).await?;
        Ok(())
    }

    /// Where a machine's replica has its content: all together, but for the spare one.
    pub fn storage(&self, machine: usize) -> String {
        let name = if machine == self.count - 1 { "copied" } else { "blobs" };
        self.folder.join(name).display().to_string()
    }

    /// The flags of a replica that is made.
    pub fn place(&self, machine: usize) -> Vec<String> {
        let address = self.address(machine);
        let blobs = self.storage(machine);
        let plain = format!("{address}:{PLAIN}");
        let flags = [
            ("--data-dir", self.data(machine)),
            ("--replica-id", Self::id(machine)),
            ("--listen-address", address),
            ("--plain-http", plain),
            ("--dtr-storage-volume", blobs),
        ];
        flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect()
    }

    /// The flags of a command that asks the cluster by way of a machine.
    pub fn through(&self, machine: usize) -> Vec<String> {
        let (url, id) = (format!("https://{}", self.address(machine)), Self::id(machine));
        let flags = ["--ucp-url", &url, "--ucp-insecure-tls", "--ucp-username", "admin"];
        let replica = ["--existing-replica-id", &id];
        flags.into_iter().chain(replica).map(str::to_owned).collect()
    }

    /// Starts the replica of a machine again, without waiting.
    pub fn start(&self, machine: usize) -> anyhow::Result<()> {
        let log = self.folder.join(format!("log{machine}"));
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
        let child = Command::new("ip")
            .args(["netns", "exec", &self.name(machine), "setsid"])
            .arg(&self.program)
            .args(["serve", "--detached", "--data-dir", &self.data(machine)])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        drop(child);
        Ok(())
    }

    /// Sends a signal to processes of a machine: `KILL`, `STOP`, `CONT`.
    pub async fn signal(&self, machine: usize, which: Which, signal: &str) -> anyhow::Result<()> {
        let pids = run("ip", &["netns", "pids", &self.name(machine)]).await?;
        for pid in pids.split_whitespace() {
            if which.is(pid) {
                // One that has just ended is ended.
                drop(run("kill", &[&format!("-{signal}"), pid]).await);
            }
        }
        Ok(())
    }

    /// Whether these processes run.
    pub async fn runs(&self, machine: usize, which: Which) -> bool {
        let pids = run("ip", &["netns", "pids", &self.name(machine)]).await.unwrap_or_default();
        pids.split_whitespace().any(|pid| which.is(pid))
    }

    /// Fills its disc to the last byte, or makes room again.
    pub fn fill(&self, machine: usize, full: bool) -> anyhow::Result<()> {
        use std::io::Write as _;
        let ballast = self.disc(machine).join("ballast");
        if !full {
            return Ok(std::fs::remove_file(ballast)?);
        }
        let mut file = std::fs::File::create(ballast)?;
        for block in [vec![0_u8; 1 << 20], vec![0; 4096], vec![0; 1]] {
            while file.write_all(&block).is_ok() {}
        }
        Ok(())
    }

    /// Takes its cable out, or puts it back.
    pub async fn cable(&self, machine: usize, in_place: bool) -> anyhow::Result<()> {
        let state = if in_place { "up" } else { "down" };
        run("ip", &["link", "set", &format!("port{machine}"), state]).await.map(drop)
    }

    /// Takes a backup through a machine's replica; the report goes beside it.
    pub async fn backup(&self, machine: usize, file: &Path) -> anyhow::Result<()> {
        let report = file.with_extension("json").display().to_string();
        let (data, file) = (self.data(machine), file.display().to_string());
        self.dtr(machine, &["backup", "--data-dir", &data, "--output", &file, "--report", &report])
            .await
            .map(drop)
    }

    /// Waits until every replica says that it is well, and has its etcd: one without may well be served by the others.
    pub async fn well(&self, limit: Duration) -> anyhow::Result<()> {
        let began = Instant::now();
        for machine in 0..self.count - 1 {
            let url = format!("{}/_ping", self.url(machine));
            let ping = ["-sSf", "--max-time", "2", "-o", "/dev/null", &url];
            while run("curl", &ping).await.is_err() || !self.runs(machine, Which::Etcd).await {
                let said = run("curl", &["-sS", "--max-time", "5", &url]).await;
                ensure!(
                    began.elapsed() < limit,
                    "replica {machine} is not well after {limit:?}: {said:?}"
                );
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        Ok(())
    }
}
