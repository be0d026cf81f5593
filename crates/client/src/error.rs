//! What can go wrong, for people: what was attempted, on what, why, and what to do.

use std::{error::Error as _, io, path::PathBuf, time::Duration};

use dtr_types::{AccountName, Digest};
use http::StatusCode;
use serde::Deserialize;
use url::Url;

use crate::http_client::TlsFlags;

/// Why a request did not succeed. The text of each is meant for a person and holds no secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// An address that cannot be used.
    #[error("\"{address}\" is not an address that can be used: {why}; write https://HOST[:PORT]")]
    Address {
        /// As given.
        address: String,
        /// What is wrong with it.
        why: String,
    },
    /// The service sends clients to another address.
    #[error("{address} sends clients to {to}: give that address")]
    Elsewhere {
        /// As given.
        address: String,
        /// Scheme, host and port that it names; "another address" when that cannot be read.
        to: String,
    },
    /// The CA given is not PEM, or the certificates of the machine cannot be used.
    #[error(
        "the CA given with {flag} cannot be used: {why}; give the text of a PEM file, such as \"$(cat ca.pem)\""
    )]
    Ca {
        /// How it was given.
        flag: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// No connection.
    #[error(
        "cannot reach {host}: {why}; check the address and the port, and that the service runs"
    )]
    Unreachable {
        /// Host and port.
        host: String,
        /// What the system said.
        why: String,
    },
    /// The peer's certificate is not trusted.
    #[error(
        "the certificate of {host} is not trusted ({why}); give its CA with {} \"$(cat ca.pem)\" (fetch it from https://{host}/ca and compare its fingerprint), or, where nobody can listen in, use {}",
        flags.ca, flags.insecure
    )]
    NotTrusted {
        /// Host and port.
        host: String,
        /// What is wrong with it.
        why: String,
        /// The flags that the person can use.
        flags: TlsFlags,
    },
    /// An address with http:// where the service speaks TLS, or the other way round.
    #[error(
        "{host} does not speak the protocol of the address ({why}); check http:// or https:// and the port"
    )]
    Protocol {
        /// Host and port.
        host: String,
        /// What the library said.
        why: String,
    },
    /// No answer in time.
    #[error("{host} did not answer {what} in time")]
    Timeout {
        /// Host and port.
        host: String,
        /// The request.
        what: String,
    },
    /// Wrong user name or password, or a session that has ended.
    #[error("{host} refused the login{}: {message}", account.as_ref().map(|a| format!(" of {a}")).unwrap_or_default())]
    Credentials {
        /// Host and port.
        host: String,
        /// Who was to be logged in, if a name was given.
        account: Option<String>,
        /// What the service said.
        message: String,
    },
    /// The account is known, but is not an administrator.
    #[error("{account} is not an administrator at {host}; log in with an administrator's account")]
    NotAdmin {
        /// Host and port.
        host: String,
        /// Who is logged in.
        account: AccountName,
    },
    /// The account may not do that.
    #[error("{what}: denied: {message}")]
    Denied {
        /// The request.
        what: String,
        /// What the service said.
        message: String,
    },
    /// There is no such thing.
    #[error("{what}: not found: {message}")]
    NotFound {
        /// The request.
        what: String,
        /// What the service said.
        message: String,
    },
    /// A registry without accounts of its own was asked to log somebody in.
    #[error(
        "{host} keeps no accounts: it is a registry whose accounts are kept by a UCP; give the UCP's address with --ucp-url"
    )]
    NoAccounts {
        /// Host and port.
        host: String,
    },
    /// Another refusal by the service.
    #[error("{what}: refused with status {}: {message}{}", status.as_u16(), code.as_ref().map(|c| format!(" ({c})")).unwrap_or_default())]
    Refused {
        /// The request.
        what: String,
        /// The status.
        status: StatusCode,
        /// The first error's code, if the body had one.
        code: Option<String>,
        /// The errors' messages.
        message: String,
    },
    /// Still refused for now after every attempt.
    #[error("{what}: still not possible after {attempts} attempts (status {}): {message}", status.as_u16())]
    Busy {
        /// The request.
        what: String,
        /// The last status: 429, 502, 503, 504 or 507.
        status: StatusCode,
        /// How often it was tried.
        attempts: u32,
        /// What the service said last.
        message: String,
    },
    /// The connection was lost in the middle.
    #[error("{what}: the connection to {host} was lost: {why}")]
    Lost {
        /// Host and port.
        host: String,
        /// The request.
        what: String,
        /// What the system said.
        why: String,
    },
    /// An answer ended before its end.
    #[error(
        "{what}: the answer was cut short after {received} bytes: {why}; what was received must not be used"
    )]
    CutShort {
        /// The request.
        what: String,
        /// Bytes that had come.
        received: u64,
        /// How it was noticed.
        why: String,
    },
    /// The service itself gave up in the middle of a download.
    #[error(
        "{what}: the service gave up after {received} bytes: {message}; what was received must not be used"
    )]
    Aborted {
        /// The request.
        what: String,
        /// Bytes that had come.
        received: u64,
        /// Its reason.
        message: String,
    },
    /// Content that does not hash to its digest.
    #[error(
        "{what}: the content hashes to {found}, not to {wanted}; it is damaged where it was stored or on the way"
    )]
    Digest {
        /// The request or file.
        what: String,
        /// What was asked for.
        wanted: Box<Digest>,
        /// What came.
        found: Box<Digest>,
    },
    /// An answer that makes no sense.
    #[error("{what}: the answer cannot be understood: {why}; is this the right address?")]
    Answer {
        /// The request.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// A file of this machine.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Content of an OCI layout, or files to make one of, that cannot be used.
    #[error("{}: {why}", path.display())]
    Layout {
        /// The layout or file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl ClientError {
    /// The status of the answer, where there was one.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Refused { status, .. } | Self::Busy { status, .. } => Some(*status),
            Self::NotFound { .. } => Some(StatusCode::NOT_FOUND),
            Self::Denied { .. } => Some(StatusCode::FORBIDDEN),
            Self::Credentials { .. } => Some(StatusCode::UNAUTHORIZED),
            _ => None,
        }
    }

    /// Whether the service has no such path at all: it is another kind of service, or an older one.
    pub fn is_missing_path(&self) -> bool {
        matches!(self, Self::NotFound { message, .. } if message.contains("no such endpoint"))
    }

    /// Whether the path exists and the thing that it names does not.
    pub fn is_missing_thing(&self) -> bool {
        matches!(self, Self::NotFound { .. }) && !self.is_missing_path()
    }

    /// Whether it is unknown if the request took effect: the connection ended before the answer.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Lost { .. } | Self::Timeout { .. } | Self::CutShort { .. })
    }
}

