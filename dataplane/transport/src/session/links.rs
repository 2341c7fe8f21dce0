//! Links: the connections that joined a session. Growing, replacing make-before-break, and losing them.

use std::time::{Duration, Instant};

use stoq_interface::CloseReason;

use super::{LinkCommand, Output, REDIAL_FIRST, REDIAL_LONGEST, Session};
use crate::wire::Frame;

/// A connection, named across workers
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct LinkId {
    /// The worker that owns it
    pub worker: u16,
    /// Slot in the worker's table
    pub slot: u32,
    /// Distinguishes successive connections of one slot
    pub generation: u32,
}

/// Whether a connection that is to be replaced waits for a call's reply
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CallKind {
    /// It does, for as long as a drained connection may
    Request,
    /// It does not: the reply comes when there is news, which may be long, and whoever still wants to know asks
    /// again over the next connection
    Watch,
}

/// How far a link may be used
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LinkState {
    /// New records go here
    Active,
    /// A replacement is wanted; used until it stands
    Replacing,
    /// Used only where there is no active link
    Draining,
}

#[derive(Debug)]
pub(super) struct Link {
    pub id: LinkId,
    pub state: LinkState,
    pub suspect: bool,
    /// Records sent on it that are not acknowledged by the receiving flow
    pub outstanding: usize,
    /// Calls made over it whose reply has not come
    pub calls: usize,
    pub deadline: Option<Instant>,
    pub drained_here: bool,
    pub drained_there: bool,
    pub reason: CloseReason,
}

impl Session {
    /// A connection has joined the session
    pub fn add_link(&mut self, now: Instant, id: LinkId) {
        if self.ended {
            self.command(id, LinkCommand::Close(CloseReason::SessionUnknown));
            return;
        }
        let stale = self.end_dial();
        self.redial_pause = REDIAL_FIRST;
        self.redial_at = None;
        self.lost_since = None;
        self.links.push(Link {
            id,
            state: LinkState::Active,
            suspect: false,
            outstanding: 0,
            calls: 0,
            deadline: None,
            drained_here: false,
            drained_there: false,
            reason: CloseReason::Replaced,
        });
        let suspects: Vec<LinkId> =
            self.links.iter().filter(|l| l.suspect && l.id != id).map(|l| l.id).collect();
        for suspect in suspects {
            self.command(suspect, LinkCommand::Close(CloseReason::Transport));
            self.lose_link(now, suspect);
        }
        if self.dialled
            && let Some(old) = self.links.iter().position(|l| l.state == LinkState::Replacing)
        {
            self.begin_drain(now, old);
        }
        self.send_again_control_state();
        self.pump_all();
        if stale {
            self.want_replacement(id, CloseReason::Replaced);
        }
        self.grow();
    }

    /// A dial has ended; whether it began before the connections were last to be replaced. Which of several came
    /// first is not known: as many as were under way count, and one too many replaced does no harm.
    fn end_dial(&mut self) -> bool {
        self.dialing = self.dialing.saturating_sub(1);
        let stale = self.stale_dials > 0;
        self.stale_dials = self.stale_dials.saturating_sub(1);
        stale
    }

    /// A dialled connection came to nothing
    pub fn handle_dial_failed(&mut self, now: Instant) {
        self.end_dial();
        if self.ended {
            return;
        }
        // The replacement may still be wanted; it is tried again after a pause.
        self.redial_at = Some(now + self.redial_pause);
        self.redial_pause = (self.redial_pause * 2).min(REDIAL_LONGEST);
    }

    /// Dials until the session has the links it wants: as many as it is striped over, and one more for each
    /// that is to be replaced
    pub(super) fn grow(&mut self) {
        if !self.dialled || self.ended || self.draining || self.redial_at.is_some() {
            return;
        }
        let active = self.links.iter().filter(|l| l.state == LinkState::Active && !l.suspect);
        let mut missing = self
            .target_links
            .min(self.limits.connections_per_session)
            .saturating_sub(active.count() + self.dialing);
        if self.peer_drains() {
            return;
        }
        while missing > 0 {
            missing -= 1;
            self.dialing += 1;
            let worker = self.emptiest_worker();
            self.outputs.push_back(Output::Dial { worker });
        }
    }

    fn peer_drains(&self) -> bool {
        self.links.iter().any(|l| l.reason == CloseReason::Draining)
    }

    /// The worker with the fewest links of this session: striping wants one on each core
    fn emptiest_worker(&self) -> Option<usize> {
        (0..self.workers).min_by_key(|worker| {
            let used = self.links.iter().filter(|l| {
                usize::from(l.id.worker) == *worker && l.state == LinkState::Active && !l.suspect
            });
            used.count()
        })
    }

