//! Calls that only operators make: an order, signed with the key of an operator's certificate, that a node passes
//! on over its session. Who signed, whether it is for here, fresh, and permitted is decided here; then the call is
//! carried out as if its operator stood before this host.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prost::Message;
use stoq_interface::{CallStatus, NodeId};

use super::answer::Answer;
use super::desk::{Call, PREFIX, Read, read};
use super::order::{NONCE_BYTES, is_genuine};
use super::wire;
use crate::audit::{AuditEvent, AuditKind};
use crate::ca::api::STATEMENT_TOLERANCE;
use crate::ca::{Credential, Registration};
use crate::certificate::{self, unix_seconds};
use crate::log::CERTIFICATE_LIMIT_BYTES;

/// The profile of people who operate the mesh
pub const OPERATOR_PROFILE: &str = "operator";
/// Orders that are remembered, so that none is carried out twice
const ORDERS_LIMIT: usize = 4_096;
/// When to come again where that many are
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// Whose orders are carried out
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Operators {
    /// Nobody's
    #[default]
    Nobody,
    /// Everybody's who has a certificate of the profile `operator` from this authority, in force
    Certified,
    /// Of those, the ones registered under these names
    Named(BTreeSet<NodeId>),
}

impl Operators {
    fn permit(&self, name: &str) -> bool {
        match self {
            Self::Nobody => false,
            Self::Certified => true,
            Self::Named(names) => names.contains(name),
        }
    }
}

/// Orders that were carried out, by their hash, with the second from which on they are too old by themselves
#[derive(Debug, Default)]
pub(super) struct Orders(Mutex<HashMap<[u8; 32], u64>>);

impl Orders {
    /// Notes an order; `false` where it was noted before, `None` where there is no room
    fn note(&self, order: &[u8], ends: u64, now: u64) -> Option<bool> {
        let order = boring::sha::sha256(order);
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.contains_key(&order) {
            return Some(false);
        }
        if noted.len() >= ORDERS_LIMIT {
            noted.retain(|_, ends| *ends >= now);
            if noted.len() >= ORDERS_LIMIT {
                return None;
            }
        }
        noted.insert(order, ends);
        Some(true)
    }
}

/// An order that is to be carried out
struct Ordered {
    operator: String,
    method: String,
    request: Vec<u8>,
}

