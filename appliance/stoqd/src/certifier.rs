//! Who issues this node's certificates, as rotation needs to know it: something that is asked and answers, or
//! says why not. The node's own authority and another node's over STOQ are told apart here and nowhere else.

use std::future::Future;
use std::net::SocketAddrV6;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use stoq::{NodeId, SessionCalls};
use stoq_trustchain::ca::CONSENSUS_PROOF_LIMIT_BYTES;
use stoq_trustchain::calls::{CallProblem, Client, OTHER_CERTIFICATE, wire};
use stoq_trustchain::enrollment::{AuthorityAt, EnrollError, renew_with_enrolled_key};
use stoq_trustchain::rotation::{Failure, RenewalWindow, RequestKind};

use crate::agreement::{Later, agreement_to};
use crate::authority::https_of;
use crate::clock::NodeClock;
use crate::peers::{Peers, ReachError};

/// Time one call to an authority may take
const CALL_DEADLINE: Duration = Duration::from_secs(20);

/// A request for a certificate
#[derive(Clone, Debug)]
pub struct Ask {
    /// Whom to ask
    pub authority: String,
    /// PKCS #10 for the new key
    pub csr_der: Vec<u8>,
    /// How to authenticate
    pub kind: RequestKind,
    /// The certificate in force
    pub current: Option<Vec<u8>>,
    /// How to sign with the key the node enrolled with
    pub enrolled: stoq_trustchain::key_slots::KeySlots,
}

/// A certificate as it was issued
#[derive(Clone, Debug)]
pub struct Certified {
    /// The leaf, its authority and the root
    pub chain: [Vec<u8>; 3],
    /// When the authority would like it renewed
    pub window: Option<RenewalWindow>,
    /// The authority's clock
    pub authority_time: Option<SystemTime>,
}

/// Why there is no certificate
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Declined {
    /// What rotation makes of it
    pub failure: Failure,
    /// The patience the authority asks for
    pub retry_after: Option<Duration>,
    /// For the log
    pub reason: String,
}

impl Declined {
    /// A failure without a wish of the authority
    pub fn new(failure: Failure, reason: impl ToString) -> Self {
        Self { failure, retry_after: None, reason: reason.to_string() }
    }
}

/// The authority's suggestion, and when it wants to be asked again
pub type Suggested = (Option<RenewalWindow>, Option<Duration>);
/// What a certifier's answer comes in
pub type Answering<T> = Pin<Box<dyn Future<Output = Result<T, Declined>> + Send>>;

/// Issues this node's certificates
pub trait Certifier: Send + Sync + 'static {
    /// Asks for a certificate. The same request again may be answered with the same certificate.
    fn certify(&self, ask: Ask) -> Answering<Certified>;

    /// Asks when the certificate `serial` should be renewed
    fn suggest(&self, authority: String, serial: String) -> Answering<Suggested>;
}

/// Asks authorities on other nodes: by calls over STOQ while there is a certificate to make sessions with, over
/// HTTPS with the key the node enrolled with when there is none left
pub struct RemoteCertifier {
    peers: Arc<Peers>,
    clock: NodeClock,
    stoq_address: SocketAddrV6,
    /// Where the validators' agreement comes from, where this node takes part
    agreement: Later,
}

impl RemoteCertifier {
    /// Asks over sessions of `peers`; `stoq_address` is where this node listens
    pub fn new(
        peers: Arc<Peers>,
        clock: NodeClock,
        stoq_address: SocketAddrV6,
        agreement: Later,
    ) -> Self {
        Self { peers, clock, stoq_address, agreement }
    }
}

