//! Answers to the engine: a block to propose, whether a block may be voted for, whether it may be built on and called
//! final. An answer that cannot be given yet is not given; the engine forgets its question when the view is over.

use std::sync::Arc;

use commonware_utils::channel::oneshot;

use super::super::application::Validity;
use super::super::chain::{Fault, Kept, Lineage, Place, Verdict};
use super::super::convert::Payload;
use super::super::engine::{At, Question, Runtime};
use super::super::header::{Block, Header};
use super::super::message::Message;
use super::super::network::Channel;
use super::super::validators::ValidatorSet;
use super::{Core, NodeError, Synced, sync};
use crate::digest::Digest;

/// A block is to be proposed
pub(super) struct Proposing {
    pub(super) at: At,
    pub(super) answer: oneshot::Sender<Payload>,
    pub(super) since_ms: u64,
}

/// A block is to be judged
pub(super) struct Verifying {
    at: At,
    block: Digest,
    answer: oneshot::Sender<bool>,
}

/// A block with a quorum behind it is to be kept
pub(super) struct Certifying {
    block: Digest,
    answer: oneshot::Sender<bool>,
}

/// What can be said of a line of blocks
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Judged {
    /// All are valid
    Valid,
    /// One of them is invalid
    Invalid,
    /// One of them cannot be judged yet
    Later,
}

impl<E: Runtime> Core<E> {
    pub(super) async fn on_question(&mut self, question: Question) -> Result<(), NodeError> {
        match question {
            Question::Propose { at, answer } if at.epoch == self.epoch => {
                self.view = self.view.max(at.view);
                let since_ms = self.now_ms();
                self.proposing = Some(Proposing { at, answer, since_ms });
            }
            Question::Verify { at, block, answer } if at.epoch == self.epoch => {
                self.view = self.view.max(at.view);
                self.chain.voted(&block);
                self.verifying.push(Verifying { at, block, answer });
            }
            Question::Certify { epoch, block, answer } if epoch == self.epoch => {
                self.chain.certified(&block);
                self.certifying.push(Certifying { block, answer });
            }
            Question::Send { block, to } => self.send_block(&block, to.as_deref()),
            // Of an epoch that is over. Its answer's channel closes.
            Question::Propose { .. } | Question::Verify { .. } | Question::Certify { .. } => {}
        }
        Ok(())
    }

    /// Tries everything that waits for an answer
    pub(super) async fn advance(&mut self) -> Result<(), NodeError> {
        if self.halted.is_some() {
            return Ok(());
        }
        for waiting in std::mem::take(&mut self.certifying) {
            if let Some(waiting) = self.try_certify(waiting).await? {
                self.certifying.push(waiting);
            }
        }
        for waiting in std::mem::take(&mut self.verifying) {
            if let Some(waiting) = self.try_verify(waiting).await? {
                self.verifying.push(waiting);
            }
        }
        if let Some(waiting) = self.proposing.take() {
            self.proposing = self.try_propose(waiting).await?;
        }
        Ok(())
    }

    /// The blocks up to one, if they are all here; those missing are asked for
    pub(super) fn line(&mut self, block: &Digest) -> Option<Lineage> {
        let lineage = self.chain.lineage(block);
        if let Lineage::Missing(missing) = lineage {
            let now_ms = self.now_ms();
            self.wants.need(missing, None, now_ms);
            return None;
        }
        Some(lineage)
    }

    /// Judges blocks in their order, parents first. A quorum's word for the time is taken where `trusted`.
    pub(super) async fn judge_line(
        &mut self,
        line: &[Digest],
        trusted: bool,
    ) -> Result<Judged, NodeError> {
        for digest in line {
            match self.judge(digest, trusted).await? {
                Judged::Valid => {}
                other => return Ok(other),
            }
        }
        Ok(Judged::Valid)
    }

    pub(super) async fn judge(
        &mut self,
        digest: &Digest,
        trusted: bool,
    ) -> Result<Judged, NodeError> {
        let Some(pending) = self.chain.get(digest) else { return Ok(Judged::Later) };
        match &pending.verdict {
            Verdict::Valid => return Ok(Judged::Valid),
            Verdict::Invalid(_) => return Ok(Judged::Invalid),
            Verdict::Open => {}
        }
        let block = Arc::clone(&pending.block);
        let header = &block.header;
        let Some(parent) = self.chain.header(&header.parent).cloned() else {
            return Ok(Judged::Later);
        };
        let (verdict, next) = match self.examine(&block, &parent, trusted) {
            Some(Ok(next)) => (Verdict::Valid, next),
            Some(Err(fault)) => (Verdict::Invalid(fault), None),
            None => {
                self.look_again();
                return Ok(Judged::Later);
            }
        };
        let judged = if verdict == Verdict::Valid { Judged::Valid } else { Judged::Invalid };
        if let Some(pending) = self.chain.get_mut(digest) {
            (pending.verdict, pending.next) = (verdict.clone(), next);
        }
        if let Verdict::Invalid(fault) = verdict {
            self.on_invalid(*digest, &block, &parent, fault).await?;
        }
        Ok(judged)
    }

