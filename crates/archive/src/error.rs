//! What can be wrong with an archive, one variant per kind of damage or attack, each naming the entry.

use std::io;

/// The result of everything here.
pub type Result<T, E = ArchiveError> = std::result::Result<T, E>;

/// Why an archive was refused, or could not be written. Entries are named relative to the archive's top folder; names and
/// contents taken from the archive are escaped and cut before they get in here, so messages can be printed as they are.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The input could not be read, for a reason outside the archive.
    #[error("cannot read the archive ({at}): {source}")]
    Read {
        /// The entry, or where between entries.
        at: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The output could not be written.
    #[error("cannot write the archive ({at}): {source}")]
    Write {
        /// The entry.
        at: String,
        /// The system's answer.
        source: io::Error,
    },
    /// No byte came at all.
    #[error(
        "the archive is empty: not one byte came; did the command that should have written it fail?"
    )]
    Empty,
    /// The input is something else.
    #[error("this is not a tar archive: {hint}")]
    NotTar {
        /// What it seems to be, and what to do.
        hint: String,
    },
    /// A tar, made by something else.
    #[error(
        "this tar was not made by `dtr backup`: its first entry is \"{entry}\" and not the folder of a backup with a header.json first"
    )]
    Foreign {
        /// Its first entry.
        entry: String,
    },
    /// A backup of the original product, version 2.x.
    #[error(
        "\"{folder}\" is a backup of an original DTR 2.x (one file per row under rethink/); this version cannot read those. Migrate by copying images from the running DTR, or by putting this registry on its blob storage"
    )]
    OriginalDtr {
        /// Its top folder, which has its version.
        folder: String,
    },
    /// Made by a newer version.
    #[error(
        "the archive has format {format}, written by version {version}; this version reads formats up to {known}. Restore it with version {version} or newer"
    )]
    NewerFormat {
        /// Its format number.
        format: u64,
        /// The version that wrote it.
        version: String,
        /// The newest format known here.
        known: u32,
    },
    /// The input ended too early.
    #[error("the archive is cut short at byte {offset} ({at}): {what}")]
    Cut {
        /// Where in the (decrypted) stream.
        offset: u64,
        /// The entry, or where between entries.
        at: String,
        /// What was still to come.
        what: String,
    },
    /// A tar header that does not fit its checksum.
    #[error("the tar header at byte {offset} ({at}) is damaged: its checksum does not match")]
    Checksum {
        /// Where in the (decrypted) stream.
        offset: u64,
        /// Which entry it follows.
        at: String,
    },
    /// A tar header that our writer would have written otherwise.
    #[error("\"{entry}\": its tar header was altered: {field} is not as a backup writes it")]
    NotCanonical {
        /// The entry.
        entry: String,
        /// The field.
        field: &'static str,
    },
    /// Symbolic or hard link.
    #[error(
        "\"{entry}\" is a {what}; a backup holds only plain files and folders, so this archive was tampered with"
    )]
    Link {
        /// The entry.
        entry: String,
        /// Which kind.
        what: &'static str,
    },
    /// Device, pipe or something stranger.
    #[error(
        "\"{entry}\" is a {what}; a backup holds only plain files and folders, so this archive was tampered with"
    )]
    Device {
        /// The entry.
        entry: String,
        /// Which kind.
        what: &'static str,
    },
    /// A tar extension that the format does not use, or a hostile one.
    #[error("tar extension at byte {offset} ({at}) refused: {what}")]
    Extension {
        /// Where in the (decrypted) stream.
        offset: u64,
        /// Which entry it follows.
        at: String,
        /// What is wrong with it.
        what: String,
    },
    /// A name that begins with a slash.
    #[error(
        "\"{entry}\" is an absolute path, which would write outside the target; this archive was tampered with"
    )]
    AbsolutePath {
        /// The entry.
        entry: String,
    },
    /// A name with `..` or the like.
    #[error("\"{entry}\" leaves the archive's folder; this archive was tampered with")]
    PathEscapes {
        /// The entry.
        entry: String,
    },
    /// A name in another top folder.
    #[error("\"{entry}\" is not inside the archive's folder \"{folder}\"")]
    OutsideFolder {
        /// The entry.
        entry: String,
        /// The archive's top folder.
        folder: String,
    },
    /// A name that is no part of the format.
    #[error(
        "\"{entry}\" is not a name that a backup has; the archive was altered, or made by something else"
    )]
    UnknownName {
        /// The entry.
        entry: String,
    },
    /// The same name twice.
    #[error("\"{entry}\" comes twice")]
    Duplicate {
        /// The entry.
        entry: String,
    },
    /// An entry that is not there.
    #[error("\"{entry}\" is missing: {why}")]
    Missing {
        /// The entry.
        entry: String,
        /// How that is known.
        why: String,
    },
    /// An entry that the manifest does not list.
    #[error("\"{entry}\" is extra: manifest.json does not list it")]
    Extra {
        /// The entry.
        entry: String,
    },
    /// An entry at another place than it was written.
    #[error("\"{entry}\" is out of order: {expected} was to come here")]
    OutOfOrder {
        /// The entry.
        entry: String,
        /// What was expected.
        expected: String,
    },
    /// More entries than the limit.
    #[error("the archive has more than {limit} entries, the limit (at \"{entry}\")")]
    TooManyEntries {
        /// The first one too many.
        entry: String,
        /// The limit.
        limit: u64,
    },
    /// An entry larger than the limit for its kind.
    #[error("\"{entry}\" claims {size} bytes; the limit for its kind is {limit}")]
    TooLarge {
        /// The entry.
        entry: String,
        /// Bytes claimed.
        size: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// A record longer than the limit.
    #[error("\"{entry}\" line {line}: the record is longer than {limit} bytes, the limit")]
    LineTooLong {
        /// The entry.
        entry: String,
        /// The line, from 1.
        line: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// A line that is not a record.
    #[error("\"{entry}\" line {line} is not a record: {why}")]
    Record {
        /// The entry.
        entry: String,
        /// The line, from 1.
        line: u64,
        /// What is wrong.
        why: String,
    },
    /// Bytes after an entry's content that are not zero.
    #[error(
        "\"{entry}\": the padding after it is not empty, so its size is wrong or the archive was altered"
    )]
    Padding {
        /// The entry.
        entry: String,
    },
    /// Image content that is not what its name says.
    #[error("\"{entry}\": its content has the digest {found}, not the one in its name")]
    BlobDigest {
        /// The entry.
        entry: String,
        /// The digest of what came.
        found: String,
    },
    /// A blob whose reader gave more or fewer bytes than promised (writing only).
    #[error(
        "\"{entry}\": {size} bytes were announced and {found} came; the blob changed or is damaged in the storage"
    )]
    BlobSize {
        /// The entry.
        entry: String,
        /// Bytes announced.
        size: u64,
        /// Bytes that came, or one more than announced.
        found: u64,
    },
    /// `header.json` is not one.
    #[error("header.json is not the header of a backup: {why}")]
    Header {
        /// What is wrong.
        why: String,
    },
    /// `manifest.json` is not one.
    #[error("manifest.json line {line} is damaged: {why}")]
    Manifest {
        /// The line, from 1.
        line: u64,
        /// What is wrong.
        why: String,
    },
    /// The proof belongs to another archive than the header.
    #[error("manifest.json does not belong to this header.json: they differ in {field}")]
    HeaderMismatch {
        /// In what.
        field: &'static str,
    },
    /// An entry is not what the signed manifest says.
    #[error("\"{entry}\" is not what was written: manifest.json says {listed}, found {found}")]
    EntryDiffers {
        /// The entry.
        entry: String,
        /// What is listed.
        listed: String,
        /// What came.
        found: String,
    },
    /// The sums in the manifest are not the sums of its entries.
    #[error("manifest.json: its total of {what} is not what came")]
    Totals {
        /// Of what.
        what: &'static str,
    },
    /// The hash over the whole stream differs although each entry's fits.
    #[error(
        "the stream before manifest.json is not what was written: its SHA-256 differs from the one in manifest.json although each file's content fits; a tar header was altered"
    )]
    StreamHash,
    /// The signature does not fit.
    #[error(
        "manifest.json: its signature does not match; the manifest was altered, or signed by another key than the one named in it ({key_id})"
    )]
    Signature {
        /// The key named in the manifest.
        key_id: String,
    },
    /// Signed, but by another cluster.
    #[error(
        "the archive is signed by key {found}, as it says itself; expected was {expected}. It is from another cluster (a restored registry signs with a new key), or somebody replaced the archive. Nothing was changed"
    )]
    WrongKey {
        /// The key's id in the archive.
        found: String,
        /// The id of the key that was expected.
        expected: String,
    },
    /// The archive does not end as it must.
    #[error("the archive does not end with two empty blocks after manifest.json: {what}")]
    EndBlocks {
        /// What came.
        what: String,
    },
    /// Something after the end.
    #[error(
        "there is something after the end of the archive (byte {offset}); a backup is followed by nothing, or by zeros"
    )]
    TrailingGarbage {
        /// Where in the (decrypted) stream.
        offset: u64,
    },
    /// Encrypted for recipients, and no key was given.
    #[error(
        "the archive is encrypted to recipients; give the file with the matching AGE-SECRET-KEY-1... identity"
    )]
    NeedsIdentity,
    /// Encrypted with a passphrase, and none was given.
    #[error("the archive is encrypted with a passphrase; give the passphrase file")]
    NeedsPassphrase,
    /// The passphrase is not the one.
    #[error("the passphrase does not open the archive")]
    WrongPassphrase,
    /// None of the keys fits.
    #[error("none of the identities given opens the archive: it is encrypted to other recipients")]
    WrongIdentity,
    /// The encryption's own header cannot be used.
    #[error("the archive's age header is damaged or not acceptable: {why}")]
    SealHeader {
        /// What is wrong.
        why: String,
    },
    /// The ciphertext does not authenticate.
    #[error(
        "the encrypted archive is damaged or cut short near byte {offset} of the clear stream ({at}): {why}"
    )]
    SealDamaged {
        /// Where in the clear stream.
        offset: u64,
        /// The entry, or where between entries.
        at: String,
        /// What the decryption said.
        why: String,
    },
    /// A recipient, identity or signing key that is not one.
    #[error("not a usable {what}: {why}")]
    Key {
        /// Which kind of key.
        what: &'static str,
        /// What is wrong. Never the key itself.
        why: String,
    },
    /// The writer was used wrongly, or already failed.
    #[error("cannot write \"{entry}\" into the archive: {why}")]
    Misuse {
        /// The entry.
        entry: String,
        /// Why not.
        why: &'static str,
    },
}

