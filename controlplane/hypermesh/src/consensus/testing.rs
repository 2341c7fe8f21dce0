//! Validators, blocks and votes for unit tests. Keys follow from a number, so every test sees the same.

use bytes::Bytes;
use ed25519_consensus::SigningKey;
use stoq_interface::NodeId;

use super::certificate::Certificate;
use super::genesis::Genesis;
use super::header::{Block, Header, VERSION, operation_leaf};
use super::quorum::Quorum;
use super::validators::ValidatorSet;
use super::vote::{Proposal, SignedVote, Statement};
use crate::digest::Domain;
use crate::merkle;
use crate::operation::{Validator, ValidatorKey};

static SECRET: Domain = Domain::new("hypermesh v1 test secret");

/// The secret key of a validator
pub(crate) fn secret(number: u64) -> SigningKey {
    SigningKey::from(SECRET.hash(&number.to_be_bytes()))
}

/// The secret key behind a public one
pub(crate) fn secret_of(key: &ValidatorKey) -> SigningKey {
    (0..1_000)
        .map(secret)
        .find(|secret| secret.verification_key().to_bytes() == key.0)
        .expect("a key of these tests")
}

/// A validator
pub(crate) fn validator(number: u64) -> Validator {
    Validator {
        name: NodeId::new(&format!("validator-{number}")).expect("a label"),
        key: ValidatorKey(secret(number).verification_key().to_bytes()),
    }
}

/// A network of `count` validators with epochs of `epoch_blocks`
pub(crate) fn genesis(count: u64, epoch_blocks: u64) -> Genesis {
    let name = NodeId::new("test").expect("a label");
    let validators = (0..count).map(validator).collect();
    Genesis::new(name, 1_000, epoch_blocks, validators).expect("a genesis")
}

/// The block after `parent`, a millisecond later
pub(crate) fn block_after(genesis: &Genesis, parent: &Header, operations: Vec<Bytes>) -> Block {
    let leaves: Vec<_> = operations.iter().map(|operation| operation_leaf(operation)).collect();
    let header = Header {
        version: VERSION,
        network: genesis.network(),
        epoch: genesis.epoch(parent.height + 1),
        height: parent.height + 1,
        parent: parent.digest(),
        time_ms: parent.time_ms + 1,
        operations_root: merkle::root(&leaves),
        operations_count: operations.len() as u32,
        state_root: [2; 32],
        evidence_root: merkle::root(&[]),
        validators_root: parent.validators_root,
    };
    Block { header, operations }
}

/// What is voted for where no view is lost
pub(crate) fn proposal_of(header: &Header) -> Proposal {
    let view = header.height;
    Proposal { epoch: header.epoch, view, parent_view: view - 1, block: header.digest() }
}

fn sign(genesis: &Genesis, set: &ValidatorSet, signer: u32, statement: &Statement) -> [u8; 64] {
    let key = secret_of(&set.get(signer).expect("a place of the set").key);
    key.sign(&statement.message(&genesis.network())).to_bytes()
}

/// A vote of who stands at a place of the first validators
pub(crate) fn vote(genesis: &Genesis, signer: u32, statement: Statement) -> SignedVote {
    let signature = sign(genesis, genesis.validators(), signer, &statement);
    SignedVote { statement, signer, signature }
}

/// The same vote of several of the first validators
pub(crate) fn quorum_of(
    genesis: &Genesis,
    statement: Statement,
    signers: impl IntoIterator<Item = u32>,
) -> Quorum {
    let signatures = signers
        .into_iter()
        .map(|signer| (signer, sign(genesis, genesis.validators(), signer, &statement)))
        .collect();
    Quorum { statement, signatures }
}

/// The same vote of just as many of `set` as are needed
pub(crate) fn quorum_in(genesis: &Genesis, set: &ValidatorSet, statement: Statement) -> Quorum {
    let signatures = (0..set.quorum() as u32)
        .map(|signer| (signer, sign(genesis, set, signer, &statement)))
        .collect();
    Quorum { statement, signatures }
}

/// A certificate for `header` through votes for the last of its descendants
pub(crate) fn certify(
    genesis: &Genesis,
    set: &ValidatorSet,
    header: &Header,
    descendants: &[Header],
) -> Certificate {
    let last = descendants.last().unwrap_or(header);
    let statement = Statement::Finalize(proposal_of(last));
    Certificate { descendants: descendants.to_vec(), quorum: quorum_in(genesis, set, statement) }
}
