//! The local program at one end of a flow: writes its pattern in random pieces, reads and checks the
//! peer's, stalls now and then, and sometimes gives up.

use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use stoq_interface::FlowError;
use stoq_transport::session::Session;

use super::plan::FlowPlan;
use crate::pattern::Pattern;

/// Largest single write
const WRITE_BYTES: u64 = 40_000;
/// Probability of a stall after a read, and its longest
const STALL: f64 = 0.02;
const STALL_LONGEST: Duration = Duration::from_millis(60);

/// What one turn of a program did
pub(super) enum Step {
    /// Bytes read and checked
    Read(u64),
}

/// One end of a flow
#[derive(Debug)]
pub(super) struct End {
    host: usize,
    flow: Option<u64>,
    ours: Pattern,
    theirs: Pattern,
    random: StdRng,
    written: u64,
    read: u64,
    finished: bool,
    stalled_until: Option<Instant>,
    done: bool,
}

impl End {
    pub fn new(host: usize, ours: Pattern, theirs: Pattern, seed: u64) -> Self {
        Self {
            host,
            flow: None,
            ours,
            theirs,
            random: StdRng::seed_from_u64(seed),
            written: 0,
            read: 0,
            finished: false,
            stalled_until: None,
            done: false,
        }
    }

    pub fn begin(&mut self, flow: u64) {
        self.flow = Some(flow);
    }

    pub fn flow(&self) -> Option<u64> {
        self.flow
    }

    pub fn is_done(&self) -> bool {
        self.done
    }

    pub fn stalled_until(&self) -> Option<Instant> {
        self.stalled_until.filter(|_| !self.done)
    }

    /// Reads and writes as far as it goes
    pub fn step(
        &mut self,
        now: Instant,
        session: &mut Session,
        plan: &FlowPlan,
    ) -> Result<Step, String> {
        let Some(id) = self.flow else { return Ok(Step::Read(0)) };
        if !self.look(session, plan, id)? {
            return Ok(Step::Read(0));
        }
        let bytes = self.read_all(now, session, plan, id)?;
        self.write_all(session, plan, id);
        if let Some((host, after)) = plan.reset
            && host == self.host
            && self.read + self.written >= after
        {
            session.reset_flow(id, FlowError::Cancelled);
            session.release_flow(id);
            self.done = true;
            return Ok(Step::Read(bytes));
        }
        let Some(flow) = session.flow(id) else {
            return Err("the session forgot the flow before its program".into());
        };
        if flow.error().is_none() && flow.is_drained() && flow.is_sent() {
            if self.read != plan.bytes[1 - self.host] || self.written != plan.bytes[self.host] {
                return Err(format!("ended after {} read, {} written", self.read, self.written));
            }
            session.release_flow(id);
            self.done = true;
        }
        Ok(Step::Read(bytes))
    }

    /// Whether the flow lives; an error is right only where the plan gives the flow up
    fn look(&mut self, session: &mut Session, plan: &FlowPlan, id: u64) -> Result<bool, String> {
        let error = match session.flow(id) {
            Some(flow) => flow.error(),
            // Given up by the peer before this side had taken it.
            None => Some(FlowError::Cancelled),
        };
        match (error, plan.reset) {
            (None, _) => Ok(true),
            (Some(FlowError::Cancelled), Some((host, _))) if host != self.host => {
                session.release_flow(id);
                self.done = true;
                Ok(false)
            }
            (Some(error), _) => Err(format!("ended early: {error}")),
        }
    }

    fn read_all(
        &mut self,
        now: Instant,
        session: &mut Session,
        plan: &FlowPlan,
        id: u64,
    ) -> Result<u64, String> {
        let before = self.read;
        if self.stalled_until.is_some_and(|until| now < until) {
            return Ok(0);
        }
        self.stalled_until = None;
        while let Some(bytes) = session.read(now, id) {
            if let Some(at) = self.theirs.mismatch(self.read, &bytes) {
                return Err(format!("wrong byte at offset {at}"));
            }
            self.read += bytes.len() as u64;
            if self.read > plan.bytes[1 - self.host] {
                return Err(format!("more bytes than were written: {}", self.read));
            }
            if self.random.random_bool(STALL) {
                self.stalled_until = Some(now + STALL_LONGEST.mul_f64(self.random.random()));
                break;
            }
        }
        Ok(self.read - before)
    }

    fn write_all(&mut self, session: &mut Session, plan: &FlowPlan, id: u64) {
        let total = plan.bytes[self.host];
        loop {
            let room =
                session.flow(id).map_or(0, |flow| flow.writable_bytes(session.send_buffer_bytes()));
            let most = room.min(total - self.written).min(WRITE_BYTES);
            if most == 0 {
                break;
            }
            let length = self.random.random_range(1..=most);
            let mut bytes = vec![0; length as usize];
            self.ours.fill(self.written, &mut bytes);
            self.written += length;
            session.write(id, Bytes::from(bytes));
        }
        if self.written == total && !self.finished {
            self.finished = true;
            session.finish(id);
        }
    }
}
