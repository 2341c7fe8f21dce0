//! What a user would run instead: tunnels that carry a TCP service between two hosts, and ours
//! beside them. One run is one TCP transfer from a source to a sink through fresh processes; how
//! each tunnel is set up is its own file's.

mod haproxy;
mod stoq;
mod stunnel;
mod wireguard;

use std::net::{IpAddr, Ipv6Addr, SocketAddrV6};
use std::path::{Path, PathBuf};
use std::time::Instant;

use tokio::process::Command;

use super::Plan;
use super::program::{Program, RunError, ask, find};
use super::record::Transfer;
use super::site::{Site, UDP_HEADERS_BYTES, VethPair};
use super::stacks::{LoadLine, Ran, SinkLine, listening, seconds, verify};
use crate::identity::{LOAD, SINK};

pub use stoq::find_programs as find_stoq;
pub use wireguard::probe as probe_wireguard;

/// What installs the Debian packages of both
const PACKAGES: &str = "apt-get install stunnel4 haproxy";

/// A tunnel
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Tunnel {
    /// Two `stoqd`, a published and an attached service
    Stoq,
    /// stunnel at either end
    Stunnel,
    /// HAProxy at either end
    Haproxy,
    /// The kernel's WireGuard between two namespaces
    Wireguard,
}

/// The programs of a tunnel, found
#[derive(Clone, Debug)]
pub struct Tool {
    tunnel: Tunnel,
    program: PathBuf,
    /// Version, as the program says itself
    pub version: String,
}

impl Tool {
    /// Finds what a tunnel needs on this host
    ///
    /// # Errors
    /// Why it cannot run here, with the remedy.
    pub async fn find(tunnel: Tunnel) -> Result<Self, String> {
        let missing = |name: &str| format!("{name} is not installed: {PACKAGES}");
        let (program, version) = match tunnel {
            Tunnel::Stoq => (find_stoq()?, env!("CARGO_PKG_VERSION").to_owned()),
            Tunnel::Stunnel => {
                let names = ["stunnel4", "stunnel"];
                let program = names.iter().find_map(|name| find(name));
                let program = program.ok_or_else(|| missing("stunnel4"))?;
                let told = version_of(&program, "-version").await?;
                (program, word_after(&told, "stunnel "))
            }
            Tunnel::Haproxy => {
                let program = find("haproxy").ok_or_else(|| missing("haproxy"))?;
                let told = version_of(&program, "-v").await?;
                (program, word_after(&told, "version "))
            }
            Tunnel::Wireguard => probe_wireguard().await?,
        };
        Ok(Self { tunnel, program, version })
    }

    /// What packets go over between the two sides
    pub fn path(&self) -> &'static str {
        if self.tunnel == Tunnel::Wireguard { "veth" } else { "loopback" }
    }

    /// What a reader must know
    pub fn notes(&self) -> Vec<String> {
        let notes: &[&str] = match self.tunnel {
            Tunnel::Stoq => &[],
            Tunnel::Stunnel => &[
                "TLS 1.3, TLS_AES_128_GCM_SHA256, certificates verified at both ends, else \
                 defaults",
                "its TCP segments on loopback are larger than the payload, which favours it",
            ],
            Tunnel::Haproxy => &[
                "TLS 1.3, TLS_AES_128_GCM_SHA256, certificates verified at both ends, one thread, \
                 else defaults",
                "its TCP segments between the two ends are as large as packets of the payload",
            ],
            Tunnel::Wireguard => &[
                "ChaCha20-Poly1305 in the kernel's work queues, bound to no core and not counted",
                "both tunnels over a veth pair whose MTU is the payload and 48 octets of headers",
            ],
        };
        notes.iter().map(|note| (*note).to_owned()).collect()
    }
}

async fn version_of(program: &Path, option: &str) -> Result<String, String> {
    let mut command = Command::new(program);
    command.arg(option);
    ask(&program.display().to_string(), command).await.map_err(|error| error.to_string())
}

/// The word after `mark`; the first line where it is not there
fn word_after(text: &str, mark: &str) -> String {
    let rest = text.split_once(mark).and_then(|(_, rest)| rest.split_ascii_whitespace().next());
    rest.or_else(|| text.lines().next()).unwrap_or_default().to_owned()
}

