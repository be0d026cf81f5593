//! How a command ends badly: one line for people, one exit code for programs.

use std::{error::Error, fmt, io};

/// The result of every command.
pub type Result<T, E = anyhow::Error> = std::result::Result<T, E>;

/// The exit code when whoever read our output went away: what a shell shows for a program that SIGPIPE ended.
const READER_GONE: u8 = 141;

/// A failure with an exit code of its own.
#[derive(Debug)]
pub struct Failure {
    message: String,
    exit: u8,
}

impl Failure {
    /// A failure that ends with this code.
    pub fn ending(exit: dtr_recovery::Exit, message: impl Into<String>) -> anyhow::Error {
        anyhow::Error::new(Self { message: message.into(), exit: exit.code() })
    }

    /// The command line asks for something that cannot be.
    pub fn usage(message: impl Into<String>) -> anyhow::Error {
        Self::ending(dtr_recovery::Exit::Usage, message)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Failure {}

/// A command has printed what is wrong already; only its exit code is left to say.
#[derive(Debug)]
pub struct Said(pub dtr_recovery::Exit);

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.meaning())
    }
}

impl Error for Said {}

/// Whoever read our output is gone. Nothing is said about it.
#[derive(Debug)]
pub struct ReaderGone;

impl fmt::Display for ReaderGone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the reader of standard output is gone")
    }
}

impl Error for ReaderGone {}

/// What went wrong while writing to standard output.
pub fn output(error: io::Error) -> anyhow::Error {
    if error.kind() == io::ErrorKind::BrokenPipe {
        anyhow::Error::new(ReaderGone)
    } else {
        anyhow::Error::new(error).context("cannot write to standard output")
    }
}

/// The exit code of an error.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    for cause in error.chain() {
        if let Some(failure) = cause.downcast_ref::<Failure>() {
            return failure.exit;
        }
        if let Some(Said(exit)) = cause.downcast_ref::<Said>() {
            return exit.code();
        }
        if cause.is::<ReaderGone>() {
            return READER_GONE;
        }
        if let Some(error) = cause.downcast_ref::<dtr_recovery::RecoveryError>() {
            return error.exit().code();
        }
        if let Some(error) = cause.downcast_ref::<dtr_replica::RestoreError>() {
            return error.exit().code();
        }
        if let Some(dtr_replica::InstallError::ExternalUrl(_)) = cause.downcast_ref() {
            return dtr_recovery::Exit::Usage.code();
        }
        if let Some(dtr_replica::OfflineError::Recovery(error)) = cause.downcast_ref() {
            return error.exit().code();
        }
    }
    dtr_recovery::Exit::Failed.code()
}

/// The error as one readable line, or nothing when there is nothing to say. A cause that the text before it already ends
/// with is not said twice.
pub fn message(error: &anyhow::Error) -> Option<String> {
    if error.chain().any(|cause| cause.is::<ReaderGone>() || cause.is::<Said>()) {
        return None;
    }
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        let cause = cause.trim_end();
        if text.is_empty() {
            text.push_str(cause);
        } else if !text.contains(cause) {
            text.push_str(": ");
            text.push_str(cause);
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn a_cause_is_said_once() {
        let inner = io::Error::other("no space");
        let error = anyhow::Error::new(inner).context("cannot write a.tar: no space");
        assert_eq!(message(&error).expect("said"), "cannot write a.tar: no space");
        let error = Err::<(), _>(io::Error::other("gone")).context("cannot read a");
        assert_eq!(message(&error.expect_err("is one")).expect("said"), "cannot read a: gone");
    }

    #[test]
    fn exit_codes_come_through_contexts() {
        let error = Failure::usage("no").context("cannot do it");
        assert_eq!(exit_code(&error), 2);
        assert_eq!(exit_code(&anyhow::anyhow!("other")), 1);
        let gone = output(io::ErrorKind::BrokenPipe.into());
        assert_eq!(exit_code(&gone), READER_GONE);
        assert!(message(&gone).is_none());
    }
}