    /// What is wrong with a block, or the validators it begins an epoch with; none if it cannot be said yet
    fn examine(
        &mut self,
        block: &Block,
        parent: &Header,
        trusted: bool,
    ) -> Option<Result<Option<Arc<ValidatorSet>>, Fault>> {
        let header = &block.header;
        let genesis = Arc::clone(self.trust.genesis());
        if let Err(fault) = header.follows(parent, &genesis) {
            return Some(Err(Fault::Header(fault)));
        }
        let latest = self.block_time_ms().saturating_add(self.settings.clock_tolerance_ms);
        if !trusted && header.time_ms > latest {
            return None;
        }
        match self.application.validate(header, &block.operations) {
            Validity::Valid => {}
            Validity::Invalid(invalidity) => return Some(Err(Fault::Application(invalidity))),
            Validity::Later => return None,
        }
        if !genesis.is_boundary(header.height) {
            return Some(Ok(None));
        }
        let next = self.application.validators(header);
        Some(match self.next_set(next, parent) {
            Some((root, next)) if root == header.validators_root => Ok(next),
            _ => Err(Fault::Validators),
        })
    }

    async fn try_verify(&mut self, waiting: Verifying) -> Result<Option<Verifying>, NodeError> {
        let (at, block) = (waiting.at, waiting.block);
        if waiting.answer.is_closed() {
            return Ok(None);
        }
        let verdict = match self.chain.place(&block) {
            _ if block == at.parent => self.is_last_again(&at),
            Place::Final(_) => self.chain.header(&block).map(|header| header.parent == at.parent),
            Place::Missing => {
                let now_ms = self.now_ms();
                self.wants.need(block, Some(at.leader), now_ms);
                None
            }
            Place::Pending(pending) => {
                let header = &pending.block.header;
                if header.parent != at.parent || header.epoch != at.epoch {
                    Some(false)
                } else {
                    self.verify_line(&block).await?
                }
            }
        };
        let Some(verdict) = verdict else { return Ok(Some(waiting)) };
        // Whoever is not waiting any more has gone on to another view.
        let _ = waiting.answer.send(verdict);
        Ok(None)
    }

    /// The last block of an epoch may be proposed again until it is final: nothing else may follow it
    fn is_last_again(&mut self, at: &At) -> Option<bool> {
        let Some(header) = self.chain.header(&at.parent) else {
            let now_ms = self.now_ms();
            self.wants.need(at.parent, None, now_ms);
            return None;
        };
        Some(self.trust.genesis().is_boundary(header.height) && header.epoch == at.epoch)
    }

    async fn verify_line(&mut self, block: &Digest) -> Result<Option<bool>, NodeError> {
        let line = match self.line(block) {
            Some(Lineage::Whole(line)) => line,
            Some(_) => return Ok(Some(false)),
            None => return Ok(None),
        };
        Ok(match self.judge_line(&line, false).await? {
            Judged::Valid => {
                self.keep(block).await?;
                Some(true)
            }
            Judged::Invalid => Some(false),
            Judged::Later => None,
        })
    }

    /// A block is built on, and called final, only by who has it for good: if all power fails, it is still there
    async fn try_certify(&mut self, waiting: Certifying) -> Result<Option<Certifying>, NodeError> {
        if waiting.answer.is_closed() {
            return Ok(None);
        }
        let block = waiting.block;
        let durable = match self.chain.place(&block) {
            Place::Final(_) => true,
            Place::Missing => {
                let now_ms = self.now_ms();
                self.wants.need(block, None, now_ms);
                false
            }
            Place::Pending(pending) => {
                let durable = pending.kept == Kept::Durable;
                self.chain.certified(&block);
                self.keep(&block).await?;
                let judged = match self.line(&block) {
                    Some(Lineage::Whole(line)) => self.judge_line(&line, true).await?,
                    _ => Judged::Later,
                };
                durable && judged == Judged::Valid
            }
        };
        if !durable {
            return Ok(Some(waiting));
        }
        let _ = waiting.answer.send(true);
        Ok(None)
    }

    /// Has a block made durable, once
    pub(super) async fn keep(&mut self, digest: &Digest) -> Result<(), NodeError> {
        let Some(pending) = self.chain.get_mut(digest).filter(|it| it.kept == Kept::No) else {
            return Ok(());
        };
        pending.kept = Kept::Writing;
        let block = Arc::clone(&pending.block);
        self.store.append_open(&block).await?;
        self.open_written.push(*digest);
        self.sync_open().await
    }

    pub(super) async fn sync_open(&mut self) -> Result<(), NodeError> {
        if !self.open_syncing && !self.open_written.is_empty() {
            self.open_syncing = true;
            let handle = self.store.sync_open().await?;
            let written = std::mem::take(&mut self.open_written);
            self.syncs.push(sync(handle, Synced::Open(written)));
        }
        Ok(())
    }

    fn send_block(&self, digest: &Digest, to: Option<&[crate::operation::ValidatorKey]>) {
        let Some(pending) = self.chain.get(digest) else { return };
        let frame = Message::Block(Box::new((*pending.block).clone())).to_bytes();
        match to {
            None => self.outlet.broadcast(Channel::Blocks, &frame),
            Some(to) => {
                for to in to {
                    self.outlet.send(to, Channel::Blocks, frame.clone());
                }
            }
        }
    }
}
