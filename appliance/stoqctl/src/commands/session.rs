//! `stoqctl session`: sessions with other nodes.

use clap::{Args, Subcommand};
use stoq_admin::api::{
    self, LIST_LIMIT_DEFAULT, SessionClose, SessionList, SessionReplace, SessionSelector,
    SessionShow,
};
use stoq_admin::{ApiError, Id};
use stoq_interface::NodeId;

use super::connection::{CONNECTION_COLUMNS, connection_row};
use super::{cut_note, name_of};
use crate::context::Context;
use crate::human;
use crate::render::{Cell, Report, cell};

#[derive(Debug, Subcommand)]
pub(crate) enum Session {
    /// Lists the sessions now held
    List {
        /// Rows at most
        #[arg(long, value_name = "ROWS", default_value_t = LIST_LIMIT_DEFAULT)]
        limit: usize,
    },
    /// Shows one session with its connections and flows
    #[command(after_help = "\
Examples:
  stoqctl session show 1f
  stoqctl session show --peer beta")]
    Show(Which),
    /// Ends a session and every flow on it
    Close(Which),
    /// Replaces the connections of a session without interrupting its flows
    Replace(Which),
}

/// Names one session
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub(crate) struct Which {
    /// Its id, as `stoqctl session list` shows it
    session: Option<Id>,
    /// The node at its other end, where there is one session with it
    #[arg(long, value_name = "NODE")]
    peer: Option<NodeId>,
}

impl Which {
    fn selector(self) -> Result<SessionSelector, ApiError> {
        match (self.session, self.peer) {
            (Some(id), _) => Ok(SessionSelector::Id(id)),
            (None, Some(peer)) => Ok(SessionSelector::Peer(peer)),
            (None, None) => Err(ApiError::usage("no-session", "no session is named", "name one")),
        }
    }
}

impl Session {
    pub(crate) fn name(&self) -> (&'static str, &'static str) {
        match self {
            Self::List { .. } => name_of::<SessionList>(),
            Self::Show(_) => name_of::<SessionShow>(),
            Self::Close(_) => name_of::<SessionClose>(),
            Self::Replace(_) => name_of::<SessionReplace>(),
        }
    }

    pub(crate) async fn run(self, context: &Context) -> Result<Report, ApiError> {
        match self {
            Self::List { limit } => list(context, limit).await,
            Self::Show(which) => show(context, which).await,
            Self::Close(which) => {
                let closed = context.call(SessionClose { session: which.selector()? }).await?;
                let note =
                    format!("session {} with {} is closed", closed.session.id, closed.session.peer);
                Ok(context.report(&closed)?.note(note))
            }
            Self::Replace(which) => {
                let done = context.call(SessionReplace { session: which.selector()? }).await?;
                let note = format!(
                    "{} replaced in session {} with {}",
                    human::count(done.replaced, "connection"),
                    done.session.id,
                    done.session.peer
                );
                Ok(context.report(&done)?.note(note))
            }
        }
    }
}

async fn list(context: &Context, limit: usize) -> Result<Report, ApiError> {
    let listed = context.call(SessionList { limit }).await?;
    let rows = listed.sessions.iter().map(row).collect();
    let head =
        ["id", "peer", "dialled", "connections", "flows", "sent", "received", "replaced", "lost"];
    let report = context.report(&listed)?.table(&head, rows, "no sessions");
    Ok(match cut_note(listed.sessions.len(), listed.total) {
        Some(note) => report.note(note),
        None => report,
    })
}

fn row(session: &api::Session) -> Vec<Cell> {
    vec![
        cell(session.id),
        cell(&session.peer),
        cell(super::yes(session.dialled)),
        Cell::figure(session.connections),
        Cell::figure(session.flows),
        Cell::figure(human::bytes(session.bytes_sent)),
        Cell::figure(human::bytes(session.bytes_received)),
        Cell::figure(session.replacements),
        Cell::figure(session.losses),
    ]
}

async fn show(context: &Context, which: Which) -> Result<Report, ApiError> {
    let shown = context.call(SessionShow { session: which.selector()? }).await?;
    let session = &shown.session;
    let flows = shown.flows.iter().map(flow_row).collect();
    let connections = shown.connections.iter().map(connection_row).collect();
    Ok(context
        .report(&shown)?
        .fields(vec![
            ("session", cell(session.id)),
            ("peer", cell(&session.peer)),
            ("dialled", cell(super::yes(session.dialled))),
            ("worker", cell(session.worker)),
            ("sent", cell(human::bytes(session.bytes_sent))),
            ("received", cell(human::bytes(session.bytes_received))),
            ("sent again", cell(human::bytes(session.bytes_resent))),
            ("replaced", cell(human::count(session.replacements, "connection"))),
            ("lost", cell(human::count(session.losses, "connection"))),
        ])
        .table(&CONNECTION_COLUMNS, connections, "no connections")
        .table(&["flow", "service", "legs", "sent", "received"], flows, "no flows"))
}

fn flow_row(flow: &api::Flow) -> Vec<Cell> {
    vec![
        cell(flow.id),
        cell(&flow.service),
        Cell::figure(flow.legs),
        Cell::figure(human::bytes(flow.bytes_sent)),
        Cell::figure(human::bytes(flow.bytes_received)),
    ]
}
