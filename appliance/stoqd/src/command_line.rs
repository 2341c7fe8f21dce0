//! The command line of stoqd, and the commands that need no running node.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use stoq_admin::api::VersionShown;
use stoq_config::{Config, Placement, Surroundings};
use stoq_memory::host_topology;

use crate::clock::TestClock;

/// The STOQ daemon: carries traffic between servers over mutually authenticated QUIC
#[derive(Debug, Parser)]
#[command(name = "stoqd", version, about, long_about = None)]
pub struct CommandLine {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What stoqd does
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve in the foreground; without a configuration file, a complete node on loopback
    Run(RunOptions),
    /// Parse, validate and show what `run` would do, without starting anything
    Check(ConfigFile),
    /// Show which worker would run on which core and NUMA node
    Topology(ConfigFile),
    Signer(crate::signer::Signer),
    /// Print the commented default configuration: it is the manual
    DefaultConfig,
    /// Print the version
    Version {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

/// Where the configuration is
#[derive(clap::Args, Clone, Debug)]
pub struct ConfigFile {
    /// The configuration file; without it the defaults apply
    #[arg(long, short, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// How the daemon runs
#[derive(clap::Args, Clone, Debug)]
pub struct RunOptions {
    /// Where the configuration is
    #[command(flatten)]
    pub file: ConfigFile,
    /// For tests: from FROM (seconds since 1970) on, certificates are judged and renewed by a clock that runs
    /// RATE times as fast as the host's. Every node of the test needs the same.
    #[arg(long, value_name = "FROM:RATE", hide = true)]
    pub test_clock: Option<TestClock>,
}

/// The configuration and where things are
pub struct Loaded {
    /// The configuration
    pub config: Config,
    /// Where things are
    pub placement: Placement,
    /// The file
    pub file: Option<PathBuf>,
    /// Whether the authority is to be as strict as in production
    pub production: bool,
}

/// Reads configuration and environment
pub fn load(file: Option<PathBuf>) -> Result<Loaded, String> {
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let environment =
        stoq_config::Environment::parse(variables).map_err(|error| error.to_string())?;
    if let Some(target) = &environment.target_throughput {
        tracing::info!(target_gbps = ?target, "target throughput, shown beside what is measured");
    }
    let config = match &file {
        None => Config::default(),
        Some(file) => Config::read(file).map_err(|error| error.to_string())?,
    };
    let path = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let uname = rustix::system::uname();
    let [state, runtime, xdg_state, xdg_runtime, home] =
        ["STATE_DIRECTORY", "RUNTIME_DIRECTORY", "XDG_STATE_HOME", "XDG_RUNTIME_DIR", "HOME"]
            .map(path);
    let surroundings = Surroundings {
        root: rustix::process::geteuid().is_root(),
        host_name: uname.nodename().to_str().ok(),
        state_directory: state.as_deref(),
        runtime_directory: runtime.as_deref(),
        xdg_state_home: xdg_state.as_deref(),
        xdg_runtime_dir: xdg_runtime.as_deref(),
        home: home.as_deref(),
    };
    let placement = config.place(&surroundings).map_err(|error| error.to_string())?;
    Ok(Loaded { config, placement, file, production: environment.trustchain_production })
}

/// Version, commit where known at build time, and protocols
pub fn version() -> VersionShown {
    VersionShown {
        version: env!("CARGO_PKG_VERSION").into(),
        commit: option_env!("STOQ_COMMIT").map(Into::into),
        protocols: vec!["stoq/1.0".into(), "perf".into()],
    }
}

/// What `check` prints
pub fn describe(loaded: &Loaded) -> String {
    let Placement { node, state_directory, admin_socket } = &loaded.placement;
    let listen = &loaded.config.listen;
    let optional = |address: Option<std::net::SocketAddrV6>| {
        address.map_or_else(|| "off".into(), |address| address.to_string())
    };
    format!(
        "configuration   valid\nnode            {node}\nstate           {}\nadmin socket    {}\n\
         stoq            {}\nenrolment       {}\nmetrics         {}\nservices        {}\nattachments     {}\n{}",
        state_directory.display(),
        admin_socket.display(),
        listen.stoq,
        optional(listen.enrollment),
        optional(listen.metrics),
        loaded.config.services.len(),
        loaded.config.attachments.len(),
        topology(&loaded.config),
    )
}

/// What `topology` prints
pub fn topology(config: &Config) -> String {
    let cores = crate::node::cores(config);
    let mut out = String::from("worker  core  node\n");
    match host_topology() {
        Err(error) => out.push_str(&format!("the topology cannot be read: {error}\n")),
        Ok(host) => {
            for (worker, core) in cores.iter().enumerate() {
                let known = host.cores.iter().any(|one| one.index == *core);
                let node = host.node_of(*core).map_or_else(|| "-".into(), |n| n.to_string());
                let note = if known { "" } else { "  this core is not usable here" };
                out.push_str(&format!("{worker:<6}  {core:<4}  {node}{note}\n"));
            }
            let nodes = host.nodes.len();
            let plural = if nodes == 1 { "one NUMA node" } else { "NUMA nodes" };
            out.push_str(&format!("host    {} usable cores, {nodes} {plural}\n", host.cores.len()));
            for interface in &host.interfaces {
                let node = interface.node.map_or_else(|| "-".into(), |n| n.to_string());
                out.push_str(&format!("nic     {} on node {node}\n", interface.name));
            }
        }
    }
    out
}
