//! What one worker counts. Only its worker writes; anyone reads. Relaxed atomics on a worker's own cache
//! lines: a counter costs an uncontended add and never a fence.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::{DropReason, FlowError, PeerRefusal};

/// A number that only grows
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `amount`; single writer, so a load and a store suffice
    pub fn add(&self, amount: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
    }

    /// The value now
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Replaces the value: for gauges kept in the same place
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}

/// Turned by whoever measures, read by the worker: off unless somebody asks
#[derive(Debug, Default)]
pub struct Switch(AtomicBool);

impl Switch {
    /// Turns it
    pub fn set(&self, on: bool) {
        self.0.store(on, Ordering::Relaxed);
    }

    /// Whether it is on
    pub fn is_on(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Packets that one AES-GCM key may protect (RFC 9001 section 6.6)
pub const KEY_PACKETS: u64 = 1 << 23;

/// Lengths of trains told apart, in datagrams
pub const TRAIN_LENGTHS: [&str; 7] = ["1", "2-3", "4-7", "8-15", "16-31", "32-63", "64+"];

/// Trains by length, as [`TRAIN_LENGTHS`]
pub type TrainLengths = [Counter; TRAIN_LENGTHS.len()];

/// Where in [`TRAIN_LENGTHS`] a train of so many datagrams belongs
pub fn train_length_index(datagrams: usize) -> usize {
    (datagrams.max(1).ilog2() as usize).min(TRAIN_LENGTHS.len() - 1)
}

/// Why a train that was sent holds no more datagrams than it does
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TrainEnd {
    /// As many as one send takes: segments or octets
    Full,
    /// The path may have no more octets in flight
    CongestionWindow,
    /// The peer takes no more octets yet: of the connection, of a stream or of a flow
    FlowControl,
    /// There was nothing more to send
    Application,
    /// The next datagram has another size or another destination, or none belongs to a connection
    Other,
}

impl TrainEnd {
    /// Every reason, in the order of [`Self::index`]
    pub const ALL: [Self; 5] =
        [Self::Full, Self::CongestionWindow, Self::FlowControl, Self::Application, Self::Other];

    /// Position in [`Self::ALL`]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The label used in metrics and JSON
    pub const fn label(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::CongestionWindow => "congestion_window",
            Self::FlowControl => "flow_control",
            Self::Application => "application",
            Self::Other => "other",
        }
    }
}

/// The parts of transport work that are timed while [`WorkerCounters::stage_clock`] is on
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TransportStage {
    /// Building and sealing datagrams above [`SMALL_DATAGRAM_BYTES`]; a call that finds none to build counts
    /// with the datagram before it
    SendData,
    /// The same for small datagrams: acknowledgements and control frames
    SendAck,
    /// Opening and parsing datagrams above [`SMALL_DATAGRAM_BYTES`]
    ReceiveData,
    /// The same for small datagrams, with all that an acknowledgement sets in motion
    ReceiveAck,
    /// Handing bytes to streams
    StreamSend,
    /// Taking bytes from streams, in order
    StreamReceive,
    /// All of a datagram's way in: [`Self::ReceiveData`], [`Self::ReceiveAck`] and finding the connection
    DatagramIn,
}

impl TransportStage {
    /// Every part, in the order of [`Self::index`]
    pub const ALL: [Self; 7] = [
        Self::SendData,
        Self::SendAck,
        Self::ReceiveData,
        Self::ReceiveAck,
        Self::StreamSend,
        Self::StreamReceive,
        Self::DatagramIn,
    ];

    /// Position in [`Self::ALL`]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The label used in metrics and JSON
    pub const fn label(self) -> &'static str {
        match self {
            Self::SendData => "send_data",
            Self::SendAck => "send_ack",
            Self::ReceiveData => "receive_data",
            Self::ReceiveAck => "receive_ack",
            Self::StreamSend => "stream_send",
            Self::StreamReceive => "stream_receive",
            Self::DatagramIn => "datagram_in",
        }
    }
}

/// Datagrams up to this size count as acknowledgements and control frames: quiche does not tell what a
/// packet holds, and bulk data fills its packets
pub const SMALL_DATAGRAM_BYTES: usize = 512;

