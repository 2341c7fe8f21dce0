//! Which keys a node accepts beyond what their signatures prove: pins of root and issuing keys with a
//! mandatory backup, pins of single peers, how they are rolled over, and the states an issuing key passes
//! through. Pure: chains of key hashes and times come in, verdicts go out.

mod authority_ring;
mod authority_state;
mod pin;
mod pin_set;
mod rollover;

#[cfg(test)]
mod tests;

pub use authority_ring::{AuthorityKey, AuthorityRing, CutOff, KEYS_PER_RING_LIMIT, StateError};
pub use authority_state::{AuthorityState, Purpose, Renewal, TaintReason};
pub use pin::{ChainKeys, Pin, PinParseError, Tier};
pub use pin_set::{
    PEERS_LIMIT, PINS_PER_PEER_LIMIT, PINS_PER_TIER_LIMIT, PinRefusal, PinSet, PinSetError,
    PinSetRecord, RecordError,
};
pub use rollover::{SETTLE_DEFAULT, StepError};
