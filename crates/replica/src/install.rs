//! Making a replica on this machine: everything is checked before anything is written, and the record that makes the
//! store one that is served is written last.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use dtr_blobs::BlobError;
use dtr_catalog::{
    Catalog, CatalogError,
    records::{
        CertificateRecord, ClusterRecord, DATA_FORMAT, IdentitySource, Service, ServiceReplica,
        Settings,
    },
};
use dtr_identity::{BuiltIn, BuiltInOptions, ManageError, ServiceForm, UcpClient, UcpError};
use dtr_store::StoreError;
use dtr_transport::pki::{PkiError, SubjectNames};
use dtr_types::{
    AccountName, ClientHost, ClientHostError, Clock as _, ClusterId, ReplicaId, Secret, ServiceId,
    SystemClock, SystemRandom,
};

use crate::{
    AssetError, ConfigError, DataDir, JoinError, MarkError, Metadata, OpenError, ReplicaConfig,
    StorageConfig, StoreConfig, StoreOptions, UserCertificate, assets,
    cluster::Founding,
    mark::Place,
    occupant::unoccupied,
    places::{in_place, not_registered, take_places, tell_places},
    storage::{check_storage, open_storage},
    traces::Traces,
};

/// How a new replica is set up.
#[derive(Clone, Debug)]
pub struct ReplicaOptions {
    /// Its id; random when not given.
    pub id: Option<ReplicaId>,
    /// The port for HTTPS.
    pub https_port: u16,
    /// The port that redirects to HTTPS; 0 for none.
    pub http_port: u16,
    /// The address it listens on.
    pub listen_address: IpAddr,
    /// Where it speaks plain HTTP to a proxy that ends TLS.
    pub plain_http: Option<SocketAddr>,
    /// Proxies that are believed there, in CIDR form.
    pub trusted_proxies: Vec<String>,
    /// The address that clients use: `https://host[:port]`, or `host[:port]`.
    pub external_url: Option<String>,
    /// The name of this machine.
    pub node: String,
    /// A certificate of the user's own.
    pub certificate: Option<UserCertificate>,
    /// Where metadata is kept.
    pub store: StoreOptions,
    /// Where image content is kept.
    pub storage: StorageConfig,
    /// Whether content that is there without a mark, or of a registry of another kind, is no reason to refuse.
    pub take_over_storage: bool,
    /// What is logged.
    pub log_level: String,
    /// `text` or `json`.
    pub log_format: String,
}

/// A UCP and who acts there.
#[derive(Clone, Debug)]
pub struct UcpLogin {
    /// Its address.
    pub url: String,
    /// PEM of its authority; empty to trust the system's.
    pub ca: String,
    /// Whether its certificate is not verified.
    pub insecure_tls: bool,
    /// An administrator.
    pub username: String,
    /// Its password.
    pub password: Secret,
}

/// Where accounts are kept.
#[derive(Clone, Debug)]
pub enum IdentityOptions {
    /// Here, with a first administrator.
    BuiltIn {
        /// Its name.
        admin: AccountName,
        /// Its password.
        password: Secret,
    },
    /// In a UCP.
    Ucp {
        /// Which, and who acts there.
        login: UcpLogin,
        /// Whether registrations of the same address or replica id are taken away.
        replace: bool,
    },
}

/// What was installed.
#[derive(Clone, Debug)]
pub struct Installed {
    /// The replica's id.
    pub id: ReplicaId,
    /// Where clients reach it.
    pub url: String,
    /// The id of the key that signs its backups.
    pub archive_key: String,
    /// Nothing wrong, but worth knowing.
    pub warnings: Vec<String>,
}

