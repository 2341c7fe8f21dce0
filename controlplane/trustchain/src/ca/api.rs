//! What the certificate authority is asked and what it answers: requests, answers, refusals and the handle
//! [`Ca`]. Plain values; nothing here decides, and no protocol is known here. HTTP, calls over STOQ and the
//! operator's socket all come through this one door.

use std::fmt;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use stoq_interface::{NodeId, TrustAnchor};
use stoq_store::Records;
use stoq_store::journal::JournalCounters;
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::authority::IssuingAuthority;
use super::entry::Entry;
use super::issuing_keys::IssuingKey;
use super::profile::Profiles;
use super::service::Service;
use crate::certificate::Fingerprint;
use crate::csr::CsrError;
use crate::log::serve::Served;
use crate::log::{DurableHead, LogVerifier, ProofBundle};
use crate::rotation::RenewalWindow;

/// Octets of the longest idempotency key
pub const IDEMPOTENCY_KEY_LIMIT_BYTES: usize = 64;
/// Octets of the longest consensus proof. A receipt shows every change of the validators since the genesis, of 0.7 kB with
/// four of them and 1.2 kB with ten.
pub const CONSENSUS_PROOF_LIMIT_BYTES: usize = 512 << 10;
/// How far the clock of a node that proves itself with its enrolled key may be off
pub const STATEMENT_TOLERANCE: Duration = Duration::from_secs(300);

/// Where time comes from: the host's clock, or a test's
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// What shows who asks. Whoever makes one has done what its comment says.
#[derive(Clone)]
pub enum Credential {
    /// A join token, for the first certificate of a node. It is used up by the same group of journal entries
    /// that issues the certificate: of a token that was used there is a certificate, and the same request
    /// again gets it.
    Token {
        /// The token's public name
        id: String,
        /// What proves it
        secret: Zeroizing<[u8; 32]>,
    },
    /// The certificate in force. The transport has verified that the peer holds its key (a TLS handshake);
    /// everything else (who issued it, whether it is in force or revoked) is checked here.
    Certificate {
        /// The leaf
        leaf_der: Vec<u8>,
    },
    /// The key that a node enrolled with, when no certificate in force is left. `signature` is ECDSA with
    /// SHA-256, in DER, over [`enrolled_key_statement`].
    EnrolledKey {
        /// The node
        node: NodeId,
        /// When the statement was signed, in seconds since 1970
        signed_at: u64,
        /// The signature
        signature: Vec<u8>,
    },
    /// The operator of this host, let in by the socket's permissions
    Operator {
        /// Who, for the audit log
        name: String,
    },
    /// An operator elsewhere, whose signed order was judged before
    Order {
        /// Who, for the audit log
        name: String,
    },
}

/// Whom a certificate of this authority was issued to
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Holder {
    /// Name of the profile
    pub profile: String,
    /// The registered name
    pub subject: String,
}

impl Credential {
    /// The label used in logs, metrics and the audit log
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Token { .. } => "token",
            Self::Certificate { .. } => "certificate",
            Self::EnrolledKey { .. } => "enrolled_key",
            Self::Operator { .. } => "operator",
            Self::Order { .. } => "order",
        }
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// What a node signs with its enrolled key to be certified again: `instance` is the authority's, so that the
/// statement is worth nothing elsewhere, and the request is part of it, so that it is worth nothing for another
/// key.
pub fn enrolled_key_statement(
    instance: &NodeId,
    node: &NodeId,
    csr_der: &[u8],
    signed_at: u64,
) -> Vec<u8> {
    let mut statement = b"stoq-trustchain enrolled-key v1\0".to_vec();
    for name in [instance, node] {
        statement.extend_from_slice(name.as_str().as_bytes());
        statement.push(0);
    }
    statement.extend_from_slice(&signed_at.to_be_bytes());
    statement.extend_from_slice(&boring::sha::sha256(csr_der));
    statement
}

/// A request for a certificate
#[derive(Clone, Debug)]
pub struct IssueRequest {
    /// Name of the profile: `node`, `service`, `asset`, `dns-server`, `operator`
    pub profile: String,
    /// Whom the certificate is for. `None` is whoever the credential names. `Some` needs a registration whose
    /// owner the credential names, or the operator.
    pub subject: Option<String>,
    /// PKCS #10 in DER. Only its key is used: names and extensions come from the registry.
    pub csr_der: Vec<u8>,
    /// Who asks
    pub credential: Credential,
    /// The caller's own key for this request, at most [`IDEMPOTENCY_KEY_LIMIT_BYTES`]; may be empty. Together
    /// with the hash of the public key and the profile it makes the request: the same request again gets the
    /// certificate it got before, within [`super::Limits::remembered_requests`].
    pub idempotency_key: Vec<u8>,
    /// Agreement of the validators, where the authority demands it
    pub consensus_proof: Option<Vec<u8>>,
    /// Where the node says it listens for STOQ, for dialling it; counts with a token and in renewals of nodes
    pub stoq_address: Option<SocketAddrV6>,
    /// When the certificate begins
    pub activation: Activation,
}

