//! How the rest of the process reaches consensus: operations in, final blocks, receipts, evidence and status out. A
//! caller waits for its answer on its own time, and one that falls behind loses its subscription, not others theirs.

use std::sync::Arc;

use bytes::Bytes;
use commonware_utils::channel::{mpsc, oneshot};
use stoq_interface::NodeId;

use super::super::application::{Dropped, Offer};
use super::super::attendance::Suspicion;
use super::super::certificate::Transition;
use super::super::docket::Case;
use super::super::engine::Runtime;
use super::super::evidence::EvidenceFile;
use super::super::header::{OPERATION_LIMIT_BYTES, operation_leaf};
use super::super::message::FinalBlock;
use super::{Answer, Core, NodeError, Waiting};
use crate::digest::Digest;
use crate::operation::ValidatorKey;
use crate::receipt::{Receipt, ReceiptMaker};

/// Requests that wait to be looked at
const REQUESTS_LIMIT: usize = 4_096;
/// Operations whose callers wait for them
const WAITERS_LIMIT: usize = 1 << 18;
/// An operation that is not final after so long is told to others again, in milliseconds
const TELL_AGAIN_MS: u64 = 2_000;
/// Operations that are told again at a time
const TELL_AGAIN_LIMIT: usize = 1_024;
/// Subscriptions at a time
const SUBSCRIBERS_LIMIT: usize = 256;

/// Where an operation is final
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Finalised {
    /// The height of its block
    pub height: u64,
    /// Its place in the block
    pub index: u32,
    /// The time of the block, in milliseconds since 1970
    pub time_ms: u64,
    /// The digest of the block's header
    pub block: Digest,
}

/// Why an operation will not be agreed on by this attempt
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SubmitError {
    /// Too long
    #[error("an operation has at most {OPERATION_LIMIT_BYTES} octets")]
    TooLong,
    /// The application refuses it
    #[error("the operation is refused: {0}")]
    Refused(String),
    /// Too much waits
    #[error("too many operations wait; try again in {retry_after_ms} ms")]
    Busy {
        /// When, from now
        retry_after_ms: u64,
    },
    /// Nothing is agreed on any more
    #[error("consensus has halted: {0}")]
    Halted(String),
    /// This node's consensus has ended
    #[error("consensus does not run on this node; see its log")]
    Stopped,
}

/// What is known of one validator
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ValidatorStatus {
    /// Its name
    pub name: NodeId,
    /// Its key
    pub key: ValidatorKey,
    /// Whether it is this one
    pub own: bool,
    /// How long nothing came from it, in milliseconds
    pub silent_ms: u64,
    /// Of its last turns, how many passed without a block, and how many there were
    pub missed_turns: (usize, usize),
    /// Why it is suspected, if it is. That is no proof of anything.
    pub suspicion: Option<Suspicion>,
    /// Why nothing is taken from it, if so. That is this validator's own observation.
    pub blocked: Option<&'static str>,
    /// Whether there is evidence against it
    pub convicted: bool,
}

/// How consensus stands
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Status {
    /// The network
    pub network: Digest,
    /// The epoch
    pub epoch: u64,
    /// The view that was reached in it
    pub view: u64,
    /// The last final block that is durable
    pub height: u64,
    /// The lowest final block that is kept
    pub lowest: u64,
    /// The highest block that is known here or that somebody told of
    pub heard: u64,
    /// Set where this node needs a block that none of the others keeps any more: the lowest that one of them has. It
    /// cannot catch up by itself.
    pub gap: Option<u64>,
    /// Whether this node votes in this epoch
    pub votes: bool,
    /// Why nothing is agreed on any more, if so
    pub halted: Option<String>,
    /// How many may be faulty
    pub faults: usize,
    /// How many must agree
    pub quorum: usize,
    /// Each validator of the epoch
    pub validators: Vec<ValidatorStatus>,
    /// Operations that wait for a block
    pub backlog: usize,
    /// Blocks that are not final
    pub pending: usize,
    /// What the engine told of and nobody had time to hear
    pub reports_lost: u64,
}

