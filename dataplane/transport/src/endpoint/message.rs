//! What endpoints of one host say to each other (one endpoint per worker), and what they tell their owner.

use std::net::SocketAddrV6;

use stoq_interface::{CloseReason, NodeId, PeerCertificate, PeerRefusal, ServiceName};

use super::slots::SlotKey;
use crate::session::{LinkCommand, LinkEvent, LinkId};
use crate::wire::{CallHeader, CallReply, Hello, SessionId};

/// A session, named across workers
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct SessionKey {
    /// Home worker
    pub worker: u16,
    /// Place in its table
    pub slot: SlotKey,
}

impl SessionKey {
    /// One number for status and JSON
    pub fn number(self) -> u64 {
        u64::from(self.worker) << 48
            | u64::from(self.slot.generation & 0xffff) << 32
            | u64::from(self.slot.slot)
    }

    /// The key behind a number; stale once the generation has wrapped past 16 bits
    pub fn of_number(number: u64) -> Self {
        let generation = (number >> 32) as u32 & 0xffff;
        Self { worker: (number >> 48) as u16, slot: SlotKey { slot: number as u32, generation } }
    }
}

/// From worker to worker
#[derive(Debug)]
pub enum Message {
    /// To the worker that owns a link
    Link(LinkId, LinkCommand),
    /// To a session's home
    Session(SessionKey, LinkId, LinkEvent),
    /// Dial one more connection for a session
    Dial {
        /// The session
        session: SessionKey,
        /// Its name on the wire; [`SessionId::NEW`] for the first connection
        id: SessionId,
        /// Where the peer is
        address: SocketAddrV6,
        /// Who the peer is
        node: NodeId,
    },
    /// A dialled connection joined: the peer's HELLO
    Dialled(SessionKey, LinkId, Hello),
    /// A dialled connection came to nothing
    DialFailed(SessionKey, CloseReason, Option<PeerRefusal>),
    /// An accepted connection wants to join a session whose home is the receiver
    Join {
        /// The connection
        link: LinkId,
        /// What it says
        hello: Hello,
    },
    /// The answer to [`Message::Join`]: the session it joined
    Joined(LinkId, SessionKey, Hello),
    /// Start a call on a link
    Call {
        /// The link
        link: LinkId,
        /// Chosen by the caller
        token: u64,
        /// Where the reply goes
        worker: u16,
        /// The request
        header: CallHeader,
    },
    /// The end of a call; `None`: the link was lost
    CallDone(u64, Option<CallReply>),
    /// A datagram that the kernel steered to the wrong worker
    Datagram {
        /// The datagram
        bytes: Vec<u8>,
        /// Its source
        from: SocketAddrV6,
    },
}

/// From an endpoint to its owner
#[derive(Debug)]
pub enum Event {
    /// [`super::Endpoint::connect`] succeeded
    Connected {
        /// As passed in
        token: u64,
        /// The session
        session: SessionKey,
    },
    /// [`super::Endpoint::connect`] failed
    ConnectFailed {
        /// As passed in
        token: u64,
        /// Why
        reason: CloseReason,
        /// Why this side refused the peer's certificate, if it did
        refusal: Option<PeerRefusal>,
    },
    /// A peer began a session
    SessionAccepted {
        /// The session
        session: SessionKey,
        /// The peer
        peer: NodeId,
    },
    /// A session is over
    SessionEnded {
        /// The session
        session: SessionKey,
        /// Why
        reason: CloseReason,
    },
    /// A permitted peer opened a flow: accept or reset it
    FlowIncoming {
        /// The session
        session: SessionKey,
        /// The flow
        flow: u64,
        /// The service
        service: ServiceName,
        /// The peer
        peer: NodeId,
    },
    /// A flow may be readable, writable, complete or ended
    FlowTouched {
        /// The session
        session: SessionKey,
        /// The flow
        flow: u64,
    },
    /// A peer makes a call; answer with [`super::Endpoint::answer_call`]
    CallIncoming {
        /// The connection
        link: LinkId,
        /// Its stream
        stream: u64,
        /// The peer
        peer: NodeId,
        /// The certificate it has shown on that connection
        certificate: PeerCertificate,
        /// The request
        header: CallHeader,
    },
    /// A call made here has ended
    CallDone {
        /// As passed in
        token: u64,
        /// The reply; `None`: the connection was lost before it came
        reply: Option<CallReply>,
    },
    /// A connection ended: for the log
    ConnectionClosed {
        /// The peer's address
        remote: SocketAddrV6,
        /// The peer, where authenticated
        peer: Option<NodeId>,
        /// Why
        reason: CloseReason,
        /// Why the peer's certificate was refused here
        refusal: Option<PeerRefusal>,
        /// The wire code, and whether the peer sent it
        code: Option<(u64, bool)>,
    },
}
