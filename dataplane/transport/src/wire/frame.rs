//! Control frames: type, length, payload. Even types must be understood; odd types may be skipped.

use bytes::{BufMut, BytesMut};
use stoq_interface::{CloseReason, FlowError, NodeId};

use super::{WireError, put_varint, take_varint};

/// The protocol version this host speaks
pub const VERSION: u64 = 1;

/// The name of a session: chosen by the side that accepted it, random but for the home worker
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SessionId(pub [u8; 16]);

impl SessionId {
    /// All zero: "give me a new one"
    pub const NEW: Self = Self([0; 16]);
}

const HELLO: u64 = 0x00;
const FLOW_STATUS: u64 = 0x02;
const FLOW_RESET: u64 = 0x04;
const FLOW_CLOSED: u64 = 0x06;
const DRAIN: u64 = 0x08;
const DRAINED: u64 = 0x0a;
const PING: u64 = 0x01;
const WANT_CONNECTIONS: u64 = 0x03;
const REVOCATION_EPOCH: u64 = 0x05;

/// The first frame in each direction of a control stream
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Hello {
    /// Oldest version spoken; in the answer, the version chosen
    pub version_min: u64,
    /// Newest version spoken; in the answer, the version chosen
    pub version_max: u64,
    /// The session to join, or [`SessionId::NEW`]
    pub session: SessionId,
    /// Who is speaking; must equal the certificate's node
    pub node: NodeId,
    /// Bytes of a new flow that may be sent before a FLOW_STATUS raises the limit
    pub flow_window_bytes: u64,
    /// Flows the speaker lets the peer have open at a time
    pub flows: u64,
}

/// One control frame
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Frame {
    /// Opens a connection's part in a session
    Hello(Hello),
    /// What the receiver of a flow has and will take
    FlowStatus {
        /// The flow
        flow: u64,
        /// Every byte below this offset has arrived
        acknowledged: u64,
        /// Whether the end of the flow has arrived as well
        complete: bool,
        /// The offset up to which bytes may be sent
        limit: u64,
    },
    /// The flow ended early; answered by a FLOW_RESET unless it is the answer
    FlowReset {
        /// The flow
        flow: u64,
        /// Why
        reason: FlowError,
    },
    /// The flow was completed in both directions and is forgotten here
    FlowClosed {
        /// The flow
        flow: u64,
    },
    /// No new legs on this connection; it closes at the deadline
    Drain {
        /// Milliseconds from now
        deadline_ms: u64,
        /// Why
        reason: CloseReason,
    },
    /// Nothing of this side is outstanding on this connection
    Drained,
    /// Keeps the path warm
    Ping,
    /// Asks the dialling side to bring the session to this many connections
    WantConnections {
        /// Connections wished for
        count: u64,
    },
    /// The newest revocation epoch the speaker knows
    RevocationEpoch {
        /// The epoch
        epoch: u64,
    },
}

impl Frame {
    /// Appends the frame
    pub fn encode(&self, out: &mut BytesMut) {
        let mut body = BytesMut::with_capacity(64);
        let kind = self.encode_body(&mut body);
        put_varint(out, kind);
        put_varint(out, body.len() as u64);
        out.put_slice(&body);
    }

    fn encode_body(&self, body: &mut BytesMut) -> u64 {
        match self {
            Self::Hello(hello) => {
                put_varint(body, hello.version_min);
                put_varint(body, hello.version_max);
                body.put_slice(&hello.session.0);
                put_varint(body, hello.node.as_str().len() as u64);
                body.put_slice(hello.node.as_str().as_bytes());
                put_varint(body, hello.flow_window_bytes);
                put_varint(body, hello.flows);
                HELLO
            }
            Self::FlowStatus { flow, acknowledged, complete, limit } => {
                put_varint(body, *flow);
                put_varint(body, *acknowledged);
                body.put_u8(u8::from(*complete));
                put_varint(body, *limit);
                FLOW_STATUS
            }
            Self::FlowReset { flow, reason } => {
                put_varint(body, *flow);
                put_varint(body, reason.code());
                FLOW_RESET
            }
            Self::FlowClosed { flow } => {
                put_varint(body, *flow);
                FLOW_CLOSED
            }
            Self::Drain { deadline_ms, reason } => {
                put_varint(body, *deadline_ms);
                put_varint(body, reason.code());
                DRAIN
            }
            Self::Drained => DRAINED,
            Self::Ping => PING,
            Self::WantConnections { count } => {
                put_varint(body, *count);
                WANT_CONNECTIONS
            }
            Self::RevocationEpoch { epoch } => {
                put_varint(body, *epoch);
                REVOCATION_EPOCH
            }
        }
    }

    /// Parses a frame's payload; `None` for an unknown frame that may be skipped
    fn parse(kind: u64, mut body: &[u8]) -> Result<Option<Self>, WireError> {
        let input = &mut body;
        let frame = match kind {
            HELLO => Self::Hello(parse_hello(input)?),
            FLOW_STATUS => Self::FlowStatus {
                flow: take(input)?,
                acknowledged: take(input)?,
                complete: match take_byte(input)? {
                    0 => false,
                    1 => true,
                    _ => return Err(WireError::Value),
                },
                limit: take(input)?,
            },
            FLOW_RESET => Self::FlowReset {
                flow: take(input)?,
                // A reason this version does not know still ends the flow.
                reason: FlowError::from_code(take(input)?).unwrap_or(FlowError::Cancelled),
            },
            FLOW_CLOSED => Self::FlowClosed { flow: take(input)? },
            DRAIN => Self::Drain {
                deadline_ms: take(input)?,
                reason: CloseReason::from_code(take(input)?).unwrap_or(CloseReason::Draining),
            },
            DRAINED => Self::Drained,
            PING => Self::Ping,
            WANT_CONNECTIONS => Self::WantConnections { count: take(input)? },
            REVOCATION_EPOCH => Self::RevocationEpoch { epoch: take(input)? },
            skippable if skippable & 1 == 1 => return Ok(None),
            _ => return Err(WireError::UnknownFrame),
        };
        if input.is_empty() { Ok(Some(frame)) } else { Err(WireError::FrameLength) }
    }
}

