//! An authority and the certificates of members and clients.

use std::{net::IpAddr, path::Path};

use dtr_store_etcd::{Tls, member::TlsFiles};
use dtr_types::Secret;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};

/// An authority.
pub struct Pki {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Pki {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "etcd test authority");
        let key = KeyPair::generate().expect("a key");
        Self { issuer: CertifiedIssuer::self_signed(params, key).expect("an authority") }
    }

    pub fn ca(&self) -> String {
        self.issuer.pem()
    }

    fn issue(&self, name: &str) -> (String, String) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names = vec![SanType::IpAddress(IpAddr::from([127, 0, 0, 1]))];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    }

    /// A client's.
    pub fn client(&self) -> Tls {
        let (certificate, key) = self.issue("client");
        Tls { ca: self.ca(), certificate, key: Secret::new(key) }
    }

    /// A member's, for both of its sides.
    pub fn member_files(&self, dir: &Path) -> TlsFiles {
        let (certificate, key) = self.issue("member");
        TlsFiles {
            certificate: super::write(dir.join("member.crt"), &certificate),
            key: super::write(dir.join("member.key"), &key),
            ca: super::write(dir.join("ca.crt"), &self.ca()),
            revoked: None,
        }
    }
}
