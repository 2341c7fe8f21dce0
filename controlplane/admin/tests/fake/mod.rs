//! A backend with fixed answers, for the tests of the admin interface and of `stoqctl`. It records what it
//! was asked and can be told to fail, to be unready, or to hang; the server and the socket are the real ones.

#![allow(dead_code, reason = "each test binary uses its own part of the fake")]

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::Value;
use stoq_admin::api::*;
use stoq_admin::{AdminSocket, ApiError, Backend, Caller, ControlGauges, Id, ServerLimits, serve};
use stoq_config::Config;
use stoq_interface::{
    ConnectionStatus, DropReason, NodeId, SessionStatus, WorkerCounters, WorkerStatus,
};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

/// A copy whose local path starts with this never ends by itself
pub const HANGS: &str = "/hang";

pub struct Fake {
    pub ready: AtomicBool,
    pub fail_with: Mutex<Option<ApiError>>,
    pub asked: Mutex<Vec<(String, Value)>>,
    /// Who asked, once for each operation
    pub callers: Mutex<Vec<Caller>>,
    pub flows_cut: Mutex<u64>,
    pub changes: Mutex<Vec<ConfigChange>>,
    /// What checks of the log, the audit log and the signer find wrong
    pub findings: Mutex<Vec<String>>,
    pub copy_started: Notify,
    pub copy_dropped: Arc<Notify>,
    pub counters: Vec<Arc<WorkerCounters>>,
}

impl Default for Fake {
    fn default() -> Self {
        let counters = WorkerCounters::default();
        counters.bytes_sent.add(3 << 30);
        counters.dropped[DropReason::BadToken.index()].add(7);
        Self {
            ready: AtomicBool::new(true),
            fail_with: Mutex::default(),
            asked: Mutex::default(),
            callers: Mutex::default(),
            flows_cut: Mutex::default(),
            changes: Mutex::default(),
            findings: Mutex::default(),
            copy_started: Notify::new(),
            copy_dropped: Arc::new(Notify::new()),
            counters: vec![Arc::new(counters)],
        }
    }
}

pub fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

pub fn certificate() -> Certificate {
    Certificate {
        serial: "0badcafe".into(),
        fingerprint: format!("sha256:{}", "ab".repeat(32)),
        not_before: SystemTime::now() - Duration::from_secs(3_600),
        not_after: SystemTime::now() + Duration::from_secs(20 * 3_600),
    }
}

pub fn worker_status() -> WorkerStatus {
    WorkerStatus {
        index: 0,
        core: Some(1),
        node: Some(0),
        io: stoq_interface::IoProvider::IoUring,
        io_fallback: None,
        gso_segments: 64,
        gro: true,
        zero_copy: false,
        page_bytes: 2 << 20,
        receive_buffer_bytes: 8 << 20,
    }
}

pub fn session_status(id: u64, peer: &str) -> SessionStatus {
    SessionStatus {
        id,
        worker: 0,
        peer: node(peer),
        dialled: true,
        connections: 2,
        flows: 3,
        replacements: 1,
        losses: 0,
        bytes_sent: 5 << 20,
        bytes_received: 1_024,
        bytes_resent: 0,
    }
}

fn connection_status(id: u64) -> ConnectionStatus {
    ConnectionStatus {
        id,
        worker: 0,
        peer: Some(node("beta")),
        peer_serial: Some("0a1b".into()),
        peer_not_after: None,
        session: Some(0x1f),
        remote: "[::1]:8444".parse().unwrap(),
        dialled: true,
        state: "active",
        age: Duration::from_secs(3_725),
        rtt: Duration::from_micros(180),
        congestion_window_bytes: 1 << 20,
        udp_payload_bytes: 1_452,
        packets_sent: 100,
        packets_received: 90,
        packets_lost: 1,
        packets_lost_spurious: 0,
        bytes_sent: 145_200,
        bytes_received: 130_680,
        key_exchange: "X25519MLKEM768".into(),
        epoch: 4,
    }
}

fn peer() -> Peer {
    Peer {
        node: node("beta"),
        address: Some("[fd00::2]:8444".parse().unwrap()),
        source: PeerSource::Enrolled,
        sessions: 1,
    }
}

fn listener() -> Listener {
    Listener { address: "[::1]:8444".parse().unwrap(), sockets: 1, steered: true }
}

fn published(request: Option<ServicePublish>) -> PublishedService {
    let request = request.unwrap_or_else(|| ServicePublish {
        name: "web".parse().unwrap(),
        target: "[::1]:8080".parse().unwrap(),
        allow: stoq_interface::Allow::AnyEnrolled,
    });
    PublishedService {
        name: request.name,
        target: request.target,
        allow: request.allow,
        origin: ServiceOrigin::Operator,
        flows_open: 2,
        flows_total: 40,
    }
}

fn attachment(service: &str, from: NodeId, listen: &str) -> Attachment {
    Attachment {
        service: service.parse().unwrap(),
        node: from,
        listen: listen.parse().unwrap(),
        origin: ServiceOrigin::Operator,
        connected: true,
        flows_open: 1,
        flows_total: 9,
    }
}

