//! What the tests need: certificates, a real etcd in a folder of its own, and a connection that can be cut.
#![allow(clippy::allow_attributes, dead_code, reason = "each test binary uses a part of it")]

pub mod pki;
pub mod proxy;

use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use dtr_store::{Outcome, Store as _, StoreError, Transaction};
use dtr_store_etcd::{
    EtcdStore, Options, Timing,
    member::{Initial, Member, MemberOptions},
};
use dtr_types::Revision;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use pki::Pki;

/// How long anything is waited for.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A free port of the loopback.
pub fn free() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address")
}

/// A folder in memory where there is one: etcd syncs each commit, and these tests kill processes, not machines. Else where
/// `DTR_ETCD_DIR` says.
pub fn folder() -> TempDir {
    let wanted = std::env::var_os("DTR_ETCD_DIR").map(PathBuf::from);
    let memory = PathBuf::from("/dev/shm");
    let made = match wanted.or_else(|| memory.is_dir().then_some(memory)) {
        Some(dir) => tempfile::tempdir_in(dir),
        None => tempfile::tempdir(),
    };
    made.expect("a folder")
}

/// Shorter than what is usual, so that failures take less time.
pub fn timing() -> Timing {
    Timing {
        connect: Duration::from_secs(1),
        attempt: Duration::from_millis(1500),
        call: Duration::from_secs(5),
        keep_alive: Duration::from_secs(6),
    }
}

/// How a member of these tests is run.
pub fn member_options(name: &str, dir: &Path, pki: &Pki) -> MemberOptions {
    let tls = pki.member_files(dir);
    let mut options = MemberOptions::new(name, &dir.join(name), free(), free(), tls);
    options.heartbeat = Duration::from_millis(20);
    options.election = Duration::from_millis(200);
    options.restart_pause = Duration::from_millis(20);
    options.quota_bytes = 1 << 30;
    options
}

/// Options of a store at these endpoints.
pub fn options_at(endpoints: Vec<String>, pki: &Pki) -> Options {
    let mut options = Options::new(endpoints, pki.client());
    options.timing = timing();
    options.txn_operations_max = 512;
    options
}

/// One etcd.
pub struct Etcd {
    pub pki: Pki,
    pub member: Member,
    pub dir: TempDir,
}

impl Etcd {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(change: impl FnOnce(&mut MemberOptions)) -> Self {
        let (dir, pki) = (folder(), Pki::new());
        let mut options = member_options("one", dir.path(), &pki);
        change(&mut options);
        let member = Member::start(options).await.expect("etcd starts (is etcd-server there?)");
        Self { pki, member, dir }
    }

    pub fn url(&self) -> String {
        self.member.options().client_url()
    }

    pub fn address(&self) -> SocketAddr {
        self.member.options().client_address
    }

    pub fn options(&self) -> Options {
        options_at(vec![self.url()], &self.pki)
    }

    pub async fn store(&self) -> Arc<EtcdStore> {
        open(&self.options()).await
    }

    /// Kills it at once; it is started again by itself.
    pub fn kill(&self) {
        kill(&self.member);
    }
}

pub fn kill(member: &Member) {
    send(member, Signal::KILL);
}

/// Sends a signal to its process, if it runs.
pub fn send(member: &Member, signal: Signal) {
    let pid = member.pid().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        let _ = kill_process(pid, signal);
    }
}

/// A store that answers.
pub async fn open(options: &Options) -> Arc<EtcdStore> {
    let store = EtcdStore::new(options).expect("good options");
    store.ready(PATIENCE).await.expect("etcd answers");
    store
}

/// Three members.
pub struct Three {
    pub pki: Pki,
    pub members: Vec<Option<Member>>,
    pub dir: TempDir,
}

impl Three {
    /// With the times that are usual, so that what is measured is what it will be.
    pub async fn start() -> Self {
        Self::start_with(Duration::from_millis(100), Duration::from_secs(1)).await
    }

    /// With times for tests.
    pub async fn start_quick() -> Self {
        Self::start_with(Duration::from_millis(50), Duration::from_millis(500)).await
    }

    async fn start_with(heartbeat: Duration, election: Duration) -> Self {
        let (dir, pki) = (folder(), Pki::new());
        let mut all: Vec<_> = ["one", "two", "three"]
            .iter()
            .map(|name| member_options(name, dir.path(), &pki))
            .collect();
        let cluster: Vec<_> = all.iter().map(|o| (o.name.clone(), o.peer_url())).collect();
        let mut members = Vec::new();
        for options in &mut all {
            options.initial = Initial::New(cluster.clone());
            (options.heartbeat, options.election) = (heartbeat, election);
            members.push(Some(Member::start(options.clone()).await.expect("etcd starts")));
        }
        Self { pki, members, dir }
    }

    pub fn urls(&self) -> Vec<String> {
        self.members.iter().flatten().map(|member| member.options().client_url()).collect()
    }

    pub fn options(&self) -> Options {
        options_at(self.urls(), &self.pki)
    }
}

/// Puts a key.
pub async fn put(store: &EtcdStore, key: &str, value: &str) -> Result<Outcome, StoreError> {
    store.commit(Transaction::new().put(key.to_owned(), value.to_owned())).await
}

/// Puts a key, which must succeed.
pub async fn must_put(store: &EtcdStore, key: &str, value: &str) -> Revision {
    put(store, key, value).await.expect("an answer").committed().expect("is committed")
}

/// Waits for a condition.
pub async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !done().await {
            // poll: the condition that the caller names.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

/// Writes a file.
pub fn write(path: PathBuf, text: &str) -> PathBuf {
    std::fs::write(&path, text).expect("is written");
    path
}
