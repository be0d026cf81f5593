//! The exit codes of every command of both programs, defined once. They are here because most of them speak of archives, and the
//! tests of archives need them.

use dtr_archive::ArchiveError;

/// How a command ends. `docs/backup.md` shows the same table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Exit {
    /// Done, and nothing is missing.
    Done = 0,
    /// Something failed that is no fault of an archive: the network, a disk, a service; or `status` found something that is
    /// not as it should be. The same command may work later.
    Failed = 1,
    /// The command line is wrong; nothing was tried.
    Usage = 2,
    /// The archive is damaged, incomplete, altered, or no archive of this product.
    Damaged = 3,
    /// The archive is good, and what was asked was refused before anything was changed: the target is not empty, the
    /// format is newer, owners are unknown, the storage has none of the blobs, the signer is another.
    Refused = 4,
    /// Done, but image content is missing: the report lists it.
    Incomplete = 5,
    /// The archive is encrypted and was not opened: no key or passphrase, or the wrong one.
    Locked = 6,
}

impl Exit {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Done,
        Self::Failed,
        Self::Usage,
        Self::Damaged,
        Self::Refused,
        Self::Incomplete,
        Self::Locked,
    ];

    /// The number that the process ends with.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// What it means, in one line.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Done => "done, nothing missing",
            Self::Failed => "failed for a reason outside the archive; may work later",
            Self::Usage => "wrong command line",
            Self::Damaged => "the archive is damaged, cut short, altered, or not one of ours",
            Self::Refused => "refused; nothing was changed",
            Self::Incomplete => "done, but image content is missing",
            Self::Locked => "encrypted, and not opened: key or passphrase missing or wrong",
        }
    }

    pub(crate) fn of(error: &ArchiveError) -> Self {
        match error {
            ArchiveError::Read { .. }
            | ArchiveError::Write { .. }
            | ArchiveError::Misuse { .. } => Self::Failed,
            ArchiveError::NewerFormat { .. }
            | ArchiveError::OriginalDtr { .. }
            | ArchiveError::WrongKey { .. } => Self::Refused,
            ArchiveError::NeedsIdentity
            | ArchiveError::NeedsPassphrase
            | ArchiveError::WrongPassphrase
            | ArchiveError::WrongIdentity
            | ArchiveError::Key { .. } => Self::Locked,
            _ => Self::Damaged,
        }
    }
}
