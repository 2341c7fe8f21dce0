//! Which issuing keys this node accepts leaves of beside the one that certified it: those its authority has prepared,
//! before they issue, and those it has replaced, as long as leaves of theirs are in force. The authority names them,
//! and each is held to the root here. Which key may do what is decided where the authority runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use stoq::{NodeId, TrustAnchor};
use stoq_admin::{decode_pem, encode_pem};
use stoq_trustchain::NodeIdentity;
use stoq_trustchain::ca::Ca;
use stoq_trustchain::calls::Client;
use stoq_trustchain::certificate;
use stoq_trustchain::chain::{self, ChainError};
use stoq_trustchain::enrollment;
use stoq_trustchain::pinning::KEYS_PER_RING_LIMIT;

use crate::authority::authority_at;
use crate::identity::Source;
use crate::node::{Identities, Node};

/// The certificates, beside the node's own: a node that starts accepts what it accepted
const FILE: &str = "authorities.pem";
/// Octets of the largest such file
const FILE_LIMIT_BYTES: u64 = 256 << 10;
/// Time one question may take
const DEADLINE: Duration = Duration::from_secs(10);
/// Pause after a question that failed, at first and at most
const PAUSE_FIRST: Duration = Duration::from_millis(250);
const PAUSE_LONGEST: Duration = Duration::from_secs(30);
/// When it is asked again without news, which a node that was cut off may have missed
const ASK_AGAIN: Duration = Duration::from_secs(300);

/// Follows the issuing keys of the node's authority, whichever that is
pub async fn drive(node: Arc<Node>) {
    let mut changed = node.identity_changed();
    loop {
        changed.mark_unchanged();
        let Identities { source, identity, .. } = node.identities();
        let following = async {
            match (source, &node.authority, identity) {
                (Source::Own(_), Some(running), _) => follow_own(&node, &running.ca).await,
                (Source::Joined, _, Some(identity)) => follow(&node, &identity).await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            () = following => {}
            more = changed.changed() => if more.is_err() { return },
        }
    }
}

async fn follow_own(node: &Node, ca: &Ca) {
    let mut steps = ca.issuing_keys_changed();
    loop {
        steps.mark_unchanged();
        let keys = ca.issuing_keys().into_iter();
        let accepted = keys.filter(|key| key.record.state.accepts_leaves());
        let anchors = accepted.map(|key| anchor(key.certificate_der)).collect();
        match anchors {
            Ok(anchors) => node.set_issuing(anchors),
            Err(error) => tracing::error!(%error, "the issuing keys of this authority"),
        }
        if steps.changed().await.is_err() {
            // The authority has ended, and the daemon with it.
            return std::future::pending().await;
        }
    }
}

/// Asks the authority at first, whenever its deny-list has news that are no revoked certificate, and now and then
async fn follow(node: &Node, identity: &NodeIdentity) {
    let path = node.key_slots().directory().join(FILE);
    if node.issuing().is_empty() {
        match read(path.clone()).await {
            Ok(stored) => {
                let judged = stored.into_iter().filter_map(|one| judge(node, identity, one));
                node.set_issuing(judged.collect());
            }
            Err(error) => tracing::error!(%error, "the stored issuing keys are not used"),
        }
    }
    let mut news = node.list_news();
    let mut pause = PAUSE_FIRST;
    loop {
        news.mark_unchanged();
        let wait = match ask(node, identity).await {
            Ok(named) => {
                pause = PAUSE_FIRST;
                take(node, identity, &path, named).await;
                ASK_AGAIN
            }
            Err(reason) => {
                tracing::debug!(reason, "the authority's issuing keys could not be asked for");
                let wait = pause;
                pause = (pause * 2).min(PAUSE_LONGEST);
                wait
            }
        };
        // Not without end where each list that comes is of a key that is not named.
        tokio::time::sleep(PAUSE_FIRST).await;
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _more = news.changed() => {}
        }
    }
}

/// Puts what the authority has named into force, as far as the root has signed it
async fn take(node: &Node, identity: &NodeIdentity, path: &Path, named: Vec<Vec<u8>>) {
    let anchors: Vec<_> = named.into_iter().filter_map(|one| judge(node, identity, one)).collect();
    if anchors.is_empty() || anchors == node.issuing() {
        return;
    }
    let certificates: Vec<_> = anchors.iter().map(|one| one.certificate_der.clone()).collect();
    tracing::info!(keys = anchors.len(), "issuing keys of the authority");
    node.set_issuing(anchors);
    if let Err(error) = write(path.to_owned(), certificates).await {
        // They are in force; after a start they are asked for again.
        tracing::error!(%error, "the issuing keys could not be stored");
    }
}

/// An issuing key, if the root of this node has signed it and it is in force
fn judge(node: &Node, identity: &NodeIdentity, certificate_der: Vec<u8>) -> Option<TrustAnchor> {
    match judged(certificate_der, identity.root_der(), node.clock.now()) {
        Ok(anchor) => Some(anchor),
        Err(error) => {
            tracing::error!(%error, "the authority names an issuing key that is not used");
            None
        }
    }
}

