//! Proof that a block is final, from nothing but the genesis: the votes of a quorum, and for every change of the
//! validators since the beginning the block that made it. Verified offline, and in a bounded number of steps.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::genesis::Genesis;
use super::header::Header;
use super::quorum::{Quorum, QuorumFault};
use super::validators::ValidatorSet;
use super::vote::Statement;
use crate::digest::Digest;
use crate::wire::{Reader, WireError, Writer};

/// Headers between a block and the one that the quorum voted for. There are some only where views were lost.
pub const DESCENDANTS_LIMIT: usize = 4_096;

/// Changes of the validators that one proof may show
pub const TRANSITIONS_LIMIT: usize = 4_096;

/// Octets of the longest certificate
pub const CERTIFICATE_LIMIT_BYTES: usize = 1 << 20;

/// Why a block is not shown to be final
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CertificateFault {
    /// The votes are not for calling something final
    #[error("the certificate holds other votes than those that make a block final")]
    Kind,
    /// The votes are for another block
    #[error("the votes of the certificate are for another block")]
    OtherBlock,
    /// The headers between do not follow each other
    #[error("the headers of the certificate do not follow each other")]
    Chain,
    /// The votes are of another epoch
    #[error("the votes of the certificate are of another epoch than the block")]
    Epoch,
    /// The votes do not hold
    #[error(transparent)]
    Quorum(#[from] QuorumFault),
}

/// The votes that make a block final
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Certificate {
    /// The headers from the block's child to the block that was voted for; none if that is the block itself
    pub descendants: Vec<Header>,
    /// The votes
    pub quorum: Quorum,
}

impl Certificate {
    /// Whether `header` is final if `set` are the validators of its epoch
    pub fn verify(
        &self,
        header: &Header,
        network: &Digest,
        set: &ValidatorSet,
    ) -> Result<(), CertificateFault> {
        let Statement::Finalize(proposal) = &self.quorum.statement else {
            return Err(CertificateFault::Kind);
        };
        let mut digest = header.digest();
        for (distance, descendant) in self.descendants.iter().enumerate() {
            let height = header.height.checked_add(distance as u64 + 1);
            if descendant.parent != digest || Some(descendant.height) != height {
                return Err(CertificateFault::Chain);
            }
            digest = descendant.digest();
        }
        if digest != proposal.block {
            return Err(CertificateFault::OtherBlock);
        }
        let last = self.descendants.last().unwrap_or(header);
        if last.epoch != proposal.epoch || header.epoch != proposal.epoch {
            return Err(CertificateFault::Epoch);
        }
        Ok(self.quorum.verify(network, set)?)
    }

    /// The view in which the block became final
    pub fn view(&self) -> u64 {
        self.quorum.statement.view()
    }

    /// Writes the canonical encoding
    pub fn encode(&self, writer: &mut Writer) {
        writer.count(self.descendants.len());
        for header in &self.descendants {
            header.encode(writer);
        }
        self.quorum.encode(writer);
    }

    /// Reads what [`Certificate::encode`] wrote
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let count = reader.count(DESCENDANTS_LIMIT)?;
        let mut descendants = Vec::with_capacity(count.min(16));
        for _ in 0..count {
            descendants.push(Header::decode(reader)?);
        }
        Ok(Self { descendants, quorum: Quorum::decode(reader)? })
    }

    /// The canonical encoding
    pub fn to_vec(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        self.encode(&mut writer);
        writer.into_vec()
    }
}

/// A change of the validators: the last block of an epoch, final by the votes of those who were, and those who are
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Transition {
    /// The last header of the epoch
    pub header: Header,
    /// That it is final
    pub certificate: Certificate,
    /// The validators it commits to
    pub validators: ValidatorSet,
}

impl Transition {
    /// Writes the canonical encoding
    pub fn encode(&self, writer: &mut Writer) {
        self.header.encode(writer);
        self.certificate.encode(writer);
        self.validators.encode(writer);
    }

