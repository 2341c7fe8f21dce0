//! Two authorities that share inventory and deny-list in an etcd cluster with TLS: each has what the other issued and
//! revoked, and the end of the cluster's leader, as a power failure ends it, loses nothing of either.
//! Needs Debian's `etcd-server` and `etcd-client`.

#[path = "../../../../controlplane/store/tests/etcd_cluster/mod.rs"]
#[allow(dead_code, reason = "each test program uses a part of it")]
mod etcd_cluster;

use std::time::{Duration, Instant};

use etcd_cluster::Cluster;
use stoq_appliance_tests::{Node, Options, Server, alone, enrol, say, wait_until};
use tempfile::TempDir;

use crate::scene::{PATIENCE, Person, Root, cut, knows, serial, talking};

/// Certificates that each authority issues before the leader ends, and after
const ISSUED: usize = 10;
/// Time after which a revoked peer must be gone while the cluster has a leader
const LIMIT: Duration = Duration::from_secs(5);

fn options(cluster: &Cluster) -> Options {
    let endpoints: Vec<_> = cluster.clients().iter().map(|at| format!("\"{at}\"")).collect();
    let file = |name: &str| cluster.pki().path(name).display().to_string();
    Options::with_sections(&format!(
        "[store.etcd]\nendpoints = [{}]\nca = \"{}\"\ncertificate = \"{}\"\nkey = \"{}\"\n",
        endpoints.join(", "),
        file("authority.pem"),
        file("client.pem"),
        file("client.key"),
    ))
}

/// Waits until both authorities' inventories show a certificate in this state
fn is_in_both(authorities: [&Node; 2], serial: &str, state: &str) {
    for authority in authorities {
        let what = format!("{serial} is {state} at {}", authority.name());
        wait_until(&what, PATIENCE, || {
            let shown = authority.ctl(&["certificate", "show", serial, "--json"]);
            (shown.code == 0 && shown.json()["certificate"]["state"] == state).then_some(())
        });
    }
}

/// Issues certificates at one authority and revokes every other of them at the other one
struct Books<'a> {
    authorities: [&'a Node; 2],
    files: TempDir,
    /// What was acknowledged: a serial number, and whether it was revoked
    acknowledged: Vec<(String, bool)>,
}

impl Books<'_> {
    /// One certificate of each authority, and one that is revoked where it was not issued
    fn turn(&mut self) {
        for (at, authority) in self.authorities.into_iter().enumerate() {
            let number = self.acknowledged.len();
            let person = Person::new(&format!("p{number}"), self.files.path());
            // A cluster that elects takes nothing for a moment; what was not acknowledged may be asked for again.
            let serial = wait_until("a certificate", PATIENCE, || {
                let _ = std::fs::remove_file(&person.certificate);
                let issued = person.certified("operator", "ana", authority, &[]);
                let serial = (issued.code == 0).then(|| issued.json()["serial"].clone())?;
                Some(serial.as_str().unwrap().to_owned())
            });
            let revoked = number % 4 < 2;
            if revoked {
                let other = self.authorities[1 - at];
                let words = ["certificate", "revoke", &serial, "--reason", "superseded"];
                // It is the other's once the records have brought it there.
                wait_until("a revocation", PATIENCE, || {
                    (other.ctl(&words).code == 0).then_some(())
                });
            }
            self.acknowledged.push((serial, revoked));
        }
    }

    /// Everything that was acknowledged is in both inventories, and on both deny-lists if it was revoked
    fn check(&self) {
        for (serial, revoked) in &self.acknowledged {
            let state = if *revoked { "revoked" } else { "valid" };
            is_in_both(self.authorities, serial, state);
        }
    }

    fn revoked(&self) -> u64 {
        self.acknowledged.iter().filter(|(_, revoked)| *revoked).count() as u64
    }
}

