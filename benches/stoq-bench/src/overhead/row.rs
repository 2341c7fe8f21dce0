//! The arithmetic of the overhead: who is set against whom, round by round, and what the ratio means. Records
//! and text; nothing is run here.

use serde::{Deserialize, Serialize};

use crate::ablate::cpu_ns_per_byte;
use crate::bare::BareReport;
use crate::compare::statistics::Quartiles;
use crate::host::Fingerprint;
use crate::load::report::LoadReport;

/// The schema of a record
pub const SCHEMA: &str = "stoq.bench.overhead/1";
/// How often the metrics page is rendered where it is
pub const SCRAPE_MS: u64 = 100;
/// What sessions, verification and metrics together may cost
const TARGET_PERCENT: f64 = 10.0;
/// Share of the time in which other work had the bare loop's processor above which a row has no verdict: the
/// scheduler prefers threads that sleep, as the product's do, to a loop that never does
const WAITED_MOST: f64 = 0.05;

/// Fewer rounds have no middle half worth the name
const ROUNDS_LEAST: usize = 3;

/// What no row can say
pub const FOOTNOTE: &str = "The workers' counters are part of the product and cannot be switched off, so \
    their own cost lies in the rows against the bare loop; reading them is the row of its own: the product's \
    metrics page rendered at both ends, without HTTP.";

/// Who carries the bytes
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Contender {
    /// A verified flow of a session
    Product,
    /// The same, its metrics page rendered again and again
    ProductScraped,
    /// A bare quiche loop that compares counts only
    Bare,
    /// A bare quiche loop with the same digest as the product's flow
    BareVerified,
}

impl Contender {
    /// Every one, in the order of a round
    pub const ALL: [Self; 4] =
        [Self::Product, Self::Bare, Self::BareVerified, Self::ProductScraped];

    /// In text
    pub const fn label(self) -> &'static str {
        match self {
            Self::Product => "product",
            Self::ProductScraped => "product, scraped",
            Self::Bare => "bare loop",
            Self::BareVerified => "bare loop, verified",
        }
    }
}

/// What is asked: the cost of the first beside the second, and what it may be
const QUESTIONS: [(&str, Contender, Contender, Option<f64>); 4] = [
    (
        "sessions, verification and metrics",
        Contender::Product,
        Contender::Bare,
        Some(TARGET_PERCENT),
    ),
    ("sessions and metrics", Contender::Product, Contender::BareVerified, None),
    ("verification alone", Contender::BareVerified, Contender::Bare, None),
    ("metrics read ten times a second", Contender::ProductScraped, Contender::Product, None),
];

/// The figures of one run
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Carried {
    /// At the receiver
    pub goodput_gbps: f64,
    /// Processor time of the sending end per octet that arrived, all its threads
    pub sender_cpu_ns_per_byte: f64,
    /// Processor time of the receiving end per octet that arrived, all its threads
    pub receiver_cpu_ns_per_byte: f64,
    /// Datagrams per send
    pub tx_train_mean: Option<f64>,
    /// Datagrams per receive
    pub rx_train_mean: Option<f64>,
    /// Share of the time in which it could have run while other work had its processor; known of the bare loop
    /// only, whose one thread per end waits for nobody else's sake
    pub waited_share: Option<f64>,
    /// Whether count and digest agreed; false where no digest was taken
    pub verified: bool,
}

impl Carried {
    /// Of the product
    pub fn of_load(report: &LoadReport) -> Self {
        Self {
            goodput_gbps: report.goodput_gbps,
            sender_cpu_ns_per_byte: cpu_ns_per_byte(&report.sender, report.goodput_gbps),
            receiver_cpu_ns_per_byte: cpu_ns_per_byte(&report.receiver, report.goodput_gbps),
            tx_train_mean: report.sender.tx_train_mean,
            rx_train_mean: report.receiver.rx_train_mean,
            waited_share: None,
            verified: report.verified,
        }
    }

