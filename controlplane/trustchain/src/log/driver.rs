//! A whole log over blocking storage: sequencer, journal, signer and published files in the right order. For
//! tests, tools and small authorities; a server that awaits its journal drives the same parts itself, in the
//! same order.

use std::io;

use rcgen::SigningKey;

use super::entry::SignedEntry;
use super::key::{LogSigner, SignError};
use super::merkle::TreeHead;
use super::proof::{self, ProofBundle, ProveError};
use super::publisher::{PublishError, Publisher, Start};
use super::record::Record;
use super::recovery::{self, Recovered, Recovery, StartError};
use super::release::{DurableHead, SignedHead, Ticket};
use super::sct::Sct;
use super::sequencer::{Limits, Sequencer, SequencerError, Submitted};
use super::store::{Journal, Published, StoreError};
use super::submission::{IssuerChain, Submission};
use super::wire::Malformed;

/// How a log is opened
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// How much it holds
    pub limits: Limits,
    /// Whether published files may be missing
    pub start: Start,
    /// Heads that witnesses and peers have seen; the published checkpoint counts without being named
    pub known_heads: Vec<TreeHead>,
}

/// Why the log did not do something
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The sequencer refuses
    #[error(transparent)]
    Sequencer(#[from] SequencerError),
    /// The journal failed; the log has stopped
    #[error(
        "the log's journal failed: {0}; what the disk holds is not known, so nothing is logged \
         until the daemon is restarted"
    )]
    Journal(io::Error),
    /// Publishing failed; the log has stopped
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The head could not be signed; the log goes on
    #[error("the tree head was not signed: {0}")]
    Sign(#[from] SignError),
    /// A record could not be made
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

impl From<StoreError> for LogError {
    fn from(error: StoreError) -> Self {
        Self::Publish(error.into())
    }
}

/// What became of a submission
#[derive(Debug)]
pub enum Outcome {
    /// `commit` will name it
    Waiting(Ticket),
    /// It was in the log before; this is its SCT, newly signed
    Logged(Sct),
}

/// An entry that is in the log
#[derive(Debug)]
pub struct Release {
    /// What it was handed in under
    pub ticket: Ticket,
    /// Its index
    pub leaf_index: u64,
    /// What was logged
    pub signed: SignedEntry,
    /// Its SCT; where the signer failed, handing the same in again tries anew
    pub sct: Result<Sct, SignError>,
}

/// A log
#[derive(Debug)]
pub struct Log<J, P, S> {
    journal: J,
    publisher: Publisher<P>,
    sequencer: Sequencer,
    signer: LogSigner<S>,
}

impl<J: Journal, P: Published, S: SigningKey> Log<J, P, S> {
    /// Makes a log in an empty journal; the first `publish` gives it the checkpoint of the empty tree
    pub fn create(
        mut journal: J,
        store: P,
        signer: LogSigner<S>,
        limits: Limits,
        now_ms: u64,
    ) -> Result<Self, StartError> {
        let first = journal.replay().map_err(StartError::Journal)?.next().transpose();
        let first = first.map_err(StartError::Journal)?;
        let publisher = Publisher::new(store, signer.verifier(), Start::Checked)?;
        if first.is_some() || publisher.published().is_some() {
            return Err(StartError::Exists);
        }
        let verifier = signer.verifier();
        let created = Record::Created {
            origin: verifier.origin().into(),
            spki_der: verifier.spki_der().into(),
            created_ms: now_ms,
        };
        let damaged = |reason| StartError::Damaged { record: 1, reason };
        let record = created.encode().map_err(damaged)?;
        let mut recovery = Recovery::new(verifier.clone(), limits, &[])?;
        recovery.record(&record)?;
        journal.append(&record).map_err(StartError::Journal)?;
        let sequencer = recovery.finish(now_ms)?;
        Ok(Self { journal, publisher, sequencer, signer })
    }

    /// Opens a log: reads its journal, checks the published files and writes those that are missing because
    /// of a crash. A checkpoint that was signed and not published is published now.
    pub fn open(
        mut journal: J,
        store: P,
        signer: LogSigner<S>,
        settings: &Settings,
        now_ms: u64,
    ) -> Result<Self, StartError> {
        let verifier = signer.verifier().clone();
        let first = journal.replay().map_err(StartError::Journal)?.next().transpose();
        if let Some(first) = first.map_err(StartError::Journal)? {
            recovery::check_identity(&first, &verifier)?;
        }
        let mut publisher = Publisher::new(store, &verifier, settings.start)?;
        let mut known = settings.known_heads.clone();
        known.extend(publisher.published().map(|checkpoint| checkpoint.head));
        let mut recovery = Recovery::new(verifier, settings.limits, &known)?;
        for record in journal.replay().map_err(StartError::Journal)? {
            let record = record.map_err(StartError::Journal)?;
            match recovery.record(&record)? {
                Recovered::Issuer(der) => publisher.issuer(&der)?,
                Recovered::Entries(entries) => {
                    for entry in entries {
                        publisher.entry(entry.leaf_hash, &entry.tile_leaf)?;
                    }
                }
                Recovered::Created | Recovered::Head => {}
            }
        }
        let sequencer = recovery.finish(now_ms)?;
        publisher.settle_full()?;
        let mut log = Self { journal, publisher, sequencer, signer };
        log.publish_last()?;
        Ok(log)
    }

    /// Registers the certificates of a chain; needed once per authority
    pub fn register(&mut self, chain: &IssuerChain) -> Result<(), LogError> {
        for (der, fingerprint) in chain.certificates().iter().zip(chain.fingerprints()) {
            if self.sequencer.knows_issuer(fingerprint) {
                continue;
            }
            self.sequencer.check_issuers()?;
            let record = Record::Issuer { der: der.clone() }.encode()?;
            self.append(&record)?;
            self.sequencer.issuer_durable(*fingerprint);
            let published = self.publisher.issuer(der);
            self.or_stop(published)?;
        }
        Ok(())
    }

    /// Takes something to be logged; it is not logged before `commit` says so
    pub fn submit(&mut self, submission: Submission) -> Result<Outcome, LogError> {
        match self.sequencer.submit(submission)? {
            Submitted::Waiting(ticket) => Ok(Outcome::Waiting(ticket)),
            Submitted::Logged(durable) => Ok(Outcome::Logged(durable.sign_sct(&self.signer)?)),
        }
    }

    /// Logs a batch of what waits: durable first, then SCTs. Nothing waits: nothing is returned.
    pub fn commit(&mut self, now_ms: u64) -> Result<Vec<Release>, LogError> {
        let Some(batch) = self.sequencer.seal(now_ms)? else { return Ok(Vec::new()) };
        self.append(batch.record())?;
        let released = self.sequencer.batch_durable(batch, now_ms)?;
        let mut releases = Vec::with_capacity(released.len());
        for one in released {
            let kept = self.publisher.entry(*one.durable.leaf_hash(), &one.tile_leaf);
            self.or_stop(kept)?;
            let entry = one.durable.entry();
            releases.push(Release {
                ticket: one.ticket,
                leaf_index: entry.leaf_index,
                signed: entry.signed.clone(),
                sct: one.durable.sign_sct(&self.signer),
            });
        }
        Ok(releases)
    }

    /// Signs and publishes a checkpoint over all that is logged; `None` where there is nothing new
    pub fn publish(&mut self, now_ms: u64) -> Result<Option<DurableHead>, LogError> {
        let Some(head) = self.sequencer.next_head(now_ms)? else { return Ok(None) };
        let signed: SignedHead = match head.sign(&self.signer) {
            Ok(signed) => signed,
            Err(error) => {
                self.sequencer.head_abandoned(head);
                return Err(error.into());
            }
        };
        self.append(signed.record())?;
        let durable = self.sequencer.head_durable(signed)?;
        let published = self.publisher.publish(&durable, self.signer.verifier());
        self.or_stop(published)?;
        Ok(Some(durable))
    }

    /// The proof that entry `index` is under the published checkpoint; `None` where it is not yet
    pub fn prove(&self, index: u64) -> Result<Option<ProofBundle>, ProveError> {
        match self.publisher.published() {
            Some(checkpoint) if index < checkpoint.head.size => {
                proof::prove(self.publisher.store(), checkpoint, index).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// The sequencer, to be asked what it holds
    pub fn sequencer(&self) -> &Sequencer {
        &self.sequencer
    }

    /// The published files, to be asked what is public
    pub fn publisher(&self) -> &Publisher<P> {
        &self.publisher
    }

    /// A head that the journal has and the world does not, because of a crash in between. Where entries came
    /// after it, the next head covers them all and this one is not needed.
    fn publish_last(&mut self) -> Result<(), StartError> {
        let Some(last) = self.sequencer.last_head() else { return Ok(()) };
        let published = self.publisher.published().map(|checkpoint| checkpoint.head);
        if published == Some(last.head()) || last.head().size != self.publisher.size() {
            return Ok(());
        }
        match self.publisher.publish(last, self.signer.verifier()) {
            Ok(()) => Ok(()),
            Err(PublishError::Store(error)) => Err(error.into()),
            // The sizes were compared just above.
            Err(PublishError::Order { .. }) => Ok(()),
        }
    }

    fn append(&mut self, record: &[u8]) -> Result<(), LogError> {
        let appended = self.journal.append(record).map_err(LogError::Journal);
        self.or_stop(appended)
    }

    fn or_stop<E: Into<LogError>>(&mut self, result: Result<(), E>) -> Result<(), LogError> {
        if result.is_err() {
            self.sequencer.stop();
        }
        result.map_err(Into::into)
    }
}

#[cfg(test)]
#[path = "driver_tests.rs"]
mod tests;
