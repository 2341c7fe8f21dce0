//! TCP connections with a TLS session on top, or without, as the harness wants them.

use std::net::{SocketAddr, SocketAddrV6};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use peer_harness::command_line::{Common, KeyShare};
use peer_harness::identity::Identity;
use peer_harness::transport::{Connection, Dialer, Listener, Opener, Reader, Writer};
use peer_harness::{Failure, socket, tls};
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::{ClientConfig, ServerConfig};
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::Extra;
use crate::session::{Next, Session};

/// What UDP leaves and TCP takes: with the same IP packets, a segment is this much shorter than a UDP payload
const HEADER_DIFFERENCE_BYTES: u32 = 20 - 8;

fn mss(common: &Common<Extra>) -> u32 {
    u32::from(common.payload) - HEADER_DIFFERENCE_BYTES
}

fn notes(common: &Common<Extra>) -> Vec<String> {
    let mut notes = vec![format!(
        "TCP maximum segment size {}: packets as large as those of QUIC with a UDP payload of {}; \
         socket buffers are the kernel's to size",
        mss(common),
        common.payload
    )];
    if common.extra.plain {
        notes.push("without TLS: a yardstick, neither encrypted nor authenticated".into());
    }
    notes
}

/// Takes TCP connections
pub struct Listen {
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    extra: Extra,
}

/// An accepted TCP connection before its TLS handshake
pub struct Accepted {
    stream: TcpStream,
    tls: Option<Arc<ServerConfig>>,
    extra: Extra,
}

impl Listen {
    /// Binds and configures
    pub fn new(
        address: SocketAddrV6,
        common: &Common<Extra>,
        identity: &Identity,
    ) -> Result<(Self, SocketAddr, Vec<String>), Failure> {
        let extra = common.extra.clone();
        let tls = if extra.plain { None } else { Some(Arc::new(tls::server(identity)?)) };
        let listener = TcpListener::from_std(socket::tcp_listener(address, mss(common))?)?;
        let address = listener.local_addr()?;
        Ok((Self { listener, tls, extra }, address, notes(common)))
    }
}

impl Listener for Listen {
    type Connection = Connected;
    type Pending = Accepted;

    async fn accept(&mut self) -> Result<Accepted, Failure> {
        let (stream, _from) = self.listener.accept().await?;
        Ok(Accepted { stream, tls: self.tls.clone(), extra: self.extra.clone() })
    }

    async fn establish(pending: Accepted) -> Result<Connected, Failure> {
        let session = match pending.tls {
            None => None,
            Some(config) => Some(Session::Server(UnbufferedServerConnection::new(config)?)),
        };
        Connected::establish(pending.stream, session, &pending.extra).await
    }
}

/// Makes TCP connections
pub struct Dial {
    to: SocketAddr,
    mss: u32,
    tls: Option<Arc<ClientConfig>>,
    name: ServerName<'static>,
    extra: Extra,
}

impl Dial {
    /// Configures
    pub fn new(
        to: SocketAddrV6,
        common: &Common<Extra>,
        identity: &Identity,
        key_share: Option<KeyShare>,
    ) -> Result<(Self, Vec<String>), Failure> {
        let extra = common.extra.clone();
        let tls =
            if extra.plain { None } else { Some(Arc::new(tls::client(identity, key_share)?)) };
        // The name is not sent and not looked at: the verdict goes by the URI name.
        let name = ServerName::from(to.ip().to_owned());
        Ok((Self { to: to.into(), mss: mss(common), tls, name, extra }, notes(common)))
    }
}

impl Dialer for Dial {
    type Connection = Connected;

    async fn connect(&self) -> Result<Connected, Failure> {
        let socket = TcpSocket::from_std_stream(socket::tcp(self.mss)?.into());
        let stream = socket.connect(self.to).await?;
        let session = match &self.tls {
            None => None,
            Some(config) => {
                let (config, name) = (Arc::clone(config), self.name.clone());
                Some(Session::Client(UnbufferedClientConnection::new(config, name)?))
            }
        };
        Connected::establish(stream, session, &self.extra).await
    }

    async fn settle(&self) {}
}

/// The halves of the one stream there is
type Halves = Arc<Mutex<Option<(Sending, Receiving)>>>;

/// A TCP connection, its TLS handshake done
pub struct Connected(Halves);

impl Connected {
    async fn establish(
        stream: TcpStream,
        session: Option<Session>,
        extra: &Extra,
    ) -> Result<Self, Failure> {
        stream.set_nodelay(true)?;
        let (reader, writer) = stream.into_split();
        let session = session.map(|session| Arc::new(Mutex::new(session)));
        let buffer = vec![0; usize::try_from(extra.read_buffer)?];
        let mut receiving = Receiving {
            stream: reader,
            session: session.clone(),
            buffer,
            start: 0,
            end: 0,
            early: Vec::new(),
            closed: false,
        };
        let piece = usize::try_from(extra.piece)?;
        let mut sending = Sending { stream: writer, session, outgoing: Vec::new(), piece };
        receiving.handshake(&mut sending).await?;
        Ok(Self(Arc::new(Mutex::new(Some((sending, receiving))))))
    }
}

fn take_halves(halves: &Halves) -> Option<(Sending, Receiving)> {
    halves.lock().unwrap_or_else(PoisonError::into_inner).take()
}

impl Connection for Connected {
    type Writer = Sending;
    type Reader = Receiving;
    type Opener = Open;

