//! Why an operation, a block or a snapshot is not taken. A refused operation is its requester's fault; a block that
//! holds one is the fault of who proposed it, so every reason here follows from the block and the state alone.

use crate::operation::change::ValidatorKey;
use crate::proof::ProofRefusal;
use crate::wire::WireError;

use super::parameters::ParametersError;

/// Why an operation is refused
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// The four proofs, or the ticket that stands for them
    #[error(transparent)]
    Proof(#[from] ProofRefusal),
    /// The octets are no operation
    #[error("the octets are no operation: {0}")]
    Encoding(WireError),
    /// Nobody can sign with it
    #[error("the key is no Ed25519 key")]
    BadKey,
    /// The operation is for another network
    #[error("the operation is for another network; check which genesis the requester has")]
    OtherNetwork,
    /// It was made for blocks below
    #[error("the operation could enter blocks up to {not_after_height}; make it anew")]
    Expired {
        /// What the requester set
        not_after_height: u64,
    },
    /// It could come for too long
    #[error("not_after_height lies more than {} blocks ahead; set it lower", super::KEPT_HEIGHTS)]
    LivesTooLong,
    /// The full proof is for a policy that does not suffice
    #[error("the proof is for policy {offered}, and policy {required} is required")]
    OtherPolicy {
        /// Of the proof
        offered: u32,
        /// Of the rules
        required: u32,
    },
    /// A ticket does not do for this
    #[error("a ticket does not do for `{what}`; make a full proof")]
    NeedsFullProof {
        /// What is asked
        what: &'static str,
    },
    /// The requester acts as a validator and is none
    #[error("the requester is no validator of this epoch")]
    NotValidator,
    /// Only a validator's own signature does for this
    #[error("`{what}` is for validators, under their own signature")]
    NeedsValidator {
        /// What is asked
        what: &'static str,
    },
    /// A validator's signature does not do for this
    #[error("a validator's signature does not do for `{what}`; make a full proof")]
    NotForValidators {
        /// What is asked
        what: &'static str,
    },
    /// The signature is not the requester's over this operation
    #[error("the signature is not the requester's over this operation")]
    BadSignature,
    /// A table is full
    #[error("there is no room for more {what}: {limit} is the limit")]
    Full {
        /// Of what
        what: &'static str,
        /// How many
        limit: usize,
    },
    /// One part of a batch is refused, so all are
    #[error("part {part} of the batch: {reason}")]
    Part {
        /// Which, counted from 0
        part: usize,
        /// Why
        reason: Box<Refusal>,
    },

    /// A batch within a batch
    #[error("a batch holds no batch")]
    NestedBatch,
    /// The policy has no tickets
    #[error("policy {policy} has no tickets; make a full proof for each operation")]
    NoTickets {
        /// Its number
        policy: u32,
    },
    /// Two tickets for one proof
    #[error("one proof buys one ticket")]
    TicketTwice,

    /// There is nothing of it
    #[error("an asset has a capacity of at least 1")]
    NoCapacity,
    /// The owner has one of this name and kind
    #[error("the owner has registered an asset of this kind and name")]
    AlreadyRegistered,
    /// There is no such asset
    #[error("there is no such asset")]
    NoSuchAsset,
    /// The asset was retired
    #[error("the asset was retired")]
    AssetRetired,
    /// The asset is someone else's
    #[error("the asset belongs to another requester")]
    NotOwner,
    /// Only its owner allocates of it
    #[error("the asset is not shared: its owner alone allocates")]
    NotShared,
    /// Somebody the network does not know
    #[error("the other requester is not known here; it needs stake first")]
    NoSuchRequester,
    /// Nothing was asked for
    #[error("an allocation is of at least 1")]
    NoQuantity,
    /// More than there is
    #[error("{asked} are asked for and {available} are available")]
    NotAvailable {
        /// How much is asked for
        asked: u64,
        /// How much there is
        available: u64,
    },
    /// There is no such allocation
    #[error("there is no such allocation")]
    NoSuchAllocation,
    /// The allocation is someone else's
    #[error("the allocation is held by another requester")]
    NotHolder,
    /// The allocation is in another state
    #[error("the allocation is {state}")]
    AllocationState {
        /// Which
        state: &'static str,
    },
    /// Nothing is to be restored
    #[error("nothing of the asset has failed")]
    NothingFailed,
    /// Something is still allocated
    #[error("{allocated} of the asset are still allocated; have them released first")]
    StillAllocated {
        /// How much
        allocated: u64,
    },
    /// It is the requester's already
    #[error("the asset is given to the one who has it")]
    TransferToOwner,
    /// The asset has a certificate
    #[error(
        "the asset has a certificate; another can be asked for from {renewal_ms} on, or end it"
    )]
    CertificateActive {
        /// In milliseconds since 1970
        renewal_ms: u64,
    },
    /// The asset has none
    #[error("the asset has no certificate")]
    NoCertificate,

    /// Less than nothing would be left
    #[error("the requester has {stake} at stake")]
    StakeTooSmall {
        /// How much
        stake: u64,
    },
    /// A stake would be below the least
    #[error("a stake is 0 or at least {min}")]
    StakeBelowLeast {
        /// The least
        min: u64,
    },
    /// The stake is given to the one who has it
    #[error("the stake is given to the one who has it")]
    StakeToSelf,
    /// All stake is given in one go only up to 2^64
    #[error("the stake does not fit 64 bits")]
    StakeOverflow,

    /// Such a validator is there already
    #[error("a validator of this name or key is there already")]
    ValidatorKnown,
    /// There is no such validator
    #[error("no validator of this epoch has key {key}")]
    NoSuchValidator {
        /// The key
        key: ValidatorKey,
    },
    /// It has voted
    #[error("the validator has voted for this change")]
    AlreadyVoted,
    /// It has put too much to the vote
    #[error(
        "a validator puts at most {} changes to the vote in one epoch",
        super::BALLOTS_PER_VALIDATOR_LIMIT
    )]
    TooManyBallots,
    /// The policy stands under another number
    #[error("the policy says that it is number {stated}")]
    PolicyNumber {
        /// What it says
        stated: u32,
    },
    /// The policy cannot be in force
    #[error(transparent)]
    BadPolicy(crate::proof::PolicyError),
    /// The rules cannot be in force
    #[error(transparent)]
    BadParameters(ParametersError),

    /// The evidence shows nothing
    #[error("the evidence does not hold: {reason}")]
    BadEvidence {
        /// The judge's words
        reason: String,
    },
    /// The evidence is against nobody here
    #[error("the evidence is against {key}, who was no validator in that epoch")]
    EvidenceAgainstNobody {
        /// The key
        key: ValidatorKey,
    },
    /// It is known
    #[error("this offence is on record")]
    EvidenceKnown,
    /// Enough is known
    #[error("enough evidence against this validator is on record")]
    EvidenceEnough,
    /// Nobody here can tell
    #[error("this registry judges no evidence; give it a judge before it takes blocks")]
    NoJudge,
}

