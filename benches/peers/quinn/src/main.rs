//! quinn behind the `perf` protocol: tuned for one fast connection, and kept from sending more at once than a
//! UDP datagram holds.

#![forbid(unsafe_code)]

mod endpoint;
mod socket;

use std::future::Future;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::sync::Arc;

use peer_harness::Failure;
use peer_harness::command_line::{CallsArgs, Common, HandshakesArgs, KeyShare, LoadArgs, SinkArgs};
use peer_harness::identity::Identity;
use peer_harness::report::{CallsReport, HandshakesReport, LoadReport, Stack};
use peer_harness::run::{Bound, Noted, Roles};
use peer_harness::transport;

use endpoint::{Dial, Listen};

/// Switches of quinn alone; the defaults are what measured best
#[derive(clap::Args, Clone, Debug)]
struct Extra {
    /// Most segments of a send with segmentation offload; 0 switches it off; default: as many as fit
    #[arg(long, value_name = "COUNT")]
    segments: Option<usize>,
    /// Packets the other end may leave unacknowledged (draft-ietf-quic-ack-frequency); 0: do not ask
    #[arg(long, default_value_t = 1, value_name = "PACKETS")]
    ack_every: u32,
}

struct Quinn;

fn dialer(
    to: SocketAddrV6,
    common: &Common<Extra>,
    identity: &Identity,
    key_share: Option<KeyShare>,
) -> Result<(Dial, Vec<String>), Failure> {
    let any = if to.ip().is_loopback() { Ipv6Addr::LOCALHOST } else { Ipv6Addr::UNSPECIFIED };
    Dial::new(to, SocketAddrV6::new(any, 0, 0, 0), common, identity, key_share)
}

impl Roles for Quinn {
    type Extra = Extra;

    const STACK: Stack = Stack {
        stack: "quinn",
        version: env!("STACK_VERSION"),
        crypto: concat!("aws-lc-rs ", env!("CRYPTO_VERSION")),
    };

    fn sink(
        args: &SinkArgs<Extra>,
        identity: Identity,
    ) -> Result<Bound<impl Future<Output = Result<(), Failure>>>, Failure> {
        let (listener, address, notes) = Listen::new(args.listen, &args.common, &identity)?;
        let serve = transport::sink(listener, Self::STACK, args.omit);
        Ok(Bound { address, notes, serve })
    }

    async fn load(args: LoadArgs<Extra>, identity: Identity) -> Result<Noted<LoadReport>, Failure> {
        let (dialer, notes) = dialer(args.to, &args.common, &identity, args.key_share)?;
        Ok((transport::load(&dialer, &args).await?, notes))
    }

    async fn calls(
        args: CallsArgs<Extra>,
        identity: Identity,
    ) -> Result<Noted<CallsReport>, Failure> {
        let (dialer, notes) = dialer(args.to, &args.common, &identity, None)?;
        Ok((transport::calls(&dialer, &args).await?, notes))
    }

    async fn handshakes(
        args: HandshakesArgs<Extra>,
        identity: Identity,
    ) -> Result<Noted<HandshakesReport>, Failure> {
        let (dialer, notes) = dialer(args.to, &args.common, &identity, Some(args.key_share))?;
        Ok((transport::handshakes(Arc::new(dialer), &args).await?, notes))
    }
}

fn main() -> std::process::ExitCode {
    peer_harness::run::main::<Quinn>()
}
