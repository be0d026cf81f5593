//! Flags that several commands share.

use std::path::PathBuf;

use clap::Args;
use dtr_types::{ReplicaId, Secret};

/// Where a replica keeps its data.
#[derive(Debug, Args)]
pub struct DataDirArgs {
    /// Folder of the replica's data
    #[arg(long, env = "DTR_DATA_DIR", default_value = "/var/lib/dtr", value_name = "DIR")]
    pub data_dir: PathBuf,
}

/// How to reach the identity service and prove who is asking.
#[derive(Debug, Clone, Args)]
pub struct UcpArgs {
    /// Address of the UCP; of the DTR itself when it keeps its own accounts
    #[arg(long, env = "UCP_URL", value_name = "URL")]
    pub ucp_url: Option<String>,
    /// Administrator to act as
    #[arg(long, env = "UCP_USERNAME", value_name = "NAME")]
    pub ucp_username: Option<String>,
    /// Its password; asked for on a terminal when left out
    #[arg(
        long,
        env = "UCP_PASSWORD",
        hide_env_values = true,
        value_name = "PASSWORD",
        allow_hyphen_values = true
    )]
    pub ucp_password: Option<Secret>,
    /// PEM text of the authority behind the UCP's certificate, such as "$(cat ca.pem)"
    #[arg(
        long,
        env = "UCP_CA",
        hide_env_values = true,
        value_name = "PEM",
        allow_hyphen_values = true
    )]
    pub ucp_ca: Option<String>,
    /// Do not verify the UCP's certificate: anybody in between can listen
    #[arg(long, env = "UCP_INSECURE_TLS", value_parser = clap::builder::FalseyValueParser::new())]
    pub ucp_insecure_tls: bool,
}

/// How to reach a running replica: through the identity service, or locally.
#[derive(Debug, Clone, Args)]
pub struct ConnectArgs {
    #[command(flatten)]
    pub ucp: UcpArgs,
    /// Access token of the registry, used before any name and password; --ucp-url is the registry's own address then. It also does
    /// as the password of its account
    #[arg(long, env = "UCP_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub ucp_token: Option<Secret>,
    /// The replica to work through
    #[arg(long, env = "DTR_REPLICA_ID", value_name = "ID")]
    pub existing_replica_id: Option<ReplicaId>,
    /// Work on the replica of this folder, on its own machine; needs no password
    #[arg(long, env = "DTR_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Whether the registry may fetch the accounts with their password hashes: no flag, but what a command needs.
    #[arg(skip)]
    pub export: bool,
}

/// Addresses and ports.
#[derive(Debug, Args)]
pub struct NetworkArgs {
    /// Address that clients use: https://host[:port] (old name: --dtr-load-balancer)
    #[arg(long, env = "DTR_EXTERNAL_URL", alias = "dtr-load-balancer", value_name = "URL")]
    pub dtr_external_url: Option<String>,
    /// Port for HTTPS [default: 443]
    #[arg(long, env = "REPLICA_HTTPS_PORT", value_name = "PORT")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    pub replica_https_port: Option<u16>,
    /// Port that redirects to HTTPS; 0 for none [default: 80]
    #[arg(long, env = "REPLICA_HTTP_PORT", value_name = "PORT")]
    pub replica_http_port: Option<u16>,
    /// Address to listen on [default: all]
    #[arg(long, env = "DTR_LISTEN_ADDRESS", value_name = "ADDRESS")]
    pub listen_address: Option<std::net::IpAddr>,
    /// Speak plain HTTP on this address:port, for a proxy that ends TLS
    #[arg(long, env = "DTR_PLAIN_HTTP", value_name = "ADDRESS:PORT")]
    pub plain_http: Option<std::net::SocketAddr>,
    /// Proxies whose forwarding headers are believed on the plain listener (CIDR, several with commas)
    #[arg(long, env = "DTR_TRUSTED_PROXIES", value_delimiter = ',', value_name = "CIDR")]
    pub trusted_proxies: Vec<String>,
}

/// The certificate that clients see.
#[derive(Debug, Args)]
pub struct TlsArgs {
    /// PEM text of the certificate, intermediates appended [default: made by the cluster's own authority]
    #[arg(
        long,
        env = "DTR_CERT",
        hide_env_values = true,
        value_name = "PEM",
        allow_hyphen_values = true,
        requires = "dtr_key"
    )]
    pub dtr_cert: Option<String>,
    /// PEM text of its private key
    #[arg(
        long,
        env = "DTR_KEY",
        hide_env_values = true,
        value_name = "PEM",
        allow_hyphen_values = true,
        requires = "dtr_cert"
    )]
    pub dtr_key: Option<Secret>,
    /// PEM text of the authority that clients are to trust
    #[arg(
        long,
        env = "DTR_CA",
        hide_env_values = true,
        value_name = "PEM",
        allow_hyphen_values = true,
        requires = "dtr_cert"
    )]
    pub dtr_ca: Option<String>,
}

/// Which engine keeps metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum StoreEngine {
    /// A file of the replica's own: for one replica
    Embedded,
    /// An etcd that replicas share: for one, three, five or seven
    Etcd,
}

/// Where metadata is.
#[derive(Debug, Args)]
pub struct StoreArgs {
    /// Where metadata is kept: in the replica's own file, or in an etcd that several replicas share
    #[arg(long, env = "DTR_STORE", value_enum, default_value_t = StoreEngine::Embedded)]
    pub store: StoreEngine,
    #[command(flatten)]
    pub etcd: EtcdArgs,
}

