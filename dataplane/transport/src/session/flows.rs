//! The flows of a session: opening, writing, reading, acknowledging, ending; and the pump that turns
//! written bytes into records on legs.

use std::time::{Duration, Instant};

use bytes::Bytes;
use stoq_interface::{CloseReason, FlowError, ServiceName};

use super::flow::Leg;
use super::links::LinkState;
use super::{
    Flow, FlowReceiver, FlowSender, LinkCommand, LinkEvent, LinkId, Output, Piece, STATUS_BYTES,
    STATUS_DELAY, STATUS_WINDOW_SHARE, Session,
};
use crate::wire::Frame;

/// Most bytes of one record: large enough to amortise its header, small enough to share a link
const RECORD_BYTES: usize = 64 << 10;
/// Bytes handed to a leg ahead of its transport
const LEG_QUEUE_BYTES: usize = 256 << 10;

/// A reader is fast that reads half a window within so many round trips, since a sender held back by its window
/// takes half of one for it
const FAST_READER_ROUND_TRIPS: u32 = 2;
/// or within this: a reader on a busy host does not come every round trip of a short path
const FAST_READER_LEAST: Duration = Duration::from_millis(5);

/// The peer used a flow id that it cannot have
struct Violation;

impl Session {
    /// Opens a flow to a service of the peer. Nothing is sent before the first write or finish.
    pub fn open_flow(&mut self, service: ServiceName, context: u64) -> Result<u64, FlowError> {
        if self.ended {
            return Err(FlowError::SessionLost);
        }
        if self.draining {
            return Err(FlowError::Busy);
        }
        if self.flows.len() >= self.limits.flows_per_session || self.own_flows >= self.peer_flows {
            return Err(FlowError::TooManyFlows);
        }
        let id = self.next_flow;
        self.next_flow += 2;
        self.own_flows += 1;
        let mut flow = self.new_flow(service, true);
        flow.context = context;
        self.flows.insert(id, flow);
        self.announce(id);
        Ok(id)
    }

    /// Opens the first leg of a flow of ours before there is anything to send: the service may speak first
    fn announce(&mut self, id: u64) {
        let Some(flow) = self.flows.get(&id) else { return };
        if !flow.opened_here || !flow.legs.is_empty() || flow.error.is_some() {
            return;
        }
        let Some(link) = self.choose_link(flow) else { return };
        let Some(flow) = self.flows.get_mut(&id) else { return };
        flow.legs.push(Leg { link, queued_bytes: 0, outstanding: Default::default() });
        let service = Some(flow.service.clone());
        let offset = flow.sender.sent_bytes();
        let piece = Piece { offset, bytes: Bytes::new(), end: false, again: false };
        self.command(link, LinkCommand::Record { flow: id, service, piece });
    }

    fn new_flow(&self, service: ServiceName, opened_here: bool) -> Flow {
        let receiver = FlowReceiver::new(
            self.limits.flow_window_initial_bytes,
            self.limits.flow_window_bytes,
            self.limits.flow_fragments,
        );
        let sender = FlowSender::new(self.peer_flow_window_bytes);
        Flow::new(service, opened_here, sender, receiver)
    }

    /// The flow, while the session holds it
    pub fn flow(&self, id: u64) -> Option<&Flow> {
        self.flows.get(&id)
    }

    /// The local program takes an incoming flow
    pub fn accept_flow(&mut self, id: u64, context: u64) {
        if let Some(flow) = self.flows.get_mut(&id) {
            flow.accepted = true;
            flow.context = context;
        }
        self.touch(id);
    }

    /// Most bytes a flow may hold unacknowledged
    pub fn send_buffer_bytes(&self) -> u64 {
        self.limits.flow_window_bytes
    }

    /// Takes over bytes for the peer; the caller keeps within [`Flow::writable_bytes`]
    pub fn write(&mut self, id: u64, bytes: Bytes) {
        if let Some(flow) = self.flows.get_mut(&id)
            && flow.error.is_none()
        {
            flow.sender.write(bytes);
            self.pump(id);
            self.stripe(id);
        }
    }

