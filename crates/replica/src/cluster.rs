//! How a replica finds its metadata when it is set up: a store of its own, an etcd that it begins or joins, or one that is
//! given.

use std::io;

use dtr_blobs::BlobError;
use dtr_catalog::records::{CertificateRecord, DATA_FORMAT};
use dtr_cluster::{
    Admission, Engine, EngineError, EtcdConfig, Founded, Identity, JoinRequest, MemberConfig,
    url_host,
};
use dtr_transport::pki::PkiError;
use dtr_types::{Clock as _, ClusterId, ReplicaId, Secret, SystemClock, Timestamp};

use crate::{
    DataDir, InstallError, ReplicaConfig, ReplicaOptions, StoreConfig,
    occupant::unoccupied,
    storage::{open_storage, place},
    traces::Traces,
};

/// Where metadata is kept.
#[derive(Clone, Debug, Default)]
pub enum StoreOptions {
    /// In a file of the replica's own: for one replica.
    #[default]
    Embedded,
    /// In an etcd that the replicas share.
    Etcd(EtcdOptions),
}

/// How etcd is reached.
#[derive(Clone, Debug)]
pub struct EtcdOptions {
    /// Where the other replicas reach this machine; the address that it listens on, or its name, when not given.
    pub host: Option<String>,
    /// The port of its member for replicas.
    pub client_port: u16,
    /// The port of its member for members.
    pub peer_port: u16,
    /// How large the file of its member may become, in bytes; what is usual when not given.
    pub quota_bytes: Option<u64>,
    /// An etcd that is there, instead of members that the replicas run.
    pub given: Option<GivenEtcd>,
}

/// An etcd that is there.
#[derive(Clone, Debug)]
pub struct GivenEtcd {
    /// Where it is reached: `https://host:port`.
    pub endpoints: Vec<String>,
    /// PEM of the authority of its certificates.
    pub ca: String,
    /// PEM of the certificate to present to it.
    pub certificate: String,
    /// PEM of its key.
    pub key: Secret,
}

/// Why a replica cannot be linked to the others.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The certificates.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// A file of them.
    #[error("the replica's certificates cannot be written: {0}")]
    Files(#[from] io::Error),
    /// The etcd that was given has a cluster in it.
    #[error(
        "there is a registry in this etcd already: join it with \"dtr join\", or use another etcd"
    )]
    Taken,
    /// The two do not go together.
    #[error("{0}")]
    Kind(&'static str),
    /// The storage is not the same.
    #[error(
        "what another replica wrote into the blob storage is not in {place}: replicas must share one storage; mount the same folder on every machine and name it with --dtr-storage-volume, or name the same bucket with --s3-bucket"
    )]
    NotShared {
        /// What this replica uses.
        place: String,
    },
    /// The storage failed.
    #[error(transparent)]
    Storage(#[from] BlobError),
}

/// What a replica is set up with that does not join others.
pub(crate) struct Founding {
    pub config: StoreConfig,
    identity: Option<Identity>,
    founded: Option<Founded>,
}

impl Founding {
    /// Writes the files that must be there before the store is opened.
    pub(crate) fn write(&self, dir: &DataDir) -> Result<(), JoinError> {
        let founded = self.founded.as_ref().map(|founded| &founded.identity);
        if let Some(identity) = founded.or(self.identity.as_ref()) {
            dir.etcd().write(identity)?;
        }
        Ok(())
    }

    /// What belongs into the store.
    pub(crate) fn records(&self, now: Timestamp) -> Vec<CertificateRecord> {
        self.founded.as_ref().map(|founded| founded.records(now)).unwrap_or_default()
    }
}

impl StoreOptions {
    /// Makes what a new cluster begins with.
    pub(crate) fn found(
        &self,
        options: &ReplicaOptions,
        id: &ReplicaId,
        cluster: &ClusterId,
    ) -> Result<Founding, JoinError> {
        let Self::Etcd(etcd) = self else {
            return Ok(Founding { config: StoreConfig::Embedded, identity: None, founded: None });
        };
        if let Some(given) = &etcd.given {
            let config = StoreConfig::Etcd(given.config());
            return Ok(Founding { config, identity: Some(given.identity()), founded: None });
        }
        let host = etcd.host(options);
        let founded = Identity::found(id, &host, SystemClock.now())?;
        let member = MemberConfig {
            host,
            client_port: etcd.client_port,
            peer_port: etcd.peer_port,
            joined: Vec::new(),
            token: cluster.to_string(),
            quota_bytes: etcd.quota_bytes,
        };
        let config = EtcdConfig { member: Some(member), endpoints: Vec::new() };
        Ok(Founding { config: StoreConfig::Etcd(config), identity: None, founded: Some(founded) })
    }
}

