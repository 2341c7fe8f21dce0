//! Rules between values: what no single key can know. Each finding names the key that the file sets, so that
//! the operator is led to a line that exists.

use std::collections::BTreeMap;

use stoq_interface::Allow;

use crate::address::Target;
use crate::error::Refusal;
use crate::read::Places;
use crate::{Config, Cores, HypermeshPolicy};

/// A finding at a place of [`Places`]
type Finding = (String, Refusal);

/// Pairs of numbers where the first may not be greater than the second (or, marked so, not even equal)
struct Order {
    lesser: &'static str,
    greater: &'static str,
    strict: bool,
    values: fn(&Config) -> (u128, u128),
}

macro_rules! order {
    ($lesser:literal < $greater:literal, $values:expr) => {
        Order { lesser: $lesser, greater: $greater, strict: true, values: $values }
    };
    ($lesser:literal <= $greater:literal, $values:expr) => {
        Order { lesser: $lesser, greater: $greater, strict: false, values: $values }
    };
}

const ORDERS: &[Order] = &[
    order!("transport.keep_alive_ms" < "transport.idle_timeout_ms", |c| {
        (c.transport.keep_alive.as_millis(), c.transport.idle_timeout.as_millis())
    }),
    order!("transport.stream_window_bytes" <= "transport.connection_window_bytes", |c| {
        (c.transport.stream_window_bytes.into(), c.transport.connection_window_bytes.into())
    }),
    order!("transport.stripe_connections" <= "limits.connections_per_session", |c| {
        (c.transport.stripe_connections as u128, c.limits.connections_per_session as u128)
    }),
    order!("limits.half_open_per_worker" <= "limits.connections_per_worker", |c| {
        (c.limits.half_open_per_worker as u128, c.limits.connections_per_worker as u128)
    }),
    order!("limits.half_open_per_prefix" <= "limits.half_open_per_worker", |c| {
        (c.limits.half_open_per_prefix as u128, c.limits.half_open_per_worker as u128)
    }),
    order!("limits.retry_above_half_open" <= "limits.half_open_per_worker", |c| {
        (c.limits.retry_above_half_open as u128, c.limits.half_open_per_worker as u128)
    }),
    order!("limits.flow_window_initial_bytes" <= "limits.flow_window_bytes", |c| {
        (c.limits.flow_window_initial_bytes.into(), c.limits.flow_window_bytes.into())
    }),
    order!("limits.flow_window_bytes" <= "limits.session_buffer_bytes", |c| {
        (c.limits.flow_window_bytes.into(), c.limits.session_buffer_bytes.into())
    }),
];

pub(crate) fn check(config: &Config, places: &Places) -> Vec<Finding> {
    let mut findings: Vec<Finding> =
        ORDERS.iter().filter_map(|order| check_order(order, config, places)).collect();
    check_single(config, &mut findings);
    check_rows(config, &mut findings);
    findings
}

fn check_order(order: &Order, config: &Config, places: &Places) -> Option<Finding> {
    let (lesser, greater) = (order.values)(config);
    if lesser < greater || (lesser == greater && !order.strict) {
        return None;
    }
    // The defaults obey the order, so the file sets at least one of the two.
    let key = if places.contains_key(order.lesser) { order.lesser } else { order.greater };
    let relation = if order.strict { "less than" } else { "at most" };
    Some((
        key.to_owned(),
        Refusal::new(
            format!("{} is {lesser} and {} is {greater}", order.lesser, order.greater),
            format!("{} must be {relation} {}", order.lesser, order.greater),
        ),
    ))
}

fn check_single(config: &Config, findings: &mut Vec<Finding>) {
    if !config.workers.receive_buffers.is_power_of_two() {
        let reason = format!("{} is not a power of two", config.workers.receive_buffers);
        let remedy = "the kernel's buffer ring needs one: write 8, 16, 32, 64 and so on";
        findings.push(("workers.receive_buffers".to_owned(), Refusal::new(reason, remedy)));
    }
    if config.copy.allow != Allow::Nobody && config.copy.roots.is_empty() {
        let reason = "nodes are named and no directory is open to them";
        let remedy = "name directories in copy.roots, or remove copy.allow";
        findings.push(("copy.allow".to_owned(), Refusal::new(reason, remedy)));
    }
    if let (Some(enrollment), Some(metrics)) = (config.listen.enrollment, config.listen.metrics)
        && enrollment.port() != 0
        && enrollment == metrics
    {
        let reason = format!("{metrics} is the address of listen.enrollment");
        let refusal = Refusal::new(reason, "give each its own port");
        findings.push(("listen.metrics".to_owned(), refusal));
    }
    check_etcd(config, findings);
    check_hypermesh(config, findings);
    if let Cores::These(cores) = &config.workers.cores
        && config.workers.busy_poll
        && cores.is_empty()
    {
        let reason = "a worker that spins and is not pinned disturbs every processor";
        let remedy = "name processors in workers.cores, or switch busy polling off";
        findings.push(("workers.busy_poll".to_owned(), Refusal::new(reason, remedy)));
    }
}

