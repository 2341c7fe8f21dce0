//! The receiver's role: decides for each entry on offer whether it is wanted, writes what arrives, and says
//! how each entry ended. It runs on one blocking thread and knows the flow only as two queues; flushing to
//! stable storage and renaming is spread over a few more threads.

mod content;

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};

use super::destination::Destination;
use super::error::{CopyError, Failure};
use super::existing::{self, Existing, Found};
use super::outbox::Outbox;
use super::partial::{Partial, Target};
use super::place::Place;
use super::tally::{Summary, Tally};
use super::wire::{
    ENTRIES_IN_FLIGHT_MAX, Entry, EntryKind, ErrorCode, Event, Held, Message, Outcome, Source,
};
use super::{FINISHERS_MAX, Options};

/// Partial files that may be open while they wait for their turn; a further one starts over
const PARTIALS_WAITING_MAX: usize = 16;

/// What reaches the file thread
pub(super) enum Input {
    Event(Event),
    /// A finisher is done with an entry
    Finished {
        entry: u64,
        result: Result<Outcome, Failure>,
    },
}

impl From<Event> for Input {
    fn from(event: Event) -> Self {
        Self::Event(event)
    }
}

/// What the receiver claimed to hold of a wanted file. Waiting files hold no descriptors but for the few
/// partial ones.
enum Claim {
    Nothing,
    Partial(Box<Partial>),
    Existing(Existing),
}

/// Where an entry without a verdict stands
enum State {
    Wanted(Claim),
    /// The end of a directory, waiting for all entries before it
    Leaving,
    /// Being received or finished
    Working,
}

struct Unsettled {
    offer: Entry,
    /// Octets the progress counts already
    counted: u64,
    state: State,
}

/// Where the content that arrives goes
enum Sink {
    Partial(Box<Partial>),
    Existing(Existing),
    /// The file was given up; its content is still on the way
    Nowhere,
}

struct Current {
    entry: u64,
    remaining: u64,
    sink: Sink,
}

pub(super) struct Receiver {
    place: Option<Place>,
    destination: Option<Destination>,
    options: Options,
    outbox: Outbox,
    input: mpsc::Receiver<Input>,
    /// Weak, so that the queue ends when the flow does
    again: mpsc::WeakSender<Input>,
    runtime: Handle,
    finishers: Arc<Semaphore>,
    unsettled: BTreeMap<u64, Unsettled>,
    wanted: VecDeque<u64>,
    current: Option<Current>,
    entries: u64,
    ended: bool,
    partials_waiting: usize,
    tally: Tally,
}

fn protocol(text: impl std::fmt::Display) -> CopyError {
    CopyError::Protocol(text.to_string())
}

impl Receiver {
    pub fn new(
        place: Place,
        options: Options,
        outbox: Outbox,
        (input, again): (mpsc::Receiver<Input>, mpsc::WeakSender<Input>),
        runtime: Handle,
        tally: Tally,
    ) -> Self {
        Self {
            place: Some(place),
            destination: None,
            options,
            outbox,
            input,
            again,
            runtime,
            finishers: Arc::new(Semaphore::new(FINISHERS_MAX)),
            unsettled: BTreeMap::new(),
            wanted: VecDeque::new(),
            current: None,
            entries: 0,
            ended: false,
            partials_waiting: 0,
            tally,
        }
    }

    /// Receives everything and returns what became of it
    pub fn run(mut self) -> Result<Summary, CopyError> {
        let result = self.work();
        if let Some(Current { sink: Sink::Partial(partial), .. }) = self.current.take() {
            // The transfer's own error is what matters; an empty partial file that stays is used again.
            drop(partial.leave());
        }
        // Files still being finished keep their locks, which the next run would stumble over.
        let finished = self.runtime.block_on(self.finishers.acquire_many(FINISHERS_MAX as u32));
        drop(finished.map_err(|error| CopyError::Worker(error.to_string()))?);
        result?;
        Ok(self.tally.summary())
    }

    fn work(&mut self) -> Result<(), CopyError> {
        while !(self.ended && self.unsettled.is_empty()) {
            let input = match self.input.try_recv() {
                Ok(input) => Some(input),
                Err(_) => {
                    self.outbox.flush();
                    self.input.blocking_recv()
                }
            };
            match input.ok_or(CopyError::Truncated)? {
                Input::Event(Event::Data(piece)) => self.content(piece)?,
                Input::Event(Event::Message(message)) => self.message(message)?,
                Input::Finished { entry, result } => {
                    let outcome = result.unwrap_or_else(failed);
                    self.settle(entry, outcome)?;
                }
            }
        }
        if let Some(destination) = &self.destination {
            destination.sync()?;
        }
        self.outbox.message(&Message::Summary(self.tally.totals()))?;
        self.outbox.flush();
        Ok(())
    }

    fn message(&mut self, message: Message) -> Result<(), CopyError> {
        match message {
            Message::Source(source) => self.source(source),
            Message::Entry(entry) if self.destination.is_some() && !self.ended => self.entry(entry),
            Message::Problem { path, code, text } if self.destination.is_some() && !self.ended => {
                self.tally.failed(&path, &Failure { code, text });
                Ok(())
            }
            Message::EndOfEntries if self.destination.is_some() && !self.ended => {
                self.ended = true;
                Ok(())
            }
            Message::Begin { entry, offset } => self.begin(entry, offset),
            Message::End { digest } => self.end(digest),
            Message::Abort { entry, code, text } => self.abort(entry, Failure { code, text }),
            Message::Error { code, text } => Err(CopyError::Peer { code, text }),
            other => Err(protocol(format_args!("a sender does not send {other:?} at this moment"))),
        }
    }

