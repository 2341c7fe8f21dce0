//! What rotation asks to be done and what it reports. Data only.

use std::time::{Duration, SystemTime};

use super::failure::{CertificateRefusal, Failure};

/// What rotation knows of a certificate
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CertificateFacts {
    /// Serial number, lower-case hexadecimal without leading zero octets
    pub serial: String,
    /// First instant of validity
    pub not_before: SystemTime,
    /// Last instant of validity
    pub not_after: SystemTime,
}

impl CertificateFacts {
    /// From the first to the last instant of validity
    pub(super) fn lifetime(&self) -> Duration {
        // Both ends count, and certificates carry whole seconds.
        self.not_after.duration_since(self.not_before).unwrap_or_default() + Duration::from_secs(1)
    }

    /// Whether validity has ended
    pub(super) fn ended(&self, wall: SystemTime) -> bool {
        wall > self.not_after
    }
}

/// Stands for one private key, made by the driver when the slot is first named. Each certificate gets its
/// own: a slot is never named again for another certificate.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct KeySlot(pub u64);

/// How a request is authenticated
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RequestKind {
    /// With the certificate in force
    Renew {
        /// Its serial number
        serial: String,
    },
    /// With the node's enrolled key, because no certificate in force is left or the authority refused it
    ReEnrol,
}

impl RequestKind {
    /// The label used in logs, metrics and JSON
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Renew { .. } => "renew",
            Self::ReEnrol => "re_enrol",
        }
    }
}

/// One request for a certificate
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Request {
    /// Names this attempt in answers
    pub attempt: u64,
    /// The key to certify. Attempts that repeat a request to the same authority name the same slot, so the
    /// hash of its public key serves as idempotency key.
    pub key: KeySlot,
    /// Whom to ask
    pub authority: String,
    /// How to authenticate
    pub kind: RequestKind,
}

/// An end of a connection
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// The end that accepts
    Server,
    /// The end that dials
    Client,
}

impl Role {
    /// A certificate is always swapped for both
    pub const BOTH: [Self; 2] = [Self::Server, Self::Client];
}

/// Why a certificate takes over
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ActivationReason {
    /// There was none
    First,
    /// It is time
    Due,
    /// The one before has ended
    Expired,
    /// The one before was revoked
    Revoked,
}

