//! The files of an upload, and who may write which: so that neither a stale request, nor one of another replica, nor one
//! that stood still for an hour, can change bytes that a record speaks of.
//!
//! 1. An append writes into a file that has a random name, which it alone knows. Nobody else writes there.
//! 2. When it has synced it, it renames it to one that says the number of its bytes and what they hash to, and writes no
//!    more. So a file with such a name has those bytes, and stays as it is.
//! 3. The next append takes the file with the number and hash of its record by renaming it again: of several that try it,
//!    one succeeds. Only that one adds to it. Nothing is ever cut or written over.
//! 4. Where there is no such file (another append took it and has not ended, or has died; a power loss undid a rename),
//!    the recorded bytes are copied from any file of the upload, and must hash to what the record says.
//! 5. The end renames in the same way, to a name that nobody takes. What is published has that name, so it hashes to the
//!    digest that it is published as.
//!
//! Whether an append counts is decided by the commit of its record. An upload that one writer began and ended is one file,
//! which only changed its name; whoever makes another one says so in a file of its own, so that the end removes them all.
//! What is left behind nevertheless, by a late request or a dead replica, the purge finds.

use std::{
    collections::HashSet,
    io::{self, IoSlice},
    path::{Path, PathBuf},
};

use dtr_types::{Algorithm, Digest, Hasher, UploadId};
use parking_lot::Mutex;

use super::{
    Inner, failed,
    layout::{UPLOADS, UploadPath, parse_upload},
    unless_missing,
};
use crate::{
    Appended, BlobError, Staged,
    disk::{DiskFile, Open},
};

/// Bytes that are copied at once.
const BLOCK: usize = 512 * 1024;
/// How often another random name is tried.
const NAMES: usize = 4;

/// The uploads that this process is writing to. It saves a client that sends twice from doing so in vain; nothing depends
/// on it.
#[derive(Default)]
pub(super) struct Busy(Mutex<HashSet<UploadId>>);

/// An upload is being written as long as this lives.
pub(super) struct Turn<'a> {
    busy: &'a Busy,
    id: UploadId,
}

impl Busy {
    pub(super) fn take(&self, id: &UploadId) -> Result<Turn<'_>, BlobError> {
        if self.0.lock().insert(id.clone()) {
            Ok(Turn { busy: self, id: id.clone() })
        } else {
            Err(BlobError::UploadBusy(id.clone()))
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.busy.0.lock().remove(&self.id);
    }
}

/// A file and its name.
type Own = (Box<dyn DiskFile>, PathBuf);

impl Inner {
    pub(super) fn random_name(&self) -> String {
        self.options.random.hex(16)
    }