    /// Of the bare loop
    pub fn of_bare(report: &BareReport) -> Self {
        Self {
            goodput_gbps: report.goodput_gbps,
            sender_cpu_ns_per_byte: report.sender_cores * 8.0 / report.goodput_gbps,
            receiver_cpu_ns_per_byte: report.receiver_cores * 8.0 / report.goodput_gbps,
            tx_train_mean: Some(report.tx_train_mean),
            rx_train_mean: Some(report.rx_train_mean),
            waited_share: Some(report.waited_share),
            verified: report.verified,
        }
    }
}

/// One run in its round
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Run {
    /// UDP payload of a full packet
    pub payload_bytes: u64,
    /// Counted from 0
    pub round: usize,
    /// Who
    pub contender: Contender,
    /// What
    #[serde(flatten)]
    pub carried: Carried,
}

/// One question at one payload
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Row {
    /// UDP payload of a full packet
    pub payload_bytes: u64,
    /// Whose cost it is
    pub overhead_of: String,
    /// Who has it
    pub with: Contender,
    /// Who has it not
    pub without: Contender,
    /// Rounds
    pub pairs: usize,
    /// Goodput of who has it
    pub with_gbps: Quartiles,
    /// Goodput of who has it not
    pub without_gbps: Quartiles,
    /// With over without, round by round
    pub ratio: Quartiles,
    /// The share of the goodput that it costs: 1 less the ratio, in percent; negative is a gain
    pub overhead_percent: Quartiles,
    /// Processor time per octet at the sending end, with over without
    pub sender_cpu_ratio: Quartiles,
    /// Processor time per octet at the receiving end, with over without
    pub receiver_cpu_ratio: Quartiles,
    /// Whether the middle half of the rounds lies on both sides of "no difference"
    pub within_noise: bool,
    /// Share of the time in which other work of the host had the bare loop's processor, median over the rounds
    pub host_busy_share: f64,
    /// What it may cost, where that is decided
    pub target_percent: Option<f64>,
    /// Whether the median keeps it; absent where the host was too busy or the rounds were too few to say
    pub within_target: Option<bool>,
}

/// All of it
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Record {
    /// [`SCHEMA`]
    pub schema: String,
    /// Where it was measured
    pub host: Fingerprint,
    /// Per payload and question
    pub rows: Vec<Row>,
    /// Every run
    pub runs: Vec<Run>,
}

impl Record {
    /// Of these rows and runs
    pub fn new(host: Fingerprint, rows: Vec<Row>, runs: Vec<Run>) -> Self {
        Self { schema: SCHEMA.to_owned(), host, rows, runs }
    }
}

/// The runs of one contender at one payload, in order of their rounds
fn of(runs: &[Run], payload_bytes: u64, contender: Contender) -> Vec<Carried> {
    let mut found: Vec<&Run> = runs
        .iter()
        .filter(|run| run.payload_bytes == payload_bytes && run.contender == contender)
        .collect();
    found.sort_by_key(|run| run.round);
    found.into_iter().map(|run| run.carried).collect()
}

fn quartiles(
    with: &[Carried],
    without: &[Carried],
    figure: impl Fn(&Carried, &Carried) -> f64,
) -> Option<Quartiles> {
    let figures: Vec<f64> = with.iter().zip(without).map(|(a, b)| figure(a, b)).collect();
    Quartiles::of(&figures)
}

/// Every question at every payload
pub fn rows(runs: &[Run]) -> Vec<Row> {
    let mut payloads: Vec<u64> = runs.iter().map(|run| run.payload_bytes).collect();
    payloads.dedup();
    let ask =
        |payload: u64| QUESTIONS.into_iter().filter_map(move |asked| row(runs, payload, asked));
    payloads.into_iter().flat_map(ask).collect()
}

