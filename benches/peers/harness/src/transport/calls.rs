//! Calls on one connection, a stream each: at a rate, each measured from the instant it was due (so a stall
//! is seen by all calls that fell due in it), or as fast as they come back.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::task::JoinSet;

use super::{Connection, Dialer, Opener, Reader, Writer};
use crate::Failure;
use crate::command_line::CallsArgs;
use crate::latency::{Latencies, Ticker};
use crate::pattern::Pattern;
use crate::place::cpu_seconds;
use crate::report::{CallsReport, warn};

/// Calls without an answer at which the rate counts as not held and further ones as failed
const OUTSTANDING_MAX: usize = 60_000;
/// How long the last answers are waited for
const PATIENCE: Duration = Duration::from_secs(5);

/// What has come back
struct Record {
    latencies: Latencies,
    /// Answers within the measured time
    answered: u64,
    failed: u64,
    first_failure: Option<Failure>,
}

/// What all calls of a run have in common
struct Plan {
    request: Bytes,
    response_bytes: u64,
    /// The measured time
    window: std::ops::Range<Instant>,
    record: Mutex<Record>,
}

impl Plan {
    fn new<X: clap::Args>(args: &CallsArgs<X>, begun: Instant) -> Result<Self, Failure> {
        let mut request = BytesMut::new();
        request.put_u64(u64::from(args.response_bytes));
        request.put(Pattern::new(0).next_chunk(u64::from(args.request_bytes) - 8));
        let record =
            Record { latencies: Latencies::new()?, answered: 0, failed: 0, first_failure: None };
        Ok(Self {
            request: request.freeze(),
            response_bytes: u64::from(args.response_bytes),
            window: begun + args.omit..begun + args.omit + args.duration,
            record: Mutex::new(record),
        })
    }

    /// Makes one call and records it
    async fn call<O: Opener>(&self, mut opener: O, due: Instant) {
        let outcome = self.exchange(&mut opener).await;
        let now = Instant::now();
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(()) => {
                if self.window.contains(&due) {
                    record.latencies.add(now.saturating_duration_since(due));
                }
                record.answered += u64::from(self.window.contains(&now));
            }
            Err(failure) => {
                record.failed += 1;
                record.first_failure.get_or_insert(failure);
            }
        }
    }

    async fn exchange<O: Opener>(&self, opener: &mut O) -> Result<(), Failure> {
        let (mut writer, mut reader) = opener.open().await?;
        writer.write(self.request.clone()).await?;
        writer.finish().await?;
        let mut got = 0;
        while reader.read(&mut |bytes| got += bytes.len() as u64).await? {}
        if got == self.response_bytes {
            return Ok(());
        }
        Err(format!("an answer had {got} octets instead of {}", self.response_bytes).into())
    }
}

/// Makes calls for the time that was asked
///
/// # Errors
/// Where the connection cannot be had, or not a single call was answered.
pub async fn calls<D: Dialer, X: clap::Args>(
    dialer: &D,
    args: &CallsArgs<X>,
) -> Result<CallsReport, Failure> {
    let connection = dialer.connect().await?;
    let opener = connection.opener();
    let mut tasks = JoinSet::new();
    let cpu_at_start = tokio::spawn({
        let omit = args.omit;
        async move {
            tokio::time::sleep(omit).await;
            cpu_seconds()
        }
    });
    let plan = if args.rate > 0 {
        open_loop(args, &opener, &mut tasks).await?
    } else {
        closed_loop(args, &opener, &mut tasks).await?
    };
    let cpu_seconds = cpu_seconds() - cpu_at_start.await?;
    let all = async { while tasks.join_next().await.is_some() {} };
    // Whatever is still out is counted below.
    let _in_time = tokio::time::timeout(PATIENCE, all).await;
    let unanswered = tasks.len() as u64;
    connection.close();
    dialer.settle().await;
    let mut record = plan.record.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(failure) = record.first_failure.take() {
        if record.latencies.count() == 0 {
            return Err(failure);
        }
        warn(&format!("{} calls failed; the first: {failure}", record.failed));
    }
    Ok(CallsReport {
        rate: args.rate,
        in_flight: (args.rate == 0).then_some(args.in_flight),
        calls: record.latencies.count(),
        latency_us: record.latencies.percentiles(),
        achieved_per_second: record.answered as f64 / args.duration.as_secs_f64(),
        failed: record.failed,
        unanswered,
        cpu_seconds,
    })
}

async fn open_loop<O: Opener, X: clap::Args>(
    args: &CallsArgs<X>,
    opener: &O,
    tasks: &mut JoinSet<()>,
) -> Result<Arc<Plan>, Failure> {
    let ticker = Ticker::start(args.rate)?;
    let plan = Arc::new(Plan::new(args, ticker.begun())?);
    let mut made = 0;
    loop {
        let due = ticker.due().await?;
        while made <= due {
            let instant = ticker.instant(made);
            if instant >= plan.window.end {
                return Ok(plan);
            }
            made += 1;
            if tasks.len() >= OUTSTANDING_MAX {
                let mut record = plan.record.lock().unwrap_or_else(PoisonError::into_inner);
                record.failed += 1;
                let reason = || format!("{OUTSTANDING_MAX} calls are without an answer").into();
                record.first_failure.get_or_insert_with(reason);
                continue;
            }
            let (plan, opener) = (Arc::clone(&plan), opener.clone());
            tasks.spawn(async move { plan.call(opener, instant).await });
        }
        while tasks.try_join_next().is_some() {}
    }
}

async fn closed_loop<O: Opener, X: clap::Args>(
    args: &CallsArgs<X>,
    opener: &O,
    tasks: &mut JoinSet<()>,
) -> Result<Arc<Plan>, Failure> {
    let plan = Arc::new(Plan::new(args, Instant::now())?);
    for _ in 0..args.in_flight {
        let (plan, opener) = (Arc::clone(&plan), opener.clone());
        tasks.spawn(async move {
            while Instant::now() < plan.window.end {
                plan.call(opener.clone(), Instant::now()).await;
            }
        });
    }
    tokio::time::sleep_until(plan.window.end.into()).await;
    Ok(plan)
}
