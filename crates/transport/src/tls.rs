//! TLS on both ends: what servers present, exchanged without a restart, and what clients trust.

use std::{fmt, sync::Arc};

use arc_swap::ArcSwap;
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::pki::{PkiError, ServerCertificate, certificates, private_key};

/// The one crypto provider of the product.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: std::sync::LazyLock<Arc<CryptoProvider>> =
        std::sync::LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));
    Arc::clone(&PROVIDER)
}

/// Protocols offered, best first.
fn protocols() -> Vec<Vec<u8>> {
    vec![b"h2".to_vec(), b"http/1.1".to_vec()]
}

/// TLS could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The certificate or key is unusable.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The TLS library refused.
    #[error("TLS could not be set up: {0}")]
    Refused(#[from] rustls::Error),
}

/// What an HTTPS listener presents. Clones share the certificate, so that one exchange reaches every listener.
#[derive(Clone)]
pub struct ServerTls {
    config: Arc<ServerConfig>,
    current: Arc<Current>,
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerTls(..)")
    }
}

impl ServerTls {
    /// TLS 1.2 and 1.3 with HTTP/2 and HTTP/1.1, presenting `certificate`.
    ///
    /// # Errors
    /// [`TlsError`] when certificate and key are unusable or do not belong together.
    pub fn new(certificate: &ServerCertificate) -> Result<Self, TlsError> {
        let current = Arc::new(Current(ArcSwap::from(certified(certificate)?)));
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&current) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = protocols();
        // Tickets spare clients that come back (docker opens many connections) the signature.
        config.ticketer = aws_lc_rs::Ticketer::new()?;
        Ok(Self { config: Arc::new(config), current })
    }

    /// Presents `certificate` from the next handshake on; running connections go on.
    ///
    /// # Errors
    /// [`TlsError`] when it is unusable; the old one stays.
    pub fn exchange(&self, certificate: &ServerCertificate) -> Result<(), TlsError> {
        self.current.0.store(certified(certificate)?);
        Ok(())
    }

    pub(crate) fn acceptor(&self) -> tokio_rustls::TlsAcceptor {
        tokio_rustls::TlsAcceptor::from(Arc::clone(&self.config))
    }
}

fn certified(certificate: &ServerCertificate) -> Result<Arc<CertifiedKey>, TlsError> {
    let chain = certificates("the certificate", &certificate.chain_pem)?;
    let key = private_key(&certificate.key_pem)?;
    Ok(Arc::new(CertifiedKey::from_der(chain, key, &provider())?))
}

#[derive(Debug)]
struct Current(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

/// TLS for a client (to be handed to reqwest's `tls_backend_preconfigured`): trusts the CAs in `ca_pem` and no others, which
/// is what whoever names one means; without it the system's; with `insecure` anything at all (`--ucp-insecure-tls`).
///
/// # Errors
/// [`TlsError`] when the CAs are unreadable.
pub fn client_config(ca_pem: Option<&str>, insecure: bool) -> Result<ClientConfig, TlsError> {
    let builder =
        ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let mut config = if insecure {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(TrustAnything(provider())))
            .with_no_client_auth()
    } else {
        let mut roots = RootCertStore::empty();
        match ca_pem {
            Some(given) => {
                for ca in certificates("the CA", given)? {
                    roots.add(ca)?;
                }
            }
            None => {
                let system = rustls_native_certs::load_native_certs();
                for error in &system.errors {
                    tracing::debug!(%error, "a trusted CA of the system could not be read");
                }
                roots.add_parsable_certificates(system.certs);
            }
        }
        builder.with_root_certificates(roots).with_no_client_auth()
    };
    config.alpn_protocols = protocols();
    Ok(config)
}

/// Trusts any certificate; the handshake itself is still checked, so only whoever holds the certificate's key passes.
#[derive(Debug)]
struct TrustAnything(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustAnything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
