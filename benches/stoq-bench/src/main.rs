//! `stoq-bench`: load generator, sink, ceilings and comparison. Every figure it prints was measured in the
//! run that prints it; nothing is projected.

#![forbid(unsafe_code)]

mod ceiling;
mod command_line;
mod compare;
mod digest;
mod exchange;
mod host;
mod identity;
mod load;
mod pattern;
mod process;
mod render;
mod sink;
mod traffic;
mod units;

use std::process::ExitCode;

use clap::Parser;

use command_line::{CeilingArgs, Command, CommandLine};
use sink::Failure;

/// A run ended, but not every byte arrived as it left
const UNSOUND: u8 = 2;

fn main() -> ExitCode {
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
        Command::Ceiling(args) => measure(&args)?,
        Command::Compare(args) => compare::run(&args)?,
        Command::Fingerprint => {
            render::line(&serde_json::to_string_pretty(&host::Fingerprint::read()?)?)?;
        }
        Command::Identity { out } => identity::write_pair(&out)?,
    }
    Ok(ExitCode::SUCCESS)
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
