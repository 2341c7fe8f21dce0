//! A run from the near end: connects, opens the flows, samples both ends at the marks.

use std::net::{Ipv6Addr, SocketAddrV6};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use stoq::{Endpoint, Flow, NodeId, ServiceName, Session};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::ends::Ends;
use super::report::{Inputs, Interval, LoadReport, PlacedWorker, ReportError, SideName, Start};
use super::sink_process::SinkProcess;
use super::{Line, quiet, tell};
use crate::ceiling::{Ceiling, Cipher, Tsc};
use crate::command_line::LoadArgs;
use crate::exchange::{
    Answer, Description, ExchangeError, Lines, Preamble, Question, SERVICE_CONTROL, SERVICE_SINK,
    SERVICE_SOURCE, Verdict,
};
use crate::host::{Fingerprint, path_to};
use crate::identity::{self, Bundle, LOAD, SINK};
use crate::process::{Meter, Sample};
use crate::render;
use crate::scrape::Scraper;
use crate::sink::{Failure, endpoint};
use crate::traffic::{AppThreads, receive, send};

/// Warm-up of a run by time
const OMIT: Duration = Duration::from_secs(2);
/// Length of a run that names neither time nor octets
const DURATION: Duration = Duration::from_secs(10);
/// Longest verdict
const VERDICT_BYTES: usize = 4_096;

/// What a run leaves behind for its report
pub(super) struct Run {
    start: Start,
    intervals: Vec<Interval>,
    sender: EndRecord,
    receiver: EndRecord,
    verdicts: Vec<Verdict>,
}

struct EndRecord {
    first: Sample,
    before: Sample,
    after: Sample,
    about: Description,
    last: Sample,
}

impl EndRecord {
    fn ends(&self) -> Ends<'_> {
        Ends {
            first: &self.first,
            before: &self.before,
            after: &self.after,
            about: &self.about,
            last: &self.last,
        }
    }
}

impl Run {
    pub(super) fn report(
        self,
        ceilings: Option<[Ceiling; 2]>,
        ciphers: Option<[Cipher; 2]>,
    ) -> Result<LoadReport, ReportError> {
        LoadReport::of(Inputs {
            sender: self.sender.ends(),
            receiver: self.receiver.ends(),
            start: self.start,
            intervals: self.intervals,
            flows: self.verdicts,
            ceilings,
            ciphers,
            tsc: Tsc::of_this_host(),
        })
    }
}

/// Starts a sink where none is named, and carries the load to it
pub(super) async fn carry(args: &LoadArgs) -> Result<Run, Failure> {
    match (args.to, &args.identity) {
        (Some(to), Some(directory)) => {
            Near::start(args, to, &Bundle::read(directory, LOAD)?).await?.run().await
        }
        _ => {
            let [sink, load] = identity::make()?;
            let process = SinkProcess::start(&args.sink_cores, &args.tuning, &sink).await?;
            let outcome = Near::start(args, process.address(), &load).await?.run().await;
            process.end().await?;
            outcome
        }
    }
}

/// The near end of a run
struct Near<'a> {
    args: &'a LoadArgs,
    to: SocketAddrV6,
    endpoint: Endpoint,
    _scraper: Option<Scraper>,
    meter: Arc<Meter>,
    threads: Arc<AppThreads>,
    sessions: Vec<Session>,
    control: Lines,
}

/// Samples of the near and the far end at one mark
type Pair = (Sample, Sample);

impl<'a> Near<'a> {
    async fn start(args: &'a LoadArgs, to: SocketAddrV6, own: &Bundle) -> Result<Self, Failure> {
        let listen = SocketAddrV6::new(
            if to.ip().is_loopback() { Ipv6Addr::LOCALHOST } else { Ipv6Addr::UNSPECIFIED },
            0,
            0,
            0,
        );
        // Application threads first: they inherit no binding from anyone.
        let cores = args.tuning.app_cores.as_ref().unwrap_or(&args.cores);
        let threads = args.tuning.app_threads(&cores.0)?;
        let endpoint = {
            // Wake-ups for the program are then made on its own thread.
            let _program = threads.next().enter();
            endpoint(own, listen, &args.cores.0, &args.tuning)?
        };
        let peer = NodeId::new(SINK)?;
        let mut sessions = Vec::new();
        for _ in 0..args.connections.max(1) {
            sessions.push(endpoint.connect(to, &peer).await?);
        }
        let control = Lines::new(sessions[0].open(&ServiceName::new(SERVICE_CONTROL)?));
        let meter = Arc::new(Meter::default());
        let scraper = Scraper::start_if_asked(&endpoint, &args.tuning)?;
        Ok(Self { args, to, endpoint, _scraper: scraper, meter, threads, sessions, control })
    }

