//! Pushing blobs: one request where that is enough, streams and chunks otherwise, taken up again after a failure at the
//! byte that the registry has.

use std::{io::SeekFrom, path::PathBuf, sync::atomic::Ordering};

use bytes::Bytes;
use dtr_types::{Digest, RepositoryName};
use futures_util::TryStreamExt as _;
use http::{
    Method, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LOCATION},
};
use reqwest::{Body, Response};
use tokio::{
    fs::File,
    io::{AsyncReadExt as _, AsyncSeekExt as _},
};
use tokio_util::io::ReaderStream;
use url::Url;

use crate::{
    ClientError, Registry,
    registry::{Failure, header, push},
};

/// Blobs up to this size are pushed with one request.
const ONE_REQUEST_MAX: u64 = 1 << 20;
/// Bytes read from a file at once: large blocks cost the least per byte.
const BLOCK: usize = 256 << 10;
const OCTETS: &str = "application/octet-stream";

/// Where the bytes of a blob are.
#[derive(Debug, Clone)]
pub enum Source {
    /// In memory.
    Bytes(Bytes),
    /// In a file.
    File {
        /// Which.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
    },
    /// In another registry (or another repository of this one).
    Remote {
        /// Which registry.
        registry: Registry,
        /// In which repository.
        repository: RepositoryName,
        /// Which blob.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
    },
}

impl Source {
    /// Size in bytes.
    pub fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { size, .. } | Self::Remote { size, .. } => *size,
        }
    }

    /// The bytes from `from` up to, not including, `to`.
    async fn body(&self, from: u64, to: u64) -> Result<Body, ClientError> {
        match self {
            Self::Bytes(bytes) => Ok(Body::from(bytes.slice(from as usize..to as usize))),
            Self::File { path, .. } => {
                let failed =
                    |action, source| ClientError::File { action, path: path.clone(), source };
                let mut file = File::open(path).await.map_err(|e| failed("open", e))?;
                if from > 0 {
                    file.seek(SeekFrom::Start(from)).await.map_err(|e| failed("read", e))?;
                }
                Ok(Body::wrap_stream(ReaderStream::with_capacity(file.take(to - from), BLOCK)))
            }
            Self::Remote { registry, repository, digest, .. } => {
                let response = registry.open_blob(repository, digest, from).await?;
                let mut left = to - from;
                let bytes = response.bytes_stream().map_ok(move |mut chunk| {
                    chunk.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                    left -= chunk.len() as u64;
                    chunk
                });
                Ok(Body::wrap_stream(bytes))
            }
        }
    }
}

/// How a blob came to be in the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It was there.
    Existed,
    /// It was mounted from another repository of the registry.
    Mounted,
    /// It was uploaded.
    Uploaded,
}

/// An upload session, and how much of the content the registry has.
struct Progress {
    location: Url,
    offset: u64,
}

