//! Two authorities that share nothing but their root: told of each other once, each one's nodes accept the other's,
//! go by both logs and follow both deny-lists.

use std::time::{Duration, Instant};

use stoq_appliance_tests::{Node, Options, Server, Stream, alone, enrol, say, wait_until};

use crate::scene::{PATIENCE, Root, answering, answers, cut, known, knows, serial, talking};

/// Time after which a revoked peer must be gone, wherever its certificate is from
const LIMIT: Duration = Duration::from_secs(5);

/// What an authority says of itself, in a file
fn export(authority: &Node) -> String {
    let file = authority.path("statement").display().to_string();
    let written = authority.ctl(&["ca", "export", "--out", &file]);
    assert_eq!(written.code, 0, "{written:?}");
    file
}

#[test]
fn nodes_of_two_authorities_talk_and_each_authority_cuts_off_its_own_everywhere() {
    let _turn = alone();
    let options = Options::default();
    let root = Root::make();
    let [mut alpha, mut beta] = ["alpha", "beta"].map(|name| Node::prepare(name, &options));
    for authority in [&mut alpha, &mut beta] {
        root.certify(authority);
        authority.launch();
    }
    let [mut gamma, delta] = ["gamma", "delta"].map(|name| Node::start(name, &options));
    enrol(&alpha, &gamma);
    enrol(&beta, &delta);
    let echo = Server::echo_tcp();
    for node in [&alpha, &gamma, &delta] {
        node.publish("echo", &echo.target(), &["any-enrolled"]);
    }
    // Under the same root, and yet strangers to each other: nobody has said anything of the other's authority.
    gamma.ask(&["node", "add", "delta", &delta.stoq_address()]);
    // A path is the same after a restart.
    let at = gamma.attach("echo@delta", &format!("unix:{}", gamma.path("delta.sock").display()));
    assert!(!Stream::connect(&at).is_ok_and(|mut stream| answers(&mut stream)));

    // Each is told of the other on its node, and what is known goes on from there to gamma and delta.
    let (of_alpha, of_beta) = (export(&alpha), export(&beta));
    let told = alpha.ask(&["ca", "trust", &of_beta]);
    assert_eq!((&told["authority"]["instance"], &told["is_news"]), (&"beta".into(), &true.into()));
    beta.ask(&["ca", "trust", &of_alpha]);
    assert_eq!(alpha.ask(&["ca", "trust", &of_beta])["is_news"], false);
    for node in [&alpha, &beta, &gamma, &delta] {
        knows(node, &["alpha", "beta"]);
    }
    let flow = answering(&at, "gamma and delta talk");
    let back = talking(&delta, &gamma);
    let own_at =
        gamma.attach("echo@alpha", &format!("unix:{}", gamma.path("alpha.sock").display()));
    let own = answering(&own_at, "gamma and alpha talk");

    // What it knows it knows after a restart, also while its authority is away.
    drop((flow, back, own));
    alpha.kill();
    gamma.restart();
    knows(&gamma, &["alpha", "beta"]);
    let flow = answering(&at, "gamma and delta talk without alpha");
    alpha.launch();

    // Beta's list reaches gamma, whose certificate is alpha's ...
    let ended = cut(flow);
    let before = gamma.counter("refused", "revoked");
    let asked = Instant::now();
    beta.ask(&["certificate", "revoke", &serial(&delta), "--reason", "key-compromise"]);
    let took = ended.join().unwrap().saturating_duration_since(asked);
    assert!(took < LIMIT, "{took:?}");
    say(&format!("two authorities: beta revokes, and a node of alpha closes after {took:?}"));
    wait_until("delta is refused for what it is", PATIENCE, || {
        assert!(!Stream::connect(&at).is_ok_and(|mut stream| answers(&mut stream)));
        (gamma.counter("refused", "revoked") > before).then_some(())
    });
    assert_eq!(gamma.counter("refused", "unlogged"), 0);
    // ... and says nothing of alpha's nodes.
    let mut stream = Stream::connect(&own_at).unwrap();
    assert!(answers(&mut stream));
}

#[test]
fn an_authority_under_another_root_is_not_trusted_whoever_says_so() {
    let _turn = alone();
    let options = Options::default();
    let [alpha, other] = ["alpha", "other"].map(|name| Node::start(name, &options));
    let statement = export(&other);
    let refused = alpha.ctl(&["ca", "trust", &statement, "--json"]);
    assert_eq!((refused.code, &*refused.error_code()), (8, "authority-refused"), "{refused:?}");
    assert_eq!(known(&alpha), ["alpha"]);
    let text = std::fs::read_to_string(&statement).unwrap();
    std::fs::write(&statement, text.replacen('A', "B", 3)).unwrap();
    let refused = alpha.ctl(&["ca", "trust", &statement, "--json"]);
    assert!(
        ["bad-statement", "authority-refused"].contains(&&*refused.error_code()),
        "{refused:?}"
    );
}
