//! Sessions to which no byte was sent yet. Nothing is stored of them: their id says that we made it, for which
//! repository, account and hash. So the beginning of an upload costs no commit, and one that is ended with its only
//! chunk none but the commit that links the blob; still every replica, also after a restart, goes on with it.
//!
//! The second half of such an id is a checksum, not a secret: whoever computes one could as well have asked for it, for
//! rights are looked at in every request.

use dtr_catalog::{Versioned, records::UploadRecord};
use dtr_types::{
    AccountId, Algorithm, Digest, Hasher, Random, RepositoryId, Revision, Timestamp, UploadId,
};

/// The revision of a session without a record; no commit has it.
const NOT_STORED: Revision = Revision::ZERO;

/// What a session is for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Purpose<'a> {
    pub repository: &'a RepositoryId,
    pub account: Option<&'a AccountId>,
}

/// A new id; `None` would be a fault of this file.
pub(crate) fn begin(
    random: &dyn Random,
    of: Purpose<'_>,
    algorithm: Algorithm,
) -> Option<UploadId> {
    let mut first = [0; 8];
    random.fill(&mut first);
    // As in other UUIDs that are random.
    first[6] = (first[6] & 0x0f) | 0x40;
    let first = u64::from_be_bytes(first);
    format(first, checksum(first, of, algorithm)).parse().ok()
}

/// The hash with which a session was begun, if `id` is one of [`begin`]'s for this purpose.
pub(crate) fn begun(id: &UploadId, of: Purpose<'_>) -> Option<Algorithm> {
    let first: String = id.as_str().chars().filter(|c| *c != '-').take(16).collect();
    let first = u64::from_str_radix(&first, 16).ok()?;
    [Algorithm::Sha256, Algorithm::Sha512]
        .into_iter()
        .find(|algorithm| format(first, checksum(first, of, *algorithm)) == id.as_str())
}

/// The record that such a session would have.
pub(crate) fn session(
    id: &UploadId,
    of: Purpose<'_>,
    algorithm: Algorithm,
    now: Timestamp,
) -> Versioned<UploadRecord> {
    let value = UploadRecord {
        id: id.clone(),
        repository: of.repository.clone(),
        account: of.account.cloned(),
        offset: 0,
        hash: Hasher::new(algorithm).save(),
        started_at: now,
        updated_at: now,
        ended: false,
    };
    Versioned { value, modified: NOT_STORED }
}

/// Whether a session has a record.
pub(crate) fn is_stored(found: &Versioned<UploadRecord>) -> bool {
    found.modified != NOT_STORED
}

fn checksum(first: u64, of: Purpose<'_>, algorithm: Algorithm) -> u64 {
    let account = of.account.map_or("-", AccountId::as_str);
    let text = format!("upload {first:016x} {} {account} {}", of.repository, algorithm.as_str());
    let digest = Digest::of(text.as_bytes());
    let last = digest.as_bytes().iter().take(8).fold(0, |n, byte| (n << 8) | u64::from(*byte));
    (last & (u64::MAX >> 2)) | (1 << 63)
}

fn format(first: u64, last: u64) -> String {
    let (a, b, c) = (first >> 32, (first >> 16) & 0xffff, first & 0xffff);
    format!("{a:08x}-{b:04x}-{c:04x}-{:04x}-{:012x}", last >> 48, last & 0xffff_ffff_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dtr_types::SeededRandom;

    #[test]
    fn an_id_is_good_for_its_own_purpose_only() {
        let random = SeededRandom::new(1);
        let (one, other) = (RepositoryId::random(&random), RepositoryId::random(&random));
        let account = AccountId::random(&random);
        let of = Purpose { repository: &one, account: Some(&account) };
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let id = begin(&random, of, algorithm).expect("an id");
            assert_eq!(begun(&id, of), Some(algorithm));
            assert_eq!(begun(&id, Purpose { account: None, ..of }), None);
            assert_eq!(begun(&id, Purpose { repository: &other, ..of }), None);
        }
        assert_eq!(begun(&UploadId::random(&random), of), None);
    }
}
