//! The store over etcd, with the member that this replica runs, if it runs one.

use std::{io, net::TcpListener, path::PathBuf, sync::Arc, time::Duration};

use dtr_catalog::keys;
use dtr_store::{At, Store as _, StoreError};
use dtr_store_etcd::{
    ConnectError, EtcdStore, Options, Tls,
    member::{Initial, Member, MemberError, MemberOptions, MemberState, MemberTrouble},
};
use dtr_transport::pki::PkiError;
use dtr_types::{Clock as _, ReplicaId, SystemClock};
use tokio::sync::watch;

use crate::{
    EtcdConfig, Folder, Identity, MemberConfig, config::QUOTA, member_name,
    members::does_not_stay_up,
};

/// The program, looked up in the system's folders.
const PROGRAM: &str = "etcd";
/// How long an etcd that was given may take to answer before it is refused.
const VERIFY_MAX: Duration = Duration::from_secs(10);
/// Operations of one transaction, at members of our own.
const OPERATIONS: usize = 512;
/// Where an etcd listens that nobody else is to reach.
const HERE: &str = "127.0.0.1";

/// Why the store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A file of the replica's identity.
    #[error("the replica's certificates cannot be read: {0}; restore it, or join again")]
    Files(#[from] io::Error),
    /// The member.
    #[error(transparent)]
    Member(#[from] MemberError),
    /// The options.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Certificates for a member that nobody else reaches.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// etcd does not answer, or not as it must.
    #[error("etcd at {endpoints} cannot be used: {source}")]
    Store {
        /// Where it was asked.
        endpoints: String,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// Another etcd.
    #[error(
        "the etcd at {endpoints} knows no replica {id}: it is not that of this replica's cluster"
    )]
    Strange {
        /// Where it was asked.
        endpoints: String,
        /// Whom it should know.
        id: ReplicaId,
    },
}

impl EngineError {
    /// Whether waiting may be enough: no majority answers at this moment.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Store { source, .. } if source.may_retry())
    }
}

/// The store, and what keeps it running.
pub struct Engine {
    store: Arc<EtcdStore>,
    member: Option<Member>,
    folder: Folder,
    quota: Option<u64>,
    /// Whether its certificates go with it.
    apart: bool,
}

impl Engine {
    /// Starts the member, if there is one, and connects. That a majority answers is another thing: see
    /// [`Engine::ready`].
    ///
    /// # Errors
    /// When the program is missing, or files or options cannot be used.
    pub async fn open(
        folder: &Folder,
        config: &EtcdConfig,
        id: &ReplicaId,
    ) -> Result<Self, EngineError> {
        let first =
            |member: &MemberConfig| Initial::New(vec![(member_name(id), member.peer_url())]);
        let joined = |member: &MemberConfig| {
            let all = member.joined.iter();
            Initial::Existing(all.map(|m| (m.name.clone(), m.peer_url.clone())).collect())
        };
        let initial = config.member.as_ref().map(|member| match member.joined.is_empty() {
            true => first(member),
            false => joined(member),
        });
        Self::end_leftovers(folder).await?;
        Self::open_as(folder, config, id, initial).await
    }

    /// Starts the member so that it forgets all others and goes on alone with what it has. The others notice nothing: as
    /// long as they take it for one of them, what it says counts for their majority, and members that it has forgotten stop
    /// themselves when it tells them so. So it listens to this machine alone, and has certificates of an authority that
    /// nobody knows, for both directions.
    ///
    /// # Errors
    /// As [`Engine::open`].
    pub async fn open_alone(
        folder: &Folder,
        config: &EtcdConfig,
        id: &ReplicaId,
    ) -> Result<Self, EngineError> {
        let apart = folder.apart();
        apart.remove_certificates()?;
        apart.write(&Identity::found(id, HERE, SystemClock.now())?.identity)?;
        let [client_port, peer_port] = free_ports()?;
        let host = HERE.to_owned();
        let alone = config.member.clone();
        let alone = alone.map(|member| MemberConfig { host, client_port, peer_port, ..member });
        let initial = alone.as_ref().map(|_| Initial::Alone);
        let alone = EtcdConfig { member: alone, endpoints: Vec::new() };
        let opened = Self::open_as(&apart, &alone, id, initial).await;
        opened.map(|engine| Self { apart: true, ..engine })
    }

    /// Ends an etcd that an interrupted look at what is there has left behind, and removes its files.
    ///
    /// # Errors
    /// When it does not end, or a file cannot be removed.
    pub async fn end_leftovers(folder: &Folder) -> Result<(), EngineError> {
        Member::end_left_behind(&folder.copy()).await?;
        Ok(folder.remove_leftovers()?)
    }

    /// The same of the copy that is read while there is no majority.
    ///
    /// # Errors
    /// As [`Engine::end_leftovers`].
    pub async fn end_known(folder: &Folder) -> Result<(), EngineError> {
        let known = folder.known();
        Member::end_left_behind(&known.data()).await?;
        Ok(known.remove()?)
    }