impl Registry {
    /// Makes sure that the repository has the blob: looks, tries to mount it from `mount_from` if given, else uploads.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn push_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        source: &Source,
        mount_from: Option<&RepositoryName>,
    ) -> Result<Pushed, ClientError> {
        if self.head_blob(repository, digest).await?.is_some() {
            return Ok(Pushed::Existed);
        }
        if let Some(from) = mount_from
            && self.mount_blob(repository, digest, from).await?
        {
            return Ok(Pushed::Mounted);
        }
        self.upload_blob(repository, digest, source, None).await?;
        Ok(Pushed::Uploaded)
    }

    /// Mounts a blob from another repository of this registry; `false` when the registry wants it uploaded instead.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn mount_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        from: &RepositoryName,
    ) -> Result<bool, ClientError> {
        let mut url = self.url(&format!("/v2/{repository}/blobs/uploads/"));
        url.query_pairs_mut()
            .append_pair("mount", &digest.to_string())
            .append_pair("from", from.as_str());
        let scope = format!("{} repository:{from}:pull", push(repository));
        let response = self.call(Method::POST, url, &scope, empty).await?;
        let answers = [StatusCode::CREATED, StatusCode::ACCEPTED];
        let response = self.expect(response, &answers).await.map_err(|f| f.error)?;
        if response.status() == StatusCode::CREATED {
            return Ok(true);
        }
        // The session that was opened instead is not needed; a registry that cannot cancel lets it expire.
        if let Ok(location) = location(&response) {
            let _ = self.attempt(Method::DELETE, location, &push(repository), |r| r).await;
        }
        Ok(false)
    }

    /// Uploads a blob without looking whether it is there: in one stream, or in chunks of `chunk` bytes. After a lost
    /// connection or "not now" it goes on at the byte that the registry has.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn upload_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        source: &Source,
        chunk: Option<u64>,
    ) -> Result<(), ClientError> {
        let scope = push(repository);
        let mut progress = None;
        let mut attempt = 1;
        let mut renewed = false;
        loop {
            let tried =
                self.upload_once(repository, digest, source, chunk, &scope, &mut progress).await;
            let Err(mut failure) = tried else { return Ok(()) };
            match &failure.error {
                ClientError::Credentials { .. } if !renewed => {
                    renewed = true;
                    failure.temporary = true;
                }
                // The session is gone or stands elsewhere: begin anew.
                ClientError::NotFound { .. }
                | ClientError::Refused { status: StatusCode::RANGE_NOT_SATISFIABLE, .. }
                    if progress.is_some() =>
                {
                    progress = None;
                    failure.temporary = true;
                }
                _ => {}
            }
            let unknown = failure.error.is_unknown();
            attempt = self.pause(failure, attempt).await?;
            // The answer may have been lost, not the content.
            if unknown && self.head_blob(repository, digest).await?.is_some() {
                return Ok(());
            }
            if let Some(session) = progress.take() {
                progress = self.resume(session, &scope).await?;
            }
        }
    }

    async fn upload_once(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        source: &Source,
        chunk: Option<u64>,
        scope: &str,
        progress: &mut Option<Progress>,
    ) -> Result<(), Failure> {
        let size = source.size();
        if progress.is_none() {
            let mut url = self.url(&format!("/v2/{repository}/blobs/uploads/"));
            let direct = chunk.is_none()
                && size <= ONE_REQUEST_MAX
                && self.0.one_request_pushes.load(Ordering::Relaxed);
            let response = if direct {
                url.query_pairs_mut().append_pair("digest", &digest.to_string());
                let body = source.body(0, size).await?;
                let send = |r: reqwest::RequestBuilder| content(r, size).body(body);
                self.attempt(Method::POST, url, scope, send).await?
            } else {
                self.attempt(Method::POST, url, scope, empty).await?
            };
            let response =
                self.checked(response, scope, &[StatusCode::CREATED, StatusCode::ACCEPTED]).await?;
            if response.status() == StatusCode::CREATED {
                return Ok(());
            }
            if direct {
                self.0.one_request_pushes.store(false, Ordering::Relaxed);
            }
            *progress = Some(Progress { location: location(&response)?, offset: 0 });
        }
        let Some(session) = progress else { return Ok(()) };
        while let Some(chunk) = chunk.filter(|chunk| size - session.offset > *chunk) {
            let (from, to) = (session.offset, session.offset + chunk.max(1));
            let body = source.body(from, to).await?;
            let send = |r: reqwest::RequestBuilder| {
                content(r, to - from).header(CONTENT_RANGE, format!("{from}-{}", to - 1)).body(body)
            };
            let response =
                self.attempt(Method::PATCH, session.location.clone(), scope, send).await?;
            let response = self.checked(response, scope, &[StatusCode::ACCEPTED]).await?;
            session.location = location(&response)?;
            session.offset = to;
        }
        let mut url = session.location.clone();
        url.query_pairs_mut().append_pair("digest", &digest.to_string());
        let body = source.body(session.offset, size).await?;
        let left = size - session.offset;
        let send = |r: reqwest::RequestBuilder| content(r, left).body(body);
        let response = self.attempt(Method::PUT, url, scope, send).await?;
        self.checked(response, scope, &[StatusCode::CREATED]).await.map(|_| ())
    }

    /// Asks how much the registry has of a session; `None` when the session is gone.
    async fn resume(
        &self,
        session: Progress,
        scope: &str,
    ) -> Result<Option<Progress>, ClientError> {
        let response = self.call(Method::GET, session.location.clone(), scope, |r| r).await?;
        if response.status() != StatusCode::NO_CONTENT {
            return Ok(None);
        }
        // "0-0" says nothing or one byte; nothing is the safe reading, as a wrong offset is refused.
        let last: u64 = header(&response, "range")
            .and_then(|range| range.trim_start_matches("bytes=").split_once('-')?.1.parse().ok())
            .unwrap_or(0);
        let offset = if last == 0 { 0 } else { last + 1 };
        let location = location(&response).unwrap_or(session.location);
        Ok(Some(Progress { location, offset }))
    }

    async fn checked(
        &self,
        response: Response,
        scope: &str,
        wanted: &[StatusCode],
    ) -> Result<Response, Failure> {
        if response.status() == StatusCode::UNAUTHORIZED {
            self.renew(scope, &response);
        }
        self.expect(response, wanted).await
    }
}

fn empty(request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
    request.header(CONTENT_LENGTH, 0)
}

fn content(request: reqwest::RequestBuilder, length: u64) -> reqwest::RequestBuilder {
    request.header(CONTENT_TYPE, OCTETS).header(CONTENT_LENGTH, length)
}

fn location(response: &Response) -> Result<Url, ClientError> {
    header(response, LOCATION.as_str())
        .and_then(|location| response.url().join(location).ok())
        .ok_or_else(|| ClientError::Answer {
            what: format!("an upload to {}", response.url().path()),
            why: "it has no usable Location".to_owned(),
        })
}
