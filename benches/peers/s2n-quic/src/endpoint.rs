//! s2n-quic's endpoints, connections and streams as the harness wants them, and the tuning.

use std::net::{SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use peer_harness::command_line::{Common, KeyShare};
use peer_harness::identity::Identity;
use peer_harness::transport::{Connection, Dialer, Listener, Opener, Reader, Writer};
use peer_harness::{
    Failure, IDLE_TIMEOUT, INITIAL_WINDOW_PACKETS, STREAM_WINDOW_BYTES, STREAMS_MAX, socket, tls,
};
use s2n_quic::client::Connect;
use s2n_quic::connection::{Error as ConnectionError, Handle, StreamAcceptor};
use s2n_quic::provider::congestion_controller as congestion;
use s2n_quic::provider::event::{ConnectionInfo, ConnectionMeta, Subscriber, events};
use s2n_quic::provider::io::tokio::{Builder as IoBuilder, Provider as Io};
use s2n_quic::provider::limits::Limits;
use s2n_quic::provider::tls::rustls as provider;
use s2n_quic::stream::{ReceiveStream, SendStream};
use s2n_quic::{Client, Server};

use crate::{Congestion, Extra};

/// Octets of IPv6 and UDP headers: s2n-quic counts them into what it calls the MTU
const HEADERS_BYTES: u16 = 40 + 8;
/// Chunks taken from a stream at once
const READ_CHUNKS: usize = 64;

/// Counts packets declared lost, over all connections of an endpoint
#[derive(Clone, Default)]
struct Losses(Arc<AtomicU64>);

impl Subscriber for Losses {
    type ConnectionContext = ();

    fn create_connection_context(&mut self, _meta: &ConnectionMeta, _info: &ConnectionInfo<'_>) {}

    fn on_packet_lost(
        &mut self,
        _context: &mut (),
        _meta: &ConnectionMeta,
        _event: &events::PacketLost<'_>,
    ) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn limits(common: &Common<Extra>) -> Result<Limits, Failure> {
    let windows = common.windows(STREAM_WINDOW_BYTES);
    let stream = u64::from(windows.stream);
    let limits = Limits::new()
        .with_data_window(u64::from(windows.connection))
        .and_then(|l| l.with_bidirectional_local_data_window(stream))
        .and_then(|l| l.with_bidirectional_remote_data_window(stream))
        .and_then(|l| l.with_unidirectional_data_window(stream))
        .and_then(|l| l.with_max_open_local_bidirectional_streams(u64::from(STREAMS_MAX)))
        .and_then(|l| l.with_max_open_remote_bidirectional_streams(u64::from(STREAMS_MAX)))
        .and_then(|l| l.with_max_send_buffer_size(common.extra.stream_buffer))
        .and_then(|l| l.with_max_idle_timeout(IDLE_TIMEOUT))
        .and_then(|l| l.with_active_connection_migration(false));
    limits.map_err(|cause| format!("s2n-quic refuses a limit: {cause}").into())
}

fn io(address: SocketAddrV6, common: &Common<Extra>) -> Result<(Io, Vec<String>), Failure> {
    let socket = socket::udp(address)?;
    let notes = socket::note(&socket)?.into_iter().collect();
    let mtu = common.payload.saturating_add(HEADERS_BYTES);
    let io: IoBuilder = Io::builder();
    let io = io
        .with_rx_socket(socket)?
        .with_max_mtu(mtu)?
        .with_initial_mtu(mtu)?
        .with_base_mtu(mtu)?
        .with_internal_send_buffer_size(common.extra.send_queue)?
        .with_internal_recv_buffer_size(common.extra.receive_queue)?
        .build()?;
    Ok((io, notes))
}

fn initial_window(common: &Common<Extra>) -> u32 {
    INITIAL_WINDOW_PACKETS * u32::from(common.payload)
}

fn cubic(common: &Common<Extra>) -> congestion::Cubic {
    congestion::cubic::Builder::default()
        .with_initial_congestion_window(initial_window(common))
        .build()
}

fn bbr(common: &Common<Extra>) -> congestion::Bbr {
    congestion::bbr::Builder::default()
        .with_initial_congestion_window(initial_window(common))
        .build()
}

fn refused(cause: impl std::fmt::Display) -> Failure {
    format!("s2n-quic does not start: {cause}").into()
}

/// Takes s2n-quic connections
pub struct Listen {
    server: Server,
    losses: Losses,
}

impl Listen {
    /// Binds and configures
    pub fn new(
        address: SocketAddrV6,
        common: &Common<Extra>,
        identity: &Identity,
    ) -> Result<(Self, SocketAddr, Vec<String>), Failure> {
        let (io, notes) = io(address, common)?;
        let losses = Losses::default();
        let builder = Server::builder()
            .with_tls(provider::Server::from(tls::server(identity)?))?
            .with_limits(limits(common)?)?
            .with_event(losses.clone())?
            .with_io(io)?;
        let server = match common.extra.congestion {
            Congestion::Cubic => {
                builder.with_congestion_controller(cubic(common))?.start().map_err(refused)?
            }
            Congestion::Bbr => {
                builder.with_congestion_controller(bbr(common))?.start().map_err(refused)?
            }
        };
        let address = server.local_addr()?;
        Ok((Self { server, losses }, address, notes))
    }
}

impl Listener for Listen {
    type Connection = Connected;
    type Pending = Connected;

    async fn accept(&mut self) -> Result<Connected, Failure> {
        let connection = self.server.accept().await.ok_or("the endpoint has closed")?;
        Ok(Connected::new(connection, &self.losses))
    }

    /// s2n-quic hands a connection out once its handshake is done
    async fn establish(pending: Connected) -> Result<Connected, Failure> {
        Ok(pending)
    }
}

/// Makes s2n-quic connections
pub struct Dial {
    client: Client,
    to: SocketAddr,
    name: String,
    losses: Losses,
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
        let (io, notes) = io(from, common)?;
        let losses = Losses::default();
        let builder = Client::builder()
            .with_tls(provider::Client::from(tls::client(identity, key_share)?))?
            .with_limits(limits(common)?)?
            .with_event(losses.clone())?
            .with_io(io)?;
        let client = match common.extra.congestion {
            Congestion::Cubic => {
                builder.with_congestion_controller(cubic(common))?.start().map_err(refused)?
            }
            Congestion::Bbr => {
                builder.with_congestion_controller(bbr(common))?.start().map_err(refused)?
            }
        };
        Ok((Self { client, to: to.into(), name: identity.peer_dns_name(), losses }, notes))
    }
}

impl Dialer for Dial {
    type Connection = Connected;

    async fn connect(&self) -> Result<Connected, Failure> {
        let connect = Connect::new(self.to).with_server_name(self.name.as_str());
        Ok(Connected::new(self.client.connect(connect).await?, &self.losses))
    }

    async fn settle(&self) {
        // Whatever ends the wait, nothing is left to say.
        let _ended = self.client.clone().wait_idle().await;
    }
}

/// An s2n-quic connection
pub struct Connected {
    handle: Handle,
    acceptor: StreamAcceptor,
    losses: Losses,
}

impl Connected {
    fn new(connection: s2n_quic::Connection, losses: &Losses) -> Self {
        let (handle, acceptor) = connection.split();
        Self { handle, acceptor, losses: losses.clone() }
    }
}

impl Connection for Connected {
    type Writer = Sending;
    type Reader = Receiving;
    type Opener = Open;

    fn opener(&self) -> Open {
        Open(self.handle.clone())
    }

    async fn accept(&mut self) -> Result<Option<(Sending, Receiving)>, Failure> {
        match self.acceptor.accept_bidirectional_stream().await {
            Ok(stream) => Ok(stream.map(|stream| {
                let (reader, writer) = stream.split();
                (Sending(writer), Receiving::new(reader))
            })),
            Err(
                ConnectionError::Closed { .. }
                | ConnectionError::Application { .. }
                | ConnectionError::IdleTimerExpired { .. },
            ) => Ok(None),
            Err(failure) => Err(failure.into()),
        }
    }

    fn lost_packets(&self) -> Option<u64> {
        Some(self.losses.0.load(Ordering::Relaxed))
    }

    fn close(self) {
        self.handle.close(0u32.into());
    }
}

/// Opens streams of a connection
#[derive(Clone)]
pub struct Open(Handle);

impl Opener for Open {
    type Writer = Sending;
    type Reader = Receiving;

    async fn open(&mut self) -> Result<(Sending, Receiving), Failure> {
        let (reader, writer) = self.0.open_bidirectional_stream().await?.split();
        Ok((Sending(writer), Receiving::new(reader)))
    }
}

/// The sending half of a stream
pub struct Sending(SendStream);

impl Writer for Sending {
    async fn write(&mut self, chunk: Bytes) -> Result<(), Failure> {
        Ok(self.0.send(chunk).await?)
    }

    async fn finish(&mut self) -> Result<(), Failure> {
        Ok(self.0.finish()?)
    }
}

/// The receiving half of a stream
pub struct Receiving {
    stream: ReceiveStream,
    chunks: Vec<Bytes>,
}

impl Receiving {
    fn new(stream: ReceiveStream) -> Self {
        Self { stream, chunks: Vec::new() }
    }
}

impl Reader for Receiving {
    async fn read(&mut self, take: &mut (dyn FnMut(&[u8]) + Send)) -> Result<bool, Failure> {
        self.chunks.resize(READ_CHUNKS, Bytes::new());
        let (count, is_open) = self.stream.receive_vectored(&mut self.chunks).await?;
        for chunk in &mut self.chunks[..count] {
            take(chunk);
            *chunk = Bytes::new();
        }
        Ok(is_open)
    }
}
