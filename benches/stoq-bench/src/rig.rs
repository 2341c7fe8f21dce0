//! The set-up of a measurement: an endpoint and a program thread here, a sink process on the other core, and a
//! connection of their own for questions, so that nothing measured carries them. What a run was made of is kept
//! for its record.

use std::net::{Ipv6Addr, SocketAddrV6};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use serde::{Deserialize, Serialize};
use stoq::{ConnectError, Endpoint, NodeId, ServiceName, Session};
use tokio::runtime::Handle;

use crate::command_line::TuningArgs;
use crate::exchange::{
    Answer, Description, ExchangeError, Lines, Question, SERVICE_CONTROL, WorkerDescription,
};
use crate::host::{Fingerprint, PathKind, path_to};
use crate::identity::{self, SINK};
use crate::load::sink_process::SinkProcess;
use crate::process::Meter;
use crate::render;
use crate::sink::{Failure, endpoint};
use crate::traffic::AppThreads;
use crate::units::{Cores, cores};
use crate::vitals::{FarVitals, SERVICE_VITALS, Vitals};

/// Time that closing all connections may take
const CLOSING: Duration = Duration::from_secs(60);
/// Time between two looks at how far that has come: no event announces the far end's
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Where both ends run and where the record goes
#[derive(Args, Clone, Debug)]
pub struct RigArgs {
    /// Processors of this end: a worker each, and the thread of the program
    #[arg(long, default_value = "0", value_parser = cores, value_name = "LIST")]
    pub cores: Cores,
    /// Processors of the sink that is started
    #[arg(long, default_value = "1", value_parser = cores, value_name = "LIST")]
    pub sink_cores: Cores,
    /// Write the record as JSON to a file, or to standard output with `-`
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Transport and I/O
    #[command(flatten)]
    pub tuning: TuningArgs,
}

impl RigArgs {
    /// Prints a line, unless standard output belongs to the record
    ///
    /// # Errors
    /// Where nobody reads any more.
    pub fn say(&self, text: &str) -> std::io::Result<()> {
        match &self.json {
            Some(path) if path.as_os_str() == "-" => Ok(()),
            _ => render::line(text),
        }
    }

    /// Writes the record where it was asked for
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn record<T: Serialize>(&self, record: &T) -> Result<(), Failure> {
        let Some(path) = &self.json else { return Ok(()) };
        let text = serde_json::to_string(record)?;
        if path.as_os_str() == "-" {
            render::line(&text)?;
        } else {
            write(path, &(text + "\n"))?;
        }
        Ok(())
    }
}

/// Writes a file whole
///
/// # Errors
/// With the path in the text.
pub fn write(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()).into())
}

/// What a measurement was made under
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Conditions {
    /// The host of both ends
    pub host: Fingerprint,
    /// What packets went over
    pub path: Option<PathKind>,
    /// The build's commit, where the build was told
    pub commit: Option<String>,
    /// UDP payload of a full packet
    pub payload_bytes: u64,
    /// Processors of this end
    pub cores: Vec<usize>,
    /// Processors of the sink
    pub sink_cores: Vec<usize>,
    /// Transport settings of both ends, in words
    pub transport: String,
    /// Limits of both ends, in words
    pub limits: String,
    /// Workers of this end
    pub near_workers: Vec<WorkerDescription>,
    /// Workers of the sink
    pub far_workers: Vec<WorkerDescription>,
    /// What a reader must know
    pub notes: Vec<String>,
}

impl Conditions {
    /// In text, a line each
    pub fn lines(&self) -> Vec<String> {
        let cpu = self.host.cpu_model.as_deref().unwrap_or("unknown processor");
        let io = |all: &[WorkerDescription]| {
            all.first().map_or_else(|| "unknown".to_owned(), |worker| worker.io.clone())
        };
        let path = self.path.map_or_else(|| "unknown".into(), |p| format!("{p:?}").to_lowercase());
        let mut lines = vec![format!(
            "host {} ({cpu}, {} processors); path {path}; payload {} octets; this end on {:?} by {}, sink on \
             {:?} by {}; commit {}",
            self.host.id,
            self.host.cpus,
            self.payload_bytes,
            self.cores,
            io(&self.near_workers),
            self.sink_cores,
            io(&self.far_workers),
            self.commit.as_deref().unwrap_or("unknown"),
        )];
        lines.extend(self.notes.iter().map(|note| format!("  {note}")));
        lines
    }
}

/// Both ends of a measurement
pub struct Rig {
    /// This end
    pub endpoint: Endpoint,
    /// Counts what arrives here
    pub meter: Meter,
    threads: Arc<AppThreads>,
    sink: SinkProcess,
    peer: NodeId,
    watch: Session,
    far: FarVitals,
    near_about: Description,
    far_about: Description,
}

