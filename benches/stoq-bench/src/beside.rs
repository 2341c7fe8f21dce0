//! Other stacks beside a measurement of ours: the same calls or handshakes by their own programs, on the same
//! processors, with certificates made for the run. What they print is read here and judged nowhere.

use std::net::SocketAddrV6;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use crate::bounds::KeyShare;
use crate::identity;
use crate::latency::report::quantiles;
use crate::latency::tally::Quantiles;
use crate::peers::program::{PATIENCE, Program};
use crate::peers::stacks::{Programs, seconds};
use crate::rig::RigArgs;
use crate::sink::Failure;

/// Stacks that make calls and handshakes
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Peer {
    /// quinn
    Quinn,
    /// s2n-quic
    S2nQuic,
    /// tokio-quiche
    TokioQuiche,
    /// TLS 1.3 over TCP by rustls
    TlsTcp,
}

impl Peer {
    /// As its program is named behind `peer-`
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// Stacks whose programs make calls
const CALLERS: [Peer; 2] = [Peer::Quinn, Peer::S2nQuic];

/// Whether every program is there
///
/// # Errors
/// Otherwise: what to type.
pub fn check(peers: &[Peer]) -> Result<(), Failure> {
    peers.iter().try_for_each(|peer| program_of(*peer).map(drop))
}

/// Whether every program is there and makes calls
///
/// # Errors
/// Otherwise: which do, or what to type.
pub fn check_callers(peers: &[Peer]) -> Result<(), Failure> {
    if let Some(peer) = peers.iter().find(|peer| !CALLERS.contains(peer)) {
        let (name, callers) = (peer.name(), CALLERS.map(Peer::name).join(" or "));
        return Err(format!("peer-{name} makes no calls to measure; name {callers}").into());
    }
    check(peers)
}

fn program_of(peer: Peer) -> Result<PathBuf, Failure> {
    let programs = Programs::locate(None)?;
    let name = peer.name();
    programs.of(&name).ok_or_else(|| {
        let remedy = programs.remedy(&name);
        format!("peer-{name} is not built; build it with: {remedy}").into()
    })
}

/// Calls to make
#[derive(Clone, Copy, Debug)]
pub struct CallOrder {
    /// On average
    pub per_second: f64,
    /// Measured time
    pub duration: Duration,
    /// Warm-up
    pub omit: Duration,
    /// Octets up
    pub request_bytes: u64,
    /// Octets back
    pub response_bytes: u64,
}

/// Calls of another stack
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct PeerRun {
    /// Which
    pub peer: String,
    /// Its version
    pub version: String,
    /// What ended in the measured time
    pub achieved_per_second: f64,
    /// From the intended instant to the end
    pub latency_us: Quantiles,
    /// Calls that failed
    pub failed: u64,
    /// Calls that never ended
    pub unanswered: u64,
    /// What it says a reader must know
    pub notes: Vec<String>,
}

impl PeerRun {
    /// In text
    pub fn line(&self) -> String {
        let bad = match self.failed + self.unanswered {
            0 => String::new(),
            bad => format!("; {bad} failed or unanswered"),
        };
        format!(
            "    beside {} {}: {:.0}/s  {}{bad}",
            self.peer,
            self.version,
            self.achieved_per_second,
            quantiles(&self.latency_us)
        )
    }
}

/// Handshakes of another stack
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct PeerHandshakes {
    /// Which
    pub peer: String,
    /// Its version
    pub version: String,
    /// Connections that both ends had accepted
    pub handshakes: u64,
    /// Of them, per second
    pub per_second: f64,
    /// Processor time of this end per handshake
    pub near_cpu_us: Option<f64>,
    /// Processor time of the far end per handshake
    pub far_cpu_us: Option<f64>,
    /// Attempts that failed
    pub failed: u64,
    /// What it says a reader must know
    pub notes: Vec<String>,
}

impl PeerHandshakes {
    /// In text
    pub fn line(&self) -> String {
        let us = |value: Option<f64>| value.map_or("unknown".into(), |us| format!("{us:.0} us"));
        format!(
            "    beside {} {}: {:.0}/s; processor time per handshake {} here, {} at the sink; {} failed",
            self.peer,
            self.version,
            self.per_second,
            us(self.near_cpu_us),
            us(self.far_cpu_us),
            self.failed
        )
    }
}

#[derive(Deserialize)]
struct Ready {
    listening: Listening,
}

#[derive(Deserialize)]
struct Listening {
    address: SocketAddrV6,
}

#[derive(Deserialize)]
struct CallsLine {
    version: String,
    notes: Vec<String>,
    calls: u64,
    latency_us: Percentiles,
    achieved_per_second: f64,
    failed: u64,
    unanswered: u64,
}

#[derive(Deserialize)]
struct Percentiles {
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    p9999: f64,
    max: f64,
}

#[derive(Deserialize)]
struct HandshakesLine {
    version: String,
    notes: Vec<String>,
    handshakes: u64,
    per_second: f64,
    failed: u64,
    cpu_seconds: f64,
}

/// The other stacks of a run
pub struct Beside<'a> {
    peers: &'a [Peer],
    rig: &'a RigArgs,
}

/// What one run of a program left behind
struct Ran<T> {
    line: T,
    sink_cpu_seconds: f64,
}

impl<'a> Beside<'a> {
    /// These stacks, on the processors and with the payload of ours
    pub fn new(peers: &'a [Peer], rig: &'a RigArgs) -> Self {
        Self { peers, rig }
    }

    fn command(
        &self,
        peer: Peer,
        role: &str,
        core: &crate::units::Cores,
    ) -> Result<Command, Failure> {
        let mut command = Command::new(program_of(peer)?);
        command
            .args([role, "--identity", "-", "--payload", &self.rig.tuning.payload.to_string()])
            .args(["--core", &core.to_string()]);
        Ok(command)
    }

