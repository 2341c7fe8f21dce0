//! A session: everything two nodes share across connections. It owns the flows, spreads their records over
//! the links (connections) that joined it, and keeps them whole while links come, drain and die. It is
//! sans-IO: link events and local commands go in by `handle_*` and the command methods, [`Output`]s come
//! out of [`Session::poll_output`]. It never sees a packet; connections are `endpoint`'s.

mod flow;
mod flows;
mod links;
mod receiver;
mod sender;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use stoq_interface::{
    CloseReason, FlowError, FlowStatus, Limits, NodeId, ServiceName, SessionStatus,
    TransportSettings,
};

pub use flow::Flow;
pub use links::{CallKind, LinkId, LinkState};
pub use receiver::FlowReceiver;
pub use sender::{FlowSender, Piece};

use crate::wire::{Frame, SessionId};
use links::Link;

/// Delay after which small amounts of received data are acknowledged
const STATUS_DELAY: Duration = Duration::from_millis(5);
/// Received bytes that are acknowledged at once
const STATUS_BYTES: u64 = 256 << 10;
/// In a large window it may wait for this share of it: every status is a packet that must be acknowledged
const STATUS_WINDOW_SHARE: u64 = 8;
/// First and longest pause between attempts to reach a lost peer
const REDIAL_FIRST: Duration = Duration::from_millis(50);
const REDIAL_LONGEST: Duration = Duration::from_secs(2);

/// What a link tells its session
#[derive(Debug)]
pub enum LinkEvent {
    /// A control frame other than HELLO arrived
    Frame(Frame),
    /// A leg was opened by the peer
    Opened {
        /// The flow it serves
        flow: u64,
        /// The service, on legs of the flow's opener
        service: Option<ServiceName>,
    },
    /// Bytes of a flow arrived
    Data {
        /// The flow
        flow: u64,
        /// Offset within the flow
        offset: u64,
        /// The bytes
        bytes: Bytes,
        /// The flow ends behind them
        end: bool,
    },
    /// The transport took over bytes that were queued on a flow's leg
    Accepted {
        /// The flow
        flow: u64,
        /// How many
        bytes: usize,
    },
    /// The shortest round trip seen so far, when the link joined
    RoundTrip(Duration),
    /// Nothing has been heard although something should have been
    Suspect,
    /// The link wants to be replaced: packet limit, certificate end, operator
    Replace(CloseReason),
    /// The link is gone
    Down(CloseReason),
}

/// What a session tells one of its links
#[derive(Debug)]
pub enum LinkCommand {
    /// Send a control frame
    Frame(Frame),
    /// Put a piece on the flow's leg, opening the leg where there is none
    Record {
        /// The flow
        flow: u64,
        /// Named on the first record of an opener's leg
        service: Option<ServiceName>,
        /// What to send
        piece: Piece,
    },
    /// The flow's leg carries nothing more
    EndLeg {
        /// The flow
        flow: u64,
    },
    /// Close the connection
    Close(CloseReason),
}

/// What a session wants done
#[derive(Debug)]
pub enum Output {
    /// Pass a command to a link
    Link(LinkId, LinkCommand),
    /// Dial one more connection to the peer, on `worker` where given
    Dial {
        /// Preferred worker
        worker: Option<usize>,
    },
    /// The peer opened a flow; accept it with [`Session::accept_flow`] or reset it
    Incoming {
        /// The flow
        flow: u64,
        /// The service it asks for
        service: ServiceName,
    },
    /// A flow may be readable, writable, complete or ended
    Touched {
        /// The flow
        flow: u64,
    },
    /// The session is over; all its flows have ended
    Ended(CloseReason),
}

/// What a session counts; read by its worker after each turn
#[derive(Clone, Copy, Debug, Default)]
pub struct SessionCounters {
    /// Flow bytes sent for the first time
    pub bytes_sent: u64,
    /// Flow bytes sent again
    pub bytes_resent: u64,
    /// Flow bytes delivered in order
    pub bytes_received: u64,
    /// Flow bytes received twice
    pub bytes_duplicate: u64,
    /// Links replaced
    pub replacements: u64,
    /// Links lost
    pub losses: u64,
    /// Flows that ended early, by [`FlowError::index`]
    pub flow_errors: [u64; FlowError::ALL.len()],
}

/// One session
#[derive(Debug)]
pub struct Session {
    id: SessionId,
    peer: NodeId,
    dialled: bool,
    limits: Limits,
    settings: TransportSettings,
    workers: usize,
    links: Vec<Link>,
    flows: HashMap<u64, Flow>,
    /// Next flow id of ours; ids of the dialling side are even
    next_flow: u64,
    /// Highest flow id of the peer seen, plus two
    peer_next_flow: u64,
    /// Peer ids below `peer_next_flow` that have not shown up: legs overtake each other
    peer_missing: BTreeSet<u64>,
    /// Flows reset here whose reset the peer has not answered
    resets: HashMap<u64, FlowError>,
    peer_flow_window_bytes: u64,
    peer_flows: u64,
    own_flows: u64,
    /// Flows with a status to send
    status_due: Vec<u64>,
    status_at: Option<Instant>,
    outputs: VecDeque<Output>,
    buffered_bytes: u64,
    /// Flows whose limit may rise once the session's buffer has room
    starved: BTreeSet<u64>,
    /// Of the link that joined last
    round_trip: Duration,
    dialing: usize,
    /// Dials under way that began before the connections were last to be replaced
    stale_dials: usize,
    target_links: usize,
    redial_at: Option<Instant>,
    redial_pause: Duration,
    lost_since: Option<Instant>,
    closing: Option<CloseReason>,
    draining: bool,
    ended: bool,
    /// The flow that was looked at last has sent all that its peer takes for now
    window_bound: bool,
    counters: SessionCounters,
}

