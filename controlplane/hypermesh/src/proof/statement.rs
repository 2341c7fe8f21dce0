//! What the four proofs are made for: one operation of one requester in one network, at one time. Two statements that
//! differ anywhere have different digests, and every proof answers a challenge made from the digest.

use crate::digest::{Digest, Domain};
use crate::operation::{NetworkId, RequesterId};

static STATEMENT: Domain = Domain::new("hypermesh v1 statement");

/// Octets of a statement as it is hashed
const STATEMENT_BYTES: usize = 32 + 8 + 1 + 32 + 32 + 8 + 32 + 8 + 8 + 4;

/// One operation, and when and by whom it is asked for
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Statement {
    /// The network, which is the digest of its genesis
    pub network: NetworkId,
    /// The epoch whose stake root and thresholds apply
    pub epoch: u64,
    /// What sort of thing `subject` is the digest of
    pub kind: u8,
    /// The digest of the operation without its proofs, of a certification request, or the root of a batch
    pub subject: Digest,
    /// Who asks
    pub requester: RequesterId,
    /// The height of a finalised block that was young when the proofs were made
    pub beacon_height: u64,
    /// The digest of that block's header
    pub beacon_hash: Digest,
    /// The requester's own count of operations; each is used once
    pub sequence: u64,
    /// The last height at which the operation may enter a block
    pub not_after_height: u64,
    /// The policy whose thresholds the proofs reach
    pub policy: u32,
}

impl Statement {
    /// The digest that every challenge is made from.
    ///
    /// All fields have a fixed length and follow each other, integers big-endian.
    pub fn digest(&self) -> Digest {
        let mut octets = [0; STATEMENT_BYTES];
        let mut at = 0;
        let fields: [&[u8]; 10] = [
            &self.network,
            &self.epoch.to_be_bytes(),
            &[self.kind],
            &self.subject,
            &self.requester,
            &self.beacon_height.to_be_bytes(),
            &self.beacon_hash,
            &self.sequence.to_be_bytes(),
            &self.not_after_height.to_be_bytes(),
            &self.policy.to_be_bytes(),
        ];
        for field in fields {
            octets[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        }
        STATEMENT.hash(&octets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Statement {
        Statement {
            network: [1; 32],
            epoch: 2,
            kind: 3,
            subject: [4; 32],
            requester: [5; 32],
            beacon_height: 6,
            beacon_hash: [7; 32],
            sequence: 8,
            not_after_height: 9,
            policy: 10,
        }
    }

    #[test]
    fn every_field_changes_the_digest() {
        let sample = sample();
        let others = [
            Statement { network: [0; 32], ..sample },
            Statement { epoch: 0, ..sample },
            Statement { kind: 0, ..sample },
            Statement { subject: [0; 32], ..sample },
            Statement { requester: [0; 32], ..sample },
            Statement { beacon_height: 0, ..sample },
            Statement { beacon_hash: [0; 32], ..sample },
            Statement { sequence: 0, ..sample },
            Statement { not_after_height: 0, ..sample },
            Statement { policy: 0, ..sample },
        ];
        let mut digests: Vec<Digest> = others.iter().map(Statement::digest).collect();
        digests.push(sample.digest());
        for (index, digest) in digests.iter().enumerate() {
            assert!(!digests[index + 1..].contains(digest), "{index}");
        }
    }

    #[test]
    fn the_layout_is_the_one_written_down() {
        let mut octets = Vec::new();
        octets.extend([1; 32]);
        octets.extend(2_u64.to_be_bytes());
        octets.push(3);
        octets.extend([4; 32]);
        octets.extend([5; 32]);
        octets.extend(6_u64.to_be_bytes());
        octets.extend([7; 32]);
        octets.extend(8_u64.to_be_bytes());
        octets.extend(9_u64.to_be_bytes());
        octets.extend(10_u32.to_be_bytes());
        assert_eq!(octets.len(), STATEMENT_BYTES);
        assert_eq!(sample().digest(), blake3::derive_key("hypermesh v1 statement", &octets));
    }
}
