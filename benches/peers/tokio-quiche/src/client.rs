//! The dialling roles on tokio-quiche: an upload, or an empty exchange, from within the connection's own
//! callbacks.

use std::net::{Ipv6Addr, SocketAddrV6};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use peer_harness::Failure;
use peer_harness::command_line::{Common, HandshakesArgs, LoadArgs};
use peer_harness::identity::Identity;
use peer_harness::perf::{HEADER_BYTES, Outgoing};
use peer_harness::place::cpu_seconds;
use peer_harness::report::{HandshakesReport, LoadReport, warn};
use peer_harness::run::Noted;
use tokio::net::UdpSocket;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_quiche::metrics::Metrics;
use tokio_quiche::quic::{HandshakeInfo, QuicheConnection};
use tokio_quiche::quiche::Error as QuicheError;
use tokio_quiche::settings::{Hooks, QuicSettings};
use tokio_quiche::socket::Socket;
use tokio_quiche::{ApplicationOverQuic, ConnectionParams, QuicResult};

use crate::server::READ_BYTES;
use crate::{Extra, endpoint};

/// The first bidirectional stream of a client
const STREAM: u64 = 0;

/// What a connection needs to know
struct Dial {
    to: SocketAddrV6,
    settings: QuicSettings,
    hooks: Hooks,
}

impl Dial {
    fn new(to: SocketAddrV6, common: &Common<Extra>, hooks: Hooks) -> Result<Self, Failure> {
        Ok(Self { to, settings: endpoint::settings(common)?, hooks })
    }

    async fn socket(&self) -> Result<(UdpSocket, Vec<String>), Failure> {
        let any =
            if self.to.ip().is_loopback() { Ipv6Addr::LOCALHOST } else { Ipv6Addr::UNSPECIFIED };
        let (socket, notes) = endpoint::bind(SocketAddrV6::new(any, 0, 0, 0))?;
        socket.connect(self.to).await?;
        Ok((socket, notes))
    }

    /// Carries one exchange over a connection of its own; returns when the connection has ended
    async fn exchange(
        &self,
        socket: UdpSocket,
        upload: Option<Outgoing>,
    ) -> Result<Outcome, Failure> {
        let (result, outcome) = oneshot::channel();
        let client = Client {
            established: false,
            pending: Some(Bytes::from_static(&[0; HEADER_BYTES])),
            upload,
            ended: false,
            result: Some(result),
            buffer: Vec::new(),
        };
        let mut socket = Socket::try_from(socket)?;
        socket.apply_max_capabilities();
        let mut params = ConnectionParams::new_client(
            self.settings.clone(),
            Some(endpoint::NO_FILES),
            self.hooks.clone(),
        );
        params.session = None;
        let _until_it_ends =
            tokio_quiche::quic::connect_with_config(socket, None, &params, client).await?;
        match outcome.await {
            Ok(outcome) => outcome,
            Err(_dropped) => Err("the handshake failed; the sink says why".into()),
        }
    }
}

/// What an exchange came to
struct Outcome {
    upload: Option<Outgoing>,
    lost_packets: u64,
}

/// Sends one stream
pub async fn load(
    args: &LoadArgs<Extra>,
    identity: &Identity,
) -> Result<Noted<LoadReport>, Failure> {
    let dial = Dial::new(args.to, &args.common, endpoint::hooks(identity, args.key_share)?)?;
    let (socket, notes) = dial.socket().await?;
    let upload = Outgoing::new(args.seed, args.omit, args.duration);
    let outcome = dial.exchange(socket, Some(upload)).await?;
    let upload = outcome.upload.ok_or("the upload is gone")?;
    let report = LoadReport { transfer: upload.finish(), lost_packets: Some(outcome.lost_packets) };
    Ok((report, notes))
}

/// Connects and closes until the time is over; see the harness's own for what counts
pub async fn handshakes(
    args: &HandshakesArgs<Extra>,
    identity: &Identity,
) -> Result<Noted<HandshakesReport>, Failure> {
    let hooks = endpoint::hooks(identity, Some(args.key_share))?;
    let dial = Arc::new(Dial::new(args.to, &args.common, hooks)?);
    let (begun, cpu) = (Instant::now(), cpu_seconds());
    let end = begun + args.duration;
    let mut tasks = JoinSet::new();
    for _ in 0..args.in_flight {
        let dial = Arc::clone(&dial);
        tasks.spawn(async move {
            let (mut made, mut failures) = (0u64, Vec::new());
            while Instant::now() < end {
                let once = async {
                    let (socket, _notes) = dial.socket().await?;
                    dial.exchange(socket, None).await
                };
                match once.await {
                    Ok(_outcome) => made += u64::from(Instant::now() <= end),
                    Err(failure) => failures.push(failure),
                }
            }
            (made, failures)
        });
    }
    let (mut made, mut failures) = (0, Vec::new());
    while let Some(task) = tasks.join_next().await {
        let (some, more) = task?;
        made += some;
        failures.extend(more);
    }
    let failed = failures.len() as u64;
    if let Some(failure) = failures.into_iter().next() {
        if made == 0 {
            return Err(failure);
        }
        warn(&format!("{failed} handshakes failed; the first: {failure}"));
    }
    let report = HandshakesReport {
        handshakes: made,
        per_second: made as f64 / args.duration.as_secs_f64(),
        key_share: args.key_share,
        failed,
        cpu_seconds: cpu_seconds() - cpu,
    };
    let socket = "tokio-quiche takes a UDP socket for each connection that is dialled";
    Ok((report, vec![socket.into()]))
}

