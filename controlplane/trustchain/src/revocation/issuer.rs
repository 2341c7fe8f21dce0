//! The authority's side of the deny-list: what it has revoked, numbered and signed. Publishing is told the
//! time and given the key; that a number is durable before its list leaves the host is the caller's duty.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use rcgen::SigningKey;
use stoq_interface::NodeId;

use super::document::{
    DenyListDocument, ENTRIES_LIMIT, Form, VALIDITY_LIMIT, content_of, encode, seal,
};
use super::entry::{Entry, KeyId, Target, seconds};
use super::high_water::HighWaterMark;
use crate::certificate::unix_seconds;

/// How often a list is issued
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct IssuerSettings {
    /// Issued anew after this time even if nothing was revoked, so that nodes know they miss nothing
    pub heartbeat: Duration,
    /// From issue to next update
    pub validity: Duration,
}

impl Default for IssuerSettings {
    fn default() -> Self {
        Self { heartbeat: Duration::from_secs(300), validity: Duration::from_secs(900) }
    }
}

/// What an authority keeps of its list. Entries with the epoch that first had them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct IssuerState {
    /// The highest number issued
    pub epoch: u64,
    /// When, seconds since 1970
    pub issued_at: u64,
    /// What is revoked
    pub entries: Vec<(Entry, u64)>,
}

/// A list as it goes to nodes
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Publication {
    /// Its number
    pub epoch: u64,
    /// All of it, for nodes that ask
    pub full: Vec<u8>,
    /// What came since the number before, for nodes that follow
    pub delta: Vec<u8>,
    /// What to remember of it
    pub mark: HighWaterMark,
}

/// Why something cannot be revoked
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RevokeError {
    /// The list is full
    #[error(
        "the deny-list has {ENTRIES_LIMIT} entries, the limit; taint the issuing key, have its \
         holders renew, and revoke the key instead"
    )]
    Full,
    /// The certificate ended long ago
    #[error("the certificate ended more than an hour ago; nobody accepts it any more")]
    Ended,
    /// The entry names times no certificate can have
    #[error("the revocation names a time before 1970 or after 9999")]
    Time,
}

/// Why a list cannot be issued
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The clock shows a time before the last issue
    #[error(
        "the clock stands {behind_seconds} s before the last issue of the deny-list; set it right, \
         nothing is issued meanwhile"
    )]
    ClockWentBack {
        /// How far
        behind_seconds: u64,
    },
    /// The settings cannot work
    #[error(
        "the deny-list's heartbeat must be above zero and below its validity of at most 7 days"
    )]
    Settings,
    /// The key is no P-256 key of an issuing authority
    #[error("the key that signs the deny-list is no P-256 key")]
    KeyKind,
    /// Others have seen more of this list
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// The signer failed
    #[error("the deny-list could not be signed: {0}")]
    Signing(#[from] rcgen::Error),
}

/// Why an authority may not go on with its state
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RestoreError {
    /// Nodes have seen later issues
    #[error(
        "this state of the deny-list ends at epoch {have} and a node has seen epoch {seen}: it was \
         restored from an old backup, and going on would un-revoke; adopt the list of that node"
    )]
    Behind {
        /// What the state has
        have: u64,
        /// What was seen
        seen: u64,
    },
    /// Nodes have seen another list under the same number
    #[error(
        "epoch {0} of the deny-list is another one than a node has seen; two instances run with one \
         identity, or the state was changed; adopt the list of that node"
    )]
    Differs(u64),
    /// The document to adopt is a change, or of another instance
    #[error("only a full list of the same instance can be adopted")]
    Foreign,
    /// The document to adopt is not the latest
    #[error("the list to adopt is epoch {offered}; adopt one of epoch {needed} or later")]
    Older {
        /// What it is
        offered: u64,
        /// What is needed
        needed: u64,
    },
}

impl RestoreError {
    fn epoch_seen(self) -> u64 {
        match self {
            Self::Behind { seen, .. } => seen,
            Self::Differs(epoch) => epoch,
            Self::Foreign | Self::Older { .. } => 0,
        }
    }
}