    /// Asks for the session to be spread over `count` links
    pub fn want_links(&mut self, count: usize) {
        let count = count.min(self.limits.connections_per_session).max(1);
        if count <= self.target_links {
            return;
        }
        self.target_links = count;
        if self.dialled {
            self.grow();
        } else if let Some(link) = self.best_link() {
            self.command(link, LinkCommand::Frame(Frame::WantConnections { count: count as u64 }));
        }
    }

    /// Replaces every link, make-before-break, and those that are being dialled as soon as they stand: their
    /// handshakes may show what is to be replaced
    pub fn replace_links(&mut self) {
        self.stale_dials = self.dialing;
        let links: Vec<LinkId> = self.links.iter().map(|l| l.id).collect();
        for link in links {
            self.want_replacement(link, CloseReason::Replaced);
        }
    }

    /// One link is to be replaced by a younger one
    pub(super) fn want_replacement(&mut self, id: LinkId, reason: CloseReason) {
        let timeout = self.settings.drain_timeout;
        let Some(link) = self.link_mut(id) else { return };
        if link.state != LinkState::Active {
            return;
        }
        link.state = LinkState::Replacing;
        link.reason = reason;
        if self.dialled {
            self.grow();
        } else {
            self.command(id, LinkCommand::Frame(drain_frame(timeout, reason)));
        }
    }

    /// The peer asks for a link to be left
    pub(super) fn handle_drain(
        &mut self,
        now: Instant,
        id: LinkId,
        deadline_ms: u64,
        reason: CloseReason,
    ) {
        let timeout = Duration::from_millis(deadline_ms).min(self.settings.drain_timeout * 6);
        let dialled = self.dialled;
        let Some(link) = self.link_mut(id) else { return };
        link.reason = reason;
        if reason == CloseReason::Draining {
            // The node goes away: what is under way finishes here, nothing replaces it.
            link.deadline = Some(now + timeout);
            return;
        }
        if dialled {
            if link.state == LinkState::Active {
                link.state = LinkState::Replacing;
            }
            self.grow();
        } else {
            link.state = LinkState::Draining;
            link.deadline = Some(now + timeout);
            self.pump_all();
            self.check_drained(id);
        }
    }

    fn begin_drain(&mut self, now: Instant, index: usize) {
        let timeout = self.settings.drain_timeout;
        let link = &mut self.links[index];
        link.state = LinkState::Draining;
        link.deadline = Some(now + timeout);
        let (id, reason) = (link.id, link.reason);
        self.command(id, LinkCommand::Frame(drain_frame(timeout, reason)));
        self.check_drained(id);
    }

    /// The link for a call. A request keeps it from being closed as drained until [`Self::end_call`].
    pub fn begin_call(&mut self, kind: CallKind) -> Option<LinkId> {
        let id = self.best_link()?;
        self.link_mut(id)?.calls += usize::from(kind == CallKind::Request);
        Some(id)
    }

    /// A request's reply has come, or never will
    pub fn end_call(&mut self, id: LinkId) {
        if let Some(link) = self.link_mut(id) {
            link.calls = link.calls.saturating_sub(1);
            self.check_drained(id);
        }
    }

    /// Once nothing is outstanding on a draining link the peer is told; once both sides are, it is closed
    pub(super) fn check_drained(&mut self, id: LinkId) {
        let has_other = self.links.iter().any(|l| l.id != id && l.state == LinkState::Active);
        let dialled = self.dialled;
        let Some(link) = self.link_mut(id) else { return };
        let busy = link.outstanding > 0 || link.calls > 0;
        if link.state != LinkState::Draining || busy || !has_other {
            return;
        }
        if !link.drained_here {
            link.drained_here = true;
            self.command(id, LinkCommand::Frame(Frame::Drained));
        }
        if dialled && self.link_mut(id).is_some_and(|l| l.drained_there) {
            self.retire(id);
        }
    }

    pub(super) fn handle_drained(&mut self, id: LinkId) {
        let Some(link) = self.link_mut(id) else { return };
        link.drained_there = true;
        self.check_drained(id);
    }

    fn retire(&mut self, id: LinkId) {
        self.counters.replacements += 1;
        let reason = self.link_mut(id).map_or(CloseReason::Replaced, |l| l.reason);
        self.command(id, LinkCommand::Close(reason));
        self.forget_link(id);
        // Closing overtakes frames that the transport has not yet delivered.
        self.send_again_control_state();
        self.pump_all();
    }

    pub(super) fn close_overdue_links(&mut self, now: Instant) {
        let overdue: Vec<LinkId> = self
            .links
            .iter()
            .filter(|l| l.deadline.is_some_and(|at| at <= now))
            .map(|l| l.id)
            .collect();
        for id in overdue {
            if self.draining {
                self.close(CloseReason::Draining);
                return;
            }
            let reason = self.link_mut(id).map_or(CloseReason::Replaced, |l| l.reason);
            self.command(id, LinkCommand::Close(reason));
            self.handle_down(now, id, reason);
        }
    }