fn inventory() -> InventoryCertificate {
    let now = SystemTime::now();
    InventoryCertificate {
        serial: "0badcafe".into(),
        subject: "beta".into(),
        dns_names: vec!["beta.nodes.hypermesh".into()],
        profile: "node".into(),
        spki_sha256: "03".repeat(32),
        issuer_key_id: "ab".repeat(20),
        not_before: now - Duration::from_secs(300),
        not_after: now + Duration::from_secs(86_000),
        log_index: 6,
        state: CertificateState::Revoked,
        revoked_at: Some(now),
        revoked_for: Some("key-compromise".into()),
    }
}

fn waiting_token() -> WaitingToken {
    WaitingToken {
        id: "4f9c".into(),
        node: node("beta"),
        expires_at: SystemTime::now() + Duration::from_secs(900),
    }
}

fn ca_key(name: &str, state: &str) -> CaKey {
    CaKey {
        name: name.into(),
        state: state.into(),
        since: SystemTime::now(),
        taint: (state == "tainted").then(|| "replaced".into()),
        pin: format!("spki-sha256:{}", "ab".repeat(32)),
        key_id: "cd".repeat(20),
        not_after: SystemTime::now() + Duration::from_secs(90 * 86_400),
        last_leaf_ends: None,
        signs_lists: state == "active",
    }
}

fn crl(shard: u8) -> Crl {
    let now = SystemTime::now();
    let next_update = now + Duration::from_secs(4 * 3_600);
    let issuer_key_id = "ab".repeat(20);
    Crl { issuer_key_id, shard, number: 3, this_update: now, next_update, bytes: 412 }
}

