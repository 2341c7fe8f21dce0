//! From votes to final blocks: what the engine tells of is turned into certificates, blocks are made final in the order
//! of their heights, made durable, and only then handed to the application and to whoever waits.

use std::sync::Arc;

use commonware_consensus::simplex::types::Activity as Told;

use super::super::certificate::Certificate;
use super::super::chain::{Kept, Lineage, Place};
use super::super::convert::{self, Activity};
use super::super::engine::Runtime;
use super::super::header::Header;
use super::super::message::FinalBlock;
use super::super::quorum::Quorum;
use super::super::vote::Statement;
use super::answer::Judged;
use super::{Core, NodeError, Synced, sync};
use crate::digest::Digest;

/// Blocks with a quorum behind them that wait for others to be here
const SETTLING_LIMIT: usize = 1_024;
/// How often one validator's dissent may delay what is final, in one epoch
const HOLDS_LIMIT: u32 = 16;

/// What can be only once more validators are faulty than agreement bears
pub(super) const TWO_FINAL: &str =
    "two blocks of one height are final: more validators are faulty than agreement bears";

/// A quorum called a block final
pub(super) struct Settling {
    quorum: Quorum,
    block: Digest,
    /// Until then it waits for offences to come to light
    pub(super) hold_ms: Option<u64>,
}

impl Settling {
    /// Whether it is about this block
    pub(super) fn is_for(&self, block: &Digest) -> bool {
        self.block == *block
    }
}

impl<E: Runtime> Core<E> {
    pub(super) async fn on_report(&mut self, report: Activity) -> Result<(), NodeError> {
        match &report {
            Told::Notarize(vote) => self.on_vote(convert::notarize(vote)).await,
            Told::Nullify(vote) => self.on_vote(convert::nullify(vote)).await,
            Told::Finalize(vote) => self.on_vote(convert::finalize(vote)).await,
            Told::Notarization(found) => {
                let Some(quorum) = convert::notarization(found) else { return Ok(()) };
                self.turn_over(&quorum.statement, true);
                self.on_quorum(&quorum).await
            }
            Told::Nullification(found) => {
                let Some(quorum) = convert::nullification(found) else { return Ok(()) };
                self.turn_over(&quorum.statement, false);
                self.on_quorum(&quorum).await?;
                self.tell_of_leader(&quorum.statement);
                Ok(())
            }
            Told::Finalization(found) => {
                let Some(quorum) = convert::finalization(found) else { return Ok(()) };
                self.on_quorum(&quorum).await?;
                self.on_final(quorum);
                Ok(())
            }
            Told::Certification(_) => Ok(()),
            Told::ConflictingNotarize(_)
            | Told::ConflictingFinalize(_)
            | Told::NullifyFinalize(_) => {
                for vote in convert::contradiction(&report).into_iter().flatten() {
                    self.on_vote(Some(vote)).await?;
                }
                Ok(())
            }
        }
    }

    fn turn_over(&mut self, statement: &Statement, taken: bool) {
        let view = statement.view();
        if statement.epoch() != self.epoch {
            return;
        }
        self.view = self.view.max(view + 1);
        if self.turns.insert(view, taken).is_none() {
            let leader = self.set.leader(self.epoch, view).key;
            self.attendance.turn(leader, taken);
        }
        while self.turns.len() > SETTLING_LIMIT {
            self.turns.pop_first();
        }
    }

    fn on_final(&mut self, quorum: Quorum) {
        let Statement::Finalize(proposal) = quorum.statement else { return };
        if proposal.epoch != self.epoch
            || matches!(self.chain.place(&proposal.block), Place::Final(_))
        {
            return;
        }
        let round = (proposal.epoch, proposal.view);
        let dissenters = self.witness.dissenters(round, &proposal.block, &self.set);
        let hold_ms =
            self.may_hold(&dissenters).then(|| self.now_ms() + self.settings.contested_ms);
        self.chain.certified(&proposal.block);
        self.quorums.insert(proposal.block, quorum.clone());
        let settling = Settling { quorum, block: proposal.block, hold_ms };
        self.settling.entry(proposal.view).or_insert(settling);
        while self.settling.len() > SETTLING_LIMIT {
            // The newest one makes all before it final too.
            self.settling.pop_first();
        }
    }

    /// Whether somebody's dissent is worth waiting for. A single validator cannot slow down others for long with it.
    fn may_hold(&mut self, dissenters: &[u32]) -> bool {
        let mut may = false;
        for dissenter in dissenters {
            let holds = self.holds.entry(*dissenter).or_default();
            may |= *holds < HOLDS_LIMIT;
            *holds += 1;
        }
        may
    }

    /// Makes final what a quorum called final and is here
    pub(super) async fn settle(&mut self) -> Result<(), NodeError> {
        loop {
            let now_ms = self.now_ms();
            if self.halted.is_some() {
                self.settling.clear();
                return Ok(());
            }
            let Some((view, next)) = self.settling.first_key_value() else { return Ok(()) };
            let (view, block) = (*view, next.block);
            if next.hold_ms.is_some_and(|hold| now_ms < hold) {
                return Ok(());
            }
            let line = match self.line(&block) {
                Some(Lineage::Whole(line)) => line,
                Some(Lineage::Forked) => {
                    self.halt(TWO_FINAL);
                    return Ok(());
                }
                Some(Lineage::Missing(_)) | None => return Ok(()),
            };
            match self.judge_line(&line, true).await? {
                Judged::Valid => {}
                Judged::Invalid => return Err(self.diverged(&line)),
                Judged::Later => return Ok(()),
            }
            if let Some(Settling { quorum, .. }) = self.settling.remove(&view) {
                self.finalise_line(&line, &quorum).await?;
            }
        }
    }

