//! The record of a comparison with peers: what was measured, pair by pair, and the figures drawn
//! from it. Pure arithmetic; a row that could not be measured carries its reason and no figure.

use serde::{Deserialize, Serialize};

use crate::compare::statistics::Quartiles;
use crate::host::Fingerprint;

/// The schema of a record
pub const SCHEMA: &str = "stoq.bench.peers/1";

/// Processors that other work may keep busy before a row says so
const QUIET_CPU: f64 = 0.1;

/// Agreement asked of a recorded median with the one its pairs give, relative
const AGREEMENT: f64 = 1e-9;

/// One verified transfer
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Transfer {
    /// Goodput at the receiver
    pub gbps: f64,
    /// Octets that arrived in the measured time
    pub bytes: u64,
    /// The measured time
    pub seconds: f64,
    /// Processors that the sending side kept busy; absent where that is not known
    pub cpu_sender: Option<f64>,
    /// Processors that the receiving side kept busy; absent where that is not known
    pub cpu_receiver: Option<f64>,
    /// Processors that other work of the host kept busy meanwhile; absent where that is not known
    pub other_cpu: Option<f64>,
}

impl Transfer {
    /// Processor seconds per 10^9 octets, from processors kept busy
    fn seconds_per_gigabyte(&self, cpu: Option<f64>) -> Option<f64> {
        Some(cpu? * 8.0 / self.gbps)
    }
}

/// Two transfers, one after the other
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Pair {
    /// Of this product
    pub ours: Transfer,
    /// Of the peer
    pub theirs: Transfer,
}

/// A peer at a payload
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Row {
    /// The peer
    pub peer: String,
    /// Its version, as it says itself; empty where it did not run
    pub version: String,
    /// What of this product was measured beside it
    pub ours: String,
    /// UDP payload of a full packet, octets
    pub payload: u64,
    /// The peer's goodput
    pub gbps_median: Option<f64>,
    /// The middle half of the peer's goodput
    pub gbps_quartiles: Option<[f64; 2]>,
    /// Goodput of this product in the same pairs
    pub ours_gbps_median: Option<f64>,
    /// Its middle half
    pub ours_gbps_quartiles: Option<[f64; 2]>,
    /// Pairs measured
    pub pairs: usize,
    /// Ours over theirs, median of the ratios of the pairs
    pub ratio_median: Option<f64>,
    /// The middle half of those ratios
    pub ratio_quartiles: Option<[f64; 2]>,
    /// Processors that the peer's sending side kept busy, median
    pub cpu_sender: Option<f64>,
    /// Processors that the peer's receiving side kept busy, median
    pub cpu_receiver: Option<f64>,
    /// Processors that our sending side kept busy, median
    pub ours_cpu_sender: Option<f64>,
    /// Processors that our receiving side kept busy, median
    pub ours_cpu_receiver: Option<f64>,
    /// Processor seconds per 10^9 octets of the peer's sending side, median
    pub cpu_sender_s_per_gb: Option<f64>,
    /// Processor seconds per 10^9 octets of the peer's receiving side, median
    pub cpu_receiver_s_per_gb: Option<f64>,
    /// Processor seconds per 10^9 octets of our sending side, median
    pub ours_cpu_sender_s_per_gb: Option<f64>,
    /// Processor seconds per 10^9 octets of our receiving side, median
    pub ours_cpu_receiver_s_per_gb: Option<f64>,
    /// Processors that other work of the host kept busy meanwhile, median over all runs
    pub other_cpu: Option<f64>,
    /// What packets went over: `loopback`, `veth` or `nic`
    pub path: String,
    /// What a reader must know beside the figures
    pub notes: Vec<String>,
    /// Why there are no figures
    pub skipped: Option<String>,
    /// Every pair, in the order measured
    pub samples: Vec<Pair>,
}

