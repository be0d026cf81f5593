//! Who a replica is towards the others: a certificate of the cluster's own authority for replicas, which nobody else
//! trusts and which trusts nobody else. The authority and every certificate that it gave are records in the store, so all of
//! them are in a backup; a restore makes a new authority, so that what was lost cannot come back by itself.

use std::time::Duration;

use dtr_catalog::{Catalog, Kind, TransactionExt as _, keys, records::CertificateRecord};
use dtr_store::{At, Transaction};
use dtr_transport::pki::{self, Authority, KeyPairPem, PkiError, SubjectNames, new_es256_key};
use dtr_types::{ReplicaId, Secret, Timestamp};

use crate::{Admission, ClusterError, member_name};

/// The authority's record among the certificates.
pub const AUTHORITY: &str = "replicas";
/// The record of what it took back.
pub(crate) const REVOKED: &str = "replicas-revoked";
/// Certificates of replicas that have others by now, and could still be used.
const FORMER: &str = "former-";
/// How long a replica's certificate is valid; it is renewed by the replica itself well before.
pub(crate) const VALIDITY: Duration = Duration::from_secs(365 * 24 * 3600);

/// Remembers what a replica was given. What it had before is kept until it ends: when the replica is removed, that is taken
/// back too.
pub(crate) async fn remember_given(
    catalog: &Catalog,
    id: &ReplicaId,
    certificate: &str,
    now: Timestamp,
) -> Result<(), ClusterError> {
    let key = keys::certificate(&record_name(id));
    loop {
        let mut change = Transaction::new();
        for former in former(catalog, id).await? {
            if has_ended(&former.certificate, now) {
                change = change.delete(keys::certificate(&former.name));
            }
        }
        change = match catalog.get(&key).await? {
            Some(found) => {
                let name = format!("{FORMER}{id}-{}", found.modified);
                let former = CertificateRecord { name, ..found.value };
                change.if_modified_at(&key, found.modified).put_record(&former)?
            }
            None => change.if_absent(&key),
        };
        let record = certificate_record(record_name(id), certificate.to_owned(), now);
        if catalog.commit(change.put_record(&record)?).await?.committed().is_some() {
            return Ok(());
        }
    }
}

/// What a replica was given before what it has now.
pub(crate) async fn former(
    catalog: &Catalog,
    id: &ReplicaId,
) -> Result<Vec<CertificateRecord>, ClusterError> {
    let prefix = format!("{}{FORMER}{id}-", Kind::Certificate.prefix());
    let found = catalog.list::<CertificateRecord>(prefix.as_bytes(), None, 0, At::Latest).await?;
    Ok(found.items.into_iter().map(|found| found.value).collect())
}

/// Whether nobody accepts it any more; not of one that cannot be read.
pub(crate) fn has_ended(certificate: &str, now: Timestamp) -> bool {
    pki::facts(certificate).is_ok_and(|facts| facts.not_after < now)
}

/// Certificates and key of one replica, as PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The authority.
    pub ca: String,
    /// The replica's certificate.
    pub certificate: String,
    /// Its key.
    pub key: Secret,
    /// What the authority took back; empty when nothing is known of that, as with an etcd that was given.
    pub revoked: String,
}

/// The record of a replica's certificate.
pub(crate) fn record_name(id: &ReplicaId) -> String {
    format!("replica-{id}")
}

/// The names under which a replica is reached by the others.
pub(crate) fn names(host: &str) -> Result<SubjectNames, PkiError> {
    SubjectNames::local().with_host(host)
}

pub(crate) fn certificate_record(
    name: String,
    certificate: String,
    now: Timestamp,
) -> CertificateRecord {
    CertificateRecord {
        name,
        certificate,
        private_key: Secret::new(String::new()),
        ca: String::new(),
        user_given: false,
        created_at: now,
    }
}

/// A new authority, and the identity that it gives to the first replica: there must be one before there is a store.
pub struct Founded {
    authority: Authority,
    /// The first replica's.
    pub identity: Identity,
    id: ReplicaId,
}

impl Identity {
    /// Makes an authority, and the identity of the first replica.
    ///
    /// # Errors
    /// When the host cannot stand in a certificate.
    pub fn found(id: &ReplicaId, host: &str, now: Timestamp) -> Result<Founded, PkiError> {
        let authority = Authority::make("DTR replicas", now)?;
        let pair = new_es256_key()?;
        let certificate =
            authority.issue_member(&member_name(id), &names(host)?, &pair.public, now, VALIDITY)?;
        let revoked = authority.revocation_list(&[], number(now), now)?;
        let identity = Self {
            ca: authority.certificate_pem().to_owned(),
            certificate,
            key: pair.private,
            revoked,
        };
        Ok(Founded { authority, identity, id: id.clone() })
    }

    /// A key for one that asks to come in.
    ///
    /// # Errors
    /// When the crypto provider fails.
    pub fn new_key() -> Result<KeyPairPem, PkiError> {
        new_es256_key()
    }

    /// What was given to one that asked.
    pub fn of_admission(admission: &Admission, key: Secret) -> Self {
        Self {
            ca: admission.ca.clone(),
            certificate: admission.certificate.clone(),
            key,
            revoked: admission.revoked.clone(),
        }
    }
}

impl Founded {
    /// What the store is to have of it, in the place of any authority that it has.
    pub fn records(&self, now: Timestamp) -> Vec<CertificateRecord> {
        let Identity { ca, certificate, revoked, .. } = &self.identity;
        vec![
            CertificateRecord {
                private_key: self.authority.key_pem().clone(),
                ..certificate_record(AUTHORITY.to_owned(), ca.clone(), now)
            },
            certificate_record(REVOKED.to_owned(), revoked.clone(), now),
            certificate_record(record_name(&self.id), certificate.clone(), now),
        ]
    }
}

/// The number of a revocation list: later ones have greater numbers.
pub(crate) fn number(now: Timestamp) -> u64 {
    u64::try_from(now.millis()).unwrap_or_default()
}

/// The authority, from the store.
pub(crate) async fn authority(catalog: &Catalog) -> Result<Authority, ClusterError> {
    let found = catalog.get(&keys::certificate(AUTHORITY)).await?;
    let found = found.ok_or(ClusterError::NoAuthority)?.value;
    Ok(Authority::from_pem(&found.certificate, &found.private_key)?)
}

/// What it took back, from the store.
pub(crate) async fn revoked(catalog: &Catalog) -> Result<String, ClusterError> {
    let found = catalog.get(&keys::certificate(REVOKED)).await?;
    Ok(found.map(|found| found.value.certificate).unwrap_or_default())
}
