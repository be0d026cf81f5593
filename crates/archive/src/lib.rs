//! The backup archive's format alone: writing, reading, verifying. It knows nothing of the store, the catalog or the
//! blob storage, so that it can be used, fuzzed and published by itself. The format is specified in
//! `docs/archive-format.md`, complete enough to write another reader.
//!
//! An archive is a tar stream. Its first file, `header.json`, says what will come; its last, `manifest.json`, proves what
//! came: every entry with size, SHA-256 and record count, the hash of the stream, a signature. In between are records
//! (one JSON object per line), files, and an OCI image layout.
//!
//! Invariants:
//! - Writing and reading need bounded memory at any size (a part of records, a buffer, some 60 bytes for each entry).
//! - There is exactly one way to write a given content. The reader builds each tar header again from what it read and
//!   refuses a difference, so no other tar reader can see something else in an archive that this one accepted.
//! - [`ArchiveReader::next_entry`] says [`Entry::End`] only after hashes, signature, end of archive and end of input were
//!   checked. Whoever acts on entries before that must be able to undo it.
//!
//! ```
//! use dtr_archive::*;
//! use dtr_types::{ClusterId, Revision, SystemRandom, Timestamp};
//!
//! let key = SigningKey::from_seed(&[7; 32])?;
//! let header = Header::new(Product::Dtr, "1.2.3", ClusterId::random(&SystemRandom), &key)
//!     .at(Revision(42), Timestamp::from_millis(1_700_000_000_000));
//! let mut writer = ArchiveWriter::new(Vec::new(), header, &key)?;
//! let mut tags = writer.records(Section::Metadata, "tags")?;
//! tags.push(&("team/web", "1.0"))?;
//! let (archive, summary) = writer.finish()?;
//! assert_eq!(summary.totals.records, 1);
//!
//! let mut reader = ArchiveReader::open(archive.as_slice(), ReadOptions::default())?;
//! while let Some(entry) = reader.next_entry()? {
//!     match entry {
//!         Entry::Records(mut records) => while records.next_line()?.is_some() {},
//!         Entry::File(file) => drop(file.read_all()?),
//!         Entry::Blob(mut blob) => while blob.chunk()?.is_some() {},
//!         Entry::End(manifest) => assert_eq!(manifest.totals.records, 1),
//!     }
//! }
//! # Ok::<(), ArchiveError>(())
//! ```

mod block;
mod core;
mod entries;
mod error;
mod header;
mod known;
mod manifest;
mod members;
pub mod mutate;
mod name;
pub mod oci;
mod reader;
mod seal;
mod sign;
mod source;
pub mod survey;
mod verify;
mod writer;

pub use entries::{ManifestEntry, Totals};
pub use error::{ArchiveError, Result};
pub use header::{FORMAT, Header, IdentityKind, IdentitySource, Product, Scope, Signer};
pub use known::{KnownKey, KnownKeyError, KnownKeys};
pub use manifest::{Manifest, StreamProof};
pub use name::{EntryName, Section};
pub use reader::{ArchiveReader, BlobReader, Entry, FileReader, Limits, ReadOptions, Records};
pub use seal::{DEFAULT_WORK_FACTOR, Encryption, Keys, Recipient, Sealed, UnlockKey, is_encrypted};
pub use sign::{PublicKey, Sha256, SigningKey};
pub use verify::{Verified, verify};
pub use writer::{ArchiveWriter, BlobWriter, PART_BYTES, RecordsWriter, Summary};