impl Call<'_> {
    /// `trustchain/operate`
    pub(super) async fn operate(
        &self,
        request: Read<wire::OperateRequest>,
    ) -> Result<Answer, Answer> {
        let Ordered { operator, method, request } = self.judge(&request?)?;
        let by = format!("operator:{operator} over {}", self.asker.node);
        match method.strip_prefix(PREFIX) {
            Some("issue") => {
                let name = format!("{operator} over {}", self.asker.node);
                self.issue_as(read(&request)?, Credential::Order { name }).await
            }
            Some("revoke") => self.revoke_as(read(&request)?, by).await,
            Some("register") => self.register(read(&request)?, &by).await,
            Some("unregister") => self.unregister(read(&request)?, &by).await,
            _ => Ok(Answer::unknown()),
        }
    }

    /// Who gave the order, if it is to be carried out. What is wrong with one that its operator did sign is
    /// written down.
    fn judge(&self, request: &wire::OperateRequest) -> Result<Ordered, Answer> {
        let denied = |code: &str, text: &str| Answer::refused(CallStatus::Denied, code, text);
        let strange = || denied("unauthenticated", "this is no order of an operator");
        if request.certificate.len() > CERTIFICATE_LIMIT_BYTES {
            return Err(strange());
        }
        let leaf = certificate::parse(&request.certificate).map_err(|_| strange())?;
        let holder = self.shared.parts.ca.holder_of(&request.certificate);
        let holder = holder.map_err(|refusal| self.refused(&refusal))?;
        if !is_genuine(request, leaf.public_key().raw) {
            return Err(strange());
        }
        let order = wire::OperatorOrder::decode(request.order.as_slice()).map_err(|_| strange())?;
        let judged = self.judge_order(&request.order, &order, &holder.profile, &holder.subject);
        judged.map_err(|(code, text)| {
            let actor = format!("{}:{} over {}", holder.profile, holder.subject, self.asker.node);
            tracing::warn!(actor, method = order.method, code, "an operator's order is refused");
            let kind = AuditKind::OperatorCommand;
            let event = AuditEvent::refused(kind, &actor, &order.method, code);
            if let Err(error) = self.shared.parts.audit.submit(event) {
                tracing::warn!(%error, "a refused order is not in the audit log");
            }
            match code {
                "busy" => Answer::busy(ASK_AGAIN),
                _ => denied(code, text),
            }
        })?;
        let wire::OperatorOrder { method, request, .. } = order;
        Ok(Ordered { operator: holder.subject, method, request })
    }

    /// What a genuine order is refused for
    fn judge_order(
        &self,
        octets: &[u8],
        order: &wire::OperatorOrder,
        profile: &str,
        name: &str,
    ) -> Result<(), (&'static str, &'static str)> {
        if profile != OPERATOR_PROFILE || !self.shared.parts.policy.operators.permit(name) {
            return Err((
                "not_permitted",
                "orders of the holder of this certificate are not taken",
            ));
        }
        let (authority, node) = (self.shared.parts.ca.instance(), self.asker.node);
        if order.authority != authority.as_str() || order.node != node.as_str() {
            return Err(("misdirected", "the order is for another authority or another node"));
        }
        let now = unix_seconds(self.shared.parts.ca.now());
        let tolerance = STATEMENT_TOLERANCE.as_secs();
        // What was carried out before a restart is not remembered, so nothing from before it is taken.
        let fresh = now.abs_diff(order.signed_at) <= tolerance;
        if !fresh || order.signed_at < self.shared.began_at {
            let text = "the order was signed more than five minutes from now, or before this authority \
                        started; compare the clocks and sign it again";
            return Err(("stale", text));
        }
        if order.nonce.len() != NONCE_BYTES {
            return Err(("malformed_request", "the number of an order has 16 octets"));
        }
        match self.shared.orders.note(octets, order.signed_at + tolerance, now) {
            Some(true) => Ok(()),
            Some(false) => Err(("repeated", "this order was carried out before; sign a new one")),
            None => Err(("busy", "")),
        }
    }

    async fn register(&self, request: wire::RegisterRequest, by: &str) -> Result<Answer, Answer> {
        let malformed =
            |text: &str| Answer::refused(CallStatus::Invalid, "malformed_request", text);
        let owner = match request.owner.as_str() {
            "" => None,
            name => Some(NodeId::new(name).map_err(|error| malformed(&error.to_string()))?),
        };
        let addresses: Result<Vec<_>, _> =
            request.addresses.iter().map(|one| one.parse()).collect();
        let registration = Registration {
            profile: request.profile.clone(),
            subject: request.subject.clone(),
            owner,
            addresses: addresses.map_err(|_| malformed("addresses: IPv6"))?,
            alternative_names: request.alternative_names,
        };
        let registered = self.shared.parts.ca.register(registration).await;
        registered.map_err(|refusal| self.refused(&refusal))?;
        self.record(AuditKind::Registered, by, &request.profile, &request.subject).await;
        Ok(Answer::ok(&wire::RegisterReply {}))
    }

    async fn unregister(
        &self,
        request: wire::UnregisterRequest,
        by: &str,
    ) -> Result<Answer, Answer> {
        let wire::UnregisterRequest { profile, subject } = request;
        let was_registered = self.shared.parts.ca.unregister(&profile, &subject).await;
        let was_registered = was_registered.map_err(|refusal| self.refused(&refusal))?;
        if was_registered {
            self.record(AuditKind::Unregistered, by, &profile, &subject).await;
        }
        Ok(Answer::ok(&wire::UnregisterReply { was_registered }))
    }

    /// It is done by then: an audit log that fails is said, and not hidden behind a call that seems to have failed
    async fn record(&self, kind: AuditKind, by: &str, profile: &str, subject: &str) {
        let event = AuditEvent::done(kind, by, subject).with("profile", profile);
        if let Err(error) = self.shared.parts.audit.record(event).await {
            tracing::error!(%error, "an operator's order is not in the audit log");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_noted_once_and_forgotten_when_it_is_too_old_anyway() {
        let orders = Orders::default();
        assert_eq!(orders.note(b"one", 100, 0), Some(true));
        assert_eq!(orders.note(b"one", 100, 0), Some(false));
        for number in 1..ORDERS_LIMIT as u64 {
            assert_eq!(orders.note(&number.to_be_bytes(), 200, 0), Some(true));
        }
        assert_eq!(orders.note(b"more", 300, 100), None);
        assert_eq!(orders.note(b"more", 300, 101), Some(true), "the first has ended");
        assert_eq!(orders.note(b"more", 300, 101), Some(false));
    }

    #[test]
    fn nobody_is_an_operator_unless_the_policy_says_so() {
        assert!(!Operators::default().permit("ana"));
        assert!(Operators::Certified.permit("ana"));
        let named = Operators::Named([NodeId::new("ana").unwrap()].into());
        assert!(named.permit("ana") && !named.permit("bob"));
    }
}
