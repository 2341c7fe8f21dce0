//! Evidence as anyone may show it in a file: any octets are read, what reads has exactly these octets as its encoding,
//! and names nobody but a validator of its epoch.

#![no_main]

#[path = "network.rs"]
mod network;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use stoq_hypermesh::consensus::EvidenceFile;
use stoq_hypermesh::consensus::evidence::RegistryJudge;

fuzz_target!(|data: &[u8]| {
    let Ok(file) = EvidenceFile::from_bytes(&Bytes::copy_from_slice(data)) else { return };
    assert_eq!(file.to_vec(), data);
    let genesis = network::genesis();
    let mut judge = RegistryJudge::new(genesis.clone());
    if let Ok(finding) = file.verify(&genesis, &mut judge) {
        assert_eq!(finding.epoch, file.evidence.vote().statement.epoch());
        assert_eq!(finding.view, file.evidence.vote().statement.view());
    }
});
