//! `stoq-bench`: load generator, sink, ceilings and comparison. Every figure it prints was measured in the
//! run that prints it; nothing is projected.

#![forbid(unsafe_code)]

mod ablate;
mod agree;
mod allocator;
mod bare;
mod beside;
mod bounds;
mod ceiling;
mod command_line;
mod compare;
mod control;
mod digest;
mod exchange;
mod handshake;
mod host;
mod identity;
mod latency;
mod list;
mod load;
mod overhead;
mod pattern;
mod peers;
mod process;
mod render;
mod report;
mod rig;
mod scale;
mod scrape;
mod sink;
mod small;
mod soak;
mod traffic;
mod units;
mod vitals;

use std::process::ExitCode;

use clap::Parser;

use command_line::{CeilingArgs, Command, CommandLine};
use sink::Failure;

/// A run ended, but not every byte arrived as it left
const UNSOUND: u8 = 2;

fn main() -> ExitCode {
    allocator::prepare();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .init();
    match act(CommandLine::parse().command) {
        Ok(code) => code,
        Err(error) => {
            render::warn(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn act(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Sink(args) => sink::run(&args)?,
        Command::Load(args) => {
            if !load::run(&args)?.is_sound() {
                render::warn("bytes are missing or differ: this run proves a defect");
                return Ok(UNSOUND.into());
            }
        }
        Command::Latency(args) => return Ok(verdict(latency::run(&args)?.is_sound())),
        Command::Handshake(args) => return Ok(verdict(handshake::run(&args)?.is_sound())),
        Command::Scale(args) => return Ok(verdict(scale::run(&args)?.is_sound())),
        Command::Soak(args) => return Ok(verdict(soak::run(&args)?.is_sound())),
        Command::Control(args) => return Ok(verdict(control::run(&args)?.is_sound())),
        Command::Agree(args) => return Ok(verdict(agree::run(&args)?.is_sound())),
        Command::AgreeValidator(args) => agree::child::run(&args)?,
        Command::ControlToken(args) => control::run_token(&args)?,
        Command::Ceiling(args) => measure(&args)?,
        Command::Compare(args) => compare::run(&args)?,
        Command::Peers(args) => return peers::run(&args),
        Command::Report(args) => report::run(&args)?,
        Command::List(args) => list::run(&args)?,
        Command::TcpSink(args) => peers::tcp::sink(&args)?,
        Command::TcpSource(args) => peers::tcp::source(&args)?,
        Command::Ablate(args) => ablate::run(&args)?,
        Command::Overhead(args) => overhead::run(&args)?,
        Command::BareLoad(args) => bare::load(&args)?,
        Command::BareSink(args) => bare::sink(&args)?,
        Command::Allocator => render::line(allocator::NAME)?,
        Command::Fingerprint => {
            render::line(&serde_json::to_string_pretty(&host::Fingerprint::read()?)?)?;
        }
        Command::Identity { out } => identity::write_pair(&out)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The exit code of a run that proves something, or did not
fn verdict(sound: bool) -> ExitCode {
    if sound {
        return ExitCode::SUCCESS;
    }
    render::warn("the run does not prove what it set out to; its figures above say why");
    UNSOUND.into()
}

fn measure(args: &CeilingArgs) -> Result<(), Failure> {
    let &[sender_core, receiver_core] = args.cores.0.as_slice() else {
        return Err("--cores names two processors: the sender's and the receiver's".into());
    };
    let ceiling = ceiling::measure(&ceiling::Plan {
        sender_core,
        receiver_core,
        payload_bytes: usize::try_from(args.payload)?,
        time: args.duration,
        io: args.io,
    })?;
    if args.json {
        render::line(&serde_json::to_string(&ceiling)?)?;
    } else {
        render::ceiling(&ceiling);
    }
    Ok(())
}
