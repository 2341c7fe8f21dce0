//! Consensus on whatever runtime there is: `validator` runs it on tokio and a thread of its own, simulations on one that
//! repeats itself. A node that is no validator of the epoch follows it all the same.

use std::sync::Arc;

use commonware_runtime::Handle;
use commonware_utils::channel::oneshot;

use super::application::Application;
pub use super::core::{Client, Finalised, NodeConfig, NodeError, Requests, SubmitError};
use super::core::{Core, Parts, channel};
pub use super::core::{Status, ValidatorStatus};
pub use super::engine::Runtime;
use super::network::{Inbox, Wire};

/// A node that is about to begin
pub struct Node {
    /// Resolves once what is stored is read and the engine runs; its sender is dropped if that fails
    pub ready: oneshot::Receiver<()>,
    /// Ends with the node, and says why it ended if not by being stopped. Aborting it is like a crash.
    pub task: Handle<Result<(), NodeError>>,
    /// Where the transport hands in frames
    pub inbox: Inbox,
    /// How the rest of the process reaches it
    pub client: Client,
}

/// Starts consensus as a task of a runtime
pub fn start<E: Runtime>(
    context: E,
    config: NodeConfig,
    application: Box<dyn Application>,
    wire: Arc<dyn Wire>,
) -> Node {
    let (inbox, frames) = Inbox::new();
    let (client, Requests(requests)) = channel();
    let parts = Parts { config, application, wire, inbox: inbox.clone(), frames, requests };
    let (begun, ready) = oneshot::channel();
    let task = context.spawn(move |context| async move {
        let core = Core::open(context, parts).await?;
        // Whoever started it may not care when it is ready.
        let _ = begun.send(());
        core.run().await
    });
    Node { ready, task, inbox, client }
}
