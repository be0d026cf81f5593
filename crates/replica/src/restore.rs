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

use dtr_archive::{ArchiveReader, Header, IdentityKind, Keys, ReadOptions};
use dtr_blobs::SharedBlobs;
use dtr_catalog::records::{CertificateRecord, IdentitySource, Service};
use dtr_identity::{
    AccountRecords, Identity, IdentityError, ImportAnswer, Remote, RemoteOptions, UcpClient,
    UcpError,
};
use dtr_recovery::{
    IdentityTarget, OwnerMap, ProgressFn, RecoveryError, Refusal, RestoreOptions, RestoreReport,
    RestoreTarget,
};
use dtr_types::{Clock as _, ClusterId, Random as _, ReplicaId, Secret, SystemClock, SystemRandom};

use crate::{
    ConfigError, DataDir, InstallError, ReplicaConfig, ReplicaOptions, UcpLogin, assets,
    install::{external_host, login, registration_form, replace_former},
    metadata::Metadata,
    storage::{check_storage, is_nowhere, open_folder, open_storage},
};

/// How an archive is restored.
#[derive(Clone, Default)]
pub struct RestoreRequest {
    /// Who acts at the identity service, if one was named.
    pub ucp: Option<UcpLogin>,
    /// What opens an encrypted archive.
    pub keys: Keys,
    /// The id of the only signing key that is accepted, or the beginning of it.
    pub signed_by: Option<String>,
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
    /// Another key signed it.
    #[error("the archive is signed by key {found}, not by \"{wanted}\"; nothing was changed")]
    OtherSigner {
        /// Whose signature is wanted.
        wanted: String,
        /// Whose it is.
        found: String,
    },
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
            | Self::OtherSigner { .. }
            | Self::Install(InstallError::Occupied(_) | InstallError::Foreign { .. }) => {
                dtr_recovery::Exit::Refused
            }
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
    ReadOptions { keys: request.keys.clone(), ..ReadOptions::default() }
}

/// What the restored cluster is to know of its identity service, made before anything is restored.
struct Linked {
    source: IdentitySource,
    identity: Option<Arc<dyn Identity>>,
    service_key: Option<CertificateRecord>,
    /// The registration that was made: it goes again when it was only to look, or nothing came of it.
    made: Option<(UcpClient, Secret, Service)>,
    warnings: Vec<String>,
}

