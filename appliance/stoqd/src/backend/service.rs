//! Local sockets published to other nodes, and theirs attached here.

use stoq_admin::ApiError;
use stoq_admin::api::{
    Attachment, ServiceAttach, ServiceAttached, ServiceList, ServiceListed, ServiceOrigin,
    ServicePublish, ServicePublished, ServiceRemove, ServiceRemoved,
};
use stoq_config::Target;

use super::{Admin, not_durable};
use crate::node::allow_texts;
use crate::state::{StoredAttachment, StoredService};

/// What is attached, with whether its node can be reached
pub fn shown_attachments(admin: &Admin, sessions: &[stoq::SessionStatus]) -> Vec<Attachment> {
    admin.0.services.attached(|node| sessions.iter().any(|session| session.peer == *node))
}

pub async fn publish(admin: &Admin, request: ServicePublish) -> Result<ServicePublished, ApiError> {
    let _changing = admin.0.changing.lock().await;
    let ServicePublish { name, target, allow } = request;
    stoq_config::Service::new(name.clone(), target.clone(), allow.clone())
        .map_err(|error| ApiError::usage("bad-service", error, "correct the command"))?;
    admin
        .0
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
    if let Err(error) = admin.0.state.change(|state| state.services.push(stored)) {
        admin.0.services.unpublish(&name);
        return Err(not_durable(&error));
    }
    admin.0.publish_snapshot();
    let service = admin.0.services.published().into_iter().find(|one| one.name == name);
    service
        .map(|service| ServicePublished { service })
        .ok_or_else(|| ApiError::not_found("service", &name, "stoqctl service list"))
}

pub async fn attach(admin: &Admin, request: ServiceAttach) -> Result<ServiceAttached, ApiError> {
    let _changing = admin.0.changing.lock().await;
    let ServiceAttach { service, node, listen } = request;
    admin.0.refresh_enrolled();
    let address = stoq_config::ServiceAddress { service: service.clone(), node: node.clone() };
    stoq_config::Attachment::new(address, listen.clone())
        .map_err(|error| ApiError::usage("bad-attachment", error, "correct the command"))?;
    if admin.0.services.is_attached(&service, &node) {
        return Err(ApiError::conflict(
            "attached",
            format!("{service}@{node} is attached already"),
            "remove it first: stoqctl service remove",
        ));
    }
    let bound: Target = admin
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
    if let Err(error) = admin.0.state.change(|state| state.attachments.push(stored)) {
        admin.0.services.detach(&service, &node);
        return Err(not_durable(&error));
    }
    let sessions = admin.0.endpoint.sessions().await;
    let attachment = shown_attachments(admin, &sessions)
        .into_iter()
        .find(|one| one.service == service && one.node == node);
    attachment
        .map(|attachment| ServiceAttached { attachment })
        .ok_or_else(|| ApiError::not_found("attachment", &service, "stoqctl service list"))
}

pub async fn list(admin: &Admin, _request: ServiceList) -> Result<ServiceListed, ApiError> {
    let sessions = admin.0.endpoint.sessions().await;
    Ok(ServiceListed {
        published: admin.0.services.published(),
        attached: shown_attachments(admin, &sessions),
    })
}

pub async fn remove(admin: &Admin, request: ServiceRemove) -> Result<ServiceRemoved, ApiError> {
    let _changing = admin.0.changing.lock().await;
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
    let sessions = admin.0.endpoint.sessions().await;
    let text = name.to_string();
    if let Some(node) = node {
        let all = shown_attachments(admin, &sessions);
        let found = all.into_iter().find(|one| one.service == name && one.node == node);
        let found = found
            .ok_or_else(|| ApiError::not_found("attachment", &name, "stoqctl service list"))?;
        if let Some(error) = configured(found.origin) {
            return Err(error);
        }
        let of = node.to_string();
        admin
            .0
            .state
            .change(|state| {
                state.attachments.retain(|one| !(one.service == text && one.node == of));
            })
            .map_err(|error| not_durable(&error))?;
        let attached = admin.0.services.detach(&name, &node).into_iter().collect();
        return Ok(ServiceRemoved { published: None, attached });
    }
    let all = admin.0.services.published();
    let found = all.into_iter().find(|one| one.name == name);
    let found =
        found.ok_or_else(|| ApiError::not_found("service", &name, "stoqctl service list"))?;
    if let Some(error) = configured(found.origin) {
        return Err(error);
    }
    admin
        .0
        .state
        .change(|state| state.services.retain(|one| one.name != text))
        .map_err(|error| not_durable(&error))?;
    let published = admin.0.services.unpublish(&name);
    admin.0.publish_snapshot();
    Ok(ServiceRemoved { published, attached: Vec::new() })
}
