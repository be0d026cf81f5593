//! The keys and certificates that every cluster has, first of all the one that signs archives: Ed25519, made at install and
//! by each restore, kept in the catalog. A backup carries it so that its id is known to whoever restores; the restored
//! cluster, which is another, signs with a new one.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use dtr_archive::SigningKey;
use dtr_catalog::{
    Catalog, keys,
    records::{CertificateRecord, KeyPurpose, KeyRecord},
};
use dtr_transport::pki::{self, Authority};
use dtr_types::{Random, Secret, Timestamp};
use serde::{Deserialize, Serialize};

use crate::RecoveryError;

const LABEL: &str = "PRIVATE KEY";

fn refused(why: impl ToString) -> RecoveryError {
    RecoveryError::SigningKey(why.to_string())
}

/// A new key, to be stored in the catalog.
///
/// # Errors
/// When the cryptography refuses, which it does not.
pub fn create_archive_key(random: &dyn Random, now: Timestamp) -> Result<KeyRecord, RecoveryError> {
    let mut seed = zeroize::Zeroizing::new([0; 32]);
    random.fill(&mut *seed);
    let key = SigningKey::from_seed(&seed)?;
    let der = key.to_pkcs8()?;
    let mut pem = format!("-----BEGIN {LABEL}-----\n");
    let text = zeroize::Zeroizing::new(STANDARD.encode(&der));
    for line in text.as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem.push_str(&format!("-----END {LABEL}-----\n"));
    Ok(KeyRecord {
        purpose: KeyPurpose::Archive,
        id: key.public_key().id().chars().take(32).collect(),
        private_key: Secret::new(pem),
        created_at: now,
        not_after: None,
    })
}

/// The key that signs now; makes one if the cluster has none.
///
/// # Errors
/// When the store fails.
pub async fn ensure_archive_key(catalog: &Catalog) -> Result<KeyRecord, RecoveryError> {
    if let Some(key) = catalog.signing_keys(KeyPurpose::Archive).await?.into_iter().next() {
        return Ok(key);
    }
    let key = create_archive_key(catalog.random(), catalog.now())?;
    catalog.put(&key).await?;
    Ok(key)
}

/// Makes what is missing of what every registry has: the key that signs archives, the key that proves it to its UCP, its
/// own authority. May be called again.
///
/// # Errors
/// When the store fails.
pub async fn ensure_assets(catalog: &Catalog) -> Result<(), RecoveryError> {
    ensure_archive_key(catalog).await?;
    if catalog.get(&keys::certificate("service")).await?.is_none() {
        catalog.put(&new_service_key(catalog.now())?).await?;
    }
    if catalog.get(&keys::certificate("ca")).await?.is_none() {
        catalog.put(&new_authority(catalog.now())?).await?;
    }
    Ok(())
}

/// A new key that proves a cluster to its UCP: the public half stands in the place of a certificate.
///
/// # Errors
/// When the cryptography refuses, which it does not.
pub fn new_service_key(now: Timestamp) -> Result<CertificateRecord, RecoveryError> {
    let pair = pki::new_es256_key()?;
    Ok(CertificateRecord {
        name: "service".to_owned(),
        certificate: pair.public,
        private_key: pair.private,
        ca: String::new(),
        user_given: false,
        created_at: now,
    })
}

/// A new authority, which signs the certificates of one cluster.
///
/// # Errors
/// When the cryptography refuses, which it does not.
pub fn new_authority(now: Timestamp) -> Result<CertificateRecord, RecoveryError> {
    let authority = Authority::make("DTR root CA", now)?;
    Ok(CertificateRecord {
        name: "ca".to_owned(),
        certificate: authority.certificate_pem().to_owned(),
        private_key: authority.key_pem().clone(),
        ca: String::new(),
        user_given: false,
        created_at: now,
    })
}

/// The ids of the keys that sign a cluster's backups, and signed those of the clusters that it was restored from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveKeys {
    /// The key that signs now; nothing in a cluster that was made by a version without one and has taken no backup yet.
    pub current: Option<String>,
    /// Former keys, the last one first: archives that they signed are older than the restore.
    pub former: Vec<String>,
}

/// The whole id of a key, from its record: 64 hexadecimal digits.
///
/// # Errors
/// As [`signing_key`].
pub fn archive_key_id(record: &KeyRecord) -> Result<String, RecoveryError> {
    Ok(signing_key(record)?.public_key().id())
}

/// Which keys sign and signed a cluster's backups.
///
/// # Errors
/// When the store fails, or a key in it cannot be used.
pub async fn archive_keys(catalog: &Catalog) -> Result<ArchiveKeys, RecoveryError> {
    let mut ids = Vec::new();
    for record in catalog.signing_keys(KeyPurpose::Archive).await? {
        ids.push(archive_key_id(&record)?);
    }
    let current = (!ids.is_empty()).then(|| ids.remove(0));
    let from = catalog.cluster().await?.and_then(|cluster| cluster.restored_from);
    ids.extend(from.map(|from| from.archive_keys).unwrap_or_default());
    Ok(ArchiveKeys { current, former: ids })
}

/// The key itself, from its record.
///
/// # Errors
/// [`RecoveryError::SigningKey`] when it is not PKCS #8 in PEM of an Ed25519 key.
pub fn signing_key(record: &KeyRecord) -> Result<SigningKey, RecoveryError> {
    let text: zeroize::Zeroizing<String> = zeroize::Zeroizing::new(
        record
            .private_key
            .expose()
            .lines()
            .map(str::trim)
            .filter(|line| !line.starts_with("-----"))
            .collect(),
    );
    let der = STANDARD.decode(text.as_bytes()).map_err(|_| refused("it is not PEM"))?;
    let der = zeroize::Zeroizing::new(der);
    SigningKey::from_pkcs8(&der).map_err(refused)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "what fails here fails the test")]
mod tests {
    use dtr_types::SeededRandom;

    use super::*;

    #[test]
    fn a_key_is_read_back() {
        let random = SeededRandom::new(3);
        let record = create_archive_key(&random, Timestamp::default()).unwrap();
        let key = signing_key(&record).unwrap();
        assert!(key.public_key().id().starts_with(&record.id));
        let broken = KeyRecord { private_key: Secret::new("x"), ..record };
        assert!(signing_key(&broken).is_err());
    }
}
