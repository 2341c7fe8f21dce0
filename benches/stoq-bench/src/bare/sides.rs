//! What the two ends of a bare transfer do with their one stream: the same pattern and the same digest as a
//! load's flow, on the thread of the loop. What the figures mean is `report`'s.

use std::time::{Duration, Instant};

use bytes::Bytes;
use stoq_udp::DatagramIo;

use super::quic::{Payload, Quic};
use super::report::{Near, Received, Window};
use super::turn::Program;
use crate::digest::{Digest, Verify};
use crate::pattern::Pattern;
use crate::process::thread_run_and_wait_ns;
use crate::sink::Failure;

/// The first unidirectional stream of the dialling end, as a flow's leg
const STREAM: u64 = 2;
/// Size of the buffer that stream data is read into: as the transport
const READ_BUFFER_BYTES: usize = 128 << 10;
/// The seed of a load's first flow
const SEED: u64 = 0;

/// An instant, the thread's running and waiting time by then, and the octets that have passed
type Mark = (Instant, [u64; 2], u64);

/// Time and processor time of the measured part: from the end of the warm-up to the last octet
struct Clock {
    omit: Duration,
    first: Option<Instant>,
    begun: Option<Mark>,
    ended: Option<Mark>,
}

impl Clock {
    fn new(omit: Duration) -> Self {
        Self { omit, first: None, begun: None, ended: None }
    }

    /// So many octets have passed by now
    fn passed(&mut self, now: Instant, bytes: u64) -> Result<(), Failure> {
        let first = *self.first.get_or_insert(now);
        if self.begun.is_none() && now.duration_since(first) >= self.omit {
            self.begun = Some((now, thread_run_and_wait_ns()?, bytes));
        }
        Ok(())
    }

    fn end(&mut self, bytes: u64) -> Result<(), Failure> {
        self.ended = Some((Instant::now(), thread_run_and_wait_ns()?, bytes));
        Ok(())
    }

    fn window(&self) -> Result<Window, Failure> {
        let (Some(begun), Some(ended)) = (self.begun, self.ended) else {
            return Err("the bare run ended within its warm-up: send longer, or omit less".into());
        };
        Ok(Window {
            nanoseconds: ended.0.duration_since(begun.0).as_nanos() as u64,
            cpu_ns: ended.1[0].saturating_sub(begun.1[0]),
            waited_ns: ended.1[1].saturating_sub(begun.1[1]),
            bytes: ended.2 - begun.2,
        })
    }
}

/// Writes the pattern until its time is over
pub struct Sender {
    pattern: Pattern,
    digest: Digest,
    time: Duration,
    deadline: Option<Instant>,
    pending: Bytes,
    /// Octets that quiche has taken
    sent_bytes: u64,
    opened: bool,
    finished: bool,
    clock: Clock,
}

impl Sender {
    /// Sends for `omit` and `duration` together
    pub fn new(verify: Verify, omit: Duration, duration: Duration) -> Self {
        Self {
            pattern: Pattern::new(SEED),
            digest: Digest::new(verify),
            time: omit + duration,
            deadline: None,
            pending: Bytes::new(),
            sent_bytes: 0,
            opened: false,
            finished: false,
            clock: Clock::new(omit),
        }
    }

    /// Hands slices over until quiche takes no more; whether it took any
    fn fill(&mut self, quic: &mut Quic) -> Result<bool, Failure> {
        let mut moved = false;
        loop {
            let now = Instant::now();
            let deadline = *self.deadline.get_or_insert(now + self.time);
            if self.pending.is_empty() && now >= deadline {
                quic.stream_send(STREAM, &[], true)?;
                self.finished = true;
                self.clock.end(self.sent_bytes)?;
                return Ok(true);
            }
            if self.pending.is_empty() {
                self.pending = self.pattern.next_chunk(u64::MAX);
                self.digest.update(&self.pending);
            }
            // quiche drops the buffer where it cannot take any of it: a clone stays here.
            let offered = Payload(self.pending.clone());
            let taken = match quic.stream_send_zc(STREAM, offered, false) {
                Ok((taken, _)) => taken,
                Err(quiche::Error::Done) => 0,
                Err(error) => return Err(format!("the bare stream takes no bytes: {error}").into()),
            };
            moved |= taken > 0;
            self.sent_bytes += taken as u64;
            bytes::Buf::advance(&mut self.pending, taken);
            self.clock.passed(now, self.sent_bytes)?;
            if !self.pending.is_empty() {
                return Ok(moved);
            }
        }
    }

