//! What the admin interface asks of a node, answered: one method per operation of `stoq-admin`'s table.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use stoq::{NodeId, WorkerCounters};
use stoq_admin::api::*;
use stoq_admin::{ApiError, Backend};
use stoq_config::{Config, Target};
use stoq_trustchain::enrollment::enroll;
use stoq_trustchain::{Fingerprint, JoinToken, NodeIdentity, Subject, TokenGrant};

use crate::identity::{self, OwnAuthority, Source};
use crate::node::{Identities, Node, allow_texts};
use crate::state::{StateError, StoredAttachment, StoredPeer, StoredService};

/// The node, as the admin interface sees it
pub struct Admin(pub Arc<Node>);

fn not_durable(error: &StateError) -> ApiError {
    ApiError::failed("not-durable", error.to_string(), "check the state directory's disk")
}

fn certificate(identity: &NodeIdentity) -> Certificate {
    let leaf = identity.identity().chain_der.first().map_or(&[][..], Vec::as_slice);
    let not_before = stoq_trustchain::certificate::parse(leaf)
        .and_then(|parsed| stoq_trustchain::certificate::validity(&parsed))
        .map_or(SystemTime::UNIX_EPOCH, |(not_before, _)| not_before);
    Certificate {
        serial: identity.identity().serial.clone(),
        fingerprint: Fingerprint::of(leaf).to_string(),
        not_before,
        not_after: identity.identity().not_after,
    }
}

impl Admin {
    fn own_authority(&self) -> Result<OwnAuthority, ApiError> {
        match self.0.identities().source {
            Source::Own(own) => Ok(own),
            Source::Joined => Err(ApiError::conflict(
                "no-authority",
                "this node has joined another and issues no certificates",
                "make the token on the node it joined",
            )),
        }
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let now = SystemTime::now();
        let identities = self.0.identities();
        let not_after = identities.identity.map(|identity| identity.identity().not_after);
        let mut add = |code: &str, message: String, remedy: &str| {
            problems.push(Problem { code: code.into(), message, remedy: remedy.into() });
        };
        if let Some(problem) = identities.problem {
            add(
                "no-identity",
                format!("this node has no usable certificate: {problem}"),
                "join again with a new token: stoqctl node join TOKEN",
            );
        }
        if not_after.is_some_and(|not_after| not_after <= now) {
            add(
                "certificate-expired",
                "this node's certificate has expired: no new session is possible".into(),
                "join again with a new token: stoqctl node join TOKEN",
            );
        } else if not_after.is_some_and(|not_after| not_after < now + identity::WARN_BELOW) {
            add(
                "certificate-ends-soon",
                "this node's certificate ends within six hours".into(),
                "join again with a new token: stoqctl node join TOKEN",
            );
        }
        for worker in self.0.endpoint.workers() {
            if let Some(reason) = worker.io_fallback {
                let message = format!("worker {} runs without io_uring: {reason}", worker.index);
                add("io-fallback", message, "allow io_uring: sysctl kernel.io_uring_disabled=0");
            }
        }
        problems
    }

    async fn peer(&self, node: &NodeId) -> Option<Peer> {
        let (address, source) = self.0.peers.get(node)?;
        let sessions = self.0.endpoint.sessions().await;
        let sessions = sessions.iter().filter(|session| session.peer == *node).count();
        Some(Peer { node: node.clone(), address: Some(address), source, sessions })
    }

    fn shown_attachments(&self, sessions: &[stoq::SessionStatus]) -> Vec<Attachment> {
        self.0.services.attached(|node| sessions.iter().any(|session| session.peer == *node))
    }

    fn read_config(&self) -> Result<Config, ApiError> {
        let Some(file) = &self.0.config_file else {
            return Err(ApiError::conflict(
                "no-file",
                "stoqd runs without a configuration file",
                "write one (stoqd default-config) and start stoqd with --config FILE",
            ));
        };
        Config::read(file).map_err(|error| {
            ApiError::usage("bad-config", error.to_string(), "correct the file and try again")
        })
    }

