//! A restore: read, load, prove, decide, switch.
//!
//! The input may be a pipe and cannot be read twice, and much is known only at its end: whether the signature fits,
//! whether every owner is known, whether the storage has what the records need. So everything is loaded as it comes, into
//! a store that nobody serves (it has no cluster's record, but the mark of an unfinished restore) and into uploads that
//! nobody sees. Whatever is refused then is refused by throwing that away. The last commit exchanges the mark for the
//! cluster's record: before it there is no registry, after it there is a whole one. Killed in between, the next restore
//! finds the mark and starts over.

mod handover;
mod images;
mod load;
mod owners;
mod report;

use std::{io::Read, sync::Arc, time::Instant};

use dtr_archive::{Header, IdentityKind, Product, ReadOptions};
use dtr_blobs::BlobStorage;
use dtr_catalog::{
    Catalog, CatalogError, RestoreStart, keys as catalog_keys,
    records::{
        CertificateRecord, ClusterRecord, DATA_FORMAT, IdentitySource, RestoreRecord, RestoredFrom,
        StorageRecord,
    },
};
use dtr_identity::{AccountRecords, Identity, ImportAnswer};
use dtr_types::{ClusterId, StorageMark};

pub use owners::{OwnerMap, OwnerMapError, OwnerReport};
pub use report::RestoreReport;

use crate::{
    ProgressFn, RecoveryError, Refusal, keys,
    pump::{Piece, Pump},
    verify::{self, Checks},
};

/// Takes the accounts of an archive over into an identity service that is elsewhere: a UCP.
#[async_trait::async_trait]
pub trait IdentityTarget: Send + Sync {
    /// What would become of the accounts if they were loaded; nothing is.
    ///
    /// # Errors
    /// [`Refusal::Accounts`] for what the service does not take; [`RecoveryError::Identity`] when it does not answer.
    async fn check(&self, records: &AccountRecords) -> Result<ImportAnswer, RecoveryError>;

    /// Makes what is not there yet: accounts with their ids where the service allows that, organizations, teams,
    /// memberships. What is there already, by id or by name, stays as it is. May be called again.
    ///
    /// # Errors
    /// As [`IdentityTarget::check`]; a part may have been made by then.
    async fn load(&self, records: AccountRecords) -> Result<ImportAnswer, RecoveryError>;
}

/// Where to.
#[derive(Clone)]
pub struct RestoreTarget {
    /// Over a store that is empty, or that an unfinished restore left. Nobody else may have it.
    pub catalog: Catalog,
    /// The blob storage that the restored registry will use.
    pub blobs: Arc<dyn BlobStorage>,
    /// The identity service that will say who is who, if that is a UCP.
    pub identity: Option<Arc<dyn Identity>>,
    /// The way to load accounts into it.
    pub identity_target: Option<Arc<dyn IdentityTarget>>,
}

/// What to restore, and how. What is given here wins over what the archive says.
#[derive(Clone)]
pub struct RestoreOptions {
    /// Whose state is wanted.
    pub product: Product,
    /// The version of the program.
    pub version: String,
    /// Only say what would happen.
    pub dry_run: bool,
    /// Who will say who is who; as in the archive when not given.
    pub identity: Option<IdentitySource>,
    /// Whether the archive's accounts are loaded. (From a built-in identity into a built-in one they always are.)
    pub load_identity: bool,
    /// Accounts and teams of the archive that are others here.
    pub owner_map: OwnerMap,
    /// Whether the restored registry is a copy beside the original, for a rehearsal: nothing of it is good at the original. It
    /// gets an authority of its own, access tokens are switched off, no service is registered with it, clients are told no
    /// address, and a storage that another cluster has is refused.
    pub copy: bool,
    /// Whether owners that nobody knows are no reason to refuse.
    pub accept_unknown_owners: bool,
    /// Whether a storage without any of the blobs is no reason to refuse.
    pub accept_empty_storage: bool,
    /// Whether an archive that was salvaged from a damaged one is no reason to refuse.
    pub accept_salvaged: bool,
    /// The address that clients will use, `host[:port]`.
    pub external_url: Option<String>,
    /// Certificates that take the place of those of the same name in the archive; of all of them in a copy.
    pub certificates: Vec<CertificateRecord>,
    /// Told how far it is.
    pub progress: Option<ProgressFn>,
}