    /// What this end did
    ///
    /// # Errors
    /// Where the warm-up never ended.
    pub fn sent(&self, io: &dyn DatagramIo) -> Result<Near, Failure> {
        let counters = io.counters();
        Ok(Near {
            sent_bytes: self.digest.bytes(),
            digest: self.digest.trailer().digest,
            window: self.clock.window()?,
            datagrams_sent: counters.datagrams_sent,
            trains_sent: counters.trains_sent,
            io: io.describe().provider.label().to_owned(),
        })
    }
}

impl Program for Sender {
    fn act(&mut self, quic: &mut Quic) -> Result<bool, Failure> {
        let mut moved = false;
        if !self.opened {
            self.opened = true;
            moved |= self.fill(quic)?;
        }
        while let Some(stream) = quic.stream_writable_next() {
            if stream == STREAM && !self.finished {
                moved |= self.fill(quic)?;
            }
        }
        Ok(moved)
    }

    fn is_over(&self, quic: &Quic) -> bool {
        // The receiver closes with code 0 once it has read the end of the stream.
        let closed = quic.peer_error().is_some_and(|error| error.is_app && error.error_code == 0);
        self.finished && closed
    }
}

/// Reads and digests the stream to its end
pub struct Receiver {
    digest: Digest,
    buffer: Vec<u8>,
    clock: Clock,
    over: bool,
}

impl Receiver {
    /// Measures after `omit`
    pub fn new(verify: Verify, omit: Duration) -> Self {
        Self {
            digest: Digest::new(verify),
            buffer: vec![0; READ_BUFFER_BYTES],
            clock: Clock::new(omit),
            over: false,
        }
    }

    fn read(&mut self, quic: &mut Quic, stream: u64) -> Result<bool, Failure> {
        let mut moved = false;
        loop {
            let (length, end) = match quic.stream_recv(stream, &mut self.buffer) {
                Ok(read) => read,
                Err(quiche::Error::Done) => return Ok(moved),
                Err(error) => return Err(format!("the bare stream broke: {error}").into()),
            };
            moved = true;
            self.digest.update(&self.buffer[..length]);
            self.clock.passed(Instant::now(), self.digest.bytes())?;
            if end {
                self.clock.end(self.digest.bytes())?;
                quic.close(true, 0, b"done")?;
                self.over = true;
                return Ok(true);
            }
        }
    }

    /// What came
    ///
    /// # Errors
    /// Where the warm-up never ended.
    pub fn received(&self, io: &dyn DatagramIo) -> Result<Received, Failure> {
        let counters = io.counters();
        Ok(Received {
            received_bytes: self.digest.bytes(),
            digest: self.digest.trailer().digest,
            window: self.clock.window()?,
            datagrams_received: counters.datagrams_received,
            trains_received: counters.trains_received,
            socket_overflows: counters.socket_overflows,
            io: io.describe().provider.label().to_owned(),
        })
    }
}

impl Program for Receiver {
    fn act(&mut self, quic: &mut Quic) -> Result<bool, Failure> {
        let mut moved = false;
        while let Some(stream) = quic.stream_readable_next() {
            moved |= self.read(quic, stream)?;
        }
        Ok(moved)
    }

    fn is_over(&self, quic: &Quic) -> bool {
        // Draining begins when the packet that closes has been built.
        self.over && (quic.is_draining() || quic.is_closed())
    }
}
