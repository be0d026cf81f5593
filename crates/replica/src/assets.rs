//! The keys and certificates of a cluster: made once, kept in its store, carried in every backup.

use dtr_catalog::{Catalog, CatalogError, keys, records::CertificateRecord};
pub(crate) use dtr_recovery::{ensure_assets as ensure, new_authority, new_service_key};
use dtr_transport::pki::{self, Authority, PkiError, ServerCertificate, SubjectNames};
use dtr_types::{Clock as _, Secret, SystemClock, Timestamp};

use crate::DataDir;

/// The name of the cluster's own authority among the certificates.
pub(crate) const CA: &str = "ca";
/// The name of the certificate that clients see.
pub(crate) const WEB: &str = "web";
/// The name of the key that proves the cluster to its UCP.
pub(crate) const SERVICE: &str = "service";

/// How a certificate begins in PEM.
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE";

/// Why keys or certificates cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum AssetError {
    /// The catalog failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// A certificate cannot be made, or the one given cannot be used.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The archive key cannot be made or read.
    #[error(transparent)]
    Archive(#[from] dtr_recovery::RecoveryError),
    /// Something that every cluster has is not in the store.
    #[error("the {0} is missing from the store; restore the registry from a backup")]
    Missing(&'static str),
}

/// A certificate that the user gives instead of one made here.
#[derive(Clone, Debug)]
pub struct UserCertificate {
    /// The certificate, intermediates appended, in PEM.
    pub certificate: String,
    /// Its private key, in PEM.
    pub key: Secret,
    /// The authority that clients are to trust, in PEM.
    pub ca: Option<String>,
}

/// The record of a certificate that the user gives, after checking it; with what is worth knowing about it.
pub(crate) fn checked_web_certificate(
    given: &UserCertificate,
    names: &SubjectNames,
    now: Timestamp,
) -> Result<(CertificateRecord, Vec<String>), AssetError> {
    let checked = pki::check_server_certificate(
        &given.certificate,
        &given.key,
        given.ca.as_deref(),
        names,
        now,
    )?;
    let record = CertificateRecord {
        name: WEB.to_owned(),
        certificate: checked.certificate.chain_pem,
        private_key: checked.certificate.key_pem,
        ca: given.ca.clone().unwrap_or_default(),
        user_given: true,
        created_at: now,
    };
    Ok((record, checked.warnings))
}

/// The certificate that clients see. One of our own is made anew when it lacks a name that is wanted now, or ends soon;
/// one that the user gave is left alone.
pub(crate) async fn web_certificate(
    catalog: &Catalog,
    names: &SubjectNames,
) -> Result<ServerCertificate, AssetError> {
    let known = catalog.get(&keys::certificate(WEB)).await?.map(|found| found.value);
    if let Some(known) = &known {
        let certificate = ServerCertificate {
            chain_pem: known.certificate.clone(),
            key_pem: known.private_key.clone(),
        };
        if known.user_given || is_good(&certificate, names, catalog) {
            return Ok(certificate);
        }
    }
    let ca = catalog.get(&keys::certificate(CA)).await?;
    let ca = ca.ok_or(AssetError::Missing("certificate authority"))?.value;
    let authority = Authority::from_pem(&ca.certificate, &ca.private_key)?;
    let issued = authority.issue_server(names, catalog.now(), pki::SERVER_VALIDITY)?;
    let record = CertificateRecord {
        name: WEB.to_owned(),
        certificate: issued.chain_pem.clone(),
        private_key: issued.key_pem.clone(),
        ca: String::new(),
        user_given: false,
        created_at: catalog.now(),
    };
    catalog.put(&record).await?;
    Ok(issued)
}

fn is_good(certificate: &ServerCertificate, names: &SubjectNames, catalog: &Catalog) -> bool {
    let checked = pki::check_server_certificate(
        &certificate.chain_pem,
        &certificate.key_pem,
        None,
        names,
        catalog.now(),
    );
    checked.is_ok_and(|checked| checked.warnings.is_empty())
}

/// The certificate to present before the store is open: the one that was presented last, or one that nobody knows.
pub(crate) fn early_certificate(
    dir: &DataDir,
    names: &SubjectNames,
) -> Result<ServerCertificate, PkiError> {
    if let Ok(text) = std::fs::read_to_string(dir.web_certificate())
        && let Some(at) = text.find(CERTIFICATE)
    {
        let (key, chain) = text.split_at(at);
        return Ok(ServerCertificate {
            chain_pem: chain.to_owned(),
            key_pem: Secret::new(key.to_owned()),
        });
    }
    let now = SystemClock.now();
    Authority::make("DTR, not yet ready", now)?.issue_server(names, now, pki::SERVER_VALIDITY)
}

/// Remembers a certificate for the next start, which may be without a majority that tells it.
pub(crate) fn remember(dir: &DataDir, certificate: &ServerCertificate) {
    let (key, chain) = (certificate.key_pem.expose().trim(), certificate.chain_pem.trim_start());
    let text = Secret::new(format!("{key}\n{chain}"));
    let path = dir.web_certificate();
    if std::fs::read(&path).is_ok_and(|old| old == text.expose().as_bytes()) {
        return;
    }
    if let Err(error) = dtr_transport::durable_write(&path, text.expose().as_bytes(), 0o600) {
        tracing::warn!(%error, "the certificate was not remembered for the next start");
    }
}

/// The authority that clients are to trust: the user's own if one was given with the certificate, else the cluster's.
pub(crate) async fn trust_bundle(catalog: &Catalog) -> Result<String, AssetError> {
    let web = catalog.get(&keys::certificate(WEB)).await?.map(|found| found.value);
    if let Some(web) = web
        && web.user_given
    {
        return Ok(if web.ca.is_empty() { web.certificate } else { web.ca });
    }
    let ca = catalog.get(&keys::certificate(CA)).await?;
    Ok(ca.ok_or(AssetError::Missing("certificate authority"))?.value.certificate)
}

/// The key that proves this cluster to its UCP: private and public half.
pub(crate) async fn service_key(catalog: &Catalog) -> Result<(Secret, String), AssetError> {
    let found = catalog.get(&keys::certificate(SERVICE)).await?;
    let found = found.ok_or(AssetError::Missing("service key"))?.value;
    Ok((found.private_key, found.certificate))
}
