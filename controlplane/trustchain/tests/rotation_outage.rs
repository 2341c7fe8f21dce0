//! Ten thousand nodes through six hours without an authority, in simulated time: nobody's certificate ends,
//! and when the authority is back it meets a queue and no herd. Everything follows from a seed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use stoq_trustchain::rotation::{
    Action, Beginning, CertificateFacts, Failure, Held, KeySlot, Now, Rotation, RotationSettings,
};

const HOUR: Duration = Duration::from_secs(3_600);
const MINUTE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);
const BACKDATE: Duration = Duration::from_secs(300);
const LIFETIME: Duration = Duration::from_secs(24 * 3_600);

/// One run. Times count from the enrolment of the first node.
#[derive(Clone, Debug)]
struct Scenario {
    seed: u64,
    nodes: usize,
    /// Over how long the nodes enrolled
    enrolled_within: Duration,
    /// What is simulated
    span: Range<Duration>,
    outage: Range<Duration>,
    /// Certificates the authority issues per second; whoever comes on top is asked to come back
    issues_per_second: u32,
}

/// The authority: away, or as fast as it is
struct Authority {
    scenario: Scenario,
    random: StdRng,
    issued: u64,
    /// Requests by second, from the end of the outage on
    after_outage: Vec<u32>,
    this_second: (u64, u32),
}

enum Reply {
    Silence,
    Failed(Failure, Option<Duration>),
    Issued(CertificateFacts),
}

#[derive(Debug, Default)]
struct Outcome {
    expired: u64,
    refused: u64,
    activated: u64,
    issued: u64,
    failed: u64,
    peak_after_outage: u32,
    /// Nodes whose certificate in force was issued before the outage
    left_behind: usize,
    trace: u64,
}

fn epoch() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn certificate(serial: String, at: Duration) -> CertificateFacts {
    let not_before = epoch() + Duration::from_secs(at.as_secs()) - BACKDATE;
    CertificateFacts { serial, not_before, not_after: not_before + LIFETIME - SECOND }
}

impl Authority {
    fn ask(&mut self, at: Duration) -> Reply {
        if let Some(after) = at.checked_sub(self.scenario.outage.end) {
            let second = after.as_secs() as usize;
            if self.after_outage.len() <= second {
                self.after_outage.resize(second + 1, 0);
            }
            self.after_outage[second] += 1;
        }
        if self.scenario.outage.contains(&at) {
            // Some find a closed port, some a host that is gone.
            return match self.random.random_bool(0.5) {
                true => Reply::Failed(Failure::Unreachable, None),
                false => Reply::Silence,
            };
        }
        if self.this_second.0 != at.as_secs() {
            self.this_second = (at.as_secs(), 0);
        }
        if self.this_second.1 >= self.scenario.issues_per_second {
            return Reply::Failed(Failure::Overloaded, Some(30 * SECOND));
        }
        self.this_second.1 += 1;
        self.issued += 1;
        Reply::Issued(certificate(format!("{:x}", self.issued), at))
    }
}

fn node(index: usize, scenario: &Scenario, begin: Instant, random: &mut StdRng) -> Rotation {
    let enrolled = scenario.enrolled_within.mul_f64(random.random());
    let current =
        Held { certificate: certificate(format!("first{index}"), enrolled), key: KeySlot(0) };
    let beginning = Beginning {
        authorities: vec!["authority".to_owned()],
        current: Some(current),
        successor: None,
        next_key: KeySlot(1),
        seed: random.random(),
    };
    let now = Now { wall: epoch() + scenario.span.start, monotone: begin };
    Rotation::new(RotationSettings::default(), beginning, now).unwrap()
}

/// Lets one node do what it wants to at this time
fn serve(rotation: &mut Rotation, authority: &mut Authority, at: Duration, now: Now) {
    while let Some(action) = rotation.poll_action() {
        match action {
            Action::Request(request) => match authority.ask(at) {
                Reply::Silence => {}
                Reply::Failed(failure, patience) => {
                    rotation.handle_failed(request.attempt, failure, patience, now);
                }
                Reply::Issued(certificate) => {
                    let theirs = Some(now.wall);
                    rotation
                        .handle_issued(request.key, certificate, None, theirs, now)
                        .expect("what the authority issues is of use");
                }
            },
            Action::Activate(activation) => rotation.handle_activated(&activation.serial, now),
            _ => {}
        }
    }
    while rotation.poll_event().is_some() {}
}

fn run(scenario: &Scenario) -> Outcome {
    let mut random = StdRng::seed_from_u64(scenario.seed);
    let begin = Instant::now();
    let mut authority = Authority {
        scenario: scenario.clone(),
        random: StdRng::seed_from_u64(scenario.seed ^ 1),
        issued: 0,
        after_outage: Vec::new(),
        this_second: (0, 0),
    };
    let mut nodes: Vec<Rotation> =
        (0..scenario.nodes).map(|index| node(index, scenario, begin, &mut random)).collect();
    let mut trace = DefaultHasher::new();
    let mut queue: BinaryHeap<Reverse<(Duration, usize)>> =
        (0..scenario.nodes).map(|index| Reverse((Duration::ZERO, index))).collect();
    let end = scenario.span.end - scenario.span.start;
    while let Some(Reverse((elapsed, index))) = queue.pop() {
        if elapsed > end {
            break;
        }
        let at = scenario.span.start + elapsed;
        let now = Now { wall: epoch() + at, monotone: begin + elapsed };
        let rotation = &mut nodes[index];
        rotation.handle_time(now);
        serve(rotation, &mut authority, at, now);
        let due = rotation.poll_timeout() - begin;
        assert!(due > elapsed, "node {index} of seed {} stands still", scenario.seed);
        (elapsed, index, due).hash(&mut trace);
        queue.push(Reverse((due, index)));
    }
    outcome(&nodes, &authority, trace.finish())
}

