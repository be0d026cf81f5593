//! A replica from an archive: what this machine needs around [`dtr_recovery::restore`].
//!
//! Everything that the restored cluster needs besides the archive (its registration with a UCP, a certificate of the
//! user's own) is made before and goes in with the restore's last commit. So a restore that is killed anywhere is either
//! not done, and runs again, or done.

use std::{
    io::{self, Read},
    path::PathBuf,
    sync::Arc,
};

use dtr_archive::{ArchiveReader, Header, IdentityKind, Keys, KnownKeys, ReadOptions};
use dtr_blobs::SharedBlobs;
use dtr_catalog::records::{CertificateRecord, IdentitySource, Service};
use dtr_identity::{
    AccountRecords, Identity, IdentityError, ImportAnswer, Remote, RemoteOptions, ServiceForm,
    UcpClient, UcpError,
};
use dtr_recovery::{
    IdentityTarget, OwnerMap, ProgressFn, RecoveryError, Refusal, RestoreOptions, RestoreReport,
    RestoreTarget,
};
use dtr_types::{
    Clock as _, ClusterId, Random as _, ReplicaId, Secret, SystemClock, SystemRandom, Timestamp,
};

use crate::{
    DataDir, DestroyError, InstallError, MarkError, ReplicaConfig, ReplicaOptions, UcpLogin,
    assets,
    changes::{self, Changes},
    cluster::Founding,
    install::{login, registration_form},
    mark::Place,
    metadata::Metadata,
    occupant::Occupant,
    places::{in_place, not_registered, take_places, tell_places},
    storage::{check_storage, look_at_storage, open_storage},
};

/// How an archive is restored.
#[derive(Clone, Default)]
pub struct RestoreRequest {
    /// Who acts at the identity service, if one was named.
    pub ucp: Option<UcpLogin>,
    /// What opens an encrypted archive.
    pub keys: Keys,
    /// The signing keys that are accepted; any where none is known.
    pub known: KnownKeys,
    /// Whether this is a copy beside the original, for a rehearsal: nothing of it is good at the original, and it reaches
    /// out to nobody.
    pub copy: bool,
    /// Whether registrations with the UCP of the same address or replica id are taken away: those of the registry that was
    /// lost.
    pub replace_registration: bool,
    /// Only say what would happen.
    pub dry_run: bool,
    /// Whether the archive's accounts are loaded.
    pub with_identity: bool,
    /// Accounts that are others here.
    pub owner_map: OwnerMap,
    /// Whether unknown owners are no reason to refuse.
    pub accept_unknown_owners: bool,
    /// Whether a storage without any of the blobs is no reason to refuse.
    pub accept_empty_storage: bool,
    /// Whether an archive that was salvaged from a damaged one is no reason to refuse.
    pub accept_salvaged: bool,
    /// Whether content is where the archive says, which must be inside the data directory: an archive of a registry with a
    /// bucket is refused.
    pub storage_of_archive: bool,
    /// Whether a replica that is in the data directory and does not run is put aside, folder and all.
    pub keep_old: bool,
    /// Told how far it is.
    pub progress: Option<ProgressFn>,
}

/// What was restored.
#[derive(Debug)]
pub struct Restored {
    /// The replica's id.
    pub id: ReplicaId,
    /// Where clients reach it.
    pub url: String,
    /// What came back and what did not.
    pub report: RestoreReport,
    /// Nothing wrong, but worth knowing.
    pub warnings: Vec<String>,
    /// Where the replica is now that was there before.
    pub aside: Option<PathBuf>,
}

/// An archive that was restored here before, to a registry that has not served since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Before {
    /// The cluster that it was restored to.
    pub cluster: ClusterId,
    /// When.
    pub at: Timestamp,
    /// Blobs whose content was nowhere.
    pub blobs_missing: u64,
}

