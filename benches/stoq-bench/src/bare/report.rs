//! The report of a bare transfer: goodput as its receiver measured it, and what both ends' threads used for
//! it. The same definitions as a load's report.

use serde::{Deserialize, Serialize};

use crate::digest::{DIGEST_BYTES, Verify};
use crate::sink::Failure;

/// The schema of a record
pub const SCHEMA: &str = "stoq.bench.bare/1";

/// The measured part of a run at one end
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Window {
    /// Its length
    pub nanoseconds: u64,
    /// Processor time of the loop's thread
    pub cpu_ns: u64,
    /// Time that the loop's thread could have run while other work had its processor
    pub waited_ns: u64,
    /// Octets that passed
    pub bytes: u64,
}

impl Window {
    fn cores(&self) -> f64 {
        self.cpu_ns as f64 / self.nanoseconds.max(1) as f64
    }

    fn waited(&self) -> f64 {
        self.waited_ns as f64 / self.nanoseconds.max(1) as f64
    }
}

/// What the sending end did
#[derive(Clone, Debug)]
pub struct Near {
    /// Octets handed to the stream
    pub sent_bytes: u64,
    /// Their digest
    pub digest: [u8; DIGEST_BYTES],
    /// Measured part
    pub window: Window,
    /// UDP datagrams, over the whole run
    pub datagrams_sent: u64,
    /// Sends, over the whole run
    pub trains_sent: u64,
    /// Provider
    pub io: String,
}

/// What the receiving end found
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Received {
    /// Octets read from the stream
    pub received_bytes: u64,
    /// Their digest
    pub digest: [u8; DIGEST_BYTES],
    /// Measured part
    pub window: Window,
    /// UDP datagrams, over the whole run
    pub datagrams_received: u64,
    /// Receives, over the whole run
    pub trains_received: u64,
    /// Packets dropped at the socket
    pub socket_overflows: u64,
    /// Provider
    pub io: String,
}

/// A whole run
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct BareReport {
    /// [`SCHEMA`]
    pub schema: String,
    /// UDP payload of a full packet
    pub payload_bytes: u64,
    /// What the receiver compared
    pub verify: Verify,
    /// Octets that arrived in the measured time
    pub bytes: u64,
    /// The measured time: end of the warm-up to the last octet
    pub seconds: f64,
    /// Octets per time, at the receiver
    pub goodput_gbps: f64,
    /// Whether count and digest agree; false where no digest was taken
    pub verified: bool,
    /// Octets sent that did not arrive, over the whole run
    pub lost_bytes: u64,
    /// Processors that the sending end used
    pub sender_cores: f64,
    /// Processors that the receiving end used
    pub receiver_cores: f64,
    /// Share of the time in which the loop of the end that waited more could have run, but other work of the
    /// host had its processor
    pub waited_share: f64,
    /// Datagrams per send
    pub tx_train_mean: f64,
    /// Datagrams per receive
    pub rx_train_mean: f64,
    /// Packets dropped at the receiver's socket
    pub socket_overflows: u64,
    /// Provider of the sender and of the receiver
    pub io: [String; 2],
    /// Whether what was compared is equal
    pub equal: bool,
}

impl BareReport {
    /// Makes a report
    ///
    /// # Errors
    /// Where nothing arrived in the measured time.
    pub fn of(
        payload_bytes: u64,
        verify: Verify,
        near: Near,
        far: Received,
    ) -> Result<Self, Failure> {
        let window = far.window;
        if window.bytes == 0 || window.nanoseconds == 0 {
            return Err("nothing arrived after the warm-up".into());
        }
        let equal = near.sent_bytes == far.received_bytes && near.digest == far.digest;
        let mean = |all: u64, trains: u64| all as f64 / trains.max(1) as f64;
        Ok(Self {
            schema: SCHEMA.to_owned(),
            payload_bytes,
            verify,
            bytes: window.bytes,
            seconds: window.nanoseconds as f64 / 1e9,
            goodput_gbps: window.bytes as f64 * 8.0 / window.nanoseconds as f64,
            verified: equal && verify != Verify::None,
            lost_bytes: near.sent_bytes.abs_diff(far.received_bytes),
            sender_cores: near.window.cores(),
            receiver_cores: window.cores(),
            waited_share: near.window.waited().max(window.waited()),
            tx_train_mean: mean(near.datagrams_sent, near.trains_sent),
            rx_train_mean: mean(far.datagrams_received, far.trains_received),
            socket_overflows: far.socket_overflows,
            io: [near.io, far.io],
            equal,
        })
    }

    /// Whether all bytes arrived and, where digests were on, are equal
    pub fn is_sound(&self) -> bool {
        self.equal
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(verify: Verify, received_bytes: u64, digest: u8) -> BareReport {
        let window = Window {
            nanoseconds: 2_000_000_000,
            cpu_ns: 1_000_000_000,
            waited_ns: 500_000_000,
            bytes: 500,
        };
        let near = Near {
            sent_bytes: 1_000,
            digest: [7; DIGEST_BYTES],
            window,
            datagrams_sent: 40,
            trains_sent: 10,
            io: "io_uring".into(),
        };
        let far = Received {
            received_bytes,
            digest: [digest; DIGEST_BYTES],
            window: Window { bytes: 1_000_000_000, waited_ns: 0, ..window },
            datagrams_received: 40,
            trains_received: 20,
            socket_overflows: 0,
            io: "io_uring".into(),
        };
        BareReport::of(1_452, verify, near, far).unwrap()
    }

    #[test]
    fn goodput_is_the_receivers() {
        let report = run(Verify::Xxh3, 1_000, 7);
        assert_eq!((report.goodput_gbps, report.seconds), (4.0, 2.0));
        assert_eq!((report.sender_cores, report.receiver_cores), (0.5, 0.5));
        assert_eq!(report.waited_share, 0.25);
        assert_eq!((report.tx_train_mean, report.rx_train_mean), (4.0, 2.0));
        assert!(report.verified && report.is_sound() && report.lost_bytes == 0);
    }

    #[test]
    fn missing_and_changed_bytes_are_found_and_no_digest_is_not_called_verified() {
        let missing = run(Verify::Xxh3, 999, 7);
        assert!(!missing.is_sound() && !missing.verified && missing.lost_bytes == 1);
        let changed = run(Verify::Xxh3, 1_000, 8);
        assert!(!changed.is_sound() && !changed.verified);
        let counted = run(Verify::None, 1_000, 7);
        assert!(counted.is_sound() && !counted.verified);
    }
}
