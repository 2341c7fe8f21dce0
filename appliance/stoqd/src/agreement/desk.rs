//! Answers the calls `hypermesh/...` of nodes that may ask: operations in, receipts and what became final out. What is
//! handed in is judged by the registry like anything else; bounds on size, number and time are here.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use prost::Message;
use stoq::{Allow, CallRequest, CallStatus, NodeId};
use stoq_hypermesh::calls::{
    FOLLOW, FOLLOW_LIMIT, FOLLOW_LIMIT_BYTES, GROUND, RECEIPT, STATUS, SUBMIT, SUBMIT_LIMIT, wire,
};
use stoq_hypermesh::consensus::{Finalised, SubmitError};
use stoq_hypermesh::ledger::{FinalOutcome, OUTCOME_BLOCKS_LIMIT};
use stoq_hypermesh::registry::Effect;
use stoq_hypermesh::requester::Ground;
use stoq_trustchain::calls::Answer;
use tokio::sync::Semaphore;

use super::Agreement;

/// Calls under way altogether; the next is told to come again
const CALLS_LIMIT: usize = 4_096;
/// The longest time a call is worked on, whatever its deadline
const WORK_LIMIT: Duration = Duration::from_secs(60);
/// What is left of a deadline for the way back
const WAY_BACK: Duration = Duration::from_millis(250);
/// Octets that a message takes within another beside its own, at most: a tag and a length
const FIELD_BYTES: usize = 5;
/// When to ask again where too much is under way
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// Answers calls
#[derive(Clone)]
pub struct Desk {
    agreement: Arc<Agreement>,
    clients: Allow,
    places: Arc<Semaphore>,
}

impl Desk {
    /// For those who may ask
    pub fn new(agreement: Arc<Agreement>, clients: Allow) -> Self {
        Self { agreement, clients, places: Arc::new(Semaphore::new(CALLS_LIMIT)) }
    }

    /// Takes one call; where a runtime is
    pub fn take(&self, call: CallRequest) {
        let desk = self.clone();
        tokio::spawn(async move {
            let deadline = Duration::from_millis(call.deadline_ms());
            let answer = desk.answer(call.peer(), call.method(), call.body(), deadline).await;
            if !call.answer(answer.status, answer.body.into()) {
                tracing::warn!("a worker takes no more answers to calls");
            }
        });
    }

    /// Answers one call
    async fn answer(
        &self,
        peer: &NodeId,
        method: &str,
        body: &Bytes,
        deadline: Duration,
    ) -> Answer {
        if !self.clients.permits(peer) {
            let message =
                "this node may not ask here; the operator of the node asked has hypermesh.clients";
            return Answer::refused(CallStatus::Denied, "not_permitted", message);
        }
        let Ok(_place) = self.places.try_acquire() else { return Answer::busy(ASK_AGAIN) };
        let patience = deadline.saturating_sub(WAY_BACK).min(WORK_LIMIT);
        let answering = self.dispatch(method, body);
        match tokio::time::timeout(patience, answering).await {
            Ok(Ok(answer) | Err(answer)) => answer,
            Err(_) => Answer::deadline(),
        }
    }

    async fn dispatch(&self, method: &str, body: &Bytes) -> Result<Answer, Answer> {
        match method {
            SUBMIT => self.submit(read(body)?).await,
            RECEIPT => self.receipt(read(body)?).await,
            GROUND => self.ground(&read(body)?),
            STATUS => self.status().await,
            FOLLOW => self.follow(&read(body)?).await,
            _ => Ok(Answer::unknown()),
        }
    }

    async fn submit(&self, request: wire::SubmitRequest) -> Result<Answer, Answer> {
        if request.operations.len() > SUBMIT_LIMIT {
            return Err(malformed(&format!("at most {SUBMIT_LIMIT} operations at once")));
        }
        // All at once and in their order: a requester's sequence numbers may not be far out of it.
        let submitting = request.operations.into_iter().map(|operation| {
            let client = self.agreement.client.clone();
            async move { outcome_of(client.submit(Bytes::from(operation)).await) }
        });
        let outcomes = join_all(submitting).await;
        Ok(Answer::ok(&wire::SubmitReply { outcomes }))
    }

    async fn receipt(&self, request: wire::ReceiptRequest) -> Result<Answer, Answer> {
        let index = u32::try_from(request.index).map_err(|_| malformed("index"))?;
        let receipt = self.agreement.client.receipt(request.height, index).await;
        let receipt = receipt.ok_or_else(|| {
            let message = "there is no such operation, or its block is not kept here any more";
            Answer::refused(CallStatus::Invalid, "not_found", message)
        })?;
        Ok(Answer::ok(&wire::ReceiptReply { receipt: receipt.to_vec() }))
    }

