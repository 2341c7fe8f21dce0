//! The asking side of the calls: requests as values, replies as values, and every way it can go wrong by name.
//! Over what the octets travel is the caller's to say; retrying is too.

use std::time::Duration;

use prost::Message;
use stoq_interface::{CallChannel, CallEnd, CallStatus};

use super::answer::retry_after;
use super::desk::PART_LIMIT_BYTES;
use super::wire;
use crate::log::store::FILE_LIMIT_BYTES;
use crate::pinning::KEYS_PER_RING_LIMIT;
use crate::revocation::{DOCUMENT_LIMIT_BYTES, KEYS_LIMIT};

/// Times a list that changes while it is fetched is begun anew
const ATTEMPTS_LIMIT: usize = 8;
/// Characters of a refusal's text that are kept
const MESSAGE_LIMIT_CHARACTERS: usize = 1_024;

/// Why there is no reply
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CallProblem {
    /// The authority refused
    #[error("the authority refused ({code}): {message}")]
    Refused {
        /// Denied, invalid or failed
        status: CallStatus,
        /// A stable word
        code: String,
        /// Cause and remedy
        message: String,
    },
    /// The authority has no time now
    #[error("the authority is busy; try again in {} ms", .0.as_millis())]
    Busy(Duration),
    /// The other node answers no such call
    #[error("the node asked is no authority, or an older one")]
    Unknown,
    /// The deadline passed; whether the authority acted is unknown. Asking the same again is safe.
    #[error("the authority did not answer in time")]
    Deadline,
    /// The connection was lost; whether the authority acted is unknown. Asking the same again is safe.
    #[error("the connection to the authority was lost: {0}")]
    Lost(String),
    /// The reply is not of the method's schema or is larger than it may be
    #[error("the authority's reply is damaged: {0}")]
    Malformed(&'static str),
}

/// Asks one authority
#[derive(Clone, Debug)]
pub struct Client<C> {
    channel: C,
}

impl<C: CallChannel> Client<C> {
    /// Asks over this channel
    pub fn new(channel: C) -> Self {
        Self { channel }
    }

    /// What carries the calls
    pub fn channel(&self) -> &C {
        &self.channel
    }

    /// A first certificate for something registered to this node
    pub async fn issue(
        &self,
        request: &wire::CertifyRequest,
        deadline: Duration,
    ) -> Result<wire::CertifyReply, CallProblem> {
        self.ask("trustchain/issue", request, deadline).await
    }

    /// This node's next certificate
    pub async fn renew(
        &self,
        request: &wire::CertifyRequest,
        deadline: Duration,
    ) -> Result<wire::CertifyReply, CallProblem> {
        self.ask("trustchain/renew", request, deadline).await
    }

    /// When to renew
    pub async fn renewal_information(
        &self,
        serial: Vec<u8>,
        deadline: Duration,
    ) -> Result<wire::RenewalInformationReply, CallProblem> {
        let request = wire::RenewalInformationRequest { serial };
        self.ask("trustchain/renewal-information", &request, deadline).await
    }

    /// Revokes
    pub async fn revoke(
        &self,
        request: &wire::RevokeRequest,
        deadline: Duration,
    ) -> Result<wire::RevokeReply, CallProblem> {
        self.ask("trustchain/revoke", request, deadline).await
    }

    /// Passes an operator's order on; the octets of the reply are of the method that is ordered
    pub async fn operate(
        &self,
        order: &wire::OperateRequest,
        deadline: Duration,
    ) -> Result<Vec<u8>, CallProblem> {
        self.pass_on(order.encode_to_vec(), deadline).await
    }

    /// The same for an order as it came: `OperateRequest`
    pub async fn pass_on(
        &self,
        order: Vec<u8>,
        deadline: Duration,
    ) -> Result<Vec<u8>, CallProblem> {
        self.call("trustchain/operate", order, deadline).await
    }

    /// What the authorities say of themselves that this one knows: to be judged by whoever asks
    pub async fn authorities(&self, deadline: Duration) -> Result<Vec<Vec<u8>>, CallProblem> {
        let request = wire::AuthoritiesRequest {};
        let reply: wire::AuthoritiesReply =
            self.ask("trustchain/authorities", &request, deadline).await?;
        if reply.statements.len() > KEYS_LIMIT {
            return Err(CallProblem::Malformed("it names more authorities than there may be"));
        }
        Ok(reply.statements)
    }

    /// The signed deny-list behind `after_epoch`, waiting for one until the deadline; `None` where there was
    /// none. It is the whole list or the change since `after_epoch`: `revocation::DenyList` tells by itself.
    pub async fn deny_list(
        &self,
        after_epoch: u64,
        deadline: Duration,
    ) -> Result<Option<Vec<u8>>, CallProblem> {
        let (mut document, mut epoch, mut begun) = (Vec::new(), 0, 0);
        loop {
            let offset = document.len() as u64;
            let request = wire::DenyListRequest { after_epoch, offset, epoch };
            let reply: wire::DenyListReply =
                self.ask("trustchain/deny-list", &request, deadline).await?;
            if reply.total == 0 {
                return Ok(None);
            }
            if reply.epoch != epoch {
                begun += 1;
                if begun > ATTEMPTS_LIMIT {
                    return Err(CallProblem::Malformed("the list changes with each part"));
                }
                document.clear();
                epoch = reply.epoch;
            }
            if append(&mut document, reply.part, reply.total, DOCUMENT_LIMIT_BYTES as u64)? {
                return Ok(Some(document));
            }
        }
    }

    /// The log's checkpoint, a signed note
    pub async fn checkpoint(&self, deadline: Duration) -> Result<Vec<u8>, CallProblem> {
        let request = wire::CheckpointRequest {};
        let reply: wire::CheckpointReply =
            self.ask("trustchain/checkpoint", &request, deadline).await?;
        Ok(reply.note)
    }

    /// A published file of the log
    pub async fn tile(&self, path: &str, deadline: Duration) -> Result<Vec<u8>, CallProblem> {
        let mut file = Vec::new();
        loop {
            let request = wire::TileRequest { path: path.to_owned(), offset: file.len() as u64 };
            let reply: wire::TileReply = self.ask("trustchain/tile", &request, deadline).await?;
            if append(&mut file, reply.part, reply.total, FILE_LIMIT_BYTES)? {
                return Ok(file);
            }
        }
    }

    /// The proof that an entry is in the log (C2SP tlog-proof): `log::ProofBundle` reads and verifies it
    pub async fn proof(&self, leaf_index: u64, deadline: Duration) -> Result<Vec<u8>, CallProblem> {
        let request = wire::ProofRequest { leaf_index };
        let reply: wire::ProofReply = self.ask("trustchain/proof", &request, deadline).await?;
        Ok(reply.bundle)
    }

    /// Certificates of the authority's issuing keys whose leaves are good: to be held to the root by whoever asks
    pub async fn issuing_keys(&self, deadline: Duration) -> Result<Vec<Vec<u8>>, CallProblem> {
        let request = wire::IssuingKeysRequest {};
        let reply: wire::IssuingKeysReply =
            self.ask("trustchain/issuing-keys", &request, deadline).await?;
        if reply.certificates.len() > KEYS_PER_RING_LIMIT {
            return Err(CallProblem::Malformed("it names more issuing keys than there may be"));
        }
        Ok(reply.certificates)
    }

    /// How the authority is
    pub async fn status(&self, deadline: Duration) -> Result<wire::StatusReply, CallProblem> {
        self.ask("trustchain/status", &wire::StatusRequest {}, deadline).await
    }

    async fn ask<T: Message + Default>(
        &self,
        method: &'static str,
        request: &impl Message,
        deadline: Duration,
    ) -> Result<T, CallProblem> {
        let body = self.call(method, request.encode_to_vec(), deadline).await?;
        T::decode(body.as_slice())
            .map_err(|_| CallProblem::Malformed("it is not of the method's schema"))
    }

    async fn call(
        &self,
        method: &'static str,
        request: Vec<u8>,
        deadline: Duration,
    ) -> Result<Vec<u8>, CallProblem> {
        let answered = self.channel.call(method, request, deadline).await;
        match answered {
            Ok(body) => Ok(body),
            Err(CallEnd::Deadline) => Err(CallProblem::Deadline),
            Err(CallEnd::Lost(reason)) => Err(CallProblem::Lost(reason)),
            Err(CallEnd::Status(status, body)) => Err(problem(status, &body)),
        }
    }
}

fn problem(status: CallStatus, body: &[u8]) -> CallProblem {
    match status {
        CallStatus::Ok => CallProblem::Malformed("a reply that was taken for a refusal"),
        CallStatus::Unknown => CallProblem::Unknown,
        CallStatus::Deadline => CallProblem::Deadline,
        CallStatus::Busy => match retry_after(body) {
            Some(after) => CallProblem::Busy(after),
            None => CallProblem::Malformed("busy, but not for how long"),
        },
        CallStatus::Denied | CallStatus::Invalid | CallStatus::Failed => {
            let told = wire::Refusal::decode(body).unwrap_or_default();
            let clean = |text: String| -> String {
                let printable = text.chars().filter(|character| !character.is_control());
                printable.take(MESSAGE_LIMIT_CHARACTERS).collect()
            };
            CallProblem::Refused { status, code: clean(told.code), message: clean(told.message) }
        }
    }
}

/// Adds a part; `true` when it was the last
fn append(
    whole: &mut Vec<u8>,
    part: Vec<u8>,
    total: u64,
    limit_bytes: u64,
) -> Result<bool, CallProblem> {
    let length = (whole.len() + part.len()) as u64;
    if total > limit_bytes || length > total || part.len() > PART_LIMIT_BYTES {
        return Err(CallProblem::Malformed("it is larger than it says or may be"));
    }
    if part.is_empty() && length < total {
        return Err(CallProblem::Malformed("a part is empty"));
    }
    whole.extend_from_slice(&part);
    Ok(length == total)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Answers with what it was given, in order
    struct Script(Mutex<Vec<Result<Vec<u8>, CallEnd>>>);

    impl CallChannel for Script {
        async fn call(
            &self,
            _method: &'static str,
            _body: Vec<u8>,
            _deadline: Duration,
        ) -> Result<Vec<u8>, CallEnd> {
            self.0.lock().unwrap().remove(0)
        }
    }

    fn client(answers: Vec<Result<Vec<u8>, CallEnd>>) -> Client<Script> {
        Client::new(Script(Mutex::new(answers)))
    }

    fn list(epoch: u64, part: &[u8], total: u64) -> Result<Vec<u8>, CallEnd> {
        Ok(wire::DenyListReply { epoch, part: part.to_vec(), total }.encode_to_vec())
    }

    const DEADLINE: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn a_list_in_parts_is_put_together_and_never_of_two_lists() {
        let whole = client(vec![list(3, b"abc", 5), list(3, b"de", 5)]);
        assert_eq!(whole.deny_list(0, DEADLINE).await, Ok(Some(b"abcde".to_vec())));
        let changed = client(vec![list(3, b"abc", 5), list(4, b"xy", 3), list(4, b"z", 3)]);
        assert_eq!(changed.deny_list(0, DEADLINE).await, Ok(Some(b"xyz".to_vec())));
        assert_eq!(client(vec![list(3, b"", 0)]).deny_list(3, DEADLINE).await, Ok(None));
    }

    #[tokio::test]
    async fn an_authority_cannot_make_a_client_hold_or_loop() {
        for answers in [
            vec![list(3, b"abcdef", 5)],
            vec![list(3, b"", 5)],
            vec![list(3, b"a", u64::MAX)],
            (1..=9).map(|epoch| list(epoch, b"a", 9)).collect(),
            vec![Ok(vec![0xff])],
        ] {
            let refused = client(answers).deny_list(0, DEADLINE).await.unwrap_err();
            assert!(matches!(refused, CallProblem::Malformed(_)), "{refused}");
        }
    }

    #[tokio::test]
    async fn every_status_has_its_name() {
        let told = wire::Refusal { code: "c".into(), message: "a\x1b[2Jb".into() }.encode_to_vec();
        let ask = |status, body: &[u8]| {
            let one = client(vec![Err(CallEnd::Status(status, body.to_vec()))]);
            async move { one.status(DEADLINE).await.unwrap_err() }
        };
        assert_eq!(
            ask(CallStatus::Denied, &told).await,
            CallProblem::Refused {
                status: CallStatus::Denied,
                code: "c".into(),
                message: "a[2Jb".into()
            }
        );
        assert_eq!(
            ask(CallStatus::Busy, &[0x25]).await,
            CallProblem::Busy(Duration::from_millis(37))
        );
        assert!(matches!(ask(CallStatus::Busy, &[]).await, CallProblem::Malformed(_)));
        assert_eq!(ask(CallStatus::Unknown, &[]).await, CallProblem::Unknown);
        assert_eq!(ask(CallStatus::Deadline, &[]).await, CallProblem::Deadline);
    }
}
