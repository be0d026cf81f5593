//! A manifest's bytes as they are stored: compressed, in parts below what any engine takes as one value.
//!
//! Making a context of the compressor costs ten times what compressing a manifest does, so each thread keeps one.

use std::{cell::RefCell, io};

use bytes::Bytes;
use zstd::bulk::{Compressor, Decompressor};

use crate::CatalogError;

/// Compressed bytes in one value.
const PART_BYTES: usize = 512 * 1024;
/// How hard manifests are compressed: they are small and read often.
const LEVEL: i32 = 1;
/// Shorter ones are stored as they are: they are mostly digests, and the compressor's tables take longer to build than it
/// has bytes to save.
const STORED_BYTES: u16 = 512;
/// Longer ones are rare: they get a context of their own, so that none that is kept grows to their size.
const KEPT_BYTES: usize = 128 * 1024;

thread_local! {
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// The parts to store.
pub(crate) fn pack(body: &[u8]) -> Result<Vec<Bytes>, CatalogError> {
    let packed = if let Some(stored) = store(body) {
        Ok(stored)
    } else if body.len() > KEPT_BYTES {
        zstd::bulk::compress(body, LEVEL)
    } else {
        COMPRESSOR.with_borrow_mut(|kept| match kept {
            Some(compressor) => compressor.compress(body),
            None => kept.insert(Compressor::new(LEVEL)?).compress(body),
        })
    };
    let packed = packed
        .map_err(|e| CatalogError::Encode { kind: "manifest", reason: e.to_string() })
        .map(Bytes::from)?;
    Ok((0..packed.len())
        .step_by(PART_BYTES)
        .map(|at| packed.slice(at..packed.len().min(at + PART_BYTES)))
        .collect())
}

/// A small body as a frame that holds it as it is (RFC 8878, section 3.1.1): magic number, a descriptor that says "single
/// segment" and how long the length is, the length, the header of one raw block that is the last, the bytes.
fn store(body: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(body.len()).ok().filter(|length| *length <= STORED_BYTES)?;
    let mut frame = Vec::with_capacity(body.len() + 10);
    frame.extend_from_slice(&[0x28, 0xb5, 0x2f, 0xfd]);
    match length.checked_sub(256) {
        Some(rest) => {
            frame.push(0x60);
            frame.extend_from_slice(&rest.to_le_bytes());
        }
        None => frame.extend_from_slice(&[0x20, length as u8]),
    }
    frame.extend_from_slice(&(u32::from(length) << 3 | 1).to_le_bytes()[..3]);
    frame.extend_from_slice(body);
    Some(frame)
}

/// The bytes, which are `size` at most, from the parts put together.
pub(crate) fn unpack(packed: &[u8], size: usize) -> io::Result<Vec<u8>> {
    DECOMPRESSOR.with_borrow_mut(|kept| match kept {
        Some(decompressor) => decompressor.decompress(packed, size),
        None => kept.insert(Decompressor::new()?).decompress(packed, size),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_comes_back() {
        for size in [0, 1, 255, 256, 257, 511, 512, 513, KEPT_BYTES, KEPT_BYTES + 1, 3 * PART_BYTES]
        {
            // Hard to compress, so that there are several parts.
            let mut state = 1_u64;
            let mut next = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            };
            let body: Vec<u8> = (0..size).map(|_| next()).collect();
            let parts = pack(&body).expect("packs");
            assert!(parts.iter().all(|part| part.len() <= PART_BYTES));
            assert_eq!(unpack(&parts.concat(), size).expect("unpacks"), body);
        }
    }

    #[test]
    fn small_bodies_are_frames_for_every_reader() {
        for size in [0, 1, 255, 256, 512] {
            let body = vec![b'x'; size];
            let stored = store(&body).expect("is small");
            assert_eq!(zstd::decode_all(&stored[..]).expect("a frame"), body);
        }
        assert!(store(&[0; 513]).is_none());
    }

    #[test]
    fn damage_is_an_error_and_harms_nothing_that_follows() {
        let parts = pack(b"{}").expect("packs");
        assert!(unpack(&parts[0][1..], 2).is_err());
        assert!(unpack(&parts[0], 1).is_err(), "larger than it says");
        assert_eq!(unpack(&parts[0], 2).expect("unpacks"), b"{}");
    }
}
