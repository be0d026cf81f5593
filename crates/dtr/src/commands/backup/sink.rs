//! Where an archive goes: standard output, or a file that gets its name only when it is whole. Encrypted on the way if
//! that was asked for, so that no clear copy exists anywhere.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, IsTerminal as _, Write},
    os::{
        fd::AsFd as _,
        unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use dtr_archive::{Encryption, Sealed};

use crate::failure::{Failure, Result};

/// An output that is open.
pub struct Sink {
    out: Option<Sealed<Out>>,
    /// Present until it has its name.
    part: Option<Part>,
}

struct Out(File);

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

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

impl Sink {
    /// Opens the output: the file, or standard output where there is none. Nothing is written but the encryption's head.
    pub fn open(file: Option<&Path>, encryption: &Encryption) -> Result<Self> {
        // As elsewhere, and as `verify` reads it: standard output.
        let (out, part) = match file.filter(|file| *file != Path::new("-")) {
            None => (standard_output()?, None),
            Some(file) => {
                let (out, part) = part_of(file)?;
                (out, Some(part))
            }
        };
        let out = Sealed::new(Out(out), encryption).context("cannot begin the encryption")?;
        Ok(Self { out: Some(out), part })
    }

    /// Writes; blocks.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.out {
            Some(out) => out.write_all(bytes),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Ends the encryption, and brings the file to the disk under its name.
    pub fn finish(mut self) -> Result<()> {
        let Some(out) = self.out.take() else { anyhow::bail!("the output is closed") };
        let mut out = out.finish()?;
        out.flush().context("cannot write the end of the archive")?;
        let Some(part) = self.part.take() else { return Ok(()) };
        let cannot = || format!("cannot bring {} to the disk", part.file.display());
        out.0.sync_all().with_context(cannot)?;
        std::fs::rename(&part.part, &part.file).with_context(cannot)?;
        let folder = match part.file.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        File::open(folder).and_then(|folder| folder.sync_all()).with_context(cannot)
        // Dropping the part now removes nothing: its name is gone.
    }
}

fn standard_output() -> Result<File> {
    let out = io::stdout();
    if out.is_terminal() {
        return Err(Failure::usage(
            "the archive is not written to a terminal: redirect standard output (> backup.tar), or give --output FILE. \
             In a container, run without -t",
        ));
    }
    let fd = out.as_fd().try_clone_to_owned().context("cannot write to standard output")?;
    Ok(File::from(fd))
}

/// The part file beside the file: locked against a second backup to the same place, emptied, for its owner alone.
fn part_of(file: &Path) -> Result<(File, Part)> {
    if let Ok(meta) = std::fs::metadata(file)
        && !meta.is_file()
    {
        return Err(Failure::usage(format!(
            "{} is not a plain file; redirect standard output to write into it",
            file.display()
        )));
    }
    let mut part = file.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let cannot = || format!("cannot write {}", part.display());
    let out = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&part)
        .with_context(cannot)?;
    match out.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            anyhow::bail!("another backup is writing {} right now", part.display())
        }
        Err(TryLockError::Error(error)) => return Err(error).with_context(cannot),
    }
    out.set_permissions(std::fs::Permissions::from_mode(0o600)).with_context(cannot)?;
    out.set_len(0).with_context(cannot)?;
    Ok((out, Part { part, file: file.to_owned() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_its_name_only_when_it_is_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("b.tar");
        let part = folder.path().join("b.tar.part");
        let mut sink = Sink::open(Some(&file), &Encryption::None).expect("opened");
        sink.write(b"half").expect("written");
        assert!(part.exists() && !file.exists());
        assert!(Sink::open(Some(&file), &Encryption::None).is_err(), "two at once");
        drop(sink);
        assert!(!part.exists() && !file.exists());

        std::fs::write(&part, "left by a crash, and longer").expect("written");
        let mut sink = Sink::open(Some(&file), &Encryption::None).expect("opened");
        sink.write(b"whole").expect("written");
        sink.finish().expect("finished");
        assert_eq!(std::fs::read(&file).expect("read"), b"whole");
        let mode = std::fs::metadata(&file).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!part.exists());
    }

    #[test]
    fn a_folder_is_no_file() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(Sink::open(Some(folder.path()), &Encryption::None).is_err());
    }
}
