//! What every engine can do because it can do the primitives.

use bytes::Bytes;
use dtr_types::Revision;
use futures_util::{Stream, stream};

use crate::{At, KeyValue, Page, Range, Store, StoreError};

/// The end (exclusive) of the range of all keys that begin with `prefix`; empty when there is no such end.
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.last_mut() {
        if *last < 0xff {
            *last += 1;
            return end.into();
        }
        end.pop();
    }
    Bytes::new()
}

/// Conveniences over [`Store`].
#[async_trait::async_trait]
pub trait StoreExt: Store {
    /// One page of the keys that begin with `prefix` and come after `after` (exclusive).
    async fn page(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        keys_only: bool,
        at: At,
    ) -> Result<Page, StoreError> {
        let start = match after {
            Some(after) if after >= prefix => {
                let mut next = after.to_vec();
                next.push(0);
                next.into()
            }
            _ => Bytes::copy_from_slice(prefix),
        };
        self.range(Range { start, end: prefix_end(prefix), limit, keys_only, at }).await
    }
}

impl<S: Store + ?Sized> StoreExt for S {}

/// All keys that begin with `prefix`, page by page, all at one revision: that of the first page when `at` is the latest.
/// Memory stays that of one page.
pub fn scan<'a>(
    store: &'a dyn Store,
    prefix: &[u8],
    at: At,
) -> impl Stream<Item = Result<KeyValue, StoreError>> + Send + 'a {
    struct Cursor {
        start: Bytes,
        end: Bytes,
        at: At,
        page: std::vec::IntoIter<KeyValue>,
        more: bool,
    }
    let cursor = Cursor {
        start: Bytes::copy_from_slice(prefix),
        end: prefix_end(prefix),
        at,
        page: Vec::new().into_iter(),
        more: true,
    };
    stream::try_unfold(cursor, move |mut cursor| async move {
        loop {
            if let Some(item) = cursor.page.next() {
                return Ok(Some((item, cursor)));
            }
            if !cursor.more {
                return Ok(None);
            }
            let page = store
                .range(Range {
                    start: cursor.start.clone(),
                    end: cursor.end.clone(),
                    limit: 0,
                    keys_only: false,
                    at: cursor.at,
                })
                .await?;
            cursor.at = At::Revision(page.revision);
            cursor.more = page.more;
            if let Some(last) = page.items.last() {
                let mut next = last.key.to_vec();
                next.push(0);
                cursor.start = next.into();
            }
            cursor.page = page.items.into_iter();
        }
    })
}

/// The revision a page was read at, for pages that follow it.
impl From<Revision> for At {
    fn from(revision: Revision) -> Self {
        Self::Revision(revision)
    }
}