/// How a restore ended well.
#[derive(Debug)]
pub enum Outcome {
    /// It was done.
    Restored(Box<Restored>),
    /// It had been done: by a run whose end nobody saw, for one.
    Before(Before),
}

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The replica cannot be set up.
    #[error(transparent)]
    Install(#[from] InstallError),
    /// The archive, or what it meets here.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    /// The archive's accounts are in a UCP, and none was named.
    #[error(
        "the accounts of this registry are kept in a UCP ({0}); name it, or the one that takes its place, with --ucp-url"
    )]
    UcpNeeded(String),
    /// The archive was restored here, and the registry was used since.
    #[error(
        "this archive was restored here at {at}, to cluster {cluster}, which has served since; nothing was changed. Start it \
         with \"dtr serve --data-dir {path}\". To go back to what the archive has, restore with --keep-old, which puts the \
         folder aside"
    )]
    Used {
        /// When.
        at: Timestamp,
        /// Which cluster it became.
        cluster: ClusterId,
        /// The data directory.
        path: PathBuf,
    },
    /// The archive's registry has its content in a bucket.
    #[error(
        "the image content of this registry is in a bucket ({0}), whose keys are in no backup: name it with --s3-bucket and the \
         flags that go with it"
    )]
    BucketNeeded(String),
    /// What is in the data directory could not be put aside.
    #[error(transparent)]
    Aside(#[from] DestroyError),
    /// The link to the UCP cannot be set up.
    #[error(transparent)]
    Remote(#[from] dtr_identity::RemoteError),
}

impl RestoreError {
    /// The exit code of the command.
    pub fn exit(&self) -> dtr_recovery::Exit {
        match self {
            Self::Recovery(error) => error.exit(),
            Self::UcpNeeded(_)
            | Self::Used { .. }
            | Self::BucketNeeded(_)
            | Self::Aside(_)
            | Self::Install(
                InstallError::Occupied { .. }
                | InstallError::Foreign { .. }
                | InstallError::Mark(MarkError::Content { .. })
                | InstallError::Registered { .. },
            ) => dtr_recovery::Exit::Refused,
            Self::Install(InstallError::ExternalUrl(_)) => dtr_recovery::Exit::Usage,
            Self::Install(_) | Self::Remote(_) => dtr_recovery::Exit::Failed,
        }
    }
}

/// The accounts of a UCP, as the administrator who restores may fill them.
struct Accounts {
    client: UcpClient,
    token: Secret,
}

/// A UCP that answers and refuses is told apart from one that does not answer: only the second is worth another try.
fn not_loaded(error: UcpError) -> RecoveryError {
    let reason = match error.status() {
        Some(404 | 405 | 501) => format!(
            "{error}. It is of a version that cannot take accounts: update it, or restore it from its own backup (\"ucp \
             restore\")"
        ),
        Some(400 | 403 | 409 | 413) => error.to_string(),
        _ => {
            let reason =
                format!("the archive's accounts were not loaded, or not all of them: {error}");
            return IdentityError::Unavailable { reason }.into();
        }
    };
    Refusal::Accounts { reason }.into()
}

#[async_trait::async_trait]
impl IdentityTarget for Accounts {
    async fn check(&self, records: &AccountRecords) -> Result<ImportAnswer, RecoveryError> {
        self.client.check_accounts(&self.token, records).await.map_err(not_loaded)
    }

    async fn load(&self, records: AccountRecords) -> Result<ImportAnswer, RecoveryError> {
        self.client.import_accounts(&self.token, records).await.map_err(not_loaded)
    }
}

/// Keeps what is read, so that it can be read again.
struct Recording<R> {
    from: R,
    kept: Vec<u8>,
}

impl<R: Read> Read for Recording<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(buffer)?;
        self.kept.extend_from_slice(&buffer[..count]);
        Ok(count)
    }
}

type Input = Box<dyn Read + Send>;

/// Reads the header, and gives the input back as if nothing had been read.
fn peek(mut input: Input, options: ReadOptions) -> Result<(Header, Input), RecoveryError> {
    let mut recording = Recording { from: &mut input, kept: Vec::new() };
    let header = ArchiveReader::open(&mut recording, options)?.header().clone();
    let kept = recording.kept;
    Ok((header, Box::new(io::Cursor::new(kept).chain(input))))
}

