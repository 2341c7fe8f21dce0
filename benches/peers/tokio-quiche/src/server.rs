//! The sink on tokio-quiche: drains uploads and answers requests from within the connection's own callbacks.

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use peer_harness::Failure;
use peer_harness::command_line::SinkArgs;
use peer_harness::identity::Identity;
use peer_harness::perf::{Incoming, Request};
use peer_harness::report::{Event, tell, warn};
use peer_harness::run::{Bound, Roles};
use tokio_quiche::metrics::DefaultMetrics;
use tokio_quiche::quic::{HandshakeInfo, QuicheConnection};
use tokio_quiche::quiche::Error as QuicheError;
use tokio_quiche::socket::QuicListener;
use tokio_quiche::{ApplicationOverQuic, ConnectionParams, QuicResult};

use crate::{Extra, TokioQuiche, endpoint};

/// Octets taken from a stream at once
pub const READ_BYTES: usize = 256 << 10;
/// Octets of zero handed over at once in a response
const ZEROS_BYTES: u64 = 64 << 10;
static ZEROS: [u8; ZEROS_BYTES as usize] = [0; ZEROS_BYTES as usize];

/// Binds a sink
pub fn sink(
    args: &SinkArgs<Extra>,
    identity: &Identity,
) -> Result<Bound<impl Future<Output = Result<(), Failure>> + use<>>, Failure> {
    let (socket, notes) = endpoint::bind(args.listen)?;
    let address: SocketAddr = socket.local_addr()?;
    let hooks = endpoint::hooks(identity, None)?;
    let settings = endpoint::settings(&args.common)?;
    let params = ConnectionParams::new_server(settings, endpoint::NO_FILES, hooks);
    let mut listener = QuicListener::try_from(socket)?;
    listener.apply_max_capabilities();
    let streams = tokio_quiche::listen_with_capabilities([listener], params, DefaultMetrics)?;
    let omit = args.omit;
    let serve = async move {
        let only = streams.into_iter().next().ok_or("tokio-quiche does not listen")?;
        let mut connections = only.into_inner();
        while let Some(connection) = connections.recv().await {
            match connection {
                // The connection lives in a task of its own from here on.
                Ok(connection) => drop(connection.start(Server::new(omit))),
                Err(failure) => warn(&format!("a connection failed: {failure}")),
            }
        }
        Err("tokio-quiche has stopped listening".into())
    };
    Ok(Bound { address, notes, serve })
}

/// One accepted connection
struct Server {
    established: bool,
    omit: Duration,
    streams: HashMap<u64, Incoming>,
    /// Octets that streams still have to send, and then their end
    responses: HashMap<u64, u64>,
    buffer: Vec<u8>,
}

impl Server {
    fn new(omit: Duration) -> Self {
        let (streams, responses) = (HashMap::new(), HashMap::new());
        Self { established: false, omit, streams, responses, buffer: Vec::new() }
    }

    /// Reads what a stream has; removes it at its end
    fn read(&mut self, connection: &mut QuicheConnection, id: u64) -> Result<(), Failure> {
        let omit = self.omit;
        let incoming = self.streams.entry(id).or_insert_with(|| Incoming::new(omit));
        loop {
            match connection.stream_recv(id, &mut self.buffer) {
                Ok((length, end)) => {
                    incoming.take(&self.buffer[..length]);
                    if end {
                        break;
                    }
                }
                Err(QuicheError::Done) => return Ok(()),
                Err(failure) => {
                    self.streams.remove(&id);
                    return Err(failure.into());
                }
            }
        }
        let Some(incoming) = self.streams.remove(&id) else { return Ok(()) };
        let octets = match incoming.finish()? {
            Request::Empty => 0,
            Request::Upload(transfer) => {
                tell(TokioQuiche::STACK, &Event::Transfer(transfer), &[])?;
                0
            }
            Request::Respond(octets) => octets,
        };
        self.responses.insert(id, octets);
        Ok(())
    }
}

/// Sends what a stream takes of `left` octets of zero and then its end; `true` when it is done
fn respond(connection: &mut QuicheConnection, id: u64, left: &mut u64) -> Result<bool, Failure> {
    while *left > 0 {
        let take = usize::try_from((*left).min(ZEROS_BYTES))?;
        match connection.stream_send_zc(id, Bytes::from_static(&ZEROS[..take]), false) {
            Ok((sent, rest)) => {
                *left -= sent as u64;
                if rest.is_some() {
                    return Ok(false);
                }
            }
            Err(QuicheError::Done) => return Ok(false),
            Err(failure) => return Err(failure.into()),
        }
    }
    // By copy: without one, quiche returns an empty buffer as if the end were still to come.
    match connection.stream_send(id, b"", true) {
        Ok(_none) => Ok(true),
        Err(QuicheError::Done) => Ok(false),
        Err(failure) => Err(failure.into()),
    }
}

impl ApplicationOverQuic for Server {
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
        // All there is to do begins with a packet.
        std::future::pending().await
    }

    fn process_reads(&mut self, connection: &mut QuicheConnection) -> QuicResult<()> {
        while let Some(id) = connection.stream_readable_next() {
            if let Err(failure) = self.read(connection, id) {
                warn(&format!("a stream failed: {failure}"));
            }
        }
        Ok(())
    }

    fn process_writes(&mut self, connection: &mut QuicheConnection) -> QuicResult<()> {
        self.responses.retain(|id, left| match respond(connection, *id, left) {
            Ok(done) => !done,
            Err(failure) => {
                warn(&format!("a response failed: {failure}"));
                false
            }
        });
        Ok(())
    }
}
