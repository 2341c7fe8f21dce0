//! A three-member etcd cluster of real processes on [::1], in the clear or with TLS and client certificates, and a way
//! to it that can be cut.

use std::fs::File;
use std::io;
use std::net::{Ipv6Addr, SocketAddrV6, TcpListener};
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use stoq_store::records::etcd::{Dial, Dialling, EtcdStream, LoopbackDial};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub mod pki;

use pki::Pki;

const MEMBERS: usize = 3;
/// Longest the cluster may take to be there
const PATIENCE: Duration = Duration::from_secs(60);

/// The cluster; its processes end with it
pub struct Cluster {
    directory: TempDir,
    clients: Vec<SocketAddrV6>,
    peers: Vec<SocketAddrV6>,
    members: Vec<Option<Child>>,
    /// Where clients speak TLS and show certificates
    pki: Option<Pki>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for member in 0..MEMBERS {
            self.kill(member);
        }
    }
}

impl Cluster {
    pub fn start() -> Self {
        Self::with(|_| None)
    }

    /// One whose members want TLS 1.3 and a client's certificate of the same authority
    pub fn start_with_tls() -> Self {
        Self::with(|directory| Some(Pki::make(&directory.join("pki"))))
    }

    fn with(pki: impl FnOnce(&std::path::Path) -> Option<Pki>) -> Self {
        // All are bound before any is let go of, so that no two are the same.
        let bound: Vec<TcpListener> = (0..2 * MEMBERS)
            .map(|_| TcpListener::bind(SocketAddrV6::new(Ipv6Addr::LOCALHOST, 0, 0, 0)).unwrap())
            .collect();
        let addresses: Vec<SocketAddrV6> = bound
            .iter()
            .map(|listener| {
                let port = listener.local_addr().unwrap().port();
                SocketAddrV6::new(Ipv6Addr::LOCALHOST, port, 0, 0)
            })
            .collect();
        drop(bound);
        let (clients, peers) = addresses.split_at(MEMBERS);
        let directory = tempfile::tempdir().unwrap();
        let pki = pki(directory.path());
        let mut cluster = Self {
            pki,
            directory,
            clients: clients.to_vec(),
            peers: peers.to_vec(),
            members: (0..MEMBERS).map(|_| None).collect(),
        };
        for member in 0..MEMBERS {
            cluster.restart(member);
        }
        cluster.wait_for_members();
        cluster
    }

    pub fn clients(&self) -> Vec<SocketAddrV6> {
        self.clients.clone()
    }

    /// The certificates of a cluster with TLS
    pub fn pki(&self) -> &Pki {
        self.pki.as_ref().unwrap()
    }