struct Dropped(Arc<Notify>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

impl Fake {
    /// Records the request; fails where a failure was ordered
    fn ask<R: Request + Serialize>(&self, request: &R) -> Result<(), ApiError> {
        let name = format!("{}.{}", R::NOUN, R::VERB);
        self.asked.lock().unwrap().push((name, serde_json::to_value(request).unwrap()));
        match self.fail_with.lock().unwrap().clone() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// What was asked last
    pub fn last(&self) -> (String, Value) {
        self.asked.lock().unwrap().last().cloned().expect("something was asked")
    }

    fn sessions(&self) -> Vec<SessionStatus> {
        vec![session_status(0x1f, "beta"), session_status(0x20, "gamma")]
    }

    /// Serves this backend at `path` until the returned guard goes
    pub fn serve_at(self: &Arc<Self>, path: PathBuf) -> Served {
        self.serve_with(path, ServerLimits::default())
    }

    pub fn serve_with(self: &Arc<Self>, path: PathBuf, limits: ServerLimits) -> Served {
        let socket = AdminSocket::bind(&path).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let backend = Arc::clone(self);
        let task = tokio::spawn(serve(socket, backend, limits, async {
            stopped.await.unwrap_or_default();
        }));
        Served { stop, task }
    }
}

/// A running server
pub struct Served {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Served {
    pub async fn stop(self) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap();
    }
}

fn asset_done(effect: &str) -> AssetDone {
    AssetDone {
        operation: "0c".repeat(32),
        height: 8_201,
        index: 3,
        time: UNIX_EPOCH + Duration::from_secs(1_800_000_000),
        effects: vec![effect.into()],
        asset: Some("cpu-abc".into()),
        allocation: Some("0d".repeat(32)),
        receipt: "00ff".into(),
    }
}

fn asset() -> Asset {
    Asset {
        id: "cpu-abc".into(),
        kind: "cpu".into(),
        name: "main".into(),
        node: "alpha".into(),
        owner: "ef".repeat(32),
        own: true,
        capacity: 2_000,
        unit: "thousandths of a logical processor".into(),
        allocated: 500,
        in_use: 500,
        failed: 0,
        state: "in use".into(),
        shared: false,
        certificate: None,
        registered_height: 100,
    }
}

impl Backend for Fake {
    fn called_by(self: &Arc<Self>, caller: Caller) -> Arc<Self> {
        self.callers.lock().unwrap().push(caller);
        Arc::clone(self)
    }

    async fn status_show(&self, request: StatusShow) -> Result<Status, ApiError> {
        self.ask(&request)?;
        let ready = self.ready.load(Ordering::SeqCst);
        let problem = Problem {
            code: "no-certificate".into(),
            message: "this node has no certificate".into(),
            remedy: "enrol it with `stoqctl node join`".into(),
        };
        Ok(Status {
            ready,
            draining: false,
            problems: if ready { Vec::new() } else { vec![problem] },
            node: Some(node("alpha")),
            certificate: Some(certificate()),
            epoch: 4,
            version: "0.1.0".into(),
            pid: 42,
            started_at: UNIX_EPOCH + Duration::from_secs(1_700_000_000),
            listeners: vec![listener()],
            workers: vec![Worker::from(&worker_status())],
            services_published: 1,
            services_attached: 1,
            totals: Totals::of(self.counters.iter().map(|counters| &**counters)),
        })
    }

    async fn node_show(&self, request: NodeShow) -> Result<NodeShown, ApiError> {
        self.ask(&request)?;
        Ok(NodeShown {
            node: node("alpha"),
            certificate: Some(certificate()),
            root_fingerprint: Some(format!("sha256:{}", "cd".repeat(32))),
            pins: Some(ChainPins {
                root: format!("spki-sha256:{}", "01".repeat(32)),
                issuing: format!("spki-sha256:{}", "02".repeat(32)),
                leaf: format!("spki-sha256:{}", "03".repeat(32)),
            }),
            issuer: Some(node("alpha")),
            addresses: vec!["[::1]:8444".parse().unwrap()],
        })
    }

    async fn node_list(&self, request: NodeList) -> Result<NodeListed, ApiError> {
        self.ask(&request)?;
        Ok(NodeListed { peers: vec![peer()] })
    }

    async fn node_add(&self, request: NodeAdd) -> Result<NodeAdded, ApiError> {
        self.ask(&request)?;
        let peer = Peer {
            node: request.node,
            address: Some(request.address),
            source: PeerSource::Added,
            sessions: 0,
        };
        Ok(NodeAdded { peer })
    }

    async fn node_remove(&self, request: NodeRemove) -> Result<NodeRemoved, ApiError> {
        self.ask(&request)?;
        Ok(NodeRemoved { peer: peer() })
    }

    async fn node_token_create(
        &self,
        request: NodeTokenCreate,
    ) -> Result<NodeTokenCreated, ApiError> {
        self.ask(&request)?;
        Ok(NodeTokenCreated {
            node: request.node,
            token: "stoq-join-secret".into(),
            expires_at: SystemTime::now() + Duration::from_secs(request.lifetime_seconds),
            root_fingerprint: format!("sha256:{}", "cd".repeat(32)),
        })
    }

    async fn node_join(&self, request: NodeJoin) -> Result<NodeJoined, ApiError> {
        self.ask(&request)?;
        Ok(NodeJoined {
            node: node("beta"),
            issuer: node("alpha"),
            certificate: certificate(),
            root_fingerprint: format!("sha256:{}", "cd".repeat(32)),
        })
    }

    async fn session_list(&self, request: SessionList) -> Result<SessionListed, ApiError> {
        self.ask(&request)?;
        Ok(SessionListed::new(&request, &self.sessions()))
    }

    async fn session_show(&self, request: SessionShow) -> Result<SessionShown, ApiError> {
        self.ask(&request)?;
        let sessions = self.sessions();
        let session = Session::from(request.session.find(&sessions)?);
        let flow =
            Flow { id: Id(7), service: "web".into(), legs: 2, bytes_sent: 10, bytes_received: 20 };
        let connections = vec![Connection::from(&connection_status(0xa))];
        Ok(SessionShown { session, connections, flows: vec![flow] })
    }

    async fn session_close(&self, request: SessionClose) -> Result<SessionClosed, ApiError> {
        self.ask(&request)?;
        let sessions = self.sessions();
        Ok(SessionClosed { session: Session::from(request.session.find(&sessions)?) })
    }

    async fn session_replace(&self, request: SessionReplace) -> Result<SessionReplaced, ApiError> {
        self.ask(&request)?;
        let sessions = self.sessions();
        let session = Session::from(request.session.find(&sessions)?);
        Ok(SessionReplaced { session, replaced: 2 })
    }

    async fn measure_start(&self, request: MeasureStart) -> Result<MeasureStarted, ApiError> {
        self.ask(&request)?;
        Ok(MeasureStarted { measurement: Id(0x2a) })
    }

    async fn measure_show(&self, request: MeasureShow) -> Result<MeasureShown, ApiError> {
        self.ask(&request)?;
        Ok(MeasureShown {
            done: true,
            bytes: 1 << 20,
            bytes_done: 1 << 20,
            seconds: 0.5,
            bits_per_second: Some(16_777_216.0),
            verified: Some(true),
            lost_bytes: Some(0),
            ..MeasureShown::default()
        })
    }

    async fn connection_list(&self, request: ConnectionList) -> Result<ConnectionListed, ApiError> {
        self.ask(&request)?;
        Ok(ConnectionListed::new(&request, &[connection_status(0xa), connection_status(0xb)]))
    }

    async fn connection_show(&self, request: ConnectionShow) -> Result<ConnectionShown, ApiError> {
        self.ask(&request)?;
        match request.connection {
            Id(0xa) => {
                Ok(ConnectionShown { connection: Connection::from(&connection_status(0xa)) })
            }
            other => Err(ApiError::not_found("connection", other, "stoqctl connection list")),
        }
    }

    async fn worker_list(&self, request: WorkerList) -> Result<WorkerListed, ApiError> {
        self.ask(&request)?;
        Ok(WorkerListed { workers: vec![Worker::from(&worker_status())] })
    }

    async fn worker_show(&self, request: WorkerShow) -> Result<WorkerShown, ApiError> {
        self.ask(&request)?;
        match self.counters.get(request.index) {
            Some(counters) => Ok(WorkerShown::new(&worker_status(), counters)),
            None => Err(ApiError::not_found("worker", request.index, "stoqctl worker list")),
        }
    }

    async fn listener_list(&self, request: ListenerList) -> Result<ListenerListed, ApiError> {
        self.ask(&request)?;
        Ok(ListenerListed { listeners: vec![listener()] })
    }

    async fn service_publish(&self, request: ServicePublish) -> Result<ServicePublished, ApiError> {
        self.ask(&request)?;
        Ok(ServicePublished { service: published(Some(request)) })
    }

    async fn service_attach(&self, request: ServiceAttach) -> Result<ServiceAttached, ApiError> {
        self.ask(&request)?;
        let listen = request.listen.to_string();
        let attachment = attachment(request.service.as_str(), request.node, &listen);
        Ok(ServiceAttached { attachment })
    }

    async fn service_list(&self, request: ServiceList) -> Result<ServiceListed, ApiError> {
        self.ask(&request)?;
        let attached = attachment("db", node("beta"), "unix:/run/db.sock");
        Ok(ServiceListed { published: vec![published(None)], attached: vec![attached] })
    }

    async fn service_remove(&self, request: ServiceRemove) -> Result<ServiceRemoved, ApiError> {
        self.ask(&request)?;
        Ok(match request.node {
            None => ServiceRemoved { published: Some(published(None)), attached: Vec::new() },
            Some(from) => ServiceRemoved {
                published: None,
                attached: vec![attachment("db", from, "unix:/run/db.sock")],
            },
        })
    }

    async fn config_show(&self, request: ConfigShow) -> Result<ConfigShown, ApiError> {
        self.ask(&request)?;
        let text = "[node]\nname = \"alpha\"\n";
        let config = Config::parse("stoqd.toml", text).unwrap();
        Ok(ConfigShown::new(Some("/etc/stoq/stoqd.toml".into()), &config))
    }

    async fn config_diff(&self, request: ConfigDiff) -> Result<ConfigDiffed, ApiError> {
        self.ask(&request)?;
        Ok(ConfigDiffed { changes: self.changes.lock().unwrap().clone() })
    }

    async fn config_reload(&self, request: ConfigReload) -> Result<ConfigReloaded, ApiError> {
        self.ask(&request)?;
        let (applied, pending) = self
            .changes
            .lock()
            .unwrap()
            .clone()
            .into_iter()
            .partition(|change: &ConfigChange| change.reloadable);
        Ok(ConfigReloaded { applied, pending, epoch: 5 })
    }

    async fn config_explain(&self, request: ConfigExplain) -> Result<ConfigExplained, ApiError> {
        self.ask(&request)?;
        Ok(ConfigExplained { key: request.key, text: "The name.".into() })
    }

    async fn ca_show(&self, request: CaShow) -> Result<CaShown, ApiError> {
        self.ask(&request)?;
        Ok(CaShown {
            instance: node("alpha"),
            mode: "development".into(),
            not_issuing: None,
            root_fingerprint: format!("sha256:{}", "cd".repeat(32)),
            issuing_key_id: "ab".repeat(20),
            issuing_not_after: SystemTime::now() + Duration::from_secs(80 * 86_400),
            issued: 7,
            issued_since_start: 2,
            repeated_since_start: 1,
            refused_since_start: [("busy".to_owned(), 3)].into(),
            in_flight: 0,
            in_flight_limit: 1_024,
            revoked: 1,
            nodes: 2,
            journal_sequence: 40,
            records_sequence: Some(40),
            log_entries: 7,
            log_published: 7,
            log_published_at: Some(SystemTime::now()),
            log_problem: None,
        })
    }

    async fn ca_profiles(&self, request: CaProfiles) -> Result<CaProfilesListed, ApiError> {
        self.ask(&request)?;
        let node = CertificateProfile {
            name: "node".into(),
            lifetime_seconds: 86_400,
            usages: vec!["serverAuth".into(), "clientAuth".into()],
            names: vec!["{subject}.nodes.hypermesh".into()],
            addresses: true,
        };
        Ok(CaProfilesListed { profiles: vec![node] })
    }

    async fn ca_register(&self, request: CaRegister) -> Result<CaRegistered, ApiError> {
        self.ask(&request)?;
        Ok(CaRegistered { registration: request.registration })
    }

    async fn ca_unregister(&self, request: CaUnregister) -> Result<CaUnregistered, ApiError> {
        self.ask(&request)?;
        Ok(CaUnregistered { profile: request.profile, subject: request.subject })
    }

    async fn ca_registrations(
        &self,
        request: CaRegistrations,
    ) -> Result<CaRegistrationsListed, ApiError> {
        self.ask(&request)?;
        let shop = CaRegistration {
            profile: "service".into(),
            subject: "shop".into(),
            owner: Some(node("beta")),
            addresses: vec!["fd00::2".parse().unwrap()],
            alternative_names: false,
        };
        Ok(CaRegistrationsListed { registrations: vec![shop] })
    }

    async fn ca_renew_all(&self, request: CaRenewAll) -> Result<CaRenewingAll, ApiError> {
        self.ask(&request)?;
        let start = SystemTime::now();
        Ok(CaRenewingAll { start, end: start + Duration::from_secs(request.within_seconds) })
    }

    async fn ca_authorities(
        &self,
        request: CaAuthorities,
    ) -> Result<CaAuthoritiesListed, ApiError> {
        self.ask(&request)?;
        Ok(CaAuthoritiesListed { authorities: vec![known_authority()] })
    }

    async fn ca_export(&self, request: CaExport) -> Result<CaExported, ApiError> {
        self.ask(&request)?;
        let statement_pem = stoq_admin::encode_pem(STATEMENT_LABEL, b"statement");
        Ok(CaExported { instance: NodeId::new("beta").unwrap(), statement_pem })
    }

    async fn ca_trust(&self, request: CaTrust) -> Result<CaTrusted, ApiError> {
        self.ask(&request)?;
        Ok(CaTrusted { authority: known_authority(), is_news: true })
    }

    async fn ca_operate(&self, request: CaOperate) -> Result<CaOperated, ApiError> {
        self.ask(&request)?;
        // `RevokeReply` with epoch 5, revoked at second 1,800,000,000
        let reply = [0x08, 0x05, 0x10, 0x80, 0xa4, 0xa7, 0xda, 0x06];
        Ok(CaOperated { reply_pem: stoq_admin::encode_pem(REPLY_LABEL, &reply) })
    }

    async fn ca_key_list(&self, request: CaKeyList) -> Result<CaKeysListed, ApiError> {
        self.ask(&request)?;
        Ok(CaKeysListed { keys: vec![ca_key("issuing", "tainted"), ca_key("issuing-2", "active")] })
    }

    async fn ca_key_request(&self, request: CaKeyRequest) -> Result<CaKeyRequested, ApiError> {
        self.ask(&request)?;
        let pin = format!("spki-sha256:{}", "ab".repeat(32));
        let request_pem = stoq_admin::encode_pem("CERTIFICATE REQUEST", &[0x30, 0]);
        Ok(CaKeyRequested { name: request.name, pin, request_pem })
    }

    async fn ca_key_prepare(&self, request: CaKeyPrepare) -> Result<CaKeyChanged, ApiError> {
        self.ask(&request)?;
        Ok(CaKeyChanged { key: ca_key(&request.name, "prepared") })
    }

    async fn ca_key_activate(&self, request: CaKeyActivate) -> Result<CaKeyChanged, ApiError> {
        self.ask(&request)?;
        Ok(CaKeyChanged { key: ca_key(&request.name, "active") })
    }

    async fn ca_key_taint(&self, request: CaKeyTaint) -> Result<CaKeyChanged, ApiError> {
        self.ask(&request)?;
        Ok(CaKeyChanged { key: ca_key(&request.name, "tainted") })
    }

    async fn ca_key_revoke(&self, request: CaKeyRevoke) -> Result<CaKeyRevoked, ApiError> {
        self.ask(&request)?;
        Ok(CaKeyRevoked { key: ca_key(&request.name, "revoked"), deny_list_epoch: Some(13) })
    }

    async fn certificate_issue(
        &self,
        request: CertificateIssue,
    ) -> Result<CertificateIssued, ApiError> {
        self.ask(&request)?;
        Ok(CertificateIssued {
            serial: "0badcafe".into(),
            not_before: SystemTime::now(),
            not_after: SystemTime::now() + Duration::from_secs(8 * 3_600),
            log_index: 6,
            repeated: false,
            chain_pem: "-----BEGIN CERTIFICATE-----\n".into(),
            root_pem: "-----BEGIN CERTIFICATE-----\n".into(),
        })
    }

    async fn certificate_list(
        &self,
        request: CertificateList,
    ) -> Result<CertificateListed, ApiError> {
        self.ask(&request)?;
        Ok(CertificateListed { certificates: vec![inventory()], next: Some("6e657874".into()) })
    }

    async fn certificate_show(
        &self,
        request: CertificateShow,
    ) -> Result<CertificateShown, ApiError> {
        self.ask(&request)?;
        let now = SystemTime::now();
        Ok(CertificateShown {
            certificate: inventory(),
            renew_from: Some(now),
            renew_until: Some(now + Duration::from_secs(3_600)),
        })
    }

    async fn certificate_revoke(
        &self,
        request: CertificateRevoke,
    ) -> Result<CertificateRevoked, ApiError> {
        self.ask(&request)?;
        let revoked = RevokedCertificate {
            serial: Some("0badcafe".into()),
            spki_sha256: None,
            subject: Some("beta".into()),
            ends_at: SystemTime::now() + Duration::from_secs(3_600),
            repeated: false,
        };
        Ok(CertificateRevoked {
            revoked: vec![revoked],
            revoked_at: SystemTime::now(),
            reason: request.reason,
            deny_list_epoch: Some(12),
        })
    }

    async fn consensus_status(
        &self,
        request: ConsensusStatus,
    ) -> Result<ConsensusStatusShown, ApiError> {
        self.ask(&request)?;
        Ok(ConsensusStatusShown {
            name: "mesh".into(),
            network: "ab".repeat(32),
            key: "cd".repeat(32),
            requester: "ef".repeat(32),
            stake: 1_000,
            votes: true,
            epoch: 2,
            epoch_ends_at_height: 12_288,
            view: 9,
            height: 8_200,
            block_time: UNIX_EPOCH + Duration::from_secs(1_800_000_000),
            lowest_height: 1,
            state_root: "01".repeat(32),
            validators: 4,
            quorum: 3,
            faults: 1,
            backlog: 5,
            assets: 7,
            issuance: "wait".into(),
            problem: self.findings.lock().unwrap().first().cloned(),
            halted: None,
            frames: Carried { queued: 10, full: 1, unreachable: 2, received: 9, refused_flows: 0 },
        })
    }

    async fn consensus_validators(
        &self,
        request: ConsensusValidators,
    ) -> Result<ConsensusValidatorsListed, ApiError> {
        self.ask(&request)?;
        let validator = |node: &str, own, convicted| AgreementValidator {
            node: node.into(),
            key: "cd".repeat(32),
            own,
            silent_ms: 12,
            missed_turns: 1,
            turns: 20,
            suspicion: (!own).then(|| "silent for 9 s".to_owned()),
            blocked: None,
            convicted,
        };
        let validators = vec![validator("alpha", true, false), validator("beta", false, true)];
        Ok(ConsensusValidatorsListed { validators })
    }

    async fn consensus_unblock(
        &self,
        request: ConsensusUnblock,
    ) -> Result<ConsensusUnblocked, ApiError> {
        self.ask(&request)?;
        Ok(ConsensusUnblocked { was_blocked: true })
    }

    async fn consensus_evidence(
        &self,
        request: ConsensusEvidence,
    ) -> Result<ConsensusEvidenceListed, ApiError> {
        self.ask(&request)?;
        let case = EvidenceCase {
            id: "0a".repeat(32),
            validator: "cd".repeat(32),
            offence: "equivocation".into(),
            epoch: 2,
            view: 7,
            reason: "two proposals in one view".into(),
            found_at: UNIX_EPOCH + Duration::from_secs(1_800_000_000),
        };
        Ok(ConsensusEvidenceListed { cases: vec![case] })
    }

    async fn consensus_evidence_export(
        &self,
        request: ConsensusEvidenceExport,
    ) -> Result<ConsensusEvidenceExported, ApiError> {
        self.ask(&request)?;
        Ok(ConsensusEvidenceExported { id: request.id, file: "00ff".into() })
    }

    async fn consensus_blocks(
        &self,
        request: ConsensusBlocks,
    ) -> Result<ConsensusBlocksListed, ApiError> {
        self.ask(&request)?;
        let block = AgreementBlock {
            height: 8_200,
            epoch: 2,
            time: UNIX_EPOCH + Duration::from_secs(1_800_000_000),
            block: "0b".repeat(32),
            operations: vec!["0c".repeat(32)],
            state_root: "01".repeat(32),
            signatures: 3,
        };
        Ok(ConsensusBlocksListed { blocks: vec![block] })
    }

    async fn consensus_ground(
        &self,
        request: ConsensusGround,
    ) -> Result<ConsensusGroundShown, ApiError> {
        self.ask(&request)?;
        Ok(ConsensusGroundShown { ground: "{}\n".into() })
    }

    async fn consensus_submit(
        &self,
        request: ConsensusSubmit,
    ) -> Result<ConsensusSubmitted, ApiError> {
        self.ask(&request)?;
        Ok(ConsensusSubmitted {
            operation: "0c".repeat(32),
            height: 8_201,
            index: 0,
            time: UNIX_EPOCH + Duration::from_secs(1_800_000_000),
            effects: vec!["ticket-granted".into()],
            receipt: "00ff".into(),
        })
    }

    async fn consensus_vote(&self, request: ConsensusVote) -> Result<ConsensusVoted, ApiError> {
        self.ask(&request)?;
        Ok(ConsensusVoted {
            operation: "0c".repeat(32),
            height: 8_201,
            votes: 2,
            quorum: 3,
            adopted: false,
            epoch_ends_at_height: 12_288,
            receipt: "00ff".into(),
        })
    }

    async fn consensus_changes(
        &self,
        request: ConsensusChanges,
    ) -> Result<ConsensusChangesListed, ApiError> {
        self.ask(&request)?;
        let admit = ValidatorChange::Admit { node: "epsilon".into(), key: "ab".repeat(32) };
        let waiting = |change, adopted, voters: &[&str]| WaitingChange {
            change,
            adopted,
            voters: voters.iter().map(|voter| (*voter).to_owned()).collect(),
        };
        Ok(ConsensusChangesListed {
            changes: vec![
                waiting(ValidatorChange::Remove { key: "cd".repeat(32) }, true, &[]),
                waiting(admit, false, &["cdcd"]),
            ],
            quorum: 3,
            epoch_ends_at_height: 12_288,
        })
    }

    async fn consensus_give(&self, request: ConsensusGive) -> Result<ConsensusSubmitted, ApiError> {
        self.ask(&request)?;
        Ok(ConsensusSubmitted {
            operation: "0c".repeat(32),
            height: 8_201,
            index: 0,
            time: UNIX_EPOCH + Duration::from_secs(1_800_000_000),
            effects: vec!["stake-given".into()],
            receipt: "00ff".into(),
        })
    }

    async fn consensus_genesis(
        &self,
        request: ConsensusGenesis,
    ) -> Result<ConsensusGenesisShown, ApiError> {
        self.ask(&request)?;
        Ok(ConsensusGenesisShown { network: "ab".repeat(32), genesis: "{}\n".into() })
    }

    async fn asset_register(&self, request: AssetRegister) -> Result<AssetDone, ApiError> {
        self.ask(&request)?;
        Ok(asset_done("registered"))
    }

    async fn asset_list(&self, request: AssetList) -> Result<AssetListed, ApiError> {
        self.ask(&request)?;
        Ok(AssetListed { assets: vec![asset()], total: 2, height: 8_200 })
    }

    async fn asset_show(&self, request: AssetShow) -> Result<AssetShown, ApiError> {
        self.ask(&request)?;
        let allocation = Allocation {
            id: "0d".repeat(32),
            holder: "ef".repeat(32),
            quantity: 500,
            state: "in use".into(),
            since_height: 8_190,
        };
        Ok(AssetShown { asset: asset(), allocations: vec![allocation], height: 8_200 })
    }

    async fn asset_operate(&self, request: AssetOperate) -> Result<AssetDone, ApiError> {
        self.ask(&request)?;
        Ok(asset_done("allocated"))
    }

    async fn asset_transfer(&self, request: AssetTransfer) -> Result<AssetDone, ApiError> {
        self.ask(&request)?;
        Ok(asset_done("transferred"))
    }

    async fn asset_release(&self, request: AssetRelease) -> Result<AssetDone, ApiError> {
        self.ask(&request)?;
        Ok(asset_done("released"))
    }

    async fn asset_certificate(
        &self,
        request: AssetCertificate,
    ) -> Result<AssetCertified, ApiError> {
        self.ask(&request)?;
        Ok(AssetCertified {
            serial: "0123".into(),
            not_before: UNIX_EPOCH,
            not_after: UNIX_EPOCH + Duration::from_secs(86_400),
            chain_pem: "-----BEGIN CERTIFICATE-----\n".into(),
            root_pem: "-----BEGIN CERTIFICATE-----\n".into(),
            receipt: "00ff".into(),
        })
    }

    async fn asset_receipt(&self, request: AssetReceipt) -> Result<AssetReceiptShown, ApiError> {
        self.ask(&request)?;
        Ok(AssetReceiptShown { receipt: "00ff".into() })
    }

    async fn token_create(&self, request: TokenCreate) -> Result<TokenCreated, ApiError> {
        self.ask(&request)?;
        Ok(TokenCreated {
            id: "4f9c".into(),
            node: request.node,
            token: "stoq-join-secret".into(),
            expires_at: SystemTime::now() + Duration::from_secs(request.lifetime_seconds),
            root_fingerprint: format!("sha256:{}", "cd".repeat(32)),
        })
    }

    async fn token_list(&self, request: TokenList) -> Result<TokenListed, ApiError> {
        self.ask(&request)?;
        Ok(TokenListed { tokens: vec![waiting_token()] })
    }

    async fn token_revoke(&self, request: TokenRevoke) -> Result<TokenRevoked, ApiError> {
        self.ask(&request)?;
        Ok(TokenRevoked { token: waiting_token() })
    }

    async fn log_key(&self, request: LogKey) -> Result<LogKeyShown, ApiError> {
        self.ask(&request)?;
        Ok(LogKeyShown {
            origin: "alpha.trust/log".into(),
            log_id: "ef".repeat(32),
            key_pem: "-----BEGIN PUBLIC KEY-----\n".into(),
        })
    }

    async fn log_checkpoint(&self, request: LogCheckpoint) -> Result<LogCheckpointShown, ApiError> {
        self.ask(&request)?;
        Ok(LogCheckpointShown {
            origin: "alpha.trust/log".into(),
            size: 7,
            root: "01".repeat(32),
            signed_at: SystemTime::now(),
            note: "alpha.trust/log\n7\n".into(),
        })
    }

    async fn log_prove(&self, request: LogProve) -> Result<LogProved, ApiError> {
        self.ask(&request)?;
        Ok(LogProved { index: 6, size: 7, proof: "c2sp.org/tlog-proof@v1\n".into() })
    }

    async fn log_fsck(&self, request: LogFsck) -> Result<LogChecked, ApiError> {
        self.ask(&request)?;
        let findings = self.findings.lock().unwrap().clone();
        Ok(LogChecked {
            entries: 7,
            checkpoints: 1,
            errors: findings.len() as u64,
            files_ahead: 0,
            findings: findings
                .into_iter()
                .map(|problem| LogFinding { place: "entry 3".into(), problem })
                .collect(),
        })
    }

    async fn crl_list(&self, request: CrlList) -> Result<CrlListed, ApiError> {
        self.ask(&request)?;
        Ok(CrlListed {
            crls: vec![crl(0)],
            deny_list_epoch: 12,
            deny_list_entries: 1,
            problem: None,
        })
    }

    async fn crl_show(&self, request: CrlShow) -> Result<CrlShown, ApiError> {
        self.ask(&request)?;
        Ok(CrlShown { crl: crl(request.shard), pem: "-----BEGIN X509 CRL-----\n".into() })
    }

    async fn audit_tail(&self, request: AuditTail) -> Result<AuditTailed, ApiError> {
        self.ask(&request)?;
        let record = AuditRecord {
            number: 9,
            at: SystemTime::now(),
            event: "revoked".into(),
            outcome: "done".into(),
            actor: "operator:root".into(),
            subject: "0badcafe".into(),
            details: [("reason".to_owned(), "superseded".to_owned())].into(),
            previous: "02".repeat(32),
        };
        Ok(AuditTailed { records: vec![record] })
    }

    async fn audit_verify(&self, request: AuditVerify) -> Result<AuditVerified, ApiError> {
        self.ask(&request)?;
        Ok(AuditVerified {
            records: 9,
            anchored: 8,
            head: "02".repeat(32),
            errors: self.findings.lock().unwrap().clone(),
        })
    }

    async fn signer_show(&self, request: SignerShow) -> Result<SignerStatus, ApiError> {
        self.ask(&request)?;
        Ok(SignerStatus {
            backend: "soft".into(),
            healthy: true,
            last_error: None,
            keys: vec![SignerKey {
                name: "issuing".parse().unwrap(),
                spki_sha256: "03".repeat(32),
            }],
            queued: 0,
            queue_limit: 256,
            workers: 2,
            signatures: 30,
            failures: 0,
            refused_busy: 0,
            self_tests: 5,
            reopened: 0,
        })
    }

    async fn signer_test(&self, request: SignerTest) -> Result<SignerTested, ApiError> {
        self.ask(&request)?;
        let error = self.findings.lock().unwrap().first().cloned();
        let key = SignerTestedKey { name: "issuing".into(), milliseconds: 0.4, error };
        Ok(SignerTested { keys: vec![key] })
    }

    async fn backup_create(&self, request: BackupCreate) -> Result<BackupCreated, ApiError> {
        self.ask(&request)?;
        Ok(BackupCreated {
            directory: request.directory,
            files: 12,
            bytes: 4_096,
            journal_sequence: 40,
            deny_list_epoch: 12,
            certificates: 7,
            keys: match request.keys_passphrase {
                Some(_) => vec!["issuing.key".into()],
                None => Vec::new(),
            },
            keys_left_out: vec!["ca/other.key".into()],
        })
    }

    async fn doctor_run(&self, request: DoctorRun) -> Result<Diagnosis, ApiError> {
        self.ask(&request)?;
        let mut checks = vec![Check::good("certificate", "ends in 20 h")];
        for finding in self.findings.lock().unwrap().iter() {
            checks.push(Check::new("log", Health::Bad, finding, "run `stoqctl log fsck`"));
        }
        Ok(Diagnosis { checks })
    }

    async fn log_level_get(&self, request: LogLevelGet) -> Result<LogLevel, ApiError> {
        self.ask(&request)?;
        Ok(LogLevel { level: "info".into(), reverts_at: None })
    }

    async fn log_level_set(&self, request: LogLevelSet) -> Result<LogLevelWasSet, ApiError> {
        self.ask(&request)?;
        let reverts_at =
            request.for_seconds.map(|seconds| SystemTime::now() + Duration::from_secs(seconds));
        Ok(LogLevelWasSet { level: request.level, previous: "info".into(), reverts_at })
    }

    async fn drain(&self, request: Drain) -> Result<Drained, ApiError> {
        self.ask(&request)?;
        Ok(Drained {
            flows_cut: *self.flows_cut.lock().unwrap(),
            connections_closed: 2,
            seconds: 0.5,
        })
    }

    async fn version_show(&self, request: VersionShow) -> Result<VersionShown, ApiError> {
        self.ask(&request)?;
        Ok(VersionShown {
            version: "0.1.0".into(),
            commit: None,
            protocols: vec!["stoq/1.0".into()],
        })
    }

    async fn copy_run(
        &self,
        request: CopyRun,
        progress: ProgressSink,
    ) -> Result<CopyDone, ApiError> {
        let _dropped = Dropped(Arc::clone(&self.copy_dropped));
        self.ask(&request)?;
        progress.report(CopyProgress {
            bytes_done: 512,
            bytes_total: 1_024,
            files_done: 0,
            files_total: 1,
            current: Some("a\u{1b}[31m".into()),
            bytes_per_second: 512.0,
        });
        self.copy_started.notify_one();
        if request.source.to_string().starts_with(HANGS) {
            std::future::pending::<()>().await;
        }
        Ok(CopyDone {
            bytes: 1_024,
            bytes_resumed: 0,
            files: 1,
            files_verified: 1,
            seconds: 2.0,
            bytes_per_second: 512.0,
        })
    }

    fn counters(&self) -> Vec<Arc<WorkerCounters>> {
        self.counters.clone()
    }

    fn control(&self) -> ControlGauges {
        ControlGauges { rotation_events: vec![("activated", 2)], ..ControlGauges::default() }
    }
}

fn known_authority() -> KnownAuthority {
    KnownAuthority {
        instance: NodeId::new("beta").unwrap(),
        issuing_key_id: "0b".repeat(20),
        log_id: "0c".repeat(32),
        address: Some("[2001:db8::b]:8444".parse().unwrap()),
        not_after: SystemTime::now() + Duration::from_secs(86_400),
        is_own: false,
    }
}
