//! What the admin interface asks of a node, answered: one file per noun, and here the table of who answers what.

use std::sync::Arc;

use stoq::WorkerCounters;
use stoq_admin::api::*;
use stoq_admin::{ApiError, Backend, Caller, ControlGauges};

use crate::node::Node;
use crate::state::StateError;

mod asset;
mod audit;
mod authority;
mod backup;
mod ca;
mod ca_key;
mod certificate;
mod changes;
mod config;
mod consensus;
mod crl;
mod doctor;
mod mesh;
mod node;
mod service;
mod session;
mod signer;
mod status;
mod token;
mod transparency;

pub use authority::Desk;

/// The node, as the admin interface sees it, its authority where it runs one, and the user who asks
pub struct Admin(pub Arc<Node>, pub Option<Arc<Desk>>, pub Caller);

impl Admin {
    /// Who gives the order, as the audit log has it
    pub fn actor(&self) -> String {
        format!("operator:{}", self.2)
    }

    /// Reads the file again, as SIGHUP asks for
    pub async fn reload(&self) -> Result<ConfigReloaded, ApiError> {
        config::reload(self).await
    }
}

fn not_durable(error: &StateError) -> ApiError {
    ApiError::failed("not-durable", error.to_string(), "check the state directory's disk")
}

/// Methods of the trait that are functions of the files here
macro_rules! answered {
    ($($method:ident($request:ident) -> $reply:ident by $room:ident::$function:ident;)*) => {
        $(
            async fn $method(&self, request: $request) -> Result<$reply, ApiError> {
                $room::$function(self, request).await
            }
        )*
    };
}

