//! One seed's story: two hosts, one session, flows of both sides in both directions, and everything that may
//! befall them. It ends well when every flow arrived byte for byte and nothing is left on either host.

mod flow;
mod plan;
mod report;

use std::sync::Arc;
use std::time::{Duration, Instant};

use stoq_interface::{CloseReason, ControlSnapshot};
use stoq_transport::{Event, SessionKey};

use crate::host::Host;
use crate::network::Network;
use crate::pki::Authority;
use flow::{End, Step};
pub use plan::Plan;
use plan::{Action, FlowPlan};
pub use report::{Failure, Report, repeat_line};

/// Time a scenario may take before it counts as stuck
const DEADLINE: Duration = Duration::from_secs(30);
/// Dials that may fail before the scenario does
const DIALS: u64 = 30;

/// Identities are made once: they are the same for all scenarios of a run
pub struct Identities {
    snapshots: [ControlSnapshot; 2],
}

impl Identities {
    /// Two nodes that trust each other
    pub fn new() -> Self {
        let authority = Authority::new();
        Self { snapshots: [authority.snapshot("alpha"), authority.snapshot("beta")] }
    }
}

impl Default for Identities {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether a scenario goes on
pub enum Progress {
    /// It goes on; call again by then
    Running(Option<Instant>),
    /// It ended well
    Ended(Box<Report>),
}

/// A scenario under way
pub struct Scenario {
    seed: u64,
    started: Instant,
    hosts: [Host; 2],
    network: Network,
    /// What is still to happen, latest first
    actions: Vec<(Duration, Action)>,
    flows: Vec<FlowPlan>,
    /// By flow of the plan: both hosts' ends
    ends: Vec<[End; 2]>,
    sessions: [Option<SessionKey>; 2],
    accepted: Vec<SessionKey>,
    dials: u64,
    closing: bool,
    report: Report,
}

impl Scenario {
    /// Begins the story of `seed`
    pub fn new(seed: u64, now: Instant, identities: &Identities) -> Self {
        let plan = Plan::new(seed);
        let host = |index: usize| {
            let mut snapshot = identities.snapshots[index].clone();
            plan.configure(&mut snapshot);
            let seed = seed.wrapping_mul(2).wrapping_add(index as u64);
            let mut host =
                Host::new(index as u16 + 1, plan.workers[index], seed, Arc::new(snapshot));
            host.set_misrouting(plan.misrouting);
            host
        };
        let hosts = [host(0), host(1)];
        let network = Network::new(seed, plan.faults.clone());
        let ends = plan.flows.iter().map(|flow| flow.ends(seed)).collect();
        let mut scenario = Self {
            seed,
            started: now,
            hosts,
            network,
            actions: plan.actions,
            flows: plan.flows,
            ends,
            sessions: [None; 2],
            accepted: Vec::new(),
            dials: 0,
            closing: false,
            report: Report { scenarios: 1, ..Report::default() },
        };
        scenario.dial(now);
        scenario
    }

    /// The seed
    pub fn seed(&self) -> u64 {
        self.seed
    }

    fn dial(&mut self, now: Instant) {
        self.dials += 1;
        let worker = (self.seed as usize) % self.hosts[0].workers();
        let to = self.hosts[1].address;
        let node = stoq_interface::NodeId::new("beta").expect("a valid name");
        self.hosts[0].endpoint(worker).connect(now, to, node, self.dials);
    }

    /// Does everything that is due
    pub fn step(&mut self, now: Instant) -> Result<Progress, Failure> {
        self.turn(now).map_err(|reason| self.fail(now, reason))
    }

    fn turn(&mut self, now: Instant) -> Result<Progress, String> {
        if now > self.started + DEADLINE {
            return Err(format!("not finished after {DEADLINE:?}"));
        }
        self.act(now);
        while let Some(datagram) = self.network.poll(now) {
            if let Some(host) = self.hosts.iter_mut().find(|h| h.address == datagram.to) {
                host.receive(now, datagram);
            }
        }
        for host in &mut self.hosts {
            host.handle_timeout(now);
            host.settle(now);
        }
        for index in 0..2 {
            while let Some((_, event)) = self.hosts[index].poll_event() {
                self.handle_event(now, index, event)?;
            }
        }
        self.run_programs(now)?;
        if self.is_finished() {
            return Ok(Progress::Ended(Box::new(self.summary())));
        }
        for host in &mut self.hosts {
            host.settle(now);
            host.transmit(now, |datagram| self.network.send(now, datagram));
        }
        Ok(Progress::Running(self.next_wake()))
    }

