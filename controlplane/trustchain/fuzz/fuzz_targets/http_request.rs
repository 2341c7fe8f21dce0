//! What strangers send over HTTPS: paths, credentials, EST bodies. Any octets are judged, none panic, and what
//! is accepted is what it seems.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _accepted = stoq_trustchain_fuzz::http_request(data);
});
