//! What a changed configuration means for a running node: which values are taken over at once, and which
//! services and attachments come and go.

use stoq_admin::ApiError;
use stoq_admin::api::ServiceOrigin;
use stoq_config::Config;

use crate::node::Node;

/// The configuration in force after a reload: reloadable values are the new ones, the others stay
pub fn merge(current: &Config, next: &Config) -> Config {
    Config {
        node: current.node.clone(),
        listen: current.listen.clone(),
        workers: current.workers.clone(),
        transport: next.transport.clone(),
        limits: next.limits.clone(),
        services: next.services.clone(),
        attachments: next.attachments.clone(),
        peers: next.peers.clone(),
        copy: next.copy.clone(),
        pins: next.pins.clone(),
        trust: stoq_config::Trust {
            root_pins: next.trust.root_pins.clone(),
            issuing_pins: next.trust.issuing_pins.clone(),
            ..current.trust.clone()
        },
        hypermesh: current.hypermesh.clone(),
        store: current.store.clone(),
        log: stoq_config::Log { format: current.log.format, filter: next.log.filter.clone() },
    }
}

/// Takes services and attachments from one configuration to the next; flows under way go on
pub async fn services(node: &Node, current: &Config, next: &Config) -> Result<(), ApiError> {
    let refused = |error: String| ApiError::conflict("reload", error, "correct stoqd.toml");
    for old in &current.services {
        if !next.services.contains(old) {
            node.services.unpublish(&old.name);
        }
    }
    for new in &next.services {
        if !current.services.contains(new) {
            let (to, allow) = (new.to.clone(), new.allow.clone());
            node.services
                .publish(new.name.clone(), to, allow, ServiceOrigin::Config)
                .map_err(|error| refused(format!("service {}: {error}", new.name)))?;
        }
    }
    for old in &current.attachments {
        if !next.attachments.contains(old) {
            node.services.detach(&old.service.service, &old.service.node);
        }
    }
    for new in &next.attachments {
        if !current.attachments.contains(new) {
            let (service, of) = (new.service.service.clone(), new.service.node.clone());
            node.services
                .attach(service, of, &new.listen, ServiceOrigin::Config)
                .await
                .map_err(|error| refused(error.to_string()))?;
        }
    }
    Ok(())
}
