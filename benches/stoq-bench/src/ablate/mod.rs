//! `stoq-bench ablate`: one thing is switched at a time, and the default and the variant run in turn. Says what
//! each thing returns on this host, and where the runs do not show it. It decides nothing about the defaults.

mod row;
mod switches;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use crate::allocator;
use crate::compare::{in_turn, load};
use crate::host::Fingerprint;
use crate::load::report::LoadReport;
use crate::render::line;
use crate::sink::Failure;
use crate::units::{Cores, cores, duration, size_bytes};
pub use row::cpu_ns_per_byte;
use row::{Record, Row};
use switches::{Switch, Unturned, switches};

/// `stoq-bench ablate`
#[derive(Args, Clone, Debug)]
pub struct AblateArgs {
    /// Switches by name; default: all
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub only: Vec<String>,
    /// Pairs of runs per switch
    #[arg(long, default_value_t = 5, value_name = "COUNT")]
    pub pairs: usize,
    /// UDP payload of a full packet, in octets
    #[arg(long, default_value = "1452", value_parser = size_bytes, value_name = "SIZE")]
    pub payload: u64,
    /// Time that each run measures
    #[arg(long, default_value = "3s", value_parser = duration, value_name = "TIME")]
    pub duration: Duration,
    /// Warm-up of each run
    #[arg(long, default_value = "1s", value_parser = duration, value_name = "TIME")]
    pub omit: Duration,
    /// Processor of the sender and processor of the receiver
    #[arg(long, default_value = "0,1", value_parser = cores, value_name = "LIST")]
    pub cores: Cores,
    /// An executable built with another allocator
    #[arg(long, value_name = "PATH")]
    pub allocator_exe: Option<PathBuf>,
    /// Write the rows as JSON to a file, or to standard output with `-`
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Further arguments of every load
    #[arg(last = true, value_name = "ARGUMENTS")]
    pub more: Vec<String>,
}

impl AblateArgs {
    /// Arguments of every load
    fn load_arguments(&self) -> Result<Vec<String>, Failure> {
        let &[sender, receiver] = self.cores.0.as_slice() else {
            return Err("--cores names two processors: the sender's and the receiver's".into());
        };
        let mut all = vec![
            format!("--cores={sender}"),
            format!("--sink-cores={receiver}"),
            format!("--duration={}s", self.duration.as_secs_f64()),
            format!("--omit={}s", self.omit.as_secs_f64()),
            "--no-ceiling".to_owned(),
        ];
        all.extend(self.more.iter().cloned());
        Ok(all)
    }

    fn chosen(&self) -> Result<Vec<Switch>, Failure> {
        let all = switches(self.payload);
        if let Some(unknown) = self.only.iter().find(|name| all.iter().all(|s| s.name != **name)) {
            let mut names: Vec<&str> = all.iter().map(|switch| switch.name).collect();
            names.dedup();
            return Err(format!("no switch {unknown:?}; there are {}", names.join(", ")).into());
        }
        let wanted = |s: &Switch| self.only.is_empty() || self.only.iter().any(|n| n == s.name);
        Ok(all.into_iter().filter(wanted).collect())
    }

    fn is_silent(&self) -> bool {
        self.json.as_ref().is_some_and(|path| path.as_os_str() == "-")
    }
}

/// `stoq-bench ablate`
///
/// # Errors
/// Where a switch is unknown, nothing could be written, or runs failed: those that ended are told first.
pub fn run(args: &AblateArgs) -> Result<(), Failure> {
    let (chosen, base) = (args.chosen()?, args.load_arguments()?);
    if !args.is_silent() {
        line(&row::heading())?;
    }
    let mut rows = Vec::new();
    for switch in &chosen {
        let row = ablate(args, &base, switch);
        if !args.is_silent() {
            line(&row.text())?;
        }
        rows.push(row);
    }
    let failed = rows.iter().filter(|row| row.failed.is_some()).count();
    let record = Record::new(Fingerprint::read()?, args.payload, rows);
    if let Some(path) = &args.json {
        let text = serde_json::to_string(&record)?;
        if args.is_silent() {
            line(&text)?;
        } else {
            std::fs::write(path, text + "\n").map_err(|e| format!("{}: {e}", path.display()))?;
        }
    }
    match failed {
        0 => Ok(()),
        some => Err(format!("{some} of {} switches failed; the rows say why", chosen.len()).into()),
    }
}

/// The executable of the variant, or why there is none
fn other_executable(args: &AblateArgs) -> Result<&Path, String> {
    let Some(path) = &args.allocator_exe else {
        return Err(format!("--allocator-exe is not given; make it with: {}", allocator::BUILD));
    };
    let asked = std::process::Command::new(path).arg("allocator").output();
    let name = asked.map_err(|error| format!("{}: {error}", path.display()))?.stdout;
    let name = String::from_utf8_lossy(&name);
    match name.trim() {
        allocator::OTHER => Ok(path),
        name => Err(format!("{} has the allocator {name:?}, not the other one", path.display())),
    }
}

/// All runs of one switch
fn ablate(args: &AblateArgs, base: &[String], switch: &Switch) -> Row {
    let row = Row::new(switch, args.payload);
    let own = match std::env::current_exe() {
        Ok(own) => own,
        Err(error) => return row.failed(error.to_string()),
    };
    let other = match switch.other_executable.then(|| other_executable(args)) {
        Some(Err(reason)) => return row.skipped(reason),
        Some(Ok(path)) => path,
        None => own.as_path(),
    };
    let mut default = [base, &switch.common].concat();
    let mut variant = [default.as_slice(), &switch.turned].concat();
    let payload = format!("--payload={}", args.payload);
    default.push(payload.clone());
    if !switch.turned.iter().any(|word| word.starts_with("--payload=")) {
        variant.push(payload);
    }
    let sides = [(own.as_path(), &default), (other, &variant)];
    let mut unturned = None;
    let rounds = in_turn(
        args.pairs,
        sides.len(),
        |side| load(sides[side].0, sides[side].1),
        |round, pair: &[LoadReport]| match pair {
            // The first pair tells whether the switch turns anything here; it counts like the others.
            [default, variant] if round == 0 => (switch.check)(default, variant).map_err(|why| {
                let text = why.to_string();
                unturned = Some(why);
                text.into()
            }),
            _ => Ok(()),
        },
    );
    match (rounds, unturned) {
        (Ok(rounds), _) => row.measured(&rounds),
        (Err(_), Some(Unturned::Absent(reason))) => row.skipped(reason),
        (Err(error), _) => row.failed(error.to_string()),
    }
}
