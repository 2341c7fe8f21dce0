//! msquic behind the `perf` protocol, through msquic-async, which wraps it without leaving unsafe code to its
//! users. What that wrapper does not reach is said in the notes of every report.

#![forbid(unsafe_code)]

mod credentials;
mod endpoint;

use std::future::Future;
use std::sync::Arc;

use clap::ValueEnum;
use peer_harness::Failure;
use peer_harness::command_line::{CallsArgs, HandshakesArgs, KeyShare, LoadArgs, SinkArgs};
use peer_harness::identity::Identity;
use peer_harness::report::{CallsReport, HandshakesReport, LoadReport, Stack};
use peer_harness::run::{Bound, Noted, Roles};
use peer_harness::transport;

use endpoint::{Dial, Listen};

/// How msquic divides its work among threads
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
enum Profile {
    /// Datagrams and connections in one thread
    #[default]
    LowLatency,
    /// Datagrams and connections in two
    MaxThroughput,
}

/// Switches of msquic alone; the defaults are what measured best
#[derive(clap::Args, Clone, Debug)]
struct Extra {
    /// Execution profile
    #[arg(long, value_enum, default_value_t)]
    profile: Profile,
}

struct MsQuic;

/// Its quictls is older than the post-quantum groups
fn offers(key_share: Option<KeyShare>) -> Result<(), Failure> {
    match key_share {
        Some(KeyShare::X25519mlkem768) => {
            Err("the TLS stack inside msquic has no X25519MLKEM768; use --key-share x25519".into())
        }
        Some(KeyShare::X25519) | None => Ok(()),
    }
}

impl Roles for MsQuic {
    type Extra = Extra;

    const STACK: Stack = Stack {
        stack: "msquic",
        version: env!("STACK_VERSION"),
        crypto: concat!("its own quictls; msquic-async ", env!("WRAPPER_VERSION")),
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
        offers(args.key_share)?;
        let (dialer, notes) = Dial::new(args.to, &args.common, &identity)?;
        Ok((transport::load(&dialer, &args).await?, notes))
    }

    async fn calls(
        args: CallsArgs<Extra>,
        identity: Identity,
    ) -> Result<Noted<CallsReport>, Failure> {
        let (dialer, notes) = Dial::new(args.to, &args.common, &identity)?;
        Ok((transport::calls(&dialer, &args).await?, notes))
    }

    async fn handshakes(
        args: HandshakesArgs<Extra>,
        identity: Identity,
    ) -> Result<Noted<HandshakesReport>, Failure> {
        offers(Some(args.key_share))?;
        let (dialer, notes) = Dial::new(args.to, &args.common, &identity)?;
        Ok((transport::handshakes(Arc::new(dialer), &args).await?, notes))
    }
}

fn main() -> std::process::ExitCode {
    peer_harness::run::main::<MsQuic>()
}
