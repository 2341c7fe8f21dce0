//! SCT lists, and the surgery on certificates that verifies them, as a peer in a handshake may send both: any
//! octets are judged, none panic.

#![no_main]

use libfuzzer_sys::fuzz_target;
use stoq_trustchain::log::der::{POISON_OID, SCT_LIST_OID, tbs_of, without_extension};
use stoq_trustchain::log::sct;

fuzz_target!(|data: &[u8]| {
    if let Ok(scts) = sct::parse_sct_list(data) {
        for one in &scts {
            let written = one.encode().expect("what was read can be written");
            assert_eq!(
                sct::Sct::decode(&written).expect("what was written can be read").as_ref(),
                Some(one)
            );
        }
    }
    if let Ok(tbs) = tbs_of(data) {
        for oid in [SCT_LIST_OID, POISON_OID] {
            if let Ok(Some((rest, _))) = without_extension(tbs, &oid) {
                assert!(rest.len() < tbs.len());
                assert_eq!(without_extension(&rest, &oid), Ok(None));
            }
        }
    }
    let _judged = sct::verify_embedded(data, &[0; 32], &[], u64::MAX);
});
