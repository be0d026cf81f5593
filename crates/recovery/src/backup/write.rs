//! The writing side: a thread that takes pieces from a bounded channel and makes an archive of them.

use std::io::Write;

use bytes::Bytes;
use dtr_archive::{ArchiveWriter, Header, Section, SigningKey, Summary};
use dtr_catalog::ManifestLine;
use dtr_types::Digest;
use tokio::sync::{mpsc, oneshot};

use super::polite;
use crate::RecoveryError;

/// Pieces that wait at most: some pages of the store, or blocks of a blob.
const QUEUE: usize = 4;

/// What to write next.
pub(super) enum Piece {
    /// A kind of record begins.
    Begin(Section, &'static str),
    /// Records of it, as JSON.
    Lines(Vec<Bytes>),
    /// Records of it that are manifests.
    Manifests(Vec<ManifestLine>),
    /// A file under `certificates/`.
    Certificates(String, zeroize::Zeroizing<Vec<u8>>),
    /// A blob begins: its digest and size.
    BlobBegin(Digest, u64),
    /// Its next bytes.
    BlobChunk(Bytes),
    /// It ends.
    BlobEnd,
    /// `oci-layout`.
    OciLayout,
    /// `index.json`.
    OciIndex(Vec<u8>),
    /// The proof. Without it, the archive is worth nothing.
    Finish,
}

type Done<W> = Result<(W, Summary), RecoveryError>;

/// Starts the thread. Dropping the sender without [`Piece::Finish`] gives the archive up.
pub(super) fn start<W: Write + Send + 'static>(
    out: W,
    header: Header,
    key: SigningKey,
) -> Result<(mpsc::Sender<Piece>, oneshot::Receiver<Done<W>>), RecoveryError> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let (done, outcome) = oneshot::channel();
    std::thread::Builder::new()
        .name("archive-write".to_owned())
        .spawn(move || {
            polite::step_back();
            let result = run(out, header, &key, receiver);
            // Nobody waits any more: the backup was given up.
            let _ = done.send(result);
        })
        .map_err(|_| RecoveryError::Stopped("the archive's writer"))?;
    Ok((sender, outcome))
}

const GIVEN_UP: RecoveryError = RecoveryError::Stopped("the backup");

fn run<W: Write>(
    out: W,
    header: Header,
    key: &SigningKey,
    mut pieces: mpsc::Receiver<Piece>,
) -> Done<W> {
    let mut archive = ArchiveWriter::new(out, header, key)?;
    let mut line = Vec::new();
    let mut next = None;
    loop {
        let piece = match next.take() {
            Some(piece) => piece,
            None => pieces.blocking_recv().ok_or(GIVEN_UP)?,
        };
        match piece {
            Piece::Begin(section, kind) => {
                let mut records = archive.records(section, kind)?;
                loop {
                    match pieces.blocking_recv().ok_or(GIVEN_UP)? {
                        Piece::Lines(lines) => {
                            for json in &lines {
                                records.push_json(json)?;
                            }
                        }
                        Piece::Manifests(manifests) => {
                            for manifest in &manifests {
                                line.clear();
                                manifest.write(&mut line)?;
                                records.push_json(&line)?;
                            }
                        }
                        other => {
                            next = Some(other);
                            break;
                        }
                    }
                }
            }
            Piece::BlobBegin(digest, size) => {
                let mut blob = archive.begin_blob(&digest, size)?;
                loop {
                    match pieces.blocking_recv().ok_or(GIVEN_UP)? {
                        Piece::BlobChunk(bytes) => blob.write(&bytes)?,
                        Piece::BlobEnd => break blob.finish()?,
                        _ => return Err(GIVEN_UP),
                    }
                }
            }
            Piece::Certificates(name, content) => archive.certificate(&name, &content)?,
            Piece::OciLayout => archive.oci_layout()?,
            Piece::OciIndex(json) => archive.oci_index(&json)?,
            Piece::Finish => return Ok(archive.finish()?),
            Piece::Lines(_) | Piece::Manifests(_) | Piece::BlobChunk(_) | Piece::BlobEnd => {
                return Err(GIVEN_UP);
            }
        }
    }
}
