//! The life of a replica on its machine, besides serving: started in the background, stopped, backed up while it does not
//! run, removed.

use std::{fs, io, path::PathBuf, time::Duration};

use dtr_blobs::SharedBlobs;
use dtr_catalog::{
    CatalogError, Kind,
    records::{BackupRecord, Repository},
};
use dtr_recovery::{BackupOptions, BackupReport, RecoveryError};
use dtr_service::{ServiceError, spawn_detached, systemd};
use dtr_store::{At, together::as_known};
use dtr_types::NotOurs;

use crate::{
    ConfigError, DataDir, Metadata, OpenError, ReplicaConfig, ServeError, StorageConfig,
    StoreConfig, SurvivorError,
    metadata::MAJORITY_MAX,
    serve::{opened, understood},
    survivor::Survivor,
};

/// How long a start may take.
const START_MAX: Duration = Duration::from_secs(60);
/// How long a stop may take: requests in flight are finished.
const STOP_MAX: Duration = Duration::from_secs(90);
/// The data directory whose replica runs as a unit of systemd.
const UNIT_ROOT: &str = "/var/lib/dtr";

fn unit(dir: &DataDir, program: &std::path::Path) -> systemd::Unit {
    let program = program.display().to_string();
    // A share that is named by its address is mounted by the replica itself.
    let mounts = match ReplicaConfig::load(dir).map(|config| config.storage) {
        Ok(StorageConfig::Filesystem { root: Some(root) }) => vec![root],
        _ => Vec::new(),
    };
    systemd::Unit {
        name: "dtr".to_owned(),
        description: "DTR, the container registry".to_owned(),
        command: vec![program, "serve".to_owned(), "--data-dir".to_owned(), UNIT_ROOT.to_owned()],
        mounts,
    }
}

/// Starts an installed replica in the background and returns when it serves; says how. `program` is `dtr` itself.
///
/// # Errors
/// [`ServiceError`] with the end of the replica's log when it ended again.
pub async fn start(dir: &DataDir, program: PathBuf) -> Result<String, ServiceError> {
    let root = dir.root();
    if systemd::is_available() && root == std::path::Path::new(UNIT_ROOT) {
        let unit = unit(dir, &program);
        tokio::task::spawn_blocking(move || unit.start()).await.map_err(|error| {
            ServiceError::Failed { program: "systemctl".to_owned(), message: error.to_string() }
        })??;
        return Ok("started by systemd as dtr.service".to_owned());
    }
    let args = ["serve".as_ref(), "--detached".as_ref(), "--data-dir".as_ref(), root.as_os_str()];
    let process = spawn_detached(&program, args, &dir.log_file())?;
    let pid = process.wait_until_ready(START_MAX, || is_ready(dir)).await?;
    Ok(format!("started as process {pid}; its log is {}", dir.log_file().display()))
}

/// Whether the replica of a directory serves and is healthy.
pub async fn is_ready(dir: &DataDir) -> bool {
    ping(dir).await.is_ok()
}

/// Asks the replica of a directory for its health.
///
/// # Errors
/// [`ServiceError`]: it does not run, or says what is wrong with it.
pub async fn ping(dir: &DataDir) -> Result<(), ServiceError> {
    let mut request = http::Request::new(bytes::Bytes::new());
    *request.uri_mut() = http::Uri::from_static("/_ping");
    dtr_service::local::call(dir.root(), request).await.map(drop)
}

/// The process that serves a directory, if one does.
pub fn running(dir: &DataDir) -> Option<u32> {
    dtr_service::running(&dir.pid_file())
}

/// Stops the replica of a directory and waits until it has. `false` when it did not run.
pub async fn stop(dir: &DataDir) -> Result<bool, ServiceError> {
    let path = dir.pid_file();
    let stopped = tokio::task::spawn_blocking(move || dtr_service::stop(&path, STOP_MAX)).await;
    stopped.map_err(|error| ServiceError::Failed {
        program: "stopping the replica".to_owned(),
        message: error.to_string(),
    })?
}

