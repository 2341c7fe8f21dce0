//! Throughput and processor time of both ends at one count of connections, each with one flow at full speed.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use stoq::{ServiceName, Session};
use tokio::task::JoinSet;

use super::report::Point;
use super::{ScaleArgs, check_memory, guard_memory};
use crate::digest::Verify;
use crate::exchange::{ExchangeError, Preamble, SERVICE_SINK, Verdict};
use crate::load::run::give;
use crate::rig::{Conditions, Rig};
use crate::sink::Failure;

/// Connections a worker takes beyond those asked for
pub const HEADROOM: usize = 1_024;
/// Time that flows go on when the measured time is over: both its ends lie within full traffic
const RUN_OUT: Duration = Duration::from_millis(500);

/// One count of connections
///
/// # Errors
/// Where a connection or a flow fails, or the host runs out of memory.
pub async fn measure(
    args: &ScaleArgs,
    count: usize,
    round: usize,
) -> Result<(Point, Conditions), Failure> {
    let mut rig_args = args.rig.clone();
    rig_args.tuning.bounds.hold.get_or_insert(count + HEADROOM);
    let mut rig = Rig::start(&rig_args).await?;
    let notes = vec![
        "processor time is that of the whole process: worker, program thread and everything else"
            .into(),
        "limits of connections, half-open handshakes and Retry are raised to the count".into(),
    ];
    let conditions = rig.conditions(&rig_args, notes)?;
    let sessions = dial(&rig, count, args.in_flight).await?;
    let point = tokio::select! {
        point = carry(args, &mut rig, &sessions, round) => point?,
        error = guard_memory() => return Err(error),
    };
    for session in &sessions {
        close(session).await;
    }
    rig.end().await?;
    Ok((point, conditions))
}

/// So many sessions, `in_flight` handshakes at a time
///
/// # Errors
/// Where one fails, or the host runs out of memory.
pub async fn dial(rig: &Rig, count: usize, in_flight: usize) -> Result<Vec<Session>, Failure> {
    let (endpoint, peer, to) = (rig.endpoint.clone(), rig.peer().clone(), rig.sink_address());
    let dialled = async move {
        let mut sessions = Vec::with_capacity(count);
        let mut under_way = FuturesUnordered::new();
        let mut begun = 0;
        while sessions.len() < count {
            while begun < count && under_way.len() < in_flight.max(1) {
                under_way.push(endpoint.connect(to, &peer));
                begun += 1;
            }
            if let Some(session) = under_way.next().await {
                let after = format!("after {} sessions", sessions.len());
                sessions.push(session.map_err(|error| format!("{after}: {error}"))?);
            }
            if sessions.len() % 1_000 == 0 {
                check_memory()?;
            }
        }
        Ok(sessions)
    };
    rig.program().spawn(dialled).await?
}

/// Closes a session; where the worker's queue is full, it is given its turn first
pub async fn close(session: &Session) {
    while !session.close() {
        tokio::task::yield_now().await;
    }
}

async fn carry(
    args: &ScaleArgs,
    rig: &mut Rig,
    sessions: &[Session],
    round: usize,
) -> Result<Point, Failure> {
    let service = ServiceName::new(SERVICE_SINK)?;
    let time = args.omit + args.duration + RUN_OUT;
    let mut flows: JoinSet<Result<Verdict, ExchangeError>> = JoinSet::new();
    for (seed, session) in (0..).zip(sessions) {
        let order = Preamble { verify: Verify::Xxh3, seed, bytes: u64::MAX, time };
        flows.spawn_on(give(session.open(&service), order), rig.program());
    }
    tokio::time::sleep(args.omit).await;
    let before = rig.vitals().await?;
    tokio::time::sleep(args.duration).await;
    let after = rig.vitals().await?;
    let mut verdicts = Vec::with_capacity(sessions.len());
    while let Some(verdict) = flows.join_next().await {
        verdicts.push(verdict??);
    }
    Point::of(round, &before, &after, &verdicts).ok_or_else(|| {
        format!("nothing arrived in the measured time over {} connections", sessions.len()).into()
    })
}
