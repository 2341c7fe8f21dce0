//! What this node asks the validators for itself: it makes proofs from its plots, keeps a ticket for the epoch, counts its
//! operations and waits until they are final. What may be asked is the registry's to say.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use stoq_hypermesh::consensus::{Client, Finalised, Genesis, SubmitError};
use stoq_hypermesh::digest::Digest;
use stoq_hypermesh::ledger::LedgerView;
use stoq_hypermesh::operation::{Operation, OperationBody};
use stoq_hypermesh::proof::{Plot, PlotError, PlotOrder, Policy, Prover};
use stoq_hypermesh::receipt::Receipt;
use stoq_hypermesh::registry::Effect;
use stoq_hypermesh::requester::{Ground, MakeError, Maker, RequesterKey};

use tokio::sync::Semaphore;

use crate::authority::milliseconds;

/// Time an operation may take from its proof to its being final
const PATIENCE: Duration = Duration::from_secs(25);
/// Operations of this node that may wait for their proofs
const PROVING_LIMIT: usize = 256;
/// Times an operation is made anew whose ground was out of date
const ATTEMPTS: usize = 3;

/// Why the validators did not take an operation
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(transparent)]
pub struct SubmitRefused(#[from] pub SubmitError);

/// Why something was not agreed on
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// No proofs
    #[error("no proofs can be made: {0}")]
    Make(#[from] MakeError),
    /// No plot
    #[error("no proofs can be made without a plot: {0}")]
    Plot(#[from] PlotError),
    /// Nothing is final yet
    #[error("the registry of this node is not there yet; try again in a second")]
    NotReady,
    /// The validators refused
    #[error(transparent)]
    Submit(#[from] SubmitRefused),
    /// Too many wait for the prover
    #[error("{PROVING_LIMIT} operations of this node wait for their proofs; try again later")]
    Proving,
    /// They did not agree in time
    #[error("the validators did not agree within {} s; it may still become final", PATIENCE.as_secs())]
    TimedOut,
    /// The block is gone
    #[error("block {0} is not kept here any more, so there is no receipt; ask another node")]
    NoReceipt(u64),
    /// A thread ended
    #[error("the prover ended: {0}")]
    Prover(String),
}

/// An operation that is final
#[derive(Clone, Debug)]
pub struct Done {
    /// Its digest
    pub operation: Digest,
    /// Where it is
    pub place: Finalised,
    /// What it did, one for each part
    pub effects: Vec<Effect>,
    /// What shows it to anyone
    pub receipt: Receipt,
}

struct Shared {
    genesis: Arc<Genesis>,
    key: RequesterKey,
    plots: Vec<PathBuf>,
    client: Client,
    view: LedgerView,
    /// The highest sequence number given out
    sequence: Mutex<u64>,
    /// The ticket of an epoch; one asks for it at a time
    ticket: tokio::sync::Mutex<Option<(u64, Digest)>>,
    /// Proofs and plots take whole processors: one at a time
    prover: Mutex<Option<Prover>>,
    /// Whose turn it is, so that nobody holds a thread while another's proofs are made
    turn: Arc<Semaphore>,
    /// Room among those that wait
    room: Semaphore,
}

/// Set when nobody waits for a proof any more
struct GivenUp(Arc<AtomicBool>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Asks in the name of this node
#[derive(Clone)]
pub struct Requester {
    shared: Arc<Shared>,
}

impl Requester {
    /// With these plots, of which a missing one is made when it is first needed
    pub fn new(
        genesis: Arc<Genesis>,
        key: RequesterKey,
        plots: Vec<PathBuf>,
        client: Client,
        view: LedgerView,
    ) -> Self {
        let shared = Shared {
            genesis,
            key,
            plots,
            client,
            view,
            sequence: Mutex::default(),
            ticket: tokio::sync::Mutex::default(),
            prover: Mutex::default(),
            turn: Arc::new(Semaphore::new(1)),
            room: Semaphore::new(PROVING_LIMIT),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Sees to it that there is a plot, so that the first who asks need not wait for it
    pub fn prepare(&self) {
        let shared = Arc::clone(&self.shared);
        let turn = Arc::clone(&shared.turn).try_acquire_owned();
        tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let mut prover = shared.prover.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = shared.open(&mut prover) {
                tracing::error!(%error, "this node cannot prove operations of its own");
            }
        });
    }

    /// Has something agreed on, and waits until it is final and durable
    pub async fn perform(&self, body: OperationBody) -> Result<Done, RequestError> {
        match tokio::time::timeout(PATIENCE, self.try_perform(body)).await {
            Ok(done) => done,
            Err(_) => Err(RequestError::TimedOut),
        }
    }

    async fn try_perform(&self, body: OperationBody) -> Result<Done, RequestError> {
        let mut attempt = 1;
        loop {
            match self.attempt(body.clone()).await {
                Err(RequestError::Submit(SubmitRefused(SubmitError::Refused(reason))))
                    if attempt < ATTEMPTS && is_out_of_date(&reason) =>
                {
                    tracing::debug!(reason, attempt, "an operation is made anew");
                    *self.shared.ticket.lock().await = None;
                    attempt += 1;
                }
                Err(RequestError::Submit(SubmitRefused(SubmitError::Busy { retry_after_ms })))
                    if attempt < ATTEMPTS =>
                {
                    tokio::time::sleep(Duration::from_millis(retry_after_ms)).await;
                    attempt += 1;
                }
                outcome => return outcome,
            }
        }
    }

    async fn attempt(&self, body: OperationBody) -> Result<Done, RequestError> {
        let operation = if matches!(body, OperationBody::Vote(_)) {
            let ground = self.ground()?;
            let sequence = self.next(&ground);
            Maker::new(&self.shared.key, &ground).as_validator(body, sequence)
        } else if is_for_tickets(&body) && self.has_tickets()? {
            let ticket = self.ticket().await?;
            let ground = self.ground()?;
            let sequence = self.next(&ground);
            Maker::new(&self.shared.key, &ground).with_ticket(body, sequence, ticket)
        } else {
            self.prove(body).await?
        };
        self.submit(&operation).await
    }

    async fn submit(&self, operation: &Operation) -> Result<Done, RequestError> {
        let submitted = self.shared.client.submit(Bytes::from(operation.encode())).await;
        let place = submitted.map_err(SubmitRefused)?;
        let id = operation.id();
        let outcome = self.shared.view.outcome(place.height);
        let effects = outcome.and_then(|final_block| {
            let done = final_block.outcome.operations.iter().find(|one| one.operation == id)?;
            Some(done.effects.clone())
        });
        let receipt = self.shared.client.receipt(place.height, place.index).await;
        let receipt = receipt.ok_or(RequestError::NoReceipt(place.height))?;
        Ok(Done { operation: id, place, effects: effects.unwrap_or_default(), receipt })
    }

    fn ground(&self) -> Result<Ground, RequestError> {
        let registry = self.shared.view.registry();
        Ground::of(&registry, &self.shared.key.requester()).ok_or(RequestError::NotReady)
    }

    fn has_tickets(&self) -> Result<bool, RequestError> {
        let ground = self.ground()?;
        let policy = ground.policy(ground.operations_policy);
        Ok(policy.is_some_and(|policy| policy.ticket_operations > 0))
    }

    /// One above all that were used and given out
    fn next(&self, ground: &Ground) -> u64 {
        let mut sequence = self.shared.sequence.lock().unwrap_or_else(PoisonError::into_inner);
        *sequence = (*sequence).max(ground.newest_sequence) + 1;
        *sequence
    }

    /// The ticket of this epoch, asked for where there is none
    async fn ticket(&self) -> Result<Digest, RequestError> {
        let mut held = self.shared.ticket.lock().await;
        let epoch = self.ground()?.epoch;
        if let Some((of, ticket)) = *held
            && of == epoch
        {
            return Ok(ticket);
        }
        let operation = self.prove(OperationBody::RequestTicket).await?;
        let done = self.submit(&operation).await?;
        // It may have become final in the next epoch; then it is good for that one.
        *held = Some((self.ground()?.epoch, done.operation));
        Ok(done.operation)
    }

    async fn prove(&self, body: OperationBody) -> Result<Operation, RequestError> {
        let _room = self.shared.room.try_acquire().map_err(|_| RequestError::Proving)?;
        let turn = Arc::clone(&self.shared.turn).acquire_owned().await;
        let turn = turn.map_err(|error| RequestError::Prover(error.to_string()))?;
        let given_up = GivenUp(Arc::default());
        let (requester, stop) = (self.clone(), Arc::clone(&given_up.0));
        let proving = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            requester.prove_here(body, &stop)
        });
        proving.await.map_err(|error| RequestError::Prover(error.to_string()))?
    }

    fn prove_here(
        &self,
        body: OperationBody,
        stop: &AtomicBool,
    ) -> Result<Operation, RequestError> {
        let shared = &self.shared;
        let mut held = shared.prover.lock().unwrap_or_else(PoisonError::into_inner);
        let prover = shared.open(&mut held)?;
        // Only now: making a plot takes longer than a beacon is young.
        let ground = self.ground()?;
        let sequence = self.next(&ground);
        let now_ms = milliseconds(SystemTime::now()).max(ground.beacon_time_ms);
        let mut patient = |_| match stop.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        };
        let maker = Maker::new(&shared.key, &ground);
        Ok(maker.proven(body, sequence, prover, now_ms, &mut patient)?)
    }
}

impl Shared {
    /// The plot that the strictest policy in force takes
    fn open<'a>(&self, held: &'a mut Option<Prover>) -> Result<&'a Prover, RequestError> {
        if held.is_none() {
            let plot = self.plot()?;
            tracing::info!(path = %plot.path().display(), k = plot.k(), "a plot is open");
            *held = Some(Prover::new(plot, self.key.signing()));
        }
        held.as_ref().ok_or(RequestError::NotReady)
    }

    fn plot(&self) -> Result<Plot, PlotError> {
        let existing = self.plots.iter().find(|path| path.exists());
        if let Some(path) = existing {
            return Plot::open(path);
        }
        let policies = self.genesis.policies();
        let wanted = self.genesis.parameters().certificates_policy;
        let policy = policies.iter().find(|policy| policy.id == wanted).unwrap_or(&Policy::DEFAULT);
        let order = PlotOrder {
            path: self.plots.first().cloned().unwrap_or_default(),
            network: self.genesis.network(),
            requester: self.key.requester(),
            salt: rand::random(),
            k: policy.space_k_min,
            strength: policy.space_strength,
        };
        tracing::info!(path = %order.path.display(), k = order.k, "a plot is made");
        Plot::make(&order, &mut |_| ControlFlow::Continue(()))
    }
}