    /// Applies what can be applied while running
    async fn apply(&self, next: &Config) -> Result<ConfigReloaded, ApiError> {
        let _changing = self.0.changing.lock().await;
        let current = self.0.config.load_full();
        let (applied, pending): (Vec<_>, Vec<_>) =
            current.diff(next).into_iter().partition(|change| change.reloadable);
        let merged = crate::reload::merge(&current, next);
        crate::reload::services(&self.0, &current, &merged).await?;
        let roots = crate::copy::Roots::new(merged.copy.roots.clone()).map_err(|error| {
            ApiError::usage("bad-config", error.to_string(), "correct copy.roots")
        })?;
        self.0.set_roots(roots);
        if merged.log.filter != current.log.filter {
            self.0
                .logging
                .configure(&merged.log.filter)
                .map_err(|error| ApiError::usage("bad-config", error, "correct log.filter"))?;
        }
        self.0.config.store(Arc::new(merged));
        self.0.load_peers(&self.0.config.load());
        let epoch = self.0.publish_snapshot();
        let shown = |changes: Vec<stoq_config::Change>| {
            changes.into_iter().map(ConfigChange::from).collect()
        };
        Ok(ConfigReloaded { applied: shown(applied), pending: shown(pending), epoch })
    }

    /// Reads the file again, as SIGHUP asks for
    pub async fn reload(&self) -> Result<ConfigReloaded, ApiError> {
        let next = self.read_config()?;
        self.apply(&next).await
    }

    async fn join(node: Arc<Node>, token: JoinToken) -> Result<NodeJoined, ApiError> {
        let _changing = node.changing.lock().await;
        let state = &node.placement.state_directory;
        let no_directory = |error: identity::OpenError| {
            ApiError::failed("no-directory", error.to_string(), "check the state directory")
        };
        let address = node.endpoint.local_address();
        concrete(address, "listen.stoq")?;
        let directory = identity::begin_join(state).map_err(no_directory)?;
        let enrolled =
            enroll(&token, address, &directory, SystemTime::now()).await.map_err(|error| {
                ApiError::failed("join-refused", error.to_string(), "ask for a new token")
            })?;
        identity::finish_join(state).map_err(no_directory)?;
        let peer =
            StoredPeer { node: enrolled.ca_node.to_string(), address: enrolled.ca_stoq_address };
        node.state
            .change(|stored| {
                stored.peers.retain(|known| known.node != peer.node);
                stored.issuer = Some(peer.node.clone());
                stored.peers.push(peer);
            })
            .map_err(|error| not_durable(&error))?;
        let identity = enrolled.identity;
        let joined = NodeJoined {
            node: identity.identity().node.clone(),
            issuer: enrolled.ca_node,
            certificate: certificate(&identity),
            root_fingerprint: identity.root_fingerprint().to_string(),
        };
        node.adopt(Source::Joined, identity);
        node.load_peers(&node.config.load());
        node.peers.forget_sessions();
        tracing::info!(node = %joined.node, issuer = %joined.issuer, "joined");
        Ok(joined)
    }
}

impl Backend for Admin {
    async fn status_show(&self, _request: StatusShow) -> Result<Status, ApiError> {
        let node = &self.0;
        let identity = node.identities().identity;
        let sessions = node.endpoint.sessions().await;
        let problems = self.problems();
        let usable = |one: &NodeIdentity| one.identity().not_after > SystemTime::now();
        let usable = identity.as_ref().is_some_and(usable);
        Ok(Status {
            ready: !node.is_draining() && usable,
            draining: node.is_draining(),
            problems,
            node: Some(node.name()),
            certificate: identity.as_ref().map(certificate),
            epoch: node.epoch(),
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            started_at: node.started_at,
            listeners: vec![Listener::from(&node.endpoint.listener())],
            workers: node.endpoint.workers().iter().map(Worker::from).collect(),
            services_published: node.services.published().len(),
            services_attached: self.shown_attachments(&sessions).len(),
            totals: Totals::of(node.endpoint.counters().iter().map(Arc::as_ref)),
        })
    }

