//! How the node is, on one screen, and what is wrong with it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use stoq_admin::api::{
    DRAIN_SECONDS_MAX, Drain, Drained, Listener, ListenerList, ListenerListed, Problem, Status,
    StatusShow, Totals, VersionShow, VersionShown, Worker, WorkerList, WorkerListed, WorkerShow,
    WorkerShown,
};
use stoq_admin::{ApiError, ConsensusGauges, ControlGauges, DenyListGauges};
use stoq_trustchain::NodeIdentity;
use stoq_trustchain::rotation::Event;

use super::Admin;
use super::node::certificate;
use super::service::shown_attachments;
use crate::agreement::Agreement;
use crate::identity;

/// What an operator should know, each with a remedy
pub fn problems(admin: &Admin) -> Vec<Problem> {
    let mut problems = Vec::new();
    let now = admin.0.clock.now();
    let identities = admin.0.identities();
    let not_after = identities.identity.as_ref().map(|identity| identity.identity().not_after);
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
            "this node's certificate ends within six hours, and no successor is in force".into(),
            "it is asked for without end: `stoqctl doctor` says why none came",
        );
    }
    for worker in admin.0.endpoint.workers() {
        if let Some(reason) = worker.io_fallback {
            let message = format!("worker {} runs without io_uring: {reason}", worker.index);
            add("io-fallback", message, "allow io_uring: sysctl kernel.io_uring_disabled=0");
        }
    }
    if let Some(message) = admin.0.agreement.get().and_then(|agreement| agreement.problem()) {
        let remedy = "`stoqctl consensus validators` shows who is missing";
        add("no-agreement", message, remedy);
    }
    problems.extend(crate::pins::problem(&admin.0.config.load(), identities.identity.as_ref()));
    problems.extend(admin.0.list_age().and_then(|age| age.problem(now)));
    problems
}

pub async fn show(admin: &Admin, _request: StatusShow) -> Result<Status, ApiError> {
    let node = &admin.0;
    let identity = node.identities().identity;
    let sessions = node.endpoint.sessions().await;
    let problems = problems(admin);
    let usable = |one: &NodeIdentity| one.identity().not_after > node.clock.now();
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
        services_attached: shown_attachments(admin, &sessions).len(),
        totals: Totals::of(node.endpoint.counters().iter().map(Arc::as_ref)),
    })
}

/// What the control plane counts, for metrics. Every event is there from the start, with zero.
pub fn control(admin: &Admin) -> ControlGauges {
    let rotation = admin.0.rotation.status();
    let count = |label: &str| {
        let found = rotation.counters.iter().find(|(known, _)| *known == label);
        found.map_or(0, |(_, count)| *count)
    };
    let now = admin.0.clock.now();
    let deny_list = admin.0.list_age().map(|age| DenyListGauges {
        recent_until_seconds: age
            .until
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0.0, |since| since.as_secs_f64()),
        too_old: age.is_too_old(now),
        fail_closed: age.fail_closed,
    });
    ControlGauges {
        rotation_events: Event::LABELS.into_iter().map(|label| (label, count(label))).collect(),
        rotation_connections: rotation.connections,
        deny_list,
        consensus: admin.0.agreement.get().map(|agreement| consensus(agreement)),
    }
}

fn consensus(agreement: &Agreement) -> ConsensusGauges {
    let registry = agreement.view.registry();
    let counters = &agreement.links.counters;
    let count =
        |counter: &std::sync::atomic::AtomicU64| counter.load(std::sync::atomic::Ordering::Relaxed);
    ConsensusGauges {
        agreeing: agreement.problem().is_none(),
        height: registry.last_height(),
        epoch: registry.next_epoch(),
        waiting: agreement.view.pending(),
        assets: registry.assets_count(),
        evidence: registry.evidence().count(),
        frames: [
            count(&counters.queued),
            count(&counters.full),
            count(&counters.unreachable),
            count(&counters.received),
        ],
        refused_flows: count(&counters.refused),
    }
}

pub async fn workers(admin: &Admin, _request: WorkerList) -> Result<WorkerListed, ApiError> {
    Ok(WorkerListed { workers: admin.0.endpoint.workers().iter().map(Worker::from).collect() })
}

pub async fn worker(admin: &Admin, request: WorkerShow) -> Result<WorkerShown, ApiError> {
    let workers = admin.0.endpoint.workers();
    let counters = admin.0.endpoint.counters();
    match (workers.get(request.index), counters.get(request.index)) {
        (Some(worker), Some(counters)) => Ok(WorkerShown::new(worker, counters)),
        _ => Err(ApiError::not_found("worker", request.index, "stoqctl worker list")),
    }
}

pub async fn listeners(admin: &Admin, _request: ListenerList) -> Result<ListenerListed, ApiError> {
    Ok(ListenerListed { listeners: vec![Listener::from(&admin.0.endpoint.listener())] })
}

pub async fn drain(admin: &Admin, request: Drain) -> Result<Drained, ApiError> {
    let started = std::time::Instant::now();
    let timeout = Duration::from_secs(request.timeout_seconds.min(DRAIN_SECONDS_MAX));
    let (flows_cut, connections_closed) = admin.0.drain(timeout).await;
    Ok(Drained { flows_cut, connections_closed, seconds: started.elapsed().as_secs_f64() })
}

pub async fn version(_admin: &Admin, _request: VersionShow) -> Result<VersionShown, ApiError> {
    Ok(crate::command_line::version())
}
