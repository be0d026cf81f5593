//! Records on their way from the archive into the store.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Mutex,
};

use dtr_blobs::{Found, examine};
use dtr_catalog::{
    Kind, Loader, RestoredContent,
    records::{AccessToken, BlobRecord, ClusterRecord, KeyPurpose, Settings},
};
use dtr_identity::AccountRecords;
use dtr_store::At;
use dtr_types::Digest;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::{Accounts, Job};
use crate::{
    Progress, RecoveryError, keys,
    lines::{Line, ManifestLine},
    pump::Lines,
    verify::{self, Checks, StorageReport},
};

/// Blobs that are forgotten at once.
const FORGOTTEN_AT_ONCE: usize = 64;

/// A restore's loading.
pub(super) struct Loading<'a> {
    job: &'a Job<'a>,
    loader: Option<Loader>,
    pub(super) checks: Checks,
    pub(super) cluster: Option<ClusterRecord>,
    pub(super) settings: Option<Settings>,
    /// The accounts, if they are for a service elsewhere.
    pub(super) identity: AccountRecords,
    /// Blobs that the storage has not, or not as they should be, so far: 65 bytes for each.
    missing: HashSet<Digest>,
    /// In a dry run, those that would come from the archive.
    pub(super) would_come: u64,
    /// Those of them that it has, damaged.
    damaged: HashSet<Digest>,
    /// Damaged blobs of which the archive had the content.
    mended: u64,
    storage: StorageReport,
    /// Ids of the keys that signed the backed up cluster's archives.
    former: Vec<String>,
    /// Names of certificates that came back.
    certificates: Vec<String>,
    /// Access tokens that came back and are good.
    tokens: u64,
    /// Passwords that came back.
    passwords: u64,
    progress: Progress,
}

impl<'a> Loading<'a> {
    pub(super) fn new(job: &'a Job<'a>, checks: Checks) -> Self {
        let loader = (!job.options.dry_run).then(|| Loader::new(&job.target.catalog));
        Self {
            job,
            loader,
            checks,
            cluster: None,
            settings: None,
            identity: AccountRecords::default(),
            missing: HashSet::new(),
            would_come: 0,
            damaged: HashSet::new(),
            mended: 0,
            storage: StorageReport::default(),
            former: Vec::new(),
            certificates: Vec::new(),
            tokens: 0,
            passwords: 0,
            progress: Progress { phase: "records", ..Progress::default() },
        }
    }

    /// Takes some lines of one kind.
    pub(super) async fn lines(&mut self, lines: &Lines) -> Result<(), RecoveryError> {
        let records = self.checks.lines(lines)?;
        let blobs: Vec<_> = records
            .iter()
            .filter_map(|(line, _)| match line {
                Line::Blob(blob) => Some((blob.digest, blob.size)),
                _ => None,
            })
            .collect();
        if !blobs.is_empty() {
            let storage = &self.job.target.blobs;
            let known = self.storage.damaged.len();
            let lacking = verify::ask(storage, blobs, &mut self.storage).await?;
            let damaged = self.storage.damaged[known..].iter();
            self.damaged.extend(damaged.filter_map(|text| text.parse::<Digest>().ok()));
            for digest in lacking {
                self.missing.insert(digest);
                // Who needs it is found in the store afterwards; a dry run has none.
                if self.job.options.dry_run {
                    self.checks.references.miss(digest);
                }
            }
        }
        self.progress.records += records.len() as u64;
        for (line, json) in records {
            // What does not fit together is refused at the end, with everything that does not.
            if self.checks.references.broken.is_empty() {
                self.record(line, &json).await?;
            }
        }
        if let Some(tell) = &self.job.options.progress {
            tell(&self.progress);
        }
        Ok(())
    }

