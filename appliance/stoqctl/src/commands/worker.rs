//! `stoqctl worker`: the threads of the data plane.

use std::collections::BTreeMap;

use clap::Subcommand;
use stoq_admin::ApiError;
use stoq_admin::api::{self, WorkerList, WorkerShow};

use super::{name_of, or_dash, yes};
use crate::context::Context;
use crate::human;
use crate::render::{Cell, Report, Tone, cell};

#[derive(Debug, Subcommand)]
pub(crate) enum Worker {
    /// Lists the workers and where they run
    List,
    /// Shows one worker with everything it counts
    #[command(after_help = "\
Example:
  stoqctl worker show 0 --json | jq .dropped")]
    Show {
        /// Its index
        index: usize,
    },
}

impl Worker {
    pub(crate) fn name(&self) -> (&'static str, &'static str) {
        match self {
            Self::List => name_of::<WorkerList>(),
            Self::Show { .. } => name_of::<WorkerShow>(),
        }
    }

    pub(crate) async fn run(self, context: &Context) -> Result<Report, ApiError> {
        match self {
            Self::List => list(context).await,
            Self::Show { index } => show(context, index).await,
        }
    }
}

async fn list(context: &Context) -> Result<Report, ApiError> {
    let listed = context.call(WorkerList {}).await?;
    let rows = listed.workers.iter().map(row).collect();
    let head =
        ["worker", "core", "numa", "io", "gso", "gro", "zero copy", "pages", "receive buffer"];
    let mut report = context.report(&listed)?.table(&head, rows, "no workers");
    for worker in &listed.workers {
        if let Some(reason) = &worker.io_fallback {
            report = report.note(format!("worker {} is without io_uring: {reason}", worker.index));
        }
    }
    Ok(report)
}

fn row(worker: &api::Worker) -> Vec<Cell> {
    vec![
        cell(worker.index),
        Cell::figure(or_dash(worker.core)),
        Cell::figure(or_dash(worker.numa_node)),
        io(worker),
        Cell::figure(worker.gso_segments),
        cell(yes(worker.gro)),
        cell(yes(worker.zero_copy)),
        Cell::figure(human::bytes(worker.page_bytes as u64)),
        Cell::figure(human::bytes(worker.receive_buffer_bytes as u64)),
    ]
}

fn io(worker: &api::Worker) -> Cell {
    let tone = if worker.io_fallback.is_some() { Tone::Warning } else { Tone::Plain };
    Cell::toned(&worker.io, tone)
}

async fn show(context: &Context, index: usize) -> Result<Report, ApiError> {
    let shown = context.call(WorkerShow { index }).await?;
    let worker = &shown.worker;
    let stages = shown
        .stage_seconds
        .iter()
        .map(|(stage, seconds)| vec![cell(stage), Cell::figure(human::duration(*seconds))])
        .collect();
    Ok(context
        .report(&shown)?
        .fields(vec![
            ("worker", cell(worker.index)),
            ("core", cell(or_dash(worker.core))),
            ("numa node", cell(or_dash(worker.numa_node))),
            ("io", io(worker)),
            ("fallback", cell(or_dash(worker.io_fallback.as_ref()))),
            ("gso segments", cell(worker.gso_segments)),
            ("gro", cell(yes(worker.gro))),
            ("zero copy", cell(yes(worker.zero_copy))),
        ])
        .table(&["stage", "time"], stages, "no stages")
        .table(&["counter", "value"], counts(&shown.counters), "nothing was counted")
        .table(&["dropped for", "datagrams"], counts(&shown.dropped), "nothing was dropped")
        .table(&["refused for", "peers"], counts(&shown.refused), "nobody was refused")
        .table(&["ended for", "flows"], counts(&shown.flow_errors), "no flow ended early"))
}

/// What is not zero
fn counts(counters: &BTreeMap<String, u64>) -> Vec<Vec<Cell>> {
    counters
        .iter()
        .filter(|(_, value)| **value > 0)
        .map(|(name, value)| vec![cell(name), Cell::figure(value)])
        .collect()
}
