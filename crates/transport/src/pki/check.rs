//! Checks of certificates that people bring, before anything is served with them.

use std::{net::IpAddr, sync::Arc, time::Duration};

use dtr_types::{Secret, Timestamp, why_no_pem};
use rustls::{
    RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier as _},
    sign::CertifiedKey,
};
use rustls_pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, UnixTime,
    pem::{self, PemObject as _},
};
use x509_parser::{
    prelude::{FromDer as _, GeneralName, X509Certificate},
    revocation_list::CertificateRevocationList,
};

use super::{PkiError, ServerCertificate, SubjectName, SubjectNames};
use crate::tls::provider;

/// From here on before its end, a certificate is warned about.
pub const EXPIRES_SOON: Duration = Duration::from_secs(30 * 24 * 3600);

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// Who it is for, as text.
    pub subject: String,
    /// Who issued it, as text.
    pub issuer: String,
    /// The names it is valid for.
    pub names: Vec<SubjectName>,
    /// Its beginning.
    pub not_before: Timestamp,
    /// Its end.
    pub not_after: Timestamp,
}

/// A certificate that may be served, and what to tell about it.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The certificate and key.
    pub certificate: ServerCertificate,
    /// What it says.
    pub facts: CertificateFacts,
    /// What is allowed but worth a word.
    pub warnings: Vec<String>,
}

/// The facts of the first certificate in `chain_pem`.
///
/// # Errors
/// [`PkiError::Unreadable`].
pub fn facts(chain_pem: &str) -> Result<CertificateFacts, PkiError> {
    let what = "the certificate";
    let chain = certificates(what, chain_pem)?;
    Ok(facts_of(&parse(what, &chain[0])?))
}

/// Whether the first certificate in `chain_pem` is one that issues others.
///
/// # Errors
/// [`PkiError::Unreadable`].
pub fn is_authority(chain_pem: &str) -> Result<bool, PkiError> {
    let what = "the certificate";
    let chain = certificates(what, chain_pem)?;
    Ok(parse(what, &chain[0])?.is_ca())
}

/// Checks that a list of revoked certificates, as PEM, can be read.
///
/// # Errors
/// [`PkiError::Unreadable`].
pub fn check_revocation_list(pem: &str) -> Result<(), PkiError> {
    let unreadable =
        |why: String| PkiError::Unreadable { what: "the list of revoked certificates", why };
    let list = CertificateRevocationListDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| unreadable(error.to_string()))?;
    let parsed = CertificateRevocationList::from_der(&list);
    parsed.map(drop).map_err(|error| unreadable(error.to_string()))
}

/// Checks a certificate that a person gave (`--dtr-cert`, `--dtr-key`, `--dtr-ca`): readable, key and certificate belong
/// together, within its time, has names, leads to the CA if one is given. Names of `wanted` that it lacks, an end within
/// [`EXPIRES_SOON`] and certificates out of order are warnings.
///
/// # Errors
/// [`PkiError`] naming what is wrong and what to do.
pub fn check_server_certificate(
    chain_pem: &str,
    key_pem: &Secret,
    ca_pem: Option<&str>,
    wanted: &SubjectNames,
    now: Timestamp,
) -> Result<Checked, PkiError> {
    let what = "the certificate";
    let chain = certificates(what, chain_pem)?;
    let leaf = parse(what, &chain[0])?;
    let facts = facts_of(&leaf);
    let subject = facts.subject.clone();
    key_belongs(&chain, private_key(key_pem)?, &subject)?;
    if now > facts.not_after {
        return Err(PkiError::Expired { subject, at: facts.not_after });
    }
    if now < facts.not_before {
        return Err(PkiError::NotYet { subject, at: facts.not_before });
    }
    let Some(first_name) = facts.names.first() else {
        return Err(PkiError::NoNames { subject });
    };
    let mut warnings = Vec::new();
    match ca_pem {
        Some(ca) => leads_to(&chain, ca, first_name, now, &subject)?,
        None => warnings.extend(out_of_order(&chain)?),
    }
    if facts.not_after.since(now) < EXPIRES_SOON {
        warnings.push(format!("the certificate ends on {}: renew it before then", facts.not_after));
    }
    for name in wanted.iter() {
        if !facts.names.iter().any(|held| name.is_covered_by(held)) {
            warnings.push(format!(
                "the certificate does not name \"{name}\": clients that use this name will refuse it"
            ));
        }
    }
    let certificate =
        ServerCertificate { chain_pem: chain_pem.to_owned(), key_pem: key_pem.clone() };
    Ok(Checked { certificate, facts, warnings })
}

