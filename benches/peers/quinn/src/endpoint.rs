//! quinn's endpoint, connections and streams as the harness wants them, and the tuning.

use std::net::{SocketAddr, SocketAddrV6};
use std::sync::Arc;

use bytes::Bytes;
use peer_harness::command_line::{Common, KeyShare};
use peer_harness::identity::Identity;
use peer_harness::socket::segments_that_fit;
use peer_harness::transport::{Connection, Dialer, Listener, Opener, Reader, Writer};
use peer_harness::{
    Failure, IDLE_TIMEOUT, INITIAL_WINDOW_PACKETS, STREAM_WINDOW_BYTES, socket, tls,
};
use quinn::congestion::CubicConfig;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    AckFrequencyConfig, ClientConfig, Endpoint, EndpointConfig, Runtime, ServerConfig,
    TokioRuntime, TransportConfig, VarInt,
};

use crate::Extra;
use crate::socket::Bounded;

/// Segments quinn puts into a send at most, whatever the socket allows
const QUINN_SEGMENTS: usize = 10;
/// Streams the other end may have open: quinn makes room for all of them when a connection begins, so that
/// many cost a handshake dear
const STREAMS: u32 = 256;
/// Chunks taken from a stream at once
const READ_CHUNKS: usize = 64;

fn transport(common: &Common<Extra>) -> Result<TransportConfig, Failure> {
    let mut cubic = CubicConfig::default();
    cubic.initial_window(u64::from(INITIAL_WINDOW_PACKETS) * u64::from(common.payload));
    let windows = common.windows(STREAM_WINDOW_BYTES);
    let mut config = TransportConfig::default();
    config
        .initial_mtu(common.payload)
        .min_mtu(common.payload)
        .mtu_discovery_config(None)
        .stream_receive_window(VarInt::from_u32(windows.stream))
        .receive_window(VarInt::from_u32(windows.connection))
        .send_window(u64::from(windows.connection))
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS))
        .max_idle_timeout(Some(IDLE_TIMEOUT.try_into()?))
        .congestion_controller_factory(Arc::new(cubic))
        .datagram_receive_buffer_size(None)
        .enable_segmentation_offload(common.extra.segments != Some(0));
    if common.extra.ack_every > 0 {
        let mut acks = AckFrequencyConfig::default();
        acks.ack_eliciting_threshold(VarInt::from_u32(common.extra.ack_every));
        config.ack_frequency_config(Some(acks));
    }
    Ok(config)
}

fn bind(
    address: SocketAddrV6,
    common: &Common<Extra>,
    server: Option<ServerConfig>,
) -> Result<(Endpoint, Vec<String>), Failure> {
    let socket = socket::udp(address)?;
    let mut notes: Vec<String> = socket::note(&socket)?.into_iter().collect();
    let payload = usize::from(common.payload);
    let fit = segments_that_fit(payload);
    let segments = common.extra.segments.map_or(fit, |wanted| wanted.clamp(1, fit));
    if common.extra.segments == Some(0) {
        notes.push("segmentation offload is switched off".into());
    } else if segments < QUINN_SEGMENTS {
        notes.push(format!(
            "sends are cut to {segments} segments instead of quinn's {QUINN_SEGMENTS}: more do not \
             fit a UDP datagram and would be dropped"
        ));
    }
    let inner = TokioRuntime.wrap_udp_socket(socket)?;
    let socket = Arc::new(Bounded { inner, payload, segments });
    let mut config = EndpointConfig::default();
    config.max_udp_payload_size(common.payload)?;
    let runtime = Arc::new(TokioRuntime);
    Ok((Endpoint::new_with_abstract_socket(config, server, socket, runtime)?, notes))
}

/// Takes quinn connections
pub struct Listen {
    endpoint: Endpoint,
}

impl Listen {
    /// Binds and configures
    pub fn new(
        address: SocketAddrV6,
        common: &Common<Extra>,
        identity: &Identity,
    ) -> Result<(Self, SocketAddr, Vec<String>), Failure> {
        let crypto = QuicServerConfig::try_from(tls::server(identity)?)?;
        let mut config = ServerConfig::with_crypto(Arc::new(crypto));
        config.transport_config(Arc::new(transport(common)?)).migration(false);
        let (endpoint, notes) = bind(address, common, Some(config))?;
        let address = endpoint.local_addr()?;
        Ok((Self { endpoint }, address, notes))
    }
}

