//! Requests of nodes and replies of authorities: any octets are judged, what parses is written and read again,
//! and none panic. The first octet chooses the message.

#![no_main]

use libfuzzer_sys::fuzz_target;
use prost::Message;
use stoq_trustchain::calls::{retry_after, wire};

fn read<T: Message + Default + PartialEq + std::fmt::Debug>(octets: &[u8]) {
    if let Ok(message) = T::decode(octets) {
        let again = T::decode(message.encode_to_vec().as_slice());
        assert_eq!(again.expect("what was written can be read"), message);
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((kind, octets)) = data.split_first() else { return };
    match kind % 14 {
        0 => read::<wire::CertifyRequest>(octets),
        1 => read::<wire::CertifyReply>(octets),
        2 => read::<wire::RenewalInformationRequest>(octets),
        3 => read::<wire::RenewalInformationReply>(octets),
        4 => read::<wire::RevokeRequest>(octets),
        5 => read::<wire::RevokeReply>(octets),
        6 => read::<wire::DenyListRequest>(octets),
        7 => read::<wire::DenyListReply>(octets),
        8 => read::<wire::TileRequest>(octets),
        9 => read::<wire::TileReply>(octets),
        10 => read::<wire::ProofRequest>(octets),
        11 => read::<wire::StatusReply>(octets),
        12 => read::<wire::Refusal>(octets),
        _ => {
            let _judged = retry_after(octets);
        }
    }
});
