//! Join tokens as an operator may paste them: what parses is printed as the same token.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _accepted = stoq_trustchain_fuzz::join_token(data);
});
