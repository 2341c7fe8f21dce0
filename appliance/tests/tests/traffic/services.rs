//! One service, seen from both ends: TCP and Unix, both directions, half-close, reset, back-pressure.

use std::io::{ErrorKind, Read as _, Write as _};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use stoq_appliance_tests::{Node, Options, Server, Stream, fill, say, shared, wait_until};

use crate::{pair, unix};

/// A target that hands its connections to the test
fn handed_over_tcp() -> (Server, Receiver<Stream>) {
    let (sender, receiver) = channel();
    // The test may have ended already.
    (Server::tcp(move |stream| drop(sender.send(stream))), receiver)
}

fn handed_over_unix(node: &Node) -> (Server, Receiver<Stream>) {
    let (sender, receiver) = channel();
    let path = node.path("target.sock");
    // As above.
    (Server::unix(&path, move |stream| drop(sender.send(stream))), receiver)
}

fn accept(receiver: &Receiver<Stream>) -> Stream {
    let stream = receiver.recv_timeout(Duration::from_secs(10)).expect("the target is reached");
    stream.set_patience(Some(Duration::from_secs(30))).unwrap();
    stream
}

/// Both directions, then each end closes its own, one after the other
fn converse(mut client: Stream, mut target: Stream) {
    let mut text = vec![0; 300_000];
    fill(1, 0, &mut text);
    let sent = text.clone();
    let mut writer = client.again();
    let writing = std::thread::spawn(move || {
        writer.write_all(&sent).unwrap();
        // The client has said everything; it still listens.
        writer.shut_write().unwrap();
    });
    let mut got = Vec::new();
    target.read_to_end(&mut got).unwrap();
    writing.join().unwrap();
    assert!(got == text, "towards the target the bytes changed");
    text.reverse();
    target.write_all(&text).unwrap();
    target.shut_write().unwrap();
    got.clear();
    client.read_to_end(&mut got).unwrap();
    assert!(got == text, "towards the client the bytes changed");
}

#[test]
fn bytes_go_both_ways_with_half_close_over_tcp_and_unix() {
    let _turn = shared();
    let (alpha, beta) = pair(&Options::default());
    let (tcp, tcp_accepted) = handed_over_tcp();
    let (local, local_accepted) = handed_over_unix(&alpha);
    alpha.publish("tcp", &tcp.target(), &["beta"]);
    alpha.publish("unix", &local.target(), &["any-enrolled"]);
    let sockets = [
        (beta.attach("tcp@alpha", "[::1]:0"), &tcp_accepted),
        (beta.attach("unix@alpha", &unix(&beta, "attached.sock")), &local_accepted),
    ];
    for (socket, accepted) in &sockets {
        let mut client = Stream::connect(socket).unwrap();
        // The target speaks first.
        let mut target = accept(accepted);
        target.write_all(b"hello").unwrap();
        let mut hello = [0; 5];
        client.read_exact(&mut hello).unwrap();
        assert_eq!(&hello, b"hello");
        converse(client, target);
    }
    // The node that accepted the session may use the other's services as well.
    let (back, back_accepted) = handed_over_tcp();
    beta.publish("back", &back.target(), &["alpha"]);
    let socket = alpha.attach("back@beta", "[::1]:0");
    converse(Stream::connect(&socket).unwrap(), accept(&back_accepted));
    let listed = beta.ask(&["service", "list"]);
    assert_eq!(listed["attached"][0]["flows_total"], 1, "{listed}");
    wait_until("no flow is left open", Duration::from_secs(5), || {
        let listed = beta.ask(&["service", "list"]);
        (listed["attached"][0]["flows_open"] == 0).then_some(())
    });
}

fn expect_reset(client: &mut Stream, why: &str) {
    let outcome = client.read(&mut [0; 16]);
    let kind = outcome.as_ref().map_err(std::io::Error::kind);
    assert_eq!(kind, Err(ErrorKind::ConnectionReset), "{why}: {outcome:?}");
}

#[test]
fn resets_cross_in_both_directions() {
    let _turn = shared();
    let (alpha, beta) = pair(&Options::default());
    let (server, accepted) = handed_over_tcp();
    alpha.publish("web", &server.target(), &["beta"]);
    let socket = beta.attach("web@alpha", "[::1]:0");

    let mut client = Stream::connect(&socket).unwrap();
    client.write_all(b"x").unwrap();
    let mut target = accept(&accepted);
    target.read_exact(&mut [0; 1]).unwrap();
    target.abort();
    expect_reset(&mut client, "the target reset");

    let mut client = Stream::connect(&socket).unwrap();
    client.write_all(b"x").unwrap();
    let mut target = accept(&accepted);
    target.read_exact(&mut [0; 1]).unwrap();
    client.abort();
    expect_reset(&mut target, "the client reset");

    // Nobody listens at the target any more.
    drop(server);
    let mut client = Stream::connect(&socket).unwrap();
    expect_reset(&mut client, "the target refused");
    wait_until("the cause is counted", Duration::from_secs(5), || {
        (beta.counter("flow_errors", "target_refused") > 0).then_some(())
    });
}