impl RestoreOptions {
    /// A restore of a registry as the archive has it.
    pub fn new(version: impl Into<String>) -> Self {
        Self {
            product: Product::Dtr,
            version: version.into(),
            dry_run: false,
            identity: None,
            load_identity: false,
            owner_map: OwnerMap::default(),
            copy: false,
            accept_unknown_owners: false,
            accept_empty_storage: false,
            accept_salvaged: false,
            external_url: None,
            certificates: Vec::new(),
            progress: None,
        }
    }
}

/// Where the archive's accounts go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Accounts {
    /// Into the store: the identity is built in.
    Store,
    /// To a UCP.
    Service,
    /// Nowhere: they only tell names.
    Nowhere,
}

/// Restores an archive. On success the store has a cluster and may be served; on failure it is as empty as before.
///
/// # Errors
/// [`RecoveryError::Refused`]; an archive that is damaged, cut, altered, newer or locked; failures of store, storage and
/// identity service. If the process is killed, or the clean-up itself fails, the store keeps the mark of an unfinished
/// restore: it is not served, and the next restore cleans it.
pub async fn restore<R: Read + Send + 'static>(
    input: R,
    read: ReadOptions,
    target: &RestoreTarget,
    options: RestoreOptions,
) -> Result<RestoreReport, RecoveryError> {
    let started = Instant::now();
    let catalog = &target.catalog;
    if !catalog.is_restorable().await? {
        let found = match catalog.cluster().await? {
            Some(cluster) => format!("cluster {}", cluster.id),
            None => "records of something else".to_owned(),
        };
        return Err(Refusal::NotEmpty { found }.into());
    }
    if options.copy {
        not_taken(target).await?;
    }
    let known = read.known.clone();
    let mut pump = Pump::start(input, read)?;
    let (header, encrypted) = pump.header().await?;
    let signer = verify::signer(&known, &header)?;
    let job = Job::new(target, &options, *header)?;
    let checks = Checks::new(&job.header)?;
    let mut cleaned = false;
    if !options.dry_run {
        let mark = RestoreRecord {
            cluster: job.header.cluster_id.clone(),
            revision: job.header.revision,
            started_at: catalog.now(),
            version: options.version.clone(),
        };
        cleaned = match catalog.begin_restore(&mark).await {
            Ok(start) => start == RestoreStart::Cleaned,
            Err(CatalogError::Exists { kind, name }) => {
                return Err(Refusal::NotEmpty { found: format!("{kind} {name}") }.into());
            }
            Err(error) => return Err(error.into()),
        };
    }
    let mut staging = images::Staging::new(target.blobs.clone(), catalog.random());
    let outcome = job.run(&mut pump, checks, &mut staging).await;
    drop(pump);
    match outcome {
        Ok(mut report) => {
            staging.clear().await;
            report.signer = signer;
            report.encrypted = encrypted;
            report.cleaned = cleaned;
            report.duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            Ok(report)
        }
        Err(error) => {
            staging.clear().await;
            if !options.dry_run
                && let Err(error) = catalog.discard_restore().await
            {
                tracing::warn!(%error, "a restore that was given up could not be removed; the next one does");
            }
            Err(error)
        }
    }
}

/// Refuses a storage that a cluster has: a copy would take it away from it. One that an unfinished restore into this very
/// store took is its own.
async fn not_taken(target: &RestoreTarget) -> Result<(), RecoveryError> {
    let Some(mark) = target.blobs.mark().await.map_err(RecoveryError::Storage)? else {
        return Ok(());
    };
    let own = target.catalog.get(&catalog_keys::storage()).await?;
    if own.is_some_and(|own| own.value.mark == mark) {
        return Ok(());
    }
    Err(Refusal::StorageTaken { cluster: mark.cluster.to_string() }.into())
}

