//! `stoq-bench report`: tables, a plot and a projection out of recorded files. It measures nothing,
//! and refuses a record that lacks what it must have.

pub mod plot;
mod projection;
pub mod table;

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Deserialize;
use serde_json::Value;

use crate::load::report::CpuUse;
use crate::peers::record::PeersRecord;
use crate::render;
use crate::sink::Failure;

/// Beginning of the schemas of load records, of any version
const LOAD_SCHEMA: &str = "stoq.bench.load/";

/// `stoq-bench report`
#[derive(Args, Clone, Debug)]
pub struct ReportArgs {
    /// Records of `stoq-bench peers --json` or of `stoq-bench load --json`
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Write the tables as Markdown to a file, or to standard output with `-` (the default without
    /// another output)
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
    /// Draw the comparison with peers as SVG
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
    /// Print a model, not a measurement: the cores per side that a port of this many Gb/s would
    /// need, from the cost per octet of load records
    #[arg(long, value_name = "GBPS", conflicts_with = "plot")]
    pub project: Option<f64>,
}

/// Why there is no report
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// Not a record
    #[error(
        "this is no record: write one with `stoq-bench peers --json FILE` or `stoq-bench load \
         --json FILE`"
    )]
    Unknown,
    /// Nothing of the kind that is asked for
    #[error("{0}")]
    Nothing(&'static str),
    /// Records of several hosts
    #[error("the records come from different hosts ({0} and {1}): make one report for each")]
    Hosts(String, String),
    /// The same measurement in two files
    #[error("{peer} at payload {payload} is in two of the files: name the one that counts")]
    Twice {
        /// Which
        peer: String,
        /// At which payload
        payload: u64,
    },
}

/// The part of a load record that is reported
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct LoadRecord {
    /// Which file
    #[serde(skip)]
    pub file: String,
    /// Conditions
    pub start: LoadStart,
    /// Flow octets that arrived in the measured time
    pub bytes: u64,
    /// The measured time
    pub seconds: f64,
    /// Their rate
    pub goodput_gbps: f64,
    /// Whether every flow's count and digest agree
    pub verified: bool,
    /// Octets sent that did not arrive
    pub lost_bytes: Option<u64>,
    /// Goodput over the ceiling
    pub fraction_of_ceiling: Option<f64>,
    /// What one core per side could carry
    pub ceiling_gbps: Option<f64>,
    /// The dearest stage
    pub binding_stage: String,
    /// The sending end
    pub sender: LoadSide,
    /// The receiving end
    pub receiver: LoadSide,
}

/// The conditions of a load that are reported
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct LoadStart {
    /// The host
    pub host: LoadHost,
    /// What packets went over
    pub path: Option<String>,
    /// UDP payload of a full packet
    pub payload_bytes: u64,
}

/// A host, by its name in records
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct LoadHost {
    /// Digest of what it is
    pub id: String,
    /// Processor model
    pub cpu_model: Option<String>,
}

/// One end of a load
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct LoadSide {
    /// Processors kept busy, by kind of thread
    pub cpu: std::collections::BTreeMap<String, CpuUse>,
}

impl LoadSide {
    /// Processors kept busy by all threads
    pub fn cores(&self) -> f64 {
        self.cpu.values().map(|kind| kind.user_cores + kind.system_cores).sum()
    }
}

#[derive(Default)]
struct Records {
    peers: Vec<PeersRecord>,
    loads: Vec<LoadRecord>,
}

impl Records {
    fn read(files: &[PathBuf]) -> Result<Self, Failure> {
        let mut all = Self::default();
        for path in files {
            let named = |cause: &dyn std::fmt::Display| format!("{}: {cause}", path.display());
            let text = std::fs::read_to_string(path).map_err(|cause| named(&cause))?;
            let values = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
            let values: Vec<Value> =
                values.collect::<Result<_, _>>().map_err(|cause| named(&cause))?;
            if values.is_empty() {
                return Err(named(&ReportError::Unknown).into());
            }
            for value in values {
                all.take(path, value).map_err(|cause| named(&cause))?;
            }
        }
        Ok(all)
    }

    fn take(&mut self, path: &Path, value: Value) -> Result<(), Failure> {
        if value["rows"].is_array() {
            let record: PeersRecord = serde_json::from_value(value)?;
            record.check()?;
            self.peers.push(record);
        } else if value["schema"].as_str().is_some_and(|name| name.starts_with(LOAD_SCHEMA)) {
            let record: LoadRecord = serde_json::from_value(value)?;
            let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            self.loads.push(LoadRecord { file, ..record });
        } else {
            return Err(ReportError::Unknown.into());
        }
        Ok(())
    }
}

