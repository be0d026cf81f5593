//! What a replica must know before it can open its store: a small file in its data directory. Everything else is a
//! setting in the store, shared by all replicas and part of every backup.

use std::{
    fs, io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
};

use dtr_blobs_s3::S3Settings;
use dtr_cluster::EtcdConfig;
use dtr_types::ReplicaId;
use serde::{Deserialize, Serialize};

use crate::{DataDir, NfsShare};

/// Where the replica keeps image content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum StorageConfig {
    /// A folder; `None` is the one inside the data directory.
    Filesystem {
        /// Its path, absolute.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        root: Option<PathBuf>,
    },
    /// A bucket of an S3-compatible service, which all replicas share. Its secret is why this file is its owner's alone.
    S3(Box<S3Settings>),
    /// A share of an NFS server, mounted beside the data directory ([`DataDir::nfs`]).
    Nfs {
        /// Which, and how.
        url: NfsShare,
    },
}

/// Where the replica keeps its metadata.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum StoreConfig {
    /// A file of its own: for one replica.
    #[default]
    Embedded,
    /// An etcd that the replicas of the cluster share.
    Etcd(EtcdConfig),
}

impl StoreConfig {
    fn is_embedded(&self) -> bool {
        *self == Self::Embedded
    }
}

/// A replica's own configuration: `replica.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReplicaConfig {
    /// The replica's id.
    pub id: ReplicaId,
    /// The address it listens on.
    #[serde(default = "any_address")]
    pub listen_address: IpAddr,
    /// The port for HTTPS.
    pub https_port: u16,
    /// The port that redirects to HTTPS; 0 for none.
    pub http_port: u16,
    /// Where it speaks plain HTTP to a proxy that ends TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plain_http: Option<SocketAddr>,
    /// Proxies whose `X-Forwarded-*` and `Forwarded` headers are believed on the plain listener, as networks in CIDR
    /// form.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trusted_proxies: Vec<String>,
    /// Where other machines reach it: `https://host:port`.
    pub address: String,
    /// Where metadata is.
    #[serde(default, skip_serializing_if = "StoreConfig::is_embedded")]
    pub store: StoreConfig,
    /// Where image content is.
    pub storage: StorageConfig,
    /// `error`, `warn`, `info`, `debug` or `trace`, or a filter of `tracing`.
    #[serde(default = "default_level")]
    pub log_level: String,
    /// `text` or `json`.
    #[serde(default = "default_format")]
    pub log_format: String,
}

/// All interfaces, both address families.
pub fn any_address() -> IpAddr {
    IpAddr::V6(Ipv6Addr::UNSPECIFIED)
}

fn default_level() -> String {
    "info".to_owned()
}

fn default_format() -> String {
    "text".to_owned()
}

/// Why a replica's configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// There is none: nothing was installed there.
    #[error(
        "no replica is installed in {0}; run \"dtr install\" or \"dtr restore\" with this data directory first"
    )]
    NotInstalled(PathBuf),
    /// It cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is not what it should be.
    #[error("{path} is not a replica's configuration: {reason}")]
    Form {
        /// The file.
        path: PathBuf,
        /// Where and why.
        reason: String,
    },
    /// It cannot be written.
    #[error(transparent)]
    Write(#[from] dtr_transport::durable::WriteError),
}

impl ReplicaConfig {
    /// Reads the configuration of the replica installed in a data directory.
    pub fn load(dir: &DataDir) -> Result<Self, ConfigError> {
        let path = dir.config_file();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(ConfigError::NotInstalled(dir.root().to_owned()));
            }
            Err(source) => return Err(ConfigError::Read { path, source }),
        };
        serde_json::from_str(&text).map_err(|e| ConfigError::Form { path, reason: e.to_string() })
    }

    /// Writes it, durably and for its owner alone.
    pub fn save(&self, dir: &DataDir) -> Result<(), ConfigError> {
        let path = dir.config_file();
        let mut text = serde_json::to_vec_pretty(self)
            .map_err(|e| ConfigError::Form { path: path.clone(), reason: e.to_string() })?;
        text.push(b'\n');
        Ok(dtr_transport::durable_write(&path, &text, 0o600)?)
    }

    /// Changes what is on disk now. A replica that runs and commands beside it do so one after the other, so that no change
    /// is lost.
    ///
    /// # Errors
    /// When `change` fails, nothing is written; else as with [`ReplicaConfig::load`] and [`ReplicaConfig::save`].
    pub fn change<E: From<ConfigError>>(
        dir: &DataDir,
        change: impl FnOnce(&mut Self) -> Result<(), E>,
    ) -> Result<Self, E> {
        let locked = fs::File::open(dir.root()).and_then(|folder| folder.lock().map(|()| folder));
        let _folder =
            locked.map_err(|source| ConfigError::Read { path: dir.root().to_owned(), source })?;
        let mut config = Self::load(dir)?;
        change(&mut config)?;
        config.save(dir)?;
        Ok(config)
    }

    /// The address people and other machines use when nothing else is configured.
    pub fn address_of(host: &str, https_port: u16) -> String {
        if https_port == 443 {
            format!("https://{host}")
        } else {
            format!("https://{host}:{https_port}")
        }
    }
}

/// Whether a path is a folder with something in it.
pub(crate) fn is_occupied(path: &Path) -> io::Result<bool> {
    match fs::read_dir(path) {
        // A file system of its own has a folder for what its check finds.
        Ok(mut entries) => {
            Ok(entries.any(|entry| entry.is_ok_and(|entry| entry.file_name() != "lost+found")))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}
