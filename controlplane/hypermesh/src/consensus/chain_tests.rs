//! The tree over the last final block: ways back, gaps, forks, and its limits.

use bytes::Bytes;

use super::*;
use crate::consensus::genesis::Genesis;
use crate::consensus::testing::{block_after, genesis, validator};

fn line(genesis: &Genesis, length: usize) -> Vec<Block> {
    let mut parent = genesis.header();
    (0..length)
        .map(|_| {
            let block = block_after(genesis, &parent, Vec::new());
            parent = block.header.clone();
            block
        })
        .collect()
}

#[test]
fn the_way_back_to_the_last_final_block_is_found_or_its_gap() {
    let genesis = genesis(4, 100);
    let blocks = line(&genesis, 4);
    let digests: Vec<_> = blocks.iter().map(|block| block.header.digest()).collect();
    let mut chain = Chain::new(genesis.header());
    for place in [3, 1, 0] {
        assert!(chain.insert(digests[place], blocks[place].clone(), None));
        assert!(!chain.insert(digests[place], blocks[place].clone(), None), "twice");
    }
    assert_eq!(chain.lineage(&digests[1]), Lineage::Whole(digests[..2].to_vec()));
    assert_eq!(chain.lineage(&digests[3]), Lineage::Missing(digests[2]));
    chain.insert(digests[2], blocks[2].clone(), None);
    assert_eq!(chain.lineage(&digests[3]), Lineage::Whole(digests.clone()));
    chain.advance(blocks[0].header.clone());
    assert_eq!(chain.lineage(&digests[3]), Lineage::Whole(digests[1..].to_vec()));
    assert_eq!(chain.lineage(&digests[0]), Lineage::Whole(Vec::new()));
    assert!(matches!(chain.place(&digests[0]), Place::Final(1)));
    assert_eq!(chain.header(&digests[0]), Some(&blocks[0].header));
    assert_eq!(chain.header(&genesis.header().digest()), Some(&genesis.header()));
}

#[test]
fn a_block_beside_a_final_one_is_a_fork() {
    let genesis = genesis(4, 100);
    let blocks = line(&genesis, 2);
    let beside = block_after(&genesis, &genesis.header(), vec![Bytes::from_static(b"other")]);
    let above = block_after(&genesis, &beside.header, Vec::new());
    let digest = |block: &Block| block.header.digest();
    let mut chain = Chain::new(genesis.header());
    for block in [&blocks[0], &beside, &above] {
        chain.insert(digest(block), block.clone(), None);
    }
    chain.advance(blocks[0].header.clone());
    assert_eq!(chain.lineage(&digest(&above)), Lineage::Forked);
    assert_eq!(chain.lineage(&digest(&beside)), Lineage::Missing(digest(&beside)));
    assert!(!chain.insert(digest(&beside), beside, None), "its height is decided");
}

#[test]
fn one_sender_cannot_crowd_out_others() {
    let genesis = genesis(4, 100);
    let mut chain = Chain::new(genesis.header());
    let honest = line(&genesis, 1).remove(0);
    chain.insert(honest.header.digest(), honest.clone(), Some(validator(1).key));
    for number in 0..100_u64 {
        let operation = Bytes::copy_from_slice(&number.to_be_bytes());
        let flood = block_after(&genesis, &genesis.header(), vec![operation]);
        chain.insert(flood.header.digest(), flood, Some(validator(2).key));
    }
    assert_eq!(chain.pending(), UNASKED_LIMIT + 1);
    assert!(chain.get(&honest.header.digest()).is_some());
}

#[test]
fn blocks_far_above_are_not_taken() {
    let genesis = genesis(4, 100_000);
    let mut chain = Chain::new(genesis.header());
    let mut far = line(&genesis, 1).remove(0);
    far.header.height = HEIGHT_LIMIT + 1;
    assert!(!chain.insert(far.header.digest(), far.clone(), None));
    far.header.height = HEIGHT_LIMIT;
    assert!(chain.insert(far.header.digest(), far, None));
}

#[test]
fn memory_is_bounded_and_certified_blocks_stay() {
    let genesis = genesis(4, 100);
    let mut chain = Chain::new(genesis.header());
    chain.limit_bytes = 64 << 10;
    let big = |number: u8| {
        let operation = Bytes::from(vec![number; 4 << 10]);
        block_after(&genesis, &genesis.header(), vec![operation])
    };
    let first = big(0);
    let kept = first.header.digest();
    chain.insert(kept, first, None);
    chain.certified(&kept);
    for number in 1..80 {
        let block = big(number);
        assert!(chain.insert(block.header.digest(), block, None));
    }
    assert!(chain.bytes <= chain.limit_bytes && chain.pending() < 20);
    assert!(chain.get(&kept).is_some());
}
