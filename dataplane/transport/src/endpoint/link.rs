//! The `stoq/1.0` side of one connection: its control stream, legs and calls. It moves bytes between
//! QUIC streams and frames, records and calls, and holds no flow: what it reads goes out as [`LinkOutput`].

use std::collections::{BTreeSet, HashMap, VecDeque};

use bytes::{Bytes, BytesMut};
use stoq_interface::{Limits, ServiceName};

use crate::connection::{Connection, ReadOutcome, Written};
use crate::session::{LinkEvent, Piece};
use crate::wire::{
    CallHeader, CallReader, CallReply, Frame, FrameReader, Hello, LegHeader, LegItem, LegReader,
    WireError, encode_record, encode_record_header,
};

/// The control stream: the first bidirectional stream of the dialling side
const CONTROL_STREAM: u64 = 0;
/// Control bytes that may wait for the transport; beyond, the peer does not read and is cut off
const CONTROL_QUEUE_BYTES: usize = 4 << 20;
/// Records up to this size are copied behind their header: cheaper than a second buffer
const SMALL_RECORD_BYTES: usize = 1_024;

/// What a link passes on
#[derive(Debug)]
pub enum LinkOutput {
    /// The peer's HELLO
    Hello(Hello),
    /// Something for the session
    Session(LinkEvent),
    /// A request
    CallIncoming(u64, CallHeader),
    /// The reply to a call made here, by its token; `None`: lost
    CallDone(u64, u16, Option<CallReply>),
    /// The peer broke the protocol
    Violation(WireError),
    /// A peer's stream beyond the limits
    Overrun,
}

/// A buffer on its way to a leg's stream
#[derive(Debug)]
struct Pending {
    bytes: Bytes,
    /// How many of them are the flow's
    flow_bytes: usize,
    /// A record begins with it, no part of which has been written: it may be left out
    opens_record: bool,
}

#[derive(Debug)]
struct LegOut {
    stream: Option<u64>,
    pending: VecDeque<Pending>,
}

#[derive(Debug)]
struct LegIn {
    reader: LegReader,
    flow: Option<u64>,
}

#[derive(Debug)]
struct CallOut {
    token: u64,
    worker: u16,
    reader: CallReader,
}

#[derive(Debug)]
enum CallIn {
    Reading(CallReader),
    Answering,
}

/// The protocol state of one connection
#[derive(Debug)]
pub struct Link {
    dialled: bool,
    hello_seen: bool,
    /// Streams that became readable before the HELLO
    early: BTreeSet<u64>,
    control_in: FrameReader,
    /// Control frames on their way: what the stream takes next, and what is queued behind it
    control_front: Bytes,
    control_out: BytesMut,
    /// Legs of this side by flow
    legs_out: HashMap<u64, LegOut>,
    /// Flow by stream of this side's legs
    leg_streams: HashMap<u64, u64>,
    /// By stream: what legs that have ended still owe of the record they were in
    legs_ending: HashMap<u64, VecDeque<Pending>>,
    /// Flows whose leg waits for the peer's stream limit
    waiting: VecDeque<u64>,
    legs_in: HashMap<u64, LegIn>,
    calls_out: HashMap<u64, CallOut>,
    calls_waiting: VecDeque<(u64, u16, CallHeader)>,
    calls_in: HashMap<u64, CallIn>,
    /// Whole requests or replies on their way out, by stream
    call_bytes: HashMap<u64, Bytes>,
    next_unidirectional: u64,
    next_bidirectional: u64,
    calls_limit: usize,
    call_body_bytes: usize,
}