/// One dialled connection
struct Client {
    established: bool,
    /// What the stream has not taken yet
    pending: Option<Bytes>,
    upload: Option<Outgoing>,
    /// The stream's end has been handed over
    ended: bool,
    result: Option<oneshot::Sender<Result<Outcome, Failure>>>,
    buffer: Vec<u8>,
}

impl Client {
    fn tell(&mut self, outcome: Result<Outcome, Failure>) {
        if let Some(result) = self.result.take() {
            let _nobody_waits = result.send(outcome);
        }
    }

    /// Hands over what the stream takes
    fn write(&mut self, connection: &mut QuicheConnection) -> Result<(), Failure> {
        while !self.ended {
            if self.pending.is_none() {
                self.pending = self.upload.as_mut().and_then(Outgoing::next_chunk);
            }
            let Some(chunk) = self.pending.take() else {
                // By copy: without one, quiche returns an empty buffer as if the end were still to come.
                match connection.stream_send(STREAM, b"", true) {
                    Ok(_none) => self.ended = true,
                    Err(QuicheError::Done) => {}
                    Err(failure) => return Err(failure.into()),
                }
                return Ok(());
            };
            match connection.stream_send_zc(STREAM, chunk.clone(), false) {
                Ok((_sent, None)) => {}
                Ok((_sent, rest)) => {
                    self.pending = rest;
                    return Ok(());
                }
                Err(QuicheError::Done) => {
                    self.pending = Some(chunk);
                    return Ok(());
                }
                Err(failure) => return Err(failure.into()),
            }
        }
        Ok(())
    }

    /// Reads to the end of the answer; `true` once it is there
    fn read(&mut self, connection: &mut QuicheConnection) -> Result<bool, Failure> {
        while let Some(id) = connection.stream_readable_next() {
            loop {
                match connection.stream_recv(id, &mut self.buffer) {
                    Ok((_length, true)) if id == STREAM => return Ok(true),
                    Ok(_more) => {}
                    Err(QuicheError::Done) => break,
                    Err(failure) => return Err(failure.into()),
                }
            }
        }
        Ok(false)
    }
}

impl ApplicationOverQuic for Client {
    fn on_conn_established(
        &mut self,
        _connection: &mut QuicheConnection,
        _info: &HandshakeInfo,
    ) -> QuicResult<()> {
        self.established = true;
        self.buffer.resize(READ_BYTES, 0);
        Ok(())
    }

    fn should_act(&self) -> bool {
        self.established
    }

    async fn wait_for_data(&mut self, _connection: &mut QuicheConnection) -> QuicResult<()> {
        // All there is to do begins with a packet, or with the handshake's end.
        std::future::pending().await
    }

    fn process_reads(&mut self, connection: &mut QuicheConnection) -> QuicResult<()> {
        match self.read(connection) {
            Ok(false) => {}
            Ok(true) => {
                let lost_packets = connection.stats().lost as u64;
                let outcome = Outcome { upload: self.upload.take(), lost_packets };
                self.tell(Ok(outcome));
                connection.close(true, 0, b"")?;
            }
            Err(failure) => {
                self.tell(Err(failure));
                connection.close(true, 1, b"")?;
            }
        }
        Ok(())
    }

    fn process_writes(&mut self, connection: &mut QuicheConnection) -> QuicResult<()> {
        if self.result.is_some()
            && let Err(failure) = self.write(connection)
        {
            self.tell(Err(failure));
            connection.close(true, 1, b"")?;
        }
        Ok(())
    }

    fn on_conn_close<M: Metrics>(
        &mut self,
        connection: &mut QuicheConnection,
        _metrics: &M,
        _result: &QuicResult<()>,
    ) {
        let reason = match connection.peer_error() {
            Some(error) => format!(
                "the sink closed the connection with error {:#x} {}",
                error.error_code,
                String::from_utf8_lossy(&error.reason)
            ),
            None => format!("the connection ended early: {:?}", connection.local_error()),
        };
        self.tell(Err(reason.into()));
    }
}
