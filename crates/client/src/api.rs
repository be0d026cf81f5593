//! Typed REST calls to `/api/v0` and `/enzi/v0`: bodies in and out, paging, errors in the service's words, and downloads
//! whose end is proved.

use std::path::Path;

use bytes::Bytes;
use dtr_types::Secret;
use http::{HeaderMap, Method};
use http_body_util::BodyExt as _;
use reqwest::{RequestBuilder, Response};
use serde::{Serialize, de::DeserializeOwned};
use url::Url;

use crate::{
    ClientError, RetryPolicy, TlsFlags, TlsOptions,
    error::{explain, host_of, refusal, retry_after},
    http_client::{api_client, base_url, socket_client},
    retry::not_now,
};

/// Largest JSON answer that is read.
const BODY_MAX: usize = 64 << 20;
/// Most pages that are fetched for one list; more means that the service goes round in circles.
const PAGES_MAX: usize = 100_000;

/// The trailer in which the service says how a download ended: `complete`, or why it gave up. A service that announces it
/// (in the header `Trailer`) must send it, else the download counts as cut short, unless the caller knows another way to be
/// sure: many proxies pass no trailers on.
pub const TRAILER_STATUS: &str = "dtr-status";

/// How a caller proves who they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authorization {
    /// Not at all.
    None,
    /// User name and password or access token, with every request.
    Basic {
        /// The user's name.
        username: String,
        /// Password or access token.
        password: Secret,
    },
    /// A session's token.
    Bearer(Secret),
}

/// How a list is paged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageStyle {
    /// `/api/v0`: `pageStart`, `pageSize`; the next start in the header `X-Next-Page-Start`.
    Dtr,
    /// `/enzi/v0`: `start`, `limit`; the next start in the body's `nextPageStart`.
    Enzi,
}

/// One service, as one caller. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    http: reqwest::Client,
    base: Url,
    authorization: Authorization,
    retry: RetryPolicy,
    flags: TlsFlags,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Api({})", self.base)
    }
}

impl Api {
    /// A client for the service at `address`.
    ///
    /// # Errors
    /// [`ClientError::Address`], [`ClientError::Ca`].
    pub fn new(
        address: &str,
        tls: &TlsOptions,
        authorization: Authorization,
        retry: RetryPolicy,
    ) -> Result<Self, ClientError> {
        let (http, base) = (api_client(tls)?, base_url(address)?);
        Ok(Self { http, base, authorization, retry, flags: tls.flags })
    }

    /// A client for the service that listens on a Unix socket of this machine.
    ///
    /// # Errors
    /// [`ClientError::Address`] for a path that cannot be that of a socket.
    pub fn over_socket(socket: &Path, retry: RetryPolicy) -> Result<Self, ClientError> {
        let (http, base) = (socket_client(socket)?, base_url("http://localhost")?);
        Ok(Self {
            http,
            base,
            authorization: Authorization::None,
            retry,
            flags: TlsFlags::default(),
        })
    }

    /// The same service and connections, as another caller.
    #[must_use]
    pub fn with_authorization(&self, authorization: Authorization) -> Self {
        Self { authorization, ..self.clone() }
    }

    /// The service's host and port.
    pub fn host(&self) -> String {
        host_of(&self.base)
    }

    /// Scheme, host and port, as an identity service's address is written.
    pub fn origin(&self) -> String {
        self.base.origin().ascii_serialization()
    }

