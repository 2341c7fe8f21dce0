//! What consensus asks of the registry, and is told.

use std::collections::HashMap;

use bytes::Bytes;

use super::{FinalOutcome, Ledger, Open, told};
use crate::consensus::evidence::{Judge as _, Judgement};
use crate::consensus::{
    Application, Block, Dropped, Evidence, Header, Invalidity, Offer, Proposal, Validity,
};
use crate::digest::Digest;
use crate::operation::{Candidate, Validator, verify_signatures};
use crate::registry::Refusal;

impl Application for Ledger {
    fn height(&self) -> u64 {
        self.last.1.last_height()
    }

    fn durable_height(&self) -> u64 {
        self.snapshots.durable_height()
    }

    fn offer(&mut self, operations: &[Bytes], now_ms: u64) -> Vec<Offer> {
        let read: Vec<_> = operations.iter().map(Candidate::decode).collect();
        let mut new: Vec<Candidate> = read
            .iter()
            .filter_map(|read| read.as_ref().ok())
            .filter(|candidate| self.pool.get(candidate.id()).is_none())
            .cloned()
            .collect();
        verify_signatures(&mut new);
        let mut verified: HashMap<Digest, Candidate> =
            new.into_iter().map(|candidate| (*candidate.id(), candidate)).collect();
        let judge = |read: Result<Candidate, _>| match read {
            Ok(candidate) => {
                let candidate = verified.remove(candidate.id()).unwrap_or(candidate);
                self.admit(candidate, now_ms)
            }
            Err(reason) => Offer::Refused(told(&Refusal::Encoding(reason))),
        };
        read.into_iter().map(judge).collect()
    }

    fn backlog(&self) -> usize {
        self.pool.len()
    }

    fn dropped(&mut self) -> Vec<Dropped> {
        self.view.set_pending(self.pool.len());
        std::mem::take(&mut self.dropped)
    }

    fn propose(&mut self, parent: &Header, now_ms: u64) -> Option<Proposal> {
        self.draft(parent, now_ms)
    }

    fn validate(&mut self, header: &Header, operations: &[Bytes]) -> Validity {
        let block = header.digest();
        if self.open.contains_key(&block) {
            return Validity::Valid;
        }
        let (mut registry, outcome) = match self.result(header, operations) {
            None => return Validity::Later,
            Some(Err(invalidity)) => return Validity::Invalid(invalidity),
            Some(Ok(done)) => done,
        };
        if outcome.state_root != header.state_root {
            return Validity::Invalid(Invalidity::of_block("another state follows from the block"));
        }
        if outcome.evidence_root != header.evidence_root {
            return Validity::Invalid(Invalidity::of_block(
                "other evidence is on record after the block",
            ));
        }
        registry.seal(block);
        let (height, parent) = (header.height, header.parent);
        self.keep_open(block, Open { height, parent, registry, outcome });
        Validity::Valid
    }

    fn validators(&mut self, header: &Header) -> Option<Vec<Validator>> {
        self.registry(&header.digest()).map(|registry| registry.validators().to_vec())
    }

    fn finalise(&mut self, block: &Block, _certificate: &[u8]) {
        let digest = block.header.digest();
        let Some(Open { registry, outcome, .. }) = self.open.remove(&digest) else {
            // Consensus shows only what was called valid in this process, and in its order.
            tracing::error!(height = block.header.height, "a final block was never judged");
            return;
        };
        let height = block.header.height;
        self.open.retain(|_, open| open.height > height);
        let open = &self.open;
        self.opened.retain(|block| open.contains_key(block));
        self.drafted = None;
        for done in &outcome.operations {
            self.pool.remove(&done.operation);
        }
        self.last = (digest, registry);
        self.accuse();
        self.try_again();
        self.snapshots.consider(&block.header, &self.last.1);
        self.view.publish(&self.last.1, FinalOutcome { header: block.header.clone(), outcome });
    }

    fn evidence(&mut self, evidence: &Evidence) {
        self.accusations.take(evidence, &self.last.1);
        self.accuse();
    }

    fn judge(&self, header: &Header, operation: &[u8]) -> Judgement {
        self.judge.clone().operation(header, operation)
    }
}
