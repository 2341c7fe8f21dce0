//! What is final, for the rest of the process: the state after the last final block, and what each of the last blocks
//! did. A reader holds a state as long as it likes and keeps nobody waiting.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tokio::sync::broadcast;

use crate::consensus::Header;
use crate::registry::{BlockOutcome, Registry};

/// Operations whose outcomes are remembered
pub const OUTCOMES_LIMIT: usize = 1 << 16;
/// Blocks whose outcomes are remembered
pub const OUTCOME_BLOCKS_LIMIT: usize = 4_096;
/// Outcomes that a slow subscriber may let wait
const SUBSCRIPTION_LIMIT: usize = 1_024;

/// What a final block did
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FinalOutcome {
    /// Its header
    pub header: Header,
    /// What its operations did
    pub outcome: BlockOutcome,
}

#[derive(Debug, Default)]
struct Recent {
    outcomes: VecDeque<Arc<FinalOutcome>>,
    operations: usize,
}

#[derive(Debug)]
struct Shared {
    registry: RwLock<Arc<Registry>>,
    recent: Mutex<Recent>,
    pending: AtomicUsize,
    outcomes: broadcast::Sender<Arc<FinalOutcome>>,
    snapshot_failure: Arc<Mutex<Option<String>>>,
}

/// Reads what is final, from anywhere in the process
#[derive(Clone, Debug)]
pub struct LedgerView {
    shared: Arc<Shared>,
}

impl LedgerView {
    pub(super) fn new(registry: &Registry, snapshot_failure: Arc<Mutex<Option<String>>>) -> Self {
        Self {
            shared: Arc::new(Shared {
                registry: RwLock::new(Arc::new(registry.clone())),
                recent: Mutex::default(),
                pending: AtomicUsize::new(0),
                outcomes: broadcast::Sender::new(SUBSCRIPTION_LIMIT),
                snapshot_failure,
            }),
        }
    }

    /// The state after the last final block. Proofs are made against it.
    pub fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.shared.registry.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Operations that wait here for a block
    pub fn pending(&self) -> usize {
        self.shared.pending.load(Ordering::Relaxed)
    }

    /// What a block did, if it is one of the last that became final in this process
    pub fn outcome(&self, height: u64) -> Option<Arc<FinalOutcome>> {
        let recent = self.shared.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let place = recent.outcomes.binary_search_by_key(&height, |it| it.header.height).ok()?;
        recent.outcomes.get(place).cloned()
    }

    /// What blocks do from now on, in their order. Whoever falls far behind is told how many it missed.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<FinalOutcome>> {
        self.shared.outcomes.subscribe()
    }

    /// Why the last snapshot could not be written, if so: a start will take longer until one can
    pub fn snapshot_failure(&self) -> Option<String> {
        self.shared.snapshot_failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_pending(&self, pending: usize) {
        self.shared.pending.store(pending, Ordering::Relaxed);
    }

    pub(super) fn publish(&self, registry: &Registry, outcome: FinalOutcome) {
        let outcome = Arc::new(outcome);
        {
            let mut recent = self.shared.recent.lock().unwrap_or_else(PoisonError::into_inner);
            recent.operations += outcome.outcome.operations.len();
            recent.outcomes.push_back(Arc::clone(&outcome));
            while recent.outcomes.len() > OUTCOME_BLOCKS_LIMIT
                || recent.operations > OUTCOMES_LIMIT && recent.outcomes.len() > 1
            {
                let Some(oldest) = recent.outcomes.pop_front() else { break };
                recent.operations -= oldest.outcome.operations.len();
            }
        }
        *self.shared.registry.write().unwrap_or_else(PoisonError::into_inner) =
            Arc::new(registry.clone());
        // Nobody needs to be listening.
        let _ = self.shared.outcomes.send(outcome);
    }
}
