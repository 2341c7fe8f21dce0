//! One flow within a session: both halves, and the legs that its sending half uses.

use std::collections::VecDeque;

use stoq_interface::{FlowError, FlowStatus, ServiceName};

use super::{FlowReceiver, FlowSender, LinkId};

/// The part of a flow's sending half that one link carries
#[derive(Debug)]
pub(super) struct Leg {
    pub link: LinkId,
    /// Handed to the link and not yet taken over by its transport
    pub queued_bytes: usize,
    /// Records on the way: offset, length, end; in the order they were sent
    pub outstanding: VecDeque<(u64, u64, bool)>,
}

/// One flow
#[derive(Debug)]
pub struct Flow {
    pub(super) service: ServiceName,
    pub(super) opened_here: bool,
    pub(super) sender: FlowSender,
    pub(super) receiver: FlowReceiver,
    pub(super) legs: Vec<Leg>,
    /// The link on which the peer last sent: statuses go back the way that works
    pub(super) last_link: Option<LinkId>,
    pub(super) status_due: bool,
    pub(super) unacknowledged_bytes: u64,
    pub(super) error: Option<FlowError>,
    pub(super) touched: bool,
    /// Set once the local program has taken the flow
    pub(super) accepted: bool,
    /// For the owner: which port of the worker serves the flow
    pub(super) context: u64,
}

impl Flow {
    pub(super) fn new(
        service: ServiceName,
        opened_here: bool,
        sender: FlowSender,
        receiver: FlowReceiver,
    ) -> Self {
        Self {
            service,
            opened_here,
            sender,
            receiver,
            legs: Vec::new(),
            last_link: None,
            status_due: false,
            unacknowledged_bytes: 0,
            error: None,
            touched: false,
            accepted: opened_here,
            context: u64::MAX,
        }
    }

    /// The service the flow reaches
    pub fn service(&self) -> &ServiceName {
        &self.service
    }

    /// What was given when the flow was opened or accepted
    pub fn context(&self) -> u64 {
        self.context
    }

    /// Why the flow ended early, if it did
    pub fn error(&self) -> Option<FlowError> {
        self.error
    }

    /// Everything was read, up to the end of the flow
    pub fn is_drained(&self) -> bool {
        self.receiver.is_drained()
    }

    /// Everything written has arrived at the peer, the end included
    pub fn is_sent(&self) -> bool {
        self.sender.is_complete()
    }

    /// The program has written something
    pub fn has_written(&self) -> bool {
        self.sender.retained_bytes() > 0 || self.sender.sent_bytes() > 0
    }

    /// Bytes that may be written now, with at most `most` held
    pub fn writable_bytes(&self, most: u64) -> u64 {
        if self.error.is_some() || self.sender.is_finished() {
            return 0;
        }
        most.saturating_sub(self.sender.retained_bytes())
    }

    pub(super) fn fail(&mut self, error: FlowError) {
        self.error.get_or_insert(error);
        self.legs.clear();
    }

    pub(super) fn is_done(&self) -> bool {
        self.accepted && self.sender.is_complete() && self.receiver.is_drained()
    }

    pub(super) fn status(&self, id: u64) -> FlowStatus {
        FlowStatus {
            id,
            service: self.service.to_string(),
            legs: self.legs.len(),
            bytes_sent: self.sender.sent_bytes(),
            bytes_received: self.receiver.contiguous(),
        }
    }
}
