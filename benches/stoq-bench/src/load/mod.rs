//! `stoq-bench load`: ceilings around a run, and what is told about it where. The run itself is `run`'s, the
//! arithmetic `report`'s.

pub mod cost;
mod ends;
pub mod report;
pub mod run;
pub mod sink_process;
pub mod trains;

use std::time::Duration;

use serde::Serialize;

use crate::ceiling::{self, Ceiling, Cipher, Plan};
use crate::command_line::LoadArgs;
use crate::render;
use crate::sink::Failure;
use report::LoadReport;

/// Time of each part of a ceiling that is measured beside a load
const CEILING_TIME: Duration = Duration::from_millis(500);

/// Runs a load and prints it; the report is also returned
pub fn run(args: &LoadArgs) -> Result<LoadReport, Failure> {
    // A core that serves both ends has no ceiling of "one core per side": none is claimed.
    let shared = args.cores.0.iter().any(|core| args.sink_cores.0.contains(core));
    let ceilings_wanted = args.to.is_none() && !args.no_ceiling && !shared;
    // The ciphers are taken out of the stages that contain them: without a ceiling they are measured alone.
    let ciphers_wanted = args.to.is_none() && args.tuning.stages && !ceilings_wanted;
    let before = ceilings_wanted.then(|| measure_ceiling(args)).transpose()?;
    let cipher_before = ciphers_wanted.then(|| measure_cipher(args)).transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(run::carry(args))?;
    let after = ceilings_wanted.then(|| measure_ceiling(args)).transpose()?;
    let cipher_after = ciphers_wanted.then(|| measure_cipher(args)).transpose()?;
    let ceilings = before.zip(after).map(|(before, after)| [before, after]);
    let ciphers = cipher_before.zip(cipher_after).map(|(before, after)| [before, after]);
    let report = outcome.report(ceilings, ciphers)?;
    if args.json_lines {
        tell(&Line::End { report: &report })?;
    } else if !quiet(args) {
        render::end(&report);
    }
    if let Some(path) = &args.json {
        let text = serde_json::to_string(&report)?;
        if path.as_os_str() == "-" {
            render::line(&text)?;
        } else {
            std::fs::write(path, text + "\n").map_err(|e| format!("{}: {e}", path.display()))?;
        }
    }
    Ok(report)
}

/// Whether standard output belongs to the JSON report
fn quiet(args: &LoadArgs) -> bool {
    args.json_lines || args.json.as_ref().is_some_and(|path| path.as_os_str() == "-")
}

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Line<'a> {
    Start { start: &'a report::Start },
    Interval { interval: &'a report::Interval },
    End { report: &'a LoadReport },
}

fn tell(line: &Line<'_>) -> Result<(), Failure> {
    render::line(&serde_json::to_string(line)?)?;
    Ok(())
}

/// The first processor of the sending and of the receiving end
fn cores(args: &LoadArgs) -> (usize, usize) {
    let first = |cores: &[usize]| cores.first().copied().unwrap_or(0);
    let (near, far) = (first(&args.cores.0), first(&args.sink_cores.0));
    if args.reverse { (far, near) } else { (near, far) }
}

fn measure_ceiling(args: &LoadArgs) -> Result<Ceiling, Failure> {
    let (sender_core, receiver_core) = cores(args);
    Ok(ceiling::measure(&Plan {
        sender_core,
        receiver_core,
        payload_bytes: usize::try_from(args.tuning.payload)?,
        time: CEILING_TIME,
        io: args.tuning.io,
    })?)
}

fn measure_cipher(args: &LoadArgs) -> Result<Cipher, Failure> {
    let payload_bytes = usize::try_from(args.tuning.payload)?;
    Ok(ceiling::measure_cipher(cores(args), payload_bytes, CEILING_TIME)?)
}
