//! A host in memory: one endpoint per worker, datagrams steered to them as the kernel would, messages
//! between them delivered in order. It stands for `stoq-worker` without rings, threads and sockets.

use std::net::{Ipv6Addr, SocketAddrV6};
use std::sync::Arc;
use std::time::Instant;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use stoq_interface::{ControlSnapshot, WorkerCounters};
use stoq_transport::connection_id::Steering;
use stoq_transport::{Endpoint, EndpointSecrets, EndpointSetup, Event, SessionKey};

use crate::network::Datagram;

/// Octets of the slab that trains are written to
const SLAB_BYTES: usize = 65_536;
/// Datagrams of one train
const TRAIN_SEGMENTS: usize = 16;

/// One host
pub struct Host {
    /// Its address
    pub address: SocketAddrV6,
    endpoints: Vec<Endpoint>,
    counters: Vec<Arc<WorkerCounters>>,
    steering: Steering,
    random: StdRng,
    /// Probability that the kernel steers a datagram to a random worker
    misrouting: f64,
    slab: Vec<u8>,
}

impl Host {
    /// A host on `[fd77::<number>]:8444` with as many workers
    pub fn new(number: u16, workers: usize, seed: u64, snapshot: Arc<ControlSnapshot>) -> Self {
        let address = Ipv6Addr::new(0xfd77, 0, 0, number, 0, 0, 0, 1);
        let local = SocketAddrV6::new(address, 8_444, 0, 0);
        let mut random = StdRng::seed_from_u64(seed);
        let secrets = EndpointSecrets {
            token: random.random(),
            reset: random.random(),
            steering: random.random(),
        };
        let steering = Steering::new(secrets.steering, workers);
        let counters: Vec<_> = (0..workers).map(|_| Arc::new(WorkerCounters::default())).collect();
        // Unlike ones: equal connection IDs on two hosts would be one to the network.
        let worker_seeds: Vec<u64> = (0..workers).map(|_| random.random()).collect();
        let endpoint = |worker: usize| {
            Endpoint::new(EndpointSetup {
                worker,
                workers,
                local,
                secrets: secrets.clone(),
                seed: worker_seeds[worker],
                snapshot: Arc::clone(&snapshot),
                counters: Arc::clone(&counters[worker]),
            })
        };
        let endpoints = (0..workers).map(endpoint).collect();
        Self {
            address: local,
            endpoints,
            counters,
            steering,
            random,
            misrouting: 0.0,
            slab: vec![0; SLAB_BYTES],
        }
    }

    /// Lets the kernel err: this share of datagrams goes to a random worker
    pub fn set_misrouting(&mut self, probability: f64) {
        self.misrouting = probability;
    }

    /// Workers
    pub fn workers(&self) -> usize {
        self.endpoints.len()
    }

    /// The endpoint of a worker
    pub fn endpoint(&mut self, worker: usize) -> &mut Endpoint {
        &mut self.endpoints[worker]
    }

    /// The endpoint a session is at home
    pub fn home(&mut self, session: SessionKey) -> &mut Endpoint {
        &mut self.endpoints[usize::from(session.worker)]
    }

    /// What a worker has counted
    pub fn counters(&self, worker: usize) -> &WorkerCounters {
        &self.counters[worker]
    }

    /// The sum of one counter over all workers
    pub fn count(&self, read: impl Fn(&WorkerCounters) -> u64) -> u64 {
        self.counters.iter().map(|counters| read(counters)).sum()
    }

    /// Puts a snapshot into force on every worker
    pub fn publish(&mut self, snapshot: &Arc<ControlSnapshot>) {
        for endpoint in &mut self.endpoints {
            endpoint.apply_snapshot(Arc::clone(snapshot));
        }
    }

    /// Hands a datagram to the worker that the kernel would choose
    pub fn receive(&mut self, now: Instant, mut datagram: Datagram) {
        let worker = self.steer(&datagram);
        self.endpoints[worker].handle_datagram(now, &mut datagram.bytes, datagram.from);
    }

    fn steer(&mut self, datagram: &Datagram) -> usize {
        // Initial and 0-RTT go by processor, which is to say: anywhere.
        let first = datagram.bytes.first().copied().unwrap_or(0);
        let first_flight = first & 0xa0 == 0x80;
        let id = datagram.destination_id().filter(|_| !first_flight);
        let steered = id.and_then(|id| self.steering.worker_of(&id));
        let astray = self.misrouting > 0.0 && self.random.random::<f64>() < self.misrouting;
        match steered {
            Some(worker) if !astray => worker,
            _ => self.random.random_range(0..self.endpoints.len()),
        }
    }

    /// Acts on timers that are due
    pub fn handle_timeout(&mut self, now: Instant) {
        for endpoint in &mut self.endpoints {
            if endpoint.next_timeout().is_some_and(|at| at <= now) {
                endpoint.handle_timeout(now);
            }
        }
    }

    /// Lets workers talk until none has anything to say
    pub fn settle(&mut self, now: Instant) {
        loop {
            let mut moved = false;
            for worker in 0..self.endpoints.len() {
                self.endpoints[worker].settle(now);
                while let Some((to, message)) = self.endpoints[worker].poll_message() {
                    self.endpoints[to].handle_message(now, message);
                    moved = true;
                }
            }
            if !moved {
                break;
            }
        }
    }

    /// The next event of any worker
    pub fn poll_event(&mut self) -> Option<(usize, Event)> {
        self.endpoints
            .iter_mut()
            .enumerate()
            .find_map(|(worker, endpoint)| endpoint.poll_event().map(|event| (worker, event)))
    }

    /// Everything the workers have to send now
    pub fn transmit(&mut self, now: Instant, mut send: impl FnMut(Datagram)) {
        for endpoint in &mut self.endpoints {
            while let Some(train) = endpoint.poll_transmit(now, &mut self.slab, TRAIN_SEGMENTS) {
                for segment in self.slab[..train.bytes].chunks(train.segment_bytes) {
                    let bytes = segment.to_vec();
                    send(Datagram { from: self.address, to: train.to, bytes });
                }
            }
        }
    }

    /// When [`Self::handle_timeout`] wants to be called
    pub fn next_timeout(&self) -> Option<Instant> {
        self.endpoints.iter().filter_map(Endpoint::next_timeout).min()
    }

    /// Whether nothing is left on any worker
    pub fn is_idle(&self) -> bool {
        self.endpoints.iter().all(Endpoint::is_idle)
    }
}
