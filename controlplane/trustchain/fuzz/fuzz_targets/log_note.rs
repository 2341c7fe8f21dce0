//! Signed notes, checkpoints and inclusion proofs as a log, a witness or a file may send them: any octets are
//! judged, what parses is written as it was.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _accepted = stoq_trustchain_fuzz::log_note(data);
});
