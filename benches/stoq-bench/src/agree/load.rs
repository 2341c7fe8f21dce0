//! The two loads of a row: as many operations as become final with so many under way, and half of that on a schedule.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use stoq_hypermesh::operation::{AssetKind, AssetName, OperationBody, Registration, Sharing};
use stoq_hypermesh::requester::Maker;
use stoq_interface::NodeId;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::world::{Asker, LIFETIME_HEIGHTS, World};
use crate::sink::Failure;

/// Operations a second that are signed in advance, at most
const PREPARED_PER_SECOND: f64 = 40_000.0;
/// The schedule's step
const STEP: Duration = Duration::from_millis(2);
/// Longest latency that is told apart, in microseconds
const LATENCY_LIMIT_US: u64 = 60_000_000;

/// What became of a full load
pub struct Full {
    pub per_second: f64,
    pub committed: u64,
    pub refused: u64,
    pub blocks: u64,
    /// Processor time of all processes per operation
    pub cpu_us: f64,
    /// The part of the host's processors that all processes used
    pub processors_busy: f64,
}

/// What became of a half load
pub struct Half {
    pub per_second: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub refused: u64,
}

/// So many operations of the requesters in turn, signed
fn prepare(world: &World, askers: &mut [Asker], count: usize) -> Result<Vec<Bytes>, Failure> {
    let mut operations = Vec::with_capacity(count);
    let mut grounds = Vec::with_capacity(askers.len());
    for asker in askers.iter() {
        grounds.push(world.ground(&asker.key)?);
    }
    let node = NodeId::new("bench")?;
    for number in 0..count {
        let place = number % askers.len();
        let asker = &mut askers[place];
        asker.sequence += 1;
        let body = OperationBody::RegisterAsset(Registration {
            kind: AssetKind::Container,
            name: AssetName::new(&format!("a{}", asker.sequence))?,
            node: node.clone(),
            capacity: 1,
            sharing: Sharing::Owner,
        });
        let maker =
            Maker { lifetime_heights: LIFETIME_HEIGHTS, ..Maker::new(&asker.key, &grounds[place]) };
        let made = maker.with_ticket(body, asker.sequence, asker.ticket);
        operations.push(Bytes::from(made.encode()));
    }
    Ok(operations)
}

/// As many as become final in this time
pub async fn full(
    world: &mut World,
    askers: &mut [Asker],
    in_flight: usize,
    time: Duration,
) -> Result<Full, Failure> {
    let operations = prepare(world, askers, (PREPARED_PER_SECOND * time.as_secs_f64()) as usize)?;
    let places = Arc::new(Semaphore::new(in_flight));
    let height = world.view()?.registry().last_height();
    let (client, processor, begun) = (world.client()?, world.spent().await?, Instant::now());
    let mut waiting = JoinSet::new();
    let (mut committed, mut refused) = (0, 0);
    let mut count = |outcome: bool| if outcome { committed += 1 } else { refused += 1 };
    for operation in operations {
        if begun.elapsed() >= time {
            break;
        }
        let place = Arc::clone(&places).acquire_owned().await?;
        let client = client.clone();
        waiting.spawn(async move {
            let outcome = client.submit(operation).await.is_ok();
            drop(place);
            outcome
        });
        while let Some(done) = waiting.try_join_next() {
            count(done?);
        }
    }
    // Those under way count, and so does the time until the last of them is final.
    while let Some(done) = waiting.join_next().await {
        count(done?);
    }
    let took = begun.elapsed();
    let spent = world.spent().await?.saturating_sub(processor);
    let blocks = world.view()?.registry().last_height() - height;
    let processors = std::thread::available_parallelism()?.get() as f64;
    Ok(Full {
        per_second: committed as f64 / took.as_secs_f64(),
        committed,
        refused,
        blocks,
        cpu_us: spent.as_secs_f64() * 1e6 / (committed.max(1) as f64),
        processors_busy: spent.as_secs_f64() / took.as_secs_f64() / processors,
    })
}

/// So many a second, on a schedule
pub async fn half(
    world: &World,
    askers: &mut [Asker],
    per_second: f64,
    time: Duration,
) -> Result<Half, Failure> {
    let count = (per_second * time.as_secs_f64()) as usize;
    let mut operations = prepare(world, askers, count)?.into_iter();
    let mut latencies = Histogram::<u64>::new_with_bounds(1, LATENCY_LIMIT_US, 3)?;
    let mut refused = 0;
    let mut waiting: JoinSet<Option<Duration>> = JoinSet::new();
    let (client, begun) = (world.client()?, Instant::now());
    let mut step = tokio::time::interval(STEP);
    let mut sent = 0;
    let mut note = |outcome: Option<Duration>| match outcome {
        Some(latency) => {
            let us = u64::try_from(latency.as_micros()).unwrap_or(LATENCY_LIMIT_US);
            latencies.saturating_record(us);
        }
        None => refused += 1,
    };
    while sent < count {
        step.tick().await;
        let due = ((begun.elapsed().as_secs_f64() * per_second) as usize).min(count);
        while sent < due {
            let Some(operation) = operations.next() else { break };
            let intended = begun + Duration::from_secs_f64(sent as f64 / per_second);
            let client = client.clone();
            waiting.spawn(async move {
                let outcome = client.submit(operation).await;
                outcome.ok().map(|_| intended.elapsed())
            });
            sent += 1;
        }
        while let Some(done) = waiting.try_join_next() {
            note(done?);
        }
    }
    while let Some(done) = waiting.join_next().await {
        note(done?);
    }
    let quantile = |at| latencies.value_at_quantile(at) as f64 / 1e3;
    let (p50_ms, p99_ms) = (quantile(0.5), quantile(0.99));
    Ok(Half { per_second, p50_ms, p99_ms, refused })
}
