//! `stoqctl token`: join tokens. The secret is made by the authority and shown once.

use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::Duration;

use stoq::NodeId;
use stoq_admin::ApiError;
use stoq_admin::api::{
    NodeTokenCreate, NodeTokenCreated, TokenCreate, TokenCreated, TokenList, TokenListed,
    TokenRevoke, TokenRevoked, WaitingToken,
};
use stoq_trustchain::audit::{AuditEvent, AuditKind};
use stoq_trustchain::token::{OutstandingToken, TokenError};
use stoq_trustchain::{JoinToken, Subject, TokenGrant};

use super::Admin;
use super::authority::{broken, own};
use super::node::concrete;

pub async fn create(admin: &Admin, request: TokenCreate) -> Result<TokenCreated, ApiError> {
    let lifetime = Duration::from_secs(request.lifetime_seconds);
    let token = make(admin, &request.node, request.addresses, lifetime).await?;
    Ok(TokenCreated {
        id: token.id(),
        node: request.node,
        token: token.to_string(),
        expires_at: token.expires,
        root_fingerprint: token.root_fingerprint.to_string(),
    })
}

/// The same, as `stoqctl node token create` asks for it
pub async fn create_for_node(
    admin: &Admin,
    request: NodeTokenCreate,
) -> Result<NodeTokenCreated, ApiError> {
    let lifetime = Duration::from_secs(request.lifetime_seconds);
    let token = make(admin, &request.node, Vec::new(), lifetime).await?;
    Ok(NodeTokenCreated {
        node: request.node,
        token: token.to_string(),
        expires_at: token.expires,
        root_fingerprint: token.root_fingerprint.to_string(),
    })
}

async fn make(
    admin: &Admin,
    node: &NodeId,
    addresses: Vec<Ipv6Addr>,
    lifetime: Duration,
) -> Result<JoinToken, ApiError> {
    let own = own(admin)?;
    let ca_address = admin.0.enrollment_address().ok_or_else(|| {
        ApiError::conflict(
            "no-enrolment",
            "this node does not listen for enrolment",
            "set listen.enrollment in stoqd.toml and restart",
        )
    })?;
    concrete(ca_address, "listen.enrollment")?;
    concrete(admin.0.endpoint.local_address(), "listen.stoq")?;
    let grant = TokenGrant {
        subject: Subject::new(node.clone(), addresses).map_err(|error| refused(&error))?,
        ca_address,
        ca_node: admin.0.name(),
        ca_stoq_address: admin.0.endpoint.local_address(),
        root_fingerprint: own.authority.root_fingerprint(),
        lifetime,
    };
    let (tokens, now) = (Arc::clone(&own.tokens), admin.0.clock.now());
    let token = tokio::task::spawn_blocking(move || tokens.create(&grant, now))
        .await
        .map_err(|error| broken("token-failed", error))?
        .map_err(|error| token_refused(&error))?;
    let event = AuditEvent::done(AuditKind::TokenCreated, &admin.actor(), node.as_str())
        .with("id", token.id())
        .with("lifetime_seconds", lifetime.as_secs());
    record(admin, event).await;
    Ok(token)
}

pub async fn list(admin: &Admin, _request: TokenList) -> Result<TokenListed, ApiError> {
    Ok(TokenListed { tokens: waiting(admin).await?.into_iter().map(shown).collect() })
}

pub async fn revoke(admin: &Admin, request: TokenRevoke) -> Result<TokenRevoked, ApiError> {
    let own = own(admin)?;
    let token = waiting(admin)
        .await?
        .into_iter()
        .find(|token| token.id == request.id)
        .ok_or_else(|| ApiError::not_found("token", &request.id, "stoqctl token list"))?;
    let (tokens, id) = (Arc::clone(&own.tokens), request.id);
    tokio::task::spawn_blocking(move || tokens.withdraw(&id))
        .await
        .map_err(|error| broken("token-failed", error))?
        .map_err(|error| token_refused(&error))?;
    let event = AuditEvent::done(AuditKind::TokenWithdrawn, &admin.actor(), token.node.as_str())
        .with("id", &token.id);
    record(admin, event).await;
    Ok(TokenRevoked { token: shown(token) })
}

/// Tokens that wait for use, those that expire first before the others
async fn waiting(admin: &Admin) -> Result<Vec<OutstandingToken>, ApiError> {
    let own = own(admin)?;
    let (tokens, now) = (Arc::clone(&own.tokens), admin.0.clock.now());
    let mut waiting = tokio::task::spawn_blocking(move || tokens.outstanding(now))
        .await
        .map_err(|error| broken("token-failed", error))?
        .map_err(|error| token_refused(&error))?;
    waiting.sort_by(|a, b| (a.expires, &a.id).cmp(&(b.expires, &b.id)));
    Ok(waiting)
}

/// Writes it down where the authority keeps an audit log
async fn record(admin: &Admin, event: AuditEvent) {
    if let Some(desk) = &admin.1 {
        desk.record(event).await;
    }
}

fn shown(token: OutstandingToken) -> WaitingToken {
    WaitingToken { id: token.id, node: token.node, expires_at: token.expires }
}

fn refused(error: &dyn std::fmt::Display) -> ApiError {
    ApiError::usage("bad-token-request", error.to_string(), "correct the request")
}

fn token_refused(error: &TokenError) -> ApiError {
    match error {
        TokenError::Io { .. } | TokenError::Damaged { .. } => broken("token-failed", error),
        _ => refused(error),
    }
}
