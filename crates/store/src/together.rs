//! Reads that belong together: those that answer one request of a client.
//!
//! A read of the latest state sees all that was acknowledged before it began. For an engine whose state is shared by several
//! machines it costs a round trip to know what that is. Inside [`together`] a read sees what was acknowledged before the
//! *first* of its reads began (at most [`TOGETHER_MAX`] ago), whatever this process has committed since, and never less than
//! the reads before it: so the engine asks once for all of them. What is answered from it is as linearizable as with each read
//! on its own, for none of it is older than the request.
//!
//! It is not for work that learns by other ways than the store, while it runs, that there is something new to read: that
//! would have to be [`TOGETHER_MAX`] old. A task that is spawned is on its own, unless
//! it goes on with [`inherit`].

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use dtr_types::Revision;

/// For how long what was found out to be the latest revision is enough.
pub const TOGETHER_MAX: Duration = Duration::from_millis(250);

/// What an engine has found out.
#[derive(Clone, Copy, Debug)]
struct Confirmed {
    engine: u64,
    /// The engine's own count of whatever makes earlier confirmations worthless.
    epoch: u64,
    revision: Revision,
    asked: Instant,
}

tokio::task_local! {
    static CONFIRMED: Cell<Option<Confirmed>>;
    static AS_KNOWN: ();
    static LATELY: ();
}

/// The reads of the latest state in `work` belong together.
pub async fn together<F: Future>(work: F) -> F::Output {
    CONFIRMED.scope(Cell::new(None), work).await
}

/// `work` is to be spawned, and goes on with what is known here.
pub fn inherit<F: Future>(work: F) -> impl Future<Output = F::Output> {
    let confirmed = CONFIRMED.try_with(Cell::get).ok().flatten();
    CONFIRMED.scope(Cell::new(confirmed), work)
}

/// As [`together`], but what was confirmed for others is good for `work` too, if it is not older than [`TOGETHER_MAX`]: for what
/// changes nothing and says nothing that is not looked at again before it matters.
pub async fn lately<F: Future>(work: F) -> F::Output {
    LATELY.scope((), together(work)).await
}

/// For engines: whether confirmations for others are good here.
pub fn is_lately() -> bool {
    LATELY.try_with(|()| ()).is_ok()
}

/// `work` is answered from the latest state that this machine has, whether or not there is a later one: for what cannot have
/// changed, while nobody can be asked.
pub async fn as_known<F: Future>(work: F) -> F::Output {
    AS_KNOWN.scope((), work).await
}

/// For engines: whether the latest state at hand is late enough here.
pub fn is_as_known() -> bool {
    AS_KNOWN.try_with(|()| ()).is_ok()
}

/// For engines: the revision that reads here must not be older than, if it is known. `engine` tells apart the engines of a
/// process.
pub fn confirmed(engine: u64, epoch: u64) -> Option<Revision> {
    let found = CONFIRMED.try_with(Cell::get).ok().flatten()?;
    let good = found.engine == engine && found.epoch == epoch;
    (good && found.asked.elapsed() < TOGETHER_MAX).then_some(found.revision)
}

/// For engines: at or after `asked`, `revision` was found to be the latest.
pub fn confirm(engine: u64, epoch: u64, revision: Revision, asked: Instant) {
    let confirmed = Confirmed { engine, epoch, revision, asked };
    // Outside of `together` nobody asks for it.
    let _ = CONFIRMED.try_with(|found| found.set(Some(confirmed)));
}

/// For engines: a read here was answered from the state at `revision`; the next ones must not be answered from an older one.
pub fn seen(engine: u64, revision: Revision) {
    let _ = CONFIRMED.try_with(|found| {
        if let Some(mut confirmed) = found.get()
            && confirmed.engine == engine
        {
            confirmed.revision = confirmed.revision.max(revision);
            found.set(Some(confirmed));
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_confirmed_is_good_for_its_engine_and_for_a_while() {
        confirm(1, 0, Revision(5), Instant::now());
        assert_eq!(confirmed(1, 0), None, "outside");
        together(async {
            assert_eq!(confirmed(1, 0), None, "nothing was asked yet");
            confirm(1, 0, Revision(5), Instant::now());
            assert_eq!(confirmed(1, 0), Some(Revision(5)));
            assert_eq!(confirmed(2, 0), None, "another engine");
            assert_eq!(confirmed(1, 1), None, "another epoch");
            seen(1, Revision(7));
            seen(1, Revision(6));
            seen(2, Revision(9));
            assert_eq!(confirmed(1, 0), Some(Revision(7)), "what was seen stays seen");
            let spawned = tokio::spawn(async { confirmed(1, 0) });
            assert_eq!(spawned.await.expect("no panic"), None, "a task on its own");
            let spawned = tokio::spawn(inherit(async { confirmed(1, 0) }));
            assert_eq!(spawned.await.expect("no panic"), Some(Revision(7)), "a part of it");
            let long_ago =
                Instant::now().checked_sub(TOGETHER_MAX).expect("the machine runs longer");
            confirm(1, 0, Revision(8), long_ago);
            assert_eq!(confirmed(1, 0), None, "too old");
        })
        .await;
    }
}
