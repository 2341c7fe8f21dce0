//! What counts as evidence, what does not, and that it survives being written to a file.

use super::*;
use crate::consensus::testing::{block_after, genesis, proposal_of, vote};
use crate::consensus::vote::{Proposal, Statement};

/// Finds fault with everything that begins with "bad"
struct Strict;

impl Judge for Strict {
    fn operation(&mut self, _: &Header, operation: &[u8]) -> Judgement {
        if operation.starts_with(b"bad") {
            Judgement::Invalid("it begins with bad".to_owned())
        } else {
            Judgement::Valid
        }
    }

    fn block(&mut self, header: &Header, operations: &[Bytes]) -> Judgement {
        operations
            .iter()
            .map(|operation| self.operation(header, operation))
            .find(|found| *found != Judgement::Valid)
            .unwrap_or(Judgement::Valid)
    }
}

fn trust() -> Trust {
    Trust::new(Arc::new(genesis(4, 8)))
}

fn proposal(block: u8) -> Proposal {
    Proposal { epoch: 0, view: 5, parent_view: 4, block: [block; 32] }
}

fn kept(evidence: &Evidence) -> Evidence {
    let octets = Bytes::from(evidence.to_vec());
    for end in 0..octets.len() {
        assert!(Evidence::from_bytes(&octets.slice(..end)).is_err(), "{end}");
    }
    Evidence::from_bytes(&octets).unwrap()
}

#[test]
fn two_votes_that_contradict_name_their_signer_in_a_fresh_process() {
    let trust = trust();
    let genesis = trust.genesis();
    let pairs = [
        (Statement::Notarize(proposal(1)), Statement::Notarize(proposal(2))),
        (Statement::Finalize(proposal(1)), Statement::Finalize(proposal(2))),
        (Statement::Nullify { epoch: 0, view: 5 }, Statement::Finalize(proposal(2))),
    ];
    for (one, other) in pairs {
        for signer in 0..4 {
            let (one, other) = (vote(genesis, signer, one), vote(genesis, signer, other));
            let evidence = contradiction(&one, &other).unwrap();
            assert_eq!(contradiction(&other, &one), Some(evidence.clone()), "one fact, one form");
            let file = EvidenceFile { transitions: Vec::new(), evidence: kept(&evidence) };
            let file = EvidenceFile::from_bytes(&Bytes::from(file.to_vec())).unwrap();
            let finding = file.verify(genesis, &mut GenesisOnly).unwrap();
            assert_eq!(finding.validator, *genesis.validators().get(signer).unwrap());
            assert_eq!((finding.offence, finding.view), (Offence::Equivocation, 5));
        }
    }
}

#[test]
fn what_honest_validators_sign_is_no_contradiction() {
    let trust = trust();
    let genesis = trust.genesis();
    let notarize = vote(genesis, 1, Statement::Notarize(proposal(1)));
    let honest = [
        vote(genesis, 1, Statement::Nullify { epoch: 0, view: 5 }),
        vote(genesis, 1, Statement::Finalize(proposal(1))),
        vote(genesis, 1, Statement::Notarize(Proposal { view: 6, ..proposal(2) })),
        vote(genesis, 2, Statement::Notarize(proposal(2))),
        notarize.clone(),
    ];
    for other in honest {
        assert_eq!(contradiction(&notarize, &other), None);
        let made_up = Evidence::Contradiction(Box::new([notarize.clone(), other]));
        let refused = made_up.verify(&trust, &mut GenesisOnly);
        assert_eq!(refused, Err(EvidenceRefusal::NoContradiction));
    }
}

#[test]
fn spoofed_evidence_is_refused() {
    let trust = trust();
    let genesis = trust.genesis();
    let one = vote(genesis, 1, Statement::Notarize(proposal(1)));
    let other = vote(genesis, 1, Statement::Notarize(proposal(2)));
    for tampered in 0..2 {
        let mut votes = [one.clone(), other.clone()];
        votes[tampered].signature[9] ^= 1;
        let evidence = contradiction(&votes[0], &votes[1]).unwrap();
        let refused = evidence.verify(&trust, &mut GenesisOnly);
        assert_eq!(refused, Err(EvidenceRefusal::Signature));
    }
    // Another's vote under the name of the accused
    let stolen = SignedVote { signer: 1, ..vote(genesis, 2, Statement::Notarize(proposal(2))) };
    let evidence = contradiction(&one, &stolen).unwrap();
    assert_eq!(evidence.verify(&trust, &mut GenesisOnly), Err(EvidenceRefusal::Signature));
    let nobody = SignedVote { signer: 9, ..one.clone() };
    let evidence = contradiction(&nobody, &SignedVote { signer: 9, ..other }).unwrap();
    let refused = evidence.verify(&trust, &mut GenesisOnly);
    assert_eq!(refused, Err(EvidenceRefusal::Signer { epoch: 0 }));
}

#[test]
fn a_vote_for_a_header_that_does_not_follow_names_who_proposed_and_who_agreed() {
    let trust = trust();
    let genesis = trust.genesis();
    let parent = block_after(genesis, &genesis.header(), Vec::new()).header;
    let mut header = block_after(genesis, &parent, Vec::new()).header;
    header.time_ms = parent.time_ms;
    let statement = Statement::Notarize(proposal_of(&header));
    let leader = genesis.validators().leader(0, statement.view()).key;
    for signer in 0..4 {
        let evidence = kept(&Evidence::Header {
            vote: vote(genesis, signer, statement),
            header: Box::new(header.clone()),
            parent: Box::new(parent.clone()),
        });
        let finding = evidence.verify(&trust, &mut GenesisOnly).unwrap();
        let proposed = finding.validator.key == leader;
        let wanted = if proposed { Offence::InvalidProposal } else { Offence::InvalidVote };
        assert_eq!(finding.offence, wanted);
    }
}

