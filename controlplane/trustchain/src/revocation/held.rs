//! What a node holds of one instance's list, and the rules by which a document may follow it. Merging the
//! instances and acting on them is in `deny_list`.

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::deny_list::DenyListSettings;
use super::document::{DenyListDocument, Form, content_of};
use super::entry::{Entry, KeyId, SerialNumber, SpkiHash, Target, seconds};
use super::high_water::HighWaterMark;
use super::refusal::Refusal;

/// What is held of one instance's list
#[derive(Debug)]
pub(super) struct Held {
    pub(super) epoch: u64,
    pub(super) issued_at: u64,
    pub(super) next_update: u64,
    pub(super) content: [u8; 32],
    pub(super) changes: usize,
    pub(super) entries: BTreeMap<Target, Entry>,
    pub(super) certificates: BTreeMap<(KeyId, SerialNumber), Target>,
    pub(super) keys: BTreeMap<SpkiHash, Target>,
    pub(super) issuers: BTreeMap<KeyId, Target>,
}

impl Held {
    /// The list after a document, with what finds its entries
    pub(super) fn new(
        document: &DenyListDocument,
        entries: BTreeMap<Target, Entry>,
        changes: usize,
    ) -> Self {
        let named = entries.keys().filter_map(|target| {
            target.named_certificate().map(|name| (name.clone(), target.clone()))
        });
        let certificates = named.collect();
        let keys = entries.keys();
        let keys = keys.filter_map(|target| target.named_key().map(|key| (*key, target.clone())));
        let keys = keys.collect();
        let issuers = entries.keys();
        let issuers =
            issuers.filter_map(|target| target.named_issuer().map(|key| (*key, target.clone())));
        let issuers = issuers.collect();
        let DenyListDocument { epoch, issued_at, next_update, content, .. } = *document;
        Self {
            epoch,
            issued_at,
            next_update,
            content,
            changes,
            entries,
            certificates,
            keys,
            issuers,
        }
    }
}

/// One instance's list, and what was asked and seen of it
#[derive(Debug, Default)]
pub(super) struct Instance {
    pub(super) held: Option<Held>,
    pub(super) mark: Option<HighWaterMark>,
    pub(super) needs_full: bool,
    pub(super) asked_at: Option<SystemTime>,
    /// No key of it may sign any more: its entries live out, and its age does not matter
    pub(super) retired: bool,
}

impl Instance {
    /// Changes behind the last full list, once a document of this form is taken
    pub(super) fn changes_after(&self, form: Form) -> usize {
        match (form, &self.held) {
            (Form::Delta { .. }, Some(held)) => held.changes + 1,
            _ => 0,
        }
    }

    pub(super) fn epoch(&self) -> u64 {
        self.held.as_ref().map_or(0, |held| held.epoch)
    }

    pub(super) fn highest_seen(&self) -> u64 {
        self.mark.as_ref().map_or(0, |mark| mark.epoch).max(self.epoch())
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.held.iter().flat_map(|held| held.entries.values())
    }

    pub(super) fn count(&self) -> usize {
        self.held.as_ref().map_or(0, |held| held.entries.len())
    }

    pub(super) fn refuses(&self, target: &Target) -> bool {
        self.held.as_ref().is_some_and(|held| held.entries.contains_key(target))
    }

    /// When the list becomes too old; `None` where it is from the start
    pub(super) fn old_from(&self, settings: &DenyListSettings) -> Option<SystemTime> {
        let held = self.held.as_ref().filter(|held| held.epoch >= self.highest_seen())?;
        let promised = seconds(held.next_update);
        Some(promised.min(seconds(held.issued_at) + settings.too_old_after))
    }

    pub(super) fn is_old(&self, settings: &DenyListSettings, now: SystemTime) -> bool {
        !self.retired && self.old_from(settings).is_none_or(|from| now > from)
    }
}

/// Whether the document is the one held; an error where its number does not go on from what was seen
pub(super) fn is_held(instance: &Instance, document: &DenyListDocument) -> Result<bool, Refusal> {
    let (offered, seen) = (document.epoch, instance.highest_seen());
    if offered < seen {
        return Err(Refusal::Replayed { held: seen, offered });
    }
    if let Some(held) = &instance.held {
        if offered == held.epoch {
            let same = held.content == document.content && held.issued_at == document.issued_at;
            return if same { Ok(true) } else { Err(Refusal::Equivocation(offered)) };
        }
        if document.issued_at < held.issued_at {
            return Err(Refusal::TimeWentBack(offered));
        }
    }
    if let Some(mark) = &instance.mark {
        if offered == mark.epoch && !mark.has_content(&document.content) {
            return Err(Refusal::Equivocation(offered));
        }
        if document.issued_at < mark.issued_at {
            return Err(Refusal::TimeWentBack(offered));
        }
    }
    Ok(false)
}

/// The list after the document
pub(super) fn next_entries(
    instance: &Instance,
    document: &DenyListDocument,
) -> Result<BTreeMap<Target, Entry>, Refusal> {
    let offered = document.entries.iter().map(|entry| (entry.target.clone(), entry.clone()));
    let Form::Delta { base_epoch } = document.form else {
        return Ok(offered.collect());
    };
    let held = match &instance.held {
        Some(held) if held.epoch >= base_epoch => held,
        _ => return Err(Refusal::Gap { held: instance.epoch(), base: base_epoch }),
    };
    let issued = seconds(document.issued_at);
    let kept = held.entries.iter().map(|(target, entry)| (target.clone(), entry.clone()));
    let mut next: BTreeMap<Target, Entry> = kept.chain(offered).collect();
    next.retain(|_, entry| entry.is_live(issued));
    // The authority's hash tells whether both hold the same; a change that was lost would show here.
    if next.len() as u64 != document.live || content_of(next.values()) != document.content {
        return Err(Refusal::Diverged);
    }
    Ok(next)
}

/// Nothing is taken from a list before its time, whatever number the shorter list has
pub(super) fn check_nothing_lost(
    instance: &Instance,
    document: &DenyListDocument,
    next: &BTreeMap<Target, Entry>,
) -> Result<(), Refusal> {
    let issued = seconds(document.issued_at);
    let lost = instance.entries().filter(|held| {
        let kept = next.get(&held.target).is_some_and(|entry| entry.ends_at >= held.ends_at);
        held.is_live(issued) && !kept
    });
    let lost = lost.count();
    let least = instance.mark.as_ref().map_or(0, |mark| mark.least_live_at(issued));
    match lost.max(least.saturating_sub(next.len())) {
        0 => Ok(()),
        missing => Err(Refusal::UnRevokes { epoch: document.epoch, missing }),
    }
}
