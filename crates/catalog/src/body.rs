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
/// Longer ones are rare: they get a context of their own, so that none that is kept grows to their size.
const KEPT_BYTES: usize = 128 * 1024;

thread_local! {
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// The parts to store.
pub(crate) fn pack(body: &[u8]) -> Result<Vec<Bytes>, CatalogError> {
    let packed = if body.len() > KEPT_BYTES {
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
        for size in [0, 1, 500, KEPT_BYTES, KEPT_BYTES + 1, 3 * PART_BYTES] {
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
    fn damage_is_an_error_and_harms_nothing_that_follows() {
        let parts = pack(b"{}").expect("packs");
        assert!(unpack(&parts[0][1..], 2).is_err());
        assert!(unpack(&parts[0], 1).is_err(), "larger than it says");
        assert_eq!(unpack(&parts[0], 2).expect("unpacks"), b"{}");
    }
}
