//! `stoq-bench overhead`: the product and a bare quiche loop carry the same bytes in turn, so that what sessions,
//! flows, verification and metrics cost is a ratio of runs side by side. The loop itself is `bare`'s.

mod row;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use crate::bare::{BareReport, name_of};
use crate::compare::{in_turn, load};
use crate::digest::Verify;
use crate::host::Fingerprint;
use crate::render::line;
use crate::sink::Failure;
use crate::units::{Cores, cores, duration, size_bytes};
use row::{Carried, Contender, Record, Run, rows};

/// `stoq-bench overhead`
#[derive(Args, Clone, Debug)]
pub struct OverheadArgs {
    /// Rounds: in each, every contender runs once
    #[arg(long, default_value_t = 10, value_name = "COUNT")]
    pub pairs: usize,
    /// UDP payloads of a full packet, in octets
    #[arg(long, default_value = "1452,8952", value_delimiter = ',', value_parser = size_bytes, value_name = "SIZES")]
    pub payload: Vec<u64>,
    /// Time that each run measures
    #[arg(long, default_value = "3s", value_parser = duration, value_name = "TIME")]
    pub duration: Duration,
    /// Warm-up of each run
    #[arg(long, default_value = "1s", value_parser = duration, value_name = "TIME")]
    pub omit: Duration,
    /// Processor of the sender and processor of the receiver
    #[arg(long, default_value = "0,1", value_parser = cores, value_name = "LIST")]
    pub cores: Cores,
    /// Write the rows as JSON to a file, or to standard output with `-`
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Further transport and I/O arguments of every run
    #[arg(last = true, value_name = "ARGUMENTS")]
    pub more: Vec<String>,
}

impl OverheadArgs {
    fn arguments(&self, payload: u64) -> Result<Vec<String>, Failure> {
        let &[sender, receiver] = self.cores.0.as_slice() else {
            return Err("--cores names two processors: the sender's and the receiver's".into());
        };
        let mut all = vec![
            format!("--cores={sender}"),
            format!("--sink-cores={receiver}"),
            format!("--duration={}s", self.duration.as_secs_f64()),
            format!("--omit={}s", self.omit.as_secs_f64()),
            format!("--payload={payload}"),
        ];
        all.extend(self.more.iter().cloned());
        Ok(all)
    }
}

/// `stoq-bench overhead`
///
/// # Errors
/// Where a run fails or not every byte arrives as it left.
pub fn run(args: &OverheadArgs) -> Result<(), Failure> {
    let silent = args.json.as_ref().is_some_and(|path| path.as_os_str() == "-");
    let program = std::env::current_exe()?;
    let mut runs = Vec::new();
    for payload in &args.payload {
        let arguments = args.arguments(*payload)?;
        let rounds = in_turn(
            args.pairs,
            Contender::ALL.len(),
            |index| carry(&program, Contender::ALL[index], &arguments),
            |round, carried| {
                if silent { Ok(()) } else { Ok(line(&row::round_text(*payload, round, carried))?) }
            },
        )?;
        for (round, carried) in rounds.into_iter().enumerate() {
            let named = Contender::ALL.into_iter().zip(carried);
            runs.extend(named.map(|(contender, carried)| Run {
                payload_bytes: *payload,
                round,
                contender,
                carried,
            }));
        }
    }
    let record = Record::new(Fingerprint::read()?, rows(&runs), runs);
    if !silent {
        line(&row::heading())?;
        for row in &record.rows {
            line(&row.text())?;
        }
        line(row::FOOTNOTE)?;
    }
    if let Some(path) = &args.json {
        let text = serde_json::to_string(&record)?;
        if silent {
            line(&text)?;
        } else {
            std::fs::write(path, text + "\n").map_err(|e| format!("{}: {e}", path.display()))?;
        }
    }
    Ok(())
}

/// One run of one contender, as processes of its own
fn carry(program: &Path, contender: Contender, arguments: &[String]) -> Result<Carried, Failure> {
    let mut arguments = arguments.to_vec();
    match contender {
        Contender::Product | Contender::ProductScraped => {
            arguments.extend(["--no-ceiling".to_owned(), verify(Verify::Xxh3)]);
            if contender == Contender::ProductScraped {
                arguments.push(format!("--render-metrics-every={}ms", row::SCRAPE_MS));
            }
            Ok(Carried::of_load(&load(program, &arguments)?))
        }
        Contender::Bare => {
            arguments.push(verify(Verify::None));
            Ok(Carried::of_bare(&bare_load(program, &arguments)?))
        }
        Contender::BareVerified => {
            arguments.push(verify(Verify::Xxh3));
            Ok(Carried::of_bare(&bare_load(program, &arguments)?))
        }
    }
}

fn verify(verify: Verify) -> String {
    format!("--verify={}", name_of(verify))
}

fn bare_load(program: &Path, arguments: &[String]) -> Result<BareReport, Failure> {
    let output = std::process::Command::new(program)
        .arg("bare-load")
        .args(arguments)
        .stderr(std::process::Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(format!("a bare run failed ({}); its complaint is above", output.status).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}