fn read_options(request: &RestoreRequest) -> ReadOptions {
    let (keys, known) = (request.keys.clone(), request.known.clone());
    ReadOptions { keys, known, ..ReadOptions::default() }
}

/// What the restored cluster is to know of its identity service, made before anything is restored.
struct Linked {
    source: IdentitySource,
    identity: Option<Arc<dyn Identity>>,
    service_key: CertificateRecord,
    /// The registration that was made: it goes again when it was only to look, or nothing came of it.
    made: Option<Made>,
    warnings: Vec<String>,
}

/// A registration that was made to ask with, and what it is to be when all is restored.
struct Made {
    client: UcpClient,
    token: Secret,
    service: Service,
    form: ServiceForm,
    /// What the UCP has registered in the place that this registry takes.
    former: Vec<Service>,
}

impl Made {
    async fn take_back(self) {
        if let Err(error) = self.client.delete_service(&self.token, &self.service.id).await {
            tracing::warn!(%error, service = self.service.name, "the registration with the UCP could not be taken back");
        }
    }

    /// Makes the registration that of a registry that can be found. Yields what to say.
    async fn complete(self, replace: bool) -> Vec<String> {
        let Self { client, token, service, form, former } = self;
        // First, since an id belongs to one registration.
        let mut said = match replace {
            true => take_places(&client, &token, &former).await,
            false => tell_places(&former),
        };
        if let Err(error) = client.update_service(&token, &service.id, &form).await {
            said.push(format!(
                "the registration with the UCP could not be completed ({error}); once the registry serves, complete it with \
                 \"dtr reconfigure --ucp-url {} --data-dir DIR\"",
                client.url()
            ));
        }
        said
    }
}

impl Linked {
    fn built_in(warnings: Vec<String>) -> Result<Self, RestoreError> {
        Ok(Self {
            source: IdentitySource::BuiltIn,
            identity: None,
            service_key: assets::new_service_key(SystemClock.now())?,
            made: None,
            warnings,
        })
    }
}

/// Finds out who will say who is who. With accounts of its own, the address that was named is the registry's own, which
/// does not answer before it is restored; if a UCP answers there, the registry is moved to it.
async fn link(
    header: &Header,
    config: &ReplicaConfig,
    url: &str,
    request: &RestoreRequest,
) -> Result<Linked, RestoreError> {
    let built_in = header.identity.kind == IdentityKind::BuiltIn;
    if request.copy {
        return Linked::built_in(Vec::new());
    }
    let Some(ucp) = &request.ucp else {
        if built_in || request.with_identity {
            return Linked::built_in(Vec::new());
        }
        let was = header.identity.url.clone().unwrap_or_default();
        return Err(RestoreError::UcpNeeded(was));
    };
    match login(ucp).await {
        Ok(_) => {}
        Err(InstallError::Ucp(error)) if built_in && is_away(&error) => {
            let warning = format!(
                "nobody answers at {}: the registry keeps its own accounts, as it did when it was backed up",
                ucp.url
            );
            return Linked::built_in(vec![warning]);
        }
        Err(error) => return Err(error.into()),
    }
    if built_in && is_registry(ucp).await {
        let warning = format!(
            "a registry answers at {}, not a UCP: the restored registry keeps its own accounts",
            ucp.url
        );
        return Linked::built_in(vec![warning]);
    }
    register(config, url, ucp, request.replace_registration).await
}

fn is_away(error: &UcpError) -> bool {
    error.status().is_none()
}

/// Whether the service at an address is a registry with accounts of its own.
async fn is_registry(ucp: &UcpLogin) -> bool {
    let ca = (!ucp.ca.trim().is_empty()).then_some(ucp.ca.as_str());
    let Ok(tls) = dtr_transport::tls::client_config(ca, ucp.insecure_tls) else { return false };
    let Ok(client) = UcpClient::new(&ucp.url, tls) else { return false };
    client.is_registry().await
}