    fn next_wake(&self) -> Option<Instant> {
        let action = self.actions.last().map(|(after, _)| self.started + *after);
        let stalls = self.ends.iter().flatten().filter_map(End::stalled_until).min();
        let hosts = self.hosts.iter().filter_map(Host::next_timeout).min();
        let deadline = Some(self.started + DEADLINE);
        [action, stalls, hosts, self.network.next_arrival(), deadline].into_iter().flatten().min()
    }

    /// Carries out what the plan has for this moment
    fn act(&mut self, now: Instant) {
        // The plan's clock waits for the session.
        if self.sessions.contains(&None) {
            return;
        }
        while let Some((after, _)) = self.actions.last() {
            if self.started + *after > now {
                return;
            }
            let Some((_, action)) = self.actions.pop() else { return };
            self.carry_out(now, action);
        }
    }

    fn carry_out(&mut self, now: Instant, action: Action) {
        match action {
            Action::Open(flow) => self.open(flow),
            Action::Replace(host) => {
                if let Some(session) = self.sessions[host] {
                    self.hosts[host].home(session).with_session(session, |s| s.replace_links());
                }
            }
            Action::Kill => {
                if let Some(id) = self.network.active_connection() {
                    self.report.kills += 1;
                    self.network.kill_connection(id);
                }
            }
            Action::Close(host) => {
                for worker in 0..self.hosts[host].workers() {
                    let endpoint = self.hosts[host].endpoint(worker);
                    let all = endpoint.connection_status(now);
                    if let Some(connection) = all.iter().find(|c| c.state == "active") {
                        endpoint.close_connection_number(now, connection.id);
                        self.report.closes += 1;
                        return;
                    }
                }
            }
            Action::Outage(length) => {
                self.report.outages += 1;
                self.network.begin_outage(now + length);
            }
            Action::Change(faults) => {
                self.report.changes += 1;
                self.network.set_faults(faults);
            }
        }
    }

    fn open(&mut self, index: usize) {
        let plan = &self.flows[index];
        let host = plan.opener;
        let Some(session) = self.sessions[host] else { return };
        let service = plan.service();
        let opened = self.hosts[host]
            .home(session)
            .with_session(session, |s| s.open_flow(service, index as u64));
        if let Some(Ok(flow)) = opened {
            self.ends[index][host].begin(flow);
        }
    }

    fn handle_event(&mut self, now: Instant, host: usize, event: Event) -> Result<(), String> {
        match event {
            Event::Connected { session, .. } => {
                let id = self.hosts[0].home(session).with_session(session, |s| s.id());
                let same = |key: &&SessionKey| {
                    let key = **key;
                    self.hosts[1].home(key).with_session(key, |s| s.id()) == id
                };
                let other = self.accepted.iter().rev().find(same).copied();
                self.sessions = [Some(session), other];
                if other.is_none() {
                    return Err("connected to a session that the peer does not have".into());
                }
                // The plan begins here.
                self.started = now;
                Ok(())
            }
            Event::ConnectFailed { reason, .. } if self.dials < DIALS => {
                let _lossy_networks_lose_handshakes = reason;
                self.report.failed_dials += 1;
                self.dial(now);
                Ok(())
            }
            Event::ConnectFailed { reason, .. } => Err(format!("dialling failed: {reason}")),
            Event::SessionAccepted { session, .. } => {
                self.accepted.push(session);
                Ok(())
            }
            Event::SessionEnded { session, reason } => {
                let ours = self.sessions[host] == Some(session);
                if ours && !self.closing {
                    return Err(format!("host {host}: the session ended: {reason}"));
                }
                Ok(())
            }
            Event::FlowIncoming { session, flow, service, .. } => {
                self.take_flow(host, session, flow, service.as_str())
            }
            // Programs look at all their flows in every turn.
            Event::FlowTouched { session, flow } => {
                self.hosts[host].home(session).with_session(session, |s| s.untouch(flow));
                Ok(())
            }
            Event::CallIncoming { .. } | Event::CallDone { .. } => {
                Err("a call that nobody made".into())
            }
            Event::ConnectionClosed { reason: CloseReason::Protocol, .. } => {
                Err(format!("host {host}: a protocol violation"))
            }
            Event::ConnectionClosed { .. } => Ok(()),
        }
    }

