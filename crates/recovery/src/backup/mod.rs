//! A backup: a hold, one revision, and two sides of a channel. One side reads the store page by page and the blob
//! storage block by block (`read`, `images`); the other hashes, signs and writes on a thread that may block (`write`). Both
//! stand behind everything else that wants a processor (`polite`).

mod images;
mod polite;
mod read;
mod report;
mod write;

use std::{io::Write, sync::Arc, time::Duration};

use dtr_archive::{
    Header, IdentityKind, IdentitySource as ArchiveIdentity, Product, Scope, SigningKey,
};
use dtr_blobs::BlobStorage;
use dtr_catalog::{
    Catalog, CatalogError, keys as catalog_keys,
    records::{BackupRecord, ClusterRecord, Event, IdentitySource, KeyPurpose},
};
use dtr_identity::{AccountRecords, Identity};
use dtr_store::{At, SharedStore, StoreError, hold, together::as_known};
use dtr_types::{HoldId, ReplicaId, Revision, Timestamp};
use tokio::sync::mpsc;

pub use report::{BackupReport, NotIncluded};

use crate::{RecoveryError, SCHEMA, keys};

/// How long a hold lives without being extended: so long content stays uncollected after a backup that died.
const HOLD_LIFETIME: Duration = Duration::from_secs(15 * 60);
/// Backups that are remembered.
const BACKUPS_KEPT: usize = 1_000;
/// How often it is extended.
const HOLD_EXTENSION: Duration = Duration::from_secs(60);

/// How far a backup has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// What is being read: a kind of record, or `images`.
    pub phase: &'static str,
    /// Records read.
    pub records: u64,
    /// Blobs of images read.
    pub blobs: u64,
    /// Bytes of them.
    pub blob_bytes: u64,
}

/// Told of progress, several times a second at most a page.
pub type ProgressFn = Arc<dyn Fn(&Progress) + Send + Sync>;

/// What to back up, and how.
#[derive(Clone)]
pub struct BackupOptions {
    /// Whose state it is.
    pub product: Product,
    /// The version of the program.
    pub version: String,
    /// The replica that writes it.
    pub replica: Option<ReplicaId>,
    /// Whether image content goes in.
    pub with_images: bool,
    /// The UCP's accounts, if they shall go in. Those of a built-in identity always do.
    pub identity: Option<AccountRecords>,
    /// Where names of accounts are asked for that are mentioned and not in the archive: an archive with names can be
    /// matched with another UCP.
    pub directory: Option<Arc<dyn Identity>>,
    /// The UCP's own id.
    pub ucp_id: Option<String>,
    /// Whether the output is encrypted by whoever gave it.
    pub encrypted: bool,
    /// Who takes the backup, by name.
    pub by: String,
    /// Its id, in the form of an event's; made when none is given.
    pub id: Option<String>,
    /// Whether the catalog remembers that a backup was sent. It counts when a client confirms that it arrived.
    pub record: bool,
    /// Told how far it is.
    pub progress: Option<ProgressFn>,
}

impl BackupOptions {
    /// A backup of metadata, as it is taken from a registry.
    pub fn new(version: impl Into<String>) -> Self {
        Self {
            product: Product::Dtr,
            version: version.into(),
            replica: None,
            with_images: false,
            identity: None,
            directory: None,
            ucp_id: None,
            encrypted: false,
            by: "system".to_owned(),
            id: None,
            record: true,
            progress: None,
        }
    }
}

/// Releases the hold however the backup ends. If it is dropped in the middle, in a task of its own.
struct Guard {
    store: SharedStore,
    id: Option<HoldId>,
}

impl Guard {
    async fn release(mut self) {
        if let Some(id) = self.id.take()
            && let Err(error) = hold::release(&*self.store, &id).await
        {
            // It ends by itself.
            tracing::warn!(%error, hold = %id, "a backup's hold could not be released");
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(id) = self.id.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let store = self.store.clone();
            runtime.spawn(async move {
                if let Err(error) = hold::release(&*store, &id).await {
                    tracing::warn!(%error, hold = %id, "a backup's hold could not be released");
                }
            });
        }
    }
}

