//! What anybody may read: the authorities, CRLs, the deny-list, the log, proofs, renewal windows. All of it is
//! public and signed, so nobody is asked who they are.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderValue, RETRY_AFTER};

use super::certify::refused;
use super::reply::{self, Refusal, Reply};
use super::server::Shared;
use crate::ca::Ca;
use crate::certificate::unix_seconds;
use crate::enrollment::protocol::{
    IssuingKeysResponse, LogKeyResponse, RenewalResponse, RootResponse, Window, encode,
};
use crate::log::serve::Served;

/// Reads of files under way
pub(super) const READS_LIMIT: usize = 32;
/// How long a request may wait for the checkpoint that covers its entry; one is published each second
const PROOF_PATIENCE: Duration = Duration::from_secs(3);
/// When to ask again for what is about to be there
const ASK_AGAIN: Duration = Duration::from_secs(1);

const CERTIFICATE: &str = "application/pkix-cert";
const CRL: &str = "application/pkix-crl";
const DENY_LIST: &str = "application/vnd.stoq.deny-list";
/// Certificates of authorities never change under their path
const AN_HOUR: &str = "public, max-age=3600";

impl Shared {
    /// `GET /v1/root`
    pub(super) fn root(&self) -> Reply {
        let authority = self.ca.authority();
        let root = encode(authority.root_der());
        let fingerprint = authority.root_fingerprint().to_string();
        let instance = self.ca.instance().to_string();
        reply::json(StatusCode::OK, &RootResponse { root, fingerprint, instance })
    }

    /// `GET /ca/root.crt`
    pub(super) fn root_certificate(&self) -> Reply {
        reply::cacheable(CERTIFICATE, AN_HOUR, self.ca.authority().root_der().to_vec())
    }

    /// `GET /ca/<key identifier>.crt`, which is what certificates name as their issuer's (RFC 5280 4.2.2.1)
    pub(super) fn authority_certificate(&self, key_id: &str) -> Result<Reply, Refusal> {
        let certificate_der = self.ca.issuing_certificate(key_id);
        let certificate_der = certificate_der
            .ok_or_else(|| absent("this authority has no issuing key with this identifier"))?;
        Ok(reply::cacheable(CERTIFICATE, AN_HOUR, certificate_der))
    }

    /// `GET /v1/issuing-keys`
    pub(super) fn issuing_keys(&self) -> Reply {
        let keys = self.ca.issuing_keys().into_iter();
        let accepted = keys.filter(|key| key.record.state.accepts_leaves());
        let certificates = accepted.map(|key| encode(&key.certificate_der)).collect();
        reply::json(StatusCode::OK, &IssuingKeysResponse { certificates })
    }

    /// `GET /crl/<key identifier>-<shard>.crl`
    pub(super) fn crl(&self, key_id: &str, shard: u8) -> Result<Reply, Refusal> {
        let crl = self.revocations.crl_by_name(&format!("{key_id}-{shard}.crl"));
        let crl = crl.ok_or_else(|| absent("there is no such certificate revocation list"))?;
        let mut reply = reply::octets(StatusCode::OK, CRL, crl.der.to_vec());
        // A copy is good until the next one is due, and no longer than a minute: revocations come between.
        let left = crl.next_update.duration_since(self.ca.now()).unwrap_or_default();
        let seconds = left.as_secs().min(60);
        let cache = HeaderValue::from_str(&format!("public, max-age={seconds}"));
        let cache = cache.map_err(|error| Refusal::internal(&error))?;
        reply.headers_mut().insert(CACHE_CONTROL, cache);
        Ok(reply)
    }

    /// `GET /v1/deny-list`
    pub(super) fn deny_list(&self) -> Result<Reply, Refusal> {
        let lists = self.revocations.deny_list();
        let list = lists.borrow().clone();
        let list = list.ok_or_else(|| {
            Refusal::later("not_yet", "the deny-list is about to be issued", ASK_AGAIN)
        })?;
        let mut reply = reply::cacheable(DENY_LIST, "no-cache", list.full.clone());
        let tag = HeaderValue::from_str(&format!("\"{}\"", list.epoch));
        reply.headers_mut().insert(ETAG, tag.map_err(|error| Refusal::internal(&error))?);
        Ok(reply)
    }

    /// `GET /log/...` (C2SP static-ct-api, "Monitoring APIs")
    pub(super) async fn log_file(self: &Arc<Self>, path: String) -> Result<Reply, Refusal> {
        let served = self.reading(move |ca| ca.log_file(&path)).await?;
        let served = served.map_err(|refusal| refused(&refusal))?;
        let served = served.ok_or_else(|| absent("the log has no such file"))?;
        let Served { bytes, content_type, cache_control } = served;
        let mut reply = reply::cacheable(content_type, cache_control, bytes);
        reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        Ok(reply)
    }

    /// `GET /v1/log-key`
    pub(super) fn log_key(&self) -> Reply {
        let log = self.ca.log();
        let (origin, key) = (log.origin().to_owned(), encode(log.spki_der()));
        reply::json(StatusCode::OK, &LogKeyResponse { origin, key })
    }

    /// `GET /v1/proof/<index>`
    pub(super) async fn proof(&self, index: u64) -> Result<Reply, Refusal> {
        if index >= self.ca.status().log_entries {
            return Err(absent("the log has no entry with this index"));
        }
        let proof = self.ca.inclusion_proof(index, PROOF_PATIENCE).await;
        let proof = proof.map_err(|refusal| refused(&refusal))?;
        let proof = proof.ok_or_else(|| {
            Refusal::later("not_yet", "no published checkpoint covers it yet", ASK_AGAIN)
        })?;
        let text = proof.encode().into_bytes();
        Ok(reply::cacheable("text/plain; charset=utf-8", "no-cache", text))
    }

    /// `GET /v1/renewal-information/<serial>`
    pub(super) fn renewal_information(&self, serial: &str) -> Result<Reply, Refusal> {
        let found = self.ca.renewal_information(serial);
        let found = found.ok_or_else(|| {
            absent("this authority has no certificate in force with this serial number")
        })?;
        let second = |time: SystemTime| unix_seconds(time);
        let window = Window { start: second(found.window.start), end: second(found.window.end) };
        let seconds = found.retry_after.as_secs();
        let body = RenewalResponse { renewal_window: window, ask_again_after_seconds: seconds };
        let mut reply = reply::json(StatusCode::OK, &body);
        reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        Ok(reply)
    }

    /// Runs something that reads a file
    async fn reading<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Ca) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let _turn = self.reads.acquire().await.map_err(|error| Refusal::internal(&error))?;
        let ca = self.ca.clone();
        let read = tokio::task::spawn_blocking(move || read(&ca)).await;
        read.map_err(|error| Refusal::internal(&error))
    }
}

fn absent(what: &str) -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "not_found", what)
}
