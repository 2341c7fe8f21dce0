//! A node's deny-list: the lists of all authority instances, taken in order, merged, and never shorter than
//! they were. It answers whether a certificate is refused, says which connections to close, what to store and
//! when to ask for more, and whether the list is recent enough to go by. It sends and stores nothing itself.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use stoq_interface::NodeId;

use super::document::{DenyListDocument, ENTRIES_LIMIT, Form, Signers, open};
use super::entry::{Entry, KeyId, Reason, SerialNumber, SpkiHash, Target, seconds};
use super::held::{Held, Instance, check_nothing_lost, is_held, next_entries};
use super::high_water::HighWaterMark;
use super::refusal::Refusal;
use crate::certificate::unix_seconds;

/// How far ahead of this host's clock an issue may lie
const FUTURE_TOLERANCE: Duration = Duration::from_secs(300);
/// Entries of all instances together
const TOTAL_ENTRIES_LIMIT: usize = 4 * ENTRIES_LIMIT;
/// Changes that may pile up on disk behind one full list before a new one is asked for
const CHANGES_LIMIT: usize = 1_024;

/// How old a list may be and what follows
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DenyListSettings {
    /// A list issued longer ago is too old, whatever its authority promised
    pub too_old_after: Duration,
    /// Whether new connections are refused while a list is too old or missing
    pub fail_closed: bool,
    /// How long to wait for a full list before asking again
    pub ask_again_after: Duration,
}

impl Default for DenyListSettings {
    fn default() -> Self {
        Self {
            too_old_after: Duration::from_secs(900),
            fail_closed: false,
            ask_again_after: Duration::from_secs(60),
        }
    }
}

/// What the age of the lists means for new connections. Connections to the authorities themselves are always
/// allowed: without them no list would ever arrive.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum NewConnections {
    /// Every list is recent
    Allowed,
    /// Lists are too old or missing, and the settings let connections go on: an alarm
    AllowedAlthoughOld {
        /// Whose lists
        instances: Vec<NodeId>,
    },
    /// Lists are too old or missing, and the settings say to refuse
    Refused {
        /// Whose lists
        instances: Vec<NodeId>,
    },
}

impl NewConnections {
    /// The label used in logs, metrics and JSON
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::AllowedAlthoughOld { .. } => "allowed_although_old",
            Self::Refused { .. } => "refused",
        }
    }
}

/// How a stored document relates to those stored before
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum StoreForm {
    /// It takes the place of all documents of its instance
    Replace,
    /// It goes behind them
    Append,
}

/// Something for the driver to do
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum DenyListAction {
    /// Close every connection on which one of these is shown, and refuse it in handshakes
    CloseConnections {
        /// What is newly refused
        revoked: Vec<Entry>,
    },
    /// Ask the instance for its full list
    AskFull {
        /// Whom
        instance: NodeId,
        /// What is held; zero for nothing
        held_epoch: u64,
    },
    /// Keep a document and the mark, both durably
    Store {
        /// Whose list
        instance: NodeId,
        /// Instead of, or behind, what is kept
        form: StoreForm,
        /// The document as it came
        document: Vec<u8>,
        /// What to remember apart from it
        mark: HighWaterMark,
    },
    /// What new connections may do has changed
    NewConnections(NewConnections),
}

/// What came of a document
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Applied {
    /// It was held already
    AlreadyHeld,
    /// The list is now that of the document
    Taken {
        /// Entries that were not refused before by any list
        added: usize,
    },
}

/// Why a certificate is refused
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Match {
    /// Whose list says so
    pub instance: NodeId,
    /// Why
    pub reason: Reason,
    /// Since when
    pub revoked_at: SystemTime,
    /// Whether the key is refused and not only this certificate
    pub by_key: bool,
}

/// The lists of all instances
#[derive(Debug)]
pub struct DenyList {
    settings: DenyListSettings,
    signers: Signers,
    instances: BTreeMap<NodeId, Instance>,
    actions: VecDeque<DenyListAction>,
    policy: NewConnections,
    refused: [u64; Refusal::LABELS.len()],
    taken: u64,
}

impl DenyList {
    /// Begins with nothing
    pub fn new(settings: DenyListSettings, signers: Signers, now: SystemTime) -> Self {
        Self::restore(settings, signers, Vec::new(), Vec::new(), now).0
    }

