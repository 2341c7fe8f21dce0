//! Every reason for which the data plane drops a datagram, refuses a peer, closes a connection or ends a
//! flow. Each reason has one stable label, used in logs, counters and JSON alike.

use std::fmt;

macro_rules! labelled {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $code:literal, $label:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        #[repr(u64)]
        pub enum $name { $($(#[$vdoc])* $variant = $code,)* }

        impl $name {
            /// Every reason, in the order of [`Self::index`]
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];

            /// The label used in logs, metrics and JSON
            pub const fn label(self) -> &'static str {
                match self { $($name::$variant => $label,)* }
            }

            /// The number that stands for the reason on the wire
            pub const fn code(self) -> u64 {
                self as u64
            }

            /// The reason behind a wire number
            pub fn from_code(code: u64) -> Option<Self> {
                match code { $($code => Some($name::$variant),)* _ => None }
            }

            /// The position in [`Self::ALL`]
            pub fn index(self) -> usize {
                Self::ALL.iter().position(|reason| *reason == self).unwrap_or(0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.label())
            }
        }
    };
}

labelled! {
    /// Why a received datagram went no further
    DropReason {
        /// The datagram does not parse as QUIC
        Malformed = 0, "malformed";
        /// An Initial shorter than 1,200 octets (RFC 9000 section 14.1)
        ShortInitial = 1, "short_initial";
        /// A short-header packet for a connection this host does not know
        UnknownConnection = 2, "unknown_connection";
        /// The address-validation token is forged, stale or for another address
        BadToken = 3, "bad_token";
        /// The limit of half-open connections is reached, in total
        HalfOpenTotal = 4, "half_open_total";
        /// The limit of half-open connections of one /64 prefix is reached
        HalfOpenPrefix = 5, "half_open_prefix";
        /// The limit of connections is reached
        ConnectionLimit = 6, "connection_limit";
        /// Nobody listens: the endpoint has no identity yet or drains
        NotAccepting = 7, "not_accepting";
        /// quiche refused the datagram (decryption, protocol violation)
        Refused = 8, "refused";
        /// The queue to the worker that owns the connection is full
        HandOverFull = 9, "hand_over_full";
        /// The kernel truncated the datagram
        Truncated = 10, "truncated";
        /// A version this host does not speak, in a datagram too short to answer
        Version = 11, "version";
    }
}

labelled! {
    /// Why a peer's certificate was refused in the handshake
    PeerRefusal {
        /// The peer sent no certificate
        NoCertificate = 0, "no_certificate";
        /// The certificate is not valid DER or X.509
        Malformed = 1, "malformed";
        /// `notAfter` has passed
        Expired = 2, "expired";
        /// `notBefore` lies ahead
        NotYetValid = 3, "not_yet_valid";
        /// No anchor of this host's trust bundle issued it
        UnknownIssuer = 4, "unknown_issuer";
        /// The signature does not verify
        BadSignature = 5, "bad_signature";
        /// A name lies outside the issuer's name constraints
        NameConstraint = 6, "name_constraint";
        /// The extended key usage for this role is missing
        KeyUsage = 7, "key_usage";
        /// A certificate authority's certificate used as a leaf
        AuthorityAsLeaf = 8, "authority_as_leaf";
        /// No SPIFFE node URI, more than one, or one that names no valid node
        NoNodeIdentity = 9, "no_node_identity";
        /// The certificate names another node than the one that was dialled
        WrongNode = 10, "wrong_node";
        /// The serial number is on the deny-list
        Revoked = 11, "revoked";
        /// The issuing authority's own validity has ended
        AnchorExpired = 12, "anchor_expired";
        /// An unknown critical extension, a wildcard name or another constraint of the profile
        Profile = 13, "profile";
        /// The issuing authority has no name constraints: its leaves could name anybody
        Unconstrained = 14, "unconstrained";
        /// The certificate carries no SCT: it was never logged
        Unlogged = 15, "unlogged";
        /// Every SCT is of a log that is not trusted here
        UnknownLog = 16, "unknown_log";
        /// An SCT that does not parse, does not verify for this certificate or is from the future
        BadTimestamp = 17, "bad_timestamp";
        /// The leaf's key is on the deny-list
        KeyRevoked = 18, "key_revoked";
        /// The issuing authority's key is on the deny-list
        IssuerRevoked = 19, "issuer_revoked";
        /// The chain leads to a root whose key is not pinned
        RootNotPinned = 20, "root_not_pinned";
        /// The issuing authority's key is not pinned
        IssuingNotPinned = 21, "issuing_not_pinned";
        /// The node has pins of its own and none is of this chain
        PeerNotPinned = 22, "peer_not_pinned";
        /// This host's deny-list is too old, and it was told to refuse rather than to guess
        DenyListTooOld = 23, "deny_list_too_old";
    }
}

