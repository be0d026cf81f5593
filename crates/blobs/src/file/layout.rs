//! Where things are: the layout of the CNCF distribution registry for blobs, and one flat directory for uploads.
//!
//! | path below the root | what |
//! |---|---|
//! | `docker/registry/v2/blobs/<algorithm>/<first 2 digits>/<digits>/data` | a published blob |
//! | `uploads/<upload id>` | an upload that is being written |
//! | `uploads/<upload id>.staged` | the same, finished |
//! | `uploads/<upload id>.publish` | a second name of it for the moment in which it replaces a blob; or a copy of it that is to be written on |

use std::path::{Path, PathBuf};

use dtr_types::{Algorithm, Digest, UploadId};

/// The directory of all blobs.
pub(crate) const BLOBS: &str = "docker/registry/v2/blobs";
/// The directory of all uploads.
pub(crate) const UPLOADS: &str = "uploads";
/// The file that tells whether the disk can be written.
pub(crate) const PROBE: &str = "uploads/.probe";
/// The algorithms in the order of their digests.
pub(crate) const ALGORITHMS: [Algorithm; 2] = [Algorithm::Sha256, Algorithm::Sha512];

const STAGED: &str = ".staged";
const PUBLISH: &str = ".publish";

/// All directories on the way to a blob's file.
pub(crate) struct BlobPath {
    /// `blobs/<algorithm>`
    pub algorithm: PathBuf,
    /// `blobs/<algorithm>/<first 2 digits>`
    pub shard: PathBuf,
    /// `blobs/<algorithm>/<first 2 digits>/<digits>`
    pub folder: PathBuf,
    /// `.../data`
    pub data: PathBuf,
}

pub(crate) fn algorithm_dir(algorithm: Algorithm) -> PathBuf {
    Path::new(BLOBS).join(algorithm.as_str())
}

impl BlobPath {
    pub(crate) fn new(digest: &Digest) -> Self {
        let hex = digest.hex();
        let algorithm = algorithm_dir(digest.algorithm());
        let shard = algorithm.join(&hex[..2]);
        let folder = shard.join(&hex);
        let data = folder.join("data");
        Self { algorithm, shard, folder, data }
    }
}

/// Names of one upload.
pub(crate) struct UploadPath {
    pub open: PathBuf,
    pub staged: PathBuf,
    pub publish: PathBuf,
}

impl UploadPath {
    pub(crate) fn new(id: &UploadId) -> Self {
        let dir = Path::new(UPLOADS);
        Self {
            open: dir.join(id.as_str()),
            staged: dir.join(format!("{id}{STAGED}")),
            publish: dir.join(format!("{id}{PUBLISH}")),
        }
    }
}

/// Which upload a name in the directory of uploads belongs to, and whether it is staged.
pub(crate) fn parse_upload(name: &str) -> Option<(UploadId, bool)> {
    let (id, staged) = match name.strip_suffix(STAGED).or_else(|| name.strip_suffix(PUBLISH)) {
        Some(id) => (id, true),
        None => (name, false),
    };
    Some((id.parse().ok()?, staged))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_that_of_distribution() {
        let digest = Digest::of(b"");
        assert_eq!(
            BlobPath::new(&digest).data,
            Path::new(
                "docker/registry/v2/blobs/sha256/e3/e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855/data"
            )
        );
    }

    #[test]
    fn foreign_names_are_no_uploads() {
        let id = "0123abcd-0123-4123-8123-0123456789ab";
        assert_eq!(parse_upload(id), Some((id.parse().expect("valid"), false)));
        assert!(parse_upload(&format!("{id}.staged")).is_some_and(|(_, staged)| staged));
        for foreign in [".probe", "x", "", ".staged", "README"] {
            assert_eq!(parse_upload(foreign), None);
        }
    }
}
