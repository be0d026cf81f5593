//! Whether what a registry cannot be without is in an archive, and usable: keys and certificates, a file of every kind of
//! records, somebody who may administer it. A registry that was made from an archive without them would not start, or
//! nobody could do anything in it.

use std::collections::BTreeSet;

use dtr_archive::{Header, IdentityKind, Product};
use dtr_catalog::{
    Kind,
    records::{Account, CertificateRecord, Credential, KeyPurpose, KeyRecord},
};
use dtr_transport::pki::{self, Authority, PkiError, SubjectNames};
use dtr_types::{AccountId, Timestamp};

use crate::{keys::signing_key, lines::Line, schema::SCHEMA};

/// Certificates without which a registry does not start.
const DEMANDED: [&str; 2] = ["ca", "service"];

/// What came so far.
#[derive(Default)]
pub(crate) struct Assets {
    created: Timestamp,
    certificates: BTreeSet<String>,
    archive_keys: u64,
    administrators: BTreeSet<AccountId>,
    with_password: bool,
    /// What makes the archive one that a registry cannot be made of.
    pub(crate) broken: Vec<String>,
    /// What is worth knowing.
    pub(crate) warnings: Vec<String>,
}

impl Assets {
    pub(crate) fn new(header: &Header) -> Self {
        Self { created: header.created, ..Self::default() }
    }

    /// Judges a record; most are none of these.
    pub(crate) fn record(&mut self, line: &Line) {
        match line {
            Line::Key(key) => self.key(key),
            Line::Certificate(certificate) => self.certificate(certificate),
            Line::Account(account) => self.account(account),
            Line::Credential(Credential { account, .. }) => {
                self.with_password |= self.administrators.contains(account);
            }
            _ => {}
        }
    }

    fn key(&mut self, key: &KeyRecord) {
        self.archive_keys += u64::from(key.purpose == KeyPurpose::Archive);
        if let Err(why) = usable_key(key) {
            let (purpose, id) = (key.purpose.as_str(), &key.id);
            self.broken.push(format!("the {purpose} key {id} cannot be used: {why}"));
        }
    }

    fn certificate(&mut self, certificate: &CertificateRecord) {
        let name = &certificate.name;
        self.certificates.insert(name.clone());
        match usable_certificate(certificate, self.created) {
            Ok(None) => {}
            Ok(Some(warning)) => self.warnings.push(format!("certificate \"{name}\": {warning}")),
            Err(why) => {
                self.broken.push(format!("the certificate \"{name}\" cannot be used: {why}"));
            }
        }
    }

    fn account(&mut self, account: &Account) {
        if account.is_admin && account.is_active && !account.is_org {
            self.administrators.insert(account.id.clone());
        }
    }

    /// At the end, `kinds` being the files of records that came: what did not come.
    pub(crate) fn finish(&mut self, header: &Header, kinds: &BTreeSet<String>) {
        // A kind that a later schema adds is in no archive of an earlier one.
        if header.schema == SCHEMA {
            let demanded = Kind::ALL.iter().filter_map(|kind| kind.archived());
            for kind in demanded.filter(|kind| !kinds.contains(*kind)) {
                self.broken.push(format!(
                    "{kind} is not in it, and every backup has a file of each kind, be it empty"
                ));
            }
        }
        if header.product == Product::Dtr {
            for name in DEMANDED.into_iter().filter(|name| !self.certificates.contains(*name)) {
                self.broken.push(format!("the certificate \"{name}\" is not in it"));
            }
            if self.archive_keys == 0 {
                self.broken.push("the key that signs archives is not in it".to_owned());
            }
        }
        let own = header.identity.kind == IdentityKind::BuiltIn;
        if own && header.scope.identity && !self.with_password {
            self.warnings.push(
                "no active administrator with a password is among its accounts: nobody could administer what is restored"
                    .to_owned(),
            );
        }
    }
}

/// Whether a key can be read. One whose private half is elsewhere is none to be used.
pub(crate) fn usable_key(key: &KeyRecord) -> Result<(), String> {
    if key.private_key.is_empty() {
        return Ok(());
    }
    match key.purpose {
        KeyPurpose::Archive => match signing_key(key) {
            Ok(found) if found.public_key().id().starts_with(&key.id) => Ok(()),
            Ok(found) => Err(format!("its id is {}", found.public_key().id())),
            Err(error) => Err(error.to_string()),
        },
        _ => pki::public_key_of(&key.private_key).map(drop).map_err(|error| error.to_string()),
    }
}

/// Whether a certificate and its key can be read and belong together; what may be and is worth knowing.
pub(crate) fn usable_certificate(
    record: &CertificateRecord,
    at: Timestamp,
) -> Result<Option<String>, String> {
    let CertificateRecord { certificate, private_key, ca, .. } = record;
    // What the authority of the replicas of a cluster took back is among the certificates, too.
    if certificate.contains("-----BEGIN X509 CRL") {
        let read = pki::check_revocation_list(certificate);
        return read.map(|()| None).map_err(|error| error.to_string());
    }
    if certificate.contains("-----BEGIN PUBLIC KEY") {
        let public = pki::public_key_of(private_key).map_err(|error| error.to_string())?;
        let same = public.trim() == certificate.trim();
        return if same { Ok(None) } else { Err("its public half is another's".to_owned()) };
    }
    let checked = if private_key.is_empty() {
        pki::facts(certificate).map(drop)
    } else if pki::is_authority(certificate).map_err(|error| error.to_string())? {
        Authority::from_pem(certificate, private_key).map(drop)
    } else {
        let ca = (!ca.is_empty()).then_some(ca.as_str());
        let none = SubjectNames::none();
        pki::check_server_certificate(certificate, private_key, ca, &none, at).map(drop)
    };
    match checked {
        Ok(()) => Ok(None),
        // They are read and belong together, which is what an archive can be blamed for.
        Err(
            error @ (PkiError::Expired { .. } | PkiError::NotYet { .. } | PkiError::Chain { .. }),
        ) => Ok(Some(error.to_string())),
        Err(error) => Err(error.to_string()),
    }
}
