//! The command line, the same for every peer. A peer adds its own switches through `Extra`; what is asked is
//! carried out by `run`.

use std::net::SocketAddrV6;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// A QUIC or TLS stack behind the `perf` protocol, for comparison
#[derive(Debug, Parser)]
#[command(disable_version_flag = true)]
pub struct CommandLine<X: Args> {
    /// What to do
    #[command(subcommand)]
    pub command: Command<X>,
}

/// What to do
#[derive(Debug, Subcommand)]
pub enum Command<X: Args> {
    /// Receive, count and digest; answer calls; until standard input is closed
    Sink(SinkArgs<X>),
    /// Send one stream for a time
    Load(LoadArgs<X>),
    /// Make calls at a rate and report their latency
    Calls(CallsArgs<X>),
    /// Make and close connections
    Handshakes(HandshakesArgs<X>),
    /// Print the stack and its version
    Version,
}

/// No switches of its own
#[derive(Args, Clone, Debug, Default)]
pub struct NoExtra {}

/// What every role of a peer needs to know
#[derive(Args, Clone, Debug)]
pub struct Common<X: Args> {
    /// UDP payload of a full packet, in octets; never discovered, always this
    #[arg(long, default_value_t = 1_452, value_name = "OCTETS",
          value_parser = clap::value_parser!(u16).range(1_200..=65_000))]
    pub payload: u16,
    /// Processors that all threads of this process are bound to: `1` or `0,1`
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub core: Vec<usize>,
    /// One identity as a line of JSON: a file, or `-` for standard input
    #[arg(long, default_value = "-", value_name = "FILE")]
    pub identity: PathBuf,
    /// Threads of the runtime
    #[arg(long, default_value_t = 1, value_name = "COUNT",
          value_parser = clap::value_parser!(u16).range(1..=64))]
    pub threads: u16,
    /// The only node that may be at the other end; default: the load for a sink, else the sink
    #[arg(long, value_name = "NODE")]
    pub peer: Option<String>,
    /// Flow control window of a stream, in octets; that of the connection is half as large again
    #[arg(long, value_name = "OCTETS",
          value_parser = clap::value_parser!(u32).range(65_536..=268_435_456))]
    pub stream_window: Option<u32>,
    /// Switches of this stack alone
    #[command(flatten)]
    pub extra: X,
}

/// Flow control windows, in octets
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Windows {
    /// Of a stream
    pub stream: u32,
    /// Of a connection
    pub connection: u32,
}

impl<X: Args> Common<X> {
    /// The windows asked for, or those that suit the stack best
    pub fn windows(&self, best_stream_bytes: u32) -> Windows {
        let stream = self.stream_window.unwrap_or(best_stream_bytes);
        Windows { stream, connection: stream + stream / 2 }
    }
}

/// `sink`
#[derive(Args, Clone, Debug)]
pub struct SinkArgs<X: Args> {
    /// Address to listen on; port 0 takes a free one
    #[arg(long, default_value = "[::1]:0", value_name = "ADDRESS")]
    pub listen: SocketAddrV6,
    /// Warm-up of a transfer, from its first octet, that is not measured
    #[arg(long, default_value = "0s", value_parser = duration, value_name = "TIME")]
    pub omit: Duration,
    /// Common to all
    #[command(flatten)]
    pub common: Common<X>,
}

/// `load`
#[derive(Args, Clone, Debug)]
pub struct LoadArgs<X: Args> {
    /// The sink
    #[arg(long, value_name = "ADDRESS")]
    pub to: SocketAddrV6,
    /// Time to send after the warm-up
    #[arg(long, default_value = "10s", value_parser = duration, value_name = "TIME")]
    pub duration: Duration,
    /// Warm-up that is not measured
    #[arg(long, default_value = "0s", value_parser = duration, value_name = "TIME")]
    pub omit: Duration,
    /// Seed of the pattern
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Key exchange groups to offer; default: X25519MLKEM768 before X25519
    #[arg(long, value_enum)]
    pub key_share: Option<KeyShare>,
    /// Present no certificate: a correct sink refuses
    #[arg(long)]
    pub anonymous: bool,
    /// Common to all
    #[command(flatten)]
    pub common: Common<X>,
}