/// Whoever can write to the cluster writes the inventory: beyond this host both ends prove themselves
fn check_etcd(config: &Config, findings: &mut Vec<Finding>) {
    let etcd = &config.store.etcd;
    let files = [("ca", &etcd.ca), ("certificate", &etcd.certificate), ("key", &etcd.key)];
    let named = files.iter().find(|(_, file)| file.is_some());
    let missing = files.iter().find(|(_, file)| file.is_none());
    let mut find = |key: &str, reason: String, remedy: &str| {
        findings.push((format!("store.etcd.{key}"), Refusal::new(reason, remedy)));
    };
    if let (Some((named, _)), Some((missing, _))) = (named, missing) {
        let reason = format!("store.etcd.{missing} is not named");
        find(named, reason, "name ca, certificate and key, or none of the three");
    }
    if named.is_none()
        && let Some(beyond) = etcd.endpoints.iter().find(|at| !at.ip().is_loopback())
    {
        let reason = format!("{beyond} is not of this host, and nothing is encrypted");
        find("endpoints", reason, "name ca, certificate and key in [store.etcd]");
    }
    if etcd.server_name.is_some() && named.is_none() {
        let reason = "without TLS no name is checked".to_owned();
        find("server_name", reason, "name ca, certificate and key in [store.etcd]");
    }
}

/// What is set for nothing is a mistake
fn check_hypermesh(config: &Config, findings: &mut Vec<Finding>) {
    let hypermesh = &config.hypermesh;
    let mut find = |key: &str, reason: &str, remedy: &str| {
        findings.push((format!("hypermesh.{key}"), Refusal::new(reason, remedy)));
    };
    if !hypermesh.enabled && hypermesh.clients != Allow::Nobody {
        let remedy = "set hypermesh.enabled, or leave hypermesh.clients at nobody";
        find("clients", "there is nothing to ask this node for", remedy);
    }
    if hypermesh.genesis.is_some() && hypermesh.policy != HypermeshPolicy::default() {
        let remedy = "name policies in the genesis, or remove one of the two";
        find("policy", "hypermesh.genesis names the policies of its network", remedy);
    }
}

fn check_rows(config: &Config, findings: &mut Vec<Finding>) {
    let names = config.services.iter().map(|service| service.name.as_str().to_owned());
    unique("service", "name", names, findings);
    let sockets = config.attachments.iter().map(|attachment| match &attachment.listen {
        // Port 0 asks the kernel for a free port: two of them do not collide.
        Target::Tcp(address) if address.port() == 0 => String::new(),
        listen => listen.to_string(),
    });
    unique("attachment", "listen", sockets, findings);
    let nodes = config.peers.iter().map(|peer| peer.node.as_str().to_owned());
    unique("peer", "node", nodes, findings);
    let pinned = config.pins.iter().map(|pins| pins.node.as_str().to_owned());
    unique("pin", "node", pinned, findings);
    for (index, peer) in config.peers.iter().enumerate() {
        if Some(&peer.node) == config.node.name.as_ref() {
            let reason = format!("{:?} is this node's own name", peer.node);
            let refusal = Refusal::new(reason, "name another node, or remove the row");
            findings.push((format!("peer.{index}.node"), refusal));
        }
    }
}

/// Finds the second of two rows with the same text under a key; empty texts do not count
fn unique(
    section: &str,
    key: &str,
    texts: impl Iterator<Item = String>,
    findings: &mut Vec<Finding>,
) {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for (index, text) in texts.enumerate().filter(|(_, text)| !text.is_empty()) {
        match seen.get(&text) {
            Some(first) => {
                let reason =
                    format!("{text:?} stands in row {} of [[{section}]] already", first + 1);
                let refusal = Refusal::new(reason, "remove one of the two rows");
                findings.push((format!("{section}.{index}.{key}"), refusal));
            }
            None => drop(seen.insert(text, index)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_obey_every_rule() {
        assert_eq!(check(&Config::default(), &Places::new()), []);
    }

    #[test]
    fn an_order_is_reported_at_the_key_the_file_sets() {
        let mut config = Config::default();
        config.transport.keep_alive = config.transport.idle_timeout;
        for key in ["transport.keep_alive_ms", "transport.idle_timeout_ms"] {
            let places = Places::from([(key.to_owned(), 7)]);
            let findings = check(&config, &places);
            assert_eq!(findings.len(), 1);
            assert_eq!(findings[0].0, key);
            assert!(findings[0].1.remedy.contains("less than"));
        }
    }
}
