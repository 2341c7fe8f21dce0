//! One validator with its registry, endpoint and way to the others, in the process that starts it.

use std::collections::HashMap;
use std::net::SocketAddrV6;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use stoq::{Endpoint, Incoming};
use stoq_hypermesh::consensus::{Genesis, Settings, Validator, ValidatorConfig, Wire};
use stoq_hypermesh::ledger::{Ledger, LedgerConfig, LedgerLimits, LedgerView};
use stoq_hypermesh::operation::ValidatorKey;
use stoq_hypermesh::requester::RequesterKey;

use super::carrier::{self, Carrier};
use super::liar::Liar;
use super::monotonic_ns;
use crate::identity::Bundle;
use crate::sink::Failure;

/// How often it is looked whether somebody is convicted
const LOOK: Duration = Duration::from_millis(5);

/// What a validator is to be
#[derive(Clone, Deserialize, Serialize)]
pub struct Order {
    /// For its sessions
    pub bundle: Bundle,
    /// The network
    pub genesis: String,
    /// Its key
    pub secret: [u8; 32],
    /// Where its journal and its registry are
    pub directory: PathBuf,
}

/// A validator that has an endpoint and does not know the others yet
pub struct Prepared {
    genesis: Arc<Genesis>,
    key: RequesterKey,
    directory: PathBuf,
    endpoint: Arc<Endpoint>,
    /// Of others that start before this one
    incoming: Incoming,
}

/// A validator that runs
pub struct Member {
    pub validator: Validator,
    pub view: LedgerView,
    pub liar: Arc<Liar>,
    /// Ends its flows when it is dropped
    _endpoint: Arc<Endpoint>,
}

impl Prepared {
    /// Opens the endpoint
    pub fn new(order: &Order) -> Result<Self, Failure> {
        let genesis = Arc::new(Genesis::read(order.genesis.as_bytes())?);
        let (key, directory) = (RequesterKey::from_secret(order.secret), order.directory.clone());
        let endpoint = Arc::new(carrier::endpoint(&order.bundle)?);
        let incoming = carrier::listen(&endpoint)?;
        Ok(Self { genesis, key, directory, endpoint, incoming })
    }

    /// Where others reach it
    pub fn address(&self) -> SocketAddrV6 {
        self.endpoint.local_address()
    }

    /// Starts the validator and dials the others
    pub async fn start(self, addresses: &HashMap<String, SocketAddrV6>) -> Result<Member, Failure> {
        let Self { genesis, key, directory, endpoint, incoming } = self;
        let (carrier, outlets) = Carrier::new(&genesis, &key.validator());
        let liar = Arc::new(Liar::new(Arc::new(carrier), Arc::clone(&genesis), key.clone()));
        let wire: Arc<dyn Wire> = Arc::<Liar>::clone(&liar);
        let starting = {
            let (genesis, key) = (Arc::clone(&genesis), key.clone());
            tokio::task::spawn_blocking(move || start(genesis, &key, &directory, wire))
        };
        let (validator, view) = starting.await??;
        carrier::serve(incoming, &genesis, validator.inbox());
        carrier::dial(&endpoint, outlets, addresses)?;
        Ok(Member { validator, view, liar, _endpoint: endpoint })
    }
}

fn start(
    genesis: Arc<Genesis>,
    key: &RequesterKey,
    directory: &std::path::Path,
    wire: Arc<dyn Wire>,
) -> Result<(Validator, LedgerView), Failure> {
    let (ledger, view) = Ledger::open(LedgerConfig {
        genesis: Arc::clone(&genesis),
        directory: directory.join("registry"),
        validator: Some(key.secret()),
        limits: LedgerLimits::default(),
    })?;
    let contacts = genesis.validators().iter().map(|one| one.key);
    let contacts = contacts.filter(|contact| *contact != key.validator()).collect();
    let config = ValidatorConfig {
        secret: key.secret(),
        directory: directory.join("blocks"),
        settings: Settings::default(),
        contacts,
        threads: 1,
        genesis,
    };
    Ok((Validator::start(config, Box::new(ledger), wire)?, view))
}

impl Member {
    /// Waits until this one lists all of these as convicted; the instant for each
    pub async fn convicted_ns(&self, keys: &[ValidatorKey]) -> Result<Vec<u64>, Failure> {
        let mut convicted_ns = vec![None; keys.len()];
        let mut look = tokio::time::interval(LOOK);
        let client = self.validator.client();
        loop {
            look.tick().await;
            let status = client.status().await.ok_or("a validator has ended")?;
            for (key, at) in keys.iter().zip(&mut convicted_ns) {
                if status.validators.iter().any(|one| one.key == *key && one.convicted) {
                    at.get_or_insert_with(monotonic_ns);
                }
            }
            if let Some(all) = convicted_ns.iter().copied().collect() {
                return Ok(all);
            }
        }
    }

    /// Lies from now on; the instant of the first lie
    pub async fn lied_ns(&self) -> u64 {
        self.liar.lie();
        let mut look = tokio::time::interval(LOOK);
        loop {
            look.tick().await;
            if let Some(first_ns) = self.liar.first_ns() {
                return first_ns;
            }
        }
    }
}
