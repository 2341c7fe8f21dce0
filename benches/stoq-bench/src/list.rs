//! `stoq-bench list`: every subcommand with one line, what it needs and whether this host has it.
//! It starts nothing that measures.

use std::path::Path;

use clap::{Args, CommandFactory};
use serde::Serialize;

use crate::command_line::CommandLine;
use crate::host::Fingerprint;
use crate::peers::{Presence, presence};
use crate::render;
use crate::sink::Failure;

/// The schema of a list
const SCHEMA: &str = "stoq.bench.list/1";

/// `stoq-bench list`
#[derive(Args, Clone, Debug)]
pub struct ListArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What a subcommand needs of a host
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Need {
    /// Any Linux that runs the program
    Nothing,
    /// A processor per side; with one, both sides share it and no ceiling is claimed
    TwoProcessors,
    /// Records made before
    Records,
    /// Processors and the programs of the peers, each of which may be absent
    Peers,
}

impl Need {
    const fn text(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::TwoProcessors => "a processor per side",
            Self::Records => "recorded files",
            Self::Peers => "a processor per side, taskset, and the peers below",
        }
    }
}

/// What each subcommand needs; one that is not here has not said it
const NEEDS: [(&str, Need); 18] = [
    ("ablate", Need::TwoProcessors),
    ("ceiling", Need::TwoProcessors),
    ("compare", Need::Records),
    ("control", Need::Nothing),
    ("agree", Need::Nothing),
    ("fingerprint", Need::Nothing),
    ("handshake", Need::TwoProcessors),
    ("identity", Need::Nothing),
    ("latency", Need::TwoProcessors),
    ("list", Need::Nothing),
    ("load", Need::TwoProcessors),
    ("overhead", Need::TwoProcessors),
    ("peers", Need::Peers),
    ("report", Need::Records),
    ("scale", Need::TwoProcessors),
    ("sink", Need::Nothing),
    ("soak", Need::TwoProcessors),
    ("stripe", Need::TwoProcessors),
];

/// A subcommand
#[derive(Debug, Serialize)]
struct Entry {
    name: String,
    about: String,
    /// Absent where it is not known
    needs: Option<&'static str>,
    /// What of that this host lacks
    missing: Option<String>,
}

#[derive(Debug, Serialize)]
struct List {
    schema: &'static str,
    processors: usize,
    subcommands: Vec<Entry>,
    peers: Vec<Presence>,
}

fn missing(need: Need, processors: usize, has_taskset: bool) -> Option<String> {
    match need {
        Need::TwoProcessors | Need::Peers if processors < 2 => {
            Some("this host has one processor: both sides would share it".to_owned())
        }
        Need::Peers if !has_taskset => {
            Some("taskset is not installed: apt-get install util-linux".to_owned())
        }
        _ => None,
    }
}

fn entries(processors: usize, has_taskset: bool) -> Vec<Entry> {
    let command = CommandLine::command();
    let visible = command.get_subcommands().filter(|one| !one.is_hide_set());
    let entry = |one: &clap::Command| {
        let need = NEEDS.iter().find(|(name, _)| *name == one.get_name()).map(|(_, need)| *need);
        Entry {
            name: one.get_name().to_owned(),
            about: one.get_about().map(ToString::to_string).unwrap_or_default(),
            needs: need.map(Need::text),
            missing: need.and_then(|need| missing(need, processors, has_taskset)),
        }
    };
    visible.map(entry).collect()
}

/// `stoq-bench list`
pub fn run(args: &ListArgs) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let processors = Fingerprint::read()?.cpus;
    let has_taskset = Path::new("/usr/bin/taskset").exists() || Path::new("/bin/taskset").exists();
    let list = List {
        schema: SCHEMA,
        processors,
        subcommands: entries(processors, has_taskset),
        peers: runtime.block_on(presence()),
    };
    Ok(render::line(&if args.json { serde_json::to_string(&list)? } else { text(&list) })?)
}

fn text(list: &List) -> String {
    let lacks = |missing: &Option<String>| {
        missing.as_ref().map_or_else(String::new, |what| format!("\n{:16}here: {what}", ""))
    };
    let mut lines: Vec<String> = Vec::new();
    for one in &list.subcommands {
        let needs = one.needs.unwrap_or("unknown");
        lines.push(format!(
            "{:14}  {}\n{:16}needs {needs}{}",
            one.name,
            one.about,
            "",
            lacks(&one.missing)
        ));
    }
    lines.push("peers of `stoq-bench peers`:".to_owned());
    for one in &list.peers {
        let state = one.missing.as_ref().map_or_else(|| "ready".to_owned(), Clone::clone);
        lines.push(format!("  {:12}  {state}", one.name));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_subcommand_says_what_it_is_and_what_it_needs() {
        let all = entries(2, true);
        assert!(all.len() >= 8);
        for one in &all {
            assert!(!one.about.is_empty(), "{} has no line", one.name);
            assert!(
                one.needs.is_some(),
                "{} does not say what it needs: add it to NEEDS",
                one.name
            );
            assert_eq!(one.missing, None);
        }
        assert!(all.iter().any(|one| one.name == "peers"));
        assert!(!all.iter().any(|one| one.name.starts_with("tcp-")));
    }

    #[test]
    fn what_a_host_lacks_is_said() {
        let lacking = |processors, has_taskset| {
            let all = entries(processors, has_taskset);
            let lacking = all.into_iter().filter(|one| one.missing.is_some());
            lacking.map(|one| one.name).collect::<Vec<_>>()
        };
        assert_eq!(lacking(2, false), ["peers"]);
        assert!(lacking(1, true).contains(&"load".to_owned()));
        assert!(!lacking(1, true).contains(&"report".to_owned()));
        let list = List {
            schema: SCHEMA,
            processors: 1,
            subcommands: entries(1, true),
            peers: vec![Presence { name: "haproxy".into(), missing: Some("not installed".into()) }],
        };
        assert!(text(&list).contains("haproxy") && text(&list).contains("not installed"));
        assert!(serde_json::to_value(&list).unwrap()["subcommands"].is_array());
    }
}
