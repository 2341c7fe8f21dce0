//! Every operation of the admin interface: its noun and verb, its request, its reply, and the trait
//! [`Backend`] that `stoqd` implements. One table declares them all, so that server, client and trait
//! cannot differ. Not HTTP: the server and the client carry these types.

mod asset;
mod audit;
mod backup;
mod ca;
mod ca_key;
mod certificate;
mod config;
mod consensus;
mod copy;
mod doctor;
mod measure;
mod mesh;
mod node;
mod revocation;
mod service;
mod session;
mod signer;
mod status;
mod token;
mod transparency;
mod worker;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use stoq_interface::WorkerCounters;

use crate::{ApiError, Caller, ControlGauges};

pub use asset::{
    ASSET_LIMIT_DEFAULT, ASSET_LIMIT_MAX, Allocation, Asset, AssetAction, AssetCertificate,
    AssetCertified, AssetDone, AssetKind, AssetList, AssetListed, AssetOperate, AssetReceipt,
    AssetReceiptShown, AssetRegister, AssetRelease, AssetShow, AssetShown, AssetTransfer,
};
pub use audit::{
    AUDIT_LIMIT_DEFAULT, AUDIT_LIMIT_MAX, AuditRecord, AuditTail, AuditTailed, AuditVerified,
    AuditVerify,
};
pub use backup::{BackupCreate, BackupCreated, Secret};
pub use ca::{
    CaProfiles, CaProfilesListed, CaRegister, CaRegistered, CaRegistration, CaRegistrations,
    CaRegistrationsListed, CaRenewAll, CaRenewingAll, CaShow, CaShown, CaUnregister,
    CaUnregistered, CertificateProfile,
};
pub use ca_key::{
    CaKey, CaKeyActivate, CaKeyChanged, CaKeyList, CaKeyPrepare, CaKeyRequest, CaKeyRequested,
    CaKeyRevoke, CaKeyRevoked, CaKeyTaint, CaKeysListed,
};
pub use certificate::{
    CERTIFICATE_LIMIT_DEFAULT, CERTIFICATE_LIMIT_MAX, CertificateIssue, CertificateIssued,
    CertificateList, CertificateListed, CertificateRevoke, CertificateRevoked, CertificateShow,
    CertificateShown, CertificateState, InventoryCertificate, RevocationReason, RevokeOf,
    RevokedCertificate,
};
pub use config::{
    ConfigChange, ConfigDiff, ConfigDiffed, ConfigExplain, ConfigExplained, ConfigReload,
    ConfigReloaded, ConfigShow, ConfigShown, LogLevel, LogLevelGet, LogLevelSet, LogLevelWasSet,
};
pub use consensus::{
    AgreementBlock, AgreementValidator, BLOCKS_LIMIT_DEFAULT, BLOCKS_LIMIT_MAX, Carried,
    ConsensusBlocks, ConsensusBlocksListed, ConsensusChanges, ConsensusChangesListed,
    ConsensusEvidence, ConsensusEvidenceExport, ConsensusEvidenceExported, ConsensusEvidenceListed,
    ConsensusGenesis, ConsensusGenesisShown, ConsensusGive, ConsensusGround, ConsensusGroundShown,
    ConsensusStatus, ConsensusStatusShown, ConsensusSubmit, ConsensusSubmitted, ConsensusUnblock,
    ConsensusUnblocked, ConsensusValidators, ConsensusValidatorsListed, ConsensusVote,
    ConsensusVoted, EvidenceCase, ValidatorChange, WaitingChange,
};
pub use copy::{CopyDone, CopyEnd, CopyEvent, CopyOptions, CopyProgress, CopyRun, ProgressSink};
pub use doctor::{Check, Diagnosis, DoctorRun, Health};
pub use measure::{MeasureShow, MeasureShown, MeasureStart, MeasureStarted};
pub use mesh::{
    CaAuthorities, CaAuthoritiesListed, CaExport, CaExported, CaOperate, CaOperated, CaTrust,
    CaTrusted, KnownAuthority, ORDER_LABEL, REPLY_LABEL, STATEMENT_LABEL,
};
pub use node::{
    Certificate, ChainPins, NodeAdd, NodeAdded, NodeJoin, NodeJoined, NodeList, NodeListed,
    NodeRemove, NodeRemoved, NodeShow, NodeShown, NodeTokenCreate, NodeTokenCreated, Peer,
    PeerSource,
};
pub use revocation::{Crl, CrlList, CrlListed, CrlShow, CrlShown};
pub use service::{
    Attachment, PublishedService, ServiceAttach, ServiceAttached, ServiceList, ServiceListed,
    ServiceOrigin, ServicePublish, ServicePublished, ServiceRemove, ServiceRemoved,
};
pub use session::{
    Connection, ConnectionList, ConnectionListed, ConnectionShow, ConnectionShown, Flow,
    LIST_LIMIT_DEFAULT, LIST_LIMIT_MAX, Session, SessionClose, SessionClosed, SessionList,
    SessionListed, SessionReplace, SessionReplaced, SessionSelector, SessionShow, SessionShown,
};
pub use signer::{SignerKey, SignerShow, SignerStatus, SignerTest, SignerTested, SignerTestedKey};
pub use status::{
    DRAIN_SECONDS_MAX, Drain, Drained, Problem, Status, StatusShow, Totals, VersionShow,
    VersionShown,
};
pub use token::{
    TokenCreate, TokenCreated, TokenList, TokenListed, TokenRevoke, TokenRevoked, WaitingToken,
};
pub use transparency::{
    LogChecked, LogCheckpoint, LogCheckpointShown, LogFinding, LogFsck, LogKey, LogKeyShown,
    LogProve, LogProveOf, LogProved,
};
pub use worker::{
    Listener, ListenerList, ListenerListed, Worker, WorkerList, WorkerListed, WorkerShow,
    WorkerShown,
};

