//! Where things are: the layout of the CNCF distribution registry for blobs, and one flat directory for uploads.
//!
//! | path below the root | what |
//! |---|---|
//! | `docker/registry/v2/blobs/<algorithm>/<first 2 digits>/<digits>/data` | a published blob |
//! | `uploads/<upload id>.d/` | an upload |
//! | `uploads/<upload id>.d/open-<random>` | a file of it that one append writes, and nobody else |
//! | `uploads/<upload id>.d/at-<size>-<algorithm>-<digits>` | what an append has left: so many bytes, with this hash |
//! | `uploads/<upload id>.d/staged-<size>-<algorithm>-<digits>` | the same, finished |
//! | `uploads/<upload id>.d/publish-<random>` | a second name of it for the moment in which it replaces a blob |
//! | `uploads/<upload id>` | a blob that is stored at once |
//!
//! Earlier versions had an upload in `uploads/<upload id>`, `.staged` when it was finished, and `.publish`.

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

const SESSION: &str = ".d";
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
    /// The directory of all its files.
    pub dir: PathBuf,
    /// The file of a blob that is stored at once.
    pub put: PathBuf,
    /// Where earlier versions had it.
    pub earlier: [PathBuf; 3],
}

impl UploadPath {
    pub(crate) fn new(id: &UploadId) -> Self {
        let uploads = Path::new(UPLOADS);
        let name = |end: &str| uploads.join(format!("{id}{end}"));
        Self { dir: name(SESSION), put: name(""), earlier: [name(""), name(STAGED), name(PUBLISH)] }
    }

    /// A file that an append writes.
    pub(crate) fn open(&self, random: &str) -> PathBuf {
        self.dir.join(format!("open-{random}"))
    }

    /// A file of so many bytes, with this hash, that nobody writes.
    pub(crate) fn at(&self, size: u64, hash: &Digest) -> PathBuf {
        self.dir.join(format!("at-{size}-{}-{}", hash.algorithm().as_str(), hash.hex()))
    }

    /// The same, finished.
    pub(crate) fn staged(&self, size: u64, hash: &Digest) -> PathBuf {
        self.dir.join(format!("staged-{size}-{}-{}", hash.algorithm().as_str(), hash.hex()))
    }

    /// A second name of it.
    pub(crate) fn publish(&self, random: &str) -> PathBuf {
        self.dir.join(format!("publish-{random}"))
    }
}

/// What a name in the directory of uploads is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UploadName {
    /// The directory of an upload.
    Session,
    /// A file, and whether it is staged.
    File { staged: bool },
}

/// Which upload a name in the directory of uploads belongs to, and what it is.
pub(crate) fn parse_upload(name: &str) -> Option<(UploadId, UploadName)> {
    let (id, is) = if let Some(id) = name.strip_suffix(SESSION) {
        (id, UploadName::Session)
    } else if let Some(id) = name.strip_suffix(STAGED).or_else(|| name.strip_suffix(PUBLISH)) {
        (id, UploadName::File { staged: true })
    } else {
        (name, UploadName::File { staged: false })
    };
    Some((id.parse().ok()?, is))
}

/// Whether a file of an upload's directory is a staged one.
pub(crate) fn is_staged(name: &str) -> bool {
    name.starts_with("staged-")
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
        for (end, is) in [
            ("", UploadName::File { staged: false }),
            (".staged", UploadName::File { staged: true }),
            (".publish", UploadName::File { staged: true }),
            (".d", UploadName::Session),
        ] {
            let parsed = parse_upload(&format!("{id}{end}"));
            assert_eq!(parsed, Some((id.parse().expect("valid"), is)));
        }
        for foreign in [".probe", "x", "", ".staged", ".d", "README"] {
            assert_eq!(parse_upload(foreign), None);
        }
    }
}
