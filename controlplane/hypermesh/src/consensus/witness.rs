//! Who said what in each view, as far as it reached this validator: votes are held against each other, and against
//! blocks found invalid. It finds evidence, and it says when others should see what is held here. Nothing is believed
//! unsigned: a vote counts against its signer only once its signature was checked.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::evidence::{Evidence, contradiction};
use super::header::{Block, Header};
use super::quorum::Quorum;
use super::validators::ValidatorSet;
use super::vote::{SignedVote, Statement};
use crate::digest::Digest;
use crate::merkle;

/// Views that are remembered
pub const VIEWS_LIMIT: usize = 512;
/// How far above the highest view known one may be that others tell of
pub const AHEAD_LIMIT: u64 = 16;
/// Votes of one kind that are kept of one signer in one view: two contradict each other, and the first may be unsigned
const VOTES_LIMIT: usize = 4;
/// Blocks found invalid that are remembered
const INVALID_LIMIT: usize = 64;

/// An epoch and a view of it
pub type Round = (u64, u64);

/// Why a block is invalid, in the form in which it is held against who voted for it
#[derive(Clone, Debug)]
pub enum Invalid {
    /// Its header does not follow this parent
    Header {
        /// The block's header
        header: Box<Header>,
        /// The parent's
        parent: Box<Header>,
    },
    /// The operation at this place is invalid in itself
    Operation {
        /// The block
        block: Arc<Block>,
        /// The place
        index: u32,
    },
    /// On the state after its parent
    Block(Arc<Block>),
}

impl Invalid {
    fn against(&self, vote: &SignedVote) -> Option<Evidence> {
        let vote = vote.clone();
        Some(match self {
            Self::Header { header, parent } => {
                Evidence::Header { vote, header: header.clone(), parent: parent.clone() }
            }
            Self::Operation { block, index } => {
                let place = usize::try_from(*index).ok()?;
                Evidence::Operation {
                    vote,
                    header: Box::new(block.header.clone()),
                    index: *index,
                    operation: block.operations.get(place)?.clone(),
                    path: merkle::path(&block.leaves(), place)?,
                }
            }
            Self::Block(block) => Evidence::Block { vote, block: Box::new((**block).clone()) },
        })
    }
}

#[derive(Debug)]
struct Seen {
    vote: SignedVote,
    /// Whether the signature holds, once that was looked at
    holds: Option<bool>,
}

impl Seen {
    fn holds(&mut self, network: &Digest, set: &ValidatorSet) -> bool {
        *self.holds.get_or_insert_with(|| self.vote.is_valid(network, set))
    }
}

#[derive(Debug, Default)]
struct Votes {
    seen: Vec<Seen>,
    told: bool,
}

/// Votes of the last views
#[derive(Debug)]
pub struct Witness {
    network: Digest,
    rounds: BTreeMap<Round, Votes>,
    invalid: HashMap<Digest, Invalid>,
    invalid_order: Vec<Digest>,
}

fn same_kind(one: &Statement, other: &Statement) -> bool {
    std::mem::discriminant(one) == std::mem::discriminant(other)
}

impl Witness {
    /// Has seen nothing
    pub fn new(network: Digest) -> Self {
        let (rounds, invalid) = (BTreeMap::new(), HashMap::new());
        Self { network, rounds, invalid, invalid_order: Vec::new() }
    }

    /// Whether a view is one that votes are still taken of from others
    pub fn is_current(&self, round: Round) -> bool {
        let Some((newest, _)) = self.rounds.last_key_value() else { return false };
        let Some((oldest, _)) = self.rounds.first_key_value() else { return false };
        let reached = round.0 == newest.0 && round.1 <= newest.1.saturating_add(AHEAD_LIMIT);
        round >= *oldest && (round.0 < newest.0 || reached)
    }

    /// Whether this very vote is known
    pub fn knows(&self, vote: &SignedVote) -> bool {
        let round = (vote.statement.epoch(), vote.statement.view());
        self.rounds.get(&round).is_some_and(|votes| votes.seen.iter().any(|it| it.vote == *vote))
    }

