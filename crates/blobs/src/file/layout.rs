//! Where things are: the layout of the CNCF distribution registry for blobs, and one flat directory for uploads.
//!
//! | path below the root | what |
//! |---|---|
//! | `docker/registry/v2/blobs/<algorithm>/<first 2 digits>/<digits>/data` | a published blob |
//! | `uploads/<upload id>` | an upload without a byte; a blob that is stored at once |
//! | `uploads/<upload id>.open-<random>` | the file of an upload that one append writes, and nobody else |
//! | `uploads/<upload id>.at-<size>-<algorithm>-<digits>` | what an append has left: so many bytes, with this hash |
//! | `uploads/<upload id>.staged-<size>-<algorithm>-<digits>` | the same, finished |
//! | `uploads/<upload id>.publish-<random>` | a second name of it for the moment in which it replaces a blob |
//! | `uploads/<upload id>.more` | there may be more than one file of this upload |
//! | `removed/<algorithm>-<digits>.<random>` | a blob that the collector is removing |
//! | `dtr-storage.json` | the mark: whose content this is |
//!
//! Earlier versions had an upload in `uploads/<upload id>`, `.staged` when it was finished, and `.publish`.

use std::path::{Path, PathBuf};

use dtr_types::{Algorithm, Digest, UploadId};

/// The directory of all blobs.
pub(crate) const BLOBS: &str = "docker/registry/v2/blobs";
/// Where a distribution registry keeps its repositories: a DTR has none.
pub(crate) const REPOSITORIES: &str = "docker/registry/v2/repositories";
/// The directory of all uploads.
pub(crate) const UPLOADS: &str = "uploads";
/// The file that tells whether the disk can be written.
pub(crate) const PROBE: &str = "uploads/.probe";
/// The directory of blobs that are being removed.
pub(crate) const REMOVED: &str = "removed";
/// The mark, and the name under which it is written.
pub(crate) const MARK: &str = "dtr-storage.json";
pub(crate) const MARK_PART: &str = ".dtr-storage.json.part";
/// The algorithms in the order of their digests.
pub(crate) const ALGORITHMS: [Algorithm; 2] = [Algorithm::Sha256, Algorithm::Sha512];

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
    id: String,
    /// The file without a byte, or of a blob that is stored at once.
    pub begun: PathBuf,
    /// Says that there may be more than one file.
    pub more: PathBuf,
}

impl UploadPath {
    pub(crate) fn new(id: &UploadId) -> Self {
        let begun = Path::new(UPLOADS).join(id.as_str());
        let more = Path::new(UPLOADS).join(format!("{id}.more"));
        Self { id: id.to_string(), begun, more }
    }

    fn name(&self, what: &str, rest: &str) -> PathBuf {
        Path::new(UPLOADS).join(format!("{}.{what}-{rest}", self.id))
    }

    /// A file that an append writes.
    pub(crate) fn open(&self, random: &str) -> PathBuf {
        self.name("open", random)
    }

    /// A file of so many bytes, with this hash, that nobody writes.
    pub(crate) fn at(&self, size: u64, hash: &Digest) -> PathBuf {
        self.name("at", &content(size, hash))
    }

    /// The same, finished.
    pub(crate) fn staged(&self, size: u64, hash: &Digest) -> PathBuf {
        self.name("staged", &content(size, hash))
    }

    /// A second name of it.
    pub(crate) fn publish(&self, random: &str) -> PathBuf {
        self.name("publish", random)
    }
}

/// Where a blob is while it is being removed.
pub(crate) fn aside_path(digest: &Digest, token: &str) -> PathBuf {
    let (algorithm, hex) = (digest.algorithm().as_str(), digest.hex());
    Path::new(REMOVED).join(format!("{algorithm}-{hex}.{token}"))
}

/// Which blob a name in the directory of removals is.
pub(crate) fn parse_aside(name: &str) -> Option<(Digest, &str)> {
    let (blob, token) = name.split_once('.')?;
    let (algorithm, hex) = blob.split_once('-')?;
    Some((format!("{algorithm}:{hex}").parse().ok()?, token))
}

fn content(size: u64, hash: &Digest) -> String {
    format!("{size}-{}-{}", hash.algorithm().as_str(), hash.hex())
}

/// Which upload a name in the directory of uploads belongs to, and whether it is staged.
pub(crate) fn parse_upload(name: &str) -> Option<(UploadId, bool)> {
    let (id, what) = name.split_once('.').unwrap_or((name, ""));
    Some((id.parse().ok()?, what.starts_with("staged")))
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
    fn names_of_removals_are_read_back() {
        for digest in [Digest::of(b"x"), Digest::with(Algorithm::Sha512, b"x")] {
            let path = aside_path(&digest, "0f");
            let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
            assert_eq!(parse_aside(name), Some((digest, "0f")));
        }
        for foreign in ["", "x", "sha256-00.x", ".nfs0001"] {
            assert_eq!(parse_aside(foreign), None);
        }
    }

    #[test]
    fn foreign_names_are_no_uploads() {
        let id = "0123abcd-0123-4123-8123-0123456789ab";
        for (end, staged) in
            [("", false), (".staged", true), (".staged-1-a-b", true), (".at-1-a-b", false)]
        {
            let parsed = parse_upload(&format!("{id}{end}"));
            assert_eq!(parsed, Some((id.parse().expect("valid"), staged)));
        }
        for foreign in [".probe", "x", "", ".staged", "README"] {
            assert_eq!(parse_upload(foreign), None);
        }
    }
}
