//! The life of an issuing key: prepared, active, tainted, revoked. What each state may sign, whether its
//! leaves are accepted and which state may follow stands in one table. The keys of an instance are held to it
//! in `authority_ring`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where an issuing key stands
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthorityState {
    /// Certified by the root and on its way into every node's trust; has signed nothing
    Prepared,
    /// Issues
    Active,
    /// Issues no more; its leaves are still good, and their holders get new ones
    Tainted,
    /// Nothing it signed counts
    Revoked,
}

/// What a key may be asked to sign
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Purpose {
    /// Certificates
    Leaf,
    /// Certificate revocation lists
    Crl,
    /// The pushed deny-list
    DenyList,
}

/// When holders of an issuing key's leaves renew
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Renewal {
    /// In the ordinary way
    InTime,
    /// At once, spread by a renewal window that begins now
    Now,
    /// Their certificates are of no use: they enrol again
    ReEnrol,
}

/// One row of the table
struct Row {
    signs_leaves: bool,
    signs_revocations: bool,
    leaves_accepted: bool,
    next: &'static [AuthorityState],
}

impl AuthorityState {
    /// Every state
    pub const ALL: [Self; 4] = [Self::Prepared, Self::Active, Self::Tainted, Self::Revoked];

    const fn row(self) -> Row {
        match self {
            // Accepted before it issues, so that no node refuses its first leaf.
            Self::Prepared => Row {
                signs_leaves: false,
                signs_revocations: false,
                leaves_accepted: true,
                next: &[Self::Active, Self::Revoked],
            },
            Self::Active => Row {
                signs_leaves: true,
                signs_revocations: true,
                leaves_accepted: true,
                next: &[Self::Tainted],
            },
            // Its leaves live on for a day, so it must be able to revoke them.
            Self::Tainted => Row {
                signs_leaves: false,
                signs_revocations: true,
                leaves_accepted: true,
                next: &[Self::Revoked],
            },
            Self::Revoked => Row {
                signs_leaves: false,
                signs_revocations: false,
                leaves_accepted: false,
                next: &[],
            },
        }
    }

    /// Whether a key in this state may sign that
    pub const fn may_sign(self, purpose: Purpose) -> bool {
        match purpose {
            Purpose::Leaf => self.row().signs_leaves,
            Purpose::Crl | Purpose::DenyList => self.row().signs_revocations,
        }
    }

    /// Whether leaves of a key in this state are accepted: whether it is an anchor of the trust bundle
    pub const fn accepts_leaves(self) -> bool {
        self.row().leaves_accepted
    }

    /// The states that may follow
    pub const fn next(self) -> &'static [Self] {
        self.row().next
    }

    /// The label used in logs, metrics and JSON
    pub const fn label(self) -> &'static str {
        match self {
            Self::Prepared => "prepared",
            Self::Active => "active",
            Self::Tainted => "tainted",
            Self::Revoked => "revoked",
        }
    }
}

impl fmt::Display for AuthorityState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// Why a key issues no more
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TaintReason {
    /// The next key took its place
    Replaced,
    /// Somebody else may have it
    Compromised,
}

#[cfg(test)]
mod tests {
    use super::AuthorityState::{Active, Prepared, Revoked, Tainted};
    use super::*;

    #[test]
    fn the_table_says_what_the_design_says() {
        let row = |state: AuthorityState| {
            let signs = [Purpose::Leaf, Purpose::Crl, Purpose::DenyList].map(|p| state.may_sign(p));
            (signs, state.accepts_leaves())
        };
        assert_eq!(row(Prepared), ([false, false, false], true));
        assert_eq!(row(Active), ([true, true, true], true));
        assert_eq!(row(Tainted), ([false, true, true], true));
        assert_eq!(row(Revoked), ([false, false, false], false));
        let legal: Vec<_> = AuthorityState::ALL
            .into_iter()
            .flat_map(|from| from.next().iter().map(move |to| (from, *to)))
            .collect();
        let expected =
            [(Prepared, Active), (Prepared, Revoked), (Active, Tainted), (Tainted, Revoked)];
        assert_eq!(legal, expected);
    }
}