fn judged(
    certificate_der: Vec<u8>,
    root_der: &[u8],
    now: SystemTime,
) -> Result<TrustAnchor, ChainError> {
    chain::check_issuing(&certificate_der, root_der, now)?;
    Ok(anchor(certificate_der)?)
}

fn anchor(certificate_der: Vec<u8>) -> Result<TrustAnchor, certificate::CertificateError> {
    let (not_before, not_after) = certificate::validity(&certificate::parse(&certificate_der)?)?;
    Ok(TrustAnchor { certificate_der, not_before, not_after })
}

/// Over a session where there can be one; else over HTTPS, which needs nothing but the root. That is so where the
/// authority shows a leaf of a key that this node has not heard of.
async fn ask(node: &Node, identity: &NodeIdentity) -> Result<Vec<Vec<u8>>, String> {
    let mut reason = "no authority is known".to_owned();
    for authority in node.authorities() {
        match node.peers.session(&authority).await {
            Ok(session) => {
                let client = Client::new(session.calls(tokio::time::sleep));
                match client.issuing_keys(DEADLINE).await {
                    Ok(named) => return within_limit(named),
                    Err(problem) => reason = problem.to_string(),
                }
            }
            Err(error) => reason = error.to_string(),
        }
        match ask_over_https(node, identity, authority).await {
            Ok(named) => return within_limit(named),
            Err(problem) => reason = format!("{reason}; {problem}"),
        }
    }
    Err(reason)
}

async fn ask_over_https(
    node: &Node,
    identity: &NodeIdentity,
    authority: NodeId,
) -> Result<Vec<Vec<u8>>, String> {
    let to = authority_at(identity, authority).ok_or("its certificate names no HTTPS address")?;
    let asking = enrollment::issuing_keys(&to, node.clock.now());
    match tokio::time::timeout(DEADLINE, asking).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("{} did not answer in {} s", to.address, DEADLINE.as_secs())),
    }
}

fn within_limit(named: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>, String> {
    match named.len() {
        0 => Err("the authority names no issuing key".to_owned()),
        count if count > KEYS_PER_RING_LIMIT => Err(format!("{count} issuing keys are too many")),
        _ => Ok(named),
    }
}

async fn read(path: PathBuf) -> std::io::Result<Vec<Vec<u8>>> {
    let reading = tokio::task::spawn_blocking(move || {
        let length = match std::fs::metadata(&path) {
            Ok(found) => found.len(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        if length > FILE_LIMIT_BYTES {
            return Err(std::io::Error::other(format!("{}: {length} bytes", path.display())));
        }
        let text = std::fs::read_to_string(&path)?;
        decode_pem("CERTIFICATE", &text).map_err(std::io::Error::other)
    });
    reading.await.unwrap_or_else(|error| Err(std::io::Error::other(error)))
}

async fn write(path: PathBuf, certificates: Vec<Vec<u8>>) -> std::io::Result<()> {
    let writing = tokio::task::spawn_blocking(move || {
        let text: String = certificates.iter().map(|one| encode_pem("CERTIFICATE", one)).collect();
        let fresh = path.with_extension("new");
        std::fs::write(&fresh, text)?;
        std::fs::File::open(&fresh)?.sync_all()?;
        std::fs::rename(&fresh, &path)
    });
    writing.await.unwrap_or_else(|error| Err(std::io::Error::other(error)))
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use stoq_trustchain::{Ipv6Subtree, init_root, issuing_csr, sign_issuing};

    use super::*;

    #[test]
    fn only_what_this_root_has_signed_and_is_in_force_is_accepted() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let (root, other) = (init_root(&at("root"), now), init_root(&at("other"), now));
        let (root, other) = (root.unwrap(), other.unwrap());
        let csr = issuing_csr(&at("key")).unwrap();
        let good = sign_issuing(&root, &csr, Ipv6Subtree::ALL, now).unwrap();
        let foreign = sign_issuing(&other, &csr, Ipv6Subtree::ALL, now).unwrap();
        let anchor = judged(good.clone(), root.certificate_der(), now).unwrap();
        assert_eq!(anchor.certificate_der, good);
        assert!(judged(foreign, root.certificate_der(), now).is_err());
        let late = anchor.not_after + Duration::from_secs(1);
        assert!(judged(good, root.certificate_der(), late).is_err());
        assert!(within_limit(Vec::new()).is_err());
        assert!(within_limit(vec![Vec::new(); KEYS_PER_RING_LIMIT + 1]).is_err());
    }

    #[tokio::test]
    async fn what_was_stored_is_read_back_and_damage_is_not_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        assert!(read(path.clone()).await.unwrap().is_empty());
        let certificates = vec![vec![1; 300], vec![2; 5]];
        write(path.clone(), certificates.clone()).await.unwrap();
        assert_eq!(read(path.clone()).await.unwrap(), certificates);
        std::fs::write(&path, "-----BEGIN CERTIFICATE-----\n!").unwrap();
        assert!(read(path.clone()).await.is_err());
        std::fs::write(&path, vec![b' '; 257 << 10]).unwrap();
        assert!(read(path).await.is_err());
    }
}
