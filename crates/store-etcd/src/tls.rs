//! Mutual TLS towards etcd: whom we trust, and who we are.

use std::sync::Arc;

use dtr_types::{Secret, why_no_pem};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

use crate::ConnectError;

/// The certificates of one client, as PEM texts. etcd is spoken to over mutual TLS only.
#[derive(Clone, Debug)]
pub struct Tls {
    /// The certificates of the authority that issued those of the members.
    pub ca: String,
    /// Our certificate, then those that lead to its authority.
    pub certificate: String,
    /// Its private key.
    pub key: Secret,
}

impl Tls {
    pub(crate) fn config(&self) -> Result<Arc<rustls::ClientConfig>, ConnectError> {
        let unreadable = |what, why: String| ConnectError::Certificate { what, why };
        let mut roots = rustls::RootCertStore::empty();
        for certificate in certificates(&self.ca, "the CA's certificate")? {
            roots
                .add(certificate)
                .map_err(|e| unreadable("the CA's certificate", e.to_string()))?;
        }
        let chain = certificates(&self.certificate, "the client's certificate")?;
        let key = PrivateKeyDer::from_pem_slice(self.key.expose().as_bytes()).map_err(|_| {
            unreadable("the client's key", why_no_pem(self.key.expose()).to_owned())
        })?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| unreadable("TLS", e.to_string()))?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(|e| unreadable("the client's certificate and key", e.to_string()))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }
}

fn certificates(
    pem: &str,
    what: &'static str,
) -> Result<Vec<CertificateDer<'static>>, ConnectError> {
    let found = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(ConnectError::Certificate { what, why: "no certificate is in it".to_owned() }),
        Err(_) => Err(ConnectError::Certificate { what, why: why_no_pem(pem).to_owned() }),
    }
}