    pub(super) fn upload_create(&self, id: &UploadId) -> Result<(), BlobError> {
        let path = UploadPath::new(id).begun;
        self.disk.open(&path, Open::Create).map(drop).map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => BlobError::UploadExists(id.clone()),
            _ => failed("create", &path)(e),
        })
    }

    /// A file for the caller alone, with the first `at` bytes of an upload, which `hasher` has seen.
    pub(super) fn take(&self, id: &UploadId, at: u64, hasher: &Hasher) -> Result<Own, BlobError> {
        let names = UploadPath::new(id);
        let hash = hasher.clone().finish();
        let left = if at == 0 { names.begun.clone() } else { names.at(at, &hash) };
        let own = names.open(&self.random_name());
        if unless_missing(self.disk.rename(&left, &own)).map_err(failed("take", &left))? {
            let file = self.disk.open(&own, Open::Write).map_err(missing(id, "open", &own))?;
            // After a power loss a name may be an earlier one of the file.
            if file.info().map_err(failed("look at", &own))?.size == at {
                return Ok((file, own));
            }
        }
        let files = self.files_of(id)?;
        if files.is_empty() {
            return Err(BlobError::UploadNotFound(id.clone()));
        }
        match self.disk.open(&names.more, Open::Create) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed("create", &names.more)(e));
            }
            _ => {}
        }
        if at == 0 {
            return self.create_own(id, &names);
        }
        self.copy_recorded(id, &names, &files, at, &hash)
    }

    fn create_own(&self, id: &UploadId, names: &UploadPath) -> Result<Own, BlobError> {
        let mut tried = 0;
        loop {
            let own = names.open(&self.random_name());
            tried += 1;
            match self.disk.open(&own, Open::Create) {
                Ok(file) => return Ok((file, own)),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && tried < NAMES => {}
                Err(e) => return Err(missing(id, "create", &own)(e)),
            }
        }
    }

    /// Copies the first `at` bytes from whichever file has them.
    fn copy_recorded(
        &self,
        id: &UploadId,
        names: &UploadPath,
        files: &[PathBuf],
        at: u64,
        hash: &Digest,
    ) -> Result<Own, BlobError> {
        let mut present = 0;
        for path in files {
            let from = match self.disk.open(path, Open::Read) {
                Ok(from) => from,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(failed("open", path)(e)),
            };
            let size = from.info().map_err(failed("look at", path))?.size;
            present = present.max(size);
            if size < at {
                continue;
            }
            self.room.take(&*self.disk, at, path)?;
            let (file, own) = self.create_own(id, names)?;
            let copied = copy(&*from, &*file, at, hash.algorithm());
            if matches!(&copied, Ok(copied) if copied == hash) {
                // Unlike a new name of the file that had these bytes, this one is not known after a power loss.
                let dir = Path::new(UPLOADS);
                self.disk.sync_dir(dir).map_err(failed("sync", dir))?;
                return Ok((file, own));
            }
            unless_missing(self.disk.remove_file(&own)).map_err(failed("remove", &own))?;
            copied.map_err(failed("copy", path))?;
        }
        if present == 0 || present >= at {
            return Err(BlobError::UploadNotFound(id.clone()));
        }
        Err(BlobError::Offset { upload: id.clone(), expected: at, present })
    }

    /// All files of an upload; those that rest before those that are being written. It reads the names of all uploads.
    fn files_of(&self, id: &UploadId) -> Result<Vec<PathBuf>, BlobError> {
        let dir = Path::new(UPLOADS);
        let mut names = self.disk.names(dir).map_err(failed("list", dir))?;
        names.retain(|name| parse_upload(name).is_some_and(|(of, _)| of == *id));
        names.sort_unstable();
        Ok(names.iter().map(|name| dir.join(name)).collect())
    }

    /// Gives a synced file the name that says what it is.
    pub(super) fn leave(
        &self,
        id: &UploadId,
        own: &Path,
        what: &Appended,
    ) -> Result<(), BlobError> {
        let left = UploadPath::new(id).at(what.size, &what.hasher.clone().finish());
        self.disk.rename(own, &left).map_err(missing(id, "leave", own))
    }

    pub(super) fn upload_finish(
        &self,
        id: UploadId,
        whole: &Appended,
    ) -> Result<Staged, BlobError> {
        let (names, size, hash) = (UploadPath::new(&id), whole.size, whole.hasher.clone().finish());
        let (left, staged) = (names.at(size, &hash), names.staged(size, &hash));
        unless_missing(self.disk.rename(&left, &staged)).map_err(failed("stage", &left))?;
        match self.disk.info(&staged) {
            Ok(info) if info.size == size => return Ok(Staged { id, size, hash }),
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(failed("look at", &staged)(e));
            }
            _ => {}
        }
        let (file, own) = self.take(&id, size, &whole.hasher)?;
        file.sync().map_err(failed("sync", &own))?;
        self.disk.rename(&own, &staged).map_err(missing(&id, "stage", &own))?;
        Ok(Staged { id, size, hash })
    }

    /// Whoever goes on with a finished upload copies what is staged: it may be a blob already. So nothing has to be done.
    pub(super) fn upload_reopen(&self, id: &UploadId, at: u64) -> Result<(), BlobError> {
        let mut present = None;
        for path in self.files_of(id)? {
            match self.disk.info(&path) {
                Ok(info) => present = present.max(Some(info.size)),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(failed("look at", &path)(e)),
            }
        }
        match present {
            Some(present) if present >= at => Ok(()),
            Some(present) if present > 0 => {
                Err(BlobError::Offset { upload: id.clone(), expected: at, present })
            }
            _ => Err(BlobError::UploadNotFound(id.clone())),
        }
    }

    pub(super) fn staged_digest(
        &self,
        staged: &Staged,
        algorithm: Algorithm,
    ) -> Result<Digest, BlobError> {
        let path = UploadPath::new(&staged.id).staged(staged.size, &staged.hash);
        let file = self.disk.open(&path, Open::Read).map_err(missing(&staged.id, "open", &path))?;
        let mut hasher = Hasher::new(algorithm);
        let hashed = each_block(&*file, staged.size, |block, _| {
            hasher.update(block);
            Ok(())
        });
        hashed.map_err(failed("read", &path))?;
        Ok(hasher.finish())
    }

    pub(super) fn upload_abort(&self, id: &UploadId) -> Result<(), BlobError> {
        self.files_of(id)?.iter().try_for_each(|path| self.remove(path).map(drop))
    }

    /// What is left of an upload is mostly one file, of which the name is known.
    pub(super) fn upload_end(&self, staged: &Staged) -> Result<(), BlobError> {
        let names = UploadPath::new(&staged.id);
        self.remove(&names.staged(staged.size, &staged.hash))?;
        if self.remove(&names.more)? { self.upload_abort(&staged.id) } else { Ok(()) }
    }

    fn remove(&self, path: &Path) -> Result<bool, BlobError> {
        unless_missing(self.disk.remove_file(path)).map_err(failed("remove", path))
    }
}

/// What it means that a file of an upload is not there.
fn missing<'a>(
    id: &'a UploadId,
    verb: &'a str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> BlobError + 'a {
    move |e| match e.kind() {
        io::ErrorKind::NotFound => BlobError::UploadNotFound(id.clone()),
        _ => failed(verb, path)(e),
    }
}

/// Passes the first `length` bytes in blocks, each with its place.
fn each_block(
    file: &dyn DiskFile,
    length: u64,
    mut take: impl FnMut(&[u8], u64) -> io::Result<()>,
) -> io::Result<()> {
    let (mut at, mut block) = (0, Vec::with_capacity(BLOCK));
    while at < length {
        block.clear();
        match file.read_at(&mut block, at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        }
        block.truncate(usize::try_from(length - at).unwrap_or(usize::MAX));
        take(&block, at)?;
        at += block.len() as u64;
    }
    Ok(())
}

/// Copies the first `length` bytes and makes them durable; yields what they hash to.
fn copy(
    from: &dyn DiskFile,
    to: &dyn DiskFile,
    length: u64,
    algorithm: Algorithm,
) -> io::Result<Digest> {
    let mut hasher = Hasher::new(algorithm);
    each_block(from, length, |block, mut at| {
        hasher.update(block);
        let mut rest = block;
        while !rest.is_empty() {
            match to.write_at(&[IoSlice::new(rest)], at) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    at += n as u64;
                    rest = &rest[n..];
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    })?;
    to.sync()?;
    Ok(hasher.finish())
}