    async fn far_sample(&mut self) -> Result<Sample, Failure> {
        match self.control.ask(Question::Sample).await? {
            Answer::Sample(sample) => Ok(sample),
            Answer::Describe(_) => Err("the sink answered another question".into()),
        }
    }

    async fn sample(&mut self) -> Result<Pair, Failure> {
        let far = self.far_sample().await?;
        Ok((self.meter.sample(&self.endpoint)?, far))
    }

    /// What both ends are, as sender and receiver
    async fn describe(&mut self) -> Result<(Description, Description), Failure> {
        let far = match self.control.ask(Question::Describe).await? {
            Answer::Describe(about) => about,
            Answer::Sample(_) => return Err("the sink answered another question".into()),
        };
        let near = Description::of(&self.endpoint).await;
        Ok(if self.args.reverse { (far, near) } else { (near, far) })
    }

    fn start_block(&self, sender: &Description, receiver: &Description) -> Result<Start, Failure> {
        let args = self.args;
        let placed = |side, about: &Description| {
            let worker = move |about| PlacedWorker { side, about };
            about.workers.clone().into_iter().map(worker).collect::<Vec<_>>()
        };
        let mut workers = placed(SideName::Sender, sender);
        workers.extend(placed(SideName::Receiver, receiver));
        Ok(Start {
            host: Fingerprint::read()?,
            path: path_to(self.to),
            commit: option_env!("STOQ_COMMIT").map(str::to_owned),
            payload_bytes: args.tuning.payload,
            flows: args.flows.max(1),
            sessions: self.sessions.len(),
            striped: args.tuning.stripe,
            reverse: args.reverse,
            verify: args.verify,
            transport: format!("{:?}", args.tuning.transport()),
            workers,
        })
    }

    async fn run(mut self) -> Result<Run, Failure> {
        let (sender, receiver) = self.describe().await?;
        let start = self.start_block(&sender, &receiver)?;
        if self.args.json_lines {
            tell(&Line::Start { start: &start })?;
        } else if !quiet(self.args) {
            render::start(&start);
        }
        let first = self.sample().await?;
        let mut flows = self.open_flows()?;
        let (intervals, before, mut verdicts) = self.watch(first.clone(), &mut flows).await?;
        let after = self.sample().await?;
        while let Some(joined) = flows.join_next().await {
            verdicts.push(joined??);
        }
        let (sender, receiver) = self.describe().await?;
        let last = self.sample().await?;
        let turned = |(near, far): Pair| if self.args.reverse { (far, near) } else { (near, far) };
        let (first, before, after) = (turned(first), turned(before), turned(after));
        let last = turned(last);
        let sender = EndRecord {
            first: first.0,
            before: before.0,
            after: after.0,
            about: sender,
            last: last.0,
        };
        let receiver = EndRecord {
            first: first.1,
            before: before.1,
            after: after.1,
            about: receiver,
            last: last.1,
        };
        self.control.end().await?;
        for session in &self.sessions {
            session.close();
        }
        Ok(Run { start, intervals, sender, receiver, verdicts })
    }

    fn omit(&self) -> Duration {
        let default = if self.args.bytes.is_some() { Duration::ZERO } else { OMIT };
        self.args.omit.unwrap_or(default)
    }

    fn open_flows(&self) -> Result<JoinSet<Result<Verdict, ExchangeError>>, Failure> {
        let args = self.args;
        let flows = args.flows.max(1) as u64;
        let time = match args.bytes {
            Some(_) => Duration::MAX,
            None => self.omit() + args.duration.unwrap_or(DURATION),
        };
        let name = if args.reverse { SERVICE_SOURCE } else { SERVICE_SINK };
        let service = ServiceName::new(name)?;
        let mut all = JoinSet::new();
        for (index, session) in (0..flows).zip(self.sessions.iter().cycle()) {
            let whole = args.bytes.unwrap_or(u64::MAX);
            let share = whole / flows + u64::from(index < whole % flows);
            let order = Preamble { verify: args.verify, seed: index, bytes: share, time };
            let flow = session.open(&service);
            let meter = Arc::clone(&self.meter);
            let reverse = args.reverse;
            let carry = async move {
                if reverse { take(flow, order, &meter).await } else { give(flow, order).await }
            };
            all.spawn_on(carry, self.threads.next());
        }
        Ok(all)
    }

