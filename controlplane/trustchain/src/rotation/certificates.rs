//! How certificates take turns: the successor takes over, the one before is kept until the connections made
//! with it are replaced, and then its key is destroyed. Fetching them is in `acquire`.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use super::clock::Now;
use super::event::{Action, Activation, ActivationReason, CertificateFacts, Event, Role};
use super::machine::{DRAINING_LIMIT, Kept, Pursuit, Rotation};
use super::schedule::in_proportion;

impl Rotation {
    /// The driver has swapped to the certificate; the one before may go once nothing needs it
    pub fn handle_activated(&mut self, serial: &str, now: Now) {
        if let Some(current) = self.current.as_mut().filter(|kept| kept.serial() == serial) {
            current.confirmed = true;
        }
        self.advance(now);
    }

    /// The driver could not swap and presents the certificate before. The new one is given up: whatever made
    /// it unusable would make it so again, and a fresh one costs little.
    pub fn handle_activation_failed(&mut self, serial: &str, reason: &str, now: Now) {
        let unconfirmed = |kept: &mut Kept| kept.serial() == serial && !kept.confirmed;
        if let Some(failed) = self.current.take_if(unconfirmed) {
            let (serial, reason) = (serial.to_owned(), reason.to_owned());
            self.report(Event::ActivationFailed { serial, reason });
            self.retire(failed);
            self.current = self.draining.pop_back();
            if !matches!(self.pursuit, Pursuit::InFlight { .. }) {
                let wait = self.backoff.next(&mut self.random);
                self.pursuit = Pursuit::Waiting { until: now.monotone + wait };
            }
        }
        self.advance(now);
    }

    /// A certificate of this node was revoked
    pub fn handle_revoked(&mut self, serial: &str, now: Now) {
        let matches = |kept: &mut Kept| kept.serial() == serial && !kept.revoked;
        if let Some(successor) = self.successor.take_if(matches) {
            self.report(Event::Revoked { serial: serial.to_owned() });
            self.retire(successor);
            self.hurry(now);
        } else if self.current.as_mut().is_some_and(matches) {
            self.report(Event::Revoked { serial: serial.to_owned() });
            if let Some(current) = &mut self.current {
                current.revoked = true;
            }
            self.hurry(now);
        } else if let Some(old) = self.draining.iter_mut().find(|kept| kept.serial() == serial) {
            old.revoked = true;
            self.report(Event::Revoked { serial: serial.to_owned() });
            self.connections.hurry(serial, now.wall);
        }
        self.advance(now);
    }

    fn hurry(&mut self, now: Now) {
        if self.pursuit == Pursuit::Rest && self.wants_certificate(now.wall) {
            self.wait_urgently(now);
        }
    }

    /// When the successor of a certificate takes over
    pub(super) fn activation_time(&self, certificate: &CertificateFacts) -> SystemTime {
        let (offset, nominal) = (self.settings.activate_at, self.settings.lifetime);
        certificate.not_before + in_proportion(offset, nominal, certificate.lifetime())
    }

    pub(super) fn has_seen(&self, serial: &str) -> bool {
        let held = self.current.iter().chain(&self.successor).chain(&self.draining);
        held.into_iter().any(|kept| kept.serial() == serial)
            || self.retired.iter().any(|retired| retired == serial)
    }

    /// When the time alone will change which certificate is presented or what is reported about it
    pub(super) fn next_turn(&self, now: Now) -> Option<SystemTime> {
        let current = self.current.as_ref();
        let ends = current
            .filter(|current| !current.end_reported)
            .map(|current| current.certificate().not_after + Duration::from_millis(1));
        let takes_over = self.successor.as_ref().map(|successor| {
            let valid = successor.certificate().not_before;
            match current.filter(|current| !current.is_dead(now.wall)) {
                Some(current) => valid.max(self.activation_time(current.certificate())),
                None => valid,
            }
        });
        ends.into_iter().chain(takes_over).min()
    }

