//! One node that is its own quorum: assets from registration to retirement, each wrong input with its refusal, receipts that
//! hold without it, certificates only by agreement, and everything still there after a kill.

use std::path::Path;

use stoq_appliance_tests::{Node, Options, shared, stoqctl};
use stoq_hypermesh::consensus::certificate::Certificate;
use stoq_hypermesh::consensus::quorum::Quorum;
use stoq_hypermesh::consensus::vote::{Proposal, Statement};
use stoq_hypermesh::receipt::Receipt;
use stoq_hypermesh::requester::RequesterKey;

use super::scene::{
    PATIENCE, agreeing, alone, assets, genesis, register, request, status, text, verify,
};

/// The refusal that stands behind an answer
fn refusal(node: &Node, words: &[&str]) -> (i32, String, String) {
    let words = [words, &["--json"]].concat();
    let answer = node.ctl(&words);
    let message = answer.json()["error"]["message"].as_str().unwrap_or_default().to_owned();
    (answer.code, answer.error_code(), message)
}

#[test]
fn an_asset_lives_by_agreement_and_every_wrong_step_is_refused() {
    let _turn = shared();
    let mut node = alone("alpha", "");
    let beginning = status(&node);
    assert_eq!((beginning["votes"].as_bool(), beginning["quorum"].as_u64()), (Some(true), Some(1)));

    // What the host has is read from it.
    let cpu = node.ask(&["asset", "register", "cpu", "main"]);
    let shown = node.ask(&["asset", "show", &text(&cpu, "asset")]);
    let processors = std::thread::available_parallelism().unwrap().get() as u64;
    assert_eq!(shown["asset"]["capacity"].as_u64(), Some(processors * 1_000));
    let asset = register(&node, "boxes", 10);

    // Goal: totals hold. Method: one more than there is, then all there is, then one more.
    let refused = |words: &[&str], part: &str| {
        let (code, error, message) = refusal(&node, words);
        assert_eq!((code, error.as_str()), (8, "operation-refused"), "{words:?}: {message}");
        assert!(message.contains(part), "{words:?}: {message}");
    };
    refused(&["asset", "register", "container", "boxes", "--capacity", "1"], "registered");
    refused(&["asset", "operate", "allocate", &asset, "--quantity", "11"], "available");
    let taken = node.ask(&["asset", "operate", "allocate", &asset, "--quantity", "10"]);
    let allocation = text(&taken, "allocation");
    refused(&["asset", "operate", "allocate", &asset, "--quantity", "1"], "available");
    refused(&["asset", "operate", "retire", &asset], "allocated");
    node.ask(&["asset", "operate", "use", &allocation]);
    refused(&["asset", "operate", "use", &allocation], "in use");
    assert_eq!(node.ask(&["asset", "show", &asset])["asset"]["state"], "in use");
    node.ask(&["asset", "release", &allocation]);
    refused(&["asset", "release", &allocation], "released");
    assert_eq!(node.ask(&["asset", "show", &asset])["asset"]["state"], "available");
    let (code, error, _) = refusal(&node, &["asset", "show", "container-aaaa"]);
    assert_eq!((code, error.as_str()), (2, "bad-asset"));

    // What was acknowledged is there after a kill, and the chain goes on from where it was.
    let (before, names) = (status(&node)["height"].as_u64().unwrap(), assets(&node));
    node.kill();
    node.launch();
    agreeing(&node);
    assert!(status(&node)["height"].as_u64().unwrap() >= before);
    assert_eq!(assets(&node), names);
    node.ask(&["asset", "operate", "retire", &asset]);
}

#[test]
fn a_receipt_holds_offline_and_nothing_else_does() {
    let _turn = shared();
    let (node, other) = (alone("alpha", ""), alone("other", ""));
    let receipt = node.path("boxes.receipt");
    let words = ["asset", "register", "container", "boxes", "--capacity", "3", "--receipt"];
    node.ask(&[&words[..], &[receipt.to_str().unwrap()]].concat());
    let (own, foreign) = (genesis(&node), genesis(&other));
    let good = verify(&receipt, &own);
    assert_eq!(good.code, 0, "{good:?}");
    assert_eq!(good.json()["proven"], true);
    assert_eq!(good.json()["kind"], "register-asset");

    let wrong = verify(&receipt, &foreign);
    assert_eq!((wrong.code, wrong.json()["proven"].as_bool()), (3, Some(false)), "{wrong:?}");
    assert!(text(&wrong.json(), "reason").contains("another network"));
    let octets = std::fs::read(&receipt).unwrap();
    let changed = node.path("changed.receipt");
    for place in (0..octets.len()).step_by(7) {
        let mut octets = octets.clone();
        octets[place] ^= 1;
        std::fs::write(&changed, octets).unwrap();
        let answer = verify(&changed, &own);
        assert_eq!(answer.code, 3, "octet {place}: {answer:?}");
    }
}

