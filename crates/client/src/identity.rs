//! Logging in at a UCP, or at a DTR with built-in identity, and finding the replicas that are registered there.

use dtr_types::{AccountId, AccountName, ReplicaId, Secret, ServiceId};
use serde::{Deserialize, Serialize};

use crate::{Api, Authorization, ClientError, RetryPolicy, TlsOptions};

/// An account as the identity service shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Account {
    /// Its id.
    pub id: AccountId,
    /// Its name.
    pub name: AccountName,
    /// The name for people.
    #[serde(default)]
    pub full_name: String,
    /// Whether it is an organization.
    #[serde(default)]
    pub is_org: bool,
    /// Whether it administers everything.
    #[serde(default)]
    pub is_admin: bool,
    /// Whether it may log in.
    #[serde(default = "yes")]
    pub is_active: bool,
}

const fn yes() -> bool {
    true
}

/// A login that succeeded.
#[derive(Debug, Clone)]
pub struct Session {
    /// The token that proves it, for [`Authorization::Bearer`].
    pub token: Secret,
    /// Who is logged in.
    pub account: Account,
}

impl Session {
    /// For calls as this account.
    pub fn authorization(&self) -> Authorization {
        Authorization::Bearer(self.token.clone())
    }
}

/// A DTR that is registered with the identity service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Service {
    /// Its id.
    pub id: ServiceId,
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// The address that its users use.
    #[serde(default)]
    pub url: String,
    /// Whether it is a registry that an administrator registered: only such a one is sent credentials.
    #[serde(default)]
    pub privileged: bool,
    /// The public half of the key that proves it, in PEM.
    #[serde(default)]
    pub public_key: String,
    /// The certificates that verify it and its replicas, in PEM.
    #[serde(default)]
    pub ca_bundle: String,
    /// Its replicas.
    #[serde(default)]
    pub replicas: Vec<Replica>,
}

/// One replica of a registered DTR.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    /// Its id.
    pub id: ReplicaId,
    /// Its own address, `https://host:port`.
    pub address: String,
}

/// The identity service at an address.
#[derive(Debug, Clone)]
pub struct Identity {
    api: Api,
}

#[derive(Serialize)]
struct Login<'a> {
    username: &'a str,
    password: &'a str,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LoggedIn {
    session_token: Secret,
    account: Account,
}

impl Identity {
    /// The identity service at `address`; nothing is sent yet.
    ///
    /// # Errors
    /// [`ClientError::Address`], [`ClientError::Ca`].
    pub fn new(address: &str, tls: &TlsOptions, retry: RetryPolicy) -> Result<Self, ClientError> {
        Ok(Self { api: Api::new(address, tls, Authorization::None, retry)? })
    }

    /// Host and port.
    pub fn host(&self) -> String {
        self.api.host()
    }

    /// Scheme, host and port.
    pub fn url(&self) -> String {
        self.api.origin()
    }

    /// Calls to it as an account that is logged in.
    pub fn api(&self, session: &Session) -> Api {
        self.api.with_authorization(session.authorization())
    }

    /// Its CA certificates in PEM. Fetched over a connection that may not be verified: compare before trusting.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn ca(&self) -> Result<String, ClientError> {
        self.api.get_text("/ca").await
    }

    /// Logs in.
    ///
    /// # Errors
    /// [`ClientError::Credentials`] for a wrong name or password, [`ClientError::Unreachable`],
    /// [`ClientError::NotTrusted`], [`ClientError::NoAccounts`] and any other.
    pub async fn login(&self, username: &str, password: &Secret) -> Result<Session, ClientError> {
        let login = Login { username, password: password.expose() };
        let answer: Result<LoggedIn, _> = self.api.post("/id/login", &login).await;
        match answer {
            Ok(LoggedIn { session_token, account }) => {
                Ok(Session { token: session_token, account })
            }
            Err(ClientError::Credentials { host, message, .. }) => {
                Err(ClientError::Credentials { host, account: Some(username.to_owned()), message })
            }
            Err(error) if error.is_missing_path() => {
                Err(ClientError::NoAccounts { host: self.host() })
            }
            Err(error) => Err(error),
        }
    }

    /// Logs in, and insists on an administrator.
    ///
    /// # Errors
    /// As [`Identity::login`], and [`ClientError::NotAdmin`].
    pub async fn login_admin(
        &self,
        username: &str,
        password: &Secret,
    ) -> Result<Session, ClientError> {
        let session = self.login(username, password).await?;
        if !session.account.is_admin {
            // The session is of no use to anybody; that it cannot be ended is no reason to hide the real error.
            let _ = self.logout(&session).await;
            return Err(ClientError::NotAdmin { host: self.host(), account: session.account.name });
        }
        Ok(session)
    }

    /// Ends a session.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn logout(&self, session: &Session) -> Result<(), ClientError> {
        let done: Option<serde_json::Value> =
            self.api(session).post("/id/logout", &serde_json::json!({})).await?;
        drop(done);
        Ok(())
    }

    /// The DTRs that are registered.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn services(&self, session: &Session) -> Result<Vec<Service>, ClientError> {
        let path = "/enzi/v0/services";
        self.api(session).list(path, crate::PageStyle::Enzi, "services", 100).await
    }

    /// A login at a registered service alone, out of one here: good nowhere else, and over with it. `export` lets the
    /// service fetch the accounts with their password hashes.
    ///
    /// # Errors
    /// Any [`ClientError`]; refused for a service that no administrator registered as a registry.
    pub async fn bind(
        &self,
        session: &Session,
        service: &ServiceId,
        export: bool,
    ) -> Result<Session, ClientError> {
        let path = format!("/enzi/v0/services/{service}/session");
        let answer: LoggedIn =
            self.api(session).post(&path, &serde_json::json!({ "export": export })).await?;
        Ok(Session { token: answer.session_token, account: answer.account })
    }
}