fn outcome(nodes: &[Rotation], authority: &Authority, trace: u64) -> Outcome {
    let total = |label: &str| {
        let of = |node: &Rotation| {
            node.counters().find(|(name, _)| *name == label).map_or(0, |(_, value)| value)
        };
        nodes.iter().map(of).sum()
    };
    let before = |node: &&Rotation| {
        node.current().is_none_or(|held| held.certificate.serial.starts_with("first"))
    };
    Outcome {
        expired: total("expired"),
        refused: total("certificate_refused"),
        activated: total("activated"),
        issued: authority.issued,
        failed: total("failed"),
        peak_after_outage: authority.after_outage.iter().copied().max().unwrap_or(0),
        left_behind: nodes.iter().filter(before).count(),
        trace,
    }
}

/// Requests per second of so many nodes that all wait for their next attempt, twice over
fn peak_limit(nodes: usize) -> u32 {
    let settings = RotationSettings::default();
    let mean_wait = (settings.backoff_base + settings.backoff_cap) / 2;
    (2.0 * nodes as f64 / mean_wait.as_secs_f64()).ceil() as u32
}

fn judge(scenario: &Scenario, outcome: &Outcome) {
    let told = format!("{scenario:?}\n{outcome:?}\nrepeat it with run() of this scenario");
    assert_eq!(outcome.expired, 0, "certificates ended: {told}");
    assert_eq!(outcome.refused, 0, "certificates were refused: {told}");
    assert!(outcome.failed > 0, "the outage was not noticed: {told}");
    assert!(outcome.peak_after_outage > 0, "nobody came after the outage: {told}");
    let limit = peak_limit(scenario.nodes);
    assert!(outcome.peak_after_outage <= limit, "a herd, above {limit} per second: {told}");
}

#[test]
fn ten_thousand_nodes_that_enrolled_together_survive_six_hours() {
    // The worst case: the outage begins just before the first of them would renew.
    let scenario = Scenario {
        seed: 20_261,
        nodes: 10_000,
        enrolled_within: 10 * MINUTE,
        span: 15 * HOUR + 30 * MINUTE..24 * HOUR + 10 * MINUTE,
        outage: 15 * HOUR + 50 * MINUTE..21 * HOUR + 50 * MINUTE,
        issues_per_second: 50,
    };
    let outcome = run(&scenario);
    judge(&scenario, &outcome);
    assert_eq!(outcome.left_behind, 0, "{outcome:?}");
    assert_eq!(outcome.activated, 10_000, "{outcome:?}");
    assert!(outcome.issued >= 10_000);
}

#[test]
fn nodes_that_all_start_at_the_same_moment_do_not_stay_in_step() {
    // Power comes back while the authority is away: every node finds its renewal overdue at once.
    let scenario = Scenario {
        seed: 77,
        nodes: 5_000,
        enrolled_within: 10 * MINUTE,
        span: 17 * HOUR + 30 * MINUTE..24 * HOUR + 10 * MINUTE,
        outage: 17 * HOUR + 30 * MINUTE..23 * HOUR + 30 * MINUTE,
        issues_per_second: 25,
    };
    let outcome = run(&scenario);
    judge(&scenario, &outcome);
    assert_eq!(outcome.left_behind, 0, "{outcome:?}");
}

#[test]
fn nodes_of_all_ages_survive_six_hours_whatever_the_seed() {
    for seed in 0..8 {
        let mut random = StdRng::seed_from_u64(seed);
        let begins = 24 * HOUR + HOUR.mul_f64(8.0 * random.random::<f64>());
        // Nodes that enrolled from 16 hours before to just now; none of them is due yet at the start.
        let scenario = Scenario {
            seed,
            nodes: 1_000,
            enrolled_within: 15 * HOUR,
            span: 15 * HOUR..begins + 7 * HOUR,
            outage: begins..begins + 6 * HOUR,
            issues_per_second: 5,
        };
        let outcome = run(&scenario);
        judge(&scenario, &outcome);
    }
}

#[test]
fn a_seed_repeats_itself_and_another_does_not() {
    let scenario = Scenario {
        seed: 3,
        nodes: 100,
        enrolled_within: HOUR,
        span: 15 * HOUR..24 * HOUR,
        outage: 16 * HOUR..22 * HOUR,
        issues_per_second: 2,
    };
    let first = run(&scenario).trace;
    assert_eq!(run(&scenario).trace, first);
    assert_ne!(run(&Scenario { seed: 4, ..scenario }).trace, first);
}

/// That the measure can fail: certificates do end where the authority stays away for longer than they live
#[test]
fn a_longer_outage_is_noticed() {
    let scenario = Scenario {
        seed: 5,
        nodes: 50,
        enrolled_within: 10 * MINUTE,
        span: 15 * HOUR..26 * HOUR,
        outage: 15 * HOUR + 30 * MINUTE..25 * HOUR,
        issues_per_second: 50,
    };
    let outcome = run(&scenario);
    assert_eq!(outcome.expired, 50, "{outcome:?}");
    assert_eq!(outcome.left_behind, 0, "they enrol again with their own key: {outcome:?}");
}
