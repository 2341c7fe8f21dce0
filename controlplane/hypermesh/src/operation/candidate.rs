//! An operation on its way into a block, with what was already computed and checked of it, so that a validator hashes
//! and verifies each only once. Signatures are checked in one batch per block. Only what needs no state is checked here.

use bytes::Bytes;
use ed25519_consensus::{Signature, VerificationKeyBytes, batch};
use rand_core_06::{CryptoRng, Error, RngCore};

use super::{
    Authorisation, Operation, OperationBody, RequesterId, operation_id, requester_id, statement,
    ticket_message, validator_message,
};
use crate::digest::Digest;
use crate::proof::Statement;
use crate::wire::WireError;

/// An operation with its digests
#[derive(Clone, Debug)]
pub struct Candidate {
    operation: Operation,
    id: Digest,
    subject: Digest,
    requester: RequesterId,
    octets: Bytes,
    signature_verified: bool,
}

impl Candidate {
    /// Reads an operation; its octets are shared, not copied
    pub fn decode(octets: &Bytes) -> Result<Self, WireError> {
        let (operation, subject_bytes) = Operation::decode_split(octets)?;
        Ok(Self {
            id: operation_id(octets),
            subject: super::SUBJECT.hash(&octets[..subject_bytes]),
            requester: requester_id(&operation.requester_key),
            octets: octets.clone(),
            signature_verified: false,
            operation,
        })
    }

    /// An operation made here. One above the limits is refused as if it had been read.
    pub fn new(operation: &Operation) -> Result<Self, WireError> {
        Self::decode(&Bytes::from(operation.encode()))
    }

    /// The operation
    pub fn operation(&self) -> &Operation {
        &self.operation
    }

    /// What is asked
    pub fn body(&self) -> &OperationBody {
        &self.operation.body
    }

    /// [`Operation::id`]
    pub fn id(&self) -> &Digest {
        &self.id
    }

    /// [`Operation::subject`]
    pub fn subject(&self) -> &Digest {
        &self.subject
    }

    /// [`Operation::requester`]
    pub fn requester(&self) -> &RequesterId {
        &self.requester
    }

    /// [`Operation::statement`]
    pub fn statement(&self) -> Option<Statement> {
        let Authorisation::Full(proof) = &self.operation.authorisation else { return None };
        Some(statement(&self.operation, proof, self.subject))
    }

    /// Its encoding
    pub fn octets(&self) -> &Bytes {
        &self.octets
    }

    /// Whether the signature of its authorisation holds. The signature within a full proof is not this one: it is
    /// judged with the proof.
    pub(crate) fn has_valid_signature(&self) -> bool {
        self.signature_verified || self.signature().is_none_or(|item| item.verify_single().is_ok())
    }

    fn signature(&self) -> Option<batch::Item> {
        let (signature, message) = match &self.operation.authorisation {
            Authorisation::Full(_) => return None,
            Authorisation::Ticket { ticket, signature } => {
                (signature, ticket_message(ticket, &self.subject))
            }
            Authorisation::Validator { signature } => (signature, validator_message(&self.subject)),
        };
        let key = VerificationKeyBytes::from(self.operation.requester_key);
        Some(batch::Item::from((key, Signature::from(*signature), &message)))
    }
}

/// Checks the signatures of those that are not checked yet, and remembers what held.
///
/// A batch costs about half of as many single checks. Both decide alike (ZIP-215), so it does not matter to what is
/// agreed which of them a validator used. What does not hold is found again, and named, when it is executed.
pub fn verify_signatures(candidates: &mut [Candidate]) {
    let mut verifier = batch::Verifier::new();
    for candidate in candidates.iter().filter(|candidate| !candidate.signature_verified) {
        if let Some(item) = candidate.signature() {
            verifier.queue(item);
        }
    }
    let all = verifier.verify(Random(rand::rng())).is_ok();
    for candidate in candidates {
        candidate.signature_verified = all || candidate.has_valid_signature();
    }
}

/// The thread's generator under the traits that the signature crate knows
struct Random(rand::rngs::ThreadRng);

impl RngCore for Random {
    fn next_u32(&mut self) -> u32 {
        rand::RngCore::next_u32(&mut self.0)
    }

    fn next_u64(&mut self) -> u64 {
        rand::RngCore::next_u64(&mut self.0)
    }

    fn fill_bytes(&mut self, octets: &mut [u8]) {
        rand::RngCore::fill_bytes(&mut self.0, octets);
    }

    fn try_fill_bytes(&mut self, octets: &mut [u8]) -> Result<(), Error> {
        rand::RngCore::fill_bytes(&mut self.0, octets);
        Ok(())
    }
}

impl CryptoRng for Random {}

#[cfg(test)]
mod tests {
    use super::super::testing::{unproven, with_ticket, with_validator};
    use super::*;

    fn candidates() -> Vec<Candidate> {
        let operation =
            |sequence| Operation { sequence, ..unproven([1; 32], 2, OperationBody::RequestTicket) };
        let operations = [
            with_ticket(operation(1), [3; 32], 2),
            with_validator(operation(2), 2),
            operation(3),
            // Signed by somebody else
            with_ticket(operation(4), [3; 32], 9),
            with_validator(operation(5), 9),
        ];
        operations.iter().map(|operation| Candidate::new(operation).unwrap()).collect()
    }

    /// What a fresh check and a batch say of each
    fn verdicts(candidates: &mut [Candidate]) -> (Vec<bool>, Vec<bool>) {
        let alone = candidates.iter().map(Candidate::has_valid_signature).collect();
        verify_signatures(candidates);
        let together = candidates.iter().map(|candidate| candidate.signature_verified).collect();
        (alone, together)
    }

    #[test]
    fn a_batch_says_of_each_signature_what_it_says_alone() {
        let mut all = candidates();
        let (alone, together) = verdicts(&mut all);
        assert_eq!(alone, [true, true, true, false, false]);
        assert_eq!(together, alone);
        let mut good = candidates();
        good.truncate(3);
        let (alone, together) = verdicts(&mut good);
        assert_eq!((alone, together), (vec![true; 3], vec![true; 3]));
        verify_signatures(&mut []);
    }

    #[test]
    fn a_signature_is_for_one_use_alone() {
        let operation = unproven([1; 32], 2, OperationBody::RequestTicket);
        let signed = with_ticket(operation.clone(), [3; 32], 2);
        let Authorisation::Ticket { signature, .. } = signed.authorisation else { unreachable!() };
        for authorisation in [
            Authorisation::Ticket { ticket: [4; 32], signature },
            Authorisation::Validator { signature },
        ] {
            let stolen = Operation { authorisation, ..operation.clone() };
            assert!(!Candidate::new(&stolen).unwrap().has_valid_signature());
        }
        let Authorisation::Ticket { signature, .. } =
            with_ticket(operation.clone(), [3; 32], 2).authorisation
        else {
            unreachable!()
        };
        let other = Operation {
            sequence: 7,
            authorisation: Authorisation::Ticket { ticket: [3; 32], signature },
            ..operation
        };
        assert!(!Candidate::new(&other).unwrap().has_valid_signature());
    }
}
