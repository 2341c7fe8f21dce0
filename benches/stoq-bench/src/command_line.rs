//! The command line: what may be asked, with the units in the text. Nothing here acts.

use std::net::SocketAddrV6;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use stoq::{IoPreference, TransportSettings, WorkerPlan, ZeroCopy};
use stoq_interface::CongestionControl;

use crate::bounds::BoundsArgs;
use crate::digest::Verify;
use crate::traffic::{AppThreads, ThreadError};
use crate::units::{Cores, cores, duration, size_bytes};
use crate::{ablate, bare, handshake, latency, overhead, scale, soak};

/// Measures the data plane: verified goodput beside what the same cores could carry
#[derive(Debug, Parser)]
#[command(name = "stoq-bench", version)]
pub struct CommandLine {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What to do
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Receive and verify, or send on request, until interrupted
    Sink(SinkArgs),
    /// Send (or, with --reverse, receive) and report
    Load(Box<LoadArgs>),
    /// Measure what this host's cores could carry: raw UDP, AEAD, memory
    Ceiling(CeilingArgs),
    /// Measure latency on a schedule, at parts of the capacity that is found first
    Latency(Box<latency::args::LatencyArgs>),
    /// Measure full mutual handshakes: rate, cost, time to a session
    Handshake(Box<handshake::HandshakeArgs>),
    /// Measure cost and memory from one connection to very many
    Scale(Box<scale::ScaleArgs>),
    /// Full speed for a long time with every connection replaced again and again
    Soak(Box<soak::SoakArgs>),
    /// Measure the control plane: certificates a second, their latency, the log, revocation
    Control(crate::control::ControlArgs),
    /// Measure the validators' agreement: operations a second, finality, proofs, receipts, culprits
    Agree(crate::agree::AgreeArgs),
    /// One validator of an agree run
    #[command(hide = true)]
    AgreeValidator(crate::agree::child::ValidatorArgs),
    /// The part of a control run whose keys are in SoftHSM
    #[command(hide = true)]
    ControlToken(crate::control::ControlTokenArgs),
    /// Compare recorded runs, or run two loads in turn and compare those
    Compare(CompareArgs),
    /// Measure other stacks and tunnels beside this one, in interleaved pairs
    Peers(crate::peers::PeersArgs),
    /// Make tables, a plot or a projection out of recorded files
    Report(crate::report::ReportArgs),
    /// Name every subcommand and peer, and what this host lacks for it
    List(crate::list::ListArgs),
    /// The receiving end of a tunnel's TCP load
    #[command(hide = true)]
    TcpSink(crate::peers::tcp::SinkArgs),
    /// The sending end of a tunnel's TCP load
    #[command(hide = true)]
    TcpSource(crate::peers::tcp::SourceArgs),
    /// Switch one thing at a time and compare with the default: what each returns
    Ablate(ablate::AblateArgs),
    /// The product beside a bare quiche loop on the same ring: what sessions, verification and metrics cost
    Overhead(overhead::OverheadArgs),
    /// The sending end of a bare quiche loop, which starts the other
    #[command(hide = true)]
    BareLoad(Box<bare::BareLoadArgs>),
    /// The receiving end of a bare quiche loop
    #[command(hide = true)]
    BareSink(Box<bare::BareSinkArgs>),
    /// Print the name of this executable's allocator
    #[command(hide = true)]
    Allocator,
    /// Print what identifies this host in records
    Fingerprint,
    /// Write throwaway identities for a sink and a load on two hosts
    Identity {
        /// Directory to write into
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
}

/// How workers reach the kernel
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum Io {
    /// io_uring where it works
    #[default]
    Auto,
    /// Plain system calls
    SystemCalls,
}

/// Congestion control algorithms
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum Congestion {
    /// RFC 9438
    #[default]
    Cubic,
    /// BBR version 2
    Bbr2,
    /// NewReno
    Reno,
}

/// When sends avoid the kernel's copy
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum ZeroCopyChoice {
    /// Where the kernel says that it does not copy
    #[default]
    Measured,
    /// Never
    Never,
    /// Always
    Always,
}

/// What both ends of a run have in common
#[derive(Args, Clone, Debug)]
pub struct TuningArgs {
    /// UDP payload of a full packet, in octets
    #[arg(long, default_value = "1452", value_parser = size_bytes, value_name = "SIZE")]
    pub payload: u64,
    /// How workers reach the kernel
    #[arg(long, value_enum, default_value_t)]
    pub io: Io,
    /// Workers never sleep
    #[arg(long)]
    pub busy_poll: bool,
    /// Processors of the threads that make and take the bytes; default: those of the workers
    #[arg(long, value_parser = cores, value_name = "LIST")]
    pub app_cores: Option<Cores>,
    /// Congestion control
    #[arg(long, value_enum, default_value_t)]
    pub congestion: Congestion,
    /// Spread sends over the round trip
    #[arg(long)]
    pub pacing: bool,
    /// Connection-level flow control window
    #[arg(long, value_parser = size_bytes, value_name = "SIZE")]
    pub connection_window: Option<u64>,
    /// Stream-level flow control window
    #[arg(long, value_parser = size_bytes, value_name = "SIZE")]
    pub stream_window: Option<u64>,
    /// Window of a flow, from the start
    #[arg(long, value_parser = size_bytes, value_name = "SIZE")]
    pub flow_window: Option<u64>,
    /// Packets per key after which a connection is replaced
    #[arg(long, value_name = "PACKETS")]
    pub replace_after_packets: Option<u64>,
    /// Stripe each flow over one connection per worker
    #[arg(long)]
    pub stripe: bool,
    /// Socket receive buffer
    #[arg(long, value_parser = size_bytes, value_name = "SIZE")]
    pub socket_buffer: Option<u64>,
    /// Receive buffers of 64 KiB
    #[arg(long, value_name = "COUNT")]
    pub receive_buffers: Option<u16>,
    /// Send slabs of 64 KiB
    #[arg(long, value_name = "COUNT")]
    pub send_slabs: Option<u32>,
    /// One datagram per send
    #[arg(long)]
    pub no_gso: bool,
    /// One datagram per receive
    #[arg(long)]
    pub no_gro: bool,
    /// A request of its own for every train received
    #[arg(long)]
    pub no_multishot: bool,
    /// When sends avoid the kernel's copy
    #[arg(long, value_enum, default_value_t)]
    pub zero_copy: ZeroCopyChoice,
    /// Leave the send memory unregistered
    #[arg(long)]
    pub no_registered_buffers: bool,
    /// Ordinary pages for packet memory
    #[arg(long)]
    pub no_huge_pages: bool,
    /// Trains a worker takes in before it answers; default: all that have arrived
    #[arg(long, value_name = "COUNT")]
    pub trains_per_receive: Option<usize>,
    /// Trains a worker sends before it looks at what has arrived
    #[arg(long, value_name = "COUNT")]
    pub trains_per_turn: Option<usize>,
    /// Bind no thread to a processor
    #[arg(long)]
    pub unpinned: bool,
    /// Render the product's metrics page this often, as a scrape does
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub render_metrics_every: Option<Duration>,
    /// Time every datagram and stream call: tells more stages apart, and costs some goodput
    #[arg(long)]
    pub stages: bool,
    /// Limits and lifetimes
    #[command(flatten)]
    pub bounds: BoundsArgs,
}

/// `stoq-bench sink`
#[derive(Args, Clone, Debug)]
pub struct SinkArgs {
    /// Address to listen on; port 0 takes a free one
    #[arg(long, default_value = "[::1]:0", value_name = "ADDRESS")]
    pub listen: SocketAddrV6,
    /// Processors of the workers, one each
    #[arg(long, value_parser = cores, value_name = "LIST")]
    pub cores: Option<Cores>,
    /// Directory made by `stoq-bench identity`; `-` reads one identity as a line of JSON from standard input
    /// and ends when that is closed
    #[arg(long, value_name = "DIR")]
    pub identity: PathBuf,
    /// Print JSON lines
    #[arg(long)]
    pub json: bool,
    /// Transport and I/O
    #[command(flatten)]
    pub tuning: TuningArgs,
}

/// `stoq-bench load`
#[derive(Args, Clone, Debug)]
pub struct LoadArgs {
    /// A running sink; without it one is started on loopback for the time of the run
    #[arg(long, value_name = "ADDRESS", requires = "identity")]
    pub to: Option<SocketAddrV6>,
    /// Directory made by `stoq-bench identity`
    #[arg(long, value_name = "DIR")]
    pub identity: Option<PathBuf>,
    /// Processors of the workers here, one each
    #[arg(long, default_value = "0", value_parser = cores, value_name = "LIST")]
    pub cores: Cores,
    /// Processors of the workers of the sink that is started
    #[arg(long, default_value = "1", value_parser = cores, value_name = "LIST", conflicts_with = "to")]
    pub sink_cores: Cores,
    /// Time to measure, after the warm-up
    #[arg(long, value_parser = duration, value_name = "TIME", conflicts_with = "bytes")]
    pub duration: Option<Duration>,
    /// Octets to send in all, instead of a time
    #[arg(long, value_parser = size_bytes, value_name = "SIZE")]
    pub bytes: Option<u64>,
    /// Warm-up that is not measured; default 2s for a run by time, 0s for a run by octets
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub omit: Option<Duration>,
    /// Time between interval lines
    #[arg(long, default_value = "1s", value_parser = duration, value_name = "TIME")]
    pub interval: Duration,
    /// Flows that carry the load
    #[arg(long, default_value_t = 1, value_name = "COUNT")]
    pub flows: usize,
    /// Sessions, each with a connection of its own
    #[arg(long, default_value_t = 1, value_name = "COUNT")]
    pub connections: usize,
    /// Let the sink send
    #[arg(long)]
    pub reverse: bool,
    /// How bytes are verified at the receiver
    #[arg(long, value_enum, default_value_t)]
    pub verify: Verify,
    /// Replace every connection this often while sending
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub replace_every: Option<Duration>,
    /// Do not measure the host's ceiling before and after
    #[arg(long)]
    pub no_ceiling: bool,
    /// Write the report as JSON to a file, or to standard output with `-`
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Print start, intervals and end as JSON lines instead of text
    #[arg(long)]
    pub json_lines: bool,
    /// Transport and I/O
    #[command(flatten)]
    pub tuning: TuningArgs,
}

/// `stoq-bench ceiling`
#[derive(Args, Clone, Debug)]
pub struct CeilingArgs {
    /// UDP payload of a packet, in octets
    #[arg(long, default_value = "1452", value_parser = size_bytes, value_name = "SIZE")]
    pub payload: u64,
    /// Processor of the sender and processor of the receiver
    #[arg(long, default_value = "0,1", value_parser = cores, value_name = "LIST")]
    pub cores: Cores,
    /// Time of each measurement
    #[arg(long, default_value = "1s", value_parser = duration, value_name = "TIME")]
    pub duration: Duration,
    /// How the raw packets reach the kernel
    #[arg(long, value_enum, default_value_t)]
    pub io: Io,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `stoq-bench compare`
#[derive(Args, Clone, Debug)]
pub struct CompareArgs {
    /// Two files of load reports, one or several per file
    #[arg(value_name = "FILE", conflicts_with = "interleave")]
    pub files: Vec<PathBuf>,
    /// Run the two loads behind `--` in turn, this many pairs
    #[arg(long, value_name = "PAIRS")]
    pub interleave: Option<usize>,
    /// Compare although the records come from different hosts
    #[arg(long)]
    pub force: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// `LOAD ARGUMENTS OF A -- LOAD ARGUMENTS OF B`
    #[arg(last = true, value_name = "ARGUMENTS", requires = "interleave")]
    pub loads: Vec<String>,
}

impl TuningArgs {
    /// Worker plan for these processors
    pub fn plan(&self, cores: &[usize]) -> WorkerPlan {
        let default = WorkerPlan::default();
        let buffer = self.socket_buffer.and_then(|bytes| usize::try_from(bytes).ok());
        WorkerPlan {
            cores: cores.to_vec(),
            io: match self.io {
                Io::Auto => IoPreference::Auto,
                Io::SystemCalls => IoPreference::SystemCalls,
            },
            busy_poll: self.busy_poll,
            receive_buffer_bytes: buffer.unwrap_or(default.receive_buffer_bytes),
            receive_buffers: self.receive_buffers.unwrap_or(default.receive_buffers),
            send_slabs: self.send_slabs.unwrap_or(default.send_slabs),
            huge_pages: !self.no_huge_pages,
            pinned: !self.unpinned,
            gso: !self.no_gso,
            gro: !self.no_gro,
            multishot: !self.no_multishot,
            zero_copy: match self.zero_copy {
                ZeroCopyChoice::Measured => ZeroCopy::Measured,
                ZeroCopyChoice::Never => ZeroCopy::Off,
                ZeroCopyChoice::Always => ZeroCopy::Always,
            },
            registered_buffers: !self.no_registered_buffers,
            trains_per_receive: self.trains_per_receive.unwrap_or(default.trains_per_receive),
            trains_per_turn: self.trains_per_turn.unwrap_or(default.trains_per_turn),
        }
    }

