//! `TRUSTCHAIN_MODE=production`: no root's key is on a node. One that is there keeps the daemon from starting, none is
//! made, and both ways to a certificate go without one: joining, and an authority that a root elsewhere has certified.

use std::process::{Command, Stdio};

use rustix::process::Signal;
use stoq_appliance_tests::{Answer, Node, Options, Server, enrol, program, shared, stoqctl};

use crate::{PATIENCE, talks};

const PRODUCTION: &str = "TRUSTCHAIN_MODE=production";

fn strict(mut node: Node) -> Node {
    node.run_through(vec!["env".into(), PRODUCTION.into()]);
    node
}

/// The daemon run until it ends by itself
fn refused_start(node: &Node) -> Answer {
    let mut command = Command::new("timeout");
    command.args(["60", "env", PRODUCTION]).arg(program("stoqd")).args(["run", "--config"]);
    Answer::of(command.arg(node.config()).stdin(Stdio::null()).output().unwrap())
}

#[test]
fn a_roots_key_on_the_node_keeps_it_from_starting() {
    let _turn = shared();
    let mut alpha = Node::start("alpha", &Options::default());
    let mut beta = Node::start("beta", &Options::default());
    enrol(&alpha, &beta);
    for node in [&mut alpha, &mut beta] {
        node.signal(Signal::TERM);
        assert!(node.wait_exit(PATIENCE).success());
    }
    // Also on a node that has joined another: its own root, of before, is there still.
    for node in [&alpha, &beta] {
        let refused = refused_start(node);
        assert_eq!(refused.code, 1, "{refused:?}");
        let path = node.state().join("authority").join("root");
        let named = format!("{}: the root's key lies on the node", path.display());
        assert!(refused.stderr.contains(&named), "{refused:?}");
    }
    std::fs::remove_file(alpha.state().join("authority/root/root.key")).unwrap();
    let mut alpha = strict(alpha);
    alpha.launch();
    assert_eq!(alpha.ask(&["ca", "status"])["mode"], "production");
}

#[test]
fn no_root_is_made_and_a_node_joins_without_one() {
    let _turn = shared();
    let alpha = Node::start("alpha", &Options::default());
    let echo = Server::echo_tcp();
    alpha.publish("echo", &echo.target(), &["any-enrolled"]);
    let mut beta = strict(Node::prepare("beta", &Options::default()));
    launch_as_nobody(&mut beta);
    assert!(!beta.state().join("authority").exists(), "no root, and no authority");
    let none = beta.ctl(&["ca", "status", "--json"]);
    assert_eq!(none.error_code(), "no-authority", "{none:?}");
    enrol(&alpha, &beta);
    talks(&beta, &alpha);
    beta.restart();
    talks(&beta, &alpha);
}

/// It is not ready, and says why and what to do
fn launch_as_nobody(node: &mut Node) {
    node.launch_unready();
    let status = node.ctl(&["status", "--json"]).json();
    let problems = status["problems"].as_array().unwrap();
    let problem = problems.iter().find(|one| one["code"] == "no-identity");
    let message = problem.unwrap_or_else(|| panic!("{status}"))["message"].as_str().unwrap();
    assert!(message.contains("production makes no root on a node"), "{message}");
}

#[test]
fn an_authority_that_a_root_elsewhere_has_certified_issues() {
    let _turn = shared();
    let mut alpha = strict(Node::prepare("alpha", &Options::default()));
    let at = |name: &str| alpha.path(name).to_str().unwrap().to_owned();
    let home = alpha.state().join("authority").to_str().unwrap().to_owned();
    stoqctl(&["root", "init", "--directory", &at("media"), "--offline"]);
    stoqctl(&["root", "request-issuing", "--directory", &home, "--out", &at("csr")]);
    let signing = ["--request", &at("csr"), "--out", &at("pem")];
    stoqctl(&[&["root", "sign-issuing", "--directory", &at("media")][..], &signing].concat());
    let printed = stoqctl(&["root", "fingerprint", "--directory", &at("media"), "--json"]);
    let fingerprint = printed.json()["fingerprint"].as_str().unwrap().to_owned();
    let root = alpha.path("media/root.pem");
    let of_root = ["--root", root.to_str().unwrap(), "--fingerprint", &fingerprint];
    let installing = ["root", "install-issuing", "--directory", &home, "--certificate", &at("pem")];
    stoqctl(&[&installing[..], &of_root].concat());
    alpha.launch();
    let beta = Node::start("beta", &Options::default());
    let echo = Server::echo_tcp();
    alpha.publish("echo", &echo.target(), &["any-enrolled"]);
    enrol(&alpha, &beta);
    talks(&beta, &alpha);
    assert_eq!(alpha.ask(&["node", "show"])["root_fingerprint"], fingerprint.as_str());
}
