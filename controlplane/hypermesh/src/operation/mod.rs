//! One request to the registry: who asks, for what, until when, and by what right. Its octets are what is proven,
//! signed, put into blocks and shown in receipts, so there is exactly one encoding of each. Whether it is granted is
//! for `registry`; whether its proof holds is for `proof`.
//!
//! ```text
//! operation     = version(8) network(256) requester_key(256) sequence(64) not_after_height(64) body authorisation
//! body          = 1 kind(8) name node capacity(64) sharing(8)             register an asset
//!               | 2 1 asset quantity(64) holder(256)                      allocate
//!               | 2 2 allocation(256)                                     use; 3 release, 4 fail
//!               | 2 5 asset                                               restore; 6 retire
//!               | 3 asset to(256)                                         transfer
//!               | 4 (0 | 1 asset) csr_statement(256)                      request a certificate
//!               | 5 asset                                                 end a certificate
//!               | 6                                                       request a ticket
//!               | 7 1 to_key(256) amount(64)                              give stake
//!               | 8 change                                                vote
//!               | 9 octets                                                evidence
//!               | 10 count(32) body...                                    batch
//! authorisation = 1 four-proof | 2 ticket(256) signature(512) | 3 signature(512)
//! asset         = kind(8) hash(200)
//! name, node, octets are preceded by their length(32). Numbers are big-endian, tags one octet, widths in bits.
//! subject       = H("hypermesh v1 operation subject", operation without its authorisation)
//! identity      = H("hypermesh v1 operation", operation)
//! ```

pub mod asset;
pub mod body;
pub mod candidate;
pub mod change;
#[cfg(test)]
pub(crate) mod testing;

pub use asset::{AssetId, AssetIdError, AssetKind, AssetName};
pub use body::{
    AssetOperation, BATCH_LIMIT, CertificateRequest, EVIDENCE_LIMIT_BYTES, EvidenceOctets,
    OperationBody, Registration, Sharing, StakeOperation, csr_statement,
};
pub use candidate::{Candidate, verify_signatures};
pub use change::{Change, Validator, ValidatorKey};

use ed25519_consensus::SigningKey;

use crate::digest::{Digest, Domain};
use crate::proof::{FourProof, Statement};
use crate::wire::{Reader, WireError, Writer};

/// The digest of the genesis: two networks accept nothing of each other
pub type NetworkId = Digest;
/// The digest of a requester's Ed25519 key
pub type RequesterId = Digest;
/// The digest of the operation that allocated, and of its place in a batch
pub type AllocationId = Digest;

/// Octets of the longest operation: a full batch and its proof
pub const OPERATION_LIMIT_BYTES: usize = 256 << 10;
const VERSION: u8 = 1;

static REQUESTER: Domain = Domain::new("hypermesh v1 requester");
static SUBJECT: Domain = Domain::new("hypermesh v1 operation subject");
static OPERATION: Domain = Domain::new("hypermesh v1 operation");
static TICKET_USE: Domain = Domain::new("hypermesh v1 ticket use");
static VALIDATOR_ACT: Domain = Domain::new("hypermesh v1 validator act");

/// Who holds an Ed25519 key
pub fn requester_id(key: &[u8; 32]) -> RequesterId {
    REQUESTER.hash(key)
}

/// The identity of an operation with this encoding
pub fn operation_id(octets: &[u8]) -> Digest {
    OPERATION.hash(octets)
}

/// What a requester signs to use a ticket
pub fn ticket_message(ticket: &Digest, subject: &Digest) -> Digest {
    TICKET_USE.derive(&[ticket, subject])
}

/// What a validator signs to act as one
pub fn validator_message(subject: &Digest) -> Digest {
    VALIDATOR_ACT.hash(subject)
}

