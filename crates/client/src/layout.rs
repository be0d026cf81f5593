//! An OCI image layout in a folder: `oci-layout`, `index.json`, `blobs/<algorithm>/<hex>`. Source: OCI image-spec 1.1.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use dtr_types::{Digest, MANIFEST_BYTES_MAX};
use serde::{Deserialize, Serialize};

use crate::ClientError;

const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// A folder with images in it.
#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
}

/// One image of a layout, as its index lists it. Fields that are not known here are kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Entry {
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
    #[serde(flatten)]
    rest: serde_json::Map<String, serde_json::Value>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u32,
    manifests: Vec<Entry>,
    #[serde(flatten)]
    rest: serde_json::Map<String, serde_json::Value>,
}

impl Layout {
    /// A layout that exists.
    ///
    /// # Errors
    /// [`ClientError::Layout`] when the folder is none.
    pub async fn open(root: impl Into<PathBuf>) -> Result<Self, ClientError> {
        let layout = Self { root: root.into() };
        layout.index().await?;
        Ok(layout)
    }

    /// A layout that exists, or a new empty one.
    ///
    /// # Errors
    /// [`ClientError::File`], [`ClientError::Layout`].
    pub async fn create(root: impl Into<PathBuf>) -> Result<Self, ClientError> {
        let layout = Self { root: root.into() };
        let blobs = layout.root.join("blobs/sha256");
        let made = tokio::fs::create_dir_all(&blobs).await;
        made.map_err(|source| ClientError::File {
            action: "make the folder",
            path: blobs,
            source,
        })?;
        if !layout.root.join("index.json").exists() {
            let version: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
            write(&layout.root.join("oci-layout"), version).await?;
            let index =
                Index { schema_version: 2, manifests: Vec::new(), rest: Default::default() };
            layout.write_index(&index).await?;
        }
        Self::open(layout.root).await
    }

    /// Its folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The file of a blob, whether or not it is there.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs").join(digest.algorithm().as_str()).join(digest.hex())
    }

    /// The size of a blob in bytes, or `None` when it is not there.
    pub async fn blob_size(&self, digest: &Digest) -> Option<u64> {
        tokio::fs::metadata(self.blob_path(digest)).await.ok().map(|m| m.len())
    }

    /// Reads a manifest's bytes and verifies them.
    ///
    /// # Errors
    /// [`ClientError::File`], [`ClientError::Layout`] when it is too large, [`ClientError::Digest`].
    pub async fn read_manifest(&self, digest: &Digest) -> Result<Bytes, ClientError> {
        let path = self.blob_path(digest);
        if self.blob_size(digest).await.is_some_and(|size| size > MANIFEST_BYTES_MAX as u64) {
            return Err(ClientError::Layout {
                path,
                why: "larger than a manifest may be".to_owned(),
            });
        }
        let bytes = tokio::fs::read(&path).await;
        let bytes = bytes.map_err(|e| ClientError::File {
            action: "read",
            path: path.clone(),
            source: e,
        })?;
        let found = Digest::with(digest.algorithm(), &bytes);
        if found != *digest {
            let what = path.display().to_string();
            return Err(ClientError::Digest {
                what,
                wanted: (*digest).into(),
                found: found.into(),
            });
        }
        Ok(bytes.into())
    }

    /// Writes a small blob and yields its digest.
    ///
    /// # Errors
    /// [`ClientError::File`].
    pub async fn write_blob(&self, content: &[u8]) -> Result<Digest, ClientError> {
        let digest = Digest::of(content);
        self.write_blob_as(&digest, content).await?;
        Ok(digest)
    }

    /// Writes content that is known to hash to `digest`.
    pub(crate) async fn write_blob_as(
        &self,
        digest: &Digest,
        content: &[u8],
    ) -> Result<(), ClientError> {
        self.algorithm_folder(digest).await?;
        write(&self.blob_path(digest), content).await
    }

    /// Makes the folder that the blob's file is in.
    pub(crate) async fn algorithm_folder(&self, digest: &Digest) -> Result<(), ClientError> {
        let folder = self.root.join("blobs").join(digest.algorithm().as_str());
        let made = tokio::fs::create_dir_all(&folder).await;
        made.map_err(|source| ClientError::File { action: "make the folder", path: folder, source })
    }

    /// Lists an image under a name; another image of that name loses it.
    ///
    /// # Errors
    /// [`ClientError::File`], [`ClientError::Layout`].
    pub async fn add(
        &self,
        name: Option<&str>,
        digest: &Digest,
        media_type: &str,
        size: u64,
    ) -> Result<(), ClientError> {
        let mut index = self.index().await?;
        index.manifests.retain(|entry| match name {
            Some(name) => entry.annotations.get(REF_NAME).is_none_or(|n| n != name),
            None => entry.digest != *digest || entry.annotations.contains_key(REF_NAME),
        });
        let annotations =
            name.map(|name| (REF_NAME.to_owned(), name.to_owned())).into_iter().collect();
        index.manifests.push(Entry {
            media_type: media_type.to_owned(),
            digest: *digest,
            size,
            annotations,
            rest: Default::default(),
        });
        self.write_index(&index).await
    }

    /// The image of that name; without a name, the only image there is.
    pub(crate) async fn find(&self, name: Option<&str>) -> Result<Entry, ClientError> {
        let mut entries = self.index().await?.manifests;
        let all = entries.len();
        if let Some(name) = name {
            entries.retain(|entry| entry.annotations.get(REF_NAME).is_some_and(|n| n == name));
        }
        match (entries.pop(), entries.is_empty()) {
            (Some(entry), true) => Ok(entry),
            (found, _) => {
                let why = match (name, found) {
                    (Some(name), None) => {
                        format!("no image is named \"{name}\" among the {all} in it")
                    }
                    (Some(name), Some(_)) => format!("several images are named \"{name}\""),
                    (None, None) => "there is no image in it".to_owned(),
                    (None, Some(_)) => format!("there are {all} images in it; say which by name"),
                };
                Err(ClientError::Layout { path: self.root.clone(), why })
            }
        }
    }

    async fn index(&self) -> Result<Index, ClientError> {
        let path = self.root.join("index.json");
        let text = tokio::fs::read(&path).await.map_err(|source| ClientError::File {
            action: "read the OCI layout's",
            path: path.clone(),
            source,
        })?;
        serde_json::from_slice(&text).map_err(|error| ClientError::Layout {
            path,
            why: format!("not an OCI index: {error}"),
        })
    }

    async fn write_index(&self, index: &Index) -> Result<(), ClientError> {
        let path = self.root.join("index.json");
        let text = serde_json::to_vec(index).map_err(|error| ClientError::File {
            action: "write",
            path: path.clone(),
            source: io::Error::other(error),
        })?;
        write(&path, &text).await
    }
}

/// Writes beside and renames, so that a reader sees the old or the new file, never a half.
async fn write(path: &Path, content: &[u8]) -> Result<(), ClientError> {
    let part = path.with_extension("part");
    let failed = |source| ClientError::File { action: "write", path: path.to_owned(), source };
    tokio::fs::write(&part, content).await.map_err(failed)?;
    tokio::fs::rename(&part, path).await.map_err(failed)
}
