//! What the component tests share: hosts and hand-driven QUIC clients on one clean network, turned until
//! something has happened.

#![allow(dead_code, reason = "each test binary uses its own part of this room")]

use std::net::{SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::time::{Duration, Instant};

use boring::ssl::{SslContextBuilder, SslMethod, SslVerifyMode, SslVersion};
use bytes::{Bytes, BytesMut};
use stoq_interface::{ALPN_STOQ, Allow, ControlSnapshot, NodeId, ServiceName};
use stoq_simulation::host::Host;
use stoq_simulation::network::{Datagram, Faults, Network};
use stoq_simulation::pki::Authority;
use stoq_transport::tls::{self, PeerSlot, Role};
use stoq_transport::wire::{Frame, FrameReader, Hello, SessionId};
use stoq_transport::{Event, SessionKey};

/// Longest wait for anything
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest pause of a turn: conditions may depend on nothing but time
const PAUSE: Duration = Duration::from_millis(2);

pub fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

pub fn service(name: &str) -> ServiceName {
    ServiceName::new(name).unwrap()
}

/// A snapshot with short times and an `echo` service for everybody
pub fn snapshot(authority: &Authority, name: &str) -> ControlSnapshot {
    let mut snapshot = authority.snapshot(name);
    snapshot.services.insert(service("echo"), Allow::AnyEnrolled);
    snapshot.transport.initial_rtt = Duration::from_millis(10);
    snapshot.transport.handshake_timeout = Duration::from_secs(2);
    snapshot
}

/// Hosts, clients, a network and what has happened
pub struct World {
    pub hosts: Vec<Host>,
    pub clients: Vec<Client>,
    pub network: Network,
    pub events: Vec<(usize, Event)>,
}

impl World {
    pub fn new(hosts: Vec<Host>) -> Self {
        let network = Network::new(1, Faults::default());
        Self { hosts, clients: Vec::new(), network, events: Vec::new() }
    }

    /// Hosts alpha and beta, which trust each other, with as many workers each
    pub fn pair(workers: usize) -> Self {
        let authority = Authority::new();
        Self::of(&authority, workers, |_| {})
    }

    /// The same under an authority, with `adjust` applied to both snapshots
    pub fn of(
        authority: &Authority,
        workers: usize,
        adjust: impl Fn(&mut ControlSnapshot),
    ) -> Self {
        let host = |number: u16, name: &str| {
            let mut snapshot = snapshot(authority, name);
            adjust(&mut snapshot);
            Host::new(number, workers, u64::from(number), Arc::new(snapshot))
        };
        Self::new(vec![host(1, "alpha"), host(2, "beta")])
    }

    /// Everything that is due; then sleeps to the next deadline at most
    fn turn(&mut self) {
        let now = Instant::now();
        while let Some(datagram) = self.network.poll(now) {
            if let Some(host) = self.hosts.iter_mut().find(|h| h.address == datagram.to) {
                host.receive(now, datagram);
            } else if let Some(client) =
                self.clients.iter_mut().find(|client| client.address == datagram.to)
            {
                client.receive(datagram);
            }
        }
        for (index, host) in self.hosts.iter_mut().enumerate() {
            host.handle_timeout(now);
            host.settle(now);
            while let Some((_, event)) = host.poll_event() {
                self.events.push((index, event));
            }
            host.settle(now);
            host.transmit(now, |datagram| self.network.send(now, datagram));
        }
        for client in &mut self.clients {
            client.transmit(|datagram| self.network.send(now, datagram));
        }
        if self.network.next_arrival().is_none_or(|at| at > Instant::now()) {
            std::thread::park_timeout(PAUSE);
        }
    }

    /// Turns until `done`, or fails
    pub fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < deadline, "never happened: {what}; {:?}", self.events);
            self.turn();
        }
    }

    /// Turns for a while, where something must not happen
    pub fn during(&mut self, time: Duration) {
        let deadline = Instant::now() + time;
        while Instant::now() < deadline {
            self.turn();
        }
    }

    /// The first event that `pick` likes, turned for until it comes
    pub fn event<T>(&mut self, what: &str, mut pick: impl FnMut(usize, &Event) -> Option<T>) -> T {
        let mut found = None;
        self.until(what, |world| {
            let index = world.events.iter().position(|(host, event)| {
                found = pick(*host, event);
                found.is_some()
            });
            if let Some(index) = index {
                world.events.remove(index);
            }
            index.is_some()
        });
        found.unwrap()
    }

    /// Host 0 dials host 1, which is beta; both sides' sessions
    pub fn connect(&mut self) -> [SessionKey; 2] {
        let to = self.hosts[1].address;
        self.hosts[0].endpoint(0).connect(Instant::now(), to, node("beta"), 1);
        let accepted = self.event("session accepted", |host, event| match event {
            Event::SessionAccepted { session, .. } if host == 1 => Some(*session),
            _ => None,
        });
        let connected = self.event("connected", |host, event| match event {
            Event::Connected { session, .. } if host == 0 => Some(*session),
            _ => None,
        });
        [connected, accepted]
    }

    /// Opens a flow to `echo` at `keys[1]`, sends `bytes` there and has them echoed; fails unless they are
    /// the same
    pub fn echo(&mut self, keys: [SessionKey; 2], bytes: &[u8]) {
        let flow = self.hosts[0]
            .home(keys[0])
            .with_session(keys[0], |session| session.open_flow(service("echo"), 0).unwrap())
            .expect("the session");
        let mut sent = 0;
        let mut back = Vec::new();
        let mut end = [false; 2];
        self.until("echo", |world| {
            let now = Instant::now();
            world.hosts[0].home(keys[0]).with_session(keys[0], |session| {
                let room = session.send_buffer_bytes();
                let room = session.flow(flow).map_or(0, |f| f.writable_bytes(room)) as usize;
                let length = room.min(bytes.len() - sent).min(65_536);
                if length > 0 {
                    session.write(flow, Bytes::copy_from_slice(&bytes[sent..sent + length]));
                    sent += length;
                }
                if sent == bytes.len() && !end[0] {
                    end[0] = true;
                    session.finish(flow);
                }
                while let Some(bytes) = session.read(now, flow) {
                    back.extend_from_slice(&bytes);
                }
                let state = session.flow(flow).expect("the flow");
                assert_eq!(state.error(), None);
                if state.is_drained() && state.is_sent() {
                    end[1] = true;
                    session.release_flow(flow);
                }
            });
            world.serve_echo(1, keys[1], now);
            end[1]
        });
        assert!(back == bytes, "{} bytes came back of {}", back.len(), bytes.len());
    }

    /// The accepting side's echo program: every flow of a session
    pub fn serve_echo(&mut self, host: usize, key: SessionKey, now: Instant) {
        let mut taken = Vec::new();
        self.events.retain(|(at, event)| match event {
            Event::FlowIncoming { session, flow, .. } if *at == host && *session == key => {
                taken.push(*flow);
                false
            }
            _ => true,
        });
        self.hosts[host].home(key).with_session(key, |session| {
            for flow in taken {
                session.accept_flow(flow, 0);
            }
            for flow in session.flow_status().iter().map(|status| status.id) {
                let room = session.send_buffer_bytes();
                while session.flow(flow).is_some_and(|f| f.writable_bytes(room) > 65_536)
                    && let Some(bytes) = session.read(now, flow)
                {
                    session.write(flow, bytes);
                }
                let Some(state) = session.flow(flow) else { continue };
                if state.is_drained() && state.writable_bytes(room) > 0 {
                    session.finish(flow);
                }
                session.release_flow(flow);
            }
        });
    }
}

