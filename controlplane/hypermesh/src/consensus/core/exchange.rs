//! What other validators say beside votes: blocks, how far they are, operations, evidence. Whoever says what no honest
//! validator says is not listened to any more; whoever asks for much is served within a limit.

use std::sync::Arc;

use bytes::Bytes;

use super::super::chain::{Lineage, Place};
use super::super::engine::Runtime;
use super::super::header::{BLOCK_LIMIT_BYTES, BLOCK_OPERATIONS_LIMIT, Block};
use super::super::message::{FinalBlock, Message, RANGE_LIMIT, RANGE_TARGET_BYTES, Tip};
use super::super::network::Channel;
use super::super::peers::Frame;
use super::answer::Judged;
use super::finality::TWO_FINAL;
use super::{Core, NodeError};
use crate::digest::Digest;
use crate::operation::ValidatorKey;

/// Octets of blocks that one validator is given in a second, and that one who only follows is
const SERVED_LIMIT_BYTES: usize = 64 << 20;
const FOLLOWER_SERVED_LIMIT_BYTES: usize = 16 << 20;
/// What a request counts for beside the octets of its answer: looking for a block costs as well
const REQUEST_COST_BYTES: usize = 4 << 10;
/// Octets of operations that are looked at in a second of one who only follows, and of all of them. Their signatures
/// are verified on the thread that agrees; what is left out is told again by whoever waits for it.
const FOLLOWER_OPERATIONS_BYTES: usize = 128 << 10;
const FOLLOWERS_OPERATIONS_BYTES: usize = 512 << 10;
/// Validators whose share is remembered
const SERVED_LIMIT: usize = 256;

/// What one validator was given
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Served {
    second: u64,
    bytes: usize,
    operations_bytes: usize,
    told_ms: u64,
}

/// Octets of operations that followers handed on in a second
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FollowersShare {
    second: u64,
    bytes: usize,
}

impl<E: Runtime> Core<E> {
    pub(super) async fn on_frame(&mut self, frame: Frame) -> Result<(), NodeError> {
        let from = frame.from();
        let message = match Message::from_bytes(&frame.octets) {
            Ok(message) => message,
            Err(error) => {
                tracing::warn!(validator = %from, %error, "a message cannot be read");
                self.inbox.block(&from, "it sent what is no message");
                return Ok(());
            }
        };
        match message {
            Message::Block(block) => self.on_block(&from, *block),
            Message::Want(digest) => self.on_want(&from, &digest).await?,
            Message::Tip(tip) => self.on_tip(&from, tip),
            Message::WantRange { from: height } => self.on_want_range(&from, height).await?,
            Message::Range { from: height, blocks } => {
                self.on_range(&from, height, blocks).await?;
            }
            Message::Operations(operations) => {
                // What one cannot use another may; a refusal here is nobody's fault.
                if self.may_offer(&from, frame.octets.len()) {
                    let _ = self.application.offer(&operations, self.now_ms());
                }
            }
            Message::Votes(votes) => self.on_votes(&from, votes).await?,
            Message::Evidence(evidence) => self.on_evidence(&from, *evidence).await?,
        }
        Ok(())
    }

    pub(super) fn on_block(&mut self, from: &ValidatorKey, block: Block) {
        if block.header.network != self.trust.genesis().network() || !block.is_whole() {
            self.inbox.block(from, "it sent a block that is none of this network");
            return;
        }
        let (digest, height) = (block.header.digest(), block.header.height);
        let known_final = matches!(self.chain.place(&digest), Place::Final(_));
        if height <= self.chain.tip().height && !known_final {
            if self.settling.values().any(|settling| settling.is_for(&digest)) {
                self.halt(TWO_FINAL);
            }
            return;
        }
        let unasked = if self.wants.contains(&digest) { None } else { Some(*from) };
        if self.chain.insert(digest, block, unasked) {
            self.wants.met(&digest);
        }
    }