/// Host and port of an address, for messages.
pub(crate) fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or("?");
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// What a failed exchange means. `what` names the request without its query.
pub(crate) fn explain(
    error: &reqwest::Error,
    url: &Url,
    what: &str,
    flags: TlsFlags,
) -> ClientError {
    let host = host_of(url);
    let chain = chain(error);
    if let Some(tls) = chain.tls {
        return match tls {
            rustls::Error::InvalidCertificate(why) => {
                ClientError::NotTrusted { host, why: certificate(why), flags }
            }
            other => ClientError::Protocol { host, why: other.to_string() },
        };
    }
    if error.is_timeout() && !error.is_connect() {
        return ClientError::Timeout { host, what: what.to_owned() };
    }
    if error.is_connect() {
        let why =
            if error.is_timeout() { "no answer to the connection".to_owned() } else { chain.last };
        return ClientError::Unreachable { host, why };
    }
    ClientError::Lost { host, what: what.to_owned(), why: chain.last }
}

fn certificate(why: &rustls::CertificateError) -> String {
    use rustls::CertificateError as E;
    match why {
        E::UnknownIssuer => "it is signed by a CA that is not known here".to_owned(),
        E::Expired | E::ExpiredContext { .. } => "it has expired".to_owned(),
        E::NotValidYet | E::NotValidYetContext { .. } => {
            "it is not valid yet; check the clock".to_owned()
        }
        E::NotValidForName | E::NotValidForNameContext { .. } => {
            "it is made out to another name".to_owned()
        }
        other => other.to_string(),
    }
}

