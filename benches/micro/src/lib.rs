//! What the micro benchmarks share: two endpoints that exchange datagrams in memory, one flow between them.
//! No socket, no thread and no wait: what is measured is the work of one core on one side.

#![forbid(unsafe_code)]

use std::net::{Ipv6Addr, SocketAddrV6};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use stoq_interface::{Allow, ControlSnapshot, NodeId, ServiceName, WorkerCounters};
use stoq_simulation::pki::Authority;
use stoq_transport::{Endpoint, EndpointSecrets, EndpointSetup, Event, SessionKey};

const SLAB_BYTES: usize = 65_536;
/// Datagrams per train, as segmentation offload allows
const SEGMENTS: usize = 64;
/// Turns after which a handshake or a flow that has not moved counts as stuck
const PATIENCE_TURNS: usize = 10_000;

/// One direction's datagrams, kept in one buffer per train
#[derive(Default)]
struct Wire {
    trains: Vec<(Vec<u8>, usize)>,
    spare: Vec<Vec<u8>>,
}

/// Time and datagrams of one side
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent {
    /// Time in this side's endpoint
    pub time: Duration,
    /// Datagrams it sent
    pub sent: u64,
    /// Datagrams it was fed
    pub received: u64,
}

struct Side {
    endpoint: Endpoint,
    address: SocketAddrV6,
    out: Wire,
    spent: Spent,
}

/// Two endpoints, one session, one flow
pub struct Pair {
    sender: Side,
    receiver: Side,
    session: SessionKey,
    flow: u64,
    incoming: Option<(SessionKey, u64)>,
    delivered: u64,
    slab: Vec<u8>,
}

fn side(number: u16, snapshot: ControlSnapshot) -> Side {
    let address = SocketAddrV6::new(Ipv6Addr::new(0xfd77, 0, 0, number, 0, 0, 0, 1), 8_444, 0, 0);
    let endpoint = Endpoint::new(EndpointSetup {
        worker: 0,
        workers: 1,
        local: address,
        secrets: EndpointSecrets::random(),
        seed: u64::from(number),
        snapshot: Arc::new(snapshot),
        counters: Arc::new(WorkerCounters::default()),
    });
    Side { endpoint, address, out: Wire::default(), spent: Spent::default() }
}

impl Side {
    /// Everything it has to send, onto its wire
    fn transmit(&mut self, slab: &mut [u8]) {
        let start = Instant::now();
        while let Some(train) = self.endpoint.poll_transmit(start, slab, SEGMENTS) {
            let mut bytes = self.out.spare.pop().unwrap_or_default();
            bytes.clear();
            bytes.extend_from_slice(&slab[..train.bytes]);
            self.spent.sent += train.bytes.div_ceil(train.segment_bytes) as u64;
            self.out.trains.push((bytes, train.segment_bytes));
        }
        self.spent.time += start.elapsed();
    }

    /// Everything on the other side's wire, into this endpoint
    fn receive(&mut self, from: SocketAddrV6, wire: &mut Wire) {
        let start = Instant::now();
        for (bytes, segment_bytes) in &mut wire.trains {
            for datagram in bytes.chunks_mut(*segment_bytes) {
                self.endpoint.handle_datagram(start, datagram, from);
                self.spent.received += 1;
            }
        }
        self.endpoint.settle(start);
        self.spent.time += start.elapsed();
        wire.spare.extend(wire.trains.drain(..).map(|(bytes, _)| bytes));
    }
}

