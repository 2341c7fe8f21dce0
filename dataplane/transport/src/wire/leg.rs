//! Legs: a unidirectional stream that opens with a header naming its flow and then carries records of
//! (length and end flag, offset, bytes). Records may be cut anywhere by the transport.

use bytes::{BufMut, Bytes, BytesMut};
use stoq_interface::ServiceName;

use super::varint::MAX;
use super::{WireError, put_varint, take_varint, varint_length};

/// The stream type of a leg
const LEG: u64 = 0x01;

/// What a leg's stream opens with
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LegHeader {
    /// The flow; bit 0 is 0 where the dialling side of the session opened it
    pub flow: u64,
    /// The service, in legs of the side that opened the flow
    pub service: Option<ServiceName>,
}

impl LegHeader {
    /// Appends the header
    pub fn encode(&self, out: &mut BytesMut) {
        put_varint(out, LEG);
        put_varint(out, self.flow);
        let service = self.service.as_ref().map_or("", ServiceName::as_str);
        put_varint(out, service.len() as u64);
        out.put_slice(service.as_bytes());
    }

    /// Parses a header; `None` when it is incomplete
    fn parse(input: &mut &[u8]) -> Result<Option<Self>, WireError> {
        let mut cursor = *input;
        let Some(kind) = take_varint(&mut cursor) else { return Ok(None) };
        if kind != LEG {
            return Err(WireError::StreamType);
        }
        let (Some(flow), Some(length)) = (take_varint(&mut cursor), take_varint(&mut cursor))
        else {
            return Ok(None);
        };
        if length > 63 {
            return Err(WireError::Name);
        }
        let length = length as usize;
        if cursor.len() < length {
            return Ok(None);
        }
        let (name, rest) = cursor.split_at(length);
        let service = match name {
            [] => None,
            name => Some(
                std::str::from_utf8(name)
                    .ok()
                    .and_then(|text| ServiceName::new(text).ok())
                    .ok_or(WireError::Name)?,
            ),
        };
        *input = rest;
        Ok(Some(Self { flow, service }))
    }
}

/// Appends a record's header for `length` octets at `offset`
pub fn encode_record_header(out: &mut BytesMut, offset: u64, length: usize, end: bool) {
    put_varint(out, (length as u64) << 1 | u64::from(end));
    put_varint(out, offset);
}

/// A record as one buffer; for small records, where a second buffer would cost more than the copy
pub fn encode_record(offset: u64, bytes: &[u8], end: bool) -> Bytes {
    let head = (bytes.len() as u64) << 1 | u64::from(end);
    let mut out =
        BytesMut::with_capacity(varint_length(head) + varint_length(offset) + bytes.len());
    encode_record_header(&mut out, offset, bytes.len(), end);
    out.put_slice(bytes);
    out.freeze()
}

/// What a [`LegReader`] yields
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum LegItem {
    /// The header, once
    Header(LegHeader),
    /// Bytes of the flow, a whole record or part of one
    Data {
        /// Offset within the flow
        offset: u64,
        /// The bytes
        bytes: Bytes,
        /// The flow ends behind these bytes
        end: bool,
    },
}

#[derive(Clone, Copy, Debug)]
struct Record {
    offset: u64,
    left: usize,
    end: bool,
}

/// Splits a leg's stream into items, without copying record bytes
#[derive(Debug, Default)]
pub struct LegReader {
    header_seen: bool,
    /// An incomplete header or record header carried over; never more than 80 octets
    carry: BytesMut,
    record: Option<Record>,
}

impl LegReader {
    /// The next item out of `input`, which is advanced; `None` when more bytes are needed
    pub fn next_item(&mut self, input: &mut Bytes) -> Result<Option<LegItem>, WireError> {
        if let Some(record) = self.record {
            return Ok(self.take_data(record, input));
        }
        loop {
            match self.next_header(input)? {
                None => return Ok(None),
                Some(Parsed::Header(header)) => {
                    self.header_seen = true;
                    return Ok(Some(LegItem::Header(header)));
                }
                // A record of nothing says nothing.
                Some(Parsed::Record(Record { left: 0, end: false, .. })) => {}
                Some(Parsed::Record(record)) => {
                    self.record = Some(record);
                    return Ok(self.take_data(record, input));
                }
            }
        }
    }