/// How it was measured
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Conditions {
    /// [`SCHEMA`]
    pub schema: String,
    /// Day of the measurement, UTC, `2026-11-22`
    pub date: String,
    /// Version of this product
    pub stoq_version: String,
    /// The build's commit, where the build was told
    pub commit: Option<String>,
    /// Peers asked for
    pub peers: Vec<String>,
    /// Payloads asked for, octets
    pub payloads: Vec<u64>,
    /// Pairs asked for
    pub pairs: usize,
    /// Measured time of a transfer
    pub duration_s: f64,
    /// Warm-up before it
    pub omit_s: f64,
    /// Processor of the sending side and of the receiving side
    pub cores: [usize; 2],
    /// In which order the two of a pair ran
    pub order: String,
    /// What was compared at the receiver
    pub verified: String,
}

/// A whole comparison
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct PeersRecord {
    /// One per payload and peer
    pub rows: Vec<Row>,
    /// The host
    pub fingerprint: Fingerprint,
    /// How it was measured
    pub conditions: Conditions,
}

/// Why a record is not used
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RecordError {
    /// A peer that was asked for has no row
    #[error(
        "the record has no row for {peer} at payload {payload}: it was cut short; measure again"
    )]
    Absent {
        /// Which
        peer: String,
        /// At which payload
        payload: u64,
    },
    /// A row lacks what it must have
    #[error("{peer} at payload {payload}: {what}; measure again, a figure is never made up")]
    Incomplete {
        /// Which
        peer: String,
        /// At which payload
        payload: u64,
        /// What is wrong
        what: String,
    },
    /// Another schema
    #[error("the record's schema is {0:?}, this program reads {SCHEMA:?}")]
    Schema(String),
}

fn median(figures: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    // A figure that one pair lacks is not known for the row.
    let all: Option<Vec<f64>> = figures.collect();
    Some(Quartiles::of(&all?)?.median)
}

fn busy_note(other_cpu: f64) -> Option<String> {
    (other_cpu > QUIET_CPU).then(|| {
        format!(
            "NOT QUIET: other work kept {other_cpu:.1} processors of the host busy; the ratio says \
             as much about the scheduler as about the two"
        )
    })
}

impl Row {
    /// A row without figures
    pub fn skipped(about: Self, reason: String) -> Self {
        Self { skipped: Some(reason), ..about }
    }

    /// A row of these pairs; `None` of none
    pub fn of(about: Self, samples: Vec<Pair>) -> Option<Self> {
        let figures = |read: fn(&Pair) -> f64| samples.iter().map(read).collect::<Vec<_>>();
        let theirs = Quartiles::of(&figures(|pair| pair.theirs.gbps))?;
        let ours = Quartiles::of(&figures(|pair| pair.ours.gbps))?;
        let ratio = Quartiles::of(&figures(|pair| pair.ours.gbps / pair.theirs.gbps))?;
        let cpu = |read: fn(&Pair) -> Option<f64>| median(samples.iter().map(read));
        let runs = samples.iter().flat_map(|pair| [pair.ours, pair.theirs]);
        let other: Vec<f64> = runs.filter_map(|run| run.other_cpu).collect();
        let other_cpu = Quartiles::of(&other).map(|spread| spread.median);
        let mut about = about;
        about.notes.extend(other_cpu.and_then(busy_note).filter(|n| !about.notes.contains(n)));
        Some(Self {
            gbps_median: Some(theirs.median),
            gbps_quartiles: Some(theirs.ends()),
            ours_gbps_median: Some(ours.median),
            ours_gbps_quartiles: Some(ours.ends()),
            pairs: samples.len(),
            ratio_median: Some(ratio.median),
            ratio_quartiles: Some(ratio.ends()),
            cpu_sender: cpu(|pair| pair.theirs.cpu_sender),
            cpu_receiver: cpu(|pair| pair.theirs.cpu_receiver),
            ours_cpu_sender: cpu(|pair| pair.ours.cpu_sender),
            ours_cpu_receiver: cpu(|pair| pair.ours.cpu_receiver),
            cpu_sender_s_per_gb: cpu(|p| p.theirs.seconds_per_gigabyte(p.theirs.cpu_sender)),
            cpu_receiver_s_per_gb: cpu(|p| p.theirs.seconds_per_gigabyte(p.theirs.cpu_receiver)),
            ours_cpu_sender_s_per_gb: cpu(|p| p.ours.seconds_per_gigabyte(p.ours.cpu_sender)),
            ours_cpu_receiver_s_per_gb: cpu(|p| p.ours.seconds_per_gigabyte(p.ours.cpu_receiver)),
            other_cpu,
            skipped: None,
            samples,
            ..about
        })
    }

