//! The endpoint's sessions: creating, joining and ending them, and carrying their outputs to links.

use std::time::Instant;

use rand::Rng;
use stoq_interface::{CloseReason, NodeId};

use super::message::{Event, Message, SessionKey};
use super::slots::SlotKey;
use super::{Endpoint, SessionEntry, Timer};
use crate::session::{Agreement, LinkCommand, LinkEvent, LinkId, Output, Session};
use crate::wire::{Frame, Hello, SessionId, VERSION};
use stoq_interface::FlowError;

impl Endpoint {
    /// This side's HELLO
    pub(super) fn hello(&self, session: SessionId, node: NodeId) -> Hello {
        Hello {
            version_min: VERSION,
            version_max: VERSION,
            session,
            node,
            flow_window_bytes: self.snapshot.limits.flow_window_initial_bytes,
            flows: self.snapshot.limits.flows_per_session as u64,
        }
    }

    /// A session id that leads back to this worker
    fn new_session_id(&mut self) -> SessionId {
        let mut id = SessionId::default();
        self.random.fill(&mut id.0);
        id.0[..2].copy_from_slice(&(self.worker as u16).to_be_bytes());
        // All zero is taken: it asks for a new session.
        id.0[15] |= 1;
        id
    }

    /// The worker that a session id leads to
    pub(super) fn home_of(&self, id: SessionId) -> usize {
        usize::from(u16::from_be_bytes([id.0[0], id.0[1]]))
    }

    pub(super) fn mark_session(&mut self, key: SlotKey) {
        if let Some(entry) = self.sessions.get_mut(key)
            && !entry.dirty
        {
            entry.dirty = true;
            self.dirty_sessions.push(key);
        }
    }

    fn new_session(&self, agreement: Agreement) -> Session {
        Session::new(
            agreement,
            self.snapshot.limits.clone(),
            self.snapshot.transport.clone(),
            self.workers,
        )
    }

    /// A peer's connection asks for a new session: this worker becomes its home
    pub(super) fn begin_session(
        &mut self,
        now: Instant,
        link: LinkId,
        hello: &Hello,
    ) -> Option<SessionKey> {
        if self.draining || self.sessions.len() >= self.snapshot.limits.sessions_per_worker {
            return None;
        }
        let id = self.new_session_id();
        let mut session = self.new_session(Agreement {
            id,
            peer: hello.node.clone(),
            dialled: false,
            peer_flow_window_bytes: hello.flow_window_bytes,
            peer_flows: hello.flows,
        });
        session.add_link(now, link);
        let slot = self.sessions.insert(SessionEntry {
            session: Some(session),
            token: 0,
            address: None,
            node: hello.node.clone(),
            timer: None,
            dirty: false,
            counted: Default::default(),
        });
        self.session_ids.insert(id, slot);
        let key = SessionKey { worker: self.worker as u16, slot };
        self.events.push_back(Event::SessionAccepted { session: key, peer: hello.node.clone() });
        self.mark_session(slot);
        Some(key)
    }

    /// A peer's connection asks to join a session of this worker
    pub(super) fn handle_join(&mut self, now: Instant, link: LinkId, hello: &Hello) {
        let slot = self.session_ids.get(&hello.session).copied();
        let entry = slot.and_then(|slot| self.sessions.get_mut(slot));
        let session = entry.and_then(|entry| entry.session.as_mut());
        // The name of a session is no secret: the certificate's node decides.
        let session = session.filter(|session| *session.peer() == hello.node);
        let room = self.snapshot.limits.connections_per_session;
        let refusal = match &session {
            None => Some(CloseReason::SessionUnknown),
            Some(session) if session.is_dialled() => Some(CloseReason::SessionUnknown),
            Some(session) if session.link_ids().count() >= room => Some(CloseReason::Limit),
            Some(_) => None,
        };
        let (Some(slot), Some(session), None) = (slot, session, refusal) else {
            let reason = refusal.unwrap_or(CloseReason::SessionUnknown);
            self.route(usize::from(link.worker), Message::Link(link, LinkCommand::Close(reason)));
            return;
        };
        session.add_link(now, link);
        let key = SessionKey { worker: self.worker as u16, slot };
        let Some(identity) = &self.snapshot.identity else { return };
        let answer = self.hello(hello.session, identity.node.clone());
        // The answer goes first, then what the session has for the link.
        self.route(usize::from(link.worker), Message::Joined(link, key, answer));
        self.mark_session(slot);
    }