/// When a certificate begins
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Activation {
    /// Now, less the profile's tolerance for slow clocks
    Now,
    /// When the certificate of the credential reaches the profile's activation age (23 h), less the tolerance:
    /// what would be issued then. Only for renewals of the credential's own certificate. Where that moment is
    /// past, or further ahead than the profile allows, the same as `Now`.
    Successor,
}

/// A certificate that was issued: it is in the journal and in the log, and carries the log's SCT
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct IssuedCertificate {
    /// The certificate
    pub certificate_der: Vec<u8>,
    /// The issuing authority's
    pub issuing_der: Vec<u8>,
    /// The root's
    pub root_der: Vec<u8>,
    /// Serial number, lower-case hexadecimal without leading zero octets
    pub serial: String,
    /// Name of the profile
    pub profile: String,
    /// Whom it names, without zone
    pub subject: String,
    /// First instant of validity
    pub not_before: SystemTime,
    /// Last instant of validity
    pub not_after: SystemTime,
    /// Index in the transparency log
    pub leaf_index: u64,
    /// The SCT's time, in milliseconds since 1970
    pub timestamp_ms: u64,
    /// When the authority would like it renewed (RFC 9773 section 4.2)
    pub window: RenewalWindow,
    /// The journal entry that issued it
    pub sequence: u64,
    /// The same request had been answered before, and this is that certificate
    pub repeated: bool,
}

/// The authority's suggestion for a certificate's renewal (RFC 9773 section 4.2)
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RenewalInformation {
    /// When to renew; a window that is past means at once
    pub window: RenewalWindow,
    /// When to ask again (RFC 9773 section 4.3)
    pub retry_after: Duration,
}

/// Something that certificates may name, registered by an operator. Nodes are registered by enrolling; an
/// operator can register one before, with its addresses, as a token does.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Registration {
    /// Name of the profile its certificates have
    pub profile: String,
    /// Its name, one label
    pub subject: String,
    /// The node whose certificate asks for its certificates; `None`: the operator alone
    pub owner: Option<NodeId>,
    /// Addresses its certificates carry
    pub addresses: Vec<Ipv6Addr>,
    /// Whether its certificates carry the profile's alternative names as well (`api.<service>...`)
    pub alternative_names: bool,
}

/// One enrolled node
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EnrolledNode {
    /// The node
    pub node: NodeId,
    /// Where it says it listens for STOQ; for dialling, and proven only by its certificate when dialled
    pub address: SocketAddrV6,
    /// Serial of its certificate, lower-case hexadecimal
    pub serial: String,
    /// SHA-256 of its SubjectPublicKeyInfo, hexadecimal
    pub spki_sha256: String,
    /// Last second of validity, since 1970
    pub not_after: u64,
}

