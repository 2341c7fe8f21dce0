//! Calls that change something: certificates and revocations. The authority decides about certificates; who may
//! revoke is decided here.

use std::time::Duration;

use stoq_interface::{NodeId, SPIFFE_NODE_PREFIX};
use stoq_store::records::Serial;
use x509_parser::extensions::GeneralName;

use super::answer::{Answer, Status};
use super::desk::{Call, Read};
use super::wire;
use crate::ca::revoke::{RevokeError, RevokeRequest, RevokeTarget};
use crate::ca::{
    Activation, Credential, IssueRequest, IssuedCertificate, Refusal, RenewalInformation,
};
use crate::certificate::{self, hex, unhex, unix_seconds};
use crate::csr::CSR_LIMIT_BYTES;
use crate::log::CERTIFICATE_LIMIT_BYTES;
use crate::revocation::{Reason, SerialNumber, SpkiHash};

/// The profile of whoever calls without naming one
const NODE_PROFILE: &str = "node";
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
            return Err(Answer::refused(Status::Invalid, "malformed_request", message));
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
            return Err(Answer::refused(Status::Invalid, "malformed_request", message));
        }
        self.certify(request).await
    }

    async fn certify(&self, request: wire::CertifyRequest) -> Result<Answer, Answer> {
        let malformed = |what: &str| Answer::refused(Status::Invalid, "malformed_request", what);
        if request.csr.len() > CSR_LIMIT_BYTES {
            return Err(malformed("the certificate request is too large"));
        }
        if node_of(&request.current_certificate).as_ref() != Some(self.peer) {
            let message = "current_certificate is not one of the node that asks";
            return Err(Answer::refused(Status::Denied, "unauthenticated", message));
        }
        let stoq_address = match request.stoq_address.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_| malformed("stoq_address: `[address]:port`"))?),
        };
        let or_node = |name: String| if name.is_empty() { NODE_PROFILE.to_owned() } else { name };
        let (proof, successor) = (request.consensus_proof, request.successor);
        let issued = self.shared.ca.issue(IssueRequest {
            profile: or_node(request.profile),
            subject: (!request.subject.is_empty()).then_some(request.subject),
            csr_der: request.csr,
            credential: Credential::Certificate { leaf_der: request.current_certificate },
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
        let found = self.shared.ca.renewal_information(&serial.to_string());
        let RenewalInformation { window, retry_after } = found.ok_or_else(|| {
            let message = "this authority has no certificate in force with this serial number";
            Answer::refused(Status::Denied, "not_found", message)
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
        let invalid = |what: String| Answer::refused(Status::Invalid, "malformed_request", what);
        let target = match (request.serial.as_slice(), request.spki_sha256.as_slice()) {
            (octets, []) => RevokeTarget::Certificate(serial(octets)?),
            ([], octets) => RevokeTarget::Key(
                SpkiHash::from_bytes(octets).map_err(|error| invalid(error.to_string()))?,
            ),
            _ => return Err(invalid("name a certificate or a key, not both".into())),
        };
        let reason =
            i32::try_from(request.reason).ok().and_then(|code| Reason::from_code(code).ok());
        let reason = reason.filter(|reason| reason.code() != 0);
        let reason = reason.ok_or_else(|| invalid("no such reason (RFC 5280 5.3.1)".into()))?;
        if !self.may_revoke(&target).await? {
            let message =
                "a node revokes its own certificates and key; others are an operator's to revoke";
            return Err(Answer::refused(Status::Denied, "not_permitted", message));
        }
        let revoked_by = format!("node:{}", self.peer);
        let request = RevokeRequest { target, reason, with_key: false, revoked_by };
        let receipt = self.shared.revocations.revoke(request).await;
        let receipt = receipt.map_err(|error| not_revoked(&error))?;
        Ok(Answer::ok(&wire::RevokeReply {
            epoch: receipt.epoch.unwrap_or_default(),
            revoked_at: receipt.revoked_at,
            repeated: receipt.items.iter().all(|item| item.repeated),
        }))
    }

    /// Operators revoke anything, a node what is its own
    async fn may_revoke(&self, target: &RevokeTarget) -> Result<bool, Answer> {
        if self.shared.policy.operators.permits(self.peer) {
            return Ok(true);
        }
        let Some(node) = self.shared.ca.node(self.peer) else { return Ok(false) };
        match target {
            RevokeTarget::Key(key) => Ok(node.spki_sha256 == hex(key.as_bytes())),
            RevokeTarget::Certificate(serial) if node.serial == serial.to_string() => Ok(true),
            // Not asked for over this way
            RevokeTarget::Name(_) => Ok(false),
            RevokeTarget::Certificate(serial) => {
                // Not its latest; the inventory knows the others.
                let Some(records) = self.shared.ca.records() else { return Ok(false) };
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
                        && certificate.subject_node == self.peer.as_str()
                }))
            }
        }
    }

    /// The authority's clock
    pub(super) fn authority_time_ms(&self) -> u64 {
        let since = self.shared.ca.now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn refused(&self, refusal: &Refusal) -> Answer {
        tracing::info!(peer = %self.peer, code = refusal.code(), reason = %refusal, "call refused");
        Answer::of_refusal(refusal)
    }
}

fn not_revoked(error: &RevokeError) -> Answer {
    match error {
        RevokeError::NotFound(_) => {
            Answer::refused(Status::Invalid, "not_found", error.to_string())
        }
        RevokeError::Busy => Answer::busy(ASK_AGAIN),
        _ => {
            tracing::error!(%error, "a revocation failed");
            let message = "the authority could not revoke it; its operator finds why in its log";
            Answer::refused(Status::Failed, "failed", message)
        }
    }
}

fn serial(octets: &[u8]) -> Result<SerialNumber, Answer> {
    SerialNumber::from_bytes(octets)
        .map_err(|error| Answer::refused(Status::Invalid, "malformed_request", error.to_string()))
}

/// The node a leaf names, by its one SPIFFE URI. Whether the leaf is good is the authority's to say.
fn node_of(leaf_der: &[u8]) -> Option<NodeId> {
    if leaf_der.len() > CERTIFICATE_LIMIT_BYTES {
        return None;
    }
    let parsed = certificate::parse(leaf_der).ok()?;
    let names = parsed.subject_alternative_name().ok()??;
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let (uri, none) = (uris.next()?, uris.next());
    if none.is_some() {
        return None;
    }
    NodeId::new(uri.strip_prefix(SPIFFE_NODE_PREFIX)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_spiffe_uri_names_a_node() {
        let leaf = |uris: &[&str]| {
            let mut params = rcgen::CertificateParams::default();
            params.serial_number = Some(1u64.into());
            params.subject_alt_names =
                uris.iter().map(|uri| rcgen::SanType::URI((*uri).try_into().unwrap())).collect();
            let key = crate::keys::KeyPair::generate(crate::keys::KeyKind::P256).unwrap();
            params.self_signed(&key).unwrap().der().to_vec()
        };
        let (one, two) =
            (format!("{SPIFFE_NODE_PREFIX}alpha"), format!("{SPIFFE_NODE_PREFIX}beta"));
        assert_eq!(node_of(&leaf(&[&one])), NodeId::new("alpha").ok());
        assert_eq!(node_of(&leaf(&[&one, &two])), None);
        assert_eq!(node_of(&leaf(&["https://alpha.example/"])), None);
        assert_eq!(node_of(&leaf(&[])), None);
        assert_eq!(node_of(b"no certificate"), None);
    }
}
