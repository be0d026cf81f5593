//! What the cluster knows of itself: its record, replicas, keys, certificates, backups.

use std::time::Duration;

use dtr_store::{At, Transaction};

use crate::{
    Catalog, CatalogError, Kind, TransactionExt as _, keys,
    records::{BackupRecord, ClusterRecord, Event, KeyPurpose, KeyRecord, ReplicaRecord, Service},
};

/// How far the clocks of machines may be apart before a time is taken for wrong.
const CLOCKS_APART: Duration = Duration::from_secs(5 * 60);

/// The last backups that a cluster knows of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastBackups {
    /// The last one that a client has confirmed to have: the only kind that counts.
    pub confirmed: Option<BackupRecord>,
    /// The last one that was sent to its end, confirmed or not.
    pub sent: Option<BackupRecord>,
    /// One that claims to be of a time to come, which is of a wrong clock. It counts for nothing.
    pub to_come: Option<BackupRecord>,
}

impl Catalog {
    /// The cluster's record. `None` means that this store was never installed, or that a restore has not finished.
    pub async fn cluster(&self) -> Result<Option<ClusterRecord>, CatalogError> {
        Ok(self.get(&keys::cluster()).await?.map(|found| found.value))
    }

    /// Makes the store one that may be served: the last step of an install and of a restore.
    ///
    /// # Errors
    /// [`CatalogError::Exists`] when it is a cluster already.
    pub async fn create_cluster(&self, cluster: &ClusterRecord) -> Result<(), CatalogError> {
        let transaction = Transaction::new().create_record(cluster)?;
        match self.commit(transaction).await?.committed() {
            Some(_) => Ok(()),
            None => Err(CatalogError::Exists { kind: "cluster", name: cluster.id.to_string() }),
        }
    }

    /// All replicas that ever reported.
    pub async fn replicas(&self) -> Result<Vec<ReplicaRecord>, CatalogError> {
        self.all(Kind::Replica.prefix().as_bytes()).await
    }

    /// The keys of a purpose, newest first.
    pub async fn signing_keys(&self, purpose: KeyPurpose) -> Result<Vec<KeyRecord>, CatalogError> {
        let mut keys: Vec<KeyRecord> = self.all(&keys::signing_keys(purpose)).await?;
        keys.sort_by(|a, b| (b.created_at, &b.id).cmp(&(a.created_at, &a.id)));
        Ok(keys)
    }

    /// The last backups of those that are remembered. They are few, and old ones are dropped by retention.
    pub async fn last_backups(&self) -> Result<LastBackups, CatalogError> {
        let mut all: Vec<BackupRecord> = self.all(Kind::Backup.prefix().as_bytes()).await?;
        all.sort_by_key(|backup| backup.finished_at);
        // Somebody's clock was wrong: when it was taken is not known.
        let last = self.now().plus(CLOCKS_APART);
        let (known, to_come): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|backup| backup.finished_at <= last);
        let mut confirmed = known.iter().filter(|backup| backup.confirmed_at.is_some());
        Ok(LastBackups {
            confirmed: confirmed.next_back().cloned(),
            sent: known.last().cloned(),
            to_come: to_come.into_iter().next_back(),
        })
    }

    /// Remembers that a backup arrived whole, if what arrived has the hash of what was sent. Yields its record as it is then;
    /// `None` when it is not known.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn confirm_backup(
        &self,
        id: &str,
        sha256: &str,
        event: Option<&Event>,
    ) -> Result<Option<BackupRecord>, CatalogError> {
        let now = self.now();
        self.change(&keys::backup(id), event, |old| {
            let confirmed = BackupRecord { confirmed_at: Some(now), ..old.clone() };
            (old.sha256 == sha256).then_some(confirmed)
        })
        .await
    }

    /// Records a backup, and forgets all but the newest `keep`.
    pub async fn record_backup(
        &self,
        backup: &BackupRecord,
        keep: usize,
    ) -> Result<(), CatalogError> {
        let known = self.names(Kind::Backup.prefix().as_bytes(), None, 0, At::Latest).await?.items;
        let excess = known.len().saturating_sub(keep.saturating_sub(1)).min(32);
        let transaction = known
            .iter()
            .take(excess)
            .filter(|id| **id != backup.id)
            .fold(Transaction::new().put_record(backup)?, |t, id| t.delete(keys::backup(id)));
        self.commit(transaction).await.map(drop)
    }

    /// The services registered with this identity service.
    pub async fn services(&self) -> Result<Vec<Service>, CatalogError> {
        self.all(Kind::Service.prefix().as_bytes()).await
    }
}
