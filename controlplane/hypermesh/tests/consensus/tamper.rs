//! Faulty validators: an honest one whose messages go through one of these on their way out. Each holds the validator's
//! own key, so what it signs is signed, and what it forges is not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use commonware_codec::{DecodeExt as _, Encode as _};
use commonware_consensus::simplex::scheme::ed25519::Scheme;
use commonware_consensus::simplex::types::{Finalize, Notarize, Proposal, Vote};
use commonware_cryptography::ed25519::{PrivateKey, PublicKey};
use commonware_cryptography::sha256;
use commonware_runtime::deterministic::Context;
use commonware_runtime::{Clock as _, Spawner as _, Supervisor as _};
use commonware_utils::ordered::Set;
use stoq_hypermesh::consensus::evidence::contradiction;
use stoq_hypermesh::consensus::header::Block;
use stoq_hypermesh::consensus::message::{FinalBlock, Message, Tip};
use stoq_hypermesh::consensus::vote::{self, SignedVote, Statement, namespace};
use stoq_hypermesh::consensus::{Channel, Genesis, Sent, Wire};
use stoq_hypermesh::digest::Digest;
use stoq_hypermesh::operation::ValidatorKey;

use super::ledger::lock;
use super::world::{Tamper, secret};

/// When each faulty validator first did something wrong, by its number
pub type Firsts = Arc<Mutex<BTreeMap<usize, u64>>>;

/// What is done later
type Act = Box<dyn FnOnce() + Send>;

/// The time that faulty validators go by: simulated, or the host's
pub trait Time: Send + Sync {
    /// Milliseconds since 1970
    fn now_ms(&self) -> u64;

    /// Does something after a while
    fn later(&self, after: Duration, act: Act);
}

/// Simulated time
struct Simulated(Context);

impl Time for Simulated {
    fn now_ms(&self) -> u64 {
        let since = self.0.current().duration_since(UNIX_EPOCH).expect("time goes forwards");
        since.as_millis() as u64
    }

    fn later(&self, after: Duration, act: Act) {
        self.0.child("later").spawn(move |context| async move {
            context.sleep(after).await;
            act();
        });
    }
}

/// The time of a wire, and when each validator first did something wrong
#[derive(Clone)]
pub struct Watch {
    time: Arc<dyn Time>,
    firsts: Firsts,
}

impl Watch {
    pub fn new(context: Context) -> Self {
        Self::with(Arc::new(Simulated(context)))
    }

    pub fn with(time: Arc<dyn Time>) -> Self {
        Self { time, firsts: Firsts::default() }
    }

    fn strikes(&self, number: usize) {
        let now_ms = self.time.now_ms();
        lock(&self.firsts).entry(number).or_insert(now_ms);
    }

    /// When a validator first did something wrong
    pub fn first(&self, number: usize) -> Option<u64> {
        lock(&self.firsts).get(&number).copied()
    }
}

fn scheme(genesis: &Genesis, number: usize) -> Scheme {
    let keys = genesis.validators().iter().map(|validator| {
        PublicKey::decode(Bytes::copy_from_slice(&validator.key.0)).expect("a key")
    });
    let key = PrivateKey::decode(Bytes::copy_from_slice(secret(number as u64).as_bytes()));
    Scheme::signer(&namespace(&genesis.network()), Set::from_iter_dedup(keys), key.expect("a key"))
        .expect("a validator")
}

fn read_vote(frame: &Bytes) -> Option<Vote<Scheme, sha256::Digest>> {
    Vote::decode(frame.slice(8..)).ok()
}

fn vote_frame(like: &Bytes, vote: Vote<Scheme, sha256::Digest>) -> Bytes {
    let mut frame = like[..8].to_vec();
    frame.extend_from_slice(&vote.encode());
    Bytes::from(frame)
}

/// Who is shown the other block
pub fn sees_other(genesis: &Genesis, to: &ValidatorKey) -> bool {
    genesis.validators().index(to).is_some_and(|place| place % 2 == 1)
}

/// Blocks and the ones that others are shown in their place
pub type Alternatives = Arc<Mutex<BTreeMap<Digest, (Digest, Block)>>>;

/// Proposes one block to half of the others and another to the rest, and votes accordingly
struct Equivocator {
    wire: Arc<dyn Wire>,
    number: usize,
    genesis: Arc<Genesis>,
    scheme: Scheme,
    alternatives: Alternatives,
    /// Votes for its own blocks that it was to send before the blocks
    early: Mutex<Vec<(ValidatorKey, Bytes)>>,
    watch: Watch,
    /// Everyone is shown the other block, and its header can follow none
    misdates: bool,
}

