//! What one validator says to another, as a faulty one may say it: any octets are read, what reads has exactly these
//! octets as its encoding, the blocks and the evidence within are judged, and none panic.

#![no_main]

#[path = "network.rs"]
mod network;

use std::sync::Arc;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use stoq_hypermesh::consensus::certificate::Trust;
use stoq_hypermesh::consensus::evidence::RegistryJudge;
use stoq_hypermesh::consensus::message::{FinalBlock, Message};

fuzz_target!(|data: &[u8]| {
    let octets = Bytes::copy_from_slice(data);
    let Ok(message) = Message::from_bytes(&octets) else { return };
    assert_eq!(message.to_bytes(), data);
    let genesis = network::genesis();
    let mut trust = Trust::new(Arc::clone(&genesis));
    match message {
        Message::Block(block) => {
            let header = genesis.header();
            if block.is_whole() && block.header.follows(&header, &genesis).is_ok() {
                assert_eq!(block.header.parent, header.digest());
            }
        }
        Message::Range { blocks, .. } => {
            for octets in blocks {
                let Ok(block) = FinalBlock::from_bytes(&octets) else { continue };
                assert_eq!(block.to_bytes(), octets);
                let header = &block.block.header;
                if trust.verify(header, &block.certificate).is_ok() {
                    assert_eq!(header.network, genesis.network());
                }
                if let Some(transition) = block.transition()
                    && trust.extend(&transition).is_ok()
                {
                    assert_eq!(**trust.validators(header.epoch + 1), transition.validators);
                }
            }
        }
        Message::Votes(votes) => {
            for vote in votes {
                let set = trust.validators(vote.statement.epoch());
                if vote.is_valid(&genesis.network(), set) {
                    assert!(set.get(vote.signer).is_some());
                }
            }
        }
        Message::Evidence(evidence) => {
            let mut judge = RegistryJudge::new(Arc::clone(&genesis));
            if let Ok(finding) = evidence.verify(&trust, &mut judge) {
                assert!(trust.validators(finding.epoch).contains(&finding.validator.key));
            }
        }
        Message::Want(_) | Message::Tip(_) | Message::WantRange { .. } | Message::Operations(_) => {
        }
    }
});
