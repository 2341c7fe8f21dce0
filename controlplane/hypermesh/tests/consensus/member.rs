//! One validator in a process of its own, which a test starts, talks to line by line, and kills.

use std::io::{BufRead as _, Write as _};
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use stoq_hypermesh::consensus::{Client, Settings, Timing, Validator, ValidatorConfig, Wire};
use stoq_hypermesh::digest::{from_hex, to_hex};
use stoq_hypermesh::operation::ValidatorKey;

use super::ledger::{Faults, Ledger};
use super::sockets::{Door, Links, Ports, listen};
use super::tamper::{self, Forgery, Time, Watch};
use super::world::{genesis, secret, validator};

/// Tells the process what it is to be
pub const ORDER: &str = "HYPERMESH_TEST_MEMBER";

/// What a process does wrong
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Behaviour {
    Honest,
    Equivocating,
    /// Proposes invalid blocks, and votes for any
    Proposing,
    /// Votes for any block
    Voting,
    Silent,
    Delaying,
    Forging,
    Replaying,
}

impl Behaviour {
    pub const ALL: [Self; 8] = [
        Self::Honest,
        Self::Equivocating,
        Self::Proposing,
        Self::Voting,
        Self::Silent,
        Self::Delaying,
        Self::Forging,
        Self::Replaying,
    ];
}

/// What a process is to be
#[derive(Clone, Debug)]
pub struct Order {
    pub number: u64,
    pub count: u64,
    pub behaviour: Behaviour,
    /// What varies within a behaviour
    pub variant: u64,
    pub directory: PathBuf,
}

impl Order {
    pub fn to_text(&self) -> String {
        let behaviour = Behaviour::ALL.iter().position(|it| *it == self.behaviour);
        let behaviour = behaviour.expect("one of them");
        let directory = self.directory.display();
        format!("{} {} {behaviour} {} {directory}", self.number, self.count, self.variant)
    }

    fn from_text(text: &str) -> Option<Self> {
        let mut words = text.splitn(5, ' ');
        let mut number = || words.next()?.parse::<u64>().ok();
        let (of, count, behaviour, variant) = (number()?, number()?, number()?, number()?);
        Some(Self {
            number: of,
            count,
            behaviour: *Behaviour::ALL.get(behaviour as usize)?,
            variant,
            directory: words.next()?.into(),
        })
    }
}

/// Says a line to whoever started this process
pub fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // Whoever reads this may be gone; then this process is about to be killed.
    let _ = writeln!(out, "\n{line}").and_then(|()| out.flush());
}

/// When something is to be done, and what
type Later = (Instant, Box<dyn FnOnce() + Send>);

/// The host's time. What is done later is done in the order it came, so it must all wait for as long.
struct Host {
    later: Mutex<Sender<Later>>,
}

impl Host {
    fn new() -> Self {
        let (later, waiting) = channel::<Later>();
        thread::spawn(move || {
            for (due, act) in waiting {
                while let Some(left) = due.checked_duration_since(Instant::now()) {
                    thread::park_timeout(left);
                }
                act();
            }
        });
        Self { later: Mutex::new(later) }
    }
}

impl Time for Host {
    fn now_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        since.expect("it is later than 1970").as_millis() as u64
    }

    fn later(&self, after: Duration, act: Box<dyn FnOnce() + Send>) {
        let sent = super::ledger::lock(&self.later).send((Instant::now() + after, act));
        sent.expect("the thread runs as long as the process");
    }
}

/// Patience for many processes on few cores
fn settings() -> Settings {
    Settings {
        timing: Timing {
            leader_ms: 1_000,
            certification_ms: 2_000,
            retry_ms: 1_000,
            skip_ms: 4_000,
            fetch_ms: 1_000,
            fetch_retry_ms: 200,
            view_retention: 64,
        },
        idle_ms: 100,
        silence_ms: 4_000,
        ..Settings::default()
    }
}

struct Member {
    order: Order,
    ports: Ports,
    door: Door,
    watch: Watch,
    runtime: tokio::runtime::Runtime,
    validator: Option<Validator>,
}

impl Member {
    fn start(&mut self) {
        let Order { number, count, behaviour, variant, ref directory } = self.order;
        let genesis = genesis(count, 64);
        let faults = match behaviour {
            Behaviour::Proposing => Faults { proposes_invalid: true, accepts_all: true },
            Behaviour::Voting => Faults { proposes_invalid: false, accepts_all: true },
            _ => Faults::default(),
        };
        let ledger = Ledger::new(&genesis, Arc::default(), faults);
        let keys: Vec<_> = (0..count).map(|number| validator(number).key).collect();
        let links: Arc<dyn Wire> = Arc::new(Links::new(&secret(number), &keys, &self.ports));
        let (place, watch) = (number as usize, &self.watch);
        let tamper = match behaviour {
            Behaviour::Honest => None,
            Behaviour::Equivocating => {
                Some(tamper::equivocator(place, &genesis, Arc::default(), watch))
            }
            Behaviour::Proposing | Behaviour::Voting => {
                Some(tamper::informer(place, &ledger.bad, watch))
            }
            Behaviour::Silent => Some(tamper::silent()),
            Behaviour::Delaying => Some(tamper::late(300 + variant % 700, watch)),
            Behaviour::Forging => {
                let forgery = Forgery::ALL[variant as usize % Forgery::ALL.len()];
                Some(tamper::forger(place, &genesis, forgery, watch))
            }
            Behaviour::Replaying => Some(tamper::replayer()),
        };
        let wire = match tamper {
            Some(tamper) => tamper(links),
            None => links,
        };
        let config = ValidatorConfig {
            genesis,
            secret: secret(number).to_bytes(),
            directory: directory.clone(),
            settings: settings(),
            contacts: Vec::new(),
            threads: 1,
        };
        let started = Validator::start(config, Box::new(ledger), wire).expect("it starts");
        self.door.set(started.inbox()).unwrap_or_else(|_| panic!("it is started once"));
        self.validator = Some(started);
    }

