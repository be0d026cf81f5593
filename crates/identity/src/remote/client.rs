//! What the commands ask of a UCP (or of a DTR with the built-in identity): log in, register, find replicas.

use std::time::Duration;

use dtr_catalog::records::Service;
use dtr_types::{Secret, ServiceId};
use reqwest::Method;

use super::http::{Call, Http, PASSWORD_TIMEOUT, UcpError};
use crate::{
    AccountRecords, ImportAnswer, ServiceForm, transfer,
    wire::{LoginAnswer, LoginForm, ServiceList},
};

/// Records in one request of an import: the more, the more of them share the store's syncs.
const BATCH_RECORDS: usize = 1_000;
/// How long one may take.
const BATCH_TIMEOUT: Duration = Duration::from_secs(60);

/// A UCP seen by somebody who logs in to it.
#[derive(Clone, Debug)]
pub struct UcpClient {
    http: Http,
}

impl UcpClient {
    /// For the UCP at `url` (`https://` may be left out), trusting what `tls` trusts.
    ///
    /// # Errors
    /// [`UcpError::Url`] when that is no address.
    pub fn new(url: &str, tls: rustls::ClientConfig) -> Result<Self, UcpError> {
        Ok(Self { http: Http::new(url, tls)? })
    }

    /// Its address as scheme, host and port.
    pub fn url(&self) -> &str {
        self.http.base()
    }

    /// The certificate authority it serves, in PEM.
    pub async fn ca(&self) -> Result<String, UcpError> {
        let bytes = self.http.bytes(Call::get("/ca")).await?;
        String::from_utf8(bytes).map_err(|_| UcpError::Answer {
            url: self.url().to_owned(),
            reason: "its CA is not PEM".to_owned(),
        })
    }

    /// Whether it is healthy.
    pub async fn ping(&self) -> Result<(), UcpError> {
        self.http.bytes(Call::get("/_ping")).await.map(drop)
    }

    /// Whether what answers there is a registry (with accounts of its own) rather than an identity service by itself.
    pub async fn is_registry(&self) -> bool {
        match self.http.bytes(Call::get("/v2/")).await {
            Ok(_) => true,
            Err(error) => error.status() == Some(401),
        }
    }

    /// Logs in.
    pub async fn login(&self, username: &str, password: &Secret) -> Result<LoginAnswer, UcpError> {
        let form = LoginForm { username: username.to_owned(), password: password.clone() };
        self.http.json(Call::post("/id/login", &form).timeout(PASSWORD_TIMEOUT)).await
    }

    /// Ends the session.
    pub async fn logout(&self, token: &Secret) -> Result<(), UcpError> {
        self.http.bytes(Call::new(Method::POST, "/id/logout").bearer(token)).await.map(drop)
    }

    /// The registered services with their replicas.
    pub async fn services(&self, token: &Secret) -> Result<Vec<Service>, UcpError> {
        let list: ServiceList =
            self.http.json(Call::get("/enzi/v0/services").bearer(token)).await?;
        Ok(list.services)
    }

    /// Registers a service for the account that logged in.
    ///
    /// # Errors
    /// Any [`UcpError`]: 409 when the account has one of this name, or another service one of its replicas.
    pub async fn register_service(
        &self,
        login: &LoginAnswer,
        form: &ServiceForm,
    ) -> Result<Service, UcpError> {
        let path = format!("/enzi/v0/accounts/{}/services", login.account.id);
        self.http.json(Call::post(path, form).bearer(&login.session_token)).await
    }

    /// Changes a service.
    pub async fn update_service(
        &self,
        token: &Secret,
        id: &ServiceId,
        form: &ServiceForm,
    ) -> Result<Service, UcpError> {
        let path = format!("/enzi/v0/services/{id}");
        self.http.json(Call::new(Method::PATCH, path).body(form).bearer(token)).await
    }

    /// Begins a backup and hands on its stream in pieces; an end that came too early is an error. `take` says whether to
    /// go on. `encrypted` says that it will be encrypted by whoever takes it.
    ///
    /// # Errors
    /// Any [`UcpError`].
    pub async fn backup(
        &self,
        token: &Secret,
        encrypted: bool,
        take: impl AsyncFnMut(bytes::Bytes) -> bool,
    ) -> Result<(), UcpError> {
        let path = format!("/enzi/v0/admin/backup?encrypted={encrypted}");
        self.http.stream(Call::new(Method::POST, path).bearer(token), take).await
    }

    /// Puts accounts in. What is there already stays as it is; may be repeated.
    ///
    /// # Errors
    /// Any [`UcpError`]: 400 and 409 with the reason for what cannot be put in, 403 for whoever is no administrator. A
    /// part may have been put in by then.
    pub async fn import_accounts(
        &self,
        token: &Secret,
        records: AccountRecords,
    ) -> Result<ImportAnswer, UcpError> {
        let mut answer = ImportAnswer::default();
        for mut batch in records.batches(BATCH_RECORDS) {
            transfer::rename(&mut batch, &answer.ids);
            answer.add(self.import(token, "/enzi/v0/admin/importAccounts", &batch).await?);
        }
        Ok(answer)
    }

    /// What [`UcpClient::import_accounts`] would say of the accounts themselves. Nothing is put in.
    ///
    /// # Errors
    /// As [`UcpClient::import_accounts`].
    pub async fn check_accounts(
        &self,
        token: &Secret,
        records: &AccountRecords,
    ) -> Result<ImportAnswer, UcpError> {
        let (accounts, credentials) = (records.accounts.clone(), records.credentials.clone());
        let accounts = AccountRecords { accounts, credentials, ..AccountRecords::default() };
        let mut answer = ImportAnswer::default();
        for batch in accounts.batches(BATCH_RECORDS) {
            let path = "/enzi/v0/admin/importAccounts?dryRun=true";
            answer.add(self.import(token, path, &batch).await?);
        }
        Ok(answer)
    }

    async fn import(
        &self,
        token: &Secret,
        path: &str,
        batch: &AccountRecords,
    ) -> Result<ImportAnswer, UcpError> {
        self.http.json(Call::post(path, batch).timeout(BATCH_TIMEOUT).bearer(token)).await
    }

    /// Forgets a service. No error when it is not there.
    pub async fn delete_service(&self, token: &Secret, id: &ServiceId) -> Result<(), UcpError> {
        let path = format!("/enzi/v0/services/{id}");
        self.http.bytes(Call::new(Method::DELETE, path).bearer(token)).await.map(drop)
    }
}
