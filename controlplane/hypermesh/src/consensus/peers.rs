//! Who sends, and how much of it waits: each sender has its own share of every channel, so that one that floods fills
//! only its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use commonware_cryptography::ed25519::PublicKey;

use super::convert;
use super::network::Channel;
use crate::operation::ValidatorKey;

/// Frames and octets of one sender beyond which nothing more of it is taken
pub(super) fn share(channel: Channel) -> (usize, usize) {
    match channel {
        Channel::Votes => (1_024, 1 << 20),
        Channel::Certificates | Channel::Resolver => (512, 2 << 20),
        Channel::Blocks => (256, 32 << 20),
    }
}

/// The same on the channel of blocks for one who only follows
pub(super) const FOLLOWER_SHARE: (usize, usize) = (64, 1 << 20);

/// A sender and what of it waits
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) public: PublicKey,
    pub(super) key: ValidatorKey,
    waiting: [AtomicUsize; 4],
    waiting_bytes: [AtomicUsize; 4],
    pub(super) heard: AtomicBool,
}

/// A frame, and the place it takes up until it is dropped
#[derive(Debug)]
pub(crate) struct Frame {
    pub(super) peer: Arc<Peer>,
    channel: Channel,
    pub(crate) octets: Bytes,
    size: usize,
}

impl Frame {
    pub(crate) fn from(&self) -> ValidatorKey {
        self.peer.key
    }

    pub(crate) fn public(&self) -> &PublicKey {
        &self.peer.public
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        let channel = self.channel as usize;
        self.peer.waiting[channel].fetch_sub(1, Ordering::Relaxed);
        self.peer.waiting_bytes[channel].fetch_sub(self.size, Ordering::Relaxed);
    }
}

impl Peer {
    /// None if the key is none
    pub(super) fn new(key: &ValidatorKey) -> Option<Self> {
        Some(Self {
            public: convert::public(key)?,
            key: *key,
            waiting: Default::default(),
            waiting_bytes: Default::default(),
            heard: AtomicBool::new(false),
        })
    }

    pub(super) fn frame(self: &Arc<Self>, channel: Channel, octets: Bytes) -> Option<Frame> {
        self.frame_within(share(channel), channel, octets)
    }

    pub(super) fn frame_within(
        self: &Arc<Self>,
        (frames, bytes): (usize, usize),
        channel: Channel,
        octets: Bytes,
    ) -> Option<Frame> {
        let (place, size) = (channel as usize, octets.len());
        let waiting = self.waiting[place].fetch_add(1, Ordering::Relaxed);
        let waiting_bytes = self.waiting_bytes[place].fetch_add(size, Ordering::Relaxed);
        // From here on the frame gives its place back when it is dropped.
        let frame = Frame { peer: Arc::clone(self), channel, octets, size };
        (waiting < frames && waiting_bytes <= bytes).then_some(frame)
    }
}
