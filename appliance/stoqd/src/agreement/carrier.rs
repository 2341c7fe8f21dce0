//! Frames of the validators over STOQ: each channel to each validator is a flow of its own, opened by whoever sends, with a
//! queue of its own that is bounded in octets. A flow begins with the sender's key and a signature that ties it to the node
//! that the session's certificate names; a validator's key counts only from the node that the validators agreed on for it.
//!
//! ```text
//! flow  = hello frame...
//! hello = 1(8) channel(8) network(256) key(256) signature(512)    over H(context, network, from node, to node, channel)
//! frame = length(32) octets
//! ```

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use stoq::{Flow, FlowError, FlowReader, FlowWriter, NodeId, ServiceName};
use stoq_hypermesh::consensus::{Channel, Delivered, Inbox, Sent, Wire};
use stoq_hypermesh::digest::{Digest, Domain};
use stoq_hypermesh::ledger::LedgerView;
use stoq_hypermesh::operation::ValidatorKey;
use stoq_hypermesh::proof::stake::is_signed;
use stoq_hypermesh::requester::RequesterKey;
use tokio::sync::mpsc;

use crate::node::Node;

static HELLO: Domain = Domain::new("hypermesh v1 carrier hello");

/// The first octet of a flow
const VERSION: u8 = 1;
/// Octets of a hello
const HELLO_BYTES: usize = 2 + 32 + 32 + 64;
/// Time a hello may take
const HELLO_PATIENCE: Duration = Duration::from_secs(10);
/// Octets that wait for one validator on the channel of blocks
const BLOCKS_WAITING_BYTES: usize = 32 << 20;
/// Octets that wait for one validator on each other channel
const WAITING_BYTES: usize = 1 << 20;
/// Frames that wait for one validator on one channel
const WAITING_FRAMES: usize = 4_096;
/// Pause before a flow that was lost is opened again, at first and at last
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_LAST: Duration = Duration::from_secs(2);
/// How often it is looked which validators there are
const LOOK: Duration = Duration::from_millis(500);
/// Nodes that may follow without a key that was voted for
const FOLLOWERS_LIMIT: usize = 64;
/// How long a node keeps to a key that was not voted for: each key has a share of what others take the time to look at
const KEY_PAUSE: Duration = Duration::from_secs(60);
/// Validators there may be links to
const LINKS_LIMIT: usize = 256;

/// What was carried so far
#[derive(Debug, Default)]
pub struct CarrierCounters {
    /// Frames that went into a queue
    pub queued: AtomicU64,
    /// Frames that found their queue full
    pub full: AtomicU64,
    /// Frames for validators that are not reached
    pub unreachable: AtomicU64,
    /// Frames that came
    pub received: AtomicU64,
    /// Flows that were refused: no hello, another network, a key that is not the node's
    pub refused: AtomicU64,
}

struct Queue {
    frames: mpsc::Sender<Bytes>,
    waiting_bytes: Arc<AtomicUsize>,
    connected: Arc<std::sync::atomic::AtomicBool>,
}

impl Queue {
    fn send(&self, channel: Channel, frame: Bytes) -> Sent {
        if !self.connected.load(Ordering::Acquire) {
            return Sent::Unreachable;
        }
        let length = frame.len();
        let before = self.waiting_bytes.fetch_add(length, Ordering::AcqRel);
        if before + length > limit_bytes(channel) || self.frames.try_send(frame).is_err() {
            self.waiting_bytes.fetch_sub(length, Ordering::AcqRel);
            return Sent::Full;
        }
        Sent::Queued
    }
}

fn limit_bytes(channel: Channel) -> usize {
    match channel {
        // One of the longest fits in any case.
        Channel::Blocks => BLOCKS_WAITING_BYTES.max(2 * channel.limit_bytes()),
        Channel::Votes | Channel::Certificates | Channel::Resolver => WAITING_BYTES,
    }
}

/// Who showed a key
struct Greeted {
    node: NodeId,
    since: Instant,
    /// Its flows that are open
    flows: usize,
}

