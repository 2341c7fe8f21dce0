//! The authority's CRLs: one publisher for each issuing key whose leaves may still be good, signed when something was
//! revoked and on a timer when nothing was. Its caller makes numbers durable before it shows a list to anybody.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, Issuer};

use crate::revocation::crl::{CrlError, CrlPublisher, CrlSettings, IssuedCrl, Sharding};
use crate::revocation::{Entry, KeyId};
use crate::signer::NamedKey;

/// From issue to issue (RFC 5280 section 5: on a timer, also when nothing was revoked)
pub const CRL_INTERVAL: Duration = Duration::from_secs(3_600);
/// From issue to next update: three issues may fail before a list is out of date
pub const CRL_VALIDITY: Duration = Duration::from_secs(4 * 3_600);
/// How long the list of a certificate that ended is kept in memory after it was shown
const RETAIN: u64 = 24 * 3_600;

/// The latest list of each shard, by issuing key
pub type PublishedCrls = Arc<BTreeMap<(KeyId, u8), Arc<IssuedCrl>>>;

/// The lists of one issuing key
pub(super) struct Crls {
    publisher: CrlPublisher,
    issuer: Issuer<'static, NamedKey>,
    key_id: KeyId,
    /// When shards were last signed because something was revoked
    last_round: Option<SystemTime>,
}

impl Crls {
    /// Lists as the journal left them
    pub(super) fn new(
        sharding: Sharding,
        base_uri: String,
        params: CertificateParams,
        key: NamedKey,
        key_id: KeyId,
    ) -> Result<Self, CrlError> {
        let settings =
            CrlSettings { sharding, interval: CRL_INTERVAL, validity: CRL_VALIDITY, base_uri };
        let publisher = CrlPublisher::new(settings, key_id)?;
        Ok(Self { publisher, issuer: Issuer::new(params, key), key_id, last_round: None })
    }

    /// The issuing key
    pub(super) fn key_id(&self) -> KeyId {
        self.key_id
    }

    /// A number that was given out; the next is greater
    pub(super) fn restore_number(&mut self, shard: u8, number: u64) -> Result<(), CrlError> {
        self.publisher.restore_number(shard, number)
    }

    /// Adds a revocation, unless it is of another issuer's certificate, of a key alone, or long past
    pub(super) fn revoke(&mut self, entry: &Entry, now: u64) -> Result<(), CrlError> {
        let Some((issuer, serial)) = entry.target.named_certificate() else { return Ok(()) };
        if *issuer != self.key_id || entry.ends_at + RETAIN < now {
            return Ok(());
        }
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let (revoked_at, ends_at) = (at(entry.revoked_at), at(entry.ends_at));
        self.publisher.revoke(serial.clone(), entry.reason, revoked_at, ends_at)?;
        Ok(())
    }

    /// Shards to sign now. Revocations in quick succession share a signature: at least `pause` lies between
    /// two rounds.
    pub(super) fn due(&self, now: SystemTime, pause: Duration) -> Vec<u8> {
        let rested = self
            .last_round
            .is_none_or(|last| now.duration_since(last).map_or(true, |ago| ago >= pause));
        if rested { self.publisher.due(now) } else { Vec::new() }
    }

    /// Signs shards; waits for the signer. What was signed counts, also where a later one fails.
    pub(super) fn issue(
        &mut self,
        shards: &[u8],
        now: SystemTime,
    ) -> (Vec<IssuedCrl>, Option<CrlError>) {
        self.last_round = Some(now);
        let mut issued = Vec::new();
        for shard in shards {
            match self.publisher.issue(*shard, &self.issuer, now) {
                Ok(list) => issued.push(list),
                Err(error) => return (issued, Some(error)),
            }
        }
        (issued, None)
    }
}

/// The lists of all issuing keys that may still sign any
#[derive(Default)]
pub(super) struct CrlBooks(BTreeMap<KeyId, Crls>);

impl CrlBooks {
    /// Takes the lists of one more key
    pub(super) fn insert(&mut self, crls: Crls) {
        self.0.insert(crls.key_id(), crls);
    }

    /// Whether the lists of this key are here
    pub(super) fn has(&self, key: &KeyId) -> bool {
        self.0.contains_key(key)
    }

    /// Forgets the lists of a key that signs none any more
    pub(super) fn remove(&mut self, key: &KeyId) {
        self.0.remove(key);
    }

    /// Adds a revocation to the lists of its issuer
    pub(super) fn revoke(&mut self, entry: &Entry, now: u64) -> Result<(), CrlError> {
        self.0.values_mut().try_for_each(|crls| crls.revoke(entry, now))
    }

    /// Shards to sign now, by key
    pub(super) fn due(&self, now: SystemTime, pause: Duration) -> Vec<(KeyId, Vec<u8>)> {
        let due = self.0.iter().map(|(key, crls)| (*key, crls.due(now, pause)));
        due.filter(|(_, shards)| !shards.is_empty()).collect()
    }

    /// Signs shards; waits for the signer. What was signed counts, also where a later one fails: of one key's
    /// failure the others' lists do not suffer.
    pub(super) fn issue(
        &mut self,
        due: &[(KeyId, Vec<u8>)],
        now: SystemTime,
    ) -> (Vec<(KeyId, IssuedCrl)>, Option<CrlError>) {
        let (mut issued, mut first) = (Vec::new(), None);
        for (key, shards) in due {
            let Some(crls) = self.0.get_mut(key) else { continue };
            let (lists, error) = crls.issue(shards, now);
            issued.extend(lists.into_iter().map(|list| (*key, list)));
            first = first.or(error);
        }
        (issued, first)
    }
}
