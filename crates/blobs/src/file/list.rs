//! Walking the files: pages of blobs and of uploads, each in ascending order.

use std::{io, path::Path};

use dtr_types::{Algorithm, Digest, UploadId};

use super::{Inner, failed, layout};
use crate::{BlobEntry, BlobError, BlobInfo, UploadEntry, disk::FileInfo};

impl Inner {
    pub(super) fn list(
        &self,
        after: Option<Digest>,
        limit: usize,
    ) -> Result<Vec<BlobEntry>, BlobError> {
        let mut found = Vec::new();
        for algorithm in layout::ALGORITHMS {
            // Digests are ordered by algorithm first.
            let after = match after {
                Some(after) if after.algorithm() > algorithm => continue,
                Some(after) if after.algorithm() == algorithm => Some(after),
                _ => None,
            };
            let first = after.map(|after| after.hex()[..2].to_owned());
            let dir = layout::algorithm_dir(algorithm);
            for shard in self.sorted(&dir)? {
                if shard.len() != 2 || first.as_ref().is_some_and(|first| shard < *first) {
                    continue;
                }
                self.list_shard(algorithm, &dir.join(shard), after, limit, &mut found)?;
                if found.len() >= limit {
                    return Ok(found);
                }
            }
        }
        Ok(found)
    }

    fn list_shard(
        &self,
        algorithm: Algorithm,
        shard: &Path,
        after: Option<Digest>,
        limit: usize,
        found: &mut Vec<BlobEntry>,
    ) -> Result<(), BlobError> {
        for name in self.sorted(shard)? {
            if found.len() >= limit {
                break;
            }
            // What is not a digest is not ours.
            let Ok(digest) = format!("{}:{name}", algorithm.as_str()).parse::<Digest>() else {
                continue;
            };
            if after.is_some_and(|after| digest <= after) {
                continue;
            }
            if let Some(BlobInfo { size, modified }) = self.stat(&digest)? {
                found.push(BlobEntry { digest, info: BlobInfo { size, modified } });
            }
        }
        Ok(())
    }

    pub(super) fn uploads(
        &self,
        after: Option<UploadId>,
        limit: usize,
    ) -> Result<Vec<UploadEntry>, BlobError> {
        let dir = Path::new(layout::UPLOADS);
        let mut found: Vec<UploadEntry> = Vec::new();
        for name in self.sorted(dir)? {
            let Some((id, staged)) = layout::parse_upload(&name) else { continue };
            if after.as_ref().is_some_and(|after| id <= *after) {
                continue;
            }
            let path = dir.join(&name);
            let FileInfo { size, modified, .. } = match self.disk.info(&path) {
                Ok(info) => info,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(failed("look at", &path)(e)),
            };
            // Names of one upload are neighbours: the id is the longer ones' beginning.
            if let Some(last) = found.last_mut()
                && last.id == id
            {
                last.size += size;
                last.modified = last.modified.max(modified);
                last.staged |= staged;
                continue;
            }
            if found.len() >= limit {
                break;
            }
            found.push(UploadEntry { id, size, modified, staged });
        }
        Ok(found)
    }

    /// The names in a directory in order; none when there is no such directory.
    pub(super) fn sorted(&self, dir: &Path) -> Result<Vec<String>, BlobError> {
        let mut names = match self.disk.names(dir) {
            Ok(names) => names,
            Err(e)
                if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
            {
                return Ok(Vec::new());
            }
            Err(e) => return Err(failed("list", dir)(e)),
        };
        names.sort_unstable();
        Ok(names)
    }
}
