//! What the control plane remembers: an append-only journal, which is the truth, and records derived from it,
//! which can be asked. What an entry means is its writer's business; nothing here decides anything.

#![forbid(unsafe_code)]

use std::io;
use std::thread::JoinHandle;

pub mod journal;
mod lock;
pub mod records;

pub use journal::{Journal, JournalId};
pub use records::Records;

/// What a thread does
pub type ThreadBody = Box<dyn FnOnce() + Send>;

/// Starts a thread under a name. The process's composition root owns its threads, so it passes this in;
/// [`named_thread`] does for one that wants nothing special.
pub type StartThread<'a> = &'a dyn Fn(&str, ThreadBody) -> io::Result<JoinHandle<()>>;

/// Starts a plain thread under a name
pub fn named_thread(name: &str, body: ThreadBody) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.into()).spawn(body)
}