/// What a tunnel is told to connect
pub struct Ends<'a> {
    /// Of the run
    pub plan: &'a Plan,
    /// Sending and receiving side
    pub sites: &'a [Site; 2],
    /// Namespaces, where the sides are in some
    pub link: Option<&'a VethPair>,
    /// Where the service listens, at the receiving side
    pub service: SocketAddrV6,
    /// Directory for this tunnel's files
    pub directory: &'a Path,
}

/// A tunnel that is up
#[derive(Default)]
pub struct Running {
    /// Where the sender connects
    pub entry: Option<SocketAddrV6>,
    /// Processes of the sending side
    pub near: Vec<Program>,
    /// Processes of the receiving side
    pub far: Vec<Program>,
    /// Whether these processes do all the work, so that their time is the tunnel's
    pub counted: bool,
}

impl Running {
    fn cpu(&self) -> Result<[f64; 2], RunError> {
        let sum = |side: &[Program]| -> Result<f64, RunError> {
            side.iter().map(Program::cpu_seconds).sum()
        };
        Ok([sum(&self.near)?, sum(&self.far)?])
    }

    /// The error of a process of the tunnel that has ended, else the given one
    async fn blame(&mut self, error: RunError) -> RunError {
        for program in self.near.iter_mut().chain(&mut self.far) {
            if program.ended().is_some() {
                return RunError::Failed(format!(
                    "{}; after it {error}",
                    program.died("ended in the middle of a run").await
                ));
            }
        }
        error
    }

    async fn end(self) -> Result<(), RunError> {
        for program in self.near.into_iter().chain(self.far) {
            program.kill().await?;
        }
        Ok(())
    }
}

/// One transfer through fresh processes of a tunnel, over the same kind of path as `beside`
///
/// # Errors
/// [`RunError`], naming the program.
pub async fn run(tool: &Tool, path: &str, plan: &Plan) -> Result<Ran, RunError> {
    let link = match path {
        "veth" => Some(VethPair::make(plan.payload + UDP_HEADERS_BYTES, plan.cores).await?),
        _ => None,
    };
    let sites = link.as_ref().map_or_else(|| plan.cores.map(Site::loopback), |l| l.sites().clone());
    let directory = plan.directory.join(format!("{:?}", tool.tunnel).to_lowercase());
    let failed =
        |cause: std::io::Error| RunError::Failed(format!("{}: {cause}", directory.display()));
    std::fs::create_dir(&directory).map_err(failed)?;
    let outcome = transfer(tool, plan, &sites, link.as_ref(), &directory).await;
    std::fs::remove_dir_all(&directory).map_err(failed)?;
    Ok(Ran { transfer: outcome?, version: tool.version.clone(), notes: tool.notes() })
}

async fn transfer(
    tool: &Tool,
    plan: &Plan,
    sites: &[Site; 2],
    link: Option<&VethPair>,
    directory: &Path,
) -> Result<Transfer, RunError> {
    let [near, far] = sites;
    let mut command = far.command(&plan.own);
    let listen = match tool.tunnel {
        Tunnel::Wireguard => wireguard::INSIDE[1],
        _ => Ipv6Addr::LOCALHOST,
    };
    // WireGuard's inner address exists once the tunnel does; the others' loopback does from the
    // start.
    let mut running = Running::default();
    let wildcard = tool.tunnel == Tunnel::Wireguard;
    let bound = if wildcard { "[::]:0".to_owned() } else { format!("[{listen}]:0") };
    command.args(["tcp-sink", "--listen", &bound, "--omit", &seconds(plan.omit)]);
    command.args(["--core", &far.core().to_string()]);
    let mut sink = Program::start("stoq-bench tcp-sink", command)?;
    let port = listening(&mut sink).await?.0.port();
    let service = SocketAddrV6::new(listen, port, 0, 0);
    let ends = Ends { plan, sites, link, service, directory };
    start(tool, &ends, &mut running).await?;
    let entry = running.entry.ok_or_else(|| RunError::Failed("a tunnel has no entry".into()))?;
    let mut command = near.command(&plan.own);
    command
        .args(["tcp-source", "--to", &entry.to_string(), "--core", &near.core().to_string()])
        .args(["--duration", &seconds(plan.duration), "--omit", &seconds(plan.omit)]);
    let mut source = Program::start("stoq-bench tcp-source", command)?;
    let outcome = match carry(plan, &mut source, &mut sink, &running).await {
        Ok(transfer) => transfer,
        Err(error) => return Err(running.blame(error).await),
    };
    source.finish().await?;
    sink.finish().await?;
    running.end().await?;
    Ok(outcome)
}