impl ActivationReason {
    /// The label used in logs, metrics and JSON
    pub const fn label(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Due => "due",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

/// A certificate takes over: every handshake from now on presents it, in both roles at once
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Activation {
    /// Its serial number
    pub serial: String,
    /// Its key
    pub key: KeySlot,
    /// The roles to swap in one step
    pub roles: [Role; 2],
    /// The certificate that gives way; it is kept until [`Action::DiscardKey`] names it
    pub replaces: Option<String>,
    /// Why now
    pub reason: ActivationReason,
}

/// Something for the driver to do
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Action {
    /// Ask for a certificate and answer with `handle_issued` or `handle_failed`
    Request(Request),
    /// Give up an attempt that takes too long; its answer is still welcome
    Abandon {
        /// The attempt
        attempt: u64,
    },
    /// Ask the authority when it would like this certificate renewed; answer with `handle_renewal_information`
    AskRenewalInformation {
        /// Whom to ask
        authority: String,
        /// The certificate in force
        serial: String,
    },
    /// Swap certificates and answer with `handle_activated` or `handle_activation_failed`
    Activate(Activation),
    /// Replace these connections, make before break: a certificate on them ends soon or was revoked
    ReplaceConnections {
        /// As named in `handle_connection_opened`
        connections: Vec<u64>,
        /// No certificate on them ends later than this
        ends_before: SystemTime,
    },
    /// Close these connections: a certificate on them has ended and the grace with it
    CloseConnections {
        /// As named in `handle_connection_opened`
        connections: Vec<u64>,
    },
    /// Destroy a key that nothing needs any more
    DiscardKey {
        /// The key
        key: KeySlot,
        /// Its certificate, where it got one
        serial: Option<String>,
    },
}

/// What happened, for logs
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Event {
    /// The time of a renewal was chosen, from the authority's window or without one
    Scheduled {
        /// The certificate to renew
        serial: String,
        /// When
        at: SystemTime,
        /// Whether the authority suggested it
        suggested: bool,
        /// Whether the suggestion lay beyond the time of activation and was cut
        cut: bool,
    },
    /// A window of the authority was of no use
    WindowIgnored {
        /// The certificate it was for
        serial: String,
        /// Why
        reason: &'static str,
    },
    /// A request went out
    Requested {
        /// Which
        attempt: u64,
        /// To whom
        authority: String,
        /// [`RequestKind::label`]
        kind: &'static str,
    },
    /// A request failed
    Failed {
        /// Which
        attempt: u64,
        /// Whose
        authority: String,
        /// Why
        failure: Failure,
        /// The wait before the next
        retry_in: Duration,
    },
    /// An answer came for nothing that is waited for
    LateAnswer {
        /// The attempt, where it was named
        attempt: Option<u64>,
    },
    /// Another authority is asked from now on
    AuthoritySwitched {
        /// The one that failed or asked for patience
        from: String,
        /// The next
        to: String,
    },
    /// A successor is here
    Acquired {
        /// Its serial number
        serial: String,
        /// Its end
        not_after: SystemTime,
    },
    /// A certificate was issued that cannot be used
    CertificateRefused {
        /// Its serial number
        serial: String,
        /// Why
        refusal: CertificateRefusal,
    },
    /// A certificate took over
    Activated {
        /// Its serial number
        serial: String,
        /// Why
        reason: ActivationReason,
        /// How much later than planned
        late_by: Duration,
    },
    /// The driver could not swap; the certificate is given up and the one before stays
    ActivationFailed {
        /// Its serial number
        serial: String,
        /// What the driver said
        reason: String,
    },
    /// The certificate in force has ended without a successor: an alarm
    Expired {
        /// Its serial number
        serial: String,
    },
    /// A certificate of this node was revoked
    Revoked {
        /// Its serial number
        serial: String,
    },
    /// A certificate and its key are gone
    Retired {
        /// Its serial number
        serial: String,
    },
    /// The wall clock was set forward, or the host was suspended
    ClockForward {
        /// How far
        by: Duration,
    },
    /// The wall clock was set back
    ClockBackward {
        /// How far
        by: Duration,
    },
    /// The authority's clock shows another time
    ClockSkewed {
        /// How far they are apart
        by: Duration,
        /// Whether this host's clock is ahead
        ahead: bool,
    },
    /// Connections are to be replaced
    ConnectionsReplaced {
        /// How many
        count: usize,
    },
    /// Connections outlive a certificate on them: an alarm
    ConnectionsPastEnd {
        /// How many
        count: usize,
    },
    /// Connections are to be closed
    ConnectionsClosed {
        /// How many
        count: usize,
    },
}

impl Event {
    /// Every label, for counters that start at zero
    pub const LABELS: [&'static str; 19] = [
        "scheduled",
        "window_ignored",
        "requested",
        "failed",
        "late_answer",
        "authority_switched",
        "acquired",
        "certificate_refused",
        "activated",
        "activation_failed",
        "expired",
        "revoked",
        "retired",
        "clock_forward",
        "clock_backward",
        "clock_skewed",
        "connections_replaced",
        "connections_past_end",
        "connections_closed",
    ];

    /// The label used in logs, metrics and JSON
    pub const fn label(&self) -> &'static str {
        Self::LABELS[self.index()]
    }

    /// Position in [`Self::LABELS`]
    pub const fn index(&self) -> usize {
        match self {
            Self::Scheduled { .. } => 0,
            Self::WindowIgnored { .. } => 1,
            Self::Requested { .. } => 2,
            Self::Failed { .. } => 3,
            Self::LateAnswer { .. } => 4,
            Self::AuthoritySwitched { .. } => 5,
            Self::Acquired { .. } => 6,
            Self::CertificateRefused { .. } => 7,
            Self::Activated { .. } => 8,
            Self::ActivationFailed { .. } => 9,
            Self::Expired { .. } => 10,
            Self::Revoked { .. } => 11,
            Self::Retired { .. } => 12,
            Self::ClockForward { .. } => 13,
            Self::ClockBackward { .. } => 14,
            Self::ClockSkewed { .. } => 15,
            Self::ConnectionsReplaced { .. } => 16,
            Self::ConnectionsPastEnd { .. } => 17,
            Self::ConnectionsClosed { .. } => 18,
        }
    }

    /// How much the counter behind the label grows
    pub const fn weight(&self) -> u64 {
        match self {
            Self::ConnectionsReplaced { count }
            | Self::ConnectionsPastEnd { count }
            | Self::ConnectionsClosed { count } => *count as u64,
            _ => 1,
        }
    }
}
