//! What the objects are called.
//!
//! | key below the root | what |
//! |---|---|
//! | `docker/registry/v2/blobs/<algorithm>/<first 2 digits>/<digits>/data` | a published blob |
//! | `uploads/<upload id>/begun` | the upload exists |
//! | `uploads/<upload id>/closed-<size>` | it is finished with so many bytes |
//! | `uploads/<upload id>/copy-<random>` | which multipart upload makes a blob of it: what to give up with it |
//! | `uploads/<upload id>/part-<start>-<end>-<before>-<after>` | a piece of it, see [`Piece`] |
//! | `dtr-storage.json` | the mark: whose content this is |
//! | `probe/<random>` | written and deleted to try the bucket |
//! | `shared/<token>` | written by one replica to be seen by another |

use std::fmt;

use dtr_types::{Algorithm, Digest, Hasher, UploadId};
use object_store::path::Path;

/// The algorithms in the order of their digests.
pub(crate) const ALGORITHMS: [Algorithm; 2] = [Algorithm::Sha256, Algorithm::Sha512];
/// Digits of a digest in the name of a piece: 160 bits, beyond what collisions can be computed for.
const DIGITS: usize = 40;

/// Names all objects below one root.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    root: Path,
}

impl Layout {
    pub(crate) fn new(root: Path) -> Self {
        Self { root }
    }

    fn at(&self, parts: &[&str]) -> Path {
        parts.iter().fold(self.root.clone(), |path, part| path.join(*part))
    }

    pub(crate) fn blobs(&self, algorithm: Algorithm) -> Path {
        self.at(&["docker", "registry", "v2", "blobs", algorithm.as_str()])
    }

    pub(crate) fn blob(&self, digest: &Digest) -> Path {
        let hex = digest.hex();
        let folder = self.blobs(digest.algorithm());
        folder.join(&hex[..2]).join(hex.as_str()).join("data")
    }

    /// Where a distribution registry keeps its repositories: a DTR has none.
    pub(crate) fn repositories(&self) -> Path {
        self.at(&["docker", "registry", "v2", "repositories"])
    }

    pub(crate) fn uploads(&self) -> Path {
        self.at(&["uploads"])
    }

    pub(crate) fn upload(&self, id: &UploadId) -> Path {
        self.at(&["uploads", id.as_str()])
    }

    pub(crate) fn begun(&self, id: &UploadId) -> Path {
        self.upload(id).join("begun")
    }

    pub(crate) fn closed(&self, id: &UploadId, size: u64) -> Path {
        self.upload(id).join(format!("closed-{size:016x}"))
    }

    pub(crate) fn copy(&self, id: &UploadId, random: &str) -> Path {
        self.upload(id).join(format!("copy-{random}"))
    }

    pub(crate) fn piece(&self, id: &UploadId, piece: &Piece) -> Path {
        let Piece { start, end, before, after } = piece;
        self.upload(id).join(format!("part-{start:016x}-{end:016x}-{before}-{after}"))
    }

    pub(crate) fn mark(&self) -> Path {
        self.at(&["dtr-storage.json"])
    }

    pub(crate) fn probe(&self, random: &str) -> Path {
        self.at(&["probe", random])
    }

    pub(crate) fn shared(&self, token: &str) -> Path {
        self.at(&["shared", token])
    }

    /// The digest whose blob a key below [`Self::blobs`] is.
    pub(crate) fn parse_blob(&self, algorithm: Algorithm, key: &Path) -> Option<Digest> {
        let mut rest = key.prefix_match(&self.blobs(algorithm))?;
        let (shard, hex) = (rest.next()?, rest.next()?);
        let data = rest.next()?.as_ref() == "data" && rest.next().is_none();
        let digest: Digest = format!("{}:{}", algorithm.as_str(), hex.as_ref()).parse().ok()?;
        (data && digest.hex().starts_with(shard.as_ref())).then_some(digest)
    }

    /// The upload that a key below [`Self::uploads`] belongs to, and what it is of it.
    pub(crate) fn parse_upload(&self, key: &Path) -> Option<(UploadId, Part)> {
        let mut rest = key.prefix_match(&self.uploads())?;
        let (id, name) = (rest.next()?, rest.next()?);
        if rest.next().is_some() {
            return None;
        }
        Some((id.as_ref().parse().ok()?, Part::parse(name.as_ref())?))
    }
}