/// Where a caller hears whether its operation waits for a block, and then where it is final
pub(crate) type Submitted = oneshot::Sender<Result<oneshot::Receiver<Answer>, SubmitError>>;

/// What a caller wants
pub(crate) enum Request {
    Submit(Bytes, Submitted),
    Status(oneshot::Sender<Status>),
    Block(u64, oneshot::Sender<Option<FinalBlock>>),
    Receipts(u64, oneshot::Sender<Option<ReceiptMaker>>),
    Evidence(oneshot::Sender<Vec<Case>>),
    EvidenceFile(Digest, oneshot::Sender<Option<EvidenceFile>>),
    Subscribe(mpsc::Sender<Arc<FinalBlock>>),
    Unblock(ValidatorKey, oneshot::Sender<bool>),
    Stop,
}

/// The other end of a [`Client`], to be handed to the node
pub struct Requests(pub(crate) mpsc::Receiver<Request>);

/// Reaches consensus from anywhere in the process
#[derive(Clone, Debug)]
pub struct Client {
    requests: mpsc::Sender<Request>,
}

pub(crate) fn channel() -> (Client, Requests) {
    let (requests, receiver) = mpsc::channel(REQUESTS_LIMIT);
    (Client { requests }, Requests(receiver))
}

impl Client {
    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(request(answer)).await.ok()?;
        answered.await.ok()
    }

    /// Hands in an operation and waits until it is final and durable.
    ///
    /// Dropping this does not take the operation back.
    pub async fn submit(&self, operation: Bytes) -> Result<Finalised, SubmitError> {
        self.hand_in(operation).await?.await.unwrap_or(Err(SubmitError::Stopped))
    }

    /// Hands in an operation. Resolves once it waits for a block; what it resolves to, once it is final and durable, or
    /// given up here. An operation that nobody waits for is told to others only once.
    pub async fn hand_in(
        &self,
        operation: Bytes,
    ) -> Result<oneshot::Receiver<Result<Finalised, SubmitError>>, SubmitError> {
        self.ask(|answer| Request::Submit(operation, answer))
            .await
            .unwrap_or(Err(SubmitError::Stopped))
    }

    /// How consensus stands; none if it has ended
    pub async fn status(&self) -> Option<Status> {
        self.ask(Request::Status).await
    }

    /// A final block; none if it is not here
    pub async fn block(&self, height: u64) -> Option<FinalBlock> {
        self.ask(|answer| Request::Block(height, answer)).await.flatten()
    }

    /// Makes the receipts of a final block; none if it is not here
    pub async fn receipts(&self, height: u64) -> Option<ReceiptMaker> {
        self.ask(|answer| Request::Receipts(height, answer)).await.flatten()
    }

    /// The receipt of one operation; none if it is not here
    pub async fn receipt(&self, height: u64, index: u32) -> Option<Receipt> {
        self.receipts(height).await?.receipt(index)
    }

    /// All evidence that is kept, in the order it was found
    pub async fn evidence(&self) -> Vec<Case> {
        self.ask(Request::Evidence).await.unwrap_or_default()
    }

    /// A piece of evidence with all that is needed to judge it elsewhere
    pub async fn evidence_file(&self, id: Digest) -> Option<EvidenceFile> {
        self.ask(|answer| Request::EvidenceFile(id, answer)).await.flatten()
    }

    /// Final blocks from now on, in order. Whoever lets more than `capacity` wait loses the subscription, and finds
    /// what it missed with [`Client::block`].
    pub async fn subscribe(&self, capacity: usize) -> mpsc::Receiver<Arc<FinalBlock>> {
        let (sender, receiver) = mpsc::channel(capacity.max(1));
        // Without a node the sender is dropped, and the receiver ends.
        let _ = self.requests.send(Request::Subscribe(sender)).await;
        receiver
    }

    /// Listens to a validator again that was not listened to any more. True if it was so.
    pub async fn unblock(&self, key: ValidatorKey) -> bool {
        self.ask(|answer| Request::Unblock(key, answer)).await.unwrap_or(false)
    }

    /// Ends consensus on this node
    pub async fn stop(&self) {
        let _ = self.requests.send(Request::Stop).await;
    }

    pub(crate) fn try_stop(&self) {
        // Where too much waits, the node ends with its last client.
        let _ = self.requests.try_send(Request::Stop);
    }

    pub(crate) fn blocking_stop(&self) {
        let _ = self.requests.blocking_send(Request::Stop);
    }
}