    async fn node_show(&self, _request: NodeShow) -> Result<NodeShown, ApiError> {
        let Identities { source, identity, .. } = self.0.identities();
        let issuer = match source {
            Source::Own(own) => Some(own.subject().node().clone()),
            Source::Joined => self.0.state.read().issuer.and_then(|name| NodeId::new(&name).ok()),
        };
        Ok(NodeShown {
            node: self.0.name(),
            certificate: identity.as_ref().map(certificate),
            root_fingerprint: identity.map(|identity| identity.root_fingerprint().to_string()),
            issuer,
            addresses: vec![self.0.endpoint.local_address()],
        })
    }

    async fn node_list(&self, _request: NodeList) -> Result<NodeListed, ApiError> {
        self.0.refresh_enrolled();
        let sessions = self.0.endpoint.sessions().await;
        let count = |node: &NodeId| sessions.iter().filter(|s| s.peer == *node).count();
        let known = self.0.peers.all();
        let mut peers: Vec<Peer> = known
            .iter()
            .map(|(node, (address, source))| Peer {
                node: node.clone(),
                address: Some(*address),
                source: *source,
                sessions: count(node),
            })
            .collect();
        peers.sort_by(|a, b| a.node.cmp(&b.node));
        Ok(NodeListed { peers })
    }

    async fn node_add(&self, request: NodeAdd) -> Result<NodeAdded, ApiError> {
        let _changing = self.0.changing.lock().await;
        let stored = StoredPeer { node: request.node.to_string(), address: request.address };
        self.0
            .state
            .change(|state| {
                state.peers.retain(|peer| peer.node != stored.node);
                state.peers.push(stored);
            })
            .map_err(|error| not_durable(&error))?;
        self.0.load_peers(&self.0.config.load());
        let peer = self.peer(&request.node).await;
        peer.map(|peer| NodeAdded { peer })
            .ok_or_else(|| ApiError::not_found("node", &request.node, "stoqctl node list"))
    }

    async fn node_remove(&self, request: NodeRemove) -> Result<NodeRemoved, ApiError> {
        let _changing = self.0.changing.lock().await;
        let peer = self
            .peer(&request.node)
            .await
            .ok_or_else(|| ApiError::not_found("node", &request.node, "stoqctl node list"))?;
        if peer.source == PeerSource::Enrolled {
            return Err(ApiError::conflict(
                "enrolled",
                format!(
                    "node {} has enrolled here; its certificate stays good to its end",
                    request.node
                ),
                "allow it to nothing; revocation is not built yet",
            ));
        }
        if peer.source == PeerSource::Config {
            return Err(ApiError::conflict(
                "configured",
                format!("node {} is named in stoqd.toml", request.node),
                "remove its [[peer]] there and reload",
            ));
        }
        let name = request.node.to_string();
        self.0
            .state
            .change(|state| state.peers.retain(|peer| peer.node != name))
            .map_err(|error| not_durable(&error))?;
        self.0.peers.remove(&request.node);
        Ok(NodeRemoved { peer })
    }

    async fn node_token_create(
        &self,
        request: NodeTokenCreate,
    ) -> Result<NodeTokenCreated, ApiError> {
        let own = self.own_authority()?;
        let ca_address = self.0.enrollment_address().ok_or_else(|| {
            ApiError::conflict(
                "no-enrolment",
                "this node does not listen for enrolment",
                "set listen.enrollment in stoqd.toml and restart",
            )
        })?;
        concrete(ca_address, "listen.enrollment")?;
        concrete(self.0.endpoint.local_address(), "listen.stoq")?;
        let refused = |error: &dyn std::fmt::Display| {
            ApiError::usage("bad-token-request", error.to_string(), "correct the request")
        };
        let grant = TokenGrant {
            subject: Subject::new(request.node.clone(), []).map_err(|e| refused(&e))?,
            ca_address,
            ca_node: self.0.name(),
            ca_stoq_address: self.0.endpoint.local_address(),
            root_fingerprint: own.authority.root_fingerprint(),
            lifetime: Duration::from_secs(request.lifetime_seconds),
        };
        let tokens = Arc::clone(&own.tokens);
        let token = tokio::task::spawn_blocking(move || tokens.create(&grant, SystemTime::now()))
            .await
            .map_err(|error| refused(&error))?
            .map_err(|error| refused(&error))?;
        Ok(NodeTokenCreated {
            node: request.node,
            token: token.to_string(),
            expires_at: token.expires,
            root_fingerprint: token.root_fingerprint.to_string(),
        })
    }