    /// Nothing more will be written
    pub fn finish(&mut self, id: u64) {
        if let Some(flow) = self.flows.get_mut(&id) {
            flow.sender.finish();
            self.pump(id);
        }
    }

    /// The next bytes from the peer, in order
    pub fn read(&mut self, now: Instant, id: u64) -> Option<Bytes> {
        let flow = self.flows.get_mut(&id)?;
        let bytes = flow.receiver.read()?;
        self.buffered_bytes -= bytes.len() as u64;
        self.offer_limit(now, id);
        if self.buffered_bytes < self.limits.session_buffer_bytes {
            for starved in std::mem::take(&mut self.starved) {
                self.offer_limit(now, starved);
            }
        }
        Some(bytes)
    }

    /// Half a window that is read in less than this was too small. A window must cover what arrives in a round trip
    /// and in the pauses of a reader; more only waits in the socket and in the caches' way, once for each flow.
    fn fast_reader(&self) -> Duration {
        (self.round_trip * FAST_READER_ROUND_TRIPS).max(FAST_READER_LEAST)
    }

    /// Raises a flow's limit where its reader has made room; beyond the session's buffer the flow waits
    /// until others were read
    fn offer_limit(&mut self, now: Instant, id: u64) {
        let may_grow = self.buffered_bytes < self.limits.session_buffer_bytes / 2;
        let fast = if may_grow { self.fast_reader() } else { Duration::ZERO };
        let Some(flow) = self.flows.get_mut(&id) else { return };
        if self.buffered_bytes >= self.limits.session_buffer_bytes {
            self.starved.insert(id);
            return;
        }
        if flow.receiver.poll_limit(now, fast).is_some() {
            self.mark_status_due(id);
            // The sender may be waiting for nothing else.
            self.status_at = Some(now);
        }
    }

    /// Whether [`Self::read`] would yield bytes
    pub fn is_readable(&self, id: u64) -> bool {
        self.flows.get(&id).is_some_and(|flow| flow.receiver.is_readable())
    }

    /// Ends a flow early and tells the peer why
    pub fn reset_flow(&mut self, id: u64, reason: FlowError) {
        if self.flows.contains_key(&id) {
            self.drop_flow(id, reason);
            self.resets.insert(id, reason);
            self.send_frame(None, Frame::FlowReset { flow: id, reason });
            self.bound_resets();
            self.close_if_drained();
        }
    }

    fn bound_resets(&mut self) {
        if self.resets.len() > self.limits.flows_per_session {
            // A peer that never answers resets cannot make this host remember them for ever.
            self.close(CloseReason::Limit);
        }
    }

    /// Forgets a flow that is done; call when the local program has seen its end
    pub fn release_flow(&mut self, id: u64) {
        let Some(flow) = self.flows.get(&id) else { return };
        if flow.error.is_some() || flow.is_done() {
            // What was received last must be acknowledged before the flow is forgotten.
            self.flush_status_of(id);
            self.remove_flow(id);
            self.close_if_drained();
        }
    }

    fn remove_flow(&mut self, id: u64) -> Option<Flow> {
        let flow = self.flows.remove(&id)?;
        self.starved.remove(&id);
        self.buffered_bytes -= flow.receiver.buffered_bytes();
        if flow.opened_here {
            self.own_flows -= 1;
        }
        for leg in &flow.legs {
            self.end_leg(id, leg);
        }
        Some(flow)
    }

    /// Nothing of the flow is awaited on a leg any more
    fn end_leg(&mut self, id: u64, leg: &Leg) {
        self.outputs.push_back(Output::Link(leg.link, LinkCommand::EndLeg { flow: id }));
        if let Some(link) = self.link_mut(leg.link) {
            link.outstanding -= leg.outstanding.len();
        }
        self.check_drained(leg.link);
    }

