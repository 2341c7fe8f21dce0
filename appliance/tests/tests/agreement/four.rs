//! Four nodes: agreement goes on without one that was killed, stops without two and says why, and goes on when they are
//! back, with nothing lost and no two of them of different opinion.

use std::path::Path;
use std::time::Duration;

use stoq_appliance_tests::{Node, Options, enrol, shared, stoqctl};

use super::scene::{PATIENCE, agreeing, assets, register, request, status, text, until};

pub const NAMES: [&str; 4] = ["alpha", "beta", "gamma", "delta"];

/// Four validators of one network, which join before its first block
fn four() -> Vec<Node> {
    of_epochs(&NAMES, "4096")
}

/// Validators of these names of one network with epochs of so many blocks
pub fn of_epochs(names: &[&str], epoch_blocks: &str) -> Vec<Node> {
    let mut nodes: Vec<Node> =
        names.iter().map(|name| Node::prepare(name, &Options::default())).collect();
    let mut words: Vec<String> = ["consensus", "genesis", "make", "--network", "four"]
        .into_iter()
        .chain(["--epoch-blocks", epoch_blocks, "--policy", "test", "--out"])
        .map(str::to_owned)
        .collect();
    let genesis = nodes[0].path("genesis.json").display().to_string();
    words.push(genesis.clone());
    for node in &nodes {
        words.push("--validator".to_owned());
        words.push(format!("{}={}", node.name(), make_key(node, "validator.key")));
    }
    stoqctl(&words.iter().map(String::as_str).collect::<Vec<_>>());
    for node in &nodes {
        node.configure(&Options::with_sections(&sections(&nodes, node, &genesis, "wait")));
    }
    for node in &mut nodes {
        node.launch();
    }
    let (first, others) = nodes.split_first().unwrap();
    others.iter().for_each(|other| enrol(first, other));
    nodes.iter().for_each(agreeing);
    nodes
}

/// The public half of a new key
pub fn make_key(node: &Node, name: &str) -> String {
    let file = node.path(name).display().to_string();
    text(&stoqctl(&["consensus", "key", "make", &file, "--json"]).json(), "public_key")
}

fn sections(nodes: &[Node], node: &Node, genesis: &str, issuance: &str) -> String {
    with_key(nodes, node, genesis, issuance, "validator.key")
}

/// What a node among these is configured with
pub fn with_key(nodes: &[Node], node: &Node, genesis: &str, issuance: &str, key: &str) -> String {
    let key = node.path(key).display().to_string();
    let mut text = format!(
        "[hypermesh]\nenabled = true\ngenesis = \"{genesis}\"\nkey = \"{key}\"\nissuance = \"{issuance}\"\n\
         wait_ms = 3000\n"
    );
    for peer in nodes.iter().filter(|peer| peer.name() != node.name()) {
        text += &format!(
            "[[peer]]\nnode = \"{}\"\naddress = \"{}\"\n",
            peer.name(),
            peer.stoq_address()
        );
    }
    text
}

/// The digests of a block as each node has it
fn state_roots(nodes: &[Node], height: u64) -> Vec<String> {
    let height = height.to_string();
    let of = |node: &Node| {
        let blocks = node.ask(&["consensus", "blocks", "--from", &height, "--limit", "1"]);
        let block = &blocks["blocks"][0];
        format!("{} {}", text(block, "block"), text(block, "state_root"))
    };
    nodes.iter().map(of).collect()
}