#[test]
fn a_header_is_judged_by_its_own_parent_and_its_own_votes_only() {
    let trust = trust();
    let genesis = trust.genesis();
    let parent = block_after(genesis, &genesis.header(), Vec::new()).header;
    let sound = block_after(genesis, &parent, Vec::new()).header;
    let cast = vote(genesis, 0, Statement::Notarize(proposal_of(&sound)));
    let with = |vote: &SignedVote, header: &Header, parent: &Header| Evidence::Header {
        vote: vote.clone(),
        header: Box::new(header.clone()),
        parent: Box::new(parent.clone()),
    };
    let refused = |evidence: Evidence| evidence.verify(&trust, &mut GenesisOnly).unwrap_err();
    assert_eq!(refused(with(&cast, &sound, &parent)), EvidenceRefusal::Valid);
    // A later parent would make the time a fault.
    let mut later = parent.clone();
    later.time_ms += 100;
    assert_eq!(refused(with(&cast, &sound, &later)), EvidenceRefusal::OtherParent);
    let mut faulty = sound.clone();
    faulty.height += 1;
    assert_eq!(refused(with(&cast, &faulty, &parent)), EvidenceRefusal::OtherBlock);
    let on = vote(genesis, 0, Statement::Nullify { epoch: 0, view: 2 });
    assert_eq!(refused(with(&on, &faulty, &parent)), EvidenceRefusal::OtherBlock);
}

#[test]
fn an_operation_is_judged_where_it_stands() {
    let trust = trust();
    let genesis = trust.genesis();
    let operations: Vec<_> = ["good", "bad one", "fine"]
        .iter()
        .map(|text| Bytes::from_static(text.as_bytes()))
        .collect();
    let block = block_after(genesis, &genesis.header(), operations);
    let leaves = block.leaves();
    let cast = vote(genesis, 3, Statement::Notarize(proposal_of(&block.header)));
    let shown = |index: usize, operation: &Bytes| Evidence::Operation {
        vote: cast.clone(),
        header: Box::new(block.header.clone()),
        index: index as u32,
        operation: operation.clone(),
        path: merkle::path(&leaves, index).unwrap(),
    };
    let evidence = kept(&shown(1, &block.operations[1]));
    let finding = evidence.verify(&trust, &mut Strict).unwrap();
    assert_eq!(finding.reason, "it begins with bad");
    let unjudged = EvidenceRefusal::Unjudged { parent_height: 0 };
    assert_eq!(evidence.verify(&trust, &mut GenesisOnly), Err(unjudged));
    let honest = shown(0, &block.operations[0]);
    assert_eq!(honest.verify(&trust, &mut Strict), Err(EvidenceRefusal::Valid));
    let planted = shown(0, &Bytes::from_static(b"bad planted"));
    assert_eq!(planted.verify(&trust, &mut Strict), Err(EvidenceRefusal::OtherOperation));
}

#[test]
fn a_block_is_judged_whole() {
    let trust = trust();
    let genesis = trust.genesis();
    let block = block_after(genesis, &genesis.header(), vec![Bytes::from_static(b"bad")]);
    let cast = vote(genesis, 2, Statement::Finalize(proposal_of(&block.header)));
    let evidence = Evidence::Block { vote: cast.clone(), block: Box::new(block.clone()) };
    let evidence = kept(&evidence);
    assert!(evidence.verify(&trust, &mut Strict).is_ok());
    let mut planted = block;
    planted.operations.push(Bytes::from_static(b"bad too"));
    let evidence = Evidence::Block { vote: cast, block: Box::new(planted) };
    assert_eq!(evidence.verify(&trust, &mut Strict), Err(EvidenceRefusal::OtherOperation));
}

#[test]
fn the_registry_judges_by_what_it_hands_over() {
    use crate::registry::EvidenceJudge;
    let genesis = Arc::new(genesis(4, 8));
    let judge = RegistryJudge::new(Arc::clone(&genesis));
    let members = |_: u64| genesis.validators().iter().cloned().collect::<Vec<_>>();
    let one = vote(&genesis, 1, Statement::Notarize(proposal(1)));
    let other = vote(&genesis, 1, Statement::Notarize(proposal(2)));
    let octets = contradiction(&one, &other).unwrap().to_vec();
    let network = genesis.network();
    let finding = judge.judge(&network, &members, &octets).unwrap();
    assert_eq!(finding.culprit, genesis.validators().get(1).unwrap().key);
    assert!(judge.judge(&[0; 32], &members, &octets).is_err());
    assert!(judge.judge(&network, &members, &octets[1..]).is_err());
    assert!(judge.judge(&network, &|_| Vec::new(), &octets).is_err());
    // Octets that are no operation convict who voted for them; a whole block takes the state.
    let block = block_after(&genesis, &genesis.header(), vec![Bytes::from_static(b"none")]);
    let cast = vote(&genesis, 3, Statement::Notarize(proposal_of(&block.header)));
    let part = Evidence::Operation {
        vote: cast.clone(),
        header: Box::new(block.header.clone()),
        index: 0,
        operation: block.operations[0].clone(),
        path: Vec::new(),
    };
    assert!(judge.judge(&network, &members, &part.to_vec()).is_ok());
    let whole = Evidence::Block { vote: cast, block: Box::new(block) };
    let refused = judge.judge(&network, &members, &whole.to_vec()).unwrap_err();
    assert!(refused.contains("state"), "{refused}");
}