/// Time an operation gets where nothing else is said
pub const PATIENCE_DEFAULT: Duration = Duration::from_secs(30);

/// Time an operation gets that talks to another node or looks at disks
const PATIENCE_LONG: Duration = Duration::from_secs(90);

/// Time an operation gets that reads everything an authority has written
const PATIENCE_READING: Duration = Duration::from_secs(600);

/// One operation, named by its request
pub trait Request: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The noun of the command and of the path
    const NOUN: &'static str;
    /// The verb of the command and of the path
    const VERB: &'static str;
    /// What a success carries; always a JSON object
    type Reply: Serialize + DeserializeOwned + Send + 'static;

    /// Time the server gives the operation; the client waits a little longer
    fn patience(&self) -> Duration {
        PATIENCE_DEFAULT
    }

    /// The versioned name of the reply's shape
    fn schema() -> String {
        schema(Self::NOUN, Self::VERB)
    }

    /// The path of the operation on the socket
    fn path() -> String {
        format!("/v1/{}/{}", Self::NOUN, Self::VERB)
    }
}

/// The versioned name of what a command prints and an operation answers
pub fn schema(noun: &str, verb: &str) -> String {
    format!("stoqctl.{noun}.{verb}/1")
}

/// Every reply and everything `stoqctl --json` prints: the schema, then the fields of the body
#[derive(Debug, Deserialize, Serialize)]
pub struct Envelope<T> {
    /// As [`schema`] builds it
    pub schema: String,
    /// The fields
    #[serde(flatten)]
    pub body: T,
}

/// The body of an [`Envelope`] that carries an error
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ErrorBody {
    /// What went wrong
    pub error: ApiError,
}

