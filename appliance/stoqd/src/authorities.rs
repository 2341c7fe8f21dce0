//! The authorities of the mesh besides the one that certifies this node: learns what they say of themselves (from each
//! other, from shared records, from an operator), keeps it, and has it put into force: their nodes are accepted, their
//! logs' promises count, their deny-lists are followed. Whether a statement counts is decided in
//! `stoq_trustchain::mesh`.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use stoq::NodeId;
use stoq_store::Records;
use stoq_trustchain::calls::Client;
use stoq_trustchain::mesh::{POLICY_PREFIX, STATEMENT_LIMIT_BYTES, StatementRefusal};
use stoq_trustchain::revocation::{KEYS_LIMIT, KeyId};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::identity::Source;
use crate::node::Node;

/// Time between two rounds of asking
const INTERVAL: Duration = Duration::from_secs(30);
/// Time between two looks at the shared records, in which every certificate is a change
const RECORDS_INTERVAL: Duration = Duration::from_secs(1);
/// Time one authority may take to answer
const CALL_DEADLINE: Duration = Duration::from_secs(10);
const DIRECTORY: &str = "authorities";
const EXTENSION: &str = "statement";

/// Brings back what was known before, ahead of anybody who asks for it
pub async fn recall(node: &Arc<Node>) {
    begin(node).await;
    node.know_authorities();
}

/// Learns for as long as the daemon lives; begins again when the node has another identity
pub async fn drive(node: Arc<Node>) {
    let mut identity = node.identity_changed();
    let mut issuing = node.issuing_changed();
    let mut known = node.known.changes();
    let mut records = shared_records(&node);
    loop {
        identity.mark_unchanged();
        issuing.mark_unchanged();
        begin(&node).await;
        let mut round = Instant::now();
        loop {
            if let Some((records, _)) = &records {
                learn_from_records(&node, records.as_ref()).await;
            }
            put_into_force(&node, &mut known).await;
            if Instant::now() >= round {
                learn_from_others(&node).await;
                node.known.forget_ended(node.clock.now());
                put_into_force(&node, &mut known).await;
                round = Instant::now() + INTERVAL;
            }
            tokio::select! {
                () = tokio::time::sleep_until(round) => {}
                () = records_changed(&mut records) => {}
                // Told of one, it asks that one at once whom else it knows.
                learned = known.changed() => match learned {
                    Ok(()) => {
                        known.mark_changed();
                        round = Instant::now();
                    }
                    Err(_) => return,
                },
                changed = identity.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return,
                },
                // The own authority may speak with another key now. An error cannot be: the node holds the other end.
                _changed = issuing.changed() => break,
            }
        }
    }
}

/// The records and how to hear of changes, where others write to them too
type Shared = Option<(Arc<dyn Records>, watch::Receiver<u64>)>;

fn shared_records(node: &Node) -> Shared {
    let records = node.authority.as_ref()?.ca.records()?;
    let changes = records.changes()?;
    Some((records, changes))
}

async fn records_changed(records: &mut Shared) {
    let heard = match records {
        Some((_, changes)) => changes.changed().await.is_ok(),
        None => false,
    };
    match heard {
        true => tokio::time::sleep(RECORDS_INTERVAL).await,
        false => std::future::pending().await,
    }
}

/// What was known before under this root, and what the own authority says of itself
async fn begin(node: &Arc<Node>) {
    let identities = node.identities();
    let own = match &identities.source {
        Source::Own(own) => Some(own.authority.root_der().to_vec()),
        Source::Joined => None,
    };
    let root = own.or_else(|| identities.identity.map(|one| one.root_der().to_vec()));
    let Some(root) = root else { return };
    node.known.set_root(root);
    let directory = directory(node);
    match tokio::task::spawn_blocking(move || read(&directory)).await {
        Ok(Ok(stored)) => stored.iter().for_each(|signed| drop(learn(node, signed, "this host"))),
        Ok(Err(error)) => tracing::error!(%error, "the authorities known before were not read"),
        Err(error) => tracing::error!(%error, "the authorities known before were not read"),
    }
    if let (Source::Own(_), Some(running)) = (node.identities().source, &node.authority) {
        let at = node.endpoint.local_address();
        let at = Some(at).filter(|at| !at.ip().is_unspecified());
        match running.ca.state_itself(at).await {
            Ok(signed) => drop(learn(node, &signed, "this node")),
            Err(refusal) => {
                tracing::error!(%refusal, "other authorities do not learn of this one");
            }
        }
    }
}

/// Takes a statement; what is wrong with one is for the log
fn learn(node: &Node, signed: &[u8], from: &str) -> Result<bool, StatementRefusal> {
    let learned = node.known.learn(signed, node.clock.now());
    match &learned {
        Ok(true) => tracing::info!(from, "an authority of the mesh is known"),
        Ok(false) => {}
        Err(refusal) => {
            tracing::debug!(from, %refusal, "what an authority is said to say is not used")
        }
    }
    learned
}