/// As the registry has it: single operations on assets
fn is_for_tickets(body: &OperationBody) -> bool {
    matches!(
        body,
        OperationBody::RegisterAsset(_)
            | OperationBody::Operate(_)
            | OperationBody::Transfer { .. }
            | OperationBody::EndCertificate { .. }
    )
}

/// Whether the same would be taken if it was made anew: the chain went on meanwhile
fn is_out_of_date(reason: &str) -> bool {
    const WORDS: [&str; 5] =
        ["make the proofs anew", "make it anew", "ticket", "sequence number", "claimed time"];
    WORDS.iter().any(|word| reason.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use stoq_hypermesh::proof::ProofRefusal;

    #[test]
    fn what_the_chain_overtook_is_made_anew_and_nothing_else() {
        for refusal in [
            ProofRefusal::BindingEpoch { stated: 1, current: 2 },
            ProofRefusal::TimeBeaconOld { age_ms: 3, limit_ms: 2 },
            ProofRefusal::TimeTicketEpoch { granted: 1, current: 2 },
            ProofRefusal::BindingTicket,
            ProofRefusal::ReplaySequenceUsed { sequence: 1 },
        ] {
            assert!(is_out_of_date(&refusal.to_string()), "{refusal}");
        }
        assert!(!is_out_of_date(&ProofRefusal::SpaceForged.to_string()));
        assert!(!is_out_of_date("the asset is another requester's"));
    }
}