/// One request
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Operation {
    /// Where it shall count
    pub network: NetworkId,
    /// The Ed25519 key of who asks
    pub requester_key: [u8; 32],
    /// Tells the requester's operations apart; each counts once
    pub sequence: u64,
    /// The last height of a block it may be in
    pub not_after_height: u64,
    /// What is asked
    pub body: OperationBody,
    /// By what right
    pub authorisation: Authorisation,
}

/// By what right something is asked. Each covers everything else of the operation.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Authorisation {
    /// Four proofs for exactly this operation
    Full(Box<FourProof>),
    /// A ticket of this epoch and a signature over [`ticket_message`]: single operations on assets only
    Ticket {
        /// The operation by which it was asked for
        ticket: Digest,
        /// Ed25519 of the requester
        signature: [u8; 64],
    },
    /// A validator's signature over [`validator_message`]: votes and evidence only
    Validator {
        /// Ed25519 of the requester, who is a validator
        signature: [u8; 64],
    },
}

impl Operation {
    /// What a validator asks for as one: votes and evidence
    pub fn by_validator(
        key: &SigningKey,
        network: NetworkId,
        sequence: u64,
        not_after_height: u64,
        body: OperationBody,
    ) -> Self {
        let requester_key = key.verification_key().to_bytes();
        let authorisation = Authorisation::Validator { signature: [0; 64] };
        let mut operation =
            Self { network, requester_key, sequence, not_after_height, body, authorisation };
        let signature = key.sign(&validator_message(&operation.subject())).to_bytes();
        operation.authorisation = Authorisation::Validator { signature };
        operation
    }

    /// What a requester asks for under a ticket: single operations on assets
    pub fn by_ticket(
        key: &SigningKey,
        network: NetworkId,
        ticket: Digest,
        sequence: u64,
        not_after_height: u64,
        body: OperationBody,
    ) -> Self {
        let requester_key = key.verification_key().to_bytes();
        let authorisation = Authorisation::Ticket { ticket, signature: [0; 64] };
        let mut operation =
            Self { network, requester_key, sequence, not_after_height, body, authorisation };
        let signature = key.sign(&ticket_message(&ticket, &operation.subject())).to_bytes();
        operation.authorisation = Authorisation::Ticket { ticket, signature };
        operation
    }

    /// Who asks
    pub fn requester(&self) -> RequesterId {
        requester_id(&self.requester_key)
    }

    /// Everything but the authorisation, as one digest: what the proofs and signatures are over
    pub fn subject(&self) -> Digest {
        let mut writer = Writer::new();
        self.encode_subject(&mut writer);
        SUBJECT.hash(writer.as_slice())
    }

    /// Tells operations apart, authorisation included
    pub fn id(&self) -> Digest {
        operation_id(&self.encode())
    }

    /// What a full proof has to be for; none where the authorisation is another
    pub fn statement(&self) -> Option<Statement> {
        let Authorisation::Full(proof) = &self.authorisation else { return None };
        Some(statement(self, proof, self.subject()))
    }

    /// The one encoding
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::with_capacity(512);
        self.encode_subject(&mut writer);
        self.authorisation.encode(&mut writer);
        writer.into_vec()
    }

    /// Reads what [`Operation::encode`] wrote, and nothing else
    pub fn decode(octets: &[u8]) -> Result<Self, WireError> {
        Self::decode_split(octets).map(|(operation, _)| operation)
    }

    /// The operation, and of how many octets its subject is
    fn decode_split(octets: &[u8]) -> Result<(Self, usize), WireError> {
        if octets.len() > OPERATION_LIMIT_BYTES {
            return Err(WireError::TooLong { limit: OPERATION_LIMIT_BYTES });
        }
        let mut reader = Reader::new(octets);
        let version = reader.u8()?;
        if version != VERSION {
            return Err(WireError::BadTag { what: "version of operations", tag: version.into() });
        }
        let network = reader.fixed()?;
        let requester_key = reader.fixed()?;
        let sequence = reader.u64()?;
        let not_after_height = reader.u64()?;
        let body = OperationBody::decode(&mut reader)?;
        let subject_bytes = octets.len() - reader.remaining().len();
        let authorisation = Authorisation::decode(&mut reader)?;
        reader.finish()?;
        let operation =
            Self { network, requester_key, sequence, not_after_height, body, authorisation };
        Ok((operation, subject_bytes))
    }

    fn encode_subject(&self, writer: &mut Writer) {
        writer.u8(VERSION).fixed(&self.network).fixed(&self.requester_key);
        writer.u64(self.sequence).u64(self.not_after_height);
        self.body.encode(writer);
    }
}