    /// Begins with what was stored: the documents of each instance in their order, and the marks. Documents
    /// that are damaged are reported and passed over; where the rest is less than a mark remembers, the list
    /// counts as missing, and an older one is never taken.
    pub fn restore(
        settings: DenyListSettings,
        signers: Signers,
        marks: Vec<HighWaterMark>,
        documents: Vec<Vec<u8>>,
        now: SystemTime,
    ) -> (Self, Vec<Refusal>) {
        let instances =
            signers.instances().into_iter().map(|name| (name.clone(), Instance::default()));
        let mut list = Self {
            settings,
            instances: instances.collect(),
            signers,
            actions: VecDeque::new(),
            policy: NewConnections::Allowed,
            refused: [0; Refusal::LABELS.len()],
            taken: 0,
        };
        let mut refusals: Vec<Refusal> =
            documents.iter().filter_map(|bytes| list.take(bytes, now, false).err()).collect();
        for mark in marks {
            let Some(instance) =
                NodeId::new(&mark.instance).ok().and_then(|name| list.instances.get_mut(&name))
            else {
                continue;
            };
            let differs = instance
                .held
                .as_ref()
                .is_some_and(|held| held.epoch == mark.epoch && !mark.has_content(&held.content));
            if differs {
                refusals.push(Refusal::Equivocation(mark.epoch));
                instance.needs_full = true;
            }
            if mark.epoch > instance.highest_seen() {
                instance.mark = Some(mark);
            }
        }
        list.advance(now);
        (list, refusals)
    }

    /// Other issuing keys are in force. The entries of an instance that is gone live out.
    pub fn handle_signers(&mut self, signers: Signers, now: SystemTime) {
        for (name, instance) in &mut self.instances {
            instance.retired = !signers.instances().contains(name);
        }
        for name in signers.instances() {
            self.instances.entry(name.clone()).or_default();
        }
        self.signers = signers;
        self.advance(now);
    }

    /// A document came from a peer
    pub fn handle_document(&mut self, bytes: &[u8], now: SystemTime) -> Result<Applied, Refusal> {
        let outcome = self.take(bytes, now, true);
        match &outcome {
            Ok(Applied::Taken { .. }) => self.taken += 1,
            Ok(Applied::AlreadyHeld) => {}
            Err(refusal) => self.refused[refusal.index()] += 1,
        }
        self.advance(now);
        outcome
    }

    /// Time has passed; due at the latest when [`Self::poll_timeout`] says
    pub fn handle_time(&mut self, now: SystemTime) {
        self.advance(now);
    }

    /// The next thing to do
    pub fn poll_action(&mut self) -> Option<DenyListAction> {
        self.actions.pop_front()
    }

    /// When [`Self::handle_time`] is due by the wall clock. The driver looks at that clock every half minute
    /// in any case: it may be set.
    pub fn poll_timeout(&self, now: SystemTime) -> SystemTime {
        let asking = self.instances.values().any(|instance| self.wants_full(instance, now));
        let again = asking.then_some(now + self.settings.ask_again_after);
        let ageing = self.instances.values().filter(|instance| !instance.retired);
        let ageing = ageing
            .filter_map(|instance| instance.old_from(&self.settings))
            .map(|from| from + Duration::from_secs(1))
            .filter(|from| *from > now);
        let limit = now + Duration::from_secs(30);
        ageing.chain(again).min().map_or(limit, |at| at.min(limit))
    }

    /// Whether a certificate is refused
    pub fn check(&self, issuer: &KeyId, serial: &SerialNumber, spki: &SpkiHash) -> Option<Match> {
        let name = (*issuer, serial.clone());
        self.instances.iter().find_map(|(instance, list)| {
            let held = list.held.as_ref()?;
            let by_key = held.keys.get(spki);
            let named = by_key.or_else(|| held.certificates.get(&name));
            let target = named.or_else(|| held.issuers.get(issuer))?;
            let entry = held.entries.get(target)?;
            Some(Match {
                instance: instance.clone(),
                reason: entry.reason,
                revoked_at: seconds(entry.revoked_at),
                by_key: by_key.is_some(),
            })
        })
    }

    /// The serial numbers refused, as the data plane takes them: lower-case hexadecimal
    pub fn denied_serials(&self) -> BTreeSet<String> {
        let named = self.entries().filter_map(|entry| entry.target.named_certificate());
        named.map(|(_, serial)| serial.to_string()).collect()
    }

