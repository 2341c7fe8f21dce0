//! The sender's role: walks the source, offers entries ahead of the answers, and streams the files the
//! receiver wants in the order it wants them. It runs on one blocking thread and knows the flow only as two
//! queues.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, Seek as _, SeekFrom};
use std::os::fd::OwnedFd;

use rustix::fs::{self, FileType, Mode, OFlags};
use tokio::sync::mpsc;

use super::digest::FileDigest;
use super::error::{CopyError, Failure};
use super::metadata::Metadata;
use super::outbox::Outbox;
use super::partial::{hash_prefix, read_piece};
use super::place::{Place, Tree, reopen};
use super::tally::{Summary, Tally};
use super::walk::{Step, Walk};
use super::wire::{
    Component, ENTRIES_IN_FLIGHT_MAX, Entry, EntryKind, EntryPath, ErrorCode, Event, Held, Message,
    Outcome, Source, Totals,
};

/// An entry without a verdict
struct Offered {
    entry: Entry,
    wanted: bool,
    /// Octets the progress counts already
    counted: u64,
}

pub(super) struct Sender {
    place: Place,
    /// The source, if it is a directory
    tree: Option<Tree>,
    walk: Walk,
    walked: bool,
    outbox: Outbox,
    incoming: mpsc::Receiver<Event>,
    offered: BTreeMap<u64, Offered>,
    wants: VecDeque<(u64, Option<Held>)>,
    entries: u64,
    summary: Option<Totals>,
    tally: Tally,
}

/// How the sending of one file ended
enum Sent {
    Whole,
    /// The receiver has given the file up
    Unwanted,
}

fn protocol(text: impl std::fmt::Display) -> CopyError {
    CopyError::Protocol(text.to_string())
}

impl Sender {
    pub fn new(
        place: Place,
        outbox: Outbox,
        incoming: mpsc::Receiver<Event>,
        tally: Tally,
    ) -> Self {
        let walk = Walk::new(&place);
        Self {
            place,
            tree: None,
            walk,
            walked: false,
            outbox,
            incoming,
            offered: BTreeMap::new(),
            wants: VecDeque::new(),
            entries: 0,
            summary: None,
            tally,
        }
    }

    /// Sends everything and returns what became of it
    pub fn run(mut self, name: Option<Component>) -> Result<Summary, CopyError> {
        let (files, bytes) = Walk::count(&self.place);
        self.tally.announced(files, bytes);
        self.outbox.message(&Message::Source(Source { name, files, bytes }))?;
        while !(self.walked && self.offered.is_empty()) {
            self.offer()?;
            match self.wants.pop_front() {
                Some((entry, held)) => self.send_file(entry, held)?,
                None if self.offered.is_empty() => {}
                None => self.wait()?,
            }
        }
        while self.summary.is_none() {
            self.wait()?;
        }
        let theirs = self.summary.unwrap_or_default();
        let ours = self.tally.totals();
        if theirs != ours {
            return Err(protocol(format_args!("it counted {theirs:?}, this side {ours:?}")));
        }
        Ok(self.tally.summary())
    }

    /// Offers entries until the window is full or the walk is over
    fn offer(&mut self) -> Result<(), CopyError> {
        while !self.walked && self.offered.len() < ENTRIES_IN_FLIGHT_MAX {
            match self.walk.next() {
                Some(Step::Entry(entry)) => {
                    if self.tree.is_none() && entry.kind == EntryKind::Directory {
                        self.tree = Some(self.open_tree()?);
                    }
                    self.outbox.message(&Message::Entry(entry.clone()))?;
                    let offered = Offered { entry, wanted: false, counted: 0 };
                    self.offered.insert(self.entries, offered);
                    self.entries += 1;
                }
                Some(Step::Problem(path, failure)) => {
                    self.tally.failed(&path, &failure);
                    let Failure { code, text } = failure;
                    self.outbox.message(&Message::Problem { path, code, text })?;
                }
                None => {
                    self.walked = true;
                    self.outbox.message(&Message::EndOfEntries)?;
                }
            }
            if self.outbox.is_closed() {
                return Err(self.last_word());
            }
        }
        Ok(())
    }

