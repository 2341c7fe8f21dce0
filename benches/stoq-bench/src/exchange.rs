//! What the two ends of a run say to each other: the preamble that opens a load flow, the verdict that answers
//! it, and the lines of the control flow. Moving the bytes is `traffic`'s.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use stoq::{Flow, FlowReader, FlowWriter};

use crate::digest::{Outcome, Verify};
use crate::process::Sample;

/// Takes bytes
pub const SERVICE_SINK: &str = "bench-sink";
/// Sends bytes
pub const SERVICE_SOURCE: &str = "bench-source";
/// Answers questions about the run
pub const SERVICE_CONTROL: &str = "bench-control";

/// Longest line of the control flow
const LINE_BYTES: usize = 8 << 20;

/// Why a run could not go on
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The flow broke
    #[error("a flow of the run ended early: {0}")]
    Flow(#[from] stoq::FlowError),
    /// The other end says something else than this version does
    #[error("the other end does not speak this version of the benchmark: {0}")]
    Protocol(String),
    /// The operating system would not say what was asked
    #[error("cannot read this process's own figures: {0}")]
    Figures(#[from] std::io::Error),
}

const MAGIC: u32 = 0x5342_4d31;
/// Octets of a preamble
pub const PREAMBLE_BYTES: usize = 32;

/// How much a flow is to carry, and how it is verified
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Preamble {
    /// What the receiver compares
    pub verify: Verify,
    /// Seed of the pattern
    pub seed: u64,
    /// Octets to send at most
    pub bytes: u64,
    /// Time to send at most
    pub time: Duration,
}

impl Preamble {
    /// The preamble's octets
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(PREAMBLE_BYTES);
        out.put_u32(MAGIC);
        out.put_u32(u32::from(self.verify.code()));
        out.put_u64(self.seed);
        out.put_u64(self.bytes);
        out.put_u64(u64::try_from(self.time.as_nanos()).unwrap_or(u64::MAX));
        out.freeze()
    }

    /// Reads a preamble; `None` where the octets are not one
    pub fn decode(mut bytes: &[u8]) -> Option<Self> {
        if bytes.len() != PREAMBLE_BYTES || bytes.get_u32() != MAGIC {
            return None;
        }
        let verify = Verify::from_code(u8::try_from(bytes.get_u32()).ok()?)?;
        let (seed, count) = (bytes.get_u64(), bytes.get_u64());
        Some(Self { verify, seed, bytes: count, time: Duration::from_nanos(bytes.get_u64()) })
    }
}

/// What the receiver of a flow found
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Verdict {
    /// Octets that arrived, without the trailer
    pub received_bytes: u64,
    /// Octets the sender says it sent
    pub sent_bytes: Option<u64>,
    /// What became of the flow
    pub outcome: Outcome,
}

/// A question on the control flow
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// Everything you count, now
    Sample,
    /// What you are and hold
    Describe,
}

/// An answer on the control flow
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// To [`Question::Sample`]
    Sample(Sample),
    /// To [`Question::Describe`]
    Describe(Description),
}

/// One worker, as it is
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct WorkerDescription {
    /// Processor it is bound to
    pub core: Option<usize>,
    /// NUMA node of its memory
    pub node: Option<usize>,
    /// `io_uring` or `system_calls`
    pub io: String,
    /// Why it is not io_uring
    pub io_fallback: Option<String>,
    /// Datagrams one send may carry
    pub gso_segments: usize,
    /// Whether receives are merged
    pub gro: bool,
    /// Whether one request receives train after train; absent in older records
    pub multishot: Option<bool>,
    /// Whether its send memory is registered with the ring; absent in older records
    pub registered_buffers: Option<bool>,
    /// Page size of its packet memory
    pub page_bytes: usize,
    /// Whether huge pages back it, in words
    pub huge_pages: String,
    /// Whether sends avoid the kernel's copy, in words
    pub zero_copy: String,
    /// Socket receive buffer as granted
    pub receive_buffer_bytes: usize,
}

/// One connection, as its end sees it
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct ConnectionDescription {
    /// Smoothed round-trip time
    pub rtt_us: f64,
    /// Congestion window
    pub congestion_window_bytes: u64,
    /// Largest UDP payload sent
    pub udp_payload_bytes: usize,
    /// Packets sent on its keys
    pub packets_sent: u64,
    /// Packets received on its keys
    pub packets_received: u64,
    /// Packets declared lost
    pub packets_lost: u64,
    /// Of those, found to have arrived
    pub packets_lost_spurious: u64,
    /// Key exchange
    pub key_exchange: String,
}

/// What one end is and holds
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Description {
    /// Its workers
    pub workers: Vec<WorkerDescription>,
    /// Its connections now
    pub connections: Vec<ConnectionDescription>,
    /// Connections replaced so far, all sessions
    pub replacements: u64,
    /// Connections lost without a replacement standing by, all sessions
    pub losses: u64,
}

