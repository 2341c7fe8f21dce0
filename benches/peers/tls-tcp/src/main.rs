//! What most would run instead: TLS 1.3 by rustls over one TCP connection, and the same without TLS as a
//! yardstick. One stream per connection; calls, which want many, are not offered.

#![forbid(unsafe_code)]

mod connection;
mod session;

use std::future::Future;
use std::sync::Arc;

use peer_harness::Failure;
use peer_harness::command_line::{CallsArgs, HandshakesArgs, LoadArgs, SinkArgs};
use peer_harness::identity::Identity;
use peer_harness::report::{CallsReport, HandshakesReport, LoadReport, Stack};
use peer_harness::run::{Bound, Noted, Roles};
use peer_harness::transport;

use connection::{Dial, Listen};

/// Switches of this peer alone; the defaults are what measured best
#[derive(clap::Args, Clone, Debug)]
struct Extra {
    /// TCP without TLS: a yardstick, not a peer
    #[arg(long)]
    plain: bool,
    /// Octets encrypted and handed to the kernel at once
    #[arg(long, default_value_t = 256 << 10, value_name = "OCTETS",
          value_parser = clap::value_parser!(u32).range(1_024..=1_048_576))]
    piece: u32,
    /// Octets taken from the kernel at once
    #[arg(long, default_value_t = 256 << 10, value_name = "OCTETS",
          value_parser = clap::value_parser!(u32).range(32_768..=16_777_216))]
    read_buffer: u32,
}

struct TlsTcp;

impl Roles for TlsTcp {
    type Extra = Extra;

    const STACK: Stack = Stack {
        stack: "rustls-tcp",
        version: env!("STACK_VERSION"),
        crypto: concat!("aws-lc-rs ", env!("CRYPTO_VERSION")),
    };

    fn is_plain(extra: &Extra) -> bool {
        extra.plain
    }

    fn sink(
        args: &SinkArgs<Extra>,
        identity: Identity,
    ) -> Result<Bound<impl Future<Output = Result<(), Failure>>>, Failure> {
        let (listener, address, notes) = Listen::new(args.listen, &args.common, &identity)?;
        let serve = transport::sink(listener, Self::STACK, args.omit);
        Ok(Bound { address, notes, serve })
    }

    async fn load(args: LoadArgs<Extra>, identity: Identity) -> Result<Noted<LoadReport>, Failure> {
        let (dialer, notes) = Dial::new(args.to, &args.common, &identity, args.key_share)?;
        Ok((transport::load(&dialer, &args).await?, notes))
    }

    async fn calls(
        _args: CallsArgs<Extra>,
        _identity: Identity,
    ) -> Result<Noted<CallsReport>, Failure> {
        Err("one TCP connection carries one stream: run calls with peer-quinn or peer-s2n-quic"
            .into())
    }

    async fn handshakes(
        args: HandshakesArgs<Extra>,
        identity: Identity,
    ) -> Result<Noted<HandshakesReport>, Failure> {
        let share = Some(args.key_share);
        let (dialer, notes) = Dial::new(args.to, &args.common, &identity, share)?;
        if args.common.extra.plain {
            return Err("TCP without TLS has no handshake to measure; leave --plain out".into());
        }
        Ok((transport::handshakes(Arc::new(dialer), &args).await?, notes))
    }
}

fn main() -> std::process::ExitCode {
    peer_harness::run::main::<TlsTcp>()
}