labelled! {
    /// Why a connection ended; the code is the application error of CONNECTION_CLOSE
    CloseReason {
        /// Normal end
        Done = 0x00, "done";
        /// A frame, record or header that does not parse or breaks a rule of PROTOCOL.md
        Protocol = 0x01, "protocol";
        /// A named limit of the receiver was exceeded
        Limit = 0x02, "limit";
        /// The session id is unknown, expired or belongs to another peer
        SessionUnknown = 0x03, "session_unknown";
        /// No common protocol version
        Version = 0x04, "version";
        /// The node drains: reconnect elsewhere or later
        Draining = 0x05, "draining";
        /// The connection was replaced by a younger one of the same session
        Replaced = 0x06, "replaced";
        /// Closed on an operator's demand
        Operator = 0x07, "operator";
        /// The handshake did not finish in time
        HandshakeTimeout = 0x08, "handshake_timeout";
        /// Nothing was heard for the idle timeout
        IdleTimeout = 0x09, "idle_timeout";
        /// TLS failed; the peer's certificate or the parameters were refused
        Tls = 0x0a, "tls";
        /// The peer closed with a code this host does not know
        Peer = 0x0b, "peer";
        /// The peer was reset by a stateless reset or the transport failed
        Transport = 0x0c, "transport";
        /// The peer's certificate ended or was revoked while connected
        Revoked = 0x0d, "revoked";
    }
}

labelled! {
    /// Why a flow ended early; the code travels in FLOW_RESET
    FlowError {
        /// The local program gave up
        Cancelled = 0x00, "cancelled";
        /// The service is not published on that node
        NoSuchService = 0x01, "no_such_service";
        /// The peer's node may not attach to the service
        NotAuthorized = 0x02, "not_authorized";
        /// The service's own socket refused
        TargetRefused = 0x03, "target_refused";
        /// The limit of flows is reached
        TooManyFlows = 0x04, "too_many_flows";
        /// A chunk lies beyond the advertised window
        WindowExceeded = 0x05, "window_exceeded";
        /// A chunk overlaps earlier bytes with different content
        DataConflict = 0x06, "data_conflict";
        /// The final size changed, or data lies beyond it
        FinalSize = 0x07, "final_size";
        /// The session was lost for longer than it may linger
        SessionLost = 0x08, "session_lost";
        /// The local socket failed
        TargetFailed = 0x09, "target_failed";
        /// The accepting program is not keeping up with new flows
        Busy = 0x0a, "busy";
        /// Too many separate pieces out of order
        Fragmented = 0x0b, "fragmented";
    }
}

impl std::error::Error for FlowError {}
impl std::error::Error for PeerRefusal {}
impl std::error::Error for CloseReason {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_round_trip_and_labels_are_unique() {
        for reason in FlowError::ALL {
            assert_eq!(FlowError::from_code(reason.code()), Some(*reason));
        }
        let mut labels: Vec<_> = DropReason::ALL.iter().map(|r| r.label()).collect();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), DropReason::ALL.len());
        assert_eq!(FlowError::from_code(u64::MAX), None);
    }
}
