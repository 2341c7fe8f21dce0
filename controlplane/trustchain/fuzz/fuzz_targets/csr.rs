//! Certification requests of nodes that nobody knows yet: any octets are judged, none panic.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _accepted = stoq_trustchain_fuzz::csr(data);
});
