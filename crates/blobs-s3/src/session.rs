//! What is in the bucket of one upload, and which of its pieces make up its first so many bytes.

use std::collections::{HashMap, hash_map::Entry};

use dtr_blobs::BlobError;
use dtr_types::UploadId;
use futures_util::TryStreamExt as _;
use object_store::{ObjectStore as _, path::Path};

use crate::{
    client::Bucket,
    layout::{Part, Piece, Tag},
};

/// The objects of an upload, as listed.
#[derive(Debug, Default)]
pub(crate) struct Session {
    /// Whether it was begun and not given up.
    pub begun: bool,
    /// Its size, once it is finished.
    pub closed: Option<u64>,
    /// Its pieces, those of all histories.
    pub pieces: Vec<Piece>,
    /// All its keys.
    pub keys: Vec<Path>,
    /// Those of them that name multipart uploads.
    pub copies: Vec<Path>,
}

impl Session {
    pub(crate) async fn load(bucket: &Bucket, id: &UploadId) -> Result<Self, BlobError> {
        let prefix = bucket.layout.upload(id);
        let mut session = Self::default();
        let mut listed = bucket.store.list(Some(&prefix));
        while let Some(object) =
            listed.try_next().await.map_err(|e| bucket.failed("list", &prefix, e))?
        {
            match bucket.layout.parse_upload(&object.location) {
                Some((_, Part::Begun)) => session.begun = true,
                Some((_, Part::Closed(size))) => session.closed = Some(size),
                Some((_, Part::Copy)) => session.copies.push(object.location.clone()),
                // One of another length than it says is none: no complete object can be that.
                Some((_, Part::Piece(piece))) if piece.len() == object.size => {
                    session.pieces.push(piece);
                }
                _ => {}
            }
            session.keys.push(object.location);
        }
        Ok(session)
    }

    /// What of it hangs together from the first byte.
    pub(crate) fn history(&self) -> History<'_> {
        History::new(&self.pieces)
    }
}

/// The places up to which an upload's bytes are complete, and by which pieces.
#[derive(Debug)]
pub(crate) struct History<'a> {
    /// By a place and what everything up to it hashes to: the piece that ends there.
    ends: HashMap<(u64, &'a Tag), &'a Piece>,
    /// The farthest place.
    present: u64,
}

impl<'a> History<'a> {
    fn new(pieces: &'a [Piece]) -> Self {
        // In this order each piece comes after all that may stand before it; the longer ones first, so that joined pieces
        // are preferred to those they were made of.
        let mut order: Vec<&Piece> = pieces.iter().collect();
        order.sort_by_key(|piece| (piece.start, std::cmp::Reverse(piece.end)));
        let mut ends = HashMap::new();
        let mut present = 0;
        for piece in order {
            if piece.start > 0 && !ends.contains_key(&(piece.start, &piece.before)) {
                continue;
            }
            if let Entry::Vacant(place) = ends.entry((piece.end, &piece.after)) {
                place.insert(piece);
                present = present.max(piece.end);
            }
        }
        Self { ends, present }
    }

    /// Bytes that are there altogether.
    pub(crate) fn present(&self) -> u64 {
        self.present
    }

    /// The pieces that make up the first `size` bytes, which hash to `tag`.
    pub(crate) fn chain(&self, size: u64, tag: &Tag) -> Option<Vec<&'a Piece>> {
        let mut chain = Vec::new();
        let (mut at, mut tag) = (size, tag);
        while at > 0 {
            let piece = *self.ends.get(&(at, tag))?;
            chain.push(piece);
            (at, tag) = (piece.start, &piece.before);
        }
        chain.reverse();
        Some(chain)
    }

    /// All ways in which more than `size` bytes, but no fewer than that, are there: the last piece of each has that place
    /// in its middle.
    pub(crate) fn chains_over(&self, size: u64) -> Vec<Vec<&'a Piece>> {
        let over = self.ends.values().filter(|piece| piece.start < size && size < piece.end);
        let mut over: Vec<&Piece> = over.copied().collect();
        over.sort_by(|a, b| (a.start, &a.after).cmp(&(b.start, &b.after)));
        over.iter().filter_map(|piece| self.chain(piece.end, &piece.after)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(start: u64, end: u64, before: &str, after: &str) -> Piece {
        Piece { start, end, before: Tag::made_up(before), after: Tag::made_up(after) }
    }

    #[test]
    fn histories_do_not_mix() {
        // Two replicas wrote at 10; a third piece has lost what stands before it.
        let pieces = [
            piece(10, 20, "a", "b"),
            piece(10, 20, "a", "c"),
            piece(0, 10, "", "a"),
            piece(20, 30, "c", "d"),
            piece(40, 50, "x", "y"),
        ];
        let history = History::new(&pieces);
        assert_eq!(history.present(), 30);
        let spans = |size, tag| {
            let chain = history.chain(size, &Tag::made_up(tag))?;
            Some(chain.iter().map(|p| (p.start, p.end)).collect::<Vec<_>>())
        };
        assert_eq!(spans(20, "b"), Some(vec![(0, 10), (10, 20)]));
        assert_eq!(spans(30, "d"), Some(vec![(0, 10), (10, 20), (20, 30)]));
        assert_eq!(spans(30, "b"), None);
        assert_eq!(spans(50, "y"), None);
        assert_eq!(
            history.chain(30, &Tag::made_up("d")).expect("there")[1].after,
            Tag::made_up("c")
        );
        assert_eq!(history.chains_over(15).len(), 2);
        assert!(history.chains_over(20).is_empty());
    }

    #[test]
    fn joined_pieces_are_preferred() {
        let pieces = [
            piece(0, 1, "", "a"),
            piece(1, 2, "a", "b"),
            piece(0, 2, "", "b"),
            piece(2, 3, "b", "c"),
        ];
        let history = History::new(&pieces);
        assert_eq!(history.chain(3, &Tag::made_up("c")).expect("there").len(), 2);
        assert_eq!(history.chain(1, &Tag::made_up("a")).expect("there").len(), 1);
    }
}