/// Why a replica was not removed.
#[derive(Debug, thiserror::Error)]
pub enum DestroyError {
    /// It could not be stopped.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// Its configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// There is something that is not a replica's.
    #[error(
        "{path} holds \"{found}\", which is not a replica's: nothing was removed. Is it the right folder?"
    )]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// What was found there.
        found: String,
    },
    /// The image content is another cluster's by now.
    #[error(
        "the image content in {path} is not this replica's any more: {why}. Nothing was removed; give --keep-storage"
    )]
    NotOurs {
        /// Where it is.
        path: PathBuf,
        /// Whose it is.
        why: NotOurs,
    },
    /// The folder could not be put aside.
    #[error(
        "{path} cannot be put aside: {source}. A mount point, as the volume of a container is, cannot be renamed: give another \
         data directory, or take a backup and destroy what is there"
    )]
    Aside {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file could not be removed.
    #[error("{path} could not be removed: {source}")]
    Remove {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What a replica may have in its data directory.
const OURS: &[&str] = &[
    "replica.json",
    "store.redb",
    "etcd",
    "web.pem",
    "blobs",
    "local.sock",
    "dtr.pid",
    "dtr.log",
    "lost+found",
];

/// What `destroy` removes.
#[derive(Clone, Debug)]
pub struct DestroyPlan {
    dir: DataDir,
    /// Everything in the data directory that is the replica's.
    pub files: Vec<PathBuf>,
    /// Image content outside of it.
    pub storage: Option<PathBuf>,
    /// Image content inside of it that stays.
    pub kept: Option<PathBuf>,
    /// Where a share is mounted that is to be let go; what is on it stays.
    share: Option<PathBuf>,
}

/// Says what would be removed; refuses a folder with something in it that is not a replica's. With `keep_storage` image
/// content stays wherever it is.
///
/// # Errors
/// [`DestroyError::Foreign`], [`ConfigError::NotInstalled`] for no folder.
pub fn plan_destroy(dir: &DataDir, keep_storage: bool) -> Result<DestroyPlan, DestroyError> {
    let refused = |source| DestroyError::Remove { path: dir.root().to_owned(), source };
    let entries = match fs::read_dir(dir.root()) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(ConfigError::NotInstalled(dir.root().to_owned()).into());
        }
        Err(error) => return Err(refused(error)),
    };
    let (mut files, mut kept) = (Vec::new(), None);
    for entry in entries {
        let entry = entry.map_err(refused)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let part = OURS.iter().any(|ours| name.starts_with(&format!(".{ours}")));
        if !OURS.contains(&name.as_str()) && !part {
            return Err(DestroyError::Foreign { path: dir.root().to_owned(), found: name });
        }
        if name == "blobs" && keep_storage {
            kept = Some(entry.path());
        } else if name != "lost+found" {
            files.push(entry.path());
        }
    }
    let config = ReplicaConfig::load(dir);
    let mounts = |config: &ReplicaConfig| matches!(config.storage, StorageConfig::Nfs { .. });
    let share = config.as_ref().is_ok_and(mounts).then(|| dir.nfs());
    let storage = match config {
        Ok(config) if !keep_storage => match config.storage {
            // The other replicas go on with it, and a later one may.
            StorageConfig::Filesystem { .. } if config.store != StoreConfig::Embedded => None,
            StorageConfig::Filesystem { root } => root,
            // A bucket is shared, and its owner empties it.
            StorageConfig::S3(_) | StorageConfig::Nfs { .. } => None,
        },
        _ => None,
    };
    Ok(DestroyPlan { dir: dir.clone(), files, storage, kept, share })
}

impl DestroyPlan {
    /// What goes of image content outside the data directory.
    fn content(&self) -> Vec<PathBuf> {
        let parts = ["docker", "uploads", "removed", "dtr-storage.json"];
        let root = self.storage.as_ref();
        root.map_or_else(Vec::new, |root| parts.map(|part| root.join(part)).to_vec())
    }

    /// What is lost by it, from the files and, where the replica does not run, from its store. Whoever runs is to be asked
    /// for the rest.
    pub async fn loss(&self) -> Loss {
        let paths = [self.files.clone(), self.content()].concat();
        let (bytes, files) = paths
            .iter()
            .map(|path| sizes(path))
            .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        Loss { bytes, files, known: known(&self.dir).await }
    }
}

/// What a replica's removal takes away.
#[derive(Clone, Debug)]
pub struct Loss {
    /// Bytes of all files.
    pub bytes: u64,
    /// Files.
    pub files: u64,
    /// What its store says; `None` when that could not be asked.
    pub known: Option<Known>,
}

/// What a store says of the registry in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Repositories.
    pub repositories: u64,
    /// The last backup that counts.
    pub last_backup: Option<BackupRecord>,
}

/// Bytes and files below a path.
fn sizes(path: &std::path::Path) -> (u64, u64) {
    let Ok(found) = fs::symlink_metadata(path) else { return (0, 0) };
    if !found.is_dir() {
        return (found.len(), 1);
    }
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .map(|entry| sizes(&entry.path()))
        .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
}

async fn known(dir: &DataDir) -> Option<Known> {
    let config = ReplicaConfig::load(dir).ok()?;
    // An etcd is shared: what it has is not lost with one of its replicas.
    if config.store != StoreConfig::Embedded || running(dir).is_some() || !dir.store_file().exists()
    {
        return None;
    }
    let metadata = Metadata::open(dir, &config).await.ok()?;
    let catalog = &metadata.catalog;
    let asked = async {
        let (mut repositories, mut after) = (0, None);
        loop {
            let prefix = Kind::Repository.prefix().as_bytes();
            let page = catalog.list::<Repository>(prefix, after.as_deref(), 0, At::Latest).await?;
            repositories += page.items.len() as u64;
            after = page.items.last().map(|found| found.value.id.to_string());
            if !page.more || after.is_none() {
                break;
            }
        }
        let last_backup = catalog.last_backups().await?.confirmed;
        Ok::<_, CatalogError>(Known { repositories, last_backup })
    };
    let asked = asked.await;
    metadata.close().await;
    asked.ok()
}