    async fn record(&mut self, line: Line, json: &[u8]) -> Result<(), RecoveryError> {
        self.note(&line);
        let to_store = self.job.accounts == Accounts::Store;
        let copy = self.job.options.copy;
        if self.job.accounts == Accounts::Service {
            match &line {
                Line::Account(account) => self.identity.accounts.push(account.clone()),
                Line::Credential(credential) => self.identity.credentials.push(credential.clone()),
                Line::Membership(member) => self.identity.memberships.push(member.clone()),
                Line::Team(team) => self.identity.teams.push(team.clone()),
                Line::TeamMembership(member) => self.identity.team_members.push(member.clone()),
                _ => {}
            }
        }
        let Some(loader) = &mut self.loader else { return Ok(()) };
        let json = Some(json);
        match &line {
            Line::Cluster(cluster) => self.cluster = Some(cluster.clone()),
            Line::Settings(settings) => self.settings = Some(settings.clone()),
            Line::Backup(record) => loader.put(record, json).await?,
            // What the original signs with stays its own; the restored cluster makes keys.
            Line::Key(_) => {}
            Line::Certificate(_) if copy => {}
            Line::Certificate(record) => loader.put(record, json).await?,
            Line::Account(record) if to_store => loader.put(record, json).await?,
            Line::Credential(record) if to_store => loader.put(record, json).await?,
            Line::Membership(record) if to_store => loader.put(record, json).await?,
            Line::Team(record) if to_store => loader.put(record, json).await?,
            Line::TeamMembership(record) if to_store => loader.put(record, json).await?,
            Line::Service(record) if to_store && !copy => loader.put(record, json).await?,
            Line::Account(_)
            | Line::Credential(_)
            | Line::Membership(_)
            | Line::Team(_)
            | Line::TeamMembership(_)
            | Line::Service(_) => {}
            Line::Repository(record) => loader.put(record, json).await?,
            Line::Counters(record) => loader.put(record, json).await?,
            Line::Blob(record) => loader.put(record, json).await?,
            Line::Manifest(manifest) => {
                let references = &self.checks.references;
                let mut linked = manifest.blobs();
                linked.retain(|digest| references.knows_blob(digest));
                // A blob that was lost before the backup is still needed, so it is still referred to.
                let mut lost: Vec<_> = manifest.needed().collect();
                lost.retain(|digest| !references.knows_blob(digest));
                let content = RestoredContent { linked, lost, mentioned: manifest.absent() };
                let ManifestLine { record, manifest, body, json, .. } = &**manifest;
                let json = json.as_deref();
                loader.put_manifest(record, json, manifest, body, &content).await?;
            }
            Line::Tag(record) => loader.put(record, json).await?,
            Line::RepositoryGrant(record) => loader.put(record, json).await?,
            Line::NamespaceGrant(record) => loader.put(record, json).await?,
            Line::AccessToken(record) if copy => {
                let off = AccessToken { is_active: false, ..record.clone() };
                loader.put(&off, None).await?;
            }
            Line::AccessToken(record) => loader.put(record, json).await?,
            Line::Event(record) => loader.put(record, json).await?,
        }
        Ok(())
    }

    /// Remembers what the restored cluster has in common with the one that was backed up.
    fn note(&mut self, line: &Line) {
        match line {
            Line::Key(record) if record.purpose == KeyPurpose::Archive => {
                // One that cannot be read is named by the half of its id that is known.
                let id = keys::archive_key_id(record).unwrap_or_else(|_| record.id.clone());
                self.former.push(id);
            }
            Line::Certificate(record) => self.certificates.push(record.name.clone()),
            Line::AccessToken(record) => self.tokens += u64::from(record.is_active),
            Line::Credential(_) => self.passwords += 1,
            _ => {}
        }
    }

    /// Ids of the keys that signed backups until now, the last one's first.
    pub(super) fn former_keys(&self, from: Option<&ClusterRecord>) -> Vec<String> {
        let before = from.and_then(|cluster| cluster.restored_from.as_ref());
        let before = before.into_iter().flat_map(|from| &from.archive_keys);
        let mut ids = vec![self.job.header.signer.key_id.clone()];
        for id in self.former.iter().chain(before) {
            if !ids.contains(id) {
                ids.push(id.clone());
            }
        }
        ids
    }

    /// What is good at the restored cluster and at the one that was backed up, should that still run, for people.
    pub(super) fn shared(&self) -> Vec<String> {
        let job = self.job;
        let mut shared = Vec::new();
        let kept = |name: &str| {
            let replaced = job.options.certificates.iter().any(|given| given.name == name);
            !job.options.copy && !replaced && self.certificates.iter().any(|known| known == name)
        };
        if kept("ca") {
            shared.push("the certificate authority and its key".to_owned());
        }
        if kept("web") {
            shared.push("the certificate that clients see and its key".to_owned());
        }
        if self.tokens > 0 && !job.options.copy {
            shared.push(format!("{} access and refresh tokens", self.tokens));
        }
        if self.passwords > 0 && job.accounts != Accounts::Nowhere {
            shared.push(format!("the passwords of {} users", self.passwords));
        }
        shared
    }

