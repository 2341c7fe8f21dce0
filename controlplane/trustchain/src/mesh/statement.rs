//! What an authority says of itself: its name, its certificate, its log and where its node listens. Signed with the
//! issuing key, it counts wherever that key's certificate is of the trusted root, whoever passed it on.

use std::net::SocketAddrV6;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prost::Message;
use stoq_interface::{LogKey, NodeId, TrustAnchor};

use crate::calls::wire;
use crate::certificate::{self, unix_seconds};
use crate::chain::{self, ChainError};
use crate::log::{CERTIFICATE_LIMIT_BYTES, LogVerifier};
use crate::pinning::KEYS_PER_RING_LIMIT;
use crate::revocation::{KeyId, ListSigner};
use crate::signer::{KeyName, Signer, SignerError};

/// What is signed begins with this
const DOMAIN: &[u8] = b"stoq-trustchain authority-statement v1\0";
/// Octets of the certificate of one issuing key, as the root of this crate makes them, with room
const OTHER_BYTES: usize = 2 << 10;
/// Octets of the longest signed statement that is read
pub const STATEMENT_LIMIT_BYTES: usize =
    CERTIFICATE_LIMIT_BYTES + (4 << 10) + KEYS_PER_RING_LIMIT * OTHER_BYTES;
/// How far ahead of this host's clock a statement may be made
const FUTURE_TOLERANCE: Duration = Duration::from_secs(300);