impl Refusal {
    /// In counters, receipts of refusal and `--json`
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Proof(refusal) => refusal.label(),
            Self::Encoding(_) => "E_ENCODING",
            Self::BadKey => "E_KEY",
            Self::OtherNetwork => "E_NETWORK",
            Self::Expired { .. } => "E_EXPIRED",
            Self::LivesTooLong => "E_LIFETIME",
            Self::OtherPolicy { .. } => "E_POLICY",
            Self::NeedsFullProof { .. } => "E_NEEDS_FULL_PROOF",
            Self::NotValidator => "E_NOT_VALIDATOR",
            Self::NeedsValidator { .. } => "E_NEEDS_VALIDATOR",
            Self::NotForValidators { .. } => "E_NOT_FOR_VALIDATORS",
            Self::BadSignature => "E_SIGNATURE",
            Self::Full { .. } => "E_FULL",
            Self::Part { reason, .. } => reason.label(),
            Self::NestedBatch => "E_BATCH_NESTED",
            Self::NoTickets { .. } => "E_TICKET_NONE",
            Self::TicketTwice => "E_TICKET_TWICE",
            Self::NoCapacity => "E_ASSET_CAPACITY",
            Self::AlreadyRegistered => "E_ASSET_REGISTERED",
            Self::NoSuchAsset => "E_ASSET_UNKNOWN",
            Self::AssetRetired => "E_ASSET_RETIRED",
            Self::NotOwner => "E_ASSET_OWNER",
            Self::NotShared => "E_ASSET_SHARING",
            Self::NoSuchRequester => "E_REQUESTER_UNKNOWN",
            Self::NoQuantity => "E_ALLOCATION_QUANTITY",
            Self::NotAvailable { .. } => "E_ALLOCATION_TOTAL",
            Self::NoSuchAllocation => "E_ALLOCATION_UNKNOWN",
            Self::NotHolder => "E_ALLOCATION_HOLDER",
            Self::AllocationState { .. } => "E_ALLOCATION_STATE",
            Self::NothingFailed => "E_ASSET_NOT_FAILED",
            Self::StillAllocated { .. } => "E_ASSET_ALLOCATED",
            Self::TransferToOwner => "E_TRANSFER_SELF",
            Self::CertificateActive { .. } => "E_CERTIFICATE_ACTIVE",
            Self::NoCertificate => "E_CERTIFICATE_NONE",
            Self::StakeTooSmall { .. } => "E_STAKE_AMOUNT",
            Self::StakeBelowLeast { .. } => "E_STAKE_LEAST",
            Self::StakeToSelf => "E_STAKE_SELF",
            Self::StakeOverflow => "E_STAKE_OVERFLOW",
            Self::ValidatorKnown => "E_VALIDATOR_KNOWN",
            Self::NoSuchValidator { .. } => "E_VALIDATOR_UNKNOWN",
            Self::AlreadyVoted => "E_VOTE_TWICE",
            Self::TooManyBallots => "E_VOTE_BALLOTS",
            Self::PolicyNumber { .. } | Self::BadPolicy(_) => "E_VOTE_POLICY",
            Self::BadParameters(_) => "E_VOTE_PARAMETERS",
            Self::BadEvidence { .. } => "E_EVIDENCE",
            Self::EvidenceAgainstNobody { .. } => "E_EVIDENCE_NOBODY",
            Self::EvidenceKnown => "E_EVIDENCE_KNOWN",
            Self::EvidenceEnough => "E_EVIDENCE_ENOUGH",
            Self::NoJudge => "E_EVIDENCE_JUDGE",
        }
    }
}

