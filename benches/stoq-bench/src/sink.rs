//! The far end of a run: takes or sends bytes on request, verifies what it takes, and answers questions about
//! itself. It decides nothing about the run.

use std::io::BufRead;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use stoq::{Allow, Endpoint, Flow, Incoming, NodeId, ServiceName};

use crate::command_line::{SinkArgs, TuningArgs};
use crate::exchange::{
    Answer, Description, ExchangeError, Lines, PREAMBLE_BYTES, Preamble, Question, SERVICE_CONTROL,
    SERVICE_SINK, SERVICE_SOURCE, Verdict, read_exactly,
};
use crate::identity::{Bundle, LOAD, SINK};
use crate::process::Meter;
use crate::render::{line, warn};
use crate::scrape::Scraper;
use crate::small::{SERVICE_SMALL, Small};
use crate::traffic::{AppThreads, receive, send};
use crate::vitals::{self, SERVICE_VITALS};

/// Services whose flows are taken here one by one
const SERVICES: [&str; 4] = [SERVICE_SINK, SERVICE_SOURCE, SERVICE_CONTROL, SERVICE_VITALS];

/// What went wrong, for the terminal
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// One line of a sink's output
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event<'a> {
    Ready { schema: &'a str, address: String, process: u32 },
    Flow { peer: &'a str, service: &'a str, verdict: Verdict },
}

/// Makes the endpoint of a run
pub fn endpoint(
    bundle: &Bundle,
    listen: std::net::SocketAddrV6,
    cores: &[usize],
    tuning: &TuningArgs,
) -> Result<Endpoint, Failure> {
    let mut snapshot = bundle.snapshot()?;
    snapshot.transport = tuning.transport();
    tuning.bounds.settle(&mut snapshot.transport);
    tuning.bounds.raise(&mut snapshot.limits);
    if let Some(bytes) = tuning.flow_window {
        snapshot.limits.flow_window_initial_bytes = bytes;
        snapshot.limits.flow_window_bytes = snapshot.limits.flow_window_bytes.max(bytes);
    }
    let load = NodeId::new(LOAD)?;
    for name in SERVICES.into_iter().chain([SERVICE_SMALL]) {
        let only_the_load = Allow::Nodes([load.clone()].into());
        snapshot.services.insert(ServiceName::new(name)?, only_the_load);
    }
    let plan = tuning.plan(cores);
    let endpoint = Endpoint::builder().listen(listen).workers(plan).snapshot(snapshot).build()?;
    for counters in endpoint.counters() {
        counters.stage_clock.set(tuning.stages);
    }
    Ok(endpoint)
}

struct Sink {
    endpoint: Endpoint,
    meter: Meter,
    threads: Arc<AppThreads>,
    json: bool,
}

/// `stoq-bench sink`
pub fn run(args: &SinkArgs) -> Result<(), Failure> {
    let piped = args.identity == Path::new("-");
    let bundle = if piped { piped_bundle()? } else { Bundle::read(&args.identity, SINK)? };
    let cores = args.cores.clone().unwrap_or_default().0;
    let app_cores = args.tuning.app_cores.as_ref().map_or(&cores, |cores| &cores.0);
    let threads = args.tuning.app_threads(app_cores)?;
    let endpoint = {
        // Wake-ups for the program and its calls are then made on its own thread.
        let _program = threads.next().enter();
        endpoint(&bundle, args.listen, &cores, &args.tuning)?
    };
    let _scraper = Scraper::start_if_asked(&endpoint, &args.tuning)?;
    let sink = Sink { endpoint, meter: Meter::default(), threads, json: args.json };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(Arc::new(sink), piped))
}

fn piped_bundle() -> Result<Bundle, Failure> {
    let mut text = String::new();
    std::io::stdin().lock().read_line(&mut text)?;
    Ok(serde_json::from_str(&text)?)
}

