//! HTTP to a UCP: bounded in time and size, errors with the reason and the address.

use std::time::Duration;

use dtr_types::Secret;
use reqwest::{Method, Response, StatusCode};
use serde::{Serialize, de::DeserializeOwned};

use crate::{AccountRecords, wire::Errors};

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a whole request may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long a request that checks a password may take: it may have to wait for its turn.
pub(crate) const PASSWORD_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a stream may take as a whole.
const STREAM_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// Largest export of accounts, in bytes: about a million of them.
const EXPORT_MAX: usize = 512 << 20;
/// Largest answer, in bytes.
const ANSWER_MAX: usize = 8 << 20;

/// Why a UCP did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum UcpError {
    /// The address is not one.
    #[error("\"{0}\" is not the address of a UCP, such as https://ucp.example.com:443")]
    Url(String),
    /// It cannot be reached, or does not answer in time.
    #[error("{url} cannot be reached: {reason}")]
    Away {
        /// Where.
        url: String,
        /// What happened.
        reason: String,
    },
    /// It answered with an error.
    #[error("{url} answered {status}: {message}")]
    Status {
        /// Where.
        url: String,
        /// The HTTP status.
        status: u16,
        /// Its code, for programs; empty when it gave none.
        code: String,
        /// What it said.
        message: String,
        /// After how many seconds to try again, if it said so.
        retry_after: Option<u64>,
    },
    /// Its answer is not what an identity service says.
    #[error("{url} does not answer as a UCP does: {reason}")]
    Answer {
        /// Where.
        url: String,
        /// What is wrong.
        reason: String,
    },
}

impl UcpError {
    /// The HTTP status, if it answered with an error.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Status { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Whether it is the service that fails, and not the request.
    pub fn is_away(&self) -> bool {
        match self {
            Self::Away { .. } | Self::Answer { .. } => true,
            Self::Status { status, .. } => *status >= 500,
            Self::Url(_) => false,
        }
    }
}

/// Whether what goes to an address can be read on its way. Nobody is in between on this machine itself.
pub fn sends_in_the_clear(url: &str) -> bool {
    let Ok(url) = url::Url::parse(url) else { return false };
    let here = match url.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => true,
    };
    url.scheme() == "http" && !here
}

/// An HTTP client for one UCP.
#[derive(Clone, Debug)]
pub(crate) struct Http {
    client: reqwest::Client,
    base: String,
}

impl Http {
    pub(crate) fn new(url: &str, tls: rustls::ClientConfig) -> Result<Self, UcpError> {
        let bad = || UcpError::Url(url.to_owned());
        let with_scheme =
            if url.contains("://") { url.to_owned() } else { format!("https://{url}") };
        let parsed = url::Url::parse(&with_scheme).map_err(|_| bad())?;
        if !matches!(parsed.scheme(), "https" | "http") || !parsed.has_host() {
            return Err(bad());
        }
        let base = parsed.origin().ascii_serialization();
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TIMEOUT)
            .pool_idle_timeout(Duration::from_secs(30))
            .build()
            .map_err(|error| UcpError::Away { url: base.clone(), reason: root_cause(&error) })?;
        Ok(Self { client, base })
    }

    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    fn away(&self, error: reqwest::Error) -> UcpError {
        UcpError::Away { url: self.base.clone(), reason: advised(root_cause(&error.without_url())) }
    }

    async fn send(&self, call: Call<'_>, timeout: Duration) -> Result<Response, UcpError> {
        let url = format!("{}{}", self.base, call.path);
        let mut request = self.client.request(call.method, &url).timeout(timeout);
        if let Some(bearer) = call.bearer {
            request = request.bearer_auth(bearer.expose());
        }
        if let Some(proof) = call.authorization {
            request = request.header("authorization", proof.expose());
        }
        if let Some(body) = call.body {
            request = request.header("content-type", "application/json").body(body);
        }
        request.send().await.map_err(|error| self.away(error))
    }

    /// Sends a request and hands on the answer's body in pieces, until `take` says no.
    pub(crate) async fn stream(
        &self,
        call: Call<'_>,
        mut take: impl AsyncFnMut(bytes::Bytes) -> bool,
    ) -> Result<(), UcpError> {
        let response = self.send(call, STREAM_TIMEOUT).await?;
        let mut response = self.check(response).await?;
        while let Some(chunk) = response.chunk().await.map_err(|error| self.away(error))? {
            if !take(chunk).await {
                break;
            }
        }
        Ok(())
    }

    /// The lines of an export, which ends with how many there are.
    pub(crate) async fn export(&self, call: Call<'_>) -> Result<AccountRecords, UcpError> {
        let response = self.send(call, STREAM_TIMEOUT).await?;
        let mut response = self.check(response).await?;
        let (mut records, mut rest, mut ended) = (AccountRecords::default(), Vec::new(), None);
        let mut bytes = 0;
        while let Some(chunk) = response.chunk().await.map_err(|error| self.away(error))? {
            bytes += chunk.len();
            if bytes > EXPORT_MAX {
                return Err(self.answer(format!("its export is longer than {EXPORT_MAX} bytes")));
            }
            rest.extend_from_slice(&chunk);
            let whole = rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            for line in rest[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                let line = serde_json::from_slice(line)
                    .map_err(|error| self.answer(format!("a line of its export: {error}")))?;
                ended = records.add(line).or(ended);
            }
            rest.drain(..whole);
            if rest.len() > ANSWER_MAX {
                return Err(self.answer(format!("a line is longer than {ANSWER_MAX} bytes")));
            }
        }
        match ended {
            Some(count) if count == records.len() as u64 => Ok(records),
            _ => Err(self.answer("its export was cut".to_owned())),
        }
    }

    /// Sends a request and reads the whole answer.
    pub(crate) async fn bytes(&self, call: Call<'_>) -> Result<Vec<u8>, UcpError> {
        let timeout = call.timeout.unwrap_or(TIMEOUT);
        let response = self.send(call, timeout).await?;
        let mut response = self.check(response).await?;
        self.read(&mut response).await
    }

    async fn check(&self, mut response: Response) -> Result<Response, UcpError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let retry_after = response
            .headers()
            .get("retry-after")
            .and_then(|value| value.to_str().ok()?.parse().ok());
        let bytes = self.read(&mut response).await?;
        Err(self.refusal(status, &bytes, retry_after))
    }

    async fn read(&self, response: &mut Response) -> Result<Vec<u8>, UcpError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.away(error))? {
            if bytes.len() + chunk.len() > ANSWER_MAX {
                return Err(self.answer(format!("it is longer than {ANSWER_MAX} bytes")));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    pub(crate) async fn json<T: DeserializeOwned>(&self, call: Call<'_>) -> Result<T, UcpError> {
        let bytes = self.bytes(call).await?;
        serde_json::from_slice(&bytes).map_err(|error| self.answer(error.to_string()))
    }

    fn answer(&self, reason: String) -> UcpError {
        UcpError::Answer { url: self.base.clone(), reason }
    }

    fn refusal(&self, status: StatusCode, bytes: &[u8], retry_after: Option<u64>) -> UcpError {
        let entry = serde_json::from_slice::<Errors>(bytes).ok().and_then(|mut e| e.errors.pop());
        let (code, message) = entry.map_or_else(
            || (String::new(), status.canonical_reason().unwrap_or("an error").to_owned()),
            |entry| (entry.code, entry.message),
        );
        let url = self.base.clone();
        UcpError::Status { url, status: status.as_u16(), code, message, retry_after }
    }
}

/// A request to make.
pub(crate) struct Call<'a> {
    method: Method,
    path: String,
    bearer: Option<&'a Secret>,
    authorization: Option<&'a Secret>,
    body: Option<Vec<u8>>,
    timeout: Option<Duration>,
}