    fn source(&mut self, source: Source) -> Result<(), CopyError> {
        let place = self.place.take().ok_or_else(|| protocol("SOURCE came twice"))?;
        self.tally.announced(source.files, source.bytes);
        self.destination = Some(Destination::new(place, source.name));
        Ok(())
    }

    fn entry(&mut self, entry: Entry) -> Result<(), CopyError> {
        if self.unsettled.len() == ENTRIES_IN_FLIGHT_MAX {
            let text = format_args!("more than {ENTRIES_IN_FLIGHT_MAX} entries without a verdict");
            return Err(protocol(text));
        }
        let number = self.entries;
        self.entries += 1;
        let state = match entry.kind {
            EntryKind::DirectoryEnd => State::Leaving,
            _ => State::Working,
        };
        self.unsettled.insert(number, Unsettled { offer: entry.clone(), counted: 0, state });
        match self.decide(number, &entry) {
            Ok(Some(outcome)) => self.settle(number, outcome),
            Ok(None) => self.leave_directories(),
            Err(failure) => self.settle(number, failed(failure)),
        }
    }

    /// Does what can be done at once; `None` if the entry has to wait for content or for other entries
    fn decide(&mut self, number: u64, entry: &Entry) -> Result<Option<Outcome>, Failure> {
        let Some(destination) = &mut self.destination else { return Ok(None) };
        match &entry.kind {
            EntryKind::Directory => destination.make_directory(entry).map(|()| Some(Outcome::Done)),
            EntryKind::Symlink { target } => {
                destination.make_link(entry, target).map(|()| Some(Outcome::Done))
            }
            EntryKind::DirectoryEnd => Ok(None),
            EntryKind::File { size } => {
                let target = destination.target(entry, *size)?;
                let (claim, held) = match existing::look(&target, self.options.verify_existing)? {
                    Found::Same => return Ok(Some(Outcome::Unchanged)),
                    Found::Candidate(existing) => {
                        let held = existing.held;
                        (Claim::Existing(existing), Some(held))
                    }
                    Found::Free => self.resume(&target)?,
                };
                self.want(number, claim, held).map(|()| None)
            }
        }
    }

    fn resume(&mut self, target: &Target) -> Result<(Claim, Option<Held>), Failure> {
        if self.partials_waiting < PARTIALS_WAITING_MAX
            && let Some((partial, held)) = Partial::resume(target)?
        {
            self.partials_waiting += 1;
            return Ok((Claim::Partial(Box::new(partial)), Some(held)));
        }
        Ok((Claim::Nothing, None))
    }

    fn want(&mut self, entry: u64, claim: Claim, held: Option<Held>) -> Result<(), Failure> {
        if let Some(unsettled) = self.unsettled.get_mut(&entry) {
            unsettled.state = State::Wanted(claim);
        }
        self.wanted.push_back(entry);
        self.outbox
            .message(&Message::Want { entry, held })
            .map_err(|error| Failure::new(ErrorCode::Failed, error))
    }

    /// Lets another thread wait for stable storage
    fn finish_later(
        &mut self,
        entry: u64,
        work: impl FnOnce() -> Result<Outcome, Failure> + Send + 'static,
    ) -> Result<(), CopyError> {
        // A finisher returns its permit before it reports, so this wait ends whatever the queue holds.
        let permit = self
            .runtime
            .block_on(Arc::clone(&self.finishers).acquire_owned())
            .map_err(|error| CopyError::Worker(error.to_string()))?;
        let again = self.again.upgrade();
        self.runtime.spawn_blocking(move || {
            let result = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
                Err(Failure::new(ErrorCode::Failed, "the thread that finishes the file failed"))
            });
            drop(permit);
            if let Some(again) = again {
                // Refused only when the transfer is over; the file itself is in place or not, as it was.
                drop(again.blocking_send(Input::Finished { entry, result }));
            }
        });
        Ok(())
    }

    /// Gives an entry its verdict, which may be what the end of a directory waits for
    fn settle(&mut self, entry: u64, outcome: Outcome) -> Result<(), CopyError> {
        self.verdict(entry, outcome)?;
        self.leave_directories()
    }

    fn verdict(&mut self, entry: u64, outcome: Outcome) -> Result<(), CopyError> {
        let Some(Unsettled { offer, counted, .. }) = self.unsettled.remove(&entry) else {
            return Err(CopyError::Worker(format!("entry {entry} was settled twice")));
        };
        self.tally.settled(&offer.path, &offer.kind, counted, &outcome);
        self.outbox.message(&Message::Verdict { entry, outcome })
    }

    /// Ends the directory whose end is the oldest entry without a verdict
    fn leave_directories(&mut self) -> Result<(), CopyError> {
        while let Some(mut first) = self.unsettled.first_entry() {
            let entry = *first.key();
            let unsettled = first.get_mut();
            let (State::Leaving, Some(destination)) = (&unsettled.state, &mut self.destination)
            else {
                break;
            };
            unsettled.state = State::Working;
            match destination.ending(&unsettled.offer) {
                Ok(ending) => {
                    self.finish_later(entry, move || ending.finish().map(|()| Outcome::Done))?;
                }
                Err(failure) => self.verdict(entry, failed(failure))?,
            }
        }
        Ok(())
    }
}

fn failed(Failure { code, text }: Failure) -> Outcome {
    Outcome::Failed { code, text }
}
