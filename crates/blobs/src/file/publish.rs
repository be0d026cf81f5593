//! Giving a synced file its name as a blob, and making the name durable.

use std::{io, path::Path, sync::atomic::Ordering};

use dtr_types::{Digest, UploadId};

use super::{Inner, failed, layout::BlobPath, layout::UploadPath, unless_missing};
use crate::{BlobError, Staged, disk::Open};

/// How often a publication begins again because the collector removed the blob's directory under it.
const ATTEMPTS: usize = 16;

/// Whether this file system cannot give a file a second name.
pub(super) fn no_links(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied | io::ErrorKind::TooManyLinks
    )
}

impl Inner {
    /// Publishes a staged upload and keeps its own name, so that it can be done again. Its name says what it hashes to; a
    /// digest of another algorithm is computed here, from what is published.
    pub(super) fn publish_staged(&self, staged: &Staged, digest: &Digest) -> Result<(), BlobError> {
        let names = UploadPath::new(&staged.id);
        let from = &names.staged(staged.size, &staged.hash);
        let actual = if digest.algorithm() == staged.hash.algorithm() {
            staged.hash
        } else {
            match self.staged_digest(staged, digest.algorithm()) {
                Err(BlobError::UploadNotFound(_)) => *digest,
                actual => actual?,
            }
        };
        if actual != *digest {
            let (expected, actual) = (Box::new(*digest), Box::new(actual));
            return Err(BlobError::Mismatch { expected, actual });
        }
        let file = match self.disk.open(from, Open::Write) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return self.published_without_link(staged, digest);
            }
            Err(e) => return Err(failed("open", from)(e)),
        };
        let info = file.info().map_err(failed("look at", from))?;
        if info.size != staged.size {
            return Err(BlobError::Offset {
                upload: staged.id.clone(),
                expected: staged.size,
                present: info.size,
            });
        }
        file.touch(self.options.clock.now()).map_err(failed("touch", from))?;
        drop(file);
        // A name that nobody else can put other bytes under.
        let between = names.publish(&self.random_name());
        self.place(from, digest, |to| self.link_or_rename(from, &between, to))
    }

    /// On a file system without links the staged name is gone after the first publication.
    fn published_without_link(&self, staged: &Staged, digest: &Digest) -> Result<(), BlobError> {
        let there = self.stat(digest)?.is_some_and(|info| info.size == staged.size);
        if there && !self.links.load(Ordering::Relaxed) {
            return self.make_durable(&BlobPath::new(digest), digest).map(|_| ());
        }
        Err(BlobError::UploadNotFound(staged.id.clone()))
    }

    /// Publishes the file of a `put`, whose own name goes.
    pub(super) fn publish_put(&self, id: &UploadId, digest: &Digest) -> Result<(), BlobError> {
        let names = UploadPath::new(id);
        let (from, between) = (&names.begun, &names.publish(&self.random_name()));
        // Not at once: while its directory goes, it may have to be done again.
        self.place(from, digest, |to| self.link_or_rename(from, between, to))?;
        for name in [between, from] {
            unless_missing(self.disk.remove_file(name)).map_err(failed("remove", name))?;
        }
        Ok(())
    }

    /// Makes the directories, lets `name` give the file its name, makes all of it durable.
    pub(super) fn place(
        &self,
        from: &Path,
        digest: &Digest,
        name: impl Fn(&Path) -> io::Result<()>,
    ) -> Result<(), BlobError> {
        let path = BlobPath::new(digest);
        let mut last = None;
        for _ in 0..ATTEMPTS {
            self.make_folder(&path).map_err(failed("make the directory", &path.folder))?;
            match name(&path.data) {
                Ok(()) if self.make_durable(&path, digest)? => return Ok(()),
                Ok(()) => {}
                // The directory went in between: unless it is the source that is missing.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    self.disk.info(from).map_err(failed("publish", from))?;
                    last = Some(e);
                }
                Err(e) => return Err(failed("publish", &path.data)(e)),
            }
        }
        let source = last.unwrap_or_else(|| io::Error::from(io::ErrorKind::NotFound));
        Err(failed("publish", &path.data)(source))
    }

    fn make_folder(&self, path: &BlobPath) -> io::Result<()> {
        match self.disk.create_dir(&path.folder) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.create_dirs(&path.shard)?;
                match self.disk.create_dir(&path.folder) {
                    Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
                    _ => Ok(()),
                }
            }
            Err(e) => Err(e),
        }
    }

    /// A second name, so that the publication can be repeated; the only name where there are no links.
    fn link_or_rename(&self, from: &Path, between: &Path, to: &Path) -> io::Result<()> {
        if !self.links.load(Ordering::Relaxed) {
            return self.disk.rename(from, to);
        }
        match self.disk.link(from, to) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => self.replace(from, between, to),
            Err(e) if no_links(&e) => {
                self.disk.rename(from, to)?;
                self.links.store(false, Ordering::Relaxed);
                Ok(())
            }
            Err(e) => Err(e),
        }
    }

    /// Puts the file in the place of what has the name. Renaming a name of a file onto another of the same file
    /// does nothing, so that case is told apart first.
    fn replace(&self, from: &Path, between: &Path, to: &Path) -> io::Result<()> {
        let ours = self.disk.info(from)?.identity;
        match self.disk.info(to) {
            Ok(theirs) if theirs.identity == ours => return Ok(()),
            Ok(_) => {}
            Err(e) => return Err(e),
        }
        unless_missing(self.disk.remove_file(between))?;
        self.disk.link(from, between)?;
        self.disk.rename(between, to)
    }

    /// Syncs each directory that may have got a new entry; `false` when one of them is gone.
    fn make_durable(&self, path: &BlobPath, digest: &Digest) -> Result<bool, BlobError> {
        for dir in [&path.folder, &path.shard] {
            if !unless_missing(self.disk.sync_dir(dir)).map_err(failed("sync", dir))? {
                return Ok(false);
            }
        }
        if !self.shard_is_durable(digest, false) {
            self.disk.sync_dir(&path.algorithm).map_err(failed("sync", &path.algorithm))?;
            let blobs = Path::new(super::layout::BLOBS);
            self.disk.sync_dir(blobs).map_err(failed("sync", blobs))?;
            self.shard_is_durable(digest, true);
        }
        Ok(true)
    }
}
