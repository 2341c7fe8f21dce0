//! The real socket against what is not one of ours: floods, strangers, another implementation, and a look at the
//! system calls of a worker under load.

#![forbid(unsafe_code)]

mod datagrams;
mod interop;
mod strangers;
mod system_calls;

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use stoq_appliance_tests::{Node, Options, Server, Stream, enrol};

/// Two nodes with an echo between them, and a client on it
struct Scene {
    alpha: Node,
    _beta: Node,
    _echo: Server,
    client: Stream,
    /// The slowest round trip so far
    slowest: Duration,
}

impl Scene {
    fn start(options: &Options) -> Self {
        let alpha = Node::start("alpha", options);
        let beta = Node::start("beta", &Options::default());
        enrol(&alpha, &beta);
        let echo = Server::echo_tcp();
        alpha.publish("echo", &echo.target(), &["beta"]);
        let client = Stream::connect(&beta.attach("echo@alpha", "[::1]:0")).unwrap();
        client.set_patience(Some(Duration::from_secs(10))).unwrap();
        Self { alpha, _beta: beta, _echo: echo, client, slowest: Duration::ZERO }
    }

    /// One round trip through the attached service
    fn round_trip(&mut self) {
        let begin = Instant::now();
        let sent = [0x5a; 1_000];
        let mut back = [0; 1_000];
        self.client.write_all(&sent).unwrap();
        self.client.read_exact(&mut back).expect("the attached service answers");
        assert_eq!(back, sent);
        self.slowest = self.slowest.max(begin.elapsed());
    }
}
