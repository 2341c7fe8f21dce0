//! Why an operation's proofs are refused, one variant for each failure, each naming the proof it concerns. The labels
//! are a contract: metrics, evidence and `--json` carry them.

use super::replay::SequenceRefusal;

/// What failed
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum ProofName {
    /// The plot
    Space,
    /// The hashes
    Work,
    /// The beacon and the claimed time
    Time,
    /// The leaf and its signature
    Stake,
    /// The proofs are for something else
    Binding,
    /// The operation was here before
    Replay,
}

impl ProofName {
    /// In metrics and `--json`
    pub const fn label(self) -> &'static str {
        match self {
            Self::Space => "space",
            Self::Work => "work",
            Self::Time => "time",
            Self::Stake => "stake",
            Self::Binding => "binding",
            Self::Replay => "replay",
        }
    }
}

impl std::fmt::Display for ProofName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.label())
    }
}

/// Why proofs are refused
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ProofRefusal {
    /// There is no such policy
    #[error("policy {policy} is not in force; ask a node for those that are")]
    BindingPolicy {
        /// The one named
        policy: u32,
    },
    /// The statement is for another network
    #[error("the statement is for another network; check which genesis the requester has")]
    BindingNetwork,
    /// The statement is for another epoch
    #[error("the statement is for epoch {stated}, and this is {current}; make the proofs anew")]
    BindingEpoch {
        /// In the statement
        stated: u64,
        /// Of the block under judgement
        current: u64,
    },
    /// The proofs say that they were made for another statement
    #[error("the proofs were made for another policy, epoch or beacon than the statement names")]
    BindingStatement,
    /// There is no such ticket
    #[error("there is no such ticket; ask for one with a full proof")]
    BindingTicket,
    /// The ticket is someone else's
    #[error("the ticket belongs to another requester")]
    BindingTicketRequester,
    /// The key is not the one the requester is named after
    #[error("the key is not the requester's")]
    BindingRequester,
    /// The signature with a ticket is not the requester's over this use
    #[error("the signature is not the requester's over this use of the ticket")]
    BindingSignature,

    /// The requester used this sequence number before
    #[error("sequence number {sequence} was used before")]
    ReplaySequenceUsed {
        /// The number
        sequence: u64,
    },
    /// The sequence number is below all that are still told apart
    #[error("sequence number {sequence} is too far behind the requester's newest")]
    ReplaySequenceOld {
        /// The number
        sequence: u64,
    },
    /// The sequence number leaps further than anyone needs
    #[error("sequence number {sequence} is too far ahead of the requester's newest")]
    ReplaySequenceAhead {
        /// The number
        sequence: u64,
    },
    /// The same statement was accepted before
    #[error("this statement was accepted before")]
    ReplayStatement,
    /// The ticket has paid for all it pays for
    #[error("the ticket is used up; ask for another with a full proof")]
    ReplayTicketSpent,

    /// There is no time proof
    #[error("the time proof is missing")]
    TimeMissing,
    /// The operation is too late for itself
    #[error("the operation may not enter a block above height {not_after_height}")]
    TimeExpired {
        /// What the requester set
        not_after_height: u64,
    },
    /// The time proof is for another beacon than the statement
    #[error("the time proof names another beacon than the statement")]
    TimeBeaconOther,
    /// The beacon is not below the block
    #[error("the beacon's height {height} is still to come")]
    TimeBeaconAhead {
        /// Of the beacon
        height: u64,
    },
    /// The beacon is too low
    #[error("the beacon is {age} blocks old, and {limit} are allowed; make the proofs anew")]
    TimeBeaconStale {
        /// In blocks
        age: u64,
        /// By policy
        limit: u64,
    },
    /// The beacon is too old
    #[error("the beacon is {age_ms} ms old, and {limit_ms} are allowed; make the proofs anew")]
    TimeBeaconOld {
        /// In milliseconds
        age_ms: u64,
        /// By policy
        limit_ms: u64,
    },
    /// Nobody here knows a block at the beacon's height
    #[error("no block is known at the beacon's height {height}")]
    TimeBeaconUnknown {
        /// Of the beacon
        height: u64,
    },
    /// The time of the beacon's block is not known here, and the policy limits its age in time
    #[error("the time of the beacon's block at height {height} is not known")]
    TimeBeaconUndated {
        /// Of the beacon
        height: u64,
    },
    /// Another block was finalised at the beacon's height
    #[error("the beacon is not the block that was finalised at height {height}")]
    TimeBeaconForged {
        /// Of the beacon
        height: u64,
    },
    /// The claimed time is in the future
    #[error("the claimed time is {ahead_ms} ms ahead of the block; check the requester's clock")]
    TimeClaimAhead {
        /// In milliseconds
        ahead_ms: u64,
    },
    /// The claimed time is long past
    #[error("the claimed time is {age_ms} ms before the block, and {limit_ms} are allowed")]
    TimeClaimOld {
        /// In milliseconds
        age_ms: u64,
        /// By policy
        limit_ms: u64,
    },
    /// The time proof follows other work
    #[error("the time proof does not follow from this operation's work")]
    TimeLink,
    /// The ticket was good for another epoch
    #[error("the ticket was good for epoch {granted}, and this is {current}")]
    TimeTicketEpoch {
        /// When it was granted
        granted: u64,
        /// Of the block under judgement
        current: u64,
    },

    /// There is no work proof
    #[error("the work proof is missing")]
    WorkMissing,
    /// Too little work
    #[error("the work proof has {bits} bits, and {needed} are needed")]
    WorkBelowThreshold {
        /// As claimed
        bits: u8,
        /// By policy
        needed: u8,
    },
    /// The nonce does not do what the proof claims
    #[error("the work proof claims {bits} bits and its hash has {found}")]
    WorkForged {
        /// As claimed
        bits: u8,
        /// In truth
        found: u32,
    },

    /// There is no space proof
    #[error("the space proof is missing")]
    SpaceMissing,
    /// The plot is too small, or larger than any
    #[error("the plot's size is k {k}, and {min} to {max} are allowed")]
    SpaceSize {
        /// Of the plot
        k: u8,
        /// By policy
        min: u8,
        /// By policy
        max: u8,
    },
    /// The plot has another strength
    #[error("the plot's strength is {strength}, and {needed} is needed")]
    SpaceStrength {
        /// Of the plot
        strength: u8,
        /// By policy
        needed: u8,
    },
    /// There are not so many attempts
    #[error("the space proof was found at attempt {attempt}, and there are only {limit}")]
    SpaceAttempt {
        /// Which
        attempt: u8,
        /// How many there are
        limit: u8,
    },
    /// A proof of that size has another length
    #[error("the space proof has {octets} octets, and {needed} at this size")]
    SpaceLength {
        /// As sent
        octets: usize,
        /// At this size
        needed: usize,
    },
    /// The proof does not answer the challenge with a plot of this requester
    #[error("the space proof does not answer this operation's challenge with the requester's plot")]
    SpaceForged,

    /// There is no stake proof
    #[error("the stake proof is missing")]
    StakeMissing,
    /// The stake is too small
    #[error("the stake weighs {weight}, and {needed} are needed")]
    StakeBelowThreshold {
        /// As claimed
        weight: u64,
        /// By policy
        needed: u64,
    },
    /// No stake root is known for the epoch
    #[error("no stakes are known for epoch {epoch}")]
    StakeRoot {
        /// Of the statement
        epoch: u64,
    },
    /// The requester has no such stake in this epoch
    #[error("the requester has no such stake in this epoch")]
    StakeLeaf,
    /// The signature is not that of the stake's key over all proofs
    #[error("the signature is not that of the stake's key over these proofs")]
    StakeSignature,
}

