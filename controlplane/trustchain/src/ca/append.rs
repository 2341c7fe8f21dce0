//! The one way other parts write into the authority's journal, as a trait: revocation and audit need nothing
//! else of the service, and their tests run on a journal alone.

use std::future::Future;
use std::pin::Pin;

use super::api::{Ca, Refusal};
use super::entry::Entry;

/// What is to come of an append
pub type Appending<'a> = Pin<Box<dyn Future<Output = Result<u64, Refusal>> + Send + 'a>>;

/// Appends entries to the authority's journal
pub trait AppendEntries: Send + Sync {
    /// Appends entries, all or none, in one group; durable when this returns the sequence of the first.
    ///
    /// A caller that stops waiting does not take them back.
    fn append_entries(&self, entries: Vec<Entry>) -> Appending<'_>;
}

impl AppendEntries for Ca {
    fn append_entries(&self, entries: Vec<Entry>) -> Appending<'_> {
        Box::pin(self.append(entries))
    }
}