/// Why a statement does not count
#[derive(Debug, thiserror::Error)]
pub enum StatementRefusal {
    /// It is no statement
    #[error("it is no statement of an authority: {0}")]
    Malformed(&'static str),
    /// Its certificate
    #[error("the authority's certificate is not accepted here: {0}")]
    Chain(#[from] ChainError),
    /// Somebody else signed it
    #[error("it is not signed with the key of its certificate")]
    BadSignature,
    /// It is of another time
    #[error("it was made in the future; compare the clocks")]
    Future,
    /// The key is known as another authority's
    #[error("its key is that of authority {0}; each authority has its own")]
    OtherInstance(NodeId),
    /// The key was revoked
    #[error("its key {0} was revoked")]
    Revoked(KeyId),
    /// There is no room
    #[error("more authorities than can be known at one time")]
    TooMany,
}

/// What an authority says of itself
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AuthorityStatement {
    /// Its name
    pub instance: NodeId,
    /// Its certificate in DER
    pub issuing_der: Vec<u8>,
    /// Those of its other issuing keys whose leaves are good: in preparation, or on their way out
    pub other_ders: Vec<Vec<u8>>,
    /// The key of its log, SubjectPublicKeyInfo in DER
    pub log_spki_der: Vec<u8>,
    /// First line of the log's checkpoints
    pub log_origin: String,
    /// Where its node listens for STOQ, if it said so
    pub stoq_address: Option<SocketAddrV6>,
    /// When it was made, in seconds since 1970
    pub stated_at: u64,
}

impl AuthorityStatement {
    /// Signs it
    pub async fn sign(
        &self,
        signer: &Arc<dyn Signer>,
        key: &KeyName,
    ) -> Result<Vec<u8>, SignerError> {
        let statement = wire::AuthorityStatement {
            instance: self.instance.to_string(),
            issuing_certificate: self.issuing_der.clone(),
            other_certificates: self.other_ders.clone(),
            log_key: self.log_spki_der.clone(),
            log_origin: self.log_origin.clone(),
            stoq_address: self.stoq_address.map(|at| at.to_string()).unwrap_or_default(),
            stated_at: self.stated_at,
        };
        let statement = statement.encode_to_vec();
        let signature = signer.sign(key, [DOMAIN, &statement].concat()).await?;
        Ok(wire::SignedAuthority { statement, signature }.encode_to_vec())
    }

    /// Reads a signed one and verifies it against the trusted root; any octets may be given
    pub fn open(signed: &[u8], root_der: &[u8], now: SystemTime) -> Result<Self, StatementRefusal> {
        use StatementRefusal::Malformed;
        if signed.len() > STATEMENT_LIMIT_BYTES {
            return Err(Malformed("it is too long"));
        }
        let signed = wire::SignedAuthority::decode(signed)
            .map_err(|_| Malformed("it is no SignedAuthority"))?;
        let read = wire::AuthorityStatement::decode(signed.statement.as_slice())
            .map_err(|_| Malformed("it is no AuthorityStatement"))?;
        let issuing_der = read.issuing_certificate;
        chain::check_issuing(&issuing_der, root_der, now)?;
        if read.other_certificates.len() > KEYS_PER_RING_LIMIT {
            return Err(Malformed("it names too many issuing keys"));
        }
        // One of another root, or that has ended, says nothing against the others.
        let mut other_ders = read.other_certificates;
        other_ders.retain(|other| chain::check_issuing(other, root_der, now).is_ok());
        let parsed = certificate::parse(&issuing_der).map_err(ChainError::from)?;
        let message = [DOMAIN, &signed.statement].concat();
        if !chain::is_signed_with(parsed.public_key().raw, &message, &signed.signature) {
            return Err(StatementRefusal::BadSignature);
        }
        let statement = Self {
            instance: NodeId::new(&read.instance)
                .map_err(|_| Malformed("its name is no LDH label"))?,
            issuing_der,
            other_ders,
            log_spki_der: read.log_key,
            log_origin: read.log_origin,
            stoq_address: address(&read.stoq_address)?,
            stated_at: read.stated_at,
        };
        LogVerifier::new(&statement.log_origin, &statement.log_spki_der)
            .map_err(|_| Malformed("its log has no P-256 key or no name"))?;
        statement.key_id()?;
        if statement.stated_at > unix_seconds(now + FUTURE_TOLERANCE) {
            return Err(StatementRefusal::Future);
        }
        Ok(statement)
    }

    /// Identifier of the issuing key
    pub fn key_id(&self) -> Result<KeyId, StatementRefusal> {
        Ok(self.list_signer()?.key_id())
    }

    /// The issuing key as that of a deny-list
    pub fn list_signer(&self) -> Result<ListSigner, StatementRefusal> {
        self.signer_of(&self.issuing_der)
    }

    /// All its issuing keys as those of a deny-list, the one that signed this first
    pub fn list_signers(&self) -> Vec<ListSigner> {
        self.certificates().filter_map(|der| self.signer_of(der).ok()).collect()
    }

    fn signer_of(&self, certificate_der: &[u8]) -> Result<ListSigner, StatementRefusal> {
        ListSigner::from_certificate(self.instance.clone(), certificate_der)
            .map_err(|_| StatementRefusal::Malformed("its key is no P-256 key"))
    }

    /// The authority as the data plane trusts it
    pub fn trust_anchor(&self) -> Result<TrustAnchor, StatementRefusal> {
        anchor_of(&self.issuing_der)
    }

    /// All its issuing keys as the data plane trusts them, the one that signed this first
    pub fn trust_anchors(&self) -> Vec<TrustAnchor> {
        self.certificates().filter_map(|der| anchor_of(der).ok()).collect()
    }

    /// The certificates of all its issuing keys, that of the one that signed this first
    pub fn certificates(&self) -> impl Iterator<Item = &Vec<u8>> {
        std::iter::once(&self.issuing_der).chain(&self.other_ders)
    }

    /// Its log as the data plane trusts it
    pub fn log_key(&self) -> LogKey {
        let spki_der = self.log_spki_der.clone();
        LogKey { log_id: boring::sha::sha256(&spki_der), spki_der }
    }

    /// Whether another one says the same, at whatever time
    pub fn says_the_same_as(&self, other: &Self) -> bool {
        Self { stated_at: other.stated_at, ..self.clone() } == *other
    }
}

fn anchor_of(certificate_der: &[u8]) -> Result<TrustAnchor, StatementRefusal> {
    let parsed = certificate::parse(certificate_der).map_err(ChainError::from)?;
    let (not_before, not_after) = certificate::validity(&parsed).map_err(ChainError::from)?;
    Ok(TrustAnchor { certificate_der: certificate_der.to_vec(), not_before, not_after })
}

fn address(text: &str) -> Result<Option<SocketAddrV6>, StatementRefusal> {
    if text.is_empty() {
        return Ok(None);
    }
    let read: Option<SocketAddrV6> = text.parse().ok();
    read.filter(|at| at.port() != 0 && !at.ip().is_unspecified() && !at.ip().is_multicast())
        .map(Some)
        .ok_or(StatementRefusal::Malformed("its address is not one that can be dialled"))
}
