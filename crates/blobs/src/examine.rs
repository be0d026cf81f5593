//! Looking whether stored bytes are what their digest says: on demand, and of a blob while it is sent.

use dtr_types::{Digest, Hasher};
use futures_util::{StreamExt as _, stream};

use crate::{BlobError, BlobReader, BlobStorage};

/// State of a stored blob, by a look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// It is right, as far as was looked.
    Good,
    /// It is not there.
    Missing,
    /// It has another number of bytes.
    OtherSize,
    /// Its bytes hash to something else.
    OtherBytes,
}

/// Looks at a stored blob: whether it is there, whether it has `size` bytes, if that is given, and, if `deep`, what its
/// bytes hash to, for which all of them are read.
///
/// # Errors
/// When the storage cannot be asked: then nothing is known of the blob.
pub async fn examine(
    storage: &dyn BlobStorage,
    digest: &Digest,
    size: Option<u64>,
    deep: bool,
) -> Result<Found, BlobError> {
    match storage.stat(digest).await? {
        None => return Ok(Found::Missing),
        Some(info) if size.is_some_and(|size| size != info.size) => return Ok(Found::OtherSize),
        Some(_) if !deep => return Ok(Found::Good),
        Some(_) => {}
    }
    let mut reader = match storage.read(digest, None).await {
        Ok(reader) => reader,
        Err(BlobError::NotFound(_)) => return Ok(Found::Missing),
        Err(error) => return Err(error),
    };
    let mut hasher = Hasher::new(digest.algorithm());
    while let Some(block) = reader.next().await {
        match block {
            Ok(block) => hasher.update(&block),
            Err(BlobError::Corrupt { .. }) => return Ok(Found::OtherSize),
            Err(error) => return Err(error),
        }
    }
    Ok(if hasher.finish() == *digest { Found::Good } else { Found::OtherBytes })
}

/// The blob as it is read, hashed on its way. The last block is handed out once all bytes have proven right; with wrong ones
/// it ends with [`BlobError::Altered`] instead, so nobody receives all of them. For whole reads.
pub fn proven(reader: BlobReader, digest: Digest) -> BlobReader {
    let (size, range) = (reader.size(), reader.range());
    let state = Some((reader, Hasher::new(digest.algorithm()), None));
    let blocks = stream::unfold(state, move |state| async move {
        let (mut reader, mut hasher, mut held) = state?;
        loop {
            match reader.next().await {
                Some(Ok(block)) => {
                    hasher.update(&block);
                    if let Some(before) = held.replace(block) {
                        return Some((Ok(before), Some((reader, hasher, held))));
                    }
                }
                Some(Err(error)) => return Some((Err(error), None)),
                None if hasher.finish() != digest => {
                    return Some((Err(BlobError::Altered(digest)), None));
                }
                None => return held.map(|last| (Ok(last), None)),
            }
        }
    });
    BlobReader::new(size, range, blocks.boxed())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "what fails here fails the test")]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn reader(blocks: Vec<&'static [u8]>) -> BlobReader {
        let size = blocks.iter().map(|block| block.len() as u64).sum();
        let blocks = blocks.into_iter().map(|block| Ok(Bytes::from_static(block)));
        BlobReader::new(size, 0..size, stream::iter(blocks.collect::<Vec<_>>()).boxed())
    }

    #[tokio::test]
    async fn wrong_bytes_never_come_to_their_end() {
        let digest = Digest::of(b"one two");
        let good = proven(reader(vec![b"one", b" ", b"two"]), digest);
        assert_eq!(good.bytes().await.unwrap(), "one two");
        let nothing = proven(reader(Vec::new()), Digest::of(b""));
        assert!(nothing.bytes().await.unwrap().is_empty());
        let mut bad = proven(reader(vec![b"one", b" ", b"twO"]), digest);
        let mut came = 0;
        let error = loop {
            match bad.next().await.unwrap() {
                Ok(block) => came += block.len(),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, BlobError::Altered(_)), "{error:?}");
        assert_eq!(came, 4);
        assert!(bad.next().await.is_none());
    }
}
