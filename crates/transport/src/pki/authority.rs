//! The cluster's own certificate authority.

use std::time::Duration;

use dtr_types::{Secret, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData as _, SanType,
};
use time::OffsetDateTime;

use super::{PkiError, SubjectName, SubjectNames, check};

/// How long an authority is valid: longer than any installation of it.
const AUTHORITY_VALIDITY: Duration = Duration::from_secs(20 * 365 * 24 * 3600);
/// Certificates begin a little in the past, for clients whose clock is behind.
const BACKDATED: Duration = Duration::from_secs(24 * 3600);

/// A certificate chain, the server's own first, and its private key, both as PEM.
#[derive(Clone, Debug)]
pub struct ServerCertificate {
    /// The server's certificate, then intermediates.
    pub chain_pem: String,
    /// The private key: PKCS#8, PKCS#1 or SEC1.
    pub key_pem: Secret,
}

/// An ES256 key pair for signing tokens.
#[derive(Clone, Debug)]
pub struct KeyPairPem {
    /// The private key, PKCS#8 PEM.
    pub private: Secret,
    /// The public key, SubjectPublicKeyInfo PEM.
    pub public: String,
}

/// A new ES256 (ECDSA over P-256) key pair from the crypto provider's generator.
///
/// # Errors
/// [`PkiError::Make`] when the provider fails.
pub fn new_es256_key() -> Result<KeyPairPem, PkiError> {
    let pair = KeyPair::generate().map_err(make("a signing key"))?;
    Ok(KeyPairPem { private: Secret::new(pair.serialize_pem()), public: pair.public_key_pem() })
}

/// An authority with its key: signs certificates of servers. ECDSA P-256.
pub struct Authority {
    certificate_pem: String,
    key_pem: Secret,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("certificate", &self.certificate_pem)
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// A new authority called `common_name`, valid for 20 years.
    ///
    /// # Errors
    /// [`PkiError::Make`] when the crypto provider fails.
    pub fn make(common_name: &str, now: Timestamp) -> Result<Self, PkiError> {
        let key = KeyPair::generate().map_err(make("the authority"))?;
        let mut params = params(common_name, now, AUTHORITY_VALIDITY);
        // It issues servers' certificates only, never another authority.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let certificate = params.self_signed(&key).map_err(make("the authority"))?;
        Ok(Self {
            certificate_pem: certificate.pem(),
            key_pem: Secret::new(key.serialize_pem()),
            issuer: Issuer::new(params, key),
        })
    }

    /// An authority that was made before.
    ///
    /// # Errors
    /// [`PkiError`] when one of the two is unreadable, they do not belong together, or it is no authority.
    pub fn from_pem(certificate_pem: &str, key_pem: &Secret) -> Result<Self, PkiError> {
        let what = "the authority's certificate";
        let der = check::certificates(what, certificate_pem)?.swap_remove(0);
        let parsed = check::parse(what, &der)?;
        let subject = parsed.subject().to_string();
        if !parsed.is_ca() {
            return Err(PkiError::NotAuthority { subject });
        }
        let key = KeyPair::from_pem(key_pem.expose()).map_err(|e| PkiError::Unreadable {
            what: "the authority's key",
            why: format!("{e}; give the private key as PEM"),
        })?;
        if key.subject_public_key_info() != parsed.public_key().raw {
            return Err(PkiError::KeyDiffers { subject, hint: "give the authority's own key" });
        }
        let issuer =
            Issuer::from_ca_cert_der(&der, key).map_err(make("the authority's certificate"))?;
        Ok(Self { certificate_pem: certificate_pem.to_owned(), key_pem: key_pem.clone(), issuer })
    }

    /// Its certificate as PEM: what `/ca` serves.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Its private key as PEM.
    pub fn key_pem(&self) -> &Secret {
        &self.key_pem
    }

    /// A new key and certificate for a server reached by `names`.
    ///
    /// # Errors
    /// [`PkiError`] when there is no name, or the crypto provider fails.
    pub fn issue_server(
        &self,
        names: &SubjectNames,
        now: Timestamp,
        valid_for: Duration,
    ) -> Result<ServerCertificate, PkiError> {
        let first = names.iter().next().ok_or_else(|| PkiError::Name(String::new()))?;
        let mut params = params(&first.to_string(), now, valid_for);
        for name in names.iter() {
            params.subject_alt_names.push(match name {
                SubjectName::Dns(name) => SanType::DnsName(
                    name.as_str().try_into().map_err(|_| PkiError::Name(name.clone()))?,
                ),
                SubjectName::Ip(address) => SanType::IpAddress(*address),
            });
        }
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().map_err(make("the server"))?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(make("the server"))?;
        Ok(ServerCertificate {
            chain_pem: certificate.pem(),
            key_pem: Secret::new(key.serialize_pem()),
        })
    }
}

fn make(what: &'static str) -> impl Fn(rcgen::Error) -> PkiError {
    move |source| PkiError::Make { what, source }
}

fn params(common_name: &str, now: Timestamp, valid_for: Duration) -> CertificateParams {
    let at = |t: Timestamp| {
        OffsetDateTime::from_unix_timestamp(t.seconds()).unwrap_or(OffsetDateTime::UNIX_EPOCH)
    };
    let mut params = CertificateParams::default();
    params.not_before = at(now.minus(BACKDATED));
    params.not_after = at(now.plus(valid_for));
    // 64 characters is the limit of a common name; the names that count are the alternative ones.
    let name: String = common_name.chars().take(64).collect();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}