impl Equivocator {
    fn other(&self, block: &Block) -> Block {
        let mut other = block.clone();
        other.header.time_ms = if self.misdates { 0 } else { other.header.time_ms + 1 };
        let digests = [block, &other].map(|block| block.header.digest());
        lock(&self.alternatives).entry(digests[0]).or_insert((digests[1], other)).1.clone()
    }

    fn alternative(&self, proposal: &Proposal<sha256::Digest>) -> Option<Proposal<sha256::Digest>> {
        let (other, _) = lock(&self.alternatives).get(&proposal.payload.0).cloned()?;
        self.watch.strikes(self.number);
        Some(Proposal::new(proposal.round, proposal.parent, sha256::Digest(other)))
    }

    fn twist(&self, channel: Channel, frame: &Bytes) -> Option<Bytes> {
        match channel {
            Channel::Blocks => match Message::from_bytes(frame).ok()? {
                Message::Block(block) => {
                    Some(Message::Block(Box::new(self.other(&block))).to_bytes())
                }
                // It does not tell on itself.
                Message::Votes(_) | Message::Evidence(_) => Some(Bytes::new()),
                _ => None,
            },
            Channel::Votes => {
                let twisted = match read_vote(frame)? {
                    Vote::Notarize(vote) => Vote::Notarize(Notarize::sign(
                        &self.scheme,
                        self.alternative(&vote.proposal)?,
                    )?),
                    Vote::Finalize(vote) => Vote::Finalize(Finalize::sign(
                        &self.scheme,
                        self.alternative(&vote.proposal)?,
                    )?),
                    Vote::Nullify(_) => return None,
                };
                Some(vote_frame(frame, twisted))
            }
            Channel::Certificates | Channel::Resolver => None,
        }
    }
}

impl Equivocator {
    /// Whether this is a vote for its own block, of which it has no other version yet
    fn is_early(&self, channel: Channel, frame: &Bytes) -> bool {
        let own = super::world::validator(self.number as u64).key;
        channel == Channel::Votes
            && matches!(read_vote(frame), Some(Vote::Notarize(vote)) if {
                let round = vote.proposal.round;
                let leads = self.genesis.validators().leader(round.epoch().get(), round.view().get());
                leads.key == own && !lock(&self.alternatives).contains_key(&vote.proposal.payload.0)
            })
    }

    fn pass(&self, to: &ValidatorKey, channel: Channel, frame: Bytes) -> Sent {
        let frame = match self.twist(channel, &frame) {
            Some(twisted) if twisted.is_empty() => return Sent::Queued,
            Some(twisted) if self.misdates || sees_other(&self.genesis, to) => twisted,
            _ => frame,
        };
        self.wire.send(to, channel, frame)
    }
}

impl Wire for Equivocator {
    fn send(&self, to: &ValidatorKey, channel: Channel, frame: Bytes) -> Sent {
        if self.is_early(channel, &frame) {
            lock(&self.early).push((*to, frame));
            return Sent::Queued;
        }
        let sent = self.pass(to, channel, frame);
        let early = std::mem::take(&mut *lock(&self.early));
        for (to, frame) in early {
            if self.is_early(Channel::Votes, &frame) {
                lock(&self.early).push((to, frame));
            } else {
                self.pass(&to, Channel::Votes, frame);
            }
        }
        sent
    }
}

/// Signs for two blocks where it, or an accomplice, leads. Accomplices share `alternatives`.
pub fn equivocator(
    number: usize,
    genesis: &Arc<Genesis>,
    alternatives: Alternatives,
    watch: &Watch,
) -> Tamper {
    let (genesis, watch) = (Arc::clone(genesis), watch.clone());
    Arc::new(move |wire| {
        Arc::new(Equivocator {
            wire,
            number,
            genesis: Arc::clone(&genesis),
            scheme: scheme(&genesis, number),
            alternatives: Arc::clone(&alternatives),
            early: Mutex::default(),
            watch: watch.clone(),
            misdates: false,
        })
    })
}

/// Proposes blocks, to everyone, that are older than their parents
pub fn misdater(number: usize, genesis: &Arc<Genesis>, watch: &Watch) -> Tamper {
    let (genesis, watch) = (Arc::clone(genesis), watch.clone());
    Arc::new(move |wire| {
        Arc::new(Equivocator {
            wire,
            number,
            genesis: Arc::clone(&genesis),
            scheme: scheme(&genesis, number),
            alternatives: Alternatives::default(),
            early: Mutex::default(),
            watch: watch.clone(),
            misdates: true,
        })
    })
}