    fn next_header(&mut self, input: &mut Bytes) -> Result<Option<Parsed>, WireError> {
        if input.is_empty() {
            return Ok(None);
        }
        // A header is parsed from the carried octets and as many new ones as it can need.
        let carried = self.carry.len();
        let window = input.len().min(80);
        self.carry.extend_from_slice(&input[..window]);
        let mut cursor = &self.carry[..];
        let item = if self.header_seen {
            Self::record_header(&mut cursor)?.map(Parsed::Record)
        } else {
            LegHeader::parse(&mut cursor)?.map(Parsed::Header)
        };
        let used = self.carry.len() - cursor.len();
        match item {
            None => {
                bytes::Buf::advance(input, window);
                Ok(None)
            }
            Some(parsed) => {
                bytes::Buf::advance(input, used - carried);
                self.carry.clear();
                Ok(Some(parsed))
            }
        }
    }

    /// Whether the stream may end here
    pub fn at_boundary(&self) -> bool {
        self.header_seen && self.carry.is_empty() && self.record.is_none()
    }

    fn record_header(cursor: &mut &[u8]) -> Result<Option<Record>, WireError> {
        let (Some(head), Some(offset)) = (take_varint(cursor), take_varint(cursor)) else {
            return Ok(None);
        };
        let length = head >> 1;
        if offset.checked_add(length).is_none_or(|end| end > MAX) {
            return Err(WireError::Overflow);
        }
        let left = usize::try_from(length).map_err(|_| WireError::Overflow)?;
        Ok(Some(Record { offset, left, end: head & 1 == 1 }))
    }

    fn take_data(&mut self, record: Record, input: &mut Bytes) -> Option<LegItem> {
        if record.left == 0 {
            self.record = None;
            let bytes = Bytes::new();
            return Some(LegItem::Data { offset: record.offset, bytes, end: record.end });
        }
        if input.is_empty() {
            return None;
        }
        let taken = input.len().min(record.left);
        let bytes = input.split_to(taken);
        let left = record.left - taken;
        self.record =
            (left > 0).then(|| Record { offset: record.offset + taken as u64, left, ..record });
        Some(LegItem::Data { offset: record.offset, bytes, end: record.end && left == 0 })
    }
}

enum Parsed {
    Header(LegHeader),
    Record(Record),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(wire: &[u8], step: usize) -> Result<(Vec<LegItem>, bool), WireError> {
        let mut reader = LegReader::default();
        let mut items = Vec::new();
        for piece in wire.chunks(step) {
            let mut input = Bytes::copy_from_slice(piece);
            while let Some(item) = reader.next_item(&mut input)? {
                items.push(item);
            }
            assert!(input.is_empty());
        }
        Ok((items, reader.at_boundary()))
    }

    fn flow_bytes(items: &[LegItem]) -> Vec<(u64, u8)> {
        let mut out = Vec::new();
        for item in items {
            if let LegItem::Data { offset, bytes, .. } = item {
                out.extend(bytes.iter().enumerate().map(|(i, b)| (offset + i as u64, *b)));
            }
        }
        out
    }

    #[test]
    fn records_survive_any_split() {
        let mut wire = BytesMut::new();
        let header = LegHeader { flow: 6, service: Some(ServiceName::new("echo").unwrap()) };
        header.encode(&mut wire);
        wire.put_slice(&encode_record(0, b"hello", false));
        wire.put_slice(&encode_record(70_000, b"", false));
        wire.put_slice(&encode_record(70_000, b"end", true));
        let (whole, boundary) = read_all(&wire, wire.len()).unwrap();
        assert!(boundary);
        assert_eq!(whole[0], LegItem::Header(header));
        for step in 1..wire.len() {
            let (items, boundary) = read_all(&wire, step).unwrap();
            assert!(boundary, "step {step}");
            assert_eq!(flow_bytes(&items), flow_bytes(&whole), "step {step}");
            let ends = items.iter().filter(|i| matches!(i, LegItem::Data { end: true, .. }));
            assert_eq!(ends.count(), 1, "step {step}");
        }
    }

    #[test]
    fn an_overflowing_record_is_refused() {
        let mut wire = BytesMut::new();
        LegHeader { flow: 0, service: None }.encode(&mut wire);
        encode_record_header(&mut wire, MAX, 1, false);
        assert_eq!(read_all(&wire, 3), Err(WireError::Overflow));
    }

    #[test]
    fn another_stream_type_is_refused() {
        assert_eq!(read_all(&[0x02, 0, 0], 1), Err(WireError::StreamType));
    }

    #[test]
    fn a_cut_record_is_not_a_boundary() {
        let mut wire = BytesMut::new();
        LegHeader { flow: 0, service: None }.encode(&mut wire);
        wire.put_slice(&encode_record(0, b"hello", false));
        assert!(!read_all(&wire[..wire.len() - 1], 4).unwrap().1);
    }
}
