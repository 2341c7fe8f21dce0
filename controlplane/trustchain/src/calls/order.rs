//! Orders of operators: what one signs with the key of an operator's certificate so that an authority elsewhere
//! carries a call out, over whatever node's session it comes. Making one and telling whether one is genuine; what
//! it leads to is in `operate`.

use std::time::SystemTime;

use prost::Message;
use rcgen::SigningKey as _;
use stoq_interface::NodeId;

use super::wire;
use crate::certificate::unix_seconds;
use crate::chain::is_signed_with;
use crate::keys::KeyPair;

/// What is signed begins with this
const DOMAIN: &[u8] = b"stoq-trustchain operator-order v1\0";
/// Octets of an order's own number
pub(super) const NONCE_BYTES: usize = 16;
/// Octets of the longest signature: ECDSA-Sig-Value over P-256
const SIGNATURE_LIMIT_BYTES: usize = 80;

/// Why no order can be made
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// The certificate is for another key
    #[error("the operator's certificate is not for this key")]
    Mismatch,
    /// The certificate does not parse
    #[error("the operator's certificate: {0}")]
    Certificate(#[from] crate::certificate::CertificateError),
    /// The key
    #[error("the operator's key: {0}")]
    Key(#[from] crate::keys::KeyError),
    /// BoringSSL failed
    #[error("the order could not be signed: {0}")]
    Signing(String),
}

/// An operator's certificate and key, which sign orders. The key stays with whoever gives the orders: no daemon
/// has it.
#[derive(Debug)]
pub struct Operator {
    certificate_der: Vec<u8>,
    key: KeyPair,
}

impl Operator {
    /// Takes a certificate and its key
    pub fn new(certificate_der: Vec<u8>, key: KeyPair) -> Result<Self, OrderError> {
        if crate::certificate::parse(&certificate_der)?.public_key().raw != key.spki_der()? {
            return Err(OrderError::Mismatch);
        }
        Ok(Self { certificate_der, key })
    }

    /// Signs an order: have `authority` carry out `method` with this request, which comes over a session of
    /// `node`. It is good for five minutes and once.
    pub fn order(
        &self,
        authority: &NodeId,
        node: &NodeId,
        method: &str,
        request: &impl Message,
        now: SystemTime,
    ) -> Result<wire::OperateRequest, OrderError> {
        let nonce: [u8; NONCE_BYTES] = rand::random();
        let order = wire::OperatorOrder {
            authority: authority.to_string(),
            node: node.to_string(),
            method: method.to_owned(),
            request: request.encode_to_vec(),
            signed_at: unix_seconds(now),
            nonce: nonce.to_vec(),
        };
        let order = order.encode_to_vec();
        let signature = self.key.sign(&message(&order));
        let signature = signature.map_err(|error| OrderError::Signing(error.to_string()))?;
        Ok(wire::OperateRequest { order, certificate: self.certificate_der.clone(), signature })
    }
}

/// Whether an order was signed with a key, SubjectPublicKeyInfo in DER
pub(super) fn is_genuine(request: &wire::OperateRequest, spki_der: &[u8]) -> bool {
    request.signature.len() <= SIGNATURE_LIMIT_BYTES
        && is_signed_with(spki_der, &message(&request.order), &request.signature)
}

fn message(order: &[u8]) -> Vec<u8> {
    [DOMAIN, order].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::KeyKind;

    fn certificate(key: &KeyPair) -> Vec<u8> {
        let mut params = rcgen::CertificateParams::default();
        params.serial_number = Some(1u64.into());
        params.self_signed(key).unwrap().der().to_vec()
    }

    #[test]
    fn an_order_is_genuine_as_it_was_signed_and_only_so() {
        let [key, other] = [(); 2].map(|()| KeyPair::generate(KeyKind::P256).unwrap());
        let spki = key.spki_der().unwrap();
        let (alpha, beta) = (NodeId::new("alpha").unwrap(), NodeId::new("beta").unwrap());
        let request = wire::RevokeRequest { reason: 1, ..wire::RevokeRequest::default() };
        let der = certificate(&key);
        assert!(matches!(Operator::new(der.clone(), other), Err(OrderError::Mismatch)));
        let ana = Operator::new(der, key).unwrap();
        let sign = || ana.order(&alpha, &beta, "trustchain/revoke", &request, SystemTime::now());
        let order = sign().unwrap();
        assert!(is_genuine(&order, &spki));
        assert_ne!(order.order, sign().unwrap().order, "each order has a number of its own");
        for at in [0, order.order.len() / 2, order.order.len() - 1] {
            let mut changed = order.clone();
            changed.order[at] ^= 1;
            assert!(!is_genuine(&changed, &spki));
        }
        let long = wire::OperateRequest { signature: vec![0; 4_096], ..order.clone() };
        assert!(!is_genuine(&long, &spki));
        let stranger = KeyPair::generate(KeyKind::P256).unwrap();
        assert!(!is_genuine(&order, &stranger.spki_der().unwrap()));
        assert!(!is_genuine(&order, b"no key"));
    }
}
