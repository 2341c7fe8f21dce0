//! A UDP relay between two nodes that loses packets on demand: all of them, or those of chosen connections. To
//! the accepting node it is the dialling node's address and the reverse, so it also shows that neither side
//! insists on the address of its peer. It reads nothing but connection IDs.

use std::collections::HashSet;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Octets of a connection ID in this product
const ID_BYTES: usize = 12;
const SOCKET_BUFFER_BYTES: usize = 8 << 20;
/// Interval at which a silent relay looks whether it shall end
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

type Id = [u8; ID_BYTES];

#[derive(Debug, Default)]
struct State {
    stop: AtomicBool,
    outage: AtomicBool,
    dropped: AtomicU64,
    passed: AtomicU64,
    client: Mutex<Option<SocketAddr>>,
    ids: Mutex<Ids>,
}

#[derive(Debug, Default)]
struct Ids {
    /// IDs that peers chose for themselves in handshakes, hence those of connections, both directions
    seen: HashSet<Id>,
    killed: HashSet<Id>,
}

/// The relay; it ends when dropped
pub struct Relay {
    port: u16,
    state: Arc<State>,
    threads: Vec<JoinHandle<()>>,
}

impl Relay {
    /// Passes what arrives at a free port of `[::1]` on to `server`, and the answers back
    pub fn start(server: &str) -> Self {
        let front = socket();
        let back = socket();
        back.connect(server).expect("a UDP socket connects at once");
        let port = front.local_addr().expect("a bound socket has an address").port();
        let state = Arc::new(State::default());
        let (inward_front, inward_back) = (clone(&front), clone(&back));
        let (here, there) = (Arc::clone(&state), Arc::clone(&state));
        let threads = vec![
            std::thread::spawn(move || inward(&here, &inward_front, &inward_back)),
            std::thread::spawn(move || outward(&there, &back, &front)),
        ];
        Self { port, state, threads }
    }

    /// Where the dialling node finds it
    pub fn address(&self) -> String {
        format!("[::1]:{}", self.port)
    }

    /// From now on loses every packet of every connection that exists now; later ones pass. Returns how many
    /// connection IDs that are.
    pub fn kill_connections(&self) -> usize {
        let mut ids = self.state.ids.lock().unwrap_or_else(PoisonError::into_inner);
        ids.killed = ids.seen.clone();
        ids.killed.len()
    }

    /// From now on loses everything, or nothing
    pub fn set_outage(&self, outage: bool) {
        self.state.outage.store(outage, Ordering::Release);
    }

    /// Datagrams lost here
    pub fn dropped(&self) -> u64 {
        self.state.dropped.load(Ordering::Relaxed)
    }

    /// Datagrams passed on
    pub fn passed(&self) -> u64 {
        self.state.passed.load(Ordering::Relaxed)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            // A panic there has failed the test's own assertions before.
            let _ = thread.join();
        }
    }
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind(("::1", 0)).expect("a port of [::1] is free");
    socket.set_read_timeout(Some(LOOK_INTERVAL)).expect("a timeout above zero");
    // The kernel grants less where it is told to; then more is lost, which the connections make good.
    rustix::net::sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER_BYTES)
        .expect("a receive buffer can be asked for");
    socket
}

fn clone(socket: &UdpSocket) -> UdpSocket {
    socket.try_clone().expect("a descriptor is free")
}

impl State {
    /// Whether a datagram goes on; learns the IDs of long headers
    fn passes(&self, datagram: &[u8]) -> bool {
        let passes = !self.outage.load(Ordering::Acquire) && self.alive(datagram);
        let counter = if passes { &self.passed } else { &self.dropped };
        counter.fetch_add(1, Ordering::Relaxed);
        passes
    }

    fn alive(&self, datagram: &[u8]) -> bool {
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((destination, source)) = connection_ids(datagram) else { return true };
        if ids.killed.contains(&destination) || source.is_some_and(|id| ids.killed.contains(&id)) {
            return false;
        }
        if let Some(source) = source {
            ids.seen.insert(source);
        }
        true
    }
}

/// Destination, and source where the header is long
fn connection_ids(datagram: &[u8]) -> Option<(Id, Option<Id>)> {
    let at = |offset: usize| datagram.get(offset..offset + ID_BYTES)?.try_into().ok();
    if datagram.first()? & 0x80 == 0 {
        return Some((at(1)?, None));
    }
    let destination_length = usize::from(*datagram.get(5)?);
    let source_at = 6 + destination_length + 1;
    let source_length = usize::from(*datagram.get(source_at - 1)?);
    let destination = if destination_length == ID_BYTES { at(6)? } else { [0; ID_BYTES] };
    let source = (source_length == ID_BYTES).then(|| at(source_at)).flatten();
    Some((destination, source))
}

fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> Option<(usize, SocketAddr)> {
    match socket.recv_from(buffer) {
        Ok(received) => Some(received),
        Err(error) => {
            let passing = [
                io::ErrorKind::WouldBlock,
                io::ErrorKind::TimedOut,
                io::ErrorKind::Interrupted,
                // A node that restarts has no socket for a moment.
                io::ErrorKind::ConnectionRefused,
            ];
            assert!(passing.contains(&error.kind()), "the relay cannot receive: {error}");
            None
        }
    }
}

fn inward(state: &State, front: &UdpSocket, back: &UdpSocket) {
    let mut buffer = vec![0; 64 << 10];
    while !state.stop.load(Ordering::Acquire) {
        let Some((length, from)) = receive(front, &mut buffer) else { continue };
        *state.client.lock().unwrap_or_else(PoisonError::into_inner) = Some(from);
        if state.passes(&buffer[..length]) {
            // What cannot be sent is lost: that is what networks do.
            let _ = back.send(&buffer[..length]);
        }
    }
}

fn outward(state: &State, back: &UdpSocket, front: &UdpSocket) {
    let mut buffer = vec![0; 64 << 10];
    while !state.stop.load(Ordering::Acquire) {
        let Some((length, _)) = receive(back, &mut buffer) else { continue };
        let client = *state.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = client
            && state.passes(&buffer[..length])
        {
            // As above.
            let _ = front.send_to(&buffer[..length], client);
        }
    }
}
