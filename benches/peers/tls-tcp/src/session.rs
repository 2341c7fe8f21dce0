//! One TLS session without I/O: rustls' unbuffered interface, which works in the caller's own buffers and so
//! spares the copy of the ciphertext that its buffered one makes. Sockets are `connection`'s.

use peer_harness::Failure;
use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};

/// Octets that a record adds to its content at most (RFC 8446 section 5.2)
const RECORD_OVERHEAD_BYTES: usize = 5 + 1 + 16;
/// Octets of content in a full record
const RECORD_BYTES: usize = 16 << 10;
/// Room for the records of one flight of the handshake, to begin with
const FLIGHT_BYTES: usize = 8 << 10;

/// Either end of a session
pub enum Session {
    /// The end that dialled
    Client(UnbufferedClientConnection),
    /// The end that accepted
    Server(UnbufferedServerConnection),
}

/// What has to happen next
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Next {
    /// Process what is there again
    Again,
    /// Write the outgoing octets
    Flush,
    /// Read more before the handshake can go on
    Read,
    /// The handshake is done and nothing whole is left to read
    Open,
    /// The other end has ended its direction in order
    Closed,
}

impl Session {
    /// Processes the first records of `incoming`: content goes to `take`, records to be sent go to `outgoing`.
    /// Returns how many octets of `incoming` are done with, and what comes next.
    ///
    /// # Errors
    /// Where the other end breaks the protocol or is refused; the alert is in `outgoing` then.
    pub fn process(
        &mut self,
        incoming: &mut [u8],
        outgoing: &mut Vec<u8>,
        take: &mut (dyn FnMut(&[u8]) + Send),
    ) -> (usize, Result<Next, Failure>) {
        match self {
            Self::Client(end) => step(end.process_tls_records(incoming), outgoing, take),
            Self::Server(end) => step(end.process_tls_records(incoming), outgoing, take),
        }
    }

    /// Encrypts `content` into `outgoing`, which grows as it must; `None` ends this direction. Returns how many
    /// octets of `outgoing` are to be sent.
    ///
    /// # Errors
    /// Where the session cannot send.
    pub fn encrypt(
        &mut self,
        content: Option<&[u8]>,
        outgoing: &mut Vec<u8>,
    ) -> Result<usize, Failure> {
        match self {
            Self::Client(end) => seal(end.process_tls_records(&mut []), content, outgoing),
            Self::Server(end) => seal(end.process_tls_records(&mut []), content, outgoing),
        }
    }
}

fn step<D>(
    status: UnbufferedStatus<'_, '_, D>,
    outgoing: &mut Vec<u8>,
    take: &mut (dyn FnMut(&[u8]) + Send),
) -> (usize, Result<Next, Failure>) {
    let UnbufferedStatus { mut discard, state } = status;
    let state = match state {
        Ok(state) => state,
        Err(failure) => return (discard, Err(format!("TLS: {failure}").into())),
    };
    let next = match state {
        ConnectionState::ReadTraffic(mut traffic) => {
            let mut outcome = Ok(Next::Again);
            while let Some(record) = traffic.next_record() {
                match record {
                    Ok(record) => {
                        discard += record.discard;
                        take(record.payload);
                    }
                    Err(failure) => {
                        outcome = Err(format!("TLS: {failure}").into());
                        break;
                    }
                }
            }
            outcome
        }
        ConnectionState::EncodeTlsData(mut data) => {
            let mut room = FLIGHT_BYTES;
            loop {
                let start = outgoing.len();
                outgoing.resize(start + room, 0);
                let written = data.encode(&mut outgoing[start..]);
                outgoing.truncate(start + written.as_ref().copied().unwrap_or(0));
                match written {
                    Ok(_) => break Ok(Next::Again),
                    Err(EncodeError::InsufficientSize(size)) if size.required_size > room => {
                        room = size.required_size;
                    }
                    Err(failure) => break Err(format!("TLS: {failure}").into()),
                }
            }
        }
        ConnectionState::TransmitTlsData(data) => {
            data.done();
            Ok(Next::Flush)
        }
        ConnectionState::BlockedHandshake => Ok(Next::Read),
        ConnectionState::WriteTraffic(_) => Ok(Next::Open),
        ConnectionState::PeerClosed | ConnectionState::Closed => Ok(Next::Closed),
        other => Err(format!("TLS is in a state that this peer does not know: {other:?}").into()),
    };
    (discard, next)
}

fn seal<D>(
    status: UnbufferedStatus<'_, '_, D>,
    content: Option<&[u8]>,
    outgoing: &mut Vec<u8>,
) -> Result<usize, Failure> {
    let mut traffic = match status.state? {
        ConnectionState::WriteTraffic(traffic) => traffic,
        // New keys were asked for after 2^24 records: no run of this peer is that long.
        other => {
            return Err(format!("TLS cannot send now: {other:?}; run for a shorter time").into());
        }
    };
    let length = content.map_or(0, <[u8]>::len);
    let room = length + (length / RECORD_BYTES + 2) * RECORD_OVERHEAD_BYTES;
    if outgoing.len() < room {
        outgoing.resize(room, 0);
    }
    let written = match content {
        Some(content) => traffic.encrypt(content, outgoing),
        None => traffic.queue_close_notify(outgoing),
    };
    match written {
        Ok(written) => Ok(written),
        Err(EncryptError::InsufficientSize(size)) => {
            Err(format!("records need {} octets of room, not {room}", size.required_size).into())
        }
        Err(failure) => Err(failure.into()),
    }
}