    /// Whether other work ran beside enough of the runs to matter
    pub fn is_noisy(&self) -> bool {
        self.other_cpu.is_some_and(|processors| processors > QUIET_CPU)
    }

    fn lacks(&self, what: impl Into<String>) -> RecordError {
        RecordError::Incomplete {
            peer: self.peer.clone(),
            payload: self.payload,
            what: what.into(),
        }
    }

    /// Whether the row holds what it claims: figures that its pairs give, or none and a reason
    fn check(&self) -> Result<(), RecordError> {
        if let Some(reason) = &self.skipped {
            let figures = [self.gbps_median, self.ours_gbps_median, self.ratio_median];
            return if reason.is_empty() {
                Err(self.lacks("it is skipped without a reason"))
            } else if figures.iter().any(Option::is_some) || self.pairs > 0 {
                Err(self.lacks("it is skipped and has figures all the same"))
            } else {
                Ok(())
            };
        }
        let positive = |figure: f64| figure.is_finite() && figure > 0.0;
        let both = self.samples.iter().flat_map(|pair| [pair.ours, pair.theirs]);
        if !both.into_iter().all(|one| positive(one.gbps) && one.bytes > 0) {
            return Err(self.lacks("a pair carries no goodput"));
        }
        let Some(again) = Self::of(self.clone(), self.samples.clone()) else {
            return Err(self.lacks("it has neither pairs nor a reason for their absence"));
        };
        if again.pairs != self.pairs {
            return Err(self.lacks(format!("{} pairs said, {} held", self.pairs, again.pairs)));
        }
        let singles = |row: &Self| [row.gbps_median, row.ours_gbps_median, row.ratio_median];
        let ends = |row: &Self| [row.gbps_quartiles, row.ours_gbps_quartiles, row.ratio_quartiles];
        let all = |row: &Self| -> Option<Vec<f64>> {
            let ends: Option<Vec<[f64; 2]>> = ends(row).into_iter().collect();
            let singles: Option<Vec<f64>> = singles(row).into_iter().collect();
            Some([ends?.concat(), singles?].concat())
        };
        let (Some(said), Some(found)) = (all(self), all(&again)) else {
            return Err(self.lacks("a median or a quartile is missing"));
        };
        let agrees = |(a, b): (&f64, &f64)| (a - b).abs() <= AGREEMENT * b.abs();
        if said.iter().zip(&found).all(agrees) {
            Ok(())
        } else {
            Err(self.lacks("its figures are not those of its pairs"))
        }
    }
}

impl PeersRecord {
    /// Whether every peer and payload that was asked for is there, with figures or a reason
    ///
    /// # Errors
    /// [`RecordError`] for the first thing that is not.
    pub fn check(&self) -> Result<(), RecordError> {
        if self.conditions.schema != SCHEMA {
            return Err(RecordError::Schema(self.conditions.schema.clone()));
        }
        for payload in &self.conditions.payloads {
            for peer in &self.conditions.peers {
                let there = |row: &Row| row.peer == *peer && row.payload == *payload;
                if !self.rows.iter().any(there) {
                    return Err(RecordError::Absent { peer: peer.clone(), payload: *payload });
                }
            }
        }
        self.rows.iter().try_for_each(|row| {
            row.check()?;
            if row.skipped.is_none() && row.pairs != self.conditions.pairs {
                let asked = self.conditions.pairs;
                return Err(row.lacks(format!("{} of {asked} pairs were measured", row.pairs)));
            }
            Ok(())
        })
    }
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;

#[cfg(test)]
pub use tests::example;
