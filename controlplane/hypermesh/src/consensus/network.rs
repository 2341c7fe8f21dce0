//! How consensus reaches other validators, whatever carries it: frames go out through a [`Wire`] and come in through an
//! [`Inbox`], and neither ever waits. Who a frame is from is the transport's word, by mutual authentication; here it is
//! sorted by epoch and channel, within limits for each sender, and handed to the engine or to what surrounds it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use commonware_cryptography::ed25519::PublicKey;
use commonware_p2p::BlockedSubscription;
use commonware_utils::channel::{mpsc, ring};
use commonware_utils::ordered::Set;

use super::convert;
use super::message::MESSAGE_LIMIT_BYTES;
use super::peers::{FOLLOWER_SHARE, Frame, Peer, share};
use super::ports::EngineReceiver;
use super::validators::ValidatorSet;
use crate::operation::ValidatorKey;

/// Octets of the longest frame of the engine: a certificate of the largest set and its request
pub const ENGINE_FRAME_LIMIT_BYTES: usize = 16 << 10;
/// Senders beside the validators of the epoch that are known at a time: those that were or will be validators
pub const STRANGERS_LIMIT: usize = 64;
/// Senders from whom nothing is taken that are remembered, beside the validators of the epoch
pub const BLOCKED_LIMIT: usize = 1_024;

/// What a frame carries. Each is a stream of its own on the transport, so that blocks do not hold up votes.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Channel {
    /// Votes of one validator each
    Votes,
    /// Votes of a quorum
    Certificates,
    /// Requests for certificates and their answers
    Resolver,
    /// Everything else
    Blocks,
}

impl Channel {
    /// All of them
    pub const ALL: [Self; 4] = [Self::Votes, Self::Certificates, Self::Resolver, Self::Blocks];

    /// Octets of the longest frame
    pub fn limit_bytes(self) -> usize {
        match self {
            Self::Blocks => MESSAGE_LIMIT_BYTES,
            Self::Votes | Self::Certificates | Self::Resolver => ENGINE_FRAME_LIMIT_BYTES,
        }
    }
}

/// What became of a frame that was to go out
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sent {
    /// It is on its way. It may still be lost.
    Queued,
    /// Too much waits for this validator already
    Full,
    /// There is no connection to it
    Unreachable,
}

/// Carries frames to other validators
pub trait Wire: Send + Sync + 'static {
    /// Sends a frame without waiting. What cannot be sent is dropped: whoever misses something asks again.
    fn send(&self, to: &ValidatorKey, channel: Channel, frame: Bytes) -> Sent;
}

/// What became of a frame that came in
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Delivered {
    /// It waits to be looked at
    Taken,
    /// Too much of this sender waits already
    Full,
    /// Nothing is taken from this sender: it broke the protocol
    Blocked,
    /// The sender is no validator, or the frame is of an epoch that is over or far off
    Unwanted,
    /// The frame is none
    Malformed,
    /// Consensus has ended
    Ended,
}

#[derive(Debug)]
struct Epoch {
    number: u64,
    members: HashSet<ValidatorKey>,
    queues: [mpsc::UnboundedSender<Frame>; 3],
}

#[derive(Debug, Default)]
struct State {
    peers: HashMap<ValidatorKey, Arc<Peer>>,
    strangers: VecDeque<ValidatorKey>,
    epoch: Option<Epoch>,
    /// Frames of the next epoch, which others began before
    early: VecDeque<(u64, Channel, Frame)>,
    blocked: HashMap<ValidatorKey, &'static str>,
    subscribers: Vec<ring::Sender<Set<PublicKey>>>,
}

/// What was done with frames so far
#[derive(Debug, Default)]
pub struct NetworkCounters {
    /// Frames taken
    pub taken: AtomicU64,
    /// Frames dropped because too many of their sender waited
    pub full: AtomicU64,
    /// Frames of senders that broke the protocol
    pub blocked: AtomicU64,
    /// Frames of no use here
    pub unwanted: AtomicU64,
    /// Frames that were none
    pub malformed: AtomicU64,
    /// Frames that could not be sent
    pub unsent: AtomicU64,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    blocks: mpsc::UnboundedSender<Frame>,
    counters: NetworkCounters,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds this, short of a failed allocation.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the transport hands in what other validators sent
#[derive(Clone, Debug)]
pub struct Inbox {
    shared: Arc<Shared>,
}

/// Frames of an early epoch that are kept
const EARLY_LIMIT: usize = 4_096;

impl Inbox {
    pub(crate) fn new() -> (Self, mpsc::UnboundedReceiver<Frame>) {
        // Bounded by what each sender may have waiting, and by how many senders there are.
        let (blocks, receiver) = mpsc::unbounded_channel();
        let state = Mutex::new(State::default());
        let shared = Shared { state, blocks, counters: NetworkCounters::default() };
        (Self { shared: Arc::new(shared) }, receiver)
    }