    /// Reads what [`Transition::encode`] wrote
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            header: Header::decode(reader)?,
            certificate: Certificate::decode(reader)?,
            validators: ValidatorSet::decode(reader)?,
        })
    }

    /// Writes a list of them
    pub fn encode_all(transitions: &[Self], writer: &mut Writer) {
        writer.count(transitions.len());
        for transition in transitions {
            transition.encode(writer);
        }
    }

    /// Reads a list of them
    pub fn decode_all(reader: &mut Reader<'_>) -> Result<Vec<Self>, WireError> {
        let count = reader.count(TRANSITIONS_LIMIT)?;
        let mut transitions = Vec::with_capacity(count.min(16));
        for _ in 0..count {
            transitions.push(Self::decode(reader)?);
        }
        Ok(transitions)
    }
}

/// Why a change of the validators is not shown
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TransitionFault {
    /// Of another network
    #[error("a change of the validators is of another network")]
    Network,
    /// Not at the end of an epoch, or before one already known
    #[error("a change of the validators is not at the end of an epoch after the last one known")]
    Order,
    /// Other validators than the header commits to
    #[error("a change of the validators shows others than its block commits to")]
    Validators,
    /// The block is not shown to be final
    #[error("a change of the validators: {0}")]
    Certificate(#[from] CertificateFault),
}

/// Who the validators of each epoch are, as far as it is proven. It grows by transitions only.
#[derive(Clone, Debug)]
pub struct Trust {
    genesis: Arc<Genesis>,
    /// By the first epoch each decides
    sets: BTreeMap<u64, Arc<ValidatorSet>>,
}

impl Trust {
    /// What the genesis alone says
    pub fn new(genesis: Arc<Genesis>) -> Self {
        let sets = BTreeMap::from([(0, Arc::clone(genesis.validators()))]);
        Self { genesis, sets }
    }

    /// The genesis
    pub fn genesis(&self) -> &Arc<Genesis> {
        &self.genesis
    }

    /// The validators of an epoch, if no change after those known is missing.
    ///
    /// That none is missing cannot be shown: a quorum of old validators can always go on as if nothing had changed.
    /// Whoever shows a proof gives the changes with it.
    pub fn validators(&self, epoch: u64) -> &Arc<ValidatorSet> {
        let (_, set) = self.sets.range(..=epoch).next_back().expect("epoch 0 has its validators");
        set
    }

    /// Adds a change that is proven. One that is known already changes nothing.
    pub fn extend(&mut self, transition: &Transition) -> Result<(), TransitionFault> {
        let header = &transition.header;
        if header.network != self.genesis.network() {
            return Err(TransitionFault::Network);
        }
        if header.validators_root != transition.validators.digest() {
            return Err(TransitionFault::Validators);
        }
        let first = header.epoch.checked_add(1).ok_or(TransitionFault::Order)?;
        if self.sets.get(&first).is_some_and(|set| **set == transition.validators) {
            return Ok(());
        }
        let (newest, _) = self.sets.last_key_value().expect("epoch 0 has its validators");
        let in_place = self.genesis.is_boundary(header.height)
            && self.genesis.epoch(header.height) == header.epoch;
        if !in_place || first <= *newest {
            return Err(TransitionFault::Order);
        }
        let set = self.validators(header.epoch);
        transition.certificate.verify(header, &header.network, set)?;
        self.sets.insert(first, Arc::new(transition.validators.clone()));
        Ok(())
    }

    /// Whether a header is final, by these changes and its certificate
    pub fn verify(
        &self,
        header: &Header,
        certificate: &Certificate,
    ) -> Result<(), CertificateFault> {
        let set = self.validators(header.epoch);
        certificate.verify(header, &self.genesis.network(), set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::testing::{
        block_after, certify, genesis, proposal_of, quorum_in, validator,
    };

    #[test]
    fn a_block_is_final_by_votes_for_itself_or_a_descendant() {
        let genesis = Arc::new(genesis(4, 8));
        let trust = Trust::new(Arc::clone(&genesis));
        let first = block_after(&genesis, &genesis.header(), Vec::new()).header;
        let second = block_after(&genesis, &first, Vec::new()).header;
        let third = block_after(&genesis, &second, Vec::new()).header;
        let own = certify(&genesis, genesis.validators(), &first, &[]);
        assert_eq!(trust.verify(&first, &own), Ok(()));
        assert_eq!(trust.verify(&second, &own), Err(CertificateFault::OtherBlock));
        let through =
            certify(&genesis, genesis.validators(), &first, &[second.clone(), third.clone()]);
        assert_eq!(trust.verify(&first, &through), Ok(()));
        let mut gap = through.clone();
        gap.descendants.remove(0);
        assert_eq!(trust.verify(&first, &gap), Err(CertificateFault::Chain));
        let mut other = through.clone();
        other.descendants[1].time_ms += 1;
        assert_eq!(trust.verify(&first, &other), Err(CertificateFault::OtherBlock));
        let mut writer = Writer::new();
        through.encode(&mut writer);
        let octets = writer.into_vec();
        assert_eq!(Certificate::decode(&mut Reader::new(&octets)), Ok(through));
    }

    #[test]
    fn votes_of_another_kind_or_epoch_make_nothing_final() {
        let genesis = Arc::new(genesis(4, 8));
        let trust = Trust::new(Arc::clone(&genesis));
        let header = block_after(&genesis, &genesis.header(), Vec::new()).header;
        let set = genesis.validators();
        let with = |statement| Certificate {
            descendants: Vec::new(),
            quorum: quorum_in(&genesis, set, statement),
        };
        let proposal = proposal_of(&header);
        let notarized = with(Statement::Notarize(proposal));
        assert_eq!(trust.verify(&header, &notarized), Err(CertificateFault::Kind));
        let elsewhere = super::super::vote::Proposal { epoch: 1, ..proposal };
        let later = with(Statement::Finalize(elsewhere));
        assert_eq!(trust.verify(&header, &later), Err(CertificateFault::Epoch));
    }

    /// The end of epoch `epoch`, changing to `next`
    fn boundary(genesis: &Genesis, epoch: u64, next: &ValidatorSet) -> Header {
        let mut header = genesis.header();
        while !(genesis.is_boundary(header.height) && header.epoch == epoch) {
            header = block_after(genesis, &header, Vec::new()).header;
        }
        header.validators_root = next.digest();
        header
    }

    #[test]
    fn validators_change_by_the_votes_of_those_before() {
        let genesis = Arc::new(genesis(4, 2));
        let mut trust = Trust::new(Arc::clone(&genesis));
        let set = |from: u64| ValidatorSet::new((from..from + 4).map(validator).collect()).unwrap();
        let (old, new) = (Arc::clone(genesis.validators()), set(2));
        let header = boundary(&genesis, 3, &new);
        let certificate = certify(&genesis, &old, &header, &[]);
        let transition =
            Transition { header: header.clone(), certificate, validators: new.clone() };
        let mut lying = transition.clone();
        lying.validators = set(5);
        assert_eq!(trust.extend(&lying), Err(TransitionFault::Validators));
        let mut unproven = transition.clone();
        unproven.certificate = certify(&genesis, &new, &header, &[]);
        assert!(matches!(trust.extend(&unproven), Err(TransitionFault::Certificate(_))));
        assert_eq!(trust.extend(&transition), Ok(()));
        assert_eq!(trust.extend(&transition), Ok(()), "again changes nothing");
        assert_eq!(**trust.validators(3), *old);
        assert_eq!(**trust.validators(4), new);
        let earlier = boundary(&genesis, 1, &set(5));
        let certificate = certify(&genesis, &old, &earlier, &[]);
        let rewrite = Transition { header: earlier, certificate, validators: set(5) };
        assert_eq!(trust.extend(&rewrite), Err(TransitionFault::Order));
        // A block of epoch 4 is final by the new ones' votes, not by the old ones'.
        let next = block_after(&genesis, &header, Vec::new()).header;
        let by_new = certify(&genesis, &new, &next, &[]);
        let by_old = certify(&genesis, &old, &next, &[]);
        assert_eq!(trust.verify(&next, &by_new), Ok(()));
        assert!(matches!(trust.verify(&next, &by_old), Err(CertificateFault::Quorum(_))));
    }

    #[test]
    fn a_change_within_an_epoch_is_refused() {
        let genesis = Arc::new(genesis(4, 4));
        let mut trust = Trust::new(Arc::clone(&genesis));
        let new = ValidatorSet::new((1..5).map(validator).collect()).unwrap();
        let mut header = block_after(&genesis, &genesis.header(), Vec::new()).header;
        header.validators_root = new.digest();
        let certificate = certify(&genesis, genesis.validators(), &header, &[]);
        let transition = Transition { header, certificate, validators: new };
        assert_eq!(trust.extend(&transition), Err(TransitionFault::Order));
    }
}
