//! The validators of one row, each in a process of its own but the first, and the requesters with their plots and tickets.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use stoq_hypermesh::consensus::{Client, Genesis};
use stoq_hypermesh::digest::Digest;
use stoq_hypermesh::ledger::LedgerView;
use stoq_hypermesh::operation::{self, OperationBody, ValidatorKey};
use stoq_hypermesh::proof::{Plot, PlotOrder, Policy, Prover};
use stoq_hypermesh::registry::GenesisStake;
use stoq_hypermesh::requester::{Ground, Maker, RequesterKey};
use stoq_interface::NodeId;

use super::carrier;
use super::child::{Child, Said, Told};
use super::member::{Member, Order, Prepared};
use super::processor_time;
use crate::identity;
use crate::sink::Failure;

/// Longer than any run: tickets end with their epoch
const EPOCH_BLOCKS: u64 = 1 << 24;
/// Blocks for which an operation may wait: nearly as many as the registry allows
pub const LIFETIME_HEIGHTS: u64 = 8_000;
/// Tickets of the policy for tests pay for so many operations, which no run reaches
const STAKE: u64 = 10;

/// Milliseconds since 1970
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The validators of one row
pub struct World {
    pub genesis: Arc<Genesis>,
    /// The one that the client asks, in this process; none once it was stopped
    pub member: Option<Member>,
    /// The others
    pub children: Vec<Child>,
    /// Of all validators, in the order they were started
    validators: Vec<ValidatorKey>,
    directory: PathBuf,
    keys: Vec<RequesterKey>,
}

/// Somebody who asks, with a ticket
pub struct Asker {
    pub key: RequesterKey,
    pub prover: Prover,
    pub ticket: Digest,
    pub sequence: u64,
}

impl World {
    /// Starts so many validators and waits until each has read its empty journal
    pub async fn start(count: usize, requesters: usize, directory: &Path) -> Result<Self, Failure> {
        let secrets: Vec<RequesterKey> = (0..count).map(|_| RequesterKey::random()).collect();
        let keys: Vec<RequesterKey> = (0..requesters).map(|_| RequesterKey::random()).collect();
        let names: Vec<String> = (0..count).map(|number| format!("validator-{number}")).collect();
        let mut validators = Vec::new();
        for (name, key) in names.iter().zip(&secrets) {
            validators
                .push(operation::Validator { name: NodeId::new(name)?, key: key.validator() });
        }
        let stakes = keys.iter().map(|key| GenesisStake { key: key.public(), amount: STAKE });
        let genesis = Genesis::new(NodeId::new("bench")?, now_ms(), EPOCH_BLOCKS, validators)?
            .with_stakes(stakes.collect())?
            .with_policies(vec![Policy::TEST])?;
        let orders = identity::make_for(&names)?.into_iter().zip(&secrets).map(|(bundle, key)| {
            let at = directory.join(&bundle.node);
            Order { bundle, genesis: genesis.write(), secret: key.secret(), directory: at }
        });
        let (member, children) = start_all(orders.collect()).await?;
        Ok(Self {
            genesis: Arc::new(genesis),
            member: Some(member),
            children,
            validators: secrets.iter().map(RequesterKey::validator).collect(),
            directory: directory.to_owned(),
            keys,
        })
    }

    /// How many validators there are
    pub fn count(&self) -> usize {
        self.validators.len()
    }

    /// How many may be faulty
    pub fn faults(&self) -> usize {
        self.genesis.validators().faults()
    }

    /// The validators that were started last
    pub fn keys_of_last(&self, count: usize) -> Vec<ValidatorKey> {
        self.validators[self.validators.len().saturating_sub(count)..].to_vec()
    }

    fn here(&self) -> Result<&Member, Failure> {
        Ok(self.member.as_ref().ok_or("the validator was stopped")?)
    }

    /// The one that the client asks
    pub fn client(&self) -> Result<Client, Failure> {
        Ok(self.here()?.validator.client())
    }

    /// What the asked one knows
    pub fn view(&self) -> Result<&LedgerView, Failure> {
        Ok(&self.here()?.view)
    }

    /// Processor time that all processes spent so far
    pub async fn spent(&mut self) -> Result<Duration, Failure> {
        let mut spent = processor_time();
        for child in &mut self.children {
            match child.ask(&Told::Spent).await? {
                Said::SpentNs(ns) => spent += Duration::from_nanos(ns),
                other => return Err(format!("{other:?} was not asked for").into()),
            }
        }
        Ok(spent)
    }

    /// What the requester's operations are made from
    pub fn ground(&self, key: &RequesterKey) -> Result<Ground, Failure> {
        Ok(Ground::of(&self.view()?.registry(), &key.requester()).ok_or("nothing is final yet")?)
    }

    /// The requesters with their plots, each with a ticket that the validators agreed on
    pub async fn requesters(&self) -> Result<Vec<Asker>, Failure> {
        let mut askers = Vec::new();
        for (number, key) in self.keys.iter().enumerate() {
            let order = PlotOrder {
                path: self.directory.join(format!("{number}.plot")),
                network: self.genesis.network(),
                requester: key.requester(),
                salt: rand::random(),
                k: Policy::TEST.space_k_min,
                strength: Policy::TEST.space_strength,
            };
            let plot = Plot::make(&order, &mut |_| ControlFlow::Continue(()))?;
            let prover = Prover::new(plot, key.signing());
            let ground = self.ground(key)?;
            let now_ms = now_ms().max(ground.beacon_time_ms);
            let patient = &mut |_| ControlFlow::Continue(());
            let maker = Maker::new(key, &ground);
            let made = maker.proven(OperationBody::RequestTicket, 1, &prover, now_ms, patient)?;
            self.client()?.submit(Bytes::from(made.encode())).await?;
            askers.push(Asker { key: key.clone(), prover, ticket: made.id(), sequence: 1 });
        }
        Ok(askers)
    }

    /// Ends all of them
    pub async fn stop(mut self) -> Result<(), Failure> {
        carrier::set_ending(true);
        // All of them first: a flow that ends is then nothing to complain about.
        self.children.iter_mut().for_each(Child::close);
        let ending: Vec<_> =
            self.children.drain(..).map(|child| tokio::spawn(child.end())).collect();
        let member = self.member.take().ok_or("the validator was stopped")?;
        tokio::task::spawn_blocking(move || member.validator.stop()).await??;
        for ended in ending {
            ended.await??;
        }
        carrier::set_ending(false);
        Ok(())
    }
}

/// The first validator in this process, each other one in its own
async fn start_all(orders: Vec<Order>) -> Result<(Member, Vec<Child>), Failure> {
    let (first, others) = orders.split_first().ok_or("there is no validator")?;
    let prepared = Prepared::new(first)?;
    let mut addresses = HashMap::from([(first.bundle.node.clone(), prepared.address())]);
    let mut children = Vec::new();
    for order in others {
        let mut child = Child::start()?;
        match child.ask(&Told::Order(Box::new(order.clone()))).await? {
            Said::Listening(address) => addresses.insert(order.bundle.node.clone(), address),
            other => return Err(format!("{other:?} was not asked for").into()),
        };
        children.push(child);
    }
    for child in &mut children {
        child.tell(&Told::Addresses(addresses.clone())).await?;
    }
    let member = prepared.start(&addresses).await?;
    for child in &mut children {
        let said = child.hear().await?;
        if !matches!(said, Said::Ready) {
            return Err(format!("{said:?} was not asked for").into());
        }
    }
    Ok((member, children))
}