/// Registers the cluster to be under a name of its own and without replicas: nobody finds it yet, and nothing that the UCP
/// knows of others changes.
async fn register(
    config: &ReplicaConfig,
    url: &str,
    ucp: &UcpLogin,
    replace: bool,
) -> Result<Linked, RestoreError> {
    let key = assets::new_service_key(SystemClock.now())?;
    let (client, answer) = login(ucp).await?;
    // The authority is in the archive; what is registered is completed when the registry serves.
    let mut form = registration_form(url, config, key.certificate.clone(), String::new());
    form.ca_bundle = None;
    let former = in_place(&client, &answer.session_token, &form).await?;
    if !replace {
        not_registered(&former, &form)?;
    }
    let alone = ServiceForm {
        name: Some(format!("dtr-restoring-{}", SystemRandom.hex(6))),
        replicas: Some(Vec::new()),
        ..form.clone()
    };
    let service = client.register_service(&answer, &alone).await.map_err(InstallError::from)?;
    let ca = (!ucp.ca.trim().is_empty()).then_some(ucp.ca.as_str());
    let tls =
        dtr_transport::tls::client_config(ca, ucp.insecure_tls).map_err(InstallError::from)?;
    let options = RemoteOptions {
        url: client.url().to_owned(),
        service: service.id.clone(),
        private_key: key.private_key.clone(),
    };
    let remote = Remote::new(options, tls, Arc::new(SystemClock), Arc::new(SystemRandom))?;
    let source = IdentitySource::Ucp {
        url: client.url().to_owned(),
        ca: ucp.ca.clone(),
        insecure_tls: ucp.insecure_tls,
        service: Some(service.id.clone()),
    };
    let token = answer.session_token;
    Ok(Linked {
        source,
        identity: Some(Arc::new(remote)),
        service_key: key,
        made: Some(Made { client, token, service, form, former }),
        warnings: Vec::new(),
    })
}

/// Makes a replica from an archive. It is not started.
///
/// # Errors
/// [`RestoreError`]; the data directory, the storage and the identity service are as they were. A restore that was cut off
/// runs again with the same arguments.
pub async fn restore(
    dir: &DataDir,
    options: &ReplicaOptions,
    request: RestoreRequest,
    input: Box<dyn Read + Send>,
) -> Result<Outcome, RestoreError> {
    let id = options.id.clone().unwrap_or_else(|| ReplicaId::random(&SystemRandom));
    let mut config = options.config(id.clone())?;
    let url = options.url()?;
    let names = options.names()?;
    let mut certificates = Vec::new();
    let mut warnings = Vec::new();
    if let Some(given) = &options.certificate {
        let (record, told) = assets::checked_web_certificate(given, &names, SystemClock.now())
            .map_err(InstallError::from)?;
        certificates.push(record);
        warnings.extend(told);
    }
    let peek_options = read_options(&request);
    let (header, input) = tokio::task::spawn_blocking(move || peek(input, peek_options))
        .await
        .map_err(|error| io_failed(&error))??;
    if request.storage_of_archive
        && let Some(bucket) = &header.storage
    {
        return Err(RestoreError::BucketNeeded(bucket.clone()));
    }
    let occupant = Occupant::look(dir).await?;
    if let Some(before) = changes::judge(dir, &occupant, &header, &request)? {
        return Ok(Outcome::Before(before));
    }
    check_storage(&config.storage).await.map_err(InstallError::from)?;
    let founding = options
        .store
        .found(options, &id, &ClusterId::random(&SystemRandom))
        .map_err(InstallError::from)?;
    config.store = founding.config.clone();
    let mut linked = link(&header, &config, &url, &request).await?;
    let made = linked.made.take();
    warnings.append(&mut linked.warnings);
    certificates.push(linked.service_key.clone());
    if request.copy {
        certificates.push(assets::new_authority(SystemClock.now())?);
    }
    // The replicas of the lost cluster are strangers to the new one.
    certificates.extend(founding.records(SystemClock.now()));
    let changes = Changes::new(dir, &config, &occupant, &request);
    let (changes, report) = match changes {
        Ok(changes) => {
            // A copy asks nobody, so it may not know them.
            let unasked = request.copy && !header.scope.identity;
            let filling =
                Filling { dir, options, request: &request, config, founding, linked, unasked };
            let identity_target = made.as_ref().map(|made| {
                let (client, token) = (made.client.clone(), made.token.clone());
                Arc::new(Accounts { client, token }) as Arc<dyn IdentityTarget>
            });
            (Some(changes), filling.fill(input, certificates, identity_target).await)
        }
        Err(error) => (None, Err(error)),
    };
    if let Some(made) = made {
        if request.dry_run || report.is_err() {
            if !request.replace_registration {
                warnings.extend(tell_places(&made.former));
            }
            made.take_back().await;
        } else {
            warnings.extend(made.complete(request.replace_registration).await);
        }
    }
    match (report, changes) {
        (Ok(report), changes) => {
            let aside = changes.and_then(|changes| changes.aside);
            let aside = aside.map(|aside| aside.path().to_owned());
            Ok(Outcome::Restored(Box::new(Restored { id, url, report, warnings, aside })))
        }
        (Err(error), changes) => {
            if let Some(changes) = changes {
                changes.undo().await;
            }
            Err(error)
        }
    }
}

