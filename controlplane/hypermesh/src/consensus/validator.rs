//! Consensus on a thread of its own, with a runtime of its own and a directory of its own. The rest of the process
//! talks to it over channels, from any runtime or none, and outlives it.

use std::any::Any;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use commonware_runtime::{Runner as _, Supervisor as _, tokio};

use super::application::Application;
use super::genesis::Genesis;
use super::network::{Inbox, Wire};
use super::node::{self, Client, NodeConfig, NodeError};
use super::settings::Settings;
use crate::operation::ValidatorKey;

/// Threads that write and read files
const FILE_THREADS: usize = 8;

/// What a validator is started with
pub struct ValidatorConfig {
    /// The network
    pub genesis: Arc<Genesis>,
    /// The secret half of its Ed25519 key
    pub secret: [u8; 32],
    /// Where it keeps blocks, votes and evidence; made if it is not there. No other process may use it.
    pub directory: PathBuf,
    /// Its pace
    pub settings: Settings,
    /// Whom to ask beside the validators it knows of
    pub contacts: Vec<ValidatorKey>,
    /// Threads that verify and agree. One is enough for a validator that is alone.
    pub threads: usize,
}

impl fmt::Debug for ValidatorConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ValidatorConfig")
            .field("network", &self.genesis.name())
            .field("directory", &self.directory)
            .finish_non_exhaustive()
    }
}

/// Why a validator does not run
#[derive(Debug, thiserror::Error)]
pub enum ValidatorError {
    /// The directory cannot be made
    #[error("{path} cannot be made: {source}")]
    Directory {
        /// The directory
        path: PathBuf,
        /// Why
        source: std::io::Error,
    },
    /// There is no thread
    #[error("the consensus thread cannot be started: {0}")]
    Thread(std::io::Error),
    /// Consensus ended
    #[error(transparent)]
    Node(#[from] NodeError),
    /// Something was not foreseen, or the disk failed within the engine
    #[error("consensus failed: {0}")]
    Panicked(String),
}

/// A validator that runs
#[derive(Debug)]
pub struct Validator {
    client: Client,
    inbox: Inbox,
    thread: Option<JoinHandle<Result<(), ValidatorError>>>,
}

fn what(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a word".to_owned())
}

impl Validator {
    /// Starts one, and returns when it has read what it keeps and agrees. That may take as long as another process
    /// holds the directory.
    pub fn start(
        config: ValidatorConfig,
        application: Box<dyn Application>,
        wire: Arc<dyn Wire>,
    ) -> Result<Self, ValidatorError> {
        std::fs::create_dir_all(&config.directory).map_err(|source| ValidatorError::Directory {
            path: config.directory.clone(),
            source,
        })?;
        let (begun, beginning) = mpsc::channel();
        let run = move || run(config, application, wire, begun);
        let thread = std::thread::Builder::new()
            .name("consensus".to_owned())
            .spawn(run)
            .map_err(ValidatorError::Thread)?;
        match beginning.recv() {
            Ok((client, inbox)) => Ok(Self { client, inbox, thread: Some(thread) }),
            Err(mpsc::RecvError) => match join(thread) {
                Ok(()) => Err(ValidatorError::Panicked("it ended before it began".to_owned())),
                Err(error) => Err(error),
            },
        }
    }

    /// How the rest of the process reaches it
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Where the transport hands in frames
    pub fn inbox(&self) -> Inbox {
        self.inbox.clone()
    }

    /// Whether it still runs. If not, [`Validator::stop`] says why.
    pub fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Stops it and waits until its files are closed. Not to be called on a thread that drives futures.
    pub fn stop(mut self) -> Result<(), ValidatorError> {
        self.client.blocking_stop();
        match self.thread.take() {
            Some(thread) => join(thread),
            None => Ok(()),
        }
    }
}

impl Drop for Validator {
    /// Stops it as well, without waiting for the end
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.client.try_stop();
        }
    }
}

fn join(thread: JoinHandle<Result<(), ValidatorError>>) -> Result<(), ValidatorError> {
    thread.join().unwrap_or_else(|panic| Err(ValidatorError::Panicked(what(&*panic))))
}

fn run(
    config: ValidatorConfig,
    application: Box<dyn Application>,
    wire: Arc<dyn Wire>,
    begun: mpsc::Sender<(Client, Inbox)>,
) -> Result<(), ValidatorError> {
    let ValidatorConfig { genesis, secret, directory, settings, contacts, threads } = config;
    let runtime = tokio::Config::new()
        .with_worker_threads(threads.max(1))
        .with_max_blocking_threads(FILE_THREADS)
        .with_storage_directory(directory);
    let prefix = "hypermesh".to_owned();
    let config = NodeConfig { genesis, secret, settings, prefix, contacts };
    tokio::Runner::new(runtime).start(|context| async move {
        let node = node::start(context.child("consensus"), config, application, wire);
        if node.ready.await.is_ok() {
            // Whoever started it may have gone away; then nobody can stop it either, and it ends with its client.
            let _ = begun.send((node.client, node.inbox));
        }
        drop(begun);
        let ended = match node.task.await {
            Ok(ended) => ended.map_err(ValidatorError::from),
            Err(error) => Err(ValidatorError::Panicked(error.to_string())),
        };
        // Whoever started it may ask only much later.
        if let Err(error) = &ended {
            tracing::error!(%error, "the validator of this node has ended");
        }
        ended
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_panic_said_is_told() {
        let said = |panic: Box<dyn Any + Send>| what(&*panic);
        assert_eq!(said(Box::new("text")), "text");
        assert_eq!(said(Box::new("owned".to_owned())), "owned");
        assert_eq!(said(Box::new(7)), "without a word");
    }
}