impl Link {
    /// The protocol state of a fresh connection
    pub fn new(dialled: bool, limits: &Limits) -> Self {
        Self {
            dialled,
            hello_seen: false,
            early: BTreeSet::new(),
            control_in: FrameReader::new(limits.control_frame_bytes),
            control_front: Bytes::new(),
            control_out: BytesMut::new(),
            legs_out: HashMap::new(),
            leg_streams: HashMap::new(),
            legs_ending: HashMap::new(),
            waiting: VecDeque::new(),
            legs_in: HashMap::new(),
            calls_out: HashMap::new(),
            calls_waiting: VecDeque::new(),
            calls_in: HashMap::new(),
            call_bytes: HashMap::new(),
            next_unidirectional: if dialled { 2 } else { 3 },
            // Stream 0 is the control stream.
            next_bidirectional: if dialled { 4 } else { 1 },
            calls_limit: limits.calls_per_connection,
            call_body_bytes: limits.call_body_bytes,
        }
    }

    /// Queues a control frame; `false` when the peer has stopped reading them
    pub fn send_frame(&mut self, connection: &mut Connection, frame: &Frame) -> bool {
        frame.encode(&mut self.control_out);
        self.flush_control(connection);
        self.control_front.len() + self.control_out.len() <= CONTROL_QUEUE_BYTES
    }

    fn flush_control(&mut self, connection: &mut Connection) {
        loop {
            if self.control_front.is_empty() {
                self.control_front = self.control_out.split().freeze();
            }
            if self.control_front.is_empty() {
                return;
            }
            let length = self.control_front.len();
            match connection.write(CONTROL_STREAM, self.control_front.clone(), false) {
                Written::Bytes(sent) => {
                    bytes::Buf::advance(&mut self.control_front, sent);
                    if sent < length {
                        return;
                    }
                }
                Written::StreamLimit | Written::Gone => return,
            }
        }
    }

    /// Queues a record on the flow's leg, opening it where there is none
    pub fn send_record(
        &mut self,
        connection: &mut Connection,
        flow: u64,
        service: Option<ServiceName>,
        piece: Piece,
        out: &mut Vec<LinkOutput>,
    ) {
        let leg = self.legs_out.entry(flow).or_insert_with(|| {
            let mut header = BytesMut::with_capacity(80);
            LegHeader { flow, service }.encode(&mut header);
            self.waiting.push_back(flow);
            let bytes = header.freeze();
            let header = Pending { bytes, flow_bytes: 0, opens_record: false };
            LegOut { stream: None, pending: VecDeque::from([header]) }
        });
        let length = piece.bytes.len();
        if length <= SMALL_RECORD_BYTES {
            let record = encode_record(piece.offset, &piece.bytes, piece.end);
            let record = Pending { bytes: record, flow_bytes: length, opens_record: true };
            leg.pending.push_back(record);
        } else {
            let mut header = BytesMut::with_capacity(16);
            encode_record_header(&mut header, piece.offset, length, piece.end);
            let bytes = header.freeze();
            leg.pending.push_back(Pending { bytes, flow_bytes: 0, opens_record: true });
            let bytes = piece.bytes;
            leg.pending.push_back(Pending { bytes, flow_bytes: length, opens_record: false });
        }
        self.open_waiting(connection);
        self.flush_leg(connection, flow, out);
    }

    /// The leg carries nothing more: its stream ends behind the record it is in. Never by RESET_STREAM:
    /// quiche may send FIN at the place of the reset first, which is a truncated record to the peer.
    pub fn end_leg(&mut self, connection: &mut Connection, flow: u64) {
        let Some(mut leg) = self.legs_out.remove(&flow) else { return };
        let Some(stream) = leg.stream else { return };
        self.leg_streams.remove(&stream);
        let whole = leg.pending.iter().position(|pending| pending.opens_record);
        leg.pending.truncate(whole.unwrap_or(leg.pending.len()));
        self.legs_ending.insert(stream, leg.pending);
        self.flush_ending(connection, stream);
    }

