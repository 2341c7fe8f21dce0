//! The highest issue of a deny-list that was ever seen, kept apart from the list: whoever comes back with less
//! has lost something.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::entry::{Entry, RETAIN_AFTER_END, seconds};
use crate::certificate::hex;

const HOUR_SECONDS: u64 = 3_600;

/// What is remembered of the highest issue seen. It is small, and written with every list that is taken.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct HighWaterMark {
    /// The instance whose list it was
    pub instance: String,
    /// Its number
    pub epoch: u64,
    /// When it was issued, seconds since 1970
    pub issued_at: u64,
    /// Entries it had
    pub live: u64,
    /// Hash of its content, hexadecimal
    pub content_sha256: String,
    /// How many entries end in which hour since 1970
    pub ends_by_hour: BTreeMap<u64, u64>,
}

impl HighWaterMark {
    pub(super) fn of<'a>(
        instance: &str,
        epoch: u64,
        issued_at: u64,
        content: &[u8; 32],
        entries: impl IntoIterator<Item = &'a Entry>,
    ) -> Self {
        let mut ends_by_hour = BTreeMap::new();
        let mut live = 0;
        for entry in entries {
            live += 1;
            *ends_by_hour.entry(entry.ends_at / HOUR_SECONDS).or_default() += 1;
        }
        let content_sha256 = hex(content);
        Self { instance: instance.to_owned(), epoch, issued_at, live, content_sha256, ends_by_hour }
    }

    pub(super) fn has_content(&self, content: &[u8; 32]) -> bool {
        self.content_sha256 == hex(content)
    }

    /// How many of its entries certainly count at a later time. A file that was tampered with may say
    /// anything, so nothing is added without a check.
    pub(super) fn least_live_at(&self, at: SystemTime) -> usize {
        let hours = self.ends_by_hour.iter().filter(|(hour, _)| {
            seconds(hour.saturating_mul(HOUR_SECONDS)) + RETAIN_AFTER_END >= at
        });
        let count = hours.fold(0_u64, |sum, (_, count)| sum.saturating_add(*count));
        usize::try_from(count).unwrap_or(usize::MAX)
    }
}
