//! The cluster's own certificate authority.

use std::time::Duration;

use dtr_types::{Random as _, Secret, SystemRandom, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData as _,
    RevokedCertParams, SanType, SerialNumber, SubjectPublicKeyInfo,
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

/// The public half of a private key, both as PEM.
///
/// # Errors
/// [`PkiError::Unreadable`].
pub fn public_key_of(private_key: &Secret) -> Result<String, PkiError> {
    let unreadable = |e: rcgen::Error| PkiError::Unreadable {
        what: "the private key",
        why: format!("{e}; give it as PEM"),
    };
    Ok(KeyPair::from_pem(private_key.expose()).map_err(unreadable)?.public_key_pem())
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
        let mut params = leaf(&first.to_string(), names, now, valid_for)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().map_err(make("the server"))?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(make("the server"))?;
        Ok(ServerCertificate {
            chain_pem: certificate.pem(),
            key_pem: Secret::new(key.serialize_pem()),
        })
    }

    /// A certificate for one that is server and client alike, as members of a cluster are to each other: for `names`, and
    /// for the key whose public half is given, so that the private one need not leave its machine.
    ///
    /// # Errors
    /// [`PkiError`] when the key is not one, or the crypto provider fails.
    pub fn issue_member(
        &self,
        common_name: &str,
        names: &SubjectNames,
        public_key_pem: &str,
        now: Timestamp,
        valid_for: Duration,
    ) -> Result<String, PkiError> {
        let mut params = leaf(common_name, names, now, valid_for)?;
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.serial_number = Some(serial());
        let key = SubjectPublicKeyInfo::from_pem(public_key_pem).map_err(|e| {
            PkiError::Unreadable { what: "the public key", why: format!("{e}; give it as PEM") }
        })?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(make("the member"))?;
        Ok(certificate.pem())
    }

    /// The list of certificates that this authority takes back, as PEM.
    ///
    /// # Errors
    /// [`PkiError`] when one of them is unreadable, or the crypto provider fails.
    pub fn revocation_list(
        &self,
        certificates_pem: &[&str],
        number: u64,
        now: Timestamp,
    ) -> Result<String, PkiError> {
        let what = "the certificate to take back";
        let mut revoked_certs = Vec::new();
        for pem in certificates_pem {
            for der in check::certificates(what, pem)? {
                let serial = check::parse(what, &der)?.raw_serial().to_vec();
                revoked_certs.push(RevokedCertParams {
                    serial_number: SerialNumber::from(serial),
                    revocation_time: at(now),
                    reason_code: None,
                    invalidity_date: None,
                });
            }
        }
        let params = CertificateRevocationListParams {
            this_update: at(now.minus(BACKDATED)),
            // It stays in force until there is a newer one, however long that takes.
            next_update: at(now.plus(AUTHORITY_VALIDITY)),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.issuer).map_err(make("the list of revoked"))?;
        list.pem().map_err(make("the list of revoked"))
    }
}

/// What certificates that are no authority have in common.
fn leaf(
    common_name: &str,
    names: &SubjectNames,
    now: Timestamp,
    valid_for: Duration,
) -> Result<CertificateParams, PkiError> {
    let mut params = params(common_name, now, valid_for);
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
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// A number of its own for each certificate, also for two of one key: it is what a revocation names.
fn serial() -> SerialNumber {
    let mut bytes = [0; 16];
    SystemRandom.fill(&mut bytes);
    // Positive, and of full length.
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from(bytes.to_vec())
}

fn at(time: Timestamp) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(time.seconds()).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

fn make(what: &'static str) -> impl Fn(rcgen::Error) -> PkiError {
    move |source| PkiError::Make { what, source }
}

fn params(common_name: &str, now: Timestamp, valid_for: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = at(now.minus(BACKDATED));
    params.not_after = at(now.plus(valid_for));
    // 64 characters is the limit of a common name; the names that count are the alternative ones.
    let name: String = common_name.chars().take(64).collect();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}
