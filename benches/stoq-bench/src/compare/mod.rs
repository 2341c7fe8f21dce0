//! Two sets of load records side by side: medians, ratios, spread. Records of different hosts are refused:
//! their ratio would say nothing about the code.

pub mod statistics;

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::command_line::CompareArgs;
use crate::load::report::LoadReport;
use crate::render;
use crate::sink::Failure;
use statistics::Spread;

/// The schema of a record
pub const SCHEMA: &str = "stoq.bench.compare/1";

/// Why two sets of records are not compared
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CompareError {
    /// A file without records
    #[error("{0} holds no load report; write one with `stoq-bench load --json FILE`")]
    Empty(String),
    /// Records of several hosts
    #[error(
        "the records come from different hosts ({0} and {1}); --force compares them all the same"
    )]
    Hosts(String, String),
    /// Not exactly two loads or files
    #[error("name two files, or two loads: --interleave PAIRS -- ARGUMENTS OF A -- ARGUMENTS OF B")]
    Two,
    /// A load could not be run
    #[error("a load failed ({status}); its complaint is above")]
    Load {
        /// How it ended
        status: String,
    },
}

/// One figure on both sides
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Figure {
    /// Its name, unit last
    pub name: String,
    /// Of A
    pub a: Spread,
    /// Of B
    pub b: Spread,
    /// B over A: of medians, or median over pairs where the runs came in pairs
    pub ratio: Spread,
}

/// A comparison
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Comparison {
    /// [`SCHEMA`]
    pub schema: String,
    /// Hosts, equal unless forced
    pub hosts: [String; 2],
    /// Whether ratios are taken pair by pair
    pub paired: bool,
    /// Figures
    pub figures: Vec<Figure>,
}

/// What is compared: name and how to read it
type Reading = (&'static str, fn(&LoadReport) -> Option<f64>);

const READINGS: [Reading; 5] = [
    ("goodput_gbps", |report| Some(report.goodput_gbps)),
    ("fraction_of_ceiling", |report| report.fraction_of_ceiling),
    ("sender_tx_train_mean", |report| report.sender.tx_train_mean),
    ("receiver_rx_train_mean", |report| report.receiver.rx_train_mean),
    ("ack_ratio", |report| report.ack_ratio),
];

/// Compares two sets
///
/// # Errors
/// [`CompareError::Hosts`] unless forced.
pub fn compare(
    a: &[LoadReport],
    b: &[LoadReport],
    paired: bool,
    force: bool,
) -> Result<Comparison, CompareError> {
    let host = |reports: &[LoadReport]| reports.first().map(|r| r.start.host.id.clone());
    let (Some(host_a), Some(host_b)) = (host(a), host(b)) else {
        return Err(CompareError::Empty("one side".into()));
    };
    let stranger = a.iter().chain(b).map(|r| &r.start.host.id).find(|id| **id != host_a);
    if let (Some(stranger), false) = (stranger, force) {
        return Err(CompareError::Hosts(host_a, stranger.clone()));
    }
    let figure = |(name, read): &Reading| {
        let values = |reports: &[LoadReport]| reports.iter().filter_map(read).collect::<Vec<_>>();
        let (of_a, of_b) = (values(a), values(b));
        let (spread_a, spread_b) = (Spread::of(&of_a)?, Spread::of(&of_b)?);
        let ratios: Vec<f64> = if paired && of_a.len() == of_b.len() {
            of_a.iter().zip(&of_b).map(|(a, b)| b / a).collect()
        } else {
            vec![spread_b.median / spread_a.median]
        };
        Some(Figure {
            name: (*name).to_owned(),
            a: spread_a,
            b: spread_b,
            ratio: Spread::of(&ratios)?,
        })
    };
    Ok(Comparison {
        schema: SCHEMA.to_owned(),
        hosts: [host_a, host_b],
        paired,
        figures: READINGS.iter().filter_map(figure).collect(),
    })
}

/// `stoq-bench compare`
pub fn run(args: &CompareArgs) -> Result<(), Failure> {
    let comparison = match (args.interleave, args.files.as_slice()) {
        (Some(pairs), []) => {
            let (a, b) = interleave(pairs, &args.loads, args.json)?;
            compare(&a, &b, true, args.force)?
        }
        (None, [a, b]) => compare(&read(a)?, &read(b)?, false, args.force)?,
        _ => return Err(CompareError::Two.into()),
    };
    if args.json {
        render::line(&serde_json::to_string(&comparison)?)?;
    } else {
        render::comparison(&comparison);
    }
    Ok(())
}

/// Every load report of a file: one, or several one after the other
fn read(path: &Path) -> Result<Vec<LoadReport>, Failure> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let reports: Vec<LoadReport> = serde_json::Deserializer::from_str(&text)
        .into_iter()
        .collect::<Result<_, _>>()
        .map_err(|e| format!("{}: {e}", path.display()))?;
    if reports.is_empty() {
        return Err(CompareError::Empty(path.display().to_string()).into());
    }
    Ok(reports)
}