    async fn node_join(&self, request: NodeJoin) -> Result<NodeJoined, ApiError> {
        let token: JoinToken = request.token.trim().parse().map_err(|error| {
            ApiError::usage("bad-token", format!("{error}"), "copy the whole token")
        })?;
        // Once begun it is finished, also when the asker leaves: the token is spent by then.
        let node = Arc::clone(&self.0);
        tokio::spawn(Self::join(node, token)).await.unwrap_or_else(|error| {
            Err(ApiError::failed("join-failed", error.to_string(), "see the log of stoqd"))
        })
    }

    async fn session_list(&self, request: SessionList) -> Result<SessionListed, ApiError> {
        Ok(SessionListed::new(&request, &self.0.endpoint.sessions().await))
    }

    async fn session_show(&self, request: SessionShow) -> Result<SessionShown, ApiError> {
        let sessions = self.0.endpoint.sessions().await;
        let session = request.session.find(&sessions)?;
        let connections = self.0.endpoint.connections().await;
        let flows = self.0.endpoint.flows(session.id).await;
        Ok(SessionShown {
            session: Session::from(session),
            connections: connections
                .iter()
                .filter(|connection| connection.session == Some(session.id))
                .map(Connection::from)
                .collect(),
            flows: flows.iter().take(1_000).map(Flow::from).collect(),
        })
    }

    async fn session_close(&self, request: SessionClose) -> Result<SessionClosed, ApiError> {
        let sessions = self.0.endpoint.sessions().await;
        let session = request.session.find(&sessions)?;
        if !self.0.endpoint.close_session(session.id) {
            return Err(busy());
        }
        Ok(SessionClosed { session: Session::from(session) })
    }

    async fn session_replace(&self, request: SessionReplace) -> Result<SessionReplaced, ApiError> {
        let sessions = self.0.endpoint.sessions().await;
        let session = request.session.find(&sessions)?;
        let wanted = session.connections as u64;
        if !self.0.endpoint.replace_session(session.id) {
            return Err(busy());
        }
        let mut poll = tokio::time::interval(Duration::from_millis(5));
        let timeout = self.0.config.load().transport().drain_timeout;
        let deadline = tokio::time::Instant::now() + timeout;
        loop {
            poll.tick().await;
            let sessions = self.0.endpoint.sessions().await;
            let Some(now) = sessions.iter().find(|status| status.id == session.id) else {
                return Err(ApiError::failed(
                    "session-ended",
                    "the session ended while its connections were replaced",
                    "see the log of stoqd",
                ));
            };
            let replaced = now.replacements - session.replacements;
            if replaced >= wanted {
                return Ok(SessionReplaced { session: Session::from(now), replaced });
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(ApiError::timed_out(
                    format!("{replaced} of {wanted} connections were replaced in time"),
                    "the rest goes on by itself; see `stoqctl session list`",
                ));
            }
        }
    }

    async fn connection_list(&self, request: ConnectionList) -> Result<ConnectionListed, ApiError> {
        Ok(ConnectionListed::new(&request, &self.0.endpoint.connections().await))
    }

    async fn connection_show(&self, request: ConnectionShow) -> Result<ConnectionShown, ApiError> {
        let connections = self.0.endpoint.connections().await;
        let found = connections.iter().find(|connection| connection.id == request.connection.0);
        found.map(|found| ConnectionShown { connection: Connection::from(found) }).ok_or_else(
            || ApiError::not_found("connection", request.connection, "stoqctl connection list"),
        )
    }

    async fn worker_list(&self, _request: WorkerList) -> Result<WorkerListed, ApiError> {
        Ok(WorkerListed { workers: self.0.endpoint.workers().iter().map(Worker::from).collect() })
    }

    async fn worker_show(&self, request: WorkerShow) -> Result<WorkerShown, ApiError> {
        let workers = self.0.endpoint.workers();
        let counters = self.0.endpoint.counters();
        match (workers.get(request.index), counters.get(request.index)) {
            (Some(worker), Some(counters)) => Ok(WorkerShown::new(worker, counters)),
            _ => Err(ApiError::not_found("worker", request.index, "stoqctl worker list")),
        }
    }