/// Why a block is invalid, for everyone and for good
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidBlock {
    /// Not the next one
    #[error("the block's height is {found}, and {expected} is next")]
    Height {
        /// Of the block
        found: u64,
        /// Of the next one
        expected: u64,
    },
    /// On top of another block
    #[error("the block's parent is another block than the last one here")]
    Parent,
    /// Of another epoch
    #[error("the block's epoch is {found}, and {expected} it is")]
    Epoch {
        /// Of the block
        found: u64,
        /// Of the state
        expected: u64,
    },
    /// Not later than the one before
    #[error("the block's time is {found} ms, not above {last} ms, its parent's")]
    Time {
        /// Of the block
        found: u64,
        /// Of its parent
        last: u64,
    },
    /// More than a block holds
    #[error("the block has more {what} than {limit}, its limit")]
    TooLarge {
        /// Of what
        what: &'static str,
        /// How many
        limit: usize,
    },
    /// An operation does not parse
    #[error("operation {index}: {reason}")]
    Encoding {
        /// Which, counted from 0
        index: usize,
        /// Why
        reason: WireError,
    },
    /// An operation is refused
    #[error("operation {index}: {reason}")]
    Operation {
        /// Which, counted from 0
        index: usize,
        /// Why
        reason: Refusal,
    },
}

/// Why a snapshot is not taken
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SnapshotError {
    /// It does not parse
    #[error("the snapshot is damaged ({0}); fetch it again or replay the blocks")]
    Damaged(#[from] WireError),
    /// It is longer than any
    #[error("the snapshot has more than {limit} octets")]
    TooLong {
        /// How many it may have
        limit: usize,
    },
    /// It is of another state than the one that was agreed on
    #[error("the snapshot is not of the state that was agreed on; fetch it from another validator")]
    OtherRoot,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_refused_for_what_its_part_is() {
        let part = Refusal::Part { part: 3, reason: Box::new(Refusal::NotOwner) };
        assert_eq!(part.label(), "E_ASSET_OWNER");
        assert_eq!(part.to_string(), "part 3 of the batch: the asset belongs to another requester");
        let proof = Refusal::from(ProofRefusal::SpaceMissing);
        assert_eq!(proof.label(), ProofRefusal::SpaceMissing.label());
    }
}