fn statement(operation: &Operation, proof: &FourProof, subject: Digest) -> Statement {
    Statement {
        network: operation.network,
        epoch: proof.epoch,
        kind: operation.body.kind(),
        subject,
        requester: operation.requester(),
        beacon_height: proof.beacon_height,
        beacon_hash: proof.beacon_hash,
        sequence: operation.sequence,
        not_after_height: operation.not_after_height,
        policy: proof.policy,
    }
}

impl Authorisation {
    fn encode(&self, writer: &mut Writer) {
        match self {
            Self::Full(proof) => {
                writer.u8(1);
                proof.encode(writer);
            }
            Self::Ticket { ticket, signature } => {
                writer.u8(2).fixed(ticket).fixed(signature);
            }
            Self::Validator { signature } => {
                writer.u8(3).fixed(signature);
            }
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(match reader.u8()? {
            1 => Self::Full(Box::new(FourProof::decode(reader)?)),
            2 => Self::Ticket { ticket: reader.fixed()?, signature: reader.fixed()? },
            3 => Self::Validator { signature: reader.fixed()? },
            tag => return Err(WireError::BadTag { what: "authorisation", tag: tag.into() }),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::testing::{operation, unproven, with_ticket};
    use super::*;

    proptest! {
        /// Goal: one operation, one encoding. Method: what is written is read back, in one way and not a bit less.
        #[test]
        fn operations_are_read_back_and_only_whole(operation in operation(), cut in any::<prop::sample::Index>()) {
            let octets = operation.encode();
            let candidate = Candidate::new(&operation).unwrap();
            prop_assert_eq!(candidate.operation(), &operation);
            prop_assert_eq!(candidate.id(), &operation.id());
            prop_assert_eq!(candidate.subject(), &operation.subject());
            prop_assert_eq!(candidate.statement(), operation.statement());
            prop_assert_eq!(&candidate.octets()[..], &octets);
            let shorter = &octets[..cut.index(octets.len())];
            prop_assert_eq!(Operation::decode(shorter), Err(WireError::Truncated));
            let longer = [&octets[..], &[0]].concat();
            prop_assert_eq!(Operation::decode(&longer), Err(WireError::Trailing { octets: 1 }));
        }

        /// Goal: no two octet strings mean the same operation. Method: flip a bit; what still reads means another.
        #[test]
        fn another_encoding_is_another_operation(operation in operation(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
            let mut octets = operation.encode();
            let at = at.index(octets.len());
            octets[at] ^= 1 << bit;
            if let Ok(other) = Operation::decode(&octets) {
                prop_assert_ne!(&other, &operation);
                prop_assert_eq!(other.encode(), octets);
            }
        }
    }

    fn sample() -> Operation {
        unproven([1; 32], 2, OperationBody::RequestTicket)
    }

    #[test]
    fn the_subject_covers_everything_but_the_authorisation() {
        let base = sample();
        let others = [
            Operation { network: [0; 32], ..base.clone() },
            Operation { requester_key: [0; 32], ..base.clone() },
            Operation { sequence: 9, ..base.clone() },
            Operation { not_after_height: 9, ..base.clone() },
            Operation {
                body: OperationBody::Evidence(EvidenceOctets::new(vec![]).unwrap()),
                ..base.clone()
            },
        ];
        for other in &others {
            assert_ne!(other.subject(), base.subject());
        }
        let ticket = with_ticket(base.clone(), [3; 32], 2);
        assert_eq!(ticket.subject(), base.subject());
        assert_ne!(ticket.id(), base.id());
        assert_eq!(ticket.statement(), None);
    }

    #[test]
    fn a_statement_names_what_the_operation_is() {
        let operation = sample();
        let statement = operation.statement().unwrap();
        assert_eq!(statement.network, operation.network);
        assert_eq!(statement.kind, operation.body.kind());
        assert_eq!(statement.subject, operation.subject());
        assert_eq!(statement.requester, requester_id(&operation.requester_key));
        assert_eq!(statement.sequence, operation.sequence);
        assert_eq!(statement.not_after_height, operation.not_after_height);
        assert_eq!(statement.policy, crate::proof::Policy::TEST_ID);
    }

    #[test]
    fn a_certificate_request_is_found_alone_and_in_a_batch() {
        let request = |csr_statement| CertificateRequest { asset: None, csr_statement };
        let body = |csr| OperationBody::RequestCertificate(request([csr; 32]));
        let batch = OperationBody::Batch(vec![body(1), OperationBody::RequestTicket, body(2)]);
        assert_eq!(batch.certificate_request(&[2; 32]), Some(&request([2; 32])));
        assert_eq!(body(1).certificate_request(&[1; 32]), Some(&request([1; 32])));
        assert_eq!(body(1).certificate_request(&[2; 32]), None);
        assert_eq!(batch.certificate_request(&[3; 32]), None);
        assert_ne!(csr_statement(b"one"), csr_statement(b"other"));
    }

    #[test]
    fn messages_of_tickets_and_validators_never_meet() {
        let messages = [
            ticket_message(&[1; 32], &[2; 32]),
            ticket_message(&[2; 32], &[1; 32]),
            validator_message(&[1; 32]),
            validator_message(&[2; 32]),
        ];
        for (index, message) in messages.iter().enumerate() {
            assert!(!messages[index + 1..].contains(message), "{index}");
        }
    }

    #[test]
    fn versions_tags_batches_and_limits_are_refused_by_name() {
        let mut octets = sample().encode();
        octets[0] = 2;
        let refused = Err(WireError::BadTag { what: "version of operations", tag: 2 });
        assert_eq!(Operation::decode(&octets), refused);
        let body = 1 + 32 + 32 + 8 + 8;
        for tag in [0, 11, 255] {
            let mut octets = sample().encode();
            octets[body] = tag;
            let refused = Err(WireError::BadTag { what: "operation", tag: tag.into() });
            assert_eq!(Operation::decode(&octets), refused);
        }
        let long = vec![0; OPERATION_LIMIT_BYTES + 1];
        let refused = Err(WireError::TooLong { limit: OPERATION_LIMIT_BYTES });
        assert_eq!(Operation::decode(&long), refused);

        let batch = |parts| unproven([1; 32], 2, OperationBody::Batch(parts)).encode();
        let part = OperationBody::RequestTicket;
        assert!(Operation::decode(&batch(vec![part.clone(); BATCH_LIMIT])).is_ok());
        assert_eq!(
            Operation::decode(&batch(vec![part.clone(); BATCH_LIMIT + 1])),
            Err(WireError::TooLong { limit: BATCH_LIMIT })
        );
        let empty = Err(WireError::NotCanonical { what: "batch" });
        assert_eq!(Operation::decode(&batch(Vec::new())), empty);
        let nested = Err(WireError::BadTag { what: "operation", tag: 10 });
        assert_eq!(Operation::decode(&batch(vec![OperationBody::Batch(vec![part])])), nested);
        let limit = EVIDENCE_LIMIT_BYTES;
        assert!(EvidenceOctets::new(vec![0; limit]).is_ok());
        assert_eq!(EvidenceOctets::new(vec![0; limit + 1]), Err(WireError::TooLong { limit }));
    }
}
