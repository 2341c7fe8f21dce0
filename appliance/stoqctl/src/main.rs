//! The operator's command. Everything is in the library beside it, where tests can see the command tree.

#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    stoqctl::run(std::env::args_os())
}
