//! The file operations that the file storage is made of, as a small trait: so that tests can count them, make each of
//! them fail, and lose what was not synced. Paths are relative to the storage's root.

use std::{
    io::{self, IoSlice},
    path::Path,
};

use dtr_types::Timestamp;

mod real;

pub use real::RealDisk;

/// How to open a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// An existing file for reading.
    Read,
    /// An existing file for writing.
    Write,
    /// A file that must not exist yet, for writing.
    Create,
}

/// What is known of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileInfo {
    /// Size in bytes.
    pub size: u64,
    /// Time of modification.
    pub modified: Timestamp,
    /// Device and inode: equal for two names of one file.
    pub identity: (u64, u64),
    /// Whether it is a regular file.
    pub is_file: bool,
}

/// Room on the disk in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Free for use by this process.
    pub free: u64,
    /// Altogether.
    pub total: u64,
}

/// A tree of files and directories.
pub trait Disk: Send + Sync + 'static {
    /// The root as a person knows it, for messages.
    fn name(&self) -> String;
    /// Opens a file.
    fn open(&self, path: &Path, how: Open) -> io::Result<Box<dyn DiskFile>>;
    /// What is known of a file or directory.
    fn info(&self, path: &Path) -> io::Result<FileInfo>;
    /// The names in a directory, in no order; names that are not UTF-8 are left out.
    fn names(&self, path: &Path) -> io::Result<Vec<String>>;
    /// Makes a directory; its parent must exist and it must not.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// A second name for a file; the name must be free.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Another name for a file; replaces what has that name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a name of a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes the entries of a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// How much room there is.
    fn space(&self) -> io::Result<Space>;
}

/// An open file.
pub trait DiskFile: Send + Sync {
    /// What is known of it.
    fn info(&self) -> io::Result<FileInfo>;
    /// Reads at `at` into the spare capacity of `into`, which must have some; returns the number of bytes, zero only at the end.
    fn read_at(&self, into: &mut Vec<u8>, at: u64) -> io::Result<usize>;
    /// Writes some of `parts` at `at`; returns how many bytes.
    fn write_at(&self, parts: &[IoSlice<'_>], at: u64) -> io::Result<usize>;
    /// Cuts or extends it.
    fn set_size(&self, size: u64) -> io::Result<()>;
    /// Makes content and size durable.
    fn sync(&self) -> io::Result<()>;
    /// Sets the time of modification.
    fn touch(&self, at: Timestamp) -> io::Result<()>;
    /// Asks the system to begin writing a part to the device, so that a later sync is short. May do nothing.
    fn write_out(&self, at: u64, length: u64);
}
