//! Operations as anyone may send them: any octets are read, what reads has exactly these octets as its encoding, a
//! registry answers, and none panic. What is refused whatever the state is never taken by a registry.

#![no_main]

use bytes::Bytes;
use ed25519_consensus::SigningKey;
use libfuzzer_sys::fuzz_target;
use stoq_hypermesh::operation::{AssetId, Candidate, Operation, Validator, ValidatorKey};
use stoq_hypermesh::proof::Policy;
use stoq_hypermesh::registry::{
    BlockFacts, GenesisStake, Parameters, Registry, RegistryGenesis, check_stateless,
};
use stoq_interface::NodeId;

fn registry(operation: &Operation) -> Registry {
    let key = SigningKey::from([7; 32]).verification_key().to_bytes();
    let name = NodeId::new("alpha").expect("a label");
    let genesis = RegistryGenesis {
        network: operation.network,
        time_ms: 1_000,
        epoch_blocks: 4,
        validators: vec![Validator { name, key: ValidatorKey(key) }],
        stakes: vec![GenesisStake { key: operation.requester_key, amount: 9 }],
        policies: vec![Policy::TEST],
        parameters: Parameters::for_policies(&[Policy::TEST]),
    };
    Registry::genesis(&genesis).expect("a sound genesis")
}

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(id) = text.parse::<AssetId>()
    {
        assert_eq!(id.to_string(), text);
    }
    let octets = Bytes::copy_from_slice(data);
    let Ok(candidate) = Candidate::decode(&octets) else { return };
    let operation = candidate.operation();
    assert_eq!(operation.encode(), data);
    assert_eq!((operation.id(), operation.subject()), (*candidate.id(), *candidate.subject()));

    let mut registry = registry(operation);
    registry.seal([1; 32]);
    let facts = BlockFacts { epoch: 0, height: 1, parent: [1; 32], time_ms: 2_000 };
    let possible = check_stateless(&operation.network, 0, 1, &octets);
    let before = registry.state_root();
    if registry.apply_block(&facts, &[candidate]).is_err() {
        assert_eq!(registry.state_root(), before);
    } else {
        assert_eq!(possible, Ok(()));
    }
});