/// How replicas reach each other's etcd.
#[derive(Debug, Args)]
pub struct EtcdArgs {
    /// Host under which the other replicas reach this machine [default: --listen-address, or the machine's name]
    #[arg(long, env = "DTR_REPLICA_HOST", value_name = "HOST")]
    pub replica_host: Option<String>,
    /// Port of this replica's etcd for replicas
    #[arg(long, env = "DTR_ETCD_CLIENT_PORT", value_name = "PORT", default_value_t = dtr_replica::CLIENT_PORT)]
    pub etcd_client_port: u16,
    /// Port of this replica's etcd for its members
    #[arg(long, env = "DTR_ETCD_PEER_PORT", value_name = "PORT", default_value_t = dtr_replica::PEER_PORT)]
    pub etcd_peer_port: u16,
    /// How large the file of this replica's etcd may become, in MiB; the same on all replicas [default: 8192]
    #[arg(long, env = "DTR_ETCD_QUOTA_MIB", value_name = "MIB", conflicts_with = "etcd_endpoints")]
    #[arg(value_parser = clap::value_parser!(u64).range(16..=102_400))]
    pub etcd_quota_mib: Option<u64>,
    /// Use an etcd that is there, at these addresses (https://host:port, several with commas)
    #[arg(long, env = "DTR_ETCD_ENDPOINTS", value_delimiter = ',', value_name = "URL")]
    pub etcd_endpoints: Vec<String>,
    /// PEM text of the authority of its certificates
    #[arg(
        long,
        env = "DTR_ETCD_CA",
        hide_env_values = true,
        value_name = "PEM",
        allow_hyphen_values = true,
        requires = "etcd_endpoints"
    )]
    pub etcd_ca: Option<String>,
    /// PEM text of the certificate to present to it
    #[arg(
        long,
        env = "DTR_ETCD_CERT",
        hide_env_values = true,
        value_name = "PEM",
        allow_hyphen_values = true,
        requires = "etcd_endpoints"
    )]
    pub etcd_cert: Option<String>,
    /// PEM text of its private key
    #[arg(
        long,
        env = "DTR_ETCD_KEY",
        hide_env_values = true,
        value_name = "PEM",
        allow_hyphen_values = true,
        requires = "etcd_endpoints"
    )]
    pub etcd_key: Option<Secret>,
}

/// How an etcd is reached that was given to a replica.
#[derive(Debug, Args)]
pub struct GivenEtcdArgs {
    /// Other addresses of the etcd that this replica was given (https://host:port, several with commas)
    #[arg(long, env = "DTR_ETCD_ENDPOINTS", value_delimiter = ',', value_name = "URL")]
    pub etcd_endpoints: Vec<String>,
    /// PEM text of another authority of its certificates
    #[arg(
        long,
        env = "DTR_ETCD_CA",
        hide_env_values = true,
        value_name = "PEM",
        allow_hyphen_values = true
    )]
    pub etcd_ca: Option<String>,
    /// PEM text of another certificate to present to it
    #[arg(
        long,
        env = "DTR_ETCD_CERT",
        hide_env_values = true,
        value_name = "PEM",
        allow_hyphen_values = true
    )]
    pub etcd_cert: Option<String>,
    /// PEM text of its private key
    #[arg(
        long,
        env = "DTR_ETCD_KEY",
        hide_env_values = true,
        value_name = "PEM",
        allow_hyphen_values = true
    )]
    pub etcd_key: Option<Secret>,
}

impl GivenEtcdArgs {
    /// Whether anything is to change.
    pub fn is_given(&self) -> bool {
        !self.etcd_endpoints.is_empty()
            || self.etcd_ca.is_some()
            || self.etcd_cert.is_some()
            || self.etcd_key.is_some()
    }
}

/// What is logged, and how.
#[derive(Debug, Args)]
pub struct LogArgs {
    /// error, warn, info, debug or trace [default: info]
    #[arg(long, env = "LOG_LEVEL", value_name = "LEVEL", ignore_case = true)]
    #[arg(value_parser = ["error", "warn", "info", "debug", "trace"], hide_possible_values = true)]
    pub log_level: Option<String>,
    /// text or json [default: text]
    #[arg(long, env = "DTR_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<String>,
}

/// Who shall be able to read an archive.
#[derive(Debug, Args)]
pub struct EncryptionArgs {
    /// Encrypt to this age recipient (age1...); may be given several times
    #[arg(long, value_name = "RECIPIENT")]
    pub encrypt_to: Vec<String>,
    /// Encrypt with the passphrase in this file (its first line)
    #[arg(long, value_name = "FILE", conflicts_with = "encrypt_to")]
    pub passphrase_file: Option<PathBuf>,
}

/// Whose signature is accepted.
#[derive(Debug, Args)]
pub struct SignerArgs {
    /// Accept only this signing key (its id, as "dtr status" and each backup's report show it)
    #[arg(long, value_name = "KEY_ID")]
    pub signed_by: Option<String>,
    /// Accept only the signing keys in this file, one a line: ID NAME [default: ~/.config/dtr/known-keys or
    /// /etc/dtr/known-keys, where there is one]
    #[arg(long, env = "DTR_KNOWN_KEYS", value_name = "FILE")]
    pub known_keys: Option<PathBuf>,
}

/// How to read an encrypted archive.
#[derive(Debug, Args)]
pub struct DecryptionArgs {
    /// File with age identities (AGE-SECRET-KEY-1...)
    #[arg(long, value_name = "FILE")]
    pub identity_file: Option<PathBuf>,
    /// File with the passphrase (its first line)
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
}
