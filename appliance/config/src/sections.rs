//! The typed values of the single sections, with the defaults that the manual documents. Values the data plane
//! shares (`[transport]`, `[limits]`) are the types of stoq-interface and are not repeated here.

use std::collections::BTreeSet;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::path::{Path, PathBuf};
use std::time::Duration;

use stoq_interface::{Allow, NodeId, SpkiSha256};

/// What a node does
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Role {
    /// Moves data: sessions, services, copy
    Stoq,
    /// Issues certificates and enrols nodes
    Trustchain,
    /// Serves the integration API and metrics
    Integration,
}

impl Role {
    /// Every role there is
    pub const ALL: [Self; 3] = [Self::Stoq, Self::Trustchain, Self::Integration];

    /// The word in the file
    pub const fn label(self) -> &'static str {
        match self {
            Self::Stoq => "stoq",
            Self::Trustchain => "trustchain",
            Self::Integration => "integration",
        }
    }
}

/// `[node]`
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Node {
    /// The node's name; without one it is made from the host's name
    pub name: Option<NodeId>,
    /// Where keys, certificates and journals live; without one it follows from the user
    pub state_directory: Option<PathBuf>,
    /// What the node does; never empty
    pub roles: BTreeSet<Role>,
}

impl Default for Node {
    fn default() -> Self {
        Self { name: None, state_directory: None, roles: Role::ALL.into() }
    }
}

/// `[listen]`
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Listen {
    /// UDP address of the data plane
    pub stoq: SocketAddrV6,
    /// TCP address of enrolment and of the CA, unless it is off
    pub enrollment: Option<SocketAddrV6>,
    /// Unix socket of `stoqctl`; without one it follows from the user
    pub admin_socket: Option<PathBuf>,
    /// TCP address of the integration API and of `/metrics`, unless it is off
    pub metrics: Option<SocketAddrV6>,
}

impl Default for Listen {
    fn default() -> Self {
        let loopback = |port| SocketAddrV6::new(Ipv6Addr::LOCALHOST, port, 0, 0);
        Self {
            stoq: loopback(8444),
            enrollment: Some(loopback(8443)),
            admin_socket: None,
            metrics: Some(loopback(8446)),
        }
    }
}

/// Which processors the data plane gets
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Cores {
    /// One pinned worker per processor this process may use
    #[default]
    Auto,
    /// One pinned worker on each of these; an empty list is one worker that is not pinned
    These(Vec<usize>),
}

/// How workers reach the kernel
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum IoChoice {
    /// io_uring where the kernel lets us, plain system calls otherwise
    #[default]
    Auto,
    /// io_uring, or refuse to start
    IoUring,
    /// Plain system calls
    SystemCalls,
}

impl IoChoice {
    /// Every choice there is
    pub const ALL: [Self; 3] = [Self::Auto, Self::IoUring, Self::SystemCalls];

    /// The word in the file
    pub const fn label(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::IoUring => "io_uring",
            Self::SystemCalls => "system_calls",
        }
    }
}

/// `[workers]`
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Workers {
    /// Where workers run
    pub cores: Cores,
    /// How they reach the kernel
    pub io: IoChoice,
    /// Whether packet buffers ask for huge pages
    pub huge_pages: bool,
    /// Whether a worker spins instead of sleeping
    pub busy_poll: bool,
    /// Provided receive buffers of 64 KiB per worker; a power of two
    pub receive_buffers: usize,
    /// Kernel receive buffer asked for per socket
    pub receive_buffer_bytes: usize,
    /// Send slabs of 64 KiB per worker
    pub send_slabs: usize,
}

impl Default for Workers {
    fn default() -> Self {
        Self {
            cores: Cores::Auto,
            io: IoChoice::Auto,
            huge_pages: true,
            busy_poll: false,
            receive_buffers: 16,
            receive_buffer_bytes: 32 << 20,
            send_slabs: 32,
        }
    }
}

/// `[copy]`
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct CopyAccess {
    /// Directories, with all below them, that a remote node may read and write
    pub roots: Vec<PathBuf>,
    /// Which nodes may
    pub allow: Allow,
}

/// `[trust]`
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Trust {
    /// Nodes whose authorities renew this node's certificate, in this order; empty: the one that issued it
    pub authorities: Vec<NodeId>,
    /// Age above which a deny-list is too old to go by
    pub deny_list_max_age: Duration,
    /// Whether new connections are refused while it is
    pub fail_closed: bool,
    /// Unix socket of the signing process; without one the authority's keys are in files of the state directory
    pub signer_socket: Option<PathBuf>,
    /// Keys of roots that are accepted; empty: that of whichever root this node trusts
    pub root_pins: BTreeSet<SpkiSha256>,
    /// Keys of issuing authorities that are accepted; empty: each that the root has signed
    pub issuing_pins: BTreeSet<SpkiSha256>,
    /// Whose orders this node's authority carries out when they come from afar
    pub operators: Operators,
}

