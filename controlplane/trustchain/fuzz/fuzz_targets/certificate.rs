//! Certificates as a peer or a file may hold them: any octets are judged, none panic.

#![no_main]

use libfuzzer_sys::fuzz_target;
use stoq_trustchain::certificate;

fuzz_target!(|data: &[u8]| {
    if let Ok(parsed) = certificate::parse(data) {
        let _judged = certificate::validity(&parsed);
    }
});
