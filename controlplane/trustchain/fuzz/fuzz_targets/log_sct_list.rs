//! SCT lists, and the surgery on certificates that verifies them, as a peer in a handshake may send both: any
//! octets are judged, none panic.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _accepted = stoq_trustchain_fuzz::log_sct_list(data);
});