    async fn listener_list(&self, _request: ListenerList) -> Result<ListenerListed, ApiError> {
        Ok(ListenerListed { listeners: vec![Listener::from(&self.0.endpoint.listener())] })
    }

    async fn service_publish(&self, request: ServicePublish) -> Result<ServicePublished, ApiError> {
        let _changing = self.0.changing.lock().await;
        let ServicePublish { name, target, allow } = request;
        stoq_config::Service::new(name.clone(), target.clone(), allow.clone())
            .map_err(|error| ApiError::usage("bad-service", error, "correct the command"))?;
        self.0
            .services
            .publish(name.clone(), target.clone(), allow.clone(), ServiceOrigin::Operator)
            .map_err(|_| {
                ApiError::conflict(
                    "published",
                    format!("a service {name} is published already"),
                    "remove it first: stoqctl service remove",
                )
            })?;
        let stored = StoredService {
            name: name.to_string(),
            to: target.to_string(),
            allow: allow_texts(&allow),
        };
        if let Err(error) = self.0.state.change(|state| state.services.push(stored)) {
            self.0.services.unpublish(&name);
            return Err(not_durable(&error));
        }
        self.0.publish_snapshot();
        let service = self.0.services.published().into_iter().find(|one| one.name == name);
        service
            .map(|service| ServicePublished { service })
            .ok_or_else(|| ApiError::not_found("service", &name, "stoqctl service list"))
    }

    async fn service_attach(&self, request: ServiceAttach) -> Result<ServiceAttached, ApiError> {
        let _changing = self.0.changing.lock().await;
        let ServiceAttach { service, node, listen } = request;
        self.0.refresh_enrolled();
        let address = stoq_config::ServiceAddress { service: service.clone(), node: node.clone() };
        stoq_config::Attachment::new(address, listen.clone())
            .map_err(|error| ApiError::usage("bad-attachment", error, "correct the command"))?;
        if self.0.services.is_attached(&service, &node) {
            return Err(ApiError::conflict(
                "attached",
                format!("{service}@{node} is attached already"),
                "remove it first: stoqctl service remove",
            ));
        }
        let bound: Target = self
            .0
            .services
            .attach(service.clone(), node.clone(), &listen, ServiceOrigin::Operator)
            .await
            .map_err(|error| {
                ApiError::conflict("listen", error.to_string(), "choose another address")
            })?;
        let stored = StoredAttachment {
            service: service.to_string(),
            node: node.to_string(),
            listen: bound.to_string(),
        };
        if let Err(error) = self.0.state.change(|state| state.attachments.push(stored)) {
            self.0.services.detach(&service, &node);
            return Err(not_durable(&error));
        }
        let sessions = self.0.endpoint.sessions().await;
        let attachment = self
            .shown_attachments(&sessions)
            .into_iter()
            .find(|one| one.service == service && one.node == node);
        attachment
            .map(|attachment| ServiceAttached { attachment })
            .ok_or_else(|| ApiError::not_found("attachment", &service, "stoqctl service list"))
    }

    async fn service_list(&self, _request: ServiceList) -> Result<ServiceListed, ApiError> {
        let sessions = self.0.endpoint.sessions().await;
        Ok(ServiceListed {
            published: self.0.services.published(),
            attached: self.shown_attachments(&sessions),
        })
    }

    async fn service_remove(&self, request: ServiceRemove) -> Result<ServiceRemoved, ApiError> {
        let _changing = self.0.changing.lock().await;
        let ServiceRemove { name, node } = request;
        let configured = |origin: ServiceOrigin| {
            (origin == ServiceOrigin::Config).then(|| {
                ApiError::conflict(
                    "configured",
                    format!("{name} is named in stoqd.toml"),
                    "remove it there and reload",
                )
            })
        };
        let sessions = self.0.endpoint.sessions().await;
        let text = name.to_string();
        if let Some(node) = node {
            let all = self.shown_attachments(&sessions);
            let found = all.into_iter().find(|one| one.service == name && one.node == node);
            let found = found
                .ok_or_else(|| ApiError::not_found("attachment", &name, "stoqctl service list"))?;
            if let Some(error) = configured(found.origin) {
                return Err(error);
            }
            let of = node.to_string();
            self.0
                .state
                .change(|state| {
                    state.attachments.retain(|one| !(one.service == text && one.node == of));
                })
                .map_err(|error| not_durable(&error))?;
            let attached = self.0.services.detach(&name, &node).into_iter().collect();
            return Ok(ServiceRemoved { published: None, attached });
        }
        let all = self.0.services.published();
        let found = all.into_iter().find(|one| one.name == name);
        let found =
            found.ok_or_else(|| ApiError::not_found("service", &name, "stoqctl service list"))?;
        if let Some(error) = configured(found.origin) {
            return Err(error);
        }
        self.0
            .state
            .change(|state| state.services.retain(|one| one.name != text))
            .map_err(|error| not_durable(&error))?;
        let published = self.0.services.unpublish(&name);
        self.0.publish_snapshot();
        Ok(ServiceRemoved { published, attached: Vec::new() })
    }