    fn flush_ending(&mut self, connection: &mut Connection, stream: u64) {
        let Some(pending) = self.legs_ending.get_mut(&stream) else { return };
        while let Some(front) = pending.front_mut() {
            match connection.write(stream, front.bytes.clone(), false) {
                Written::Bytes(sent) if sent < front.bytes.len() => {
                    bytes::Buf::advance(&mut front.bytes, sent);
                    return;
                }
                Written::Bytes(_) => drop(pending.pop_front()),
                Written::StreamLimit => return,
                Written::Gone => pending.clear(),
            }
        }
        // A stream that is gone needs no end.
        connection.write(stream, Bytes::new(), true);
        self.legs_ending.remove(&stream);
    }

    fn open_waiting(&mut self, connection: &mut Connection) {
        while let Some(flow) = self.waiting.front().copied() {
            let Some(leg) = self.legs_out.get_mut(&flow).filter(|leg| leg.stream.is_none()) else {
                self.waiting.pop_front();
                continue;
            };
            // quiche counts streams that were opened, which happens with the first write.
            if connection.unidirectional_left() == 0 {
                return;
            }
            let stream = self.next_unidirectional;
            let Some(header) = leg.pending.front() else {
                self.waiting.pop_front();
                continue;
            };
            match connection.write(stream, header.bytes.slice(..0), false) {
                Written::StreamLimit => return,
                Written::Bytes(_) | Written::Gone => {}
            }
            self.next_unidirectional += 4;
            leg.stream = Some(stream);
            self.leg_streams.insert(stream, flow);
            self.waiting.pop_front();
        }
    }

    fn flush_leg(&mut self, connection: &mut Connection, flow: u64, out: &mut Vec<LinkOutput>) {
        let Some(leg) = self.legs_out.get_mut(&flow) else { return };
        let Some(stream) = leg.stream else { return };
        let mut accepted = 0;
        while let Some(Pending { bytes, flow_bytes, opens_record }) = leg.pending.front_mut() {
            let sent = match connection.write(stream, bytes.clone(), false) {
                Written::Bytes(sent) => sent,
                Written::StreamLimit => break,
                Written::Gone => {
                    if !connection.is_closing() {
                        out.push(LinkOutput::Violation(WireError::LegStopped));
                    }
                    break;
                }
            };
            if sent < bytes.len() {
                bytes::Buf::advance(bytes, sent);
                *opens_record &= sent == 0;
                // Of a small record the header is counted last: it is progress all the same.
                let part = sent.min(*flow_bytes);
                *flow_bytes -= part;
                accepted += part;
                break;
            }
            accepted += *flow_bytes;
            leg.pending.pop_front();
        }
        if accepted > 0 {
            out.push(LinkOutput::Session(LinkEvent::Accepted { flow, bytes: accepted }));
        }
    }

    /// Starts a call
    pub fn call(
        &mut self,
        connection: &mut Connection,
        token: u64,
        worker: u16,
        header: CallHeader,
        out: &mut Vec<LinkOutput>,
    ) {
        if self.calls_waiting.len() >= self.calls_limit {
            out.push(LinkOutput::CallDone(token, worker, None));
            return;
        }
        self.calls_waiting.push_back((token, worker, header));
        self.open_calls(connection);
    }

    fn open_calls(&mut self, connection: &mut Connection) {
        while !self.calls_waiting.is_empty() && connection.bidirectional_left() > 0 {
            let Some((token, worker, header)) = self.calls_waiting.pop_front() else { return };
            let stream = self.next_bidirectional;
            self.next_bidirectional += 4;
            let reader = CallReader::new(self.call_body_bytes);
            self.calls_out.insert(stream, CallOut { token, worker, reader });
            self.call_bytes.insert(stream, header.encode());
            self.flush_call(connection, stream);
        }
    }

    /// Answers a request
    pub fn answer(&mut self, connection: &mut Connection, stream: u64, reply: &CallReply) {
        if self.calls_in.contains_key(&stream) {
            self.call_bytes.insert(stream, reply.encode());
            self.flush_call(connection, stream);
        }
    }

