//! One row of the ablation: both settings' figures over their pairs, the ratio pair by pair, and what that
//! says. Pure arithmetic over load reports.

use serde::{Deserialize, Serialize};

use super::switches::{Holder, Switch};
use crate::compare::statistics::Quartiles;
use crate::host::{Fingerprint, PathKind};
use crate::load::report::{LoadReport, Side};

/// The schema of a record
pub const SCHEMA: &str = "stoq.bench.ablate/1";

/// Fewer pairs have no middle half worth the name
const PAIRS_LEAST: usize = 3;

/// One setting's figures
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Figures {
    /// Goodput at the receiver
    pub goodput_gbps: Quartiles,
    /// Processor time of the sending end per octet that arrived
    pub sender_cpu_ns_per_byte: Quartiles,
    /// Processor time of the receiving end per octet that arrived
    pub receiver_cpu_ns_per_byte: Quartiles,
}

/// What a ratio says
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// More goodput with the thing than without
    Helps,
    /// Less
    Hurts,
    /// The middle half of the pairs lies on both sides of "no difference"
    WithinNoise,
}

/// One switch
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Row {
    /// Its name
    pub switch: String,
    /// The default, in words
    pub default: String,
    /// The variant, in words
    pub variant: String,
    /// Which of the two has the thing
    pub thing_in: Holder,
    /// Arguments that make the variant
    pub arguments: Vec<String>,
    /// UDP payload of the default's packets
    pub payload_bytes: u64,
    /// Pairs that were run
    pub pairs: usize,
    /// What packets went over
    pub path: Option<PathKind>,
    /// Of the default
    pub default_figures: Option<Figures>,
    /// Of the variant
    pub variant_figures: Option<Figures>,
    /// Goodput of the variant over that of the default, pair by pair
    pub ratio: Option<Quartiles>,
    /// Goodput with the thing over goodput without it: which of the two has it differs from row to row
    pub returns: Option<Quartiles>,
    /// What that says; absent where the pairs are too few to say
    pub verdict: Option<Verdict>,
    /// Why it was not run
    pub skipped: Option<String>,
    /// Why it did not end
    pub failed: Option<String>,
}

/// All rows
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Record {
    /// [`SCHEMA`]
    pub schema: String,
    /// Where it was measured
    pub host: Fingerprint,
    /// UDP payload of the default's packets
    pub payload_bytes: u64,
    /// Per switch and variant
    pub rows: Vec<Row>,
}

impl Record {
    /// Of these rows
    pub fn new(host: Fingerprint, payload_bytes: u64, rows: Vec<Row>) -> Self {
        Self { schema: SCHEMA.to_owned(), host, payload_bytes, rows }
    }
}

/// Processor time of a side per flow octet: all its threads
pub fn cpu_ns_per_byte(side: &Side, goodput_gbps: f64) -> f64 {
    let cores: f64 = side.cpu.values().map(|time| time.user_cores + time.system_cores).sum();
    cores * 8.0 / goodput_gbps
}

fn figures(reports: &[&LoadReport]) -> Option<Figures> {
    let of = |read: fn(&LoadReport) -> f64| {
        Quartiles::of(&reports.iter().map(|report| read(report)).collect::<Vec<_>>())
    };
    Some(Figures {
        goodput_gbps: of(|report| report.goodput_gbps)?,
        sender_cpu_ns_per_byte: of(|r| cpu_ns_per_byte(&r.sender, r.goodput_gbps))?,
        receiver_cpu_ns_per_byte: of(|r| cpu_ns_per_byte(&r.receiver, r.goodput_gbps))?,
    })
}

impl Row {
    /// Of a switch that has not been run yet
    pub fn new(switch: &Switch, payload_bytes: u64) -> Self {
        Self {
            switch: switch.name.to_owned(),
            default: switch.default.clone(),
            variant: switch.variant.clone(),
            thing_in: switch.holder,
            arguments: switch.common.iter().chain(&switch.turned).cloned().collect(),
            payload_bytes,
            pairs: 0,
            path: None,
            default_figures: None,
            variant_figures: None,
            ratio: None,
            returns: None,
            verdict: None,
            skipped: None,
            failed: None,
        }
    }

    /// It was not run
    pub fn skipped(mut self, reason: String) -> Self {
        self.skipped = Some(reason);
        self
    }

    /// A run failed
    pub fn failed(mut self, reason: String) -> Self {
        self.failed = Some(reason);
        self
    }

    /// It was run: pairs of the default and the variant
    pub fn measured(mut self, pairs: &[Vec<LoadReport>]) -> Self {
        let side = |index: usize| -> Vec<&LoadReport> {
            pairs.iter().filter_map(|pair| pair.get(index)).collect()
        };
        let (default, variant) = (side(0), side(1));
        let ratios: Vec<f64> =
            default.iter().zip(&variant).map(|(d, v)| v.goodput_gbps / d.goodput_gbps).collect();
        self.pairs = pairs.len();
        self.path = default.first().and_then(|report| report.start.path);
        self.default_figures = figures(&default);
        self.variant_figures = figures(&variant);
        self.ratio = Quartiles::of(&ratios);
        self.returns = self.ratio.map(|ratio| match self.thing_in {
            Holder::Variant => ratio,
            Holder::Default => ratio.inverse(),
        });
        self.verdict =
            self.returns.filter(|returns| returns.count >= PAIRS_LEAST).map(
                |returns| match returns.straddles_one() {
                    true => Verdict::WithinNoise,
                    false if returns.median > 1.0 => Verdict::Helps,
                    false => Verdict::Hurts,
                },
            );
        self
    }

