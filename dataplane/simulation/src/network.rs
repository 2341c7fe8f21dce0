//! The network between the hosts: datagrams in, datagrams out later, fewer, more often, in another order or
//! damaged, as a seed decides. It looks into a datagram only to tell connections apart.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::SocketAddrV6;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use stoq_transport::connection_id::CONNECTION_ID_BYTES;

/// A connection ID as it stands in a packet
pub type WireId = [u8; CONNECTION_ID_BYTES];

/// What may happen to a datagram; probabilities from 0 to 1
#[derive(Clone, Debug)]
pub struct Faults {
    /// Probability that it is lost
    pub loss: f64,
    /// Probability that it arrives twice
    pub duplication: f64,
    /// Probability that it is held back by up to ten times the delay
    pub reordering: f64,
    /// Probability that one bit flips
    pub corruption: f64,
    /// Time on the way
    pub delay: Duration,
    /// Added at random
    pub jitter: Duration,
    /// Octets per second; what waits longer than [`Self::queue`] is dropped
    pub rate_bytes_per_second: f64,
    /// Longest wait for the rate
    pub queue: Duration,
}

impl Default for Faults {
    /// A clean and fast network
    fn default() -> Self {
        Self {
            loss: 0.0,
            duplication: 0.0,
            reordering: 0.0,
            corruption: 0.0,
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            rate_bytes_per_second: 1e12,
            queue: Duration::from_millis(50),
        }
    }
}

impl Faults {
    /// The same network, but everything arrives as it was sent
    pub fn without_loss(self) -> Self {
        Self { loss: 0.0, corruption: 0.0, ..self }
    }
}

/// What has been done to datagrams so far
#[derive(Clone, Copy, Debug, Default)]
pub struct FaultCounts {
    /// Datagrams handed in
    pub sent: u64,
    /// Lost at random
    pub lost: u64,
    /// Lost because the rate's queue was full
    pub overflowed: u64,
    /// Lost in an outage
    pub outage: u64,
    /// Swallowed with their connection
    pub swallowed: u64,
    /// Delivered twice
    pub duplicated: u64,
    /// Held back
    pub reordered: u64,
    /// Damaged
    pub corrupted: u64,
}

impl FaultCounts {
    /// Adds what another network has counted
    pub fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.lost += other.lost;
        self.overflowed += other.overflowed;
        self.outage += other.outage;
        self.swallowed += other.swallowed;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.corrupted += other.corrupted;
    }
}

/// A UDP datagram on its way
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Datagram {
    /// Its source
    pub from: SocketAddrV6,
    /// Its destination
    pub to: SocketAddrV6,
    /// Its payload
    pub bytes: Vec<u8>,
}

impl Datagram {
    /// The destination connection ID of its first packet, where it has this host's length
    pub fn destination_id(&self) -> Option<WireId> {
        let first = *self.bytes.first()?;
        let at = match first & 0x80 {
            0 => 1,
            _ if usize::from(*self.bytes.get(5)?) == CONNECTION_ID_BYTES => 6,
            _ => return None,
        };
        self.bytes.get(at..at + CONNECTION_ID_BYTES)?.try_into().ok()
    }

    /// The source connection ID, where there is one of this host's length
    fn source_id(&self) -> Option<WireId> {
        if *self.bytes.first()? & 0x80 == 0 {
            return None;
        }
        let at = 6 + usize::from(*self.bytes.get(5)?);
        if usize::from(*self.bytes.get(at)?) != CONNECTION_ID_BYTES {
            return None;
        }
        self.bytes.get(at + 1..at + 1 + CONNECTION_ID_BYTES)?.try_into().ok()
    }
}

type Predicate = Box<dyn Fn(&Datagram) -> bool + Send>;

/// The network between all hosts of a scenario
pub struct Network {
    random: StdRng,
    faults: Faults,
    /// Arrival and order of sending, then the datagram
    on_the_way: BinaryHeap<Reverse<(Instant, u64, Datagram)>>,
    sequence: u64,
    /// When the line of a source is free again
    busy_until: BTreeMap<SocketAddrV6, Instant>,
    outage_until: Option<Instant>,
    holes: Vec<Predicate>,
    /// The other ID of a connection, learned from handshakes
    partners: BTreeMap<WireId, WireId>,
    /// Destination of the latest datagram with a short header
    latest: Option<WireId>,
    counts: FaultCounts,
}