/// One restore under way.
struct Job<'a> {
    target: &'a RestoreTarget,
    options: &'a RestoreOptions,
    header: Header,
    accounts: Accounts,
}

impl<'a> Job<'a> {
    /// What can be decided from the header alone.
    fn new(
        target: &'a RestoreTarget,
        options: &'a RestoreOptions,
        header: Header,
    ) -> Result<Self, RecoveryError> {
        if header.product != options.product {
            return Err(Refusal::OtherProduct {
                found: header.product.as_str(),
                expected: options.product.as_str(),
            }
            .into());
        }
        let from_built_in = header.identity.kind == IdentityKind::BuiltIn;
        let to_built_in = match &options.identity {
            Some(identity) => matches!(identity, IdentitySource::BuiltIn),
            None => from_built_in,
        };
        if options.load_identity && !header.scope.identity {
            return Err(Refusal::NoIdentity.into());
        }
        // A copy asks nobody: it knows those whom the archive has.
        let load = options.load_identity || (options.copy && header.scope.identity);
        let accounts = match (to_built_in, load) {
            (true, load) if load || from_built_in => Accounts::Store,
            (false, true) => Accounts::Service,
            _ => Accounts::Nowhere,
        };
        Ok(Self { target, options, header, accounts })
    }

    async fn run(
        &self,
        pump: &mut Pump,
        checks: Checks,
        staging: &mut images::Staging,
    ) -> Result<RestoreReport, RecoveryError> {
        let mut loading = load::Loading::new(self, checks);
        let outcome = self.whole(pump, &mut loading, staging).await;
        if outcome.is_err() {
            loading.abandon().await;
        }
        outcome
    }

    async fn whole(
        &self,
        pump: &mut Pump,
        loading: &mut load::Loading<'_>,
        staging: &mut images::Staging,
    ) -> Result<RestoreReport, RecoveryError> {
        loop {
            match pump.next().await? {
                Piece::Header(..) => {}
                Piece::Lines(lines) => loading.lines(&lines).await?,
                Piece::BlobBegin(digest) => {
                    loading.checks.image(&digest);
                    if loading.wants(&digest).await? {
                        staging.begin(digest).await?;
                    }
                    loading.would_come(&digest);
                }
                Piece::BlobChunk(bytes) => staging.chunk(bytes).await?,
                Piece::BlobEnd => {
                    if let Some(digest) = staging.end().await? {
                        loading.has_come(&digest);
                    }
                }
                Piece::End(proof) => {
                    loading.checks.finish(&self.header, &proof);
                    break;
                }
            }
        }
        // Everything was read, every hash fits, and so does the signature. From here on it is about what is here.
        loading.finish().await?;
        if let Some(salvaged) = &loading.checks.salvaged
            && !self.options.accept_salvaged
        {
            return Err(Refusal::Salvaged { lost: salvaged.lost.count }.into());
        }
        let count = loading.missing_count();
        let blobs = loading.checks.references.blob_count;
        if count > 0 && count == blobs && !self.options.accept_empty_storage {
            return Err(Refusal::StorageEmpty { count }.into());
        }
        let mut report = report::begin(self, loading);
        let mut no_passwords = false;
        if self.accounts == Accounts::Service
            && let Some(service) = &self.target.identity_target
        {
            let records = std::mem::take(&mut loading.identity);
            no_passwords = records.has_no_passwords();
            // All are looked at before the first is made: what was made stays, whatever comes after.
            let mut answer = service.check(&records).await?;
            if !self.options.dry_run {
                answer = service.load(records).await?;
            }
            report.accounts = Some(answer);
        }
        let (owners, handover) = owners::resolve(self, &mut loading.checks.references).await?;
        report.owners = owners;
        if self.options.dry_run {
            report.blobs_restored = loading.would_come;
            report.blobs_missing = loading.missing_by_repository();
            report.blobs_missing_count = count;
            return Ok(report);
        }
        handover.apply(&self.target.catalog).await?;
        let cluster = ClusterId::random(self.target.catalog.random());
        let former = self.take_storage(&cluster).await?;
        staging.publish().await?;
        if former.is_some() {
            loading.look_again().await?;
        }
        report.blobs_missing_count = loading.missing_count();
        report.blobs_missing = loading.forget_missing().await?;
        report.blobs_restored = staging.published();
        report.blobs_mended = loading.mended();
        if report.salvaged.is_some() {
            // What was lost of these would keep the registry from starting.
            keys::ensure_assets(&self.target.catalog).await?;
        }
        report.signs_with = self.switch(&cluster, loading, report.blobs_missing_count).await?;
        report.cluster = Some(cluster);
        report.shared = loading.shared();
        report.advise(self);
        if let Some(former) = former {
            report.next.insert(0, format!(
                "the blob storage was cluster {former}'s: should any replica of that still run, it writes nothing any more; \
                 remove it with \"dtr destroy --keep-storage\""
            ));
        }
        if no_passwords {
            report.next.insert(
                0,
                "set passwords for the users who were made, as an administrator of the UCP: the archive has none"
                    .to_owned(),
            );
        }
        Ok(report)
    }

