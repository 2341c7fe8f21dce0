//! Datagrams as they come: to the connection they belong to, to the worker that owns it, or to the judgement of
//! who may begin a handshake. Whatever is refused is counted by its cause.

use std::net::{Ipv6Addr, SocketAddrV6};
use std::time::{Instant, SystemTime};

use stoq_interface::{CloseReason, DropReason, TransportStage, train_length_index};

use super::admission::Admission;
use super::held::Joining;
use super::message::Message;
use super::slots::SlotKey;
use super::{Endpoint, STATELESS_QUEUE, Stateless};
use crate::connection::{
    Connection, PacketHeader, PacketKind, RetryIds, write_retry, write_version_negotiation,
};
use crate::connection_id::CONNECTION_ID_BYTES;

/// Smallest datagram that may be answered by a stateless reset; the answer is shorter (RFC 9000 10.3.3)
const RESET_ABOVE_BYTES: usize = 43;
const RESET_BYTES: usize = 42;
/// Shortest Initial datagram (RFC 9000 section 14.1)
const INITIAL_BYTES: usize = 1_200;

impl Endpoint {
    /// Begins a train: the datagrams up to the next call came together, to this local address. A host with
    /// several addresses answers from the one it was asked at.
    pub fn set_arrival(&mut self, to: Option<Ipv6Addr>) {
        self.end_arrival();
        self.arrival = to;
    }

    /// The train that came in is complete
    pub(super) fn end_arrival(&mut self) {
        let datagrams = std::mem::take(&mut self.arrived);
        if datagrams > 0 {
            self.counters.trains_received_by_length[train_length_index(datagrams)].add(1);
        }
    }

    /// Takes in one datagram, which is decrypted in place
    pub fn handle_datagram(&mut self, now: Instant, bytes: &mut [u8], from: SocketAddrV6) {
        self.arrived += 1;
        let clock = self.counters.stage_clock.is_on().then(Instant::now);
        self.sort_datagram(now, bytes, from);
        if let Some(since) = clock {
            let spent = since.elapsed().as_nanos() as u64;
            self.counters.transport_ns[TransportStage::DatagramIn.index()].add(spent);
        }
    }

    fn sort_datagram(&mut self, now: Instant, bytes: &mut [u8], from: SocketAddrV6) {
        // The fast way: a short header whose connection ID is known.
        let key = match bytes.first() {
            Some(first) if first & 0x80 == 0 && bytes.len() > CONNECTION_ID_BYTES => {
                let mut id = [0; CONNECTION_ID_BYTES];
                id.copy_from_slice(&bytes[1..=CONNECTION_ID_BYTES]);
                // Most of a train has the same one.
                match self.last_routed {
                    Some((last, key)) if last == id => Some(key),
                    _ => self.ids.get(&id).map(|key| {
                        self.last_routed = Some((id, *key));
                        *key
                    }),
                }
            }
            _ => None,
        };
        match key {
            Some(key) => {
                self.feed(now, key, bytes, from);
            }
            None => self.handle_unrouted(now, bytes, from),
        }
    }

    fn drop_datagram(&self, reason: DropReason) {
        self.counters.dropped[reason.index()].add(1);
    }

    fn handle_unrouted(&mut self, now: Instant, bytes: &mut [u8], from: SocketAddrV6) {
        let Some(header) = PacketHeader::parse(bytes) else {
            return self.drop_datagram(DropReason::Malformed);
        };
        let known = <[u8; CONNECTION_ID_BYTES]>::try_from(&header.destination[..])
            .ok()
            .and_then(|id| self.ids.get(&id))
            .or_else(|| self.initial_ids.get(&header.destination))
            .copied();
        if let Some(key) = known {
            self.feed(now, key, bytes, from);
            return;
        }
        match header.kind {
            PacketKind::Initial | PacketKind::Long if !header.version_is_supported() => {
                self.answer_version(&header, bytes.len(), from);
            }
            PacketKind::Initial => self.handle_initial(now, &header, bytes, from),
            PacketKind::Short | PacketKind::Long => self.handle_unknown(&header, bytes, from),
            PacketKind::Stateless => self.drop_datagram(DropReason::UnknownConnection),
        }
    }

    /// A connection this worker does not know: perhaps another does
    fn handle_unknown(&mut self, header: &PacketHeader, bytes: &[u8], from: SocketAddrV6) {
        match self.steering.worker_of(&header.destination) {
            Some(owner) if owner != self.worker => {
                self.counters.handed_over.add(1);
                let message = Message::Datagram { bytes: bytes.to_vec(), from };
                self.outbox.push_back((owner, message));
            }
            _ => {
                self.drop_datagram(DropReason::UnknownConnection);
                if header.kind == PacketKind::Short && bytes.len() >= RESET_ABOVE_BYTES {
                    self.answer_reset(&header.destination, from);
                }
            }
        }
    }

