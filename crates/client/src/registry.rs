//! The OCI distribution protocol, client side: manifests, blobs, tags, deletes; each request authenticated and retried.

use std::{
    fmt,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use dtr_types::{Digest, RepositoryName, Tag, media_types};
use http::{
    Method, StatusCode,
    header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, LINK, RANGE},
};
use reqwest::{RequestBuilder, Response};
use serde::Deserialize;
use url::Url;

use crate::{
    BlobStream, ClientError, Credentials, RetryPolicy, TlsFlags, TlsOptions,
    auth::{Challenge, Tokens, read_challenge, with_proof},
    error::{explain, host_of, refusal, retry_after},
    http_client::{base_url, http_client},
    retry::not_now,
};

/// Largest manifest or list that is read: twice what this registry accepts.
const BODY_MAX: usize = 8 << 20;
/// Largest part of a refusal that is read.
const REFUSAL_MAX: usize = 64 << 10;
const MANIFESTS: [&str; 4] = [
    media_types::OCI_MANIFEST,
    media_types::OCI_INDEX,
    media_types::DOCKER_MANIFEST,
    media_types::DOCKER_LIST,
];

/// A manifest by its tag or its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// By tag; may move.
    Tag(Tag),
    /// By digest; never changes.
    Digest(Digest),
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

impl From<Tag> for Reference {
    fn from(tag: Tag) -> Self {
        Self::Tag(tag)
    }
}

impl From<Digest> for Reference {
    fn from(digest: Digest) -> Self {
        Self::Digest(digest)
    }
}

/// What a registry says about a manifest without sending it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestHead {
    /// Its digest, as the registry says; registries that do not say are read instead.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// Its size in bytes.
    pub size: u64,
}

/// A manifest as it was pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedManifest {
    /// The digest of `bytes`, computed here.
    pub digest: Digest,
    /// What it was served as.
    pub media_type: String,
    /// The exact bytes.
    pub bytes: Bytes,
}

/// One registry, as one caller. Cheap to clone; connections and tokens are shared.
#[derive(Clone)]
pub struct Registry(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) http: reqwest::Client,
    pub(crate) base: Url,
    tokens: Tokens,
    pub(crate) retry: RetryPolicy,
    flags: TlsFlags,
    /// Whether a small blob can be pushed with one request; unlearned at the first registry that cannot.
    pub(crate) one_request_pushes: AtomicBool,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Registry({})", self.0.base)
    }
}

/// A request that did not succeed, and whether and when it may be tried again.
pub(crate) struct Failure {
    pub(crate) error: ClientError,
    pub(crate) temporary: bool,
    pub(crate) after: Option<Duration>,
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let temporary = error.is_unknown() || matches!(error, ClientError::Unreachable { .. });
        Self { error, temporary, after: None }
    }
}

impl Registry {
    /// A client for the registry at `address` (`https://` unless it says `http://`).
    ///
    /// # Errors
    /// [`ClientError::Address`], [`ClientError::Ca`].
    pub fn new(
        address: &str,
        tls: &TlsOptions,
        credentials: Credentials,
        retry: RetryPolicy,
    ) -> Result<Self, ClientError> {
        Ok(Self(Arc::new(Inner {
            http: http_client(tls)?,
            base: base_url(address)?,
            tokens: Tokens::new(credentials),
            retry,
            flags: tls.flags,
            one_request_pushes: AtomicBool::new(true),
        })))
    }

    /// The registry's host and port, as image names begin with.
    pub fn host(&self) -> String {
        host_of(&self.0.base)
    }

    /// Reaches the registry and logs in, without a right to anything.
    ///
    /// # Errors
    /// Any [`ClientError`]; [`ClientError::Credentials`] for a wrong password.
    pub async fn ping(&self) -> Result<(), ClientError> {
        let response = self.call(Method::GET, self.url("/v2/"), "", |r| r).await?;
        self.expect(response, &[StatusCode::OK]).await.map(|_| ()).map_err(|f| f.error)
    }