impl<E: Runtime> Core<E> {
    pub(super) async fn on_request(&mut self, request: Request) -> Result<(), NodeError> {
        // Whoever does not wait for the answer any more does not need it.
        match request {
            // Many come at once; they are looked at together.
            Request::Submit(operation, answer) => self.submitted.push((operation, answer)),
            Request::Status(answer) => drop(answer.send(self.status())),
            Request::Block(height, answer) => {
                let block = self.delivered_block(height).await?;
                let _ = answer.send(block);
            }
            Request::Receipts(height, answer) => {
                let block = self.delivered_block(height).await?;
                let _ = answer.send(block.map(|block| self.receipt_maker(block)));
            }
            Request::Evidence(answer) => drop(answer.send(self.docket.cases().to_vec())),
            Request::EvidenceFile(id, answer) => drop(answer.send(self.evidence_file(&id))),
            Request::Subscribe(subscriber) => {
                self.subscribers.retain(|known| !known.is_closed());
                if self.subscribers.len() < SUBSCRIBERS_LIMIT {
                    self.subscribers.push(subscriber);
                }
            }
            Request::Unblock(key, answer) => drop(answer.send(self.inbox.unblock(&key))),
            Request::Stop => {}
        }
        Ok(())
    }

    /// Offers what came in to the application, all at once, and tells each caller what becomes of its operation
    pub(super) fn admit(&mut self) {
        if self.submitted.is_empty() {
            return;
        }
        let room = WAITERS_LIMIT.saturating_sub(self.waiters.len());
        let busy = SubmitError::Busy { retry_after_ms: self.settings.timing.leader_ms };
        let (mut operations, mut answers) = (Vec::new(), Vec::new());
        for (operation, answer) in std::mem::take(&mut self.submitted) {
            let refused = match &self.halted {
                Some(reason) => Some(SubmitError::Halted(reason.clone())),
                None if operation.len() > OPERATION_LIMIT_BYTES => Some(SubmitError::TooLong),
                None if operations.len() >= room => Some(busy.clone()),
                None => None,
            };
            match refused {
                // Whoever does not wait for the answer any more does not need it.
                Some(error) => drop(answer.send(Err(error))),
                None => {
                    operations.push(operation);
                    answers.push(answer);
                }
            }
        }
        let offers = self.application.offer(&operations, self.now_ms());
        debug_assert_eq!(offers.len(), operations.len(), "one answer for each");
        for ((operation, answer), offer) in operations.into_iter().zip(answers).zip(offers) {
            let answered = match offer {
                Offer::Accepted => Ok(self.wait_for(operation)),
                Offer::Refused(reason) => Err(SubmitError::Refused(reason)),
                Offer::Busy { retry_after_ms } => Err(SubmitError::Busy { retry_after_ms }),
            };
            let _ = answer.send(answered);
        }
    }

    fn wait_for(&mut self, operation: Bytes) -> oneshot::Receiver<Answer> {
        let (caller, waiting) = oneshot::channel();
        let (leaf, told_ms) = (operation_leaf(&operation), self.now_ms());
        let new = || Waiting { operation: operation.clone(), told_ms, callers: Vec::new() };
        self.waiters.entry(leaf).or_insert_with(new).callers.push(caller);
        self.outgoing.push(operation);
        waiting
    }

    async fn delivered_block(&mut self, height: u64) -> Result<Option<FinalBlock>, NodeError> {
        if height > self.delivered {
            return Ok(None);
        }
        Ok(self.store.final_block(height).await?)
    }