macro_rules! operations {
    ($(
        $(#[$doc:meta])*
        $method:ident($request:ident) -> $reply:ident
            = $noun:literal $verb:literal $(, patience $patience:expr)?;
    )*) => {
        $(impl Request for $request {
            const NOUN: &'static str = $noun;
            const VERB: &'static str = $verb;
            type Reply = $reply;
            $(fn patience(&self) -> Duration {
                let patience: fn(&Self) -> Duration = $patience;
                patience(self)
            })?
        })*

        /// Noun and verb of every operation that is answered at once, in the order of the table
        pub const OPERATIONS: &[(&str, &str)] = &[$(($noun, $verb)),*];

        /// What `stoqd` does when asked. Each operation runs in the task of its connection; its future is
        /// dropped when its patience ends or its client leaves, so it must be safe to drop at every await:
        /// what has to be finished once begun belongs in a task of its own.
        pub trait Backend: Send + Sync + 'static {
            $(
                $(#[$doc])*
                fn $method(
                    &self,
                    request: $request,
                ) -> impl Future<Output = Result<$reply, ApiError>> + Send;
            )*

            /// The same backend for one operation that this user asks for: whatever is written down about who did it is
            /// written down under this name
            fn called_by(self: &Arc<Self>, caller: Caller) -> Arc<Self>;

            /// Copies a file or a tree between this node and another. Reports as often as it likes: the
            /// sink keeps the newest. The future is dropped when the client goes away.
            fn copy_run(
                &self,
                request: CopyRun,
                progress: ProgressSink,
            ) -> impl Future<Output = Result<CopyDone, ApiError>> + Send;

            /// The counters of every worker, by index, for `/metrics`
            fn counters(&self) -> Vec<Arc<WorkerCounters>>;

            /// What the control plane counts, for `/metrics`
            fn control(&self) -> ControlGauges;
        }

        /// Runs the operation of a noun and verb; nothing where there is none. Decoding, the time limit and
        /// encoding are here, so that no operation can be without them.
        pub(crate) async fn dispatch<B: Backend>(
            backend: &B,
            noun: &str,
            verb: &str,
            body: &[u8],
        ) -> Option<Result<Vec<u8>, ApiError>> {
            match (noun, verb) {
                $(($noun, $verb) => Some(match decode::<$request>(body) {
                    Ok(request) => {
                        let patience = request.patience();
                        let reply = tokio::time::timeout(patience, backend.$method(request)).await;
                        reply.unwrap_or_else(|_| Err(too_slow(patience))).and_then(encode::<$request>)
                    }
                    Err(error) => Err(error),
                }),)*
                _ => None,
            }
        }
    };
}

/// Reads a request; an empty body stands for an empty request
pub(crate) fn decode<R: Request>(body: &[u8]) -> Result<R, ApiError> {
    let body = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(body).map_err(|error| {
        ApiError::usage(
            "bad-request",
            format!("the request does not parse: {error}"),
            "stoqctl and stoqd may be of different versions: compare with `stoqctl version`",
        )
    })
}

fn encode<R: Request>(body: R::Reply) -> Result<Vec<u8>, ApiError> {
    serde_json::to_vec(&Envelope { schema: R::schema(), body }).map_err(|error| {
        ApiError::failed(
            "unprintable-reply",
            format!("the reply cannot be written as JSON: {error}"),
            "report it with the version of stoqd",
        )
    })
}

pub(crate) fn too_slow(patience: Duration) -> ApiError {
    ApiError::timed_out(
        format!("the operation took longer than {} s", patience.as_secs()),
        "the log of stoqd may say what it waited for",
    )
}

operations! {
    /// The whole node on one screen
    status_show(StatusShow) -> Status = "status" "show";
    /// Who this node is
    node_show(NodeShow) -> NodeShown = "node" "show";
    /// The peers this node knows
    node_list(NodeList) -> NodeListed = "node" "list";
    /// Remembers a peer and its address, durably
    node_add(NodeAdd) -> NodeAdded = "node" "add";
    /// Forgets a peer that was added or enrolled
    node_remove(NodeRemove) -> NodeRemoved = "node" "remove";
    /// Makes a one-time join token for a named node
    node_token_create(NodeTokenCreate) -> NodeTokenCreated = "node" "token-create";
    /// Enrols this node with another and switches to the new identity
    node_join(NodeJoin) -> NodeJoined = "node" "join", patience |_| PATIENCE_LONG;
    /// Sessions now held
    session_list(SessionList) -> SessionListed = "session" "list";
    /// One session with its connections and flows
    session_show(SessionShow) -> SessionShown = "session" "show";
    /// Ends a session and its flows
    session_close(SessionClose) -> SessionClosed = "session" "close";
    /// Replaces a session's connections, make before break
    session_replace(SessionReplace) -> SessionReplaced = "session" "replace";
    /// Connections now held
    connection_list(ConnectionList) -> ConnectionListed = "connection" "list";
    /// One connection
    connection_show(ConnectionShow) -> ConnectionShown = "connection" "show";
    /// The workers and where they run
    worker_list(WorkerList) -> WorkerListed = "worker" "list";
    /// One worker with everything it counts
    worker_show(WorkerShow) -> WorkerShown = "worker" "show";
    /// Bound addresses
    listener_list(ListenerList) -> ListenerListed = "listener" "list";
    /// Publishes a local socket under a name; kept across restarts
    service_publish(ServicePublish) -> ServicePublished = "service" "publish";
    /// Offers another node's service at a local socket; kept across restarts
    service_attach(ServiceAttach) -> ServiceAttached = "service" "attach";
    /// What is published and attached
    service_list(ServiceList) -> ServiceListed = "service" "list";
    /// Ends a publication or an attachment
    service_remove(ServiceRemove) -> ServiceRemoved = "service" "remove";
    /// Starts to measure between this node and another
    measure_start(MeasureStart) -> MeasureStarted = "measure" "start";
    /// How far a measurement is, and what it found
    measure_show(MeasureShow) -> MeasureShown = "measure" "show";
    /// The configuration in force, and what in it is not the default
    config_show(ConfigShow) -> ConfigShown = "config" "show";
    /// What a reload would change
    config_diff(ConfigDiff) -> ConfigDiffed = "config" "diff";
    /// Applies what can be applied without touching connections
    config_reload(ConfigReload) -> ConfigReloaded = "config" "reload";
    /// The manual text of one key
    config_explain(ConfigExplain) -> ConfigExplained = "config" "explain";
    /// How the certificate authority is
    ca_show(CaShow) -> CaShown = "ca" "status";
    /// The kinds of certificates it issues
    ca_profiles(CaProfiles) -> CaProfilesListed = "ca" "profiles";
    /// Registers something certificates may name, durably
    ca_register(CaRegister) -> CaRegistered = "ca" "register";
    /// Takes a registration or an enrolled node back, durably; revokes nothing
    ca_unregister(CaUnregister) -> CaUnregistered = "ca" "unregister";
    /// Everything certificates may name
    ca_registrations(CaRegistrations) -> CaRegistrationsListed = "ca" "registrations";
    /// Has everything renewed that was issued so far
    ca_renew_all(CaRenewAll) -> CaRenewingAll = "ca" "renew-all";
    /// The issuing keys of the authority
    ca_key_list(CaKeyList) -> CaKeysListed = "ca" "key-list";
    /// Makes an issuing key and asks for its request to the root
    ca_key_request(CaKeyRequest) -> CaKeyRequested = "ca" "key-request";
    /// Takes an issuing key in, durably, so that nodes learn of it
    ca_key_prepare(CaKeyPrepare) -> CaKeyChanged = "ca" "key-prepare";
    /// Lets another issuing key issue, durably
    ca_key_activate(CaKeyActivate) -> CaKeyChanged
        = "ca" "key-activate", patience |_| PATIENCE_LONG;
    /// Stops an issuing key from issuing, durably
    ca_key_taint(CaKeyTaint) -> CaKeyChanged = "ca" "key-taint", patience |_| PATIENCE_LONG;
    /// Revokes an issuing key with everything it has signed, durably and for good
    ca_key_revoke(CaKeyRevoke) -> CaKeyRevoked = "ca" "key-revoke", patience |_| PATIENCE_LONG;
    /// The authorities of the mesh that are known
    ca_authorities(CaAuthorities) -> CaAuthoritiesListed = "ca" "authorities";
    /// What this node's authority says of itself
    ca_export(CaExport) -> CaExported = "ca" "export";
    /// Trusts another authority under the same root
    ca_trust(CaTrust) -> CaTrusted = "ca" "trust";
    /// Passes an operator's order on to the authority of another node
    ca_operate(CaOperate) -> CaOperated = "ca" "operate", patience |_| PATIENCE_LONG;
    /// Issues a certificate for a request in hand
    certificate_issue(CertificateIssue) -> CertificateIssued = "certificate" "issue";
    /// Certificates of the inventory
    certificate_list(CertificateList) -> CertificateListed = "certificate" "list";
    /// One certificate of the inventory
    certificate_show(CertificateShow) -> CertificateShown = "certificate" "show";
    /// Revokes certificates, durably and for good
    certificate_revoke(CertificateRevoke) -> CertificateRevoked = "certificate" "revoke";
    /// How the validators' agreement stands
    consensus_status(ConsensusStatus) -> ConsensusStatusShown = "consensus" "status";
    /// The validators of the epoch
    consensus_validators(ConsensusValidators) -> ConsensusValidatorsListed
        = "consensus" "validators";
    /// Listens to a validator again that was not listened to any more
    consensus_unblock(ConsensusUnblock) -> ConsensusUnblocked = "consensus" "unblock";
    /// What shows that validators broke the protocol
    consensus_evidence(ConsensusEvidence) -> ConsensusEvidenceListed = "consensus" "evidence";
    /// One piece of evidence, to be judged elsewhere
    consensus_evidence_export(ConsensusEvidenceExport) -> ConsensusEvidenceExported
        = "consensus" "evidence-export";
    /// Final blocks
    consensus_blocks(ConsensusBlocks) -> ConsensusBlocksListed = "consensus" "blocks";
    /// What proofs of a requester are made from
    consensus_ground(ConsensusGround) -> ConsensusGroundShown = "consensus" "ground";
    /// Hands in an operation that was made elsewhere and waits until it is final
    consensus_submit(ConsensusSubmit) -> ConsensusSubmitted
        = "consensus" "submit", patience |_| PATIENCE_LONG;
    /// Votes for a change of the validators
    consensus_vote(ConsensusVote) -> ConsensusVoted
        = "consensus" "change-vote", patience |_| PATIENCE_LONG;
    /// Changes that wait
    consensus_changes(ConsensusChanges) -> ConsensusChangesListed = "consensus" "change-list";
    /// Gives of this node's stake
    consensus_give(ConsensusGive) -> ConsensusSubmitted
        = "consensus" "stake-give", patience |_| PATIENCE_LONG;
    /// What the network began with
    consensus_genesis(ConsensusGenesis) -> ConsensusGenesisShown = "consensus" "genesis-export";
    /// Has the validators register an asset of this node
    asset_register(AssetRegister) -> AssetDone = "asset" "register", patience |_| PATIENCE_LONG;
    /// Registered assets
    asset_list(AssetList) -> AssetListed = "asset" "list";
    /// One asset and what is allocated of it
    asset_show(AssetShow) -> AssetShown = "asset" "show";
    /// Has the validators agree to a use of an asset
    asset_operate(AssetOperate) -> AssetDone = "asset" "operate", patience |_| PATIENCE_LONG;
    /// Gives an asset to another owner
    asset_transfer(AssetTransfer) -> AssetDone = "asset" "transfer", patience |_| PATIENCE_LONG;
    /// Gives back what was allocated
    asset_release(AssetRelease) -> AssetDone = "asset" "release", patience |_| PATIENCE_LONG;
    /// Has an asset of this node certified, by agreement of the validators
    asset_certificate(AssetCertificate) -> AssetCertified
        = "asset" "certificate", patience |_| PATIENCE_LONG;
    /// The receipt of a final operation
    asset_receipt(AssetReceipt) -> AssetReceiptShown = "asset" "receipt-show";
    /// Makes a one-time join token for a named node
    token_create(TokenCreate) -> TokenCreated = "token" "create";
    /// Tokens that wait for use
    token_list(TokenList) -> TokenListed = "token" "list";
    /// Takes a token back
    token_revoke(TokenRevoke) -> TokenRevoked = "token" "revoke";
    /// The transparency log's key
    log_key(LogKey) -> LogKeyShown = "log" "key";
    /// The transparency log's published checkpoint
    log_checkpoint(LogCheckpoint) -> LogCheckpointShown = "log" "checkpoint";
    /// The proof that a certificate is in the transparency log
    log_prove(LogProve) -> LogProved = "log" "prove";
    /// Checks everything the transparency log has published
    log_fsck(LogFsck) -> LogChecked = "log" "fsck", patience |_| PATIENCE_READING;
    /// The certificate revocation lists in force
    crl_list(CrlList) -> CrlListed = "crl" "list";
    /// One certificate revocation list
    crl_show(CrlShow) -> CrlShown = "crl" "show";
    /// The newest records of the audit log
    audit_tail(AuditTail) -> AuditTailed = "audit" "tail";
    /// Checks the audit log's chain
    audit_verify(AuditVerify) -> AuditVerified = "audit" "verify", patience |_| PATIENCE_READING;
    /// How the signer is
    signer_show(SignerShow) -> SignerStatus = "signer" "status";
    /// Signs a test message with every key
    signer_test(SignerTest) -> SignerTested = "signer" "test", patience |_| PATIENCE_LONG;
    /// Copies the authority's state into a new directory
    backup_create(BackupCreate) -> BackupCreated = "backup" "create", patience |_| PATIENCE_READING;
    /// Looks at everything that can be wrong
    doctor_run(DoctorRun) -> Diagnosis = "doctor" "run", patience |_| PATIENCE_READING;
    /// The log level in force
    log_level_get(LogLevelGet) -> LogLevel = "log" "level-get";
    /// Changes the log level, for a while or until the restart
    log_level_set(LogLevelSet) -> LogLevelWasSet = "log" "level-set";
    /// Refuses new work, lets flows finish, closes connections
    drain(Drain) -> Drained = "drain" "run", patience Drain::patience_needed;
    /// What runs
    version_show(VersionShow) -> VersionShown = "version" "show";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_operations_share_a_path() {
        let mut paths: Vec<_> = OPERATIONS.to_vec();
        paths.push((CopyRun::NOUN, CopyRun::VERB));
        let all = paths.len();
        paths.sort_unstable();
        paths.dedup();
        assert_eq!(paths.len(), all);
    }

    #[test]
    fn the_schema_comes_first_in_an_envelope() {
        let envelope =
            Envelope { schema: schema("node", "list"), body: NodeListed { peers: Vec::new() } };
        assert_eq!(
            serde_json::to_string(&envelope).unwrap(),
            r#"{"schema":"stoqctl.node.list/1","peers":[]}"#
        );
    }
}