    /// A sink of the stack, then its `role` with these words, to the end of both
    async fn run<T: DeserializeOwned>(
        &self,
        peer: Peer,
        role: &str,
        words: &[String],
        within: Duration,
    ) -> Result<Ran<T>, Failure> {
        let [far, near] = identity::make()?;
        let name = peer.name();
        let mut command = self.command(peer, "sink", &self.rig.sink_cores)?;
        command.args(["--listen", "[::1]:0"]);
        let mut sink = Program::start(&format!("peer-{name} sink"), command)?;
        sink.tell(&far).await?;
        let ready: Ready = sink.hear(PATIENCE).await?;
        let before = sink.cpu_seconds()?;
        let mut command = self.command(peer, role, &self.rig.cores)?;
        command.args(["--to", &ready.listening.address.to_string()]).args(words);
        let mut program = Program::start(&format!("peer-{name} {role}"), command)?;
        program.tell(&near).await?;
        let line = program.hear(within + PATIENCE).await?;
        let sink_cpu_seconds = sink.cpu_seconds()? - before;
        program.finish().await?;
        sink.finish().await?;
        Ok(Ran { line, sink_cpu_seconds })
    }

    /// The calls of every stack, one after the other
    ///
    /// # Errors
    /// Naming the program that failed.
    pub async fn calls(&self, order: &CallOrder) -> Result<Vec<PeerRun>, Failure> {
        let words = [
            format!("--rate={:.0}", order.per_second.max(1.0)),
            format!("--duration={}", seconds(order.duration)),
            format!("--omit={}", seconds(order.omit)),
            format!("--request-bytes={}", order.request_bytes),
            format!("--response-bytes={}", order.response_bytes),
        ];
        let mut all = Vec::new();
        for peer in self.peers {
            let within = order.duration + order.omit;
            let line = self.run::<CallsLine>(*peer, "calls", &words, within).await?.line;
            all.push(PeerRun {
                peer: peer.name(),
                version: line.version,
                achieved_per_second: line.achieved_per_second,
                latency_us: Quantiles {
                    count: line.calls,
                    p50_us: line.latency_us.p50,
                    p90_us: line.latency_us.p90,
                    p99_us: line.latency_us.p99,
                    p99_9_us: line.latency_us.p999,
                    p99_99_us: line.latency_us.p9999,
                    max_us: line.latency_us.max,
                },
                failed: line.failed,
                unanswered: line.unanswered,
                notes: line.notes,
            });
        }
        Ok(all)
    }

    /// The handshakes of every stack, one after the other
    ///
    /// # Errors
    /// Naming the program that failed.
    pub async fn handshakes(
        &self,
        share: KeyShare,
        in_flight: usize,
        duration: Duration,
    ) -> Result<Vec<PeerHandshakes>, Failure> {
        let share = share.to_possible_value();
        let share = share.map_or_else(String::new, |value| value.get_name().to_owned());
        let words = [
            format!("--duration={}", seconds(duration)),
            format!("--in-flight={in_flight}"),
            format!("--key-share={share}"),
        ];
        let mut all = Vec::new();
        for peer in self.peers {
            let ran = self.run::<HandshakesLine>(*peer, "handshakes", &words, duration).await?;
            let line = ran.line;
            let each = |cpu: f64| (line.handshakes > 0).then(|| cpu * 1e6 / line.handshakes as f64);
            all.push(PeerHandshakes {
                peer: peer.name(),
                handshakes: line.handshakes,
                per_second: line.per_second,
                near_cpu_us: each(line.cpu_seconds),
                far_cpu_us: each(ran.sink_cpu_seconds),
                failed: line.failed,
                version: line.version,
                notes: line.notes,
            });
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_the_programs_are_read() {
        let stack = r#""stack":"quinn","version":"0.11.12","crypto":"ring","notes":["GSO"]"#;
        let line = format!(r#"{{"listening":{{"address":"[::1]:7"}},{stack}}}"#);
        assert_eq!(serde_json::from_str::<Ready>(&line).unwrap().listening.address.port(), 7);
        let line = format!(
            r#"{{"rate":9,"in_flight":null,"calls":5,"latency_us":{{"p50":1.0,"p90":2.0,"p99":3.0,
               "p999":4.0,"p9999":5.0,"max":6.0}},"achieved_per_second":8.5,"failed":1,
               "unanswered":2,"cpu_seconds":0.5,{stack}}}"#
        );
        let calls: CallsLine = serde_json::from_str(&line).unwrap();
        assert_eq!((calls.calls, calls.latency_us.p9999, calls.unanswered), (5, 5.0, 2));
        let line = format!(
            r#"{{"handshakes":10,"per_second":2.5,"key_share":"x25519","failed":0,
               "cpu_seconds":0.25,{stack}}}"#
        );
        let handshakes: HandshakesLine = serde_json::from_str(&line).unwrap();
        assert_eq!((handshakes.handshakes, handshakes.cpu_seconds), (10, 0.25));
    }

    #[test]
    fn programs_are_named_as_the_command_line_names_them() {
        let names = [Peer::Quinn, Peer::S2nQuic, Peer::TokioQuiche, Peer::TlsTcp].map(Peer::name);
        assert_eq!(names, ["quinn", "s2n-quic", "tokio-quiche", "tls-tcp"]);
    }

    #[test]
    fn a_stack_without_calls_is_refused_by_name() {
        for peer in [Peer::TlsTcp, Peer::TokioQuiche] {
            let error = check_callers(&[peer]).unwrap_err().to_string();
            assert!(error.contains(&peer.name()) && error.contains("quinn or s2n-quic"), "{error}");
        }
        check_callers(&[]).unwrap();
    }
}