    fn client(&self) -> Client {
        self.validator.as_ref().expect("it is started first").client()
    }

    /// The number of a validator
    fn number(&self, key: &ValidatorKey) -> u64 {
        let mut numbers = 0..self.order.count;
        numbers.find(|number| validator(*number).key == *key).expect("one of the members")
    }

    fn submit(&self, operation: &str) {
        let (client, operation) = (self.client(), operation.to_owned());
        self.runtime.spawn(async move {
            match client.submit(Bytes::from(operation.clone())).await {
                Ok(found) => say(&format!("final {operation} {}", found.height)),
                Err(error) => say(&format!("refused {operation} {error}")),
            }
        });
    }

    /// Says so once a height is final here
    fn wait_for(&self, height: u64) {
        let client = self.client();
        self.runtime.spawn(async move {
            let mut blocks = client.subscribe(4_096).await;
            let mut reached = client.status().await.expect("it runs").height;
            while reached < height {
                reached = blocks.recv().await.expect("it runs").block.header.height;
            }
            say(&format!("reached {height}"));
        });
    }

    fn say_finals(&self) {
        let client = self.client();
        self.runtime.block_on(async {
            let height = client.status().await.expect("it runs").height;
            for height in 1..=height {
                let block = client.block(height).await.expect("it is kept").block;
                let operations: Vec<_> = block
                    .operations
                    .iter()
                    .map(|operation| String::from_utf8_lossy(operation).into_owned())
                    .collect();
                let digest = to_hex(&block.header.digest());
                say(&format!("block {height} {digest} {}", operations.join(",")));
            }
            say(&format!("finals {height}"));
        });
    }

    fn say_cases(&self) {
        let client = self.client();
        self.runtime.block_on(async {
            let cases = client.evidence().await;
            for case in &cases {
                let number = self.number(&case.finding.validator.key);
                let file = client.evidence_file(case.id).await.expect("it is kept");
                let octets = to_hex(&file.to_vec());
                say(&format!(
                    "case {number} {:?} {} {octets}",
                    case.finding.offence, case.found_ms
                ));
            }
            say(&format!("cases {}", cases.len()));
        });
    }

    fn say_status(&self) {
        let status = self.runtime.block_on(self.client().status()).expect("it runs");
        for validator in &status.validators {
            let number = self.number(&validator.key);
            if validator.suspicion.is_some() {
                say(&format!("suspect {number}"));
            }
            if validator.blocked.is_some() {
                say(&format!("blocked {number}"));
            }
        }
        say(&format!("status {}", status.height));
    }

    fn obey(&mut self, line: &str) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "peer" => {
                let (number, port) = rest.split_once(' ').expect("a number and a port");
                let key = validator(number.parse().expect("a number")).key;
                self.ports.set(key, port.parse().expect("a port"));
            }
            "start" => {
                self.start();
                say("started");
            }
            "submit" => self.submit(rest),
            "wait" => self.wait_for(rest.parse().expect("a height")),
            "finals" => self.say_finals(),
            "cases" => self.say_cases(),
            "status" => self.say_status(),
            "strikes" => match self.watch.first(self.order.number as usize) {
                Some(first_ms) => say(&format!("struck {first_ms}")),
                None => say("struck never"),
            },
            other => panic!("nobody knows {other}"),
        }
    }
}

/// A validator that does as it is told. Run by other tests, in a process of its own.
#[test]
#[ignore = "a part of other tests, which start it as a process"]
fn member() {
    let order = std::env::var(ORDER).expect("only other tests run this");
    let order = Order::from_text(&order).expect("as it was written");
    let door = Door::default();
    let port = listen(validator(order.number).key, Arc::clone(&door));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let watch = Watch::with(Arc::new(Host::new()));
    let ports = Ports::default();
    let mut member = Member { order, ports, door, watch, runtime, validator: None };
    say(&format!("port {port}"));
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        member.obey(&line);
    }
}

/// Judges evidence with nothing but the genesis. Run by other tests, in a process of its own.
#[test]
#[ignore = "a part of other tests, which start it as a process"]
fn judge() {
    let order = std::env::var(ORDER).expect("only other tests run this");
    let (count, octets) = order.split_once(' ').expect("a number and octets");
    let genesis = genesis(count.parse().expect("a number"), 64);
    let octets: Vec<u8> = octets
        .as_bytes()
        .chunks(2)
        .map(|pair| from_hex::<1>(std::str::from_utf8(pair).expect("digits")).expect("digits")[0])
        .collect();
    let file = stoq_hypermesh::consensus::EvidenceFile::from_bytes(&Bytes::from(octets));
    let found = file.map_err(|error| error.to_string()).and_then(|file| {
        file.verify(&genesis, &mut super::byzantine::Reader).map_err(|error| error.to_string())
    });
    match found {
        Ok(finding) => say(&format!("found {} {:?}", finding.validator.name, finding.offence)),
        Err(reason) => say(&format!("nothing {reason}")),
    }
}
