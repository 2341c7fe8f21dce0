//! Very many sessions that carry nothing: made, counted, weighed, a sample of them used, all closed.

use std::time::{Duration, Instant};

use stoq::{ServiceName, Session};
use tokio::task::JoinSet;

use super::report::{Idle, IdleSide};
use super::throughput::{HEADROOM, close, dial};
use super::{ScaleArgs, guard_memory};
use crate::digest::{Outcome, Verify};
use crate::exchange::{ExchangeError, Preamble, SERVICE_SINK, Verdict};
use crate::load::run::give;
use crate::rig::{Conditions, Rig};
use crate::sink::Failure;

/// Lifetime of a silent connection, and time between keep-alives: longer than any run
const FOREVER: Duration = Duration::from_secs(6 * 3_600);
/// Sessions of which a flow is asked at the end
const SAMPLED: usize = 100;
/// Octets of such a flow
const SAMPLE_BYTES: u64 = 64 << 10;

/// Holds so many idle sessions
///
/// # Errors
/// Where one fails, or the host runs out of memory.
pub async fn measure(args: &ScaleArgs, count: usize) -> Result<(Idle, Conditions), Failure> {
    let mut rig_args = args.rig.clone();
    let bounds = &mut rig_args.tuning.bounds;
    bounds.hold.get_or_insert(count + HEADROOM);
    bounds.idle_timeout.get_or_insert(FOREVER);
    let keep_alive = *bounds.keep_alive.get_or_insert(FOREVER);
    let mut rig = Rig::start(&rig_args).await?;
    let pings = if keep_alive < FOREVER {
        format!("keep-alives every {keep_alive:?}: their processor time is in the figures at rest")
    } else {
        format!("no keep-alive within the run; a silent connection lives for {FOREVER:?}")
    };
    let notes = vec![
        format!("idle: limits of connections, half-open handshakes and Retry are raised to {}", count + HEADROOM),
        pings,
        "memory is resident memory of the process (smaps_rollup), the packet buffers of the workers in both \
         readings"
            .into(),
    ];
    let conditions = rig.conditions(&rig_args, notes)?;
    let idle = tokio::select! {
        idle = hold(args, &mut rig, count, keep_alive) => idle?,
        error = guard_memory() => return Err(error),
    };
    rig.end().await?;
    Ok((idle, conditions))
}

async fn hold(
    args: &ScaleArgs,
    rig: &mut Rig,
    count: usize,
    keep_alive: Duration,
) -> Result<Idle, Failure> {
    let before = rig.vitals().await?;
    let begun = Instant::now();
    let sessions = dial(rig, count, args.in_flight).await?;
    let seconds = begun.elapsed().as_secs_f64();
    let held = rig.vitals().await?;
    tokio::time::sleep(args.rest).await;
    let rested = rig.vitals().await?;
    let verdicts = sample(rig, &sessions).await?;
    let closing = Instant::now();
    for session in &sessions {
        close(session).await;
    }
    drop(sessions);
    let after = rig.wait_closed().await?;
    Ok(Idle {
        sessions: count,
        seconds,
        handshakes_per_second: count as f64 / seconds,
        keep_alive_seconds: keep_alive.as_secs_f64(),
        rest_seconds: args.rest.as_secs_f64(),
        near: IdleSide::of(count, [&before.0, &held.0, &rested.0, &after.0]),
        far: IdleSide::of(count, [&before.1, &held.1, &rested.1, &after.1]),
        sampled: verdicts.len(),
        sampled_equal: verdicts.iter().filter(|v| v.outcome == Outcome::Equal).count(),
        closing_seconds: closing.elapsed().as_secs_f64(),
        retries: after.1.counter("retries_sent"),
        near_reasons: after.0.reasons,
        far_reasons: after.1.reasons,
    })
}

/// A verified flow over some of the sessions, spread evenly over all
async fn sample(rig: &Rig, sessions: &[Session]) -> Result<Vec<Verdict>, Failure> {
    let service = ServiceName::new(SERVICE_SINK)?;
    let step = (sessions.len() / SAMPLED).max(1);
    let mut flows: JoinSet<Result<Verdict, ExchangeError>> = JoinSet::new();
    for (seed, session) in (0..).zip(sessions.iter().step_by(step).take(SAMPLED)) {
        let time = Duration::MAX;
        let order = Preamble { verify: Verify::Xxh3, seed, bytes: SAMPLE_BYTES, time };
        flows.spawn_on(give(session.open(&service), order), rig.program());
    }
    let mut verdicts = Vec::new();
    while let Some(verdict) = flows.join_next().await {
        verdicts.push(verdict??);
    }
    Ok(verdicts)
}