/// `calls`
#[derive(Args, Clone, Debug)]
pub struct CallsArgs<X: Args> {
    /// The sink
    #[arg(long, value_name = "ADDRESS")]
    pub to: SocketAddrV6,
    /// Calls per second; 0: closed loop, `--in-flight` at a time
    #[arg(long, value_name = "PER_SECOND")]
    pub rate: u32,
    /// Calls in flight of a closed loop
    #[arg(long, default_value_t = 32, value_name = "COUNT",
          value_parser = clap::value_parser!(u32).range(1..=32_768))]
    pub in_flight: u32,
    /// Time to measure, after the warm-up
    #[arg(long, default_value = "10s", value_parser = duration, value_name = "TIME")]
    pub duration: Duration,
    /// Warm-up at the same rate that is not measured
    #[arg(long, default_value = "1s", value_parser = duration, value_name = "TIME")]
    pub omit: Duration,
    /// Octets of a request, the eight that ask for the response among them
    #[arg(long, default_value_t = 512, value_name = "OCTETS",
          value_parser = clap::value_parser!(u32).range(8..=1_048_576))]
    pub request_bytes: u32,
    /// Octets of a response
    #[arg(long, default_value_t = 4_000, value_name = "OCTETS",
          value_parser = clap::value_parser!(u32).range(1..=16_777_216))]
    pub response_bytes: u32,
    /// Common to all
    #[command(flatten)]
    pub common: Common<X>,
}

/// `handshakes`
#[derive(Args, Clone, Debug)]
pub struct HandshakesArgs<X: Args> {
    /// The sink
    #[arg(long, value_name = "ADDRESS")]
    pub to: SocketAddrV6,
    /// Time to measure
    #[arg(long, default_value = "10s", value_parser = duration, value_name = "TIME")]
    pub duration: Duration,
    /// Handshakes in flight
    #[arg(long, default_value_t = 8, value_name = "COUNT",
          value_parser = clap::value_parser!(u32).range(1..=4_096))]
    pub in_flight: u32,
    /// The one key exchange group that is offered
    #[arg(long, value_enum, default_value_t = KeyShare::X25519mlkem768)]
    pub key_share: KeyShare,
    /// Common to all
    #[command(flatten)]
    pub common: Common<X>,
}

/// A key exchange group
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyShare {
    /// X25519
    X25519,
    /// X25519 with ML-KEM-768
    X25519mlkem768,
}

impl KeyShare {
    /// The name in the registry of TLS supported groups
    pub const fn group(self) -> &'static str {
        match self {
            Self::X25519 => "X25519",
            Self::X25519mlkem768 => "X25519MLKEM768",
        }
    }
}

/// Reads a duration: `10s`, `500ms`, `2m`
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?}: write a duration as 500ms, 10s, 1.5s or 2m");
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
    let (number, unit) = text.split_at(end);
    let factor = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        _ => return Err(wrong()),
    };
    let number: f64 = number.parse().map_err(|_| wrong())?;
    Duration::try_from_secs_f64(number * factor).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::<NoExtra>::command().debug_assert();
    }

    #[test]
    fn the_runner_s_words_are_understood() {
        let given =
            "peer load --to [::1]:9 --payload 8952 --core 0 --identity - --duration 5s --omit 1.5s";
        let parsed = CommandLine::<NoExtra>::try_parse_from(given.split(' ')).unwrap();
        let Command::Load(load) = parsed.command else { panic!("not a load") };
        assert_eq!((load.common.payload, load.common.core), (8_952, vec![0]));
        assert_eq!(load.omit, Duration::from_millis(1_500));
        let given = "peer handshakes --to [::1]:9 --key-share x25519mlkem768 --in-flight 8";
        assert!(CommandLine::<NoExtra>::try_parse_from(given.split(' ')).is_ok());
    }

    #[test]
    fn a_bare_number_is_no_duration() {
        assert!(duration("5").is_err());
        assert!(duration("5d").is_err());
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
    }
}