/// What a restore makes on this machine, before the archive is read.
struct Filling<'a> {
    dir: &'a DataDir,
    options: &'a ReplicaOptions,
    request: &'a RestoreRequest,
    config: ReplicaConfig,
    founding: Founding,
    linked: Linked,
    /// Whether it is no reason to refuse that owners are not known.
    unasked: bool,
}

impl Filling<'_> {
    async fn fill(
        self,
        input: Input,
        certificates: Vec<CertificateRecord>,
        identity_target: Option<Arc<dyn IdentityTarget>>,
    ) -> Result<RestoreReport, RestoreError> {
        let Self { dir, options, request, config, founding, linked, unasked } = self;
        let refused = |source| InstallError::DataDir { path: dir.root().to_owned(), source };
        let metadata = if request.dry_run {
            Metadata::scratch()
        } else {
            dir.create().map_err(refused)?;
            if dir.etcd().root().exists() {
                // What an unfinished restore left: a member of no cluster.
                std::fs::remove_dir_all(dir.etcd().root()).map_err(refused)?;
            }
            config.save(dir).map_err(InstallError::from)?;
            founding.write(dir).map_err(InstallError::from)?;
            Metadata::open(dir, &config).await.map_err(InstallError::from)?
        };
        let restored = async {
            let catalog = metadata.catalog.clone();
            // Opening a storage makes folders in it, and a dry run makes nothing.
            let looked_at = look_at_storage(dir, &config.storage).await;
            let looked_at = looked_at.map_err(InstallError::from)?;
            let cluster = ClusterId::random(&SystemRandom);
            let place = Place { dir, storage: &config.storage, cluster: &cluster };
            let of_our_kind = place.no_other_kind(&looked_at, options.take_over_storage).await;
            of_our_kind.map_err(InstallError::from)?;
            let blobs: SharedBlobs = match request.dry_run {
                true => Ok(looked_at),
                false => open_storage(dir, &config.storage).await,
            }
            .map_err(InstallError::from)?;
            let target =
                RestoreTarget { catalog, blobs, identity: linked.identity, identity_target };
            let mut how = RestoreOptions::new(env!("CARGO_PKG_VERSION"));
            how.dry_run = request.dry_run;
            how.identity = Some(linked.source);
            how.load_identity = request.with_identity;
            how.owner_map = request.owner_map.clone();
            how.accept_unknown_owners = request.accept_unknown_owners || unasked;
            how.copy = request.copy;
            how.accept_empty_storage = request.accept_empty_storage;
            how.accept_salvaged = request.accept_salvaged;
            let external = options.external_host().map_err(InstallError::from)?;
            how.external_url = external.map(|host| host.to_string());
            how.certificates = certificates;
            how.progress = request.progress.clone();
            let read = read_options(request);
            Ok::<_, RestoreError>(dtr_recovery::restore(input, read, &target, how).await?)
        };
        let restored = restored.await;
        metadata.close().await;
        restored
    }
}

fn io_failed(error: &dyn std::fmt::Display) -> RecoveryError {
    RecoveryError::from(dtr_archive::ArchiveError::from_io(io::Error::other(error.to_string())))
}
