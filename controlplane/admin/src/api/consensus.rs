//! The validators' agreement: how it stands, who takes part, what became final, and evidence. Digests and octets are
//! hexadecimal.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::text::timestamp;

/// Blocks of one answer where nothing else is said
pub const BLOCKS_LIMIT_DEFAULT: u64 = 20;
/// Blocks of one answer at most
pub const BLOCKS_LIMIT_MAX: u64 = 1_000;

/// Asks for [`ConsensusStatusShown`]
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ConsensusStatus {}

/// How agreement stands
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ConsensusStatusShown {
    /// The network's name
    pub name: String,
    /// The digest of its genesis
    pub network: String,
    /// This node's key
    pub key: String,
    /// The requester it is
    pub requester: String,
    /// What it has at stake in this epoch
    pub stake: u64,
    /// Whether it votes in this epoch
    pub votes: bool,
    /// Of the next block
    pub epoch: u64,
    /// The last block of the epoch
    pub epoch_ends_at_height: u64,
    /// Reached in the epoch
    pub view: u64,
    /// The last final block
    pub height: u64,
    /// When it was proposed
    #[serde(with = "timestamp")]
    pub block_time: SystemTime,
    /// The lowest final block that is kept here
    pub lowest_height: u64,
    /// The state after the last final block
    pub state_root: String,
    /// Validators of the epoch
    pub validators: usize,
    /// How many must agree
    pub quorum: usize,
    /// How many may be faulty
    pub faults: usize,
    /// Operations that wait for a block
    pub backlog: usize,
    /// Registered assets
    pub assets: usize,
    /// Whether certificates need the agreement: `off`, `wait` or `refuse`
    pub issuance: String,
    /// Why nothing is agreed on at the moment
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub problem: Option<String>,
    /// Why nothing is agreed on for good
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub halted: Option<String>,
    /// Frames between validators
    pub frames: Carried,
}

/// Frames between validators since the start
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Carried {
    /// Put into a queue
    pub queued: u64,
    /// Dropped because the queue was full
    pub full: u64,
    /// Dropped because the validator is not reached
    pub unreachable: u64,
    /// Received
    pub received: u64,
    /// Flows that were refused
    pub refused_flows: u64,
}

/// Asks for [`ConsensusValidatorsListed`]
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ConsensusValidators {}

/// The validators of the epoch
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ConsensusValidatorsListed {
    /// In the order of their keys
    pub validators: Vec<AgreementValidator>,
}

/// A validator, as this node sees it
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct AgreementValidator {
    /// The node it runs at
    pub node: String,
    /// Its key
    pub key: String,
    /// Whether it is this one
    pub own: bool,
    /// How long nothing came from it
    pub silent_ms: u64,
    /// Of its last turns, how many passed without a block
    pub missed_turns: usize,
    /// How many turns there were
    pub turns: usize,
    /// Why it is suspected; that proves nothing
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub suspicion: Option<String>,
    /// Why nothing is taken from it here
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub blocked: Option<String>,
    /// Whether there is evidence against it
    pub convicted: bool,
}

/// Listens to a validator again
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ConsensusUnblock {
    /// Its key
    pub key: String,
}

/// Whether it was not listened to
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ConsensusUnblocked {
    /// It was not, and is now
    pub was_blocked: bool,
}

/// Asks for [`ConsensusEvidenceListed`]
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ConsensusEvidence {}

/// All evidence, in the order in which it was found
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ConsensusEvidenceListed {
    /// One for each piece
    pub cases: Vec<EvidenceCase>,
}

/// A piece of evidence
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct EvidenceCase {
    /// Its name
    pub id: String,
    /// The key of the validator it is against
    pub validator: String,
    /// What it did
    pub offence: String,
    /// When
    pub epoch: u64,
    /// In which view of the epoch
    pub view: u64,
    /// In words
    pub reason: String,
    /// When this node found it
    #[serde(with = "timestamp")]
    pub found_at: SystemTime,
}

/// Asks for one piece of evidence with all that is needed to judge it
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ConsensusEvidenceExport {
    /// Its name
    pub id: String,
}