/// A node whose authority demands agreement, and another requester with a stake
fn with_somebody() -> (Node, String) {
    let mut node = Node::prepare("alpha", &Options::default());
    let at = |name: &str| node.path(name).display().to_string();
    let make = |name: &str| {
        let made = stoqctl(&["consensus", "key", "make", &at(name), "--json"]).json();
        (text(&made, "public_key"), text(&made, "requester"))
    };
    let ((own, _), (other, somebody)) = (make("validator.key"), make("somebody.key"));
    let (validator, genesis) = (format!("alpha={own}"), at("genesis.json"));
    let (stake, another) = (format!("{own}=1000"), format!("{other}=10"));
    stoqctl(&[
        "consensus",
        "genesis",
        "make",
        "--network",
        "one",
        "--validator",
        &validator,
        "--stake",
        &stake,
        "--stake",
        &another,
        "--policy",
        "test",
        "--out",
        &genesis,
    ]);
    let key = at("validator.key");
    node.configure(&Options::with_sections(&format!(
        "[hypermesh]\nenabled = true\ngenesis = \"{genesis}\"\nkey = \"{key}\"\nissuance = \"refuse\"\n"
    )));
    node.launch();
    agreeing(&node);
    (node, somebody)
}

#[test]
fn an_asset_certificate_needs_the_owner_and_exactly_this_request() {
    let _turn = shared();
    let (node, somebody) = with_somebody();
    let asset = register(&node, "disk", 5);
    let (first, second) = (request(&node, "first"), request(&node, "second"));
    let (first, second) = (first.to_str().unwrap(), second.to_str().unwrap());
    let receipt = node.path("first.receipt");
    let receipt = receipt.to_str().unwrap();
    let issued = node.ask(&["asset", "certificate", &asset, "--csr", first, "--receipt", receipt]);
    assert!(text(&issued, "chain_pem").contains("BEGIN CERTIFICATE"));
    let name = format!("asset-{asset}.assets.hypermesh");
    let shown = node.ask(&["certificate", "show", &text(&issued, "serial")]);
    assert!(shown.to_string().contains(&name), "{shown}");

    // The agreement to the first request is none to the second.
    let words = ["asset", "certificate", &asset, "--csr", second, "--agreed", receipt];
    let (code, _, message) = refusal(&node, &words);
    assert_eq!(code, 5, "{message}");
    assert!(message.contains("another certificate request"), "{message}");
    // One at a time: the validators do not agree to a second one yet.
    let (code, error, message) = refusal(&node, &["asset", "certificate", &asset, "--csr", second]);
    assert_eq!((code, error.as_str()), (8, "operation-refused"), "{message}");
    // Whoever gave it away gets none, with the receipt of before either.
    let (code, _, message) =
        refusal(&node, &["asset", "transfer", &asset, "--to", &"00".repeat(32)]);
    assert_eq!(code, 8, "a requester that nobody knows: {message}");
    // Agreed to while it was its owner's: whoever gave it away gets none any more.
    let sold = register(&node, "sold", 5);
    let before = node.path("before.receipt").display().to_string();
    super::four::agree_to(&node, &sold, second, &before);
    node.ask(&["asset", "transfer", &sold, "--to", &somebody]);
    let words = ["asset", "certificate", &sold, "--csr", second, "--agreed", &before];
    let (code, _, message) = refusal(&node, &words);
    assert_eq!(code, 5, "{message}");
    assert!(message.contains("another owner"), "{message}");
    let (code, error, _) = refusal(&node, &["asset", "certificate", &sold, "--csr", second]);
    assert_eq!((code, error.as_str()), (8, "operation-refused"));
}

