//! Between the engine's types and those that are written down: keys, votes and certificates. The octets that are signed
//! are the same on both sides, so nothing is ever signed twice.

use std::collections::BTreeMap;

use bytes::Bytes;
use commonware_codec::types::lazy::Lazy;
use commonware_codec::{Decode, DecodeExt, Encode};
use commonware_consensus::simplex::scheme::ed25519;
use commonware_consensus::simplex::types as engine;
use commonware_consensus::types::{Epoch, Participant, Round, View};
use commonware_cryptography::certificate::{Attestation, Signers};
use commonware_cryptography::ed25519::certificate::Certificate as Signatures;
use commonware_cryptography::ed25519::{PrivateKey, PublicKey, Signature};
use commonware_cryptography::sha256;
use commonware_utils::ordered::Set;

use super::quorum::Quorum;
use super::validators::ValidatorSet;
use super::vote::{Proposal, SignedVote, Statement, namespace};
use crate::digest::Digest;
use crate::operation::ValidatorKey;

/// What the engine signs and verifies with
pub(crate) type Scheme = ed25519::Scheme;
/// A header's digest as the engine carries it. It never computes one; the name is only that of the type.
pub(crate) type Payload = sha256::Digest;
/// What the engine tells of
pub(crate) type Activity = engine::Activity<Scheme, Payload>;

pub(crate) fn payload(digest: Digest) -> Payload {
    sha256::Digest(digest)
}

pub(crate) fn digest(payload: &Payload) -> Digest {
    payload.0
}

/// A key as the engine has it; none if it is no key, which no validator of a set has
pub(crate) fn public(key: &ValidatorKey) -> Option<PublicKey> {
    PublicKey::decode(Bytes::copy_from_slice(&key.0)).ok()
}

pub(crate) fn key(public: &PublicKey) -> ValidatorKey {
    let mut octets = [0; 32];
    octets.copy_from_slice(public);
    ValidatorKey(octets)
}

pub(crate) fn private(secret: &[u8; 32]) -> Option<PrivateKey> {
    PrivateKey::decode(Bytes::copy_from_slice(secret)).ok()
}

/// The engine's set of the same validators in the same order
pub(crate) fn participants(set: &ValidatorSet) -> Set<PublicKey> {
    let keys = set.iter().filter_map(|validator| public(&validator.key));
    let participants = Set::from_iter_dedup(keys);
    debug_assert!(participants.iter().map(key).eq(set.iter().map(|validator| validator.key)));
    participants
}

/// What a validator signs with in a network; none if it is not of the set
pub(crate) fn signer(network: &Digest, set: &ValidatorSet, secret: PrivateKey) -> Option<Scheme> {
    Scheme::signer(&namespace(network), participants(set), secret)
}

fn proposal(proposal: &engine::Proposal<Payload>) -> Proposal {
    Proposal {
        epoch: proposal.round.epoch().get(),
        view: proposal.round.view().get(),
        parent_view: proposal.parent.get(),
        block: digest(&proposal.payload),
    }
}

fn engine_proposal(proposal: &Proposal) -> engine::Proposal<Payload> {
    let round = Round::new(Epoch::new(proposal.epoch), View::new(proposal.view));
    engine::Proposal::new(round, View::new(proposal.parent_view), payload(proposal.block))
}

fn raw(signature: &Lazy<Signature>) -> Option<[u8; 64]> {
    signature.get()?.encode().as_ref().try_into().ok()
}

fn signed(statement: Statement, attestation: &Attestation<Scheme>) -> Option<SignedVote> {
    let signature = raw(&attestation.signature)?;
    Some(SignedVote { statement, signer: attestation.signer.get(), signature })
}

/// A vote for a block; none if its signature is no signature at all
pub(crate) fn notarize(vote: &engine::Notarize<Scheme, Payload>) -> Option<SignedVote> {
    signed(Statement::Notarize(proposal(&vote.proposal)), &vote.attestation)
}

/// A vote to go on
pub(crate) fn nullify(vote: &engine::Nullify<Scheme>) -> Option<SignedVote> {
    let (epoch, view) = (vote.round.epoch().get(), vote.round.view().get());
    signed(Statement::Nullify { epoch, view }, &vote.attestation)
}

/// A vote to call a block final
pub(crate) fn finalize(vote: &engine::Finalize<Scheme, Payload>) -> Option<SignedVote> {
    signed(Statement::Finalize(proposal(&vote.proposal)), &vote.attestation)
}