/// The flows to other validators
pub struct Links {
    view: LedgerView,
    key: RequesterKey,
    own: NodeId,
    network: Digest,
    inbox: OnceLock<Inbox>,
    queues: Mutex<HashMap<ValidatorKey, Vec<Queue>>>,
    /// Nodes that greeted this one, by the key they showed: those that follow without voting are told what becomes final
    greeted: Mutex<HashMap<ValidatorKey, Greeted>>,
    /// What was carried
    pub counters: CarrierCounters,
}

impl Links {
    /// No flows yet
    pub fn new(view: LedgerView, key: RequesterKey, own: NodeId) -> Self {
        let network = view.registry().network();
        Self {
            view,
            key,
            own,
            network,
            inbox: OnceLock::new(),
            queues: Mutex::default(),
            greeted: Mutex::default(),
            counters: CarrierCounters::default(),
        }
    }

    /// Where frames go that come
    pub fn open(&self, inbox: Inbox) {
        if self.inbox.set(inbox).is_err() {
            tracing::error!("the validator was started twice");
        }
    }

    /// Everyone there should be flows to
    fn wanted(&self) -> Vec<(ValidatorKey, NodeId)> {
        let registry = self.view.registry();
        let mut wanted: Vec<_> =
            registry.validators().iter().map(|one| (one.key, one.name.clone())).collect();
        let greeted = self.greeted.lock().unwrap_or_else(PoisonError::into_inner);
        let followers = greeted.iter().filter(|(key, _)| !registry.is_validator(key));
        wanted.extend(followers.map(|(key, follower)| (*key, follower.node.clone())));
        wanted.retain(|(key, _)| *key != self.key.validator());
        wanted.truncate(LINKS_LIMIT);
        wanted
    }

    fn hello(&self, to: &NodeId, channel: Channel) -> Bytes {
        let message = hello_message(&self.network, &self.own, to, channel as u8);
        let signature = self.key.sign(&message);
        let mut octets = Vec::with_capacity(HELLO_BYTES);
        octets.extend([VERSION, channel as u8]);
        octets.extend(self.network);
        octets.extend(self.key.public());
        octets.extend(signature);
        Bytes::from(octets)
    }

    /// Whose flow it is and of which channel
    fn judge_hello(&self, peer: &NodeId, octets: &[u8]) -> Result<(ValidatorKey, Channel), String> {
        let fixed =
            |from: usize| -> Option<[u8; 32]> { octets.get(from..from + 32)?.try_into().ok() };
        let short = || "the greeting is cut off".to_owned();
        let (version, channel) = (octets.first(), octets.get(1));
        if version != Some(&VERSION) {
            return Err(format!("the greeting has version {version:?}, and {VERSION} is known"));
        }
        let channel = channel.ok_or_else(short)?;
        let known = Channel::ALL.into_iter().find(|one| *one as u8 == *channel);
        let known = known.ok_or_else(|| format!("there is no channel {channel}"))?;
        if fixed(2).ok_or_else(short)? != self.network {
            return Err("it is of another network: compare the genesis of both nodes".to_owned());
        }
        let key = fixed(34).ok_or_else(short)?;
        let signature: &[u8; 64] =
            octets.get(66..).and_then(|rest| rest.try_into().ok()).ok_or_else(short)?;
        let message = hello_message(&self.network, peer, &self.own, *channel);
        if !is_signed(&key, &message, signature) {
            return Err("the key that was shown did not sign for this node".to_owned());
        }
        let key = ValidatorKey(key);
        let agreed = self.view.registry().validator_record(&key).map(|record| record.name.clone());
        match agreed {
            Some(name) if name != *peer => Err(format!(
                "the key is that of validator {name}, and the certificate names {peer}"
            )),
            // Also one that validates now: it may be removed, and then it follows over the flows that it has.
            agreed => {
                let mut greeted = self.greeted.lock().unwrap_or_else(PoisonError::into_inner);
                remember(&mut greeted, key, (peer, agreed.is_some()), Instant::now())?;
                Ok((key, known))
            }
        }
    }

    /// A flow has ended
    fn forget_flow(&self, key: &ValidatorKey, node: &NodeId) {
        let mut greeted = self.greeted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = greeted.get_mut(key).filter(|known| known.node == *node) {
            known.flows = known.flows.saturating_sub(1);
        }
    }

