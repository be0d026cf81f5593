//! Images made from files, without any engine: each layer an uncompressed tar, the same input giving the same digests.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use dtr_types::{Algorithm, Digest, Hasher, media_types};
use serde_json::json;

use crate::{ClientError, Layout};

/// What goes into one layer.
#[derive(Debug, Clone, Default)]
pub struct Layer {
    entries: Vec<Entry>,
}

#[derive(Debug, Clone)]
enum Entry {
    File { target: String, source: PathBuf },
    Bytes { target: String, content: Vec<u8>, mode: u32 },
}

impl Layer {
    /// An empty layer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a file of this machine, with its permissions, at `target` in the image.
    #[must_use]
    pub fn file(mut self, target: &str, source: impl Into<PathBuf>) -> Self {
        let target = target.trim_start_matches('/').to_owned();
        self.entries.push(Entry::File { target, source: source.into() });
        self
    }

    /// Adds a file with this content and mode at `target` in the image.
    #[must_use]
    pub fn bytes(mut self, target: &str, content: impl Into<Vec<u8>>, mode: u32) -> Self {
        let target = target.trim_start_matches('/').to_owned();
        self.entries.push(Entry::Bytes { target, content: content.into(), mode });
        self
    }

    fn write_to(&self, out: impl Write) -> Result<(), ClientError> {
        let mut tar = tar::Builder::new(out);
        for entry in &self.entries {
            let mut header = tar::Header::new_ustar();
            header.set_mtime(0);
            let (target, written) = match entry {
                Entry::Bytes { target, content, mode } => {
                    header.set_mode(*mode);
                    header.set_size(content.len() as u64);
                    (target.as_str(), tar.append_data(&mut header, target, content.as_slice()))
                }
                Entry::File { target, source } => {
                    let failed =
                        |action, e| ClientError::File { action, path: source.clone(), source: e };
                    let file = File::open(source).map_err(|e| failed("open", e))?;
                    let meta = file.metadata().map_err(|e| failed("read", e))?;
                    header.set_mode(mode_of(&meta));
                    header.set_size(meta.len());
                    // A file that grows meanwhile would break the tar: never more than was promised.
                    let content = io::Read::take(file, meta.len());
                    (target.as_str(), tar.append_data(&mut header, target, content))
                }
            };
            written.map_err(|source| ClientError::File {
                action: "put into a layer",
                path: PathBuf::from(target),
                source,
            })?;
        }
        let finished = tar.into_inner().and_then(|mut out| out.flush());
        finished.map_err(|source| ClientError::File {
            action: "finish the layer in",
            path: PathBuf::from("blobs"),
            source,
        })
    }
}

#[cfg(unix)]
fn mode_of(meta: &std::fs::Metadata) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    meta.permissions().mode() & 0o7777
}

#[cfg(not(unix))]
fn mode_of(_: &std::fs::Metadata) -> u32 {
    0o755
}

/// Makes an image of layers.
#[derive(Debug, Clone)]
pub struct ImageBuilder {
    layers: Vec<Layer>,
    os: String,
    architecture: String,
    entrypoint: Vec<String>,
}

impl Default for ImageBuilder {
    fn default() -> Self {
        Self {
            layers: Vec::new(),
            os: "linux".to_owned(),
            architecture: "amd64".to_owned(),
            entrypoint: Vec::new(),
        }
    }
}

impl ImageBuilder {
    /// An image of linux/amd64 without layers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a layer on top.
    #[must_use]
    pub fn layer(mut self, layer: Layer) -> Self {
        self.layers.push(layer);
        self
    }

    /// For another platform.
    #[must_use]
    pub fn platform(mut self, os: &str, architecture: &str) -> Self {
        self.os = os.to_owned();
        self.architecture = architecture.to_owned();
        self
    }

    /// What runs when a container starts.
    #[must_use]
    pub fn entrypoint(mut self, command: &[&str]) -> Self {
        self.entrypoint = command.iter().map(|&c| c.to_owned()).collect();
        self
    }

    /// Writes the image into a layout under `name` and yields its manifest's digest.
    ///
    /// # Errors
    /// [`ClientError::File`].
    pub async fn build(&self, layout: &Layout, name: &str) -> Result<Digest, ClientError> {
        let mut layers = Vec::new();
        let mut diff_ids = Vec::new();
        for layer in &self.layers {
            let (digest, size) = write_layer(layer.clone(), layout.clone()).await?;
            layers.push(json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": size}));
            diff_ids.push(digest);
        }
        let config = json!({
            "architecture": self.architecture, "os": self.os,
            "config": {"Entrypoint": self.entrypoint},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        })
        .to_string();
        let config_digest = layout.write_blob(config.as_bytes()).await?;
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media_types::OCI_MANIFEST,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config_digest, "size": config.len()},
            "layers": layers,
        })
        .to_string();
        let digest = layout.write_blob(manifest.as_bytes()).await?;
        layout.add(Some(name), &digest, media_types::OCI_MANIFEST, manifest.len() as u64).await?;
        Ok(digest)
    }
}

/// Writes and hashes at once, in a thread where blocking is allowed, and moves the file to its digest.
async fn write_layer(layer: Layer, layout: Layout) -> Result<(Digest, u64), ClientError> {
    let blobs = layout.root().join("blobs/sha256");
    let work = move || {
        let failed =
            |source| ClientError::File { action: "write a layer in", path: blobs.clone(), source };
        let part = tempfile_in(&blobs).map_err(failed)?;
        let file = File::create(&part).map_err(failed)?;
        let mut out = Hashing {
            out: BufWriter::with_capacity(256 << 10, file),
            hasher: Hasher::new(Algorithm::Sha256),
            size: 0,
        };
        layer.write_to(&mut out)?;
        let digest = out.hasher.finish();
        std::fs::rename(&part, blobs.join(digest.hex())).map_err(failed)?;
        Ok((digest, out.size))
    };
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(ClientError::File {
            action: "write a layer of",
            path: layout.root().to_owned(),
            source: io::Error::other(error),
        })
    })
}

/// A name in `folder` that no other layer uses: numbered, as one builder may run beside another.
fn tempfile_in(folder: &Path) -> io::Result<PathBuf> {
    for number in 0..10_000u32 {
        let path = folder.join(format!("layer-{}-{number}.part", std::process::id()));
        match File::create_new(&path) {
            Ok(_) => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("too many unfinished layers (*.part)"))
}

struct Hashing<W> {
    out: W,
    hasher: Hasher,
    size: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