/// Writes everything at one revision to `out`, and gives `out` back, flushed, with a report. If it fails, what was
/// written has no proof and every reader refuses it.
///
/// # Errors
/// [`RecoveryError::NotInstalled`]; [`RecoveryError::HoldLost`] after standing still for a quarter of an hour; failures
/// of the store, the blob storage (with images) and the output.
pub async fn backup<W: Write + Send + 'static>(
    catalog: &Catalog,
    blobs: &Arc<dyn BlobStorage>,
    mut options: BackupOptions,
    out: W,
) -> Result<(W, BackupReport), RecoveryError> {
    let id = options.id.take().unwrap_or_else(|| Event::new_id(catalog.now(), catalog.random()));
    options.id = Some(id.clone());
    let store = catalog.store().clone();
    let (signing, mut held) = match begin(catalog).await {
        Ok(begun) => begun,
        Err(error) if is_without_majority(&error) => {
            tracing::warn!(%error, "a backup is taken of what this replica knows: no majority can be asked");
            return as_known(backup_without_hold(catalog, blobs, options, false, out)).await;
        }
        Err(RecoveryError::Catalog(CatalogError::Store(error @ StoreError::Full { .. }))) => {
            tracing::warn!(%error, "a backup is taken without a hold: the store has no room for one");
            return backup_without_hold(catalog, blobs, options, true, out).await;
        }
        Err(error) => return Err(error),
    };
    let guard = Guard { store: store.clone(), id: Some(held.id.clone()) };
    let at = held.revision;
    let begun = held.record.taken_at;
    let working = async {
        let cluster = catalog.get_at(&catalog_keys::cluster(), At::Revision(at)).await?;
        let cluster = cluster.ok_or(RecoveryError::NotInstalled)?.value;
        let engine = store.status().await?.engine;
        let mut header = header(&options, &cluster, &signing, engine).at(at, begun);
        header.storage = blobs.place();
        let (catalog, blobs, options) = (catalog.clone(), blobs.clone(), options.clone());
        let job = Job { catalog, blobs, options, cluster, begun, confirmed: true };
        job.run(header, signing, out).await
    };
    let holding = async {
        loop {
            tokio::time::sleep(HOLD_EXTENSION).await;
            match hold::extend(&*store, &**catalog.clock(), &mut held, HOLD_LIFETIME).await {
                Ok(()) => {}
                Err(error) if error.may_retry() => {
                    tracing::warn!(%error, "a backup's hold could not be extended yet");
                }
                Err(_) => return RecoveryError::HoldLost,
            }
        }
    };
    let outcome = tokio::select! {
        outcome = working => outcome,
        lost = holding => Err(lost),
    };
    guard.release().await;
    let (out, report) = outcome?;
    if options.record {
        let sent = BackupRecord {
            id,
            started_at: begun,
            finished_at: catalog.now(),
            revision: at,
            records: report.total_records,
            bytes: report.bytes,
            with_images: options.with_images,
            by: options.by.clone(),
            sha256: report.sha256.clone(),
            key_id: report.key_id.clone(),
            missing_blobs: report.missing_blobs.len() as u64,
            confirmed_at: None,
        };
        match catalog.record_backup(&sent, BACKUPS_KEPT).await {
            // The archive is whole, and sent.
            Err(CatalogError::Store(error)) if error.may_retry() => {
                tracing::warn!(%error, "that a backup was taken could not be recorded");
            }
            recorded => recorded?,
        }
    }
    Ok((out, report))
}

/// The key that signs, and a hold on the present.
async fn begin(catalog: &Catalog) -> Result<(SigningKey, hold::Hold), RecoveryError> {
    let signing = keys::signing_key(&keys::ensure_archive_key(catalog).await?)?;
    let (store, clock) = (catalog.store(), catalog.clock());
    let held = hold::take(&**store, &**clock, catalog.random(), "backup", HOLD_LIFETIME).await;
    Ok((signing, held.map_err(CatalogError::from)?))
}

fn is_without_majority(error: &RecoveryError) -> bool {
    let RecoveryError::Catalog(CatalogError::Store(error)) = error else { return false };
    matches!(error, StoreError::Unavailable { .. } | StoreError::Unknown { .. })
}