async fn start(tool: &Tool, ends: &Ends<'_>, running: &mut Running) -> Result<(), RunError> {
    match tool.tunnel {
        Tunnel::Stoq => stoq::start(&tool.program, ends, running).await,
        Tunnel::Stunnel => stunnel::start(&tool.program, ends, running).await,
        Tunnel::Haproxy => haproxy::start(&tool.program, ends, running).await,
        Tunnel::Wireguard => wireguard::start(&tool.program, ends, running).await,
    }
}

/// Listens to both ends of a transfer and times the tunnel's processes between the sink's two marks
async fn carry(
    plan: &Plan,
    source: &mut Program,
    sink: &mut Program,
    running: &Running,
) -> Result<Transfer, RunError> {
    // Whichever end speaks or ends first is heard first: a source that fails leaves the sink
    // silent.
    let marks = async {
        let (mut begun, mut cpu) = (None, [0.0; 2]);
        loop {
            let line: SinkLine = sink.hear(plan.patience()).await?;
            if line.window.is_some() {
                begun = Some(Instant::now());
                cpu = running.cpu()?;
            }
            if let Some(end) = line.transfer {
                let after = running.cpu()?;
                let begun: Instant = begun.ok_or_else(|| {
                    RunError::Failed("stoq-bench tcp-sink: no warm-up before the end".into())
                })?;
                let time = begun.elapsed().as_secs_f64();
                return Ok((end, [0, 1].map(|side| (after[side] - cpu[side]) / time)));
            }
        }
    };
    let sent = source.hear::<LoadLine>(plan.patience());
    let ((taken, tunnel), sent) = tokio::try_join!(marks, sent)?;
    verify("stoq-bench tcp-source", &sent.end, &taken)?;
    let cpu = |of_tunnel: f64, of_end: Option<f64>| Some(of_tunnel + of_end?);
    Ok(Transfer {
        gbps: taken.gbps,
        bytes: taken.bytes,
        seconds: taken.seconds,
        cpu_sender: cpu(tunnel[0], sent.end.cpu()).filter(|_| running.counted),
        cpu_receiver: cpu(tunnel[1], taken.cpu()).filter(|_| running.counted),
        other_cpu: None,
    })
}

/// Files of one side's identity
struct IdentityFiles {
    authority: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

/// The files of the sending (0) or receiving (1) side
fn identity_files(plan: &Plan, side: usize) -> IdentityFiles {
    let node = if side == 0 { LOAD } else { SINK };
    let directory = plan.identity();
    IdentityFiles {
        authority: directory.join("authority.pem"),
        certificate: directory.join(format!("{node}.pem")),
        key: directory.join(format!("{node}.key")),
    }
}

/// Writes a file of a tunnel's
fn write(path: &Path, text: &str) -> Result<(), RunError> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let write = || {
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true).mode(0o600).open(path)?.write_all(text.as_bytes())
    };
    write().map_err(|cause| RunError::Failed(format!("{}: {cause}", path.display())))
}

/// An address as every program here reads it
fn socket(address: Ipv6Addr, port: u16) -> String {
    std::net::SocketAddr::new(IpAddr::V6(address), port).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_say() {
        let told = "Initializing inetd mode\nstunnel 5.68 on x86_64-pc-linux-gnu platform\n";
        assert_eq!(word_after(told, "stunnel "), "5.68");
        let told = "HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/";
        assert_eq!(word_after(told, "version "), "2.6.12-1+deb12u4");
        assert_eq!(word_after("no such thing", "version "), "no such thing");
    }

    #[test]
    fn a_file_of_a_tunnel_is_private_and_never_overwritten() {
        use std::os::unix::fs::PermissionsExt as _;
        let there = tempfile::tempdir().unwrap();
        let path = there.path().join("key");
        write(&path, "secret").unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(write(&path, "other").unwrap_err().to_string().contains("key"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "secret");
        assert_eq!(socket(Ipv6Addr::LOCALHOST, 7), "[::1]:7");
    }
}