/// A QUIC client driven by hand
pub struct Client {
    pub address: SocketAddrV6,
    pub quic: quiche::Connection,
    pub slot: PeerSlot,
    pub control: FrameReader,
    pub frames: Vec<Frame>,
}

/// What a client is made of
pub struct ClientSetup<'a> {
    /// Its certificate and whom it trusts; `None`: it has none and trusts everybody
    pub snapshot: Option<&'a ControlSnapshot>,
    pub protocols: &'a [&'a [u8]],
    /// Bytes it lets the server send on the control stream
    pub control_window: u64,
}

impl Default for ClientSetup<'_> {
    fn default() -> Self {
        Self { snapshot: None, protocols: &[ALPN_STOQ], control_window: 1 << 20 }
    }
}

impl Client {
    /// A client at `[2001:db8::<number>]` that begins a handshake with beta at `to`
    pub fn dial(number: u16, to: SocketAddrV6, setup: &ClientSetup<'_>) -> Self {
        let address = format!("[2001:db8:0:{number:x}::1]:7").parse().unwrap();
        let context = match setup.snapshot {
            Some(snapshot) => tls::context(Role::Client, snapshot).unwrap(),
            None => {
                let mut context = SslContextBuilder::new(SslMethod::tls()).unwrap();
                context.set_min_proto_version(Some(SslVersion::TLS1_3)).unwrap();
                context.set_verify(SslVerifyMode::NONE);
                context
            }
        };
        let mut config =
            quiche::Config::with_boring_ssl_ctx_builder(quiche::PROTOCOL_VERSION, context).unwrap();
        config.set_application_protos(setup.protocols).unwrap();
        config.set_max_idle_timeout(30_000);
        config.set_initial_max_data(10 << 20);
        config.set_initial_max_stream_data_bidi_local(setup.control_window);
        config.set_initial_max_stream_data_bidi_remote(1 << 20);
        config.set_initial_max_stream_data_uni(1 << 20);
        config.set_initial_max_streams_bidi(100);
        config.set_initial_max_streams_uni(100);
        let id: [u8; 16] = rand::random();
        let mut quic = quiche::connect(
            None,
            &quiche::ConnectionId::from_ref(&id),
            SocketAddr::V6(address),
            SocketAddr::V6(to),
            &mut config,
        )
        .unwrap();
        let slot = PeerSlot::install(quic.as_mut(), Some(node("beta")), std::time::SystemTime::now)
            .unwrap();
        let control = FrameReader::new(1 << 16);
        Self { address, quic, slot, control, frames: Vec::new() }
    }