fn take(input: &mut &[u8]) -> Result<u64, WireError> {
    take_varint(input).ok_or(WireError::FrameLength)
}

fn take_byte(input: &mut &[u8]) -> Result<u8, WireError> {
    let (first, rest) = input.split_first().ok_or(WireError::FrameLength)?;
    *input = rest;
    Ok(*first)
}

fn take_slice<'a>(input: &mut &'a [u8], length: usize) -> Result<&'a [u8], WireError> {
    if input.len() < length {
        return Err(WireError::FrameLength);
    }
    let (head, rest) = input.split_at(length);
    *input = rest;
    Ok(head)
}

fn parse_hello(input: &mut &[u8]) -> Result<Hello, WireError> {
    let version_min = take(input)?;
    let version_max = take(input)?;
    let mut session = SessionId::NEW;
    session.0.copy_from_slice(take_slice(input, 16)?);
    let length = usize::try_from(take(input)?).map_err(|_| WireError::FrameLength)?;
    let node = std::str::from_utf8(take_slice(input, length)?)
        .ok()
        .and_then(|text| NodeId::new(text).ok())
        .ok_or(WireError::Name)?;
    Ok(Hello {
        version_min,
        version_max,
        session,
        node,
        flow_window_bytes: take(input)?,
        flows: take(input)?,
    })
}

/// Splits a control stream into frames
#[derive(Debug)]
pub struct FrameReader {
    buffer: BytesMut,
    limit: usize,
}

impl FrameReader {
    /// A reader that refuses payloads above `limit` octets
    pub fn new(limit: usize) -> Self {
        Self { buffer: BytesMut::new(), limit }
    }

    /// Takes in what arrived on the stream
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame that is understood
    pub fn next_frame(&mut self) -> Result<Option<Frame>, WireError> {
        loop {
            let mut input = &self.buffer[..];
            let (Some(kind), Some(length)) = (take_varint(&mut input), take_varint(&mut input))
            else {
                return Ok(None);
            };
            let length = usize::try_from(length).map_err(|_| WireError::FrameTooLong)?;
            if length > self.limit {
                return Err(WireError::FrameTooLong);
            }
            if input.len() < length {
                return Ok(None);
            }
            let consumed = self.buffer.len() - input.len() + length;
            let parsed = Frame::parse(kind, &input[..length])?;
            bytes::Buf::advance(&mut self.buffer, consumed);
            if let Some(frame) = parsed {
                return Ok(Some(frame));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<Frame> {
        vec![
            Frame::Hello(Hello {
                version_min: 1,
                version_max: 1,
                session: SessionId([7; 16]),
                node: NodeId::new("alpha").unwrap(),
                flow_window_bytes: 65_536,
                flows: 100,
            }),
            Frame::FlowStatus { flow: 4, acknowledged: 1 << 40, complete: true, limit: 1 << 41 },
            Frame::FlowReset { flow: 1, reason: FlowError::NotAuthorized },
            Frame::FlowClosed { flow: 9 },
            Frame::Drain { deadline_ms: 5_000, reason: CloseReason::Replaced },
            Frame::Drained,
            Frame::Ping,
            Frame::WantConnections { count: 4 },
            Frame::RevocationEpoch { epoch: 3 },
        ]
    }

    #[test]
    fn frames_survive_any_split() {
        let mut wire = BytesMut::new();
        for frame in samples() {
            frame.encode(&mut wire);
        }
        for step in [1, 3, 7, wire.len()] {
            let mut reader = FrameReader::new(4_096);
            let mut seen = Vec::new();
            for piece in wire.chunks(step) {
                reader.push(piece);
                while let Some(frame) = reader.next_frame().unwrap() {
                    seen.push(frame);
                }
            }
            assert_eq!(seen, samples());
        }
    }

    #[test]
    fn unknown_frames_are_skipped_only_when_odd() {
        let mut reader = FrameReader::new(16);
        reader.push(&[0x3f, 2, 0xaa, 0xbb, 0x01, 0]);
        assert_eq!(reader.next_frame(), Ok(Some(Frame::Ping)));
        let mut reader = FrameReader::new(16);
        reader.push(&[0x3e, 0]);
        assert_eq!(reader.next_frame(), Err(WireError::UnknownFrame));
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        let mut reader = FrameReader::new(16);
        reader.push(&[0x06, 17]);
        assert_eq!(reader.next_frame(), Err(WireError::FrameTooLong));
        let mut reader = FrameReader::new(16);
        reader.push(&[0x06, 2, 1, 1]);
        assert_eq!(reader.next_frame(), Err(WireError::FrameLength));
        let mut reader = FrameReader::new(16);
        reader.push(&[0x06, 0]);
        assert_eq!(reader.next_frame(), Err(WireError::FrameLength));
    }
}
