//! The daemon: composition root only. It reads configuration and environment, builds the planes, serves the
//! admin interface, and ends cleanly. What the planes do is theirs.

#![forbid(unsafe_code)]

mod agreement;
mod authorities;
mod authority;
mod backend;
mod bridge;
mod certifier;
mod clock;
mod command_line;
mod copy;
mod identity;
mod issuer;
mod issuing_keys;
mod list_age;
mod logging;
mod logs;
mod measure;
mod node;
mod notify;
mod peers;
mod pins;
mod records;
mod reload;
mod revocation;
mod rotation;
mod services;
mod signer;
mod state;
mod transfers;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser as _;
use stoq_admin::{AdminSocket, Caller, ServerLimits, bind_metrics, serve, serve_metrics};
use stoq_config::Role;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use backend::Admin;
use clock::NodeClock;
use command_line::{Command, CommandLine, Loaded};
use node::{Node, Start};

/// Memory freed by another thread than the one that made it returns without a lock
#[global_allocator]
static ALLOCATOR: stoq_memory::ProcessAllocator = stoq_memory::ProcessAllocator;

/// Time SIGTERM gives flows to finish
const TERMINATE_TIMEOUT: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    match run(CommandLine::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            say_error(&message);
            ExitCode::FAILURE
        }
    }
}

#[expect(
    clippy::print_stderr,
    reason = "the one place where stoqd speaks before and after its log"
)]
fn say_error(message: &str) {
    eprintln!("stoqd: {message}");
}

#[expect(clippy::print_stdout, reason = "the output of the commands that are not the daemon")]
fn say(text: &str) {
    print!("{text}");
}

fn run(command: Command) -> Result<(), String> {
    match command {
        Command::DefaultConfig => say(stoq_config::DEFAULT_FILE),
        Command::Version { json: true } => {
            let version = command_line::version();
            let text = serde_json::to_string(&stoq_admin::api::Envelope {
                schema: "stoqd.version/1".into(),
                body: version,
            });
            say(&format!("{}\n", text.map_err(|error| error.to_string())?));
        }
        Command::Version { json: false } => {
            say(&format!("stoqd {}\n", command_line::version().version));
        }
        Command::Check(file) => say(&command_line::describe(&command_line::load(file.config)?)),
        Command::Topology(file) => {
            say(&command_line::topology(&command_line::load(file.config)?.config));
        }
        Command::Signer(options) => return signer::serve(options),
        Command::Run(options) => {
            let clock = NodeClock::new(options.test_clock);
            return serve_node(command_line::load(options.file.config)?, clock);
        }
    }
    Ok(())
}

fn serve_node(loaded: Loaded, clock: NodeClock) -> Result<(), String> {
    let logging = logging::start(loaded.config.log.format, &loaded.config.log.filter)?;
    raise_descriptor_limit();
    stoq_memory::keep_freed_memory();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("stoqd-services")
        .build()
        .map_err(|error| format!("the runtime could not be started: {error}"))?;
    let outcome = runtime.block_on(serve_until_told(loaded, clock, Arc::new(logging)));
    // Blocking work, such as a copy's file thread, is not waited for longer than this.
    runtime.shutdown_timeout(Duration::from_secs(2));
    outcome
}

/// Thousands of bridged sockets need as many descriptors
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
}

async fn serve_until_told(
    loaded: Loaded,
    clock: NodeClock,
    logging: Arc<logging::Logging>,
) -> Result<(), String> {
    let Loaded { config, placement, file, production } = loaded;
    let socket = placement.admin_socket.clone();
    let metrics_address = config.listen.metrics;
    let admin_socket = AdminSocket::bind(&socket).map_err(|error| error.to_string())?;
    let start = Start { config, config_file: file, placement, logging, clock, production };
    // Starting blocks on the worker threads: off the runtime's own threads.
    let node = tokio::task::spawn_blocking(|| Node::start(start))
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())?;
    let (stop, stopped) = watch::channel(false);
    let stopping = || {
        let mut stopped = stopped.clone();
        async move {
            // An error means the sender is gone, which is the end as well.
            let _ = stopped.wait_for(|stop| *stop).await;
        }
    };
    // Before anybody can see this node ready: a signal that comes then is heeded, not fatal.
    let signals = Signals::receive()?;
    let mut tasks = tokio::task::JoinSet::new();
    if clock.wall() != stoq_interface::WallClock::Host {
        tracing::warn!("a test's clock runs here: certificates are not judged by the host's");
    }
    serve_calls(&node);
    start_https(&node, &mut tasks, stopping()).await?;
    authorities::recall(&node).await;
    tasks.spawn(logs_until(Arc::clone(&node), stopping()));
    tasks.spawn(issuing_keys_until(Arc::clone(&node), stopping()));
    tasks.spawn(rotation_until(Arc::clone(&node), stopping()));
    tasks.spawn(revocations_until(Arc::clone(&node), stopping()));
    tasks.spawn(authorities_until(Arc::clone(&node), stopping()));
    tasks.spawn(agreement_until(Arc::clone(&node), stopping()));
    node.restore().await.map_err(|error| error.to_string())?;
    tasks.spawn(transfers_until(Arc::clone(&node), stopping()));
    tasks.spawn(measurements_until(Arc::clone(&node), stopping()));
    let desk = node.authority.as_ref().map(|running| Arc::new(running.desk()));
    // Whoever runs the daemon sends the signals that it heeds.
    let user = Caller::user(rustix::process::geteuid().as_raw());
    let admin = Arc::new(Admin(Arc::clone(&node), desk, user));
    let limits = ServerLimits::default();
    tasks.spawn(serve(admin_socket, Arc::clone(&admin), limits.clone(), stopping()));
    if let Some(address) = metrics_address {
        let listener = bind_metrics(address).map_err(|error| error.to_string())?;
        tasks.spawn(serve_metrics(listener, Arc::clone(&admin), limits, stopping()));
    }
    tracing::info!(
        node = %node.name(),
        stoq = %node.endpoint.local_address(),
        admin = %socket.display(),
        workers = node.endpoint.workers().len(),
        "ready"
    );
    notify::tell("READY=1");
    let outcome = heed_signals(&node, &admin, signals).await;
    notify::tell("STOPPING=1");
    // The receivers are the tasks: if all have ended, nobody needs to be told.
    let _ = stop.send(true);
    while tasks.join_next().await.is_some() {}
    if let Some(agreement) = node.agreement.get().cloned()
        && let Err(error) = tokio::task::spawn_blocking(move || agreement.stop()).await
    {
        tracing::error!(%error, "the validator was not waited for");
    }
    node.endpoint.stop();
    if let Some(running) = &node.authority {
        running.close().await;
    }
    outcome
}

