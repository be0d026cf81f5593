//! The part of the disk that content leaves free: for the store, where it lies on the same disk, and for what removes
//! content. What is free is asked of the system once a second, and in between known from what was written.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::{
    BlobError,
    disk::{Disk, Space},
};

/// How long an answer of the system is good.
const KNOWN: Duration = Duration::from_secs(1);

/// What is known of the room on the disk.
pub(super) struct Room {
    reserve: u64,
    known: Mutex<Option<(Instant, u64)>>,
    /// Whether content was refused since there was clearly more room.
    refused: AtomicBool,
}

impl Room {
    /// That keeps so many bytes free.
    pub(super) fn new(reserve: u64) -> Self {
        Self { reserve, known: Mutex::default(), refused: AtomicBool::new(false) }
    }

    /// Why content is refused with so much room, if it is. What was refused for want of a little more counts until there is half
    /// as much again. A file system without a size, such as some that lie in the network, tells nothing.
    pub(super) fn refusal(&self, space: Space) -> Option<String> {
        if space.total == 0 || space.free >= self.reserve.saturating_add(self.reserve / 2) {
            self.refused.store(false, Ordering::Relaxed);
            return None;
        }
        let refused = space.free < self.reserve || self.refused.load(Ordering::Relaxed);
        refused.then(|| self.reason(space.free))
    }

    fn reason(&self, free: u64) -> String {
        format!(
            "{} MiB are free, and {} MiB are kept for deletions, collection and the store",
            free >> 20,
            self.reserve >> 20
        )
    }

    /// Takes room for `bytes` that are about to be written into `path`.
    ///
    /// # Errors
    /// [`BlobError::Full`] when that would touch the reserve.
    pub(super) fn take(&self, disk: &dyn Disk, bytes: u64, path: &Path) -> Result<(), BlobError> {
        if self.reserve == 0 || bytes == 0 {
            return Ok(());
        }
        let mut known = self.known.lock();
        let fits = |free: u64| free >= self.reserve.saturating_add(bytes);
        if let Some((at, free)) = &mut *known
            && at.elapsed() < KNOWN
            && fits(*free)
        {
            *free -= bytes;
            return Ok(());
        }
        // What cannot be asked is found out by writing.
        let Ok(space) = disk.space() else { return Ok(()) };
        if space.total > 0 && !fits(space.free) {
            *known = None;
            self.refused.store(true, Ordering::Relaxed);
            let action = format!("write {} ({})", path.display(), self.reason(space.free));
            return Err(BlobError::Full { action });
        }
        *known = Some((Instant::now(), space.free.saturating_sub(bytes)));
        Ok(())
    }
}