/// Why nothing was issued or done
#[derive(Clone, Debug, thiserror::Error)]
pub enum Refusal {
    /// Too much is under way, or this caller asks too often
    #[error("the authority is busy; try again in {} ms", retry_after.as_millis())]
    Busy {
        /// When to try again
        retry_after: Duration,
    },
    /// A field of the request is not one
    #[error("{0}")]
    Malformed(String),
    /// There is no such profile
    #[error("there is no certificate profile `{0}`; `stoqctl ca profiles` lists them")]
    UnknownProfile(String),
    /// The request's key
    #[error(transparent)]
    Csr(Arc<CsrError>),
    /// No such token, now or ever
    #[error("the token is not known here; it may be for another authority, or withdrawn")]
    TokenUnknown,
    /// It was used before, by another request
    #[error("the token was used before; ask for a new one (the node's key is kept)")]
    TokenUsed,
    /// It is too late
    #[error("the token has expired; ask for a new one")]
    TokenExpired,
    /// The credential does not show what it should
    #[error("not authenticated: {0}")]
    Unauthenticated(&'static str),
    /// The certificate or key of the credential was revoked
    #[error("the certificate or key shown was revoked")]
    Revoked,
    /// Who asks may not have this
    #[error("not permitted: {0}")]
    NotPermitted(&'static str),
    /// Nothing of that name is registered
    #[error("{profile} `{subject}` is not registered; an operator registers it first")]
    NotRegistered {
        /// Name of the profile
        profile: String,
        /// The name
        subject: String,
    },
    /// The key is somebody else's
    #[error("another holder is certified with this key; make a new key")]
    KeyInUse,
    /// The registry is full
    #[error("the registry is full; remove what is no longer there")]
    RegistryFull,
    /// Agreement is demanded and was not shown
    #[error("the validators' agreement is refused: {0}")]
    Consensus(String),
    /// Agreement is demanded, and the validators do not answer
    #[error("the validators' agreement cannot be had now: {0}; try again")]
    NoConsensus(String),
    /// The authority itself may not issue now
    #[error("the authority does not issue: {0}")]
    NotIssuing(String),
    /// What was made does not say what was ordered
    #[error("the certificate failed its last check in field `{0}` and was thrown away")]
    Lint(&'static str),
    /// The signer did not sign
    #[error(transparent)]
    Signer(#[from] crate::signer::SignerError),
    /// The clock shows less than before
    #[error("the clock of the authority went back; nothing is issued until it is right again")]
    ClockWentBack,
    /// No space is left
    #[error("the authority's disk is full; nothing is issued until there is space")]
    NoSpace,
    /// A write failed before
    #[error("the authority has stopped ({0}); its operator finds why in its log")]
    Stopped(String),
    /// Something of this host failed
    #[error("the authority could not do it: {0}")]
    Internal(String),
}

/// Whose turn it is after a refusal
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Blame {
    /// The request is wrong and will be the next time
    Caller,
    /// The credential is not good
    Credential,
    /// Later it may work
    Later,
    /// This host's fault: the reason is for its log, not for a stranger
    Host,
}

impl Refusal {
    /// A word for machines; stable
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Busy { .. } => "busy",
            Self::Malformed(_) => "malformed_request",
            Self::UnknownProfile(_) => "unknown_profile",
            Self::Csr(_) => "csr_refused",
            Self::TokenUnknown => "token_unknown",
            Self::TokenUsed => "token_used",
            Self::TokenExpired => "token_expired",
            Self::Unauthenticated(_) => "unauthenticated",
            Self::Revoked => "revoked",
            Self::NotPermitted(_) => "not_permitted",
            Self::NotRegistered { .. } => "not_registered",
            Self::KeyInUse => "key_in_use",
            Self::RegistryFull => "registry_full",
            Self::Consensus(_) => "consensus_refused",
            Self::NoConsensus(_) => "consensus_unavailable",
            Self::NotIssuing(_) => "not_issuing",
            Self::Lint(_) => "lint",
            Self::Signer(_) => "signer",
            Self::ClockWentBack => "clock_went_back",
            Self::NoSpace => "no_space",
            Self::Stopped(_) => "stopped",
            Self::Internal(_) => "not_issued",
        }
    }

    /// Whose turn it is
    pub fn blame(&self) -> Blame {
        match self {
            Self::Malformed(_)
            | Self::UnknownProfile(_)
            | Self::Csr(_)
            | Self::NotPermitted(_)
            | Self::NotRegistered { .. }
            | Self::KeyInUse => Blame::Caller,
            Self::TokenUnknown
            | Self::TokenUsed
            | Self::TokenExpired
            | Self::Unauthenticated(_)
            | Self::Revoked
            | Self::Consensus(_) => Blame::Credential,
            Self::Busy { .. }
            | Self::NoConsensus(_)
            | Self::NoSpace
            | Self::ClockWentBack
            | Self::RegistryFull => Blame::Later,
            Self::Signer(error) if error.is_transient() => Blame::Later,
            Self::NotIssuing(_)
            | Self::Lint(_)
            | Self::Signer(_)
            | Self::Stopped(_)
            | Self::Internal(_) => Blame::Host,
        }
    }

    /// When to try again, where that makes sense. Callers that are told the same wait come back together: add
    /// jitter.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy { retry_after } => Some(*retry_after),
            Self::Signer(crate::signer::SignerError::Busy { retry_after, .. }) => {
                Some(*retry_after)
            }
            Self::NoConsensus(_) => Some(Duration::from_secs(2)),
            _ if self.blame() == Blame::Later => Some(Duration::from_secs(30)),
            _ => None,
        }
    }
}

