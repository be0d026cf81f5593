//! What keeps a view up to date: a task that watches all that is ours, begins anew when the past that it needs is gone, and
//! moves a slot when nothing tells how far it has come.

use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use dtr_store::{StoreError, Watcher};
use tokio::time::Instant;

use super::{Index, Shared, View};
use crate::{client::Client, commit::fence, slots::Slots, watch::Feeds};

/// Pauses before following is tried again.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// How often it is looked whether the view is stuck. Twice in a row, while the watch lives, is enough to move a slot.
const LOOK: Duration = Duration::from_secs(1);

/// What following needs.
pub(crate) struct Following {
    pub(crate) client: Arc<Client>,
    pub(crate) slots: Arc<Slots>,
    pub(crate) index: Index,
    pub(crate) feeds: Feeds,
    pub(crate) closed: tokio::sync::watch::Receiver<()>,
}

impl View {
    /// Begins to follow, the first time that it is called; from then on, until the store is closed.
    pub(crate) fn follow(&self, following: impl FnOnce() -> Following) {
        if self.following.swap(true, Ordering::AcqRel) {
            return;
        }
        let mut following = following();
        let shared = Arc::downgrade(&self.shared);
        tokio::spawn(async move {
            let mut closed = following.closed.clone();
            tokio::select! {
                _ = closed.changed() => {}
                () = following.run(&shared) => {}
            }
        });
    }
}

impl Following {
    async fn run(&mut self, shared: &Weak<Shared>) {
        let mut pause = PAUSE;
        loop {
            let began = Instant::now();
            let why = self.once(shared).await;
            let Some(shared) = shared.upgrade() else { return };
            shared.change(0, super::Known::clear);
            tracing::debug!(%why, "the view begins anew");
            drop(shared);
            if began.elapsed() > PAUSE_MAX {
                pause = PAUSE;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Follows from now on; says why it cannot any longer.
    async fn once(&mut self, shared: &Weak<Shared>) -> StoreError {
        let now = match self.index.confirm().await {
            Ok(now) => now,
            Err(fault) => return fault.into(),
        };
        let (mut watcher, alive) = match self.feeds.begin_all(now.next()).await {
            Ok(begun) => begun,
            Err(error) => return error,
        };
        let ended = || StoreError::Unavailable { reason: "the store is closed".to_owned() };
        let Some(begun) = shared.upgrade() else { return ended() };
        begun.change(now.0, super::Known::clear);
        drop(begun);
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut stuck_at = 0;
        loop {
            tokio::select! {
                error = take(&mut watcher, shared) => match error {
                    Some(error) => return error,
                    None => continue,
                },
                _ = looks.tick() => {}
            }
            let Some(shared) = shared.upgrade() else { return ended() };
            let at = *shared.at.borrow();
            let stuck = shared.stuck.load(Ordering::Relaxed) == at;
            if stuck && stuck_at == at && alive.since().is_some_and(|since| since.elapsed() >= LOOK)
            {
                self.nudge().await;
                stuck_at = 0;
            } else {
                stuck_at = if stuck { at } else { 0 };
            }
        }
    }

    /// Makes a revision that the watch tells.
    async fn nudge(&self) {
        let mut taken = self.slots.take().await;
        // A slot that another process had under this session's name is read first, and moved then.
        for _ in 0..2 {
            taken.sent();
            match fence(&self.client, &self.slots, &taken.slot).await {
                Ok(fenced) => {
                    taken.settled(fenced.modified());
                    if fenced.stopped() {
                        return;
                    }
                }
                Err(fault) => return tracing::debug!(?fault, "the view's slot cannot be moved"),
            }
        }
    }
}

/// Takes over the next changes; the error that the watch ends with.
async fn take(watcher: &mut Watcher, shared: &Weak<Shared>) -> Option<StoreError> {
    let error = match watcher.next().await {
        Some(Ok(batch)) => {
            let shared = shared.upgrade()?;
            shared.change(batch.revision.0, |known| known.apply(batch.events));
            return None;
        }
        Some(Err(error)) => error,
        None => StoreError::Unavailable { reason: "the watch has ended".to_owned() },
    };
    Some(error)
}
