//! Receipts as anyone may show them: any octets are read, what reads has exactly these octets as its encoding, and is
//! judged, cold and warm, to the same end.

#![no_main]

#[path = "network.rs"]
mod network;

use libfuzzer_sys::fuzz_target;
use stoq_hypermesh::receipt::{Receipt, Verifier};

fuzz_target!(|data: &[u8]| {
    let Ok(receipt) = Receipt::decode(data) else { return };
    assert_eq!(receipt.to_vec(), data);
    let genesis = network::genesis();
    let mut verifier = Verifier::new(genesis.clone());
    if let Ok(verified) = receipt.verify(&genesis) {
        assert_eq!(verified.operation, receipt.operation);
        assert_eq!(verifier.verify(&receipt), Ok(verified.clone()));
        assert_eq!(verifier.verify(&receipt), Ok(verified));
    } else {
        assert!(verifier.verify(&receipt).is_err());
        assert_eq!(verifier.known(), 0);
    }
});
