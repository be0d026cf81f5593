//! What an archive is worth: structure, hashes and signature (by the archive's own reader), records that are what their
//! kind demands, references between them, and on request every blob in the storage.

mod assets;
mod refs;

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fmt,
    io::Read,
    sync::Arc,
};

use dtr_archive::{Header, KnownKeys, Manifest as Proof, ReadOptions};
use dtr_blobs::{BlobStorage, Found, examine};
use dtr_types::Digest;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::{Deserialize, Serialize};

use assets::Assets;
pub(crate) use assets::{usable_certificate, usable_key};
pub use refs::Findings;
pub(crate) use refs::{Owner, Owners, References};

use crate::{
    Exit, RecoveryError, bounded,
    lines::{DIRECTORY, DirectoryLine, Line, LineReader, kind_of},
    pump::{Lines, Piece, Pump},
    salvage::{SALVAGE, SalvageLine, Salvaged},
    schema::Migration,
};

/// Blobs that the storage is asked for at once.
const ASKED_AT_ONCE: usize = 16;

/// What to check besides the archive itself.
#[derive(Clone, Debug, Default)]
pub struct VerifyOptions {
    /// The storage to ask for every blob that the archive mentions.
    pub storage: Option<Arc<dyn BlobStorage>>,
    /// Whether every such blob is read and hashed too.
    pub deep: bool,
}

/// What the storage has of what an archive mentions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StorageReport {
    /// Blobs that were asked for.
    pub checked: u64,
    /// Whether their content was hashed.
    pub deep: bool,
    /// Those that are not there or not what they should be, by the repositories that need them.
    pub missing_by_repository: BTreeMap<String, Vec<String>>,
    /// Those that are not there.
    pub missing: Vec<String>,
    /// Those that are there with other content.
    pub damaged: Vec<String>,
}

/// What an archive is worth.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VerifyReport {
    /// What it says of itself.
    pub header: Header,
    /// Whether the stream was encrypted.
    pub encrypted: bool,
    /// The id of the key that signed it.
    pub key_id: String,
    /// The known key that it is: its name, or its id. Nothing where no key is known to compare it with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer: Option<String>,
    /// Records by entry.
    pub records: BTreeMap<String, u64>,
    /// Records of all kinds.
    pub total_records: u64,
    /// Entries.
    pub entries: u64,
    /// Bytes of their content.
    pub bytes: u64,
    /// Blobs that it mentions.
    pub blobs: u64,
    /// Bytes of them.
    pub blob_bytes: u64,
    /// Image content inside: blobs and manifests.
    pub image_entries: u64,
    /// Bytes of it.
    pub image_bytes: u64,
    /// Blobs whose content it promised and does not have, by the first digits of their digests.
    pub images_missing: Vec<String>,
    /// References between records that lead nowhere.
    pub broken: Findings,
    /// Blobs that manifests need and that were lost before the backup was taken.
    pub lacking: Findings,
    /// Owners that are not there: allowed, and worth knowing.
    pub dangling: Findings,
    /// What is allowed, and somebody should know before it is needed: what has expired, that nobody could administer it.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// What it says, if it was salvaged from a damaged archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub salvaged: Option<Salvaged>,
    /// What the storage has, if it was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<StorageReport>,
}

impl VerifyReport {
    /// The exit code of the command.
    pub fn exit(&self) -> Exit {
        let storage = self.storage.as_ref();
        let lacking = storage.is_some_and(|s| !s.missing.is_empty() || !s.damaged.is_empty());
        if !self.broken.is_empty() {
            Exit::Damaged
        } else if lacking
            || self.salvaged.is_some()
            || !self.images_missing.is_empty()
            || !self.lacking.is_empty()
        {
            Exit::Incomplete
        } else {
            Exit::Done
        }
    }
}

/// Reads an archive to its end and checks everything.
///
/// # Errors
/// For an archive that is damaged, cut, altered, foreign, newer or locked; when the input or the storage fails.
/// References that lead nowhere and missing blobs are in the report.
pub async fn verify<R: Read + Send + 'static>(
    input: R,
    read: ReadOptions,
    options: VerifyOptions,
) -> Result<VerifyReport, RecoveryError> {
    let known = read.known.clone();
    let mut pump = Pump::start(input, read)?;
    let (header, encrypted) = pump.header().await?;
    let signer = signer(&known, &header)?;
    let mut checks = Checks::new(&header)?;
    let mut asked = StorageReport { deep: options.deep, ..StorageReport::default() };
    loop {
        match pump.next().await? {
            Piece::Lines(lines) => {
                let found = checks.lines(&lines)?;
                if let Some(storage) = &options.storage {
                    let blobs = found.iter().filter_map(|(line, _)| match line {
                        Line::Blob(blob) => Some((blob.digest, blob.size)),
                        _ => None,
                    });
                    for digest in ask(storage, blobs.collect(), &mut asked).await? {
                        checks.references.miss(digest);
                    }
                }
            }
            Piece::BlobBegin(digest) => checks.image(&digest),
            Piece::Header(..) | Piece::BlobChunk(_) | Piece::BlobEnd => {}
            Piece::End(proof) => {
                checks.finish(&header, &proof);
                let storage = options.storage.is_some().then(|| StorageReport {
                    missing_by_repository: checks.references.missing_by_repository(),
                    ..asked
                });
                let report = report(*header, encrypted, &proof, checks, storage);
                return Ok(VerifyReport { signer, ..report });
            }
        }
    }
}

