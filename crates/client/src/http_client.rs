//! One way to make an HTTP client: TLS by aws-lc-rs, keep-alive, no proxy from the environment, bounded waits.

use std::{path::Path, sync::Arc, time::Duration};

use dtr_types::why_no_pem;
use reqwest::redirect::Policy;
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _};
use url::Url;

use crate::ClientError;

/// What the flags are called with which a person changes [`TlsOptions`]; for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TlsFlags {
    /// Gives the CA.
    pub ca: &'static str,
    /// Switches verification off.
    pub insecure: &'static str,
}

impl Default for TlsFlags {
    fn default() -> Self {
        Self { ca: "--ucp-ca", insecure: "--ucp-insecure-tls" }
    }
}

/// How the peer is verified. By default: by the CAs of the machine.
#[derive(Debug, Clone, Default)]
pub struct TlsOptions {
    /// Certificates in PEM to trust, and no others.
    pub ca_pem: Option<String>,
    /// Trust anybody. The connection is encrypted, but by whom is not known.
    pub insecure: bool,
    /// What messages call these two.
    pub flags: TlsFlags,
}

/// A client with connections that are kept alive. HTTP/1.1, since one stream per connection costs least for large
/// content.
///
/// # Errors
/// [`ClientError::Ca`] when the CA given is not PEM.
pub fn http_client(options: &TlsOptions) -> Result<reqwest::Client, ClientError> {
    let bad = |why: String| ClientError::Ca { flag: options.flags.ca, why };
    // A redirection away from TLS would show what goes there, or what is sent along, to the net.
    let secure = Policy::custom(|attempt| {
        let was_secure = attempt.previous().last().is_some_and(|url| url.scheme() == "https");
        if was_secure && attempt.url().scheme() != "https" {
            return attempt.error("it redirects from https to http");
        }
        Policy::default().redirect(attempt)
    });
    let builder = builder().tls_backend_preconfigured(tls_config(options)?).redirect(secure);
    builder.build().map_err(|error| bad(error.to_string()))
}

/// The same, for services that have one address: it follows no redirection, which would lose the login or show it to others.
pub(crate) fn api_client(options: &TlsOptions) -> Result<reqwest::Client, ClientError> {
    let bad = |why: String| ClientError::Ca { flag: options.flags.ca, why };
    let builder =
        builder().tls_backend_preconfigured(tls_config(options)?).redirect(Policy::none());
    builder.build().map_err(|error| bad(error.to_string()))
}

/// A client whose every connection goes to a Unix socket of this machine, in plain HTTP.
pub(crate) fn socket_client(socket: &Path) -> Result<reqwest::Client, ClientError> {
    let tls = tls_config(&TlsOptions { insecure: true, ..TlsOptions::default() })?;
    let client = builder().tls_backend_preconfigured(tls).unix_socket(socket).build();
    client.map_err(|error| ClientError::Address {
        address: socket.display().to_string(),
        why: error.to_string(),
    })
}

fn builder() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .user_agent(concat!("dtr-client/", env!("CARGO_PKG_VERSION")))
        .no_proxy()
        .http1_only()
        .tcp_nodelay(true)
        .connect_timeout(Duration::from_secs(10))
        // Between two pieces of an answer, not for the whole of it: a backup may take hours.
        .read_timeout(Duration::from_secs(120))
        .pool_max_idle_per_host(64)
}

fn tls_config(options: &TlsOptions) -> Result<ClientConfig, ClientError> {
    let bad = |why: String| ClientError::Ca { flag: options.flags.ca, why };
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| bad(error.to_string()))?;
    let mut config = if options.insecure {
        let anybody = Arc::new(Anybody(provider));
        builder.dangerous().with_custom_certificate_verifier(anybody).with_no_client_auth()
    } else {
        builder.with_root_certificates(roots(options)?).with_no_client_auth()
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn roots(options: &TlsOptions) -> Result<RootCertStore, ClientError> {
    let bad = |why: String| ClientError::Ca { flag: options.flags.ca, why };
    let mut roots = RootCertStore::empty();
    let Some(pem) = &options.ca_pem else {
        // A machine (or an image made from scratch) without any is no error: verification will say what to do.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return Ok(roots);
    };
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|_| bad(why_no_pem(pem).to_owned()))?;
        roots.add(certificate).map_err(|error| bad(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(bad("there is no certificate in it".to_owned()));
    }
    Ok(roots)
}

/// Reads an address that a person gave: the scheme may be left out, a path is cut off.
pub(crate) fn base_url(address: &str) -> Result<Url, ClientError> {
    let bad = |why: String| ClientError::Address { address: address.to_owned(), why };
    let with_scheme = match address.contains("://") {
        true => address.to_owned(),
        false => format!("https://{address}"),
    };
    let mut url = Url::parse(with_scheme.trim()).map_err(|error| bad(error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(bad("it is neither https nor http".to_owned()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(ClientError::Address {
            address: "(hidden, since it holds a password)".to_owned(),
            why: "user name and password have flags of their own".to_owned(),
        });
    }
    url.set_path("/");
    url.set_query(None);
    url.set_fragment(None);
    Ok(url)
}

/// Accepts every certificate, but still checks that the peer holds its key.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_as_people_give_them() {
        let url = |text| base_url(text).map(|u| u.to_string());
        assert_eq!(url("dtr.example.com").expect("valid"), "https://dtr.example.com/");
        assert_eq!(url("http://127.0.0.1:5000/v2/").expect("valid"), "http://127.0.0.1:5000/");
        assert_eq!(url("dtr.example.com:4443").expect("valid"), "https://dtr.example.com:4443/");
        assert!(url("ftp://x").is_err());
        assert!(url("").is_err());
        let hidden = url("https://me:secret@x").expect_err("refused").to_string();
        assert!(!hidden.contains("secret"), "{hidden}");
    }

    #[test]
    fn a_ca_must_hold_a_certificate() {
        for pem in ["", "hello", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            let options = TlsOptions { ca_pem: Some(pem.to_owned()), ..TlsOptions::default() };
            assert!(matches!(http_client(&options), Err(ClientError::Ca { .. })), "{pem}");
        }
    }
}
