//! What a stranger says an authority has said of itself: read, judged against a root, and never a panic.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _accepted = stoq_trustchain_fuzz::authority_statement(data);
});
