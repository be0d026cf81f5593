//! Replicas that were let in and have not started yet. Of such a learner etcd knows nothing but an address, and lets no
//! other join beside it; who it is and since when is remembered here, for as long as it may take to start. Only after that
//! may another's join take its place.

use std::time::Duration;

use dtr_catalog::{Catalog, CatalogError, encode, keys, records::LockRecord};
use dtr_store::Transaction;
use dtr_store_etcd::MemberFacts;
use dtr_types::{Digest, ReplicaId};

use crate::ClusterError;

/// How long a replica may take from being let in to its start, as when its image is still being fetched.
const START_MAX: Duration = Duration::from_secs(600);
/// What the names of these records begin with.
const JOIN: &str = "join-";

fn name(peer_url: &str) -> String {
    format!("{JOIN}{}", Digest::of(peer_url.as_bytes()).hex())
}

/// Remembers that a replica is about to be let in at this address. It is forgotten by itself.
pub(crate) async fn expect(
    catalog: &Catalog,
    id: &ReplicaId,
    peer_url: &str,
) -> Result<(), ClusterError> {
    let lease = catalog.store().lease_grant(START_MAX).await.map_err(CatalogError::from)?;
    let record = LockRecord { name: name(peer_url), holder: id.clone(), since: catalog.now() };
    let put = Transaction::new().put_leased(keys::lock(&record.name), encode(&record)?, lease);
    catalog.commit(put).await?;
    Ok(())
}

/// Who is still expected as this member, and since when.
pub(crate) async fn expected(
    catalog: &Catalog,
    member: &MemberFacts,
) -> Result<Option<LockRecord>, ClusterError> {
    let Some(url) = member.peer_urls.first() else { return Ok(None) };
    Ok(catalog.get(&keys::lock(&name(url))).await?.map(|found| found.value))
}

/// Expects nobody as this member any more.
pub(crate) async fn forget(catalog: &Catalog, member: &MemberFacts) -> Result<(), ClusterError> {
    for url in &member.peer_urls {
        catalog.commit(Transaction::new().delete(keys::lock(&name(url)))).await?;
    }
    Ok(())
}
