//! What the cluster knows of itself: its record, replicas, keys, certificates, backups.

use dtr_store::{At, Transaction};

use crate::{
    Catalog, CatalogError, Kind, TransactionExt as _, keys,
    records::{BackupRecord, ClusterRecord, KeyPurpose, KeyRecord, ReplicaRecord, Service},
};

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

    /// The last backup that ended, if there is one. Backups are few and old ones are dropped by retention.
    pub async fn last_backup(&self) -> Result<Option<BackupRecord>, CatalogError> {
        let all: Vec<BackupRecord> = self.all(Kind::Backup.prefix().as_bytes()).await?;
        Ok(all.into_iter().max_by_key(|backup| backup.finished_at))
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
