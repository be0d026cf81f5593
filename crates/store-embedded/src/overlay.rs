//! Reading a storage that cannot be written: redb's repair goes to memory instead.
//!
//! After an I/O error redb must be opened again, and opening repairs, which writes. On a file system that has become
//! read-only, or is full, that fails; the registry should go on answering pulls nevertheless.

use std::{collections::BTreeMap, fmt, io};

use parking_lot::RwLock;
use redb::StorageBackend;

/// Written blocks are kept in pieces of this many bytes.
const BLOCK: u64 = 4096;
/// Repair writes some pages; what wants to write more than these blocks is refused.
const BLOCKS_MAX: usize = 4096;

struct State {
    length: u64,
    blocks: BTreeMap<u64, Box<[u8]>>,
}

/// What is below, with what was written since laid over it in memory.
pub(crate) struct Overlay {
    below: Box<dyn StorageBackend>,
    below_length: u64,
    state: RwLock<State>,
}

impl Overlay {
    pub(crate) fn new(below: Box<dyn StorageBackend>) -> io::Result<Self> {
        let length = below.len()?;
        let state = RwLock::new(State { length, blocks: BTreeMap::new() });
        Ok(Self { below, below_length: length, state })
    }

    /// Reads from below; zeros after its end.
    fn read_below(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let there = self.below_length.saturating_sub(offset).min(out.len() as u64) as usize;
        out[there..].fill(0);
        if there > 0 { self.below.read(offset, &mut out[..there]) } else { Ok(()) }
    }
}

impl fmt::Debug for Overlay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Overlay")
    }
}

/// The pieces of `[offset, offset + length)` by block: the block, from where in it, from where in the range, how many.
fn pieces(offset: u64, length: usize) -> impl Iterator<Item = (u64, usize, usize, usize)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == length {
            return None;
        }
        let at = offset + done as u64;
        let inside = (at % BLOCK) as usize;
        let count = (BLOCK as usize - inside).min(length - done);
        done += count;
        Some((at / BLOCK, inside, done - count, count))
    })
}

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state.read().length)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.state.read();
        if offset + out.len() as u64 > state.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.read_below(offset, out)?;
        for (block, inside, from, count) in pieces(offset, out.len()) {
            if let Some(written) = state.blocks.get(&block) {
                out[from..from + count].copy_from_slice(&written[inside..inside + count]);
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.state.write().length = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.state.write();
        for (block, inside, from, count) in pieces(offset, data.len()) {
            if !state.blocks.contains_key(&block) {
                if state.blocks.len() >= BLOCKS_MAX {
                    return Err(io::ErrorKind::OutOfMemory.into());
                }
                let mut copy = vec![0; BLOCK as usize].into_boxed_slice();
                self.read_below(block * BLOCK, &mut copy)?;
                state.blocks.insert(block, copy);
            }
            if let Some(written) = state.blocks.get_mut(&block) {
                written[inside..inside + count].copy_from_slice(&data[from..from + count]);
            }
        }
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.below.close()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_lies_over_what_is_below() {
        let below = redb::backends::InMemoryBackend::new();
        below.set_len(10_000).expect("grows");
        below.write(0, &[1; 10_000]).expect("writes");
        let overlay = Overlay::new(Box::new(below)).expect("a length");
        overlay.write(4_000, &[2; 200]).expect("writes");
        overlay.set_len(20_000).expect("grows");
        let mut out = vec![9; 20_000];
        overlay.read(0, &mut out).expect("reads");
        assert!(out[..4_000].iter().all(|b| *b == 1) && out[4_000..4_200].iter().all(|b| *b == 2));
        assert!(
            out[4_200..10_000].iter().all(|b| *b == 1) && out[10_000..].iter().all(|b| *b == 0)
        );
        assert!(overlay.read(19_999, &mut [0; 2]).is_err());
    }
}
