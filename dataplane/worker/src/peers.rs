//! The way from worker to worker: a bounded inbox each, and ring-to-ring wake-ups, at most one per turn.

use std::collections::VecDeque;
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;
use stoq_interface::{DropReason, WorkerCounters};
use stoq_transport::Message;
use stoq_udp::{DatagramIo, PeerRing};

/// Messages that may wait at one worker
const INBOX: usize = 65_536;

/// A worker's inbox
pub(crate) type Inbox = ArrayQueue<Message>;

pub(crate) fn inbox() -> Arc<Inbox> {
    Arc::new(ArrayQueue::new(INBOX))
}

/// One other worker
struct Peer {
    inbox: Arc<Inbox>,
    ring: PeerRing,
    /// What its inbox could not take; datagrams are dropped instead
    backlog: VecDeque<Message>,
    touched: bool,
}

/// The other workers, by index; this worker's own place is unused
pub(crate) struct Peers(Vec<Option<Peer>>);

impl Peers {
    pub(crate) fn new(own: usize, all: Vec<(Arc<Inbox>, PeerRing)>) -> Self {
        let peers = all.into_iter().enumerate().map(|(index, (inbox, ring))| {
            let peer = Peer { inbox, ring, backlog: VecDeque::new(), touched: false };
            (index != own).then_some(peer)
        });
        Self(peers.collect())
    }

    pub(crate) fn send(&mut self, to: usize, message: Message, counters: &WorkerCounters) {
        let Some(Some(peer)) = self.0.get_mut(to) else { return };
        peer.touched = true;
        if !peer.backlog.is_empty() && !matches!(message, Message::Datagram { .. }) {
            peer.backlog.push_back(message);
            return;
        }
        match peer.inbox.push(message) {
            Ok(()) => {}
            Err(Message::Datagram { .. }) => {
                counters.dropped[DropReason::HandOverFull.index()].add(1);
            }
            Err(message) => peer.backlog.push_back(message),
        }
    }

    /// Retries what was held back and wakes whoever got something
    pub(crate) fn flush(&mut self, io: &mut dyn DatagramIo) {
        for peer in self.0.iter_mut().flatten() {
            while let Some(message) = peer.backlog.pop_front() {
                peer.touched = true;
                if let Err(message) = peer.inbox.push(message) {
                    peer.backlog.push_front(message);
                    break;
                }
            }
            if std::mem::take(&mut peer.touched) {
                io.wake_peer(&peer.ring);
            }
        }
    }

    pub(crate) fn has_backlog(&self) -> bool {
        self.0.iter().flatten().any(|peer| !peer.backlog.is_empty())
    }
}