    fn ground(&self, request: &wire::GroundRequest) -> Result<Answer, Answer> {
        let requester = request.requester.as_slice().try_into();
        let requester = requester.map_err(|_| malformed("requester: 32 octets"))?;
        let ground = Ground::of(&self.agreement.view.registry(), &requester)
            .ok_or_else(|| Answer::busy(ASK_AGAIN))?;
        Ok(Answer::ok(&wire::GroundReply { ground: ground.write().into_bytes() }))
    }

    async fn status(&self) -> Result<Answer, Answer> {
        let status = self.agreement.status().await.ok_or_else(|| Answer::busy(ASK_AGAIN))?;
        Ok(Answer::ok(&wire::StatusReply {
            network: status.network.to_vec(),
            epoch: status.epoch,
            height: status.height,
            validators: status.validators.len() as u64,
            quorum: status.quorum as u64,
            votes: status.votes,
            backlog: status.backlog as u64,
            halted: status.halted.unwrap_or_default(),
        }))
    }

    /// What became final above a height: at once where there is something, when there is otherwise
    async fn follow(&self, request: &wire::FollowRequest) -> Result<Answer, Answer> {
        let view = &self.agreement.view;
        let mut pulse = self.agreement.pulse();
        let mut from = Place { after: request.after_height, index: request.from_index };
        loop {
            let last = view.registry().last_height();
            // Further back nothing is remembered; receipts of those blocks are to be had all the same.
            let known = last.saturating_sub(OUTCOME_BLOCKS_LIMIT as u64);
            if from.after < known {
                from = Place { after: known, index: 0 };
            }
            let reply = page(from, last, |height| Some(operations_of(&*view.outcome(height)?)));
            if !reply.operations.is_empty() {
                return Ok(Answer::ok(&reply));
            }
            from = Place { after: reply.height, index: reply.next_index };
            pulse.changed().await.map_err(|_| Answer::busy(ASK_AGAIN))?;
        }
    }
}

/// Up to where an asker knows what is final: all blocks up to a height, and of the next one the operations before a place
#[derive(Clone, Copy, Debug)]
struct Place {
    after: u64,
    index: u64,
}

/// What became final from a place on up to a height, as much as one reply carries
fn page(
    from: Place,
    last: u64,
    operations: impl Fn(u64) -> Option<Vec<wire::FinalOperation>>,
) -> wire::FollowReply {
    let mut reply =
        wire::FollowReply { height: from.after, next_index: from.index, operations: Vec::new() };
    let mut bytes = 0;
    for height in from.after.saturating_add(1)..=last {
        // None of it is remembered of blocks from before this process started.
        let block = operations(height);
        if block.is_none() && !reply.operations.is_empty() {
            break;
        }
        for operation in block.into_iter().flatten() {
            if operation.index < reply.next_index {
                continue;
            }
            bytes += operation.encoded_len() + FIELD_BYTES;
            if bytes > FOLLOW_LIMIT_BYTES || reply.operations.len() >= FOLLOW_LIMIT {
                return reply;
            }
            reply.next_index = operation.index + 1;
            reply.operations.push(operation);
        }
        (reply.height, reply.next_index) = (height, 0);
    }
    reply
}

fn operations_of(block: &FinalOutcome) -> Vec<wire::FinalOperation> {
    let height = block.header.height;
    let operations = (0..).zip(&block.outcome.operations);
    let told = operations.map(|(index, done)| wire::FinalOperation {
        height,
        index,
        operation: done.operation.to_vec(),
        requester: done.requester.to_vec(),
        effects: done.effects.iter().map(|effect| effect_name(effect).to_owned()).collect(),
    });
    told.collect()
}

fn outcome_of(outcome: Result<Finalised, SubmitError>) -> wire::Outcome {
    match outcome {
        Ok(Finalised { height, index, time_ms, block }) => wire::Outcome {
            agreed: true,
            height,
            index: index.into(),
            time_ms,
            block: block.to_vec(),
            ..Default::default()
        },
        Err(error) => wire::Outcome {
            refusal: error.to_string(),
            code: code_of(&error).to_owned(),
            retry_after_ms: match error {
                SubmitError::Busy { retry_after_ms } => retry_after_ms,
                _ => 0,
            },
            ..Default::default()
        },
    }
}

