//! The operating system's files. Files are made with mode 0600, directories with 0700. A symbolic link is never followed
//! where a file is expected: it counts as no file, as whoever can make one would otherwise choose what is served.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, IoSlice},
    num::NonZeroU64,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

use dtr_types::Timestamp;
use rustix::{
    fs::{Advice, OFlags},
    io::Errno,
};

use super::{Disk, DiskFile, FileInfo, Open, Space};

/// A directory of the machine.
#[derive(Debug)]
pub struct RealDisk {
    root: PathBuf,
}

impl RealDisk {
    /// The tree below `root`, which is made when it does not exist.
    pub fn open(root: impl Into<PathBuf>) -> io::Result<Self> {
        let root = root.into();
        DirBuilder::new().recursive(true).mode(0o700).create(&root)?;
        Ok(Self { root })
    }

    /// The same without making anything.
    pub fn unprepared(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }
}

fn file_info(meta: &fs::Metadata) -> FileInfo {
    FileInfo {
        size: meta.len(),
        modified: Timestamp::from_millis(
            meta.mtime().saturating_mul(1000).saturating_add(meta.mtime_nsec() / 1_000_000),
        ),
        identity: (meta.dev(), meta.ino()),
        is_file: meta.is_file(),
    }
}

impl Disk for RealDisk {
    fn name(&self) -> String {
        self.root.display().to_string()
    }

    fn open(&self, path: &Path, how: Open) -> io::Result<Box<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
        match how {
            Open::Read => options.read(true),
            Open::Write => options.write(true),
            Open::Create => options.write(true).create_new(true).mode(0o600),
        };
        let file =
            options.open(self.root.join(path)).map_err(|e| match Errno::from_io_error(&e) {
                Some(Errno::LOOP) => io::ErrorKind::NotFound.into(),
                _ => e,
            })?;
        Ok(Box::new(RealFile(file)))
    }

    fn info(&self, path: &Path) -> io::Result<FileInfo> {
        Ok(file_info(&fs::symlink_metadata(self.root.join(path))?))
    }

    fn names(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.root.join(path))? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        DirBuilder::new().mode(0o700).create(self.root.join(path))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(self.root.join(from), self.root.join(to))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(self.root.join(from), self.root.join(to))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(self.root.join(path))
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(self.root.join(path))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(self.root.join(path))?.sync_all()
    }

    fn space(&self) -> io::Result<Space> {
        let stat = rustix::fs::statvfs(&self.root)?;
        Ok(Space {
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
        })
    }
}

#[derive(Debug)]
struct RealFile(File);

impl DiskFile for RealFile {
    fn info(&self) -> io::Result<FileInfo> {
        Ok(file_info(&self.0.metadata()?))
    }

    fn read_at(&self, into: &mut Vec<u8>, at: u64) -> io::Result<usize> {
        Ok(rustix::io::pread(&self.0, rustix::buffer::spare_capacity(into), at)?)
    }

    fn write_at(&self, parts: &[IoSlice<'_>], at: u64) -> io::Result<usize> {
        Ok(rustix::io::pwritev(&self.0, parts, at)?)
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.0.set_len(size)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn touch(&self, at: Timestamp) -> io::Result<()> {
        let since = Duration::from_millis(u64::try_from(at.millis()).unwrap_or_default());
        self.0.set_modified(UNIX_EPOCH + since)
    }

    fn write_out(&self, at: u64, length: u64) {
        // On Linux this begins to write the range back without waiting, as sync_file_range would.
        // A hint: a file system that cannot take it loses nothing.
        let _ = rustix::fs::fadvise(&self.0, at, NonZeroU64::new(length), Advice::DontNeed);
    }
}