    /// Removes a flow and lets its program know why; the program's handle outlives it
    fn drop_flow(&mut self, id: u64, reason: FlowError) {
        let Some(mut flow) = self.remove_flow(id) else { return };
        if flow.error.is_none() {
            self.counters.flow_errors[reason.index()] += 1;
        }
        flow.fail(reason);
        flow.receiver = FlowReceiver::new(0, 0, 0);
        // Kept, empty, until the program releases it: it still has to learn the reason.
        if flow.accepted {
            if flow.opened_here {
                self.own_flows += 1;
            }
            self.flows.insert(id, flow);
            self.touch(id);
        }
    }

    fn touch(&mut self, id: u64) {
        if let Some(flow) = self.flows.get_mut(&id)
            && flow.accepted
            && !flow.touched
        {
            flow.touched = true;
            self.outputs.push_back(Output::Touched { flow: id });
        }
    }

    /// The owner has looked at a touched flow
    pub fn untouch(&mut self, id: u64) {
        if let Some(flow) = self.flows.get_mut(&id) {
            flow.touched = false;
        }
    }

    /// Takes in what a link reports
    pub fn handle_link(&mut self, now: Instant, link: LinkId, event: LinkEvent) {
        if self.ended {
            return;
        }
        match event {
            LinkEvent::Frame(frame) => self.handle_frame(now, link, frame),
            LinkEvent::Opened { flow, service } => self.handle_opened(link, flow, service),
            LinkEvent::Data { flow, offset, bytes, end } => {
                self.handle_data(now, link, flow, offset, bytes, end);
            }
            LinkEvent::Accepted { flow, bytes } => {
                if let Some(state) = self.flows.get_mut(&flow)
                    && let Some(leg) = state.legs.iter_mut().find(|leg| leg.link == link)
                {
                    leg.queued_bytes = leg.queued_bytes.saturating_sub(bytes);
                    self.pump(flow);
                }
            }
            LinkEvent::RoundTrip(round_trip) => self.round_trip = round_trip,
            LinkEvent::Suspect => self.handle_suspect(now, link),
            LinkEvent::Replace(reason) => self.want_replacement(link, reason),
            LinkEvent::Down(reason) => self.handle_down(now, link, reason),
        }
    }

    fn handle_frame(&mut self, now: Instant, link: LinkId, frame: Frame) {
        match frame {
            Frame::FlowStatus { flow, acknowledged, complete, limit } => {
                self.handle_status(link, flow, acknowledged, complete, limit);
            }
            Frame::FlowReset { flow, reason } => self.handle_reset(link, flow, reason),
            Frame::FlowClosed { flow } => self.handle_closed(link, flow),
            Frame::Drain { deadline_ms, reason } => {
                self.handle_drain(now, link, deadline_ms, reason);
            }
            Frame::Drained => self.handle_drained(link),
            Frame::WantConnections { count } => {
                let count = usize::try_from(count).unwrap_or(usize::MAX);
                self.want_links(count.min(self.workers.max(1) * 2));
            }
            // A second HELLO is refused by the endpoint; the others carry nothing for a session.
            Frame::Hello(_) | Frame::Ping | Frame::RevocationEpoch { .. } => {}
        }
    }

    fn handle_opened(&mut self, link: LinkId, id: u64, service: Option<ServiceName>) {
        if self.flows.contains_key(&id) {
            return;
        }
        let is_new = !self.resets.contains_key(&id);
        let service = match (is_new.then(|| self.is_new_peer_flow(id)), service) {
            (None | Some(Ok(false)), _) => return self.answer_forgotten(link, id),
            (Some(Ok(true)), Some(service)) => service,
            (Some(Err(Violation)), _) => return self.violate(link, id, "impossible flow id"),
            (Some(Ok(true)), None) => return self.violate(link, id, "new flow without service"),
        };
        self.peer_missing.remove(&id);
        let peers = self.flows.len() as u64 - self.own_flows;
        if self.draining || peers >= self.limits.flows_per_session as u64 {
            let reason = if self.draining { FlowError::Busy } else { FlowError::TooManyFlows };
            self.counters.flow_errors[reason.index()] += 1;
            self.resets.insert(id, reason);
            self.send_frame(Some(link), Frame::FlowReset { flow: id, reason });
            self.bound_resets();
            return;
        }
        let mut flow = self.new_flow(service.clone(), false);
        flow.last_link = Some(link);
        self.flows.insert(id, flow);
        self.outputs.push_back(Output::Incoming { flow: id, service });
    }

