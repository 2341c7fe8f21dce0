//! How a test's node differs from the default, and the configuration file that says so.

use std::fmt::Write as _;
use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};

/// First port that may be chosen: below what the kernel gives to clients
const FIRST_PORT: u16 = 20_000;
const PORTS: u16 = 12_000;

/// What a test asks of its node
#[derive(Clone, Debug)]
pub struct Options {
    /// `workers.cores`, as TOML
    pub cores: String,
    /// `log.format`
    pub log_format: String,
    /// `log.filter`
    pub log_filter: String,
    /// Lines of `[transport]`
    pub transport: String,
    /// Further sections
    pub more: String,
    /// `stoqd run --test-clock`: FROM:RATE
    pub test_clock: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cores: "[]".into(),
            log_format: "human".into(),
            log_filter: "info".into(),
            transport: String::new(),
            more: String::new(),
            test_clock: None,
        }
    }
}

impl Options {
    /// The default with these lines of `[transport]`
    pub fn with_transport(lines: &str) -> Self {
        Self { transport: lines.into(), ..Self::default() }
    }

    /// The default with these sections
    pub fn with_sections(text: &str) -> Self {
        Self { more: text.into(), ..Self::default() }
    }

    pub(crate) fn render(&self, name: &str, directory: &Path, ports: Ports) -> String {
        let mut out = String::new();
        let home = directory.display();
        let Ports { stoq, enrollment, metrics } = ports;
        writeln!(
            out,
            "[node]\nname = \"{name}\"\nstate_directory = \"{home}/state\"\n\
             [listen]\nstoq = \"[::1]:{stoq}\"\nenrollment = \"[::1]:{enrollment}\"\n\
             admin_socket = \"{home}/admin.sock\"\nmetrics = \"[::1]:{metrics}\"\n\
             [workers]\ncores = {}\n[log]\nformat = \"{}\"\nfilter = \"{}\"\n[transport]\n{}\n{}",
            self.cores, self.log_format, self.log_filter, self.transport, self.more
        )
        .expect("a string takes everything");
        out
    }
}

/// The ports of a node; the same after a restart, because its peers remember them
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports {
    pub(crate) stoq: u16,
    pub(crate) enrollment: u16,
    pub(crate) metrics: u16,
}

impl Ports {
    pub(crate) fn choose() -> Self {
        Self { stoq: free_port(), enrollment: free_port(), metrics: free_port() }
    }
}

/// A port that is free for TCP and UDP now and that the kernel does not hand out by itself
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Different processes begin in different places.
    let start = (std::process::id().wrapping_mul(97) % u32::from(PORTS)) as u16;
    for _ in 0..PORTS {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST_PORT + start.wrapping_add(step) % PORTS;
        let address = ("::1", port);
        if UdpSocket::bind(address).is_ok() && TcpListener::bind(address).is_ok() {
            return port;
        }
    }
    panic!("no free port between {FIRST_PORT} and {}", FIRST_PORT + PORTS);
}