    /// What was done with frames so far
    pub fn counters(&self) -> &NetworkCounters {
        &self.shared.counters
    }

    /// Hands in a frame of a validator that the transport authenticated. Never waits.
    pub fn deliver(&self, from: &ValidatorKey, channel: Channel, frame: Bytes) -> Delivered {
        let delivered = self.sort(from, channel, frame);
        let counters = &self.shared.counters;
        let counter = match delivered {
            Delivered::Taken => &counters.taken,
            Delivered::Full => &counters.full,
            Delivered::Blocked => &counters.blocked,
            Delivered::Unwanted | Delivered::Ended => &counters.unwanted,
            Delivered::Malformed => &counters.malformed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        delivered
    }

    fn sort(&self, from: &ValidatorKey, channel: Channel, mut octets: Bytes) -> Delivered {
        if octets.is_empty() || octets.len() > channel.limit_bytes() {
            return Delivered::Malformed;
        }
        let mut state = self.shared.state();
        if state.blocked.contains_key(from) {
            return Delivered::Blocked;
        }
        let Some(peer) = state.peer(from) else { return Delivered::Unwanted };
        peer.heard.store(true, Ordering::Relaxed);
        if channel == Channel::Blocks {
            // Where one votes, who only follows has a smaller share.
            let follows = state.epoch.as_ref().is_some_and(|open| !open.members.contains(from));
            let room = if follows { FOLLOWER_SHARE } else { share(channel) };
            let Some(frame) = peer.frame_within(room, channel, octets) else {
                return Delivered::Full;
            };
            let sent = self.shared.blocks.send(frame);
            return if sent.is_ok() { Delivered::Taken } else { Delivered::Ended };
        }
        let Some((number, _)) = octets.split_first_chunk::<8>() else {
            return Delivered::Malformed;
        };
        let number = u64::from_be_bytes(*number);
        let current = state.epoch.as_ref().map(|epoch| epoch.number);
        let octets = octets.split_off(8);
        match current {
            Some(current) if number == current => state.pass_to_engine(&peer, channel, octets),
            Some(current) if number == current + 1 => {
                let Some(frame) = peer.frame(channel, octets) else { return Delivered::Full };
                state.early.push_back((number, channel, frame));
                if state.early.len() > EARLY_LIMIT {
                    state.early.pop_front();
                }
                Delivered::Taken
            }
            _ => Delivered::Unwanted,
        }
    }

    /// Opens the channels of an epoch, and closes those of the one before
    pub(crate) fn open_epoch(&self, number: u64, set: &ValidatorSet) -> [EngineReceiver; 3] {
        let mut senders = Vec::with_capacity(3);
        let receivers = [Channel::Votes, Channel::Certificates, Channel::Resolver].map(|channel| {
            let (sender, queue) = mpsc::unbounded_channel();
            senders.push(sender);
            let capacity = set.len() * share(channel).0;
            EngineReceiver::new(queue, capacity)
        });
        let queues = senders.try_into().unwrap_or_else(|_| unreachable!("three senders"));
        let members: HashSet<ValidatorKey> = set.iter().map(|validator| validator.key).collect();
        let mut state = self.shared.state();
        state.retire_all_but(&members);
        for member in &members {
            state.add_peer(member);
        }
        state.epoch = Some(Epoch { number, members, queues });
        for (epoch, channel, frame) in std::mem::take(&mut state.early) {
            if epoch == number
                && let Some(open) = &state.epoch
                && open.members.contains(&frame.peer.key)
            {
                open.pass(channel, frame);
            }
        }
        receivers
    }

    /// No engine runs in this epoch
    pub(crate) fn close_epoch(&self) {
        self.shared.state().epoch = None;
    }

    /// Who was heard of since this was last asked
    pub(crate) fn heard(&self) -> Vec<ValidatorKey> {
        let state = self.shared.state();
        let heard = state.peers.values().filter(|peer| peer.heard.swap(false, Ordering::Relaxed));
        heard.map(|peer| peer.key).collect()
    }

    /// Takes nothing more from a validator
    pub(crate) fn block(&self, key: &ValidatorKey, reason: &'static str) {
        let mut state = self.shared.state();
        state.make_room_among_blocked(key);
        if state.blocked.insert(*key, reason).is_none() {
            tracing::warn!(validator = %key, reason, "nothing more is taken from a validator");
            state.publish_blocked();
        }
    }

    /// Takes from a validator again
    pub(crate) fn unblock(&self, key: &ValidatorKey) -> bool {
        let mut state = self.shared.state();
        let was = state.blocked.remove(key).is_some();
        if was {
            state.publish_blocked();
        }
        was
    }

    /// Tells of everyone from whom nothing is taken, now and whenever that changes
    pub(crate) fn subscribe_blocked(&self) -> BlockedSubscription<PublicKey> {
        let (sender, receiver) = ring::channel(NonZeroUsize::MIN);
        let mut state = self.shared.state();
        sender.send_lossy(state.blocked_set());
        state.subscribers.push(sender);
        receiver
    }

    pub(crate) fn count_unsent(&self) {
        self.shared.counters.unsent.fetch_add(1, Ordering::Relaxed);
    }

    /// From whom nothing is taken, and why
    pub(crate) fn blocked(&self) -> Vec<(ValidatorKey, &'static str)> {
        let state = self.shared.state();
        state.blocked.iter().map(|(key, reason)| (*key, *reason)).collect()
    }
}

impl Epoch {
    fn pass(&self, channel: Channel, frame: Frame) {
        // A closed queue is that of an engine about to be replaced; what it misses the next one asks for.
        let _ = self.queues[channel as usize].send(frame);
    }
}

impl State {
    fn add_peer(&mut self, key: &ValidatorKey) -> Option<Arc<Peer>> {
        if let Some(peer) = self.peers.get(key) {
            return Some(Arc::clone(peer));
        }
        let peer = Arc::new(Peer::new(key)?);
        self.peers.insert(*key, Arc::clone(&peer));
        Some(peer)
    }