/// Digests of blocks that are invalid
pub type Bad = Arc<Mutex<BTreeSet<Digest>>>;

/// Notes when an invalid block is proposed or voted for
struct Informer {
    wire: Arc<dyn Wire>,
    number: usize,
    bad: Bad,
    watch: Watch,
}

impl Wire for Informer {
    fn send(&self, to: &ValidatorKey, channel: Channel, frame: Bytes) -> Sent {
        match channel {
            Channel::Blocks => {
                if let Ok(Message::Block(block)) = Message::from_bytes(&frame)
                    && block.operations.iter().any(|operation| operation.starts_with(b"bad"))
                {
                    lock(&self.bad).insert(block.header.digest());
                    self.watch.strikes(self.number);
                }
            }
            Channel::Votes => {
                if let Some(Vote::Notarize(vote)) = read_vote(&frame)
                    && lock(&self.bad).contains(&vote.proposal.payload.0)
                {
                    self.watch.strikes(self.number);
                }
            }
            Channel::Certificates | Channel::Resolver => {}
        }
        self.wire.send(to, channel, frame)
    }
}

/// Sends what its faulty application makes of it
pub fn informer(number: usize, bad: &Bad, watch: &Watch) -> Tamper {
    let (bad, watch) = (Arc::clone(bad), watch.clone());
    Arc::new(move |wire| {
        let (bad, watch) = (Arc::clone(&bad), watch.clone());
        Arc::new(Informer { wire, number, bad, watch })
    })
}

/// Gives others final blocks that never were
struct Liar {
    wire: Arc<dyn Wire>,
}

impl Wire for Liar {
    fn send(&self, to: &ValidatorKey, channel: Channel, frame: Bytes) -> Sent {
        let frame = match Message::from_bytes(&frame) {
            Ok(Message::Range { from, mut blocks }) if channel == Channel::Blocks => {
                for octets in &mut blocks {
                    let mut block = FinalBlock::from_bytes(octets).expect("its own");
                    block.block.header.time_ms += 1;
                    *octets = block.to_bytes();
                }
                Message::Range { from, blocks }.to_bytes()
            }
            _ => frame,
        };
        self.wire.send(to, channel, frame)
    }
}

pub fn liar() -> Tamper {
    Arc::new(|wire| Arc::new(Liar { wire }))
}

/// Says that it is far ahead of all, and gives those who ask nothing
struct Boaster {
    wire: Arc<dyn Wire>,
}

impl Wire for Boaster {
    fn send(&self, to: &ValidatorKey, channel: Channel, frame: Bytes) -> Sent {
        let frame = match Message::from_bytes(&frame) {
            Ok(Message::Tip(_)) if channel == Channel::Blocks => {
                Message::Tip(Tip { height: 1 << 40, lowest: 1 }).to_bytes()
            }
            Ok(Message::Range { from, .. }) if channel == Channel::Blocks => {
                Message::Range { from, blocks: Vec::new() }.to_bytes()
            }
            _ => frame,
        };
        self.wire.send(to, channel, frame)
    }
}

pub fn boaster() -> Tamper {
    Arc::new(|wire| Arc::new(Boaster { wire }))
}

/// Sends nothing
struct Silence;

impl Wire for Silence {
    fn send(&self, _: &ValidatorKey, _: Channel, _: Bytes) -> Sent {
        Sent::Queued
    }
}

pub fn silent() -> Tamper {
    Arc::new(|_| Arc::new(Silence))
}

/// Sends everything late
struct Late {
    wire: Arc<dyn Wire>,
    watch: Watch,
    late_ms: u64,
}

impl Wire for Late {
    fn send(&self, to: &ValidatorKey, channel: Channel, frame: Bytes) -> Sent {
        let (wire, to, late) = (Arc::clone(&self.wire), *to, Duration::from_millis(self.late_ms));
        let send = move || {
            wire.send(&to, channel, frame);
        };
        self.watch.time.later(late, Box::new(send));
        Sent::Queued
    }
}

pub fn late(late_ms: u64, watch: &Watch) -> Tamper {
    let watch = watch.clone();
    Arc::new(move |wire| Arc::new(Late { wire, watch: watch.clone(), late_ms }))
}