    fn flush_call(&mut self, connection: &mut Connection, stream: u64) {
        let Some(bytes) = self.call_bytes.get_mut(&stream) else { return };
        match connection.write(stream, bytes.clone(), true) {
            Written::Bytes(sent) if sent < bytes.len() => bytes::Buf::advance(bytes, sent),
            Written::StreamLimit => {}
            Written::Bytes(_) | Written::Gone => {
                self.call_bytes.remove(&stream);
                self.calls_in.remove(&stream);
            }
        }
    }

    /// Writes what streams take again
    pub fn handle_writable(&mut self, connection: &mut Connection, out: &mut Vec<LinkOutput>) {
        self.flush_control(connection);
        while let Some(stream) = connection.next_writable() {
            if stream == CONTROL_STREAM {
                self.flush_control(connection);
            } else if let Some(flow) = self.leg_streams.get(&stream).copied() {
                self.flush_leg(connection, flow, out);
            } else if self.legs_ending.contains_key(&stream) {
                self.flush_ending(connection, stream);
            } else {
                self.flush_call(connection, stream);
            }
        }
        if !self.waiting.is_empty() {
            let waiting: Vec<u64> = self.waiting.iter().copied().collect();
            self.open_waiting(connection);
            for flow in waiting {
                self.flush_leg(connection, flow, out);
            }
        }
        self.open_calls(connection);
    }

    /// Reads what streams hold
    pub fn handle_readable(&mut self, connection: &mut Connection, out: &mut Vec<LinkOutput>) {
        while let Some(stream) = connection.next_readable() {
            if stream != CONTROL_STREAM && !self.hello_seen {
                // Legs may overtake the HELLO, which travels on a stream of its own.
                self.early.insert(stream);
                continue;
            }
            if let Err(error) = self.read_stream(connection, stream, out) {
                out.push(LinkOutput::Violation(error));
                return;
            }
            if stream == CONTROL_STREAM && self.hello_seen && !self.early.is_empty() {
                for early in std::mem::take(&mut self.early) {
                    if let Err(error) = self.read_stream(connection, early, out) {
                        out.push(LinkOutput::Violation(error));
                        return;
                    }
                }
            }
        }
    }

    fn read_stream(
        &mut self,
        connection: &mut Connection,
        stream: u64,
        out: &mut Vec<LinkOutput>,
    ) -> Result<(), WireError> {
        if stream == CONTROL_STREAM {
            self.read_control(connection, out)
        } else if stream & 2 == 2 {
            self.read_leg(connection, stream, out)
        } else if stream & 1 == u64::from(!self.dialled) {
            self.read_reply(connection, stream, out)
        } else {
            self.read_request(connection, stream, out)
        }
    }

    fn read_control(
        &mut self,
        connection: &mut Connection,
        out: &mut Vec<LinkOutput>,
    ) -> Result<(), WireError> {
        loop {
            let (bytes, end) = match connection.read(CONTROL_STREAM) {
                ReadOutcome::Data(bytes, end) => (bytes, end),
                ReadOutcome::Empty => return Ok(()),
                ReadOutcome::Gone if connection.is_closing() => return Ok(()),
                // The control stream lives as long as the connection.
                ReadOutcome::Gone => return Err(WireError::Truncated),
            };
            self.control_in.push(&bytes);
            while let Some(frame) = self.control_in.next_frame()? {
                match (frame, self.hello_seen) {
                    (Frame::Hello(hello), false) => {
                        self.hello_seen = true;
                        out.push(LinkOutput::Hello(hello));
                    }
                    (Frame::Hello(_), true) | (_, false) => return Err(WireError::Value),
                    (frame, true) => out.push(LinkOutput::Session(LinkEvent::Frame(frame))),
                }
            }
            if end {
                return Err(WireError::Truncated);
            }
        }
    }