/// Runs A and B in turn; every other pair begins with B, so that a drift of the host favours neither
fn interleave(
    pairs: usize,
    loads: &[String],
    silent: bool,
) -> Result<(Vec<LoadReport>, Vec<LoadReport>), Failure> {
    let mut parts = loads.split(|word| word == "--");
    let (Some(a), Some(b), None) = (parts.next(), parts.next(), parts.next()) else {
        return Err(CompareError::Two.into());
    };
    let program = std::env::current_exe()?;
    let sides = [a, b];
    let rounds = in_turn(
        pairs,
        sides.len(),
        |side| load(&program, sides[side]),
        |pair, reports| {
            if let (false, [a, b]) = (silent, reports) {
                render::pair(pair, a, b);
            }
            Ok(())
        },
    )?;
    let pairs = rounds.into_iter().filter_map(|round| <[LoadReport; 2]>::try_from(round).ok());
    Ok(pairs.map(<(LoadReport, LoadReport)>::from).unzip())
}

/// Runs `count` things in turn, `rounds` times. Every other round goes backwards, so that a drift of the host
/// favours none. Tells of each round when it is done; returns the rounds, each in the order of the things.
///
/// # Errors
/// The first run that fails, or round that is told of in vain, ends it.
pub fn in_turn<T>(
    rounds: usize,
    count: usize,
    mut run: impl FnMut(usize) -> Result<T, Failure>,
    mut tell: impl FnMut(usize, &[T]) -> Result<(), Failure>,
) -> Result<Vec<Vec<T>>, Failure> {
    let mut all = Vec::new();
    for round in 0..rounds.max(1) {
        let mut results = Vec::with_capacity(count);
        if round.is_multiple_of(2) {
            for thing in 0..count {
                results.push(run(thing)?);
            }
        } else {
            for thing in (0..count).rev() {
                results.push(run(thing)?);
            }
            results.reverse();
        }
        tell(round, &results)?;
        all.push(results);
    }
    Ok(all)
}

/// Runs a load as a process of its own
///
/// # Errors
/// [`CompareError::Load`] where it fails, or where not every byte arrived as it left.
pub fn load(program: &Path, arguments: &[String]) -> Result<LoadReport, Failure> {
    let output = std::process::Command::new(program)
        .arg("load")
        .args(arguments)
        .args(["--json", "-"])
        .stderr(std::process::Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(CompareError::Load { status: output.status.to_string() }.into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::report::example;

    fn with(host: &str, gbps: f64) -> LoadReport {
        let mut report = example();
        report.start.host.id = host.to_owned();
        report.goodput_gbps = gbps;
        report
    }

    #[test]
    fn different_hosts_are_refused_unless_forced() {
        let (a, b) = ([with("one", 5.0)], [with("one", 6.0), with("two", 6.0)]);
        let refused = compare(&a, &b, false, false);
        assert_eq!(refused, Err(CompareError::Hosts("one".into(), "two".into())));
        assert!(compare(&a, &b, false, true).is_ok());
        assert!(compare(&a, &[], false, true).is_err());
    }

    #[test]
    fn pairs_are_compared_pair_by_pair() {
        // A drift that doubles both sides leaves every pair's ratio alone.
        let a = [with("h", 2.0), with("h", 4.0), with("h", 8.0)];
        let b = [with("h", 3.0), with("h", 6.0), with("h", 12.0)];
        let figures = compare(&a, &b, true, false).unwrap().figures;
        let goodput = figures.iter().find(|figure| figure.name == "goodput_gbps").unwrap();
        assert_eq!(
            (goodput.ratio.median, goodput.ratio.least, goodput.ratio.most),
            (1.5, 1.5, 1.5)
        );
        assert_eq!((goodput.a.median, goodput.b.median, goodput.a.count), (4.0, 6.0, 3));
        // A figure that nobody measured is not there.
        assert!(!figures.iter().any(|figure| figure.name == "fraction_of_ceiling"));
    }

    #[test]
    fn records_are_read_back_from_their_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(read(file.path()).is_err_and(|e| e.to_string().contains("holds no load report")));
        let text = serde_json::to_string(&with("h", 2.0)).unwrap();
        std::fs::write(file.path(), format!("{text}\n{text}\n")).unwrap();
        assert_eq!(read(file.path()).unwrap(), [with("h", 2.0), with("h", 2.0)]);
    }

    #[test]
    fn rounds_alternate_and_results_keep_their_place() {
        let mut order = Vec::new();
        let mut told = Vec::new();
        let rounds = in_turn(
            3,
            2,
            |thing| {
                order.push(thing);
                Ok(thing * 10 + order.len())
            },
            |round, results| {
                told.push((round, results.to_vec()));
                Ok(())
            },
        );
        let rounds = rounds.unwrap();
        assert_eq!(rounds, [[1, 12], [4, 13], [5, 16]]);
        assert_eq!(told.len(), 3);
        assert_eq!(order, [0, 1, 1, 0, 0, 1]);
        let mut runs = 0;
        let failing = in_turn(
            3,
            2,
            |thing| {
                runs += 1;
                if runs < 3 { Ok(thing) } else { Err("the third fails".into()) }
            },
            |_, _| Ok(()),
        );
        assert!(failing.is_err_and(|error| error.to_string().contains("third")));
        assert_eq!(runs, 3);
        let refused = in_turn(3, 2, Ok, |round, _| match round {
            0 => Ok(()),
            _ => Err("enough".into()),
        });
        assert!(refused.is_err_and(|error| error.to_string() == "enough"));
    }

    #[test]
    fn loads_must_be_two() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        for wrong in ["--bytes 1MiB", "a -- b -- c"] {
            let error = interleave(1, &words(wrong), true).unwrap_err();
            assert_eq!(error.downcast_ref::<CompareError>(), Some(&CompareError::Two));
        }
    }
}