impl Backend for Admin {
    answered! {
        status_show(StatusShow) -> Status by status::show;
        node_show(NodeShow) -> NodeShown by node::show;
        node_list(NodeList) -> NodeListed by node::list;
        node_add(NodeAdd) -> NodeAdded by node::add;
        node_remove(NodeRemove) -> NodeRemoved by node::remove;
        node_token_create(NodeTokenCreate) -> NodeTokenCreated by token::create_for_node;
        node_join(NodeJoin) -> NodeJoined by node::join_with;
        session_list(SessionList) -> SessionListed by session::list;
        session_show(SessionShow) -> SessionShown by session::show;
        session_close(SessionClose) -> SessionClosed by session::close;
        session_replace(SessionReplace) -> SessionReplaced by session::replace;
        connection_list(ConnectionList) -> ConnectionListed by session::connections;
        connection_show(ConnectionShow) -> ConnectionShown by session::connection;
        worker_list(WorkerList) -> WorkerListed by status::workers;
        worker_show(WorkerShow) -> WorkerShown by status::worker;
        listener_list(ListenerList) -> ListenerListed by status::listeners;
        service_publish(ServicePublish) -> ServicePublished by service::publish;
        service_attach(ServiceAttach) -> ServiceAttached by service::attach;
        service_list(ServiceList) -> ServiceListed by service::list;
        service_remove(ServiceRemove) -> ServiceRemoved by service::remove;
        config_show(ConfigShow) -> ConfigShown by config::show;
        config_diff(ConfigDiff) -> ConfigDiffed by config::diff;
        config_reload(ConfigReload) -> ConfigReloaded by config::reload_as_asked;
        config_explain(ConfigExplain) -> ConfigExplained by config::explain;
        ca_show(CaShow) -> CaShown by ca::show;
        ca_profiles(CaProfiles) -> CaProfilesListed by ca::profiles;
        ca_register(CaRegister) -> CaRegistered by ca::register;
        ca_unregister(CaUnregister) -> CaUnregistered by ca::unregister;
        ca_registrations(CaRegistrations) -> CaRegistrationsListed by ca::registrations;
        ca_key_list(CaKeyList) -> CaKeysListed by ca_key::list;
        ca_key_request(CaKeyRequest) -> CaKeyRequested by ca_key::request;
        ca_key_prepare(CaKeyPrepare) -> CaKeyChanged by ca_key::prepare;
        ca_key_activate(CaKeyActivate) -> CaKeyChanged by ca_key::activate;
        ca_key_taint(CaKeyTaint) -> CaKeyChanged by ca_key::taint;
        ca_key_revoke(CaKeyRevoke) -> CaKeyRevoked by ca_key::revoke;
        ca_renew_all(CaRenewAll) -> CaRenewingAll by ca::renew_all;
        ca_authorities(CaAuthorities) -> CaAuthoritiesListed by mesh::list;
        ca_export(CaExport) -> CaExported by mesh::export;
        ca_trust(CaTrust) -> CaTrusted by mesh::trust;
        ca_operate(CaOperate) -> CaOperated by mesh::operate;
        certificate_issue(CertificateIssue) -> CertificateIssued by certificate::issue;
        certificate_list(CertificateList) -> CertificateListed by certificate::list;
        certificate_show(CertificateShow) -> CertificateShown by certificate::show;
        certificate_revoke(CertificateRevoke) -> CertificateRevoked by certificate::revoke;
        consensus_status(ConsensusStatus) -> ConsensusStatusShown by consensus::status;
        consensus_validators(ConsensusValidators) -> ConsensusValidatorsListed by consensus::validators;
        consensus_unblock(ConsensusUnblock) -> ConsensusUnblocked by consensus::unblock;
        consensus_evidence(ConsensusEvidence) -> ConsensusEvidenceListed by consensus::evidence;
        consensus_evidence_export(ConsensusEvidenceExport) -> ConsensusEvidenceExported by consensus::export;
        consensus_blocks(ConsensusBlocks) -> ConsensusBlocksListed by consensus::blocks;
        consensus_ground(ConsensusGround) -> ConsensusGroundShown by consensus::ground;
        consensus_submit(ConsensusSubmit) -> ConsensusSubmitted by consensus::submit;
        consensus_vote(ConsensusVote) -> ConsensusVoted by changes::vote;
        consensus_changes(ConsensusChanges) -> ConsensusChangesListed by changes::list;
        consensus_give(ConsensusGive) -> ConsensusSubmitted by changes::give;
        consensus_genesis(ConsensusGenesis) -> ConsensusGenesisShown by consensus::genesis;
        asset_register(AssetRegister) -> AssetDone by asset::register;
        asset_list(AssetList) -> AssetListed by asset::list;
        asset_show(AssetShow) -> AssetShown by asset::show;
        asset_operate(AssetOperate) -> AssetDone by asset::operate;
        asset_transfer(AssetTransfer) -> AssetDone by asset::transfer;
        asset_release(AssetRelease) -> AssetDone by asset::release;
        asset_certificate(AssetCertificate) -> AssetCertified by asset::certificate;
        asset_receipt(AssetReceipt) -> AssetReceiptShown by asset::receipt;
        token_create(TokenCreate) -> TokenCreated by token::create;
        token_list(TokenList) -> TokenListed by token::list;
        token_revoke(TokenRevoke) -> TokenRevoked by token::revoke;
        log_key(LogKey) -> LogKeyShown by transparency::key;
        log_checkpoint(LogCheckpoint) -> LogCheckpointShown by transparency::checkpoint;
        log_prove(LogProve) -> LogProved by transparency::prove;
        log_fsck(LogFsck) -> LogChecked by transparency::check;
        crl_list(CrlList) -> CrlListed by crl::list;
        crl_show(CrlShow) -> CrlShown by crl::show;
        audit_tail(AuditTail) -> AuditTailed by audit::tail;
        audit_verify(AuditVerify) -> AuditVerified by audit::verify;
        signer_show(SignerShow) -> SignerStatus by signer::show;
        signer_test(SignerTest) -> SignerTested by signer::test;
        backup_create(BackupCreate) -> BackupCreated by backup::create;
        doctor_run(DoctorRun) -> Diagnosis by doctor::run;
        log_level_get(LogLevelGet) -> LogLevel by config::level;
        log_level_set(LogLevelSet) -> LogLevelWasSet by config::set_level;
        drain(Drain) -> Drained by status::drain;
        version_show(VersionShow) -> VersionShown by status::version;
    }

    fn called_by(self: &Arc<Self>, caller: Caller) -> Arc<Self> {
        Arc::new(Self(Arc::clone(&self.0), self.1.clone(), caller))
    }

    async fn measure_start(&self, request: MeasureStart) -> Result<MeasureStarted, ApiError> {
        self.0.refresh_enrolled();
        self.0.measurements.start(&self.0, request).await
    }

    async fn measure_show(&self, request: MeasureShow) -> Result<MeasureShown, ApiError> {
        self.0.measurements.show(&self.0, request.measurement).await
    }

    async fn copy_run(
        &self,
        request: CopyRun,
        progress: ProgressSink,
    ) -> Result<CopyDone, ApiError> {
        self.0.refresh_enrolled();
        crate::transfers::run(&self.0, request, progress).await
    }

    fn counters(&self) -> Vec<Arc<WorkerCounters>> {
        self.0.endpoint.counters().to_vec()
    }

    fn control(&self) -> ControlGauges {
        status::control(self)
    }
}