/// Name of a table of counters, and each of its labels with its value
pub type Table = (&'static str, Vec<(&'static str, u64)>);

/// The stages of a worker's loop whose time is kept apart
pub const STAGES: [&str; 6] =
    ["receive", "transport_in", "services", "transport_out", "submit", "idle"];

/// Nanoseconds spent per stage of [`STAGES`]
pub type StageClock = [Counter; STAGES.len()];

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Everything one worker counts
        #[derive(Debug)]
        #[repr(align(128))]
        pub struct WorkerCounters {
            $($(#[$doc])* pub $name: Counter,)*
            /// Datagrams dropped, by [`DropReason::index`]
            pub dropped: [Counter; DropReason::ALL.len()],
            /// Peers refused in the handshake, by [`PeerRefusal::index`]
            pub refused: [Counter; PeerRefusal::ALL.len()],
            /// Flows that ended early, by [`FlowError::index`]
            pub flow_errors: [Counter; FlowError::ALL.len()],
            /// Time per stage of the loop
            pub stage_ns: StageClock,
            /// Trains sent, by length
            pub trains_sent_by_length: TrainLengths,
            /// Trains received, by length
            pub trains_received_by_length: TrainLengths,
            /// Trains sent, by [`TrainEnd::index`]
            pub train_ends: [Counter; TrainEnd::ALL.len()],
            /// Time per [`TransportStage::index`], while `stage_clock` is on
            pub transport_ns: [Counter; TransportStage::ALL.len()],
            /// Whether `transport_ns` is kept: costs two readings of the clock per datagram and stream call
            pub stage_clock: Switch,
        }

        impl Default for WorkerCounters {
            fn default() -> Self {
                Self {
                    $($name: Counter::default(),)*
                    dropped: std::array::from_fn(|_| Counter::default()),
                    refused: std::array::from_fn(|_| Counter::default()),
                    flow_errors: std::array::from_fn(|_| Counter::default()),
                    stage_ns: std::array::from_fn(|_| Counter::default()),
                    trains_sent_by_length: std::array::from_fn(|_| Counter::default()),
                    trains_received_by_length: std::array::from_fn(|_| Counter::default()),
                    train_ends: std::array::from_fn(|_| Counter::default()),
                    transport_ns: std::array::from_fn(|_| Counter::default()),
                    stage_clock: Switch::default(),
                }
            }
        }

        impl WorkerCounters {
            /// Name and value of every plain counter, for metrics and JSON
            pub fn entries(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.get()),)*]
            }

            /// Trains by length and by why they ended, and the parts of transport time
            pub fn tables(&self) -> [Table; 4] {
                let values = |labels: &[&'static str], counters: &[Counter]| {
                    labels.iter().copied().zip(counters.iter().map(Counter::get)).collect()
                };
                let ends = TrainEnd::ALL.map(TrainEnd::label);
                let stages = TransportStage::ALL.map(TransportStage::label);
                [
                    (
                        "trains_sent_by_length",
                        values(&TRAIN_LENGTHS, &self.trains_sent_by_length),
                    ),
                    (
                        "trains_received_by_length",
                        values(&TRAIN_LENGTHS, &self.trains_received_by_length),
                    ),
                    ("train_ends", values(&ends, &self.train_ends)),
                    ("transport_ns", values(&stages, &self.transport_ns)),
                ]
            }
        }
    };
}