    /// A link has gone silent: the peer is reached another way if there is one
    pub(super) fn handle_suspect(&mut self, now: Instant, id: LinkId) {
        let has_other = self.links.iter().any(|l| l.id != id && !l.suspect);
        let Some(link) = self.link_mut(id) else { return };
        if link.suspect {
            return;
        }
        link.suspect = true;
        if has_other {
            self.command(id, LinkCommand::Close(CloseReason::Transport));
            self.lose_link(now, id);
        }
        self.grow();
    }

    /// The connection ended, for the reason its closer gave
    pub(super) fn handle_down(&mut self, now: Instant, id: LinkId, reason: CloseReason) {
        let known = self.links.iter().any(|l| l.id == id);
        let last = known && self.links.len() == 1;
        match reason {
            // The peer has closed the session, or has forgotten it.
            CloseReason::Done | CloseReason::SessionUnknown => self.end(reason),
            // With the last certificate between them gone nothing is left to wait for.
            CloseReason::Revoked if last => self.end(reason),
            CloseReason::Draining if last && self.flows.is_empty() => self.end(reason),
            CloseReason::Draining if last => {
                // The peer restarts: knocking at once would only find it gone.
                self.redial_at = Some(now + self.redial_pause);
                self.redial_pause = (self.redial_pause * 2).min(REDIAL_LONGEST);
                self.lose_link(now, id);
            }
            CloseReason::Replaced => {
                // The peer may close before its DRAIN was read here: it is a replacement all the same.
                if let Some(link) = self.links.iter_mut().find(|l| l.id == id) {
                    link.state = LinkState::Draining;
                }
                self.lose_link(now, id);
            }
            _ => self.lose_link(now, id),
        }
    }

    /// A link is gone: what it carried is sent again elsewhere
    pub(super) fn lose_link(&mut self, now: Instant, id: LinkId) {
        let Some(link) = self.links.iter().find(|l| l.id == id) else { return };
        // What a drained connection still carried at its deadline is sent again, and counted where it is.
        if link.state == LinkState::Draining {
            self.counters.replacements += 1;
        } else {
            self.counters.losses += 1;
        }
        self.forget_link(id);
        if self.ended {
            return;
        }
        if self.links.is_empty() {
            self.lost_since = Some(now);
            if self.draining {
                self.end(CloseReason::Draining);
                return;
            }
        }
        self.send_again_control_state();
        self.pump_all();
        self.grow();
    }

    fn forget_link(&mut self, id: LinkId) {
        self.links.retain(|l| l.id != id);
        for flow in self.flows.values_mut() {
            if flow.last_link == Some(id) {
                flow.last_link = None;
            }
            // The status that completes the flow may have gone with the link, from a peer that has forgotten
            // the flow since: sending the end again makes it answer.
            flow.sender.lose_end();
            let Some(index) = flow.legs.iter().position(|leg| leg.link == id) else { continue };
            let leg = flow.legs.swap_remove(index);
            for (offset, length, end) in leg.outstanding {
                self.counters.bytes_resent += flow.sender.lose(offset, length, end);
            }
        }
    }

    /// Control frames on their way over a lost link are gone; statuses and resets are sent anew
    fn send_again_control_state(&mut self) {
        if self.links.is_empty() {
            return;
        }
        let flows: Vec<u64> = self.flows.keys().copied().collect();
        for id in flows {
            self.mark_status_due(id);
        }
        let resets: Vec<_> = self.resets.iter().map(|(id, reason)| (*id, *reason)).collect();
        for (flow, reason) in resets {
            self.send_frame(None, Frame::FlowReset { flow, reason });
        }
        self.flush_status_now();
    }

    pub(super) fn link_mut(&mut self, id: LinkId) -> Option<&mut Link> {
        self.links.iter_mut().find(|l| l.id == id)
    }

    /// The youngest link that may be used
    pub(super) fn best_link(&self) -> Option<LinkId> {
        let rank = |link: &Link| {
            let state = match link.state {
                LinkState::Active => 2,
                LinkState::Replacing => 1,
                LinkState::Draining => 0,
            };
            (!link.suspect, state)
        };
        // `max_by_key` returns the last of equals: the youngest.
        self.links.iter().max_by_key(|l| rank(l)).map(|l| l.id)
    }

    pub(super) fn command(&mut self, link: LinkId, command: LinkCommand) {
        self.outputs.push_back(Output::Link(link, command));
    }

    /// Sends a control frame by `link` where that may be used, else by the best
    pub(super) fn send_frame(&mut self, link: Option<LinkId>, frame: Frame) {
        let usable = link.filter(|id| self.links.iter().any(|l| l.id == *id && !l.suspect));
        if let Some(link) = usable.or_else(|| self.best_link()) {
            self.command(link, LinkCommand::Frame(frame));
        }
    }
}

fn drain_frame(timeout: Duration, reason: CloseReason) -> Frame {
    Frame::Drain { deadline_ms: timeout.as_millis() as u64, reason }
}
