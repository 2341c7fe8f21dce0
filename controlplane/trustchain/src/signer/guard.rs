//! The states of issuing keys, enforced in front of the signer: a tainted key signs no leaf, a prepared one only
//! its request. Which state a key is in, and since when, is recorded in the authority's journal and decided in
//! `pinning`; this is the last door before the key.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use super::{KeyInfo, KeyName, KeyPurpose, Pending, Signer, SignerError, SignerStatus, tbs};
use crate::pinning::{AuthorityState, Purpose};

/// What an issuing key is asked to sign, by its first octets
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Message {
    /// TBSCertificate: begins with the explicit version (RFC 5280 section 4.1)
    Certificate,
    /// TBSCertList: begins with version 2, an INTEGER (RFC 5280 section 5.1)
    Crl,
    /// CertificationRequestInfo: begins with version 1, the INTEGER 0 (RFC 2986 section 4.1)
    Request,
    /// A message of this crate's own domain, as deny-lists are
    Domain,
}

impl Message {
    /// None for what is nothing of these
    pub fn of(message: &[u8]) -> Option<Self> {
        if message.starts_with(KeyPurpose::DOMAIN) {
            return Some(Self::Domain);
        }
        match tbs::content(message)? {
            [0xa0, 3, 2, 1, 2, ..] => Some(Self::Certificate),
            [2, 1, 1, ..] => Some(Self::Crl),
            [2, 1, 0, ..] => Some(Self::Request),
            _ => None,
        }
    }

    /// Whether an issuing key in that state signs it. A request proves possession to the root and gives nobody
    /// anything, so a key signs it until it is revoked.
    pub fn allowed(self, state: AuthorityState) -> bool {
        match self {
            Self::Certificate => state.may_sign(Purpose::Leaf),
            Self::Crl => state.may_sign(Purpose::Crl),
            Self::Domain => state.may_sign(Purpose::DenyList),
            Self::Request => state != AuthorityState::Revoked,
        }
    }
}

/// A step that does not follow
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("key `{key}` is {from} and cannot become {to}; no key comes back, prepare another")]
pub struct StateRefusal {
    /// The key
    pub key: KeyName,
    /// Where it stands
    pub from: AuthorityState,
    /// What was asked for
    pub to: AuthorityState,
}

/// A signer that knows the states of its issuing keys. A key without a state is prepared: it signs its request
/// and nothing else. Log keys have no states.
#[derive(Debug)]
pub struct StateGuard {
    signer: Arc<dyn Signer>,
    states: RwLock<BTreeMap<KeyName, AuthorityState>>,
}

impl StateGuard {
    /// In front of `signer`, with the states on record
    pub fn new(signer: Arc<dyn Signer>, states: BTreeMap<KeyName, AuthorityState>) -> Self {
        Self { signer, states: RwLock::new(states) }
    }

    /// Where a key stands
    pub fn state(&self, name: &KeyName) -> AuthorityState {
        let states = self.states.read().unwrap_or_else(PoisonError::into_inner);
        states.get(name).copied().unwrap_or(AuthorityState::Prepared)
    }

    /// Takes a step of a key's life. Signatures that are under way end as they began.
    pub fn set_state(&self, name: &KeyName, to: AuthorityState) -> Result<(), StateRefusal> {
        let mut states = self.states.write().unwrap_or_else(PoisonError::into_inner);
        let from = states.get(name).copied().unwrap_or(AuthorityState::Prepared);
        if from != to && !from.next().contains(&to) {
            return Err(StateRefusal { key: name.clone(), from, to });
        }
        states.insert(name.clone(), to);
        Ok(())
    }
}

impl Signer for StateGuard {
    fn key(&self, name: &KeyName) -> Option<KeyInfo> {
        self.signer.key(name)
    }

    fn keys(&self) -> Vec<KeyInfo> {
        self.signer.keys()
    }

    fn sign(&self, name: &KeyName, message: Vec<u8>) -> Pending<Vec<u8>> {
        if name.purpose() == KeyPurpose::Issuing {
            let state = self.state(name);
            let refusal = match Message::of(&message) {
                Some(kind) if kind.allowed(state) => None,
                Some(kind) => Some(SignerError::Refused(format!(
                    "key `{name}` is {state} and signs no {}",
                    match kind {
                        Message::Certificate => "certificate",
                        Message::Crl => "CRL",
                        Message::Request => "request",
                        Message::Domain => "deny-list",
                    }
                ))),
                None => Some(SignerError::Purpose(name.to_string())),
            };
            if let Some(refusal) = refusal {
                return Box::pin(std::future::ready(Err(refusal)));
            }
        }
        self.signer.sign(name, message)
    }

    fn create_key(&self, name: &KeyName) -> Pending<KeyInfo> {
        self.signer.create_key(name)
    }

    fn status(&self) -> Pending<SignerStatus> {
        self.signer.status()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, Issuer};

    use super::AuthorityState::{Active, Prepared, Revoked, Tainted};
    use super::*;
    use crate::keys::{KeyKind, KeyPair};
    use crate::signer::{NamedKey, TbsCapture, block_on, testing};

    #[test]
    fn each_state_signs_what_its_row_says() {
        let directory = tempfile::tempdir().unwrap();
        let pool = testing::soft(directory.path());
        let guard = Arc::new(StateGuard::new(pool, BTreeMap::new()));
        let issuing = KeyName::issuing();
        let public = guard.key(&issuing).unwrap();

        let leaf = KeyPair::generate(KeyKind::P256).unwrap();
        let issuer = Issuer::new(CertificateParams::default(), TbsCapture::new(public.clone()));
        let mut params = CertificateParams::default();
        params.serial_number = Some(vec![7].into());
        params.signed_by(&leaf, &issuer).unwrap();
        let certificate = issuer.key().take().unwrap();
        let capture = TbsCapture::new(public);
        CertificateParams::default().serialize_request(&capture).unwrap();
        let request = capture.take().unwrap();
        let crl = [0x30, 3, 2, 1, 1].to_vec();
        let deny = b"stoq-trustchain deny-list v1".to_vec();
        let messages = [certificate, crl, deny, request];
        let kinds = [Message::Certificate, Message::Crl, Message::Domain, Message::Request];
        assert_eq!(messages.each_ref().map(|message| Message::of(message)), kinds.map(Some));

        let signs = |state: AuthorityState| {
            guard.set_state(&issuing, state).unwrap();
            messages
                .each_ref()
                .map(|message| block_on(guard.sign(&issuing, message.clone())).is_ok())
        };
        assert_eq!(signs(Prepared), [false, false, false, true]);
        assert_eq!(signs(Active), [true, true, true, true]);
        assert_eq!(signs(Tainted), [false, true, true, true]);
        assert_eq!(signs(Revoked), [false, false, false, false]);
        let back = guard.set_state(&issuing, Active).unwrap_err();
        assert_eq!((back.from, back.to), (Revoked, Active));
        // The log's key has no states.
        let guard: Arc<dyn Signer> = guard;
        let log = NamedKey::new(guard, &KeyName::log()).unwrap();
        assert!(log.sign_blocking(&[0, 1, 2]).is_ok());
    }
}