/// What an object of an upload is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The upload exists.
    Begun,
    /// It is finished with so many bytes.
    Closed(u64),
    /// Names a multipart upload.
    Copy,
    /// Some of its bytes.
    Piece(Piece),
}

impl Part {
    fn parse(name: &str) -> Option<Self> {
        if name == "begun" {
            return Some(Self::Begun);
        }
        if let Some(size) = name.strip_prefix("closed-") {
            return Some(Self::Closed(u64::from_str_radix(size, 16).ok()?));
        }
        if name.starts_with("copy-") {
            return Some(Self::Copy);
        }
        let mut fields = name.strip_prefix("part-")?.split('-');
        let mut number = || u64::from_str_radix(fields.next()?, 16).ok();
        let (start, end) = (number()?, number()?);
        let (before, after) = (fields.next()?, fields.next()?);
        if fields.next().is_some() || start >= end {
            return None;
        }
        Some(Self::Piece(Piece {
            start,
            end,
            before: Tag(before.to_owned()),
            after: Tag(after.to_owned()),
        }))
    }
}

/// The digest of all bytes of an upload up to some place, as it stands in the names of pieces.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Tag(String);

impl Tag {
    pub(crate) fn of(hasher: &Hasher) -> Self {
        Self::from_digest(&hasher.clone().finish())
    }

    pub(crate) fn from_digest(digest: &Digest) -> Self {
        let algorithm = match digest.algorithm() {
            Algorithm::Sha256 => 'a',
            Algorithm::Sha512 => 'b',
        };
        Self(format!("{algorithm}{}", &digest.hex()[..DIGITS]))
    }

    /// What a name says that nothing may be compared with.
    #[cfg(test)]
    pub(crate) fn made_up(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Consecutive bytes of an upload, in one object.
///
/// Its name says what all bytes up to its start hash to, and all up to its end. So whoever knows the size and the hash of
/// what was recorded finds exactly the pieces that make it up, whatever else lies beside them: what a replica wrote that
/// died before the record, or two that wrote at once. Nothing has to be locked, renamed or cut between replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub start: u64,
    pub end: u64,
    pub before: Tag,
    pub after: Tag,
}

impl Piece {
    pub(crate) fn len(&self) -> u64 {
        self.end - self.start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_that_of_distribution() {
        let digest = Digest::of(b"");
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        for root in ["", "a/b"] {
            let layout = Layout::new(Path::from(root));
            let key = layout.blob(&digest);
            let tail = format!("docker/registry/v2/blobs/sha256/e3/{hex}/data");
            assert_eq!(key.as_ref(), format!("{root}/{tail}").trim_start_matches('/'));
            assert_eq!(layout.parse_blob(Algorithm::Sha256, &key), Some(digest));
            let strange = layout.blobs(Algorithm::Sha256).join("ff").join(hex).join("data");
            assert_eq!(layout.parse_blob(Algorithm::Sha256, &strange), None);
        }
    }

    #[test]
    fn names_of_an_upload_are_read_back() {
        let layout = Layout::new(Path::from("x"));
        let id: UploadId = "0123abcd-0123-4123-8123-0123456789ab".parse().expect("valid");
        let hasher = Hasher::new(Algorithm::Sha512);
        let piece = Piece {
            start: 7,
            end: 1 << 40,
            before: Tag::of(&hasher),
            after: Tag::from_digest(&Digest::of(b"x")),
        };
        for (key, part) in [
            (layout.begun(&id), Part::Begun),
            (layout.closed(&id, 77), Part::Closed(77)),
            (layout.copy(&id, "ab"), Part::Copy),
            (layout.piece(&id, &piece), Part::Piece(piece.clone())),
        ] {
            assert_eq!(layout.parse_upload(&key), Some((id.clone(), part)));
        }
        for foreign in ["x/uploads/a/begun", "x/uploads/0123abcd-0123-4123-8123-0123456789ab/?"] {
            assert_eq!(layout.parse_upload(&Path::from(foreign)), None);
        }
    }
}
