//! `stoqctl connection`: QUIC connections.

use clap::Subcommand;
use stoq_admin::api::{self, ConnectionList, ConnectionShow, LIST_LIMIT_DEFAULT};
use stoq_admin::{ApiError, Id};

use super::{cut_note, name_of, or_dash};
use crate::context::Context;
use crate::human;
use crate::render::{Cell, Report, Tone, cell};

#[derive(Debug, Subcommand)]
pub(crate) enum Connection {
    /// Lists the connections now held
    List {
        /// Rows at most
        #[arg(long, value_name = "ROWS", default_value_t = LIST_LIMIT_DEFAULT)]
        limit: usize,
    },
    /// Shows one connection
    #[command(after_help = "Example:\n  stoqctl connection show a")]
    Show {
        /// Its id, as `stoqctl connection list` shows it
        connection: Id,
    },
}

impl Connection {
    pub(crate) fn name(&self) -> (&'static str, &'static str) {
        match self {
            Self::List { .. } => name_of::<ConnectionList>(),
            Self::Show { .. } => name_of::<ConnectionShow>(),
        }
    }

    pub(crate) async fn run(self, context: &Context) -> Result<Report, ApiError> {
        match self {
            Self::List { limit } => list(context, limit).await,
            Self::Show { connection } => show(context, connection).await,
        }
    }
}

async fn list(context: &Context, limit: usize) -> Result<Report, ApiError> {
    let listed = context.call(ConnectionList { limit }).await?;
    let rows = listed.connections.iter().map(connection_row).collect();
    let report = context.report(&listed)?.table(&CONNECTION_COLUMNS, rows, "no connections");
    Ok(match cut_note(listed.connections.len(), listed.total) {
        Some(note) => report.note(note),
        None => report,
    })
}

/// Head of a table of connections
pub(super) const CONNECTION_COLUMNS: [&str; 9] =
    ["id", "peer", "remote", "state", "worker", "age", "rtt", "sent", "received"];

/// One connection in a table
pub(super) fn connection_row(connection: &api::Connection) -> Vec<Cell> {
    vec![
        cell(connection.id),
        cell(or_dash(connection.peer.as_ref())),
        cell(connection.remote),
        state(&connection.state),
        Cell::figure(connection.worker),
        Cell::figure(human::duration(connection.age_seconds)),
        Cell::figure(human::duration(connection.rtt_seconds)),
        Cell::figure(human::bytes(connection.bytes_sent)),
        Cell::figure(human::bytes(connection.bytes_received)),
    ]
}

fn state(state: &str) -> Cell {
    let tone = match state {
        "active" => Tone::Good,
        "draining" | "closing" => Tone::Warning,
        _ => Tone::Plain,
    };
    Cell::toned(state, tone)
}

async fn show(context: &Context, connection: Id) -> Result<Report, ApiError> {
    let shown = context.call(ConnectionShow { connection }).await?;
    let one = &shown.connection;
    let lost =
        format!("{} of which {} arrived after all", one.packets_lost, one.packets_lost_spurious);
    Ok(context.report(&shown)?.fields(vec![
        ("connection", cell(one.id)),
        ("peer", cell(or_dash(one.peer.as_ref()))),
        ("remote", cell(one.remote)),
        ("state", state(&one.state)),
        ("dialled", cell(super::yes(one.dialled))),
        ("session", cell(or_dash(one.session))),
        ("worker", cell(one.worker)),
        ("age", cell(human::duration(one.age_seconds))),
        ("rtt", cell(human::duration(one.rtt_seconds))),
        ("window", cell(human::bytes(one.congestion_window_bytes))),
        ("udp payload", cell(format!("{} octets", one.udp_payload_bytes))),
        ("sent", cell(traffic(one.bytes_sent, one.packets_sent))),
        ("received", cell(traffic(one.bytes_received, one.packets_received))),
        ("lost packets", cell(lost)),
        ("key exchange", cell(&one.key_exchange)),
        ("epoch", cell(one.epoch)),
    ]))
}

fn traffic(bytes: u64, packets: u64) -> String {
    format!("{} in {}", human::bytes(bytes), human::count(packets, "packet"))
}
