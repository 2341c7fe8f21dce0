//! `stoq-bench soak`: full speed for a long time while every connection is replaced again and again. At the end
//! memory must be flat, no octet lost and no drop without a known cause.

pub mod record;
mod slope;
pub mod verdict;

use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};
use stoq::{ServiceName, Session};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::digest::Verify;
use crate::exchange::{self, ExchangeError, Preamble, SERVICE_SINK};
use crate::load::run::give;
use crate::render;
use crate::rig::{Conditions, Rig, RigArgs};
use crate::scale::close;
use crate::sink::Failure;
use crate::units::{duration, size_bytes};
use record::{Mark, Record};
use verdict::{Evidence, Verdict};

/// The schema of a record
pub const SCHEMA: &str = "stoq.bench.soak/1";

/// `stoq-bench soak`
#[derive(Args, Clone, Debug)]
pub struct SoakArgs {
    /// Time to send
    #[arg(long, default_value = "30m", value_parser = duration, value_name = "TIME")]
    pub duration: Duration,
    /// Replace every connection this often
    #[arg(long, default_value = "60s", value_parser = duration, value_name = "TIME")]
    pub replace_every: Duration,
    /// Time between records
    #[arg(long, default_value = "10s", value_parser = duration, value_name = "TIME")]
    pub interval: Duration,
    /// Sessions, each with one connection and one flow
    #[arg(long, default_value_t = 1, value_name = "COUNT")]
    pub connections: usize,
    /// Growth of resident memory per hour that is still called flat
    #[arg(long, default_value = "64MiB", value_parser = size_bytes, value_name = "SIZE")]
    pub memory_bound: u64,
    /// How bytes are verified at the receiver
    #[arg(long, value_enum, default_value_t)]
    pub verify: Verify,
    /// Where both ends run
    #[command(flatten)]
    pub rig: RigArgs,
}

/// A whole run
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct SoakReport {
    /// [`SCHEMA`]
    pub schema: String,
    /// What it was made under
    pub conditions: Conditions,
    /// Time the flows were sending
    pub seconds: f64,
    /// Time between replacements
    pub replace_every_seconds: f64,
    /// Flow octets that arrived
    pub bytes: u64,
    /// Their rate over the whole run
    pub gbps: f64,
    /// By interval
    pub records: Vec<Record>,
    /// The judgement
    pub verdict: Verdict,
}

impl SoakReport {
    /// Whether the run proves what it set out to
    pub fn is_sound(&self) -> bool {
        self.verdict.is_sound()
    }
}

/// Runs and prints; the record is also returned
pub fn run(args: &SoakArgs) -> Result<SoakReport, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(soak(args))?;
    args.rig.say(&format!(
        "{:.3} Gb/s over {:.0} s, {} octets",
        report.gbps, report.seconds, report.bytes
    ))?;
    for line in report.verdict.lines() {
        args.rig.say(&line)?;
    }
    args.rig.record(&report)?;
    Ok(report)
}

async fn soak(args: &SoakArgs) -> Result<SoakReport, Failure> {
    let mut rig = Rig::start(&args.rig).await?;
    let notes = vec![
        format!(
            "every connection replaced every {:?}, besides the packet limit of a key",
            args.replace_every
        ),
        format!(
            "memory is called flat up to {} MiB per hour, by the median slope behind the first tenth",
            args.memory_bound >> 20
        ),
    ];
    let conditions = rig.conditions(&args.rig, notes)?;
    for line in conditions.lines() {
        args.rig.say(&line)?;
    }
    let mut sessions = Vec::new();
    for _ in 0..args.connections.max(1) {
        sessions.push(rig.connect().await?);
    }
    let mut watch = Watch::begin(&mut rig).await?;
    let mut flows = open_flows(args, &rig, &sessions)?;
    let mut verdicts = watch.until_done(args, &mut rig, &sessions, &mut flows).await?;
    let seconds = watch.begun.elapsed().as_secs_f64();
    while let Some(joined) = flows.join_next().await {
        verdicts.push(joined??);
    }
    let ended = watch.mark(&mut rig).await?;
    let connections_lost = rig.endpoint.sessions().await.iter().map(|s| s.losses).sum();
    for session in &sessions {
        close(session).await;
    }
    let (near, far) = rig.wait_closed().await?;
    rig.end().await?;
    let evidence = Evidence {
        duration_s: seconds,
        bound_bytes_per_hour: args.memory_bound,
        near: &near,
        far: &far,
        flows: &verdicts,
        replacements_asked: watch.asked,
        replacements: ended.replacements,
        connections_lost,
    };
    let bytes: u64 = verdicts.iter().map(|flow| flow.received_bytes).sum();
    Ok(SoakReport {
        schema: SCHEMA.to_owned(),
        conditions,
        seconds,
        replace_every_seconds: args.replace_every.as_secs_f64(),
        bytes,
        gbps: bytes as f64 * 8.0 / seconds / 1e9,
        verdict: Verdict::of(&watch.records, &evidence),
        records: watch.records,
    })
}