    fn peer(&mut self, key: &ValidatorKey) -> Option<Arc<Peer>> {
        if let Some(peer) = self.peers.get(key) {
            return Some(Arc::clone(peer));
        }
        let peer = self.add_peer(key)?;
        self.strangers.push_back(*key);
        self.forget_strangers();
        Some(peer)
    }

    fn forget_strangers(&mut self) {
        while self.strangers.len() > STRANGERS_LIMIT
            && let Some(oldest) = self.strangers.pop_front()
        {
            self.peers.remove(&oldest);
        }
    }

    /// Validators of the epoch before are strangers from now on, and strangers among the new ones are not
    fn retire_all_but(&mut self, members: &HashSet<ValidatorKey>) {
        self.strangers.retain(|stranger| !members.contains(stranger));
        let mut retired: Vec<ValidatorKey> = self
            .peers
            .keys()
            .filter(|key| !members.contains(key) && !self.strangers.contains(key))
            .copied()
            .collect();
        retired.sort();
        self.strangers.extend(retired);
        self.forget_strangers();
    }

    fn pass_to_engine(&mut self, peer: &Arc<Peer>, channel: Channel, octets: Bytes) -> Delivered {
        let Some(epoch) = self.epoch.as_ref().filter(|epoch| epoch.members.contains(&peer.key))
        else {
            return Delivered::Unwanted;
        };
        let Some(frame) = peer.frame(channel, octets) else { return Delivered::Full };
        epoch.pass(channel, frame);
        Delivered::Taken
    }

    /// Forgets one that is no validator, where too many are blocked
    fn make_room_among_blocked(&mut self, key: &ValidatorKey) {
        if self.blocked.len() < BLOCKED_LIMIT || self.blocked.contains_key(key) {
            return;
        }
        let members = self.epoch.as_ref().map(|epoch| &epoch.members);
        let validates = |key: &ValidatorKey| members.is_some_and(|members| members.contains(key));
        let other = self.blocked.keys().find(|key| !validates(key)).copied();
        other.map(|key| self.blocked.remove(&key));
    }

    fn blocked_set(&self) -> Set<PublicKey> {
        Set::from_iter_dedup(self.blocked.keys().filter_map(convert::public))
    }

    fn publish_blocked(&mut self) {
        let set = self.blocked_set();
        self.subscribers.retain(|subscriber| subscriber.send_lossy(set.clone()));
    }
}

#[cfg(test)]
#[path = "network_tests.rs"]
mod tests;
