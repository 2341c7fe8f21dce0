//! `stoqctl status`: the whole node on one screen.

use std::time::SystemTime;

use clap::Args;
use stoq_admin::api::{self, StatusShow};
use stoq_admin::{ApiError, ExitCode};

use crate::context::Context;
use crate::human;
use crate::render::{Cell, Report, Tone, cell};

/// Shows how this node is
#[derive(Args, Debug)]
#[command(after_help = "\
Ends with 0 when the node is ready, 3 when it is not, 6 when stoqd cannot be reached.

Examples:
  stoqctl status
  stoqctl status --json | jq .totals.flows_open")]
pub(crate) struct Status {}

impl Status {
    pub(crate) fn name(&self) -> (&'static str, &'static str) {
        super::name_of::<StatusShow>()
    }

    pub(crate) async fn run(self, context: &Context) -> Result<Report, ApiError> {
        let status = context.call(StatusShow {}).await?;
        let now = SystemTime::now();
        let mut report = context.report(&status)?.fields(fields(&status, now));
        if !status.problems.is_empty() {
            let rows = status.problems.iter().map(problem_row).collect();
            report = report.table(&["problem", "cause", "remedy"], rows, "");
        }
        Ok(report.exit(if status.ready { ExitCode::Done } else { ExitCode::Unhealthy }))
    }
}

fn fields(status: &api::Status, now: SystemTime) -> Vec<(&'static str, Cell)> {
    let totals = &status.totals;
    vec![
        ("node", cell(super::or_dash(status.node.as_ref()))),
        ("state", state(status)),
        ("certificate", certificate(status.certificate.as_ref(), now)),
        ("listening", cell(listening(&status.listeners))),
        ("workers", workers(&status.workers)),
        (
            "held",
            cell(format!(
                "{}, {} ({} in handshake), {}",
                human::count(totals.sessions_open, "session"),
                human::count(totals.connections_open, "connection"),
                totals.half_open,
                human::count(totals.flows_open, "flow"),
            )),
        ),
        (
            "services",
            cell(format!(
                "{} published, {} attached",
                status.services_published, status.services_attached
            )),
        ),
        (
            "moved",
            cell(format!(
                "{} sent, {} received",
                human::bytes(totals.bytes_sent),
                human::bytes(totals.bytes_received)
            )),
        ),
        (
            "lost",
            cell(format!(
                "{} lost, {} dropped, {} refused",
                human::count(totals.packets_lost, "packet"),
                human::count(totals.datagrams_dropped, "datagram"),
                human::count(totals.peers_refused, "peer"),
            )),
        ),
        (
            "stoqd",
            cell(format!(
                "{}, process {}, started {}",
                status.version,
                status.pid,
                human::moment(status.started_at, now)
            )),
        ),
    ]
}

fn state(status: &api::Status) -> Cell {
    match (status.ready, status.draining) {
        (_, true) => Cell::toned("draining", Tone::Warning),
        (true, false) => Cell::toned("ready", Tone::Good),
        (false, false) => Cell::toned("not ready", Tone::Bad),
    }
}

/// A certificate and the time it has left
pub(super) fn certificate(certificate: Option<&api::Certificate>, now: SystemTime) -> Cell {
    let Some(certificate) = certificate else {
        return Cell::toned("none", Tone::Bad);
    };
    let tone = if certificate.not_after <= now { Tone::Bad } else { Tone::Plain };
    let ends = human::moment(certificate.not_after, now);
    Cell::toned(format!("serial {}, ends {ends}", certificate.serial), tone)
}

fn listening(listeners: &[api::Listener]) -> String {
    let each: Vec<_> = listeners.iter().map(|listener| listener.address.to_string()).collect();
    if each.is_empty() { "nowhere".to_owned() } else { each.join(", ") }
}

fn workers(workers: &[api::Worker]) -> Cell {
    let fallen_back = workers.iter().filter(|worker| worker.io_fallback.is_some()).count();
    let all = human::count(workers.len() as u64, "worker");
    if fallen_back == 0 {
        let io = workers.first().map_or("none", |worker| &worker.io);
        cell(format!("{all} ({io})"))
    } else {
        Cell::toned(format!("{all}, {fallen_back} without io_uring"), Tone::Warning)
    }
}

fn problem_row(problem: &api::Problem) -> Vec<Cell> {
    vec![Cell::toned(&problem.code, Tone::Bad), cell(&problem.message), cell(&problem.remedy)]
}