impl Pair {
    /// Connected, with one flow open
    ///
    /// # Panics
    /// If the handshake does not finish: there is nothing to measure then.
    pub fn new(payload_bytes: usize) -> Self {
        let authority = Authority::new();
        let bulk = ServiceName::new("bulk").expect("a label");
        let snapshot = |node: &str| {
            let mut snapshot = authority.snapshot(node);
            snapshot.transport.max_udp_payload_bytes = payload_bytes;
            snapshot.transport.stripe_above_bytes = u64::MAX;
            snapshot.services.insert(bulk.clone(), Allow::AnyEnrolled);
            snapshot
        };
        let (mut sender, receiver) = (side(1, snapshot("alpha")), side(2, snapshot("beta")));
        let beta = NodeId::new("beta").expect("a label");
        sender.endpoint.connect(Instant::now(), receiver.address, beta, 1);
        let mut pair = Self {
            sender,
            receiver,
            session: SessionKey::of_number(0),
            flow: 0,
            incoming: None,
            delivered: 0,
            slab: vec![0; SLAB_BYTES],
        };
        let connected = (0..PATIENCE_TURNS).find_map(|_| {
            pair.turn();
            std::iter::from_fn(|| pair.sender.endpoint.poll_event()).find_map(|event| match event {
                Event::Connected { session, .. } => Some(session),
                _ => None,
            })
        });
        pair.session = connected.expect("the handshake does not finish");
        let opened = pair.sender.endpoint.with_session(pair.session, |s| s.open_flow(bulk, 0));
        pair.flow = opened.and_then(Result::ok).expect("no flow could be opened");
        pair
    }

    /// Moves `bytes` from the sender's program to the receiver's
    ///
    /// # Panics
    /// If nothing moves any more.
    pub fn carry(&mut self, bytes: u64, piece: &Bytes) {
        let goal = self.delivered + bytes;
        let mut left = bytes;
        let mut still = 0;
        while self.delivered < goal {
            let before = self.delivered;
            let start = Instant::now();
            let (flow, session) = (self.flow, self.session);
            self.sender.endpoint.with_session(session, |session| {
                let most = session.send_buffer_bytes();
                while left > 0 && session.flow(flow).is_some_and(|f| f.writable_bytes(most) > 0) {
                    let length = left.min(piece.len() as u64);
                    session.write(flow, piece.slice(..length as usize));
                    left -= length;
                }
            });
            self.sender.endpoint.settle(start);
            self.sender.spent.time += start.elapsed();
            self.turn();
            self.deliver();
            still = if self.delivered > before { 0 } else { still + 1 };
            assert!(still < PATIENCE_TURNS, "the flow does not move");
        }
    }

    /// Datagrams both ways once, and due timers
    fn turn(&mut self) {
        let now = Instant::now();
        self.sender.endpoint.handle_timeout(now);
        self.receiver.endpoint.handle_timeout(now);
        self.sender.transmit(&mut self.slab);
        self.receiver.receive(self.sender.address, &mut self.sender.out);
        self.receiver.transmit(&mut self.slab);
        self.sender.receive(self.receiver.address, &mut self.receiver.out);
    }

    /// Hands what has arrived to the receiver's program, which throws it away
    fn deliver(&mut self) {
        let start = Instant::now();
        while let Some(event) = self.receiver.endpoint.poll_event() {
            if let Event::FlowIncoming { session, flow, .. } = event {
                self.receiver.endpoint.with_session(session, |s| s.accept_flow(flow, 0));
                self.incoming = Some((session, flow));
            }
        }
        if let Some((session, flow)) = self.incoming {
            let delivered = &mut self.delivered;
            self.receiver.endpoint.with_session(session, |session| {
                session.untouch(flow);
                while let Some(bytes) = session.read(start, flow) {
                    *delivered += bytes.len() as u64;
                }
            });
            self.receiver.endpoint.settle(start);
        }
        self.receiver.spent.time += start.elapsed();
        while self.sender.endpoint.poll_event().is_some() {}
    }

    /// What the sending and the receiving side have spent so far
    pub fn spent(&self) -> (Spent, Spent) {
        (self.sender.spent, self.receiver.spent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_carries_what_it_is_given() {
        let mut pair = Pair::new(1_452);
        let piece = Bytes::from(vec![7; 65_536]);
        pair.carry(3 << 20, &piece);
        assert_eq!(pair.delivered, 3 << 20);
        let (sender, receiver) = pair.spent();
        assert!(sender.sent * 1_452 > 3 << 20);
        assert_eq!(sender.sent, receiver.received);
        assert!(sender.time > Duration::ZERO && receiver.time > Duration::ZERO);
    }
}