/// How the authority is
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CaStatus {
    /// Name of this instance
    pub instance: NodeId,
    /// `production` or `development`
    pub mode: &'static str,
    /// Why nothing is issued; `None` where all is well
    pub not_issuing: Option<String>,
    /// Fingerprint of the root
    pub root: Fingerprint,
    /// Key identifier of the issuing key, hexadecimal
    pub issuing_key_id: String,
    /// Last instant of the issuing certificate
    pub issuing_not_after: SystemTime,
    /// Certificates issued, ever
    pub issued: u64,
    /// Certificates issued since the start
    pub issued_since_start: u64,
    /// Requests answered from memory since the start
    pub repeated_since_start: u64,
    /// Refusals since the start, by code
    pub refused_since_start: Vec<(&'static str, u64)>,
    /// Requests under way
    pub in_flight: usize,
    /// Requests that may be under way
    pub in_flight_limit: usize,
    /// Revoked certificates and keys that are remembered
    pub revoked: usize,
    /// Enrolled nodes
    pub nodes: usize,
    /// Last durable entry of the journal
    pub journal_sequence: u64,
    /// What the journal has done since the start
    pub journal: JournalCounters,
    /// Entries that are in the log for good
    pub log_entries: u64,
    /// Entries under the published checkpoint
    pub log_published: u64,
    /// When that was signed, in milliseconds since 1970
    pub log_published_ms: Option<u64>,
    /// Why nothing is published; `None` where all is well
    pub log_problem: Option<String>,
    /// Last journal entry the records reflect; `None` where there are no records
    pub records_sequence: Option<u64>,
}

/// A certificate authority that runs. Cheap to clone. Methods that are not `async` do not wait, unless they say
/// that they read files.
#[derive(Clone)]
pub struct Ca {
    pub(super) service: Arc<Service>,
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ca({})", self.service.instance())
    }
}

impl Ca {
    /// Issues a certificate, or returns the one that the same request got before. When this returns a
    /// certificate, it is durable in the journal and in the log. A caller that stops waiting may have one
    /// issued all the same; it gets that one by asking the same again.
    pub async fn issue(&self, request: IssueRequest) -> Result<IssuedCertificate, Refusal> {
        self.service.issue(request).await
    }

    /// The proof that an entry is in the log, as soon as a published checkpoint covers it: within a second of
    /// [`Self::issue`]. Waits for that, but no longer than `patience`; `None` then, and for an index that does
    /// not exist. Encode it with [`ProofBundle::encode`] (C2SP tlog-proof).
    pub async fn inclusion_proof(
        &self,
        leaf_index: u64,
        patience: Duration,
    ) -> Result<Option<ProofBundle>, Refusal> {
        self.service.inclusion_proof(leaf_index, patience).await
    }

    /// Whose certificate this is: one of this authority or of one under the same root, in force, not revoked, and of
    /// something that is registered here. That whoever shows it holds its key is for the caller to see.
    pub fn holder_of(&self, leaf_der: &[u8]) -> Result<Holder, Refusal> {
        self.service.holder_of(leaf_der)
    }

    /// Where a certificate of this authority is in the log; `None` for serials not issued here or long ended.
    /// Serial: hexadecimal.
    pub fn leaf_index(&self, serial: &str) -> Option<u64> {
        self.service.leaf_index(serial)
    }

    /// When a certificate of this authority should be renewed; `None` for serials not issued here or ended.
    /// Serial: hexadecimal.
    pub fn renewal_information(&self, serial: &str) -> Option<RenewalInformation> {
        self.service.renewal_information(serial)
    }

    /// Moves the renewal of everything issued up to now to `window`, for instance before the issuing key is
    /// revoked. Durable when this returns.
    pub async fn renew_all(&self, window: RenewalWindow) -> Result<(), Refusal> {
        self.service.renew_all(window).await
    }

    /// Registers something certificates may name, or changes its registration. Durable when this returns.
    pub async fn register(&self, registration: Registration) -> Result<(), Refusal> {
        self.service.register(registration).await
    }

    /// Takes a registration or an enrolled node back: no certificate is issued to it any more. What it has is
    /// not revoked by this. `false` where there was none. Durable when this returns.
    pub async fn unregister(&self, profile: &str, subject: &str) -> Result<bool, Refusal> {
        self.service.unregister(profile, subject).await
    }

    /// All registrations, nodes as well, by profile and name
    pub fn registrations(&self) -> Vec<Registration> {
        self.service.registrations()
    }

    /// The enrolled nodes by name, with what their latest certificate is and where they say they listen
    pub fn nodes(&self) -> Vec<EnrolledNode> {
        self.service.nodes()
    }

    /// One enrolled node
    pub fn node(&self, node: &NodeId) -> Option<EnrolledNode> {
        self.service.node(node)
    }