    fn open_tree(&self) -> Result<Tree, CopyError> {
        let opened = match &self.place {
            Place::Directory(directory) => reopen(directory),
            Place::Leaf { parent, name, .. } => {
                super::place::open_directory(std::os::fd::AsFd::as_fd(parent), name.as_bytes())
            }
        };
        opened.map(Tree::new).map_err(|error| Failure::io("open the source", ".", error).into())
    }

    /// Waits for the receiver's next message
    fn wait(&mut self) -> Result<(), CopyError> {
        self.outbox.flush();
        match self.incoming.blocking_recv() {
            Some(event) => self.note(event),
            None => Err(CopyError::Truncated),
        }
    }

    /// Takes in what the receiver has said meanwhile
    fn note_waiting(&mut self) -> Result<(), CopyError> {
        while let Ok(event) = self.incoming.try_recv() {
            self.note(event)?;
        }
        if self.outbox.is_closed() { Err(self.last_word()) } else { Ok(()) }
    }

    /// The flow takes nothing more: the reason may still be on its way here
    fn last_word(&mut self) -> CopyError {
        while let Some(event) = self.incoming.blocking_recv() {
            if let Event::Message(Message::Error { code, text }) = event {
                return CopyError::Peer { code, text };
            }
        }
        CopyError::Truncated
    }

    fn note(&mut self, event: Event) -> Result<(), CopyError> {
        match event {
            Event::Message(Message::Want { entry, held }) => self.note_want(entry, held),
            Event::Message(Message::Verdict { entry, outcome }) => {
                let Some(offered) = self.offered.remove(&entry) else {
                    return Err(protocol(format_args!("a verdict on entry {entry}, not on offer")));
                };
                if outcome == Outcome::Verified && !offered.wanted {
                    return Err(protocol(format_args!("entry {entry} verified but never sent")));
                }
                let Offered { entry, counted, .. } = offered;
                self.tally.settled(&entry.path, &entry.kind, counted, &outcome);
                Ok(())
            }
            Event::Message(Message::Summary(totals))
                if self.walked && self.offered.is_empty() && self.summary.is_none() =>
            {
                self.summary = Some(totals);
                Ok(())
            }
            Event::Message(Message::Error { code, text }) => Err(CopyError::Peer { code, text }),
            Event::Message(other) => {
                Err(protocol(format_args!("a receiver does not send {other:?} at this moment")))
            }
            Event::Data(_) => Err(protocol("file content came from the receiver")),
        }
    }

    fn note_want(&mut self, entry: u64, held: Option<Held>) -> Result<(), CopyError> {
        let offered = self.offered.get_mut(&entry);
        let Some(offered) = offered.filter(|offered| !offered.wanted) else {
            return Err(protocol(format_args!("entry {entry} wanted, which is not on offer")));
        };
        let EntryKind::File { size } = offered.entry.kind else {
            return Err(protocol(format_args!("entry {entry} wanted, which is no file")));
        };
        if held.is_some_and(|held| held.bytes > size) {
            return Err(protocol(format_args!("more held of entry {entry} than it has")));
        }
        offered.wanted = true;
        self.wants.push_back((entry, held));
        Ok(())
    }

    /// Sends one wanted file, or says why not
    fn send_file(&mut self, number: u64, held: Option<Held>) -> Result<(), CopyError> {
        let Some(offered) = self.offered.get(&number) else {
            return Err(protocol(format_args!("a verdict on entry {number} before it was sent")));
        };
        let entry = offered.entry.clone();
        let failure = match self.open(&entry) {
            Ok(file) => match self.stream(number, &entry, &file, held)? {
                Ok(Sent::Whole) => return Ok(()),
                Ok(Sent::Unwanted) => {
                    let text = format_args!("'{}' was given up by the receiver", entry.path);
                    Failure::new(ErrorCode::Cancelled, text)
                }
                Err(failure) => failure,
            },
            Err(failure) => failure,
        };
        let Failure { code, text } = failure;
        self.outbox.message(&Message::Abort { entry: number, code, text })
    }