impl Listener for Listen {
    type Connection = Connected;
    type Pending = quinn::Incoming;

    async fn accept(&mut self) -> Result<quinn::Incoming, Failure> {
        self.endpoint.accept().await.ok_or_else(|| "the endpoint has closed".into())
    }

    async fn establish(pending: quinn::Incoming) -> Result<Connected, Failure> {
        Ok(Connected(pending.await?))
    }
}

/// Makes quinn connections
pub struct Dial {
    endpoint: Endpoint,
    to: SocketAddr,
    name: String,
}

impl Dial {
    /// Binds and configures
    pub fn new(
        to: SocketAddrV6,
        from: SocketAddrV6,
        common: &Common<Extra>,
        identity: &Identity,
        key_share: Option<KeyShare>,
    ) -> Result<(Self, Vec<String>), Failure> {
        let crypto = QuicClientConfig::try_from(tls::client(identity, key_share)?)?;
        let mut config = ClientConfig::new(Arc::new(crypto));
        config.transport_config(Arc::new(transport(common)?));
        let (mut endpoint, notes) = bind(from, common, None)?;
        endpoint.set_default_client_config(config);
        Ok((Self { endpoint, to: to.into(), name: identity.peer_dns_name() }, notes))
    }
}

impl Dialer for Dial {
    type Connection = Connected;

    async fn connect(&self) -> Result<Connected, Failure> {
        Ok(Connected(self.endpoint.connect(self.to, &self.name)?.await?))
    }

    async fn settle(&self) {
        self.endpoint.wait_idle().await;
    }
}

/// A quinn connection
pub struct Connected(quinn::Connection);

impl Connection for Connected {
    type Writer = Sending;
    type Reader = Receiving;
    type Opener = Open;

    fn opener(&self) -> Open {
        Open(self.0.clone())
    }

    async fn accept(&mut self) -> Result<Option<(Sending, Receiving)>, Failure> {
        match self.0.accept_bi().await {
            Ok((writer, reader)) => Ok(Some((Sending(writer), Receiving::new(reader)))),
            Err(
                quinn::ConnectionError::ApplicationClosed(_)
                | quinn::ConnectionError::TimedOut
                | quinn::ConnectionError::LocallyClosed,
            ) => Ok(None),
            Err(failure) => Err(failure.into()),
        }
    }

    fn lost_packets(&self) -> Option<u64> {
        Some(self.0.stats().path.lost_packets)
    }

    fn close(self) {
        self.0.close(VarInt::from_u32(0), &[]);
    }
}

/// Opens streams of a connection
#[derive(Clone)]
pub struct Open(quinn::Connection);

impl Opener for Open {
    type Writer = Sending;
    type Reader = Receiving;

    async fn open(&mut self) -> Result<(Sending, Receiving), Failure> {
        let (writer, reader) = self.0.open_bi().await?;
        Ok((Sending(writer), Receiving::new(reader)))
    }
}

/// The sending half of a stream
pub struct Sending(quinn::SendStream);

impl Writer for Sending {
    async fn write(&mut self, chunk: Bytes) -> Result<(), Failure> {
        Ok(self.0.write_chunk(chunk).await?)
    }

    async fn finish(&mut self) -> Result<(), Failure> {
        Ok(self.0.finish()?)
    }
}

/// The receiving half of a stream
pub struct Receiving {
    stream: quinn::RecvStream,
    chunks: Vec<Bytes>,
}

impl Receiving {
    fn new(stream: quinn::RecvStream) -> Self {
        Self { stream, chunks: Vec::new() }
    }
}

impl Reader for Receiving {
    async fn read(&mut self, take: &mut (dyn FnMut(&[u8]) + Send)) -> Result<bool, Failure> {
        self.chunks.resize(READ_CHUNKS, Bytes::new());
        let Some(count) = self.stream.read_chunks(&mut self.chunks).await? else {
            return Ok(false);
        };
        for chunk in &mut self.chunks[..count] {
            take(chunk);
            *chunk = Bytes::new();
        }
        Ok(true)
    }
}