    /// As a line of the table
    pub fn text(&self) -> String {
        let names = format!("{:19} {:21} {:22}", self.switch, self.default, self.variant);
        if let Some(reason) = &self.failed {
            return format!("{names} FAILED: {reason}");
        }
        if let Some(reason) = &self.skipped {
            return format!("{names} skipped: {reason}");
        }
        let (Some(default), Some(variant)) = (&self.default_figures, &self.variant_figures) else {
            return format!("{names} not measured");
        };
        let Some(returns) = &self.returns else { return format!("{names} not measured") };
        let gbps = |figures: &Figures| format!("{:.2}", figures.goodput_gbps.median);
        let cpu = |figures: &Figures| {
            format!(
                "{:.2}+{:.2}",
                figures.sender_cpu_ns_per_byte.median, figures.receiver_cpu_ns_per_byte.median
            )
        };
        let says = match self.verdict {
            Some(Verdict::Helps) => "",
            Some(Verdict::Hurts) => "  costs",
            Some(Verdict::WithinNoise) => "  within the noise",
            None => "  too few pairs for a verdict",
        };
        format!(
            "{names} {:>8} {:>8} {:>11} {:>11} {:6.3} ({:.3} to {:.3}){says}",
            gbps(default),
            gbps(variant),
            cpu(default),
            cpu(variant),
            returns.median,
            returns.lower,
            returns.upper,
        )
    }
}

/// The table's first line
pub fn heading() -> String {
    format!(
        "{:19} {:21} {:22} {:>8} {:>8} {:>11} {:>11} {}",
        "switch",
        "default",
        "variant",
        "Gb/s",
        "variant",
        "CPU ns/B",
        "variant",
        "returns, median (quartiles): goodput with the thing over goodput without it"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ablate::switches::switches;
    use crate::load::report::{CpuUse, example};

    fn switch(name: &str) -> Switch {
        switches(1_452).into_iter().find(|switch| switch.name == name).unwrap()
    }

    fn pairs(figures: &[[f64; 2]]) -> Vec<Vec<LoadReport>> {
        let report = |gbps: &f64| {
            let mut report = example();
            report.goodput_gbps = *gbps;
            report.sender.cpu =
                [("workers".to_owned(), CpuUse { user_cores: 0.5, system_cores: 0.25 })].into();
            report
        };
        figures.iter().map(|pair| pair.iter().map(report).collect()).collect()
    }

    #[test]
    fn what_a_default_returns_is_what_is_lost_without_it() {
        let row = Row::new(&switch("gso"), 1_452);
        let row = row.measured(&pairs(&[[6.0, 2.0], [8.0, 2.0], [4.0, 2.0]]));
        assert_eq!((row.pairs, row.verdict), (3, Some(Verdict::Helps)));
        assert_eq!(row.returns.unwrap().median, 3.0);
        assert!((row.ratio.unwrap().median - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!(row.default_figures.unwrap().goodput_gbps.median, 6.0);
        assert_eq!(row.default_figures.unwrap().sender_cpu_ns_per_byte.median, 1.0);
        assert!(row.text().contains("3.000"), "{}", row.text());
        assert_eq!(row.arguments, ["--no-gso"]);
    }

    #[test]
    fn what_a_variant_returns_is_what_is_gained_with_it() {
        let row = Row::new(&switch("busy-poll"), 1_452);
        let row = row.measured(&pairs(&[[6.0, 3.0], [8.0, 4.0], [2.0, 1.0]]));
        assert_eq!((row.returns.unwrap().median, row.verdict), (0.5, Some(Verdict::Hurts)));
        assert!(row.text().ends_with("costs"));
        let row = Row::new(&switch("busy-poll"), 1_452);
        let row = row.measured(&pairs(&[[6.0, 3.0], [4.0, 4.0], [4.0, 8.0]]));
        assert_eq!(row.verdict, Some(Verdict::WithinNoise));
        assert!(row.text().ends_with("within the noise"));
    }

    #[test]
    fn rows_are_json_with_nothing_made_up() {
        let skipped = Row::new(&switch("allocator"), 1_452).skipped("not given".into());
        let failed = Row::new(&switch("io"), 1_452).failed("no".into());
        let measured = Row::new(&switch("gro"), 1_452).measured(&pairs(&[[2.0, 1.0]]));
        assert!(skipped.text().contains("skipped: not given"));
        assert!(failed.text().contains("FAILED: no"));
        let rows = vec![skipped, failed, measured];
        let record = Record::new(Fingerprint::read().unwrap(), 1_452, rows);
        let value = serde_json::to_value(&record).unwrap();
        assert_eq!(value["schema"], SCHEMA);
        let rows = value["rows"].as_array().unwrap().clone();
        let [skipped, failed, measured] = &rows[..] else { panic!("{value}") };
        assert_eq!((&skipped["skipped"], &skipped["ratio"]), (&"not given".into(), &().into()));
        assert_eq!((&failed["failed"], &failed["verdict"]), (&"no".into(), &().into()));
        assert_eq!(measured["ratio"]["median"], 0.5);
        assert_eq!(measured["returns"]["median"], 2.0);
        assert_eq!(measured["verdict"], serde_json::Value::Null, "one pair says nothing");
        assert_eq!((&measured["switch"], &measured["pairs"]), (&"gro".into(), &1.into()));
        assert_eq!(measured["thing_in"], "default");
        assert_eq!(serde_json::from_value::<Record>(value).unwrap(), record);
    }
}