impl GivenEtcd {
    /// As a replica reaches it now.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn read(dir: &DataDir, endpoints: &[String]) -> io::Result<Self> {
        let Identity { ca, certificate, key, .. } = dir.etcd().read()?;
        Ok(Self { endpoints: endpoints.to_vec(), ca, certificate, key })
    }

    /// Finds out whether it answers, and is that of this replica's cluster.
    ///
    /// # Errors
    /// When it does not, or is not.
    pub async fn verify(&self, id: &ReplicaId) -> Result<(), EngineError> {
        Engine::verify_given(&self.endpoints, &self.identity(), id).await
    }

    /// Has it presented these certificates.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, dir: &DataDir) -> io::Result<()> {
        dir.etcd().write(&self.identity())
    }

    fn config(&self) -> EtcdConfig {
        EtcdConfig { member: None, endpoints: self.endpoints.clone() }
    }

    fn identity(&self) -> Identity {
        Identity {
            ca: self.ca.clone(),
            certificate: self.certificate.clone(),
            key: self.key.clone(),
            revoked: String::new(),
        }
    }
}

impl EtcdOptions {
    fn host(&self, options: &ReplicaOptions) -> String {
        match &self.host {
            Some(host) => host.clone(),
            None if !options.listen_address.is_unspecified() => options.listen_address.to_string(),
            None => options.node.clone(),
        }
    }
}

/// A replica that is about to join: it asks, and becomes a member with the answer.
pub struct Joining {
    request: JoinRequest,
    key: Secret,
    etcd: EtcdOptions,
    config: ReplicaConfig,
}

impl Joining {
    /// Sets a replica up, without touching anything.
    ///
    /// # Errors
    /// When an option cannot be used.
    pub fn new(
        options: &ReplicaOptions,
        id: ReplicaId,
        unsafe_join: bool,
    ) -> Result<Self, InstallError> {
        let StoreOptions::Etcd(etcd) = &options.store else {
            return Err(JoinError::Kind("replicas share an etcd: join with --store etcd").into());
        };
        let mut config = options.config(id.clone())?;
        let host = etcd.host(options);
        if options.external_url.is_none() {
            // Clients of this replica alone reach it where the other replicas do.
            config.address = ReplicaConfig::address_of(&url_host(&host), config.https_port);
        }
        let pair = Identity::new_key().map_err(JoinError::from)?;
        let request = JoinRequest {
            replica_id: id,
            host,
            client_port: etcd.client_port,
            peer_port: etcd.peer_port,
            public_key: pair.public,
            data_format: DATA_FORMAT,
            unsafe_join,
            now: None,
        };
        Ok(Self { request, key: pair.private, etcd: etcd.clone(), config })
    }

    /// What to ask another replica, at this moment.
    pub fn request(&self) -> JoinRequest {
        JoinRequest { now: Some(SystemClock.now()), ..self.request.clone() }
    }

    /// Where other machines reach the replica.
    pub fn address(&self) -> &str {
        &self.config.address
    }

    /// Makes the replica in its data directory. When this fails, the directory is as it was, and the other replicas
    /// should be asked to forget this one.
    ///
    /// # Errors
    /// [`JoinError::NotShared`], and what can go wrong with files.
    pub async fn complete(self, dir: &DataDir, admission: &Admission) -> Result<(), InstallError> {
        unoccupied(dir).await?;
        let refused = |source| InstallError::DataDir { path: dir.root().to_owned(), source };
        let traces = Traces::of(dir, &self.config.storage).map_err(refused)?;
        let made = async {
            dir.create().map_err(refused)?;
            self.make(dir, admission).await
        };
        let made = made.await;
        if made.is_err() {
            traces.undo().await;
        }
        made
    }

    async fn make(self, dir: &DataDir, admission: &Admission) -> Result<(), InstallError> {
        let mut config = self.config;
        let blobs = open_storage(dir, &config.storage).await?;
        let probe = &admission.probe;
        let found = dtr_blobs::BlobStorage::stat(&*blobs, &probe.digest).await?;
        if found.is_none_or(|found| found.size != probe.size) {
            let place = place(dir, &config.storage);
            return Err(JoinError::NotShared { place }.into());
        }
        let (etcd, identity) = match (&self.etcd.given, admission.own_member) {
            (None, true) => {
                let JoinRequest { host, client_port, peer_port, .. } = self.request;
                let member = MemberConfig {
                    host,
                    client_port,
                    peer_port,
                    joined: admission.members.clone(),
                    token: admission.token.clone(),
                    quota_bytes: self.etcd.quota_bytes,
                };
                let endpoints = admission.endpoints.clone();
                let identity = Identity::of_admission(admission, self.key);
                (EtcdConfig { member: Some(member), endpoints }, identity)
            }
            (Some(given), false) => (given.config(), given.identity()),
            (None, false) => {
                return Err(JoinError::Kind(
                    "the replicas of this cluster use an etcd that was given to them: name it with --etcd-endpoints, \
                     --etcd-ca, --etcd-cert and --etcd-key",
                )
                .into());
            }
            (Some(_), true) => {
                return Err(JoinError::Kind(
                    "the replicas of this cluster run their own etcd: join without --etcd-endpoints",
                )
                .into());
            }
        };
        dir.etcd().write(&identity).map_err(JoinError::from)?;
        config.store = StoreConfig::Etcd(etcd);
        Ok(config.save(dir)?)
    }
}
