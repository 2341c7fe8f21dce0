//! How recent the deny-lists are that this node goes by, for status, doctor and metrics. Following the lists is
//! `revocation`'s; that an old one closes the door is carried out by the data plane, by the same instant.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use stoq::NodeId;
use stoq_admin::api::Problem;
use stoq_admin::show_time;
use stoq_interface::{Freshness, IssuerKeyId};

/// Code of the problem, and name of the check
pub const TOO_OLD: &str = "deny-list-too-old";
/// Time the first list may take to come before anybody is told, where nothing is refused meanwhile
const FIRST_LIST: Duration = Duration::from_secs(60);

/// What is known of the lists' age
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ListAge {
    /// Until when every list is recent; 1970 where one is missing
    pub until: SystemTime,
    /// The same of single lists, by the keys that their authorities issue with
    pub by_issuer: BTreeMap<IssuerKeyId, SystemTime>,
    /// Whose lists; they are connected to in any case
    pub authorities: Vec<NodeId>,
    /// Since when they are followed, or should be
    pub since: SystemTime,
    /// Whether new connections are refused while a list is too old
    pub fail_closed: bool,
}

impl ListAge {
    /// Nothing is held of these authorities' lists yet
    pub fn nothing(authorities: Vec<NodeId>, fail_closed: bool, since: SystemTime) -> Self {
        let by_issuer = BTreeMap::new();
        Self { until: UNIX_EPOCH, by_issuer, authorities, since, fail_closed }
    }

    /// What the data plane is told; `None` where an old list changes nothing
    pub fn freshness(&self) -> Option<Freshness> {
        let exempt = self.authorities.iter().cloned().collect();
        let by_issuer = self.by_issuer.clone();
        self.fail_closed.then_some(Freshness { until: self.until, by_issuer, exempt })
    }

    /// Whether new connections go by lists that are too old, or by none
    pub fn is_too_old(&self, now: SystemTime) -> bool {
        let first = !self.fail_closed && self.until == UNIX_EPOCH && now < self.since + FIRST_LIST;
        now > self.until && !first
    }

    /// What an operator should know of it
    pub fn problem(&self, now: SystemTime) -> Option<Problem> {
        if !self.is_too_old(now) {
            return None;
        }
        let names: Vec<_> = self.authorities.iter().map(NodeId::as_str).collect();
        let whose = match names.as_slice() {
            [] => "no authority's deny-list is known".to_owned(),
            names if self.until == UNIX_EPOCH => {
                format!("no usable deny-list of {} has come", names.join(", "))
            }
            names => format!(
                "the deny-list of {} is too old to go by since {}",
                names.join(", "),
                show_time(self.until)
            ),
        };
        let what = if self.fail_closed {
            "new connections are refused, but for those with the authorities"
        } else {
            "new connections are made all the same: who was revoked since is let in"
        };
        Some(Problem {
            code: TOO_OLD.into(),
            message: format!("{whose}: {what}"),
            remedy: "see whether the authority runs and this node reaches it (`stoqctl session list`); the log of \
                     stoqd has more, and trust.fail_closed says what follows"
                .into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn age(until: u64, fail_closed: bool) -> ListAge {
        let until = UNIX_EPOCH + Duration::from_secs(until);
        let alpha = NodeId::new("alpha").unwrap();
        let since = UNIX_EPOCH + Duration::from_secs(1_000);
        ListAge { until, ..ListAge::nothing(vec![alpha], fail_closed, since) }
    }

    #[test]
    fn a_list_is_too_old_behind_its_end_and_says_what_follows() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        for (fail_closed, word) in [(true, "refused"), (false, "all the same")] {
            let age = age(2_000, fail_closed);
            assert!(!age.is_too_old(at(2_000)) && age.problem(at(2_000)).is_none());
            let problem = age.problem(at(2_001)).unwrap();
            assert_eq!(problem.code, TOO_OLD);
            assert!(problem.message.contains("alpha") && problem.message.contains(word));
            assert_eq!(
                age.freshness().map(|freshness| freshness.until),
                fail_closed.then_some(at(2_000))
            );
        }
    }

    #[test]
    fn the_first_list_may_take_a_moment_where_nothing_is_refused_meanwhile() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        assert!(age(0, true).is_too_old(at(1_001)));
        assert!(!age(0, false).is_too_old(at(1_059)));
        assert!(age(0, false).problem(at(1_060)).unwrap().message.contains("no usable deny-list"));
    }
}