/// At least one certificate from PEM.
pub(crate) fn certificates(
    what: &'static str,
    pem_text: &str,
) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    let unreadable = |why: &str| PkiError::Unreadable { what, why: why.to_owned() };
    let all: Result<Vec<_>, pem::Error> =
        CertificateDer::pem_slice_iter(pem_text.as_bytes()).collect();
    let all = all.map_err(|_| unreadable(why_no_pem(pem_text)))?;
    if all.is_empty() {
        return Err(unreadable(
            "it has no \"-----BEGIN CERTIFICATE-----\"; give the text of a PEM file",
        ));
    }
    Ok(all)
}

/// A private key from PEM.
pub(crate) fn private_key(key: &Secret) -> Result<PrivateKeyDer<'static>, PkiError> {
    let unreadable =
        |why: &str| PkiError::Unreadable { what: "the private key", why: why.to_owned() };
    let text = key.expose();
    if text.contains("ENCRYPTED") {
        return Err(unreadable(
            "it is protected by a passphrase; remove it with: openssl pkey -in key.pem -out clear.pem",
        ));
    }
    PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|_| {
        unreadable("it has no \"-----BEGIN PRIVATE KEY-----\"; give the text of a PEM file")
    })
}

pub(crate) fn parse<'a>(
    what: &'static str,
    der: &'a CertificateDer<'_>,
) -> Result<X509Certificate<'a>, PkiError> {
    match X509Certificate::from_der(der) {
        Ok((_, parsed)) => Ok(parsed),
        Err(e) => Err(PkiError::Unreadable { what, why: format!("it is not X.509: {e}") }),
    }
}

fn facts_of(certificate: &X509Certificate<'_>) -> CertificateFacts {
    let at = |seconds: i64| Timestamp::from_millis(seconds.saturating_mul(1000));
    let names = certificate.subject_alternative_name().ok().flatten();
    CertificateFacts {
        subject: certificate.subject().to_string(),
        issuer: certificate.issuer().to_string(),
        names: names
            .map(|ext| ext.value.general_names.iter().filter_map(name_of).collect())
            .unwrap_or_default(),
        not_before: at(certificate.validity().not_before.timestamp()),
        not_after: at(certificate.validity().not_after.timestamp()),
    }
}

fn name_of(name: &GeneralName<'_>) -> Option<SubjectName> {
    match name {
        GeneralName::DNSName(name) => Some(SubjectName::Dns(name.to_ascii_lowercase())),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from)).ok().map(SubjectName::Ip)
        }
        _ => None,
    }
}

fn key_belongs(
    chain: &[CertificateDer<'static>],
    key: PrivateKeyDer<'static>,
    subject: &str,
) -> Result<(), PkiError> {
    let key = provider().key_provider.load_private_key(key).map_err(|e| PkiError::Unreadable {
        what: "the private key",
        why: format!("{e}; use an RSA (2048 bits or more) or ECDSA P-256, P-384 or P-521 key"),
    })?;
    let matches = |c: &CertificateDer<'static>| {
        CertifiedKey::new(vec![c.clone()], Arc::clone(&key)).keys_match().is_ok()
    };
    if matches(&chain[0]) {
        return Ok(());
    }
    let hint = if chain[1..].iter().any(matches) {
        "it belongs to a later one in the file; put the server's certificate first, intermediates after it"
    } else {
        "give the key that the certificate was requested with"
    };
    Err(PkiError::KeyDiffers { subject: subject.to_owned(), hint })
}