/// A piece of evidence for anyone
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ConsensusEvidenceExported {
    /// Its name
    pub id: String,
    /// The file
    pub file: String,
}

/// Asks for final blocks
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ConsensusBlocks {
    /// The first; the last ones where it is not said
    #[serde(default)]
    pub from: Option<u64>,
    /// How many
    #[serde(default)]
    pub limit: Option<u64>,
    /// Without those that hold no operation
    #[serde(default)]
    pub skip_empty: bool,
}

/// Final blocks
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ConsensusBlocksListed {
    /// By height
    pub blocks: Vec<AgreementBlock>,
}

/// A final block
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct AgreementBlock {
    /// Its height
    pub height: u64,
    /// Its epoch
    pub epoch: u64,
    /// When it was proposed
    #[serde(with = "timestamp")]
    pub time: SystemTime,
    /// The digest of its header
    pub block: String,
    /// The digests of its operations
    pub operations: Vec<String>,
    /// The state after it
    pub state_root: String,
    /// How many validators signed that it is final
    pub signatures: usize,
}

/// Asks for what proofs are made from
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ConsensusGround {
    /// The requester; this node where it is not said
    #[serde(default)]
    pub requester: Option<String>,
}

/// What proofs are made from
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ConsensusGroundShown {
    /// The file that `stoqctl proof make --ground` reads
    pub ground: String,
}

/// Hands in an operation
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ConsensusSubmit {
    /// Its octets
    pub operation: String,
}

/// An operation that is final
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ConsensusSubmitted {
    /// Its digest
    pub operation: String,
    /// Of its block
    pub height: u64,
    /// In its block
    pub index: u32,
    /// Of its block
    #[serde(with = "timestamp")]
    pub time: SystemTime,
    /// What it did, one word for each part
    pub effects: Vec<String>,
    /// What shows it to anyone
    pub receipt: String,
}

/// Asks for the genesis
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ConsensusGenesis {}

/// What the network began with
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ConsensusGenesisShown {
    /// The digest
    pub network: String,
    /// The file
    pub genesis: String,
}

/// A change of the validators, on which validators vote
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "change", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ValidatorChange {
    /// A validator joins
    Admit {
        /// The node it runs at
        node: String,
        /// Its key
        key: String,
    },
    /// A validator leaves; for itself it needs nobody else's vote
    Remove {
        /// Its key
        key: String,
    },
    /// A validator goes on under another key; for itself it needs nobody else's vote
    Replace {
        /// The key it has
        key: String,
        /// The key it shall have
        new_key: String,
    },
    /// The rules of the registry or of a policy: listed, but not voted for by this interface
    Rules {
        /// What is changed
        what: String,
    },
}

/// Votes for a change as this node's validator
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ConsensusVote {
    /// Which
    pub vote: ValidatorChange,
}

/// A vote that is final
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ConsensusVoted {
    /// The digest of the vote
    pub operation: String,
    /// Of its block
    pub height: u64,
    /// How many have voted for the change
    pub votes: usize,
    /// How many it takes
    pub quorum: usize,
    /// Whether it is made when the epoch ends
    pub adopted: bool,
    /// The last block of the epoch
    pub epoch_ends_at_height: u64,
    /// What shows the vote to anyone
    pub receipt: String,
}

/// Asks for [`ConsensusChangesListed`]
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ConsensusChanges {}

/// Changes that wait for votes or for the end of the epoch
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ConsensusChangesListed {
    /// Those that are made when the epoch ends come first
    pub changes: Vec<WaitingChange>,
    /// Votes it takes
    pub quorum: usize,
    /// The last block of the epoch
    pub epoch_ends_at_height: u64,
}

/// A change that waits
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct WaitingChange {
    /// Which
    #[serde(flatten)]
    pub change: ValidatorChange,
    /// Whether it is made when the epoch ends
    pub adopted: bool,
    /// The keys of those who voted for it, where it waits for more
    pub voters: Vec<String>,
}

/// Gives of this node's stake to the holder of a key; it counts there from the next epoch on
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ConsensusGive {
    /// The key
    pub to_key: String,
    /// How much
    pub amount: u64,
}