impl Network {
    /// A network whose faults follow from `seed`
    pub fn new(seed: u64, faults: Faults) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed),
            faults,
            on_the_way: BinaryHeap::new(),
            sequence: 0,
            busy_until: BTreeMap::new(),
            outage_until: None,
            holes: Vec::new(),
            partners: BTreeMap::new(),
            latest: None,
            counts: FaultCounts::default(),
        }
    }

    /// What may happen to datagrams from now on
    pub fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
    }

    /// What may happen to datagrams now
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Nothing gets through until then
    pub fn begin_outage(&mut self, until: Instant) {
        self.outage_until = Some(until);
    }

    /// Every datagram of which `matches` says so is lost from now on
    pub fn add_hole(&mut self, matches: impl Fn(&Datagram) -> bool + Send + 'static) {
        self.holes.push(Box::new(matches));
    }

    /// A connection that has just carried something
    pub fn active_connection(&self) -> Option<WireId> {
        self.latest
    }

    /// Every datagram of the connection is lost from now on, both ways
    pub fn kill_connection(&mut self, id: WireId) {
        let partner = self.partners.get(&id).copied().unwrap_or(id);
        self.add_hole(move |datagram| {
            let destination = datagram.destination_id();
            destination == Some(id) || destination == Some(partner)
        });
    }

    /// What has been done to datagrams so far
    pub fn counts(&self) -> FaultCounts {
        self.counts
    }

    fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.random.random::<f64>() < probability
    }

    fn up_to(&mut self, most: Duration) -> Duration {
        most.mul_f64(self.random.random::<f64>())
    }

    /// Takes in a datagram
    pub fn send(&mut self, now: Instant, mut datagram: Datagram) {
        self.counts.sent += 1;
        if let (Some(one), Some(other)) = (datagram.destination_id(), datagram.source_id()) {
            self.partners.insert(one, other);
            self.partners.insert(other, one);
        } else if let Some(id) = datagram.destination_id() {
            self.latest = Some(id);
        }
        if self.outage_until.is_some_and(|until| now < until) {
            self.counts.outage += 1;
            return;
        }
        if self.holes.iter().any(|hole| hole(&datagram)) {
            self.counts.swallowed += 1;
            return;
        }
        if self.chance(self.faults.loss) {
            self.counts.lost += 1;
            return;
        }
        let Some(leaves) = self.pass_line(now, &datagram) else {
            self.counts.overflowed += 1;
            return;
        };
        if self.chance(self.faults.corruption) && !datagram.bytes.is_empty() {
            let index = self.random.random_range(0..datagram.bytes.len());
            datagram.bytes[index] ^= 1 << self.random.random_range(0..8);
            self.counts.corrupted += 1;
        }
        if self.chance(self.faults.duplication) {
            self.counts.duplicated += 1;
            self.launch(leaves, datagram.clone());
        }
        self.launch(leaves, datagram);
    }

    /// When the datagram has left, `None` when it would wait too long
    fn pass_line(&mut self, now: Instant, datagram: &Datagram) -> Option<Instant> {
        let free = self.busy_until.get(&datagram.from).copied().unwrap_or(now).max(now);
        if free > now + self.faults.queue {
            return None;
        }
        let seconds = datagram.bytes.len() as f64 / self.faults.rate_bytes_per_second;
        let leaves = free + Duration::from_secs_f64(seconds);
        self.busy_until.insert(datagram.from, leaves);
        Some(leaves)
    }

    fn launch(&mut self, leaves: Instant, datagram: Datagram) {
        let mut arrival = leaves + self.faults.delay + self.up_to(self.faults.jitter);
        if self.chance(self.faults.reordering) {
            self.counts.reordered += 1;
            arrival += self.up_to(self.faults.delay * 10);
        }
        self.sequence += 1;
        self.on_the_way.push(Reverse((arrival, self.sequence, datagram)));
    }

    /// When the next datagram arrives
    pub fn next_arrival(&self) -> Option<Instant> {
        self.on_the_way.peek().map(|Reverse((arrival, ..))| *arrival)
    }

    /// The next datagram that has arrived
    pub fn poll(&mut self, now: Instant) -> Option<Datagram> {
        if self.next_arrival()? > now {
            return None;
        }
        self.on_the_way.pop().map(|Reverse((_, _, datagram))| datagram)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(number: u8) -> Datagram {
        Datagram {
            from: "[::1]:1".parse().unwrap(),
            to: "[::1]:2".parse().unwrap(),
            bytes: vec![number; 100],
        }
    }

    fn run(seed: u64, faults: Faults) -> (Vec<Datagram>, FaultCounts) {
        let now = Instant::now();
        let mut network = Network::new(seed, faults);
        for number in 0..200 {
            network.send(now, datagram(number));
        }
        let late = now + Duration::from_secs(10);
        let all = std::iter::from_fn(|| network.poll(late)).collect();
        (all, network.counts())
    }

    #[test]
    fn a_clean_network_changes_nothing() {
        let (arrived, counts) = run(1, Faults::default());
        let numbers: Vec<u8> = arrived.iter().map(|d| d.bytes[0]).collect();
        assert_eq!(numbers, (0..200).collect::<Vec<u8>>());
        assert_eq!(counts.sent, 200);
    }

    #[test]
    fn faults_happen_are_counted_and_follow_the_seed() {
        let faults = Faults {
            loss: 0.1,
            duplication: 0.1,
            reordering: 0.2,
            corruption: 0.1,
            delay: Duration::from_millis(1),
            rate_bytes_per_second: 1e6,
            queue: Duration::from_millis(15),
            ..Faults::default()
        };
        let (first, counts) = run(5, faults.clone());
        let (second, _) = run(5, faults.clone());
        let (other, _) = run(6, faults);
        assert_eq!(first, second);
        assert_ne!(first, other);
        let expected = 200 + counts.duplicated - counts.lost - counts.overflowed;
        assert_eq!(first.len() as u64, expected);
        for count in [counts.lost, counts.overflowed, counts.reordered, counts.corrupted] {
            assert!(count > 0, "{counts:?}");
        }
    }

    #[test]
    fn an_outage_and_a_hole_swallow_datagrams() {
        let now = Instant::now();
        let mut network = Network::new(1, Faults::default());
        network.begin_outage(now + Duration::from_millis(1));
        network.send(now, datagram(1));
        let later = now + Duration::from_millis(1);
        network.add_hole(|datagram| datagram.bytes[0] == 2);
        network.send(later, datagram(2));
        network.send(later, datagram(3));
        assert_eq!(network.poll(later).map(|d| d.bytes[0]), Some(3));
        assert_eq!(network.poll(later), None);
        assert_eq!((network.counts().outage, network.counts().swallowed), (1, 1));
    }
}
