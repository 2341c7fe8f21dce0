//! The state of rotation and the doors to it: what comes in by `handle_*`, what goes out by `poll_*`. How
//! certificates are fetched and how they take turns is in `acquire` and `certificates`.

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime};

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::clock::{CLOCK_REREAD_LIMIT, Jump, Now};
use super::connections::{Connection, Connections, TooManyConnections};
use super::event::{Action, CertificateFacts, Event, KeySlot};
use super::schedule::{
    Backoff, INFORMATION_INTERVAL_SHORTEST, RenewalWindow, URGENT_SPREAD, up_to,
};
use super::settings::{RotationSettings, RotationSettingsError};

/// Authorities that take turns
pub const AUTHORITIES_LIMIT: usize = 64;
/// Certificates that are kept while connections made with them live
pub const DRAINING_LIMIT: usize = 8;
/// Events that wait to be read; beyond it the oldest is dropped, and its counter still counts
pub const EVENTS_LIMIT: usize = 1_024;
/// Serial numbers of past certificates that are never taken again
const RETIRED_LIMIT: usize = 64;

/// There is nobody to ask, or too many
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "rotation needs 1 to {AUTHORITIES_LIMIT} authorities to ask; name them in the configuration"
)]
pub struct NoAuthority;

/// Why rotation cannot begin
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BeginError {
    /// The times do not fit together
    #[error(transparent)]
    Settings(#[from] RotationSettingsError),
    /// Nobody to ask
    #[error(transparent)]
    NoAuthority(#[from] NoAuthority),
}

/// A certificate that is held, with its key
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Held {
    /// The certificate
    pub certificate: CertificateFacts,
    /// Its key
    pub key: KeySlot,
}

/// What rotation begins with: the certificates found on disk, if any
#[derive(Clone, Debug)]
pub struct Beginning {
    /// Whom to ask, in this order, round and round
    pub authorities: Vec<String>,
    /// The certificate in force
    pub current: Option<Held>,
    /// Its successor, fetched before and not yet active
    pub successor: Option<Held>,
    /// The first slot that no key was ever made for
    pub next_key: KeySlot,
    /// What every random choice follows from; another one for each node
    pub seed: u64,
}

/// An authority and until when it asked for patience
#[derive(Debug)]
pub(super) struct Authority {
    pub(super) name: String,
    pub(super) not_before: Option<Instant>,
}

/// A certificate with what was decided about it
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) held: Held,
    /// When to fetch its successor
    pub(super) acquire_at: SystemTime,
    pub(super) window: Option<RenewalWindow>,
    pub(super) revoked: bool,
    pub(super) end_reported: bool,
    /// Whether the driver has swapped to it
    pub(super) confirmed: bool,
}

impl Kept {
    pub(super) fn certificate(&self) -> &CertificateFacts {
        &self.held.certificate
    }

    pub(super) fn serial(&self) -> &str {
        &self.held.certificate.serial
    }

    /// Whether no handshake can succeed with it any more
    pub(super) fn is_dead(&self, wall: SystemTime) -> bool {
        self.revoked || self.certificate().ended(wall)
    }
}

/// Where the hunt for a certificate stands
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Pursuit {
    Rest,
    Waiting { until: Instant },
    InFlight { attempt: u64, deadline: Instant },
}

/// Rotation of one node's certificate
#[derive(Debug)]
pub struct Rotation {
    pub(super) settings: RotationSettings,
    pub(super) random: StdRng,
    pub(super) last: Now,
    pub(super) authorities: Vec<Authority>,
    pub(super) authority: usize,
    pub(super) failures_here: u32,
    pub(super) current: Option<Kept>,
    pub(super) successor: Option<Kept>,
    /// Oldest first
    pub(super) draining: VecDeque<Kept>,
    pub(super) retired: VecDeque<String>,
    pub(super) pursuit: Pursuit,
    pub(super) backoff: Backoff,
    /// The key that waits for a certificate
    pub(super) key: Option<KeySlot>,
    pub(super) next_key: u64,
    pub(super) next_attempt: u64,
    /// The authority did not accept the certificate in force
    pub(super) must_re_enrol: bool,
    pub(super) information_due: Instant,
    pub(super) connections: Connections,
    actions: VecDeque<Action>,
    events: VecDeque<Event>,
    counts: [u64; Event::LABELS.len()],
}