    /// Whether the id belongs to the peer and has not been used; notes the ids it overtook
    fn is_new_peer_flow(&mut self, id: u64) -> Result<bool, Violation> {
        if id & 1 == self.next_flow & 1 {
            // One of ours that is gone. One never opened is a violation.
            return if id < self.next_flow { Ok(false) } else { Err(Violation) };
        }
        if id < self.peer_next_flow {
            return Ok(self.peer_missing.contains(&id));
        }
        let skipped = (id - self.peer_next_flow) / 2;
        let room = self.limits.flows_per_session.saturating_sub(self.peer_missing.len());
        if skipped > room as u64 {
            return Err(Violation);
        }
        self.peer_missing.extend((self.peer_next_flow..id).step_by(2));
        self.peer_next_flow = id + 2;
        Ok(true)
    }

    /// The peer broke a rule of the protocol: the link is closed, and lost
    fn violate(&mut self, link: LinkId, flow: u64, rule: &'static str) {
        tracing::warn!(peer = %self.peer, flow, rule, "protocol violation");
        self.command(link, LinkCommand::Close(CloseReason::Protocol));
    }

    /// The peer speaks of a flow that has ended here: it is told how
    fn answer_forgotten(&mut self, link: LinkId, id: u64) {
        let frame = match self.resets.get(&id) {
            Some(reason) => Frame::FlowReset { flow: id, reason: *reason },
            None => Frame::FlowClosed { flow: id },
        };
        self.send_frame(Some(link), frame);
    }

    fn handle_data(
        &mut self,
        now: Instant,
        link: LinkId,
        id: u64,
        offset: u64,
        bytes: Bytes,
        end: bool,
    ) {
        let Some(flow) = self.flows.get_mut(&id) else {
            // Of a reset flow the leg's opening and its end are answered, of a completed one every record:
            // it comes again because the peer waits for a status that was lost.
            if end || !self.resets.contains_key(&id) {
                self.answer_forgotten(link, id);
            }
            return;
        };
        if flow.error.is_some() {
            return;
        }
        let length = bytes.len() as u64;
        let contiguous = flow.receiver.contiguous();
        let buffered = flow.receiver.buffered_bytes();
        let duplicates = flow.receiver.duplicate_bytes();
        flow.last_link = Some(link);
        let outcome = flow.receiver.handle_piece(offset, bytes, end);
        self.buffered_bytes += flow.receiver.buffered_bytes() - buffered;
        self.counters.bytes_received += flow.receiver.contiguous() - contiguous;
        self.counters.bytes_duplicate += flow.receiver.duplicate_bytes() - duplicates;
        if let Err(reason) = outcome {
            self.reset_flow(id, reason);
            return;
        }
        flow.unacknowledged_bytes += length;
        let enough = STATUS_BYTES.max(flow.receiver.window_bytes() / STATUS_WINDOW_SHARE);
        let at_once = flow.receiver.is_complete() || flow.unacknowledged_bytes >= enough;
        self.mark_status_due(id);
        if at_once {
            self.status_at = Some(now);
        } else {
            self.status_at.get_or_insert(now + STATUS_DELAY);
        }
        self.touch(id);
    }