    /// All entries, of all instances
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.instances.values().flat_map(Instance::entries)
    }

    /// What new connections may do
    pub fn new_connections(&self) -> &NewConnections {
        &self.policy
    }

    /// Until when every list is recent; the past where one is missing
    pub fn recent_until(&self) -> SystemTime {
        let counted = self.instances.values().filter(|instance| !instance.retired);
        let ends = counted.map(|list| list.old_from(&self.settings).unwrap_or(UNIX_EPOCH));
        ends.min().unwrap_or(UNIX_EPOCH)
    }

    /// Until when the list of one instance is recent; the past where it is missing
    pub fn recent_until_of(&self, instance: &NodeId) -> SystemTime {
        let list = self.instances.get(instance);
        list.and_then(|list| list.old_from(&self.settings)).unwrap_or(UNIX_EPOCH)
    }

    /// The highest issue held of each instance; zero for none
    pub fn epochs(&self) -> impl Iterator<Item = (&NodeId, u64)> {
        self.instances.iter().map(|(name, instance)| (name, instance.epoch()))
    }

    /// The marks, for whoever restores an authority
    pub fn marks(&self) -> impl Iterator<Item = &HighWaterMark> {
        self.instances.values().filter_map(|instance| instance.mark.as_ref())
    }

    /// Label and value of every counter of refusals, and `taken`
    pub fn counters(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Refusal::LABELS.into_iter().zip(self.refused).chain([("taken", self.taken)])
    }

    fn take(&mut self, bytes: &[u8], now: SystemTime, live: bool) -> Result<Applied, Refusal> {
        let document = open(bytes, &self.signers)?;
        let latest = now + FUTURE_TOLERANCE;
        if let Ok(ahead) = seconds(document.issued_at).duration_since(latest)
            && !ahead.is_zero()
        {
            let ahead_seconds = document.issued_at.saturating_sub(unix_seconds(now));
            return Err(Refusal::Future { ahead_seconds });
        }
        let total: usize = self
            .instances
            .iter()
            .filter(|(name, _)| **name != document.instance)
            .map(|(_, instance)| instance.count())
            .sum();
        let instance = self.instances.entry(document.instance.clone()).or_default();
        if is_held(instance, &document)? {
            return Ok(Applied::AlreadyHeld);
        }
        let next = next_entries(instance, &document).inspect_err(|refusal| {
            let lost = matches!(refusal, Refusal::Gap { .. } | Refusal::Diverged);
            if lost && !instance.needs_full {
                instance.needs_full = true;
                instance.asked_at = None;
            }
        })?;
        if next.len() > ENTRIES_LIMIT || total + next.len() > TOTAL_ENTRIES_LIMIT {
            return Err(Refusal::TooManyEntries(total + next.len()));
        }
        check_nothing_lost(instance, &document, &next)?;
        let fresh: Vec<Entry> = next
            .values()
            .filter(|entry| !self.instances.values().any(|list| list.refuses(&entry.target)))
            .cloned()
            .collect();
        let added = fresh.len();
        let mark = self.hold(&document, next);
        if live {
            let form = match document.form {
                Form::Full => StoreForm::Replace,
                Form::Delta { .. } => StoreForm::Append,
            };
            let (instance, document) = (document.instance, bytes.to_vec());
            // Enforced first: a host that dies before it has stored asks for the list again.
            if added > 0 {
                self.actions.push_back(DenyListAction::CloseConnections { revoked: fresh });
            }
            self.actions.push_back(DenyListAction::Store { instance, form, document, mark });
        }
        Ok(Applied::Taken { added })
    }

    fn hold(
        &mut self,
        document: &DenyListDocument,
        next: BTreeMap<Target, Entry>,
    ) -> HighWaterMark {
        let instance = self.instances.entry(document.instance.clone()).or_default();
        let changes = instance.changes_after(document.form);
        let (epoch, issued_at) = (document.epoch, document.issued_at);
        let name = document.instance.as_str();
        let mark = HighWaterMark::of(name, epoch, issued_at, &document.content, next.values());
        instance.mark = Some(mark.clone());
        instance.needs_full = changes > CHANGES_LIMIT;
        instance.held = Some(Held::new(document, next, changes));
        mark
    }

    fn wants_full(&self, instance: &Instance, now: SystemTime) -> bool {
        !instance.retired && (instance.needs_full || instance.is_old(&self.settings, now))
    }

    fn advance(&mut self, now: SystemTime) {
        self.ask(now);
        self.instances.retain(|_, instance| {
            !instance.retired || instance.entries().any(|entry| entry.is_live(now))
        });
        let old = self.instances.iter().filter(|(_, list)| list.is_old(&self.settings, now));
        let instances: Vec<NodeId> = old.map(|(name, _)| name.clone()).collect();
        let policy = match (instances.is_empty(), self.settings.fail_closed) {
            (true, _) => NewConnections::Allowed,
            (false, false) => NewConnections::AllowedAlthoughOld { instances },
            (false, true) => NewConnections::Refused { instances },
        };
        if policy != self.policy {
            self.policy = policy.clone();
            self.actions.push_back(DenyListAction::NewConnections(policy));
        }
    }

    fn ask(&mut self, now: SystemTime) {
        let settings = self.settings;
        for (name, instance) in &mut self.instances {
            let wants =
                !instance.retired && (instance.needs_full || instance.is_old(&settings, now));
            // A clock that was set back must not silence this.
            let waited = instance.asked_at.is_none_or(|asked| {
                now.duration_since(asked).map_or(true, |ago| ago >= settings.ask_again_after)
            });
            if wants && waited {
                instance.asked_at = Some(now);
                let (instance, held_epoch) = (name.clone(), instance.epoch());
                self.actions.push_back(DenyListAction::AskFull { instance, held_epoch });
            }
        }
    }
}