    fn deliver(&self, from: &ValidatorKey, channel: Channel, frame: Bytes) -> Option<Delivered> {
        self.counters.received.fetch_add(1, Ordering::Relaxed);
        Some(self.inbox.get()?.deliver(from, channel, frame))
    }
}

/// One node, one key: whoever shows many neither pushes others out nor has the share of many
fn remember(
    greeted: &mut HashMap<ValidatorKey, Greeted>,
    key: ValidatorKey,
    (node, on_record): (&NodeId, bool),
    now: Instant,
) -> Result<(), String> {
    if let Some(known) = greeted.get_mut(&key).filter(|known| known.node == *node) {
        known.flows += 1;
        return Ok(());
    }
    if !on_record {
        let age = |known: &Greeted| now.saturating_duration_since(known.since);
        let young = |known: &&Greeted| known.node == *node && age(known) < KEY_PAUSE;
        if let Some(known) = greeted.values().find(young) {
            return Err(format!(
                "the node showed another key {} s ago, and nobody voted for this one; it is taken {} s after that",
                age(known).as_secs(),
                KEY_PAUSE.as_secs()
            ));
        }
        if greeted.len() >= FOLLOWERS_LIMIT {
            let gone = greeted.iter().find(|(_, known)| known.flows == 0).map(|(key, _)| *key);
            let full = || format!("{FOLLOWERS_LIMIT} nodes follow this one, and no more may");
            greeted.remove(&gone.ok_or_else(full)?);
        }
    }
    greeted.retain(|_, known| known.node != *node);
    greeted.insert(key, Greeted { node: node.clone(), since: now, flows: 1 });
    Ok(())
}

fn hello_message(network: &Digest, from: &NodeId, to: &NodeId, channel: u8) -> Digest {
    HELLO.derive(&[network, from.as_str().as_bytes(), to.as_str().as_bytes(), &[channel]])
}

/// The validator's way out
pub struct Carrier {
    links: Arc<Links>,
}

impl Carrier {
    /// Sends over these
    pub fn new(links: Arc<Links>) -> Self {
        Self { links }
    }
}

impl Wire for Carrier {
    fn send(&self, to: &ValidatorKey, channel: Channel, frame: Bytes) -> Sent {
        let queues = self.links.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = match queues.get(to).and_then(|queues| queues.get(channel as usize)) {
            Some(queue) => queue.send(channel, frame),
            None => Sent::Unreachable,
        };
        let counters = &self.links.counters;
        let counter = match sent {
            Sent::Queued => &counters.queued,
            Sent::Full => &counters.full,
            Sent::Unreachable => &counters.unreachable,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        sent
    }
}

fn service() -> Option<ServiceName> {
    ServiceName::new(stoq_config::HYPERMESH_SERVICE).ok()
}

/// Keeps flows to all validators
pub async fn dial(node: Arc<Node>, links: Arc<Links>) {
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut tasks: HashMap<ValidatorKey, tokio::task::JoinSet<()>> = HashMap::new();
    loop {
        look.tick().await;
        let wanted = links.wanted();
        tasks.retain(|key, _| wanted.iter().any(|(wanted, _)| wanted == key));
        {
            let mut queues = links.queues.lock().unwrap_or_else(PoisonError::into_inner);
            queues.retain(|key, _| tasks.contains_key(key));
        }
        for (key, to) in wanted {
            if tasks.contains_key(&key) {
                continue;
            }
            let mut set = tokio::task::JoinSet::new();
            let queues = Channel::ALL.map(|channel| {
                let (queue, outlet) = queue(channel);
                let (node, links, to) = (Arc::clone(&node), Arc::clone(&links), to.clone());
                set.spawn(async move { outlet.carry(&node, &links, &to).await });
                queue
            });
            tasks.insert(key, set);
            let mut all = links.queues.lock().unwrap_or_else(PoisonError::into_inner);
            all.insert(key, queues.into());
        }
    }
}

/// The end of a queue that a flow is fed from
struct Outlet {
    channel: Channel,
    frames: mpsc::Receiver<Bytes>,
    waiting_bytes: Arc<AtomicUsize>,
    connected: Arc<std::sync::atomic::AtomicBool>,
}

fn queue(channel: Channel) -> (Queue, Outlet) {
    let (frames, receiver) = mpsc::channel(WAITING_FRAMES);
    let waiting_bytes = Arc::<AtomicUsize>::default();
    let connected = Arc::<std::sync::atomic::AtomicBool>::default();
    let queue = Queue {
        frames,
        waiting_bytes: Arc::clone(&waiting_bytes),
        connected: Arc::clone(&connected),
    };
    (queue, Outlet { channel, frames: receiver, waiting_bytes, connected })
}

impl Outlet {
    /// Opens the flow, feeds it, and opens it again when it is lost
    async fn carry(mut self, node: &Node, links: &Links, to: &NodeId) {
        let Some(service) = service() else { return };
        let mut pause = PAUSE_FIRST;
        loop {
            node.refresh_enrolled();
            match node.peers.session(to).await {
                Ok(session) => {
                    let (reader, writer) = session.open(&service).split();
                    let hello = links.hello(to, self.channel);
                    let lost = self.feed(reader, writer, hello, &mut pause).await;
                    tracing::debug!(peer = %to, channel = ?self.channel, ?lost, "a flow of the validators ended");
                }
                Err(error) => tracing::debug!(peer = %to, %error, "a validator is not reached"),
            }
            self.connected.store(false, Ordering::Release);
            self.drop_waiting();
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_LAST);
        }
    }

