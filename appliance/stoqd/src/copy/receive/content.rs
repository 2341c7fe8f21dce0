//! The receiver's part while one file's content arrives, from BEGIN to END or ABORT.

use bytes::Bytes;

use super::super::error::{CopyError, Failure};
use super::super::existing::Existing;
use super::super::partial::{Partial, Target};
use super::super::wire::{Digest, Entry, EntryKind, ErrorCode, Outcome};
use super::{Claim, Current, Receiver, Sink, State, failed, protocol};

impl Receiver {
    /// The claim of the entry whose turn it is
    fn take_claim(&mut self, entry: u64) -> Result<Claim, CopyError> {
        if self.current.is_some() {
            return Err(protocol("a file starts before the last one ended"));
        }
        if self.wanted.front() != Some(&entry) {
            return Err(protocol(format_args!("it is not the turn of entry {entry}")));
        }
        self.wanted.pop_front();
        let state = self.unsettled.get_mut(&entry).map(|unsettled| &mut unsettled.state);
        match state.map(|state| std::mem::replace(state, State::Working)) {
            Some(State::Wanted(claim)) => {
                if matches!(claim, Claim::Partial(_)) {
                    self.partials_waiting -= 1;
                }
                Ok(claim)
            }
            _ => Err(protocol(format_args!("entry {entry} was not wanted"))),
        }
    }

    pub(super) fn begin(&mut self, entry: u64, offset: u64) -> Result<(), CopyError> {
        let claim = self.take_claim(entry)?;
        let held = match &claim {
            Claim::Nothing => 0,
            Claim::Partial(partial) => partial.written(),
            Claim::Existing(existing) => existing.held.bytes,
        };
        if offset != 0 && offset != held {
            return Err(protocol(format_args!("entry {entry} begins at {offset}, not at {held}")));
        }
        let Some(unsettled) = self.unsettled.get_mut(&entry) else { return Ok(()) };
        let EntryKind::File { size } = unsettled.offer.kind else { return Ok(()) };
        unsettled.counted = offset;
        self.tally.begun(&unsettled.offer.path, offset);
        let offer = unsettled.offer.clone();
        let (sink, failure) = match self.open_sink(claim, offset, &offer, size) {
            Ok(sink) => (sink, None),
            Err(failure) => (Sink::Nowhere, Some(failure)),
        };
        self.current = Some(Current { entry, remaining: size - offset, sink });
        failure.map_or(Ok(()), |failure| self.settle(entry, failed(failure)))
    }

    /// Opens what the content goes to, with room for all of it
    fn open_sink(
        &mut self,
        claim: Claim,
        offset: u64,
        offer: &Entry,
        size: u64,
    ) -> Result<Sink, Failure> {
        let partial = match (claim, offset) {
            (Claim::Existing(existing), 1..) => return Ok(Sink::Existing(existing)),
            (Claim::Partial(partial), 1..) => partial,
            (Claim::Partial(partial), 0) => Box::new(partial.restart()?),
            (Claim::Nothing | Claim::Existing(_), _) => {
                Box::new(Partial::start(self.target(offer, size)?)?)
            }
        };
        match partial.reserve() {
            Ok(()) => Ok(Sink::Partial(partial)),
            Err(failure) => partial.leave().and(Err(failure)),
        }
    }

    fn target(&mut self, offer: &Entry, size: u64) -> Result<Target, Failure> {
        match &mut self.destination {
            Some(destination) => destination.target(offer, size),
            None => Err(Failure::new(ErrorCode::Failed, "the destination is not decided")),
        }
    }

    /// An existing file turned out to be the sender's
    fn confirm(&mut self, entry: u64, existing: Existing) -> Result<(), CopyError> {
        let Some(unsettled) = self.unsettled.get(&entry) else { return Ok(()) };
        let offer = unsettled.offer.clone();
        let outcome = self
            .target(&offer, existing.held.bytes)
            .and_then(|target| existing.confirm(&target))
            .map_or_else(failed, |()| Outcome::Unchanged);
        self.settle(entry, outcome)
    }

    pub(super) fn content(&mut self, piece: Bytes) -> Result<(), CopyError> {
        let bytes = piece.len() as u64;
        let Some(current) = &mut self.current else {
            return Err(protocol("file content came outside of a file"));
        };
        let entry = current.entry;
        current.remaining = current.remaining.checked_sub(bytes).ok_or_else(|| {
            protocol(format_args!("entry {entry} has more content than its size"))
        })?;
        let written = match &mut current.sink {
            Sink::Partial(partial) => partial.write(piece),
            Sink::Existing(_) | Sink::Nowhere => Ok(()),
        };
        self.tally.transferred(bytes);
        if let Some(unsettled) = self.unsettled.get_mut(&entry) {
            unsettled.counted += bytes;
        }
        match written {
            Ok(()) => Ok(()),
            Err(failure) => self.give_up(failure),
        }
    }

    /// The current file cannot be written: what has arrived stays, what still comes is thrown away
    fn give_up(&mut self, failure: Failure) -> Result<(), CopyError> {
        let Some(current) = &mut self.current else { return Ok(()) };
        let entry = current.entry;
        let sink = std::mem::replace(&mut current.sink, Sink::Nowhere);
        let failure = leave(sink, failure);
        self.settle(entry, failed(failure))
    }

    pub(super) fn end(&mut self, digest: Digest) -> Result<(), CopyError> {
        let Some(Current { entry, remaining, sink }) = self.current.take() else {
            return Err(protocol("a file ends that never began"));
        };
        if remaining > 0 && !matches!(sink, Sink::Nowhere) {
            let text = format_args!("entry {entry} ends {remaining} octets before its size");
            self.current = Some(Current { entry, remaining, sink });
            return Err(protocol(text));
        }
        match sink {
            Sink::Partial(partial) => {
                self.finish_later(entry, move || partial.finish(digest).map(|()| Outcome::Verified))
            }
            Sink::Existing(existing) if existing.held.digest == digest => {
                self.confirm(entry, existing)
            }
            Sink::Existing(_) => Err(protocol(format_args!("entry {entry} has two digests"))),
            Sink::Nowhere => Ok(()),
        }
    }

    pub(super) fn abort(&mut self, entry: u64, failure: Failure) -> Result<(), CopyError> {
        let sink = match self.current.take() {
            Some(current) if current.entry == entry => current.sink,
            Some(current) => {
                self.current = Some(current);
                return Err(protocol(format_args!("entry {entry} is given up while another runs")));
            }
            None => match self.take_claim(entry)? {
                Claim::Partial(partial) => Sink::Partial(partial),
                Claim::Nothing | Claim::Existing(_) => Sink::Nowhere,
            },
        };
        if !self.unsettled.contains_key(&entry) {
            return Ok(()); // this side gave it up first
        }
        let failure = leave(sink, failure);
        self.settle(entry, failed(failure))
    }
}

/// Puts down an unfinished file. A source that changed has no use for what was received of it.
fn leave(sink: Sink, failure: Failure) -> Failure {
    let Sink::Partial(partial) = sink else { return failure };
    let left = match failure.code {
        ErrorCode::SourceChanged => partial.remove(),
        _ => partial.leave(),
    };
    match left {
        Ok(()) => failure,
        Err(second) => {
            Failure::new(failure.code, format_args!("{}; moreover, {}", failure.text, second.text))
        }
    }
}
