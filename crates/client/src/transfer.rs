//! Whole images: from a layout to a registry, from a registry into a layout, from registry to registry. An index brings
//! everything that it lists.

use std::{collections::HashSet, future::Future, pin::Pin};

use bytes::Bytes;
use dtr_types::{Descriptor, Digest, Manifest, ManifestKind, MediaType, RepositoryName};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::{fs::File, io::AsyncWriteExt as _};

use crate::{ClientError, Layout, Pushed, Reference, Registry, Source};

/// Blobs of one image that are moved at once.
const AT_ONCE: usize = 4;
/// How deep an index may lie in an index.
const DEPTH_MAX: u32 = 4;

/// What was moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transferred {
    /// The digest of the image's manifest or index.
    pub digest: Digest,
    /// Blobs that were sent or fetched.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Blobs that were there already, or were mounted.
    pub existed: u64,
}

impl Transferred {
    fn count(&mut self, moved: Option<u64>) {
        match moved {
            Some(size) => {
                self.blobs += 1;
                self.bytes += size;
            }
            None => self.existed += 1,
        }
    }
}

/// Where manifests and blobs come from, and where they go.
enum Origin<'a> {
    Layout(&'a Layout),
    Registry(&'a Registry, &'a RepositoryName),
}

enum Target<'a> {
    Layout(&'a Layout),
    Registry(&'a Registry, &'a RepositoryName),
}

impl Registry {
    /// Pushes an image of a layout: the one called `name`, or the only one.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn push_layout(
        &self,
        layout: &Layout,
        name: Option<&str>,
        repository: &RepositoryName,
        reference: Option<&Reference>,
    ) -> Result<Transferred, ClientError> {
        let entry = layout.find(name).await?;
        let from = Origin::Layout(layout);
        let to = Target::Registry(self, repository);
        transfer(&from, &to, entry.digest, &entry.media_type, reference).await
    }

    /// Pulls an image into a layout and lists it there under `name`. Everything is verified; what the layout has is not
    /// fetched again.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn pull_layout(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        layout: &Layout,
        name: Option<&str>,
    ) -> Result<Transferred, ClientError> {
        let top = self.get_manifest(repository, reference).await?;
        let from = Origin::Registry(self, repository);
        let to = Target::Layout(layout);
        let moved = transfer(&from, &to, top.digest, &top.media_type, None).await?;
        layout.add(name, &top.digest, &top.media_type, top.bytes.len() as u64).await?;
        Ok(moved)
    }

    /// Copies an image to another registry or repository, without storing it in between; within one registry blobs are
    /// mounted.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn copy(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        target: &Registry,
        target_repository: &RepositoryName,
        target_reference: Option<&Reference>,
    ) -> Result<Transferred, ClientError> {
        let top = self.get_manifest(repository, reference).await?;
        let from = Origin::Registry(self, repository);
        let to = Target::Registry(target, target_repository);
        transfer(&from, &to, top.digest, &top.media_type, target_reference).await
    }
}

async fn transfer(
    from: &Origin<'_>,
    to: &Target<'_>,
    digest: Digest,
    media_type: &str,
    reference: Option<&Reference>,
) -> Result<Transferred, ClientError> {
    let mut done = Transferred { digest, blobs: 0, bytes: 0, existed: 0 };
    let mut seen = HashSet::new();
    manifest(from, to, digest, media_type, reference, &mut done, &mut seen, DEPTH_MAX).await?;
    Ok(done)
}

/// Moves one manifest after everything that it lists. Boxed, as it calls itself for indexes.
#[expect(clippy::too_many_arguments, reason = "one recursion with its running state")]
fn manifest<'a>(
    from: &'a Origin<'a>,
    to: &'a Target<'a>,
    digest: Digest,
    media_type: &'a str,
    reference: Option<&'a Reference>,
    done: &'a mut Transferred,
    seen: &'a mut HashSet<Digest>,
    depth: u32,
) -> Pin<Box<dyn Future<Output = Result<(), ClientError>> + Send + 'a>> {
    Box::pin(async move {
        let bytes = from.manifest(&digest).await?;
        let understood = Manifest::stored(Some(media_type), &bytes).map_err(|error| {
            ClientError::Answer { what: format!("manifest {digest}"), why: error.to_string() }
        })?;
        let mut blobs = Vec::new();
        match understood.kind {
            ManifestKind::Image { config, layers } => {
                blobs.extend(std::iter::once(config).chain(layers));
            }
            ManifestKind::Index { manifests } => {
                for child in manifests {
                    // BuildKit's caches list layers in an index.
                    if MediaType::parse(&child.media_type).is_err() {
                        blobs.push(child);
                        continue;
                    }
                    // Where it has an address elsewhere it may be absent.
                    if child.foreign && !from.has_manifest(&child.digest).await? {
                        continue;
                    }
                    if depth > 0 && seen.insert(child.digest) {
                        manifest(
                            from,
                            to,
                            child.digest,
                            &child.media_type,
                            None,
                            done,
                            seen,
                            depth - 1,
                        )
                        .await?;
                    }
                }
            }
        }
        blobs.retain(|blob| seen.insert(blob.digest));
        let mut there = Vec::with_capacity(blobs.len());
        for blob in blobs {
            if !blob.foreign || from.has_blob(&blob).await? {
                there.push(blob);
            }
        }
        let mut moves =
            stream::iter(there).map(|blob| move_blob(from, to, blob)).buffer_unordered(AT_ONCE);
        while let Some(moved) = moves.try_next().await? {
            done.count(moved);
        }
        to.put_manifest(reference.cloned().unwrap_or(digest.into()), &digest, media_type, bytes)
            .await
    })
}

