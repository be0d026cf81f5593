//! The OCI image layout under `images/`: its marker file and its index.

use dtr_types::Digest;
use serde::Serialize;

use crate::{ArchiveError, Result, name::EntryName, sign::Sha256};

/// The content of `oci-layout`.
pub const LAYOUT: &[u8] = b"{\"imageLayoutVersion\":\"1.0.0\"}\n";

/// The annotation that tools such as skopeo look names up by.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Gathers `index.json`: one descriptor for each name, the name being `namespace/repository:tag`. Some 250 bytes each stay in
/// memory.
pub struct Index {
    json: Vec<u8>,
    count: usize,
}

#[derive(Serialize)]
struct Descriptor<'a> {
    #[serde(rename = "mediaType")]
    media_type: &'a str,
    digest: &'a Digest,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<Name<'a>>,
}

#[derive(Serialize)]
struct Name<'a> {
    #[serde(rename = "org.opencontainers.image.ref.name")]
    name: &'a str,
}

impl Default for Index {
    fn default() -> Self {
        Self::new()
    }
}

impl Index {
    /// An index of nothing.
    pub fn new() -> Self {
        let start = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":["#;
        Self { json: start.as_bytes().to_vec(), count: 0 }
    }

    /// Adds an image: its manifest's media type, digest and size, and its name. A manifest without a tag has no name.
    pub fn push(&mut self, media_type: &str, digest: &Digest, size: u64, name: Option<&str>) {
        let annotations = name.map(|name| Name { name });
        self.json.extend(if self.count == 0 { &b"\n"[..] } else { b",\n" });
        let start = self.json.len();
        let descriptor = Descriptor { media_type, digest, size, annotations };
        if serde_json::to_writer(&mut self.json, &descriptor).is_err() {
            // Plain strings and numbers always serialize; should that change, leave the index well-formed.
            self.json.truncate(start);
            self.json.extend(b"null");
        }
        self.count += 1;
    }

    /// How many were added.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether none was added.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The document.
    pub fn finish(mut self) -> Vec<u8> {
        self.json.extend(b"\n]}\n");
        self.json
    }
}

/// Compares the digest in a blob's name with the hashes of its content.
pub(crate) fn check_digest(
    entry: &EntryName,
    digest: &Digest,
    sha256: Sha256,
    sha512: Option<&[u8]>,
) -> Result<()> {
    let found = sha512.unwrap_or(&sha256.0);
    if digest.as_bytes() == found {
        return Ok(());
    }
    let algorithm = digest.algorithm().as_str();
    let found = format!("{algorithm}:{}", hex::encode(found));
    Err(ArchiveError::BlobDigest { entry: entry.to_string(), found })
}
