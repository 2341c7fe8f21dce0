//! Issuing keys by command: a key that is prepared is known everywhere before it issues, one that is tainted issues
//! nothing any more, and one that is revoked is on the deny-list with everything it has signed. All of it outlives a
//! restart and is in the audit log.

use stoq_admin::encode_pem;
use stoq_appliance_tests::{Node, Options, Server, enrol, shared, stoqctl, wait_until};
use stoq_trustchain::{KeyKind, KeyPair, csr};

use crate::{PATIENCE, dials, is_refused, serial, shown_by, states, talks, turn_over};

fn state_of(alpha: &Node, name: &str) -> String {
    let found = states(alpha).into_iter().find(|(known, _)| known == name);
    found.map(|(_, state)| state).unwrap_or_default()
}

/// The key that issued a certificate
fn issuer(alpha: &Node, serial: &str) -> String {
    let shown = alpha.ask(&["certificate", "show", serial]);
    shown["certificate"]["issuer_key_id"].as_str().unwrap_or_else(|| panic!("{shown}")).to_owned()
}

fn key_id(alpha: &Node, name: &str) -> String {
    let listed = alpha.ask(&["ca", "key", "list"]);
    let keys = listed["keys"].as_array().unwrap();
    let key = keys.iter().find(|key| key["name"] == name).unwrap();
    key["key_id"].as_str().unwrap().to_owned()
}

/// Waits until a node that has joined accepts the leaves of so many issuing keys
fn knows(node: &Node, count: usize) {
    let file = node.state().join("joined").join("authorities.pem");
    wait_until(&format!("{} knows {count} issuing keys", node.name()), PATIENCE, || {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        (text.matches("BEGIN CERTIFICATE").count() == count).then_some(())
    });
}

/// The events about issuing keys, as `KEY STATE`, the first first
fn written_down(alpha: &Node) -> Vec<String> {
    let tail = alpha.ask(&["audit", "tail", "--limit", "200"]);
    let records = tail["records"].as_array().unwrap().iter();
    let of_keys = records.filter(|record| record["event"] == "issuing_key_state");
    let uid = rustix::process::geteuid().as_raw();
    of_keys
        .map(|record| {
            let by = record["actor"].as_str().unwrap();
            assert!(by == format!("operator:uid={uid}") || by == "authority", "{record}");
            let state = record["details"]["state"].as_str().unwrap();
            format!("{} {state}", record["subject"].as_str().unwrap())
        })
        .collect()
}

/// An authority and two nodes that have joined it; the second one and the authority have something to offer
struct Mesh {
    alpha: Node,
    beta: Node,
    gamma: Node,
    _echo: Server,
}

impl Mesh {
    fn start() -> Self {
        let [alpha, beta, gamma] =
            ["alpha", "beta", "gamma"].map(|name| Node::start(name, &Options::default()));
        enrol(&alpha, &beta);
        enrol(&alpha, &gamma);
        let echo = Server::echo_tcp();
        for node in [&alpha, &gamma] {
            node.publish("echo", &echo.target(), &["any-enrolled"]);
        }
        beta.ask(&["node", "add", "gamma", &gamma.stoq_address()]);
        talks(&beta, &gamma);
        Self { alpha, beta, gamma, _echo: echo }
    }

    /// Known to everybody, and not to be hurried by mistake
    fn prepares(&self) {
        let Self { alpha, beta, gamma, .. } = self;
        alpha.ask(&["ca", "key", "prepare", "issuing-2"]);
        assert_eq!(state_of(alpha, "issuing-2"), "prepared");
        knows(beta, 2);
        knows(gamma, 2);
        let early = alpha.ctl(&["ca", "key", "activate", "issuing-2", "--json"]);
        assert_eq!((early.code, early.error_code().as_str()), (8, "too-fresh"), "{early:?}");
        assert_eq!(state_of(alpha, "issuing"), "active");
        assert_eq!(issuer(alpha, &serial(beta)), key_id(alpha, "issuing"));
    }

    /// The new key issues, and both ends of a session accept the other's
    fn activates(&self) {
        let Self { alpha, beta, gamma, .. } = self;
        alpha.ask(&["ca", "key", "activate", "issuing-2", "--at-once"]);
        assert_eq!(state_of(alpha, "issuing"), "tainted");
        let delta = Node::start("delta", &Options::default());
        enrol(alpha, &delta);
        assert_eq!(issuer(alpha, &serial(&delta)), key_id(alpha, "issuing-2"));
        delta.ask(&["node", "add", "gamma", &gamma.stoq_address()]);
        knows(&delta, 2);
        talks(&delta, gamma);
        talks(&delta, alpha);
        talks(beta, gamma);
    }

    /// It issues nothing, also after a restart, until another one does
    fn taints(&mut self) {
        self.alpha.ask(&["ca", "key", "taint", "issuing-2", "--compromised"]);
        issues_nothing(&self.alpha);
        self.alpha.restart();
        issues_nothing(&self.alpha);
        talks(&self.beta, &self.gamma);
        turn_over(&self.alpha, "issuing-3");
        assert!(self.alpha.ask(&["ca", "status"])["not_issuing"].is_null());
        let before = states(&self.alpha);
        self.alpha.restart();
        assert_eq!(states(&self.alpha), before);
    }