impl ArchiveError {
    /// Takes back an error that went through [`std::io::Read`] of a blob or file reader; other errors become
    /// [`ArchiveError::Read`].
    pub fn from_io(error: io::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(own) => own,
            Err(source) => Self::Read { at: "entry".to_owned(), source },
        }
    }

    /// The entry at fault, if the fault is in one.
    pub fn entry(&self) -> Option<&str> {
        match self {
            Self::Foreign { entry }
            | Self::NotCanonical { entry, .. }
            | Self::Link { entry, .. }
            | Self::Device { entry, .. }
            | Self::AbsolutePath { entry }
            | Self::PathEscapes { entry }
            | Self::OutsideFolder { entry, .. }
            | Self::UnknownName { entry }
            | Self::Duplicate { entry }
            | Self::Missing { entry, .. }
            | Self::Extra { entry }
            | Self::OutOfOrder { entry, .. }
            | Self::TooManyEntries { entry, .. }
            | Self::TooLarge { entry, .. }
            | Self::LineTooLong { entry, .. }
            | Self::Record { entry, .. }
            | Self::Padding { entry }
            | Self::BlobDigest { entry, .. }
            | Self::BlobSize { entry, .. }
            | Self::EntryDiffers { entry, .. }
            | Self::Misuse { entry, .. } => Some(entry),
            Self::Header { .. } | Self::NewerFormat { .. } | Self::WrongKey { .. } => {
                Some("header.json")
            }
            Self::Manifest { .. }
            | Self::HeaderMismatch { .. }
            | Self::Totals { .. }
            | Self::StreamHash
            | Self::Signature { .. } => Some("manifest.json"),
            _ => None,
        }
    }

    /// A short word for the kind of error, for reports and tables.
    pub fn kind(&self) -> String {
        let debug = format!("{self:?}");
        debug.split([' ', '{', '(']).next().unwrap_or_default().to_owned()
    }
}

/// Text from the archive, made safe to print: control characters escaped, cut at 200 characters.
pub(crate) fn shown(text: &str) -> String {
    text.chars().take(200).flat_map(char::escape_debug).collect()
}