/// The receipt of a block that the key signed beside the final one: the genesis finds no fault with it
fn forged_beside(receipt: &Path, key: &Path) -> Vec<u8> {
    let key = RequesterKey::read(key).unwrap();
    let mut receipt = Receipt::decode(&std::fs::read(receipt).unwrap()).unwrap();
    receipt.header.state_root = [9; 32];
    let Statement::Finalize(signed) = receipt.certificate.quorum.statement else {
        panic!("{:?}", receipt.certificate.quorum.statement)
    };
    let statement = Statement::Finalize(Proposal { block: receipt.header.digest(), ..signed });
    let signature = key.sign(&statement.message(&receipt.header.network));
    let quorum = Quorum { statement, signatures: [(0, signature)].into() };
    receipt.certificate = Certificate { descendants: Vec::new(), quorum };
    receipt.to_vec()
}

#[test]
fn a_receipt_of_another_block_than_the_final_one_certifies_nothing() {
    let _turn = shared();
    let (node, _) = with_somebody();
    let asset = register(&node, "disk", 5);
    let asked = request(&node, "asked");
    let asked = asked.to_str().unwrap();
    let [agreed, forged] = ["agreed.receipt", "forged.receipt"].map(|name| node.path(name));
    super::four::agree_to(&node, &asset, asked, agreed.to_str().unwrap());
    std::fs::write(&forged, forged_beside(&agreed, &node.path("validator.key"))).unwrap();
    assert_eq!(verify(&forged, &genesis(&node)).code, 0);
    let words = ["asset", "certificate", &asset, "--csr", asked, "--agreed"];
    let (code, _, message) = refusal(&node, &[&words[..], &[forged.to_str().unwrap()]].concat());
    assert_eq!(code, 5, "{message}");
    assert!(message.contains("another block than the one that is final"), "{message}");
    node.ask(&[&words[..], &[agreed.to_str().unwrap()]].concat());
}

#[test]
fn nobody_owns_an_asset_but_by_agreement_whatever_is_demanded_of_nodes() {
    let _turn = shared();
    let node = alone("alpha", "");
    let (one, two) = (register(&node, "one", 5), register(&node, "two", 5));
    let csr = request(&node, "disk").display().to_string();
    let receipt = node.path("disk.receipt").display().to_string();
    node.ask(&["asset", "certificate", &one, "--csr", &csr, "--receipt", &receipt]);
    let other = request(&node, "other").display().to_string();
    for (asset, csr, part) in
        [(&one, &other, "another certificate request"), (&two, &csr, "the receipt is for asset")]
    {
        let words = ["asset", "certificate", asset, "--csr", csr, "--agreed", &receipt];
        let (code, _, message) = refusal(&node, &words);
        assert_eq!(code, 5, "{message}");
        assert!(message.contains(part), "{message}");
    }
    // The operator of this host, who may issue to nodes as he likes
    let words = ["certificate", "issue", "--profile", "asset", "--subject", &one];
    let out = node.path("disk.pem").display().to_string();
    let (code, _, message) =
        refusal(&node, &[&words[..], &["--request", &other, "--out", &out]].concat());
    assert_eq!(code, 5, "{message}");
    assert!(message.contains("no receipt was shown"), "{message}");
}

#[test]
fn nodes_join_by_agreement_where_it_is_demanded() {
    let _turn = shared();
    let alpha = alone("alpha", "issuance = \"wait\"\n");
    let beta = Node::start("beta", &stoq_appliance_tests::Options::default());
    let before = status(&alpha)["height"].as_u64().unwrap();
    stoq_appliance_tests::enrol(&alpha, &beta);
    let blocks = alpha.ask(&[
        "consensus",
        "blocks",
        "--from",
        &before.to_string(),
        "--limit",
        "1000",
        "--skip-empty",
    ]);
    assert!(!blocks["blocks"].as_array().unwrap().is_empty(), "nothing was agreed on: {blocks}");
    super::scene::until("the node is known", PATIENCE, || {
        alpha.ask(&["node", "list"]).to_string().contains("beta")
    });
}

#[test]
fn a_node_that_takes_no_part_says_so() {
    let _turn = shared();
    let node = Node::start("alpha", &stoq_appliance_tests::Options::default());
    for words in [&["consensus", "status"][..], &["asset", "list"], &["consensus", "validators"]] {
        let (code, error, _) = refusal(&node, words);
        assert_eq!((code, error.as_str()), (8, "no-hypermesh"), "{words:?}");
    }
}