    /// Takes in a vote of a validator of `set`, and returns what it proves together with what is known
    pub fn observe(
        &mut self,
        vote: SignedVote,
        holds: Option<bool>,
        set: &ValidatorSet,
    ) -> Vec<Evidence> {
        let round = (vote.statement.epoch(), vote.statement.view());
        let network = self.network;
        let votes = self.rounds.entry(round).or_default();
        let mut found = Vec::new();
        let mine = |seen: &&mut Seen| seen.vote.signer == vote.signer;
        if let Some(known) = votes.seen.iter_mut().filter(mine).find(|seen| seen.vote == vote) {
            known.holds = known.holds.or(holds);
            return found;
        }
        let of_kind = |seen: &&mut Seen| same_kind(&seen.vote.statement, &vote.statement);
        if votes.seen.iter_mut().filter(mine).filter(of_kind).count() >= VOTES_LIMIT {
            return found;
        }
        let mut new = Seen { vote: vote.clone(), holds };
        for known in votes.seen.iter_mut().filter(mine) {
            let Some(evidence) = contradiction(&known.vote, &vote) else { continue };
            if known.holds(&network, set) && new.holds(&network, set) {
                found.push(evidence);
                break;
            }
        }
        if let Some(invalid) = vote.statement.block().and_then(|block| self.invalid.get(block))
            && new.holds(&network, set)
        {
            found.extend(invalid.against(&vote));
        }
        votes.seen.push(new);
        while self.rounds.len() > VIEWS_LIMIT {
            self.rounds.pop_first();
        }
        found
    }

    /// Takes in a certificate: each signature in it is a vote, already known to hold
    pub fn observe_quorum(&mut self, quorum: &Quorum, set: &ValidatorSet) -> Vec<Evidence> {
        quorum.votes().flat_map(|vote| self.observe(vote, Some(true), set)).collect()
    }

    /// A block is invalid; returns what that proves of those who voted for it in its epoch, whose validators are `set`
    pub fn invalid(
        &mut self,
        block: Digest,
        invalid: Invalid,
        epoch: u64,
        set: &ValidatorSet,
    ) -> Vec<Evidence> {
        let network = self.network;
        let mut found = Vec::new();
        let rounds = self.rounds.range_mut((epoch, 0)..=(epoch, u64::MAX));
        for seen in rounds.flat_map(|(_, votes)| &mut votes.seen) {
            if seen.vote.statement.block() == Some(&block) && seen.holds(&network, set) {
                found.extend(invalid.against(&seen.vote));
            }
        }
        if self.invalid.insert(block, invalid).is_none() {
            self.invalid_order.push(block);
            if self.invalid_order.len() > INVALID_LIMIT {
                let oldest = self.invalid_order.remove(0);
                self.invalid.remove(&oldest);
            }
        }
        found
    }

    /// Who supports another block than this one in a view. Then either its leader proposed two, or who voted for the
    /// other made it up; others may know which.
    pub fn dissenters(&mut self, round: Round, block: &Digest, set: &ValidatorSet) -> Vec<u32> {
        let network = self.network;
        let Some(votes) = self.rounds.get_mut(&round) else { return Vec::new() };
        let other = |seen: &mut Seen| {
            let statement = &seen.vote.statement;
            matches!(statement, Statement::Notarize(proposal) if proposal.block != *block)
                && seen.holds(&network, set)
        };
        let seen = votes.seen.iter_mut();
        seen.filter_map(|seen| other(seen).then_some(seen.vote.signer)).collect()
    }

    /// Whether two blocks have supporters in a view
    pub fn is_split(&mut self, round: Round, set: &ValidatorSet) -> bool {
        let Some(votes) = self.rounds.get(&round) else { return false };
        let first = votes.seen.iter().find_map(|seen| match seen.vote.statement {
            Statement::Notarize(proposal) => Some(proposal.block),
            _ => None,
        });
        first.is_some_and(|block| !self.dissenters(round, &block, set).is_empty())
    }

