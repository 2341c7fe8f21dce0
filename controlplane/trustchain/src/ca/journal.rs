//! The transparency log's part of the authority's journal, in the shape the log wants: its records among the
//! entries of everybody else. For making a log and for checking one; a running authority appends through its commit
//! task.

use std::io;

use stoq_store::journal::{Appender, Journal, Reader};

use super::entry::Entry;
use crate::signer::block_on;

/// The log's records in a journal
pub struct LogJournal<'a> {
    journal: &'a Journal,
    appender: Appender,
}

impl<'a> LogJournal<'a> {
    /// Of an open journal. Appending blocks the thread.
    pub fn new(journal: &'a Journal) -> Self {
        Self { journal, appender: journal.appender() }
    }
}

impl crate::log::Journal for LogJournal<'_> {
    fn append(&mut self, record: &[u8]) -> io::Result<()> {
        let entries = vec![Entry::Log(record.to_vec()).encode()];
        let pending = self.appender.submit(entries).map_err(io::Error::other)?;
        block_on(pending).map(drop).map_err(io::Error::other)
    }

    fn replay(&mut self) -> io::Result<Box<dyn Iterator<Item = io::Result<Vec<u8>>> + '_>> {
        let reader = self.journal.read_after(0).map_err(io::Error::other)?;
        Ok(Box::new(Records { reader, group: Vec::new().into_iter(), ended: false }))
    }
}

struct Records {
    reader: Reader,
    group: std::vec::IntoIter<Vec<u8>>,
    ended: bool,
}

impl Iterator for Records {
    type Item = io::Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(record) = self.group.next() {
                return Some(Ok(record));
            }
            if self.ended {
                return None;
            }
            match self.reader.next_group() {
                Ok(Some(entries)) => {
                    let records: Result<Vec<_>, _> = entries
                        .into_iter()
                        .map(|entry| Entry::decode(entry.kind, &entry.payload))
                        .collect();
                    match records {
                        Ok(records) => self.group = of_the_log(records).into_iter(),
                        Err(error) => {
                            self.ended = true;
                            return Some(Err(io::Error::other(error)));
                        }
                    }
                }
                Ok(None) => self.ended = true,
                Err(error) => {
                    self.ended = true;
                    return Some(Err(io::Error::other(error)));
                }
            }
        }
    }
}

fn of_the_log(entries: Vec<Entry>) -> Vec<Vec<u8>> {
    let record = |entry| match entry {
        Entry::Log(record) => Some(record),
        _ => None,
    };
    entries.into_iter().filter_map(record).collect()
}