    fn opener(&self) -> Open {
        Open(Arc::clone(&self.0))
    }

    async fn accept(&mut self) -> Result<Option<(Sending, Receiving)>, Failure> {
        Ok(take_halves(&self.0))
    }

    fn lost_packets(&self) -> Option<u64> {
        None
    }

    fn close(self) {}
}

/// Opens the one stream of a connection
#[derive(Clone)]
pub struct Open(Halves);

impl Opener for Open {
    type Writer = Sending;
    type Reader = Receiving;

    async fn open(&mut self) -> Result<(Sending, Receiving), Failure> {
        take_halves(&self.0).ok_or_else(|| "a TCP connection carries one stream only".into())
    }
}

/// A session that both halves work with; never locked while something is waited for
type Shared = Option<Arc<Mutex<Session>>>;

/// The sending half
pub struct Sending {
    stream: OwnedWriteHalf,
    session: Shared,
    outgoing: Vec<u8>,
    piece: usize,
}

impl Sending {
    /// Encrypts `content`, or the end of this direction, and writes it
    async fn send(&mut self, content: Option<&[u8]>) -> Result<(), Failure> {
        let length = match &self.session {
            Some(session) => {
                let mut session = session.lock().unwrap_or_else(PoisonError::into_inner);
                session.encrypt(content, &mut self.outgoing)?
            }
            None => return Ok(self.stream.write_all(content.unwrap_or_default()).await?),
        };
        Ok(self.stream.write_all(&self.outgoing[..length]).await?)
    }
}

impl Writer for Sending {
    async fn write(&mut self, chunk: Bytes) -> Result<(), Failure> {
        for piece in chunk.chunks(self.piece) {
            self.send(Some(piece)).await?;
        }
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), Failure> {
        self.send(None).await?;
        Ok(self.stream.shutdown().await?)
    }
}

/// The receiving half
pub struct Receiving {
    stream: OwnedReadHalf,
    session: Shared,
    buffer: Vec<u8>,
    /// What is in the buffer and not processed begins here
    start: usize,
    /// And ends here
    end: usize,
    /// Content that came with the end of the handshake
    early: Vec<u8>,
    /// The other end has ended its direction
    closed: bool,
}

impl Receiving {
    /// Reads once; `false` at the end of the connection
    async fn fill(&mut self) -> Result<bool, Failure> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.end == self.buffer.len() {
            return Err("a TLS record does not fit the read buffer".into());
        }
        loop {
            self.stream.readable().await?;
            match self.stream.try_read(&mut self.buffer[self.end..]) {
                Ok(count) => {
                    self.end += count;
                    return Ok(count > 0);
                }
                // The readiness was stale.
                Err(cause) if cause.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(cause) => return Err(cause.into()),
            }
        }
    }

    /// Processes the next records
    fn process(
        &mut self,
        outgoing: &mut Vec<u8>,
        take: &mut (dyn FnMut(&[u8]) + Send),
    ) -> Result<Next, Failure> {
        let Some(session) = &self.session else {
            take(&self.buffer[self.start..self.end]);
            (self.start, self.end) = (0, 0);
            return Ok(Next::Open);
        };
        let mut session = session.lock().unwrap_or_else(PoisonError::into_inner);
        let incoming = &mut self.buffer[self.start..self.end];
        let (done, next) = session.process(incoming, outgoing, take);
        self.start += done;
        next
    }

    async fn handshake(&mut self, sending: &mut Sending) -> Result<(), Failure> {
        let mut flight = Vec::new();
        loop {
            let mut early = std::mem::take(&mut self.early);
            let next = self.process(&mut flight, &mut |content| early.extend_from_slice(content));
            self.early = early;
            match next {
                Ok(Next::Again) => {}
                Ok(Next::Flush) => {
                    sending.stream.write_all(&flight).await?;
                    flight.clear();
                }
                Ok(Next::Read) => {
                    if !self.fill().await? {
                        return Err("the other end hung up in the handshake".into());
                    }
                }
                Ok(Next::Open) => return Ok(()),
                Ok(Next::Closed) => {
                    self.closed = true;
                    return Ok(());
                }
                Err(failure) => {
                    // Behind the error rustls has the alert that tells the other end.
                    while let Ok(Next::Again) = self.process(&mut flight, &mut |_| ()) {}
                    // The session has failed: that the connection is gone as well changes nothing.
                    let _gone = sending.stream.write_all(&flight).await;
                    return Err(failure);
                }
            }
        }
    }
}

impl Reader for Receiving {
    async fn read(&mut self, take: &mut (dyn FnMut(&[u8]) + Send)) -> Result<bool, Failure> {
        if !self.early.is_empty() {
            take(&self.early);
            self.early = Vec::new();
        }
        if self.closed {
            return Ok(false);
        }
        if !self.fill().await? {
            return match self.session {
                // Without TLS the end of the connection is the end of the stream.
                None => Ok(false),
                Some(_) => Err("the other end hung up before it ended the stream".into()),
            };
        }
        let mut outgoing = Vec::new();
        loop {
            match self.process(&mut outgoing, take)? {
                Next::Again => {}
                Next::Open | Next::Read => return Ok(true),
                Next::Closed => return Ok(false),
                Next::Flush => {
                    return Err("the other end asks for new keys; run for a shorter time".into());
                }
            }
        }
    }
}
