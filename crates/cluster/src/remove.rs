//! Letting a replica go: out of etcd first, by consensus, then out of the records; its certificate is taken back, so that
//! it cannot return by itself.

use std::time::Duration;

use dtr_catalog::{
    Catalog, CatalogError, Kind, TransactionExt as _, keys, records::CertificateRecord,
};
use dtr_store::{At, Transaction};
use dtr_types::{ReplicaId, Timestamp};
use serde::Serialize;

use crate::{
    Cluster, ClusterError,
    identity::{REVOKED, authority, certificate_record, former, has_ended, number, record_name},
    majority, member_name, pending,
};

/// How long the removed replica, if it runs, has to see that it was removed before its certificate is good for nothing.
const FAREWELL: Duration = Duration::from_secs(3);
/// Certificates that were taken back.
const TAKEN_BACK: &str = "revoked-";

/// What came of a removal.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Removal {
    /// The replica.
    pub replica: ReplicaId,
    /// How many are left.
    pub left: usize,
    /// How many of them may be lost from here on.
    pub may_be_lost: usize,
}

impl Cluster {
    /// Removes a replica, whether it lives or not. Asked again after an answer was lost, it finishes what is left to do.
    ///
    /// # Errors
    /// [`ClusterError::Refused`] when that would take the majority away, or there is no such replica; nothing was
    /// changed then.
    pub async fn remove(&self, id: &ReplicaId) -> Result<Removal, ClusterError> {
        if *id == self.here {
            return Err(ClusterError::refused(format!(
                "{id} is the replica that was asked: name another with --existing-replica-id; the last one is removed with \
                 \"dtr destroy\""
            )));
        }
        let (left, may_be_lost) = if self.own_members {
            let left = self.remove_member(id).await?;
            self.take_back(id).await?;
            (left, left - majority(left).min(left))
        } else {
            // Any of those that are left can do the work; what etcd can bear is its own affair.
            let left = self.strike(id).await?;
            (left, left.saturating_sub(1))
        };
        Ok(Removal { replica: id.clone(), left, may_be_lost })
    }

    /// Strikes a replica of an etcd that was given from the records; yields how many are left.
    async fn strike(&self, id: &ReplicaId) -> Result<usize, ClusterError> {
        let mut known: Vec<_> =
            self.catalog.replicas().await?.into_iter().map(|known| known.id).collect();
        if !known.contains(id) {
            let there: Vec<_> = known.iter().map(ToString::to_string).collect();
            return Err(ClusterError::refused(format!(
                "there is no replica {id}; there are: {}",
                there.join(", ")
            )));
        }
        strike_restart(&self.catalog, id).await?;
        self.catalog.commit(Transaction::new().delete(keys::replica(id))).await?;
        known.retain(|known| known != id);
        Ok(known.len())
    }

    async fn remove_member(&self, id: &ReplicaId) -> Result<usize, ClusterError> {
        let views = self.members().await?;
        let name = member_name(id);
        let (mut victims, mut others) = (Vec::new(), Vec::new());
        for view in views {
            // etcd does not know yet what a member is called that has not started.
            let unstarted = view.facts.name.is_empty()
                && pending::expected(&self.catalog, &view.facts)
                    .await?
                    .is_some_and(|expected| expected.holder == *id);
            let list =
                if unstarted || view.facts.name == name { &mut victims } else { &mut others };
            list.push(view);
        }
        let voters: Vec<_> = others.iter().filter(|view| !view.facts.learner).collect();
        let Some(victim) = victims.into_iter().next() else {
            let known = self.catalog.get(&keys::replica(id)).await?.is_some()
                || self.catalog.get(&keys::certificate(&record_name(id))).await?.is_some();
            if known {
                return Ok(voters.len());
            }
            let there: Vec<_> = voters.iter().map(|view| view.facts.name.as_str()).collect();
            return Err(ClusterError::refused(format!(
                "there is no replica {id}; there are: {}",
                there.join(", ").replace("dtr-", "")
            )));
        };
        if !victim.facts.learner {
            let well = voters.iter().filter(|view| view.problem.is_none()).count();
            let needed = majority(voters.len());
            if well < needed {
                return Err(ClusterError::refused(format!(
                    "without {id} there are {} replicas, of which {needed} must answer and {well} do: bring the others \
                     back first",
                    voters.len()
                )));
            }
        }
        self.store.members().remove(victim.facts.id).await?;
        pending::forget(&self.catalog, &victim.facts).await?;
        if victim.problem.is_none() {
            tokio::time::sleep(FAREWELL).await;
        }
        Ok(voters.len())
    }

    /// Takes back all certificates of a replica that are still good, and strikes it from the records.
    async fn take_back(&self, id: &ReplicaId) -> Result<(), ClusterError> {
        let (catalog, now) = (&self.catalog, self.catalog.now());
        strike_restart(catalog, id).await?;
        let key = keys::certificate(&record_name(id));
        let mut struck = Transaction::new().delete(keys::replica(id));
        let now_has = catalog.get(&key).await?.map(|found| found.value);
        let given = now_has.into_iter().chain(former(catalog, id).await?);
        for (n, given) in given.enumerate() {
            struck = struck.delete(keys::certificate(&given.name));
            if !has_ended(&given.certificate, now) {
                let name = format!("{TAKEN_BACK}{id}-{}-{n}", now.millis());
                struck = struck.put_record(&CertificateRecord { name, ..given })?;
            }
        }
        catalog.commit(struck).await?;
        write_revoked(catalog, now).await
    }
}

/// Takes a replica off the list of those that are to restart: it has, or will not come back, and the others would wait for
/// it.
///
/// # Errors
/// When the store does not answer.
pub async fn strike_restart(catalog: &Catalog, id: &ReplicaId) -> Result<(), CatalogError> {
    let key = keys::restart();
    loop {
        let Some(found) = catalog.get(&key).await? else { return Ok(()) };
        let mut record = found.value;
        if !record.replicas.contains(id) {
            return Ok(());
        }
        record.replicas.retain(|listed| listed != id);
        let change = Transaction::new().if_modified_at(&key, found.modified);
        let change = match record.replicas.is_empty() {
            true => change.delete(&key),
            false => change.put_record(&record)?,
        };
        if catalog.commit(change).await?.committed().is_some() {
            return Ok(());
        }
    }
}

/// Writes the list of what was taken back anew, from the records.
pub(crate) async fn write_revoked(catalog: &Catalog, now: Timestamp) -> Result<(), ClusterError> {
    let prefix = [Kind::Certificate.prefix().as_bytes(), TAKEN_BACK.as_bytes()].concat();
    let taken = catalog.list::<CertificateRecord>(&prefix, None, 0, At::Latest).await?.items;
    let taken: Vec<_> = taken.iter().map(|found| found.value.certificate.as_str()).collect();
    let list = authority(catalog).await?.revocation_list(&taken, number(now), now)?;
    catalog.put(&certificate_record(REVOKED.to_owned(), list, now)).await?;
    Ok(())
}
