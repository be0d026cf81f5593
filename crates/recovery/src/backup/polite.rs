//! Threads that stand behind everything else when processors are scarce: a push must not feel a backup.

use std::thread;

use tokio::{runtime::Handle, sync::oneshot};

/// How far behind (the `nice` value, 0 to 19): a backup takes what pushes and pulls leave, and about a tenth of a processor
/// when they leave nothing.
const NICENESS: i32 = 15;

/// Lowers the priority of the thread that calls it, and of no other.
pub(super) fn step_back() {
    if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
        // The backup is only less polite.
        tracing::debug!(%error, "the priority of a backup could not be lowered");
    }
}

/// Runs a task on such a thread of its own. Whoever stops waiting for it ends it. `None` when the thread could not be
/// started, or died.
pub(super) async fn run<T: Send + 'static>(
    name: &str,
    task: impl Future<Output = T> + Send + 'static,
) -> Option<T> {
    let (mut result, outcome) = oneshot::channel();
    let runtime = Handle::current();
    let work = move || {
        step_back();
        runtime.block_on(async {
            tokio::select! {
                biased;
                () = result.closed() => {}
                done = task => drop(result.send(done)),
            }
        });
    };
    thread::Builder::new().name(name.to_owned()).spawn(work).ok()?;
    outcome.await.ok()
}
