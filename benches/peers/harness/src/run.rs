//! From the command line to an exit code: binds to the processors, reads the identity, starts the runtime, and
//! carries out one role of a peer.

use std::future::Future;
use std::net::SocketAddr;
use std::process::ExitCode;

use clap::{Args, Parser};
use tokio::runtime::{Builder, Runtime};

use crate::Failure;
use crate::command_line::{
    CallsArgs, Command, CommandLine, Common, HandshakesArgs, LoadArgs, SinkArgs,
};
use crate::identity::{Identity, Role};
use crate::place;
use crate::report::{
    CallsReport, Event, HandshakesReport, Listening, LoadReport, Stack, tell, warn,
};

/// A report, and what there is to say about how it came about
pub type Noted<T> = (T, Vec<String>);

/// A sink that is bound: where, what there is to say, and what serves until it is dropped
pub struct Bound<F> {
    /// Where it listens
    pub address: SocketAddr,
    /// What there is to say about it
    pub notes: Vec<String>,
    /// Serves
    pub serve: F,
}

/// The roles of a peer
pub trait Roles {
    /// Switches of its own
    type Extra: Args + Send + Sync + 'static;
    /// What it is
    const STACK: Stack;
    /// Whether the switches ask for a run without certificates
    fn is_plain(_extra: &Self::Extra) -> bool {
        false
    }
    /// Binds a sink
    fn sink(
        args: &SinkArgs<Self::Extra>,
        identity: Identity,
    ) -> Result<Bound<impl Future<Output = Result<(), Failure>>>, Failure>;
    /// Sends
    fn load(
        args: LoadArgs<Self::Extra>,
        identity: Identity,
    ) -> impl Future<Output = Result<Noted<LoadReport>, Failure>>;
    /// Calls
    fn calls(
        args: CallsArgs<Self::Extra>,
        identity: Identity,
    ) -> impl Future<Output = Result<Noted<CallsReport>, Failure>>;
    /// Connects and closes
    fn handshakes(
        args: HandshakesArgs<Self::Extra>,
        identity: Identity,
    ) -> impl Future<Output = Result<Noted<HandshakesReport>, Failure>>;
}

/// A peer's `main`
pub fn main<R: Roles>() -> ExitCode {
    let command = CommandLine::<R::Extra>::parse().command;
    match carry_out::<R>(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            warn(&format!("peer-{}: {failure}", R::STACK.stack));
            ExitCode::FAILURE
        }
    }
}

fn carry_out<R: Roles>(command: Command<R::Extra>) -> Result<(), Failure> {
    match command {
        Command::Version => tell(R::STACK, &serde_json::Map::new(), &[]),
        Command::Sink(args) => {
            let (runtime, identity) = prepare::<R>(&args.common, Role::Server)?;
            runtime.block_on(sink::<R>(args, identity))
        }
        Command::Load(args) => {
            let (runtime, mut identity) = prepare::<R>(&args.common, Role::Client)?;
            identity.anonymous = args.anonymous;
            let (report, notes) = runtime.block_on(R::load(args, identity))?;
            tell(R::STACK, &report, &notes)
        }
        Command::Calls(args) => {
            let (runtime, identity) = prepare::<R>(&args.common, Role::Client)?;
            let (report, notes) = runtime.block_on(R::calls(args, identity))?;
            tell(R::STACK, &report, &notes)
        }
        Command::Handshakes(args) => {
            let (runtime, identity) = prepare::<R>(&args.common, Role::Client)?;
            let (report, notes) = runtime.block_on(R::handshakes(args, identity))?;
            tell(R::STACK, &report, &notes)
        }
    }
}

fn prepare<R: Roles>(
    common: &Common<R::Extra>,
    role: Role,
) -> Result<(Runtime, Identity), Failure> {
    // Before the runtime: threads inherit the binding.
    place::bind(&common.core)?;
    let identity = if R::is_plain(&common.extra) && common.identity.as_os_str() == "-" {
        Identity::none()
    } else {
        Identity::read(&common.identity, role, common.peer.as_deref())?
    };
    let mut builder = match common.threads {
        1 => Builder::new_current_thread(),
        threads => {
            let mut builder = Builder::new_multi_thread();
            builder.worker_threads(usize::from(threads));
            builder
        }
    };
    Ok((builder.enable_all().build()?, identity))
}

async fn sink<R: Roles>(args: SinkArgs<R::Extra>, identity: Identity) -> Result<(), Failure> {
    let bound = R::sink(&args, identity)?;
    let address = bound.address.to_string();
    tell(R::STACK, &Event::Listening(Listening { address }), &bound.notes)?;
    let ended = input_closed()?;
    tokio::select! {
        outcome = bound.serve => outcome,
        // An end of the sender is an end of the input as well.
        _closed = ended => Ok(()),
    }
}

/// Resolves when standard input is closed: whoever started this process has ended or wants it to
fn input_closed() -> Result<tokio::sync::oneshot::Receiver<()>, Failure> {
    let (tell, told) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("peer-stdin".into()).spawn(move || {
        // Any outcome of the read means the same: nobody is there any more.
        let _ended = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        let _nobody_waits = tell.send(());
    })?;
    Ok(told)
}