    async fn measure_start(&self, request: MeasureStart) -> Result<MeasureStarted, ApiError> {
        self.0.refresh_enrolled();
        self.0.measurements.start(&self.0, request).await
    }

    async fn measure_show(&self, request: MeasureShow) -> Result<MeasureShown, ApiError> {
        self.0.measurements.show(&self.0, request.measurement).await
    }

    async fn config_show(&self, _request: ConfigShow) -> Result<ConfigShown, ApiError> {
        Ok(ConfigShown::new(self.0.config_file.clone(), &self.0.config.load()))
    }

    async fn config_diff(&self, request: ConfigDiff) -> Result<ConfigDiffed, ApiError> {
        let next = match request.text {
            None => self.read_config()?,
            Some(text) => Config::parse("request", &text).map_err(|error| {
                ApiError::usage("bad-config", error.to_string(), "correct the file and try again")
            })?,
        };
        let changes = self.0.config.load().diff(&next);
        Ok(ConfigDiffed { changes: changes.into_iter().map(ConfigChange::from).collect() })
    }

    async fn config_reload(&self, _request: ConfigReload) -> Result<ConfigReloaded, ApiError> {
        self.reload().await
    }

    async fn config_explain(&self, request: ConfigExplain) -> Result<ConfigExplained, ApiError> {
        let text = Config::explain(&request.key)
            .ok_or_else(|| ApiError::not_found("key", &request.key, "stoqctl config show"))?;
        Ok(ConfigExplained { key: request.key, text })
    }

    async fn log_level_get(&self, _request: LogLevelGet) -> Result<LogLevel, ApiError> {
        let (level, reverts_at) = self.0.logging.active();
        Ok(LogLevel { level, reverts_at })
    }

    async fn log_level_set(&self, request: LogLevelSet) -> Result<LogLevelWasSet, ApiError> {
        let (previous, _) = self.0.logging.active();
        let lasting = request.for_seconds.map(Duration::from_secs);
        let reverts_at = self.0.logging.set(&request.level, lasting).map_err(|error| {
            ApiError::usage(
                "bad-level",
                error,
                "use error, warn, info, debug, trace or target=level",
            )
        })?;
        Ok(LogLevelWasSet { level: request.level, previous, reverts_at })
    }

    async fn drain(&self, request: Drain) -> Result<Drained, ApiError> {
        let started = std::time::Instant::now();
        let timeout = Duration::from_secs(request.timeout_seconds.min(DRAIN_SECONDS_MAX));
        let (flows_cut, connections_closed) = self.0.drain(timeout).await;
        Ok(Drained { flows_cut, connections_closed, seconds: started.elapsed().as_secs_f64() })
    }

    async fn version_show(&self, _request: VersionShow) -> Result<VersionShown, ApiError> {
        Ok(crate::command_line::version())
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
}

/// An address that another host can dial
fn concrete(address: std::net::SocketAddrV6, key: &str) -> Result<(), ApiError> {
    if !address.ip().is_unspecified() {
        return Ok(());
    }
    Err(ApiError::conflict(
        "no-address",
        format!("{key} is {address}: no other node could dial that"),
        format!("set {key} in stoqd.toml to an address of this host and restart"),
    ))
}

fn busy() -> ApiError {
    ApiError::failed("busy", "the worker takes no more commands now", "try again")
}
