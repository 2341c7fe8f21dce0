//! msquic's listeners, connections and streams as the harness wants them, and the tuning.

use std::net::{SocketAddr, SocketAddrV6};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use msquic_async::msquic::{
    BufferRef, Configuration, ExecutionProfile, Registration, RegistrationConfig,
    ServerResumptionLevel, Settings, Status,
};
use msquic_async::{ReadStream, Stream, StreamType, WriteStream};
use peer_harness::command_line::Common;
use peer_harness::identity::{Identity, LOAD, Role, SINK};
use peer_harness::transport::{Connection, Dialer, Listener, Opener, Reader, Writer};
use peer_harness::{Failure, IDLE_TIMEOUT, INITIAL_WINDOW_PACKETS, place};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{Extra, Profile, credentials};

/// Octets of IPv6 and UDP headers: msquic counts them into what it calls the MTU
const HEADERS_BYTES: u16 = 40 + 8;
/// Flow control window of a stream that measured best: with the 16 MiB of the others it is a third slower
const WINDOW_BYTES: u32 = 2 << 20;
/// Largest UDP payload over IPv6: msquic is compiled with CXPLAT_MAX_MTU 1500 and silently sends no more
const PAYLOAD_MAX: u16 = 1_500 - HEADERS_BYTES;
/// Streams the other end may have open
const STREAMS: u16 = 1_024;
/// Octets handed to msquic and not given back: the wrapper itself would take any number
const OUTSTANDING_BYTES: usize = 8 << 20;
/// Operations of one connection before its thread turns to the next
const OPERATIONS: u8 = 255;

fn refused(what: &str, status: &Status) -> Failure {
    format!("msquic does not {what}: {status}").into()
}

/// What all handles hang on. Closing it waits for all of them, so whoever holds one holds this too, in a field
/// behind it: the last one to go closes it, and msquic can be unloaded.
type Root = Arc<Registration>;

/// The library and a configuration of one role
fn open(
    common: &Common<Extra>,
    identity: &Identity,
    role: Role,
) -> Result<(Root, Configuration, Vec<String>), Failure> {
    if common.payload > PAYLOAD_MAX {
        return Err(format!(
            "msquic is compiled to send at most {PAYLOAD_MAX} octets (CXPLAT_MAX_MTU 1500); use \
             --payload {PAYLOAD_MAX}"
        )
        .into());
    }
    let expected = if role == Role::Client { SINK } else { LOAD };
    if identity.peer != expected {
        return Err("msquic verifies the other end's chain but hands no name to its users: \
                    leave --peer out"
            .into());
    }
    let profile = match common.extra.profile {
        Profile::LowLatency => ExecutionProfile::LowLatency,
        Profile::MaxThroughput => ExecutionProfile::MaxThroughput,
    };
    let config = RegistrationConfig::new().set_execution_profile(profile);
    let root = Root::new(Registration::new(&config).map_err(|s| refused("open", &s))?);
    let windows = common.windows(WINDOW_BYTES);
    let mtu = common.payload.saturating_add(HEADERS_BYTES);
    let milliseconds = u64::try_from(IDLE_TIMEOUT.as_millis())?;
    let settings = Settings::new()
        .set_MinimumMtu(mtu)
        .set_MaximumMtu(mtu)
        .set_StreamRecvWindowDefault(windows.stream)
        .set_StreamRecvWindowBidiLocalDefault(windows.stream)
        .set_StreamRecvWindowBidiRemoteDefault(windows.stream)
        .set_ConnFlowControlWindow(windows.connection)
        .set_InitialWindowPackets(INITIAL_WINDOW_PACKETS)
        .set_IdleTimeoutMs(milliseconds)
        .set_PeerBidiStreamCount(STREAMS)
        .set_MaxOperationsPerDrain(OPERATIONS)
        .set_ServerResumptionLevel(ServerResumptionLevel::NoResume);
    let alpn = [BufferRef::from("perf")];
    let configuration = Configuration::open(&root, &alpn, Some(&settings))
        .map_err(|s| refused("take the settings", &s))?;
    credentials::load(&configuration, identity, role)?;
    // msquic binds threads of its own to processors of its own choice.
    place::rebind(&common.core)?;
    let notes = [
        "chains are verified, names are not: msquic-async does not show certificates",
        "key exchange X25519: the quictls inside has no X25519MLKEM768",
        "sends are paced and copied into msquic's buffer: its Rust interface cannot switch that off",
        "packets declared lost are not reported by msquic-async",
    ];
    Ok((root, configuration, notes.map(str::to_owned).to_vec()))
}

/// Takes msquic connections
pub struct Listen {
    listener: msquic_async::Listener,
    cores: Vec<usize>,
    root: Root,
}

impl Listen {
    /// Binds and configures
    pub fn new(
        address: SocketAddrV6,
        common: &Common<Extra>,
        identity: &Identity,
    ) -> Result<(Self, SocketAddr, Vec<String>), Failure> {
        let (root, configuration, notes) = open(common, identity, Role::Server)?;
        let listener = msquic_async::Listener::new(&root, configuration)?;
        listener.start(&[BufferRef::from("perf")], Some(address.into()))?;
        let address = listener.local_addr()?;
        let cores = common.core.clone();
        place::rebind(&cores)?;
        Ok((Self { listener, cores, root }, address, notes))
    }
}