    /// A successor that was slept through
    pub(super) fn drop_ended_successor(&mut self, now: Now) {
        if let Some(ended) = self.successor.take_if(|kept| kept.certificate().ended(now.wall)) {
            self.retire(ended);
        }
    }

    pub(super) fn activate_due(&mut self, now: Now) {
        let wall = now.wall;
        let Some(valid) = self.successor.as_ref().map(|kept| kept.certificate().not_before) else {
            return;
        };
        let (reason, planned) = match &self.current {
            None => (ActivationReason::First, wall),
            Some(current) if current.revoked => (ActivationReason::Revoked, wall),
            Some(current) if current.is_dead(wall) => {
                (ActivationReason::Expired, current.certificate().not_after)
            }
            Some(current) => (ActivationReason::Due, self.activation_time(current.certificate())),
        };
        let planned = planned.max(valid);
        if wall < planned {
            return;
        }
        if let Some(successor) = self.successor.take() {
            let late_by = wall.duration_since(planned).unwrap_or_default();
            self.activate(successor, reason, late_by, now);
        }
    }

    fn activate(&mut self, successor: Kept, reason: ActivationReason, late_by: Duration, now: Now) {
        let (serial, key) = (successor.serial().to_owned(), successor.held.key);
        let replaces = self.current.replace(successor).map(|old| {
            let replaced = old.serial().to_owned();
            if old.revoked {
                self.connections.hurry(&replaced, now.wall);
            }
            self.draining.push_back(old);
            replaced
        });
        if self.draining.len() > DRAINING_LIMIT
            && let Some(oldest) = self.draining.pop_front()
        {
            // Its connections live on and stay watched: TLS needs the key for the handshake only.
            self.retire(oldest);
        }
        self.ask_information_after(None, now);
        self.report(Event::Activated { serial: serial.clone(), reason, late_by });
        let roles = Role::BOTH;
        self.act(Action::Activate(Activation { serial, key, roles, replaces, reason }));
    }

    /// Says once when the certificate in force ends without a successor
    pub(super) fn report_end(&mut self, now: Now) {
        let Some(current) = &mut self.current else { return };
        let ended = current.certificate().ended(now.wall);
        let first = ended && !current.end_reported;
        // Where the clock was set back, it may end once more.
        current.end_reported = ended;
        if first {
            let serial = current.serial().to_owned();
            self.report(Event::Expired { serial });
        }
    }

    pub(super) fn move_connections(&mut self, now: Now) {
        let due = self.connections.take_due(now.wall, &self.settings);
        if due.past_end > 0 {
            self.report(Event::ConnectionsPastEnd { count: due.past_end });
        }
        if let Some(ends_before) = due.ends_before {
            self.report(Event::ConnectionsReplaced { count: due.replace.len() });
            self.act(Action::ReplaceConnections { connections: due.replace, ends_before });
        }
        if !due.close.is_empty() {
            self.report(Event::ConnectionsClosed { count: due.close.len() });
            self.act(Action::CloseConnections { connections: due.close });
        }
    }

    pub(super) fn retire_drained(&mut self, now: Now) {
        if self.draining.is_empty() {
            return;
        }
        // Until the driver has swapped, the one before is what it presents.
        let settled = self.current.as_ref().is_none_or(|current| current.confirmed);
        let candidates = self.draining.len() - usize::from(!settled);
        let mut kept = VecDeque::with_capacity(self.draining.len());
        for (place, old) in std::mem::take(&mut self.draining).into_iter().enumerate() {
            let over = old.certificate().not_after + self.settings.grace_after_end;
            let idle = self.connections.count_on(old.serial()) == 0 || now.wall > over;
            if place < candidates && idle {
                self.retire(old);
            } else {
                kept.push_back(old);
            }
        }
        self.draining = kept;
    }

    pub(super) fn retire(&mut self, old: Kept) {
        let serial = old.serial().to_owned();
        self.act(Action::DiscardKey { key: old.held.key, serial: Some(serial.clone()) });
        self.report(Event::Retired { serial: serial.clone() });
        self.remember_retired(serial);
    }
}
