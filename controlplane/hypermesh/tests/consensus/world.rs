//! A network of validators in simulated time: links that delay and lose, walls between groups, crashes that lose what
//! was not made durable, restarts. The same seed makes the same world.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use commonware_codec::DecodeExt as _;
use commonware_cryptography::ed25519::PublicKey;
use commonware_p2p::simulated::{Config, Link, Network, Oracle, Sender};
use commonware_p2p::{Receiver as _, Recipients, Sender as _};
use commonware_runtime::deterministic::Context;
use commonware_runtime::{Clock as _, Quota, Spawner as _, Supervisor as _};
use commonware_utils::Probability;
use ed25519_consensus::SigningKey;
use rand_core_10::Rng as _;
use stoq_hypermesh::consensus::node::{self, Node};
use stoq_hypermesh::consensus::{
    Channel, Client, Genesis, Inbox, NodeConfig, Sent, Settings, Timing, Wire,
};
use stoq_hypermesh::digest::derive;
use stoq_hypermesh::operation::{Validator, ValidatorKey};
use stoq_interface::NodeId;

use super::ledger::{Book, Faults, Ledger, lock};

/// The secret key of a validator
pub fn secret(number: u64) -> SigningKey {
    SigningKey::from(derive("hypermesh v1 test secret", &[&number.to_be_bytes()]))
}

/// A validator
pub fn validator(number: u64) -> Validator {
    Validator {
        name: NodeId::new(&format!("validator-{number}")).expect("a label"),
        key: ValidatorKey(secret(number).verification_key().to_bytes()),
    }
}

/// A network of the first `count` validators
pub fn genesis(count: u64, epoch_blocks: u64) -> Arc<Genesis> {
    let name = NodeId::new("test").expect("a label");
    let validators = (0..count).map(validator).collect();
    Arc::new(Genesis::new(name, 1, epoch_blocks, validators).expect("a genesis"))
}

/// Patience for simulated links of some ten milliseconds
pub fn settings() -> Settings {
    Settings {
        timing: Timing {
            leader_ms: 300,
            certification_ms: 600,
            retry_ms: 500,
            skip_ms: 1_500,
            fetch_ms: 400,
            fetch_retry_ms: 100,
            view_retention: 64,
        },
        idle_ms: 150,
        announce_ms: 500,
        ..Settings::default()
    }
}

fn public(key: &ValidatorKey) -> PublicKey {
    PublicKey::decode(Bytes::copy_from_slice(&key.0)).expect("a key")
}

/// Where a validator's frames come in while it lives
type Door = Arc<Mutex<Option<Inbox>>>;

/// Frames out of a validator
pub struct Out {
    senders: Mutex<Vec<Sender<PublicKey, Context>>>,
}

impl Wire for Out {
    fn send(&self, to: &ValidatorKey, channel: Channel, frame: Bytes) -> Sent {
        let mut senders = lock(&self.senders);
        let sent = senders[channel as usize].send(Recipients::One(public(to)), frame, true);
        if sent.is_empty() { Sent::Unreachable } else { Sent::Queued }
    }
}

/// How a validator differs from an honest one
pub type Tamper = Arc<dyn Fn(Arc<dyn Wire>) -> Arc<dyn Wire> + Send + Sync>;

/// One validator of the world
pub struct Member {
    pub key: ValidatorKey,
    secret: [u8; 32],
    out: Arc<Out>,
    door: Door,
    pub book: Arc<Mutex<Book>>,
    node: Option<Node>,
    lives: u64,
    /// What its application does wrong
    pub faults: Faults,
    /// What its messages go through
    pub tamper: Option<Tamper>,
    /// Its pace and its clock
    pub settings: Settings,
    /// Whom it asks beside its validators
    pub contacts: Vec<ValidatorKey>,
}

/// Validators and the links between them
pub struct World {
    pub context: Context,
    oracle: Oracle<PublicKey, Context>,
    pub genesis: Arc<Genesis>,
    pub members: Vec<Member>,
    link: Link,
    linked: BTreeSet<(usize, usize)>,
    /// What is final, by whichever validator was told
    pub agreed: BTreeMap<u64, [u8; 32]>,
}