impl ProofRefusal {
    /// Which of the proofs failed
    pub const fn proof(&self) -> ProofName {
        match self {
            Self::BindingPolicy { .. }
            | Self::BindingNetwork
            | Self::BindingEpoch { .. }
            | Self::BindingStatement
            | Self::BindingTicket
            | Self::BindingTicketRequester
            | Self::BindingRequester
            | Self::BindingSignature => ProofName::Binding,
            Self::ReplaySequenceUsed { .. }
            | Self::ReplaySequenceOld { .. }
            | Self::ReplaySequenceAhead { .. }
            | Self::ReplayStatement
            | Self::ReplayTicketSpent => ProofName::Replay,
            Self::TimeMissing
            | Self::TimeExpired { .. }
            | Self::TimeBeaconOther
            | Self::TimeBeaconAhead { .. }
            | Self::TimeBeaconStale { .. }
            | Self::TimeBeaconOld { .. }
            | Self::TimeBeaconUnknown { .. }
            | Self::TimeBeaconUndated { .. }
            | Self::TimeBeaconForged { .. }
            | Self::TimeClaimAhead { .. }
            | Self::TimeClaimOld { .. }
            | Self::TimeLink
            | Self::TimeTicketEpoch { .. } => ProofName::Time,
            Self::WorkMissing | Self::WorkBelowThreshold { .. } | Self::WorkForged { .. } => {
                ProofName::Work
            }
            Self::SpaceMissing
            | Self::SpaceSize { .. }
            | Self::SpaceStrength { .. }
            | Self::SpaceAttempt { .. }
            | Self::SpaceLength { .. }
            | Self::SpaceForged => ProofName::Space,
            Self::StakeMissing
            | Self::StakeBelowThreshold { .. }
            | Self::StakeRoot { .. }
            | Self::StakeLeaf
            | Self::StakeSignature => ProofName::Stake,
        }
    }