type Flows = JoinSet<Result<exchange::Verdict, ExchangeError>>;

fn open_flows(args: &SoakArgs, rig: &Rig, sessions: &[Session]) -> Result<Flows, Failure> {
    let service = ServiceName::new(SERVICE_SINK)?;
    let mut flows = JoinSet::new();
    for (seed, session) in (0..).zip(sessions) {
        let order = Preamble { verify: args.verify, seed, bytes: u64::MAX, time: args.duration };
        flows.spawn_on(give(session.open(&service), order), rig.program());
    }
    Ok(flows)
}

/// What is seen while the flows run
struct Watch {
    begun: Instant,
    last: Mark,
    records: Vec<Record>,
    asked: u64,
}

impl Watch {
    async fn begin(rig: &mut Rig) -> Result<Self, Failure> {
        let mut watch =
            Self { begun: Instant::now(), last: Mark::default(), records: Vec::new(), asked: 0 };
        watch.last = watch.mark(rig).await?;
        Ok(watch)
    }

    async fn mark(&self, rig: &mut Rig) -> Result<Mark, Failure> {
        let replacements = rig.endpoint.sessions().await.iter().map(|s| s.replacements).sum();
        let (near, far) = rig.vitals().await?;
        Ok(Mark { at_s: self.begun.elapsed().as_secs_f64(), near, far, replacements })
    }

    async fn note(&mut self, rig: &mut Rig) -> Result<(), Failure> {
        let mark = self.mark(rig).await?;
        let record = Record::between(&self.last, &mark);
        render::warn(&record.line());
        self.records.push(record);
        self.last = mark;
        Ok(())
    }

    /// Replaces and records until every flow has ended; returns what the receiver found of each
    async fn until_done(
        &mut self,
        args: &SoakArgs,
        rig: &mut Rig,
        sessions: &[Session],
        flows: &mut Flows,
    ) -> Result<Vec<exchange::Verdict>, Failure> {
        let step = |every: Duration| every.max(Duration::from_millis(10));
        let mut records =
            tokio::time::interval_at(self.begun + step(args.interval), step(args.interval));
        let every = step(args.replace_every);
        let mut replacements = tokio::time::interval_at(self.begun + every, every);
        // The last moments belong to the flows: a replacement that nothing travels on proves nothing.
        let last = self.begun + args.duration;
        let mut verdicts = Vec::new();
        while !flows.is_empty() {
            tokio::select! {
                Some(joined) = flows.join_next() => verdicts.push(joined??),
                _ = records.tick() => self.note(rig).await?,
                _ = replacements.tick(), if Instant::now() + every / 10 < last => {
                    for session in sessions {
                        if !session.replace_connections() {
                            return Err("the worker takes no more commands".into());
                        }
                        self.asked += 1;
                    }
                }
            }
        }
        Ok(verdicts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rig::example_conditions;

    #[test]
    fn a_record_is_read_back() {
        let verdict: Verdict = serde_json::from_value(serde_json::json!({
            "bound_bytes_per_hour": 1, "memory_is_flat": null, "lost_bytes": null,
            "sender_memory": {"bytes_per_hour": null, "first_rss_bytes": 1, "last_rss_bytes": 2},
            "receiver_memory": {"bytes_per_hour": 1.5, "first_rss_bytes": 1, "last_rss_bytes": 2},
            "verified": true, "replacements": 1, "replacements_asked": 1, "drops": {}, "unexplained": {}
        }))
        .unwrap();
        assert!(!verdict.is_sound(), "what is not known is not good");
        let report = SoakReport {
            schema: SCHEMA.into(),
            conditions: example_conditions(),
            seconds: 1.0,
            replace_every_seconds: 60.0,
            bytes: 1,
            gbps: 1.0,
            records: vec![Record::default()],
            verdict,
        };
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<SoakReport>(&text).unwrap(), report);
    }
}
