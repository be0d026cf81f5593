//! The typed records of the registry, the layout of every key, and the transactions that keep records, links and
//! references consistent. The *only* code that knows how keys are built and records encoded: other rooms get keys from [`keys`]'s
//! functions, and some put them into transactions of their own.
//!
//! - [`keys`] shows the whole key layout as one table.
//! - [`records`] has one file for each noun: what is stored of it.
//! - [`Catalog`] is the way in: lookups, pages, and one method for each change that touches several keys.
//!
//! To add a stored type: a struct in `records/` that implements [`Record`], a row in [`keys`], and (if a backup must
//! carry it) its name in [`Kind::archived`]. Nothing else knows the form of its key.

pub mod keys;
pub mod records;

mod body;
mod catalog;
mod codec;
mod collect;
mod damage;
mod deletion;
mod derive;
mod error;
mod events;
mod export;
mod grants;
mod identity;
mod import;
mod links;
mod manifests;
mod needs;
mod repositories;
mod rewrite;
mod services;
mod sessions;
mod staging;
mod tag_limit;
mod tokens;
mod uploads;

pub use catalog::{Catalog, Page, TransactionExt, Versioned};
pub use codec::{Record, decode, encode, json};
pub use collect::{Condemned, Removal};
pub use damage::{Need, Suspicion};
pub use derive::Derive;
pub use error::CatalogError;
pub use export::{Batch, Cursor, Export, ManifestLine};
pub use import::{Loader, RestoreStart, RestoredContent};
pub use keys::{Key, Kind};
pub use links::LinkCheck;
pub use manifests::{PutManifest, PutOutcome, StoredManifest};
pub use services::LastBackups;