impl Rotation {
    /// Begins with what is held
    pub fn new(
        settings: RotationSettings,
        beginning: Beginning,
        now: Now,
    ) -> Result<Self, BeginError> {
        settings.check()?;
        let authorities = authorities(beginning.authorities)?;
        let mut rotation = Self {
            random: StdRng::seed_from_u64(beginning.seed),
            last: now,
            authorities,
            authority: 0,
            failures_here: 0,
            current: None,
            successor: None,
            draining: VecDeque::new(),
            retired: VecDeque::new(),
            pursuit: Pursuit::Rest,
            backoff: Backoff::new(settings.backoff_base, settings.backoff_cap),
            key: None,
            next_key: beginning.next_key.0,
            next_attempt: 0,
            must_re_enrol: false,
            information_due: now.monotone,
            connections: Connections::default(),
            actions: VecDeque::new(),
            events: VecDeque::new(),
            counts: [0; Event::LABELS.len()],
            settings,
        };
        rotation.current = beginning.current.map(|held| rotation.keep(held));
        rotation.successor = beginning.successor.map(|held| rotation.keep(held));
        if let Some(current) = &mut rotation.current {
            // What was found in force needs no swap.
            current.confirmed = true;
            // What the authority suggested before is not kept on disk.
            let spread = up_to(&mut rotation.random, INFORMATION_INTERVAL_SHORTEST);
            rotation.information_due = now.monotone + spread;
        }
        if rotation.current.is_some() && rotation.wants_certificate(now.wall) {
            // Many nodes may have been started at once.
            rotation.wait_urgently(now);
        }
        rotation.advance(now);
        Ok(rotation)
    }

    /// Time has passed; due at the latest when [`Self::poll_timeout`] says
    pub fn handle_time(&mut self, now: Now) {
        self.advance(now);
    }

    /// Replaces the list of authorities. An attempt in flight goes on, unless its authority is gone.
    pub fn handle_authorities(&mut self, names: Vec<String>, now: Now) -> Result<(), NoAuthority> {
        let asked = self.authorities.get(self.authority).map(|authority| authority.name.clone());
        let mut next = authorities(names)?;
        for authority in &mut next {
            let known = self.authorities.iter().find(|known| known.name == authority.name);
            authority.not_before = known.and_then(|known| known.not_before);
        }
        self.authorities = next;
        let place = self.authorities.iter().position(|known| Some(&known.name) == asked.as_ref());
        self.authority = place.unwrap_or(0);
        if place.is_none() {
            self.failures_here = 0;
            self.give_up_attempt(now);
        }
        self.advance(now);
        Ok(())
    }

    /// A connection was made
    pub fn handle_connection_opened(
        &mut self,
        id: u64,
        connection: Connection,
        now: Now,
    ) -> Result<(), TooManyConnections> {
        // One whose handshake ran with a certificate revoked since is replaced at once.
        let draining = self.draining.iter().filter(|kept| !kept.revoked);
        let own = self.current.iter().chain(draining);
        let own = own.into_iter().find(|kept| kept.serial() == connection.own_serial);
        let own_not_after = own.map(|kept| kept.certificate().not_after);
        let (settings, random) = (&self.settings, &mut self.random);
        self.connections.open(id, connection, own_not_after, now.wall, settings, random)?;
        self.advance(now);
        Ok(())
    }

    /// A connection is gone
    pub fn handle_connection_closed(&mut self, id: u64, now: Now) {
        self.connections.close(id);
        self.advance(now);
    }

