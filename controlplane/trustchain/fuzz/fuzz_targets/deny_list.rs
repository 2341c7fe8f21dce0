//! Deny-lists as a peer may send them, signed or not: any octets are judged, what parses is written and read
//! again, and none panic.

#![no_main]

use libfuzzer_sys::fuzz_target;
use stoq_trustchain::revocation::{self, Signers};

fuzz_target!(|data: &[u8]| {
    // The inner part, which a node reads only behind a good signature.
    if let Ok(document) = revocation::decode(data) {
        assert!(document.epoch > 0 && document.next_update > document.issued_at);
    }
    // The outer part, for a node that knows no authority.
    assert!(revocation::open(data, &Signers::default()).is_err());
});
