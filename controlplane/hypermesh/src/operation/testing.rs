//! For tests: strategies for every operation there is, and operations signed by known keys.

use ed25519_consensus::SigningKey;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use stoq_interface::NodeId;

use super::*;
use crate::proof::{Policy, SpaceProof, StakeProof, TimeProof, WorkProof};
use crate::registry::Parameters;

/// A key nobody else has
pub(crate) fn key(seed: u8) -> SigningKey {
    SigningKey::from([seed; 32])
}

/// Its public half
pub(crate) fn public(seed: u8) -> [u8; 32] {
    key(seed).verification_key().to_bytes()
}

/// An operation whose proofs are missing
pub(crate) fn unproven(network: NetworkId, seed: u8, body: OperationBody) -> Operation {
    let proof = FourProof {
        policy: Policy::TEST_ID,
        epoch: 0,
        beacon_height: 0,
        beacon_hash: [0; 32],
        space: None,
        work: None,
        time: None,
        stake: None,
    };
    Operation {
        network,
        requester_key: public(seed),
        sequence: 1,
        not_after_height: 10,
        body,
        authorisation: Authorisation::Full(Box::new(proof)),
    }
}

/// The same under a ticket
pub(crate) fn with_ticket(mut operation: Operation, ticket: Digest, seed: u8) -> Operation {
    let message = ticket_message(&ticket, &operation.subject());
    let signature = key(seed).sign(&message).to_bytes();
    operation.authorisation = Authorisation::Ticket { ticket, signature };
    operation
}

/// The same under a validator's signature
pub(crate) fn with_validator(mut operation: Operation, seed: u8) -> Operation {
    let signature = key(seed).sign(&validator_message(&operation.subject())).to_bytes();
    operation.authorisation = Authorisation::Validator { signature };
    operation
}

fn kind() -> impl Strategy<Value = AssetKind> {
    prop::sample::select(AssetKind::ALL.to_vec())
}

fn name() -> impl Strategy<Value = AssetName> {
    "[a-z0-9]{1,63}".prop_map(|text| AssetName::new(&text).unwrap())
}

fn node() -> impl Strategy<Value = NodeId> {
    "[a-z0-9]{1,63}".prop_map(|text| NodeId::new(&text).unwrap())
}

fn asset() -> impl Strategy<Value = AssetId> {
    (any::<Digest>(), any::<Digest>(), kind(), name())
        .prop_map(|(network, owner, kind, name)| AssetId::derive(&network, &owner, kind, &name))
}

fn validator_key() -> impl Strategy<Value = ValidatorKey> {
    any::<[u8; 32]>().prop_map(ValidatorKey)
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (node(), validator_key()).prop_map(|(name, key)| Change::Admit(Validator { name, key })),
        validator_key().prop_map(Change::Remove),
        (validator_key(), validator_key())
            .prop_map(|(key, new_key)| Change::Replace { key, new_key }),
        (any::<u32>(), prop::sample::select(vec![Policy::TEST, Policy::DEFAULT]))
            .prop_map(|(id, policy)| Change::SetPolicy { id, policy }),
        any::<u16>().prop_map(|validators_min| {
            Change::SetParameters(Parameters { validators_min, ..Parameters::default() })
        }),
    ]
}

fn asset_operation() -> impl Strategy<Value = AssetOperation> {
    prop_oneof![
        (asset(), any::<u64>(), any::<Digest>()).prop_map(|(asset, quantity, holder)| {
            AssetOperation::Allocate { asset, quantity, holder }
        }),
        any::<Digest>().prop_map(|allocation| AssetOperation::Use { allocation }),
        any::<Digest>().prop_map(|allocation| AssetOperation::Release { allocation }),
        any::<Digest>().prop_map(|allocation| AssetOperation::Fail { allocation }),
        asset().prop_map(|asset| AssetOperation::Restore { asset }),
        asset().prop_map(|asset| AssetOperation::Retire { asset }),
    ]
}