    fn diverged(&self, line: &[Digest]) -> NodeError {
        let invalid = line.iter().find_map(|digest| {
            let pending = self.chain.get(digest)?;
            match &pending.verdict {
                super::super::chain::Verdict::Invalid(fault) => {
                    Some((pending.block.header.height, fault.reason()))
                }
                _ => None,
            }
        });
        let (height, reason) = invalid.unwrap_or_default();
        NodeError::Diverged { height, reason }
    }

    async fn finalise_line(&mut self, line: &[Digest], quorum: &Quorum) -> Result<(), NodeError> {
        let mut blocks = Vec::with_capacity(line.len());
        for (place, digest) in line.iter().enumerate() {
            let Some(pending) = self.chain.get(digest) else { return Ok(()) };
            let next = pending.next.as_deref().cloned();
            let block = (*pending.block).clone();
            // A quorum's votes for the block itself are shorter than those for a descendant.
            let certificate = match self.quorums.get(digest) {
                Some(own) => Certificate { descendants: Vec::new(), quorum: own.clone() },
                None => Certificate {
                    descendants: self.headers(&line[place + 1..]),
                    quorum: quorum.clone(),
                },
            };
            blocks.push(FinalBlock { block, certificate, next });
        }
        for block in blocks {
            self.finalise(block).await?;
        }
        Ok(())
    }

    fn headers(&self, digests: &[Digest]) -> Vec<Header> {
        digests.iter().filter_map(|digest| self.chain.header(digest).cloned()).collect()
    }

    /// Takes a block for final that was judged valid and follows the last one
    pub(super) async fn finalise(&mut self, block: FinalBlock) -> Result<(), NodeError> {
        if let Some(transition) = block.transition()
            && self.transitions.last() != Some(&transition)
        {
            if let Err(fault) = self.trust.extend(&transition) {
                let height = block.block.header.height;
                return Err(NodeError::Diverged { height, reason: fault.to_string() });
            }
            self.store.keep_transition(&transition).await?;
            self.transitions.push(transition);
        }
        self.store.append_final(&block).await?;
        let header = block.block.header.clone();
        let digest = header.digest();
        self.wants.met(&digest);
        self.quorums.remove(&digest);
        if header.epoch == self.epoch {
            // Whatever a quorum called final up to here is an ancestor, or this block.
            let view = block.certificate.view();
            let here = block.certificate.quorum.statement.block().copied();
            if self.settling.get(&view).is_some_and(|other| Some(other.block) != here) {
                self.halt(TWO_FINAL);
            }
            self.settling.retain(|settling, _| *settling > view);
        }
        self.last_certificate = Some((header.epoch, block.certificate.quorum.clone()));
        self.chain.advance(header);
        self.undelivered.push_back(Arc::new(block));
        self.sync_finals().await
    }

    async fn sync_finals(&mut self) -> Result<(), NodeError> {
        let height = self.chain.tip().height;
        if !self.finals_syncing && height > self.delivered {
            self.finals_syncing = true;
            let handle = self.store.sync_finals().await?;
            self.syncs.push(sync(handle, Synced::Finals(height)));
        }
        Ok(())
    }

    pub(super) async fn on_synced(&mut self, synced: Synced) -> Result<(), NodeError> {
        match synced {
            Synced::Open(written) => {
                self.open_syncing = false;
                for digest in written {
                    if let Some(pending) = self.chain.get_mut(&digest) {
                        pending.kept = Kept::Durable;
                    }
                }
                self.sync_open().await
            }
            Synced::Finals(height) => {
                self.finals_syncing = false;
                self.deliver(height);
                self.store.prune_open(height).await?;
                self.prune_finals().await?;
                self.follow_epoch().await?;
                self.sync_finals().await
            }
        }
    }

    /// Hands final blocks up to a height on, now that they are durable
    fn deliver(&mut self, height: u64) {
        while let Some(block) = self.undelivered.front()
            && block.block.header.height <= height
        {
            let block = Arc::clone(block);
            self.undelivered.pop_front();
            self.delivered = block.block.header.height;
            self.application.finalise(&block.block, &block.certificate.to_vec());
            self.answer_waiters(&block);
            self.publish(&block);
        }
        let now_ms = self.now_ms();
        self.catch_up.progressed(now_ms);
    }

    async fn prune_finals(&mut self) -> Result<(), NodeError> {
        let kept = self.settings.blocks_kept;
        let genesis = self.trust.genesis();
        // The last block of the epoch before is what this one is built on.
        let base = genesis.epoch(self.delivered + 1) * genesis.epoch_blocks();
        let durable = self.application.durable_height();
        let below = self.delivered.saturating_sub(kept).min(base).min(durable);
        if kept > 0 && below > self.store.heights().0 {
            self.store.prune_finals(below).await?;
        }
        Ok(())
    }
}
