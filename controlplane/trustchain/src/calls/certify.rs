//! Calls that change something: certificates and revocations. The authority decides about certificates; who may
//! revoke, and that a node shows the certificate it asked under, is decided here.

use std::time::Duration;

use stoq_interface::CallStatus;
use stoq_store::records::Serial;

use super::answer::Answer;
use super::desk::{Call, Read};
use super::wire;
use crate::ca::revoke::{RevokeError, RevokeRequest, RevokeTarget};
use crate::ca::{
    Activation, Credential, IssueRequest, IssuedCertificate, Refusal, RenewalInformation,
};
use crate::certificate::{hex, unhex, unix_seconds};
use crate::csr::CSR_LIMIT_BYTES;
use crate::revocation::{Reason, SerialNumber, SpkiHash};

/// The profile of whoever calls without naming one
const NODE_PROFILE: &str = "node";
/// Code of the refusal to a certificate that is not the connection's
pub const OTHER_CERTIFICATE: &str = "other_certificate";
/// When to ask again where a queue is full
const ASK_AGAIN: Duration = Duration::from_secs(1);

impl Call<'_> {
    /// `trustchain/issue`
    pub(super) async fn issue(
        &self,
        request: Read<wire::CertifyRequest>,
    ) -> Result<Answer, Answer> {
        let request = request?;
        if request.successor {
            let message = "a successor is asked for with trustchain/renew";
            return Err(Answer::refused(CallStatus::Invalid, "malformed_request", message));
        }
        self.certify(request).await
    }

    /// `trustchain/renew`
    pub(super) async fn renew(
        &self,
        request: Read<wire::CertifyRequest>,
    ) -> Result<Answer, Answer> {
        let request = request?;
        let own_profile = request.profile.is_empty() || request.profile == NODE_PROFILE;
        if !own_profile || !request.subject.is_empty() {
            let message =
                "a node renews its own certificate; others are asked for with trustchain/issue";
            return Err(Answer::refused(CallStatus::Invalid, "malformed_request", message));
        }
        self.certify(request).await
    }

    /// For a node, by the certificate it has made the connection with: that it holds the key of any other, its own
    /// earlier ones included, nobody has seen
    async fn certify(&self, mut request: wire::CertifyRequest) -> Result<Answer, Answer> {
        let leaf_der = std::mem::take(&mut request.current_certificate);
        if boring::sha::sha256(&leaf_der) != self.asker.certificate.sha256 {
            let message = "current_certificate is not the one this connection was made with; make a new \
                           connection and ask again";
            return Err(Answer::refused(CallStatus::Denied, OTHER_CERTIFICATE, message));
        }
        self.issue_as(request, Credential::Certificate { leaf_der }).await
    }

    /// For whoever the credential names
    pub(super) async fn issue_as(
        &self,
        request: wire::CertifyRequest,
        credential: Credential,
    ) -> Result<Answer, Answer> {
        let malformed =
            |what: &str| Answer::refused(CallStatus::Invalid, "malformed_request", what);
        if request.csr.len() > CSR_LIMIT_BYTES {
            return Err(malformed("the certificate request is too large"));
        }
        let stoq_address = match request.stoq_address.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_| malformed("stoq_address: `[address]:port`"))?),
        };
        let or_node = |name: String| if name.is_empty() { NODE_PROFILE.to_owned() } else { name };
        let (proof, successor) = (request.consensus_proof, request.successor);
        let issued = self.shared.parts.ca.issue(IssueRequest {
            profile: or_node(request.profile),
            subject: (!request.subject.is_empty()).then_some(request.subject),
            csr_der: request.csr,
            credential,
            idempotency_key: request.idempotency_key,
            consensus_proof: (!proof.is_empty()).then_some(proof),
            stoq_address,
            activation: if successor { Activation::Successor } else { Activation::Now },
        });
        let issued = issued.await.map_err(|refusal| self.refused(&refusal))?;
        Ok(Answer::ok(&self.certified(issued)))
    }

    fn certified(&self, issued: IssuedCertificate) -> wire::CertifyReply {
        wire::CertifyReply {
            chain: vec![issued.certificate_der, issued.issuing_der],
            root: issued.root_der,
            // What the authority wrote as digits
            serial: unhex(&issued.serial).unwrap_or_default(),
            not_before: unix_seconds(issued.not_before),
            not_after: unix_seconds(issued.not_after),
            leaf_index: issued.leaf_index,
            renew_from: unix_seconds(issued.window.start),
            renew_until: unix_seconds(issued.window.end),
            authority_time_ms: self.authority_time_ms(),
            repeated: issued.repeated,
        }
    }

    /// `trustchain/renewal-information`
    pub(super) fn renewal_information(
        &self,
        request: Read<wire::RenewalInformationRequest>,
    ) -> Result<Answer, Answer> {
        let serial = serial(&request?.serial)?;
        let found = self.shared.parts.ca.renewal_information(&serial.to_string());
        let RenewalInformation { window, retry_after } = found.ok_or_else(|| {
            let message = "this authority has no certificate in force with this serial number";
            Answer::refused(CallStatus::Denied, "not_found", message)
        })?;
        Ok(Answer::ok(&wire::RenewalInformationReply {
            renew_from: unix_seconds(window.start),
            renew_until: unix_seconds(window.end),
            ask_again_after_ms: u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX),
        }))
    }

    /// `trustchain/revoke`
    pub(super) async fn revoke(
        &self,
        request: Read<wire::RevokeRequest>,
    ) -> Result<Answer, Answer> {
        let request = request?;
        if !self.may_revoke(&target(&request)?).await? {
            let message =
                "a node revokes its own certificates and key; others are an operator's to revoke";
            return Err(Answer::refused(CallStatus::Denied, "not_permitted", message));
        }
        self.revoke_as(request, format!("node:{}", self.asker.node)).await
    }

    /// For whoever may
    pub(super) async fn revoke_as(
        &self,
        request: wire::RevokeRequest,
        revoked_by: String,
    ) -> Result<Answer, Answer> {
        let target = target(&request)?;
        let invalid =
            |what: String| Answer::refused(CallStatus::Invalid, "malformed_request", what);
        let reason =
            i32::try_from(request.reason).ok().and_then(|code| Reason::from_code(code).ok());
        let reason = reason.filter(|reason| reason.code() != 0);
        let reason = reason.ok_or_else(|| invalid("no such reason (RFC 5280 5.3.1)".into()))?;
        let with_key = request.with_key;
        let request = RevokeRequest { target, reason, with_key, revoked_by };
        let receipt = self.shared.parts.revocations.revoke(request).await;
        let receipt = receipt.map_err(|error| not_revoked(&error))?;
        Ok(Answer::ok(&wire::RevokeReply {
            epoch: receipt.epoch.unwrap_or_default(),
            revoked_at: receipt.revoked_at,
            repeated: receipt.items.iter().all(|item| item.repeated),
        }))
    }

    /// Some nodes revoke anything, every node what is its own
    async fn may_revoke(&self, target: &RevokeTarget) -> Result<bool, Answer> {
        if self.shared.parts.policy.revoking_nodes.permits(self.asker.node) {
            return Ok(true);
        }
        let Some(node) = self.shared.parts.ca.node(self.asker.node) else { return Ok(false) };
        match target {
            RevokeTarget::Key(key) => Ok(node.spki_sha256 == hex(key.as_bytes())),
            RevokeTarget::Certificate(serial) if node.serial == serial.to_string() => Ok(true),
            // Not asked for over this way
            RevokeTarget::Name(_) => Ok(false),
            RevokeTarget::Certificate(serial) => {
                // Not its latest; the inventory knows the others.
                let Some(records) = self.shared.parts.ca.records() else { return Ok(false) };
                let found = match Serial::new(serial.as_bytes()) {
                    Ok(serial) => records.certificate(serial).await,
                    Err(error) => Err(error),
                };
                let found = found.map_err(|error| {
                    tracing::error!(%error, "the inventory does not answer");
                    Answer::busy(ASK_AGAIN)
                })?;
                Ok(found.is_some_and(|found| {
                    let certificate = found.certificate;
                    certificate.profile == NODE_PROFILE
                        && certificate.subject_node == self.asker.node.as_str()
                }))
            }
        }
    }

    /// The authority's clock
    pub(super) fn authority_time_ms(&self) -> u64 {
        let since =
            self.shared.parts.ca.now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn refused(&self, refusal: &Refusal) -> Answer {
        tracing::info!(peer = %self.asker.node, code = refusal.code(), reason = %refusal, "call refused");
        Answer::of_refusal(refusal)
    }
}