    /// Reads.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.exchange(Method::GET, path, None::<&()>).await
    }

    /// Reads what is not JSON, such as `/ca`.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn get_text(&self, path: &str) -> Result<String, ClientError> {
        let response = self.call(Method::GET, path, |r| r).await?;
        let body = self.body(response, &self.what(&Method::GET, path)).await?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// Makes or starts something. Sent once only: what a lost answer meant is for the caller to find out.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn post<B: Serialize + Sync, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, ClientError> {
        self.exchange(Method::POST, path, Some(body)).await
    }

    /// Sets something.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn put<B: Serialize + Sync, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, ClientError> {
        self.exchange(Method::PUT, path, Some(body)).await
    }

    /// Changes some fields of something.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn patch<B: Serialize + Sync, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, ClientError> {
        self.exchange(Method::PATCH, path, Some(body)).await
    }

    /// Deletes something; `false` when the service says that there was nothing.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn delete(&self, path: &str) -> Result<bool, ClientError> {
        match self.call(Method::DELETE, path, |r| r).await {
            Ok(_) => Ok(true),
            Err(ClientError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Deletes something that must be there; `false` when it is not. The service answers a deletion of nothing like any
    /// other, so that a request can be sent twice; a person who mistyped a name must hear of it, so this looks first.
    ///
    /// # Errors
    /// Any [`ClientError`]; [`ClientError::NotFound`] where the service has no such path at all.
    pub async fn delete_existing(&self, path: &str) -> Result<bool, ClientError> {
        match self.get::<serde::de::IgnoredAny>(path).await {
            Err(error) if error.is_missing_thing() => Ok(false),
            Err(error) => Err(error),
            Ok(_) => self.delete(path).await,
        }
    }

    /// Deletes something, and says what the service answers.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn delete_with_answer<T: DeserializeOwned>(
        &self,
        path: &str,
    ) -> Result<T, ClientError> {
        self.exchange(Method::DELETE, path, None::<&()>).await
    }

    /// All records of a list, page by page. `field` names the array in each answer; an answer that is an array itself is
    /// taken as it is.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn list<T: DeserializeOwned>(
        &self,
        path: &str,
        style: PageStyle,
        field: &str,
        page_size: u32,
    ) -> Result<Vec<T>, ClientError> {
        let (start_name, size_name) = match style {
            PageStyle::Dtr => ("pageStart", "pageSize"),
            PageStyle::Enzi => ("start", "limit"),
        };
        let what = self.what(&Method::GET, path);
        let bad = |why: String| ClientError::Answer { what: what.clone(), why };
        let mut all = Vec::new();
        let mut start = String::new();
        for _ in 0..PAGES_MAX {
            let response = self
                .call(Method::GET, path, |request| {
                    let request = request.query(&[(size_name, page_size)]);
                    if start.is_empty() { request } else { request.query(&[(start_name, &start)]) }
                })
                .await?;
            let in_header = next_in_header(response.headers());
            let body = self.body(response, &what).await?;
            let mut answer: serde_json::Value =
                serde_json::from_slice(&body).map_err(|error| bad(error.to_string()))?;
            let in_body =
                answer.get("nextPageStart").and_then(|v| v.as_str()).map(ToOwned::to_owned);
            let records = match answer.get_mut(field).map(serde_json::Value::take) {
                Some(records) => records,
                None if answer.is_array() => answer,
                None => return Err(bad(format!("there is no \"{field}\" in it"))),
            };
            let records: Option<Vec<T>> =
                serde_json::from_value(records).map_err(|error| bad(error.to_string()))?;
            all.extend(records.unwrap_or_default());
            match in_header.or(in_body).filter(|next| !next.is_empty()) {
                Some(next) if next != start => start = next,
                Some(_) => return Err(bad("its next page is itself".to_owned())),
                None => return Ok(all),
            }
        }
        Err(bad("its pages do not end".to_owned()))
    }

    /// Starts a download of any size, such as a backup: `POST` with a body where there is one, else `GET`.
    ///
    /// # Errors
    /// Any [`ClientError`] before the first byte; later ones come from [`Download::next`].
    pub async fn download<B: Serialize + Sync>(
        &self,
        path: &str,
        body: Option<&B>,
    ) -> Result<Download, ClientError> {
        let method = if body.is_some() { Method::POST } else { Method::GET };
        let what = self.what(&method, path);
        let response = self
            .call(method, path, |request| {
                // HTTP/1.1 servers send trailers only to those who say that they read them.
                let request = request.header(http::header::TE, "trailers");
                match body {
                    Some(body) => request.json(body),
                    None => request,
                }
            })
            .await?;
        let promised = response.headers().get(http::header::TRAILER).is_some_and(|names| {
            names.to_str().is_ok_and(|names| {
                names.split(',').any(|name| name.trim().eq_ignore_ascii_case(TRAILER_STATUS))
            })
        });
        let headers = response.headers().clone();
        let length = response.content_length();
        let body = http::Response::from(response).into_body();
        Ok(Download {
            body,
            what,
            headers,
            promised,
            unconfirmed: false,
            length,
            received: 0,
            status: None,
            ended: false,
        })
    }

    async fn exchange<B: Serialize + Sync, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
    ) -> Result<T, ClientError> {
        let what = self.what(&method, path);
        let response = self
            .call(method, path, |request| match body {
                Some(body) => request.json(body),
                None => request,
            })
            .await?;
        let mut body = self.body(response, &what).await?;
        if body.is_empty() {
            // 204 and the like: nothing, which `()` and optional types accept.
            body = Bytes::from_static(b"null");
        }
        serde_json::from_slice(&body)
            .map_err(|error| ClientError::Answer { what, why: error.to_string() })
    }

    fn what(&self, method: &Method, path: &str) -> String {
        format!("{method} {}{}", self.host(), path.split('?').next().unwrap_or_default())
    }

    /// Sends until the answer is not "not now"; a lost connection is only repeated where that is harmless.
    async fn call(
        &self,
        method: Method,
        path: &str,
        fill: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response, ClientError> {
        let what = self.what(&method, path);
        let url = self.base.join(path).map_err(|error| ClientError::Address {
            address: path.to_owned(),
            why: error.to_string(),
        })?;
        let mut attempt = 1;
        loop {
            let request = self.http.request(method.clone(), url.clone());
            let request = match &self.authorization {
                Authorization::None => request,
                Authorization::Basic { username, password } => {
                    request.basic_auth(username, Some(password.expose()))
                }
                Authorization::Bearer(token) => request.bearer_auth(token.expose()),
            };
            let (error, after) = match fill(request).send().await {
                Ok(response) if response.status().is_success() => return Ok(response),
                Ok(response) if response.status().is_redirection() => {
                    return Err(self.sent_elsewhere(&response));
                }
                Ok(response) => {
                    let (status, after) = (response.status(), retry_after(response.headers()));
                    // A refusal whose body is lost is a refusal all the same.
                    let body = self.body(response, &what).await.unwrap_or_default();
                    let error = self.named(refusal(self.host(), what.clone(), status, &body));
                    if !not_now(status) {
                        return Err(error);
                    }
                    (error, after)
                }
                Err(error) => {
                    let error = explain(&error, &url, &what, self.flags);
                    let harmless = matches!(error, ClientError::Unreachable { .. })
                        || (error.is_unknown()
                            && method != Method::POST
                            && method != Method::PATCH);
                    if !harmless {
                        return Err(error);
                    }
                    (error, None)
                }
            };
            let Some(wait) = self.retry.wait(attempt, after) else {
                return Err(match error {
                    ClientError::Refused { what, status, message, .. } => {
                        ClientError::Busy { what, status, attempts: attempt, message }
                    }
                    error => error,
                });
            };
            tracing::debug!(attempt, wait = ?wait, error = %error, "trying again");
            tokio::time::sleep(wait).await;
            attempt += 1;
        }
    }

    /// Another address is the person's to give: what was said to this one may not be for that.
    fn sent_elsewhere(&self, response: &Response) -> ClientError {
        let to = response.headers().get(http::header::LOCATION);
        let to = to.and_then(|to| Url::parse(to.to_str().ok()?).ok());
        let to = to.map(|url| url.origin().ascii_serialization());
        ClientError::Elsewhere {
            address: self.base.as_str().trim_end_matches('/').to_owned(),
            to: to.unwrap_or_else(|| "another address".to_owned()),
        }
    }

    fn named(&self, error: ClientError) -> ClientError {
        match (error, &self.authorization) {
            (
                ClientError::Credentials { host, message, .. },
                Authorization::Basic { username, .. },
            ) => ClientError::Credentials { host, account: Some(username.clone()), message },
            (error, _) => error,
        }
    }

    async fn body(&self, mut response: Response, what: &str) -> Result<Bytes, ClientError> {
        let url = response.url().clone();
        let mut body = bytes::BytesMut::new();
        loop {
            let chunk = response.chunk().await;
            match chunk.map_err(|error| explain(&error, &url, what, self.flags))? {
                None => return Ok(body.freeze()),
                Some(chunk) if body.len() + chunk.len() <= BODY_MAX => {
                    body.extend_from_slice(&chunk)
                }
                Some(_) => {
                    let why = format!("it is longer than {BODY_MAX} bytes");
                    return Err(ClientError::Answer { what: what.to_owned(), why });
                }
            }
        }
    }
}

