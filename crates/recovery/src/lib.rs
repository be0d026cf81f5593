//! Backup, restore, verify: between the catalog and an archive.
//!
//! - [`backup`] reads everything at one revision, under a hold, and streams an archive. Nothing is stopped meanwhile.
//! - [`verify`] reads an archive to its end and says what it is worth; [`inspect`] says what is in it.
//! - [`salvage`] writes what is whole of a damaged archive as a new one.
//! - [`restore`] loads an archive into a fresh store that nobody serves, proves it, and only then makes it one that
//!   may be served.
//!
//! Invariants:
//! - An archive is of one revision. Every blob that it mentions stays in the storage until the hold is released.
//! - Memory does not grow with the size of the archive, but for the compact sets that `verify` documents.
//! - A restore changes nothing that anybody sees before the archive's last byte was read and its signature checked:
//!   records go to a store without a cluster's record, content to uploads that are not published.
//! - [`Exit`] is the one table of exit codes.

mod backup;
mod bounded;
mod error;
mod exit;
mod inspect;
mod keys;
mod lines;
mod pump;
mod restore;
mod salvage;
mod schema;
mod verify;

pub use backup::{BackupOptions, BackupReport, NotIncluded, Progress, ProgressFn, backup};
pub use error::{RecoveryError, Refusal};
pub use exit::Exit;
pub use inspect::{Inspection, RepositorySummary, inspect};
pub use keys::{
    ArchiveKeys, archive_key_id, archive_keys, create_archive_key, ensure_archive_key,
    ensure_assets, new_authority, new_service_key, signing_key,
};
pub use restore::{
    IdentityTarget, OwnerMap, OwnerMapError, OwnerReport, RestoreOptions, RestoreReport,
    RestoreTarget, restore,
};
pub use salvage::{SalvageReport, Salvaged, Wreck, salvage};
pub use schema::SCHEMA;
pub use verify::{Findings, StorageReport, VerifyOptions, VerifyReport, verify};

pub use dtr_archive::{Keys, KnownKeys, Product, PublicKey};
