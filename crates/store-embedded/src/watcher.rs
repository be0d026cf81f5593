//! Watches: each is a task that reads the changes from the file, from where its reader has come to. Nothing is kept in
//! memory for a slow reader, so it can neither lose an event nor hold the engine up.

use std::sync::{Arc, Weak};

use dtr_store::{StoreError, WatchBatch};
use dtr_types::Revision;
use tokio::sync::mpsc;

use crate::{Inner, view::Bounds};

type Sender = mpsc::Sender<Result<WatchBatch, StoreError>>;

/// Feeds a watch until its reader is gone, the engine is closed, or what it needs was compacted.
pub(crate) async fn feed(inner: Weak<Inner>, sender: Sender, bounds: Bounds, from: u64) {
    let Some(mut published) = inner.upgrade().map(|inner| inner.shared.published.subscribe())
    else {
        return;
    };
    let mut next = from;
    loop {
        tokio::select! {
            () = sender.closed() => return,
            changed = published.wait_for(|revision| *revision >= next) => {
                if changed.is_err() {
                    return;
                }
            }
        }
        let Some(strong) = inner.upgrade() else { return };
        let read = read(&strong, &bounds, next).await;
        drop(strong);
        match read {
            Ok((batches, after)) => {
                next = after;
                for batch in batches {
                    if sender.send(Ok(batch)).await.is_err() {
                        return;
                    }
                }
                tokio::task::yield_now().await;
            }
            // The state cannot be read at the moment: the next publication brings it back.
            Err(StoreError::Unavailable { .. }) => {
                tokio::select! {
                    () = sender.closed() => return,
                    changed = published.changed() => if changed.is_err() { return },
                }
            }
            Err(error) => return drop(sender.send(Err(error)).await),
        }
    }
}

async fn read(
    inner: &Arc<Inner>,
    bounds: &Bounds,
    next: u64,
) -> Result<(Vec<WatchBatch>, u64), StoreError> {
    inner.read(|view| {
        if next < view.compacted {
            return Ok(Err(StoreError::Compacted {
                asked: Revision(next),
                oldest: Revision(view.compacted),
            }));
        }
        view.changes(bounds, next).map(Ok)
    })?
}
