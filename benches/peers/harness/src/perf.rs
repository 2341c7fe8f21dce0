//! The framing of draft-banks-quic-performance, without I/O: eight octets that ask for a response, then the
//! upload, then the end. Both halves hash every octet once and do nothing else with it, as the product's own
//! harness does. The measured window begins when the warm-up has passed since the first octet and ends with
//! the last one; within it no clock is read at the receiver.

use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Serialize;
use twox_hash::xxhash3_128::Hasher;

use crate::Failure;
use crate::pattern::{CHUNK_BYTES, Pattern};
use crate::place::cpu_seconds;

/// Octets that ask for a response
pub const HEADER_BYTES: usize = 8;

/// One end's view of a finished transfer
#[derive(Clone, Debug, Serialize)]
pub struct Transfer {
    /// Octets in the measured window
    pub bytes: u64,
    /// Length of the measured window; absent if the transfer ended within the warm-up
    pub seconds: Option<f64>,
    /// Octets in the window over its length
    pub gbps: Option<f64>,
    /// XXH3, 128 bits, of all octets, warm-up included
    pub digest: String,
    /// Processor time of this process in the window
    pub cpu_seconds: Option<f64>,
    /// Octets of the whole transfer
    pub total_bytes: u64,
}

/// When measuring began
#[derive(Clone, Copy, Debug)]
struct Mark {
    at: Instant,
    bytes: u64,
    cpu_seconds: f64,
}

/// Counts and hashes a transfer and opens the measured window
struct Meter {
    hasher: Box<Hasher>,
    bytes: u64,
    omit: Duration,
    first: Option<Instant>,
    mark: Option<Mark>,
}

impl Meter {
    fn new(omit: Duration) -> Self {
        Self { hasher: Box::new(Hasher::new()), bytes: 0, omit, first: None, mark: None }
    }