#[test]
fn agreement_survives_one_stops_without_two_and_goes_on() {
    let _turn = shared();
    let mut nodes = four();
    assert_eq!(status(&nodes[0])["quorum"], 3);
    let mut acknowledged = Vec::new();
    for (number, node) in nodes.iter().enumerate() {
        let name = format!("first-{number}");
        register(node, &name, 1);
        acknowledged.push(name);
    }

    // Without one
    nodes[3].kill();
    for (number, node) in nodes[..3].iter().enumerate() {
        let name = format!("second-{number}");
        register(node, &name, 1);
        acknowledged.push(name);
    }
    until("the silent one is suspected, and not convicted", PATIENCE, || {
        let listed = nodes[0].ask(&["consensus", "validators"]);
        let all = listed["validators"].as_array().unwrap().clone();
        let silent = all.iter().find(|one| one["node"] == "delta").unwrap();
        assert_eq!(silent["convicted"], false, "{silent}");
        silent["suspicion"].is_string()
    });

    // Without two: nothing is agreed on, and that is said
    nodes[2].kill();
    until("alpha notices", PATIENCE, || nodes[0].ctl(&["consensus", "status", "--json"]).code == 3);
    let stopped = status(&nodes[0]);
    assert!(text(&stopped, "problem").contains("quorum"), "{stopped}");
    let height = stopped["height"].as_u64().unwrap();
    let refused =
        nodes[0].ctl(&["asset", "register", "container", "late", "--capacity", "1", "--json"]);
    assert_eq!(refused.code, 7, "{refused:?}");
    assert_eq!(status(&nodes[0])["height"].as_u64(), Some(height), "two of four agreed");

    // Back, without help
    nodes[2].launch();
    nodes[3].launch();
    nodes.iter().for_each(agreeing);
    register(&nodes[3], "third", 1);
    acknowledged.push("third".to_owned());
    until("every node knows everything acknowledged", PATIENCE, || {
        nodes.iter().all(|node| {
            let known = assets(node);
            acknowledged.iter().all(|name| known.contains(name))
        })
    });
    for height in [1, height, height + 1] {
        let roots = state_roots(&nodes, height);
        assert!(roots.iter().all(|root| *root == roots[0]), "height {height}: {roots:?}");
    }
    let evidence = nodes[0].ask(&["consensus", "evidence", "list"]);
    assert_eq!(evidence["cases"].as_array().map(Vec::len), Some(0), "{evidence}");
}

#[test]
fn issuance_refuses_while_validators_are_away_and_goes_on_with_them() {
    let _turn = shared();
    let mut nodes = four();
    let genesis = nodes[0].path("genesis.json").display().to_string();
    for issuance in ["refuse", "wait"] {
        nodes[0]
            .configure(&Options::with_sections(&sections(&nodes, &nodes[0], &genesis, issuance)));
        nodes[0].restart();
        agreeing(&nodes[0]);
        let asset = register(&nodes[0], &format!("disk-{issuance}"), 1);
        // Agreed to while all is well, asked for when it is not
        let csr = request(&nodes[0], issuance).display().to_string();
        let receipt = nodes[0].path(&format!("{issuance}.receipt")).display().to_string();
        agree_to(&nodes[0], &asset, &csr, &receipt);
        nodes[2].kill();
        nodes[3].kill();
        until("alpha notices", PATIENCE, || {
            nodes[0].ctl(&["consensus", "status", "--json"]).code == 3
        });
        let words = ["asset", "certificate", &asset, "--csr", &csr, "--agreed", &receipt, "--json"];
        let begun = std::time::Instant::now();
        let refused = nodes[0].ctl(&words);
        assert_eq!(refused.code, 7, "{refused:?}");
        assert!(refused.stdout.contains("quorum"), "{refused:?}");
        let waited = begun.elapsed() >= Duration::from_millis(2_900);
        assert_eq!(waited, issuance == "wait", "{:?}", begun.elapsed());
        nodes[2].launch();
        nodes[3].launch();
        agreeing(&nodes[0]);
        until("issuance goes on", PATIENCE, || nodes[0].ctl(&words).code == 0);
    }
}

/// Has the validators agree to a certificate of an asset, without asking for the certificate
pub fn agree_to(node: &Node, asset: &str, csr: &str, receipt: &str) {
    let directory = node.state().join("hypermesh");
    let plot = directory.join("node.plot").display().to_string();
    let key = node.path("validator.key").display().to_string();
    let genesis = node.path("genesis.json").display().to_string();
    let (ground, made) = (format!("{csr}.ground"), format!("{csr}.operation"));
    until("the operation is agreed on", PATIENCE, || {
        for file in [&ground, &made] {
            if Path::new(file).exists() {
                std::fs::remove_file(file).unwrap();
            }
        }
        let shown = node.ask(&["consensus", "ground"]);
        std::fs::write(&ground, text(&shown, "ground")).unwrap();
        stoqctl(&[
            "proof",
            "make",
            "--genesis",
            &genesis,
            "--ground",
            &ground,
            "--key",
            &key,
            "--plot",
            &plot,
            "--csr",
            csr,
            "--asset",
            asset,
            "--out",
            &made,
        ]);
        node.ctl(&["consensus", "submit", &made, "--receipt", receipt]).code == 0
    });
}
