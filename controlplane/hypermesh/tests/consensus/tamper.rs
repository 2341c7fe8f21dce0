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
use stoq_hypermesh::consensus::message::Message;
use stoq_hypermesh::consensus::vote::{self, SignedVote, Statement, namespace};
use stoq_hypermesh::consensus::{Channel, Genesis, Sent, Wire};
use stoq_hypermesh::digest::Digest;
use stoq_hypermesh::operation::ValidatorKey;

use super::ledger::lock;
use super::world::{Tamper, secret};

/// When each faulty validator first did something wrong, by its number
pub type Firsts = Arc<Mutex<BTreeMap<usize, u64>>>;

/// Simulated time, from within a wire
#[derive(Clone)]
pub struct Watch {
    context: Arc<Context>,
    firsts: Firsts,
}

impl Watch {
    pub fn new(context: Context) -> Self {
        Self { context: Arc::new(context), firsts: Firsts::default() }
    }

    fn strikes(&self, number: usize) {
        let since = self.context.current().duration_since(UNIX_EPOCH).expect("time goes forwards");
        lock(&self.firsts).entry(number).or_insert(since.as_millis() as u64);
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
fn sees_other(genesis: &Genesis, to: &ValidatorKey) -> bool {
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
    watch: Watch,
}

impl Equivocator {
    fn other(&self, block: &Block) -> Block {
        let mut other = block.clone();
        other.header.time_ms += 1;
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
                    Vote::Notarize(vote) => Vote::Notarize(
                        Notarize::sign(&self.scheme, self.alternative(&vote.proposal)?)?,
                    ),
                    Vote::Finalize(vote) => Vote::Finalize(
                        Finalize::sign(&self.scheme, self.alternative(&vote.proposal)?)?,
                    ),
                    Vote::Nullify(_) => return None,
                };
                Some(vote_frame(frame, twisted))
            }
            Channel::Certificates | Channel::Resolver => None,
        }
    }
}

impl Wire for Equivocator {
    fn send(&self, to: &ValidatorKey, channel: Channel, frame: Bytes) -> Sent {
        let frame = match self.twist(channel, &frame) {
            Some(twisted) if twisted.is_empty() => return Sent::Queued,
            Some(twisted) if sees_other(&self.genesis, to) => twisted,
            _ => frame,
        };
        self.wire.send(to, channel, frame)
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
            watch: watch.clone(),
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
        self.watch.context.child("late").spawn(move |context| async move {
            context.sleep(late).await;
            wire.send(&to, channel, frame);
        });
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
    pub const ALL: [Self; 6] = [
        Self::Garbage,
        Self::Name,
        Self::Signature,
        Self::Message,
        Self::Evidence,
        Self::Votes,
    ];
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