/// A stable word for why an operation is not final: the registry's own where it is the registry that refused
fn code_of(error: &SubmitError) -> &str {
    match error {
        SubmitError::Refused(reason) => reason
            .rsplit_once('[')
            .and_then(|(_, label)| label.strip_suffix(']'))
            .unwrap_or("REFUSED"),
        SubmitError::TooLong => "TOO_LONG",
        SubmitError::Busy { .. } => "BUSY",
        SubmitError::Halted(_) => "HALTED",
        SubmitError::Stopped => "STOPPED",
    }
}

/// One word for what an operation did
pub fn effect_name(effect: &Effect) -> &'static str {
    match effect {
        Effect::Registered { .. } => "registered",
        Effect::Allocated { .. } => "allocated",
        Effect::InUse { .. } => "in-use",
        Effect::Released { .. } => "released",
        Effect::Failed { .. } => "failed",
        Effect::Restored { .. } => "restored",
        Effect::Retired { .. } => "retired",
        Effect::Transferred { .. } => "transferred",
        Effect::CertificateGranted { .. } => "certificate-granted",
        Effect::CertificateEnded { .. } => "certificate-ended",
        Effect::TicketGranted { .. } => "ticket-granted",
        Effect::StakeGiven { .. } => "stake-given",
        Effect::Voted { .. } => "voted",
        Effect::EvidenceRecorded { .. } => "evidence-recorded",
    }
}

fn read<M: Message + Default>(body: &Bytes) -> Result<M, Answer> {
    M::decode(body.clone()).map_err(|_| malformed("the request is not of the method's schema"))
}

fn malformed(what: &str) -> Answer {
    Answer::refused(CallStatus::Invalid, "malformed_request", what)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a follower sees of blocks with so many operations each, page by page
    fn followed(sizes: &[usize], effects: usize) -> Vec<Vec<wire::FinalOperation>> {
        let blocks: Vec<Vec<wire::FinalOperation>> = (1..)
            .zip(sizes)
            .map(|(height, size)| {
                let operation = |index| wire::FinalOperation {
                    height,
                    index,
                    operation: vec![1; 32],
                    requester: vec![2; 32],
                    effects: vec!["ticket-granted".to_owned(); effects],
                };
                (0..*size as u64).map(operation).collect()
            })
            .collect();
        let (mut from, mut pages) = (Place { after: 0, index: 0 }, Vec::new());
        while from.after < blocks.len() as u64 {
            let block = |height: u64| blocks.get(height as usize - 1).cloned();
            let reply = page(from, blocks.len() as u64, block);
            assert!(reply.encoded_len() < FOLLOW_LIMIT_BYTES + 1_024);
            from = Place { after: reply.height, index: reply.next_index };
            pages.push(reply.operations);
        }
        let seen: Vec<_> = pages.iter().flatten().map(|one| (one.height, one.index)).collect();
        let all: Vec<_> = blocks.iter().flatten().map(|one| (one.height, one.index)).collect();
        assert_eq!(seen, all, "each once and in order");
        pages
    }

    #[test]
    fn what_became_final_comes_in_pages_however_large_a_block_is() {
        assert_eq!(followed(&[3, 0, 2], 1).len(), 1);
        assert_eq!(followed(&[0, 0], 1), [Vec::new()]);
        assert_eq!(followed(&[3 * FOLLOW_LIMIT + 1, 1], 1).len(), 4, "bounded in number");
        let pages = followed(&[7, 200, 1], 1_024);
        assert!(pages.len() > 5 && pages.iter().all(|page| page.len() < 40), "and in octets");
    }

    #[test]
    fn programs_learn_why_and_when_to_come_again() {
        let outcome = |error| outcome_of(Err(error));
        let busy = outcome(SubmitError::Busy { retry_after_ms: 40 });
        assert_eq!((busy.agreed, busy.code.as_str(), busy.retry_after_ms), (false, "BUSY", 40));
        let refused = outcome(SubmitError::Refused("used already [E_REPLAY_SEQUENCE]".into()));
        assert_eq!((refused.code.as_str(), refused.retry_after_ms), ("E_REPLAY_SEQUENCE", 0));
        assert!(refused.refusal.contains("used already"));
        assert_eq!(outcome(SubmitError::Refused("no label".into())).code, "REFUSED");
        let (height, index, time_ms, block) = (7, 3, 9, [1; 32]);
        let agreed = outcome_of(Ok(Finalised { height, index, time_ms, block }));
        assert_eq!((agreed.agreed, agreed.height, agreed.index), (true, 7, 3));
        assert_eq!((agreed.code, agreed.refusal), (String::new(), String::new()));
    }
}
