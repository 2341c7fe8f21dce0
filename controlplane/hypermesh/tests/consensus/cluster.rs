//! Validators in processes of their own, with keys and sockets of their own: killed at random while they are loaded, and
//! three of ten faulty in each way there is.
//!
//! `HYPERMESH_PROCESS_SEEDS=first..last` runs others than the one that every run has. How soon culprits are named is
//! printed; on a host that has nothing else to do, `HYPERMESH_NAMED_WITHIN_MS=1000` holds it to a second.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::ops::Range;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::member::{Behaviour, ORDER, Order};

/// For whatever a process is asked, on a host with much else to do
const PATIENCE: Duration = Duration::from_secs(120);

fn seeds() -> Range<u64> {
    let Ok(text) = std::env::var("HYPERMESH_PROCESS_SEEDS") else { return 0..1 };
    let (first, last) = text.split_once("..").expect("HYPERMESH_PROCESS_SEEDS is first..last");
    first.parse().expect("a number")..last.parse().expect("a number")
}

/// Says something to whoever reads the test's output
fn tell(line: &str) {
    // Nobody may.
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

fn spawn(test: &str, order: &str) -> Child {
    let program = std::env::current_exe().expect("this program");
    Command::new(program)
        .args(["--exact", test, "--ignored", "--nocapture", "--test-threads=1"])
        .env(ORDER, order)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("a process")
}

/// A process, as seen from here
struct Process {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
    /// Operations that it said are final
    acknowledged: Vec<String>,
    port: u16,
}

impl Process {
    fn new(order: &Order) -> Self {
        let mut child = spawn("member::member", &order.to_text());
        let stdin = child.stdin.take().expect("a pipe");
        let out = BufReader::new(child.stdout.take().expect("a pipe"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                // The test may not listen any more.
                let _ = sender.send(line);
            }
        });
        let mut process = Self { child, stdin, lines, acknowledged: Vec::new(), port: 0 };
        process.port = process.wait("port").parse().expect("a port");
        process
    }

    fn tell(&mut self, line: &str) {
        // It may have been killed just now.
        let _ = writeln!(self.stdin, "{line}");
    }

    fn note(&mut self, line: &str) {
        if let Some(rest) = line.strip_prefix("final ") {
            let operation = rest.rsplit_once(' ').expect("an operation and a height").0;
            self.acknowledged.push(operation.to_owned());
        }
    }

    /// Waits for a line that begins with this word; all that come before
    fn collect(&mut self, word: &str) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        let mut before = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.note(&line);
                    let found = line.split(' ').next() == Some(word);
                    before.push(line);
                    if found {
                        return before;
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("no {word} in time"),
                Err(RecvTimeoutError::Disconnected) => panic!("it has ended before {word}"),
            }
        }
    }

    /// The same; what follows the word
    fn wait(&mut self, word: &str) -> String {
        let line = self.collect(word).pop().expect("the line itself");
        line.split_once(' ').map(|(_, rest)| rest.to_owned()).unwrap_or_default()
    }

    /// What was said meanwhile, and what is said next, if that is soon
    fn listen(&mut self, patience: Duration) {
        if let Ok(line) = self.lines.recv_timeout(patience) {
            self.note(&line);
        }
        while let Ok(line) = self.lines.try_recv() {
            self.note(&line);
        }
    }

    fn kill(&mut self) {
        // SIGKILL, in the middle of whatever it is doing.
        self.child.kill().expect("it is there to be killed");
        self.child.wait().expect("it is dead");
        // What it had said before, it had said.
        while let Ok(line) = self.lines.recv() {
            self.note(&line);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already dead where the test killed it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Cluster {
    orders: Vec<Order>,
    processes: Vec<Option<Process>>,
    acknowledged: BTreeSet<String>,
}

impl Cluster {
    fn new(directory: &Path, behaviours: &[(Behaviour, u64)]) -> Self {
        let order = |(number, (behaviour, variant)): (usize, &(Behaviour, u64))| Order {
            number: number as u64,
            count: behaviours.len() as u64,
            behaviour: *behaviour,
            variant: *variant,
            directory: directory.join(number.to_string()),
        };
        let orders: Vec<_> = behaviours.iter().enumerate().map(order).collect();
        let processes = orders.iter().map(|order| Some(Process::new(order))).collect();
        let mut cluster = Self { orders, processes, acknowledged: BTreeSet::new() };
        let all: Vec<_> = (0..behaviours.len()).collect();
        for number in &all {
            cluster.introduce(*number);
        }
        for number in &all {
            cluster.at(*number).tell("start");
        }
        for number in all {
            cluster.at(number).wait("started");
        }
        cluster
    }

    fn at(&mut self, number: usize) -> &mut Process {
        self.processes[number].as_mut().expect("it runs")
    }

    fn runs(&self, number: usize) -> bool {
        self.processes[number].is_some()
    }

    /// Tells all others where a process listens, and it where the others do
    fn introduce(&mut self, number: usize) {
        let port = self.at(number).port;
        for other in (0..self.processes.len()).filter(|other| *other != number) {
            if let Some(process) = &mut self.processes[other] {
                let other_port = process.port;
                process.tell(&format!("peer {number} {port}"));
                self.at(number).tell(&format!("peer {other} {other_port}"));
            }
        }
    }

    fn kill(&mut self, number: usize) {
        let mut process = self.processes[number].take().expect("it runs");
        process.kill();
        self.acknowledged.extend(process.acknowledged.iter().cloned());
    }

    fn restart(&mut self, number: usize) {
        self.processes[number] = Some(Process::new(&self.orders[number]));
        self.introduce(number);
        self.at(number).tell("start");
        self.at(number).wait("started");
    }

    fn height(&mut self, number: usize) -> u64 {
        self.at(number).tell("status");
        self.at(number).wait("status").parse().expect("a height")
    }

    /// Final blocks of a process, with their operations
    fn finals(&mut self, number: usize) -> BTreeMap<u64, (String, Vec<String>)> {
        self.at(number).tell("finals");
        let lines = self.at(number).collect("finals");
        let mut blocks = BTreeMap::new();
        for line in lines {
            let Some(rest) = line.strip_prefix("block ") else { continue };
            let mut words = rest.splitn(3, ' ');
            let height = words.next().and_then(|word| word.parse().ok()).expect("a height");
            let digest = words.next().expect("a digest").to_owned();
            let operations = words.next().unwrap_or_default();
            let operations = operations.split(',').filter(|it| !it.is_empty());
            blocks.insert(height, (digest, operations.map(str::to_owned).collect()));
        }
        blocks
    }

    /// No fork, nothing twice, and nothing lost that was acknowledged
    fn check(&mut self, numbers: &[usize]) {
        let heights: Vec<_> = numbers.iter().map(|number| self.height(*number)).collect();
        let height = *heights.iter().max().expect("some");
        for number in numbers {
            self.at(*number).tell(&format!("wait {height}"));
            self.at(*number).wait("reached");
        }
        let all: Vec<_> = numbers.iter().map(|number| (*number, self.finals(*number))).collect();
        let (_, first) = &all[0];
        for (number, blocks) in &all {
            for (height, block) in blocks.range(..=height) {
                assert_eq!(first.get(height), Some(block), "{number} at height {height}");
            }
            let mut seen = BTreeSet::new();
            for operation in blocks.values().flat_map(|(_, operations)| operations) {
                assert!(seen.insert(operation.clone()), "{operation} is final twice");
            }
            for number in numbers {
                let acknowledged = self.processes[*number].iter();
                self.acknowledged.extend(acknowledged.flat_map(|it| it.acknowledged.clone()));
            }
            for operation in &self.acknowledged {
                assert!(seen.contains(operation), "{number} has lost {operation}");
            }
        }
    }
}

#[test]
fn killed_at_random_under_load_nothing_acknowledged_is_lost_and_all_come_back() {
    for seed in seeds() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut chance = StdRng::seed_from_u64(seed);
        let mut cluster = Cluster::new(directory.path(), &[(Behaviour::Honest, 0); 4]);
        let mut number = 0;
        for round in 0..12 {
            let living: Vec<_> = (0..4).filter(|it| cluster.runs(*it)).collect();
            let enough = cluster.acknowledged.len() + 20;
            // Loaded until something is acknowledged, so that kills come in the middle of it.
            let deadline = Instant::now() + PATIENCE;
            loop {
                for member in &living {
                    for _ in 0..4 {
                        number += 1;
                        cluster.at(*member).tell(&format!("submit operation-{number}"));
                    }
                }
                let pause = Duration::from_millis(chance.random_range(1..10));
                for member in &living {
                    let process = cluster.processes[*member].as_mut().expect("it runs");
                    process.listen(pause);
                    cluster.acknowledged.extend(process.acknowledged.drain(..));
                }
                if cluster.acknowledged.len() >= enough {
                    break;
                }
                assert!(Instant::now() < deadline, "round {round}: nothing is agreed on");
            }
            if round % 4 == 3 {
                // The power fails.
                for victim in living {
                    cluster.kill(victim);
                }
                (0..4).for_each(|victim| cluster.restart(victim));
            } else {
                let victim = chance.random_range(0..4);
                // One at a time, or no quorum is left.
                if let Some(dead) = (0..4).find(|it| !cluster.runs(*it)) {
                    cluster.restart(dead);
                }
                cluster.kill(victim);
            }
        }
        if let Some(dead) = (0..4).find(|it| !cluster.runs(*it)) {
            cluster.restart(dead);
        }
        cluster.check(&[0, 1, 2, 3]);
        assert!(cluster.acknowledged.len() >= 240);
        // Who was killed while it voted has not voted otherwise since.
        named(&mut cluster, &[0, 1, 2, 3], &BTreeSet::new());
    }
}

/// What a process says of culprits: the number, the offence, when it was found, the file
type Cases = Vec<(usize, String, u64, String)>;

fn cases(cluster: &mut Cluster, number: usize) -> Cases {
    cluster.at(number).tell("cases");
    let lines = cluster.at(number).collect("cases");
    let read = |line: &String| {
        let mut words = line.strip_prefix("case ")?.split(' ');
        let culprit = words.next()?.parse().ok()?;
        let offence = words.next()?.to_owned();
        Some((culprit, offence, words.next()?.parse().ok()?, words.next()?.to_owned()))
    };
    lines.iter().filter_map(read).collect()
}

fn judged_in_a_fresh_process(file: &str) -> String {
    let child = spawn("member::judge", &format!("10 {file}"));
    let out = child.wait_with_output().expect("it ends");
    let text = String::from_utf8(out.stdout).expect("text");
    let said = text.lines().find(|line| line.starts_with("found ") || line.starts_with("nothing "));
    said.expect("a finding").to_owned()
}

fn named(cluster: &mut Cluster, honest: &[usize], culprits: &BTreeSet<usize>) {
    let limit_ms = std::env::var("HYPERMESH_NAMED_WITHIN_MS").ok();
    let limit_ms = limit_ms.map_or(30_000, |text| text.parse().expect("milliseconds"));
    for number in honest {
        let deadline = Instant::now() + PATIENCE;
        let found = loop {
            let found = cases(cluster, *number);
            let keys: BTreeSet<_> = found.iter().map(|(culprit, ..)| *culprit).collect();
            assert!(keys.is_subset(culprits), "{number} names {keys:?}, not {culprits:?}");
            if keys == *culprits {
                break found;
            }
            assert!(Instant::now() < deadline, "{number} names only {keys:?} of {culprits:?}");
            cluster.at(*number).listen(Duration::from_millis(50));
        };
        for culprit in culprits {
            cluster.at(*culprit).tell("strikes");
            let first_ms: u64 = cluster.at(*culprit).wait("struck").parse().expect("it struck");
            let of_culprit = found.iter().filter(|(of, ..)| of == culprit);
            let found_ms = of_culprit.map(|(_, _, found_ms, _)| *found_ms).min().expect("named");
            let after_ms = found_ms.saturating_sub(first_ms);
            assert!(after_ms < limit_ms, "{number} named {culprit} only after {after_ms} ms");
            if number == &honest[0] {
                tell(&format!("validator {culprit} was named after {after_ms} ms"));
            }
        }
        if number == &honest[0] {
            for (culprit, offence, _, file) in &found {
                let wanted = format!("found validator-{culprit} {offence}");
                assert_eq!(judged_in_a_fresh_process(file), wanted);
            }
            if let Some((.., file)) = found.first() {
                // A flipped bit in the signature at the end of a vote, or in what it is about
                let place = file.len() - 3;
                let digit = if &file[place..=place] == "0" { "1" } else { "0" };
                let spoofed = format!("{}{digit}{}", &file[..place], &file[place + 1..]);
                assert!(judged_in_a_fresh_process(&spoofed).starts_with("nothing "));
            }
        }
    }
}

fn ten(behaviour: Behaviour, seed: u64) {
    let mut chance = StdRng::seed_from_u64(seed);
    let mut faulty = BTreeSet::new();
    while faulty.len() < 3 {
        faulty.insert(chance.random_range(0..10usize));
    }
    let variant = chance.random_range(0..1_000u64);
    let leader = *faulty.first().expect("three");
    let behaviours: Vec<_> = (0..10)
        .map(|number| match behaviour {
            _ if !faulty.contains(&number) => (Behaviour::Honest, 0),
            // Somebody has to propose what they vote for.
            Behaviour::Voting if number == leader => (Behaviour::Proposing, 0),
            other => (other, variant + number as u64),
        })
        .collect();
    let honest: Vec<_> = (0..10).filter(|number| !faulty.contains(number)).collect();
    let directory = tempfile::tempdir().expect("a directory");
    let mut cluster = Cluster::new(directory.path(), &behaviours);
    for number in 0..40 {
        let member = honest[number % honest.len()];
        cluster.at(member).tell(&format!("submit operation-{number}"));
        cluster.at(member).tell(&format!("submit bad-{number}"));
    }
    // Every honest operation is agreed on, every malicious one refused.
    for (place, member) in honest.iter().enumerate() {
        let of_member = (0..40).filter(|number| number % honest.len() == place).count();
        let (mut finals, mut refused) = (0, 0);
        while (finals, refused) != (of_member, of_member) {
            let deadline = cluster.at(*member).lines.recv_timeout(PATIENCE);
            let line = deadline.expect("every operation is answered in time");
            cluster.at(*member).note(&line);
            if line.starts_with("final ") {
                assert!(!line.contains("bad"), "{line}");
                finals += 1;
            } else if line.starts_with("refused ") {
                assert!(line.contains("refused bad-"), "{line}");
                refused += 1;
            }
        }
    }
    let provable =
        matches!(behaviour, Behaviour::Equivocating | Behaviour::Proposing | Behaviour::Voting);
    let culprits = if provable { faulty } else { BTreeSet::new() };
    named(&mut cluster, &honest, &culprits);
    cluster.check(&honest);
}

fn with_each_seed(behaviour: Behaviour) {
    for seed in seeds() {
        tell(&format!("{behaviour:?}, seed {seed}"));
        ten(behaviour, seed);
    }
}

#[test]
fn ten_processes_name_three_that_equivocate() {
    with_each_seed(Behaviour::Equivocating);
}

#[test]
fn ten_processes_name_three_that_propose_what_is_invalid() {
    with_each_seed(Behaviour::Proposing);
}

#[test]
fn ten_processes_name_three_that_vote_for_what_is_invalid() {
    with_each_seed(Behaviour::Voting);
}

#[test]
fn ten_processes_accuse_nobody_for_silence() {
    with_each_seed(Behaviour::Silent);
}

#[test]
fn ten_processes_accuse_nobody_for_delay() {
    with_each_seed(Behaviour::Delaying);
}

#[test]
fn ten_processes_accuse_nobody_for_forgeries() {
    with_each_seed(Behaviour::Forging);
}

#[test]
fn ten_processes_accuse_nobody_for_replays() {
    with_each_seed(Behaviour::Replaying);
}
