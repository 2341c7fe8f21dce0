//! `stoqctl`: asks `stoqd` over its admin socket and renders the answer. One file per noun under
//! `commands`, all output in `render`. No logic of the product: what can be decided is decided in `stoqd`,
//! `stoq-config` or `stoq-trustchain`.

#![forbid(unsafe_code)]

mod command_line;
mod commands;
mod context;
mod files;
mod human;
mod render;

use std::ffi::OsString;
use std::process::ExitCode as ProcessExit;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use stoq_admin::{ApiError, ExitCode};

use command_line::CommandLine;
use context::Context;
use render::Output;

/// The command tree: for completions, manual pages and tests
pub fn command() -> clap::Command {
    CommandLine::command()
}

/// Runs one command; the arguments begin with the program's name
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ProcessExit {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let line = match CommandLine::try_parse_from(&arguments) {
        Ok(line) => line,
        Err(error) => return ProcessExit::from(u8::from(misused(&arguments, &error))),
    };
    let output = Output::new(&line.flags);
    let (noun, verb) = line.command.name();
    let context = Context::new(stoq_admin::api::schema(noun, verb), &line.flags, output);
    let exit = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => {
            let result = runtime.block_on(line.command.run(&context));
            context.output().finish(context.schema(), result)
        }
        Err(error) => context.output().finish(
            context.schema(),
            Err(ApiError::failed(
                "no-runtime",
                format!("the runtime cannot start: {error}"),
                "the limits of this shell may be too low: see `ulimit -a`",
            )),
        ),
    };
    ProcessExit::from(u8::from(exit))
}

/// Help and version are no errors; everything else clap says is a usage error, in JSON where that was asked
fn misused(arguments: &[OsString], error: &clap::Error) -> ExitCode {
    let wants_json = arguments.iter().take_while(|word| *word != "--").any(|word| word == "--json");
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            render::show_clap(error);
            ExitCode::Done
        }
        _ => {
            if wants_json {
                let refusal = ApiError::usage(
                    "usage",
                    error.kind().to_string(),
                    "see the sentence on the error stream, or --help",
                );
                render::json_error(&stoq_admin::api::schema("usage", "error"), refusal);
            }
            render::show_clap(error);
            ExitCode::Usage
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_tree_is_consistent() {
        super::command().debug_assert();
    }
}