    async fn feed(
        &mut self,
        mut reader: FlowReader,
        mut writer: FlowWriter,
        hello: Bytes,
        pause: &mut Duration,
    ) -> Option<FlowError> {
        if let Err(error) = writer.write_chunk(hello).await {
            return Some(error);
        }
        self.connected.store(true, Ordering::Release);
        loop {
            tokio::select! {
                // Nothing comes back but the end.
                ended = reader.read_chunk() => return ended.err(),
                frame = self.frames.recv() => {
                    let frame = frame?;
                    self.waiting_bytes.fetch_sub(frame.len(), Ordering::AcqRel);
                    let mut octets = BytesMut::with_capacity(4 + frame.len());
                    octets.extend_from_slice(&(frame.len() as u32).to_be_bytes());
                    octets.extend_from_slice(&frame);
                    if let Err(error) = writer.write_chunk(octets.freeze()).await {
                        return Some(error);
                    }
                    *pause = PAUSE_FIRST;
                }
            }
        }
    }

    /// What waited for a flow that is gone is out of date: whoever misses it asks again
    fn drop_waiting(&mut self) {
        while let Ok(frame) = self.frames.try_recv() {
            self.waiting_bytes.fetch_sub(frame.len(), Ordering::AcqRel);
        }
    }
}

/// Takes the flows of other validators
pub async fn serve(node: Arc<Node>, links: Arc<Links>) {
    let Some(name) = service() else { return };
    let mut incoming = match node.endpoint.serve(name) {
        Ok(incoming) => incoming,
        Err(error) => return tracing::error!(%error, "validators cannot be listened to"),
    };
    let mut flows = tokio::task::JoinSet::new();
    while let Some(flow) = incoming.next().await {
        let links = Arc::clone(&links);
        flows.spawn(async move { take(flow, &links).await });
        while flows.try_join_next().is_some() {}
    }
}

async fn take(mut flow: Flow, links: &Links) {
    let peer = flow.peer().clone();
    let mut held = BytesMut::new();
    let greeting = tokio::time::timeout(HELLO_PATIENCE, fill(&mut flow, &mut held, HELLO_BYTES));
    let judged = match greeting.await {
        Ok(Ok(true)) => links.judge_hello(&peer, &held.split_to(HELLO_BYTES)),
        Ok(Ok(false) | Err(_)) => Err("the greeting is cut off".to_owned()),
        Err(_) => Err(format!("no greeting came within {} s", HELLO_PATIENCE.as_secs())),
    };
    let (key, channel) = match judged {
        Ok(judged) => judged,
        Err(reason) => {
            links.counters.refused.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(%peer, reason, "a flow of a validator is refused");
            return flow.reset(FlowError::NotAuthorized);
        }
    };
    tracing::debug!(%peer, validator = %key, ?channel, "a validator is listened to");
    let ended = take_frames(&mut flow, links, &key, channel, held).await;
    links.forget_flow(&key, &peer);
    if let Err(reason) = ended {
        tracing::warn!(%peer, reason, "a flow of a validator is ended");
        flow.reset(FlowError::NotAuthorized);
    }
}

