//! Where an archive goes, encrypted on the way if that was asked for, so that no clear copy exists anywhere.

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::Path,
};

use anyhow::Context as _;
use dtr_archive::{Encryption, Sealed};
use dtr_service::{Output, OutputError};

use crate::{
    failure::{Failure, Result},
    terminal,
};

/// An output that is open.
pub struct Sink {
    out: Option<Sealed<Output>>,
}

impl Sink {
    /// Opens the output: the file, or standard output where there is none. Nothing is written but the encryption's head.
    pub fn open(file: Option<&Path>, encryption: &Encryption) -> Result<Self> {
        // As elsewhere, and as `verify` reads it: standard output.
        let out = match file.filter(|file| *file != Path::new("-")) {
            None if io::stdout().is_terminal() => {
                return Err(Failure::usage(
                    "the archive is not written to a terminal: give --output FILE, or redirect standard output \
                     (> backup.tar). In a container, run without -t",
                ));
            }
            None => Output::standard(),
            Some(file) => Output::file(file),
        };
        let out = out.map_err(|error| match error {
            OutputError::NotPlain(_) => Failure::usage(error.to_string()),
            error => error.into(),
        })?;
        if out.is_readable_by_others() && !encryption.is_on() {
            terminal::say(
                "warning: standard output is a file that others may read; the archive holds private keys. Give --output FILE",
            );
        }
        let out = Sealed::new(out, encryption).context("cannot begin the encryption")?;
        Ok(Self { out: Some(out) })
    }

    /// Writes; blocks.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.out {
            Some(out) => out.write_all(bytes),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Ends the encryption, and brings the archive to the disk, a file under its name.
    pub fn finish(mut self) -> Result<()> {
        let Some(out) = self.out.take() else { anyhow::bail!("the output is closed") };
        let mut out = out.finish()?;
        out.flush().context("cannot write the end of the archive")?;
        Ok(out.finish()?)
    }
}