fn registration() -> impl Strategy<Value = Registration> {
    let sharing = prop::sample::select(vec![Sharing::Owner, Sharing::Anyone]);
    (kind(), name(), node(), any::<u64>(), sharing).prop_map(
        |(kind, name, node, capacity, sharing)| Registration {
            kind,
            name,
            node,
            capacity,
            sharing,
        },
    )
}

fn single() -> impl Strategy<Value = OperationBody> {
    prop_oneof![
        registration().prop_map(OperationBody::RegisterAsset),
        asset_operation().prop_map(OperationBody::Operate),
        (asset(), any::<Digest>()).prop_map(|(asset, to)| OperationBody::Transfer { asset, to }),
        (option::of(asset()), any::<Digest>()).prop_map(|(asset, csr_statement)| {
            OperationBody::RequestCertificate(CertificateRequest { asset, csr_statement })
        }),
        asset().prop_map(|asset| OperationBody::EndCertificate { asset }),
        Just(OperationBody::RequestTicket),
        (any::<[u8; 32]>(), any::<u64>()).prop_map(|(to_key, amount)| {
            OperationBody::Stake(StakeOperation::Give { to_key, amount })
        }),
        change().prop_map(OperationBody::Vote),
        vec(any::<u8>(), 0..64)
            .prop_map(|octets| OperationBody::Evidence(EvidenceOctets::new(octets).unwrap())),
    ]
}

/// Any body
pub(crate) fn body() -> impl Strategy<Value = OperationBody> {
    prop_oneof![9 => single(), 1 => vec(single(), 1..5).prop_map(OperationBody::Batch)]
}

fn four_proof() -> impl Strategy<Value = FourProof> {
    let space = (any::<[u8; 32]>(), any::<[u8; 3]>(), vec(any::<u8>(), 0..320)).prop_map(
        |(salt, [k, strength, attempt], proof)| SpaceProof { salt, k, strength, attempt, proof },
    );
    let work = (any::<u8>(), any::<u64>()).prop_map(|(bits, nonce)| WorkProof { bits, nonce });
    let time = (any::<u64>(), any::<Digest>(), any::<u64>(), any::<Digest>()).prop_map(
        |(beacon_height, beacon_hash, claimed_ms, link)| TimeProof {
            beacon_height,
            beacon_hash,
            claimed_ms,
            link,
        },
    );
    let stake = (any::<u64>(), any::<u64>(), any::<[u8; 32]>(), vec(any::<Digest>(), 0..5))
        .prop_map(|(index, weight, key, path)| StakeProof {
            index,
            weight,
            key,
            path,
            signature: [7; 64],
        });
    (
        (any::<u32>(), any::<u64>(), any::<u64>(), any::<Digest>()),
        (option::of(space), option::of(work), option::of(time), option::of(stake)),
    )
        .prop_map(
            |((policy, epoch, beacon_height, beacon_hash), (space, work, time, stake))| FourProof {
                policy,
                epoch,
                beacon_height,
                beacon_hash,
                space,
                work,
                time,
                stake,
            },
        )
}

fn signature() -> impl Strategy<Value = [u8; 64]> {
    (any::<[u8; 32]>(), any::<[u8; 32]>()).prop_map(|(first, last)| {
        std::array::from_fn(|at| if at < 32 { first[at] } else { last[at - 32] })
    })
}

fn authorisation() -> impl Strategy<Value = Authorisation> {
    prop_oneof![
        four_proof().prop_map(|proof| Authorisation::Full(Box::new(proof))),
        (any::<Digest>(), signature())
            .prop_map(|(ticket, signature)| Authorisation::Ticket { ticket, signature }),
        signature().prop_map(|signature| Authorisation::Validator { signature }),
    ]
}

/// Any operation
pub(crate) fn operation() -> impl Strategy<Value = Operation> {
    let head = (any::<Digest>(), any::<[u8; 32]>(), any::<u64>(), any::<u64>());
    (head, body(), authorisation()).prop_map(
        |((network, requester_key, sequence, not_after_height), body, authorisation)| Operation {
            network,
            requester_key,
            sequence,
            not_after_height,
            body,
            authorisation,
        },
    )
}