/// Writes until the writer has been stopped for a second; returns how much was taken
fn fill_up(client: &mut Stream) -> usize {
    client.set_patience(Some(Duration::from_secs(1))).unwrap();
    let limit = 256 << 20;
    let mut piece = vec![0; 64 << 10];
    let mut written = 0;
    loop {
        fill(3, written as u64, &mut piece);
        match client.write(&piece) {
            Ok(count) => written += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return written,
            Err(error) => panic!("after {written} octets: {error}"),
        }
        assert!(written < limit, "nothing stopped the writer");
    }
}

#[test]
fn a_reader_that_stalls_stops_the_writer_and_loses_nothing() {
    let _turn = shared();
    let (alpha, beta) = pair(&Options::default());
    let (server, accepted) = handed_over_unix(&alpha);
    alpha.publish("slow", &server.target(), &["beta"]);
    let socket = beta.attach("slow@alpha", &unix(&beta, "slow.sock"));
    let mut client = Stream::connect(&socket).unwrap();
    let written = fill_up(&mut client);
    let mut target = accept(&accepted);
    say(&format!("back-pressure: a stalled reader stopped its writer after {written} octets"));
    // The window (8 MiB at most), what the sender keeps, and the sockets' own buffers.
    assert!(written < 48 << 20, "{written} octets were taken");
    // A neighbour on the same session is not held up.
    let mut second = Stream::connect(&socket).unwrap();
    second.write_all(b"neighbour").unwrap();
    let mut neighbour = accept(&accepted);
    neighbour.read_exact(&mut [0; 9]).unwrap();

    client.shut_write().unwrap();
    let begin = Instant::now();
    let (mut got, mut expected) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    let mut read = 0;
    loop {
        let count = target.read(&mut got).unwrap();
        if count == 0 {
            break;
        }
        fill(3, read as u64, &mut expected[..count]);
        assert!(got[..count] == expected[..count], "changed after octet {read}");
        read += count;
    }
    assert_eq!(read, written, "octets were lost");
    assert!(begin.elapsed() < Duration::from_secs(30));
}

fn echoes(socket: &str, text: &[u8]) {
    let mut client = Stream::connect(socket).unwrap();
    client.write_all(text).unwrap();
    let mut back = vec![0; text.len()];
    client.read_exact(&mut back).unwrap();
    assert_eq!(back, text);
}

#[test]
fn what_an_operator_made_survives_restart_and_kill() {
    let _turn = shared();
    let (mut alpha, mut beta) = pair(&Options::default());
    let echo = Server::echo_tcp();
    alpha.publish("one", &echo.target(), &["beta"]);
    alpha.publish("two", &echo.target(), &["beta"]);
    let one = beta.attach("one@alpha", "[::1]:0");
    let two = beta.attach("two@alpha", &unix(&beta, "two.sock"));
    echoes(&one, b"first");
    echoes(&two, b"first");
    alpha.restart();
    echoes(&one, b"the service was restarted");
    beta.restart();
    echoes(&one, b"the attachment was restarted");
    echoes(&two, b"the attachment was restarted");
    alpha.kill();
    beta.kill();
    alpha.launch();
    beta.launch();
    echoes(&one, b"both were killed");
    echoes(&two, b"both were killed");
    let listed = alpha.ask(&["service", "list"]);
    assert_eq!(listed["published"].as_array().map(Vec::len), Some(2), "{listed}");
    assert_eq!(listed["published"][0]["origin"], "operator");
}

#[test]
fn removal_ends_the_offer_and_not_the_flows() {
    let _turn = shared();
    let (alpha, beta) = pair(&Options::default());
    let echo = Server::echo_tcp();
    alpha.publish("echo", &echo.target(), &["beta"]);
    let at = beta.attach("echo@alpha", "[::1]:0");
    let mut held = Stream::connect(&at).unwrap();
    let mut round_trip = |text: &[u8]| {
        held.write_all(text).unwrap();
        let mut back = vec![0; text.len()];
        held.read_exact(&mut back).unwrap();
        assert_eq!(back, text);
    };
    round_trip(b"before");
    alpha.ask(&["service", "remove", "echo"]);
    round_trip(b"after the service was removed");
    let mut late = Stream::connect(&at).unwrap();
    expect_reset(&mut late, "the service is gone");
    beta.ask(&["service", "remove", "echo@alpha"]);
    round_trip(b"after the attachment was removed");
    let refused = Stream::connect(&at).map(drop).map_err(|error| error.kind());
    assert_eq!(refused, Err(ErrorKind::ConnectionRefused));
}