    fn take_flow(
        &mut self,
        host: usize,
        session: SessionKey,
        flow: u64,
        service: &str,
    ) -> Result<(), String> {
        let index = plan::index_of(service).filter(|index| *index < self.ends.len());
        let index = index.ok_or_else(|| format!("a flow to an unknown service {service}"))?;
        if self.flows[index].opener == host || self.ends[index][host].flow().is_some() {
            return Err(format!("host {host}: flow {index} arrived twice or at its opener"));
        }
        self.ends[index][host].begin(flow);
        let home = self.hosts[host].home(session);
        home.with_session(session, |s| s.accept_flow(flow, index as u64));
        Ok(())
    }

    fn run_programs(&mut self, now: Instant) -> Result<(), String> {
        for (index, ends) in self.ends.iter_mut().enumerate() {
            let plan = &self.flows[index];
            for (host, end) in ends.iter_mut().enumerate() {
                let Some(key) = self.sessions[host] else { continue };
                if end.flow().is_none() || end.is_done() {
                    continue;
                }
                let home = self.hosts[host].home(key);
                let step = home.with_session(key, |session| end.step(now, session, plan));
                match step {
                    Some(Ok(Step::Read(bytes))) => self.report.bytes += bytes,
                    Some(Err(reason)) => return Err(format!("flow {index} at {host}: {reason}")),
                    None => return Err(format!("flow {index} at {host}: no session")),
                }
            }
        }
        if !self.closing && self.actions.is_empty() && self.flows_are_done() {
            self.close(now);
        }
        Ok(())
    }

    fn flows_are_done(&self) -> bool {
        self.flows.iter().zip(&self.ends).all(|(plan, ends)| {
            let (opener, other) = (&ends[plan.opener], &ends[1 - plan.opener]);
            // A flow given up at once may never have become known to the peer.
            let never_seen = plan.reset.is_some() && other.flow().is_none();
            opener.is_done() && (other.is_done() || never_seen)
        })
    }

    fn close(&mut self, now: Instant) {
        self.closing = true;
        for host in 0..2 {
            let Some(key) = self.sessions[host] else { continue };
            let counters =
                self.hosts[host].home(key).with_session(key, |session| session.counters());
            if let Some(counters) = counters {
                self.report.replacements += counters.replacements;
                self.report.losses += counters.losses;
                self.report.bytes_resent += counters.bytes_resent;
            }
        }
        self.report.flows = self.flows.len() as u64;
        self.report.resets = self.flows.iter().filter(|f| f.reset.is_some()).count() as u64;
        self.network.set_faults(self.network.faults().clone().without_loss());
        if let Some(key) = self.sessions[0] {
            let home = self.hosts[0].home(key);
            home.with_session(key, |session| session.close(CloseReason::Done));
            home.settle(now);
        }
    }

    fn is_finished(&self) -> bool {
        self.closing && self.hosts.iter().all(Host::is_idle)
    }

    fn summary(&self) -> Report {
        let handed_over =
            self.hosts.iter().map(|host| host.count(|counters| counters.handed_over.get()));
        Report { faults: self.network.counts(), handed_over: handed_over.sum(), ..self.report }
    }

    fn fail(&mut self, now: Instant, reason: String) -> Failure {
        let mut state = String::new();
        let mut line = |text: String| {
            state.push_str("  ");
            state.push_str(&text);
            state.push('\n');
        };
        line(format!("after {:?}, {:?}", now - self.started, self.network.counts()));
        for (index, (plan, ends)) in self.flows.iter().zip(&self.ends).enumerate() {
            line(format!("flow {index}: {plan:?}"));
            for (host, end) in ends.iter().enumerate().filter(|(_, end)| !end.is_done()) {
                line(format!("  at {host}: {end:?}"));
            }
        }
        for (host, key) in self.sessions.iter().enumerate() {
            let Some(key) = *key else { continue };
            let flows = self.hosts[host].home(key).with_session(key, |s| s.flow_status());
            for flow in flows.into_iter().flatten() {
                line(format!("host {host}: {flow:?}"));
            }
        }
        for (index, host) in self.hosts.iter_mut().enumerate() {
            for worker in 0..host.workers() {
                let endpoint = host.endpoint(worker);
                for session in endpoint.session_status() {
                    line(format!("host {index}: {session:?}"));
                }
                for connection in endpoint.connection_status(now) {
                    line(format!("host {index}: {connection:?}"));
                }
            }
        }
        Failure { seed: self.seed, reason, state }
    }
}
