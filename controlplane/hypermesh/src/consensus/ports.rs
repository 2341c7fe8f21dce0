//! The engine's ends of the network: what it receives from, what it sends to, and where it says who broke the protocol.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use commonware_actor::{Feedback, Unreliable};
use commonware_cryptography::ed25519::PublicKey;
use commonware_p2p::{
    BlockedSubscription, Blocker, CheckedSender, LimitedSender, Message, Receiver, Recipients,
};
use commonware_runtime::{IoBuf, IoBufs};
use commonware_utils::channel::mpsc;

use super::convert;
use super::network::{Channel, Inbox, Sent, Wire};
use super::peers::Frame;
use super::validators::ValidatorSet;
use crate::operation::ValidatorKey;

/// One of the engine's three channels, inwards
#[derive(Debug)]
pub(crate) struct EngineReceiver {
    queue: mpsc::UnboundedReceiver<Frame>,
    capacity: NonZeroUsize,
}

impl EngineReceiver {
    pub(crate) fn new(queue: mpsc::UnboundedReceiver<Frame>, capacity: usize) -> Self {
        Self { queue, capacity: NonZeroUsize::new(capacity).unwrap_or(NonZeroUsize::MIN) }
    }
}

/// The channel is closed: the epoch is over
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the epoch is over")]
pub(crate) struct Closed;

impl Receiver for EngineReceiver {
    type Error = Closed;
    type PublicKey = PublicKey;

    async fn recv(&mut self) -> Result<Message<PublicKey>, Closed> {
        let frame = self.queue.recv().await.ok_or(Closed)?;
        Ok((frame.public().clone(), IoBuf::from(frame.octets.clone())))
    }

    fn capacity(&self) -> NonZeroUsize {
        self.capacity
    }
}

/// Sends to the validators of an epoch
#[derive(Clone)]
pub(crate) struct Outlet {
    wire: Arc<dyn Wire>,
    inbox: Inbox,
    others: Arc<[ValidatorKey]>,
}

impl Outlet {
    /// To all of `set` but `own`
    pub(crate) fn new(
        wire: Arc<dyn Wire>,
        inbox: Inbox,
        set: &ValidatorSet,
        own: &ValidatorKey,
    ) -> Self {
        let others = set.iter().map(|validator| validator.key).filter(|key| key != own);
        Self { wire, inbox, others: others.collect() }
    }

    /// The others
    pub(crate) fn others(&self) -> &[ValidatorKey] {
        &self.others
    }

    /// Sends to one
    pub(crate) fn send(&self, to: &ValidatorKey, channel: Channel, frame: Bytes) {
        if self.wire.send(to, channel, frame) != Sent::Queued {
            self.inbox.count_unsent();
        }
    }

    /// Sends to all
    pub(crate) fn broadcast(&self, channel: Channel, frame: &Bytes) {
        for to in self.others.iter() {
            self.send(to, channel, frame.clone());
        }
    }
}

/// One of the engine's three channels, outwards
#[derive(Clone)]
pub(crate) struct EngineSender {
    outlet: Outlet,
    channel: Channel,
    epoch: u64,
}

impl EngineSender {
    pub(crate) fn new(outlet: Outlet, channel: Channel, epoch: u64) -> Self {
        Self { outlet, channel, epoch }
    }
}

impl LimitedSender for EngineSender {
    type PublicKey = PublicKey;
    type Checked<'a> = Addressed<'a>;

    fn check(&mut self, recipients: Recipients<PublicKey>) -> Result<Addressed<'_>, SystemTime> {
        let recipients = match recipients {
            Recipients::All => self.outlet.others.to_vec(),
            Recipients::Some(some) => some.iter().map(convert::key).collect(),
            Recipients::One(one) => vec![convert::key(&one)],
        };
        Ok(Addressed { sender: self, recipients })
    }
}

/// A message's recipients
pub(crate) struct Addressed<'a> {
    sender: &'a EngineSender,
    recipients: Vec<ValidatorKey>,
}

impl CheckedSender for Addressed<'_> {
    type PublicKey = PublicKey;

    fn recipients(&self) -> Vec<PublicKey> {
        self.recipients.iter().filter_map(convert::public).collect()
    }

    fn send(self, message: impl Into<IoBufs> + Send, _priority: bool) -> Unreliable<Feedback> {
        let message = message.into().coalesce();
        let mut frame = Vec::with_capacity(8 + message.len());
        frame.extend_from_slice(&self.sender.epoch.to_be_bytes());
        frame.extend_from_slice(message.as_ref());
        let frame = Bytes::from(frame);
        for to in &self.recipients {
            self.sender.outlet.send(to, self.sender.channel, frame.clone());
        }
        Unreliable::new(Feedback::Ok)
    }
}

/// Takes the engine's word for who broke the protocol. It names them again and again, and enforces nothing itself.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    inbox: Inbox,
}

impl Gate {
    pub(crate) fn new(inbox: Inbox) -> Self {
        Self { inbox }
    }
}

impl Blocker for Gate {
    type PublicKey = PublicKey;

    fn block(&mut self, peer: PublicKey) -> Feedback {
        self.inbox
            .block(&convert::key(&peer), "the engine received what no honest validator sends");
        Feedback::Ok
    }

    fn blocked(&mut self) -> BlockedSubscription<PublicKey> {
        self.inbox.subscribe_blocked()
    }
}
