//! Signed notes, checkpoints and inclusion proofs as a log, a witness or a file may send them: any octets are
//! judged, what parses is written as it was.

#![no_main]

use libfuzzer_sys::fuzz_target;
use stoq_trustchain::log::note::Note;
use stoq_trustchain::log::{Checkpoint, ProofBundle, WitnessKey};

fuzz_target!(|data: &[u8]| {
    if let Ok(note) = Note::parse(data) {
        assert_eq!(note.encode().as_bytes(), data);
        if let Ok(checkpoint) = Checkpoint::parse(note.text()) {
            assert_eq!(checkpoint.text(), note.text());
        }
    }
    if let Ok(bundle) = ProofBundle::parse(data) {
        assert_eq!(bundle.encode().as_bytes(), data);
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let _judged = WitnessKey::parse(text);
    }
});
