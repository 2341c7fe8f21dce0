//! Which transparency log a joined node trusts: the one that vouched for its own certificate. The log's identifier
//! stands in that certificate, which the authority has signed, so the key may come from anywhere: it is used only
//! if it is that log's and verifies that promise.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use stoq::NodeId;
use stoq_interface::{LogKey, Transparency};
use stoq_trustchain::NodeIdentity;
use stoq_trustchain::log::LogVerifier;
use stoq_trustchain::log::sct::{self, SctError};

use crate::authority::milliseconds;
use crate::node::Node;

/// Asks a node for the key of its authority's log: SubjectPublicKeyInfo in DER
pub const LOG_KEY_METHOD: &str = "node/log-key";

const KEY_FILE: &str = "log.spki";
const KEY_LIMIT_BYTES: usize = 512;
const CALL_DEADLINE: Duration = Duration::from_secs(10);
/// Pause after a call that failed, at first and at most
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_LONGEST: Duration = Duration::from_secs(30);
/// How far ahead of this host's clock the promise may be dated
const TOLERANCE: Duration = Duration::from_secs(300);

/// Learns which log to trust whenever the node has another issuer
pub async fn drive(node: Arc<Node>) {
    let mut changed = node.identity_changed();
    loop {
        changed.mark_unchanged();
        if let Some(transparency) = node.own_transparency() {
            node.set_transparency(transparency);
        } else if let Some(identity) = node.identities().identity {
            tokio::select! {
                () = learn(&node, &identity) => {}
                _other = changed.changed() => continue,
            }
        }
        if changed.changed().await.is_err() {
            return;
        }
    }
}

/// Until the key is there, certificates are accepted without a log's promise: once, after joining, for as long as
/// the authority takes to answer one call.
async fn learn(node: &Node, identity: &NodeIdentity) {
    let directory = node.key_slots().directory().to_owned();
    let stored = std::fs::read(directory.join(KEY_FILE)).unwrap_or_default();
    match vouches(node, identity, &stored) {
        Ok(log) => return node.set_transparency(Transparency::Required(vec![log])),
        Err(SctError::Missing) => {
            tracing::warn!("this node's certificate was never logged, so nobody's has to be");
            return node.set_transparency(Transparency::NotRequired);
        }
        Err(_another) => {}
    }
    let mut pause = PAUSE_FIRST;
    loop {
        for authority in node.authorities() {
            let Some(key) = ask(node, &authority).await else { continue };
            match vouches(node, identity, &key) {
                Ok(log) => {
                    keep(&directory, &key);
                    tracing::info!(%authority, "certificates must be in the authority's log");
                    return node.set_transparency(Transparency::Required(vec![log]));
                }
                Err(error) => tracing::error!(
                    %authority, %error, "the log named is not the one that vouched for this node"
                ),
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_LONGEST);
    }
}

/// The log, if it is the one whose promise stands in the node's own certificate
fn vouches(node: &Node, identity: &NodeIdentity, spki_der: &[u8]) -> Result<LogKey, SctError> {
    // The name counts for checkpoints only.
    let log = LogVerifier::new("log", spki_der).ok();
    let logs: Vec<LogVerifier> = log.into_iter().collect();
    let malformed = |_| SctError::Malformed(stoq_trustchain::log::Malformed("authority"));
    let issuer = sct::key_hash(identity.issuing_der()).map_err(malformed)?;
    let latest = milliseconds(node.clock.now() + TOLERANCE);
    let found = sct::verify_embedded(identity.leaf_der(), &issuer, &logs, latest)?;
    Ok(LogKey { log_id: found.log_id, spki_der: spki_der.to_vec() })
}

async fn ask(node: &Node, authority: &NodeId) -> Option<Vec<u8>> {
    let session = match node.peers.session(authority).await {
        Ok(session) => session,
        Err(error) => {
            tracing::debug!(%authority, %error, "the authority's log is not known yet");
            return None;
        }
    };
    let timer = tokio::time::sleep(CALL_DEADLINE);
    match session.call(LOG_KEY_METHOD, Bytes::new(), CALL_DEADLINE, timer).await {
        Ok(key) if key.len() <= KEY_LIMIT_BYTES => Some(key.to_vec()),
        Ok(_) => None,
        Err(error) => {
            tracing::debug!(%authority, %error, "the authority's log is not known yet");
            None
        }
    }
}

/// Without the file the key is asked for again at the next start
fn keep(directory: &Path, key: &[u8]) {
    let fresh = directory.join(format!("{KEY_FILE}.new"));
    let kept = std::fs::write(&fresh, key)
        .and_then(|()| std::fs::rename(&fresh, directory.join(KEY_FILE)));
    if let Err(error) = kept {
        tracing::warn!(%error, "the log's key could not be kept");
    }
}