counters! {
    /// Turns of the loop
    turns,
    /// Times the worker slept in the kernel
    sleeps,
    /// System calls made by the I/O provider
    system_calls,
    /// UDP datagrams received (segments, not trains)
    datagrams_received,
    /// UDP payload octets received
    bytes_received,
    /// Receive completions, each one train
    trains_received,
    /// UDP datagrams sent
    datagrams_sent,
    /// UDP payload octets sent
    bytes_sent,
    /// Sends, each one train
    trains_sent,
    /// Sends that failed in the kernel
    send_errors,
    /// Zero-copy sends, as asked for
    zero_copy_sends,
    /// Zero-copy sends that the kernel copied all the same
    zero_copy_copied,
    /// Times the provided-buffer ring ran dry and receive was re-armed
    buffers_exhausted,
    /// Datagrams the kernel dropped because the socket's buffer was full (SO_RXQ_OVFL)
    socket_overflows,
    /// Datagrams handed to the worker that owns the connection
    handed_over,
    /// Connections accepted whose handshake finished
    connections_accepted,
    /// Connections dialled whose session was joined
    connections_dialled,
    /// Connections that ended
    connections_closed,
    /// Connections now held
    connections_open,
    /// Handshakes now under way
    half_open,
    /// Retry packets sent
    retries_sent,
    /// Version negotiation packets sent
    versions_sent,
    /// Stateless resets sent
    resets_sent,
    /// Connections replaced because of the packet limit of a key
    replaced_for_packets,
    /// Connections replaced on demand or for a drain
    replaced_on_demand,
    /// Sessions now held
    sessions_open,
    /// Flows now held
    flows_open,
    /// Flows opened by local programs
    flows_opened,
    /// Flows accepted from peers
    flows_accepted,
    /// Flow bytes sent for the first time
    flow_bytes_sent,
    /// Flow bytes sent again on another connection
    flow_bytes_resent,
    /// Flow bytes received in order and handed on
    flow_bytes_received,
    /// Flow bytes received that were already there
    flow_bytes_duplicate,
    /// Calls made
    calls_made,
    /// Calls answered
    calls_answered,
    /// QUIC packets declared lost
    packets_lost,
    /// QUIC packets declared lost that arrived after all
    packets_lost_spurious,
    /// Octets of stream data sent again because a packet was declared lost
    stream_bytes_retransmitted,
    /// Most packets, sent or received, that one connection's keys have protected; [`KEY_PACKETS`] is the limit
    packets_per_key_most,
    /// Datagrams sent of at most [`SMALL_DATAGRAM_BYTES`]: acknowledgements and control frames
    small_datagrams_sent,
    /// Datagrams received of at most [`SMALL_DATAGRAM_BYTES`]
    small_datagrams_received,
    /// Times a connection that had its turn was held back by pacing
    trains_held_by_pacing,
    /// Times a train was not begun because every slab was in flight
    trains_held_by_pool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_show_what_was_added() {
        let counters = WorkerCounters::default();
        counters.turns.add(2);
        counters.turns.add(3);
        assert!(counters.entries().contains(&("turns", 5)));
    }

    #[test]
    fn trains_are_told_apart_by_powers_of_two() {
        let found: Vec<&str> = [0, 1, 2, 3, 4, 7, 8, 31, 32, 63, 64, 128]
            .into_iter()
            .map(|datagrams| TRAIN_LENGTHS[train_length_index(datagrams)])
            .collect();
        let expected =
            ["1", "1", "2-3", "2-3", "4-7", "4-7", "8-15", "16-31", "32-63", "32-63", "64+", "64+"];
        assert_eq!(found, expected);
    }

    #[test]
    fn tables_name_every_label_once_and_show_what_was_added() {
        let counters = WorkerCounters::default();
        counters.train_ends[TrainEnd::FlowControl.index()].add(3);
        counters.transport_ns[TransportStage::StreamReceive.index()].add(9);
        let tables = counters.tables();
        let value = |table: &str, label: &str| {
            let (_, values) = tables.iter().find(|(name, _)| *name == table)?;
            values.iter().find(|(name, _)| *name == label).map(|(_, value)| *value)
        };
        assert_eq!(value("train_ends", "flow_control"), Some(3));
        assert_eq!(value("train_ends", "full"), Some(0));
        assert_eq!(value("transport_ns", "stream_receive"), Some(9));
        for (index, (end, stage)) in TrainEnd::ALL.iter().zip(&TransportStage::ALL).enumerate() {
            assert_eq!((end.index(), stage.index()), (index, index));
        }
        let lengths: Vec<usize> = tables.iter().map(|(_, values)| values.len()).collect();
        assert_eq!(lengths, [7, 7, 5, 7]);
    }
}
