//! tokio-quiche on BoringSSL behind the `perf` protocol. Its applications are called back with the connection
//! in hand, so they work on `perf` directly instead of on streams.

#![forbid(unsafe_code)]

mod client;
mod endpoint;
mod server;
mod tls;

use std::future::Future;

use peer_harness::Failure;
use peer_harness::command_line::{CallsArgs, HandshakesArgs, LoadArgs, SinkArgs};
use peer_harness::identity::Identity;
use peer_harness::report::{CallsReport, HandshakesReport, LoadReport, Stack};
use peer_harness::run::{Bound, Noted, Roles};

/// Switches of tokio-quiche alone; the defaults are what measured best
#[derive(clap::Args, Clone, Debug)]
struct Extra {
    /// Congestion control, by quiche's name: cubic, reno, bbr2_gcongestion
    #[arg(long, default_value = "cubic", value_name = "NAME")]
    congestion: String,
    /// Spread sends over the round trip
    #[arg(long)]
    pacing: bool,
    /// How much more than the congestion window streams may buffer
    #[arg(long, default_value_t = 1.0, value_name = "FACTOR")]
    send_capacity_factor: f64,
}

struct TokioQuiche;

impl Roles for TokioQuiche {
    type Extra = Extra;

    const STACK: Stack = Stack {
        stack: "tokio-quiche",
        version: env!("STACK_VERSION"),
        crypto: concat!("boring ", env!("CRYPTO_VERSION")),
    };

    fn sink(
        args: &SinkArgs<Extra>,
        identity: Identity,
    ) -> Result<Bound<impl Future<Output = Result<(), Failure>>>, Failure> {
        server::sink(args, &identity)
    }

    async fn load(args: LoadArgs<Extra>, identity: Identity) -> Result<Noted<LoadReport>, Failure> {
        client::load(&args, &identity).await
    }

    async fn calls(
        _args: CallsArgs<Extra>,
        _identity: Identity,
    ) -> Result<Noted<CallsReport>, Failure> {
        Err("calls are measured with peer-quinn and peer-s2n-quic only; run one of those".into())
    }

    async fn handshakes(
        args: HandshakesArgs<Extra>,
        identity: Identity,
    ) -> Result<Noted<HandshakesReport>, Failure> {
        client::handshakes(&args, &identity).await
    }
}

fn main() -> std::process::ExitCode {
    peer_harness::run::main::<TokioQuiche>()
}