struct Chain<'a> {
    tls: Option<&'a rustls::Error>,
    last: String,
}

/// Walks the causes; inside an I/O error the real one is not its `source` but its content.
fn chain(error: &reqwest::Error) -> Chain<'_> {
    let mut found = Chain { tls: None, last: "the exchange failed".to_owned() };
    let mut next = error.source();
    while let Some(cause) = next {
        if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
            found.tls = Some(tls);
        }
        found.last = said(cause);
        next = match cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => cause.source(),
        };
    }
    found
}

/// The text of a cause, for people: libraries add links into their own documentation for programmers.
pub(crate) fn said(cause: &(dyn std::error::Error + 'static)) -> String {
    let ended = |error: &io::Error| error.kind() == io::ErrorKind::UnexpectedEof;
    if cause.downcast_ref::<io::Error>().is_some_and(ended) {
        return "the connection ended in the middle; the service was stopped, or something in between cut it"
            .to_owned();
    }
    let text = cause.to_string();
    let link = text.find("https://docs.rs/").unwrap_or(text.len());
    text[..link].trim_end_matches([' ', ':', '(']).to_owned()
}

#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    errors: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// What a refusal by `host` means, from its status and its body in the documented form, or whatever it is.
pub(crate) fn refusal(host: String, what: String, status: StatusCode, body: &[u8]) -> ClientError {
    let entries = serde_json::from_slice::<Body>(body).map(|b| b.errors).unwrap_or_default();
    let code = entries.first().map(|e| e.code.clone()).filter(|c| !c.is_empty());
    let mut message = entries
        .iter()
        .map(|e| if e.message.is_empty() { e.code.as_str() } else { e.message.as_str() })
        .collect::<Vec<_>>()
        .join("; ");
    if message.is_empty() {
        let text: String = String::from_utf8_lossy(body).chars().take(200).collect();
        message = match text.trim() {
            "" => status.canonical_reason().unwrap_or("no reason given").to_owned(),
            text => text.to_owned(),
        };
    }
    match status {
        StatusCode::UNAUTHORIZED => ClientError::Credentials { host, account: None, message },
        StatusCode::FORBIDDEN => ClientError::Denied { what, message },
        StatusCode::NOT_FOUND => ClientError::NotFound { what, message },
        _ => ClientError::Refused { what, status, code, message },
    }
}

/// Limits the wait for a `Retry-After` and reads it: whole seconds; dates are ignored.
pub(crate) fn retry_after(headers: &http::HeaderMap) -> Option<Duration> {
    let text = headers.get(http::header::RETRY_AFTER)?.to_str().ok()?;
    text.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_link_for_programmers_is_shown() {
        let eof = io::Error::new(io::ErrorKind::UnexpectedEof, "peer closed: https://docs.rs/x#y");
        assert!(said(&eof).starts_with("the connection ended in the middle"));
        let other = io::Error::other("not so: https://docs.rs/rustls/latest");
        assert_eq!(said(&other), "not so");
        assert_eq!(said(&io::Error::other("disk full")), "disk full");
    }

    #[test]
    fn refusals_are_told_in_the_service_s_words() {
        let body = br#"{"errors":[{"code":"NO_SUCH_USER","message":"no user bob"}]}"#;
        let error = refusal("h".into(), "GET /x".into(), StatusCode::NOT_FOUND, body).to_string();
        assert_eq!(error, "GET /x: not found: no user bob");
        let error =
            refusal("h".into(), "PUT /x".into(), StatusCode::CONFLICT, b"<html>").to_string();
        assert_eq!(error, "PUT /x: refused with status 409: <html>");
        let error = refusal("h".into(), "PUT /x".into(), StatusCode::CONFLICT, b"").to_string();
        assert_eq!(error, "PUT /x: refused with status 409: Conflict");
    }
}
