//! s2n-quic behind the `perf` protocol, with its rustls provider: tuned for one fast connection.

#![forbid(unsafe_code)]

mod endpoint;

use std::future::Future;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::sync::Arc;

use clap::ValueEnum;
use peer_harness::Failure;
use peer_harness::command_line::{CallsArgs, Common, HandshakesArgs, KeyShare, LoadArgs, SinkArgs};
use peer_harness::identity::Identity;
use peer_harness::report::{CallsReport, HandshakesReport, LoadReport, Stack};
use peer_harness::run::{Bound, Noted, Roles};
use peer_harness::transport;

use endpoint::{Dial, Listen};

/// Congestion control algorithms of s2n-quic
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
enum Congestion {
    /// RFC 9438, paced
    #[default]
    Cubic,
    /// BBR version 2
    Bbr,
}

/// Switches of s2n-quic alone; the defaults are what measured best
#[derive(clap::Args, Clone, Debug)]
struct Extra {
    /// Congestion control
    #[arg(long, value_enum, default_value_t)]
    congestion: Congestion,
    /// Octets of datagrams queued towards the socket
    #[arg(long, default_value_t = 128 << 10, value_name = "OCTETS")]
    send_queue: usize,
    /// Octets of datagrams queued from the socket
    #[arg(long, default_value_t = 512 << 10, value_name = "OCTETS")]
    receive_queue: usize,
    /// Octets a stream keeps until they are acknowledged
    #[arg(long, default_value_t = 2 << 20, value_name = "OCTETS")]
    stream_buffer: u32,
}

struct S2nQuic;

fn dialer(
    to: SocketAddrV6,
    common: &Common<Extra>,
    identity: &Identity,
    key_share: Option<KeyShare>,
) -> Result<(Dial, Vec<String>), Failure> {
    let any = if to.ip().is_loopback() { Ipv6Addr::LOCALHOST } else { Ipv6Addr::UNSPECIFIED };
    Dial::new(to, SocketAddrV6::new(any, 0, 0, 0), common, identity, key_share)
}

impl Roles for S2nQuic {
    type Extra = Extra;

    const STACK: Stack = Stack {
        stack: "s2n-quic",
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
    peer_harness::run::main::<S2nQuic>()
}