    /// Takes the blob storage over: a cluster that had it neither writes to it nor removes anything from it from here on,
    /// should it still run. Yields which that was. Last of all that may still be refused, for then that cluster goes on.
    async fn take_storage(&self, cluster: &ClusterId) -> Result<Option<ClusterId>, RecoveryError> {
        if self.options.product != Product::Dtr {
            return Ok(None);
        }
        let (catalog, blobs) = (&self.target.catalog, &self.target.blobs);
        let found = blobs.mark().await.map_err(RecoveryError::Storage)?;
        let mark = match &found {
            Some(found) => found.next(cluster, catalog.random()),
            None => StorageMark::first(cluster, catalog.random()),
        };
        blobs.set_mark(&mark).await.map_err(RecoveryError::Storage)?;
        blobs.put_back_all().await.map_err(RecoveryError::Storage)?;
        catalog.put(&StorageRecord { mark, since: catalog.now() }).await?;
        Ok(found.map(|found| found.cluster))
    }

    /// Applies what was given on the command line, and makes the store a cluster, with a key of its own that signs its
    /// backups. Yields that key's id.
    async fn switch(
        &self,
        id: &ClusterId,
        loading: &mut load::Loading<'_>,
        blobs_missing: u64,
    ) -> Result<String, RecoveryError> {
        let (from, settings) = (loading.cluster.take(), loading.settings.take());
        let catalog = &self.target.catalog;
        let now = catalog.now();
        // None came from the archive: this makes one.
        let key = keys::ensure_archive_key(catalog).await?;
        for certificate in &self.options.certificates {
            catalog.put(certificate).await?;
        }
        let mut settings = settings.unwrap_or_default();
        if let Some(url) = &self.options.external_url {
            settings.dtr_host.clone_from(url);
        } else if self.options.copy {
            // The original's: whoever logs in at the copy would be sent there.
            settings.dtr_host.clear();
        }
        let archive_keys = loading.former_keys(from.as_ref());
        let from = from.map(|cluster| cluster.identity);
        let identity = self.options.identity.clone().or(from).unwrap_or(IdentitySource::BuiltIn);
        let cluster = ClusterRecord {
            id: id.clone(),
            data_format: DATA_FORMAT,
            created_at: now,
            created_by: self.options.version.clone(),
            identity,
            restored_from: Some(RestoredFrom {
                cluster: self.header.cluster_id.clone(),
                revision: self.header.revision,
                backed_up_at: self.header.created,
                restored_at: now,
                blobs_missing,
                archive_keys,
            }),
        };
        catalog.finish_restore(&cluster, &settings).await?;
        keys::archive_key_id(&key)
    }
}