/// Proves itself with the enrolled key. The authority is where the node's last certificate says, and nobody but
/// that of the pinned root is talked to.
async fn re_enrol(
    ask: Ask,
    clock: NodeClock,
    stoq_address: SocketAddrV6,
) -> Result<Certified, Declined> {
    let local = |error: &dyn std::fmt::Display| Declined::new(Failure::Local, error);
    let leaf = ask.enrolled.last_leaf();
    let address = leaf.as_deref().and_then(https_of).ok_or_else(|| {
        Declined::new(Failure::Unreachable, "no certificate says where its authority is")
    })?;
    let node = ask.enrolled.named().ok_or_else(|| local(&"no certificate names this node"))?;
    let root = ask.enrolled.root().map_err(|error| local(&error))?;
    let key = ask.enrolled.enrolled_key().map_err(|error| local(&error))?;
    let authority = NodeId::new(&ask.authority).map_err(|error| local(&error))?;
    let to = AuthorityAt { address, node: authority, root };
    let at = Some(stoq_address).filter(|at| !at.ip().is_unspecified());
    let issued = renew_with_enrolled_key(&to, &node, &key, &ask.csr_der, at, clock.now()).await;
    let issued = issued.map_err(|error| match error {
        EnrollError::Refused { code, message, retry_after } => {
            let failure = match failure_of(&code) {
                // There is nothing left to fall back on.
                Failure::CertificateRefused => Failure::NodeRefused,
                other => other,
            };
            Declined { retry_after, ..Declined::new(failure, message) }
        }
        other => Declined::new(Failure::Unreachable, other),
    })?;
    let advice = issued.advice;
    let window = advice.and_then(|one| window(one.renewal_window.start, one.renewal_window.end));
    let authority_time =
        advice.and_then(|one| UNIX_EPOCH.checked_add(Duration::from_millis(one.authority_time_ms)));
    let chain = [issued.leaf_der, issued.issuing_der, issued.root_der];
    Ok(Certified { chain, window, authority_time })
}

impl Certifier for RemoteCertifier {
    fn certify(&self, ask: Ask) -> Answering<Certified> {
        let (peers, clock, stoq_address) = (Arc::clone(&self.peers), self.clock, self.stoq_address);
        let agreement = Arc::clone(&self.agreement);
        Box::pin(async move {
            if ask.kind == RequestKind::ReEnrol {
                return re_enrol(ask, clock, stoq_address).await;
            }
            let client = client(&peers, &ask.authority).await?;
            // An authority that demands the agreement says so where it is missing.
            let agreed = agreement_to(&agreement, &ask.csr_der).await.unwrap_or_else(|error| {
                tracing::warn!(%error, "the validators' agreement to a renewal cannot be had");
                None
            });
            // One that is too long to be taken is worth nothing, and the authority can vouch itself.
            let agreed = agreed.filter(|proof| proof.len() <= CONSENSUS_PROOF_LIMIT_BYTES);
            let request = wire::CertifyRequest {
                consensus_proof: agreed.unwrap_or_default(),
                csr: ask.csr_der,
                current_certificate: ask.current.unwrap_or_default(),
                successor: true,
                ..wire::CertifyRequest::default()
            };
            match client.renew(&request, CALL_DEADLINE).await {
                Ok(reply) => certified(reply),
                Err(problem) => {
                    if is_other_certificate(&problem) {
                        // The session is older than the certificate in force; the next try goes by a younger one.
                        client.channel().session().replace_connections();
                    }
                    Err(declined(problem))
                }
            }
        })
    }

    fn suggest(&self, authority: String, serial: String) -> Answering<Suggested> {
        let peers = Arc::clone(&self.peers);
        Box::pin(async move {
            let serial = octets(&serial)
                .ok_or_else(|| Declined::new(Failure::Local, "the serial number is none"))?;
            let client = client(&peers, &authority).await?;
            let reply =
                client.renewal_information(serial, CALL_DEADLINE).await.map_err(declined)?;
            let again = Duration::from_millis(reply.ask_again_after_ms);
            Ok((window(reply.renew_from, reply.renew_until), Some(again)))
        })
    }
}

/// Calls over a session on this runtime's clock
type Calls = SessionCalls<fn(Duration) -> tokio::time::Sleep>;

async fn client(peers: &Peers, authority: &str) -> Result<Client<Calls>, Declined> {
    let node = NodeId::new(authority)
        .map_err(|error| Declined::new(Failure::Unreachable, format!("{authority}: {error}")))?;
    match peers.session(&node).await {
        Ok(session) => Ok(Client::new(session.calls(tokio::time::sleep as fn(_) -> _))),
        Err(error) => Err(Declined::new(unreached(&error), error)),
    }
}

fn unreached(error: &ReachError) -> Failure {
    match error {
        refused if refused.is_refusal() => Failure::CertificateRefused,
        ReachError::TimedOut { .. } => Failure::Timeout,
        _ => Failure::Unreachable,
    }
}

