//! The answering side of `perf` (draft-banks-quic-performance-00): eight octets say how many bytes the client
//! wants, the rest of its stream is drained, the answer is zeros. For measuring with other stacks; no session.

use std::collections::HashMap;

use bytes::Bytes;

use crate::connection::{Connection, ReadOutcome, Written};

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

#[derive(Debug, Default)]
struct Request {
    wanted: [u8; 8],
    wanted_seen: usize,
}

#[derive(Debug)]
struct Answer {
    left: u64,
}

/// State of one `perf` connection
#[derive(Debug)]
pub struct Perf {
    requests: HashMap<u64, Request>,
    answers: HashMap<u64, Answer>,
    /// Answers to unidirectional requests that wait for the client's stream limit
    waiting: Vec<u64>,
    next_unidirectional: u64,
}

impl Default for Perf {
    fn default() -> Self {
        Self {
            requests: HashMap::new(),
            answers: HashMap::new(),
            waiting: Vec::new(),
            next_unidirectional: 3,
        }
    }
}

impl Perf {
    /// Reads requests and drains uploads
    pub fn handle_readable(&mut self, connection: &mut Connection) {
        while let Some(stream) = connection.next_readable() {
            self.read(connection, stream);
        }
    }

    fn read(&mut self, connection: &mut Connection, stream: u64) {
        loop {
            let request = self.requests.entry(stream).or_default();
            if request.wanted_seen == 8 {
                match connection.discard(stream) {
                    Some((_, true)) | None => break,
                    Some((0, false)) => return,
                    Some(_) => continue,
                }
            }
            match connection.read(stream) {
                ReadOutcome::Data(bytes, end) => {
                    let taken = bytes.len().min(8 - request.wanted_seen);
                    let seen = request.wanted_seen;
                    request.wanted[seen..seen + taken].copy_from_slice(&bytes[..taken]);
                    request.wanted_seen += taken;
                    if request.wanted_seen == 8 {
                        let wanted = u64::from_be_bytes(request.wanted);
                        self.begin_answer(connection, stream, wanted);
                    }
                    if end {
                        break;
                    }
                }
                ReadOutcome::Empty => return,
                ReadOutcome::Gone => break,
            }
        }
        self.requests.remove(&stream);
    }

    fn begin_answer(&mut self, connection: &mut Connection, stream: u64, wanted: u64) {
        if stream & 2 == 0 {
            self.answers.insert(stream, Answer { left: wanted });
            self.write(connection, stream);
        } else if wanted > 0 && self.waiting.len() < 1_024 {
            self.waiting.push(wanted);
            self.open_waiting(connection);
        }
    }

    fn open_waiting(&mut self, connection: &mut Connection) {
        while !self.waiting.is_empty() && connection.unidirectional_left() > 0 {
            let wanted = self.waiting.remove(0);
            let stream = self.next_unidirectional;
            self.next_unidirectional += 4;
            self.answers.insert(stream, Answer { left: wanted });
            self.write(connection, stream);
        }
    }

    /// Goes on with answers that the transport takes again
    pub fn handle_writable(&mut self, connection: &mut Connection) {
        while let Some(stream) = connection.next_writable() {
            self.write(connection, stream);
        }
        self.open_waiting(connection);
    }

    fn write(&mut self, connection: &mut Connection, stream: u64) {
        let Some(answer) = self.answers.get_mut(&stream) else { return };
        loop {
            let length = answer.left.min(ZEROS.len() as u64) as usize;
            let end = answer.left <= ZEROS.len() as u64;
            let zeros = Bytes::from_static(&ZEROS[..length]);
            match connection.write(stream, zeros, end) {
                Written::Bytes(sent) if sent == length && end => break,
                Written::Bytes(0) | Written::StreamLimit => return,
                Written::Bytes(sent) => answer.left -= sent as u64,
                Written::Gone => break,
            }
        }
        self.answers.remove(&stream);
    }
}