/// What both sides agreed on when the session began
#[derive(Clone, Debug)]
pub struct Agreement {
    /// The session's name
    pub id: SessionId,
    /// The peer
    pub peer: NodeId,
    /// Whether this side dialled
    pub dialled: bool,
    /// Bytes of a new flow the peer takes before it says more
    pub peer_flow_window_bytes: u64,
    /// Flows the peer lets this side have open
    pub peer_flows: u64,
}

impl Session {
    /// A session without links; `workers` bounds how far a flow is striped
    pub fn new(
        agreement: Agreement,
        limits: Limits,
        settings: TransportSettings,
        workers: usize,
    ) -> Self {
        Self {
            id: agreement.id,
            peer: agreement.peer,
            dialled: agreement.dialled,
            next_flow: u64::from(!agreement.dialled),
            peer_next_flow: u64::from(agreement.dialled),
            limits,
            settings,
            workers,
            links: Vec::new(),
            flows: HashMap::new(),
            peer_missing: BTreeSet::new(),
            resets: HashMap::new(),
            peer_flow_window_bytes: agreement.peer_flow_window_bytes,
            peer_flows: agreement.peer_flows,
            own_flows: 0,
            status_due: Vec::new(),
            status_at: None,
            outputs: VecDeque::new(),
            buffered_bytes: 0,
            starved: BTreeSet::new(),
            round_trip: Duration::ZERO,
            dialing: 0,
            stale_dials: 0,
            target_links: 1,
            redial_at: None,
            redial_pause: REDIAL_FIRST,
            lost_since: None,
            closing: None,
            draining: false,
            ended: false,
            window_bound: false,
            counters: SessionCounters::default(),
        }
    }

    /// The session's name on the wire
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// The peer's node
    pub fn peer(&self) -> &NodeId {
        &self.peer
    }

    /// Whether this side dialled
    pub fn is_dialled(&self) -> bool {
        self.dialled
    }

    /// Whether the session is over
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// Flows now held
    pub fn flow_count(&self) -> usize {
        self.flows.len()
    }

    /// Links now joined
    pub fn link_ids(&self) -> impl Iterator<Item = LinkId> + '_ {
        self.links.iter().map(|link| link.id)
    }

    /// Whether the flow served last waits for its peer: everything it may send or hold is on its way
    pub fn is_window_bound(&self) -> bool {
        self.window_bound
    }

    /// What the session has counted
    pub fn counters(&self) -> SessionCounters {
        self.counters
    }

    /// The next thing to be done
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Self::handle_timeout`] wants to be called
    pub fn next_timeout(&self) -> Option<Instant> {
        let linger = self.lost_since.map(|since| since + self.settings.session_linger);
        let drains = self.links.iter().filter_map(|link| link.deadline).min();
        [self.status_at, self.redial_at, linger, drains].into_iter().flatten().min()
    }

    /// Acts on every deadline that has passed
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.status_at.is_some_and(|at| at <= now) {
            self.flush_status(now);
        }
        if self.redial_at.is_some_and(|at| at <= now) {
            self.redial_at = None;
            self.grow();
        }
        if let Some(since) = self.lost_since
            && now >= since + self.settings.session_linger
        {
            self.end(CloseReason::Transport);
            return;
        }
        self.close_overdue_links(now);
    }

    /// Ends every flow and closes every link
    pub fn close(&mut self, reason: CloseReason) {
        self.end(reason);
    }

    /// Takes no new flows; tells the peer; ends once the flows under way are done
    pub fn drain(&mut self, now: Instant, timeout: Duration) {
        self.draining = true;
        let frame =
            Frame::Drain { deadline_ms: timeout.as_millis() as u64, reason: CloseReason::Draining };
        for link in &mut self.links {
            link.deadline = Some(now + timeout);
            self.outputs.push_back(Output::Link(link.id, LinkCommand::Frame(frame.clone())));
        }
        self.close_if_drained();
    }

    fn close_if_drained(&mut self) {
        if self.draining && self.flows.is_empty() && !self.ended {
            self.close(CloseReason::Draining);
        }
    }

    fn end(&mut self, reason: CloseReason) {
        if self.ended {
            return;
        }
        self.ended = true;
        for link in std::mem::take(&mut self.links) {
            self.outputs.push_back(Output::Link(link.id, LinkCommand::Close(reason)));
        }
        self.lost_since = None;
        self.redial_at = None;
        self.status_at = None;
        self.closing = Some(reason);
        let flows: Vec<u64> = self.flows.keys().copied().collect();
        for id in flows {
            if let Some(flow) = self.flows.get_mut(&id) {
                if flow.error.is_none() {
                    self.counters.flow_errors[FlowError::SessionLost.index()] += 1;
                }
                flow.fail(FlowError::SessionLost);
                self.outputs.push_back(Output::Touched { flow: id });
            }
        }
        self.outputs.push_back(Output::Ended(reason));
    }

    /// What an operator sees
    pub fn status(&self, id: u64, worker: usize) -> SessionStatus {
        SessionStatus {
            id,
            worker,
            peer: self.peer.clone(),
            dialled: self.dialled,
            connections: self.links.len(),
            flows: self.flows.len(),
            replacements: self.counters.replacements,
            losses: self.counters.losses,
            bytes_sent: self.counters.bytes_sent,
            bytes_received: self.counters.bytes_received,
            bytes_resent: self.counters.bytes_resent,
        }
    }

    /// What an operator sees of the flows
    pub fn flow_status(&self) -> Vec<FlowStatus> {
        self.flows.iter().map(|(id, flow)| flow.status(*id)).collect()
    }
}

#[cfg(test)]
mod tests;