impl Rig {
    /// Starts both ends
    ///
    /// # Errors
    /// Where one of them does not start or cannot be reached.
    pub async fn start(args: &RigArgs) -> Result<Self, Failure> {
        let [sink_bundle, own] = identity::make()?;
        let sink = SinkProcess::start(&args.sink_cores, &args.tuning, &sink_bundle).await?;
        // Application threads first: they inherit no binding from anyone.
        let app_cores = args.tuning.app_cores.as_ref().unwrap_or(&args.cores);
        let threads = args.tuning.app_threads(&app_cores.0)?;
        let listen = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 0, 0, 0);
        let endpoint = {
            // Wake-ups for the program are then made on its own thread.
            let _program = threads.next().enter();
            endpoint(&own, listen, &args.cores.0, &args.tuning)?
        };
        let peer = NodeId::new(SINK)?;
        let watch = endpoint.connect(sink.address(), &peer).await?;
        let mut control = Lines::new(watch.open(&ServiceName::new(SERVICE_CONTROL)?));
        let Answer::Describe(far_about) = control.ask(Question::Describe).await? else {
            return Err("the sink answered another question".into());
        };
        control.end().await?;
        let far = FarVitals::new(watch.open(&ServiceName::new(SERVICE_VITALS)?));
        let near_about = Description::of(&endpoint).await;
        let meter = Meter::default();
        Ok(Self { endpoint, meter, threads, sink, peer, watch, far, near_about, far_about })
    }

    /// Where the sink listens
    pub fn sink_address(&self) -> SocketAddrV6 {
        self.sink.address()
    }

    /// Whom to dial
    pub fn peer(&self) -> &NodeId {
        &self.peer
    }

    /// The key exchange of the connection that carries the questions
    pub fn key_exchange(&self) -> Option<&str> {
        self.near_about.connections.first().map(|connection| connection.key_exchange.as_str())
    }

    /// A further session
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn connect(&self) -> Result<Session, ConnectError> {
        self.endpoint.connect(self.sink.address(), &self.peer).await
    }

    /// The program's thread
    pub fn program(&self) -> &Handle {
        self.threads.next()
    }

    /// Both ends now, this one first
    ///
    /// # Errors
    /// Where an end cannot say.
    pub async fn vitals(&mut self) -> Result<(Vitals, Vitals), ExchangeError> {
        let near = Vitals::of(&self.meter, &self.endpoint)?;
        Ok((near, self.far.ask().await?))
    }

    /// Both ends, once neither holds a connection but that of the questions
    ///
    /// # Errors
    /// Where that takes too long, and where an end cannot say.
    pub async fn wait_closed(&mut self) -> Result<(Vitals, Vitals), Failure> {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        let begun = Instant::now();
        loop {
            looks.tick().await;
            let (near, far) = self.vitals().await?;
            let open = [near.counter("connections_open"), far.counter("connections_open")];
            if open.iter().all(|open| *open <= 1) {
                return Ok((near, far));
            }
            if begun.elapsed() > CLOSING {
                let [near, far] = open;
                let text = format!(
                    "{CLOSING:?} after the last session was closed {near} connections are open here and {far} \
                     at the sink: this proves a defect"
                );
                return Err(text.into());
            }
        }
    }

    /// What this measurement is made under
    ///
    /// # Errors
    /// Where the host cannot be identified.
    pub fn conditions(&self, args: &RigArgs, notes: Vec<String>) -> Result<Conditions, Failure> {
        let snapshot = self.endpoint.snapshot();
        Ok(Conditions {
            host: Fingerprint::read()?,
            path: path_to(self.sink.address()),
            commit: option_env!("STOQ_COMMIT").map(str::to_owned),
            payload_bytes: args.tuning.payload,
            cores: args.cores.0.clone(),
            sink_cores: args.sink_cores.0.clone(),
            transport: format!("{:?}", snapshot.transport),
            limits: format!("{:?}", snapshot.limits),
            near_workers: self.near_about.workers.clone(),
            far_workers: self.far_about.workers.clone(),
            notes,
        })
    }

    /// Ends both
    ///
    /// # Errors
    /// Where the sink ended otherwise than it should.
    pub async fn end(mut self) -> Result<(), Failure> {
        self.far.end().await?;
        if !self.watch.close() {
            return Err("the worker takes no more commands".into());
        }
        self.sink.end().await
    }
}

/// Conditions for the tests of records
#[cfg(test)]
pub fn example_conditions() -> Conditions {
    Conditions {
        host: Fingerprint::read().unwrap(),
        path: Some(PathKind::Loopback),
        commit: None,
        payload_bytes: 1_452,
        cores: vec![0],
        sink_cores: vec![1],
        transport: "TransportSettings".into(),
        limits: "Limits".into(),
        near_workers: Vec::new(),
        far_workers: Vec::new(),
        notes: vec!["a note".into()],
    }
}