fn row(
    runs: &[Run],
    payload_bytes: u64,
    (what, with, without, target_percent): (&str, Contender, Contender, Option<f64>),
) -> Option<Row> {
    let (a, b) = (of(runs, payload_bytes, with), of(runs, payload_bytes, without));
    let ratio = quartiles(&a, &b, |a, b| a.goodput_gbps / b.goodput_gbps)?;
    let cost = |a: &Carried, b: &Carried| (1.0 - a.goodput_gbps / b.goodput_gbps) * 100.0;
    let overhead_percent = quartiles(&a, &b, cost)?;
    let bare = of(runs, payload_bytes, Contender::Bare);
    let waits: Vec<f64> = bare.iter().filter_map(|carried| carried.waited_share).collect();
    let host_busy_share = Quartiles::of(&waits)?.median;
    let judged = host_busy_share <= WAITED_MOST && ratio.count >= ROUNDS_LEAST;
    Some(Row {
        payload_bytes,
        overhead_of: what.to_owned(),
        with,
        without,
        pairs: ratio.count,
        with_gbps: quartiles(&a, &b, |a, _| a.goodput_gbps)?,
        without_gbps: quartiles(&a, &b, |_, b| b.goodput_gbps)?,
        ratio,
        overhead_percent,
        sender_cpu_ratio: quartiles(&a, &b, |a, b| {
            a.sender_cpu_ns_per_byte / b.sender_cpu_ns_per_byte
        })?,
        receiver_cpu_ratio: quartiles(&a, &b, |a, b| {
            a.receiver_cpu_ns_per_byte / b.receiver_cpu_ns_per_byte
        })?,
        within_noise: ratio.straddles_one(),
        target_percent,
        host_busy_share,
        within_target: target_percent
            .filter(|_| judged)
            .map(|target| overhead_percent.median <= target),
    })
}

/// A round, told while the others run
pub fn round_text(payload_bytes: u64, round: usize, carried: &[Carried]) -> String {
    let one = |(contender, carried): (Contender, &Carried)| {
        format!("{} {:.2} Gb/s", contender.label(), carried.goodput_gbps)
    };
    let all: Vec<String> = Contender::ALL.into_iter().zip(carried).map(one).collect();
    format!("payload {payload_bytes}, round {:2}: {}", round + 1, all.join("; "))
}

/// The table's first line
pub fn heading() -> String {
    format!(
        "{:>7} {:35} {:>8} {:>8}  {:26} {:31} {}",
        "payload",
        "overhead of",
        "with",
        "without",
        "ratio, median (quartiles)",
        "overhead (quartiles)",
        "CPU per octet, sender and receiver",
    )
}

