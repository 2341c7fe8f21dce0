//! Members of a network with the real registry: one joins by the votes of the others, one goes on under another key by
//! its own word, both from the next epoch on; and what they agree on holds with the genesis alone.

use bytes::Bytes;
use futures_util::future::join_all;
use stoq_hypermesh::operation::{Change, Operation, OperationBody};
use stoq_hypermesh::receipt::Receipt;

use super::agreed::{Scene, memory, reached};
use super::process::runtime;
use super::world::{secret, validator};

const EPOCH_BLOCKS: u64 = 64;

#[test]
fn a_node_joins_another_changes_its_key_and_both_count() {
    let scene = Scene::new(EPOCH_BLOCKS);
    // The first four agree; 4 is to join, and 7 is what 3 is to be.
    let numbers = [0, 1, 2, 3, 4, 7];
    let mut nodes: Vec<_> = numbers.iter().map(|number| scene.honest(*number)).collect();
    let clients: Vec<_> = nodes.iter().map(|(validator, _)| validator.client()).collect();
    let views: Vec<_> = nodes.iter().map(|(_, view)| view.clone()).collect();
    let ask = |voter: u64, change| {
        let until = views[0].registry().last_height() + 1_000;
        let (network, body) = (scene.genesis.network(), OperationBody::Vote(change));
        let operation = Operation::by_validator(&secret(voter), network, 1, until, body);
        let client = clients[voter as usize].clone();
        async move { client.submit(Bytes::from(operation.encode())).await.expect("agreed on") }
    };
    let wanted = {
        let mut wanted = [0, 1, 2, 4, 7].map(|number| validator(number).key);
        wanted.sort();
        wanted
    };
    runtime().block_on(async {
        // Votes count in one epoch: they are cast where it does not end meanwhile.
        let mut blocks = clients[0].subscribe(4_096).await;
        while views[0].registry().last_height() % EPOCH_BLOCKS > EPOCH_BLOCKS / 2 {
            blocks.recv().await.expect("it runs");
        }
        let (key, new_key) = (validator(3).key, validator(7).key);
        ask(3, Change::Replace { key, new_key }).await;
        join_all((0..3).map(|voter| ask(voter, Change::Admit(validator(4))))).await;
        for (place, client) in clients.iter().enumerate() {
            let mut blocks = client.subscribe(4_096).await;
            let mut status = client.status().await.expect("it runs");
            while status.epoch == 0 || views[place].registry().last_height() < EPOCH_BLOCKS {
                blocks.recv().await.expect("it runs");
                status = client.status().await.expect("it runs");
            }
            let active: Vec<_> = views[place].registry().validators().to_vec();
            assert!(active.iter().map(|it| it.key).eq(wanted), "{active:?}");
            assert_eq!(status.votes, numbers[place] != 3, "{}", numbers[place]);
        }
    });
    // Of five, four must agree: without the first, none without the new ones.
    let (stopped, _) = nodes.remove(0);
    scene.hub.remove(&validator(0).key);
    stopped.stop().expect("it ran until it was stopped");
    runtime().block_on(async {
        let (_, body) = memory(&scene.alice, &views[4].registry());
        let operation = scene.alice.proven(&views[4].registry(), 1, body).encode();
        let place = clients[4].submit(Bytes::from(operation.clone())).await.expect("agreed on");
        reached(&clients[5], place.height).await;
        let receipt = clients[5].receipt(place.height, place.index).await.expect("it has it");
        let read = Receipt::decode(&receipt.to_vec()).expect("a receipt");
        let verified = read.verify(&scene.genesis).expect("it holds");
        assert!(verified.epoch > 0 && verified.operation == operation);
    });
    for (validator, _) in nodes {
        validator.stop().expect("it ran until it was stopped");
    }
}