    /// A connection dialled for a session of this worker has the peer's HELLO
    pub(super) fn handle_dialled(
        &mut self,
        now: Instant,
        key: SessionKey,
        link: LinkId,
        hello: &Hello,
    ) {
        let Some(entry) = self.sessions.get(key.slot) else {
            let close = LinkCommand::Close(CloseReason::Done);
            self.route(usize::from(link.worker), Message::Link(link, close));
            return;
        };
        self.counters.connections_dialled.add(1);
        if entry.session.is_none() {
            let agreement = Agreement {
                id: hello.session,
                peer: entry.node.clone(),
                dialled: true,
                peer_flow_window_bytes: hello.flow_window_bytes,
                peer_flows: hello.flows,
            };
            let session = self.new_session(agreement);
            if let Some(entry) = self.sessions.get_mut(key.slot) {
                let token = entry.token;
                entry.session = Some(session);
                self.events.push_back(Event::Connected { token, session: key });
            }
        }
        if let Some(session) = self.sessions.get_mut(key.slot).and_then(|e| e.session.as_mut()) {
            session.add_link(now, link);
        }
        self.mark_session(key.slot);
    }

    pub(super) fn handle_dial_failed(
        &mut self,
        now: Instant,
        key: SessionKey,
        reason: CloseReason,
        refusal: Option<stoq_interface::PeerRefusal>,
    ) {
        let Some(entry) = self.sessions.get_mut(key.slot) else { return };
        match &mut entry.session {
            Some(session) if reason == CloseReason::SessionUnknown => session.close(reason),
            Some(session) => session.handle_dial_failed(now),
            None => {
                let token = entry.token;
                self.sessions.remove(key.slot);
                self.events.push_back(Event::ConnectFailed { token, reason, refusal });
                return;
            }
        }
        self.mark_session(key.slot);
    }

    /// Passes what a link reports to its session
    pub(super) fn handle_link_event(
        &mut self,
        now: Instant,
        key: SessionKey,
        link: LinkId,
        event: LinkEvent,
    ) {
        if let Some(session) = self.sessions.get_mut(key.slot).and_then(|e| e.session.as_mut()) {
            session.handle_link(now, link, event);
            self.mark_session(key.slot);
        }
    }

    /// Carries out what sessions want done
    pub(super) fn drain_sessions(&mut self, now: Instant) {
        for slot in std::mem::take(&mut self.dirty_sessions) {
            let Some(entry) = self.sessions.get_mut(slot) else { continue };
            entry.dirty = false;
            let Some(session) = &mut entry.session else { continue };
            session.flush_status(now);
            let mut outputs = Vec::new();
            while let Some(output) = session.poll_output() {
                outputs.push(output);
            }
            let key = SessionKey { worker: self.worker as u16, slot };
            for output in outputs {
                self.carry_out(key, output);
            }
            self.count_session(slot);
            let Some(entry) = self.sessions.get_mut(slot) else { continue };
            let Some(session) = &entry.session else { continue };
            let ended = session.is_ended() && session.flow_count() == 0;
            let (old, new) = (entry.timer, session.next_timeout().filter(|_| !ended));
            entry.timer = new;
            self.arm(Timer::Session(slot), old, new);
            if ended {
                self.forget_session(slot);
            }
        }
    }

    fn forget_session(&mut self, slot: SlotKey) {
        if let Some(entry) = self.sessions.remove(slot)
            && let Some(session) = entry.session
            && self.session_ids.get(&session.id()) == Some(&slot)
        {
            self.session_ids.remove(&session.id());
        }
    }

    fn carry_out(&mut self, key: SessionKey, output: Output) {
        match output {
            Output::Link(link, command) => {
                self.route(usize::from(link.worker), Message::Link(link, command));
            }
            Output::Dial { worker } => self.dial_for(key, worker),
            Output::Incoming { flow, service } => self.judge_flow(key, flow, service),
            Output::Touched { flow } => {
                self.events.push_back(Event::FlowTouched { session: key, flow });
            }
            Output::Ended(reason) => {
                self.events.push_back(Event::SessionEnded { session: key, reason });
            }
        }
    }

