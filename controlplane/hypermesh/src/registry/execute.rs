//! One operation after the other: shown a right, done whole or not at all, and what it used up is marked. A batch is
//! tried on a copy. By what right is asked is in `authorise`; what each operation does is in `asset_operations`,
//! `grants`, `vote` and `evidence`.

use super::authorise::{Basis, Right, authorise};
use super::block::{BlockFacts, Effect};
use super::records::{AllocationState, Expiry, Requester, Seen};
use super::refusal::Refusal;
use super::{Registry, view::Judged};
use crate::digest::Digest;
use crate::operation::{AssetOperation, Candidate, OperationBody, RequesterId, StakeOperation};

/// A block on its way: the state as it is after the operations so far
pub(super) struct Execution<'a> {
    pub(super) state: Registry,
    pub(super) facts: &'a BlockFacts,
    /// What this block makes that will be forgotten
    pub(super) expiries: Vec<Expiry>,
}

/// Who asks, and for which operation
pub(super) struct Asking<'a> {
    pub(super) requester: RequesterId,
    pub(super) operation: &'a Digest,
    pub(super) part: u32,
    pub(super) basis: &'a Basis,
}

impl Execution<'_> {
    /// Does one operation, or nothing
    pub(super) fn apply(&mut self, candidate: &Candidate) -> Result<Vec<Effect>, Refusal> {
        let BlockFacts { height, time_ms, .. } = *self.facts;
        let right = authorise(&Judged { registry: &self.state, height, time_ms }, candidate)?;
        self.perform(candidate, &right)
    }

    /// Does one operation by a right that was shown, or nothing
    pub(super) fn perform(
        &mut self,
        candidate: &Candidate,
        right: &Right,
    ) -> Result<Vec<Effect>, Refusal> {
        let mut asking = Asking {
            requester: *candidate.requester(),
            operation: candidate.id(),
            part: 0,
            basis: &right.basis,
        };
        let effects = match candidate.body() {
            OperationBody::Batch(parts) => self.batch(&mut asking, parts)?,
            single => vec![self.single(&asking, single)?],
        };
        self.settle(candidate, right);
        Ok(effects)
    }

    /// Marks what the operation used up. All of it was checked with the right, so nothing is left to fail.
    fn settle(&mut self, candidate: &Candidate, right: &Right) {
        let id = candidate.requester();
        match self.state.requesters.get_mut(id) {
            Some(requester) => requester.window = right.window,
            None => {
                let requester = Requester {
                    window: right.window,
                    ..Requester::new(candidate.operation().requester_key)
                };
                self.state.requesters.insert(*id, requester);
            }
        }
        match &right.basis {
            Basis::Full(verified) => {
                self.state.seen.insert(verified.statement, Seen);
                self.expiries.push(Expiry::Seen(verified.statement));
            }
            Basis::Ticket { id, spent } => {
                self.state.tickets.insert(*id, *spent);
            }
            Basis::Validator(_) => {}
        }
    }

    fn batch(
        &mut self,
        asking: &mut Asking<'_>,
        parts: &[OperationBody],
    ) -> Result<Vec<Effect>, Refusal> {
        let (before, expiries) = (self.state.clone(), self.expiries.len());
        let mut effects = Vec::with_capacity(parts.len());
        for (part, body) in (0..).zip(parts) {
            asking.part = part;
            match self.single(asking, body) {
                Ok(effect) => effects.push(effect),
                Err(reason) => {
                    self.state = before;
                    self.expiries.truncate(expiries);
                    return Err(Refusal::Part { part: part as usize, reason: Box::new(reason) });
                }
            }
        }
        Ok(effects)
    }

    fn single(&mut self, asking: &Asking<'_>, body: &OperationBody) -> Result<Effect, Refusal> {
        match body {
            OperationBody::RegisterAsset(registration) => self.register(asking, registration),
            OperationBody::Operate(operation) => match operation {
                AssetOperation::Allocate { asset, quantity, holder } => {
                    self.allocate(asking, asset, *quantity, holder)
                }
                AssetOperation::Use { allocation } => self.begin_use(asking, allocation),
                AssetOperation::Release { allocation } => {
                    self.end_allocation(asking, allocation, AllocationState::Released)
                }
                AssetOperation::Fail { allocation } => {
                    self.end_allocation(asking, allocation, AllocationState::Failed)
                }
                AssetOperation::Restore { asset } => self.restore(asking, asset),
                AssetOperation::Retire { asset } => self.retire(asking, asset),
            },
            OperationBody::Transfer { asset, to } => self.transfer(asking, asset, to),
            OperationBody::RequestCertificate(request) => self.certify(asking, request),
            OperationBody::EndCertificate { asset } => self.end_certificate(asking, asset),
            OperationBody::RequestTicket => self.grant_ticket(asking),
            OperationBody::Stake(StakeOperation::Give { to_key, amount }) => {
                self.give_stake(asking, to_key, *amount)
            }
            OperationBody::Vote(change) => match asking.basis {
                Basis::Validator(voter) => self.state.vote(*voter, change),
                _ => Err(Refusal::NeedsValidator { what: body.name() }),
            },
            OperationBody::Evidence(octets) => match asking.basis {
                Basis::Validator(_) => self.state.record_evidence(octets, self.facts.height),
                _ => Err(Refusal::NeedsValidator { what: body.name() }),
            },
            OperationBody::Batch(_) => Err(Refusal::NestedBatch),
        }
    }
}
