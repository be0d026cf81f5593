//! The data directory: what lies where, and what is complete.
//!
//! ```text
//! ucp.json        the configuration; written last: without it nothing is installed here
//! store.redb      the store
//! building/       an install or a restore under way, or what a killed one left
//! run.pid         locked by the process that serves
//! local.sock      for commands on this machine
//! ucp.log         the log, when started detached
//! ```

use std::{
    fs, io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, bail, ensure};
use dtr_catalog::Catalog;
use dtr_store_embedded::{EmbeddedStore, Options};
use dtr_transport::{durable_write, pki::SubjectNames};
use dtr_types::{ClientHost, SystemClock, SystemRandom, WatchedClock};
use serde::{Deserialize, Serialize};

use crate::cli::NetworkArgs;

const STORE: &str = "store.redb";
const BUILDING: &str = "building";

/// How an installed UCP is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// Name or address that clients use.
    pub host_address: String,
    /// The HTTPS port.
    pub controller_port: u16,
    /// Where to listen.
    pub listen_address: IpAddr,
    /// Further names for the certificate.
    #[serde(default)]
    pub sans: Vec<String>,
}

impl Config {
    /// From the command line; the host is this machine's name when none was given.
    ///
    /// # Errors
    /// When a name is not one.
    pub fn new(network: &NetworkArgs) -> anyhow::Result<Self> {
        let config = Self {
            host_address: network.host_address.clone().unwrap_or_else(machine_name),
            controller_port: network.controller_port,
            listen_address: network.listen_address.unwrap_or(Ipv6Addr::UNSPECIFIED.into()),
            sans: network.sans.clone(),
        };
        config.names().context("--host-address or --san")?;
        Ok(config)
    }

    /// The names that the certificate is for.
    ///
    /// # Errors
    /// When one is not a name.
    pub fn names(&self) -> anyhow::Result<SubjectNames> {
        let host: ClientHost = self.host().parse()?;
        ensure!(host.port().is_none(), "the port is given with --controller-port");
        let mut names = SubjectNames::local().with_host(host.host())?;
        for san in &self.sans {
            names = names.with_host(san)?;
        }
        Ok(names)
    }

    /// The host of the address for clients; an IPv6 address in brackets.
    fn host(&self) -> String {
        match self.host_address.parse::<Ipv6Addr>() {
            Ok(address) => format!("[{address}]"),
            Err(_) => self.host_address.clone(),
        }
    }

    /// The address for clients: `https://host[:port]`.
    pub fn url(&self) -> String {
        let host = self.host();
        match self.controller_port {
            443 => format!("https://{host}"),
            port => format!("https://{host}:{port}"),
        }
    }

    /// Where to listen.
    pub fn listen(&self) -> SocketAddr {
        (self.listen_address, self.controller_port).into()
    }
}

fn machine_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    match name.parse::<ClientHost>() {
        Ok(_) => name.to_owned(),
        Err(_) => "localhost".to_owned(),
    }
}

/// A data directory.
#[derive(Clone, Debug)]
pub struct DataDir {
    root: PathBuf,
}

impl DataDir {
    /// The directory at `root`, which need not be there. A relative one is taken from where the program was started.
    ///
    /// # Errors
    /// When the path cannot be made absolute.
    pub fn new(root: &Path) -> anyhow::Result<Self> {
        let root = std::path::absolute(root)
            .with_context(|| format!("the data directory {}", root.display()))?;
        Ok(Self { root })
    }

    /// Makes the directory if it is not there, closed to others.
    ///
    /// # Errors
    /// What the system says.
    pub fn create(&self) -> anyhow::Result<()> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.root)
            .with_context(|| format!("{} cannot be made", self.root.display()))
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The pid file.
    pub fn pid_file(&self) -> PathBuf {
        self.root.join("run.pid")
    }

    /// The log of a detached process.
    pub fn log(&self) -> PathBuf {
        self.root.join("ucp.log")
    }

    fn config_file(&self) -> PathBuf {
        self.root.join("ucp.json")
    }

    /// The configuration; `None` when nothing is installed here.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn find_config(&self) -> anyhow::Result<Option<Config>> {
        let path = self.config_file();
        let at = || format!("the configuration {}", path.display());
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).with_context(at)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(at),
        }
    }

    /// The configuration of an installed UCP.
    ///
    /// # Errors
    /// When there is none.
    pub fn config(&self) -> anyhow::Result<Config> {
        match self.find_config()? {
            Some(config) => Ok(config),
            None => bail!(
                "no UCP is installed in {}; run `ucp install` or `ucp restore`, or name its folder with --data-dir",
                self.root.display()
            ),
        }
    }

    /// Refuses a directory that is in use, or has a store that something else made.
    ///
    /// # Errors
    /// With what is there.
    pub fn ensure_vacant(&self) -> anyhow::Result<()> {
        let root = self.root.display();
        ensure!(
            self.find_config()?.is_none(),
            "a UCP is installed in {root} already: `ucp serve` runs it; for another one choose another --data-dir"
        );
        ensure!(
            !self.root.join(STORE).exists(),
            "{root} has a store but no configuration; move it away, or choose another --data-dir"
        );
        Ok(())
    }

    /// A fresh store that nobody serves, in a place of its own. What a killed command left there goes.
    ///
    /// # Errors
    /// What the system or the engine says.
    pub fn begin(&self) -> anyhow::Result<Building> {
        let folder = self.root.join(BUILDING);
        match fs::remove_dir_all(&folder) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("{} cannot be removed", folder.display()));
            }
        }
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .with_context(|| format!("{} cannot be made", folder.display()))?;
        let catalog = open(&folder.join(STORE))?;
        Ok(Building { data_dir: self.clone(), folder, catalog })
    }

    /// The store of an installed UCP.
    ///
    /// # Errors
    /// What the engine says.
    pub fn open(&self) -> anyhow::Result<Catalog> {
        let path = self.root.join(STORE);
        ensure!(path.exists(), "the store {} is not there", path.display());
        open(&path)
    }
}

fn open(path: &Path) -> anyhow::Result<Catalog> {
    let store = EmbeddedStore::open(path, Options::default())?;
    let clock = WatchedClock::new(Arc::new(SystemClock));
    Ok(Catalog::new(store, Arc::new(clock), Arc::new(SystemRandom)))
}

/// An install or a restore under way.
#[derive(Debug)]
pub struct Building {
    data_dir: DataDir,
    folder: PathBuf,
    catalog: Catalog,
}

impl Building {
    /// The fresh store.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Gives up: leaves nothing.
    pub fn discard(self) {
        drop(self.catalog);
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            tracing::warn!(%error, folder = %self.folder.display(), "what was begun was not removed");
        }
    }

    /// Puts the store in its place and writes the configuration, which makes it an installed UCP.
    ///
    /// # Errors
    /// What the system says; the next install or restore then begins again.
    pub fn finish(self, config: &Config) -> anyhow::Result<()> {
        drop(self.catalog);
        let (from, to) = (self.folder.join(STORE), self.data_dir.root.join(STORE));
        fs::rename(&from, &to)
            .with_context(|| format!("{} cannot be moved to its place", from.display()))?;
        let json = serde_json::to_vec_pretty(config)?;
        if let Err(error) = durable_write(&self.data_dir.config_file(), &json, 0o600) {
            // Back out: a store without a configuration would stand in the next one's way.
            fs::rename(&to, &from).ok();
            return Err(error.into());
        }
        fs::remove_dir_all(&self.folder).ok();
        Ok(())
    }
}
