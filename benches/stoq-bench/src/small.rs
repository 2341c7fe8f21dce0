//! Small exchanges: a request of a few hundred octets and a response of a few thousand, as a call or as a flow of
//! its own, both cut from the seeded pattern by the request's number, so that either end can tell a wrong octet.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use stoq::{CallRequest, CallStatus, Flow, FlowError};

use crate::pattern::{CHUNK_BYTES, Pattern};

/// Takes small flows
pub const SERVICE_SMALL: &str = "bench-small";
/// Answers calls
pub const METHOD_SMALL: &str = "bench/small";

const MAGIC: u32 = 0x534d_4c31;
/// Octets in front of a request's pattern: magic, response octets, number
pub const HEADER_BYTES: usize = 16;
/// Longest request or response
pub const SMALL_BYTES: usize = CHUNK_BYTES;
/// Responses are cut elsewhere than requests
const RESPONSE_TURN: u64 = 0x5bd1_e995;
const SEED: u64 = 0x0073_6d61_6c6c;

/// Makes and checks both halves of exchanges
#[derive(Clone)]
pub struct Small {
    pattern: Arc<Pattern>,
}

impl Default for Small {
    fn default() -> Self {
        Self { pattern: Arc::new(Pattern::new(SEED)) }
    }
}

impl Small {
    /// Request `number` of `bytes` octets, asking for `response_bytes`
    pub fn request(&self, number: u64, bytes: usize, response_bytes: usize) -> Bytes {
        let bytes = bytes.clamp(HEADER_BYTES, SMALL_BYTES);
        let mut out = BytesMut::with_capacity(bytes);
        out.put_u32(MAGIC);
        out.put_u32(u32::try_from(response_bytes).unwrap_or(u32::MAX));
        out.put_u64(number);
        out.put_slice(&self.pattern.piece(number, bytes - HEADER_BYTES));
        out.freeze()
    }

    /// The response to a request; `None` where it did not arrive as it was sent
    pub fn response_to(&self, request: &[u8]) -> Option<Bytes> {
        let (mut header, body) = request.split_at_checked(HEADER_BYTES)?;
        let (magic, length, number) = (header.get_u32(), header.get_u32(), header.get_u64());
        let length = usize::try_from(length).ok().filter(|length| *length <= SMALL_BYTES)?;
        let sent = magic == MAGIC
            && body.len() <= SMALL_BYTES
            && *body == self.pattern.piece(number, body.len())[..];
        sent.then(|| self.response(number, length))
    }

    fn response(&self, number: u64, bytes: usize) -> Bytes {
        self.pattern.piece(number.wrapping_add(RESPONSE_TURN), bytes)
    }

    /// What is left of the response to request `number` behind its first `from` octets, if `part` begins it
    pub fn is_response_part(&self, number: u64, bytes: usize, from: usize, part: &[u8]) -> bool {
        let whole = self.response(number, bytes);
        from.checked_add(part.len()).and_then(|end| whole.get(from..end)) == Some(part)
    }

    /// Answers a call
    pub fn answer_call(&self, call: CallRequest) -> bool {
        if call.method() != METHOD_SMALL {
            return call.refuse(CallStatus::Unknown, Bytes::new());
        }
        match self.response_to(call.body()) {
            Some(response) => call.reply(response),
            None => call.refuse(CallStatus::Invalid, Bytes::new()),
        }
    }

    /// Answers a small flow: reads to its end, writes the response, ends
    ///
    /// # Errors
    /// [`FlowError`] of the flow.
    pub async fn answer_flow(&self, mut flow: Flow) -> Result<(), FlowError> {
        let mut request = BytesMut::new();
        while let Some(bytes) = flow.read_chunk().await? {
            request.extend_from_slice(&bytes);
            if request.len() > SMALL_BYTES {
                break;
            }
        }
        let Some(response) = self.response_to(&request) else {
            flow.reset(FlowError::DataConflict);
            return Err(FlowError::DataConflict);
        };
        let (_reader, mut writer) = flow.split();
        writer.write_chunk(response).await?;
        writer.shut().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_belongs_to_its_request_and_no_other() {
        let small = Small::default();
        let request = small.request(7, 512, 4_000);
        assert_eq!(request.len(), 512);
        let response = small.response_to(&request).unwrap();
        assert_eq!(response.len(), 4_000);
        assert!(small.is_response_part(7, 4_000, 0, &response));
        assert!(small.is_response_part(7, 4_000, 1_000, &response[1_000..3_000]));
        assert!(!small.is_response_part(7, 4_000, 1, &response));
        assert!(!small.is_response_part(8, 4_000, 0, &response));
        let mut wrong = response.to_vec();
        wrong[3_999] ^= 1;
        assert!(!small.is_response_part(7, 4_000, 0, &wrong));
        wrong.push(0);
        assert!(!small.is_response_part(7, 4_000, 0, &wrong), "longer than asked for");
    }

    #[test]
    fn a_request_that_changed_on_its_way_is_not_answered() {
        let small = Small::default();
        let request = small.request(1, 64, 10);
        for octet in [0, 4, 15, 16, 63] {
            let mut changed = request.to_vec();
            changed[octet] ^= 0x80;
            assert_eq!(small.response_to(&changed), None, "octet {octet}");
        }
        assert_eq!(small.response_to(&request[..15]), None);
        assert_eq!(small.response_to(&[]), None);
        assert!(small.response_to(&small.request(1, 0, 0)).is_some_and(|bytes| bytes.is_empty()));
    }
}
