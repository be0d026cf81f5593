//! Certificates: the cluster's own authority, what it issues, and checks of what people bring.

mod authority;
mod check;
mod names;

pub use authority::{Authority, KeyPairPem, ServerCertificate, new_es256_key, public_key_of};
pub use check::{
    CertificateFacts, Checked, EXPIRES_SOON, check_revocation_list, check_server_certificate,
    facts, is_authority,
};
pub(crate) use check::{certificates, private_key};
pub use names::{SubjectName, SubjectNames};

use std::time::Duration;

use dtr_types::Timestamp;

/// How long a server certificate of our own authority is valid: what clients with their own trusted authorities still
/// accept (825 days on Apple systems).
pub const SERVER_VALIDITY: Duration = Duration::from_secs(825 * 24 * 3600);

/// Why a certificate or key cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A name that no certificate can carry.
    #[error(
        "\"{0}\" cannot stand in a certificate: give a DNS name, an IP address, or a URL such as https://dtr.example.com"
    )]
    Name(String),
    /// Making or signing failed.
    #[error("the certificate for {what} could not be made: {source}")]
    Make {
        /// What it was for.
        what: &'static str,
        /// What the library said.
        #[source]
        source: rcgen::Error,
    },
    /// Not PEM, or the wrong thing in it.
    #[error("{what} is not readable: {why}")]
    Unreadable {
        /// Which of the files given.
        what: &'static str,
        /// What is wrong with it and what to give instead.
        why: String,
    },
    /// The key belongs to another certificate.
    #[error("the private key does not belong to the certificate of \"{subject}\": {hint}")]
    KeyDiffers {
        /// The subject of the certificate.
        subject: String,
        /// What to do.
        hint: &'static str,
    },
    /// Used after its end.
    #[error("the certificate of \"{subject}\" expired on {at}: renew it and give the new one")]
    Expired {
        /// The subject.
        subject: String,
        /// Its end.
        at: Timestamp,
    },
    /// Used before its beginning.
    #[error(
        "the certificate of \"{subject}\" is valid only from {at}: check this machine's clock, or wait"
    )]
    NotYet {
        /// The subject.
        subject: String,
        /// Its beginning.
        at: Timestamp,
    },
    /// No subject alternative names: clients refuse it.
    #[error(
        "the certificate of \"{subject}\" has no subject alternative names, without which clients refuse it: \
         have it issued with the DNS names of every replica and of the load balancer"
    )]
    NoNames {
        /// The subject.
        subject: String,
    },
    /// The certificates do not lead to the given CA.
    #[error(
        "the certificate of \"{subject}\" does not lead to the given CA ({why}): append the intermediate \
         certificates to the certificate file, and give the root CA that issued them"
    )]
    Chain {
        /// The subject.
        subject: String,
        /// What the check said.
        why: String,
    },
    /// An authority that may not issue.
    #[error(
        "the certificate of \"{subject}\" is not one of an authority (no CA flag), so nothing can be issued with it"
    )]
    NotAuthority {
        /// The subject.
        subject: String,
    },
}