/// A link of this latency, jitter and loss in thousandths
pub fn link(latency_ms: u64, jitter_ms: u64, loss: u64) -> Link {
    Link {
        latency: Duration::from_millis(latency_ms),
        jitter: Duration::from_millis(jitter_ms),
        success_rate: Probability::new(1_000 - loss, 1_000).expect("a probability"),
    }
}

impl World {
    /// `count` validators of which those of the genesis agree. None runs yet.
    pub async fn new(context: Context, genesis: Arc<Genesis>, count: u64) -> Self {
        let keys: Vec<_> = (0..count).map(|number| validator(number).key).collect();
        let config = Config {
            max_size: 32 << 20,
            max_peers_per_set: commonware_utils::NZUsize!(64),
            disconnect_on_block: false,
            tracked_peer_sets: commonware_utils::NZUsize!(1),
        };
        let peers: Vec<_> = keys.iter().map(public).collect();
        let (network, oracle) =
            Network::new_with_peers(context.child("network"), config, peers).await;
        network.start();
        let mut world = Self {
            context,
            oracle,
            genesis,
            members: Vec::new(),
            link: link(10, 2, 0),
            linked: BTreeSet::new(),
            agreed: BTreeMap::new(),
        };
        for (number, key) in keys.into_iter().enumerate() {
            let member = world.member(number as u64, key).await;
            world.members.push(member);
        }
        world.heal().await;
        world
    }

    async fn member(&mut self, number: u64, key: ValidatorKey) -> Member {
        let control = self.oracle.control(public(&key));
        let door: Door = Arc::default();
        let mut senders = Vec::new();
        for channel in Channel::ALL {
            let quota = Quota::per_second(std::num::NonZeroU32::MAX);
            let (sender, mut receiver) =
                control.register(channel as u64, quota).await.expect("the network runs");
            senders.push(sender);
            let door = Arc::clone(&door);
            self.context.child("door").spawn(move |_| async move {
                while let Ok((from, octets)) = receiver.recv().await {
                    let mut key = ValidatorKey([0; 32]);
                    key.0.copy_from_slice(&from);
                    if let Some(inbox) = &*lock(&door) {
                        inbox.deliver(&key, channel, octets.into());
                    }
                }
            });
        }
        Member {
            key,
            secret: secret(number).to_bytes(),
            out: Arc::new(Out { senders: Mutex::new(senders) }),
            door,
            book: Arc::default(),
            node: None,
            lives: 0,
            faults: Faults::default(),
            tamper: None,
            settings: settings(),
            contacts: Vec::new(),
        }
    }

    /// Starts a validator with what it had made durable before
    pub async fn start(&mut self, number: usize) {
        let member = &mut self.members[number];
        member.lives += 1;
        let config = NodeConfig {
            genesis: Arc::clone(&self.genesis),
            secret: member.secret,
            settings: member.settings,
            prefix: format!("validator-{number}"),
            contacts: member.contacts.clone(),
        };
        let ledger = Ledger::new(&self.genesis, Arc::clone(&member.book), member.faults);
        let out: Arc<dyn Wire> = member.out.clone();
        let wire = match &member.tamper {
            Some(tamper) => tamper(out),
            None => out,
        };
        let context = self
            .context
            .child("validator")
            .with_attribute("number", number)
            .with_attribute("life", member.lives);
        let mut node = node::start(context, config, Box::new(ledger), wire);
        let ready = (&mut node.ready).await;
        if ready.is_err() {
            panic!("validator {number} does not start: {:?}", node.task.await);
        }
        *lock(&member.door) = Some(node.inbox.clone());
        member.node = Some(node);
    }

    /// Starts all that do not run
    pub async fn start_all(&mut self) {
        for number in 0..self.members.len() {
            if self.members[number].node.is_none() {
                self.start(number).await;
            }
        }
    }

    /// Ends a validator between any two of its steps. What was not made durable is lost.
    pub async fn crash(&mut self, number: usize) {
        let member = &mut self.members[number];
        *lock(&member.door) = None;
        if let Some(node) = member.node.take() {
            node.task.abort();
            let ended = node.task.await;
            assert!(!matches!(ended, Ok(Err(_))), "validator {number} had ended: {ended:?}");
        }
        // Tasks below it end when they are next looked at.
        self.pass(5).await;
    }

    /// Whether a validator runs
    pub fn runs(&self, number: usize) -> bool {
        self.members[number].node.is_some()
    }