impl Listener for Listen {
    type Connection = Connected;
    type Pending = Connected;

    async fn accept(&mut self) -> Result<Connected, Failure> {
        let connection = self.listener.accept().await?;
        place::rebind(&self.cores)?;
        Ok(Connected { connection, root: Arc::clone(&self.root) })
    }

    /// A refused handshake shows as a connection without streams
    async fn establish(pending: Connected) -> Result<Connected, Failure> {
        Ok(pending)
    }
}

/// Makes msquic connections
pub struct Dial {
    configuration: Configuration,
    to: SocketAddrV6,
    cores: Vec<usize>,
    root: Root,
}

impl Dial {
    /// Opens and configures
    pub fn new(
        to: SocketAddrV6,
        common: &Common<Extra>,
        identity: &Identity,
    ) -> Result<(Self, Vec<String>), Failure> {
        let (root, configuration, notes) = open(common, identity, Role::Client)?;
        let cores = common.core.clone();
        Ok((Self { configuration, to, cores, root }, notes))
    }
}

impl Dialer for Dial {
    type Connection = Connected;

    async fn connect(&self) -> Result<Connected, Failure> {
        let connection = msquic_async::Connection::new(&self.root)?;
        let host = self.to.ip().to_string();
        connection.start(&self.configuration, &host, self.to.port()).await?;
        place::rebind(&self.cores)?;
        Ok(Connected { connection, root: Arc::clone(&self.root) })
    }

    async fn settle(&self) {}
}

/// An msquic connection
pub struct Connected {
    connection: msquic_async::Connection,
    root: Root,
}

fn halves(stream: Stream, root: &Root) -> Result<(Sending, Receiving), Failure> {
    match stream.split() {
        (Some(reader), Some(writer)) => {
            let budget = Arc::new(Semaphore::new(OUTSTANDING_BYTES));
            let (one, other) = (Arc::clone(root), Arc::clone(root));
            let sending = Sending { stream: writer, budget, _root: one };
            Ok((sending, Receiving { stream: reader, _root: other }))
        }
        _ => Err("a stream has one direction only".into()),
    }
}

impl Connection for Connected {
    type Writer = Sending;
    type Reader = Receiving;
    type Opener = Open;

    fn opener(&self) -> Open {
        Open { connection: self.connection.clone(), root: Arc::clone(&self.root) }
    }

    async fn accept(&mut self) -> Result<Option<(Sending, Receiving)>, Failure> {
        use msquic_async::{ConnectionError, StreamStartError};
        match self.connection.accept_inbound_stream().await {
            Ok(stream) => halves(stream, &self.root).map(Some),
            Err(StreamStartError::ConnectionLost(
                ConnectionError::ShutdownByPeer(_) | ConnectionError::ShutdownByLocal,
            )) => Ok(None),
            Err(failure) => Err(failure.into()),
        }
    }

    fn lost_packets(&self) -> Option<u64> {
        None
    }

    fn close(self) {
        // It has ended already if this fails.
        let _ended = self.connection.shutdown(0);
    }
}

/// Opens streams of a connection
#[derive(Clone)]
pub struct Open {
    connection: msquic_async::Connection,
    root: Root,
}

impl Opener for Open {
    type Writer = Sending;
    type Reader = Receiving;

    async fn open(&mut self) -> Result<(Sending, Receiving), Failure> {
        let stream = self.connection.open_outbound_stream(StreamType::Bidirectional, false).await?;
        halves(stream, &self.root)
    }
}

/// Octets in msquic's hands, and the permission to have them there, which goes with them
struct Lent {
    octets: Bytes,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.octets
    }
}

/// The sending half of a stream
pub struct Sending {
    stream: WriteStream,
    budget: Arc<Semaphore>,
    _root: Root,
}

impl Writer for Sending {
    async fn write(&mut self, octets: Bytes) -> Result<(), Failure> {
        let size = u32::try_from(octets.len().min(OUTSTANDING_BYTES))?;
        let permit = Arc::clone(&self.budget).acquire_many_owned(size).await?;
        let lent = Bytes::from_owner(Lent { octets, _permit: permit });
        self.stream.write_chunk(&lent, false).await?;
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), Failure> {
        Ok(std::future::poll_fn(|cx| self.stream.poll_finish_write(cx)).await?)
    }
}

/// The receiving half of a stream
pub struct Receiving {
    stream: ReadStream,
    _root: Root,
}

impl Reader for Receiving {
    async fn read(&mut self, take: &mut (dyn FnMut(&[u8]) + Send)) -> Result<bool, Failure> {
        let Some(mut octets) = self.stream.read_chunk().await? else { return Ok(false) };
        while octets.has_remaining() {
            let piece = octets.chunk();
            let length = piece.len();
            take(piece);
            octets.advance(length);
        }
        Ok(true)
    }
}