    async fn open_as(
        folder: &Folder,
        config: &EtcdConfig,
        id: &ReplicaId,
        initial: Option<Initial>,
    ) -> Result<Self, EngineError> {
        let tls = folder.tls()?;
        let mut options = Options::new(config.all_endpoints(), tls);
        options.session = member_name(id);
        let member = match (&config.member, initial) {
            (Some(member), Some(initial)) => {
                options.txn_operations_max = OPERATIONS;
                Some(Member::start(member_options(folder, member, id, initial)).await?)
            }
            _ => None,
        };
        let store = EtcdStore::new(&options)?;
        let quota = config.member.as_ref().map(quota);
        if let Some(quota) = quota {
            store.set_quota(quota);
        }
        Ok(Self { store, member, folder: folder.clone(), quota, apart: false })
    }

    /// Waits until a majority answers and is found to be set up as this program needs it, at most for `limit`.
    ///
    /// # Errors
    /// [`EngineError::Store`].
    pub async fn ready(&self, limit: Duration) -> Result<(), EngineError> {
        let failed = |source| EngineError::Store {
            endpoints: self.store.maintenance().endpoints().join(", "),
            source,
        };
        self.store.ready(limit).await.map_err(failed)?;
        if self.member.is_none() {
            self.store.verify_limits().await.map_err(failed)?;
        }
        Ok(())
    }

    /// Finds out whether an etcd that was given can be used, and has this replica's cluster in it.
    ///
    /// # Errors
    /// [`EngineError::Store`]; [`EngineError::Strange`] when it is another one.
    pub async fn verify_given(
        endpoints: &[String],
        identity: &Identity,
        id: &ReplicaId,
    ) -> Result<(), EngineError> {
        let Identity { ca, certificate, key, .. } = identity.clone();
        let options = Options::new(endpoints.to_vec(), Tls { ca, certificate, key });
        let engine = Self {
            store: EtcdStore::new(&options)?,
            member: None,
            folder: Folder::new(""),
            quota: None,
            apart: false,
        };
        engine.ready(VERIFY_MAX).await?;
        let failed = |source| EngineError::Store { endpoints: endpoints.join(", "), source };
        let key = keys::replica(id);
        match engine.store.get(key.bytes(), At::Latest).await.map_err(failed)? {
            Some(_) => Ok(()),
            None => Err(EngineError::Strange { endpoints: endpoints.join(", "), id: id.clone() }),
        }
    }

    /// The store.
    pub fn store(&self) -> &Arc<EtcdStore> {
        &self.store
    }

    /// The files of its identity.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Whether it runs a member.
    pub fn has_member(&self) -> bool {
        self.member.is_some()
    }

    /// How large its member's file may become, in bytes.
    pub(crate) fn quota(&self) -> Option<u64> {
        self.quota
    }

    /// What the member does, if there is one.
    pub fn member_state(&self) -> Option<watch::Receiver<MemberState>> {
        self.member.as_ref().map(Member::state)
    }

    /// Why the member does not stay up, while that is so.
    pub(crate) fn member_trouble(&self) -> Option<watch::Receiver<Option<MemberTrouble>>> {
        self.member.as_ref().map(Member::trouble)
    }

    /// The same in words, with the way out, for the time before anything of the cluster can be asked.
    pub fn member_problem(&self, id: &ReplicaId) -> Option<String> {
        let trouble = self.member.as_ref()?.trouble().borrow().clone()?;
        let alone = self.store.maintenance().endpoints().len() < 2;
        Some(does_not_stay_up(&trouble, id.as_str(), alone))
    }

    /// Ends the member cleanly. Others that hold the store get errors from here on, unless other members answer them.
    pub async fn stop(self) {
        if let Some(member) = self.member {
            member.stop().await;
        }
        if self.apart
            && let Err(error) = self.folder.remove_certificates()
        {
            tracing::debug!(%error, "certificates that are of no use any more were left");
        }
    }

    /// Presents the identity that is in the folder now to etcd, at the next connection.
    ///
    /// # Errors
    /// When it cannot be read or used.
    pub(crate) fn exchange(store: &EtcdStore, folder: &Folder) -> Result<(), EngineError> {
        let tls: Tls = folder.tls()?;
        Ok(store.set_tls(&tls)?)
    }
}

/// Ports of this machine that nobody uses now.
fn free_ports() -> io::Result<[u16; 2]> {
    // Both are taken before one is let go, so that they differ.
    let taken = [TcpListener::bind((HERE, 0))?, TcpListener::bind((HERE, 0))?];
    Ok([taken[0].local_addr()?.port(), taken[1].local_addr()?.port()])
}

fn quota(member: &MemberConfig) -> u64 {
    member.quota_bytes.unwrap_or(QUOTA)
}

fn member_options(
    folder: &Folder,
    member: &MemberConfig,
    id: &ReplicaId,
    initial: Initial,
) -> MemberOptions {
    let (client, peer) = (member.listen(member.client_port), member.listen(member.peer_port));
    let mut options =
        MemberOptions::new(&member_name(id), &folder.data(), client, peer, folder.tls_files());
    options.program = PathBuf::from(PROGRAM);
    options.client_url = Some(member.client_url());
    options.peer_url = Some(member.peer_url());
    options.initial = initial;
    options.cluster_token = member.token.clone();
    options.txn_operations_max = OPERATIONS;
    options.quota_bytes = quota(member);
    options
}