/// Small steps back of the clock are bridged with the time of the last issue
const CLOCK_TOLERANCE_SECONDS: u64 = 60;

/// The list of one authority instance
#[derive(Clone, Debug)]
pub struct DenyListIssuer {
    instance: NodeId,
    settings: IssuerSettings,
    epoch: u64,
    issued_at: u64,
    entries: BTreeMap<Target, (Entry, u64)>,
    /// Something was revoked since the last issue
    dirty: bool,
    /// Why nothing may be issued
    obstacle: Option<RestoreError>,
}

impl DenyListIssuer {
    /// An empty list that was never issued
    pub fn new(instance: NodeId, settings: IssuerSettings) -> Result<Self, PublishError> {
        let fits = settings.heartbeat > Duration::ZERO
            && settings.heartbeat < settings.validity
            && settings.validity <= VALIDITY_LIMIT;
        if !fits {
            return Err(PublishError::Settings);
        }
        let entries = BTreeMap::new();
        Ok(Self {
            instance,
            settings,
            epoch: 0,
            issued_at: 0,
            entries,
            dirty: true,
            obstacle: None,
        })
    }

    /// Goes on with a state. Before the first issue, [`Self::observe`] the marks that nodes and other
    /// witnesses have kept: they know whether the state is the latest.
    pub fn restore(
        instance: NodeId,
        settings: IssuerSettings,
        state: IssuerState,
    ) -> Result<Self, PublishError> {
        let mut restored = Self::new(instance, settings)?;
        (restored.epoch, restored.issued_at) = (state.epoch, state.issued_at);
        restored.dirty = state.entries.iter().any(|(_, added)| *added > state.epoch);
        let entries = state.entries.into_iter();
        restored.entries =
            entries.map(|(entry, added)| (entry.target.clone(), (entry, added))).collect();
        Ok(restored)
    }

    /// Takes note of what somebody has seen of this list. Where that is more than the state has, nothing is
    /// issued any more until [`Self::adopt`] has brought it back. Marks of other instances do not matter.
    pub fn observe(&mut self, seen: &HighWaterMark) -> Result<(), RestoreError> {
        if seen.instance != self.instance.as_str() {
            return Ok(());
        }
        let obstacle = if seen.epoch > self.epoch {
            RestoreError::Behind { have: self.epoch, seen: seen.epoch }
        } else if seen.epoch == self.epoch && !self.issued_the_same(seen) {
            RestoreError::Differs(seen.epoch)
        } else {
            return Ok(());
        };
        if self.obstacle.is_none_or(|known| known.epoch_seen() < seen.epoch) {
            self.obstacle = Some(obstacle);
        }
        Err(obstacle)
    }

    fn issued_the_same(&self, seen: &HighWaterMark) -> bool {
        let at = seconds(seen.issued_at);
        let issued = self.entries.values().filter(|(_, added)| *added <= self.epoch);
        let issued = issued.map(|(entry, _)| entry).filter(|entry| entry.is_live(at));
        seen.issued_at == self.issued_at && seen.has_content(&content_of(issued))
    }

    /// Takes over what a node holds of this instance's list, after a restore from an old backup. The document
    /// was opened and verified. Returns how many revocations came back; what the state has beyond it is kept
    /// and issued anew.
    pub fn adopt(&mut self, document: &DenyListDocument) -> Result<usize, RestoreError> {
        if document.form != Form::Full || document.instance != self.instance {
            return Err(RestoreError::Foreign);
        }
        let needed = self.obstacle.map_or(0, RestoreError::epoch_seen).max(self.epoch);
        if document.epoch < needed {
            return Err(RestoreError::Older { offered: document.epoch, needed });
        }
        (self.epoch, self.issued_at) = (document.epoch, document.issued_at);
        self.obstacle = None;
        for (_, added) in self.entries.values_mut() {
            *added = self.epoch + 1;
        }
        let mut came_back = 0;
        for entry in &document.entries {
            let place = (entry.clone(), self.epoch);
            if self.entries.insert(entry.target.clone(), place).is_none() {
                came_back += 1;
            }
        }
        self.dirty = true;
        Ok(came_back)
    }