/// Answers calls by who has the answer: the authority, or this node's part in HyperMesh
fn serve_calls(node: &Arc<Node>) {
    let authority = node.authority.as_ref().map(authority::Running::answer);
    let clients = node.config.load().hypermesh.clients.clone();
    let desk = node.agreement.get().map(|one| agreement::Desk::new(Arc::clone(one), clients));
    if authority.is_none() && desk.is_none() {
        return;
    }
    let runtime = tokio::runtime::Handle::current();
    node.endpoint.serve_calls(move |call| {
        let for_agreement = call.method().starts_with(stoq_hypermesh::calls::PREFIX);
        match (&desk, &authority) {
            (Some(desk), _) if for_agreement => {
                let _runtime = runtime.enter();
                desk.take(call);
            }
            (_, Some(authority)) => authority(call),
            _ => {
                if !call.refuse(stoq::CallStatus::Unknown, bytes::Bytes::new()) {
                    tracing::warn!("a worker takes no more answers to calls");
                }
            }
        }
    });
}

/// Serves enrolment, EST and the authority's public files, where the configuration says so
async fn start_https(
    node: &Arc<Node>,
    tasks: &mut tokio::task::JoinSet<()>,
    stopping: impl Future<Output = ()> + Send + 'static,
) -> Result<(), String> {
    let config = node.config.load_full();
    let (Some(running), Some(listen)) = (&node.authority, config.listen.enrollment) else {
        return Ok(());
    };
    if !config.node.roles.contains(&Role::Trustchain) {
        return Ok(());
    }
    let server = running.serve_https(listen).await?;
    let bound = server.local_address();
    *node.enrollment.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(bound);
    tasks.spawn(server.run(stopping));
    Ok(())
}

async fn transfers_until(node: Arc<Node>, stopping: impl Future<Output = ()>) {
    tokio::select! {
        () = transfers::serve(node) => {}
        () = stopping => {}
    }
}

async fn measurements_until(node: Arc<Node>, stopping: impl Future<Output = ()>) {
    tokio::select! {
        () = measure::serve(node) => {}
        () = stopping => {}
    }
}

async fn logs_until(node: Arc<Node>, stopping: impl Future<Output = ()>) {
    tokio::select! {
        () = logs::drive(node) => {}
        () = stopping => {}
    }
}

async fn issuing_keys_until(node: Arc<Node>, stopping: impl Future<Output = ()>) {
    tokio::select! {
        () = issuing_keys::drive(node) => {}
        () = stopping => {}
    }
}

async fn rotation_until(node: Arc<Node>, stopping: impl Future<Output = ()>) {
    tokio::select! {
        () = rotation::drive(node) => {}
        () = stopping => {}
    }
}

async fn agreement_until(node: Arc<Node>, stopping: impl Future<Output = ()>) {
    tokio::select! {
        () = agreement::drive(node) => {}
        () = stopping => {}
    }
}

async fn authorities_until(node: Arc<Node>, stopping: impl Future<Output = ()>) {
    tokio::select! {
        () = authorities::drive(node) => {}
        () = stopping => {}
    }
}

async fn revocations_until(node: Arc<Node>, stopping: impl Future<Output = ()>) {
    tokio::select! {
        () = revocation::drive(node) => {}
        () = stopping => {}
    }
}

/// The signals that stoqd heeds
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn receive() -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("signals cannot be received: {error}");
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
            hangup: signal(SignalKind::hangup()).map_err(failed)?,
        })
    }
}

/// SIGTERM and SIGINT drain and end; SIGHUP reads the configuration again
async fn heed_signals(node: &Arc<Node>, admin: &Admin, signals: Signals) -> Result<(), String> {
    let Signals { mut terminate, mut interrupt, mut hangup } = signals;
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => match admin.reload().await {
                Ok(done) => tracing::info!(
                    applied = done.applied.len(), pending = done.pending.len(), "configuration reloaded"
                ),
                Err(error) => tracing::error!(%error, "the configuration was not reloaded"),
            },
        }
    }
    tracing::info!("draining");
    let drained = tokio::select! {
        drained = node.drain(TERMINATE_TIMEOUT) => Some(drained),
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
    };
    match drained {
        Some((0, connections)) => tracing::info!(connections, "drained"),
        Some((flows, _)) => tracing::warn!(flows, "flows were cut at the end of the drain"),
        None => tracing::warn!("told again to stop: flows are cut"),
    }
    Ok(())
}
