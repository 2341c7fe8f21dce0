//! `stoq-bench latency`: finds how many exchanges a second the pair of cores can make, then makes a part of that
//! many on a schedule and says how long each took from the instant it was meant to begin.

pub mod alarm;
pub mod args;
pub mod client;
pub mod drive;
pub mod report;
pub mod schedule;
pub mod search;
pub mod tally;

use std::time::Duration;

use stoq::Session;

use crate::beside::{self, Beside};
use crate::rig::{Rig, write};
use crate::sink::Failure;
use crate::small::{HEADER_BYTES, SMALL_BYTES};
use args::LatencyArgs;
use client::{Client, Kind};
use drive::{Pace, Window, drive};
use report::{KindReport, LatencyReport, Level, SCHEMA};
use schedule::{Arrivals, Schedule};
use search::{Search, Step};
use tally::Tally;

/// Warm-up of a step of the search
const SEARCH_OMIT: Duration = Duration::from_millis(200);
/// Exchanges under way on one connection at most: so many streams a peer allows by default
const IN_FLIGHT_PER_CONNECTION: usize = 256;

/// Runs and prints; the record is also returned
pub fn run(args: &LatencyArgs) -> Result<LatencyReport, Failure> {
    let sizes = HEADER_BYTES as u64..=SMALL_BYTES as u64;
    if !sizes.contains(&args.request) || args.response > SMALL_BYTES as u64 {
        let text =
            format!("a request has {HEADER_BYTES} to {SMALL_BYTES} octets, a response no more");
        return Err(text.into());
    }
    beside::check_callers(&args.beside)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (report, log) = runtime.block_on(measure(args))?;
    if let Some(path) = &args.log {
        write(path, &log)?;
    }
    args.rig.record(&report)?;
    Ok(report)
}

/// Other stacks' programs know constant arrivals only: beside them ours are constant, too
fn arrivals(args: &LatencyArgs) -> Arrivals {
    if args.beside.is_empty() { args.arrivals } else { Arrivals::Constant }
}

fn notes(args: &LatencyArgs) -> Vec<String> {
    vec![
        format!("arrivals: {:?}", arrivals(args)).to_lowercase(),
        "latency counts from the intended instant of an open-loop schedule; the generator and this end's worker \
         share one processor, the sink's program and worker the other"
            .into(),
        format!(
            "at most {IN_FLIGHT_PER_CONNECTION} exchanges under way on a connection: what is due beyond that waits \
             in the generator, and its wait counts"
        ),
        format!(
            "{} connection(s), {} octets up, {} back, every octet compared",
            args.connections.max(1),
            args.request,
            args.response
        ),
    ]
}

async fn measure(args: &LatencyArgs) -> Result<(LatencyReport, String), Failure> {
    let rig = Rig::start(&args.rig).await?;
    let conditions = rig.conditions(&args.rig, notes(args))?;
    for line in conditions.lines() {
        args.rig.say(&line)?;
    }
    let mut sessions = Vec::new();
    for _ in 0..args.connections.max(1) {
        sessions.push(rig.connect().await?);
    }
    let (mut kinds, mut log) = (Vec::new(), String::new());
    for kind in args.of.kinds() {
        kinds.push(measure_kind(args, &rig, &sessions, *kind, &mut log).await?);
    }
    for session in &sessions {
        session.close();
    }
    rig.end().await?;
    let report = LatencyReport {
        schema: SCHEMA.to_owned(),
        conditions,
        request_bytes: args.request,
        response_bytes: args.response,
        connections: sessions.len(),
        arrivals: arrivals(args),
        seconds: args.duration.as_secs_f64(),
        omitted_seconds: args.omit.as_secs_f64(),
        kinds,
    };
    Ok((report, log))
}

async fn measure_kind(
    args: &LatencyArgs,
    rig: &Rig,
    sessions: &[Session],
    kind: Kind,
    log: &mut String,
) -> Result<KindReport, Failure> {
    let (request, response) = (usize::try_from(args.request)?, usize::try_from(args.response)?);
    let client = Client::new(kind, sessions.to_vec(), request, response)?;
    let most = IN_FLIGHT_PER_CONNECTION * sessions.len();
    let search = find_capacity(args, rig, &client, kind, most).await?;
    let best = search.capacity().ok_or("no exchange ended: there is no capacity to speak of")?;
    args.rig.say(&format!(
        "{}: capacity {:.0}/s with {} under way",
        kind.label(),
        best.per_second,
        best.in_flight
    ))?;
    let mut levels = Vec::new();
    for (turn, percent) in args.at.iter().copied().enumerate() {
        let rate = best.per_second * percent / 100.0;
        let beside = Beside::new(if kind == Kind::Calls { &args.beside } else { &[] }, &args.rig);
        // Every other rate begins with the other stacks, so that a drift of the host favours nobody.
        let order = beside::CallOrder {
            per_second: rate,
            duration: args.duration,
            omit: args.omit,
            request_bytes: args.request,
            response_bytes: args.response,
        };
        let mut others = Vec::new();
        if !turn.is_multiple_of(2) {
            others = beside.calls(&order).await?;
        }
        let schedule =
            Box::new(Schedule::new(rate, arrivals(args), args.seed.wrapping_add(turn as u64)));
        let window = Window { omit: args.omit, measure: args.duration };
        let tally = on_program(rig, &client, Pace::Open { schedule, most }, window).await?;
        if turn.is_multiple_of(2) {
            others = beside.calls(&order).await?;
        }
        let mut level = Level::of(percent, rate, &tally);
        args.rig.say(&level.line())?;
        for other in &others {
            args.rig.say(&other.line())?;
        }
        level.beside = others;
        log.push_str(&format!("# {} at {percent} %, {rate:.0}/s, microseconds\n", kind.label()));
        log.push_str(&tally.distribution());
        levels.push(level);
    }
    Ok(KindReport {
        of: kind,
        capacity_per_second: best.per_second,
        in_flight_at_capacity: best.in_flight,
        search: search.into_steps(),
        levels,
    })
}

async fn find_capacity(
    args: &LatencyArgs,
    rig: &Rig,
    client: &Client,
    kind: Kind,
    most: usize,
) -> Result<Search, Failure> {
    let mut search = Search::default();
    let window = Window { omit: SEARCH_OMIT, measure: args.search_step };
    while let Some(in_flight) = search.next_in_flight(most) {
        let tally = on_program(rig, client, Pace::Closed { in_flight }, window).await?;
        if !tally.counts().is_sound() {
            return Err(
                format!("{in_flight} {} under way: {:?}", kind.label(), tally.counts()).into()
            );
        }
        let per_second = tally.per_second();
        search.record(Step { in_flight, per_second });
        args.rig.say(&format!("{}: {in_flight:>4} under way {per_second:>9.0}/s", kind.label()))?;
    }
    Ok(search)
}

/// Drives exchanges from the program's thread
async fn on_program(
    rig: &Rig,
    client: &Client,
    pace: Pace,
    window: Window,
) -> Result<Tally, Failure> {
    let client = client.clone();
    let driven = async move { drive(pace, window, |number| client.exchange(number)).await };
    rig.program().spawn(driven).await?
}