    /// What this one was given and has handed on in this second
    fn served(&mut self, to: &ValidatorKey) -> &mut Served {
        let second = self.now_ms() / 1_000;
        if self.served.len() >= SERVED_LIMIT && !self.served.contains_key(to) {
            self.served.clear();
        }
        let served = self.served.entry(*to).or_default();
        if served.second != second {
            (served.second, served.bytes, served.operations_bytes) = (second, 0, 0);
        }
        served
    }

    /// Whether a validator may be given so many octets more
    fn may_serve(&mut self, to: &ValidatorKey, bytes: usize) -> bool {
        let limit =
            if self.set.contains(to) { SERVED_LIMIT_BYTES } else { FOLLOWER_SERVED_LIMIT_BYTES };
        let served = self.served(to);
        served.bytes = served.bytes.saturating_add(bytes);
        served.bytes <= limit
    }

    /// Whether so many octets of operations are looked at: always of a validator, within limits of others
    fn may_offer(&mut self, from: &ValidatorKey, bytes: usize) -> bool {
        if self.set.contains(from) {
            return true;
        }
        let second = self.now_ms() / 1_000;
        let served = self.served(from);
        let own = served.operations_bytes.saturating_add(bytes);
        if own > FOLLOWER_OPERATIONS_BYTES {
            return false;
        }
        served.operations_bytes = own;
        if self.followers.second != second {
            self.followers = FollowersShare { second, bytes: 0 };
        }
        self.followers.bytes = self.followers.bytes.saturating_add(bytes);
        self.followers.bytes <= FOLLOWERS_OPERATIONS_BYTES
    }

    async fn on_want(&mut self, from: &ValidatorKey, digest: &Digest) -> Result<(), NodeError> {
        if !self.may_serve(from, REQUEST_COST_BYTES) {
            return Ok(());
        }
        let block = match self.chain.place(digest) {
            Place::Pending(pending) => Some((*pending.block).clone()),
            Place::Final(height) => self.store.final_block(height).await?.map(|block| block.block),
            Place::Missing => None,
        };
        let Some(block) = block else { return Ok(()) };
        let frame = Message::Block(Box::new(block)).to_bytes();
        if self.may_serve(from, frame.len()) {
            self.outlet.send(from, Channel::Blocks, frame);
        }
        Ok(())
    }

    pub(super) fn own_tip(&self) -> Tip {
        Tip { height: self.delivered, lowest: self.store.heights().0 }
    }

    /// Tells everyone how far this validator is
    pub(super) fn announce(&mut self) {
        let frame = Message::Tip(self.own_tip()).to_bytes();
        for to in self.neighbours() {
            self.outlet.send(&to, Channel::Blocks, frame.clone());
        }
    }

    /// Says so, once, when nobody can bring this node up any more
    pub(super) fn look_for_a_gap(&mut self) {
        let height = self.delivered;
        let gap = self.catch_up.gap(height);
        if let Some(lowest) = gap.filter(|_| self.gap.is_none()) {
            tracing::error!(
                height,
                lowest,
                "the others keep no block below {lowest} any more, and this node needs block {}: begin with a copy of \
                 another node's state",
                height + 1
            );
        }
        self.gap = gap;
    }

    fn on_tip(&mut self, from: &ValidatorKey, tip: Tip) {
        let set = Arc::clone(&self.set);
        self.catch_up.heard(*from, tip, |key| set.contains(key));
        let (own, now_ms) = (self.own_tip(), self.now_ms());
        if tip.height < own.height && self.may_serve(from, 0) {
            let pause_ms = self.settings.announce_ms / 4;
            let served = self.served.entry(*from).or_default();
            if served.told_ms + pause_ms <= now_ms {
                served.told_ms = now_ms;
                self.outlet.send(from, Channel::Blocks, Message::Tip(own).to_bytes());
            }
        }
    }

