//! Who validates changes by vote, from one epoch to the next: one joins, one leaves, one goes on under another key, and
//! nothing that was agreed on is lost by it.

use std::path::Path;

use stoq_appliance_tests::{Node, Options, enrol, shared};

use super::four::{NAMES, make_key, of_epochs, with_key};
use super::scene::{PATIENCE, agreeing, assets, register, status, text, until};

/// The keys of the validators that a node lists, with their nodes
fn validators(node: &Node) -> Vec<(String, String)> {
    let listed = node.ask(&["consensus", "validators"]);
    let all = listed["validators"].as_array().unwrap().iter();
    let mut all: Vec<_> = all.map(|one| (text(one, "node"), text(one, "key"))).collect();
    all.sort();
    all
}

fn names(node: &Node) -> Vec<String> {
    validators(node).into_iter().map(|(name, _)| name).collect()
}

fn key_of(node: &Node, name: &str) -> String {
    let of = validators(node).into_iter().find(|(node, _)| node == name);
    of.expect("it validates").1
}

#[test]
fn validators_join_leave_and_change_keys_by_vote() {
    let _turn = shared();
    let mut nodes = of_epochs(&NAMES, "24");
    let genesis = nodes[0].path("genesis.json").display().to_string();
    register(&nodes[0], "before", 1);

    // One that follows has no vote; with those of a quorum it is one of them from the next epoch on.
    let mut epsilon = Node::prepare("epsilon", &Options::default());
    let key = make_key(&epsilon, "validator.key");
    let section = with_key(&nodes, &epsilon, &genesis, "wait", "validator.key");
    epsilon.configure(&Options::with_sections(&section));
    epsilon.launch();
    enrol(&nodes[0], &epsilon);
    agreeing(&epsilon);
    let admit = format!("epsilon={key}");
    let refused = epsilon.ctl(&["consensus", "change", "admit", &admit, "--json"]);
    assert_eq!(refused.error_code(), "no-validator", "{refused:?}");
    for (number, node) in nodes[..3].iter().enumerate() {
        let voted = node.ask(&["consensus", "change", "admit", &admit]);
        assert_eq!((&voted["votes"], &voted["quorum"]), (&(number + 1).into(), &3.into()));
        assert_eq!(voted["adopted"], number == 2, "{voted}");
    }
    let again = nodes[0].ctl(&["consensus", "change", "admit", &admit, "--json"]);
    assert_eq!(again.error_code(), "operation-refused", "{again:?}");
    until("epsilon validates", PATIENCE, || {
        status(&epsilon)["votes"] == true && names(&nodes[0]).contains(&"epsilon".to_owned())
    });

    // Leaving is one's own decision, and another's needs a quorum.
    let delta = key_of(&nodes[0], "delta");
    let beta = key_of(&nodes[0], "beta");
    let wanted = nodes[3].ask(&["consensus", "change", "remove", &beta]);
    assert_eq!(wanted["adopted"], false, "{wanted}");
    let gone = nodes[3].ask(&["consensus", "change", "remove", &delta]);
    assert_eq!(gone["adopted"], true, "{gone}");
    until("delta does not validate any more", PATIENCE, || {
        names(&nodes[0]) == ["alpha", "beta", "epsilon", "gamma"]
    });

    // Another key: voted for under the old one, used from the epoch in which it counts
    let new_key = make_key(&nodes[1], "second.key");
    let replaced = nodes[1].ask(&["consensus", "change", "replace", &beta, &new_key]);
    assert_eq!(replaced["adopted"], true, "{replaced}");
    until("beta's new key counts", PATIENCE, || key_of(&nodes[0], "beta") == new_key);
    let section = with_key(&nodes, &nodes[1], &genesis, "wait", "second.key");
    nodes[1].configure(&Options::with_sections(&section));
    nodes[1].restart();
    until("beta validates under its new key", PATIENCE, || {
        let now = status(&nodes[1]);
        now["votes"] == true && text(&now, "key") == new_key
    });

    // With gamma away, beta under its new key and epsilon are needed for a quorum of three.
    nodes[2].kill();
    register(&nodes[0], "after", 1);
    nodes[2].launch();
    agreeing(&nodes[2]);
    for node in nodes.iter().chain([&epsilon]) {
        let what = format!("{} knows everything", node.name());
        until(&what, PATIENCE, || assets(node) == ["after", "before"]);
    }
    let evidence = nodes[0].ask(&["consensus", "evidence", "list"]);
    assert_eq!(evidence["cases"].as_array().map(Vec::len), Some(0), "{evidence}");
}

/// Copies a directory with everything below it
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (entry, to) = entry.map(|entry| (entry.path(), to.join(entry.file_name()))).unwrap();
        if entry.is_dir() {
            copy(&entry, &to);
        } else {
            std::fs::copy(&entry, &to).unwrap();
        }
    }
}

#[test]
fn a_network_of_one_grows_by_a_node_that_begins_with_its_blocks() {
    let _turn = shared();
    let mut nodes = of_epochs(&["alpha"], "24");
    let genesis = nodes[0].path("genesis.json").display().to_string();
    register(&nodes[0], "before", 1);
    let height = |node: &Node| status(node)["height"].as_u64().unwrap();
    let copied = height(&nodes[0]);
    nodes[0].kill();

    // Nobody is reached, so what beta knows it has from the copy.
    let mut beta = Node::prepare("beta", &Options::default());
    let key = make_key(&beta, "validator.key");
    let section = with_key(&nodes, &beta, &genesis, "wait", "validator.key");
    beta.configure(&Options::with_sections(&section));
    for part in ["blocks", "registry"] {
        let [from, to] = [&nodes[0], &beta].map(|node| node.state().join("hypermesh").join(part));
        copy(&from, &to);
    }
    beta.launch();
    until("beta knows the blocks", PATIENCE, || height(&beta) >= copied);
    assert_eq!(assets(&beta), ["before"]);

    nodes[0].launch();
    enrol(&nodes[0], &beta);
    let admitted = nodes[0].ask(&["consensus", "change", "admit", &format!("beta={key}")]);
    assert_eq!(admitted["adopted"], true, "{admitted}");
    until("both validate", PATIENCE, || {
        names(&nodes[0]) == ["alpha", "beta"] && status(&beta)["votes"] == true
    });
    assert_eq!(status(&beta)["quorum"], 2);
    register(&nodes[0], "after", 1);
    until("beta knows everything", PATIENCE, || assets(&beta) == ["after", "before"]);
}

#[test]
fn stake_is_given_and_more_than_there_is_is_refused() {
    let _turn = shared();
    let alpha = super::scene::alone("alpha", "");
    register(&alpha, "first", 1);
    let key = make_key(&alpha, "somebody.key");
    let before = status(&alpha)["stake"].as_u64().unwrap();
    let words = ["consensus", "stake", "give", &key, "1"];
    let given = alpha.ask(&words);
    assert_eq!(given["effects"][0], "stake-given", "{given}");
    let more = before.to_string();
    let words = ["consensus", "stake", "give", &key, &more, "--json"];
    let refused = alpha.ctl(&words);
    assert_eq!(refused.error_code(), "operation-refused", "{refused:?}");
}
