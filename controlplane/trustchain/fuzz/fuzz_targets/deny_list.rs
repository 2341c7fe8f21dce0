//! Deny-lists as a peer may send them, signed or not: any octets are judged, what parses is written and read
//! again, and none panic.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _accepted = stoq_trustchain_fuzz::deny_list(data);
});