    pub(super) async fn on_want_range(
        &mut self,
        from: &ValidatorKey,
        first: u64,
    ) -> Result<(), NodeError> {
        if !self.may_serve(from, REQUEST_COST_BYTES) {
            return Ok(());
        }
        let mut blocks = Vec::new();
        let mut bytes = 0;
        let last = self.delivered.min(first.saturating_add(RANGE_LIMIT as u64 - 1));
        for height in first..=last {
            let Some(block) = self.store.octets(height).await? else { break };
            bytes += block.len();
            blocks.push(block);
            if bytes >= RANGE_TARGET_BYTES {
                break;
            }
        }
        let answer = if blocks.is_empty() {
            Message::Tip(self.own_tip())
        } else {
            Message::Range { from: first, blocks }
        };
        if self.may_serve(from, bytes) {
            self.outlet.send(from, Channel::Blocks, answer.to_bytes());
        }
        Ok(())
    }

    async fn on_range(
        &mut self,
        from: &ValidatorKey,
        first: u64,
        blocks: Vec<Bytes>,
    ) -> Result<(), NodeError> {
        if !self.catch_up.answered(from, first) {
            return Ok(());
        }
        for octets in &blocks {
            let accepted = match FinalBlock::from_bytes(octets) {
                Ok(block) => self.accept(block).await?,
                Err(_) => Err("it sent what is no final block"),
            };
            match accepted {
                Ok(true) => {}
                Ok(false) => break,
                Err(reason) => {
                    self.inbox.block(from, reason);
                    break;
                }
            }
        }
        if self.chain.tip().height < first {
            self.catch_up.failed(from);
        } else {
            self.catch_up.helped(from);
        }
        Ok(())
    }

    /// Takes over a final block of another. False if it does not follow the last one here, or cannot be judged yet.
    pub(super) async fn accept(
        &mut self,
        block: FinalBlock,
    ) -> Result<Result<bool, &'static str>, NodeError> {
        if self.halted.is_some() {
            return Ok(Ok(false));
        }
        let header = block.block.header.clone();
        let (digest, tip) = (header.digest(), self.chain.tip().clone());
        let known = matches!(self.chain.place(&digest), Place::Final(_));
        if known || header.height > tip.height + 1 {
            return Ok(Ok(known));
        }
        if !block.block.is_whole() || self.trust.verify(&header, &block.certificate).is_err() {
            return Ok(Err("it sent a block with a certificate that does not hold"));
        }
        if header.height <= tip.height {
            // Beyond what is remembered it may well be the one that is final here.
            let stored = self.store.final_block(header.height).await?;
            if stored.is_some_and(|stored| stored.block.header != header) {
                self.halt(TWO_FINAL);
            }
            return Ok(Ok(true));
        }
        if header.parent != *self.chain.tip_digest() {
            self.halt(TWO_FINAL);
            return Ok(Ok(false));
        }
        let changes = header.validators_root != tip.validators_root;
        let shown = block.next.as_ref().map(|next| next.digest());
        if shown != changes.then_some(header.validators_root) {
            return Ok(Err("it sent a block with other validators than the block commits to"));
        }
        self.chain.insert(digest, block.block.clone(), None);
        match self.judge_line(&[digest], true).await? {
            Judged::Valid => {}
            Judged::Later => return Ok(Ok(false)),
            Judged::Invalid => {
                let reason = "it is invalid on the state after its parent".to_owned();
                return Err(NodeError::Diverged { height: header.height, reason });
            }
        }
        debug_assert!(matches!(self.chain.lineage(&digest), Lineage::Whole(_)));
        self.finalise(block).await?;
        Ok(Ok(true))
    }

    /// Passes operations that came in here on to the others, many at a time
    pub(super) fn send_operations(&mut self) {
        let mut outgoing = std::mem::take(&mut self.outgoing).into_iter().peekable();
        while outgoing.peek().is_some() {
            let (mut batch, mut bytes) = (Vec::new(), 0);
            while let Some(operation) = outgoing.next_if(|operation| {
                batch.len() < BLOCK_OPERATIONS_LIMIT && bytes + operation.len() <= BLOCK_LIMIT_BYTES
            }) {
                bytes += operation.len();
                batch.push(operation);
            }
            self.outlet.broadcast(Channel::Blocks, &Message::Operations(batch).to_bytes());
        }
    }
}
