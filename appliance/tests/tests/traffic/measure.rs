//! Measuring between two daemons, and the size of packets that a path turns out to take.

use stoq_appliance_tests::{Options, say, shared};

use crate::pair;

#[test]
fn a_measurement_is_taken_at_the_receiver_and_the_path_mtu_is_discovered() {
    let _turn = shared();
    let transport = "max_udp_payload_bytes = 8952\ndiscover_path_mtu = true\nperf = true";
    let (_alpha, beta) = pair(&Options::with_transport(transport));
    for direction in [
        &["measure", "alpha", "--bytes", "256MiB"][..],
        &["measure", "alpha", "--bytes", "256MiB", "--reverse"],
    ] {
        let found = beta.ask(direction);
        assert_eq!(found["verified"], true, "{found}");
        assert_eq!(found["lost_bytes"], 0, "{found}");
        assert_eq!(found["bytes_done"], 256 << 20, "{found}");
    }
    let connections = beta.ask(&["connection", "list"]);
    let payload = &connections["connections"][0]["udp_payload_bytes"];
    say(&format!("discovered: {payload} octets of UDP payload"));
    assert_eq!(*payload, 8_952, "{connections}");
}

#[test]
fn a_node_that_does_not_answer_measurements_says_so() {
    let _turn = shared();
    let (_alpha, beta) = pair(&Options::default());
    let answer = beta.ctl(&["measure", "alpha", "--bytes", "1MiB", "--json"]);
    assert_eq!(answer.code, 1, "{answer:?}");
    let failure = answer.json()["failure"].to_string();
    assert!(failure.contains("no_such_service"), "{failure}");
}