async fn take_frames(
    flow: &mut Flow,
    links: &Links,
    key: &ValidatorKey,
    channel: Channel,
    mut held: BytesMut,
) -> Result<(), String> {
    loop {
        // A flow that is lost or given up is opened again by whoever has something to say.
        let Ok(true) = fill(flow, &mut held, 4).await else { return Ok(()) };
        let length = (&held[..4]).get_u32() as usize;
        if length == 0 || length > channel.limit_bytes() {
            return Err(format!("a frame of {length} octets"));
        }
        held.advance(4);
        let Ok(true) = fill(flow, &mut held, length).await else { return Ok(()) };
        match links.deliver(key, channel, held.split_to(length).freeze()) {
            Some(Delivered::Ended) | None => return Ok(()),
            // Counted where it was dropped; whoever misses it asks again.
            Some(_) => {}
        }
    }
}

/// Reads until so many octets are held; false at the end of the flow
async fn fill(flow: &mut Flow, held: &mut BytesMut, octets: usize) -> Result<bool, FlowError> {
    while held.len() < octets {
        match flow.read_chunk().await? {
            Some(chunk) => held.extend_from_slice(&chunk),
            None => return Ok(false),
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_keeps_to_its_key_and_only_so_many_follow() {
        let node = |number: usize| NodeId::new(&format!("node-{number}")).unwrap();
        let key = |number: usize| {
            let mut key = [7; 32];
            key[..8].copy_from_slice(&number.to_be_bytes());
            ValidatorKey(key)
        };
        let (mut greeted, begun) = (HashMap::new(), Instant::now());
        let later = begun + KEY_PAUSE;
        remember(&mut greeted, key(0), (&node(0), false), begun).unwrap();
        remember(&mut greeted, key(0), (&node(0), false), begun).unwrap();
        let refused = remember(&mut greeted, key(1), (&node(0), false), begun).unwrap_err();
        assert!(refused.contains("another key"), "{refused}");
        remember(&mut greeted, key(1), (&node(0), true), begun).unwrap();
        remember(&mut greeted, key(2), (&node(0), false), later).unwrap();
        assert_eq!(greeted.len(), 1, "one node, one key");

        for number in 1..FOLLOWERS_LIMIT {
            remember(&mut greeted, key(100 + number), (&node(number), false), later).unwrap();
        }
        let refused = remember(&mut greeted, key(9), (&node(1_000), false), later).unwrap_err();
        assert!(refused.contains("64 nodes"), "{refused}");
        remember(&mut greeted, key(9), (&node(1_000), true), later).unwrap();
        greeted.get_mut(&key(101)).unwrap().flows = 0;
        remember(&mut greeted, key(8), (&node(1_001), false), later).unwrap();
        assert!(!greeted.contains_key(&key(101)), "one whose flows have ended makes room");
    }

    #[test]
    fn a_queue_is_bounded_in_octets_and_closed_without_a_flow() {
        let (queue, mut outlet) = queue(Channel::Votes);
        let frame = Bytes::from(vec![0; WAITING_BYTES / 2]);
        assert_eq!(queue.send(Channel::Votes, frame.clone()), Sent::Unreachable);
        outlet.connected.store(true, Ordering::Release);
        assert_eq!(queue.send(Channel::Votes, frame.clone()), Sent::Queued);
        assert_eq!(queue.send(Channel::Votes, frame.clone()), Sent::Queued);
        assert_eq!(queue.send(Channel::Votes, frame.clone()), Sent::Full);
        outlet.drop_waiting();
        assert_eq!(queue.waiting_bytes.load(Ordering::Acquire), 0);
        assert_eq!(queue.send(Channel::Votes, frame), Sent::Queued);
    }
}
