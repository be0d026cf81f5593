//! What redb's errors mean to a caller.

use std::io::ErrorKind;

use dtr_store::StoreError;

use crate::record::Damaged;

/// An error inside the engine.
#[derive(Debug)]
pub(crate) enum Fault {
    /// redb's.
    Redb(redb::Error),
    /// Ours: what was read is not what was written.
    Damaged(&'static str),
}

impl<E: Into<redb::Error>> From<E> for Fault {
    fn from(error: E) -> Self {
        Self::Redb(error.into())
    }
}

impl From<Damaged> for Fault {
    fn from(Damaged(what): Damaged) -> Self {
        Self::Damaged(what)
    }
}

impl Fault {
    /// Whether redb answers nothing any more until it is opened again, as after any I/O error.
    pub(crate) fn is_stopped(&self) -> bool {
        use redb::Error::{Backend, DatabaseClosed, Io, PreviousIo};
        matches!(self, Self::Redb(PreviousIo | DatabaseClosed | Io(_) | Backend(_)))
    }
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        let error = match fault {
            Fault::Damaged(what) => return Self::Corrupt(what.to_owned()),
            Fault::Redb(error) => error,
        };
        let reason = error.to_string();
        match error {
            redb::Error::Io(io) => match io.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                    Self::Full { reason }
                }
                ErrorKind::InvalidData => Self::Corrupt(reason),
                _ => Self::Unavailable { reason },
            },
            redb::Error::DatabaseAlreadyOpen => {
                Self::Unavailable { reason: "another process has the store open".to_owned() }
            }
            redb::Error::PreviousIo
            | redb::Error::DatabaseClosed
            | redb::Error::Backend(_)
            | redb::Error::Unsupported
            | redb::Error::RepairAborted => Self::Unavailable { reason },
            _ => Self::Corrupt(reason),
        }
    }
}
