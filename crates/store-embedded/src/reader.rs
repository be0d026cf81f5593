//! The thread for reads that nobody waits for at once: long pages of earlier revisions, which are those of backups. It stands
//! behind everything else when processors are scarce, so that commits and short reads do not feel them.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
};

use dtr_store::StoreError;
use tokio::sync::{mpsc, oneshot};

/// How far behind (the `nice` value, 0 to 19).
const NICENESS: i32 = 15;
/// Reads that wait for the thread at most; more callers wait outside.
const QUEUE: usize = 16;

type Read = Box<dyn FnOnce() + Send>;

/// The thread's front. Dropping it ends the thread after what is queued.
pub(crate) struct Reader(mpsc::Sender<Read>);

impl Reader {
    pub(crate) fn start() -> Result<Self, StoreError> {
        let (sender, mut receiver) = mpsc::channel::<Read>(QUEUE);
        let run = move || {
            if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
                // Long reads are only less polite.
                tracing::debug!(%error, "the priority of long reads could not be lowered");
            }
            while let Some(read) = receiver.blocking_recv() {
                // A read that panics has answered nobody, which its caller sees.
                if catch_unwind(AssertUnwindSafe(read)).is_err() {
                    tracing::error!("a read of the store failed");
                }
            }
        };
        thread::Builder::new()
            .name("store-read".to_owned())
            .spawn(run)
            .map_err(|e| StoreError::Unavailable { reason: e.to_string() })?;
        Ok(Self(sender))
    }

    /// Reads there.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let ended = || StoreError::Unavailable { reason: "the store's reader ended".to_owned() };
        let (reply, answer) = oneshot::channel();
        let read: Read = Box::new(move || drop(reply.send(read())));
        self.0.send(read).await.map_err(|_| ended())?;
        answer.await.unwrap_or_else(|_| Err(ended()))
    }
}