#[test]
fn what_one_authority_issues_and_revokes_the_other_has_and_a_killed_leader_loses_nothing() {
    let _turn = alone();
    let mut cluster = Cluster::start_with_tls();
    let (root, options) = (Root::make(), options(&cluster));
    let [mut alpha, mut beta] = ["alpha", "beta"].map(|name| Node::prepare(name, &options));
    for authority in [&mut alpha, &mut beta] {
        root.certify(authority);
        authority.launch();
        authority.ask(&["ca", "register", "operator", "ana"]);
    }
    let authorities = [&alpha, &beta];
    // Nobody told them of each other: the records did.
    for authority in authorities {
        knows(authority, &["alpha", "beta"]);
    }
    let plain = Options::default();
    let [gamma, delta] = ["gamma", "delta"].map(|name| Node::start(name, &plain));
    enrol(&alpha, &gamma);
    enrol(&beta, &delta);
    let echo = Server::echo_tcp();
    delta.publish("echo", &echo.target(), &["any-enrolled"]);
    for node in [&gamma, &delta] {
        knows(node, &["alpha", "beta"]);
        is_in_both(authorities, &serial(node), "valid");
    }
    let flow = talking(&gamma, &delta);

    let files = tempfile::tempdir().unwrap();
    let mut books = Books { authorities, files, acknowledged: Vec::new() };
    (0..ISSUED / 2).for_each(|_| books.turn());
    let leader = cluster.leader();
    cluster.kill(leader);
    let killed = Instant::now();
    (0..ISSUED / 2).for_each(|_| books.turn());
    say(&format!("shared records: at work again {:?} after the leader ended", killed.elapsed()));
    books.check();

    // Alpha revokes a node that beta has certified: beta's list and alpha's say so, and its flows end.
    let ended = cut(flow);
    let asked = Instant::now();
    let name = serial(&delta);
    alpha.ask(&["certificate", "revoke", &name, "--reason", "key-compromise"]);
    let took = ended.join().unwrap().saturating_duration_since(asked);
    assert!(took < LIMIT, "{took:?}");
    say(&format!("shared records: alpha revokes beta's node, closed after {took:?}"));
    is_in_both(authorities, &name, "revoked");
    let revoked = books.revoked() + 1;
    for authority in authorities {
        wait_until("both deny-lists say all", PATIENCE, || {
            let listed = authority.ask(&["crl", "list"]);
            (listed["deny_list_entries"].as_u64() == Some(revoked)).then_some(())
        });
    }
    // The member that comes back takes its place, and nothing is different for that.
    cluster.restart(leader);
    cluster.wait_for_members();
    books.turn();
    books.check();
}

#[test]
fn an_authority_begins_before_its_records_answer_and_says_what_is_wrong() {
    let _turn = alone();
    let cluster = Cluster::start_with_tls();
    let mut options = options(&cluster);
    // The certificate is not the name's: no record is trusted to whoever answers there.
    options.more.push_str("server_name = \"elsewhere.example\"\n");
    let mut alpha = Node::start("alpha", &options);
    alpha.ask(&["ca", "register", "operator", "ana"]);
    let files = tempfile::tempdir().unwrap();
    let person = Person::new("ana", files.path());
    let issued = person.certified("operator", "ana", &alpha, &[]);
    assert_eq!(issued.code, 0, "certificates are issued without the records: {issued:?}");
    let serial = issued.json()["serial"].as_str().unwrap().to_owned();
    let shown = alpha.ctl(&["certificate", "show", &serial, "--json"]);
    assert_ne!(shown.code, 0, "{shown:?}");
    // With the right name the records catch up with what was issued meanwhile.
    options.more = options.more.replace("elsewhere.example", etcd_cluster::pki::NAME);
    alpha.configure(&options);
    alpha.restart();
    wait_until("the records have it", PATIENCE, || {
        (alpha.ctl(&["certificate", "show", &serial]).code == 0).then_some(())
    });
}