    /// Everything it has signed is refused, and who had such a certificate comes back with another
    fn revokes(&mut self) {
        let Self { alpha, beta, gamma, .. } = self;
        let before = shown_by(beta);
        dials(&before, gamma).expect("it is good until then");
        let refused = alpha.ctl(&["ca", "key", "revoke", "issuing", "--json"]);
        assert_eq!(refused.error_code(), "leaves-in-force", "{refused:?}");
        let revoked = alpha.ask(&["ca", "key", "revoke", "issuing", "--cut-off"]);
        assert!(revoked["deny_list_epoch"].as_u64().is_some(), "{revoked}");
        let issuing_3 = key_id(alpha, "issuing-3");
        for node in [&*beta, &*gamma, &*alpha] {
            wait_until(&format!("{} has another certificate", node.name()), PATIENCE, || {
                (issuer(alpha, &serial(node)) == issuing_3).then_some(())
            });
        }
        talks(beta, gamma);
        is_refused(&before, gamma, "issuer_revoked");
        is_refused(&before, alpha, "issuer_revoked");
        gamma.restart();
        is_refused(&before, gamma, "issuer_revoked");
        alpha.restart();
        assert_eq!(state_of(alpha, "issuing"), "revoked");
        is_refused(&before, alpha, "issuer_revoked");
        talks(beta, gamma);
        let again = alpha.ctl(&["ca", "key", "activate", "issuing", "--at-once", "--json"]);
        assert_eq!(again.error_code(), "no-such-step", "{again:?}");
    }
}

fn issues_nothing(alpha: &Node) {
    let status = alpha.ask(&["ca", "status"]);
    assert!(status["not_issuing"].as_str().unwrap().contains("issuing-2"), "{status}");
    assert_eq!(state_of(alpha, "issuing-2"), "tainted");
    let request = alpha.path("ana.csr");
    if !request.exists() {
        let key = KeyPair::generate(KeyKind::P256).unwrap();
        let pem = encode_pem("CERTIFICATE REQUEST", &csr::request(&key).unwrap());
        std::fs::write(&request, pem).unwrap();
        alpha.ask(&["ca", "register", "operator", "ana"]);
    }
    let request = request.to_str().unwrap().to_owned();
    let words = ["certificate", "issue", "--profile", "operator", "--subject", "ana", "--json"];
    let refused = alpha.ctl(&[&words[..], &["--request", &request]].concat());
    assert_eq!(refused.error_code(), "not-issuing", "{refused:?}");
}

#[test]
fn issuing_keys_go_from_state_to_state_and_the_mesh_follows() {
    let _turn = shared();
    let mut mesh = Mesh::start();
    assert_eq!(states(&mesh.alpha), [("issuing".to_owned(), "active".to_owned())]);
    mesh.prepares();
    mesh.activates();
    mesh.taints();
    mesh.revokes();
    let expected = [
        "issuing active",
        "issuing-2 prepared",
        "issuing tainted",
        "issuing-2 active",
        "issuing-2 tainted",
        "issuing-3 prepared",
        "issuing-3 active",
        "issuing revoked",
    ];
    assert_eq!(written_down(&mesh.alpha), expected);
    let verified = mesh.alpha.ask(&["audit", "verify"]);
    assert_eq!(verified["errors"].as_array().unwrap().len(), 0, "{verified}");
}

/// The root is elsewhere: the request goes to it, and its certificate comes back for this key and no other
#[test]
fn a_key_that_a_root_elsewhere_has_certified_is_prepared() {
    let _turn = shared();
    let alpha = Node::start("alpha", &Options::default());
    let at = |name: &str| alpha.path(name).to_str().unwrap().to_owned();
    let root = alpha.state().join("authority").join("root");
    let sign = |name: &str| {
        let (csr, pem) = (at(&format!("{name}.csr")), at(&format!("{name}.pem")));
        alpha.ask(&["ca", "key", "request", name, "--out", &csr]);
        let root = root.to_str().unwrap();
        stoqctl(&["root", "sign-issuing", "--directory", root, "--request", &csr, "--out", &pem]);
        pem
    };
    let (two, three) = (sign("issuing-2"), sign("issuing-3"));
    let other =
        alpha.ctl(&["ca", "key", "prepare", "issuing-2", "--certificate", &three, "--json"]);
    assert_eq!(other.error_code(), "certificate-refused", "{other:?}");
    let prepared = alpha.ask(&["ca", "key", "prepare", "issuing-2", "--certificate", &two]);
    assert_eq!(prepared["key"]["state"], "prepared");
    let pin = stoqctl(&["certificate", "pin", &two]).stdout;
    assert_eq!(prepared["key"]["pin"].as_str().unwrap(), pin.trim());
    // Without the root's key the node cannot certify one itself, and says what to do.
    std::fs::rename(root.join("root.key"), alpha.path("root.key")).unwrap();
    let alone = alpha.ctl(&["ca", "key", "prepare", "issuing-4", "--json"]);
    assert_eq!(alone.error_code(), "no-root-here", "{alone:?}");
    for (name, code) in [("log", "bad-key-name"), ("issuing-9", "not-found")] {
        let refused = alpha.ctl(&["ca", "key", "activate", name, "--json"]);
        let known = [code, "not-found"].contains(&refused.error_code().as_str());
        assert!(refused.code != 0 && known, "{name}: {refused:?}");
    }
}
