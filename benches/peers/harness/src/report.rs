//! What a peer prints: one JSON object a line on standard output, each with the stack and its version. Words
//! for people go to standard error.

use std::io::Write;

use serde::Serialize;

use crate::Failure;
use crate::command_line::KeyShare;
use crate::perf::Transfer;

/// A stack and its version, as the lock file of this workspace has it
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Stack {
    /// The name
    pub stack: &'static str,
    /// The version
    pub version: &'static str,
    /// What encrypts, with its version
    pub crypto: &'static str,
}

/// Where a sink listens
#[derive(Clone, Debug, Serialize)]
pub struct Listening {
    /// Address and port
    pub address: String,
}

/// One line of a sink
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The first
    Listening(Listening),
    /// A bulk transfer has ended
    Transfer(Transfer),
}

/// `load`
#[derive(Clone, Debug, Serialize)]
pub struct LoadReport {
    /// What was sent, as the sender saw it
    #[serde(flatten)]
    pub transfer: Transfer,
    /// Packets the sender declared lost; absent where the stack does not say
    pub lost_packets: Option<u64>,
}

/// Percentiles in microseconds
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Percentiles {
    /// Half of all
    pub p50: f64,
    /// 90 %
    pub p90: f64,
    /// 99 %
    pub p99: f64,
    /// 99.9 %
    pub p999: f64,
    /// 99.99 %
    pub p9999: f64,
    /// The slowest
    pub max: f64,
}

/// `calls`
#[derive(Clone, Debug, Serialize)]
pub struct CallsReport {
    /// Calls per second that were intended; 0: closed loop
    pub rate: u32,
    /// Calls in flight of a closed loop
    pub in_flight: Option<u32>,
    /// Calls whose latency is in the percentiles
    pub calls: u64,
    /// From the instant a call was intended to the last octet of its answer
    pub latency_us: Percentiles,
    /// Answers that came within the measured time, per second of it
    pub achieved_per_second: f64,
    /// Calls that failed
    pub failed: u64,
    /// Calls without an answer when waiting ended
    pub unanswered: u64,
    /// Processor time of this process in the measured time
    pub cpu_seconds: f64,
}

/// `handshakes`
#[derive(Clone, Debug, Serialize)]
pub struct HandshakesReport {
    /// Connections that both ends had accepted
    pub handshakes: u64,
    /// Of them, per second
    pub per_second: f64,
    /// The key exchange group, the only one that was offered
    pub key_share: KeyShare,
    /// Attempts that failed
    pub failed: u64,
    /// Processor time of this process
    pub cpu_seconds: f64,
}

#[derive(Serialize)]
struct Line<'a, T: Serialize> {
    #[serde(flatten)]
    what: &'a T,
    #[serde(flatten)]
    stack: Stack,
    notes: &'a [String],
}

/// Prints one line
///
/// # Errors
/// Where standard output is gone.
pub fn tell<T: Serialize>(stack: Stack, what: &T, notes: &[String]) -> Result<(), Failure> {
    let mut text = serde_json::to_vec(&Line { what, stack, notes })?;
    text.push(b'\n');
    let mut out = std::io::stdout().lock();
    out.write_all(&text)?;
    out.flush()?;
    Ok(())
}

/// Says something to people
pub fn warn(text: &str) {
    // Nobody is left to tell that standard error is gone.
    let _gone = writeln!(std::io::stderr().lock(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_object_with_the_stack_in_it() {
        let stack = Stack { stack: "x", version: "1.2.3", crypto: "y" };
        let what = Event::Listening(Listening { address: "[::1]:5".into() });
        let text = serde_json::to_value(Line { what: &what, stack, notes: &[] }).unwrap();
        assert_eq!(text["listening"]["address"], "[::1]:5");
        assert_eq!((&text["stack"], &text["version"]), (&"x".into(), &"1.2.3".into()));
    }
}