    fn dial_for(&mut self, key: SessionKey, worker: Option<usize>) {
        let Some(entry) = self.sessions.get(key.slot) else { return };
        let (Some(session), Some(address)) = (&entry.session, entry.address) else { return };
        let message =
            Message::Dial { session: key, id: session.id(), address, node: entry.node.clone() };
        self.route(worker.unwrap_or(self.worker), message);
    }

    /// Whether the peer may have the flow it opened
    fn judge_flow(&mut self, key: SessionKey, flow: u64, service: stoq_interface::ServiceName) {
        let Some(entry) = self.sessions.get_mut(key.slot) else { return };
        let Some(session) = &mut entry.session else { return };
        let refusal = match self.snapshot.services.get(&service) {
            None => Some(FlowError::NoSuchService),
            Some(allow) if !allow.permits(session.peer()) => Some(FlowError::NotAuthorized),
            Some(_) => None,
        };
        match refusal {
            Some(reason) => {
                session.reset_flow(flow, reason);
                self.mark_session(key.slot);
            }
            None => {
                let peer = session.peer().clone();
                self.counters.flows_accepted.add(1);
                self.events.push_back(Event::FlowIncoming { session: key, flow, service, peer });
            }
        }
    }

    /// Adds what a session has counted since the last time
    fn count_session(&mut self, slot: SlotKey) {
        let Some(entry) = self.sessions.get_mut(slot) else { return };
        let Some(session) = &entry.session else { return };
        let (now, before) = (session.counters(), entry.counted);
        entry.counted = now;
        let counters = &self.counters;
        counters.flow_bytes_sent.add(now.bytes_sent - before.bytes_sent);
        counters.flow_bytes_resent.add(now.bytes_resent - before.bytes_resent);
        counters.flow_bytes_received.add(now.bytes_received - before.bytes_received);
        counters.flow_bytes_duplicate.add(now.bytes_duplicate - before.bytes_duplicate);
        let errors = now.flow_errors.iter().zip(&before.flow_errors);
        for (counter, (now, before)) in counters.flow_errors.iter().zip(errors) {
            counter.add(now - before);
        }
    }

    pub(super) fn handle_local(&mut self, now: Instant, message: Message) {
        match message {
            Message::Link(link, command) => self.handle_command(now, link, command),
            Message::Session(key, link, event) => self.handle_link_event(now, key, link, event),
            Message::Dial { session, id, address, node } => {
                self.dial(now, session, id, address, node);
            }
            Message::Dialled(key, link, hello) => self.handle_dialled(now, key, link, &hello),
            Message::DialFailed(key, reason, refusal) => {
                self.handle_dial_failed(now, key, reason, refusal);
            }
            Message::Join { link, hello } => self.handle_join(now, link, &hello),
            Message::Joined(link, key, hello) => self.handle_joined(now, link, key, hello),
            Message::Call { link, token, worker, header } => {
                self.handle_call(link, token, worker, header);
            }
            Message::CallDone(token, reply) => {
                if let Some((slot, link)) = self.calls.remove(&token)
                    && let Some(session) =
                        self.sessions.get_mut(slot).and_then(|entry| entry.session.as_mut())
                {
                    session.end_call(link);
                    self.mark_session(slot);
                }
                self.events.push_back(Event::CallDone { token, reply });
            }
            Message::Datagram { mut bytes, from } => {
                self.handle_datagram(now, &mut bytes, from);
            }
        }
    }

    /// The session's home has taken the connection in
    fn handle_joined(&mut self, now: Instant, link: LinkId, key: SessionKey, hello: Hello) {
        let slot = SlotKey { slot: link.slot, generation: link.generation };
        if !self.join_connection(slot, key, &Frame::Hello(hello)) {
            let down = LinkEvent::Down(CloseReason::Transport);
            self.route(usize::from(key.worker), Message::Session(key, link, down));
        }
        let _ = now;
    }
}