fn next_in_header(headers: &HeaderMap) -> Option<String> {
    headers.get("x-next-page-start")?.to_str().ok().map(ToOwned::to_owned)
}

/// A stream that says at its end whether it was whole.
pub struct Download {
    body: reqwest::Body,
    what: String,
    headers: HeaderMap,
    promised: bool,
    unconfirmed: bool,
    length: Option<u64>,
    received: u64,
    status: Option<String>,
    ended: bool,
}

impl Download {
    /// The answer's headers.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Bytes that have come so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Takes an end that nobody confirmed for one, where the connection ended cleanly: a proxy may have swallowed the
    /// confirmation. The caller must then be sure otherwise; see [`Self::is_confirmed`].
    pub fn accept_unconfirmed(&mut self) {
        self.unconfirmed = true;
    }

    /// Whether the service said that this was the whole.
    pub fn is_confirmed(&self) -> bool {
        self.status.as_deref() == Some("complete")
    }

    /// The next bytes; `None` when the whole has come, and the service said so if it promised to.
    ///
    /// # Errors
    /// [`ClientError::CutShort`] or [`ClientError::Aborted`]: what came before must not be used.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        while !self.ended {
            match self.body.frame().await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if data.is_empty() => {}
                    Ok(data) => {
                        self.received += data.len() as u64;
                        return Ok(Some(data));
                    }
                    Err(frame) => {
                        let status = frame.trailers_ref().and_then(|t| t.get(TRAILER_STATUS));
                        self.status =
                            status.map(|s| String::from_utf8_lossy(s.as_bytes()).into_owned());
                    }
                },
                Some(Err(error)) => {
                    self.ended = true;
                    return Err(self.cut_short(&root_cause(&error)));
                }
                None => {
                    self.ended = true;
                    self.check()?;
                }
            }
        }
        Ok(None)
    }

    fn check(&self) -> Result<(), ClientError> {
        if self.length.is_some_and(|length| length != self.received) {
            return Err(self.cut_short("fewer bytes than announced"));
        }
        match self.status.as_deref() {
            Some("complete") => Ok(()),
            Some(message) => Err(ClientError::Aborted {
                what: self.what.clone(),
                received: self.received,
                message: message.chars().take(500).collect(),
            }),
            None if self.promised && !self.unconfirmed => {
                Err(self.cut_short("the service did not confirm the end"))
            }
            None => Ok(()),
        }
    }

    fn cut_short(&self, why: &str) -> ClientError {
        let (what, why) = (self.what.clone(), why.to_owned());
        ClientError::CutShort { what, received: self.received, why }
    }
}

fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    crate::error::said(cause)
}
