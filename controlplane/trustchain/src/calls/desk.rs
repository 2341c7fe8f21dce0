//! Which call is answered by what. Bounds on size, number and time of what is under way; no call is decided
//! here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prost::Message;
use stoq_interface::{Allow, CallStatus, NodeId, PeerCertificate};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::answer::Answer;
use super::operate::{Operators, Orders};
use crate::audit::AuditLog;
use crate::ca::revoke::Revocations;
use crate::ca::{CONSENSUS_PROOF_LIMIT_BYTES, Ca};
use crate::certificate::unix_seconds;
use crate::mesh::KnownAuthorities;

/// What every method begins with
pub const PREFIX: &str = "trustchain/";
/// Octets of the longest request that is looked at
pub const REQUEST_LIMIT_BYTES: usize = CONSENSUS_PROOF_LIMIT_BYTES + (64 << 10);
/// Octets of a file or list that one reply carries
pub(super) const PART_LIMIT_BYTES: usize = 512 << 10;
/// Calls of one node that may wait for the next deny-list
const HELD_PER_NODE: usize = 4;
/// Calls that may wait for the next deny-list altogether
const HELD_LIMIT: usize = 65_536;
/// Reads of files under way
const READS_LIMIT: usize = 32;
/// The longest time a call is worked on, whatever its deadline
const WORK_LIMIT: Duration = Duration::from_secs(30);
/// The longest time a call waits for the next deny-list, whatever its deadline
pub(super) const HOLD_LIMIT: Duration = Duration::from_secs(300);
/// What is left of a deadline for the way back of the reply
const WAY_BACK: Duration = Duration::from_millis(250);

/// Who may do what, beside what every node may
#[derive(Clone, Debug, Default)]
pub struct CallPolicy {
    /// Nodes that may revoke whatever they name. A node may always revoke its own key and certificates.
    pub revoking_nodes: Allow,
    /// Operators whose orders are carried out, over whatever node's session they come
    pub operators: Operators,
}

/// Who makes a call, as the transport has authenticated it
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// The node
    pub node: &'a NodeId,
    /// The certificate it has shown on the connection by which the call came
    pub certificate: &'a PeerCertificate,
}

/// What answers calls
pub struct CallParts {
    /// Issues
    pub ca: Ca,
    /// Revokes
    pub revocations: Revocations,
    /// Where operators' orders are written down
    pub audit: AuditLog,
    /// The authorities this one knows, itself among them
    pub known: Arc<KnownAuthorities>,
    /// Who may do what
    pub policy: CallPolicy,
}

/// Answers the calls
#[derive(Clone)]
pub struct CallDesk {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) parts: CallParts,
    pub(super) orders: Orders,
    /// Second since 1970 from which on orders are remembered
    pub(super) began_at: u64,
    held: Mutex<Held>,
    reads: Semaphore,
}

#[derive(Default)]
struct Held {
    of_node: HashMap<NodeId, usize>,
    all: usize,
}

/// One call
pub(super) struct Call<'a> {
    pub(super) shared: &'a Arc<Shared>,
    /// Who asks
    pub(super) asker: Asker<'a>,
    /// When the asker has stopped waiting
    pub(super) deadline: Instant,
}

/// A place among the calls that wait; dropping it gives it back
pub(super) struct Place<'a> {
    shared: &'a Shared,
    node: NodeId,
}

impl CallDesk {
    /// Answers for this authority
    pub fn new(parts: CallParts) -> Self {
        let began_at = unix_seconds(parts.ca.now());
        let (held, reads) = (Mutex::default(), Semaphore::new(READS_LIMIT));
        let orders = Orders::default();
        Self { shared: Arc::new(Shared { parts, orders, began_at, held, reads }) }
    }

