//! What a seed holds in store, drawn before the scenario begins: hosts, network, flows and mishaps with
//! their times. Nothing here depends on how the scenario goes.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use stoq_interface::{Allow, ControlSnapshot, ServiceName};

use super::flow::End;
use crate::network::Faults;
use crate::pattern::Pattern;

/// One mishap or deed
#[derive(Clone, Debug)]
pub(super) enum Action {
    /// Open a flow of the plan
    Open(usize),
    /// This host replaces all its connections
    Replace(usize),
    /// The active connection falls into a black hole
    Kill,
    /// This host closes a connection
    Close(usize),
    /// Nothing gets through
    Outage(Duration),
    /// The network changes
    Change(Faults),
}

/// One flow
#[derive(Clone, Debug)]
pub(super) struct FlowPlan {
    index: usize,
    /// The host that opens it
    pub opener: usize,
    /// Bytes that each host sends
    pub bytes: [u64; 2],
    /// The host that gives the flow up, and after how many bytes in both directions
    pub reset: Option<(usize, u64)>,
}

impl FlowPlan {
    /// Each flow has a service of its own, by which the other side knows it
    pub fn service(&self) -> ServiceName {
        ServiceName::new(&format!("flow-{}", self.index)).expect("one label")
    }

    /// Both hosts' ends
    pub fn ends(&self, seed: u64) -> [End; 2] {
        let key = |host: u64| seed << 20 | (self.index as u64) << 1 | host;
        [0, 1].map(|host: u64| {
            let (ours, theirs) = (Pattern::new(key(host)), Pattern::new(key(1 - host)));
            End::new(host as usize, ours, theirs, key(host))
        })
    }
}

/// The flow that a service name stands for
pub(super) fn index_of(service: &str) -> Option<usize> {
    service.strip_prefix("flow-")?.parse().ok()
}

/// A seed's plan
#[derive(Clone, Debug)]
pub struct Plan {
    pub(super) workers: [usize; 2],
    pub(super) misrouting: f64,
    pub(super) faults: Faults,
    pub(super) flows: Vec<FlowPlan>,
    /// Latest first
    pub(super) actions: Vec<(Duration, Action)>,
    replace_after_packets: u64,
    udp_payload_bytes: usize,
    pacing: bool,
    small_windows: bool,
}

/// Time within which everything happens
const SPAN_MS: u64 = 400;

impl Plan {
    /// Draws the plan of `seed`
    pub fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed ^ 0x5707_0001);
        let workers = [random.random_range(1..=3), random.random_range(1..=3)];
        let faults = draw_faults(&mut random);
        let flows: Vec<FlowPlan> =
            (0..random.random_range(2..=8)).map(|index| draw_flow(&mut random, index)).collect();
        let mut actions: Vec<(Duration, Action)> = Vec::new();
        let when = |random: &mut StdRng| Duration::from_millis(random.random_range(0..SPAN_MS));
        for index in 0..flows.len() {
            let at = if random.random() { Duration::ZERO } else { when(&mut random) };
            actions.push((at, Action::Open(index)));
        }
        for _ in 0..random.random_range(0..=2) {
            let action = Action::Replace(random.random_range(0..2));
            actions.push((when(&mut random), action));
        }
        if random.random_bool(0.3) {
            actions.push((when(&mut random), Action::Kill));
        }
        if random.random_bool(0.3) {
            let action = Action::Close(random.random_range(0..2));
            actions.push((when(&mut random), action));
        }
        if random.random_bool(0.2) {
            let length = Duration::from_millis(random.random_range(20..600));
            actions.push((when(&mut random), Action::Outage(length)));
        }
        for _ in 0..random.random_range(0..=2) {
            let action = Action::Change(draw_faults(&mut random));
            actions.push((when(&mut random), action));
        }
        actions.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
        Self {
            workers,
            misrouting: if random.random_bool(0.3) { 0.05 } else { 0.0 },
            faults,
            flows,
            actions,
            replace_after_packets: if random.random_bool(0.2) {
                random.random_range(200..2_000)
            } else {
                u64::MAX
            },
            udp_payload_bytes: [1_200, 1_452, 8_952][random.random_range(0..3)],
            pacing: random.random_bool(0.2),
            small_windows: random.random_bool(0.3),
        }
    }

    /// Puts the plan's settings into a snapshot: short times, so that a seed takes little of the real clock
    pub(super) fn configure(&self, snapshot: &mut ControlSnapshot) {
        for flow in &self.flows {
            snapshot.services.insert(flow.service(), Allow::AnyEnrolled);
        }
        let transport = &mut snapshot.transport;
        transport.max_udp_payload_bytes = self.udp_payload_bytes;
        transport.pacing = self.pacing;
        transport.initial_window_packets = 32;
        transport.initial_rtt = Duration::from_millis(10);
        transport.handshake_timeout = Duration::from_secs(3);
        transport.idle_timeout = Duration::from_millis(2_500);
        transport.keep_alive = Duration::from_millis(250);
        transport.drain_timeout = Duration::from_secs(2);
        transport.session_linger = Duration::from_secs(5);
        transport.stripe_above_bytes = 128 << 10;
        transport.replace_after_packets = self.replace_after_packets;
        if self.small_windows {
            transport.connection_window_bytes = 256 << 10;
            transport.stream_window_bytes = 32 << 10;
            snapshot.limits.flow_window_initial_bytes = 8 << 10;
            snapshot.limits.flow_window_bytes = 64 << 10;
            snapshot.limits.session_buffer_bytes = 96 << 10;
        }
    }
}

fn draw_flow(random: &mut StdRng, index: usize) -> FlowPlan {
    let mut bytes = || match random.random_range(0..10) {
        0 => 0,
        1..=5 => random.random_range(1..20_000),
        6..=8 => random.random_range(20_000..200_000),
        _ => random.random_range(200_000..1_500_000),
    };
    let bytes: [u64; 2] = [bytes(), bytes()];
    let opener = random.random_range(0..2);
    let reset = random.random_bool(0.1).then(|| {
        let after = random.random_range(0..=bytes[0] + bytes[1]);
        (random.random_range(0..2), after)
    });
    FlowPlan { index, opener, bytes, reset }
}

fn draw_faults(random: &mut StdRng) -> Faults {
    let mut chance = |often: f64, most: f64| {
        if random.random_bool(often) { random.random::<f64>() * most } else { 0.0 }
    };
    let (loss, duplication) = (chance(0.7, 0.06), chance(0.5, 0.05));
    let (reordering, corruption) = (chance(0.5, 0.05), chance(0.4, 0.02));
    Faults {
        loss,
        duplication,
        reordering,
        corruption,
        delay: Duration::from_micros(random.random_range(50..6_000)),
        jitter: Duration::from_micros(random.random_range(0..1_000)),
        rate_bytes_per_second: 10f64.powf(random.random_range(6.3..8.5)),
        queue: Duration::from_millis(random.random_range(5..60)),
    }
}