fn report(
    header: Header,
    encrypted: bool,
    proof: &Proof,
    checks: Checks,
    storage: Option<StorageReport>,
) -> VerifyReport {
    VerifyReport {
        encrypted,
        key_id: header.signer.key_id.clone(),
        signer: None,
        total_records: checks.counts.values().sum(),
        records: checks.counts,
        entries: proof.totals.entries,
        bytes: proof.totals.bytes,
        blobs: checks.references.blob_count,
        blob_bytes: checks.references.blob_bytes,
        image_entries: proof.totals.blobs,
        image_bytes: proof.totals.blob_bytes,
        images_missing: if header.scope.images {
            checks.references.images_missing()
        } else {
            Vec::new()
        },
        lacking: checks.references.lacking,
        broken: checks.references.broken,
        dangling: checks.references.dangling,
        warnings: checks.assets.warnings,
        salvaged: checks.salvaged,
        storage,
        header,
    }
}

/// What the signer of an archive is known as.
pub(crate) fn signer(known: &KnownKeys, header: &Header) -> Result<Option<String>, RecoveryError> {
    Ok(known.check(&header.signer.key_id)?.map(|key| key.name().to_owned()))
}

/// What is said of a signature that was compared with no key.
pub(crate) struct Unknown<'a>(pub(crate) &'a str);

impl fmt::Display for Unknown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "WARNING: signed by key {}, which was compared with nothing: anybody can sign an archive. If that is the id that \
             its maker's reports show, name it with --signed-by (dtr also takes a file of known keys, --known-keys)",
            self.0
        )
    }
}

/// A record, and its JSON.
type Judged<'a> = (Line, Cow<'a, [u8]>);

/// What is checked of an archive while it streams past: the same in a verification and in a restore.
pub(crate) struct Checks {
    reader: LineReader,
    assets: Assets,
    pub(crate) salvaged: Option<Salvaged>,
    pub(crate) references: References,
    pub(crate) counts: BTreeMap<String, u64>,
    seen: BTreeSet<String>,
    current: String,
}

impl Checks {
    pub(crate) fn new(header: &Header) -> Result<Self, RecoveryError> {
        Ok(Self {
            reader: LineReader::new(Migration::of(header)?),
            assets: Assets::new(header),
            salvaged: None,
            references: References::new(header.scope.identity),
            counts: BTreeMap::new(),
            seen: BTreeSet::new(),
            current: String::new(),
        })
    }

    /// The records of some lines, each judged, and its JSON as far as that differs from the line.
    pub(crate) fn lines<'a>(&mut self, lines: &'a Lines) -> Result<Vec<Judged<'a>>, RecoveryError> {
        if self.current != lines.path {
            // Kinds that come in pieces with others between them could refer to what comes later.
            if !self.seen.insert(lines.path.clone()) {
                return Err(lines.wrong(lines.first, "this kind of record came before"));
            }
            self.current.clone_from(&lines.path);
        }
        let mut records = Vec::new();
        if lines.len() == 0 {
            return Ok(records);
        }
        let count = self.counts.entry(lines.path.clone()).or_default();
        if lines.path == SALVAGE {
            let salvaged = self.salvaged.get_or_insert_default();
            for (number, json) in lines.iter() {
                let line: SalvageLine =
                    serde_json::from_slice(json).map_err(|e| lines.wrong(number, e))?;
                salvaged.line(line);
                *count += 1;
            }
            return Ok(records);
        }
        if lines.path == DIRECTORY {
            for (number, json) in lines.iter() {
                let line: DirectoryLine =
                    serde_json::from_slice(json).map_err(|e| lines.wrong(number, e))?;
                self.references.directory(line);
                *count += 1;
            }
            return Ok(records);
        }
        let Some(kind) = kind_of(&lines.path) else {
            return Err(lines.wrong(lines.first, "no records of this kind are known"));
        };
        records.reserve(lines.len());
        for (number, json) in lines.iter() {
            let (line, json) =
                self.reader.read(kind, json).map_err(|why| lines.wrong(number, why))?;
            self.references.record(&line);
            self.assets.record(&line);
            *count += 1;
            records.push((line, json));
        }
        Ok(records)
    }

    /// At the end of the archive: what must be in every one.
    pub(crate) fn finish(&mut self, header: &Header, proof: &Proof) {
        let kinds = proof.totals.kinds.keys().chain(&self.seen).cloned().collect();
        // Of what was salvaged, whatever is missing is in its own list.
        if self.salvaged.is_none() {
            self.assets.finish(header, &kinds);
        }
        for broken in self.assets.broken.drain(..) {
            self.references.broken.add(|| broken);
        }
    }

    /// What is worth knowing, and no reason to refuse.
    pub(crate) fn warnings(&self) -> &[String] {
        &self.assets.warnings
    }

    /// A blob's content begins.
    pub(crate) fn image(&mut self, digest: &Digest) {
        self.references.image(digest);
    }
}