impl Linked {
    fn built_in(warnings: Vec<String>) -> Self {
        Self {
            source: IdentitySource::BuiltIn,
            identity: None,
            service_key: None,
            made: None,
            warnings,
        }
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
    let Some(ucp) = &request.ucp else {
        if built_in || request.with_identity {
            return Ok(Linked::built_in(Vec::new()));
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
            return Ok(Linked::built_in(vec![warning]));
        }
        Err(error) => return Err(error.into()),
    }
    if built_in && is_registry(ucp).await {
        let warning = format!(
            "a registry answers at {}, not a UCP: the restored registry keeps its own accounts",
            ucp.url
        );
        return Ok(Linked::built_in(vec![warning]));
    }
    register(config, url, ucp, request.dry_run).await
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

async fn register(
    config: &ReplicaConfig,
    url: &str,
    ucp: &UcpLogin,
    dry_run: bool,
) -> Result<Linked, RestoreError> {
    let key = assets::new_service_key(SystemClock.now()).map_err(InstallError::from)?;
    let (client, answer) = login(ucp).await?;
    // The authority is in the archive; what is registered is completed when the registry serves.
    let mut form = registration_form(url, config, key.certificate.clone(), String::new());
    form.ca_bundle = None;
    if dry_run {
        form.name = Some(format!("dtr-dry-run-{}", SystemRandom.hex(6)));
    }
    let service = client.register_service(&answer, &form).await.map_err(InstallError::from)?;
    let ca = (!ucp.ca.trim().is_empty()).then_some(ucp.ca.as_str());
    let tls =
        dtr_transport::tls::client_config(ca, ucp.insecure_tls).map_err(InstallError::from)?;
    let options = RemoteOptions {
        url: client.url().to_owned(),
        service: service.id.clone(),
        private_key: key.private_key.clone(),
    };
    let remote = Remote::new(options, tls, Arc::new(SystemClock), Arc::new(SystemRandom))?;
    let made = Some((client.clone(), answer.session_token.clone(), service.clone()));
    Ok(Linked {
        source: IdentitySource::Ucp {
            url: client.url().to_owned(),
            ca: ucp.ca.clone(),
            insecure_tls: ucp.insecure_tls,
            service: Some(service.id),
        },
        identity: Some(Arc::new(remote)),
        service_key: Some(key),
        made,
        warnings: Vec::new(),
    })
}

/// Makes a replica from an archive. It is not started.
///
/// # Errors
/// [`RestoreError`]; nothing is left that serves. A restore that was cut off runs again with the same arguments.
pub async fn restore(
    dir: &DataDir,
    options: &ReplicaOptions,
    request: RestoreRequest,
    input: Box<dyn Read + Send>,
) -> Result<Restored, RestoreError> {
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
    if let Some(wanted) = &request.signed_by
        && (wanted.len() < 32 || !header.signer.key_id.starts_with(&wanted.to_ascii_lowercase()))
    {
        return Err(RestoreError::OtherSigner {
            wanted: wanted.clone(),
            found: header.signer.key_id.clone(),
        });
    }
    if crate::running(dir).is_some() {
        return Err(InstallError::Occupied(dir.root().to_owned()).into());
    }
    crate::install::only_ours(dir)?;
    if is_complete(dir).await? {
        return Err(InstallError::Occupied(dir.root().to_owned()).into());
    }
    check_storage(&config.storage).await.map_err(InstallError::from)?;
    let founding = options
        .store
        .found(options, &id, &ClusterId::random(&SystemRandom))
        .map_err(InstallError::from)?;
    config.store = founding.config.clone();
    let linked = link(&header, &config, &url, &request).await?;
    warnings.extend(linked.warnings);
    certificates.extend(linked.service_key);
    // The replicas of the lost cluster are strangers to the new one.
    certificates.extend(founding.records(SystemClock.now()));
    let refused = |source| InstallError::DataDir { path: dir.root().to_owned(), source };
    let empty_before = !dir.is_occupied().map_err(refused)?;
    let metadata = if request.dry_run {
        Metadata::scratch()
    } else {
        dir.create().map_err(refused)?;
        config.save(dir).map_err(InstallError::from)?;
        founding.write(dir).map_err(InstallError::from)?;
        Metadata::open(dir, &config).await.map_err(InstallError::from)?
    };
    let catalog = metadata.catalog.clone();
    // Opening a storage makes its folder, and a dry run makes nothing: one that is not there is as empty as this one.
    let nowhere = request.dry_run && is_nowhere(dir, &config.storage);
    let nowhere = nowhere.then(Nowhere::new);
    let blobs: SharedBlobs = match &nowhere {
        Some(nowhere) => open_folder(&nowhere.0).await,
        None => open_storage(dir, &config.storage).await,
    }
    .map_err(InstallError::from)?;
    let identity_target = linked.made.as_ref().map(|(client, token, _)| {
        let (client, token) = (client.clone(), token.clone());
        Arc::new(Accounts { client, token }) as Arc<dyn IdentityTarget>
    });
    let target = RestoreTarget { catalog, blobs, identity: linked.identity, identity_target };
    let mut how = RestoreOptions::new(env!("CARGO_PKG_VERSION"));
    how.dry_run = request.dry_run;
    how.identity = Some(linked.source);
    how.load_identity = request.with_identity;
    how.owner_map = request.owner_map.clone();
    how.accept_unknown_owners = request.accept_unknown_owners;
    how.accept_empty_storage = request.accept_empty_storage;
    how.external_url = options.external_url.as_deref().map(external_host).transpose()?;
    how.certificates = certificates;
    how.progress = request.progress.clone();
    let read = read_options(&request);
    let report = dtr_recovery::restore(input, read, &target, how).await;
    if let Some((client, token, service)) = linked.made {
        if request.dry_run || report.is_err() {
            if let Err(error) = client.delete_service(&token, &service.id).await {
                tracing::warn!(%error, service = service.name, "the registration with the UCP could not be taken back");
            }
        } else {
            warnings.extend(replace_former(&client, &token, &service).await);
        }
    }
    drop(target);
    metadata.close().await;
    if report.is_err() && !request.dry_run && empty_before {
        empty(dir.root());
    }
    let report = report?;
    Ok(Restored { id, url, report, warnings })
}

/// Whether there is a replica in a data directory that can serve; what a restore left that was cut off makes way for the
/// next, which begins from the start.
async fn is_complete(dir: &DataDir) -> Result<bool, RestoreError> {
    let etcd = dir.etcd();
    let began = dir.store_file().exists() || etcd.root().exists();
    // Without its configuration, nothing was ever put there.
    let config = match ReplicaConfig::load(dir) {
        Ok(config) if began => config,
        Ok(_) | Err(ConfigError::NotInstalled(_)) => return Ok(false),
        Err(error) => return Err(InstallError::from(error).into()),
    };
    let known = Metadata::open(dir, &config).await.map_err(InstallError::from)?;
    let cluster = known.catalog.cluster().await;
    known.close().await;
    let complete = cluster.map_err(InstallError::from)?.is_some();
    if !complete && etcd.root().exists() {
        std::fs::remove_dir_all(etcd.root())
            .map_err(|source| InstallError::DataDir { path: etcd.root().to_owned(), source })?;
    }
    Ok(complete)
}

/// An empty folder for as long as it is needed.
struct Nowhere(PathBuf);

impl Nowhere {
    fn new() -> Self {
        Self(std::env::temp_dir().join(format!("dtr-dry-run-{}", SystemRandom.hex(8))))
    }
}

impl Drop for Nowhere {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, path = %self.0.display(), "a temporary folder could not be removed");
        }
    }
}

/// A folder that was empty before is so again. What cannot be removed is removed by the next restore, or by "destroy".
fn empty(folder: &std::path::Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let removed = match entry.file_type() {
            Ok(kind) if kind.is_dir() => std::fs::remove_dir_all(&path),
            _ => std::fs::remove_file(&path),
        };
        if let Err(error) = removed {
            tracing::warn!(%error, path = %path.display(), "what a refused restore made could not be removed");
        }
    }
}

fn io_failed(error: &dyn std::fmt::Display) -> RecoveryError {
    RecoveryError::from(dtr_archive::ArchiveError::from_io(io::Error::other(error.to_string())))
}