    /// Opens a file and makes sure that it still is what was offered
    fn open(&mut self, entry: &Entry) -> Result<File, Failure> {
        let path = &entry.path;
        let flags =
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let open = |directory: &OwnedFd, name: &[u8]| {
            fs::openat(directory, name, flags, Mode::empty())
                .map(File::from)
                .map_err(|error| Failure::io("open", path, error))
        };
        let file = match (path.split_last(), &self.place, &mut self.tree) {
            (None, Place::Leaf { parent, name, .. }, _) => open(parent, name.as_bytes())?,
            (Some((above, name)), _, Some(tree)) => {
                open(&*tree.directory(&above)?, name.as_bytes())?
            }
            _ => return Err(changed(path)),
        };
        unchanged(&file, entry)?;
        Ok(file)
    }

    /// Streams a file from where the receiver's part ends. The outer error ends the transfer, the inner one
    /// the file.
    fn stream(
        &mut self,
        number: u64,
        entry: &Entry,
        file: &File,
        held: Option<Held>,
    ) -> Result<Result<Sent, Failure>, CopyError> {
        let EntryKind::File { size } = entry.kind else { return Ok(Err(changed(&entry.path))) };
        let failed = |error: io::Error| Failure::io("read", &entry.path, error);
        let mut digest = FileDigest::new();
        let offset = match agree(file, held, &mut digest) {
            Ok(offset) => offset,
            Err(error) => return Ok(Err(failed(error))),
        };
        self.outbox.message(&Message::Begin { entry: number, offset })?;
        self.tally.begun(&entry.path, offset);
        self.count(number, offset);
        let mut remaining = size - offset;
        while remaining > 0 {
            let hashed = read_piece(file, remaining).and_then(|piece| {
                digest.update(piece.clone())?;
                Ok(piece)
            });
            let piece = match hashed {
                Ok(piece) if piece.is_empty() => return Ok(Err(changed(&entry.path))),
                Ok(piece) => piece,
                Err(error) => return Ok(Err(failed(error))),
            };
            let bytes = piece.len() as u64;
            remaining -= bytes;
            self.outbox.content(piece)?;
            self.tally.transferred(bytes);
            self.count(number, bytes);
            self.note_waiting()?;
            if !self.offered.contains_key(&number) {
                return Ok(Ok(Sent::Unwanted));
            }
        }
        if let Err(failure) = unchanged(file, entry) {
            return Ok(Err(failure));
        }
        match digest.current() {
            Ok(digest) => self.outbox.message(&Message::End { digest })?,
            Err(error) => return Ok(Err(failed(error))),
        }
        Ok(Ok(Sent::Whole))
    }

    fn count(&mut self, number: u64, bytes: u64) {
        if let Some(offered) = self.offered.get_mut(&number) {
            offered.counted += bytes;
        }
    }
}

fn changed(path: &EntryPath) -> Failure {
    let text = format_args!("'{path}' changed while it was copied; copy it again");
    Failure::new(ErrorCode::SourceChanged, text)
}

fn unchanged(file: &File, entry: &Entry) -> Result<(), Failure> {
    let metadata = Metadata::of(file).map_err(|error| Failure::io("read", &entry.path, error))?;
    let same = metadata.kind == FileType::RegularFile
        && entry.kind == (EntryKind::File { size: metadata.size })
        && metadata.modified == entry.modified;
    if same { Ok(()) } else { Err(changed(&entry.path)) }
}

/// Compares what the receiver holds with the file's own start. Returns where to continue, with the file
/// positioned there and the digest up to there.
fn agree(mut file: &File, held: Option<Held>, digest: &mut FileDigest) -> io::Result<u64> {
    let Some(held) = held else { return Ok(0) };
    if hash_prefix(file, held.bytes, digest)? && digest.current()? == held.digest {
        return Ok(held.bytes);
    }
    file.seek(SeekFrom::Start(0))?;
    *digest = FileDigest::new();
    Ok(0)
}