    fn answer_reset(&mut self, destination: &[u8], to: SocketAddrV6) {
        let token = self.secrets.reset_token(destination);
        let mut bytes = vec![0; RESET_BYTES];
        rand::Rng::fill(&mut self.random, &mut bytes[..]);
        // Looks like a short header packet.
        bytes[0] = bytes[0] & 0x3f | 0x40;
        bytes[RESET_BYTES - 16..].copy_from_slice(&token.to_be_bytes());
        if self.answer(bytes, to) {
            self.counters.resets_sent.add(1);
        }
    }

    fn answer_version(&mut self, header: &PacketHeader, length: usize, to: SocketAddrV6) {
        self.drop_datagram(DropReason::Version);
        let mut bytes = vec![0; 256];
        if length >= INITIAL_BYTES
            && let Some(length) = write_version_negotiation(header, &mut bytes)
        {
            bytes.truncate(length);
            if self.answer(bytes, to) {
                self.counters.versions_sent.add(1);
            }
        }
    }

    fn answer(&mut self, bytes: Vec<u8>, to: SocketAddrV6) -> bool {
        let room = self.stateless.len() < STATELESS_QUEUE;
        if room {
            self.stateless.push_back(Stateless { bytes, to, from: self.arrival });
        }
        room
    }

    fn handle_initial(
        &mut self,
        now: Instant,
        header: &PacketHeader,
        bytes: &mut [u8],
        from: SocketAddrV6,
    ) {
        if bytes.len() < INITIAL_BYTES {
            return self.drop_datagram(DropReason::ShortInitial);
        }
        // The kernel steers Initials by processor, which may differ from one datagram of a flight to the
        // next; the worker that the connection ID names is the same for all, whoever chose the ID.
        let owner = self.steering.worker_of_any(&header.destination);
        if owner != self.worker {
            self.counters.handed_over.add(1);
            let message = Message::Datagram { bytes: bytes.to_vec(), from };
            return self.outbox.push_back((owner, message));
        }
        let original = if header.token.is_empty() {
            None
        } else {
            let wall = SystemTime::now();
            let secrets = &self.secrets;
            match secrets.check_token(wall, from, &header.token, &header.destination) {
                None => return self.drop_datagram(DropReason::BadToken),
                original => original,
            }
        };
        if self.draining || self.configs.is_none() {
            return self.drop_datagram(DropReason::NotAccepting);
        }
        if self.connections.len() >= self.snapshot.limits.connections_per_worker {
            return self.drop_datagram(DropReason::ConnectionLimit);
        }
        match self.half_open.judge(&self.snapshot.limits, from, original.is_some()) {
            Admission::Accept => self.accept(now, header, original, bytes, from),
            Admission::Retry => self.answer_retry(header, from),
            Admission::Refuse(reason) => self.drop_datagram(reason),
        }
    }

    fn answer_retry(&mut self, header: &PacketHeader, to: SocketAddrV6) {
        let source = self.steering.issue(self.worker, &mut self.random);
        let wall = SystemTime::now();
        let token = self.secrets.mint_token(wall, to, &header.destination, &source.0);
        let mut bytes = vec![0; 512];
        if let Some(length) = write_retry(header, &source, &token, &mut bytes) {
            bytes.truncate(length);
            if self.answer(bytes, to) {
                self.counters.retries_sent.add(1);
            }
        }
    }

    fn accept(
        &mut self,
        now: Instant,
        header: &PacketHeader,
        original: Option<Vec<u8>>,
        bytes: &mut [u8],
        from: SocketAddrV6,
    ) {
        let id = self.steering.issue(self.worker, &mut self.random);
        let reset_token = self.secrets.reset_token(&id.0);
        let Some(configs) = &mut self.configs else { return };
        let retry = original
            .as_deref()
            .map(|original| RetryIds { original, retry_source: &header.destination });
        let common = self.common.clone();
        let connection =
            Connection::accept(configs, &id, reset_token, retry, self.local, from, common);
        let Some(connection) = connection else {
            return self.drop_datagram(DropReason::Refused);
        };
        let key = self.hold(now, connection, id, from, Joining::Accepted);
        self.half_open.begin(from);
        if let Some(held) = self.connections.get_mut(key) {
            held.half_open = true;
            held.source = self.arrival;
            held.initial_id = Some(header.destination.clone());
        }
        self.initial_ids.insert(header.destination.clone(), key);
        if !self.feed(now, key, bytes, from) {
            // Not an Initial at all, though it looked like one: nothing is kept for it.
            self.close_connection(key, CloseReason::Protocol);
        }
    }

    /// `false`: the connection refused the datagram
    fn feed(&mut self, now: Instant, key: SlotKey, bytes: &mut [u8], from: SocketAddrV6) -> bool {
        let Some(held) = self.connections.get_mut(key) else { return false };
        let taken = held.connection.handle_datagram(bytes, from);
        if taken {
            held.last_heard = now;
        } else {
            self.drop_datagram(DropReason::Refused);
        }
        self.mark_busy(key);
        taken
    }
}