    fn read_leg(
        &mut self,
        connection: &mut Connection,
        stream: u64,
        out: &mut Vec<LinkOutput>,
    ) -> Result<(), WireError> {
        let leg = self
            .legs_in
            .entry(stream)
            .or_insert_with(|| LegIn { reader: LegReader::default(), flow: None });
        loop {
            match connection.read(stream) {
                ReadOutcome::Data(mut bytes, end) => {
                    Self::read_records(leg, &mut bytes, out)?;
                    if end {
                        let whole = leg.reader.at_boundary();
                        self.legs_in.remove(&stream);
                        return if whole { Ok(()) } else { Err(WireError::Truncated) };
                    }
                }
                ReadOutcome::Empty => return Ok(()),
                ReadOutcome::Gone => {
                    self.legs_in.remove(&stream);
                    return Ok(());
                }
            }
        }
    }

    fn read_records(
        leg: &mut LegIn,
        bytes: &mut Bytes,
        out: &mut Vec<LinkOutput>,
    ) -> Result<(), WireError> {
        while let Some(item) = leg.reader.next_item(bytes)? {
            match item {
                LegItem::Header(LegHeader { flow, service }) => {
                    leg.flow = Some(flow);
                    out.push(LinkOutput::Session(LinkEvent::Opened { flow, service }));
                }
                LegItem::Data { offset, bytes, end } => {
                    let Some(flow) = leg.flow else { return Err(WireError::StreamType) };
                    out.push(LinkOutput::Session(LinkEvent::Data { flow, offset, bytes, end }));
                }
            }
        }
        Ok(())
    }

    fn read_request(
        &mut self,
        connection: &mut Connection,
        stream: u64,
        out: &mut Vec<LinkOutput>,
    ) -> Result<(), WireError> {
        if self.calls_in.len() >= self.calls_limit && !self.calls_in.contains_key(&stream) {
            out.push(LinkOutput::Overrun);
            return Ok(());
        }
        loop {
            match connection.read(stream) {
                ReadOutcome::Data(bytes, end) => {
                    let body_bytes = self.call_body_bytes;
                    let call = self
                        .calls_in
                        .entry(stream)
                        .or_insert_with(|| CallIn::Reading(CallReader::new(body_bytes)));
                    let CallIn::Reading(reader) = call else { return Err(WireError::Value) };
                    reader.push(&bytes)?;
                    if end {
                        let header = reader.request()?.ok_or(WireError::Truncated)?;
                        *call = CallIn::Answering;
                        out.push(LinkOutput::CallIncoming(stream, header));
                        return Ok(());
                    }
                }
                ReadOutcome::Empty => return Ok(()),
                ReadOutcome::Gone => {
                    self.calls_in.remove(&stream);
                    return Ok(());
                }
            }
        }
    }

    fn read_reply(
        &mut self,
        connection: &mut Connection,
        stream: u64,
        out: &mut Vec<LinkOutput>,
    ) -> Result<(), WireError> {
        loop {
            let outcome = connection.read(stream);
            let Some(call) = self.calls_out.get_mut(&stream) else { return Ok(()) };
            match outcome {
                ReadOutcome::Data(bytes, end) => {
                    call.reader.push(&bytes)?;
                    if end {
                        let reply = call.reader.reply()?.ok_or(WireError::Truncated)?;
                        out.push(LinkOutput::CallDone(call.token, call.worker, Some(reply)));
                        self.calls_out.remove(&stream);
                        return Ok(());
                    }
                }
                ReadOutcome::Empty => return Ok(()),
                ReadOutcome::Gone => {
                    out.push(LinkOutput::CallDone(call.token, call.worker, None));
                    self.calls_out.remove(&stream);
                    return Ok(());
                }
            }
        }
    }

    /// The connection is gone: so are its calls
    pub fn handle_closed(&mut self, out: &mut Vec<LinkOutput>) {
        for (_, call) in self.calls_out.drain() {
            out.push(LinkOutput::CallDone(call.token, call.worker, None));
        }
        for (token, worker, _) in self.calls_waiting.drain(..) {
            out.push(LinkOutput::CallDone(token, worker, None));
        }
    }
}
