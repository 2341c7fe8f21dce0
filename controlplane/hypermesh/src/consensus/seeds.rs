//! What the fuzzers of agreement begin with, in `fuzz/seeds`: one of everything that others send. The files are committed
//! and must be what this code writes, or the fuzzers would begin with octets that are refused at once.
//!
//! `HYPERMESH_WRITE_SEEDS=1` writes them anew, after a change of an encoding.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::certificate::Transition;
use super::evidence::{Evidence, EvidenceFile, GenesisOnly, contradiction};
use super::genesis::Genesis;
use super::header::{Block, Header};
use super::message::{FinalBlock, Message, Tip};
use super::testing::{block_after, certify, genesis, proposal_of, validator, vote};
use super::validators::ValidatorSet;
use super::vote::Statement;
use crate::merkle;
use crate::proof::Policy;
use crate::receipt::{Receipt, ReceiptMaker};
use crate::registry::GenesisStake;

/// Of which fuzzer, under which name, which octets
type Seed = (&'static str, &'static str, Vec<u8>);

/// The network that the fuzz targets judge by
fn network() -> Genesis {
    genesis(4, 2)
}

fn first_block(genesis: &Genesis) -> Block {
    let operations = ["one", "two", "three"].map(|text| Bytes::from_static(text.as_bytes()));
    block_after(genesis, &genesis.header(), operations.to_vec())
}

/// The last block of the first epoch, which changes the validators
fn change(genesis: &Genesis, first: &Header) -> Transition {
    let validators = ValidatorSet::new((2..6).map(validator).collect()).unwrap();
    let mut header = block_after(genesis, first, Vec::new()).header;
    header.validators_root = validators.digest();
    let certificate = certify(genesis, genesis.validators(), &header, &[]);
    Transition { header, certificate, validators }
}

fn receipts(genesis: &Genesis) -> Vec<Seed> {
    let block = first_block(genesis);
    let transition = change(genesis, &block.header);
    let own = certify(genesis, genesis.validators(), &block.header, &[]);
    let through = certify(
        genesis,
        genesis.validators(),
        &block.header,
        std::slice::from_ref(&transition.header),
    );
    let later = block_after(genesis, &transition.header, block.operations.clone());
    let by_new = certify(genesis, &transition.validators, &later.header, &[]);
    let made = |block: &Block, certificate, transitions| {
        let (header, operations) = (block.header.clone(), block.operations.clone());
        let maker = ReceiptMaker::new(header, operations, certificate, transitions);
        maker.receipt(1).unwrap().to_vec()
    };
    vec![
        ("receipt", "own-votes", made(&block, own, Vec::new())),
        ("receipt", "through-a-descendant", made(&block, through, Vec::new())),
        ("receipt", "later-validators", made(&later, by_new, vec![transition])),
    ]
}

fn evidence(genesis: &Genesis) -> Vec<(&'static str, Evidence)> {
    let block = first_block(genesis);
    let proposal = proposal_of(&block.header);
    let cast = vote(genesis, 1, Statement::Notarize(proposal));
    let other = super::vote::Proposal { block: [9; 32], ..proposal };
    let other = vote(genesis, 1, Statement::Notarize(other));
    let mut dated = block.header.clone();
    dated.time_ms = 0;
    let for_dated = vote(genesis, 2, Statement::Finalize(proposal_of(&dated)));
    let header = Evidence::Header {
        vote: for_dated,
        header: Box::new(dated),
        parent: Box::new(genesis.header()),
    };
    let operation = Evidence::Operation {
        vote: cast.clone(),
        header: Box::new(block.header.clone()),
        index: 1,
        operation: block.operations[1].clone(),
        path: merkle::path(&block.leaves(), 1).unwrap(),
    };
    vec![
        ("contradiction", contradiction(&cast, &other).unwrap()),
        ("header", header),
        ("operation", operation),
        ("block", Evidence::Block { vote: cast, block: Box::new(block) }),
    ]
}

fn messages(genesis: &Genesis) -> Vec<Seed> {
    let block = first_block(genesis);
    let transition = change(genesis, &block.header);
    let certificate = certify(genesis, genesis.validators(), &block.header, &[]);
    let last = Block { header: transition.header.clone(), operations: Vec::new() };
    let blocks = [
        FinalBlock { block: block.clone(), certificate, next: None },
        FinalBlock {
            block: last,
            certificate: transition.certificate.clone(),
            next: Some(transition.validators),
        },
    ];
    let blocks = blocks.iter().map(FinalBlock::to_bytes).collect();
    let cast = vote(genesis, 1, Statement::Finalize(proposal_of(&block.header)));
    let skipped = vote(genesis, 2, Statement::Nullify { epoch: 0, view: 1 });
    let accusation = evidence(genesis).remove(0).1;
    let all = [
        ("block", Message::Block(Box::new(block.clone()))),
        ("want", Message::Want(block.header.digest())),
        ("tip", Message::Tip(Tip { height: 9, lowest: 3 })),
        ("want-range", Message::WantRange { from: 1 }),
        ("range", Message::Range { from: 1, blocks }),
        ("operations", Message::Operations(block.operations)),
        ("votes", Message::Votes(vec![cast, skipped])),
        ("evidence", Message::Evidence(Box::new(accusation))),
    ];
    all.into_iter().map(|(name, message)| ("message", name, message.to_bytes().to_vec())).collect()
}

fn genesis_files() -> Vec<Seed> {
    let stakes = (1..3).map(|number| GenesisStake { key: [number; 32], amount: 7 }).collect();
    let staked = network().with_stakes(stakes).and_then(|it| it.with_policies(vec![Policy::TEST]));
    vec![
        ("genesis", "validators", network().write().into_bytes()),
        ("genesis", "stakes-and-policies", staked.unwrap().write().into_bytes()),
    ]
}

fn all() -> Vec<Seed> {
    let genesis = network();
    let mut seeds = receipts(&genesis);
    seeds.extend(messages(&genesis));
    seeds.extend(genesis_files());
    for (name, evidence) in evidence(&genesis) {
        let file = EvidenceFile { transitions: Vec::new(), evidence };
        seeds.push(("evidence", name, file.to_vec()));
    }
    seeds
}

#[test]
fn the_fuzzers_begin_with_what_this_code_writes() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    for (fuzzer, name, octets) in all() {
        let path = directory.join(fuzzer).join(name);
        if std::env::var_os("HYPERMESH_WRITE_SEEDS").is_some() {
            std::fs::create_dir_all(directory.join(fuzzer)).expect("a directory");
            std::fs::write(&path, &octets).expect("a file");
        }
        let kept = std::fs::read(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        assert_eq!(kept, octets, "{path:?}");
    }
}

#[test]
fn the_seeds_hold_so_that_what_a_fuzzer_makes_of_them_comes_far() {
    let genesis = Arc::new(network());
    for (_, name, octets) in receipts(&genesis) {
        let read = Receipt::decode(&octets).unwrap();
        assert_eq!(read.verify(&genesis).unwrap().index, 1, "{name}");
    }
    for (name, evidence) in evidence(&genesis) {
        let file = EvidenceFile { transitions: Vec::new(), evidence };
        let judged = file.verify(&genesis, &mut GenesisOnly);
        let takes_a_judge = matches!(name, "operation" | "block");
        assert_eq!(judged.is_err(), takes_a_judge, "{name}: {judged:?}");
    }
}