fn leads_to(
    chain: &[CertificateDer<'static>],
    ca_pem: &str,
    name: &SubjectName,
    now: Timestamp,
    subject: &str,
) -> Result<(), PkiError> {
    let failed = |why: String| PkiError::Chain { subject: subject.to_owned(), why };
    let mut roots = RootCertStore::empty();
    for ca in certificates("the CA", ca_pem)? {
        roots.add(ca).map_err(|e| failed(format!("the CA is unusable: {e}")))?;
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|e| failed(e.to_string()))?;
    // A wildcard stands for any one label; the check wants a name without it.
    let name = name.to_string().replacen('*', "any", 1);
    let name = ServerName::try_from(name).map_err(|e| failed(e.to_string()))?;
    let at = UnixTime::since_unix_epoch(Duration::from_millis(
        u64::try_from(now.millis()).unwrap_or_default(),
    ));
    match verifier.verify_server_cert(&chain[0], &chain[1..], &name, &[], at) {
        Ok(_) => Ok(()),
        // A self-signed certificate given as its own CA is what many small installations have.
        Err(_) if certificates("the CA", ca_pem)?.contains(&chain[0]) => Ok(()),
        Err(e) => Err(failed(e.to_string())),
    }
}

fn out_of_order(chain: &[CertificateDer<'static>]) -> Result<Option<String>, PkiError> {
    for pair in chain.windows(2) {
        let (lower, upper) =
            (parse("the certificate", &pair[0])?, parse("an intermediate", &pair[1])?);
        if lower.issuer() != upper.subject() {
            return Ok(Some(format!(
                "the certificates are not in order: \"{}\" was issued by \"{}\", but \"{}\" follows it",
                lower.subject(),
                lower.issuer(),
                upper.subject()
            )));
        }
    }
    Ok(None)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "what fails here fails the test")]
mod tests {
    use super::*;
    use crate::pki::Authority;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn now() -> Timestamp {
        "2026-05-01T12:00:00Z".parse().unwrap()
    }

    fn issued(authority: &Authority, host: &str) -> ServerCertificate {
        let names = SubjectNames::none().with_host(host).unwrap();
        authority.issue_server(&names, now(), 90 * DAY).unwrap()
    }

    fn check(
        chain: &str,
        key: &Secret,
        ca: Option<&str>,
        at: Timestamp,
    ) -> Result<Checked, PkiError> {
        let wanted = SubjectNames::none().with_host("dtr.example.com").unwrap();
        check_server_certificate(chain, key, ca, &wanted, at)
    }

    #[test]
    fn an_authority_comes_back_from_pem_and_issues() {
        let made = Authority::make("DTR root CA", now()).unwrap();
        let read = Authority::from_pem(made.certificate_pem(), made.key_pem()).unwrap();
        let server = issued(&read, "dtr.example.com");
        let ca = Some(made.certificate_pem());
        let checked = check(&server.chain_pem, &server.key_pem, ca, now()).unwrap();
        assert!(checked.warnings.is_empty(), "{:?}", checked.warnings);
        assert_eq!(checked.facts.names, [SubjectName::Dns("dtr.example.com".to_owned())]);
        let other = Authority::make("DTR root CA", now()).unwrap();
        assert!(matches!(
            Authority::from_pem(made.certificate_pem(), other.key_pem()),
            Err(PkiError::KeyDiffers { .. })
        ));
        assert!(matches!(
            Authority::from_pem(&server.chain_pem, &server.key_pem),
            Err(PkiError::NotAuthority { .. })
        ));
        assert!(!format!("{made:?}{server:?}").contains("PRIVATE"), "no key in debug output");
    }

    #[test]
    fn refusals_say_what_to_do() {
        let authority = Authority::make("CA", now()).unwrap();
        let stranger = Authority::make("Other CA", now()).unwrap();
        let (one, two) = (issued(&authority, "dtr.example.com"), issued(&authority, "b"));
        let told = |r: Result<Checked, PkiError>| r.unwrap_err().to_string();
        let said = told(check(&one.chain_pem, &two.key_pem, None, now()));
        assert!(said.contains("requested with"), "{said}");
        let swapped = format!("{}{}", authority.certificate_pem(), one.chain_pem);
        let said = told(check(&swapped, &one.key_pem, None, now()));
        assert!(said.contains("first"), "{said}");
        let said = told(check(&one.chain_pem, &one.key_pem, None, now().plus(91 * DAY)));
        assert!(said.contains("expired"), "{said}");
        let said = told(check(&one.chain_pem, &one.key_pem, None, now().minus(9 * DAY)));
        assert!(said.contains("clock"), "{said}");
        let said =
            told(check(&one.chain_pem, &one.key_pem, Some(stranger.certificate_pem()), now()));
        assert!(said.contains("intermediate"), "{said}");
        let said = told(check("hello", &one.key_pem, None, now()));
        assert!(said.contains("BEGIN CERTIFICATE"), "{said}");
        let locked = Secret::new("-----BEGIN ENCRYPTED PRIVATE KEY-----");
        assert!(told(check(&one.chain_pem, &locked, None, now())).contains("passphrase"));
        let cut = &one.chain_pem[..one.chain_pem.len() / 2];
        assert!(check(cut, &one.key_pem, None, now()).is_err());
    }

    #[test]
    fn warnings() {
        let authority = Authority::make("CA", now()).unwrap();
        let other = issued(&authority, "other.example.com");
        let checked = check(&other.chain_pem, &other.key_pem, None, now().plus(70 * DAY)).unwrap();
        assert_eq!(checked.warnings.len(), 2, "{:?}", checked.warnings);
        let chain = format!("{}{}", other.chain_pem, other.chain_pem);
        let checked = check(&chain, &other.key_pem, None, now()).unwrap();
        assert!(checked.warnings[0].contains("order"), "{:?}", checked.warnings);
        let wild = issued(&authority, "*.example.com");
        let ca = Some(authority.certificate_pem());
        assert!(check(&wild.chain_pem, &wild.key_pem, ca, now()).unwrap().warnings.is_empty());
    }

    #[test]
    fn a_signing_key_is_made() {
        let pair = crate::pki::new_es256_key().unwrap();
        assert!(pair.private.expose().contains("PRIVATE KEY"));
        assert!(pair.public.contains("PUBLIC KEY"));
    }
}
