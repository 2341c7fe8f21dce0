//! Calls: one request and one reply per bidirectional stream. The envelope is here; bodies are Protobuf
//! messages whose schema belongs to the service that answers.

use bytes::{BufMut, Bytes, BytesMut};
use stoq_interface::CallStatus;

use super::{WireError, put_varint, take_varint};

/// The stream type of a call
const CALL: u64 = 0x02;

/// Longest `service/method` text
const METHOD_LIMIT: u64 = 128;

/// What a request stream opens with
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CallHeader {
    /// `service/method`
    pub method: String,
    /// Time the caller will wait
    pub deadline_ms: u64,
    /// The request
    pub body: Bytes,
}

impl CallHeader {
    /// The request as it goes on the stream, which is then finished
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(32 + self.method.len() + self.body.len());
        put_varint(&mut out, CALL);
        put_varint(&mut out, self.method.len() as u64);
        out.put_slice(self.method.as_bytes());
        put_varint(&mut out, self.deadline_ms);
        put_varint(&mut out, self.body.len() as u64);
        out.put_slice(&self.body);
        out.freeze()
    }

    fn parse(input: &[u8], body_limit: usize) -> Result<Option<Self>, WireError> {
        let mut cursor = input;
        let Some(kind) = take_varint(&mut cursor) else { return Ok(None) };
        if kind != CALL {
            return Err(WireError::StreamType);
        }
        let Some(length) = take_varint(&mut cursor) else { return Ok(None) };
        if length == 0 || length > METHOD_LIMIT {
            return Err(WireError::Name);
        }
        let length = length as usize;
        if cursor.len() < length {
            return Ok(None);
        }
        let (method, mut cursor) = cursor.split_at(length);
        let method = std::str::from_utf8(method).map_err(|_| WireError::Name)?;
        let Some(deadline_ms) = take_varint(&mut cursor) else { return Ok(None) };
        let Some(body) = take_body(&mut cursor, body_limit)? else { return Ok(None) };
        Ok(Some(Self { method: method.to_owned(), deadline_ms, body }))
    }
}

/// What answers a request
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CallReply {
    /// How it ended
    pub status: CallStatus,
    /// The reply, or what the status says
    pub body: Bytes,
}

impl CallReply {
    /// The reply as it goes on the stream, which is then finished
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(16 + self.body.len());
        put_varint(&mut out, self.status as u64);
        put_varint(&mut out, self.body.len() as u64);
        out.put_slice(&self.body);
        out.freeze()
    }

    fn parse(input: &[u8], body_limit: usize) -> Result<Option<Self>, WireError> {
        let mut cursor = input;
        let Some(status) = take_varint(&mut cursor) else { return Ok(None) };
        let status = CallStatus::from_code(status).ok_or(WireError::Value)?;
        let Some(body) = take_body(&mut cursor, body_limit)? else { return Ok(None) };
        Ok(Some(Self { status, body }))
    }
}

fn take_body(cursor: &mut &[u8], limit: usize) -> Result<Option<Bytes>, WireError> {
    let Some(length) = take_varint(cursor) else { return Ok(None) };
    let length =
        usize::try_from(length).ok().filter(|l| *l <= limit).ok_or(WireError::CallTooLong)?;
    if cursor.len() < length {
        return Ok(None);
    }
    Ok(Some(Bytes::copy_from_slice(&cursor[..length])))
}

/// Collects one call's stream until it is whole
#[derive(Debug)]
pub struct CallReader {
    buffer: BytesMut,
    body_limit: usize,
}

impl CallReader {
    /// A reader that refuses bodies above `body_limit` octets
    pub fn new(body_limit: usize) -> Self {
        Self { buffer: BytesMut::new(), body_limit }
    }

    /// Takes in what arrived; refuses more than a whole call can need
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        if self.buffer.len() + bytes.len() > self.body_limit + METHOD_LIMIT as usize + 64 {
            return Err(WireError::CallTooLong);
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    /// The request, once whole
    pub fn request(&self) -> Result<Option<CallHeader>, WireError> {
        CallHeader::parse(&self.buffer, self.body_limit)
    }

    /// The reply, once whole
    pub fn reply(&self) -> Result<Option<CallReply>, WireError> {
        CallReply::parse(&self.buffer, self.body_limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_survive_any_split() {
        let header = CallHeader {
            method: "node/describe".into(),
            deadline_ms: 1_000,
            body: Bytes::from_static(b"body"),
        };
        let wire = header.encode();
        let mut reader = CallReader::new(1_024);
        for (index, byte) in wire.iter().enumerate() {
            reader.push(&[*byte]).unwrap();
            assert_eq!(reader.request().unwrap().is_some(), index + 1 == wire.len());
        }
        assert_eq!(reader.request(), Ok(Some(header)));
        let reply = CallReply { status: CallStatus::Busy, body: Bytes::from_static(&[5]) };
        let mut reader = CallReader::new(1_024);
        reader.push(&reply.encode()).unwrap();
        assert_eq!(reader.reply(), Ok(Some(reply)));
    }

    #[test]
    fn bodies_and_methods_have_limits() {
        let header =
            CallHeader { method: "a/b".into(), deadline_ms: 0, body: Bytes::from(vec![0; 9]) };
        let mut reader = CallReader::new(8);
        reader.push(&header.encode()).unwrap();
        assert_eq!(reader.request(), Err(WireError::CallTooLong));
        let mut reader = CallReader::new(8);
        assert_eq!(reader.push(&[0; 300]), Err(WireError::CallTooLong));
        let header = CallHeader { method: "m".repeat(129), deadline_ms: 0, body: Bytes::new() };
        let mut reader = CallReader::new(8);
        reader.push(&header.encode()).unwrap();
        assert_eq!(reader.request(), Err(WireError::Name));
    }
}
