//! An etcd of our own: started, watched over, started again when it dies, stopped cleanly.

mod log;
mod process;
mod supervise;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

pub use supervise::{Member, MemberState, MemberTrouble};

/// Why a member cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    /// The program is not there.
    #[error(
        "cannot start {program}: {source}; install etcd (Debian: etcd-server), or name the program"
    )]
    Program {
        /// Which.
        program: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Its directory.
    #[error("cannot use {path} for etcd: {source}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Another etcd runs on the same data and does not stop.
    #[error("the etcd with process id {pid} runs on {path} already and does not stop: end it")]
    Running {
        /// Its process.
        pid: i32,
        /// The data.
        path: PathBuf,
    },
}

/// Files of certificates, as etcd wants them: PEM. It reads them anew for each connection, so they can be renewed in place.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// Its certificate. Members use it as servers and as clients, so it must be for both.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The authority that the other side's certificate must come from.
    pub ca: PathBuf,
    /// Certificates that the authority took back, as a revocation list.
    pub revoked: Option<PathBuf>,
}

/// How a member becomes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Initial {
    /// It makes a new cluster together with these members, each `(name, peer URL)`, itself among them.
    New(Vec<(String, String)>),
    /// It joins these members, itself among them; it was added before. Data that it has go on being used.
    Existing(Vec<(String, String)>),
    /// It forgets all other members and goes on alone with its data.
    Alone,
}

/// How a member is run.
#[derive(Clone, Debug)]
pub struct MemberOptions {
    /// The program: a path, or a name that is looked up in the system's folders.
    pub program: PathBuf,
    /// The member's name in the cluster.
    pub name: String,
    /// Its data; made with mode 0700 if it is not there. Beside it lies a file with the process's id.
    pub data_dir: PathBuf,
    /// Where clients connect.
    pub client_address: SocketAddr,
    /// Where other members connect.
    pub peer_address: SocketAddr,
    /// The URL that clients are told; the address's if `None`.
    pub client_url: Option<String>,
    /// The URL that members are told; the address's if `None`.
    pub peer_url: Option<String>,
    /// Certificates towards clients.
    pub client_tls: TlsFiles,
    /// Certificates among members.
    pub peer_tls: TlsFiles,
    /// How it becomes a member, when it has no data yet.
    pub initial: Initial,
    /// A word that keeps clusters apart which were made alike.
    pub cluster_token: String,
    /// The largest that its file may become before it refuses what needs room, in bytes.
    pub quota_bytes: u64,
    /// The largest request, in bytes: [`crate::Options::request_bytes_max`].
    pub request_bytes_max: usize,
    /// Operations of one transaction: [`crate::Options::txn_operations_max`].
    pub txn_operations_max: usize,
    /// How often the leader says that it is there.
    pub heartbeat: Duration,
    /// After how long without that a new one is chosen; ten heartbeats are usual.
    pub election: Duration,
    /// How long it may take to stop before it is killed.
    pub stop_limit: Duration,
    /// The pause before it is started again; doubles with each failure up to half a minute.
    pub restart_pause: Duration,
}

impl MemberOptions {
    /// The first member of a new cluster, with room for transactions of the store's usual limits.
    pub fn new(
        name: &str,
        data_dir: &Path,
        client_address: SocketAddr,
        peer_address: SocketAddr,
        tls: TlsFiles,
    ) -> Self {
        Self {
            program: PathBuf::from("etcd"),
            name: name.to_owned(),
            data_dir: data_dir.to_owned(),
            client_address,
            peer_address,
            client_url: None,
            peer_url: None,
            client_tls: tls.clone(),
            peer_tls: tls,
            initial: Initial::New(vec![(name.to_owned(), format!("https://{peer_address}"))]),
            cluster_token: "dtr".to_owned(),
            quota_bytes: 8 << 30,
            request_bytes_max: crate::REQUEST_BYTES_USUAL,
            txn_operations_max: 512,
            heartbeat: Duration::from_millis(100),
            election: Duration::from_secs(1),
            stop_limit: Duration::from_secs(10),
            restart_pause: Duration::from_millis(100),
        }
    }

    /// The URL that clients use.
    pub fn client_url(&self) -> String {
        self.client_url.clone().unwrap_or_else(|| format!("https://{}", self.client_address))
    }

    /// The URL that other members use.
    pub fn peer_url(&self) -> String {
        self.peer_url.clone().unwrap_or_else(|| format!("https://{}", self.peer_address))
    }

    /// etcd's arguments. `begun` says that it has run before: then it is not told again to forget the others.
    fn arguments(&self, begun: bool) -> Vec<String> {
        let mut arguments = Vec::new();
        let mut flag = |name: &str, value: String| arguments.push(format!("--{name}={value}"));
        let path = |path: &Path| path.display().to_string();
        flag("name", self.name.clone());
        flag("data-dir", path(&self.data_dir));
        flag("listen-client-urls", format!("https://{}", self.client_address));
        flag("advertise-client-urls", self.client_url());
        flag("listen-peer-urls", format!("https://{}", self.peer_address));
        flag("initial-advertise-peer-urls", self.peer_url());
        for (side, tls) in [("", &self.client_tls), ("peer-", &self.peer_tls)] {
            flag(&format!("{side}client-cert-auth"), "true".to_owned());
            flag(&format!("{side}cert-file"), path(&tls.certificate));
            flag(&format!("{side}key-file"), path(&tls.key));
            flag(&format!("{side}trusted-ca-file"), path(&tls.ca));
            if let Some(revoked) = &tls.revoked {
                let name = if side.is_empty() { "client-crl-file" } else { "peer-crl-file" };
                flag(name, path(revoked));
            }
        }
        let cluster = |members: &[(String, String)]| {
            members.iter().map(|(name, url)| format!("{name}={url}")).collect::<Vec<_>>().join(",")
        };
        match &self.initial {
            Initial::New(members) => {
                flag("initial-cluster", cluster(members));
                flag("initial-cluster-state", "new".to_owned());
            }
            Initial::Existing(members) => {
                flag("initial-cluster", cluster(members));
                flag("initial-cluster-state", "existing".to_owned());
            }
            Initial::Alone => {
                flag("initial-cluster", cluster(&[(self.name.clone(), self.peer_url())]));
                flag("initial-cluster-state", "existing".to_owned());
                if !begun {
                    flag("force-new-cluster", "true".to_owned());
                }
            }
        }
        flag("initial-cluster-token", self.cluster_token.clone());
        flag("quota-backend-bytes", self.quota_bytes.to_string());
        flag("max-request-bytes", self.request_bytes_max.to_string());
        flag("max-txn-ops", self.txn_operations_max.to_string());
        flag("heartbeat-interval", self.heartbeat.as_millis().to_string());
        flag("election-timeout", self.election.as_millis().to_string());
        // A member that comes back must not unseat a leader that the others have.
        flag("pre-vote", "true".to_owned());
        flag("strict-reconfig-check", "true".to_owned());
        // Compaction is ours: it knows of holds.
        flag("auto-compaction-retention", "0".to_owned());
        flag("logger", "zap".to_owned());
        flag("log-outputs", "stderr".to_owned());
        arguments
    }
}
