//! Data tiles and journal records: any octets are judged, what is read is written as it was.

#![no_main]

use libfuzzer_sys::fuzz_target;
use stoq_trustchain::log::LogEntry;
use stoq_trustchain::log::record::Record;

fuzz_target!(|data: &[u8]| {
    if let Ok(entries) = LogEntry::decode_all(data) {
        let written: Vec<u8> = entries
            .iter()
            .flat_map(|entry| entry.encode().expect("what was read can be written"))
            .collect();
        assert_eq!(written, data);
        for entry in &entries {
            entry.timestamped.leaf_hash().expect("what was read can be hashed");
        }
    }
    if let Ok(record) = Record::decode(data) {
        assert_eq!(record.encode().expect("what was read can be written"), data);
    }
});
