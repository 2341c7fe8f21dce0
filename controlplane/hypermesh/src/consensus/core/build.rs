//! A block to propose: what the application wants to be agreed on, after the block the engine builds on.

use std::sync::Arc;

use super::super::chain::Lineage;
use super::super::convert;
use super::super::engine::Runtime;
use super::super::header::{Block, Header, VERSION};
use super::super::validators::ValidatorSet;
use super::answer::{Judged, Proposing};
use super::{Core, NodeError};
use crate::digest::Digest;
use crate::merkle;
use crate::operation::Validator;

impl<E: Runtime> Core<E> {
    pub(super) async fn try_propose(
        &mut self,
        waiting: Proposing,
    ) -> Result<Option<Proposing>, NodeError> {
        if waiting.answer.is_closed() {
            return Ok(None);
        }
        let at = waiting.at;
        let line = match self.line(&at.parent) {
            Some(Lineage::Whole(line)) => line,
            Some(_) => return Ok(None),
            None => return Ok(Some(waiting)),
        };
        // What is final here and not in the engine yet reaches it too; a block beside it would be of no use.
        if line.is_empty() && at.parent != *self.chain.tip_digest() {
            return Ok(Some(waiting));
        }
        match self.judge_line(&line, true).await? {
            Judged::Valid => {}
            Judged::Invalid => return Ok(None),
            Judged::Later => return Ok(Some(waiting)),
        }
        let Some(parent) = self.chain.header(&at.parent).cloned() else {
            return Ok(Some(waiting));
        };
        if self.trust.genesis().is_boundary(parent.height) && parent.epoch == at.epoch {
            let _ = waiting.answer.send(convert::payload(at.parent));
            return Ok(None);
        }
        let patient = self.now_ms() < waiting.since_ms + self.settings.idle_ms;
        if self.application.backlog() == 0 && patient {
            return Ok(Some(waiting));
        }
        if let Some(digest) = self.build(&parent).await? {
            let _ = waiting.answer.send(convert::payload(digest));
        }
        Ok(None)
    }

    /// Builds a block, and judges it as if another had: one that others would find invalid never leaves this house
    async fn build(&mut self, parent: &Header) -> Result<Option<Digest>, NodeError> {
        let genesis = Arc::clone(self.trust.genesis());
        let time_ms = self.block_time_ms().max(parent.time_ms + 1);
        let Some(proposal) = self.application.propose(parent, time_ms) else { return Ok(None) };
        if !Block::has_room(&proposal.operations) {
            tracing::error!("the application proposes more than a block has room for");
            return Ok(None);
        }
        let height = parent.height + 1;
        let validators_root = if genesis.is_boundary(height) {
            let Some((root, _)) = self.next_set(proposal.validators, parent) else {
                return Ok(None);
            };
            root
        } else {
            parent.validators_root
        };
        let mut block = Block {
            header: Header {
                version: VERSION,
                network: genesis.network(),
                epoch: genesis.epoch(height),
                height,
                parent: parent.digest(),
                time_ms,
                operations_root: [0; 32],
                operations_count: u32::try_from(proposal.operations.len()).unwrap_or(u32::MAX),
                state_root: proposal.state_root,
                evidence_root: proposal.evidence_root,
                validators_root,
            },
            operations: proposal.operations,
        };
        block.header.operations_root = merkle::root(&block.leaves());
        let digest = block.header.digest();
        self.chain.insert(digest, block, None);
        match self.judge(&digest, true).await? {
            Judged::Valid => {
                self.keep(&digest).await?;
                Ok(Some(digest))
            }
            _ => {
                tracing::error!(height, "the application proposes a block that it finds invalid");
                Ok(None)
            }
        }
    }

    /// The validators after the last block of an epoch: what the header says, and the set if it is a new one
    pub(super) fn next_set(
        &self,
        next: Option<Vec<Validator>>,
        parent: &Header,
    ) -> Option<(Digest, Option<Arc<ValidatorSet>>)> {
        let Some(next) = next else { return Some((parent.validators_root, None)) };
        match ValidatorSet::new(next) {
            Ok(set) if set.digest() == parent.validators_root => {
                Some((parent.validators_root, None))
            }
            Ok(set) => Some((set.digest(), Some(Arc::new(set)))),
            Err(error) => {
                tracing::error!(%error, "the application names validators that form no set");
                None
            }
        }
    }
}
