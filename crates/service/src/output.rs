//! Where an archive goes: standard output, or a file that gets its name only when it is whole. An archive holds private
//! keys, so the file is for its owner alone from its first byte; and what is said to be done is on the disk.

use std::{
    fs::{File, Permissions, TryLockError},
    io::{self, Write},
    os::{
        fd::AsFd as _,
        unix::fs::{MetadataExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags};

/// Read and write for its owner, nothing for others.
const PRIVATE: u32 = 0o600;

/// Why an output cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// What has the name is no file that could be replaced.
    #[error("{0} is not a plain file; redirect standard output to write into it")]
    NotPlain(PathBuf),
    /// Another program writes to the same place.
    #[error("another backup is writing {0} right now")]
    Busy(PathBuf),
    /// Somebody put something in the way that would get the archive, or let others read it.
    #[error(
        "{0} is in the way: it is a link, or another user's; nothing is written into it. Remove it, or choose a folder that \
         only you can write to"
    )]
    InTheWay(PathBuf),
    /// The system said no.
    #[error("cannot write {path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// Standard output cannot be used.
    #[error("cannot write to standard output: {0}")]
    Standard(io::Error),
}

/// An output that is open. Dropped before it is finished, a file that was asked for is not there.
#[derive(Debug)]
pub struct Output {
    file: File,
    /// Present until it has its name.
    part: Option<Part>,
    /// Whether standard output is a file that others may read, and was left so.
    readable: bool,
}

#[derive(Debug)]
struct Part {
    part: PathBuf,
    file: PathBuf,
}

impl Drop for Part {
    fn drop(&mut self) {
        // It holds half an archive, perhaps with private keys; if it cannot be removed, the next backup replaces it.
        let _ = std::fs::remove_file(&self.part);
    }
}

impl Output {
    /// Standard output. Where that is a plain file and still empty, it is made its owner's alone.
    ///
    /// # Errors
    /// [`OutputError::Standard`].
    pub fn standard() -> Result<Self, OutputError> {
        let fd = io::stdout().as_fd().try_clone_to_owned().map_err(OutputError::Standard)?;
        Self::descriptor(File::from(fd)).map_err(OutputError::Standard)
    }

    fn descriptor(file: File) -> io::Result<Self> {
        let known = file.metadata()?;
        let mut readable = false;
        if known.is_file() && known.mode() & 0o077 != 0 {
            // What has content already is somebody's own file, with rights that were chosen; another user's is not ours to
            // change. Both are told.
            readable =
                known.len() > 0 || file.set_permissions(Permissions::from_mode(PRIVATE)).is_err();
        }
        Ok(Self { file, part: None, readable })
    }

    /// A file: written as `FILE.part` beside it, which is locked against a second backup to the same place.
    ///
    /// # Errors
    /// [`OutputError`].
    pub fn file(file: &Path) -> Result<Self, OutputError> {
        if std::fs::metadata(file).is_ok_and(|known| !known.is_file()) {
            return Err(OutputError::NotPlain(file.to_owned()));
        }
        let mut part = file.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let failed = |source: io::Error| OutputError::File { path: part.clone(), source };
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = rustix::fs::open(&part, flags, Mode::from_raw_mode(PRIVATE));
        let out = match opened {
            Ok(fd) => File::from(fd),
            // A link, or a pipe that nobody reads.
            Err(rustix::io::Errno::LOOP | rustix::io::Errno::NXIO) => {
                return Err(OutputError::InTheWay(part));
            }
            Err(error) => return Err(failed(error.into())),
        };
        let known = out.metadata().map_err(failed)?;
        let ours = known.uid() == rustix::process::geteuid().as_raw() && known.nlink() == 1;
        if !known.is_file() || !ours {
            return Err(OutputError::InTheWay(part));
        }
        match out.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OutputError::Busy(part)),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        out.set_permissions(Permissions::from_mode(PRIVATE)).map_err(failed)?;
        out.set_len(0).map_err(failed)?;
        let part = Some(Part { part, file: file.to_owned() });
        Ok(Self { file: out, part, readable: false })
    }

    /// Whether others may read what is written: standard output is a file that had content, or another user's.
    pub fn is_readable_by_others(&self) -> bool {
        self.readable
    }

    /// Brings what was written to the disk, and the file under its name.
    ///
    /// # Errors
    /// [`OutputError`]: the archive is not there then.
    pub fn finish(mut self) -> Result<(), OutputError> {
        let Some(part) = self.part.take() else {
            let plain = self.file.metadata().map_err(OutputError::Standard)?.is_file();
            // A pipe has no disk; what comes of it is its reader's affair.
            return if plain {
                self.file.sync_all().map_err(OutputError::Standard)
            } else {
                Ok(())
            };
        };
        let failed = |source: io::Error| OutputError::File { path: part.file.clone(), source };
        self.file.sync_all().map_err(failed)?;
        std::fs::rename(&part.part, &part.file).map_err(failed)?;
        let folder = match part.file.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
        // Dropping the part now removes nothing: its name is gone.
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "what fails here fails the test")]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn a_file_has_its_name_only_when_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let (file, part) = (folder.path().join("b.tar"), folder.path().join("b.tar.part"));
        let mut out = Output::file(&file).unwrap();
        out.write_all(b"half").unwrap();
        assert!(part.exists() && !file.exists());
        assert!(matches!(Output::file(&file), Err(OutputError::Busy(_))), "two at once");
        drop(out);
        assert!(!part.exists() && !file.exists());

        std::fs::write(&part, "left by a crash, and longer").unwrap();
        let mut out = Output::file(&file).unwrap();
        out.write_all(b"whole").unwrap();
        out.finish().unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"whole");
        assert_eq!(mode(&file), 0o600);
        assert!(!part.exists());
    }

    #[test]
    fn what_waits_in_its_place_does_not_get_the_archive() {
        let folder = tempfile::tempdir().unwrap();
        let (file, part) = (folder.path().join("b.tar"), folder.path().join("b.tar.part"));
        let elsewhere = folder.path().join("elsewhere");
        std::fs::write(&elsewhere, "mine").unwrap();
        std::os::unix::fs::symlink(&elsewhere, &part).unwrap();
        assert!(matches!(Output::file(&file), Err(OutputError::InTheWay(_))));
        std::fs::remove_file(&part).unwrap();
        std::os::unix::fs::symlink(folder.path().join("not there"), &part).unwrap();
        assert!(matches!(Output::file(&file), Err(OutputError::InTheWay(_))));
        std::fs::remove_file(&part).unwrap();
        std::fs::hard_link(&elsewhere, &part).unwrap();
        assert!(matches!(Output::file(&file), Err(OutputError::InTheWay(_))));
        assert_eq!(std::fs::read(&elsewhere).unwrap(), b"mine");
        assert!(matches!(Output::file(folder.path()), Err(OutputError::NotPlain(_))));
    }

    #[test]
    fn a_redirected_file_is_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("b.tar");
        let file = File::create(&path).unwrap();
        file.set_permissions(Permissions::from_mode(0o644)).unwrap();
        let mut out = Output::descriptor(file).unwrap();
        assert!(!out.is_readable_by_others());
        assert_eq!(mode(&path), 0o600, "before the first byte");
        out.write_all(b"archive").unwrap();
        out.finish().unwrap();
        // Appended to what is there already: left alone, and told.
        let file = File::options().append(true).open(&path).unwrap();
        file.set_permissions(Permissions::from_mode(0o644)).unwrap();
        assert!(Output::descriptor(file).unwrap().is_readable_by_others());
        assert_eq!(mode(&path), 0o644);
    }
}