    /// How to reach a validator that runs
    pub fn client(&self, number: usize) -> Client {
        self.members[number].node.as_ref().expect("it runs").client.clone()
    }

    /// Lets time pass
    pub async fn pass(&self, ms: u64) {
        self.context.sleep(Duration::from_millis(ms)).await;
    }

    /// A number below a limit, by the seed
    pub fn draw(&mut self, limit: u64) -> u64 {
        self.context.next_u64() % limit
    }

    /// Milliseconds of simulated time
    pub fn now_ms(&self) -> u64 {
        let since = self.context.current().duration_since(std::time::UNIX_EPOCH);
        since.expect("time goes forwards").as_millis() as u64
    }

    /// Changes every link
    pub async fn set_link(&mut self, link: Link) {
        self.link = link;
        let linked = self.linked.clone();
        for (from, to) in linked {
            self.unlink(from, to).await;
            self.link(from, to).await;
        }
    }

    async fn link(&mut self, from: usize, to: usize) {
        if self.linked.insert((from, to)) {
            let keys = [from, to].map(|number| public(&self.members[number].key));
            let [from, to] = keys;
            self.oracle.add_link(from, to, self.link.clone()).await.expect("no link there");
        }
    }

    async fn unlink(&mut self, from: usize, to: usize) {
        if self.linked.remove(&(from, to)) {
            let keys = [from, to].map(|number| public(&self.members[number].key));
            let [from, to] = keys;
            self.oracle.remove_link(from, to).await.expect("a link there");
        }
    }

    /// Puts walls between groups; a validator's group is what `group` says
    pub async fn divide(&mut self, group: impl Fn(usize) -> u64) {
        for from in 0..self.members.len() {
            for to in (0..self.members.len()).filter(|to| *to != from) {
                if group(from) == group(to) {
                    self.link(from, to).await;
                } else {
                    self.unlink(from, to).await;
                }
            }
        }
    }

    /// Takes all walls away
    pub async fn heal(&mut self) {
        self.divide(|_| 0).await;
    }

    /// Safety: whatever any of these validators was ever told is final, all of them agree on
    pub fn check(&mut self, numbers: impl IntoIterator<Item = usize>) {
        for number in numbers {
            let book = lock(&self.members[number].book);
            for (height, digest) in &book.blocks {
                let known = self.agreed.entry(*height).or_insert(*digest);
                assert_eq!(known, digest, "two blocks are final at height {height}");
            }
            let heights: Vec<u64> = book.blocks.keys().copied().collect();
            assert!(heights.iter().copied().eq(1..=heights.len() as u64), "a block is missing");
        }
    }

    /// The height a validator was told of
    pub fn height(&self, number: usize) -> u64 {
        lock(&self.members[number].book).blocks.len() as u64
    }

    /// Waits until all of these reach a height, for so long at most
    pub async fn reach(
        &self,
        numbers: impl IntoIterator<Item = usize> + Clone,
        height: u64,
        within_ms: u64,
    ) -> bool {
        let deadline = self.now_ms() + within_ms;
        while self.now_ms() < deadline {
            if numbers.clone().into_iter().all(|number| self.height(number) >= height) {
                return true;
            }
            self.pass(20).await;
        }
        false
    }

    /// Hands an operation to a validator, and does not wait for it
    pub async fn hand_in(&self, number: usize, operation: impl Into<Bytes>) -> bool {
        self.client(number).hand_in(operation.into()).await.is_ok()
    }

    /// Describes every validator, for when something fails
    pub async fn report(&self) -> String {
        let mut report = String::new();
        for (number, member) in self.members.iter().enumerate() {
            let status = match &member.node {
                Some(node) => node.client.status().await,
                None => None,
            };
            report.push_str(&format!("{number} at {}: ", self.height(number)));
            match status {
                Some(status) => report.push_str(&format!(
                    "epoch {} view {} height {} votes {} halted {:?} pending {} backlog {} blocked {:?} convicted {:?}\n",
                    status.epoch,
                    status.view,
                    status.height,
                    status.votes,
                    status.halted,
                    status.pending,
                    status.backlog,
                    status.validators.iter().filter(|it| it.blocked.is_some()).count(),
                    status.validators.iter().filter(|it| it.convicted).count(),
                )),
                None => report.push_str("does not run\n"),
            }
        }
        report
    }
}