impl<'a> Call<'a> {
    pub(crate) fn new(method: Method, path: impl Into<String>) -> Self {
        Self {
            method,
            path: path.into(),
            bearer: None,
            authorization: None,
            body: None,
            timeout: None,
        }
    }

    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    pub(crate) fn post(path: impl Into<String>, body: &impl Serialize) -> Self {
        Self::new(Method::POST, path).body(body)
    }

    pub(crate) fn body(mut self, body: &impl Serialize) -> Self {
        // Our own forms: maps with text keys, which JSON can always write.
        self.body = serde_json::to_vec(body).ok();
        self
    }

    pub(crate) fn bearer(mut self, token: &'a Secret) -> Self {
        self.bearer = Some(token);
        self
    }

    /// The whole `Authorization` header.
    pub(crate) fn authorization(mut self, proof: &'a Secret) -> Self {
        self.authorization = Some(proof);
        self
    }

    pub(crate) fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

/// What lies at the bottom of an error: the layers of the client library above it say nothing to a person.
fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// What a library says, with what a person can do about it.
fn advised(reason: String) -> String {
    let advice = if reason.contains("UnknownIssuer") {
        "its authority is not known here; give it with --ucp-ca \"$(cat ca.pem)\" (fetch it from /ca there and compare its fingerprint)"
    } else if reason.contains("NotValidForName") {
        "its certificate does not name this address"
    } else if reason.contains("invalid HTTP version") {
        "it does not speak plain HTTP; use https://"
    } else {
        return format!("{reason}; check the address and the port, and that the service runs");
    };
    format!("{advice}: {reason}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_person_can_do_is_said() {
        let unknown =
            advised("error sending request: invalid peer certificate: UnknownIssuer".to_owned());
        assert!(unknown.starts_with("its authority") && unknown.ends_with("UnknownIssuer"));
        assert!(advised("invalid HTTP version parsed".to_owned()).contains("https://"));
        let refused = advised("Connection refused (os error 111)".to_owned());
        assert!(refused.starts_with("Connection refused") && refused.contains("check the address"));
    }

    #[test]
    fn a_password_in_the_clear_is_warned_of() {
        for url in ["http://ucp.example.com", "HTTP://10.0.0.1:8080", "http://[2001:db8::1]/"] {
            assert!(sends_in_the_clear(url), "{url}");
        }
        let fine = ["https://ucp.example.com", "ucp.example.com", "ucp.example.com:443"];
        for url in
            fine.into_iter().chain(["http://127.0.0.1:80", "http://localhost", "http://[::1]"])
        {
            assert!(!sends_in_the_clear(url), "{url}");
        }
    }
}