    /// Revokes; `false` where it was revoked before. Durable in the journal before this is called.
    pub fn revoke(&mut self, entry: Entry, now: SystemTime) -> Result<bool, RevokeError> {
        if let Some((known, _)) = self.entries.get(&entry.target)
            && known.is_live(now)
        {
            return Ok(false);
        }
        if Entry::from_wire(&entry.to_wire()).is_err() {
            return Err(RevokeError::Time);
        }
        if !entry.is_live(now) {
            return Err(RevokeError::Ended);
        }
        if self.entries.len() >= ENTRIES_LIMIT {
            self.entries.retain(|_, (entry, _)| entry.is_live(now));
        }
        if self.entries.len() >= ENTRIES_LIMIT {
            return Err(RevokeError::Full);
        }
        self.entries.insert(entry.target.clone(), (entry, self.epoch + 1));
        self.dirty = true;
        Ok(true)
    }

    /// Whether it is time to issue: something was revoked, or nothing for a heartbeat
    pub fn is_due(&self, now: SystemTime) -> bool {
        self.dirty || now >= self.next_heartbeat()
    }

    /// When the list is issued even if nothing is revoked
    pub fn next_heartbeat(&self) -> SystemTime {
        seconds(self.issued_at) + self.settings.heartbeat
    }

    /// Issues the list under the next number, all of it and the change since the last. Nothing is counted
    /// where this fails.
    pub fn publish(
        &mut self,
        key: &impl SigningKey,
        now: SystemTime,
    ) -> Result<Publication, PublishError> {
        if let Some(obstacle) = self.obstacle {
            return Err(obstacle.into());
        }
        let behind_seconds = self.issued_at.saturating_sub(unix_seconds(now));
        if behind_seconds > CLOCK_TOLERANCE_SECONDS {
            return Err(PublishError::ClockWentBack { behind_seconds });
        }
        let issued_at = unix_seconds(now).max(self.issued_at);
        let signer = match key.der_bytes() {
            point if point.len() == 65 => KeyId::of_public_point(point),
            _ => return Err(PublishError::KeyKind),
        };
        let signer = signer.map_err(|_| PublishError::KeyKind)?;
        let epoch = self.epoch + 1;
        let issued = seconds(issued_at);
        let live = self.entries.values().filter(|(entry, _)| entry.is_live(issued));
        let full: Vec<Entry> = live.clone().map(|(entry, _)| entry.clone()).collect();
        let fresh = live.filter(|(_, added)| *added == epoch).map(|(entry, _)| entry.clone());
        let fresh = fresh.collect();
        let content = content_of(&full);
        let mark = HighWaterMark::of(self.instance.as_str(), epoch, issued_at, &content, &full);
        let document = |form, live, entries| DenyListDocument {
            instance: self.instance.clone(),
            signer,
            epoch,
            form,
            issued_at,
            next_update: issued_at + self.settings.validity.as_secs().max(1),
            entries,
            live,
            content,
        };
        let count = full.len() as u64;
        let delta = encode(&document(Form::Delta { base_epoch: epoch - 1 }, count, fresh));
        let full = encode(&document(Form::Full, count, full));
        let publication = Publication {
            epoch,
            full: seal(full, signer, key)?,
            delta: seal(delta, signer, key)?,
            mark,
        };
        (self.epoch, self.issued_at, self.dirty) = (epoch, issued_at, false);
        self.entries.retain(|_, (entry, _)| entry.is_live(issued));
        Ok(publication)
    }

    /// What has to be kept to go on after a restart
    pub fn state(&self) -> IssuerState {
        IssuerState {
            epoch: self.epoch,
            issued_at: self.issued_at,
            entries: self.entries.values().cloned().collect(),
        }
    }

    /// The highest number issued
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether this very target is on the list at this time
    pub fn names(&self, target: &Target, at: SystemTime) -> bool {
        self.entries.get(target).is_some_and(|(entry, _)| entry.is_live(at))
    }

    /// Entries, also such as will leave the list with the next issue
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is revoked
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Why nothing may be issued
    pub fn obstacle(&self) -> Option<RestoreError> {
        self.obstacle
    }
}
