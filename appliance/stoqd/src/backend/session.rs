//! Sessions and the connections under them.

use std::time::Duration;

use stoq_admin::ApiError;
use stoq_admin::api::{
    Connection, ConnectionList, ConnectionListed, ConnectionShow, ConnectionShown, Flow, Session,
    SessionClose, SessionClosed, SessionList, SessionListed, SessionReplace, SessionReplaced,
    SessionShow, SessionShown,
};

use super::Admin;

/// Flows one session shows
const FLOWS_SHOWN: usize = 1_000;

pub async fn list(admin: &Admin, request: SessionList) -> Result<SessionListed, ApiError> {
    Ok(SessionListed::new(&request, &admin.0.endpoint.sessions().await))
}

pub async fn show(admin: &Admin, request: SessionShow) -> Result<SessionShown, ApiError> {
    let sessions = admin.0.endpoint.sessions().await;
    let session = request.session.find(&sessions)?;
    let connections = admin.0.endpoint.connections().await;
    let flows = admin.0.endpoint.flows(session.id).await;
    Ok(SessionShown {
        session: Session::from(session),
        connections: connections
            .iter()
            .filter(|connection| connection.session == Some(session.id))
            .map(Connection::from)
            .collect(),
        flows: flows.iter().take(FLOWS_SHOWN).map(Flow::from).collect(),
    })
}

pub async fn close(admin: &Admin, request: SessionClose) -> Result<SessionClosed, ApiError> {
    let sessions = admin.0.endpoint.sessions().await;
    let session = request.session.find(&sessions)?;
    if !admin.0.endpoint.close_session(session.id) {
        return Err(busy());
    }
    Ok(SessionClosed { session: Session::from(session) })
}

pub async fn replace(admin: &Admin, request: SessionReplace) -> Result<SessionReplaced, ApiError> {
    let sessions = admin.0.endpoint.sessions().await;
    let session = request.session.find(&sessions)?;
    let wanted = session.connections as u64;
    if !admin.0.endpoint.replace_session(session.id) {
        return Err(busy());
    }
    let mut poll = tokio::time::interval(Duration::from_millis(5));
    let timeout = admin.0.config.load().transport().drain_timeout;
    let deadline = tokio::time::Instant::now() + timeout;
    loop {
        poll.tick().await;
        let sessions = admin.0.endpoint.sessions().await;
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

pub async fn connections(
    admin: &Admin,
    request: ConnectionList,
) -> Result<ConnectionListed, ApiError> {
    Ok(ConnectionListed::new(&request, &admin.0.endpoint.connections().await))
}

pub async fn connection(
    admin: &Admin,
    request: ConnectionShow,
) -> Result<ConnectionShown, ApiError> {
    let connections = admin.0.endpoint.connections().await;
    let found = connections.iter().find(|connection| connection.id == request.connection.0);
    found.map(|found| ConnectionShown { connection: Connection::from(found) }).ok_or_else(|| {
        ApiError::not_found("connection", request.connection, "stoqctl connection list")
    })
}

fn busy() -> ApiError {
    ApiError::failed("busy", "the worker takes no more commands now", "try again")
}