/// Why nothing was installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// There is something in the data directory.
    #[error("{path} is not empty: {what}")]
    Occupied {
        /// The folder.
        path: PathBuf,
        /// What is there, and what to do about it.
        what: String,
    },
    /// There is something in the data directory that is not a replica's.
    #[error(
        "{path} holds \"{found}\", which is not a replica's; choose an empty folder with --data-dir"
    )]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// What was found there.
        found: String,
    },
    /// The data directory cannot be used.
    #[error(
        "cannot use {path} as data directory: {source}; check its permissions, or choose another with --data-dir"
    )]
    DataDir {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The address for clients is not one.
    #[error(transparent)]
    ExternalUrl(#[from] ClientHostError),
    /// The certificate cannot be used.
    #[error(transparent)]
    Certificate(#[from] PkiError),
    /// Keys or certificates cannot be made.
    #[error(transparent)]
    Asset(#[from] AssetError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The catalog failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The blob storage cannot be used.
    #[error(transparent)]
    Storage(#[from] BlobError),
    /// The first administrator cannot be made, or the registration failed.
    #[error(transparent)]
    Identity(#[from] ManageError),
    /// The UCP did not do what was asked.
    #[error(transparent)]
    Ucp(#[from] UcpError),
    /// What the UCP presents cannot be trusted as told.
    #[error("{0}")]
    Tls(#[from] dtr_transport::tls::TlsError),
    /// The account that acts at the UCP is no administrator.
    #[error("\"{0}\" is not an administrator of the UCP; log in as one")]
    NotAdmin(String),
    /// The UCP has another registration of the same replica id.
    #[error(
        "replica {id} is registered with the UCP already, as {name} at {url}, and would be cut off from its accounts. If it is \
         lost for good, take its place with --replace-registration; if it is not, choose another --replica-id (or none); to \
         rehearse a restore, use --clone"
    )]
    Registered {
        /// The replica's id.
        id: ReplicaId,
        /// The registration that has it.
        name: String,
        /// Its address.
        url: String,
    },
    /// The configuration cannot be written.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The metadata cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The link to the other replicas cannot be made.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The blob storage is another registry's.
    #[error(transparent)]
    Mark(#[from] MarkError),
    /// Networks of trusted proxies.
    #[error(transparent)]
    Proxies(#[from] dtr_transport::NetworkError),
}

impl ReplicaOptions {
    /// The names under which clients and other machines reach the replica.
    pub(crate) fn names(&self) -> Result<SubjectNames, InstallError> {
        let mut names = SubjectNames::local();
        if let Some(host) = self.external_host()? {
            names = names.with_host(host.host())?;
        }
        if let Ok(more) = names.clone().with_host(&self.node) {
            names = more;
        }
        if !self.listen_address.is_unspecified() {
            names = names.with_host(&self.listen_address.to_string())?;
        }
        if let Some(host) = self.replica_host() {
            names = names.with_host(host)?;
        }
        Ok(names)
    }

    /// The address for clients, if one was given.
    pub(crate) fn external_host(&self) -> Result<Option<ClientHost>, ClientHostError> {
        self.external_url.as_deref().map(ClientHost::from_address).transpose()
    }

    /// Where the other replicas reach this machine, if that was said.
    fn replica_host(&self) -> Option<&str> {
        match &self.store {
            StoreOptions::Etcd(etcd) => etcd.host.as_deref(),
            StoreOptions::Embedded => None,
        }
    }

    /// Where other machines reach the replica itself. Behind a balancer, the address for clients is that of any replica.
    pub(crate) fn address(&self) -> Result<String, InstallError> {
        if let Some(host) = self.replica_host() {
            return Ok(ReplicaConfig::address_of(&dtr_cluster::url_host(host), self.https_port));
        }
        let host = match self.external_host()? {
            Some(external) => external.host().to_owned(),
            None if !self.listen_address.is_unspecified() => match self.listen_address {
                IpAddr::V4(address) => address.to_string(),
                IpAddr::V6(address) => format!("[{address}]"),
            },
            None => self.node.clone(),
        };
        Ok(ReplicaConfig::address_of(&host, self.https_port))
    }

    /// Where clients reach the registry.
    pub(crate) fn url(&self) -> Result<String, InstallError> {
        match self.external_host()? {
            Some(external) => Ok(format!("https://{external}")),
            None => self.address(),
        }
    }

    /// The configuration of a replica set up so.
    pub(crate) fn config(&self, id: ReplicaId) -> Result<ReplicaConfig, InstallError> {
        for network in &self.trusted_proxies {
            network.parse::<dtr_transport::Network>()?;
        }
        Ok(ReplicaConfig {
            id,
            listen_address: self.listen_address,
            https_port: self.https_port,
            http_port: self.http_port,
            plain_http: self.plain_http,
            trusted_proxies: self.trusted_proxies.clone(),
            address: self.address()?,
            store: StoreConfig::Embedded,
            storage: self.storage.clone(),
            log_level: self.log_level.clone(),
            log_format: self.log_format.clone(),
        })
    }
}

/// Refuses a folder with something in it that is not a replica's: it would be taken for the replica's, and in the way of
/// its removal.
pub(crate) fn only_ours(dir: &DataDir) -> Result<(), InstallError> {
    match crate::plan_destroy(dir, true) {
        Err(crate::DestroyError::Foreign { path, found }) => {
            Err(InstallError::Foreign { path, found })
        }
        _ => Ok(()),
    }
}

/// Logs in at a UCP as an administrator.
pub(crate) async fn login(
    ucp: &UcpLogin,
) -> Result<(UcpClient, dtr_identity::wire::LoginAnswer), InstallError> {
    let ca = (!ucp.ca.trim().is_empty()).then_some(ucp.ca.as_str());
    let tls = dtr_transport::tls::client_config(ca, ucp.insecure_tls)?;
    let client = UcpClient::new(&ucp.url, tls)?;
    let answer = client.login(&ucp.username, &ucp.password).await?;
    if !answer.account.is_admin {
        return Err(InstallError::NotAdmin(ucp.username.clone()));
    }
    Ok((client, answer))
}

/// What an identity service is told of this cluster.
pub(crate) async fn registration(
    catalog: &Catalog,
    url: &str,
    config: &ReplicaConfig,
) -> Result<ServiceForm, AssetError> {
    let (_, public_key) = assets::service_key(catalog).await?;
    let ca_bundle = assets::trust_bundle(catalog).await?;
    let form = registration_form(url, config, public_key, ca_bundle);
    let others = catalog.replicas().await?.into_iter().filter(|replica| replica.id != config.id);
    let others = others.map(|replica| ServiceReplica { id: replica.id, address: replica.address });
    let replicas = form.replicas.into_iter().flatten().chain(others).collect();
    Ok(ServiceForm { replicas: Some(replicas), ..form })
}

/// The same, of what is not in a store yet.
pub(crate) fn registration_form(
    url: &str,
    config: &ReplicaConfig,
    public_key: String,
    ca_bundle: String,
) -> ServiceForm {
    ServiceForm {
        name: Some(format!("dtr-{}", config.id)),
        description: Some("Docker Trusted Registry".to_owned()),
        url: Some(url.to_owned()),
        privileged: Some(true),
        ca_bundle: Some(ca_bundle),
        public_key: Some(public_key),
        replicas: Some(vec![ServiceReplica {
            id: config.id.clone(),
            address: config.address.clone(),
        }]),
        ..ServiceForm::default()
    }
}

/// Registers the cluster where its accounts are.
async fn register(
    catalog: &Catalog,
    url: &str,
    config: &ReplicaConfig,
    ucp: &UcpLogin,
    replace: bool,
) -> Result<Registered, InstallError> {
    let (client, answer) = login(ucp).await?;
    let token = &answer.session_token;
    let form = registration(catalog, url, config).await?;
    let former = in_place(&client, token, &form).await?;
    let said = match replace {
        true => take_places(&client, token, &former).await,
        false => {
            not_registered(&former, &form)?;
            tell_places(&former)
        }
    };
    let service: Service = client.register_service(&answer, &form).await?;
    let source = IdentitySource::Ucp {
        url: client.url().to_owned(),
        ca: ucp.ca.clone(),
        insecure_tls: ucp.insecure_tls,
        service: Some(service.id.clone()),
    };
    let made = Some((client, answer.session_token, service.id));
    Ok(Registered { source, said, made })
}

/// Where a cluster that is made finds its accounts.
struct Registered {
    source: IdentitySource,
    /// What to say.
    said: Vec<String>,
    /// The registration, which goes again when nothing comes of the installation.
    made: Option<(UcpClient, Secret, ServiceId)>,
}

impl Registered {
    async fn take_back(self) {
        let Some((client, token, id)) = self.made else { return };
        if let Err(error) = client.delete_service(&token, &id).await {
            tracing::warn!(%error, "the registration with the UCP could not be taken back");
        }
    }
}

/// Installs a replica of a new cluster.
///
/// # Errors
/// [`InstallError`]. What is checked before the first write: the directory, the addresses, the certificate, the login at
/// the UCP. An installation that was cut off later leaves a directory that `destroy` removes.
pub async fn install(
    dir: &DataDir,
    options: &ReplicaOptions,
    identity: &IdentityOptions,
) -> Result<Installed, InstallError> {
    unoccupied(dir).await?;
    let id = options.id.clone().unwrap_or_else(|| ReplicaId::random(&SystemRandom));
    let mut config = options.config(id.clone())?;
    let names = options.names()?;
    let cluster_id = ClusterId::random(&SystemRandom);
    let founding = options.store.found(options, &id, &cluster_id)?;
    config.store = founding.config.clone();
    let mut warnings = Vec::new();
    let mut certificate = None;
    if let Some(given) = &options.certificate {
        let (record, told) = assets::checked_web_certificate(given, &names, SystemClock.now())?;
        (certificate, warnings) = (Some(record), told);
    }
    match identity {
        IdentityOptions::Ucp { login: ucp, .. } => drop(login(ucp).await?),
        IdentityOptions::BuiltIn { password, .. } => dtr_identity::check_password_form(password)?,
    }
    check_storage(&config.storage).await?;
    let refused = |source| InstallError::DataDir { path: dir.root().to_owned(), source };
    let traces = Traces::of(dir, &config.storage).map_err(refused)?;
    let founded = Founded { cluster: cluster_id, founding };
    let made = async {
        dir.create().map_err(refused)?;
        fill(dir, options, &config, &names, certificate, identity, founded).await
    };
    match made.await {
        Ok((archive_key, said)) => {
            warnings.extend(said);
            Ok(Installed { id, url: options.url()?, archive_key, warnings })
        }
        Err(error) => {
            traces.undo().await;
            Err(error)
        }
    }
}

/// What is made before there is a store.
struct Founded {
    cluster: ClusterId,
    founding: Founding,
}

/// Puts a replica into a data directory that is empty. Yields the id of the key that signs its backups, and what to say.
async fn fill(
    dir: &DataDir,
    options: &ReplicaOptions,
    config: &ReplicaConfig,
    names: &SubjectNames,
    certificate: Option<CertificateRecord>,
    identity: &IdentityOptions,
    founded: Founded,
) -> Result<(String, Vec<String>), InstallError> {
    let place = Place { dir, storage: &config.storage, cluster: &founded.cluster };
    place.unused(options.take_over_storage).await?;
    let blobs = open_storage(dir, &config.storage).await?;
    founded.founding.write(dir)?;
    let metadata = Metadata::open(dir, config).await?;
    let catalog = metadata.catalog.clone();
    if catalog.cluster().await?.is_some() {
        return Err(JoinError::Taken.into());
    }
    for record in founded.founding.records(catalog.now()) {
        catalog.put(&record).await?;
    }
    assets::ensure(&catalog).await.map_err(AssetError::from)?;
    if let Some(record) = &certificate {
        catalog.put(record).await?;
    }
    assets::web_certificate(&catalog, names).await?;
    if let Some(external) = options.external_host()? {
        let settings = Settings { dtr_host: external.to_string(), ..Settings::default() };
        catalog.put(&settings).await?;
    }
    let url = options.url()?;
    let registered = match identity {
        IdentityOptions::Ucp { login, replace } => {
            register(&catalog, &url, config, login, *replace).await?
        }
        IdentityOptions::BuiltIn { admin, password } => {
            let built_in = BuiltIn::new(catalog.clone(), BuiltInOptions::default());
            built_in.create_first_admin(admin.clone(), password.clone()).await?;
            Registered { source: IdentitySource::BuiltIn, said: Vec::new(), made: None }
        }
    };
    let source = registered.source.clone();
    let begun = async {
        config.save(dir)?;
        place.begin(&catalog, &blobs).await?;
        let cluster = ClusterRecord {
            id: founded.cluster.clone(),
            data_format: DATA_FORMAT,
            created_at: catalog.now(),
            created_by: env!("CARGO_PKG_VERSION").to_owned(),
            identity: source,
            restored_from: None,
        };
        catalog.create_cluster(&cluster).await?;
        let keys = dtr_recovery::archive_keys(&catalog).await.map_err(AssetError::from)?;
        Ok::<_, InstallError>(keys.current.unwrap_or_default())
    };
    match begun.await {
        Ok(key) => {
            drop(catalog);
            metadata.close().await;
            Ok((key, registered.said))
        }
        Err(error) => {
            registered.take_back().await;
            Err(error)
        }
    }
}