    fn receive(&mut self, mut datagram: Datagram) {
        let info = quiche::RecvInfo {
            from: SocketAddr::V6(datagram.from),
            to: SocketAddr::V6(self.address),
        };
        if self.quic.recv(&mut datagram.bytes, info) == Err(quiche::Error::TlsFail) {
            self.slot.conclude();
        }
    }

    fn transmit(&mut self, mut send: impl FnMut(Datagram)) {
        if self.quic.timeout() == Some(Duration::ZERO) {
            self.quic.on_timeout();
        }
        let mut buffer = [0; 1_500];
        while let Ok((length, info)) = self.quic.send(&mut buffer) {
            let SocketAddr::V6(to) = info.to else { panic!("IPv6 only") };
            send(Datagram { from: self.address, to, bytes: buffer[..length].to_vec() });
        }
    }

    /// Everything it has to send now, for tests that hand it over themselves
    pub fn datagrams(&mut self) -> Vec<Datagram> {
        let mut all = Vec::new();
        self.transmit(|datagram| all.push(datagram));
        all
    }

    /// Writes all of `bytes` to a stream, or fails
    pub fn write(&mut self, stream: u64, bytes: &[u8], end: bool) {
        assert_eq!(self.quic.stream_send(stream, bytes, end), Ok(bytes.len()));
    }

    pub fn write_frame(&mut self, frame: &Frame) {
        let mut bytes = BytesMut::new();
        frame.encode(&mut bytes);
        self.write(0, &bytes, false);
    }

    /// Says HELLO as `name`
    pub fn hello(&mut self, name: &str, session: SessionId) {
        self.write_frame(&Frame::Hello(Hello {
            version_min: 1,
            version_max: 1,
            session,
            node: node(name),
            flow_window_bytes: 65_536,
            flows: 100,
        }));
    }

    /// Reads the control stream
    pub fn read_frames(&mut self) {
        let mut buffer = [0; 4_096];
        while let Ok((length, _)) = self.quic.stream_recv(0, &mut buffer) {
            self.control.push(&buffer[..length]);
        }
        while let Some(frame) = self.control.next_frame().unwrap() {
            self.frames.push(frame);
        }
    }

    /// The code with which the peer closed
    pub fn closed_with(&self) -> Option<u64> {
        self.quic.peer_error().map(|error| error.error_code)
    }
}