/// Both votes of a contradiction that the engine found. Its fields are private, its encoding is the two votes.
pub(crate) fn contradiction(activity: &Activity) -> Option<[SignedVote; 2]> {
    let octets = match activity {
        engine::Activity::ConflictingNotarize(found) => found.encode(),
        engine::Activity::ConflictingFinalize(found) => found.encode(),
        engine::Activity::NullifyFinalize(found) => found.encode(),
        _ => return None,
    };
    type Notarizes = (engine::Notarize<Scheme, Payload>, engine::Notarize<Scheme, Payload>);
    type Finalizes = (engine::Finalize<Scheme, Payload>, engine::Finalize<Scheme, Payload>);
    type Mixed = (engine::Nullify<Scheme>, engine::Finalize<Scheme, Payload>);
    let both = ((), ());
    Some(match activity {
        engine::Activity::ConflictingNotarize(_) => {
            let (one, other) = Notarizes::decode_cfg(octets, &both).ok()?;
            [notarize(&one)?, notarize(&other)?]
        }
        engine::Activity::ConflictingFinalize(_) => {
            let (one, other) = Finalizes::decode_cfg(octets, &both).ok()?;
            [finalize(&one)?, finalize(&other)?]
        }
        _ => {
            let (one, other) = Mixed::decode_cfg(octets, &both).ok()?;
            [nullify(&one)?, finalize(&other)?]
        }
    })
}

fn quorum(statement: Statement, certificate: &Signatures) -> Option<Quorum> {
    let mut signatures = BTreeMap::new();
    for (signer, signature) in certificate.signers.iter().zip(&certificate.signatures) {
        signatures.insert(signer.get(), raw(signature)?);
    }
    Some(Quorum { statement, signatures })
}

/// A quorum's votes for a block
pub(crate) fn notarization(found: &engine::Notarization<Scheme, Payload>) -> Option<Quorum> {
    quorum(Statement::Notarize(proposal(&found.proposal)), &found.certificate)
}

/// A quorum's votes to go on
pub(crate) fn nullification(found: &engine::Nullification<Scheme>) -> Option<Quorum> {
    let (epoch, view) = (found.round.epoch().get(), found.round.view().get());
    quorum(Statement::Nullify { epoch, view }, &found.certificate)
}

/// A quorum's votes to call a block final
pub(crate) fn finalization(found: &engine::Finalization<Scheme, Payload>) -> Option<Quorum> {
    quorum(Statement::Finalize(proposal(&found.proposal)), &found.certificate)
}

/// A quorum's votes to call a block final, as the engine starts from them
pub(crate) fn engine_finalization(
    quorum: &Quorum,
    set: &ValidatorSet,
) -> Option<engine::Finalization<Scheme, Payload>> {
    let Statement::Finalize(proposal) = &quorum.statement else { return None };
    let count = u32::try_from(set.len()).ok()?;
    let places = quorum.signatures.keys().map(|signer| Participant::new(*signer));
    let mut signatures = Vec::with_capacity(quorum.signatures.len());
    for signature in quorum.signatures.values() {
        let signature = Signature::decode(Bytes::copy_from_slice(signature)).ok()?;
        signatures.push(Lazy::from(signature));
    }
    Some(engine::Finalization {
        proposal: engine_proposal(proposal),
        certificate: Signatures { signers: Signers::new(count, places).ok()?, signatures },
    })
}

#[cfg(test)]
mod tests {
    use commonware_consensus::simplex::elector::{Config, Elector, RoundRobin};
    use commonware_parallel::Sequential;
    use commonware_utils::non_empty;
    use rand_core_10::{TryCryptoRng, TryRng};

    use super::*;
    use crate::consensus::genesis::Genesis;
    use crate::consensus::testing::{genesis, quorum_of, secret_of};

    /// Enough for the random factors of a test's batch
    struct Counter(u64);

    impl TryRng for Counter {
        type Error = std::convert::Infallible;

        fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
            self.try_next_u64().map(|value| (value >> 32) as u32)
        }

        fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            Ok(self.0)
        }

        fn try_fill_bytes(&mut self, octets: &mut [u8]) -> Result<(), Self::Error> {
            for octet in octets {
                *octet = (self.try_next_u64()? >> 32) as u8;
            }
            Ok(())
        }
    }

    impl TryCryptoRng for Counter {}

    fn schemes(genesis: &Genesis) -> Vec<Scheme> {
        let set = genesis.validators();
        let scheme = |key| {
            let secret = private(&secret_of(key).to_bytes()).unwrap();
            signer(&genesis.network(), set, secret).unwrap()
        };
        set.iter().map(|validator| scheme(&validator.key)).collect()
    }

    fn far() -> Proposal {
        // Views and epochs of every length of the engine's variable integers
        Proposal { epoch: 1 << 40, view: 300, parent_view: 127, block: [7; 32] }
    }

    #[test]
    fn keys_are_the_same_and_in_the_same_order_on_both_sides() {
        let genesis = genesis(10, 8);
        let set = genesis.validators();
        let engine = participants(set);
        assert_eq!(engine.len(), 10);
        for (place, validator) in set.iter().enumerate() {
            assert_eq!(key(engine.get(place).unwrap()), validator.key);
            assert_eq!(key(&public(&validator.key).unwrap()), validator.key);
        }
    }

    #[test]
    fn what_the_engine_signs_holds_here() {
        let genesis = genesis(4, 8);
        let (network, set) = (genesis.network(), genesis.validators());
        let round = Round::new(Epoch::new(0), View::new(1 << 20));
        for (place, scheme) in schemes(&genesis).iter().enumerate() {
            let one = engine::Notarize::sign(scheme, engine_proposal(&far())).unwrap();
            let on = engine::Nullify::sign::<Payload>(scheme, round).unwrap();
            let last = engine::Finalize::sign(scheme, engine_proposal(&far())).unwrap();
            let votes = [notarize(&one).unwrap(), nullify(&on).unwrap(), finalize(&last).unwrap()];
            for vote in &votes {
                assert_eq!(vote.signer as usize, place);
                assert!(vote.is_valid(&network, set), "{vote:?}");
            }
            assert_eq!(votes[0].statement, Statement::Notarize(far()));
            assert_eq!(votes[1].statement, Statement::Nullify { epoch: 0, view: 1 << 20 });
        }
    }

    #[test]
    fn a_certificate_of_the_engine_holds_here_and_one_from_here_holds_there() {
        let genesis = genesis(7, 8);
        let (network, set) = (genesis.network(), genesis.validators());
        let schemes = schemes(&genesis);
        let votes: Vec<_> = [1, 2, 3, 5, 6]
            .iter()
            .map(|place| engine::Finalize::sign(&schemes[*place], engine_proposal(&far())).unwrap())
            .collect();
        let made = engine::Finalization::from_finalizes(
            &schemes[0],
            non_empty![@votes.iter()],
            &Sequential,
        )
        .unwrap();
        let quorum = finalization(&made).unwrap();
        assert_eq!(quorum.verify(&network, set), Ok(()));
        assert_eq!(engine_finalization(&quorum, set).unwrap(), made);
        let ours = quorum_of(&genesis, Statement::Finalize(far()), [0, 1, 2, 4, 6]);
        let theirs = engine_finalization(&ours, set).unwrap();
        assert!(theirs.verify(&mut Counter(1), &schemes[0], &Sequential));
    }

    #[test]
    fn contradictions_the_engine_finds_are_read() {
        let genesis = genesis(4, 8);
        let scheme = &schemes(&genesis)[2];
        let other = Proposal { block: [8; 32], ..far() };
        let sign = |proposal: &Proposal| {
            engine::Notarize::sign(scheme, engine_proposal(proposal)).unwrap()
        };
        let found = engine::ConflictingNotarize::new(sign(&far()), sign(&other));
        let votes = contradiction(&Activity::ConflictingNotarize(found)).unwrap();
        assert_eq!(votes.map(|vote| vote.statement), [far(), other].map(Statement::Notarize));
        let round = engine_proposal(&far()).round;
        let on = engine::Nullify::sign::<Payload>(scheme, round).unwrap();
        let last = engine::Finalize::sign(scheme, engine_proposal(&far())).unwrap();
        let found = engine::NullifyFinalize::new(on, last);
        let votes = contradiction(&Activity::NullifyFinalize(found)).unwrap();
        assert!(votes[0].statement.contradicts(&votes[1].statement));
    }

    #[test]
    fn turns_are_those_of_the_engine() {
        let genesis = genesis(5, 8);
        let set = genesis.validators();
        let elector = Config::<Scheme>::build(<RoundRobin>::default(), &participants(set));
        for (epoch, view) in [(0, 1), (0, 7), (3, 1), (3, 12), (1 << 40, 1 << 33)] {
            let round = Round::new(Epoch::new(epoch), View::new(view));
            let place = Elector::<Scheme>::elect(&elector, round, ()).get();
            assert_eq!(set.get(place).unwrap(), set.leader(epoch, view), "{epoch} {view}");
        }
    }
}
