//! Docker's token authentication: reads the challenge, gets a token for a scope by GET or POST, keeps it while it is valid.
//! Source: distribution's auth/token and auth/oauth specifications.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use dtr_types::Secret;
use http::{HeaderMap, StatusCode, header::WWW_AUTHENTICATE};
use parking_lot::Mutex;
use serde::Deserialize;
use url::Url;

use crate::{
    ClientError, TlsFlags,
    error::{explain, host_of, refusal},
};

/// Most tokens that are kept at once; a load generator over many repositories must not grow without end.
const TOKENS_MAX: usize = 4096;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// Nobody: what is public.
    Anonymous,
    /// A user with a password or an access token.
    Password {
        /// The user's name.
        username: String,
        /// Password or access token.
        password: Secret,
    },
    /// A refresh token from an earlier login, exchanged by POST.
    Refresh(Secret),
    /// A token that is sent as it is, with every request.
    Bearer(Secret),
}

/// What a registry asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    Open,
    Basic,
    Bearer { realm: String, service: Option<String> },
}

/// What is sent with a request.
#[derive(Clone)]
pub(crate) enum Proof {
    None,
    Basic,
    Bearer(Secret),
}

struct Kept {
    token: Secret,
    until: Instant,
}

/// The tokens of one registry, by scope.
pub(crate) struct Tokens {
    credentials: Credentials,
    challenge: Mutex<Option<Challenge>>,
    kept: Mutex<HashMap<String, Kept>>,
}

#[derive(Deserialize)]
struct Answer {
    token: Option<Secret>,
    access_token: Option<Secret>,
    expires_in: Option<u64>,
}

impl Tokens {
    pub(crate) fn new(credentials: Credentials) -> Self {
        Self { credentials, challenge: Mutex::new(None), kept: Mutex::new(HashMap::new()) }
    }

    pub(crate) fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    pub(crate) fn challenge(&self) -> Option<Challenge> {
        self.challenge.lock().clone()
    }

    pub(crate) fn learn(&self, challenge: Challenge) {
        *self.challenge.lock() = Some(challenge);
    }

    /// Forgets the token of a scope, after the registry refused it.
    pub(crate) fn forget(&self, scope: &str) {
        self.kept.lock().remove(scope);
    }

    /// What to send for `scope` under the challenge.
    pub(crate) async fn proof(
        &self,
        http: &reqwest::Client,
        base: &Url,
        challenge: &Challenge,
        scope: &str,
        flags: TlsFlags,
    ) -> Result<Proof, ClientError> {
        if let Credentials::Bearer(token) = &self.credentials {
            return Ok(Proof::Bearer(token.clone()));
        }
        let (realm, service) = match challenge {
            Challenge::Open => return Ok(Proof::None),
            Challenge::Basic => return Ok(Proof::Basic),
            Challenge::Bearer { realm, service } => (realm, service.as_deref()),
        };
        if let Some(kept) = self.kept.lock().get(scope)
            && kept.until > Instant::now()
        {
            return Ok(Proof::Bearer(kept.token.clone()));
        }
        let realm = base.join(realm).map_err(|error| ClientError::Answer {
            what: format!("the challenge of {}", host_of(base)),
            why: format!("its realm is no address: {error}"),
        })?;
        if base.scheme() == "https" && realm.scheme() != "https" {
            return Err(ClientError::Answer {
                what: format!("the challenge of {}", host_of(base)),
                why: format!("it sends the password to {realm}, in the clear; nothing was sent"),
            });
        }
        let (token, valid) = self.fetch(http, &realm, service, scope, flags).await?;
        let mut kept = self.kept.lock();
        if kept.len() >= TOKENS_MAX {
            kept.clear();
        }
        kept.insert(scope.to_owned(), Kept { token: token.clone(), until: Instant::now() + valid });
        Ok(Proof::Bearer(token))
    }

    async fn fetch(
        &self,
        http: &reqwest::Client,
        realm: &Url,
        service: Option<&str>,
        scope: &str,
        flags: TlsFlags,
    ) -> Result<(Secret, Duration), ClientError> {
        let request = match &self.credentials {
            Credentials::Refresh(token) => {
                let mut form = vec![
                    ("grant_type", "refresh_token"),
                    ("refresh_token", token.expose()),
                    ("client_id", "dtr-client"),
                    ("scope", scope),
                ];
                form.extend(service.map(|service| ("service", service)));
                http.post(realm.clone()).form(&form)
            }
            other => {
                let mut query: Vec<(&str, &str)> = vec![("client_id", "dtr-client")];
                query.extend(service.map(|service| ("service", service)));
                query.extend(scope.split(' ').filter(|s| !s.is_empty()).map(|s| ("scope", s)));
                let request = http.get(realm.clone()).query(&query);
                match other {
                    Credentials::Password { username, password } => {
                        request.basic_auth(username, Some(password.expose()))
                    }
                    _ => request,
                }
            }
        };
        let what = format!("asking {} for a token", host_of(realm));
        let response = request.send().await.map_err(|e| explain(&e, realm, &what, flags))?;
        let status = response.status();
        let body = response.bytes().await.map_err(|e| explain(&e, realm, &what, flags))?;
        if !status.is_success() {
            return Err(self.name(refusal(host_of(realm), what, status, &body)));
        }
        let answer: Answer = serde_json::from_slice(&body)
            .map_err(|error| ClientError::Answer { what: what.clone(), why: error.to_string() })?;
        let token = answer.token.filter(|t| !t.is_empty()).or(answer.access_token);
        let token = token
            .filter(|t| !t.is_empty())
            .ok_or_else(|| ClientError::Answer { what, why: "it holds no token".to_owned() })?;
        // Renewed before its end, so that a request is not refused on the way. 60 seconds unless said, by specification.
        let seconds = answer.expires_in.unwrap_or(60).min(86_400);
        Ok((token, Duration::from_secs(seconds.saturating_sub(10).max(seconds / 2))))
    }