/// Asks the storage for blobs; yields those that are not there or not what they should be.
pub(crate) async fn ask(
    storage: &Arc<dyn BlobStorage>,
    blobs: Vec<(Digest, u64)>,
    report: &mut StorageReport,
) -> Result<Vec<Digest>, RecoveryError> {
    let mut lacking = Vec::new();
    let deep = report.deep;
    let mut answers = stream::iter(blobs)
        .map(|(digest, size)| async move {
            let state = examine(&**storage, &digest, Some(size), deep)
                .await
                .map_err(|source| RecoveryError::Blob { digest: Box::new(digest), source })?;
            Ok::<_, RecoveryError>((digest, state))
        })
        .buffered(ASKED_AT_ONCE);
    while let Some((digest, state)) = answers.try_next().await? {
        report.checked += 1;
        match state {
            Found::Good => continue,
            Found::Missing => report.missing.push(digest.to_string()),
            Found::OtherSize | Found::OtherBytes => report.damaged.push(digest.to_string()),
        }
        lacking.push(digest);
    }
    Ok(lacking)
}

impl fmt::Display for VerifyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = &self.header;
        writeln!(
            f,
            "{} backup, version {}, of cluster {} at revision {} ({}){}",
            header.product.as_str(),
            header.version,
            header.cluster_id,
            header.revision,
            header.created,
            if self.encrypted { ", encrypted" } else { "" }
        )?;
        writeln!(
            f,
            "  {} entries, {} records, {} bytes: every hash fits, signed by key {}{}",
            self.entries,
            self.total_records,
            self.bytes,
            self.key_id,
            if self.signer.is_some() { ", which is known" } else { "" }
        )?;
        match &self.storage {
            Some(storage) => writeln!(
                f,
                "  {} blobs asked for in the storage{}: {} missing, {} damaged",
                storage.checked,
                if storage.deep { " and hashed" } else { "" },
                storage.missing.len(),
                storage.damaged.len()
            )?,
            None if header.scope.images => writeln!(
                f,
                "  {} blobs and manifests of images inside, {} missing",
                self.image_entries,
                self.images_missing.len()
            )?,
            None => writeln!(
                f,
                "  mentions {} blobs of {} bytes; whether the storage has them was not asked (--storage)",
                self.blobs, self.blob_bytes
            )?,
        }
        let missing = self.images_missing.iter().map(|blob| format!("  content missing: {blob}"));
        bounded::lines(f, missing, "  content missing")?;
        if let Some(storage) = &self.storage {
            bounded::by_repository(f, &storage.missing_by_repository, "  lacking for ")?;
        }
        for (what, findings) in [
            ("does not fit", &self.broken),
            ("lost before the backup", &self.lacking),
            ("without an owner", &self.dangling),
        ] {
            let listed = findings.listed.iter().map(|finding| format!("  {what}: {finding}"));
            bounded::lines(f, listed, &format!("  {what}"))?;
            let rest = findings.count.saturating_sub(findings.listed.len() as u64);
            if rest > 0 {
                writeln!(f, "  {what}: {rest} more, listed nowhere")?;
            }
        }
        if let Some(salvaged) = &self.salvaged {
            write!(f, "{salvaged}")?;
        }
        let warnings = self.warnings.iter().map(|warning| format!("  warning: {warning}"));
        bounded::lines(f, warnings, "  warning")?;
        writeln!(
            f,
            "{}",
            match self.exit() {
                Exit::Done => "The archive is good.",
                Exit::Incomplete if self.salvaged.is_some() =>
                    "The archive is what was salvaged of a damaged one: restore it with --salvaged.",
                Exit::Incomplete => "The archive is good; image content is missing.",
                _ => "The archive is NOT good.",
            }
        )?;
        match &self.signer {
            None => writeln!(f, "{}", Unknown(&self.key_id)),
            Some(_) => Ok(()),
        }
    }
}