    /// The threads that make and take the bytes, at these processors
    ///
    /// # Errors
    /// [`ThreadError`].
    pub fn app_threads(&self, cores: &[usize]) -> Result<Arc<AppThreads>, ThreadError> {
        AppThreads::start(&self.plan(cores).places())
    }

    /// Transport settings
    pub fn transport(&self) -> TransportSettings {
        let default = TransportSettings::default();
        TransportSettings {
            max_udp_payload_bytes: usize::try_from(self.payload).unwrap_or(usize::MAX),
            congestion_control: match self.congestion {
                Congestion::Cubic => CongestionControl::Cubic,
                Congestion::Bbr2 => CongestionControl::Bbr2,
                Congestion::Reno => CongestionControl::Reno,
            },
            pacing: self.pacing,
            connection_window_bytes: self
                .connection_window
                .unwrap_or(default.connection_window_bytes),
            stream_window_bytes: self.stream_window.unwrap_or(default.stream_window_bytes),
            replace_after_packets: self
                .replace_after_packets
                .unwrap_or(default.replace_after_packets),
            stripe_above_bytes: if self.stripe { default.stripe_above_bytes } else { u64::MAX },
            ..default
        }
    }

    /// These settings as arguments of another process
    pub fn arguments(&self) -> Vec<String> {
        let mut all = vec![format!("--payload={}", self.payload)];
        let mut named = |name: &str, value: Option<String>| {
            all.extend(value.map(|value| format!("--{name}={value}")));
        };
        let value = |v: &dyn Fn() -> Option<clap::builder::PossibleValue>| {
            v().map(|value| value.get_name().to_owned())
        };
        named("io", value(&|| self.io.to_possible_value()));
        named("congestion", value(&|| self.congestion.to_possible_value()));
        named("connection-window", self.connection_window.map(|v| v.to_string()));
        named("stream-window", self.stream_window.map(|v| v.to_string()));
        named("flow-window", self.flow_window.map(|v| v.to_string()));
        named("replace-after-packets", self.replace_after_packets.map(|v| v.to_string()));
        named("socket-buffer", self.socket_buffer.map(|v| v.to_string()));
        named("receive-buffers", self.receive_buffers.map(|v| v.to_string()));
        named("send-slabs", self.send_slabs.map(|v| v.to_string()));
        named("zero-copy", value(&|| self.zero_copy.to_possible_value()));
        named("trains-per-receive", self.trains_per_receive.map(|v| v.to_string()));
        named("trains-per-turn", self.trains_per_turn.map(|v| v.to_string()));
        let every = self.render_metrics_every;
        named("render-metrics-every", every.map(|every| format!("{}s", every.as_secs_f64())));
        let switches = [
            ("busy-poll", self.busy_poll),
            ("pacing", self.pacing),
            ("stripe", self.stripe),
            ("no-gso", self.no_gso),
            ("no-gro", self.no_gro),
            ("no-multishot", self.no_multishot),
            ("no-registered-buffers", self.no_registered_buffers),
            ("no-huge-pages", self.no_huge_pages),
            ("unpinned", self.unpinned),
            ("stages", self.stages),
        ];
        all.extend(switches.iter().filter(|(_, on)| *on).map(|(name, _)| format!("--{name}")));
        all.extend(self.bounds.arguments());
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn tuning_survives_being_passed_on() {
        let given = [
            "stoq-bench",
            "load",
            "--payload",
            "8952",
            "--io",
            "system-calls",
            "--stripe",
            "--stream-window",
            "16MiB",
            "--congestion",
            "bbr2",
            "--send-slabs",
            "8",
        ];
        let Command::Load(load) = CommandLine::try_parse_from(given).unwrap().command else {
            panic!("not a load")
        };
        let passed = ["stoq-bench", "sink", "--identity=-"].map(str::to_owned);
        let passed = passed.into_iter().chain(load.tuning.arguments());
        let Command::Sink(sink) = CommandLine::try_parse_from(passed).unwrap().command else {
            panic!("not a sink")
        };
        assert_eq!(format!("{:?}", sink.tuning), format!("{:?}", load.tuning));
        assert_eq!(sink.tuning.transport().max_udp_payload_bytes, 8_952);
    }

    #[test]
    fn every_switch_reaches_the_plan_on_both_sides() {
        let switches = [
            "--no-gso",
            "--no-gro",
            "--no-multishot",
            "--zero-copy=never",
            "--no-registered-buffers",
            "--no-huge-pages",
            "--trains-per-receive=4",
            "--unpinned",
            "--render-metrics-every=100ms",
        ];
        let parse = |arguments: &[String]| {
            let given = ["stoq-bench", "sink", "--identity=-"].map(str::to_owned);
            let all = given.iter().chain(arguments);
            match CommandLine::try_parse_from(all).unwrap().command {
                Command::Sink(sink) => sink.tuning,
                other => panic!("not a sink: {other:?}"),
            }
        };
        let untouched = parse(&[]).plan(&[3]);
        assert_eq!(format!("{untouched:?}"), {
            let default = WorkerPlan { cores: vec![3], ..WorkerPlan::default() };
            format!("{default:?}")
        });
        for switch in switches {
            let near = parse(&[switch.to_owned()]);
            let far = parse(&near.arguments());
            assert_eq!(format!("{near:?}"), format!("{far:?}"), "{switch}");
            let (plan, metrics) = (far.plan(&[3]), far.render_metrics_every);
            let changed = format!("{plan:?}") != format!("{untouched:?}") || metrics.is_some();
            assert!(changed, "{switch} changes nothing");
        }
        assert_eq!(parse(&["--unpinned".to_owned()]).plan(&[3, 4]).places(), [None, None]);
        assert_eq!(untouched.places(), [Some(3)]);
    }

    #[test]
    fn a_remote_sink_needs_an_identity() {
        let given = ["stoq-bench", "load", "--to", "[::1]:4433"];
        assert!(CommandLine::try_parse_from(given).is_err());
    }
}