/// People whose certificate of the profile `operator` lets them give orders from afar
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Operators {
    /// Everybody who has one
    #[default]
    Certified,
    /// Nobody
    Nobody,
    /// Those registered under these names
    Named(BTreeSet<NodeId>),
}

/// The thresholds of a network of this node alone
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum HypermeshPolicy {
    /// For one's own servers
    #[default]
    Default,
    /// For tests; refused in production
    Test,
    /// For members who do not trust each other
    Production,
}

impl HypermeshPolicy {
    /// Every policy there is
    pub const ALL: [Self; 3] = [Self::Default, Self::Test, Self::Production];

    /// The word in the file
    pub const fn label(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Test => "test",
            Self::Production => "production",
        }
    }
}

/// Whether certificates need the validators' agreement, and what is done while there is none to be had
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Issuance {
    /// They do not need it
    Off,
    /// They do; a request waits for validators that do not agree at the moment
    #[default]
    Wait,
    /// They do; a request is refused while validators do not agree
    Refuse,
}

impl Issuance {
    /// Every choice there is
    pub const ALL: [Self; 3] = [Self::Off, Self::Wait, Self::Refuse];

    /// The word in the file
    pub const fn label(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Wait => "wait",
            Self::Refuse => "refuse",
        }
    }
}

/// `[hypermesh]`
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Hypermesh {
    /// Whether this node takes part
    pub enabled: bool,
    /// The network; without one it is a network of this node alone
    pub genesis: Option<PathBuf>,
    /// The key of this node as validator and requester; without one it is made at the first start
    pub key: Option<PathBuf>,
    /// The plots behind this node's own operations; without any one is made when it is first needed
    pub plots: Vec<PathBuf>,
    /// Where blocks and snapshots are; without one it is below the state directory
    pub data_directory: Option<PathBuf>,
    /// The thresholds of a network of this node alone
    pub policy: HypermeshPolicy,
    /// Whether the authority of this node demands the validators' agreement
    pub issuance: Issuance,
    /// How long a request waits for validators that do not agree at the moment
    pub wait: Duration,
    /// Which nodes may ask this one for operations and receipts
    pub clients: Allow,
}

impl Default for Hypermesh {
    fn default() -> Self {
        Self {
            enabled: false,
            genesis: None,
            key: None,
            plots: Vec::new(),
            data_directory: None,
            policy: HypermeshPolicy::default(),
            issuance: Issuance::default(),
            wait: Duration::from_secs(10),
            clients: Allow::default(),
        }
    }
}

/// `[store.*]`
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Store {
    /// `[store.etcd]`: the cluster that several authorities share
    pub etcd: Etcd,
}

/// `[store.etcd]`
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Etcd {
    /// The members' client addresses; without any the records are this host's own
    pub endpoints: Vec<SocketAddrV6>,
    /// What all keys begin with, ending in a slash
    pub prefix: String,
    /// PEM file with the authorities of the members' certificates
    pub ca: Option<PathBuf>,
    /// PEM file with this host's certificate for the cluster
    pub certificate: Option<PathBuf>,
    /// PEM file with its key
    pub key: Option<PathBuf>,
    /// DNS name that members' certificates are for; without one it is the address in `endpoints`
    pub server_name: Option<String>,
}

impl Default for Etcd {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            prefix: "stoq/records/".to_owned(),
            ca: None,
            certificate: None,
            key: None,
            server_name: None,
        }
    }
}

/// The files of a cluster that is reached over TLS
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct EtcdTls<'a> {
    /// The authorities of the members' certificates
    pub ca: &'a Path,
    /// This host's certificate
    pub certificate: &'a Path,
    /// Its key
    pub key: &'a Path,
}

impl Etcd {
    /// The files, where the cluster is reached over TLS
    pub fn tls(&self) -> Option<EtcdTls<'_>> {
        let (ca, certificate, key) =
            (self.ca.as_ref()?, self.certificate.as_ref()?, self.key.as_ref()?);
        Some(EtcdTls { ca, certificate, key })
    }
}

impl Default for Trust {
    fn default() -> Self {
        Self {
            authorities: Vec::new(),
            deny_list_max_age: Duration::from_secs(900),
            fail_closed: false,
            signer_socket: None,
            root_pins: BTreeSet::new(),
            issuing_pins: BTreeSet::new(),
            operators: Operators::default(),
        }
    }
}

/// How log lines look
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum LogFormat {
    /// For a person
    #[default]
    Human,
    /// One JSON object per line
    Json,
}

impl LogFormat {
    /// Every format there is
    pub const ALL: [Self; 2] = [Self::Human, Self::Json];

    /// The word in the file
    pub const fn label(self) -> &'static str {
        match self {
            Self::Human => "human",
            Self::Json => "json",
        }
    }
}

/// `[log]`
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Log {
    /// How lines look
    pub format: LogFormat,
    /// What is logged: a level, or comma-separated `target=level`
    pub filter: String,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Human, filter: "info".to_owned() }
    }
}