    /// Samples at every mark until the flows have ended; returns the intervals and the samples at the end of
    /// the warm-up
    async fn watch(
        &mut self,
        first: Pair,
        flows: &mut JoinSet<Result<Verdict, ExchangeError>>,
    ) -> Result<(Vec<Interval>, Pair, Vec<Verdict>), Failure> {
        let begun = Instant::now();
        let (omit, step) = (self.omit(), self.args.interval.max(Duration::from_millis(10)));
        let mut omitted = omit.is_zero();
        let mut next = begun + step;
        let mut replace = self.args.replace_every.map(|every| begun + every);
        let (mut intervals, mut verdicts) = (Vec::new(), Vec::new());
        let (mut before, mut previous) = (first.clone(), first);
        while !flows.is_empty() {
            let warm = (!omitted).then_some(begun + omit);
            let mark = [Some(next), warm, replace].into_iter().flatten().min().unwrap_or(next);
            tokio::select! {
                Some(joined) = flows.join_next() => {
                    verdicts.push(joined??);
                    continue;
                }
                () = tokio::time::sleep_until(mark) => {}
            }
            if Some(mark) == replace {
                for session in &self.sessions {
                    if !session.replace_connections() {
                        return Err("the worker takes no more commands".into());
                    }
                }
                replace = self.args.replace_every.map(|every| mark + every);
                continue;
            }
            let now = self.sample().await?;
            self.record(&mut intervals, &previous, &now, !omitted)?;
            if Some(mark) == warm {
                omitted = true;
                before = now.clone();
            }
            previous = now;
            while next <= Instant::now() {
                next += step;
            }
        }
        if !omitted {
            return Err(ReportError::OnlyWarmUp.into());
        }
        Ok((intervals, before, verdicts))
    }

    fn record(
        &self,
        intervals: &mut Vec<Interval>,
        before: &Pair,
        after: &Pair,
        omitted: bool,
    ) -> Result<(), Failure> {
        let pick = |pair: &Pair| if self.args.reverse { pair.0.clone() } else { pair.1.clone() };
        let (before, after) = (pick(before), pick(after));
        let Some(first) = after.first_byte_ns else { return Ok(()) };
        let begun = before.at_ns.max(first);
        let nanoseconds = after.at_ns.saturating_sub(begun).max(1);
        let bytes = after.data_bytes - before.data_bytes;
        let since = |ns: u64| ns.saturating_sub(first) as f64 / 1e9;
        let interval = Interval {
            start_s: since(begun),
            end_s: since(after.at_ns),
            bytes,
            gbps: bytes as f64 * 8.0 / nanoseconds as f64,
            omitted,
        };
        if self.args.json_lines {
            tell(&Line::Interval { interval: &interval })?;
        } else if !quiet(self.args) {
            render::interval(&interval);
        }
        intervals.push(interval);
        Ok(())
    }
}

/// Sends a flow and waits for the receiver's verdict
pub async fn give(flow: Flow, order: Preamble) -> Result<Verdict, ExchangeError> {
    let (mut reader, mut writer) = flow.split();
    writer.write_chunk(order.encode()).await?;
    send(&mut writer, &order).await?;
    writer.finish().await?;
    let mut text = Vec::new();
    while let Some(bytes) = reader.read_chunk().await? {
        text.extend_from_slice(&bytes);
        if text.len() > VERDICT_BYTES {
            return Err(ExchangeError::Protocol("a verdict without an end".into()));
        }
    }
    serde_json::from_slice(&text).map_err(|error| ExchangeError::Protocol(error.to_string()))
}

/// Asks for a flow and verifies it
async fn take(flow: Flow, order: Preamble, meter: &Meter) -> Result<Verdict, ExchangeError> {
    let (mut reader, mut writer) = flow.split();
    writer.write_chunk(order.encode()).await?;
    writer.shut().await?;
    receive(&mut reader, Bytes::new(), order.verify, meter).await
}
