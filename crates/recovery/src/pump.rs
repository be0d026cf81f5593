//! Reads an archive on a thread of its own and hands on what it finds in pieces of bounded size, so that whoever works
//! on them can wait for stores and storages without keeping the reading, the decryption and the hashing from going on.

use std::io::Read;

use bytes::Bytes;
use dtr_archive::{ArchiveError, ArchiveReader, Entry, EntryName, Header, Manifest, ReadOptions};
use dtr_types::Digest;
use tokio::sync::mpsc;

use crate::RecoveryError;

/// Bytes of lines that are handed on at once.
const BATCH_BYTES: usize = 64 * 1024;
/// Pieces that wait at most.
const QUEUE: usize = 4;

/// Lines of one entry.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    /// The entry's name, for messages.
    pub(crate) entry: String,
    /// `folder/kind`.
    pub(crate) path: String,
    /// The number of the first line here, from 1.
    pub(crate) first: u64,
    buffer: Vec<u8>,
    ends: Vec<usize>,
}

impl Lines {
    /// Each line with its number in the entry.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        (self.first..)
            .zip(starts.zip(&self.ends))
            .map(|(number, (start, end))| (number, &self.buffer[start..*end]))
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn wrong(&self, line: u64, why: impl ToString) -> RecoveryError {
        RecoveryError::Record { entry: self.entry.clone(), line, why: printable(&why.to_string()) }
    }
}

/// Text that may come from the archive, made safe to print.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .take(400)
        .flat_map(|c| {
            let escape = c.is_control();
            escape.then(|| c.escape_default()).into_iter().flatten().chain((!escape).then_some(c))
        })
        .collect()
}

/// What comes next.
#[derive(Debug)]
pub(crate) enum Piece {
    /// First of all.
    Header(Box<Header>, bool),
    /// Records.
    Lines(Lines),
    /// A blob begins.
    BlobBegin(Digest),
    /// Its next bytes.
    BlobChunk(Bytes),
    /// It is complete and hashes to its digest.
    BlobEnd,
    /// The last entry was read, and everything is what was written.
    End(Box<Manifest>),
}

/// An archive being read.
pub(crate) struct Pump(mpsc::Receiver<Result<Piece, ArchiveError>>);

impl Pump {
    /// Starts reading. Ends when dropped, at the next piece.
    pub(crate) fn start<R: Read + Send + 'static>(
        input: R,
        options: ReadOptions,
    ) -> Result<Self, RecoveryError> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        std::thread::Builder::new()
            .name("archive-read".to_owned())
            .spawn(move || {
                if let Err(Stop::Failed(error)) = run(input, options, &sender) {
                    // Nobody listens any more: nobody wants to know.
                    let _ = sender.blocking_send(Err(*error));
                }
            })
            .map_err(|_| RecoveryError::Stopped("the archive's reader"))?;
        Ok(Self(receiver))
    }

    /// The next piece; the last is [`Piece::End`] or an error.
    pub(crate) async fn next(&mut self) -> Result<Piece, RecoveryError> {
        match self.0.recv().await {
            Some(piece) => Ok(piece?),
            None => Err(RecoveryError::Stopped("the archive's reader")),
        }
    }

    /// The header, which is the first piece.
    pub(crate) async fn header(&mut self) -> Result<(Box<Header>, bool), RecoveryError> {
        match self.next().await? {
            Piece::Header(header, encrypted) => Ok((header, encrypted)),
            _ => Err(RecoveryError::Stopped("the archive's reader")),
        }
    }
}

enum Stop {
    Failed(Box<ArchiveError>),
    Unwanted,
}

impl From<ArchiveError> for Stop {
    fn from(error: ArchiveError) -> Self {
        Self::Failed(Box::new(error))
    }
}

type Sender = mpsc::Sender<Result<Piece, ArchiveError>>;

fn send(to: &Sender, piece: Piece) -> Result<(), Stop> {
    to.blocking_send(Ok(piece)).map_err(|_| Stop::Unwanted)
}

fn run<R: Read>(input: R, options: ReadOptions, to: &Sender) -> Result<(), Stop> {
    let mut reader = ArchiveReader::open(input, options)?;
    send(to, Piece::Header(Box::new(reader.header().clone()), reader.encrypted()))?;
    while let Some(entry) = reader.next_entry()? {
        match entry {
            Entry::Records(mut records) => {
                let path = format!("{}/{}", records.section(), records.kind());
                let mut lines =
                    Lines { entry: records.name().to_owned(), path, ..Lines::default() };
                let mut number = 0;
                while let Some(line) = records.next_line()? {
                    number += 1;
                    push(&mut lines, number, line);
                    if lines.buffer.len() >= BATCH_BYTES {
                        hand_on(to, &mut lines)?;
                    }
                }
                hand_on(to, &mut lines)?;
            }
            Entry::File(file) => {
                let EntryName::Certificate(name) = file.name().clone() else { continue };
                let content = file.read_all()?;
                let path = format!("certificates/{}", name.trim_end_matches(".jsonl"));
                let entry = format!("certificates/{name}");
                let mut lines = Lines { entry, path, ..Lines::default() };
                let whole = content.split(|b| *b == b'\n').filter(|line| !line.is_empty());
                for (number, line) in (1..).zip(whole) {
                    push(&mut lines, number, line);
                }
                // Also one without a line: that it came is worth knowing.
                send(to, Piece::Lines(lines))?;
            }
            Entry::Blob(mut blob) => {
                send(to, Piece::BlobBegin(*blob.digest()))?;
                while let Some(chunk) = blob.chunk()? {
                    send(to, Piece::BlobChunk(Bytes::copy_from_slice(chunk)))?;
                }
                send(to, Piece::BlobEnd)?;
            }
            Entry::End(manifest) => {
                send(to, Piece::End(manifest))?;
                return Ok(());
            }
        }
    }
    Ok(())
}

fn push(lines: &mut Lines, number: u64, line: &[u8]) {
    if lines.ends.is_empty() {
        lines.first = number;
        lines.buffer.reserve(BATCH_BYTES + line.len());
    }
    lines.buffer.extend_from_slice(line);
    lines.ends.push(lines.buffer.len());
}

fn hand_on(to: &Sender, lines: &mut Lines) -> Result<(), Stop> {
    if lines.ends.is_empty() {
        return Ok(());
    }
    let next = Lines { entry: lines.entry.clone(), path: lines.path.clone(), ..Lines::default() };
    send(to, Piece::Lines(std::mem::replace(lines, next)))
}