async fn learn_from_records(node: &Node, records: &dyn Records) {
    let mut names = BTreeSet::new();
    let mut page = None;
    loop {
        match records.policies(0, page).await {
            Ok(found) => {
                let ours = found.items.into_iter().map(|one| one.name);
                names.extend(ours.filter(|name| name.starts_with(POLICY_PREFIX)).take(KEYS_LIMIT));
                page = found.next;
            }
            Err(error) => return tracing::debug!(%error, "the shared records do not answer"),
        }
        if page.is_none() {
            break;
        }
    }
    for name in names {
        match records.policy(name, None).await {
            Ok(Some(document)) => drop(learn(node, &document.body, "the shared records")),
            Ok(None) => {}
            Err(error) => return tracing::debug!(%error, "the shared records do not answer"),
        }
    }
}

async fn learn_from_others(node: &Node) {
    let own = node.name();
    let learned = node.known.all().into_iter().map(|one| one.instance);
    let all: BTreeSet<NodeId> = node.authorities().into_iter().chain(learned).collect();
    for authority in all.into_iter().filter(|one| *one != own) {
        let statements = match node.peers.session(&authority).await {
            Ok(session) => {
                let client = Client::new(session.calls(tokio::time::sleep));
                client.authorities(CALL_DEADLINE).await.map_err(|problem| problem.to_string())
            }
            Err(error) => Err(error.to_string()),
        };
        match statements {
            Ok(statements) => {
                statements.iter().for_each(|signed| drop(learn(node, signed, authority.as_str())))
            }
            Err(reason) => tracing::debug!(%authority, reason, "it says of no other authority now"),
        }
    }
}

async fn put_into_force(node: &Arc<Node>, known: &mut watch::Receiver<u64>) {
    if !known.has_changed().unwrap_or(false) {
        return;
    }
    known.mark_unchanged();
    node.know_authorities();
    let (directory, signed) = (directory(node), node.known.signed());
    let kept = tokio::task::spawn_blocking(move || keep(&directory, &signed)).await;
    let kept = kept.unwrap_or_else(|error| Err(io::Error::other(error)));
    if let Err(error) = kept {
        // In force all the same; after a restart they are asked for again.
        tracing::error!(%error, "the authorities that are known could not be kept");
    }
}

fn directory(node: &Node) -> PathBuf {
    node.placement.state_directory.join(DIRECTORY)
}

fn statements(directory: &Path) -> io::Result<Vec<PathBuf>> {
    if !directory.exists() {
        return Ok(Vec::new());
    }
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == EXTENSION) {
            paths.push(path);
        }
    }
    paths.sort();
    paths.truncate(KEYS_LIMIT);
    Ok(paths)
}

fn read(directory: &Path) -> io::Result<Vec<Vec<u8>>> {
    let mut stored = Vec::new();
    for path in statements(directory)? {
        if std::fs::metadata(&path)?.len() <= STATEMENT_LIMIT_BYTES as u64 {
            stored.push(std::fs::read(path)?);
        }
    }
    Ok(stored)
}

/// Writes what is known, a file for each key, and removes what is not known any more
fn keep(directory: &Path, signed: &[(KeyId, Vec<u8>)]) -> io::Result<()> {
    crate::identity::private_directory(directory).map_err(io::Error::other)?;
    let path = |key: &KeyId| directory.join(format!("{key}.{EXTENSION}"));
    let wanted: BTreeSet<PathBuf> = signed.iter().map(|(key, _)| path(key)).collect();
    for (key, octets) in signed {
        let (path, fresh) = (path(key), directory.join(format!("{key}.new")));
        if std::fs::read(&path).is_ok_and(|held| held == *octets) {
            continue;
        }
        std::fs::write(&fresh, octets)?;
        std::fs::rename(&fresh, path)?;
    }
    for path in statements(directory)? {
        if !wanted.contains(&path) {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_kept_and_what_is_not_any_more_goes() {
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path().join("authorities");
        assert!(read(&home).unwrap().is_empty());
        let key = |octet: u8| KeyId::from_bytes(&[octet; 20]).unwrap();
        let (one, two) = ((key(1), b"one".to_vec()), (key(2), b"two".to_vec()));
        keep(&home, &[one.clone(), two.clone()]).unwrap();
        assert_eq!(read(&home).unwrap(), [one.1.clone(), two.1]);
        keep(&home, &[(one.0, b"news".to_vec())]).unwrap();
        assert_eq!(read(&home).unwrap(), [b"news".to_vec()]);
        std::fs::write(home.join("long.statement"), vec![0; STATEMENT_LIMIT_BYTES + 1]).unwrap();
        assert_eq!(read(&home).unwrap().len(), 1);
    }
}