    /// Appends entries of other parts (revocations, audit, CRL numbers) to the authority's journal, all or
    /// none, durable when this returns the sequence of the first. Revocations count from then on for whoever
    /// shows such a certificate here; a node of which a certificate or the enrolled key was revoked, for any
    /// reason but superseded, gets nothing more until it enrols with a new token.
    ///
    /// [`Entry::Log`] and [`Entry::Issued`] are refused: only the pipeline writes them.
    pub async fn append(&self, entries: Vec<Entry>) -> Result<u64, Refusal> {
        self.service.append(entries).await
    }

    /// Whether a certificate or its key is revoked, by what the journal says
    pub fn is_revoked(&self, serial: &str, spki_sha256: &[u8; 32]) -> bool {
        self.service.is_revoked(serial, spki_sha256)
    }

    /// From now on nothing is issued (`Some`, with the reason) or issued again (`None`). Not durable: who
    /// holds the state of the issuing key says so at each start.
    pub fn set_not_issuing(&self, reason: Option<String>) {
        self.service.set_not_issuing(reason);
    }

    /// What this authority says of itself, signed ([`crate::mesh`]): for nodes and authorities that are to know it.
    /// `stoq_address` is where its node listens for STOQ. Durable when this returns.
    pub async fn state_itself(
        &self,
        stoq_address: Option<SocketAddrV6>,
    ) -> Result<Vec<u8>, Refusal> {
        self.service.state_itself(stoq_address).await
    }

    /// The certificates of the other authorities under the same root whose nodes are served here as well. Whoever
    /// names one sees to it that what that authority revokes is revoked here.
    pub fn set_siblings(&self, siblings: Vec<Vec<u8>>) {
        self.service.set_siblings(siblings);
    }

    /// The issuing authority in force: its certificate, root and key. Another key may take over at any time.
    pub fn authority(&self) -> Arc<IssuingAuthority> {
        self.service.authority()
    }

    /// The issuing authority as the data plane trusts it
    pub fn trust_anchor(&self) -> TrustAnchor {
        self.service.authority().trust_anchor()
    }

    /// The issuing keys of this instance, those taken in first before the others. They are taken in and taken from
    /// state to state by [`super::keys::IssuingKeys`].
    pub fn issuing_keys(&self) -> Vec<IssuingKey> {
        self.service.issuing_keys()
    }

    /// Changes with each step of an issuing key
    pub fn issuing_keys_changed(&self) -> watch::Receiver<u64> {
        self.service.issuing_keys_changed()
    }

    /// The certificate of an issuing key of this instance, whatever state it is in; by its identifier, hexadecimal
    pub fn issuing_certificate(&self, key_id: &str) -> Option<Vec<u8>> {
        self.service.issuing_certificate(key_id)
    }

    /// The profiles in force
    pub fn profiles(&self) -> &Profiles {
        self.service.profiles()
    }

    /// Name of this instance
    pub fn instance(&self) -> &NodeId {
        self.service.instance()
    }

    /// The log's identity: origin and public key. What the data plane needs to verify SCTs.
    pub fn log(&self) -> &LogVerifier {
        self.service.log()
    }

    /// The published checkpoint; it changes with each publication
    pub fn checkpoint(&self) -> watch::Receiver<Option<DurableHead>> {
        self.service.checkpoint()
    }

    /// A published file of the log by its path below the log's prefix (`checkpoint`, `tile/...`, `issuer/...`);
    /// `None` is "not found". Reads one file.
    pub fn log_file(&self, path: &str) -> Result<Option<Served>, Refusal> {
        self.service.log_file(path)
    }

    /// The journal's last durable entry; it changes with each group
    pub fn committed(&self) -> watch::Receiver<u64> {
        self.service.committed()
    }

    /// The inventory, which follows the journal; `None` where the authority runs without
    pub fn records(&self) -> Option<Arc<dyn Records>> {
        self.service.records()
    }

    /// Waits until the inventory reflects everything that was durable when this was called
    pub async fn records_caught_up(&self) -> Result<(), Refusal> {
        self.service.records_caught_up().await
    }

    /// How it is
    pub fn status(&self) -> CaStatus {
        self.service.status()
    }

    /// The time, as the authority sees it
    pub fn now(&self) -> SystemTime {
        self.service.now()
    }

    /// Stops: refuses what comes, finishes what is under way, signs a last checkpoint, closes the journal.
    /// The error is what could not be finished; nothing that was delivered depends on it.
    pub async fn close(&self) -> Result<(), Refusal> {
        self.service.close().await
    }
}
