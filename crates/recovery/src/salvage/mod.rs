//! What is whole of a damaged archive, as a new archive: for the day on which that is the last copy.
//!
//! Every line that can be read, fits the lines before it and is in its order is kept; every blob whose content has its
//! digest. What is lost is written into the new archive itself ([`SALVAGE`]), so that nobody takes it for a good one: a
//! verification says so, and a restore wants to be told that it is known. It is signed by a key that was made for it and is
//! no cluster's. Where everything is there, and only what came after the end is wrong, the archive itself is written, with
//! its own signature.

mod keep;
mod report;

use std::{
    io::{self, Read, Write},
    sync::Arc,
};

use dtr_archive::{
    ArchiveError, Header, ReadOptions, SigningKey,
    survey::{ReadAt, Survey, survey},
};
use dtr_types::{ClusterId, Random, Timestamp};

pub(crate) use report::{SALVAGE, SalvageLine};
pub use report::{SalvageReport, Salvaged};

use crate::{Exit, RecoveryError, VerifyOptions, verify};

/// What ends an archive.
const END: u64 = 1024;
/// Bytes that are copied at once.
const COPY: usize = 256 * 1024;

/// A damaged archive: bytes that can be read anywhere.
pub type Wreck = Arc<dyn ReadAt + Send + Sync>;

/// A part of it as a stream, with the two empty blocks at its end.
struct Whole {
    input: Wreck,
    at: u64,
    end: u64,
}

impl Read for Whole {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = (self.end + END).saturating_sub(self.at);
        let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let there = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let got = match want.min(there) {
            0 => {
                buffer[..want].fill(0);
                want
            }
            some => self.input.read_at(self.at, &mut buffer[..some])?,
        };
        self.at += got as u64;
        Ok(got)
    }
}

/// Writes what is whole of an archive that is not encrypted to `out`, and gives that back. `length` is the number of its
/// bytes, `version` that of this program.
///
/// # Errors
/// For what is no archive at all, is encrypted or of a newer format; when input or output fail.
pub async fn salvage<W: Write + Send + 'static>(
    input: Wreck,
    length: u64,
    out: W,
    version: &str,
    random: &dyn Random,
    now: Timestamp,
) -> Result<(W, SalvageReport), RecoveryError> {
    let looking = input.clone();
    let survey = blocking(move || Ok(survey(&*looking, length)?)).await?;
    let prefix = Whole { input: input.clone(), at: 0, end: survey.end() };
    let judged = verify(prefix, ReadOptions::default(), VerifyOptions::default()).await;
    if let Ok(judged) = judged
        && judged.exit() != Exit::Damaged
    {
        let mut prefix = Whole { input, at: 0, end: survey.end() };
        return blocking(move || {
            let mut out = out;
            let written = copy(&mut prefix, &mut out)?;
            Ok((out, SalvageReport::of_whole(&judged, written)))
        })
        .await;
    }
    let mut seed = zeroize::Zeroizing::new([0; 32]);
    random.fill(&mut *seed);
    let key = SigningKey::from_seed(&seed)?;
    let header = survey.header(&*input)?;
    let is_known = header.is_some();
    let header = header.unwrap_or_else(|| unknown(&survey, &key, random));
    let origin = SalvageLine::Origin {
        version: version.to_owned(),
        salvaged_at: now,
        signed_by: survey.proof(&*input).map(|proof| proof.manifest.signer.key_id),
    };
    let version = version.to_owned();
    blocking(move || {
        let header = Header { version, ..header };
        let mut keep = keep::Keep::new(&*input, &survey, &header)?;
        if !is_known {
            keep.lose("header.json", "it is not whole: cluster, revision and time are not known");
        }
        keep.write(out, &header, &key, &origin)
    })
    .await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RecoveryError> + Send + 'static,
) -> Result<T, RecoveryError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| RecoveryError::Stopped("the salvage"))?
}

fn copy(from: &mut impl Read, to: &mut impl Write) -> Result<u64, RecoveryError> {
    let (mut buffer, mut written) = (vec![0; COPY], 0);
    loop {
        let got = from.read(&mut buffer).map_err(ArchiveError::from_io)?;
        if got == 0 {
            return Ok(written);
        }
        let failed = |source| ArchiveError::Write { at: "the archive".to_owned(), source };
        to.write_all(&buffer[..got]).map_err(failed)?;
        written += got as u64;
    }
}

/// What must be assumed of an archive whose header is gone.
fn unknown(survey: &Survey, key: &SigningKey, random: &dyn Random) -> Header {
    let seconds = i64::try_from(survey.mtime).unwrap_or_default();
    let mut header = Header::new(survey.product(), "0", ClusterId::random(random), key);
    header.created = Timestamp::from_millis(seconds.saturating_mul(1000));
    header.schema = crate::SCHEMA;
    header.scope.images = survey.has_images();
    header.scope.identity = true;
    header
}
