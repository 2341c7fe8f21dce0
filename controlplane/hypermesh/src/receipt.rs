//! Proof that an operation was agreed on: the operation, its place in a block, and that the block is final. It is
//! verified offline with the genesis alone, and says nothing of what the operation did; that is for who reads it.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use crate::consensus::certificate::{
    Certificate, CertificateFault, Transition, TransitionFault, Trust,
};
use crate::consensus::genesis::Genesis;
use crate::consensus::header::{Header, OPERATION_LIMIT_BYTES, VERSION, operation_leaf};
use crate::digest::Digest;
use crate::merkle;
use crate::wire::{Reader, WireError, Writer};

/// Octets of the longest receipt
pub const RECEIPT_LIMIT_BYTES: usize = 16 << 20;

/// Final headers a verifier remembers
pub const WARM_LIMIT: usize = 65_536;

/// Proof that an operation was agreed on
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Receipt {
    /// The operation
    pub operation: Bytes,
    /// Its place in the block
    pub index: u32,
    /// From its leaf to the root in the header
    pub path: Vec<Digest>,
    /// The block's header
    pub header: Header,
    /// That the block is final
    pub certificate: Certificate,
    /// The changes of the validators up to the block's epoch
    pub transitions: Vec<Transition>,
}

/// Why a receipt proves nothing
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ReceiptRefusal {
    /// It is no receipt
    #[error("the receipt cannot be read: {0}")]
    Wire(#[from] WireError),
    /// It is of another network than the genesis
    #[error("the receipt is of another network than the genesis it is judged by")]
    Network,
    /// Of a version that does not exist
    #[error("the receipt is of an unknown version")]
    Version,
    /// The operation is not in the block
    #[error("the operation is not where the receipt says it is in the block")]
    Operation,
    /// A change of the validators is not shown
    #[error(transparent)]
    Transition(#[from] TransitionFault),
    /// The block is not shown to be final
    #[error(transparent)]
    Certificate(#[from] CertificateFault),
}

/// What a receipt proves
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct VerifiedReceipt {
    /// This was agreed on
    pub operation: Bytes,
    /// At this place of the block
    pub index: u32,
    /// At this height
    pub height: u64,
    /// In this epoch
    pub epoch: u64,
    /// At this time, in milliseconds since 1970
    pub time_ms: u64,
    /// In the block of this digest
    pub block: Digest,
}

impl Receipt {
    /// The canonical encoding
    pub fn to_vec(&self) -> Vec<u8> {
        let mut writer = Writer::with_capacity(1_024 + self.operation.len());
        self.encode(&mut writer);
        writer.into_vec()
    }

    /// Writes the canonical encoding
    pub fn encode(&self, writer: &mut Writer) {
        writer.u16(VERSION).bytes(&self.operation).u32(self.index).count(self.path.len());
        for digest in &self.path {
            writer.fixed(digest);
        }
        self.header.encode(writer);
        self.certificate.encode(writer);
        Transition::encode_all(&self.transitions, writer);
    }

    /// Reads what [`Receipt::to_vec`] wrote, and nothing else
    pub fn decode(octets: &[u8]) -> Result<Self, ReceiptRefusal> {
        if octets.len() > RECEIPT_LIMIT_BYTES {
            return Err(WireError::TooLong { limit: RECEIPT_LIMIT_BYTES }.into());
        }
        let mut reader = Reader::new(octets);
        if reader.u16()? != VERSION {
            return Err(ReceiptRefusal::Version);
        }
        let operation = Bytes::copy_from_slice(reader.bytes(OPERATION_LIMIT_BYTES)?);
        let index = reader.u32()?;
        let count = reader.count(merkle::PATH_LIMIT)?;
        let path = (0..count).map(|_| reader.fixed()).collect::<Result<_, _>>()?;
        let header = Header::decode(&mut reader)?;
        let certificate = Certificate::decode(&mut reader)?;
        let transitions = Transition::decode_all(&mut reader)?;
        reader.finish()?;
        Ok(Self { operation, index, path, header, certificate, transitions })
    }

    /// Judges it by the genesis alone. For many receipts a [`Verifier`] is faster.
    pub fn verify(&self, genesis: &Arc<Genesis>) -> Result<VerifiedReceipt, ReceiptRefusal> {
        Verifier::new(Arc::clone(genesis)).verify(self)
    }

    /// Whether the operation stands where it is said to, in whatever block this header is of
    fn verify_place(&self, block: Digest) -> Result<VerifiedReceipt, ReceiptRefusal> {
        let header = &self.header;
        let (count, index) = (header.operations_count.into(), self.index.into());
        let leaf = operation_leaf(&self.operation);
        if !merkle::verify(&header.operations_root, count, index, &leaf, &self.path) {
            return Err(ReceiptRefusal::Operation);
        }
        Ok(VerifiedReceipt {
            operation: self.operation.clone(),
            index: self.index,
            height: header.height,
            epoch: header.epoch,
            time_ms: header.time_ms,
            block,
        })
    }
}

/// Judges receipts of one network and remembers which headers are final, so that the next receipt of a block costs a
/// few hashes
#[derive(Debug)]
pub struct Verifier {
    trust: Trust,
    known: HashSet<Digest>,
    oldest: VecDeque<Digest>,
    limit: usize,
}

impl Verifier {
    /// Knows nothing but the genesis yet
    pub fn new(genesis: Arc<Genesis>) -> Self {
        Self::with_limit(genesis, WARM_LIMIT)
    }

    /// Remembers at most `limit` headers
    pub fn with_limit(genesis: Arc<Genesis>, limit: usize) -> Self {
        let trust = Trust::new(genesis);
        Self { trust, known: HashSet::new(), oldest: VecDeque::new(), limit }
    }

    /// How many final headers it remembers
    pub fn known(&self) -> usize {
        self.known.len()
    }

    /// Judges a receipt
    pub fn verify(&mut self, receipt: &Receipt) -> Result<VerifiedReceipt, ReceiptRefusal> {
        let header = &receipt.header;
        if header.network != self.trust.genesis().network() {
            return Err(ReceiptRefusal::Network);
        }
        let block = header.digest();
        let verified = receipt.verify_place(block)?;
        if self.known.contains(&block) {
            return Ok(verified);
        }
        // What a receipt shows of the validators counts for this receipt alone: somebody else's must not be judged by
        // changes that it does not itself vouch for.
        let mut trust = Trust::new(Arc::clone(self.trust.genesis()));
        for transition in &receipt.transitions {
            trust.extend(transition)?;
        }
        trust.verify(header, &receipt.certificate)?;
        self.remember(block);
        Ok(verified)
    }

    fn remember(&mut self, block: Digest) {
        if self.limit == 0 {
            return;
        }
        if self.known.len() == self.limit
            && let Some(oldest) = self.oldest.pop_front()
        {
            self.known.remove(&oldest);
        }
        self.known.insert(block);
        self.oldest.push_back(block);
    }
}

/// Makes the receipts of one block
#[derive(Clone, Debug)]
pub struct ReceiptMaker {
    header: Header,
    certificate: Certificate,
    transitions: Vec<Transition>,
    operations: Vec<Bytes>,
    leaves: Vec<Digest>,
}

impl ReceiptMaker {
    /// For a block, its certificate, and the changes of the validators up to its epoch
    pub fn new(
        header: Header,
        operations: Vec<Bytes>,
        certificate: Certificate,
        transitions: Vec<Transition>,
    ) -> Self {
        let leaves = operations.iter().map(|operation| operation_leaf(operation)).collect();
        Self { header, certificate, transitions, operations, leaves }
    }

    /// The receipt of one operation; none if there is no such place
    pub fn receipt(&self, index: u32) -> Option<Receipt> {
        let place = usize::try_from(index).ok()?;
        Some(self.with_path(index, merkle::path(&self.leaves, place)?))
    }

    /// The receipts of all operations, by place, for the price of one tree
    pub fn all(&self) -> BTreeMap<u32, Receipt> {
        let paths = merkle::paths(&self.leaves).into_iter();
        (0..).zip(paths).map(|(index, path)| (index, self.with_path(index, path))).collect()
    }

    fn with_path(&self, index: u32, path: Vec<Digest>) -> Receipt {
        Receipt {
            operation: self.operations[index as usize].clone(),
            index,
            path,
            header: self.header.clone(),
            certificate: self.certificate.clone(),
            transitions: self.transitions.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::testing::{block_after, certify, genesis, validator};
    use crate::consensus::validators::ValidatorSet;

    fn made(genesis: &Genesis, count: u8) -> ReceiptMaker {
        let operations = (0..count).map(|index| Bytes::from(vec![index; 20])).collect();
        let block = block_after(genesis, &genesis.header(), operations);
        let certificate = certify(genesis, genesis.validators(), &block.header, &[]);
        ReceiptMaker::new(block.header, block.operations, certificate, Vec::new())
    }

    #[test]
    fn every_operation_of_a_block_is_proven_with_the_genesis_alone() {
        let genesis = Arc::new(genesis(4, 8));
        let maker = made(&genesis, 7);
        let mut verifier = Verifier::new(Arc::clone(&genesis));
        for (index, receipt) in maker.all() {
            assert_eq!(maker.receipt(index).as_ref(), Some(&receipt));
            let read = Receipt::decode(&receipt.to_vec()).unwrap();
            let cold = read.verify(&genesis).unwrap();
            let warm = verifier.verify(&read).unwrap();
            assert_eq!(cold, warm);
            assert_eq!((&warm.operation[..], warm.height), (&[index as u8; 20][..], 1));
        }
        assert_eq!((maker.receipt(7), verifier.known()), (None, 1));
    }

    #[test]
    fn whatever_is_changed_in_a_receipt_is_noticed_cold_and_warm() {
        let genesis = Arc::new(genesis(4, 8));
        let receipt = made(&genesis, 5).receipt(3).unwrap();
        let mut warm = Verifier::new(Arc::clone(&genesis));
        warm.verify(&receipt).unwrap();
        let changes: [fn(&mut Receipt); 9] = [
            |receipt| receipt.operation = Bytes::from_static(b"other"),
            |receipt| receipt.index = 2,
            |receipt| receipt.path[0][0] ^= 1,
            |receipt| receipt.path.truncate(1),
            |receipt| receipt.header.time_ms += 1,
            |receipt| receipt.header.network[0] ^= 1,
            |receipt| receipt.header.operations_count += 1,
            |receipt| receipt.header.operations_root[0] ^= 1,
            |receipt| receipt.header.height += 1,
        ];
        for (number, change) in changes.iter().enumerate() {
            let mut changed = receipt.clone();
            change(&mut changed);
            assert!(changed.verify(&genesis).is_err(), "{number} cold");
            assert!(warm.verify(&changed).is_err(), "{number} warm");
        }
        let mut unsigned = receipt.clone();
        unsigned.certificate.quorum.signatures.pop_first();
        assert!(matches!(unsigned.verify(&genesis), Err(ReceiptRefusal::Certificate(_))));
    }

    #[test]
    fn another_network_accepts_nothing_of_it() {
        let receipt = made(&genesis(4, 8), 2).receipt(0).unwrap();
        let other = Arc::new(genesis(4, 9));
        assert_eq!(receipt.verify(&other), Err(ReceiptRefusal::Network));
    }

    #[test]
    fn a_receipt_of_later_validators_shows_how_they_came_to_be() {
        let genesis = Arc::new(genesis(4, 2));
        let new = ValidatorSet::new((2..6).map(validator).collect()).unwrap();
        let first = block_after(&genesis, &genesis.header(), Vec::new()).header;
        let mut last = block_after(&genesis, &first, Vec::new()).header;
        last.validators_root = new.digest();
        let transition = Transition {
            certificate: certify(&genesis, genesis.validators(), &last, &[]),
            header: last.clone(),
            validators: new.clone(),
        };
        let block = block_after(&genesis, &last, vec![Bytes::from_static(b"operation")]);
        let certificate = certify(&genesis, &new, &block.header, &[]);
        let with = |transitions| {
            let (header, operations) = (block.header.clone(), block.operations.clone());
            ReceiptMaker::new(header, operations, certificate.clone(), transitions)
                .receipt(0)
                .unwrap()
        };
        let shown = with(vec![transition.clone()]);
        let read = Receipt::decode(&shown.to_vec()).unwrap();
        assert_eq!(read.verify(&genesis).unwrap().epoch, 1);
        let hidden = with(Vec::new());
        assert!(matches!(hidden.verify(&genesis), Err(ReceiptRefusal::Certificate(_))));
        let mut verifier = Verifier::new(Arc::clone(&genesis));
        verifier.verify(&shown).unwrap();
        assert!(verifier.verify(&hidden).is_ok(), "the block is known to be final");
        let mut lying = transition;
        lying.validators = ValidatorSet::new((6..9).map(validator).collect()).unwrap();
        assert!(matches!(with(vec![lying]).verify(&genesis), Err(ReceiptRefusal::Transition(_))));
    }

    #[test]
    fn no_octets_make_the_reader_panic_and_none_are_left_over() {
        let octets = made(&genesis(4, 8), 3).receipt(1).unwrap().to_vec();
        for end in 0..octets.len() {
            assert!(Receipt::decode(&octets[..end]).is_err(), "{end}");
        }
        let mut longer = octets.clone();
        longer.push(0);
        assert!(Receipt::decode(&longer).is_err());
        for place in 0..octets.len() {
            let mut flipped = octets.clone();
            flipped[place] ^= 0xff;
            if let Ok(read) = Receipt::decode(&flipped) {
                assert_eq!(read.to_vec(), flipped, "one value has one encoding: {place}");
            }
        }
    }

    #[test]
    fn a_verifier_forgets_the_oldest_beyond_its_limit() {
        let genesis = Arc::new(genesis(4, 8));
        let mut verifier = Verifier::with_limit(Arc::clone(&genesis), 2);
        let mut parent = genesis.header();
        for _ in 0..5 {
            let block = block_after(&genesis, &parent, vec![Bytes::from_static(b"a")]);
            let certificate = certify(&genesis, genesis.validators(), &block.header, &[]);
            parent = block.header.clone();
            let maker = ReceiptMaker::new(block.header, block.operations, certificate, Vec::new());
            verifier.verify(&maker.receipt(0).unwrap()).unwrap();
        }
        assert_eq!(verifier.known(), 2);
    }
}