/// Several comparisons of one host as one; `None` of none
///
/// # Errors
/// [`ReportError`] where they do not belong together.
fn merge(records: Vec<PeersRecord>) -> Result<Option<PeersRecord>, ReportError> {
    let mut records = records.into_iter();
    let Some(mut all) = records.next() else { return Ok(None) };
    for record in records {
        let (one, other) = (&all.fingerprint.id, &record.fingerprint.id);
        if one != other {
            return Err(ReportError::Hosts(one.clone(), other.clone()));
        }
        for row in record.rows {
            let same = |there: &&_| {
                let there: &crate::peers::record::Row = there;
                there.peer == row.peer && there.payload == row.payload
            };
            if all.rows.iter().find(same).is_some() {
                return Err(ReportError::Twice { peer: row.peer, payload: row.payload });
            }
            all.rows.push(row);
        }
        if !all.conditions.date.contains(&record.conditions.date) {
            all.conditions.date += &format!(", {}", record.conditions.date);
        }
    }
    Ok(Some(all))
}

/// `stoq-bench report`
pub fn run(args: &ReportArgs) -> Result<(), Failure> {
    let Records { peers, loads } = Records::read(&args.files)?;
    if let Some(gbps) = args.project {
        return Ok(render::line(projection::text(gbps, &loads)?.trim_end())?);
    }
    let peers = merge(peers)?;
    if let Some(path) = &args.plot {
        let record = peers.as_ref().ok_or(ReportError::Nothing(
            "--plot draws records of `stoq-bench peers`, and none of the files is one",
        ))?;
        put(path, &plot::svg(record)?)?;
    }
    if args.plot.is_some() && args.markdown.is_none() {
        return Ok(());
    }
    let mut parts: Vec<String> = peers.iter().map(table::markdown).collect();
    if !loads.is_empty() {
        parts.push(table::loads_markdown(&loads));
    }
    let text = parts.join("\n");
    match &args.markdown {
        Some(path) if path.as_os_str() != "-" => put(path, &text),
        _ => Ok(render::line(text.trim_end())?),
    }
}

fn put(path: &Path, text: &str) -> Result<(), Failure> {
    Ok(std::fs::write(path, text).map_err(|cause| format!("{}: {cause}", path.display()))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::record::example;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    fn read(text: &str) -> Result<Records, Failure> {
        Records::read(&[file(text).path().to_owned()])
    }

    #[test]
    fn records_are_told_apart_and_anything_else_is_refused() {
        let peers = serde_json::to_string(&example()).unwrap();
        let load = serde_json::to_string(&crate::load::report::example()).unwrap();
        let records = read(&format!("{peers}\n{load}\n{load}")).unwrap();
        assert_eq!((records.peers.len(), records.loads.len()), (1, 2));
        assert_eq!(records.loads[0].start.payload_bytes, 1_452);
        for wrong in ["", "{}", "{\"schema\":\"stoq.quickstart/1\"}", "[1]", "{\"rows\":[]}"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_incomplete_comparison_is_refused_by_the_file_that_holds_it() {
        let mut record = example();
        record.rows[0].ratio_median = None;
        let file = file(&serde_json::to_string(&record).unwrap());
        let error = Records::read(&[file.path().to_owned()]).err().unwrap().to_string();
        assert!(error.contains(&file.path().display().to_string()) && error.contains("missing"));
    }

    #[test]
    fn comparisons_are_merged_only_when_they_belong_together() {
        assert_eq!(merge(Vec::new()).unwrap(), None);
        let mut later = example();
        later.conditions.date = "2026-11-23".into();
        for row in &mut later.rows {
            row.peer += "-next";
        }
        let all = merge(vec![example(), later.clone()]).unwrap().unwrap();
        assert_eq!((all.rows.len(), all.conditions.date.as_str()), (8, "2026-11-22, 2026-11-23"));
        let twice = merge(vec![example(), example()]).unwrap_err();
        assert!(twice.to_string().contains("quinn at payload 1452 is in two"));
        later.fingerprint.id = "other".into();
        assert!(matches!(merge(vec![example(), later]), Err(ReportError::Hosts(_, _))));
    }

    #[test]
    fn a_report_writes_what_was_asked_for() {
        let there = tempfile::tempdir().unwrap();
        let path = |name: &str| there.path().join(name);
        std::fs::write(path("peers.json"), serde_json::to_string(&example()).unwrap()).unwrap();
        let args = ReportArgs {
            files: vec![path("peers.json")],
            markdown: Some(path("peers.md")),
            plot: Some(path("peers.svg")),
            project: None,
        };
        run(&args).unwrap();
        assert!(std::fs::read_to_string(path("peers.md")).unwrap().contains("| quinn 1.2 |"));
        assert!(std::fs::read_to_string(path("peers.svg")).unwrap().contains("</svg>"));
        let projected = ReportArgs { project: Some(40.0), plot: None, ..args };
        assert!(run(&projected).unwrap_err().to_string().contains("load"));
    }
}