impl Row {
    /// As a line of the table
    pub fn text(&self) -> String {
        let (ratio, cost) = (&self.ratio, &self.overhead_percent);
        let busy = self.host_busy_share;
        let says = match (self.target_percent, self.within_target) {
            (Some(target), Some(true)) => format!("; target under {target:.0} %: kept"),
            (Some(target), Some(false)) => format!("; target under {target:.0} %: MISSED"),
            (Some(_), None) if busy > WAITED_MOST => format!(
                "; NO VERDICT: other work of this host had the bare loop's processor {:.0} % of the time",
                busy * 100.0
            ),
            (Some(_), None) => "; no verdict: too few rounds".to_owned(),
            (None, _) if busy > WAITED_MOST => "; HOST BUSY".to_owned(),
            (None, _) => String::new(),
        };
        format!(
            "{:7} {:35} {:8.2} {:8.2}  {:<26} {:<31} {:.2} and {:.2} times{says}{}",
            self.payload_bytes,
            self.overhead_of,
            self.with_gbps.median,
            self.without_gbps.median,
            format!("{:.3} ({:.3} to {:.3})", ratio.median, ratio.lower, ratio.upper),
            format!("{:.1} % ({:.1} to {:.1})", cost.median, cost.lower, cost.upper),
            self.sender_cpu_ratio.median,
            self.receiver_cpu_ratio.median,
            if self.within_noise { "; within the noise" } else { "" },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(payload_bytes: u64, round: usize, figures: [f64; 4]) -> Vec<Run> {
        busy_round(payload_bytes, round, figures, 0.01)
    }

    fn busy_round(
        payload_bytes: u64,
        round: usize,
        figures: [f64; 4],
        waited_share: f64,
    ) -> Vec<Run> {
        let one = |(contender, gbps): (Contender, f64)| Run {
            payload_bytes,
            round,
            contender,
            carried: Carried {
                goodput_gbps: gbps,
                sender_cpu_ns_per_byte: 8.0 / gbps,
                receiver_cpu_ns_per_byte: 4.0 / gbps,
                tx_train_mean: Some(40.0),
                rx_train_mean: None,
                waited_share: (contender == Contender::Bare).then_some(waited_share),
                verified: contender != Contender::Bare,
            },
        };
        Contender::ALL.into_iter().zip(figures).map(one).collect()
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        // Product, bare, bare verified, scraped; the host halves its speed in the second round.
        let mut runs = round(1_452, 0, [9.0, 10.0, 9.5, 9.0]);
        runs.extend(round(1_452, 1, [4.5, 5.0, 4.75, 4.5]));
        for index in 0..3 {
            runs.extend(round(8_952, index, [8.0, 10.0, 10.0, 8.4]));
        }
        let rows = rows(&runs);
        assert_eq!(rows.len(), 2 * QUESTIONS.len());
        let whole = &rows[0];
        assert_eq!((whole.with, whole.without), (Contender::Product, Contender::Bare));
        assert!((whole.ratio.lower - 0.9).abs() < 1e-12 && (whole.ratio.upper - 0.9).abs() < 1e-12);
        assert!((whole.overhead_percent.median - 10.0).abs() < 1e-9);
        assert!((whole.sender_cpu_ratio.median - 1.0 / 0.9).abs() < 1e-12);
        assert_eq!((whole.pairs, whole.with_gbps.median), (2, 6.75));
        assert!(!whole.within_noise);
        assert!(rows[3].within_noise, "scraping changed nothing at 1,452");
        let jumbo = rows.iter().find(|row| row.payload_bytes == 8_952).unwrap();
        assert_eq!((jumbo.target_percent, jumbo.within_target), (Some(10.0), Some(false)));
        assert!(jumbo.text().contains("MISSED"), "{}", jumbo.text());
        // Two rounds are told, but not judged.
        assert!(whole.within_target.is_none() && whole.text().contains("too few"));
        assert!(rows[1].target_percent.is_none() && rows[1].within_target.is_none());
        // A gain is not hidden.
        assert!(rows[7].overhead_percent.median < 0.0);
    }

    #[test]
    fn a_starved_loop_makes_no_target_kept() {
        let runs: Vec<Run> =
            (0..3).flat_map(|i| busy_round(1_452, i, [9.0, 2.0, 2.0, 9.0], 0.7)).collect();
        let whole = &rows(&runs)[0];
        assert_eq!((whole.host_busy_share, whole.within_target), (0.7, None));
        assert!(whole.text().contains("NO VERDICT: other work"), "{}", whole.text());
        assert!(whole.text().contains("70 %"));
    }

    #[test]
    fn the_record_has_rows_and_every_run() {
        let runs = round(1_452, 0, [9.0, 10.0, 9.5, 9.0]);
        let record = Record::new(Fingerprint::read().unwrap(), rows(&runs), runs);
        let value = serde_json::to_value(&record).unwrap();
        assert_eq!(value["schema"], SCHEMA);
        assert_eq!(value["runs"].as_array().unwrap().len(), 4);
        assert_eq!(value["runs"][0]["contender"], "product");
        assert_eq!(value["runs"][0]["goodput_gbps"], 9.0);
        let row = &value["rows"][0];
        assert_eq!(row["overhead_of"], "sessions, verification and metrics");
        for name in ["ratio", "overhead_percent", "with_gbps", "without_gbps"] {
            for part in ["lower", "median", "upper"] {
                assert!(row[name][part].is_f64(), "{name}.{part}");
            }
        }
        assert_eq!(serde_json::from_value::<Record>(value).unwrap(), record);
    }
}