    fn transitions_before(&self, epoch: u64) -> Vec<Transition> {
        let before = |change: &&Transition| change.header.epoch < epoch;
        self.transitions.iter().filter(before).cloned().collect()
    }

    fn receipt_maker(&self, block: FinalBlock) -> ReceiptMaker {
        let FinalBlock { block, certificate, .. } = block;
        let transitions = self.transitions_before(block.header.epoch);
        ReceiptMaker::new(block.header, block.operations, certificate, transitions)
    }

    fn evidence_file(&self, id: &Digest) -> Option<EvidenceFile> {
        let case = self.docket.cases().iter().find(|case| case.id == *id)?;
        let transitions = self.transitions_before(case.finding.epoch);
        Some(EvidenceFile { transitions, evidence: (*case.evidence).clone() })
    }

    pub(super) fn answer_waiters(&mut self, block: &FinalBlock) {
        if self.waiters.is_empty() {
            return;
        }
        let header = &block.block.header;
        let digest = header.digest();
        for (index, leaf) in (0..).zip(block.block.leaves()) {
            let callers = self.waiters.remove(&leaf).map(|waiting| waiting.callers);
            for caller in callers.into_iter().flatten() {
                let (height, time_ms) = (header.height, header.time_ms);
                let _ = caller.send(Ok(Finalised { height, index, time_ms, block: digest }));
            }
        }
    }

    /// Tells callers of operations that the application gave up
    pub(super) fn answer_dropped(&mut self) {
        for Dropped { operation, reason } in self.application.dropped() {
            let waiting = self.waiters.remove(&operation_leaf(&operation));
            for caller in waiting.into_iter().flat_map(|waiting| waiting.callers) {
                let _ = caller.send(Err(SubmitError::Refused(reason.clone())));
            }
        }
    }

    /// Forgets callers that have gone away, and tells others again of what was lost on the way to them
    pub(super) fn tend_waiters(&mut self, now_ms: u64) {
        self.waiters.retain(|_, waiting| {
            waiting.callers.retain(|caller| !caller.is_closed());
            !waiting.callers.is_empty()
        });
        let late = |waiting: &&mut Waiting| waiting.told_ms + TELL_AGAIN_MS <= now_ms;
        for waiting in self.waiters.values_mut().filter(late).take(TELL_AGAIN_LIMIT) {
            waiting.told_ms = now_ms;
            self.outgoing.push(waiting.operation.clone());
        }
    }

    pub(super) fn publish(&mut self, block: &Arc<FinalBlock>) {
        self.subscribers.retain(|subscriber| subscriber.try_send(Arc::clone(block)).is_ok());
    }

    pub(super) fn status(&self) -> Status {
        let now_ms = self.now_ms();
        let blocked = self.inbox.blocked();
        let validators = self.set.iter().map(|validator| {
            let key = validator.key;
            let own = key == self.own;
            ValidatorStatus {
                name: validator.name.clone(),
                key,
                own,
                silent_ms: if own { 0 } else { self.attendance.silent_ms(&key, now_ms) },
                missed_turns: self.attendance.missed(&key),
                suspicion: self.attendance.suspicion(&key, now_ms).filter(|_| !own),
                blocked: blocked.iter().find(|(of, _)| *of == key).map(|(_, reason)| *reason),
                convicted: self.docket.convicts(&key),
            }
        });
        Status {
            network: self.trust.genesis().network(),
            epoch: self.epoch,
            view: self.view,
            height: self.delivered,
            lowest: self.store.heights().0,
            heard: self.catch_up.highest().max(self.delivered),
            gap: self.gap,
            votes: self.engine.is_some(),
            halted: self.halted.clone(),
            faults: self.set.faults(),
            quorum: self.set.quorum(),
            validators: validators.collect(),
            backlog: self.application.backlog(),
            pending: self.chain.pending(),
            reports_lost: self.reports_lost(),
        }
    }
}