    /// What others should see of a view, once: for each signer and block a vote that supports it. `only` limits it to
    /// one signer.
    pub fn tell(&mut self, round: Round, only: Option<u32>, set: &ValidatorSet) -> Vec<SignedVote> {
        let network = self.network;
        let Some(votes) = self.rounds.get_mut(&round).filter(|votes| !votes.told) else {
            return Vec::new();
        };
        let told: Vec<SignedVote> = votes
            .seen
            .iter_mut()
            .filter(|seen| only.is_none_or(|signer| seen.vote.signer == signer))
            .filter(|seen| matches!(seen.vote.statement, Statement::Notarize(_)))
            .filter_map(|seen| seen.holds(&network, set).then(|| seen.vote.clone()))
            .take(super::message::VOTES_LIMIT)
            .collect();
        votes.told = !told.is_empty();
        told
    }

    /// Forgets views below one
    pub fn forget_below(&mut self, round: Round) {
        self.rounds = self.rounds.split_off(&round);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::certificate::Trust;
    use crate::consensus::evidence::{GenesisOnly, Offence};
    use crate::consensus::genesis::Genesis;
    use crate::consensus::testing::{block_after, genesis, proposal_of, quorum_of, vote};
    use crate::consensus::vote::Proposal;

    const ROUND: Round = (0, 5);

    fn notarize(block: u8) -> Statement {
        Statement::Notarize(Proposal { epoch: 0, view: 5, parent_view: 4, block: [block; 32] })
    }

    fn finalize(block: u8) -> Statement {
        Statement::Finalize(Proposal { epoch: 0, view: 5, parent_view: 4, block: [block; 32] })
    }

    fn witness(genesis: &Genesis) -> Witness {
        Witness::new(genesis.network())
    }

    fn named(genesis: &Genesis, evidence: &[Evidence]) -> Vec<u32> {
        let trust = Trust::new(Arc::new(genesis.clone()));
        let signers = evidence.iter().map(|evidence| {
            let finding = evidence.verify(&trust, &mut GenesisOnly).unwrap();
            genesis.validators().index(&finding.validator.key).unwrap()
        });
        signers.collect()
    }

    #[test]
    fn the_second_of_two_votes_convicts_in_whatever_order_they_come() {
        let genesis = genesis(4, 8);
        let set = genesis.validators();
        let nullify = Statement::Nullify { epoch: 0, view: 5 };
        let pairs =
            [(notarize(1), notarize(2)), (finalize(1), finalize(2)), (nullify, finalize(1))];
        for (one, other) in pairs {
            for (one, other) in [(one, other), (other, one)] {
                let mut witness = witness(&genesis);
                assert_eq!(witness.observe(vote(&genesis, 2, one), None, set), []);
                assert_eq!(witness.observe(vote(&genesis, 2, one), None, set), [], "a repeat");
                assert_eq!(witness.observe(vote(&genesis, 3, other), None, set), []);
                let found = witness.observe(vote(&genesis, 2, other), None, set);
                assert_eq!(named(&genesis, &found), [2]);
            }
        }
    }

    #[test]
    fn an_unsigned_vote_neither_convicts_nor_hides_the_next() {
        let genesis = genesis(4, 8);
        let set = genesis.validators();
        let mut witness = witness(&genesis);
        let mut forged = vote(&genesis, 1, notarize(9));
        forged.signature[3] ^= 1;
        assert_eq!(witness.observe(forged.clone(), None, set), []);
        assert_eq!(witness.observe(vote(&genesis, 1, notarize(1)), None, set), []);
        assert!(witness.dissenters(ROUND, &[1; 32], set).is_empty());
        let found = witness.observe(vote(&genesis, 1, notarize(2)), None, set);
        assert_eq!(named(&genesis, &found), [1]);
        assert!(witness.tell(ROUND, None, set).iter().all(|told| *told != forged));
    }

    #[test]
    fn a_certificate_is_held_against_what_was_seen() {
        let genesis = genesis(4, 8);
        let set = genesis.validators();
        let mut witness = witness(&genesis);
        witness.observe(vote(&genesis, 3, notarize(2)), None, set);
        let quorum = quorum_of(&genesis, notarize(1), [0, 1, 3]);
        let found = witness.observe_quorum(&quorum, set);
        assert_eq!(named(&genesis, &found), [3]);
    }

    #[test]
    fn votes_for_an_invalid_block_convict_before_and_after_it_was_found() {
        let genesis = genesis(4, 8);
        let set = genesis.validators();
        let mut header = block_after(&genesis, &genesis.header(), Vec::new()).header;
        header.time_ms = 0;
        let statement = Statement::Notarize(proposal_of(&header));
        let mut witness = witness(&genesis);
        assert_eq!(witness.observe(vote(&genesis, 0, statement), None, set), []);
        let mut forged = vote(&genesis, 2, statement);
        forged.signature[0] ^= 1;
        witness.observe(forged, None, set);
        let invalid = Invalid::Header {
            header: Box::new(header.clone()),
            parent: Box::new(genesis.header()),
        };
        let before = witness.invalid(header.digest(), invalid, 0, set);
        assert_eq!(named(&genesis, &before), [0]);
        let after = witness.observe(vote(&genesis, 3, statement), None, set);
        assert_eq!(named(&genesis, &after), [3]);
        let trust = Trust::new(Arc::new(genesis.clone()));
        let leader = set.index(&set.leader(0, statement.view()).key).unwrap();
        for (evidence, signer) in before.iter().chain(&after).zip([0, 3]) {
            let offence = evidence.verify(&trust, &mut GenesisOnly).unwrap().offence;
            assert_eq!(offence == Offence::InvalidProposal, signer == leader);
        }
    }

    #[test]
    fn others_are_told_once_and_only_where_blocks_compete() {
        let genesis = genesis(4, 8);
        let set = genesis.validators();
        let mut witness = witness(&genesis);
        witness.observe(vote(&genesis, 0, notarize(1)), None, set);
        witness.observe(vote(&genesis, 1, notarize(1)), None, set);
        assert!(!witness.is_split(ROUND, set));
        assert_eq!(witness.dissenters(ROUND, &[2; 32], set), [0, 1]);
        witness.observe(vote(&genesis, 2, notarize(2)), None, set);
        assert_eq!(witness.dissenters(ROUND, &[1; 32], set), [2]);
        assert!(witness.is_split(ROUND, set));
        assert_eq!(witness.tell((0, 6), None, set), []);
        let told = witness.tell(ROUND, None, set);
        assert_eq!(told.len(), 3);
        assert_eq!(witness.tell(ROUND, None, set), [], "told already");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let genesis = genesis(4, 8);
        let set = genesis.validators();
        let mut witness = witness(&genesis);
        for view in 1..2 * VIEWS_LIMIT as u64 {
            let statement = Statement::Nullify { epoch: 0, view };
            witness.observe(vote(&genesis, 0, statement), Some(true), set);
        }
        assert_eq!(witness.rounds.len(), VIEWS_LIMIT);
        let newest = 2 * VIEWS_LIMIT as u64 - 1;
        assert!(witness.is_current((0, newest + AHEAD_LIMIT)));
        assert!(!witness.is_current((0, newest + AHEAD_LIMIT + 1)));
        assert!(!witness.is_current((0, 3)));
        assert!(!witness.is_current((1, 1)), "of an epoch that is not known here");
        for block in 0..50 {
            witness.observe(vote(&genesis, 1, notarize(block)), Some(false), set);
        }
        assert!(witness.rounds.values().all(|votes| votes.seen.len() <= 2 * VOTES_LIMIT));
        witness.forget_below((0, newest));
        assert_eq!(witness.rounds.len(), 1);
    }
}