    fn handle_status(
        &mut self,
        link: LinkId,
        id: u64,
        acknowledged: u64,
        complete: bool,
        limit: u64,
    ) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        if flow.error.is_some() {
            return;
        }
        if flow.sender.acknowledge(acknowledged, complete).is_none() {
            self.violate(link, id, "acknowledged what was not sent");
            return;
        }
        flow.sender.raise_limit(limit);
        let mut quiet = Vec::new();
        for leg in &mut flow.legs {
            let before = leg.outstanding.len();
            while let Some((offset, length, end)) = leg.outstanding.front() {
                if offset + length > acknowledged || (*end && !complete) {
                    break;
                }
                leg.outstanding.pop_front();
            }
            let freed = before - leg.outstanding.len();
            if let Some(link) = self.links.iter_mut().find(|l| l.id == leg.link) {
                link.outstanding -= freed;
                if link.outstanding == 0 && link.state == LinkState::Draining {
                    quiet.push(link.id);
                }
            }
        }
        self.pump(id);
        self.stripe(id);
        self.touch(id);
        for link in quiet {
            self.check_drained(link);
        }
    }

    fn handle_reset(&mut self, link: LinkId, id: u64, reason: FlowError) {
        if self.resets.remove(&id).is_some() {
            return;
        }
        let known = self.flows.get(&id).is_some_and(|flow| flow.error.is_none());
        let mut answer = Frame::FlowReset { flow: id, reason };
        if !known {
            match self.is_new_peer_flow(id) {
                // Reset before its first record came this way.
                Ok(true) => drop(self.peer_missing.remove(&id)),
                // A reset that is repeated must not be answered by one, or the two would never end.
                Ok(false) => answer = Frame::FlowClosed { flow: id },
                Err(Violation) => return self.violate(link, id, "impossible flow id"),
            }
        }
        self.send_frame(Some(link), answer);
        if known {
            self.drop_flow(id, reason);
            self.close_if_drained();
        }
    }

    fn handle_closed(&mut self, link: LinkId, id: u64) {
        self.resets.remove(&id);
        let Some(flow) = self.flows.get_mut(&id) else { return };
        if flow.error.is_some() {
            return;
        }
        if !(flow.sender.is_finished() && flow.receiver.is_complete()) {
            self.violate(link, id, "closed before it was complete");
            return;
        }
        flow.sender.complete();
        self.touch(id);
    }

    pub(super) fn mark_status_due(&mut self, id: u64) {
        if let Some(flow) = self.flows.get_mut(&id)
            && !flow.status_due
            && flow.error.is_none()
        {
            flow.status_due = true;
            self.status_due.push(id);
        }
    }

    /// Sends what is due of acknowledgements and limits; called at the end of a turn
    pub fn flush_status(&mut self, now: Instant) {
        if self.status_at.is_some_and(|at| at <= now) || self.status_due.len() > 256 {
            self.flush_status_now();
        }
    }

    /// Limits that were raised by reading go out with the turn in which they were raised
    pub fn flush_status_now(&mut self) {
        self.status_at = None;
        if self.links.is_empty() {
            // They stay due: the next link sends them.
            return;
        }
        for id in std::mem::take(&mut self.status_due) {
            self.flush_status_of(id);
        }
    }

    /// Whether a status waits to be sent
    pub fn has_status_due(&self) -> bool {
        !self.status_due.is_empty()
    }

    fn flush_status_of(&mut self, id: u64) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        if !flow.status_due {
            return;
        }
        flow.status_due = false;
        flow.unacknowledged_bytes = 0;
        let frame = Frame::FlowStatus {
            flow: id,
            acknowledged: flow.receiver.contiguous(),
            complete: flow.receiver.is_complete(),
            limit: flow.receiver.limit(),
        };
        let link = flow.last_link;
        self.send_frame(link, frame);
    }

    /// A large backlog asks for more links, and for legs on those there are
    fn stripe(&mut self, id: u64) {
        let Some(flow) = self.flows.get(&id) else { return };
        if !self.is_bulk(flow) {
            return;
        }
        let wanted = match self.settings.stripe_connections {
            0 => self.workers,
            count => count,
        };
        self.want_links(wanted);
    }

    fn is_bulk(&self, flow: &Flow) -> bool {
        flow.sender.sent_bytes() >= self.settings.stripe_above_bytes
            && flow.sender.backlog_bytes() > 0
    }

    pub(super) fn pump_all(&mut self) {
        let due =
            |flow: &Flow| flow.sender.has_piece() || (flow.opened_here && flow.legs.is_empty());
        let flows: Vec<u64> =
            self.flows.iter().filter(|(_, flow)| due(flow)).map(|(id, _)| *id).collect();
        for id in flows {
            self.pump(id);
            if self.flows.get(&id).is_some_and(|flow| !flow.sender.is_complete()) {
                self.announce(id);
            }
        }
    }

    /// Turns what may be sent into records, as far as legs take them
    fn pump(&mut self, id: u64) {
        self.window_bound = false;
        let most = self.send_buffer_bytes();
        loop {
            let Some(flow) = self.flows.get(&id) else { return };
            if flow.error.is_some() || !flow.sender.has_piece() {
                let holds_all_it_may =
                    !flow.sender.is_finished() && flow.sender.retained_bytes() >= most;
                self.window_bound =
                    flow.error.is_none() && (flow.sender.backlog_bytes() > 0 || holds_all_it_may);
                break;
            }
            let Some(link) = self.choose_link(flow) else { return };
            let Some(flow) = self.flows.get_mut(&id) else { return };
            let Some(piece) = flow.sender.next_piece(RECORD_BYTES) else { break };
            let service = flow.opened_here.then(|| flow.service.clone());
            Self::record_outstanding(flow, link, &piece);
            if let Some(link) = self.links.iter_mut().find(|l| l.id == link) {
                link.outstanding += 1;
            }
            if !piece.again {
                self.counters.bytes_sent += piece.bytes.len() as u64;
            }
            self.command(link, LinkCommand::Record { flow: id, service, piece });
        }
        self.end_legs_when_sent(id);
    }

    fn record_outstanding(flow: &mut Flow, link: LinkId, piece: &Piece) {
        let index = match flow.legs.iter().position(|leg| leg.link == link) {
            Some(index) => index,
            None => {
                flow.legs.push(Leg { link, queued_bytes: 0, outstanding: Default::default() });
                flow.legs.len() - 1
            }
        };
        let leg = &mut flow.legs[index];
        leg.queued_bytes += piece.bytes.len();
        leg.outstanding.push_back((piece.offset, piece.bytes.len() as u64, piece.end));
    }

    /// The link for the flow's next record. A flow keeps the leg it has; a bulk flow uses every active
    /// link, the least loaded first. `None`: wait for a leg to move on, or for a link.
    fn choose_link(&self, flow: &Flow) -> Option<LinkId> {
        let queued = |id: LinkId| {
            flow.legs.iter().find(|leg| leg.link == id).map_or(0, |leg| leg.queued_bytes)
        };
        let active = || self.links.iter().filter(|l| l.state == LinkState::Active && !l.suspect);
        let candidate = if active().count() == 0 {
            self.best_link()
        } else if self.is_bulk(flow) {
            active().map(|l| l.id).min_by_key(|id| queued(*id))
        } else {
            let current = flow.legs.iter().map(|leg| leg.link);
            let mut current = current.filter(|id| active().any(|l| l.id == *id));
            current.next().or_else(|| active().min_by_key(|l| l.outstanding).map(|l| l.id))
        };
        candidate.filter(|id| queued(*id) < LEG_QUEUE_BYTES)
    }

    /// The last record is out: the legs' streams may end once it is acknowledged
    fn end_legs_when_sent(&mut self, id: u64) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        if !flow.sender.is_complete() || flow.legs.is_empty() {
            return;
        }
        for leg in std::mem::take(&mut flow.legs) {
            self.end_leg(id, &leg);
        }
    }
}