    /// Answers one call of `asker`, before `deadline` (from now) is over.
    /// Needs a tokio runtime with time. Stopping to wait for it is safe at any point.
    pub async fn answer(
        &self,
        asker: Asker<'_>,
        method: &str,
        body: &[u8],
        deadline: Duration,
    ) -> Answer {
        let Some(method) = method.strip_prefix(PREFIX) else { return Answer::unknown() };
        if body.len() > REQUEST_LIMIT_BYTES {
            let message = format!("a request has at most {REQUEST_LIMIT_BYTES} octets");
            return Answer::refused(CallStatus::Invalid, "too_large", message);
        }
        let limit = if method == "deny-list" { HOLD_LIMIT } else { WORK_LIMIT };
        let left = deadline.saturating_sub(WAY_BACK).max(deadline / 2).min(limit);
        let call = Call { shared: &self.shared, asker, deadline: Instant::now() + left };
        let answered = tokio::time::timeout(left + WAY_BACK / 2, call.dispatch(method, body));
        answered.await.unwrap_or_else(|_elapsed| Answer::deadline())
    }
}

impl Call<'_> {
    async fn dispatch(&self, method: &str, body: &[u8]) -> Answer {
        let answered = match method {
            "issue" => self.issue(read(body)).await,
            "renew" => self.renew(read(body)).await,
            "renewal-information" => self.renewal_information(read(body)),
            "revoke" => self.revoke(read(body)).await,
            "operate" => self.operate(read(body)).await,
            "deny-list" => self.deny_list(read(body)).await,
            "checkpoint" => self.checkpoint(read(body)),
            "tile" => self.tile(read(body)).await,
            "proof" => self.proof(read(body)).await,
            "status" => self.status(read(body)),
            "issuing-keys" => self.issuing_keys(read(body)),
            "authorities" => self.authorities(read(body)),
            _ => Ok(Answer::unknown()),
        };
        // A refusal is an answer too; the two are apart only to make `?` possible.
        answered.unwrap_or_else(|refused| refused)
    }

    /// A place among the calls that wait for the next deny-list
    pub(super) fn hold(&self) -> Option<Place<'_>> {
        let mut held = self.shared.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.all >= HELD_LIMIT {
            return None;
        }
        let of_node = held.of_node.entry(self.asker.node.clone()).or_default();
        if *of_node >= HELD_PER_NODE {
            return None;
        }
        *of_node += 1;
        held.all += 1;
        Some(Place { shared: self.shared, node: self.asker.node.clone() })
    }

    /// Runs something that reads a file
    pub(super) async fn reading<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Ca) -> T + Send + 'static,
    ) -> Result<T, Answer> {
        let failed = |error: &dyn std::error::Error| {
            tracing::error!(%error, "a call could not read");
            Answer::refused(CallStatus::Failed, "failed", "the authority could not read its files")
        };
        let _turn = self.shared.reads.acquire().await.map_err(|error| failed(&error))?;
        let ca = self.shared.parts.ca.clone();
        tokio::task::spawn_blocking(move || read(&ca)).await.map_err(|error| failed(&error))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut held = self.shared.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.all = held.all.saturating_sub(1);
        if let Some(of_node) = held.of_node.get_mut(&self.node) {
            *of_node -= 1;
            if *of_node == 0 {
                held.of_node.remove(&self.node);
            }
        }
    }
}

/// What a request says, or the answer to one that does not parse
pub(super) type Read<T> = Result<T, Answer>;

pub(super) fn read<T: Message + Default>(body: &[u8]) -> Read<T> {
    T::decode(body).map_err(|error| {
        let message = format!("the request is not of this method's schema: {error}");
        Answer::refused(CallStatus::Invalid, "malformed_request", message)
    })
}

/// The part of `whole` that begins at `offset`
pub(super) fn part(whole: &[u8], offset: u64) -> Result<Vec<u8>, Answer> {
    let rest = usize::try_from(offset).ok().and_then(|offset| whole.get(offset..));
    let rest = rest.ok_or_else(|| {
        Answer::refused(CallStatus::Invalid, "range", "the offset is behind the end")
    })?;
    Ok(rest[..rest.len().min(PART_LIMIT_BYTES)].to_vec())
}