    /// Whether the archive's content of a digest is wanted: it is that of a blob, and the storage has it not, or other bytes.
    /// The storage's copy is hashed for that: its size alone says nothing of a bad disk.
    pub(super) async fn wants(&mut self, digest: &Digest) -> Result<bool, RecoveryError> {
        if self.job.options.dry_run || !self.checks.references.knows_blob(digest) {
            return Ok(false);
        }
        if self.missing.contains(digest) {
            return Ok(true);
        }
        let found = examine(&*self.job.target.blobs, digest, None, true)
            .await
            .map_err(|source| RecoveryError::Blob { digest: Box::new(*digest), source })?;
        if found == Found::Good {
            return Ok(false);
        }
        self.missing.insert(*digest);
        self.damaged.insert(*digest);
        Ok(true)
    }

    /// Damaged blobs that came from the archive.
    pub(super) fn mended(&self) -> u64 {
        self.mended
    }

    /// In a dry run, notes that the archive has the content of a blob that the storage lacks.
    pub(super) fn would_come(&mut self, digest: &Digest) {
        if self.job.options.dry_run && self.missing.remove(digest) {
            self.would_come += 1;
            self.checks.references.found(digest);
        }
    }

    /// The content of a blob has come from the archive.
    pub(super) fn has_come(&mut self, digest: &Digest) {
        self.missing.remove(digest);
        self.mended += u64::from(self.damaged.remove(digest));
        self.progress.phase = "images";
        self.progress.blobs += 1;
        if let Some(tell) = &self.job.options.progress {
            tell(&self.progress);
        }
    }

    /// Asks the storage once more for every blob: the cluster that had it may have gone on removing until now.
    pub(super) async fn look_again(&mut self) -> Result<(), RecoveryError> {
        let target = &self.job.target;
        let mut after: Option<String> = None;
        loop {
            let prefix = Kind::Blob.prefix().as_bytes();
            let page = target.catalog.list::<BlobRecord>(prefix, after.as_deref(), 0, At::Latest);
            let page = page.await?;
            let blobs: Vec<_> =
                page.items.iter().map(|found| (found.value.digest, found.value.size)).collect();
            after = blobs.last().map(|(digest, _)| digest.to_string());
            self.missing.extend(verify::ask(&target.blobs, blobs, &mut self.storage).await?);
            if !page.more || after.is_none() {
                return Ok(());
            }
        }
    }

    /// At the end of the archive: all records are durable, and fit together.
    pub(super) async fn finish(&mut self) -> Result<(), RecoveryError> {
        if let Some(loader) = &mut self.loader {
            loader.finish().await?;
        }
        let broken = &self.checks.references.broken;
        match broken.listed.first() {
            Some(first) => {
                Err(RecoveryError::Inconsistent { first: first.clone(), count: broken.count })
            }
            None => Ok(()),
        }
    }

    /// Returns when nothing more will be written.
    pub(super) async fn abandon(&mut self) {
        if let Some(loader) = self.loader.take() {
            loader.abandon().await;
        }
    }

    /// Blobs that neither the storage nor the archive has.
    pub(super) fn missing_count(&self) -> u64 {
        self.missing.len() as u64
    }

    /// For a dry run: the missing blobs by the repositories that need them.
    pub(super) fn missing_by_repository(&self) -> BTreeMap<String, Vec<String>> {
        self.checks.references.missing_by_repository()
    }

    /// Takes the records and links of missing blobs away, so that whoever pushes an image that needs them is asked for
    /// their content again. Yields them by the repositories that need them.
    pub(super) async fn forget_missing(
        &mut self,
    ) -> Result<BTreeMap<String, Vec<String>>, RecoveryError> {
        let (catalog, references) = (&self.job.target.catalog, &self.checks.references);
        let by: Mutex<BTreeMap<String, Vec<String>>> = Mutex::default();
        let by_ref = &by;
        stream::iter(self.missing.iter().copied().map(Ok::<_, RecoveryError>))
            .map(|digest| async move {
                let digest = digest?;
                for repository in catalog.forget_blob(&digest).await? {
                    let name = references.repository_name(&repository);
                    let name = name.unwrap_or(repository.as_str()).to_owned();
                    let mut by = by_ref.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    by.entry(name).or_default().push(digest.to_string());
                }
                Ok::<_, RecoveryError>(())
            })
            .buffer_unordered(FORGOTTEN_AT_ONCE)
            .try_collect::<()>()
            .await?;
        let mut by = by.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        by.values_mut().for_each(|digests| digests.sort());
        Ok(by)
    }
}