    /// Adds the user's name to a refused login.
    pub(crate) fn name(&self, error: ClientError) -> ClientError {
        match (error, &self.credentials) {
            (
                ClientError::Credentials { host, message, .. },
                Credentials::Password { username, .. },
            ) => ClientError::Credentials { host, account: Some(username.clone()), message },
            (error, _) => error,
        }
    }
}

/// Adds the proof to a request.
pub(crate) fn with_proof(
    request: reqwest::RequestBuilder,
    proof: &Proof,
    credentials: &Credentials,
) -> reqwest::RequestBuilder {
    match (proof, credentials) {
        (Proof::Bearer(token), _) => request.bearer_auth(token.expose()),
        (Proof::Basic, Credentials::Password { username, password }) => {
            request.basic_auth(username, Some(password.expose()))
        }
        _ => request,
    }
}

/// Reads what the answer to `GET /v2/` asks for.
pub(crate) fn read_challenge(status: StatusCode, headers: &HeaderMap) -> Option<Challenge> {
    if status.is_success() {
        return Some(Challenge::Open);
    }
    let mut basic = None;
    for line in headers.get_all(WWW_AUTHENTICATE) {
        let Ok(text) = line.to_str() else { continue };
        let (scheme, parameters) = text.trim().split_once(' ').unwrap_or((text, ""));
        if scheme.eq_ignore_ascii_case("basic") {
            basic = Some(Challenge::Basic);
        } else if scheme.eq_ignore_ascii_case("bearer") {
            let parameters = parse_parameters(parameters);
            let value = |name: &str| {
                parameters
                    .iter()
                    .find(|(n, _)| n.eq_ignore_ascii_case(name))
                    .map(|(_, v)| v.clone())
            };
            if let Some(realm) = value("realm") {
                return Some(Challenge::Bearer { realm, service: value("service") });
            }
        }
    }
    basic
}

/// `name="value",name=value`: quoted values may hold commas and backslash escapes (RFC 9110).
fn parse_parameters(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while let Some((name, after)) = rest.split_once('=') {
        let name = name.trim_matches([' ', ',', '\t']).to_owned();
        let mut value = String::new();
        let mut chars = after.chars();
        if after.starts_with('"') {
            chars.next();
            while let Some(c) = chars.next() {
                match c {
                    '"' => break,
                    '\\' => value.extend(chars.next()),
                    c => value.push(c),
                }
            }
        } else {
            value = after.split(',').next().unwrap_or_default().trim().to_owned();
            chars = after[after.find(',').unwrap_or(after.len())..].chars();
        }
        found.push((name, value));
        rest = chars.as_str();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge(line: &'static str) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        headers.append(WWW_AUTHENTICATE, http::HeaderValue::from_static(line));
        read_challenge(StatusCode::UNAUTHORIZED, &headers)
    }

    #[test]
    fn challenges_as_registries_write_them() {
        let bearer = |realm: &str, service: Option<&str>| {
            Some(Challenge::Bearer {
                realm: realm.to_owned(),
                service: service.map(ToOwned::to_owned),
            })
        };
        assert_eq!(
            challenge(
                r#"Bearer realm="https://r/auth/token",service="r",scope="repository:a/b:pull,push""#
            ),
            bearer("https://r/auth/token", Some("r"))
        );
        assert_eq!(
            challenge(r#"bearer service=r, realm="/t?a=b,c""#),
            bearer("/t?a=b,c", Some("r"))
        );
        assert_eq!(challenge(r#"Bearer realm="a\"b""#), bearer("a\"b", None));
        assert_eq!(challenge(r#"Basic realm="x""#), Some(Challenge::Basic));
        assert_eq!(challenge("Negotiate"), None);
        assert_eq!(challenge(r#"Bearer realm="unclosed"#), bearer("unclosed", None));
        assert_eq!(challenge("Bearer ="), None);
        assert_eq!(read_challenge(StatusCode::OK, &HeaderMap::new()), Some(Challenge::Open));
    }
}