    fn client_url(&self, member: usize) -> String {
        let scheme = if self.pki.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.clients[member])
    }

    /// Starts a member, again or for the first time
    pub fn restart(&mut self, member: usize) {
        let names: Vec<String> = self
            .peers
            .iter()
            .enumerate()
            .map(|(number, peer)| format!("m{number}=http://{peer}"))
            .collect();
        let (client, peer) = (self.client_url(member), self.peers[member]);
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.directory.path().join(format!("m{member}.log")))
            .unwrap();
        let child = Command::new("etcd")
            .args(["--name", &format!("m{member}")])
            .arg("--data-dir")
            .arg(self.directory.path().join(format!("m{member}")))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(self.server_tls())
            .args(["--listen-peer-urls", &format!("http://{peer}")])
            .args(["--initial-advertise-peer-urls", &format!("http://{peer}")])
            .args(["--initial-cluster", &names.join(",")])
            .args(["--initial-cluster-state", "new"])
            .args(["--heartbeat-interval", "50", "--election-timeout", "500"])
            .args(["--logger", "zap", "--log-level", "warn"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("etcd ({error}): install Debian's etcd-server"));
        self.members[member] = Some(child);
    }

    fn server_tls(&self) -> Vec<String> {
        let Some(pki) = &self.pki else { return Vec::new() };
        let path = |name: &str| pki.path(name).display().to_string();
        let words = [
            ("--cert-file", path("member.pem")),
            ("--key-file", path("member.key")),
            ("--trusted-ca-file", path("authority.pem")),
        ];
        let words = words.into_iter().flat_map(|(word, file)| [word.to_owned(), file]);
        words.chain(["--client-cert-auth".to_owned()]).collect()
    }

    fn client_tls(&self) -> Vec<String> {
        let Some(pki) = &self.pki else { return Vec::new() };
        let path = |name: &str| pki.path(name).display().to_string();
        let words = [
            ("--cert", path("client.pem")),
            ("--key", path("client.key")),
            ("--cacert", path("authority.pem")),
        ];
        words.into_iter().flat_map(|(word, file)| [word.to_owned(), file]).collect()
    }

    /// Ends a member as a power failure does
    pub fn kill(&mut self, member: usize) {
        if let Some(mut child) = self.members[member].take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    fn etcdctl(&self, member: usize, arguments: &[&str]) -> Option<String> {
        let output = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &self.client_url(member), "--command-timeout", "2s"])
            .args(self.client_tls())
            .args(arguments)
            .output()
            .unwrap_or_else(|error| panic!("etcdctl ({error}): install Debian's etcd-client"));
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }

    fn running(&self) -> Vec<usize> {
        (0..MEMBERS).filter(|member| self.members[*member].is_some()).collect()
    }

    /// Waits until every member that runs takes part: it answers a question that needs a quorum
    pub fn wait_for_members(&self) {
        let began = Instant::now();
        for member in self.running() {
            while self.etcdctl(member, &["get", "nothing"]).is_none() {
                let log = self.directory.path().join(format!("m{member}.log"));
                let said = std::fs::read_to_string(log).unwrap_or_default();
                assert!(began.elapsed() < PATIENCE, "member {member} does not come: {said}");
            }
        }
    }

    /// Which member leads
    pub fn leader(&self) -> usize {
        let began = Instant::now();
        loop {
            for member in self.running() {
                let status = self.etcdctl(member, &["endpoint", "status", "-w", "simple"]);
                let leads = status.is_some_and(|status| {
                    status.split(',').nth(4).is_some_and(|field| field.trim() == "true")
                });
                if leads {
                    return member;
                }
            }
            assert!(began.elapsed() < PATIENCE, "nobody leads");
        }
    }

    /// Forgets all history but the present
    pub fn compact(&self) {
        let status = self.etcdctl(0, &["get", "nothing", "-w", "fields"]);
        let status = status.unwrap();
        let revision = status.lines().find_map(|line| line.strip_prefix("\"Revision\" : "));
        let revision = revision.unwrap_or_else(|| panic!("no revision in {status}"));
        self.etcdctl(0, &["compact", revision.trim()]).unwrap();
    }
}

/// A way to the cluster that breaks when told to
#[derive(Debug, Default)]
pub struct Cut(Arc<State>);

#[derive(Debug, Default)]
struct State {
    closed: AtomicBool,
    /// Reads until a connection breaks, once; zero: none does
    reads: AtomicI64,
    broken: AtomicU64,
}

impl Cut {
    /// Breaks whatever connection reads the `count`th time from now on; zero for none
    pub fn after_reads(&self, count: u64) {
        self.0.reads.store(count as i64, Ordering::SeqCst);
    }

    /// How many were broken
    pub fn broken(&self) -> u64 {
        self.0.broken.load(Ordering::SeqCst)
    }

    /// No connection is made or goes on
    pub fn close(&self) {
        self.0.closed.store(true, Ordering::SeqCst);
    }

    pub fn open(&self) {
        self.0.closed.store(false, Ordering::SeqCst);
    }
}

impl Dial for Cut {
    fn dial(&self, member: SocketAddrV6) -> Dialling<'_> {
        Box::pin(async move {
            if self.0.closed.load(Ordering::SeqCst) {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            let stream = LoopbackDial.dial(member).await?;
            let cuttable = Cuttable { stream, state: self.0.clone() };
            Ok(Box::new(cuttable) as Box<dyn EtcdStream>)
        })
    }
}

struct Cuttable {
    stream: Box<dyn EtcdStream>,
    state: Arc<State>,
}

impl Cuttable {
    fn check(&self) -> io::Result<()> {
        match self.state.closed.load(Ordering::SeqCst) {
            true => Err(io::ErrorKind::ConnectionReset.into()),
            false => Ok(()),
        }
    }
}

impl AsyncRead for Cuttable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check()?;
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_ready() && self.state.reads.load(Ordering::SeqCst) > 0 {
            let left = self.state.reads.fetch_sub(1, Ordering::SeqCst) - 1;
            if left == 0 {
                self.state.broken.fetch_add(1, Ordering::SeqCst);
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
        }
        read
    }
}

impl AsyncWrite for Cuttable {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