/// What a forger sends beside its own
#[derive(Clone, Copy, Debug)]
pub enum Forgery {
    /// Octets that are no vote
    Garbage,
    /// A vote in another's name
    Name,
    /// A vote in its own name that it did not sign
    Signature,
    /// Octets that are no message
    Message,
    /// Evidence against another, which nobody signed
    Evidence,
    /// Votes of others, which nobody signed, as if it had seen them
    Votes,
}

impl Forgery {
    pub const ALL: [Self; 6] =
        [Self::Garbage, Self::Name, Self::Signature, Self::Message, Self::Evidence, Self::Votes];
}

struct Forger {
    wire: Arc<dyn Wire>,
    number: usize,
    genesis: Arc<Genesis>,
    forgery: Forgery,
    watch: Watch,
}

impl Forger {
    /// A vote in another's name, as it would be written down
    fn made_up(&self, epoch: u64, view: u64, block: u8) -> SignedVote {
        let own = super::world::validator(self.number as u64).key;
        let own = self.genesis.validators().index(&own).expect("a validator");
        let signer = (own + 1) % self.genesis.validators().len() as u32;
        let proposal = vote::Proposal { epoch, view, parent_view: view - 1, block: [block; 32] };
        SignedVote { statement: Statement::Notarize(proposal), signer, signature: [7; 64] }
    }

    fn forged(&self, frame: &Bytes) -> Option<(Channel, Bytes)> {
        let Vote::Notarize(own) = read_vote(frame)? else { return None };
        let (epoch, view) = (own.proposal.round.epoch().get(), own.proposal.round.view().get());
        let octets = vote_frame(frame, Vote::Notarize(own)).to_vec();
        let place = octets.len() - 65;
        Some(match self.forgery {
            Forgery::Garbage => (Channel::Votes, Bytes::from([&octets[..8], b"garbage"].concat())),
            Forgery::Name => {
                let mut octets = octets;
                octets[place] = (octets[place] + 1) % self.genesis.validators().len() as u8;
                (Channel::Votes, Bytes::from(octets))
            }
            Forgery::Signature => {
                let mut octets = octets;
                octets[place + 9] ^= 1;
                (Channel::Votes, Bytes::from(octets))
            }
            Forgery::Message => (Channel::Blocks, Bytes::from_static(b"garbage")),
            Forgery::Evidence => {
                let votes = [1, 2].map(|block| self.made_up(epoch, view, block));
                let evidence = contradiction(&votes[0], &votes[1])?;
                (Channel::Blocks, Message::Evidence(Box::new(evidence)).to_bytes())
            }
            Forgery::Votes => {
                let votes = [1, 2].map(|block| self.made_up(epoch, view, block));
                (Channel::Blocks, Message::Votes(votes.to_vec()).to_bytes())
            }
        })
    }
}

impl Wire for Forger {
    fn send(&self, to: &ValidatorKey, channel: Channel, frame: Bytes) -> Sent {
        if channel == Channel::Votes
            && let Some((channel, forged)) = self.forged(&frame)
        {
            self.watch.strikes(self.number);
            self.wire.send(to, channel, forged);
            // A forged signature comes first, or the vote would be known already.
            if matches!(self.forgery, Forgery::Signature | Forgery::Name) {
                return Sent::Queued;
            }
        }
        self.wire.send(to, channel, frame)
    }
}

pub fn forger(number: usize, genesis: &Arc<Genesis>, forgery: Forgery, watch: &Watch) -> Tamper {
    let (genesis, watch) = (Arc::clone(genesis), watch.clone());
    Arc::new(move |wire| {
        let (genesis, watch) = (Arc::clone(&genesis), watch.clone());
        Arc::new(Forger { wire, number, genesis, forgery, watch })
    })
}

/// Sends again what it sent before, to everyone it meets
struct Replayer {
    wire: Arc<dyn Wire>,
    sent: Mutex<Vec<(Channel, Bytes)>>,
}

impl Wire for Replayer {
    fn send(&self, to: &ValidatorKey, channel: Channel, frame: Bytes) -> Sent {
        let again = {
            let mut sent = lock(&self.sent);
            sent.push((channel, frame.clone()));
            // Something from the beginning, something from the middle, something of just now.
            [0, sent.len() / 2, sent.len() - 1].map(|place| sent[place].clone())
        };
        for (channel, frame) in again {
            self.wire.send(to, channel, frame);
        }
        self.wire.send(to, channel, frame)
    }
}

pub fn replayer() -> Tamper {
    Arc::new(|wire| Arc::new(Replayer { wire, sent: Mutex::default() }))
}