    /// Opens the window if it is time; the clock is not read once it is open
    fn look_at_clock(&mut self) {
        if self.mark.is_none() {
            let now = Instant::now();
            let first = *self.first.get_or_insert(now);
            if now - first >= self.omit {
                let cpu_seconds = cpu_seconds();
                self.mark = Some(Mark { at: now, bytes: self.bytes, cpu_seconds });
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.look_at_clock();
        self.hasher.write(bytes);
        self.bytes += bytes.len() as u64;
    }

    fn finish(&self) -> Transfer {
        let (now, cpu) = (Instant::now(), cpu_seconds());
        let bytes = self.mark.map_or(0, |mark| self.bytes - mark.bytes);
        let seconds = self.mark.map(|mark| (now - mark.at).as_secs_f64());
        Transfer {
            bytes,
            seconds,
            gbps: seconds.filter(|s| *s > 0.0).map(|s| bytes as f64 * 8.0 / s / 1e9),
            digest: format!("{:032x}", self.hasher.finish_128()),
            cpu_seconds: self.mark.map(|mark| cpu - mark.cpu_seconds),
            total_bytes: self.bytes,
        }
    }
}

/// What a stream asked for
#[derive(Debug)]
pub enum Request {
    /// It carried an upload and wants nothing back
    Upload(Transfer),
    /// It carried nothing and wants nothing: a proof that the connection works
    Empty,
    /// It wants this many octets
    Respond(u64),
}

/// The receiving half of one stream
pub struct Incoming {
    header: [u8; HEADER_BYTES],
    have: usize,
    meter: Meter,
}

impl Incoming {
    /// Before the first octet
    pub fn new(omit: Duration) -> Self {
        Self { header: [0; HEADER_BYTES], have: 0, meter: Meter::new(omit) }
    }

    /// Takes the next octets
    pub fn take(&mut self, mut bytes: &[u8]) {
        if self.have < HEADER_BYTES {
            let take = bytes.len().min(HEADER_BYTES - self.have);
            self.header[self.have..self.have + take].copy_from_slice(&bytes[..take]);
            self.have += take;
            bytes = &bytes[take..];
        }
        // The body of a call is not an upload: nobody compares it.
        if !bytes.is_empty() && self.header == [0; HEADER_BYTES] {
            self.meter.take(bytes);
        }
    }

    /// The stream has ended
    ///
    /// # Errors
    /// Where it ended within its first eight octets.
    pub fn finish(self) -> Result<Request, Failure> {
        if self.have < HEADER_BYTES {
            let have = self.have;
            return Err(format!("a stream ended after {have} octets, before it asked").into());
        }
        Ok(match u64::from_be_bytes(self.header) {
            0 if self.meter.bytes > 0 => Request::Upload(self.meter.finish()),
            0 => Request::Empty,
            octets => Request::Respond(octets),
        })
    }
}

/// The sending half of an upload: an endless pattern, cut off by time
pub struct Outgoing {
    pattern: Pattern,
    meter: Meter,
    end: Option<Instant>,
    time: Duration,
}

impl Outgoing {
    /// An upload that lasts `omit` and then `duration`, counted from its first octet
    pub fn new(seed: u64, omit: Duration, duration: Duration) -> Self {
        let (pattern, meter) = (Pattern::new(seed), Meter::new(omit));
        Self { pattern, meter, end: None, time: omit.saturating_add(duration) }
    }

    /// The octets that go first: no response is wanted
    pub const fn header() -> Bytes {
        Bytes::from_static(&[0; HEADER_BYTES])
    }

    /// The next slice, until the time is over
    pub fn next_chunk(&mut self) -> Option<Bytes> {
        let now = Instant::now();
        let end = *self.end.get_or_insert(now + self.time);
        if now >= end {
            return None;
        }
        let chunk = self.pattern.next_chunk(CHUNK_BYTES as u64);
        self.meter.take(&chunk);
        Some(chunk)
    }

    /// The other end has everything
    pub fn finish(&self) -> Transfer {
        self.meter.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upload(pieces: &[&[u8]], omit: Duration) -> Result<Request, Failure> {
        let mut incoming = Incoming::new(omit);
        pieces.iter().for_each(|piece| incoming.take(piece));
        incoming.finish()
    }

    #[test]
    fn what_is_sent_and_what_arrives_have_one_digest_however_it_is_cut() {
        let mut outgoing = Outgoing::new(7, Duration::ZERO, Duration::from_millis(5));
        let mut all = Outgoing::header().to_vec();
        while let Some(chunk) = outgoing.next_chunk() {
            all.extend_from_slice(&chunk);
        }
        let sent = outgoing.finish();
        assert_eq!(sent.total_bytes, all.len() as u64 - 8);
        for piece in [1_000_000, 1_452, 70_001] {
            let pieces: Vec<&[u8]> = all.chunks(piece).collect();
            let Ok(Request::Upload(got)) = upload(&pieces, Duration::ZERO) else { panic!("none") };
            assert_eq!((got.total_bytes, &got.digest), (sent.total_bytes, &sent.digest));
            assert_eq!(got.bytes, got.total_bytes);
            assert!(got.gbps.is_some_and(|gbps| gbps > 0.0));
        }
        let last = all.len() - 1;
        all[last] ^= 1;
        let Ok(Request::Upload(got)) = upload(&[&all], Duration::ZERO) else { panic!("none") };
        assert_ne!(got.digest, sent.digest);
    }

    #[test]
    fn the_digest_is_the_standard_one() {
        let Ok(Request::Upload(got)) = upload(&[&[0; 8], b"abc"], Duration::ZERO) else {
            panic!("none")
        };
        assert_eq!(got.digest, format!("{:032x}", twox_hash::XxHash3_128::oneshot(b"abc")));
    }

    #[test]
    fn a_transfer_within_the_warm_up_has_no_rate() {
        let hour = Duration::from_secs(3_600);
        let Ok(Request::Upload(got)) = upload(&[&[0; 8], b"abc"], hour) else { panic!("none") };
        assert_eq!((got.bytes, got.total_bytes), (0, 3));
        assert!(got.seconds.is_none() && got.gbps.is_none() && got.cpu_seconds.is_none());
    }

    #[test]
    fn requests_are_told_apart() {
        assert!(matches!(upload(&[&[0; 3], &[0; 5]], Duration::ZERO), Ok(Request::Empty)));
        let call = upload(&[&[0, 0, 0, 0, 0], &[0, 0x0f, 0xa0, 9, 9]], Duration::ZERO);
        assert!(matches!(call, Ok(Request::Respond(4_000))));
        assert!(upload(&[&[0; 7]], Duration::ZERO).is_err());
        assert!(upload(&[], Duration::ZERO).is_err());
    }
}
