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

/// Starts this program anew in a network of its own, unless it is in one. Needs root, `unshare` and `ip`.
pub fn own_network() -> anyhow::Result<()> {
    use std::os::unix::process::CommandExt as _;
    if std::env::var_os(OWN).is_some() {
        return Ok(());
    }
    let mut again = std::process::Command::new("unshare");
    again.arg("--net").arg(std::env::current_exe()?).args(std::env::args_os().skip(1));
    Err(again.env(OWN, "1").exec())
        .context("a network of its own needs root, and unshare of util-linux")
}

async fn run(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
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
    count: usize,
}

impl Drop for Machines {
    fn drop(&mut self) {
        for machine in 0..self.count {
            let name = self.name(machine);
            let ended = std::process::Command::new("sh")
                .arg("-c")
                .arg(format!("ip netns pids {name} | xargs -r kill -KILL; ip netns del {name}"))
                .stderr(Stdio::null())
                .status();
            if ended.is_err() {
                eprintln!("machine {name} could not be removed");
            }
        }
    }
}

impl Machines {
    /// Makes them; nothing runs on them.
    pub async fn make(program: &Path, folder: &Path, count: usize) -> anyhow::Result<Self> {
        let all = Self { program: program.to_owned(), folder: folder.to_owned(), count };
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

    fn address(&self, machine: usize) -> String {
        format!("10.78.0.{}", machine + 1)
    }

    /// Where the replica of a machine answers.
    pub fn url(&self, machine: usize) -> String {
        format!("http://{}:{PLAIN}", self.address(machine))
    }

    /// The replica's id.
    fn id(machine: usize) -> String {
        format!("{:012}", machine + 1)
    }

    fn data(&self, machine: usize) -> String {
        self.folder.join(format!("replica{machine}")).display().to_string()
    }

    /// Runs a command on a machine to its good end.
    async fn on(&self, machine: usize, command: &[&str]) -> anyhow::Result<String> {
        let name = self.name(machine);
        run("ip", &[&["netns", "exec", &name], command].concat()).await
    }

    /// Runs the program on a machine.
    pub async fn dtr(&self, machine: usize, arguments: &[&str]) -> anyhow::Result<String> {
        let program = self.program.display().to_string();
        let password = format!("UCP_PASSWORD={PASSWORD}");
        let admin = format!("DTR_ADMIN_PASSWORD={PASSWORD}");
        self.on(machine, &[&["env", &password, &admin, &program], arguments].concat()).await
    }

    /// Makes the replica of a machine, the first of a cluster or one that joins it, and starts it.
    pub async fn install(&self, machine: usize) -> anyhow::Result<()> {
        let (data, address, id) = (self.data(machine), self.address(machine), Self::id(machine));
        let blobs = self.folder.join("blobs").display().to_string();
        let plain = format!("{address}:{PLAIN}");
        let place = [
            "--data-dir",
            &data,
            "--replica-id",
            &id,
            "--listen-address",
            &address,
            "--plain-http",
            &plain,
            "--dtr-storage-volume",
            &blobs,
        ];
        if machine == 0 {
            self.dtr(0, &[&["install", "--store", "etcd"], &place[..]].concat()).await?;
            return Ok(());
        }
        let (url, through) = (format!("https://{}", self.address(0)), Self::id(0));
        let join = [
            "join",
            "--ucp-url",
            &url,
            "--ucp-insecure-tls",
            "--ucp-username",
            "admin",
            "--existing-replica-id",
            &through,
        ];
        self.dtr(machine, &[&join[..], &place[..]].concat()).await?;
        Ok(())
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

    /// Takes its power away: every process on it ends at once.
    pub async fn kill(&self, machine: usize) -> anyhow::Result<()> {
        self.signal(machine, "KILL").await
    }

    /// Stops its processes' time, or lets it go on.
    pub async fn freeze(&self, machine: usize, frozen: bool) -> anyhow::Result<()> {
        self.signal(machine, if frozen { "STOP" } else { "CONT" }).await
    }

    async fn signal(&self, machine: usize, signal: &str) -> anyhow::Result<()> {
        let pids = run("ip", &["netns", "pids", &self.name(machine)]).await?;
        for pid in pids.split_whitespace() {
            // One that has just ended is ended.
            drop(run("kill", &[&format!("-{signal}"), pid]).await);
        }
        Ok(())
    }

    /// Takes its cable out, or puts it back.
    pub async fn cable(&self, machine: usize, in_place: bool) -> anyhow::Result<()> {
        let state = if in_place { "up" } else { "down" };
        run("ip", &["link", "set", &format!("port{machine}"), state]).await.map(drop)
    }

    /// Takes a backup through a machine's replica.
    pub async fn backup(&self, machine: usize, file: &Path) -> anyhow::Result<()> {
        let (data, file) = (self.data(machine), file.display().to_string());
        self.dtr(machine, &["backup", "--data-dir", &data, "--output", &file]).await.map(drop)
    }

    /// Waits until every replica says that it is well.
    pub async fn well(&self, limit: Duration) -> anyhow::Result<()> {
        let began = Instant::now();
        for machine in 0..self.count {
            let url = format!("{}/_ping", self.url(machine));
            while run("curl", &["-sSf", "--max-time", "2", "-o", "/dev/null", &url]).await.is_err()
            {
                ensure!(began.elapsed() < limit, "replica {machine} is not well after {limit:?}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        Ok(())
    }
}