    /// The next thing to do
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The next thing that happened
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Self::handle_time`] is due; never later than [`CLOCK_REREAD_LIMIT`] after the last time
    pub fn poll_timeout(&self) -> Instant {
        let now = self.last;
        let mut earliest = now.monotone + CLOCK_REREAD_LIMIT;
        let mut consider = |at: Option<Instant>| {
            if let Some(at) = at {
                earliest = earliest.min(at);
            }
        };
        match self.pursuit {
            Pursuit::Rest => consider(self.acquisition_time(now)),
            Pursuit::Waiting { until } => consider(Some(until)),
            Pursuit::InFlight { deadline, .. } => consider(Some(deadline)),
        }
        consider(self.information_time(now));
        consider(self.next_turn(now).map(|at| now.monotone_at(at)));
        consider(self.connections.next_due().map(|at| now.monotone_at(at)));
        earliest
    }

    /// The certificate that handshakes present
    pub fn current(&self) -> Option<&Held> {
        self.current.as_ref().map(|kept| &kept.held)
    }

    /// The certificate that waits for its turn
    pub fn successor(&self) -> Option<&Held> {
        self.successor.as_ref().map(|kept| &kept.held)
    }

    /// Certificates kept for connections that were made with them, oldest first
    pub fn draining(&self) -> impl Iterator<Item = &Held> {
        self.draining.iter().map(|kept| &kept.held)
    }

    /// When the successor of the certificate in force is fetched
    pub fn acquire_at(&self) -> Option<SystemTime> {
        self.current.as_ref().map(|kept| kept.acquire_at)
    }

    /// Connections watched
    pub fn connections_watched(&self) -> usize {
        self.connections.len()
    }

    /// Label and value of every counter
    pub fn counters(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Event::LABELS.into_iter().zip(self.counts)
    }

    pub(super) fn act(&mut self, action: Action) {
        self.actions.push_back(action);
    }

    pub(super) fn report(&mut self, event: Event) {
        self.counts[event.index()] += event.weight();
        if self.events.len() == EVENTS_LIMIT {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    pub(super) fn remember_retired(&mut self, serial: String) {
        if self.retired.len() == RETIRED_LIMIT {
            self.retired.pop_front();
        }
        self.retired.push_back(serial);
    }

    /// Spreads the first requests of nodes that find out at the same moment
    pub(super) fn wait_urgently(&mut self, now: Now) {
        let until = now.monotone + up_to(&mut self.random, URGENT_SPREAD);
        self.pursuit = Pursuit::Waiting { until };
    }

    /// Everything that follows from the time alone
    pub(super) fn advance(&mut self, now: Now) {
        self.observe_clocks(now);
        self.drop_ended_successor(now);
        self.activate_due(now);
        self.report_end(now);
        self.abandon_overdue(now);
        self.pursue(now);
        self.ask_information(now);
        self.move_connections(now);
        self.retire_drained(now);
    }

    fn observe_clocks(&mut self, now: Now) {
        let jump = now.jump_since(&self.last);
        self.last = now;
        match jump {
            None => {}
            Some(Jump::Backward(by)) => self.report(Event::ClockBackward { by }),
            Some(Jump::Forward(by)) => {
                self.report(Event::ClockForward { by });
                self.count_as_waited(by, now);
            }
        }
    }

    /// The host slept, or so it seems: waits went on meanwhile. Requests that became due by it are spread,
    /// because many hosts may have slept together.
    fn count_as_waited(&mut self, by: Duration, now: Now) {
        let spread = up_to(&mut self.random, URGENT_SPREAD);
        let shorten = |until: Instant| match until.checked_sub(by) {
            Some(earlier) if earlier > now.monotone => earlier,
            _ => until.min(now.monotone + spread),
        };
        for authority in &mut self.authorities {
            authority.not_before = authority.not_before.map(shorten);
        }
        self.information_due = shorten(self.information_due);
        match self.pursuit {
            Pursuit::Waiting { until } => {
                self.pursuit = Pursuit::Waiting { until: shorten(until) };
            }
            Pursuit::Rest if self.wants_certificate(now.wall) => self.wait_urgently(now),
            Pursuit::Rest | Pursuit::InFlight { .. } => {}
        }
    }
}

fn authorities(names: Vec<String>) -> Result<Vec<Authority>, NoAuthority> {
    if names.is_empty() || names.len() > AUTHORITIES_LIMIT {
        return Err(NoAuthority);
    }
    Ok(names.into_iter().map(|name| Authority { name, not_before: None }).collect())
}
