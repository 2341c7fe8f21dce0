//! What is there after a crash: what was made durable, and nothing in its way.

use commonware_runtime::{Runner as _, Supervisor as _, deterministic};

use super::*;
use crate::consensus::evidence::contradiction;
use crate::consensus::testing::{block_after, certify, genesis, validator, vote};
use crate::consensus::validators::ValidatorSet;
use crate::consensus::vote::{Proposal, Statement};

fn finals(count: usize) -> Vec<FinalBlock> {
    let genesis = genesis(4, 1_000);
    let mut parent = genesis.header();
    (0..count)
        .map(|number| {
            let operations = vec![Bytes::from(vec![number as u8; number % 50])];
            let block = block_after(&genesis, &parent, operations);
            parent = block.header.clone();
            let certificate = certify(&genesis, genesis.validators(), &parent, &[]);
            FinalBlock { block, certificate, next: None }
        })
        .collect()
}

/// Runs `first`, crashes the storage, runs `second` on what is left
fn across_a_crash<F, G>(first: F, second: G)
where
    F: AsyncFnOnce(Store<deterministic::Context>),
    G: AsyncFnOnce(Store<deterministic::Context>, Kept),
{
    let (_, checkpoint) =
        deterministic::Runner::seeded(7).start_and_recover(|context| async move {
            let (store, kept) = Store::open(&context, "test").await.unwrap();
            assert!(kept.tip.is_none() && kept.open.is_empty());
            first(store).await;
        });
    deterministic::Runner::from(checkpoint).start(|context| async move {
        let (store, kept) = Store::open(&context.child("again"), "test").await.unwrap();
        second(store, kept).await;
    });
}

#[test]
fn what_was_made_durable_is_there_after_a_crash_and_what_was_not_is_not_in_the_way() {
    let blocks = finals(300);
    across_a_crash(
        async |mut store| {
            for block in &blocks[..250] {
                store.append_final(block).await.unwrap();
            }
            store.sync_finals().await.unwrap().await.unwrap();
            for block in &blocks[250..260] {
                store.append_final(block).await.unwrap();
            }
        },
        async |mut store, kept| {
            let (first, next) = store.heights();
            assert!(first == 1 && (251..=261).contains(&next), "{first} {next}");
            let tip = kept.tip.unwrap();
            assert_eq!(tip, blocks[next as usize - 2]);
            for height in 1..next {
                let found = store.final_block(height).await.unwrap().unwrap();
                assert_eq!(found, blocks[height as usize - 1]);
            }
            assert!(store.final_block(0).await.unwrap().is_none());
            assert!(store.final_block(next).await.unwrap().is_none());
            for block in &blocks[next as usize - 1..] {
                store.append_final(block).await.unwrap();
            }
            assert_eq!(store.heights(), (1, 301));
        },
    );
}

#[test]
fn blocks_that_are_not_final_come_back_until_their_height_is() {
    let blocks = finals(200);
    across_a_crash(
        async |mut store| {
            for block in &blocks[..150] {
                store.append_final(block).await.unwrap();
            }
            store.sync_finals().await.unwrap().await.unwrap();
            store.prune_open(100).await.unwrap();
            for block in &blocks[90..180] {
                store.append_open(&block.block).await.unwrap();
            }
            store.sync_open().await.unwrap().await.unwrap();
        },
        async |_, kept| {
            let heights: Vec<_> = kept.open.iter().map(|block| block.header.height).collect();
            assert_eq!(heights, (151..=180).collect::<Vec<_>>());
        },
    );
}

#[test]
fn evidence_and_changes_of_validators_are_durable_at_once() {
    let genesis = genesis(4, 2);
    let proposal = Proposal { epoch: 0, view: 5, parent_view: 4, block: [1; 32] };
    let other = Proposal { block: [2; 32], ..proposal };
    let votes = [proposal, other].map(|it| vote(&genesis, 1, Statement::Notarize(it)));
    let evidence = contradiction(&votes[0], &votes[1]).unwrap();
    let header = block_after(&genesis, &genesis.header(), Vec::new()).header;
    let transition = Transition {
        certificate: certify(&genesis, genesis.validators(), &header, &[]),
        header,
        validators: ValidatorSet::new((2..5).map(validator).collect()).unwrap(),
    };
    across_a_crash(
        async |mut store| {
            store.keep_evidence(&evidence).await.unwrap();
            store.keep_transition(&transition).await.unwrap();
            store.keep_transition(&transition).await.unwrap();
        },
        async |_, kept| {
            assert_eq!(kept.evidence, std::slice::from_ref(&evidence));
            assert_eq!(kept.transitions, std::slice::from_ref(&transition));
        },
    );
}

#[test]
fn a_block_out_of_order_is_refused() {
    let blocks = finals(3);
    deterministic::Runner::seeded(1).start(|context| async move {
        let (mut store, _) = Store::open(&context, "test").await.unwrap();
        store.append_final(&blocks[0]).await.unwrap();
        let refused = store.append_final(&blocks[2]).await;
        assert!(matches!(refused, Err(StoreError::Gap { height: 2 })));
    });
}