/// Yields the size of what was moved, or `None` when nothing had to be.
async fn move_blob(
    from: &Origin<'_>,
    to: &Target<'_>,
    blob: Descriptor,
) -> Result<Option<u64>, ClientError> {
    match (from, to) {
        (Origin::Layout(layout), Target::Registry(registry, repository)) => {
            let source = Source::File { path: layout.blob_path(&blob.digest), size: blob.size };
            let pushed = registry.push_blob(repository, &blob.digest, &source, None).await?;
            Ok((pushed == Pushed::Uploaded).then_some(blob.size))
        }
        (Origin::Registry(old, source), Target::Registry(new, target)) => {
            let same = old.host() == new.host();
            let content = Source::Remote {
                registry: (*old).clone(),
                repository: (*source).clone(),
                digest: blob.digest,
                size: blob.size,
            };
            let mount = same.then_some(*source);
            let pushed = new.push_blob(target, &blob.digest, &content, mount).await?;
            Ok((pushed == Pushed::Uploaded).then_some(blob.size))
        }
        (Origin::Registry(registry, repository), Target::Layout(layout)) => {
            if layout.blob_size(&blob.digest).await == Some(blob.size) {
                return Ok(None);
            }
            download(registry, repository, &blob.digest, layout).await.map(Some)
        }
        (Origin::Layout(_), Target::Layout(layout)) => {
            let why = "copying between folders is not offered".to_owned();
            Err(ClientError::Layout { path: layout.root().to_owned(), why })
        }
    }
}

/// Into a part file that gets its name only when its content was verified.
async fn download(
    registry: &Registry,
    repository: &RepositoryName,
    digest: &Digest,
    layout: &Layout,
) -> Result<u64, ClientError> {
    layout.algorithm_folder(digest).await?;
    let path = layout.blob_path(digest);
    let part = path.with_extension("part");
    let failed = |source| ClientError::File { action: "write", path: path.clone(), source };
    let mut stream = registry.get_blob(repository, digest).await?;
    let mut file = File::create(&part).await.map_err(failed)?;
    let mut size = 0;
    while let Some(chunk) = stream.next().await? {
        size += chunk.len() as u64;
        file.write_all(&chunk).await.map_err(failed)?;
    }
    file.flush().await.map_err(failed)?;
    tokio::fs::rename(&part, &path).await.map_err(failed)?;
    Ok(size)
}

impl Origin<'_> {
    async fn has_manifest(&self, digest: &Digest) -> Result<bool, ClientError> {
        match self {
            Self::Layout(layout) => Ok(layout.blob_size(digest).await.is_some()),
            Self::Registry(registry, repository) => {
                let head = registry.head_manifest(repository, &Reference::Digest(*digest)).await?;
                Ok(head.is_some())
            }
        }
    }

    async fn has_blob(&self, blob: &Descriptor) -> Result<bool, ClientError> {
        match self {
            Self::Layout(layout) => Ok(layout.blob_size(&blob.digest).await.is_some()),
            Self::Registry(registry, repository) => {
                Ok(registry.head_blob(repository, &blob.digest).await?.is_some())
            }
        }
    }

    async fn manifest(&self, digest: &Digest) -> Result<Bytes, ClientError> {
        match self {
            Self::Layout(layout) => layout.read_manifest(digest).await,
            Self::Registry(registry, repository) => {
                let reference = Reference::Digest(*digest);
                Ok(registry.get_manifest(repository, &reference).await?.bytes)
            }
        }
    }
}

impl Target<'_> {
    async fn put_manifest(
        &self,
        reference: Reference,
        digest: &Digest,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<(), ClientError> {
        match self {
            Self::Layout(layout) => layout.write_blob_as(digest, &bytes).await,
            Self::Registry(registry, repository) => {
                let put = registry.put_manifest(repository, &reference, media_type, bytes);
                put.await.map(|_| ())
            }
        }
    }
}