async fn serve(sink: Arc<Sink>, piped: bool) -> Result<(), Failure> {
    let small = Small::default();
    sink.endpoint.serve_calls({
        let small = small.clone();
        move |call| {
            if !small.answer_call(call) {
                warn("the worker takes no more commands: a call stays unanswered");
            }
        }
    });
    for service in SERVICES {
        let name = ServiceName::new(service)?;
        let mut incoming = sink.endpoint.serve(name)?;
        let sink = Arc::clone(&sink);
        tokio::spawn(async move {
            while let Some(flow) = incoming.next().await {
                sink.accept(service, flow);
            }
        });
    }
    let incoming = sink.endpoint.serve(ServiceName::new(SERVICE_SMALL)?)?;
    sink.threads.next().spawn(answer_flows(incoming, small));
    let address = sink.endpoint.local_address().to_string();
    sink.tell(&Event::Ready { schema: "stoq.bench.sink/1", address, process: std::process::id() })?;
    if piped { parent_gone().await } else { Ok(tokio::signal::ctrl_c().await?) }
}

/// Answers small flows on the thread that runs this: no other has to be woken for them
async fn answer_flows(mut incoming: Incoming, small: Small) {
    while let Some(flow) = incoming.next().await {
        let small = small.clone();
        tokio::spawn(async move {
            if let Err(error) = small.answer_flow(flow).await {
                warn(&format!("{SERVICE_SMALL}: {error}"));
            }
        });
    }
}

/// Resolves when standard input is closed: whoever started this process has ended or wants it to
async fn parent_gone() -> Result<(), Failure> {
    let (tell, told) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("bench-stdin".into()).spawn(move || {
        // Any outcome of the read means the same: nobody is there any more.
        let _ended = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        let _nobody_waits = tell.send(());
    })?;
    let _sender_dropped_means_the_same = told.await;
    Ok(())
}

impl Sink {
    fn accept(self: &Arc<Self>, service: &'static str, flow: Flow) {
        let sink = Arc::clone(self);
        if service == SERVICE_CONTROL {
            tokio::spawn(async move { sink.report(service, sink.answer(flow).await) });
        } else if service == SERVICE_VITALS {
            tokio::spawn(async move {
                let outcome = vitals::answer(flow, &sink.meter, &sink.endpoint).await;
                sink.report(service, outcome);
            });
        } else {
            self.threads.next().spawn({
                let sink = Arc::clone(self);
                async move { sink.report(service, sink.carry(service, flow).await) }
            });
        }
    }

    fn report(&self, service: &str, outcome: Result<(), ExchangeError>) {
        if let Err(error) = outcome {
            warn(&format!("{service}: {error}"));
        }
    }

    async fn carry(&self, service: &'static str, flow: Flow) -> Result<(), ExchangeError> {
        let peer = flow.peer().as_str().to_owned();
        let (mut reader, mut writer) = flow.split();
        let mut rest = Bytes::new();
        let opening = read_exactly(&mut reader, &mut rest, PREAMBLE_BYTES).await?;
        let preamble = Preamble::decode(&opening)
            .ok_or_else(|| ExchangeError::Protocol("a flow opens with something else".into()))?;
        if service == SERVICE_SOURCE {
            send(&mut writer, &preamble).await?;
            return Ok(writer.finish().await?);
        }
        let verdict = receive(&mut reader, rest, preamble.verify, &self.meter).await?;
        let text =
            serde_json::to_vec(&verdict).map_err(|e| ExchangeError::Protocol(e.to_string()))?;
        writer.write_chunk(text.into()).await?;
        writer.finish().await?;
        self.tell(&Event::Flow { peer: &peer, service, verdict })?;
        Ok(())
    }

    async fn answer(&self, flow: Flow) -> Result<(), ExchangeError> {
        let mut lines = Lines::new(flow);
        while let Some(question) = lines.read::<Question>().await? {
            let answer = match question {
                Question::Sample => Answer::Sample(self.meter.sample(&self.endpoint)?),
                Question::Describe => Answer::Describe(Description::of(&self.endpoint).await),
            };
            lines.write(&answer).await?;
        }
        lines.end().await
    }

    fn tell(&self, event: &Event<'_>) -> std::io::Result<()> {
        if self.json {
            return line(&serde_json::to_string(event).map_err(std::io::Error::from)?);
        }
        match event {
            Event::Ready { address, .. } => line(&format!("listening on {address}")),
            Event::Flow { peer, service, verdict } => line(&format!(
                "{peer} {service}: {} octets received, {:?}",
                verdict.received_bytes, verdict.outcome
            )),
        }
    }
}