impl Description {
    /// Of an endpoint, now
    pub async fn of(endpoint: &stoq::Endpoint) -> Self {
        let workers = endpoint.workers().into_iter().zip(endpoint.io());
        let worker = |(status, io): (stoq::WorkerStatus, &stoq::IoDescription)| WorkerDescription {
            core: status.core,
            node: status.node,
            io: status.io.label().to_owned(),
            io_fallback: status.io_fallback,
            gso_segments: status.gso_segments,
            gro: status.gro,
            multishot: Some(io.multishot),
            registered_buffers: Some(io.registered_buffers),
            page_bytes: status.page_bytes,
            huge_pages: io.huge_pages.to_string(),
            zero_copy: io.zero_copy.to_string(),
            receive_buffer_bytes: status.receive_buffer_bytes,
        };
        let workers = workers.map(worker).collect();
        let connection = |status: stoq::ConnectionStatus| ConnectionDescription {
            rtt_us: status.rtt.as_secs_f64() * 1e6,
            congestion_window_bytes: status.congestion_window_bytes,
            udp_payload_bytes: status.udp_payload_bytes,
            packets_sent: status.packets_sent,
            packets_received: status.packets_received,
            packets_lost: status.packets_lost,
            packets_lost_spurious: status.packets_lost_spurious,
            key_exchange: status.key_exchange,
        };
        let sessions = endpoint.sessions().await;
        Self {
            workers,
            connections: endpoint.connections().await.into_iter().map(connection).collect(),
            replacements: sessions.iter().map(|session| session.replacements).sum(),
            losses: sessions.iter().map(|session| session.losses).sum(),
        }
    }
}

/// Reads exactly `length` octets; what came with them stays in `rest`
pub async fn read_exactly(
    reader: &mut FlowReader,
    rest: &mut Bytes,
    length: usize,
) -> Result<Bytes, ExchangeError> {
    let mut out = BytesMut::with_capacity(length);
    loop {
        let take = rest.len().min(length - out.len());
        out.extend_from_slice(&rest.split_to(take));
        if out.len() == length {
            return Ok(out.freeze());
        }
        *rest = reader
            .read_chunk()
            .await?
            .ok_or_else(|| ExchangeError::Protocol("a flow ended in its preamble".into()))?;
    }
}

/// Lines of JSON over a flow
pub struct Lines {
    reader: FlowReader,
    writer: FlowWriter,
    rest: BytesMut,
}

impl Lines {
    /// Over this flow
    pub fn new(flow: Flow) -> Self {
        let (reader, writer) = flow.split();
        Self { reader, writer, rest: BytesMut::new() }
    }

    /// Writes one line
    ///
    /// # Errors
    /// [`ExchangeError::Flow`].
    pub async fn write<T: Serialize>(&mut self, value: &T) -> Result<(), ExchangeError> {
        let mut line =
            serde_json::to_vec(value).map_err(|e| ExchangeError::Protocol(e.to_string()))?;
        line.push(b'\n');
        Ok(self.writer.write_chunk(line.into()).await?)
    }

    /// Reads one line; `None` at the end of the flow
    ///
    /// # Errors
    /// [`ExchangeError::Flow`]; [`ExchangeError::Protocol`] where the line does not parse or has no end.
    pub async fn read<T: for<'a> Deserialize<'a>>(&mut self) -> Result<Option<T>, ExchangeError> {
        loop {
            if let Some(end) = self.rest.iter().position(|octet| *octet == b'\n') {
                let line = self.rest.split_to(end + 1);
                let value = serde_json::from_slice(&line);
                return value.map(Some).map_err(|e| ExchangeError::Protocol(e.to_string()));
            }
            if self.rest.len() > LINE_BYTES {
                return Err(ExchangeError::Protocol("a line without an end".into()));
            }
            match self.reader.read_chunk().await? {
                Some(bytes) => self.rest.extend_from_slice(&bytes),
                None => return Ok(None),
            }
        }
    }

    /// Ends the conversation; resolves once the other end has ended it, too
    ///
    /// # Errors
    /// As [`Self::read`]; a line that still comes is one, too.
    pub async fn end(&mut self) -> Result<(), ExchangeError> {
        self.writer.shut().await?;
        match self.read::<serde::de::IgnoredAny>().await? {
            None => Ok(()),
            Some(_) => Err(ExchangeError::Protocol("an answer without a question".into())),
        }
    }

    /// Asks and waits for the answer
    ///
    /// # Errors
    /// As [`Self::read`]; the end of the flow is one, too.
    pub async fn ask(&mut self, question: Question) -> Result<Answer, ExchangeError> {
        self.write(&question).await?;
        self.read().await?.ok_or_else(|| ExchangeError::Protocol("no answer".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preamble_is_read_back_and_garbage_is_not() {
        let preamble = Preamble {
            verify: Verify::Blake3,
            seed: 7,
            bytes: u64::MAX,
            time: Duration::from_millis(1_500),
        };
        let bytes = preamble.encode();
        assert_eq!(bytes.len(), PREAMBLE_BYTES);
        assert_eq!(Preamble::decode(&bytes), Some(preamble));
        assert_eq!(Preamble::decode(&bytes[1..]), None);
        assert_eq!(Preamble::decode(&[0; PREAMBLE_BYTES]), None);
    }
}