/// Reads the latest state where nothing can be committed, and so nothing can be held: without a majority, or without room.
/// History is hardly forgotten and content hardly collected then, as both are commits. Should that happen nevertheless,
/// reading fails, and so does the backup; content that is gone is reported as missing. `confirmed` says that it is the latest
/// state of all replicas.
async fn backup_without_hold<W: Write + Send + 'static>(
    catalog: &Catalog,
    blobs: &Arc<dyn BlobStorage>,
    options: BackupOptions,
    confirmed: bool,
    out: W,
) -> Result<(W, BackupReport), RecoveryError> {
    let at = catalog.store().revision().await.map_err(CatalogError::from)?;
    let begun = catalog.now();
    let key = catalog.signing_keys(KeyPurpose::Archive).await?.into_iter().next();
    let signing = keys::signing_key(&key.ok_or(RecoveryError::NotInstalled)?)?;
    let cluster = catalog.get_at(&catalog_keys::cluster(), At::Revision(at)).await?;
    let cluster = cluster.ok_or(RecoveryError::NotInstalled)?.value;
    let engine = catalog.store().status().await.map_err(CatalogError::from)?.engine;
    let mut header = header(&options, &cluster, &signing, engine).at(at, begun);
    header.storage = blobs.place();
    let (catalog, blobs) = (catalog.clone(), blobs.clone());
    let job = Job { catalog, blobs, options, cluster, begun, confirmed };
    job.run(header, signing, out).await
}

fn header(
    options: &BackupOptions,
    cluster: &ClusterRecord,
    key: &SigningKey,
    engine: &str,
) -> Header {
    let built_in = matches!(cluster.identity, IdentitySource::BuiltIn);
    let identity = match &cluster.identity {
        IdentitySource::BuiltIn => {
            ArchiveIdentity { kind: IdentityKind::BuiltIn, url: None, id: None }
        }
        IdentitySource::Ucp { url, .. } => ArchiveIdentity {
            kind: IdentityKind::Ucp,
            url: Some(url.clone()),
            id: options.ucp_id.clone(),
        },
    };
    Header {
        schema: SCHEMA,
        replica_id: options.replica.clone(),
        engine: engine.to_owned(),
        scope: Scope {
            metadata: true,
            images: options.with_images,
            identity: built_in || options.identity.is_some(),
        },
        identity,
        encrypted: options.encrypted,
        ..Header::new(options.product, &options.version, cluster.id.clone(), key)
    }
}

/// One backup under way.
#[derive(Clone)]
struct Job {
    catalog: Catalog,
    blobs: Arc<dyn BlobStorage>,
    options: BackupOptions,
    cluster: ClusterRecord,
    begun: Timestamp,
    /// Whether a majority says that this is the latest state.
    confirmed: bool,
}

impl Job {
    /// Reads everything and hands it to the writer.
    async fn read(
        self,
        writer: mpsc::Sender<write::Piece>,
        at: Revision,
    ) -> Result<read::Sums, RecoveryError> {
        let mut reading = read::Reading::new(&self, writer, at).await?;
        reading.records().await?;
        if self.options.with_images {
            reading.images().await?;
        }
        reading.finish().await?;
        Ok(reading.sums())
    }

    async fn run<W: Write + Send + 'static>(
        self,
        header: Header,
        key: SigningKey,
        out: W,
    ) -> Result<(W, BackupReport), RecoveryError> {
        let at = header.revision;
        let started = std::time::Instant::now();
        let (writer, done) = write::start(out, header, key)?;
        let reading = self.clone().read(writer, at);
        let read = match self.confirmed {
            true => polite::run("archive-read", reading).await,
            false => polite::run("archive-read", as_known(reading)).await,
        };
        let read = read.unwrap_or(Err(RecoveryError::Stopped("the archive's reader")));
        // If the writer failed, that made the reading stop; unless it was only given up, as the reading had failed.
        let written = done.await.map_err(|_| RecoveryError::Stopped("the archive's writer"));
        let sums = match (read, &written) {
            (Ok(sums), _) => sums,
            (Err(_), Ok(Err(why))) if !matches!(why, RecoveryError::Stopped(_)) => {
                read::Sums::default()
            }
            (Err(error), _) => return Err(error),
        };
        let (out, summary) = written??;
        let report = report::make(&self, at, sums, &summary, started.elapsed());
        Ok((out, report))
    }
}
