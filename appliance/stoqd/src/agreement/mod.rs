//! This node's part in HyperMesh: it starts the validator with the registry behind it, carries its frames over sessions
//! and knows whether anything is agreed on at the moment. What is agreed on, and how, is `stoq_hypermesh`'s.

mod carrier;
mod desk;
mod home;
mod judge;
mod requester;

pub use desk::{Desk, effect_name};
pub use home::{Home, HomeError};
pub use judge::Judge;
pub use requester::{Done, RequestError, Requester, SubmitRefused};

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use stoq::NodeId;
use stoq_hypermesh::consensus::validator::ValidatorError;
use stoq_hypermesh::consensus::{Client, Genesis, Settings, Status, Validator, ValidatorConfig};
use stoq_hypermesh::ledger::{Ledger, LedgerConfig, LedgerError, LedgerLimits, LedgerView};
use stoq_hypermesh::operation::{CertificateRequest, OperationBody, csr_statement};
use stoq_hypermesh::requester::RequesterKey;
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

use crate::node::Node;
use carrier::{Carrier, Links};

/// Threads of the validator's own runtime
const THREADS: usize = 1;
/// Without a final block for so long, nothing is agreed on: with nothing to do there is one every quarter of a second
const SILENCE: Duration = Duration::from_secs(5);
/// Final blocks that are kept for other validators: about three days of a network with nothing to do
const BLOCKS_KEPT: u64 = 1 << 20;

/// Why this node takes no part
#[derive(Debug, thiserror::Error)]
pub enum AgreementError {
    /// Its files
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The registry
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The validator
    #[error(transparent)]
    Validator(#[from] ValidatorError),
}

/// The last final block, and when it was noticed
#[derive(Clone, Copy, Debug)]
pub struct Pulse {
    /// Its height
    pub height: u64,
    /// When
    pub at: Instant,
}

/// HyperMesh on this node
pub struct Agreement {
    /// The network
    pub genesis: Arc<Genesis>,
    /// Of this node
    pub key: RequesterKey,
    /// What is agreed on
    pub view: LedgerView,
    /// How to ask for more
    pub client: Client,
    /// What this node asks for itself
    pub requester: Requester,
    /// The connections to other validators
    pub links: Arc<Links>,
    validator: Mutex<Option<Validator>>,
    pulse: watch::Sender<Pulse>,
}

/// Where the agreement is found once it runs: the authority is opened before there are sessions
pub type Later = Arc<OnceLock<Arc<Agreement>>>;

impl Agreement {
    /// Starts the validator. Blocks until what is on disk was read; call it where a runtime is, off its own threads.
    pub fn start(home: Home, name: NodeId) -> Result<Arc<Self>, AgreementError> {
        let Home { genesis, key, directory, plots, issuance: _ } = home;
        let secret = key.secret();
        let (ledger, view) = Ledger::open(LedgerConfig {
            genesis: Arc::clone(&genesis),
            directory: directory.join("registry"),
            validator: Some(secret),
            limits: LedgerLimits::default(),
        })?;
        let links = Arc::new(Links::new(view.clone(), key.clone(), name));
        let wire = Arc::new(Carrier::new(Arc::clone(&links)));
        let contacts = genesis.validators().iter().map(|one| one.key);
        let contacts = contacts.filter(|contact| *contact != key.validator()).collect();
        let config = ValidatorConfig {
            genesis: Arc::clone(&genesis),
            secret,
            directory: directory.join("blocks"),
            settings: Settings { blocks_kept: BLOCKS_KEPT, ..Settings::default() },
            contacts,
            threads: THREADS,
        };
        let validator = Validator::start(config, Box::new(ledger), wire)?;
        let client = validator.client();
        links.open(validator.inbox());
        let height = view.registry().last_height();
        let requester =
            Requester::new(Arc::clone(&genesis), key.clone(), plots, client.clone(), view.clone());
        Ok(Arc::new(Self {
            genesis,
            key,
            view,
            client,
            requester,
            links,
            validator: Mutex::new(Some(validator)),
            pulse: watch::Sender::new(Pulse { height, at: Instant::now() }),
        }))
    }

    /// Why nothing is agreed on at the moment; nothing where all is well
    pub fn problem(&self) -> Option<String> {
        let validator = self.validator.lock().unwrap_or_else(PoisonError::into_inner);
        if !validator.as_ref().is_some_and(Validator::is_running) {
            return Some("the validator of this node has ended; its log says why".to_owned());
        }
        let Pulse { height, at } = *self.pulse.borrow();
        let silent = at.elapsed();
        (silent > SILENCE).then(|| {
            format!(
                "no block has become final for {} s, after height {height}: fewer validators than a quorum are \
                 reached (`stoqctl consensus validators`)",
                silent.as_secs()
            )
        })
    }

    /// Changes with every final block
    pub fn pulse(&self) -> watch::Receiver<Pulse> {
        self.pulse.subscribe()
    }

    /// How agreement stands; none where the validator has ended
    pub async fn status(&self) -> Option<Status> {
        self.client.status().await
    }

    /// Notices final blocks until the validator ends
    async fn follow(&self) {
        let mut outcomes = self.view.subscribe();
        loop {
            let height = match outcomes.recv().await {
                Ok(outcome) => outcome.header.height,
                // What was missed is in the state all the same.
                Err(broadcast::error::RecvError::Lagged(_)) => self.view.registry().last_height(),
                Err(broadcast::error::RecvError::Closed) => return,
            };
            self.pulse.send_replace(Pulse { height, at: Instant::now() });
        }
    }

    /// Ends the validator and waits until its files are closed. Blocks.
    pub fn stop(&self) {
        let validator = self.validator.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(validator) = validator
            && let Err(error) = validator.stop()
        {
            tracing::error!(%error, "the validator did not end well");
        }
    }
}

/// The validators' agreement to a certificate request, as a receipt; none where this node takes no part
pub async fn agreement_to(later: &Later, csr_der: &[u8]) -> Result<Option<Vec<u8>>, RequestError> {
    let Some(agreement) = later.get() else { return Ok(None) };
    let csr_statement = csr_statement(csr_der);
    let body = OperationBody::RequestCertificate(CertificateRequest { asset: None, csr_statement });
    let done = agreement.requester.perform(body).await?;
    Ok(Some(done.receipt.to_vec()))
}

/// Carries frames and notices final blocks until told to stop
pub async fn drive(node: Arc<Node>) {
    let Some(agreement) = node.agreement.get().cloned() else {
        return std::future::pending().await;
    };
    agreement.requester.prepare();
    tokio::join!(
        carrier::serve(Arc::clone(&node), Arc::clone(&agreement.links)),
        carrier::dial(Arc::clone(&node), Arc::clone(&agreement.links)),
        agreement.follow(),
    );
}
