//! Certification requests of nodes that nobody knows yet: any octets are judged, none panic.

#![no_main]

use libfuzzer_sys::fuzz_target;
use stoq_trustchain::csr::ProvenKey;

fuzz_target!(|data: &[u8]| {
    // What is accepted was signed by its own key; a refusal is as good an outcome.
    let _judged = ProvenKey::from_csr(data);
});
