//! Reads an archive to its end and says what it is worth. References between records are for those who know the records.

use std::io::Read;

use serde::de::IgnoredAny;

use crate::{ArchiveReader, Entry, Header, Manifest, ReadOptions, Result};

/// An archive that is whole.
#[derive(Clone, Debug)]
pub struct Verified {
    /// What it is.
    pub header: Header,
    /// What is in it.
    pub manifest: Manifest,
    /// Whether it is encrypted.
    pub encrypted: bool,
    /// Bytes of the clear stream.
    pub bytes: u64,
}

/// Checks structure, names, sizes, hashes, digests, counts and the signature, and that every record is JSON.
///
/// # Errors
/// The first thing that is wrong.
pub fn verify(input: impl Read, options: ReadOptions) -> Result<Verified> {
    let mut reader = ArchiveReader::open(input, options)?;
    let mut end = None;
    while let Some(entry) = reader.next_entry()? {
        match entry {
            Entry::Records(mut records) => while records.next_record::<IgnoredAny>()?.is_some() {},
            Entry::File(mut file) => while file.chunk()?.is_some() {},
            Entry::Blob(mut blob) => while blob.chunk()?.is_some() {},
            Entry::End(manifest) => end = Some(*manifest),
        }
    }
    let manifest = end.ok_or(crate::ArchiveError::Empty)?;
    let (header, encrypted, bytes) = (reader.header().clone(), reader.encrypted(), reader.bytes());
    Ok(Verified { header, manifest, encrypted, bytes })
}
