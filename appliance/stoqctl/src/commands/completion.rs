//! `stoqctl completion`: scripts for shells.

use clap::{Args, ValueEnum};
use serde::Serialize;
use stoq_admin::ApiError;

use crate::context::Context;
use crate::render::Report;

/// Prints a completion script for a shell
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  stoqctl completion bash > /etc/bash_completion.d/stoqctl
  stoqctl completion zsh > \"${fpath[1]}/_stoqctl\"
  stoqctl completion fish > ~/.config/fish/completions/stoqctl.fish")]
pub(crate) struct Completion {
    /// The shell
    shell: Shell,
}

#[derive(Clone, Copy, Debug, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

#[derive(Serialize)]
struct Script {
    shell: Shell,
    script: String,
}

impl Completion {
    pub(crate) fn name(&self) -> (&'static str, &'static str) {
        ("completion", "show")
    }

    pub(crate) async fn run(self, context: &Context) -> Result<Report, ApiError> {
        let shell = match self.shell {
            Shell::Bash => clap_complete::Shell::Bash,
            Shell::Zsh => clap_complete::Shell::Zsh,
            Shell::Fish => clap_complete::Shell::Fish,
        };
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut crate::command(), "stoqctl", &mut script);
        let script = String::from_utf8(script).map_err(|error| {
            ApiError::failed("unprintable-script", format!("the script is no text: {error}"), "")
        })?;
        let report = context.report(&Script { shell: self.shell, script: script.clone() })?;
        Ok(report.text(script))
    }
}
