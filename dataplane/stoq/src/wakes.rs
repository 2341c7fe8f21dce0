//! Wakes the program's tasks on the program's own runtime, so that no worker makes that runtime's system calls.
//! One task per worker sleeps on the worker's bell; where the endpoint is built outside a runtime, workers
//! wake tasks themselves.

use stoq_worker::{WakeListener, WorkerHandle};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;

/// Starts a listener per worker on the current runtime, if there is one
pub(crate) fn listen(workers: &[WorkerHandle]) {
    let Ok(runtime) = Handle::try_current() else { return };
    for worker in workers {
        match watch(worker) {
            Ok(listener) => drop(runtime.spawn(act(listener))),
            // The listener is gone again, and with it the worker's reason to leave wake-ups to it.
            Err(error) => tracing::warn!(
                %error,
                "the runtime could not watch a worker's bell; that worker wakes tasks itself"
            ),
        }
    }
}

#[expect(
    deprecated,
    reason = "its replacement is unsafe; a listener keeps its descriptor open and unchanged for as long as it lives"
)]
fn watch(worker: &WorkerHandle) -> std::io::Result<AsyncFd<WakeListener>> {
    AsyncFd::with_interest(worker.listen(), Interest::READABLE)
}

async fn act(listener: AsyncFd<WakeListener>) {
    loop {
        match listener.readable().await {
            Ok(mut ready) => {
                // Forgotten first: a ring from now on makes the descriptor readable anew.
                ready.clear_ready();
                if !ready.get_inner().act() {
                    return;
                }
            }
            Err(error) => {
                tracing::debug!(%error, "the runtime ends; workers wake tasks themselves");
                return;
            }
        }
    }
}