    /// In metrics, evidence and `--json`
    pub const fn label(&self) -> &'static str {
        match self {
            Self::BindingPolicy { .. } => "E_BINDING_POLICY",
            Self::BindingNetwork => "E_BINDING_NETWORK",
            Self::BindingEpoch { .. } => "E_BINDING_EPOCH",
            Self::BindingStatement => "E_BINDING_STATEMENT",
            Self::BindingTicket => "E_BINDING_TICKET",
            Self::BindingTicketRequester => "E_BINDING_TICKET_REQUESTER",
            Self::BindingRequester => "E_BINDING_REQUESTER",
            Self::BindingSignature => "E_BINDING_SIGNATURE",
            Self::ReplaySequenceUsed { .. } => "E_REPLAY_SEQUENCE_USED",
            Self::ReplaySequenceOld { .. } => "E_REPLAY_SEQUENCE_OLD",
            Self::ReplaySequenceAhead { .. } => "E_REPLAY_SEQUENCE_AHEAD",
            Self::ReplayStatement => "E_REPLAY_STATEMENT",
            Self::ReplayTicketSpent => "E_REPLAY_TICKET_SPENT",
            Self::TimeMissing => "E_TIME_MISSING",
            Self::TimeExpired { .. } => "E_TIME_EXPIRED",
            Self::TimeBeaconOther => "E_TIME_BEACON_OTHER",
            Self::TimeBeaconAhead { .. } => "E_TIME_BEACON_AHEAD",
            Self::TimeBeaconStale { .. } => "E_TIME_BEACON_STALE",
            Self::TimeBeaconOld { .. } => "E_TIME_BEACON_OLD",
            Self::TimeBeaconUnknown { .. } => "E_TIME_BEACON_UNKNOWN",
            Self::TimeBeaconUndated { .. } => "E_TIME_BEACON_UNDATED",
            Self::TimeBeaconForged { .. } => "E_TIME_BEACON_FORGED",
            Self::TimeClaimAhead { .. } => "E_TIME_CLAIM_AHEAD",
            Self::TimeClaimOld { .. } => "E_TIME_CLAIM_OLD",
            Self::TimeLink => "E_TIME_LINK",
            Self::TimeTicketEpoch { .. } => "E_TIME_TICKET_EPOCH",
            Self::WorkMissing => "E_WORK_MISSING",
            Self::WorkBelowThreshold { .. } => "E_WORK_BELOW_THRESHOLD",
            Self::WorkForged { .. } => "E_WORK_FORGED",
            Self::SpaceMissing => "E_SPACE_MISSING",
            Self::SpaceSize { .. } => "E_SPACE_SIZE",
            Self::SpaceStrength { .. } => "E_SPACE_STRENGTH",
            Self::SpaceAttempt { .. } => "E_SPACE_ATTEMPT",
            Self::SpaceLength { .. } => "E_SPACE_LENGTH",
            Self::SpaceForged => "E_SPACE_FORGED",
            Self::StakeMissing => "E_STAKE_MISSING",
            Self::StakeBelowThreshold { .. } => "E_STAKE_BELOW_THRESHOLD",
            Self::StakeRoot { .. } => "E_STAKE_ROOT",
            Self::StakeLeaf => "E_STAKE_LEAF",
            Self::StakeSignature => "E_STAKE_SIGNATURE",
        }
    }
}

impl From<SequenceRefusal> for ProofRefusal {
    fn from(refusal: SequenceRefusal) -> Self {
        match refusal {
            SequenceRefusal::Used { sequence } => Self::ReplaySequenceUsed { sequence },
            SequenceRefusal::Old { sequence } => Self::ReplaySequenceOld { sequence },
            SequenceRefusal::Ahead { sequence } => Self::ReplaySequenceAhead { sequence },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_begins_with_the_proof_it_names() {
        let samples = [
            ProofRefusal::BindingNetwork,
            ProofRefusal::BindingRequester,
            ProofRefusal::ReplayStatement,
            ProofRefusal::from(SequenceRefusal::Old { sequence: 1 }),
            ProofRefusal::TimeLink,
            ProofRefusal::TimeTicketEpoch { granted: 1, current: 2 },
            ProofRefusal::WorkMissing,
            ProofRefusal::SpaceForged,
            ProofRefusal::StakeRoot { epoch: 1 },
        ];
        for refusal in samples {
            let prefix = format!("E_{}_", refusal.proof().label().to_ascii_uppercase());
            assert!(refusal.label().starts_with(&prefix), "{}", refusal.label());
        }
    }
}
