//! The input as a buffered, counted stream that hashes what passes: the whole stream, and the entry being read.

use std::io::{self, BufRead as _, Read};

use aws_lc_rs::digest::{Context, SHA256, SHA512};

use crate::{ArchiveError, Result, block::BLOCK, sign::Sha256};

const BUFFER: usize = 256 * 1024;

pub(crate) struct Source<R> {
    input: R,
    buffer: Vec<u8>,
    /// Next byte to give out.
    start: usize,
    /// End of what was read.
    end: usize,
    /// Up to here the hashes have seen the buffer; never after `start`.
    hashed: usize,
    /// The offset in the stream of the buffer's first byte.
    base: u64,
    sealed: bool,
    stream: Context,
    entry: Option<Context>,
    entry512: Option<Context>,
    /// While tar headers are read, which go to the stream's hash only once it is known that they are not the manifest's.
    pub(crate) hashing: bool,
}

impl<R: Read> Source<R> {
    pub(crate) fn new(input: R, sealed: bool) -> Self {
        Self {
            input,
            buffer: vec![0; BUFFER],
            start: 0,
            end: 0,
            hashed: 0,
            base: 0,
            sealed,
            stream: Context::new(&SHA256),
            entry: None,
            entry512: None,
            hashing: false,
        }
    }

    /// Bytes given out so far.
    pub(crate) fn offset(&self) -> u64 {
        self.base + self.start as u64
    }

    fn settle(&mut self) {
        let passed = &self.buffer[self.hashed..self.start];
        if self.hashing && !passed.is_empty() {
            self.stream.update(passed);
            for hash in [&mut self.entry, &mut self.entry512].into_iter().flatten() {
                hash.update(passed);
            }
        }
        self.hashed = self.start;
    }

    /// Makes at least one byte available, unless the input ended; says how many there are.
    pub(crate) fn fill(&mut self, at: &dyn Fn() -> String) -> Result<usize> {
        if self.start < self.end {
            return Ok(self.end - self.start);
        }
        self.settle();
        self.base += self.end as u64;
        (self.start, self.end, self.hashed) = (0, 0, 0);
        loop {
            match self.input.read(&mut self.buffer) {
                Ok(n) => {
                    self.end = n;
                    return Ok(n);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.failed(e, at())),
            }
        }
    }

    fn failed(&self, source: io::Error, at: String) -> ArchiveError {
        let damaged = matches!(
            source.kind(),
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof | io::ErrorKind::Other
        );
        if self.sealed && damaged {
            ArchiveError::SealDamaged { offset: self.offset(), at, why: source.to_string() }
        } else {
            ArchiveError::Read { at, source }
        }
    }

    /// Looks at the next `n` bytes (no more than the buffer holds), or fewer at the end of the input.
    pub(crate) fn peek(&mut self, n: usize, at: &dyn Fn() -> String) -> Result<&[u8]> {
        self.fill(at)?;
        while self.end - self.start < n && self.end < self.buffer.len() {
            match self.input.read(&mut self.buffer[self.end..]) {
                Ok(0) => break,
                Ok(more) => self.end += more,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.failed(e, at())),
            }
        }
        Ok(&self.buffer[self.start..self.end.min(self.start + n)])
    }

    /// Gives out up to `max` bytes of what is available.
    pub(crate) fn take(&mut self, max: u64) -> std::ops::Range<usize> {
        let n = usize::try_from(max).unwrap_or(usize::MAX).min(self.end - self.start);
        let range = self.start..self.start + n;
        self.start += n;
        range
    }

    /// Gives out up to and with the next line end, at most `max` bytes of what is available.
    pub(crate) fn take_line(&mut self, max: u64) -> std::ops::Range<usize> {
        let n = usize::try_from(max).unwrap_or(usize::MAX).min(self.end - self.start);
        let mut rest = &self.buffer[self.start..self.start + n];
        // Reading from memory cannot fail; if it could, everything would be given out, which is right too.
        let n = rest.skip_until(b'\n').unwrap_or(n);
        self.take(n as u64)
    }

    /// What a range given out before holds, valid until the next [`Source::fill`].
    pub(crate) fn bytes(&self, range: std::ops::Range<usize>) -> &[u8] {
        &self.buffer[range]
    }

    /// A whole block; `None` at the end of the input, and how many bytes came when it ended inside the block.
    pub(crate) fn block(
        &mut self,
        at: &dyn Fn() -> String,
    ) -> Result<Option<[u8; BLOCK]>, BlockError> {
        let mut block = [0; BLOCK];
        let mut got = 0;
        while got < BLOCK {
            if self.fill(at)? == 0 {
                return if got == 0 { Ok(None) } else { Err(BlockError::Partial) };
            }
            let range = self.take((BLOCK - got) as u64);
            let bytes = &self.buffer[range];
            block[got..got + bytes.len()].copy_from_slice(bytes);
            got += bytes.len();
        }
        Ok(Some(block))
    }

    /// Stops hashing, for tar headers.
    pub(crate) fn pause(&mut self) {
        self.settle();
        self.hashing = false;
    }

    /// Goes on hashing, after these header bytes went by.
    pub(crate) fn resume(&mut self, headers: &[u8]) {
        self.settle();
        self.stream.update(headers);
        self.hashing = true;
    }

    /// Begins an entry's own hash.
    pub(crate) fn begin(&mut self, sha512: bool) {
        self.settle();
        self.entry = Some(Context::new(&SHA256));
        self.entry512 = sha512.then(|| Context::new(&SHA512));
    }

    /// Ends it.
    pub(crate) fn finish(&mut self) -> (Sha256, Option<Vec<u8>>) {
        self.settle();
        let sha256 = self.entry.take().unwrap_or_else(|| Context::new(&SHA256));
        let sha512 = self.entry512.take().map(|c| c.finish().as_ref().to_vec());
        (Sha256::finish(sha256), sha512)
    }

    /// The hash of the stream up to here (without what was paused).
    pub(crate) fn stream_hash(&mut self) -> Sha256 {
        self.settle();
        Sha256::finish(self.stream.clone())
    }
}

pub(crate) enum BlockError {
    Partial,
    Other(ArchiveError),
}

impl From<ArchiveError> for BlockError {
    fn from(error: ArchiveError) -> Self {
        Self::Other(error)
    }
}