/// Stops the replica and removes what the plan says. Of image content outside the data directory only what is a
/// registry's goes: the folder itself and anything else in it stay.
pub async fn destroy(plan: &DestroyPlan) -> Result<(), DestroyError> {
    stop(&plan.dir).await?;
    if let Some(root) = &plan.storage
        && let Some(why) = crate::mark::taken_over(&plan.dir).await
    {
        return Err(DestroyError::NotOurs { path: root.clone(), why });
    }
    // The store goes last: until then a second run finds what is left to remove.
    let mut files = plan.files.clone();
    files.sort_by_key(|path| path.ends_with("store.redb") || path.ends_with("replica.json"));
    for part in plan.content() {
        remove(&part)?;
    }
    if let Some(share) = &plan.share {
        let refused = |source| DestroyError::Remove { path: share.clone(), source };
        crate::nfs::take_back(share).await.map_err(refused)?;
    }
    for file in files {
        remove(&file)?;
    }
    match fs::remove_dir(plan.dir.root()) {
        Ok(()) => Ok(()),
        // A mounted volume stays, empty.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::ResourceBusy
                    | io::ErrorKind::DirectoryNotEmpty
                    | io::ErrorKind::NotFound
            ) =>
        {
            Ok(())
        }
        Err(source) => Err(DestroyError::Remove { path: plan.dir.root().to_owned(), source }),
    }
}

fn remove(path: &std::path::Path) -> Result<(), DestroyError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => Err(error),
    };
    removed.map_err(|source| DestroyError::Remove { path: path.to_owned(), source })
}

/// Why a replica that does not run was not backed up.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// It cannot be opened.
    #[error(transparent)]
    Open(#[from] ServeError),
    /// Its configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The backup failed.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    /// What was written could not be brought to where it is to be.
    #[error(transparent)]
    Output(#[from] io::Error),
    /// There is no majority, and what the replica knows cannot be read.
    #[error(transparent)]
    Survivor(#[from] SurvivorError),
}

/// A backup of a replica that does not run, straight from its files. Where its etcd has no majority, of what this replica
/// knows, which the report says. `finish` brings the output to where it is to be; only then is it a backup that counts.
pub async fn backup_offline<W: io::Write + Send + 'static>(
    dir: &DataDir,
    mut options: BackupOptions,
    out: W,
    finish: impl FnOnce(W) -> io::Result<()> + Send + 'static,
) -> Result<BackupReport, OfflineError> {
    let config = ReplicaConfig::load(dir)?;
    options.replica = Some(config.id.clone());
    let metadata = Metadata::begin(dir, &config).await.map_err(ServeError::from)?;
    match metadata.ready(MAJORITY_MAX).await {
        Ok(()) => {
            let opened = opened(metadata, dir, &config).await?;
            let backup = backup_opened(&opened, options, out, finish).await;
            opened.close().await;
            backup
        }
        Err(error) if error.may_pass() && Survivor::is_possible(&config) => {
            metadata.close().await;
            let survivor = Survivor::open(dir, &config, &error.to_string()).await?;
            let backup = backup_known(&survivor, dir, &config, options, out).await;
            survivor.close().await;
            let (out, report) = backup?;
            finished(out, finish).await?;
            Ok(report)
        }
        Err(error) => {
            metadata.close().await;
            Err(ServeError::from(OpenError::from(error)).into())
        }
    }
}

async fn finished<W: Send + 'static>(
    out: W,
    finish: impl FnOnce(W) -> io::Result<()> + Send + 'static,
) -> io::Result<()> {
    tokio::task::spawn_blocking(move || finish(out)).await.map_err(io::Error::other)?
}

async fn backup_opened<W: io::Write + Send + 'static>(
    opened: &crate::Opened,
    options: BackupOptions,
    out: W,
    finish: impl FnOnce(W) -> io::Result<()> + Send + 'static,
) -> Result<BackupReport, OfflineError> {
    let (catalog, blobs) = (&opened.catalog, &opened.blobs);
    let (out, report) = dtr_recovery::backup(catalog, blobs, options, out).await?;
    finished(out, finish).await?;
    if let Err(error) = catalog.confirm_backup(&report.id, &report.sha256, None).await {
        tracing::warn!(%error, "the archive is complete, but that it is was not recorded");
    }
    Ok(report)
}

async fn backup_known<W: io::Write + Send + 'static>(
    survivor: &Survivor,
    dir: &DataDir,
    config: &ReplicaConfig,
    options: BackupOptions,
    out: W,
) -> Result<(W, BackupReport), OfflineError> {
    let (_, blobs) = as_known(understood(&survivor.catalog, dir, config)).await?;
    let blobs: SharedBlobs = blobs;
    Ok(dtr_recovery::backup(&survivor.catalog, &blobs, options, out).await?)
}