/// What rotation makes of a call without a reply
pub fn declined(problem: CallProblem) -> Declined {
    let failure = match &problem {
        CallProblem::Refused { code, .. } => failure_of(code),
        CallProblem::Busy(_) => Failure::Overloaded,
        CallProblem::Unknown | CallProblem::Lost(_) => Failure::Unreachable,
        CallProblem::Deadline => Failure::Timeout,
        CallProblem::Malformed(_) => Failure::Malformed,
    };
    let retry_after = match problem {
        CallProblem::Busy(after) => Some(after),
        _ => None,
    };
    Declined { retry_after, ..Declined::new(failure, problem) }
}

/// Whether the connection was made with another certificate than the one in force
fn is_other_certificate(problem: &CallProblem) -> bool {
    matches!(problem, CallProblem::Refused { code, .. } if code == OTHER_CERTIFICATE)
}

/// What rotation makes of an authority's refusal, by its stable word
pub fn failure_of(code: &str) -> Failure {
    match code {
        "unauthenticated" | "revoked" => Failure::CertificateRefused,
        "csr_refused" | "key_in_use" => Failure::KeyRefused,
        "not_permitted" | "not_registered" | "consensus_refused" => Failure::NodeRefused,
        _ => Failure::Overloaded,
    }
}

fn certified(reply: wire::CertifyReply) -> Result<Certified, Declined> {
    let malformed = |what: &str| Declined::new(Failure::Malformed, what);
    let chain: [Vec<u8>; 2] = reply
        .chain
        .try_into()
        .map_err(|_| malformed("a chain is a leaf and its authority, two certificates"))?;
    let [leaf, issuing] = chain;
    let authority_time = UNIX_EPOCH.checked_add(Duration::from_millis(reply.authority_time_ms));
    Ok(Certified {
        chain: [leaf, issuing, reply.root],
        window: window(reply.renew_from, reply.renew_until),
        authority_time,
    })
}

/// A window from seconds since 1970; none where it makes no sense, which is a suggestion that is not followed
fn window(from: u64, until: u64) -> Option<RenewalWindow> {
    let instant = |seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
    let (start, end) = (instant(from)?, instant(until)?);
    (from > 0).then_some(RenewalWindow { start, end })
}

/// The octets behind lower-case hexadecimal
pub fn octets(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use stoq::{CloseReason, ConnectError};

    use super::*;

    #[test]
    fn what_went_wrong_decides_what_rotation_does_next() {
        let refused = |code: &str| {
            declined(CallProblem::Refused {
                status: stoq::CallStatus::Denied,
                code: code.into(),
                message: "no".into(),
            })
        };
        assert_eq!(refused("revoked").failure, Failure::CertificateRefused);
        assert_eq!(refused("key_in_use").failure, Failure::KeyRefused);
        assert_eq!(refused("not_permitted").failure, Failure::NodeRefused);
        assert_eq!(refused("signer").failure, Failure::Overloaded);
        // Nothing is wrong with the certificate, nor with the node: the same is asked again.
        assert_eq!(refused(OTHER_CERTIFICATE).failure, Failure::Overloaded);
        let wait = Duration::from_secs(3);
        let busy = declined(CallProblem::Busy(wait));
        assert_eq!((busy.failure, busy.retry_after), (Failure::Overloaded, Some(wait)));
        assert_eq!(declined(CallProblem::Deadline).failure, Failure::Timeout);
        let refused = ReachError::Connect {
            node: NodeId::new("alpha").unwrap(),
            address: "[::1]:1".parse().unwrap(),
            cause: ConnectError::Closed(CloseReason::Tls),
        };
        assert_eq!(unreached(&refused), Failure::CertificateRefused);
    }

    #[test]
    fn a_reply_that_is_no_chain_is_malformed() {
        let reply = wire::CertifyReply { chain: vec![vec![1]], ..Default::default() };
        assert_eq!(certified(reply).unwrap_err().failure, Failure::Malformed);
        let chain = vec![vec![1], vec![2]];
        let reply = wire::CertifyReply {
            chain,
            root: vec![3],
            renew_from: 5,
            renew_until: 9,
            ..Default::default()
        };
        let read = certified(reply).unwrap();
        assert_eq!(read.chain, [vec![1], vec![2], vec![3]]);
        assert_eq!(read.window.unwrap().end, UNIX_EPOCH + Duration::from_secs(9));
        assert_eq!(window(0, 0), None);
    }

    #[test]
    fn hexadecimal_is_read_strictly() {
        assert_eq!(octets("0aff"), Some(vec![10, 255]));
        for wrong in ["0", "0g", "é0"] {
            assert_eq!(octets(wrong), None, "{wrong}");
        }
    }
}
