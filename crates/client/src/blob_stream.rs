//! Reading a blob: goes on after a lost connection, and reaches its end only when the content was verified.

use bytes::Bytes;
use dtr_types::{Digest, Hasher, RepositoryName};
use reqwest::Response;

use crate::{ClientError, Registry, registry::Failure};

/// The content of a blob. A lost connection is taken up again at the byte where it broke; the end is only reached when
/// everything hashes to the digest.
pub struct BlobStream {
    registry: Registry,
    repository: RepositoryName,
    digest: Digest,
    response: Option<Response>,
    hasher: Option<Hasher>,
    received: u64,
    size: Option<u64>,
    failures: u32,
}

impl BlobStream {
    /// A stream over an answer that begins at the first byte.
    pub(crate) fn new(
        registry: Registry,
        repository: RepositoryName,
        digest: Digest,
        response: Response,
    ) -> Self {
        let size = response.content_length();
        let hasher = Some(Hasher::new(digest.algorithm()));
        let response = Some(response);
        Self { registry, repository, digest, response, hasher, received: 0, size, failures: 0 }
    }

    /// Size of the whole in bytes, if the registry said.
    pub fn size(&self) -> Option<u64> {
        self.size
    }

    /// The next bytes; `None` when all have come and were verified.
    ///
    /// # Errors
    /// [`ClientError::Digest`], [`ClientError::CutShort`] and any other. Nothing that came before may be used then.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            let response = match self.response.as_mut() {
                Some(response) => response,
                None if self.hasher.is_none() => return Ok(None),
                None => {
                    let opened =
                        self.registry.open_blob(&self.repository, &self.digest, self.received);
                    self.response.insert(opened.await?)
                }
            };
            let why = match response.chunk().await {
                Ok(Some(chunk)) => {
                    self.received += chunk.len() as u64;
                    if let Some(hasher) = &mut self.hasher {
                        hasher.update(&chunk);
                    }
                    return Ok(Some(chunk));
                }
                Ok(None) if self.size.is_none_or(|size| size == self.received) => {
                    return self.verify().map(|()| None);
                }
                Ok(None) => "the connection ended".to_owned(),
                Err(error) => error.without_url().to_string(),
            };
            self.response = None;
            self.failures += 1;
            let received = self.received;
            let what = format!("{}/{}@{}", self.registry.host(), self.repository, self.digest);
            let failure = Failure::from(ClientError::CutShort { what, received, why });
            self.registry.pause(failure, self.failures).await?;
        }
    }

    fn verify(&mut self) -> Result<(), ClientError> {
        self.response = None;
        let Some(hasher) = self.hasher.take() else { return Ok(()) };
        let found = hasher.finish();
        if found == self.digest {
            return Ok(());
        }
        let what = format!("{}/{}@{}", self.registry.host(), self.repository, self.digest);
        Err(ClientError::Digest { what, wanted: self.digest.into(), found: found.into() })
    }
}