fn not_revoked(error: &RevokeError) -> Answer {
    match error {
        RevokeError::NotFound(_) => {
            Answer::refused(CallStatus::Invalid, "not_found", error.to_string())
        }
        RevokeError::Busy => Answer::busy(ASK_AGAIN),
        _ => {
            tracing::error!(%error, "a revocation failed");
            let message = "the authority could not revoke it; its operator finds why in its log";
            Answer::refused(CallStatus::Failed, "failed", message)
        }
    }
}

/// What a request names
fn target(request: &wire::RevokeRequest) -> Result<RevokeTarget, Answer> {
    let invalid = |what: String| Answer::refused(CallStatus::Invalid, "malformed_request", what);
    let wire::RevokeRequest { serial: certificate, spki_sha256, subject, .. } = request;
    match (certificate.as_slice(), spki_sha256.as_slice(), subject.as_str()) {
        (octets, [], "") => Ok(RevokeTarget::Certificate(serial(octets)?)),
        ([], octets, "") => SpkiHash::from_bytes(octets)
            .map(RevokeTarget::Key)
            .map_err(|error| invalid(error.to_string())),
        ([], [], name) => Ok(RevokeTarget::Name(name.to_owned())),
        _ => Err(invalid("name a certificate, a key or a name, one of them".into())),
    }
}

fn serial(octets: &[u8]) -> Result<SerialNumber, Answer> {
    SerialNumber::from_bytes(octets).map_err(|error| {
        Answer::refused(CallStatus::Invalid, "malformed_request", error.to_string())
    })
}
