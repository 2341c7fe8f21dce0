//! One QUIC connection: the only module that names quiche. It turns quiche's calls, sentinels and clock into
//! the few operations the endpoint needs, and builds one configuration per role and snapshot epoch. It
//! knows streams and datagrams, not sessions.

use std::net::{SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use stoq_interface::{
    ALPN_PERF, ALPN_STOQ, CloseReason, CongestionControl, ControlSnapshot, NodeId, PeerRefusal,
    SMALL_DATAGRAM_BYTES, TrainEnd, TransportStage, WallClock, WorkerCounters,
};

use crate::connection_id::{CONNECTION_ID_BYTES, ConnectionId};
use crate::read_buffers::ReadBuffers;
use crate::tls::{self, PeerSlot, Role, TlsError, VerifiedPeer};

/// Trains ended by the transport between two looks at quiche's figures, which visit every stream
const ENDS_PER_LOOK: u32 = 64;
/// The stream whose own window hardly ever binds: what it could take is what the connection could
const PROBE_STREAM: u64 = 0;

/// Application bytes on their way into packets: shared, never copied before the packet
#[derive(Clone, Debug, Default)]
struct Payload(Bytes);

impl AsRef<[u8]> for Payload {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl quiche::BufSplit for Payload {
    fn split_at(&mut self, at: usize) -> Self {
        Self(self.0.split_off(at))
    }
}

#[derive(Clone, Debug, Default)]
struct PayloadFactory;

impl quiche::BufFactory for PayloadFactory {
    type Buf = Payload;
    type DgramBuf = Vec<u8>;

    fn buf_from_slice(buf: &[u8]) -> Payload {
        Payload(Bytes::copy_from_slice(buf))
    }

    fn dgram_buf_from_slice(buf: &[u8]) -> Vec<u8> {
        buf.to_vec()
    }
}

/// What the unencrypted front of a datagram says
#[derive(Clone, Debug)]
pub struct PacketHeader {
    /// Destination connection ID
    pub destination: Vec<u8>,
    /// Source connection ID; empty in short headers
    pub source: Vec<u8>,
    /// What kind of packet comes first
    pub kind: PacketKind,
    /// QUIC version of a long header
    pub version: u32,
    /// Address-validation token of an Initial
    pub token: Vec<u8>,
}

/// Kinds of packets the endpoint tells apart
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PacketKind {
    /// Opens a connection
    Initial,
    /// Any other long header
    Long,
    /// 1-RTT
    Short,
    /// Version negotiation or Retry: never for a server
    Stateless,
}

impl PacketHeader {
    /// Parses the header; `None` when it is not QUIC
    pub fn parse(datagram: &mut [u8]) -> Option<Self> {
        let header = quiche::Header::from_slice(datagram, CONNECTION_ID_BYTES).ok()?;
        let kind = match header.ty {
            quiche::Type::Initial => PacketKind::Initial,
            quiche::Type::Short => PacketKind::Short,
            quiche::Type::VersionNegotiation | quiche::Type::Retry => PacketKind::Stateless,
            _ => PacketKind::Long,
        };
        Some(Self {
            destination: header.dcid.to_vec(),
            source: header.scid.to_vec(),
            kind,
            version: header.version,
            token: header.token.unwrap_or_default(),
        })
    }

    /// Whether this host speaks the version
    pub fn version_is_supported(&self) -> bool {
        quiche::version_is_supported(self.version)
    }
}

/// Writes a version negotiation packet; returns its length
pub fn write_version_negotiation(header: &PacketHeader, out: &mut [u8]) -> Option<usize> {
    let source = quiche::ConnectionId::from_ref(&header.source);
    let destination = quiche::ConnectionId::from_ref(&header.destination);
    quiche::negotiate_version(&source, &destination, out).ok()
}

/// Writes a Retry packet; returns its length
pub fn write_retry(
    header: &PacketHeader,
    new_source: &ConnectionId,
    token: &[u8],
    out: &mut [u8],
) -> Option<usize> {
    let source = quiche::ConnectionId::from_ref(&header.source);
    let destination = quiche::ConnectionId::from_ref(&header.destination);
    let new = quiche::ConnectionId::from_ref(&new_source.0);
    quiche::retry(&source, &destination, &new, token, header.version, out).ok()
}

/// Why a snapshot cannot be put into force
#[derive(Debug, thiserror::Error)]
pub enum ConfigsError {
    /// Identity or trust is unusable
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// quiche refused a setting
    #[error("the transport refused a setting: {0}")]
    Transport(String),
}

/// quiche's configurations for one snapshot epoch. Connections made under it keep what it gave them.
pub struct Configs {
    epoch: u64,
    clock: WallClock,
    server: quiche::Config,
    client: quiche::Config,
}

impl Configs {
    /// Builds both roles' configurations; microseconds, as no system store is read
    pub fn new(snapshot: &ControlSnapshot) -> Result<Self, ConfigsError> {
        let mut server_protocols: Vec<&[u8]> = vec![ALPN_STOQ];
        if snapshot.transport.perf {
            server_protocols.push(ALPN_PERF);
        }
        Ok(Self {
            epoch: snapshot.epoch,
            clock: snapshot.clock,
            server: configure(Role::Server, snapshot, &server_protocols)?,
            client: configure(Role::Client, snapshot, &[ALPN_STOQ])?,
        })
    }

    /// The snapshot's epoch
    pub fn epoch(&self) -> u64 {
        self.epoch
    }
}

/// quiche's configuration of one role under a snapshot, for these protocols. Public for the one measurement that
/// holds the transport beside quiche alone.
///
/// # Errors
/// Where the identity, the trust bundle or a setting is refused.
pub fn configure(
    role: Role,
    snapshot: &ControlSnapshot,
    protocols: &[&[u8]],
) -> Result<quiche::Config, ConfigsError> {
    let refused = |cause: quiche::Error| ConfigsError::Transport(cause.to_string());
    let context = tls::context(role, snapshot)?;
    let mut config = quiche::Config::with_boring_ssl_ctx_builder(quiche::PROTOCOL_VERSION, context)
        .map_err(refused)?;
    config.set_application_protos(protocols).map_err(refused)?;
    let settings = &snapshot.transport;
    let limits = &snapshot.limits;
    config.set_max_idle_timeout(settings.idle_timeout.as_millis() as u64);
    config.set_initial_rtt(settings.initial_rtt);
    config.set_max_recv_udp_payload_size(65_527);
    config.set_max_send_udp_payload_size(settings.max_udp_payload_bytes);
    config.discover_pmtu(settings.discover_path_mtu);
    config.set_initial_max_data(settings.connection_window_bytes);
    config.set_max_connection_window(settings.connection_window_bytes);
    config.set_max_stream_window(settings.stream_window_bytes);
    config.set_initial_max_stream_data_uni(settings.stream_window_bytes);
    let call_bytes = (limits.call_body_bytes + limits.control_frame_bytes) as u64;
    let bidi_bytes = if settings.perf { settings.stream_window_bytes } else { call_bytes };
    config.set_initial_max_stream_data_bidi_local(bidi_bytes);
    config.set_initial_max_stream_data_bidi_remote(bidi_bytes);
    config.set_initial_max_streams_uni(limits.flows_per_session as u64);
    config.set_initial_max_streams_bidi(limits.calls_per_connection as u64 + 1);
    config.set_cc_algorithm(match settings.congestion_control {
        CongestionControl::Cubic => quiche::CongestionControlAlgorithm::CUBIC,
        CongestionControl::Reno => quiche::CongestionControlAlgorithm::Reno,
        CongestionControl::Bbr2 => quiche::CongestionControlAlgorithm::Bbr2Gcongestion,
    });
    config.enable_hystart(false);
    config.enable_pacing(settings.pacing);
    config.set_initial_congestion_window_packets(settings.initial_window_packets);
    config.set_disable_active_migration(true);
    config.set_active_connection_id_limit(2);
    config.grease(false);
    Ok(config)
}

/// Outcome of writing to a stream
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Written {
    /// This many bytes were taken over; fewer than offered means: wait until writable
    Bytes(usize),
    /// The stream cannot be opened yet: the peer's limit is reached
    StreamLimit,
    /// The stream is gone: stopped, reset, or the connection is closing
    Gone,
}

/// Outcome of reading from a stream
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ReadOutcome {
    /// Bytes in order, and whether the stream ends behind them
    Data(Bytes, bool),
    /// Nothing now
    Empty,
    /// The peer reset the stream, or it is gone
    Gone,
}

/// What kept quiche from taking all that was offered to it
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Blocked {
    /// The connection: its congestion window or its flow control, whichever is smaller
    Connection,
    /// The stream's flow control
    Stream,
}

/// A connection
pub struct Connection {
    quic: quiche::Connection<PayloadFactory>,
    slot: PeerSlot,
    local: SocketAddrV6,
    counters: Arc<WorkerCounters>,
    /// What cut the last write short, if it was
    blocked: Option<Blocked>,
    /// Trains that the connection as a whole has ended since quiche's figures were looked at
    ends_since_look: u32,
    /// DATA_BLOCKED frames sent, as of that look
    data_blocked_sent: u64,
    /// Whether some had been sent since the look before
    is_flow_limited: bool,
    /// The last datagram built was small
    is_last_small: bool,
    read_buffers: ReadBuffers,
    /// Datagrams sent: each holds one packet once the handshake is over
    pub packets_sent: u64,
    /// Datagrams received
    pub packets_received: u64,
}

/// What the connections of one worker have in common
#[derive(Clone)]
pub struct Common {
    /// What is counted
    pub counters: Arc<WorkerCounters>,
    /// Memory for what streams deliver
    pub read_buffers: ReadBuffers,
}

/// Where a Retry took part
pub struct RetryIds<'a> {
    /// Destination of the client's first Initial
    pub original: &'a [u8],
    /// Source of the Retry
    pub retry_source: &'a [u8],
}

impl Connection {
    /// The accepting side's connection
    pub fn accept(
        configs: &mut Configs,
        id: &ConnectionId,
        reset_token: u128,
        retry: Option<RetryIds<'_>>,
        local: SocketAddrV6,
        remote: SocketAddrV6,
        common: Common,
    ) -> Option<Self> {
        let config = &mut configs.server;
        config.set_stateless_reset_token(Some(reset_token));
        let source = quiche::ConnectionId::from_ref(&id.0);
        let (local_any, remote_any) = (SocketAddr::V6(local), SocketAddr::V6(remote));
        let quic = match retry {
            None => quiche::accept_with_buf_factory::<PayloadFactory>(
                &source, None, local_any, remote_any, config,
            ),
            Some(ids) => quiche::accept_with_retry(
                &source,
                quiche::RetryConnectionIds {
                    original_destination_cid: &quiche::ConnectionId::from_ref(ids.original),
                    retry_source_cid: &quiche::ConnectionId::from_ref(ids.retry_source),
                },
                local_any,
                remote_any,
                config,
            ),
        };
        Self::wrap(quic.ok()?, None, configs.clock, local, common)
    }

    /// The dialling side's connection to `node`
    pub fn connect(
        configs: &mut Configs,
        id: &ConnectionId,
        node: NodeId,
        local: SocketAddrV6,
        remote: SocketAddrV6,
        common: Common,
    ) -> Option<Self> {
        let source = quiche::ConnectionId::from_ref(&id.0);
        let quic = quiche::connect_with_buffer_factory::<PayloadFactory>(
            None,
            &source,
            SocketAddr::V6(local),
            SocketAddr::V6(remote),
            &mut configs.client,
        );
        Self::wrap(quic.ok()?, Some(node), configs.clock, local, common)
    }

    fn wrap(
        mut quic: quiche::Connection<PayloadFactory>,
        expected: Option<NodeId>,
        clock: WallClock,
        local: SocketAddrV6,
        common: Common,
    ) -> Option<Self> {
        let slot = PeerSlot::install(quic.as_mut(), expected, move || clock.now()).ok()?;
        Some(Self {
            quic,
            slot,
            local,
            counters: common.counters,
            blocked: None,
            ends_since_look: ENDS_PER_LOOK,
            data_blocked_sent: 0,
            is_flow_limited: false,
            is_last_small: true,
            read_buffers: common.read_buffers,
            packets_sent: 0,
            packets_received: 0,
        })
    }

    /// The time, where somebody wants to know what things take
    fn clock(&self) -> Option<Instant> {
        self.counters.stage_clock.is_on().then(Instant::now)
    }

    fn clocked(&self, since: Option<Instant>, stage: TransportStage) {
        if let Some(since) = since {
            self.counters.transport_ns[stage.index()].add(since.elapsed().as_nanos() as u64);
        }
    }

    /// Takes in a datagram, which is decrypted in place. `false`: quiche refused it.
    pub fn handle_datagram(&mut self, bytes: &mut [u8], from: SocketAddrV6) -> bool {
        self.packets_received += 1;
        let is_small = bytes.len() <= SMALL_DATAGRAM_BYTES;
        if is_small {
            self.counters.small_datagrams_received.add(1);
        }
        let info = quiche::RecvInfo { from: SocketAddr::V6(from), to: SocketAddr::V6(self.local) };
        let clock = self.clock();
        let outcome = self.quic.recv(bytes, info);
        let stage = if is_small { TransportStage::ReceiveAck } else { TransportStage::ReceiveData };
        self.clocked(clock, stage);
        match outcome {
            Ok(_) | Err(quiche::Error::Done) => true,
            Err(quiche::Error::TlsFail) => {
                // Reads and empties BoringSSL's error queue: quiche leaves it filled.
                let _refusal_is_kept_in_the_slot = self.slot.conclude();
                false
            }
            Err(_) => false,
        }
    }

    /// Writes the next datagram; `None` when there is nothing to send now
    pub fn poll_datagram(&mut self, out: &mut [u8]) -> Option<(usize, SocketAddrV6)> {
        let clock = self.clock();
        let outcome = self.quic.send(out);
        if let Ok((length, _)) = outcome {
            self.is_last_small = length <= SMALL_DATAGRAM_BYTES;
        }
        let stage =
            if self.is_last_small { TransportStage::SendAck } else { TransportStage::SendData };
        self.clocked(clock, stage);
        let (length, info) = outcome.ok()?;
        let SocketAddr::V6(to) = info.to else { return None };
        self.packets_sent += 1;
        if self.is_last_small {
            self.counters.small_datagrams_sent.add(1);
        }
        Some((length, to))
    }

    /// Why [`Self::poll_datagram`] has nothing more. quiche takes over what its windows allow, so the last
    /// write tells: all was taken, then nothing more was offered; some was left, then a window ended it. Of the
    /// connection's two windows flow control is named where DATA_BLOCKED was sent lately.
    pub fn train_end(&mut self) -> TrainEnd {
        match self.blocked {
            None => TrainEnd::Application,
            Some(Blocked::Stream) => TrainEnd::FlowControl,
            Some(Blocked::Connection) => {
                self.ends_since_look += 1;
                if self.ends_since_look > ENDS_PER_LOOK {
                    let sent = self.quic.stats().data_blocked_sent_count;
                    self.is_flow_limited = sent > self.data_blocked_sent;
                    self.data_blocked_sent = sent;
                    self.ends_since_look = 0;
                }
                let limited = self.is_flow_limited;
                if limited { TrainEnd::FlowControl } else { TrainEnd::CongestionWindow }
            }
        }
    }

    /// Keeps what a write tells of the windows
    fn note_written(&mut self, stream: u64, offered: usize, taken: usize) {
        if taken < offered {
            let has_room = stream != PROBE_STREAM
                && self.quic.stream_capacity(PROBE_STREAM).is_ok_and(|bytes| bytes > 0);
            self.blocked = Some(if has_room { Blocked::Stream } else { Blocked::Connection });
        } else if offered > 0 {
            self.blocked = None;
        }
    }

    /// With pacing on, the time before which nothing should be sent
    pub fn release_time(&self, now: Instant) -> Option<Instant> {
        if !self.quic.pacing_enabled() {
            return None;
        }
        self.quic.get_next_release_time()?.time(now)
    }

    /// When [`Self::handle_timeout`] wants to be called
    pub fn next_timeout(&self) -> Option<Instant> {
        self.quic.timeout_instant()
    }

    /// Acts on quiche's timers
    pub fn handle_timeout(&mut self) {
        self.quic.on_timeout();
    }

    /// The handshake is over; on the accepting side the peer is authenticated
    pub fn is_established(&self) -> bool {
        self.quic.is_established()
    }

    /// Nothing more will come or go
    pub fn is_closed(&self) -> bool {
        self.quic.is_closed()
    }

    /// Closing, by either side
    pub fn is_closing(&self) -> bool {
        self.quic.is_draining() || self.quic.is_closed() || self.quic.local_error().is_some()
    }

    /// Whether the peer chose `perf`
    pub fn is_perf(&self) -> bool {
        self.quic.application_proto() == ALPN_PERF
    }

    /// The authenticated peer
    pub fn peer(&self) -> Option<VerifiedPeer> {
        self.slot.peer()
    }

    /// Why the peer's certificate was refused here
    pub fn refusal(&self) -> Option<PeerRefusal> {
        self.slot.refusal()
    }

    /// TLS key exchange group
    pub fn key_exchange(&mut self) -> String {
        let ssl: &mut boring::ssl::SslRef = self.quic.as_mut();
        ssl.curve_name().unwrap_or("").to_owned()
    }

    /// Starts to close; the reason travels as application error
    pub fn close(&mut self, reason: CloseReason) {
        // `Done` says that it is closing already, which is what was asked for.
        let _ = self.quic.close(true, reason.code(), reason.label().as_bytes());
    }

    /// Why the connection is closing or closed
    pub fn close_reason(&self) -> CloseReason {
        if let Some(error) = self.quic.local_error() {
            return reason_of(error);
        }
        if self.quic.is_timed_out() {
            return CloseReason::IdleTimeout;
        }
        match self.quic.peer_error() {
            Some(error) if error.is_app => {
                CloseReason::from_code(error.error_code).unwrap_or(CloseReason::Peer)
            }
            Some(error) => reason_of(error),
            None => CloseReason::Transport,
        }
    }

    /// The transport or TLS error code behind the end, for the log: (code, by the peer)
    pub fn error_code(&self) -> Option<(u64, bool)> {
        let own = self.quic.local_error().map(|e| (e.error_code, false));
        own.or_else(|| self.quic.peer_error().map(|e| (e.error_code, true)))
    }

    /// Makes the next packet elicit an acknowledgement
    pub fn ping(&mut self) {
        // Fails only without an active path, and then the connection is closing.
        let _ = self.quic.send_ack_eliciting();
    }

    /// A stream with something to read
    pub fn next_readable(&mut self) -> Option<u64> {
        self.quic.stream_readable_next()
    }

    /// A stream that takes bytes again
    pub fn next_writable(&mut self) -> Option<u64> {
        self.quic.stream_writable_next()
    }

    /// Reads what has arrived in order
    pub fn read(&mut self, stream: u64) -> ReadOutcome {
        let clock = self.clock();
        let quic = &mut self.quic;
        let outcome = self.read_buffers.read(|room| quic.stream_recv_buf(stream, room));
        self.clocked(clock, TransportStage::StreamReceive);
        match outcome {
            Ok((bytes, end)) => ReadOutcome::Data(bytes, end),
            Err(quiche::Error::Done) => ReadOutcome::Empty,
            Err(_) => ReadOutcome::Gone,
        }
    }

    /// Throws away what has arrived in order; the bytes, and whether the stream ended
    pub fn discard(&mut self, stream: u64) -> Option<(usize, bool)> {
        self.quic.stream_discard(stream, usize::MAX).ok()
    }

    /// Offers bytes to a stream without copying them; opens it where it is new
    pub fn write(&mut self, stream: u64, bytes: Bytes, end: bool) -> Written {
        let offered = bytes.len();
        let clock = self.clock();
        let outcome = if bytes.is_empty() {
            self.quic.stream_send(stream, &[], end)
        } else {
            // quiche drops the buffer where it cannot take any of it: the caller keeps a clone.
            self.quic.stream_send_zc(stream, Payload(bytes), end).map(|(sent, _)| sent)
        };
        self.clocked(clock, TransportStage::StreamSend);
        let taken = match outcome {
            Ok(sent) => sent,
            Err(quiche::Error::Done) => 0,
            Err(quiche::Error::StreamLimit) => return Written::StreamLimit,
            Err(_) => {
                self.blocked = None;
                return Written::Gone;
            }
        };
        self.note_written(stream, offered, taken);
        Written::Bytes(taken)
    }

    /// Unidirectional streams the peer lets this side open now
    pub fn unidirectional_left(&self) -> u64 {
        self.quic.peer_streams_left_uni()
    }

    /// Bidirectional streams the peer lets this side open now
    pub fn bidirectional_left(&self) -> u64 {
        self.quic.peer_streams_left_bidi()
    }

    /// The shortest round trip seen so far; zero before the first
    pub fn shortest_round_trip(&self) -> Duration {
        let path = self.quic.path_stats().find(|path| path.active);
        path.and_then(|path| path.min_rtt).unwrap_or_default()
    }

    /// Figures of the active path
    pub fn path(&self) -> PathFigures {
        let stats = self.quic.stats();
        let path = self.quic.path_stats().find(|path| path.active);
        PathFigures {
            lost: stats.lost as u64,
            lost_spurious: stats.spurious_lost as u64,
            stream_bytes_retransmitted: stats.stream_retrans_bytes,
            bytes_sent: stats.sent_bytes,
            bytes_received: stats.recv_bytes,
            rtt: path.as_ref().map_or(Duration::ZERO, |p| p.rtt),
            congestion_window_bytes: path.as_ref().map_or(0, |p| p.cwnd as u64),
            probe_timeouts: path.as_ref().map_or(0, |p| p.total_pto_count),
            udp_payload_bytes: self.quic.max_send_udp_payload_size(),
        }
    }
}

/// What [`Connection::path`] tells
#[derive(Clone, Copy, Debug)]
pub struct PathFigures {
    /// Packets declared lost
    pub lost: u64,
    /// Of those, arrived after all
    pub lost_spurious: u64,
    /// Octets of stream data declared lost and sent again
    pub stream_bytes_retransmitted: u64,
    /// Octets sent
    pub bytes_sent: u64,
    /// Octets received
    pub bytes_received: u64,
    /// Smoothed round-trip time
    pub rtt: Duration,
    /// Congestion window
    pub congestion_window_bytes: u64,
    /// Probe timeouts so far
    pub probe_timeouts: usize,
    /// Largest UDP payload sent
    pub udp_payload_bytes: usize,
}

fn reason_of(error: &quiche::ConnectionError) -> CloseReason {
    if error.is_app {
        return CloseReason::from_code(error.error_code).unwrap_or(CloseReason::Peer);
    }
    match error.error_code {
        // RFC 9000 section 20.1: 0x0100 to 0x01ff carry a TLS alert.
        0x100..=0x1ff => CloseReason::Tls,
        _ => CloseReason::Transport,
    }
}