    /// What `reference` is, or `None` when there is no such manifest.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn head_manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
    ) -> Result<Option<ManifestHead>, ClientError> {
        let url = self.manifest_url(repository, reference);
        let scope = pull(repository);
        let response = self.call(Method::HEAD, url, &scope, accept_manifests).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let response = self.expect(response, &[StatusCode::OK]).await.map_err(|f| f.error)?;
        let digest = header(&response, "docker-content-digest").and_then(|d| d.parse().ok());
        let Some(digest) = digest else {
            let fetched = self.get_manifest(repository, reference).await?;
            let size = fetched.bytes.len() as u64;
            let FetchedManifest { digest, media_type, .. } = fetched;
            return Ok(Some(ManifestHead { digest, media_type, size }));
        };
        let size = header(&response, CONTENT_LENGTH.as_str()).and_then(|l| l.parse().ok());
        let media_type = header(&response, CONTENT_TYPE.as_str()).unwrap_or_default().to_owned();
        Ok(Some(ManifestHead { digest, media_type, size: size.unwrap_or(0) }))
    }

    /// The manifest at `reference`; its bytes are hashed and compared with what was asked for or promised.
    ///
    /// # Errors
    /// [`ClientError::NotFound`], [`ClientError::Digest`] and any other.
    pub async fn get_manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
    ) -> Result<FetchedManifest, ClientError> {
        let url = self.manifest_url(repository, reference);
        let what = self.what(&Method::GET, &url);
        let response = self.call(Method::GET, url, &pull(repository), accept_manifests).await?;
        let response = self.expect(response, &[StatusCode::OK]).await.map_err(|f| f.error)?;
        let media_type = header(&response, CONTENT_TYPE.as_str()).unwrap_or_default().to_owned();
        let wanted = match reference {
            Reference::Digest(digest) => Some(*digest),
            Reference::Tag(_) => {
                header(&response, "docker-content-digest").and_then(|d| d.parse().ok())
            }
        };
        let bytes = self.body(response, &what, BODY_MAX).await?;
        let digest = match &wanted {
            Some(wanted) => Digest::with(wanted.algorithm(), &bytes),
            None => Digest::of(&bytes),
        };
        match wanted {
            Some(wanted) if wanted != digest => {
                Err(ClientError::Digest { what, wanted: wanted.into(), found: digest.into() })
            }
            _ => Ok(FetchedManifest { digest, media_type, bytes }),
        }
    }

    /// Stores a manifest under a tag or its digest; yields the digest under which it was stored.
    ///
    /// # Errors
    /// Any [`ClientError`]; after one that [`is_unknown`](ClientError::is_unknown) it may be stored or not.
    pub async fn put_manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<Digest, ClientError> {
        let url = self.manifest_url(repository, reference);
        let what = self.what(&Method::PUT, &url);
        let response = self
            .call(Method::PUT, url, &push(repository), |request| {
                request.header(CONTENT_TYPE, media_type).body(bytes.clone())
            })
            .await?;
        let created = [StatusCode::CREATED, StatusCode::OK, StatusCode::ACCEPTED];
        let response = self.expect(response, &created).await.map_err(|f| f.error)?;
        let found = Digest::of(&bytes);
        match header(&response, "docker-content-digest").and_then(|d| d.parse::<Digest>().ok()) {
            Some(stored) if !stored.matches(&bytes) => {
                Err(ClientError::Digest { what, wanted: found.into(), found: stored.into() })
            }
            Some(stored) => Ok(stored),
            None => Ok(found),
        }
    }

    /// Deletes a tag, or a manifest with all its tags. `false` when there was none.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn delete_manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
    ) -> Result<bool, ClientError> {
        self.delete(repository, self.manifest_url(repository, reference)).await
    }

    /// Takes a blob out of a repository. `false` when it was not in it.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn delete_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<bool, ClientError> {
        self.delete(repository, self.blob_url(repository, digest)).await
    }

    async fn delete(&self, repository: &RepositoryName, url: Url) -> Result<bool, ClientError> {
        let scope = format!("repository:{repository}:delete,pull");
        let response = self.call(Method::DELETE, url, &scope, |r| r).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(false);
        }
        let gone = [StatusCode::ACCEPTED, StatusCode::OK, StatusCode::NO_CONTENT];
        self.expect(response, &gone).await.map(|_| true).map_err(|f| f.error)
    }

    /// The size of a blob in bytes, or `None` when the repository does not have it.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn head_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<u64>, ClientError> {
        let url = self.blob_url(repository, digest);
        let response = self.call(Method::HEAD, url, &pull(repository), |r| r).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let response = self.expect(response, &[StatusCode::OK]).await.map_err(|f| f.error)?;
        let size = header(&response, CONTENT_LENGTH.as_str()).and_then(|l| l.parse().ok());
        Ok(Some(size.unwrap_or(0)))
    }

    /// The content of a blob as a stream that goes on after a lost connection and is verified at its end.
    ///
    /// # Errors
    /// [`ClientError::NotFound`] and any other.
    pub async fn get_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<BlobStream, ClientError> {
        let response = self.open_blob(repository, digest, 0).await?;
        Ok(BlobStream::new(self.clone(), repository.clone(), *digest, response))
    }

    /// Opens a blob's content from a byte on.
    pub(crate) async fn open_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        from: u64,
    ) -> Result<Response, ClientError> {
        let url = self.blob_url(repository, digest);
        let response = self
            .call(Method::GET, url, &pull(repository), |request| match from {
                0 => request,
                from => request.header(RANGE, format!("bytes={from}-")),
            })
            .await?;
        let wanted = if from == 0 { StatusCode::OK } else { StatusCode::PARTIAL_CONTENT };
        self.expect(response, &[wanted]).await.map_err(|f| f.error)
    }

    /// All tags of a repository, in the registry's order.
    ///
    /// # Errors
    /// [`ClientError::NotFound`] and any other.
    pub async fn tags(&self, repository: &RepositoryName) -> Result<Vec<String>, ClientError> {
        #[derive(Deserialize)]
        struct Page {
            tags: Option<Vec<String>>,
        }
        let first = self.url(&format!("/v2/{repository}/tags/list?n=1000"));
        let pages = self.pages(first, &pull(repository)).await?;
        pages.iter().try_fold(Vec::new(), |mut all, (what, body)| {
            let page: Page = json(what, body)?;
            all.extend(page.tags.unwrap_or_default());
            Ok(all)
        })
    }

    /// The names of all repositories that the caller may see.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn catalog(&self) -> Result<Vec<String>, ClientError> {
        #[derive(Deserialize)]
        struct Page {
            repositories: Option<Vec<String>>,
        }
        let pages = self.pages(self.url("/v2/_catalog?n=100"), "registry:catalog:*").await?;
        pages.iter().try_fold(Vec::new(), |mut all, (what, body)| {
            let page: Page = json(what, body)?;
            all.extend(page.repositories.unwrap_or_default());
            Ok(all)
        })
    }

    /// The index of the manifests whose subject is `digest`, of one artifact type if given, as the registry sends it.
    ///
    /// # Errors
    /// Any [`ClientError`]; [`ClientError::NotFound`] where the registry has no referrers API.
    pub async fn referrers(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<serde_json::Value, ClientError> {
        let mut url = self.url(&format!("/v2/{repository}/referrers/{digest}"));
        if let Some(artifact_type) = artifact_type {
            url.query_pairs_mut().append_pair("artifactType", artifact_type);
        }
        let what = self.what(&Method::GET, &url);
        let response = self.call(Method::GET, url, &pull(repository), |r| r).await?;
        let response = self.expect(response, &[StatusCode::OK]).await.map_err(|f| f.error)?;
        json(&what, &self.body(response, &what, BODY_MAX).await?)
    }

    /// Follows `Link: <...>; rel="next"` on the same host.
    async fn pages(&self, first: Url, scope: &str) -> Result<Vec<(String, Bytes)>, ClientError> {
        let mut pages = Vec::new();
        let mut next = Some(first);
        while let Some(url) = next.take() {
            let what = self.what(&Method::GET, &url);
            let response = self.call(Method::GET, url.clone(), scope, |r| r).await?;
            let response = self.expect(response, &[StatusCode::OK]).await.map_err(|f| f.error)?;
            let link = header(&response, LINK.as_str()).and_then(|link| {
                let (target, rest) = link.trim_start().strip_prefix('<')?.split_once('>')?;
                rest.contains("next").then(|| target.to_owned())
            });
            pages.push((what.clone(), self.body(response, &what, BODY_MAX).await?));
            if let Some(link) = link {
                let target =
                    url.join(&link).ok().filter(|t| t.origin() == url.origin() && *t != url);
                next = Some(target.ok_or_else(|| ClientError::Answer {
                    what,
                    why: "its link to the next page leads nowhere".to_owned(),
                })?);
            }
        }
        Ok(pages)
    }

    // --- requests ---

    pub(crate) fn url(&self, path: &str) -> Url {
        // A path of names that were parsed; it cannot leave the host.
        self.0.base.join(path).unwrap_or_else(|_| self.0.base.clone())
    }

    fn manifest_url(&self, repository: &RepositoryName, reference: &Reference) -> Url {
        self.url(&format!("/v2/{repository}/manifests/{reference}"))
    }

    pub(crate) fn blob_url(&self, repository: &RepositoryName, digest: &Digest) -> Url {
        self.url(&format!("/v2/{repository}/blobs/{digest}"))
    }

    pub(crate) fn what(&self, method: &Method, url: &Url) -> String {
        format!("{method} {}{}", host_of(url), url.path())
    }

    /// A request that may be repeated: until it is answered by something else than "not now".
    pub(crate) async fn call(
        &self,
        method: Method,
        url: Url,
        scope: &str,
        fill: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response, ClientError> {
        let mut renewed = false;
        let mut attempt = 1;
        loop {
            let tried = self.attempt(method.clone(), url.clone(), scope, &fill).await;
            let failure = match tried {
                Ok(response) if response.status() == StatusCode::UNAUTHORIZED && !renewed => {
                    renewed = true;
                    self.renew(scope, &response);
                    continue;
                }
                Ok(response) if !not_now(response.status()) => return Ok(response),
                Ok(response) => self.refused(response).await,
                Err(failure) => failure,
            };
            attempt = self.pause(failure, attempt).await?;
        }
    }

    /// Waits before the next attempt and yields its number, or gives up.
    pub(crate) async fn pause(&self, failure: Failure, attempt: u32) -> Result<u32, ClientError> {
        let wait = self.0.retry.wait(attempt, failure.after).filter(|_| failure.temporary);
        let Some(wait) = wait else {
            return Err(match failure.error {
                ClientError::Refused { what, status, message, .. } if failure.temporary => {
                    ClientError::Busy { what, status, attempts: attempt, message }
                }
                error => error,
            });
        };
        tracing::debug!(attempt, wait = ?wait, error = %failure.error, "trying again");
        tokio::time::sleep(wait).await;
        Ok(attempt + 1)
    }

    /// One request with the token for `scope`. Any answer is a success here.
    pub(crate) async fn attempt(
        &self,
        method: Method,
        url: Url,
        scope: &str,
        fill: impl FnOnce(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response, Failure> {
        let Inner { http, base, tokens, flags, .. } = &*self.0;
        let challenge = match tokens.challenge() {
            Some(challenge) => challenge,
            None => self.ask_challenge().await?,
        };
        let request = http.request(method.clone(), url.clone());
        // A location on another host (a redirect to storage, an upload elsewhere) gets no credentials.
        let request = if url.origin() == base.origin() {
            let proof = tokens.proof(http, base, &challenge, scope, *flags).await?;
            with_proof(request, &proof, tokens.credentials())
        } else {
            request
        };
        let sent = fill(request).send().await;
        sent.map_err(|error| explain(&error, &url, &self.what(&method, &url), *flags).into())
    }

    async fn ask_challenge(&self) -> Result<Challenge, Failure> {
        let url = self.url("/v2/");
        let what = self.what(&Method::GET, &url);
        let response = self.0.http.get(url.clone()).send().await;
        let response = response.map_err(|error| explain(&error, &url, &what, self.0.flags))?;
        if not_now(response.status()) {
            return Err(self.refused(response).await);
        }
        let challenge = read_challenge(response.status(), response.headers()).ok_or_else(|| {
            let why = format!("status {}, and no way to log in", response.status().as_u16());
            ClientError::Answer { what, why }
        })?;
        self.0.tokens.learn(challenge.clone());
        Ok(challenge)
    }

    /// After a 401: the token is forgotten, and a new challenge is heeded.
    pub(crate) fn renew(&self, scope: &str, response: &Response) {
        self.0.tokens.forget(scope);
        if let Some(challenge) = read_challenge(response.status(), response.headers()) {
            self.0.tokens.learn(challenge);
        }
    }

    /// The answer if its status is one of `wanted`.
    pub(crate) async fn expect(
        &self,
        response: Response,
        wanted: &[StatusCode],
    ) -> Result<Response, Failure> {
        if wanted.contains(&response.status()) {
            return Ok(response);
        }
        Err(self.refused(response).await)
    }

    async fn refused(&self, response: Response) -> Failure {
        let status = response.status();
        let after = retry_after(response.headers());
        let what = format!("{}{}", host_of(response.url()), response.url().path());
        let host = host_of(response.url());
        // A refusal whose body is lost is a refusal all the same.
        let body = self.body(response, &what, REFUSAL_MAX).await.unwrap_or_default();
        let error = self.0.tokens.name(refusal(host, what, status, &body));
        Failure { error, temporary: not_now(status), after }
    }

    /// A whole body of at most `max` bytes.
    pub(crate) async fn body(
        &self,
        mut response: Response,
        what: &str,
        max: usize,
    ) -> Result<Bytes, ClientError> {
        let url = response.url().clone();
        let mut body = BytesMut::new();
        loop {
            let chunk = response.chunk().await;
            match chunk.map_err(|error| explain(&error, &url, what, self.0.flags))? {
                None => return Ok(body.freeze()),
                Some(chunk) if body.len() + chunk.len() <= max => body.extend_from_slice(&chunk),
                Some(_) => {
                    let why = format!("it is longer than {max} bytes");
                    return Err(ClientError::Answer { what: what.to_owned(), why });
                }
            }
        }
    }
}

pub(crate) fn pull(repository: &RepositoryName) -> String {
    format!("repository:{repository}:pull")
}

pub(crate) fn push(repository: &RepositoryName) -> String {
    format!("repository:{repository}:pull,push")
}

pub(crate) fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

pub(crate) fn json<T: serde::de::DeserializeOwned>(
    what: &str,
    body: &[u8],
) -> Result<T, ClientError> {
    serde_json::from_slice(body)
        .map_err(|error| ClientError::Answer { what: what.to_owned(), why: error.to_string() })
}

fn accept_manifests(request: RequestBuilder) -> RequestBuilder {
    request.header(ACCEPT, MANIFESTS.join(", "))
}
